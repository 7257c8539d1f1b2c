//! Trials that take more than two files: what an operator does on a host by hand, what is open while something changes, or a
//! protocol that the lab's clients do not speak.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use lvsprov::kernel::drop_counters;
use lvsprov::lab;
use lvsprov::lab::capture::{FrameCapture, Mac, claims_of};
use lvsprov::state::examination::DropCounter;

use super::tables::{DIRECT, NAT, ROUTED, TWO_DIRECTORS};
use super::trial_lab::{TrialLab, findings, name, patience, rules_of};
use super::{Ask, Served, VIP};
use crate::live_changes::load::{self, Load};
use crate::support::cases::{Case, cases};
use crate::support::netns_host::eventually;
use crate::support::speed;

pub fn cases() -> Vec<Case> {
    cases![
        a_router_that_is_not_reached_is_set_by_hand,
        two_directors_have_one_vip_and_a_sync_daemon_no_address,
        a_ramp_shows_only_where_weights_share,
        a_mark_without_a_vip_is_taken_in_by_hand,
        the_shorter_memory_ends_an_idle_connection,
    ]
}

const ONE: &[Ask] = &[Ask::Tcp(80, 1)];
/// Where real servers answer line by line, and a connection stays open.
pub const LINES: u16 = 81;

pub fn at(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(VIP.parse().unwrap(), port)
}

/// Whether `check` finds this in the file.
pub fn finds(rule: &str, hosts: &str, services: &str) -> bool {
    rules_of(hosts, services).contains(rule)
}

/// What each message tells to do is what is missing.
fn a_router_that_is_not_reached_is_set_by_hand() {
    const SERVICES: &str = "- {vip: 172.18.253.53, port: 80, forward: dr, real_servers: [web1]}
- {vip: 203.0.113.80, port: 80, forward: dr, real_servers: [web1]}";
    lab::isolate().unwrap();
    let cures: Vec<String> = findings(ROUTED, SERVICES)
        .into_iter()
        .filter(|finding| finding.rule == "router-not-reached")
        .map(|finding| finding.cure)
        .collect();
    let mut lab = TrialLab::build(ROUTED, SERVICES);
    lab.settings.reach.remove(&name("router"));
    // It forwards: it is a router.
    lab.run("router", "sysctl -qw net.ipv4.ip_forward=1");
    lab.apply(SERVICES);
    for (vip, words, command) in [
        (
            "172.18.253.53",
            "sysctl net/ipv4/conf/eth2/rp_filter=2",
            "sysctl -qw net/ipv4/conf/eth2/rp_filter=2",
        ),
        (
            "203.0.113.80",
            "ip route add 203.0.113.80/32 via the director's address",
            "ip route add 203.0.113.80/32 via 192.168.142.2",
        ),
    ] {
        assert!(cures.iter().any(|cure| cure.contains(words)), "{cures:?}");
        lab.expect("router-not-reached, broken", vip, ONE, &Served::Lost);
        lab.run("router", command);
        lab.expect("router-not-reached, mended", vip, ONE, &Served::Only("web1"));
    }
}

fn two_directors_have_one_vip_and_a_sync_daemon_no_address() {
    lab::isolate().unwrap();
    let lab = TrialLab::build(TWO_DIRECTORS, "- {vip: 192.0.2.100, port: 80}");
    for server in ["web1", "web2"] {
        load::serve(&lab.runtime, &lab.lab, server, &[LINES]);
    }
    a_sync_daemon_without_an_address(&lab);
    two_directors_with_one_vip(&lab);
}

