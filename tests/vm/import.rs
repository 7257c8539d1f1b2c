//! Import and render beside the programs they are for: `ipvsadm -R` takes what is rendered,
//! `ipvsadm -Sn` is imported, and hosts that were set up by hand are taken over.
//!
//! Needs a kernel with IPVS.

use std::io::Write as _;
use std::process::{Command, Stdio};

use lvsprov::state::{HostState, ServiceFlags, Timeouts};
use lvsprov::{import, render};

use crate::support::cases::Case;
use crate::support::{any_tables, ipvsadm, netns_host};

mod dump;
mod keepalived;

const LVSPROV: &str = env!("CARGO_BIN_EXE_lvsprov");

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("ipvsadm_takes_what_is_rendered_and_its_dump_is_imported", rendered),
        Case::new("daemons_timeouts_and_thresholds_are_restored_too", beside_the_table),
        Case::new("hosts_that_were_set_up_by_hand_are_taken_over", by_hand),
        Case::new(
            "keepalived_reads_its_checks_again_after_import_and_render",
            keepalived::read_again,
        ),
    ]
}

/// `ipvsadm -R` with `text`, which it must take without a word.
fn restore(netns: &netns_host::NetnsHost, text: &str) {
    netns.run(|| {
        let mut child = Command::new("ipvsadm")
            .arg("-R")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
    });
}

fn rendered() {
    let (mut runner, seed) = any_tables::runner(40);
    let strategy = any_tables::tables();
    let mut services = 0;
    for _ in 0..40 {
        let table = any_tables::one(&mut runner, &strategy);
        let state = HostState { services: table.clone(), ..HostState::default() };
        let rules = render::ipvsadm::rules(&state);
        if !rules.unsupported.is_empty() {
            continue;
        }
        let netns = netns_host::NetnsHost::with_lo();
        restore(&netns, &rules.text);
        assert_eq!(ipvsadm::shown(&netns), ipvsadm::expected(&table), "{seed}\n{}", rules.text);
        let dump = netns.run(|| netns_host::run(Command::new("ipvsadm").arg("-Sn")));
        let imported = import::ipvsadm::read(&dump);
        let mut expected = table.clone();
        // What ipvsadm -S does not print.
        for (key, service) in &mut expected {
            if matches!(service.scheduler.as_str(), "sh" | "mh") {
                let bits = service.flags.bits() & !ServiceFlags::SCHEDULER_3;
                service.flags = ServiceFlags::new(bits);
            }
            if !service.flags.has(ServiceFlags::PERSISTENT) {
                service.netmask = if key.is_ipv6() { 128 } else { u32::MAX };
            }
            for destination in service.destinations.values_mut() {
                (destination.upper_threshold, destination.lower_threshold) = (0, 0);
            }
        }
        assert_eq!(imported.services, expected, "{seed}\n{dump}");
        services += table.len();
    }
    assert!(services > 20, "only {services} services were compared");
}

fn beside_the_table() {
    let text = "--start-daemon master --mcast-interface lo --syncid 7\n--set 600 60 30\n\
        -A -t 192.0.2.1:80 -s rr\n-a -t 192.0.2.1:80 -r 10.0.0.1 -m -x 100 -y 50\n";
    let rules = import::ipvsadm::read(text);
    assert_eq!(rules.remarks, []);
    let state = HostState {
        services: rules.services,
        daemons: rules.daemons,
        timeouts: Some(Timeouts { tcp: 600, tcp_fin: 60, udp: 30 }),
        ..HostState::default()
    };
    let netns = netns_host::NetnsHost::with_lo();
    restore(&netns, &render::ipvsadm::rules(&state).text);
    let listed =
        |what: &str| netns.run(|| netns_host::run(Command::new("ipvsadm").args(["-Ln", what])));
    let (timeouts, daemon) = (listed("--timeout"), listed("--daemon"));
    assert!(timeouts.contains("600 60 30"), "{timeouts}");
    assert!(daemon.contains("master sync daemon (mcast=lo, syncid=7"), "{daemon}");
    let limits = listed("--thresholds");
    assert_eq!(thresholds(&limits, "10.0.0.1:80"), ["100", "50"], "{limits}");
}

/// Upper and lower, from `ipvsadm -Ln --thresholds`.
fn thresholds<'a>(listing: &'a str, server: &str) -> Vec<&'a str> {
    let line = listing.lines().find(|line| line.contains(server)).unwrap();
    line.split_whitespace().skip(2).take(2).collect()
}

fn run(program: &str, arguments: &[&str]) -> String {
    netns_host::run(Command::new(program).args(arguments))
}

