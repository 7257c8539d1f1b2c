//! keepalived as a transient unit of systemd on a director: it starts with the boot unit, after a crash by itself, and goes.

use std::time::Instant;

use lvsprov::apply::Session;
use lvsprov::check;
use lvsprov::names::HostName;
use lvsprov::topology::Topology;

use super::cluster::BootedCluster;
use super::{Clock, Order, reboot};
use crate::hosts::{self, seen, steps_left};
use crate::support::processes::wait_until;

const FILE: &str = "version: 1
name: with-checks
networks: {lan: [198.51.100.0/24]}
hosts:
  client: {role: client, interfaces: {eth0: 198.51.100.9/24}}
  lvs: {role: director, interfaces: {eth0: 198.51.100.2/24}}
  direct: {role: real_server, interfaces: {eth0: 198.51.100.4/24}}
services:
  - {vip: 198.51.100.80, port: 80, forward: dr, check: {type: tcp, interval: 2, timeout: 1}, real_servers: [direct]}
";
const UNIT: &str = "lvsprov-keepalived-with-checks.service";

/// What systemd says of the unit: whether it runs, and its process.
fn unit(cluster: &BootedCluster, director: &HostName) -> (String, String) {
    let show = |property: &str| {
        let property = format!("--property={property}");
        let words = ["systemctl", "show", "--value", property.as_str(), UNIT];
        cluster.host(director).expect(&words, 0).trim().to_owned()
    };
    (show("ActiveState"), show("MainPID"))
}

/// Until the director is as the file has it: a real server may fail a check while hosts boot.
async fn settled(topology: &Topology, cluster: &BootedCluster) {
    let settings = cluster.settings();
    let mut session = Session::open(topology, &settings).await;
    let left = steps_left(topology, &mut session).await;
    session.close().await;
    assert_eq!(left, Vec::<String>::new());
}

pub async fn boots() {
    let clock = Clock(Instant::now());
    let file = check::examine("with-checks", FILE);
    let topology = file.topology.unwrap_or_else(|| panic!("{:?}", file.findings));
    let director: HostName = "lvs".parse().unwrap();
    let mut cluster = BootedCluster::boot(topology.clone());
    {
        let settings = cluster.settings();
        let mut session = Session::open(&topology, &settings).await;
        hosts::apply(&topology, &mut session).await.unwrap();
        let applied = seen(&mut session).await;
        assert_eq!(applied[&director].instances.len(), 1);
        assert!(applied[&director].instances.values().all(|it| it.loaded));
        session.close().await;
    }
    clock.say("applied");
    assert_eq!(unit(&cluster, &director).0, "active");
    cluster.ask_all();

    reboot(&mut cluster, &Order::Alone(director.clone()));
    clock.say("rebooted");
    assert_eq!(unit(&cluster, &director).0, "active", "the boot unit has started it");
    settled(&topology, &cluster).await;

    let (_, before) = unit(&cluster, &director);
    cluster.host(&director).expect(&["kill", "-KILL", &before], 0);
    wait_until("systemd starts it again", || {
        let (state, now) = unit(&cluster, &director);
        state == "active" && now != before && now != "0"
    });
    cluster.ask_all();
    settled(&topology, &cluster).await;
    clock.say("killed");

    let settings = cluster.settings();
    let mut session = Session::open(&topology, &settings).await;
    hosts::destroy(&topology, &mut session).await.unwrap();
    let left = seen(&mut session).await;
    session.close().await;
    assert!(left[&director].instances.is_empty() && left[&director].services.is_empty());
    assert_eq!(unit(&cluster, &director).0, "inactive");
    cluster.host(&director).expect(&["test", "!", "-e", "/run/lvsprov"], 0);
    clock.say("destroyed");
}