/// Its messages carry the address of another interface, and the backup's source validation drops them.
fn a_sync_daemon_without_an_address(lab: &TrialLab) {
    const SERVICES: &str =
        "- {vip: 192.0.2.100, port: 80, director: lvs1, forward: dr, real_servers: [web1]}";
    // At the end of the line of lvs1.
    let hosts_with = |interface: &str| {
        let master = ["}}, ipvs: {sync: {master: {interface: ", interface, "}}}}\n  lvs2"].concat();
        TWO_DIRECTORS.replace("}}}\n  lvs2", &master)
    };
    let taken_over = || lab.run("lvs2", "cat /proc/net/ip_vs_conn").lines().count() - 1;
    let dropped = || {
        let counters = lab.lab.run_in(&name("lvs2"), || drop_counters::read().unwrap()).unwrap();
        counters[&DropCounter::ReversePathFilter]
    };
    for (interface, is_broken) in [("eth1", true), ("eth0", false)] {
        let hosts = hosts_with(interface);
        assert_eq!(finds("sync-without-address", &hosts, SERVICES), is_broken);
        lab.apply_to(&hosts, SERVICES);
        // No service of the file is its own.
        lab.run("lvs2", &format!("ipvsadm --start-daemon backup --mcast-interface {interface}"));
        let before = dropped();
        lab.expect("sync-without-address", VIP, &[Ask::Tcp(80, 4)], &Served::Only("web1"));
        if is_broken {
            eventually("a message that is dropped", || dropped() > before);
            assert_eq!(taken_over(), 0);
        } else {
            eventually("a connection that the backup knows", || taken_over() > 0);
        }
        lab.run("lvs2", "ipvsadm --stop-daemon backup");
    }
}

/// Both answer ARP; each sends on what reaches it; and a connection that moves to the other one is reset.
fn two_directors_with_one_vip(lab: &TrialLab) {
    const TWO: &str = "- {vip: 192.0.2.100, ports: [80, 81], director: lvs1, forward: dr, drain: 0, real_servers: [web1]}
- {vip: 192.0.2.100, ports: [80, 81], director: lvs2, forward: dr, drain: 0, real_servers: [web2]}";
    const ONE_OF_THEM: &str = "- {vip: 192.0.2.100, ports: [80, 81], director: lvs1, forward: dr, real_servers: [web1, web2]}";
    let mac = |host: &str| lab.lab.mac_of(&name(host), &"eth0".parse().unwrap()).unwrap();
    let answers = || -> BTreeSet<Mac> {
        let capture = FrameCapture::start(&lab.lab).unwrap();
        lab.run("client", "ip neigh flush dev eth0");
        lab.ask(VIP, ONE);
        let claims = claims_of(&capture.stop().unwrap(), VIP.parse().unwrap());
        claims.into_iter().filter(|(_, claim)| claim.replies > 0).map(|(mac, _)| mac).collect()
    };
    assert!(finds("vip-on-two-directors", TWO_DIRECTORS, TWO));
    lab.apply(TWO);
    assert_eq!(answers(), BTreeSet::from([mac("lvs1"), mac("lvs2")]));
    let learns = |host: &str| {
        let mac = mac(host);
        lab.run("client", &format!("ip neigh replace {VIP} lladdr {mac} dev eth0 nud permanent"));
    };
    for (host, server) in [("lvs1", "web1"), ("lvs2", "web2"), ("lvs1", "web1")] {
        learns(host);
        lab.expect("vip-on-two-directors, broken", VIP, ONE, &Served::Only(server));
    }
    let stays = load::talks(&lab.lab, "client", at(LINES), 1);
    assert_eq!(load::dead(stays), 0);
    let moves = load::talks(&lab.lab, "client", at(LINES), 1);
    learns("lvs2");
    assert_eq!(load::dead(moves), 1, "the other director does not know it");

    assert!(!finds("vip-on-two-directors", TWO_DIRECTORS, ONE_OF_THEM));
    lab.run("client", &format!("ip neigh del {VIP} dev eth0"));
    lab.apply(ONE_OF_THEM);
    assert_eq!(answers(), BTreeSet::from([mac("lvs1")]));
}

