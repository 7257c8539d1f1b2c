//! Packet rules: what we make and what `nft` shows, the other way round, and what packets meet.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use lvsprov::state::{Edit, KeyedEdit, Module, PacketRule, PacketRules, Protocol, TableName};
use nix::sys::socket::{getsockopt, sockopt::TcpMaxSeg};
use serde_json::{Value, json};

use crate::support::cases::{Case, cases};
use crate::support::netns_host::{NetnsHost, eventually, run};
use crate::support::nft_tables::{
    clamp, gallery, listed, mark, masquerade, name, nft, put, rules, set,
};

pub fn cases() -> Vec<Case> {
    cases![
        rules_as_nft_shows_them,
        what_nft_saves_and_loads_again_is_ours_again,
        a_table_is_made_changed_and_removed,
        what_is_there_is_touched_only_if_it_is_what_was_expected,
        drift_is_seen_and_mended,
        a_rule_of_ours_that_somebody_else_added_is_seen_as_it_is,
        other_tables_are_named_and_left_alone,
        rules_that_drop_invalid_packets_on_their_way_are_found,
        this_kernel_is_known_to_have_nftables,
        thousands_of_rules_are_one_transaction,
        others_may_write_at_the_same_time,
        packets_get_their_mark,
        no_packet_sees_a_table_that_is_half_made,
        the_mss_is_made_smaller_and_never_greater,
        connections_leave_with_the_address_of_the_host
    ]
}

fn rules_that_drop_invalid_packets_on_their_way_are_found() {
    let netns = NetnsHost::with_lo();
    let ruleset = "table inet old {
            chain in { type filter hook input priority 0; ct state invalid drop; }
            chain early { type filter hook prerouting priority -300; ct state invalid drop; }
            chain forward {
                type filter hook forward priority 0;
                counter log jump checked
                iifname \"eth9\" jump sometimes
                ct state established,related accept
            }
            chain checked { ct state invalid counter drop; }
            chain sometimes { ct state invalid reject; }
            chain never { ct state invalid drop; }
            chain new { type filter hook forward priority 1; ct state new drop; }
        }
        table ip asleep {
            flags dormant;
            chain forward { type filter hook forward priority 0; ct state invalid drop; }
        }
        table ip6 six {
            chain mangled { type filter hook prerouting priority -150; ct state invalid drop; }
        }
        table arp other {
            chain in { type filter hook input priority 0; drop; }
        }";
    nft(&netns, ruleset);
    let found: Vec<(String, bool)> = netns
        .look(&[])
        .facts
        .stateful_drops
        .into_iter()
        .map(|drop| (drop.chain, drop.always))
        .collect();
    let expected =
        [("inet old checked", true), ("inet old sometimes", false), ("ip6 six mangled", true)];
    assert_eq!(found, expected.map(|(chain, always)| (chain.to_owned(), always)));
}

/// Ends a thread that works beside a test, also if the test fails.
struct Until<'a>(&'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn listed_json(netns: &NetnsHost) -> Vec<Value> {
    let words = ["-j", "list", "table", "inet", "lvsprov-t"];
    let text = netns.run(|| run(Command::new("nft").args(words)));
    let value: Value = serde_json::from_str(&text).unwrap();
    value["nftables"].as_array().unwrap().clone()
}

/// What stands in the rules of a chain, as `nft` writes it.
fn lines_of(netns: &NetnsHost, chain: &str) -> Vec<String> {
    let words = ["list", "chain", "inet", "lvsprov-t", chain];
    let text = netns.run(|| run(Command::new("nft").args(words)));
    let inside = text.lines().filter(|line| line.starts_with("\t\t"));
    inside.map(|line| line.trim().to_owned()).skip(1).collect()
}

