#![allow(clippy::unwrap_used)]

use super::*;
use crate::support::Cluster;
use crate::topology::{Forward, SshTarget};

/// rs1 and rs2 serve port 80, rs2 alone port 81; all reached by ssh. The client is the router of the others.
fn file() -> Topology {
    let mut file =
        Cluster::of(&[(Forward::Dr, 80, vec![1, 2]), (Forward::Dr, 81, vec![2])]).topology;
    for (name, host) in &mut file.hosts {
        host.reach = Some(Reach::Ssh(SshTarget { host: name.to_string(), user: None, port: None }));
    }
    file
}

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

fn out(hosts: &[&str]) -> Maintenance {
    hosts.iter().map(|host| (host.parse().unwrap(), 7)).collect()
}

/// The messages of the obstacles.
fn messages(
    file: &Topology,
    current: &[&str],
    hosts: &[&str],
    how: (Withdrawal, bool),
) -> Vec<String> {
    let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
    let all = obstacles(file, &out(current), &hosts, how);
    all.into_iter().map(|(host, obstacle)| format!("{host}: {}", obstacle.message)).collect()
}

const MAINTAIN: (Withdrawal, bool) = (Withdrawal::Maintain, false);
const REBOOT: (Withdrawal, bool) = (Withdrawal::Reboot, false);
const NONE: [&str; 0] = [];

#[test]
fn the_last_real_server_of_a_service_stays() {
    let file = file();
    assert_eq!(messages(&file, &[], &["rs1"], MAINTAIN), NONE);
    let last = "rs2: rs2 is the last real server of s81 that takes requests";
    assert_eq!(messages(&file, &[], &["rs2"], MAINTAIN), [last]);
    assert_eq!(messages(&file, &[], &["rs2"], REBOOT), [last]);
    assert_eq!(messages(&file, &[], &["rs2"], (Withdrawal::Maintain, true)), NONE);
    // Both at once, and one after the other by two commands.
    let mut without = file.clone();
    without.services.pop();
    let both = [
        "rs1: rs1 is the last real server of s80 that takes requests",
        "rs2: rs2 is the last real server of s80 that takes requests",
    ];
    assert_eq!(messages(&without, &[], &["rs1", "rs2"], MAINTAIN), both);
    assert_eq!(messages(&without, &["rs1"], &["rs2"], MAINTAIN), both[1..]);
    // A reboot has them out one at a time.
    assert_eq!(messages(&without, &[], &["rs1", "rs2"], REBOOT), NONE);
    // Again.
    assert_eq!(messages(&without, &["rs1", "rs2"], &["rs1", "rs2"], MAINTAIN), NONE);
}

#[test]
fn a_weight_of_0_in_the_file_is_none_to_take_away() {
    let mut file = file();
    file.services.pop();
    for (at, weights) in [(0, [0, 1]), (1, [1, 0])] {
        for (server, weight) in file.services[0].real_servers.iter_mut().zip(weights) {
            server.weight = weight;
        }
        let names = [["rs1"], ["rs2"]];
        assert_eq!(messages(&file, &[], &names[at], MAINTAIN), NONE);
        assert_eq!(messages(&file, &[], &names[1 - at], MAINTAIN).len(), 1);
    }
}

#[test]
fn a_scheduler_that_cannot_drain_is_named() {
    let mut file = file();
    file.services[0].scheduler = Scheduler::Dh;
    assert_eq!(
        messages(&file, &[], &["rs1"], MAINTAIN),
        ["rs1: s80 uses the scheduler dh, which cannot drain rs1"]
    );
    assert_eq!(messages(&file, &[], &["rs1"], (Withdrawal::Maintain, true)), NONE);
}

#[test]
fn hosts_without_a_weight_say_what_they_are() {
    let mut file = file();
    let text = |file: &Topology, host: &str, how| {
        let hosts = BTreeSet::from([host.parse().unwrap()]);
        let all = obstacles(file, &Maintenance::default(), &hosts, how);
        all.into_iter()
            .map(|(_, it)| format!("{}; {}; {}", it.message, it.why, it.cure))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let client = text(&file, "client", MAINTAIN);
    assert!(client.starts_with("client is no real server: no request is sent to it"), "{client}");
    assert_eq!(text(&file, "client", REBOOT), "", "it costs nothing");
    let director = text(&file, "director", MAINTAIN);
    assert!(director.contains("the only director of s80, s81: an outage"), "{director}");
    let director = text(&file, "director", REBOOT);
    assert!(director.contains("`--allow-outage` reboots it all the same"), "{director}");
    assert!(!director.contains("sync daemon"), "{director}");
    let daemon = crate::state::SyncDaemon::on("eth0".parse().unwrap());
    let daemons = &mut file.hosts.get_mut(&host("director")).unwrap().ipvs.daemons;
    daemons.insert(crate::state::DaemonRole::Master, daemon);
    let director = text(&file, "director", REBOOT);
    assert!(director.contains("but lvsprov moves no VIP"), "{director}");
    assert_eq!(text(&file, "director", (Withdrawal::Reboot, true)), "");
    // The gateway of the real servers.
    file.hosts.get_mut(&host("client")).unwrap().roles.insert(Role::Router);
    let router = text(&file, "client", REBOOT);
    assert!(router.contains("a router on the way of requests"), "{router}");
}

#[test]
fn a_host_that_lvsprov_cannot_reboot_is_named_even_where_an_outage_is_allowed() {
    let mut file = file();
    for (reach, says) in [
        (None, "the file does not say how rs1 is reached"),
        (Some(Reach::Local), "rs1 is the machine that lvsprov runs on"),
    ] {
        file.hosts.get_mut(&host("rs1")).unwrap().reach = reach;
        for allowed in [false, true] {
            let all = messages(&file, &[], &["rs1"], (Withdrawal::Reboot, allowed));
            assert!(all.len() == 1 && all[0].contains(says), "{all:?}");
        }
        assert_eq!(messages(&file, &[], &["rs1"], MAINTAIN), NONE);
    }
}

#[test]
fn the_time_is_shown_to_the_minute() {
    let text = caution(&"rs1".parse().unwrap(), 1_764_317_520);
    assert!(text.starts_with("rs1 is in maintenance since 2025-11-28 08:12 UTC: "), "{text}");
    assert!(caution(&"rs1".parse().unwrap(), u64::MAX).contains("s after 1970"));
}