/// A new real server begins with a small share where the scheduler shares by weight and the weight has steps; else it has
/// its whole share at once.
fn a_ramp_shows_only_where_weights_share() {
    const RULE: &str = "ramp-without-effect";
    const VARIANTS: [(u16, &str, u32, bool); 3] =
        [(81, "rr", 10, true), (82, "wrr", 1, true), (83, "wrr", 10, false)];
    let ramp = speed::seconds(3);
    let file = |port: u16, scheduler: &str, weight: u32, both: bool| {
        let second =
            if both { format!(", {{host: web2, weight: {weight}}}") } else { String::new() };
        format!(
            "- {{vip: 192.0.2.100, port: {port}, forward: dr, ramp: {ramp}, scheduler: {scheduler}, \
             real_servers: [{{host: web1, weight: {weight}}}{second}]}}"
        )
    };
    let all = |both: bool| {
        let each = VARIANTS.map(|(port, scheduler, weight, _)| file(port, scheduler, weight, both));
        each.join("\n")
    };
    for (port, scheduler, weight, is_broken) in VARIANTS {
        let alone = file(port, scheduler, weight, true);
        assert_eq!(finds(RULE, DIRECT, &alone), is_broken, "{alone}");
    }
    lab::isolate().unwrap();
    let lab = TrialLab::build(DIRECT, &all(false));
    for server in ["web1", "web2"] {
        load::serve(&lab.runtime, &lab.lab, server, &VARIANTS.map(|it| it.0));
    }
    lab.apply(&all(false));
    let loads = VARIANTS.map(|it| Load::start(&lab.lab, &["client"], 1, at(it.0)));
    lab.apply(&all(true));
    for (load, (_, scheduler, weight, is_broken)) in loads.into_iter().zip(VARIANTS) {
        load.pass(4);
        let answers: Vec<String> =
            load.stop().into_iter().map(|request| request.result.unwrap()).collect();
        // Between two answers of the new one: 5 of the other while the weights are 10 and 2, else 1.
        let since = answers.iter().position(|server| server == "web2").unwrap();
        let between: Vec<usize> =
            answers[since..].split(|server| server == "web2").map(<[String]>::len).collect();
        let most = between[1..between.len() - 1].iter().max().copied().unwrap();
        println!("{RULE}, {scheduler} {weight}: {most} between two answers of the new one");
        assert!(if is_broken { most <= 1 } else { most >= 4 }, "{scheduler} {weight}: {answers:?}");
    }
}

/// IPVS takes marked packets where their address is local, and only there.
fn a_mark_without_a_vip_is_taken_in_by_hand() {
    const RULE: &str = "mark-without-vip";
    const ANYWHERE: &str = "203.0.113.80";
    const MARKS: [&str; 3] = [
        "table ip marks",
        "chain ip marks in { type filter hook prerouting priority -150; }",
        "rule ip marks in ip daddr 203.0.113.80 tcp dport 80 meta mark set 7",
    ];
    const BY_RULE: [(&str, &str); 2] = [
        ("lvs", "ip rule add fwmark 7 lookup 100"),
        ("lvs", "ip route add local default dev lo table 100"),
    ];
    const BY_ADDRESS: [(&str, &str); 2] = [
        ("lvs", "ip address add 203.0.113.80/32 dev lo"),
        ("web1", "ip address add 203.0.113.80/32 dev lo"),
    ];
    lab::isolate().unwrap();
    for (hosts, forward, by_hand) in [(NAT, "nat", BY_RULE), (DIRECT, "dr", BY_ADDRESS)] {
        let services = format!("- {{mark: 7, forward: {forward}, real_servers: [web1]}}");
        assert!(finds(RULE, hosts, &services));
        let lab = TrialLab::build(hosts, &services);
        lab.run("client", &format!("ip route add {ANYWHERE}/32 via 192.0.2.2"));
        lab.apply(&services);
        for words in MARKS {
            lab.run("lvs", &format!("nft add {words}"));
        }
        lab.expect("mark-without-vip, broken", ANYWHERE, ONE, &Served::Lost);
        for (host, command) in by_hand {
            lab.run(host, command);
        }
        lab.expect("mark-without-vip, mended by hand", ANYWHERE, ONE, &Served::Only("web1"));
        if forward == "dr" {
            continue;
        }
        for (host, command) in by_hand {
            lab.run(host, &command.replace(" add ", " del "));
        }
        lab.run("lvs", "nft delete table ip marks");
        let with_vip = format!(
            "- {{vip: {ANYWHERE}, mark: 7, ports: [80], forward: {forward}, real_servers: [web1]}}"
        );
        assert!(!finds(RULE, hosts, &with_vip));
        lab.apply(&with_vip);
        lab.expect("mark-without-vip, mended", ANYWHERE, ONE, &Served::Only("web1"));
    }
}