fn rules_as_nft_shows_them() {
    let netns = NetnsHost::new();
    put(&netns, &gallery());
    assert_eq!(
        lines_of(&netns, "marks"),
        [
            "ip daddr 192.0.2.1 meta l4proto tcp meta mark set 0x00000001",
            "ip daddr 192.0.2.1 tcp dport 80 meta mark set 0xffffffff",
            "ip daddr 192.0.2.1 tcp dport { 80, 443, 65535 } meta mark set 0x00000008",
            "ip6 daddr 2001:db8::1 tcp dport 1 meta mark set 0x00000009",
            "ip6 daddr 2001:db8::1 tcp dport { 80, 443 } meta mark set 0x0000000a",
        ]
    );
    assert_eq!(
        lines_of(&netns, "source"),
        [
            "ip daddr 10.0.0.2 meta l4proto tcp masquerade",
            "ip daddr 10.0.0.2 tcp dport 8080 ct original ip daddr 192.0.2.1 masquerade",
            "ip daddr 10.0.0.3 meta l4proto tcp ct original ip daddr 192.0.2.1 masquerade",
            "ip6 daddr 2001:db8:1::2 tcp dport 80 ct original ip6 daddr 2001:db8::1 masquerade",
        ]
    );
    assert_eq!(
        lines_of(&netns, "mss"),
        [
            "ip saddr 192.0.2.1 tcp flags & syn == syn tcp option maxseg size set 1400",
            "ip6 saddr 2001:db8::1 tcp flags & syn == syn tcp option maxseg size set 1380",
        ]
    );
    let wrapped = lines_of(&netns, "wrapped");
    let source = "ip saddr != 10.0.0.9";
    assert_eq!(
        wrapped[..2],
        [
            format!("{source} @th,128,32 0xc0000201 meta l4proto ipencap counter packets 0 bytes 0 drop"),
            "meta nfproto ipv4 iifname \"tunl0\" @th,128,32 0xc0000201 meta l4proto ipencap counter packets 0 bytes 0 drop"
                .to_owned(),
        ]
    );
    assert!(wrapped.iter().any(|line| line.contains("ip6 saddr != 2001:db8:1::9 @th,192,128 {")));
    let chains: Vec<_> = listed_json(&netns)
        .iter()
        .filter_map(|part| part.get("chain"))
        .map(|chain| {
            json!([chain["name"], chain["type"], chain["hook"], chain["prio"], chain["policy"]])
        })
        .collect();
    assert_eq!(
        chains,
        [
            json!(["marks", "filter", "prerouting", -150, "accept"]),
            json!(["wrapped", "filter", "input", -150, "accept"]),
            json!(["mss", "filter", "output", -150, "accept"]),
            json!(["source", "nat", "postrouting", 100, "accept"]),
        ]
    );
}

