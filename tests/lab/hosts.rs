//! Bare hosts, requests, captures and snapshots.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use lvsprov::lab::clients::{self, Question, Stream, TIMED_OUT, Tally};
use lvsprov::lab::expect::expected_share;
use lvsprov::lab::network::Management;
use lvsprov::lab::responders::Responders;
use lvsprov::lab::snapshot::{diff, snapshot};
use lvsprov::lab::sshd::Sshds;
use lvsprov::lab::watch::{self, Operation, Watch};
use lvsprov::lab::{self, Lab, LabError};
use lvsprov::topology::{Protocol, Scheduler, Topology};

use super::{BINARY, host, processes, topologies, wait_until};

fn build(topology: &Topology) -> Lab {
    lab::isolate().unwrap();
    Lab::build(topology, Management::None).unwrap()
}

fn question(protocol: Protocol, target: &str) -> Question {
    let target: SocketAddr = target.parse().unwrap();
    Question { target, protocol, timeout: Duration::from_secs(20) }
}

fn impatient(protocol: Protocol, target: &str) -> Question {
    Question { timeout: Duration::from_millis(300), ..question(protocol, target) }
}

fn ask(lab: &Lab, from: &str, question: Question, count: u32) -> Tally {
    clients::ask(lab, &host(from), question, count).unwrap()
}

