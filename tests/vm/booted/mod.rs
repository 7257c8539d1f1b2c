//! Clusters whose hosts really boot, and lose their power: systemd as first process in a container each, with a kernel
//! that has IPVS. Each host comes to its state by itself, and no real server ever answers for a VIP.

mod cluster;
mod instance;
mod switch;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use lvsprov::apply::Session;
use lvsprov::check;
use lvsprov::lab::capture::claims_of;
use lvsprov::names::HostName;
use lvsprov::state::HostState;
use lvsprov::topology::{Service, Topology};

use self::cluster::BootedCluster;
use crate::hosts::{self, same, seen, steps_left, without_modules};
use crate::support::cases::{Case, block_on};
use crate::support::playbooks::load;
use crate::support::vm::thorough;

/// Every forwarding method, with as few hosts as that takes.
const EVERY_METHOD: &str = "version: 1
name: every-method
networks: {outside: [198.51.100.0/24], inside: [192.0.2.0/24]}
hosts:
  client: {role: client, interfaces: {eth0: 198.51.100.9/24}}
  lvs: {role: director, interfaces: {eth0: 198.51.100.2/24, eth1: 192.0.2.2/24}}
  direct: {role: real_server, interfaces: {eth0: 198.51.100.4/24}}
  behind: {role: real_server, interfaces: {eth0: 192.0.2.3/24}, gateway: lvs}
services:
  - {name: dr, vip: 198.51.100.80, port: 80, forward: dr, real_servers: [direct]}
  - {name: nat, vip: 198.51.100.81, port: 80, forward: nat, real_servers: [behind]}
  - {name: tun, vip: 198.51.100.82, port: 80, forward: tun, real_servers: [direct]}
  - {name: fullnat, vip: 198.51.100.83, port: 80, forward: fullnat, real_servers: [behind]}
";

pub fn cases() -> Vec<Case> {
    let mut all = vec![Case::new("a_cluster_of_every_method_boots_into_its_state", || {
        let file = check::examine("every-method", EVERY_METHOD);
        let topology = file.topology.unwrap_or_else(|| panic!("{:?}", file.findings));
        block_on(boots_again(topology));
    })];
    all.push(Case::new("a_director_boots_with_its_keepalived", || block_on(instance::boots())));
    // The same hosts, which have one method each, and a router.
    let playbooks = ["dr-two-networks", "nat-two-nics", "tun", "fullnat"];
    let more = playbooks.into_iter().filter(|_| thorough()).map(|name| {
        let title = name.replace('-', "_");
        Case::new(format!("a_cluster_boots_into_its_state_{title}"), move || {
            let path = format!("{}/playbooks/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
            block_on(boots_again(load(Path::new(&path))));
        })
    });
    all.extend(more);
    all
}

/// What lies on a host as long as a topology is to be made again there.
const UNIT: &str = "/etc/systemd/system/lvsprov-boot.service";

async fn boots_again(topology: Topology) {
    let clock = Clock(Instant::now());
    let mut cluster = BootedCluster::boot(topology.clone());
    let settings = cluster.settings();
    clock.say("booted");
    let (bare, applied) = {
        let mut session = Session::open(&topology, &settings).await;
        let bare = seen(&mut session).await;
        hosts::apply(&topology, &mut session).await.unwrap();
        let applied = seen(&mut session).await;
        session.close().await;
        (bare, applied)
    };
    assert_ne!(applied, bare);
    clock.say("applied");
    cluster.ask_all();
    for order in Order::all(&cluster) {
        reboot(&mut cluster, &order);
        clock.say(&format!("{order:?}"));
        let mut session = Session::open(&topology, &settings).await;
        same(&seen(&mut session).await, &applied, &format!("after and before {order:?}"));
        session.close().await;
    }
    let mut session = Session::open(&topology, &settings).await;
    assert_eq!(steps_left(&topology, &mut session).await, Vec::<String>::new());
    hosts::destroy(&topology, &mut session).await.unwrap();
    let mut destroyed = without_modules(seen(&mut session).await);
    session.close().await;
    forget_modules(&mut destroyed, &bare);
    same(&destroyed, &without_modules(bare), "after destroy and before apply");
    for name in cluster.host_names() {
        assert!(!cluster.host(name).path(UNIT).exists(), "the unit is left on {name}");
    }
    clock.say("destroyed");
}

/// What came with a module stays as that does: tunl0 with its settings, the timeouts of IPVS.
fn forget_modules(
    states: &mut BTreeMap<HostName, HostState>,
    bare: &BTreeMap<HostName, HostState>,
) {
    for (host, state) in states {
        let before = &bare[host];
        state.sysctls.retain(|key, _| before.sysctls.contains_key(key));
        state.links.retain(|name, _| before.links.contains_key(name));
        state.timeouts = state.timeouts.filter(|_| before.timeouts.is_some());
    }
}

/// Says how long each part takes.
struct Clock(Instant);

impl Clock {
    fn say(&self, what: &str) {
        println!("{:6.1} s {what}", self.0.elapsed().as_secs_f64());
    }
}

/// How hosts lose their power and boot.
#[derive(Debug)]
enum Order {
    /// All at once, with a kernel into which nothing is loaded.
    AtOnce,
    /// One, while the others run.
    Alone(HostName),
    /// All are off, and boot one after the other.
    OneAfterTheOther(Vec<HostName>),
}

impl Order {
    fn all(cluster: &BootedCluster) -> Vec<Self> {
        let hosts: Vec<HostName> = cluster.host_names().cloned().collect();
        let mut all = vec![Self::AtOnce];
        all.extend(hosts.iter().cloned().map(Self::Alone));
        if thorough() {
            // Each host is once the first and once the last.
            for first in 0..hosts.len() {
                let mut order = hosts.clone();
                order.rotate_left(first);
                all.push(Self::OneAfterTheOther(order.clone()));
                order.reverse();
                all.push(Self::OneAfterTheOther(order));
            }
        }
        all
    }
}

/// Power cut and boot. No host but the director claims a VIP meanwhile, and then every service is answered.
fn reboot(cluster: &mut BootedCluster, order: &Order) {
    let capture = cluster.switch.capture();
    let all: Vec<HostName> = cluster.host_names().cloned().collect();
    match order {
        Order::AtOnce => {
            cluster.cut_power(&all);
            cluster.unload_modules();
            cluster.start(&all);
            cluster.wait(&all);
        }
        Order::Alone(host) => {
            let host = std::slice::from_ref(host);
            cluster.cut_power(host);
            cluster.start(host);
            cluster.wait(host);
        }
        Order::OneAfterTheOther(hosts) => {
            cluster.cut_power(&all);
            for host in hosts.chunks(1) {
                cluster.start(host);
                cluster.wait(host);
            }
        }
    }
    cluster.ask_all();
    let frames = capture.stop().unwrap();
    assert!(!frames.is_empty(), "the capture sees nothing");
    for vip in cluster.topology.services.iter().filter_map(Service::vip_address) {
        for mac in claims_of(&frames, vip).into_keys() {
            let owner = cluster.switch.owner_of(&mac.to_string());
            let directs = |it: &Service| Some(&it.director) == owner;
            let is_director = cluster.topology.services.iter().any(directs);
            assert!(is_director, "{owner:?} claims {vip}: {order:?}");
        }
    }
}