fn what_nft_saves_and_loads_again_is_ours_again() {
    let (here, there) = (NetnsHost::new(), NetnsHost::new());
    put(&here, &gallery());
    nft(&there, &listed(&here));
    assert_eq!(there.look(&[]).state.tables[&name()], gallery());
    // `nft` shows elements of its own sets of numbers in another base than those of ours.
    let without_numbers = |netns: &NetnsHost| {
        let text = listed(netns);
        let lines = text.lines().filter(|line| !line.contains("@th,192,128 {"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(without_numbers(&there), without_numbers(&here));
}

fn a_table_is_made_changed_and_removed() {
    let netns = NetnsHost::new();
    assert!(netns.look(&[]).state.tables.is_empty());
    let one = rules([mark("192.0.2.1", &[80], 8)]);
    let add = set(&netns, Some(one.clone()));
    netns.do_all(vec![add.clone()]);
    assert!(!listed(&netns).contains("chain source"), "a chain that no rule needs");
    put(&netns, &gallery());
    netns.fails(add.inverse().unwrap(), "changed after it was observed");
    let change = Edit::Table(KeyedEdit { key: name(), before: Some(gallery()), after: Some(one) });
    netns.do_all(vec![change.clone(), change.inverse().unwrap(), change]);
    put(&netns, &PacketRules::default());
    assert_eq!(listed(&netns), "table inet lvsprov-t {\n}\n");
    let outcome = netns.do_all(vec![set(&netns, None)]);
    assert!(outcome.after.state.tables.is_empty());
    let listed = netns.run(|| run(Command::new("nft").args(["list", "ruleset"])));
    assert_eq!(listed, "");
    netns.do_all(vec![set(&netns, None)]);
}

fn what_is_there_is_touched_only_if_it_is_what_was_expected() {
    let netns = NetnsHost::new();
    let (one, two) = (rules([mark("192.0.2.1", &[80], 8)]), rules([clamp("192.0.2.1", 1400)]));
    let change = |before: Option<&PacketRules>, after: Option<&PacketRules>| {
        Edit::Table(KeyedEdit { key: name(), before: before.cloned(), after: after.cloned() })
    };
    netns.fails(change(Some(&one), Some(&two)), "found no such table");
    netns.fails(change(Some(&one), None), "found no such table");
    put(&netns, &one);
    let before = listed(&netns);
    netns.fails(change(None, Some(&two)), "expected no such table, found mark tcp to 192.0.2.1");
    netns.fails(change(Some(&two), None), "expected MSS of 192.0.2.1 at most 1400, found mark");
    let unknown = rules([PacketRule::Unknown("chain x".to_owned())]);
    netns.fails(change(Some(&one), Some(&unknown)), "cannot write nftables table inet lvsprov-t");
    assert_eq!(listed(&netns), before);
}

fn drift_is_seen_and_mended() {
    let wanted = rules([mark("192.0.2.1", &[80, 443], 8), clamp("192.0.2.1", 1400)]);
    let add = "add rule inet lvsprov-t";
    for (script, seen) in [
        (format!("{add} marks ip daddr 192.0.2.9 accept"), "chain marks handle"),
        (format!("{add} marks counter"), "chain marks handle"),
        (
            format!("{add} marks ip daddr 192.0.2.1 tcp dport 1-2 meta mark set 8"),
            "chain marks handle",
        ),
        (
            format!("{add} marks ip daddr 192.0.2.1 tcp dport != 80 meta mark set 8"),
            "chain marks handle",
        ),
        (
            format!("{add} marks ip daddr 192.0.2.1 tcp dport != {{ 80, 81 }} meta mark set 8"),
            "set __set",
        ),
        (
            format!("{add} marks ip daddr 192.0.2.1 tcp sport 80 meta mark set 9"),
            "chain marks handle",
        ),
        (
            format!("{add} marks ip daddr 192.0.2.0/24 tcp dport 80 meta mark set 9"),
            "chain marks handle",
        ),
        (
            format!("{add} marks ip daddr 192.0.2.1 tcp dport 80 ct mark set 9"),
            "chain marks handle",
        ),
        (
            format!(
                "{add} mss ip saddr 192.0.2.2 tcp flags & syn != 0 tcp option maxseg size set 1000"
            ),
            "chain mss handle",
        ),
        (
            format!(
                "{add} mss ip saddr 192.0.2.2 tcp flags & syn == syn tcp option maxseg size set rt mtu"
            ),
            "chain mss handle",
        ),
        ("add chain inet lvsprov-t other".to_owned(), "chain other"),
        (
            "add chain inet lvsprov-t other { type filter hook input priority 0; }".to_owned(),
            "chain other",
        ),
        ("chain inet lvsprov-t marks { policy drop; }".to_owned(), "chain marks"),
        ("flush chain inet lvsprov-t marks".to_owned(), "chain marks without rules"),
        ("add set inet lvsprov-t s { type inet_service; }".to_owned(), "set s"),
        ("add counter inet lvsprov-t c".to_owned(), "1 more parts"),
        ("add table inet lvsprov-t { flags dormant; }".to_owned(), "the table has the flags 0x1"),
    ] {
        let netns = NetnsHost::new();
        put(&netns, &wanted);
        nft(&netns, &script);
        let found = netns.look(&[]).state.tables.remove(&name()).unwrap();
        let is_it =
            |rule: &PacketRule| matches!(rule, PacketRule::Unknown(text) if text.contains(seen));
        assert!(found.rules.iter().any(is_it), "{script}: {found}");
        put(&netns, &wanted);
    }
}

fn a_rule_of_ours_that_somebody_else_added_is_seen_as_it_is() {
    let netns = NetnsHost::new();
    let wanted = rules([mark("192.0.2.1", &[80], 8)]);
    put(&netns, &wanted);
    // A comment changes nothing.
    nft(
        &netns,
        "add rule inet lvsprov-t marks ip daddr 192.0.2.1 tcp dport 443 meta mark set 9 comment \"x\"",
    );
    let both = rules([mark("192.0.2.1", &[80], 8), mark("192.0.2.1", &[443], 9)]);
    assert_eq!(netns.look(&[]).state.tables[&name()], both);
    let change = Edit::Table(KeyedEdit { key: name(), before: Some(both), after: Some(wanted) });
    netns.do_all(vec![change]);
}

fn other_tables_are_named_and_left_alone() {
    let netns = NetnsHost::new();
    nft(
        &netns,
        "table ip filter { chain input { type filter hook input priority 0; ip saddr 192.0.2.66 drop; }; }
         table ip6 lvsprov-t { }
         table inet lvsprov- { }
         table inet firewalld { set s { type ipv4_addr; elements = { 192.0.2.1 } }; }
         table arp a { }
         table netdev n { }
         table bridge b { }
         table inet lvsprov-other { chain marks { type filter hook prerouting priority mangle; ip daddr 192.0.2.7 udp dport 53 meta mark set 3; }; }",
    );
    put(&netns, &gallery());
    let seen = netns.look(&[]);
    let foreign: BTreeSet<String> = [
        "ip filter",
        "ip6 lvsprov-t",
        "inet lvsprov-",
        "inet firewalld",
        "arp a",
        "netdev n",
        "bridge b",
    ]
    .map(str::to_owned)
    .into();
    assert_eq!(seen.facts.foreign_tables, foreign);
    let (vip, ports) = ("192.0.2.7".parse().unwrap(), [53].into());
    let other = rules([PacketRule::Mark { vip, protocol: Protocol::Udp, ports, mark: 3 }]);
    assert_eq!(seen.state.tables["lvsprov-other".parse::<TableName>().as_ref().unwrap()], other);
    assert_eq!(seen.state.tables.len(), 2);
    netns.do_all(vec![set(&netns, None)]);
    let left = netns.look(&[]);
    assert_eq!(left.facts.foreign_tables, foreign);
    assert_eq!(left.state.tables.len(), 1);
    let text = netns.run(|| run(Command::new("nft").args(["list", "ruleset"])));
    assert!(
        text.contains("192.0.2.66 drop") && text.contains("elements = { 192.0.2.1 }"),
        "{text}"
    );
}

fn this_kernel_is_known_to_have_nftables() {
    let seen = NetnsHost::new().look(&[]);
    assert!(seen.state.modules.contains(&Module::NfTables), "{:?}", seen.facts.modules);
}

fn thousands_of_rules_are_one_transaction() {
    let netns = NetnsHost::new();
    let many = (1..=3000_u32).map(|number| {
        let [_, _, a, b] = number.to_be_bytes();
        mark(&format!("10.1.{a}.{b}"), &[80, 443], number)
    });
    let many = rules(many);
    put(&netns, &many);
    let ports: Vec<u16> = (1..=10_000).collect();
    put(&netns, &rules([mark("192.0.2.1", &ports, 1)]));
    put(&netns, &many);
}

fn others_may_write_at_the_same_time() {
    let netns = NetnsHost::new();
    let (one, two) = (rules([mark("192.0.2.1", &[80], 8)]), gallery());
    put(&netns, &one);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let until = Until(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                nft(&netns, "add table ip x; delete table ip x");
            }
        });
        // Each either happens or is refused as a whole.
        let mut now = one.clone();
        let mut done = 0;
        for _ in 0..40 {
            let next = if now == one { &two } else { &one };
            let change = Edit::Table(KeyedEdit {
                key: name(),
                before: Some(now.clone()),
                after: Some(next.clone()),
            });
            match netns.act(vec![change]).failure {
                None => {
                    now = next.clone();
                    done += 1;
                }
                Some(failure) => {
                    assert!(failure.to_string().contains("change faster than"), "{failure}");
                }
            }
        }
        drop(until);
        assert!(done > 0, "nothing was ever done");
        assert_eq!(netns.look(&[]).state.tables[&name()], now);
    });
}