fn inside(host: &str, program: &str, arguments: &[&str]) -> String {
    run("ip", &[&["netns", "exec", host, program][..], arguments].concat())
}

fn lvsprov(arguments: &[&str], code: i32) -> String {
    let output = Command::new(LVSPROV).args(arguments).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}\n{text}");
    text
}

/// Direct routing as recipes have it, a real server that nobody names, and a bridge of containers
/// that is nobody's business.
fn set_up_by_hand() {
    run("ip", &["netns", "add", "switch"]);
    run("ip", &["-n", "switch", "link", "add", "br0", "up", "type", "bridge"]);
    for (host, address) in
        [("lvs", "172.25.7.2/24"), ("rs1", "172.25.7.3/24"), ("rs2", "172.25.7.4/24")]
    {
        run("ip", &["netns", "add", host]);
        inside(host, "sysctl", &["-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
        let ip = |words: &str| run("ip", &words.split(' ').collect::<Vec<_>>());
        ip(&format!("-n switch link add {host} type veth peer name eth0 netns {host}"));
        ip(&format!("-n switch link set {host} master br0 up"));
        ip(&format!("-n {host} link set lo up"));
        ip(&format!("-n {host} link set eth0 up"));
        ip(&format!("-n {host} address add {address} dev eth0"));
        ip(&format!("-n {host} link add docker0 up type bridge"));
        ip(&format!("-n {host} address add 172.17.0.1/16 dev docker0"));
        ip(&format!("-n {host} route add default via 172.25.7.1"));
        if host == "lvs" {
            ip("-n lvs address add 172.25.7.100/24 dev eth0");
        } else {
            inside(host, "sysctl", &["-qw", "net.ipv4.conf.all.arp_ignore=1"]);
            inside(host, "sysctl", &["-qw", "net.ipv4.conf.all.arp_announce=2"]);
            ip(&format!("-n {host} address add 172.25.7.100/32 dev lo"));
        }
    }
    for line in [
        "-A -t 172.25.7.100:80 -s sh -p 600 -M 255.255.255.0 -b sh-port",
        "-a -t 172.25.7.100:80 -r 172.25.7.3:80 -g -w 3 -x 100 -y 50",
        "-a -t 172.25.7.100:80 -r 172.25.7.4:80 -g",
        "-a -t 172.25.7.100:80 -r 172.25.7.9:80 -g -w 0",
        "--set 600 0 30",
    ] {
        inside("lvs", "ipvsadm", &line.split(' ').collect::<Vec<_>>());
    }
    inside("lvs", "sysctl", &["-qw", "net.ipv4.vs.expire_nodest_conn=1"]);
}

fn by_hand() {
    set_up_by_hand();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("imported.yaml");
    let file = file.to_str().unwrap();
    lvsprov(&["import", "--from", "netns:lvs,netns:rs1,netns:rs2", "--out", file], 0);
    // A second time only with --force.
    lvsprov(&["import", "--from", "netns:lvs", "--out", file], 2);
    let text = std::fs::read_to_string(file).unwrap();
    for part in [
        "netns: lvs",
        "vip: 172.25.7.100/24",
        "rs-172-25-7-9",
        "gateway: 172.25.7.1",
        "timeouts: {tcp: 600, udp: 30}",
        "settings: {expire_nodest_conn: 1}",
        "scheduler_flags: [sh-port]",
        "{host: rs1, weight: 3, upper_threshold: 100, lower_threshold: 50}",
        "172.17.0.1/16 on docker0",
    ] {
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
    }
    lvsprov(&["check", file], 0);
    // The file leads to what was there: a table made anew from it is the same.
    let before = inside("lvs", "ipvsadm", &["-Sn"]);
    inside("lvs", "ipvsadm", &["-C"]);
    lvsprov(&["plan", file], 4);
    lvsprov(&["apply", file], 0);
    assert_eq!(inside("lvs", "ipvsadm", &["-Sn"]), before);
    let limits = inside("lvs", "ipvsadm", &["-Ln", "--thresholds"]);
    assert_eq!(thresholds(&limits, "172.25.7.3:80"), ["100", "50"], "{limits}");
    // The same rules for ipvsadm itself.
    let mut rules = import::ipvsadm::read(&lvsprov(&["render", "ipvsadm", file], 0)).services;
    for destination in rules.values_mut().flat_map(|s| s.destinations.values_mut()) {
        (destination.upper_threshold, destination.lower_threshold) = (0, 0);
    }
    assert_eq!(rules, import::ipvsadm::read(&before).services);
    for host in ["lvs", "rs1", "rs2", "switch"] {
        run("ip", &["netns", "del", host]);
    }
}