/// For how many seconds an idle connection is remembered here, instead of 15 minutes or 5 days.
fn short() -> String {
    speed::seconds(2)
}

fn longer_than_short() -> Duration {
    speed::scaled(Duration::from_secs(3))
}

/// Where a real server takes [`longer_than_short`] for its answer.
const SLOW: u16 = 82;

/// IPVS forgets first: the connection is over. Connection tracking forgets first: a client's next packet takes the connection
/// up again, a real server's does not arrive.
fn the_shorter_memory_ends_an_idle_connection() {
    const RULE: &str = "idle-connections";
    let file = |more: &str| {
        format!(
            "- {{vip: 192.0.2.100, ports: [81, 82], forward: fullnat, real_servers: [web1]}}{more}"
        )
    };
    lab::isolate().unwrap();
    let plain = file("");
    assert!(finds(RULE, NAT, &plain));
    let lab = TrialLab::build(NAT, &plain);
    load::serve(&lab.runtime, &lab.lab, "web1", &[LINES]);
    let open = || load::talks(&lab.lab, "client", at(LINES), 1);
    let remembered = || lab.run("lvs", "cat /proc/net/ip_vs_conn").lines().count() - 1;
    lab.apply(&plain);
    lab.run("lvs", &format!("ipvsadm --set {} 0 0", short()));
    let talks = open();
    eventually("IPVS forgets it", || remembered() == 0);
    assert_eq!(load::dead(talks), 1);

    let longer = file("\nipvs: {timeouts: {tcp: 7200}}");
    assert!(!finds(RULE, NAT, &longer));
    lab.apply(&longer);
    let talks = open();
    assert!(slow_answer(&lab));
    assert_eq!(load::dead(talks), 0);

    assert!(finds(RULE, NAT, &file("\nipvs: {timeouts: {tcp: 500000}}")));
    let timeout = "net.netfilter.nf_conntrack_tcp_timeout_established";
    lab.run("lvs", &format!("sysctl -qw {timeout}={}", short()));
    let talks = open();
    assert!(!slow_answer(&lab));
    assert_eq!(load::dead(talks), 0);
}

/// Whether a client gets an answer for which the real server takes [`longer_than_short`].
fn slow_answer(lab: &TrialLab) -> bool {
    let listen = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, SLOW)).unwrap();
    let listener = lab.lab.run_in(&name("web1"), listen).unwrap();
    let server = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client.read_exact(&mut [0; 5]).unwrap();
        thread::sleep(longer_than_short());
        client.write_all(b"web1\n").unwrap();
    });
    let ask = || {
        let mut stream = TcpStream::connect(at(SLOW)).unwrap();
        stream.set_read_timeout(Some(longer_than_short() + patience())).unwrap();
        stream.write_all(b"who?\n").unwrap();
        let got = stream.read(&mut [0; 16]);
        println!("a slow answer: {got:?}");
        got.is_ok_and(|got| got > 0)
    };
    let answered = lab.lab.run_in(&name("client"), ask).unwrap();
    server.join().unwrap();
    answered
}