/// Counters beside our table: what has which mark behind it.
const COUNTED: &str = "table inet count { \
    chain c { type filter hook prerouting priority -149; \
    ip daddr 192.0.2.80 meta mark 8 counter comment \"eight\"; \
    ip daddr 192.0.2.80 meta mark 0 counter comment \"none\"; \
    ip6 daddr 2001:db8::80 meta mark 9 counter comment \"nine\"; }; }";

fn counted(netns: &NetnsHost, comment: &str) -> u64 {
    let text =
        netns.run(|| run(Command::new("nft").args(["-j", "list", "table", "inet", "count"])));
    let value: Value = serde_json::from_str(&text).unwrap();
    let parts = value["nftables"].as_array().unwrap();
    let rule = parts.iter().map(|part| &part["rule"]).find(|rule| rule["comment"] == comment);
    let rule = rule.unwrap_or_else(|| panic!("no rule {comment}: {text}"));
    let counters = rule["expr"].as_array().unwrap().iter();
    counters.filter_map(|expr| expr["counter"]["packets"].as_u64()).sum()
}

fn send(netns: &NetnsHost, from: &str, to: &str, count: u64) {
    netns.run(|| {
        let socket = UdpSocket::bind((from.parse::<IpAddr>().unwrap(), 0)).unwrap();
        let to: SocketAddr = to.parse().unwrap();
        for _ in 0..count {
            // Nobody listens: a refusal may come back in between.
            let _ = socket.send_to(b"x", to);
        }
    });
}