/// Runs a program on a host of the lab; it must succeed.
fn on(lab: &Lab, name: &str, command: &str) -> String {
    let mut words = command.split_whitespace();
    let mut program = Command::new(words.next().unwrap());
    program.args(words);
    let output = lab.run_in(&host(name), move || program.output().unwrap()).unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn set(lab: &Lab, name: &str, setting: &str, value: &str) {
    let path = Path::new("/proc/sys/net/ipv4").join(setting);
    lab.run_in(&host(name), || fs::write(path, value).unwrap()).unwrap();
}

fn answered(tally: &Tally) -> Vec<(&str, u32)> {
    assert!(tally.failures.is_empty(), "{tally:?}");
    tally.answers.iter().map(|(name, count)| (name.as_str(), *count)).collect()
}

#[test]
fn a_lab_is_not_built_in_the_machines_own_network() {
    let refused = Lab::build(&topologies::dr_one_network(), Management::None);
    assert!(matches!(refused.err(), Some(LabError::NotIsolated)));
}

#[test]
fn every_topology_comes_up_and_real_servers_answer_at_their_own_addresses() {
    for (topology, from) in [
        (topologies::dr_one_network(), "client"),
        (topologies::dr_two_networks(), "director"),
        (topologies::nat_two_nics(), "director"),
    ] {
        let lab = build(&topology);
        let responders = Responders::start(&lab, &topology).unwrap();
        let mut asked = 0;
        for service in &topology.services {
            for real_server in &service.real_servers {
                let target = SocketAddr::new(real_server.rip, real_server.port).to_string();
                let tally = ask(&lab, from, question(service.protocol, &target), 3);
                assert_eq!(answered(&tally), [(real_server.host.as_str(), 3)]);
                asked += 3;
            }
        }
        wait_until("all are counted", || responders.served().values().sum::<u64>() == asked);
        // The service itself does not answer yet, and it has no responder of its own.
        let service = &topology.services[0];
        let vip = SocketAddr::new(service.vip, service.port).to_string();
        let tally = ask(&lab, "client", impatient(Protocol::Tcp, &vip), 1);
        assert!(tally.answers.is_empty() && tally.failures.len() == 1, "{tally:?}");
    }
}

#[test]
fn a_bare_host_is_what_the_kernel_makes_it_and_strict() {
    let topology = topologies::dr_two_networks();
    let lab = build(&topology);
    let router = snapshot(lab.namespace(&host("router")).unwrap()).unwrap();
    for (setting, value) in [
        ("ip_forward", "0"),
        ("conf/all/rp_filter", "1"),
        ("conf/default/rp_filter", "0"),
        ("conf/eth1/rp_filter", "0"),
        ("conf/all/arp_ignore", "0"),
        ("conf/eth0/arp_announce", "0"),
        ("conf/all/send_redirects", "1"),
        ("conf/eth2/send_redirects", "1"),
        ("conf/all/accept_redirects", "1"),
    ] {
        let key = format!("sysctl net/ipv4/{setting}");
        assert_eq!(router.get(&key).map(String::as_str), Some(value), "{key}");
    }
    assert_eq!(on(&lab, "router", "ip -4 route show default"), "");
    let addresses = on(&lab, "router", "ip -br -4 addr");
    for address in ["192.168.244.129/24", "172.18.253.251/16", "192.168.142.133/24", "127.0.0.1/8"]
    {
        assert!(addresses.contains(address), "{addresses}");
    }
    let links = on(&lab, "router", "ip -br link");
    for interface in ["eth0", "eth1", "eth2"] {
        let line = links.lines().find(|line| line.starts_with(interface)).unwrap();
        let mac = lab.mac_of(&host("router"), &interface.parse().unwrap()).unwrap();
        assert!(line.contains(&mac.to_string()) && line.contains(" UP "), "{line}");
    }
}

#[test]
fn a_udp_answer_comes_from_the_vip_even_if_the_vip_came_later() {
    let topology = topologies::dr_one_network();
    let lab = build(&topology);
    let _responders = Responders::start(&lab, &topology).unwrap();
    on(&lab, "web1", "ip addr add 172.25.7.200/32 dev lo");
    // The client accepts an answer from the address that it asked only.
    let tally = ask(&lab, "client", question(Protocol::Udp, "172.25.7.200:53"), 2);
    assert_eq!(answered(&tally), [("web1", 2)]);
}

#[test]
fn reasons_for_no_answer_are_told_apart() {
    let topology = topologies::dr_one_network();
    let lab = build(&topology);
    let _responders = Responders::start(&lab, &topology).unwrap();
    let why = |question| ask(&lab, "client", question, 2).failures;
    let tcp = Protocol::Tcp;
    assert_eq!(why(question(tcp, "172.25.7.2:80")), [("refused".to_owned(), 2)].into());
    assert_eq!(why(impatient(tcp, "172.25.7.99:80")), [(TIMED_OUT.to_owned(), 2)].into());
    assert_eq!(why(question(tcp, "10.9.9.9:80")), [("no route".to_owned(), 2)].into());
    let udp = Protocol::Udp;
    assert_eq!(why(impatient(udp, "172.25.7.99:53")), [(TIMED_OUT.to_owned(), 2)].into());
}

#[test]
fn requests_in_the_background_show_when_a_service_stopped_to_answer() {
    let topology = topologies::dr_one_network();
    let lab = build(&topology);
    let _responders = Responders::start(&lab, &topology).unwrap();
    let question = impatient(Protocol::Tcp, "172.25.7.3:80");
    let every = Duration::from_millis(5);
    let stream = Stream::start(&lab, &host("client"), question, every, 100_000).unwrap();
    let count = |ok: bool| stream.so_far().iter().filter(|one| one.answer.is_ok() == ok).count();
    wait_until("ten are answered", || count(true) >= 10);
    on(&lab, "web1", "ip link set eth0 down");
    wait_until("one is not answered", || count(false) >= 1);
    let asked = stream.stop();
    let first = clients::interruption(&asked).unwrap();
    assert_eq!(first.answer, Err(TIMED_OUT.to_owned()));
    assert!(asked.windows(2).all(|pair| pair[1].at >= pair[0].at + every));
}

#[test]
fn the_watch_hears_who_asks_and_who_claims_an_address() {
    let topology = topologies::dr_one_network();
    let lab = build(&topology);
    let watch = Watch::start(&lab).unwrap();
    let _responders = Responders::start(&lab, &topology).unwrap();
    ask(&lab, "client", question(Protocol::Tcp, "172.25.7.3:80"), 1);
    let vip: IpAddr = "172.25.7.200".parse().unwrap();
    assert!(watch::claimants(&watch.so_far(&lab), vip).is_empty());
    let asks = |frame: &watch::Heard| {
        frame.arp.operation == Operation::Request && frame.host == Some(host("client"))
    };
    let answers = |frame: &watch::Heard| {
        frame.arp.operation == Operation::Reply && frame.host == Some(host("web1"))
    };
    wait_until("question and answer are heard", || {
        let heard = watch.so_far(&lab);
        heard.iter().any(asks) && heard.iter().any(answers)
    });
    let heard = watch.so_far(&lab);
    let answer = heard.iter().find(|frame| answers(frame)).unwrap();
    assert_eq!(answer.network.as_str(), "lan");
    assert_eq!(answer.arp.sender.to_string(), "172.25.7.3");
    // Each frame once, though it passes two ports.
    assert_eq!(heard.iter().filter(|f| answers(f)).count(), 1, "{heard:?}");

    // Trap 1: a real server that has the VIP answers for it.
    on(&lab, "web1", "ip addr add 172.25.7.200/32 dev lo");
    on(&lab, "director", "ip addr add 172.25.7.200/32 dev eth0");
    ask(&lab, "client", question(Protocol::Tcp, "172.25.7.200:81"), 1);
    let both = ["director".to_owned(), "web1".to_owned()].into();
    wait_until("both claim it", || watch::claimants(&watch.so_far(&lab), vip) == both);
}

#[test]
fn a_snapshot_sees_one_changed_thing_and_nothing_else() {
    let topology = topologies::dr_one_network();
    let lab = build(&topology);
    let _responders = Responders::start(&lab, &topology).unwrap();
    let namespace = lab.namespace(&host("web1")).unwrap();
    let now = || snapshot(namespace).unwrap();
    // Traffic, neighbours and time are no changes.
    let bare = now();
    ask(&lab, "client", question(Protocol::Tcp, "172.25.7.3:80"), 3);
    assert_eq!(diff(&bare, &now()), []);

    let keys = |before: &_| {
        let after = snapshot(namespace).unwrap();
        diff(before, &after).into_iter().map(|d| (d.key, d.before, d.after)).collect::<Vec<_>>()
    };
    set(&lab, "web1", "conf/eth0/arp_ignore", "1");
    let (zero, one) = (Some("0".to_owned()), Some("1".to_owned()));
    assert_eq!(keys(&bare), [("sysctl net/ipv4/conf/eth0/arp_ignore".to_owned(), zero, one)]);
    set(&lab, "web1", "conf/eth0/arp_ignore", "0");
    assert_eq!(keys(&bare), []);

    for (change, undo, kind) in [
        ("ip route add 10.9.0.0/16 via 172.25.7.2", "ip route del 10.9.0.0/16", "route"),
        (
            "ip route add 10.9.0.0/16 via 172.25.7.2 table 77",
            "ip route del 10.9.0.0/16 table 77",
            "route",
        ),
        ("ip route add default via 172.25.7.2", "ip route del default", "route"),
        ("ip rule add fwmark 5 lookup 77", "ip rule del fwmark 5", "rule"),
        ("ip link set lo mtu 9000", "ip link set lo mtu 65536", "link"),
    ] {
        on(&lab, "web1", change);
        let changed = keys(&bare);
        let of_kind =
            |(key, ..): &(String, _, _)| key.starts_with(kind) || key.contains("/conf/lo/mtu");
        assert!(!changed.is_empty() && changed.iter().all(of_kind), "{change}: {changed:?}");
        on(&lab, "web1", undo);
        assert_eq!(keys(&bare), [], "after {undo}");
    }
    // An address brings its local route with it.
    on(&lab, "web1", "ip addr add 172.25.7.200/32 dev lo label lo:0");
    let changed = keys(&bare);
    let kinds: Vec<&str> = changed.iter().map(|(k, ..)| k.split(' ').next().unwrap()).collect();
    assert_eq!(kinds, ["address", "route"], "{changed:?}");
    assert!(changed[0].0.contains("lo:0") && changed[0].0.contains("172.25.7.200"));
}

/// Not a test: what `nothing_is_left_of_a_lab_that_was_killed` kills.
#[test]
#[ignore = "it waits until it is killed, by another test"]
fn hold_a_lab() {
    lab::isolate().unwrap();
    let lab = Lab::build(&topologies::dr_one_network(), Management::Bridge).unwrap();
    let sshds = Sshds::start(&lab, lab.host_names(), Path::new(BINARY)).unwrap();
    let namespaces = lab.host_names().map(|name| {
        let path = lab.netns_path(name).unwrap();
        fs::read_link(path).unwrap().to_string_lossy().into_owned()
    });
    println!("\nnamespaces {}", namespaces.collect::<Vec<_>>().join(" "));
    println!("config {}", sshds.ssh_config().parent().unwrap().display());
    std::thread::sleep(Duration::from_mins(10));
}

#[test]
fn nothing_is_left_of_a_lab_that_was_killed() {
    let temporary = tempfile::tempdir().unwrap();
    let links_before = fs::read_to_string("/proc/self/net/dev").unwrap().lines().count();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "hosts::hold_a_lab", "--nocapture"])
        .env("TMPDIR", temporary.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let namespaces = lines.find(|line| line.starts_with("namespaces ")).unwrap();
    let namespaces: Vec<&str> = namespaces.split(' ').skip(1).collect();
    assert_eq!(namespaces.len(), 4);
    let folder = lines.find_map(|line| line.strip_prefix("config ").map(str::to_owned)).unwrap();
    let sshd_of_it = |command: &str| command.contains(&folder);
    assert_eq!(
        processes().filter(|p| sshd_of_it(&p.command)).count(),
        8,
        "4 sshds, each with its keeper"
    );
    let alive = || {
        let namespace =
            |process: super::Process| fs::read_link(format!("/proc/{}/ns/net", process.id)).ok();
        processes()
            .filter_map(namespace)
            .any(|n| namespaces.contains(&n.to_string_lossy().as_ref()))
    };
    assert!(alive());
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("no process is in its namespaces", || !alive());
    wait_until("its sshds are gone", || !processes().any(|p| sshd_of_it(&p.command)));
    let links_after = fs::read_to_string("/proc/self/net/dev").unwrap().lines().count();
    assert_eq!(links_before, links_after);
    let names = fs::read_dir("/run/netns").map(Iterator::count).unwrap_or_default();
    assert_eq!(names, 0);
}