/// A client and a host with two VIPs.
fn client_and_host() -> (NetnsHost, NetnsHost) {
    let (client, host) = NetnsHost::two("192.0.2.1/24", "192.0.2.2/24");
    for (netns, address) in [(&client, "2001:db8::1/64"), (&host, "2001:db8::2/64")] {
        netns.ip(&format!("address add {address} dev v0 nodad"));
    }
    host.ip("address add 192.0.2.80/32 dev lo");
    host.ip("address add 2001:db8::80/128 dev lo");
    // Unlike with ARP nobody answers for an address of another interface.
    client.ip("route add 2001:db8::80/128 via 2001:db8::2");
    (client, host)
}

fn packets_get_their_mark() {
    let (client, host) = client_and_host();
    nft(&host, COUNTED);
    let udp = |vip: &str, ports: BTreeSet<u16>, mark: u32| PacketRule::Mark {
        vip: vip.parse().unwrap(),
        protocol: Protocol::Udp,
        ports,
        mark,
    };
    put(
        &host,
        &rules([udp("192.0.2.80", [53, 5353].into(), 8), udp("2001:db8::80", [].into(), 9)]),
    );
    // UDP is not counted before the neighbour is known: the first of it may be lost on the way.
    send(&client, "192.0.2.1", "192.0.2.80:99", 1);
    eventually("a packet without a mark", || counted(&host, "none") == 1);
    send(&client, "192.0.2.1", "192.0.2.80:53", 3);
    send(&client, "192.0.2.1", "192.0.2.80:5353", 4);
    eventually("marked packets", || counted(&host, "eight") == 7);
    assert_eq!(counted(&host, "none"), 1);
    send(&client, "2001:db8::1", "[2001:db8::80]:7", 1);
    eventually("a marked packet over IPv6", || counted(&host, "nine") == 1);
    // All ports, and one of them otherwise: the narrower one wins.
    put(&host, &rules([udp("192.0.2.80", [].into(), 7), udp("192.0.2.80", [53].into(), 8)]));
    send(&client, "192.0.2.1", "192.0.2.80:99", 5);
    send(&client, "192.0.2.1", "192.0.2.80:53", 1);
    eventually("one more marked packet", || counted(&host, "eight") == 8);
    assert_eq!(counted(&host, "none"), 1);
    // TCP is not meant.
    let refused = client.run(|| TcpStream::connect("192.0.2.80:53"));
    assert!(refused.is_err());
    assert_eq!(counted(&host, "none"), 2);
}

fn no_packet_sees_a_table_that_is_half_made() {
    let (client, host) = client_and_host();
    nft(&host, COUNTED);
    let with = |ports: BTreeSet<u16>, others: u16| {
        let vip = "192.0.2.80".parse().unwrap();
        let mark = PacketRule::Mark { vip, protocol: Protocol::Udp, ports, mark: 8 };
        let others = (0..others).map(|port| masquerade(Some("192.0.2.80"), "10.0.0.1", port));
        rules(others.chain([mark]))
    };
    let (one, two) = (with([].into(), 200), with([7, 53].into(), 300));
    put(&host, &one);
    send(&client, "192.0.2.1", "192.0.2.80:53", 1);
    eventually("the first packet", || counted(&host, "eight") == 1);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let until = Until(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                send(&client, "192.0.2.1", "192.0.2.80:53", 100);
            }
        });
        for _ in 0..20 {
            put(&host, &two);
            put(&host, &one);
        }
        drop(until);
    });
    assert!(counted(&host, "eight") > 1000, "hardly a packet came");
    assert_eq!(counted(&host, "none"), 0);
}

/// The client connects to the VIP: the MSS that it may use afterwards.
fn mss_to(client: &NetnsHost, host: &NetnsHost, vip: &str) -> u32 {
    let listener = host.run(|| TcpListener::bind((vip.parse::<IpAddr>().unwrap(), 0)).unwrap());
    let to = listener.local_addr().unwrap();
    client.run(|| {
        let stream = TcpStream::connect(to).unwrap();
        getsockopt(&stream, TcpMaxSeg).unwrap()
    })
}

fn the_mss_is_made_smaller_and_never_greater() {
    let (client, host) = client_and_host();
    // 12 bytes of every segment are the timestamp.
    assert_eq!(mss_to(&client, &host, "192.0.2.80"), 1448);
    put(&host, &rules([clamp("192.0.2.80", 1000), clamp("2001:db8::80", 900)]));
    assert_eq!(mss_to(&client, &host, "192.0.2.80"), 988);
    assert_eq!(mss_to(&client, &host, "2001:db8::80"), 888);
    assert_eq!(mss_to(&client, &host, "192.0.2.2"), 1448, "another source");
    put(&host, &rules([clamp("192.0.2.80", 9000)]));
    assert_eq!(mss_to(&client, &host, "192.0.2.80"), 1448);
    assert_eq!(mss_to(&client, &host, "2001:db8::80"), 1428);
}

/// Whom a server sees that is asked by way of a VIP, which rules of another turn into it.
fn peer_of(client: &NetnsHost, server: &NetnsHost, vip: &str, at: &str) -> IpAddr {
    // The listener of the question before: a process that another test is just starting has it too, until it executes.
    let mut free = None;
    eventually("the port is free", || {
        free = server.run(|| TcpListener::bind(at)).ok();
        free.is_some()
    });
    let listener = free.unwrap();
    std::thread::scope(|scope| {
        let seen = scope.spawn(|| {
            let (mut stream, peer) = listener.accept().unwrap();
            stream.write_all(b"x").unwrap();
            peer.ip()
        });
        client.run(|| {
            let mut byte = [0];
            TcpStream::connect(vip).unwrap().read_exact(&mut byte).unwrap();
        });
        seen.join().unwrap()
    })
}

fn connections_leave_with_the_address_of_the_host() {
    let (client, director) = NetnsHost::two("192.0.2.1/24", "192.0.2.2/24");
    let server = NetnsHost::new();
    director.ip("link add v1 type veth peer name w1");
    director.give("w1", &server);
    for (netns, dev, address) in [(&director, "v1", "10.0.0.1/24"), (&server, "w1", "10.0.0.2/24")]
    {
        netns.ip(&format!("address add {address} dev {dev}"));
        netns.ip(&format!("link set {dev} up"));
    }
    server.ip("route add default via 10.0.0.1");
    client.ip("route add 10.0.0.0/24 via 192.0.2.2");
    director.set_sysctl("ip_forward", "1");
    director.ip("address add 192.0.2.80/32 dev v0");
    nft(
        &director,
        "table ip other { chain c { type nat hook prerouting priority dstnat; \
         ip daddr 192.0.2.80 tcp dport 80 dnat to 10.0.0.2:8080; }; }",
    );
    let ask = |to: &str| peer_of(&client, &server, to, "10.0.0.2:8080").to_string();
    assert_eq!(ask("192.0.2.80:80"), "192.0.2.1");
    put(&director, &rules([masquerade(Some("192.0.2.80"), "10.0.0.2", 8080)]));
    assert_eq!(ask("192.0.2.80:80"), "10.0.0.1");
    assert_eq!(ask("10.0.0.2:8080"), "192.0.2.1", "asked directly");
    put(&director, &rules([masquerade(Some("192.0.2.81"), "10.0.0.2", 8080)]));
    assert_eq!(ask("192.0.2.80:80"), "192.0.2.1", "another VIP");
    put(&director, &rules([masquerade(Some("192.0.2.80"), "10.0.0.2", 80)]));
    assert_eq!(ask("192.0.2.80:80"), "192.0.2.1", "another port");
    put(&director, &rules([masquerade(None, "10.0.0.2", 0)]));
    assert_eq!(ask("10.0.0.2:8080"), "10.0.0.1", "whatever was asked");
}