/// DR in one network by hand, as the facts say it is to be done.
fn direct_routing(lab: &Lab, vip: IpAddr) {
    for web in ["web1", "web2"] {
        set(lab, web, "conf/all/arp_ignore", "1");
        set(lab, web, "conf/all/arp_announce", "2");
        on(lab, web, &format!("ip addr add {vip}/32 dev lo"));
    }
    on(lab, "director", &format!("ip addr add {vip}/32 dev eth0"));
}

/// What the module `expect` says of each scheduler, held against the kernel.
#[test]
#[ignore = "needs IPVS: vm_runs_the_labs_own_tests_on_its_kernel runs it"]
fn shares_are_what_the_kernel_really_gives() {
    let topology = topologies::dr_one_network();
    let lab = build(&topology);
    let watch = Watch::start(&lab).unwrap();
    let _responders = Responders::start(&lab, &topology).unwrap();
    // For each case a VIP of its own: what is counted for one must not weigh in another.
    let mut vips = (100_u8..=255).map(|last| IpAddr::from([172, 25, 7, last]));
    let mut used = Vec::new();
    let mut shown = Vec::new();
    for scheduler in Scheduler::ALL.iter().copied() {
        let module = format!("ip_vs_{scheduler}");
        if !Command::new("modprobe").arg(&module).status().unwrap().success() {
            assert_eq!(scheduler, Scheduler::Twos, "this kernel has no {module}");
            continue;
        }
        for weights in [[1, 1], [1, 3], [0, 1]] {
            // These two hash to a server of weight 0 too, and then drop the request.
            if weights[0] == 0 && matches!(scheduler, Scheduler::Sh | Scheduler::Dh) {
                continue;
            }
            let vip = vips.next().unwrap();
            direct_routing(&lab, vip);
            used.push(vip);
            let servers: Vec<(String, u32)> =
                ["web1", "web2"].iter().zip(weights).map(|(n, w)| ((*n).to_owned(), w)).collect();
            for (flag, protocol, port) in [("-t", Protocol::Tcp, 80), ("-u", Protocol::Udp, 53)] {
                let vip = format!("{vip}:{port}");
                on(&lab, "director", "ipvsadm -C");
                on(&lab, "director", &format!("ipvsadm -A {flag} {vip} -s {scheduler}"));
                for (rip, weight) in ["172.25.7.3", "172.25.7.4"].iter().zip(weights) {
                    let server = format!("-r {rip}:{port} -g -w {weight}");
                    on(&lab, "director", &format!("ipvsadm -a {flag} {vip} {server}"));
                }
                let tally = ask(&lab, "client", question(protocol, &vip), 20);
                let wrong = expected_share(scheduler, &servers, 20).judge(&tally);
                let line = format!("{scheduler} {protocol} {weights:?}: {:?}", tally.answers);
                assert!(wrong.is_empty(), "{line}: {wrong:?}");
                shown.push(line);
            }
        }
    }
    println!("{}", shown.join("\n"));
    for vip in used {
        let claimants = watch::claimants(&watch.so_far(&lab), vip);
        assert_eq!(claimants, ["director".to_owned()].into(), "{vip}");
    }
}
