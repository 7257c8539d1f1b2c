//! What `lab::expect` says about shares, against the kernel's own schedulers. Needs root, `ip`,
//! `ipvsadm` and IPVS with its schedulers, so the VM of the lab where the running kernel has none:
//! `cargo test --test shares -- --ignored`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

// What other tests use of it is not used here.
#[allow(dead_code)]
#[path = "lab/topologies.rs"]
mod topologies;

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::time::Duration;

use lvsprov::lab::clients::{self, Tally};
use lvsprov::lab::network::Management;
use lvsprov::lab::{self, Lab, expect, responders};
use lvsprov::topology::{Forward, HostName, Protocol, Role, Scheduler, Service, Topology};
use topologies::Sketch;

const REQUESTS: u32 = 24;

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

fn run(lab: &Lab, name: &str, command: &str) -> Output {
    let mut words = command.split(' ');
    let mut command = Command::new(words.next().unwrap());
    lab.run_in(&host(name), || command.args(words).output().unwrap()).unwrap()
}

fn done(lab: &Lab, name: &str, command: &str) {
    let output = run(lab, name, command);
    assert!(output.status.success(), "{command} on {name}: {output:?}");
}

/// Three real servers under DR in one network, for TCP and UDP on port 80.
fn topology() -> Topology {
    let rs = [1, 2, 3].map(|n| (format!("web{n}"), format!("172.25.7.1{n}")));
    let rs: Vec<(&str, &str, u16, u32)> =
        rs.iter().map(|(name, rip)| (name.as_str(), rip.as_str(), 80, 1)).collect();
    let vip = "172.25.7.1";
    let mut sketch = Sketch::new("shares", &[("lan", &["172.25.7.0/24"])])
        .host("client", Role::Client, &[("eth0", "lan", &["172.25.7.250/24"])])
        .host("director", Role::Director, &[("eth0", "lan", &["172.25.7.2/24"])])
        .service(Forward::Dr, (vip, 80, Protocol::Tcp), Scheduler::Rr, &rs)
        .service(Forward::Dr, (vip, 80, Protocol::Udp), Scheduler::Rr, &rs);
    for (name, rip, ..) in rs {
        let address = format!("{rip}/24");
        sketch = sketch.host(name, Role::RealServer, &[("eth0", "lan", &[&address])]);
    }
    sketch.done()
}

/// Each combination has a VIP of its own, 172.25.7.128/26: a destination that is deleted and added
/// again keeps its counts, and old connections their destination.
const VIPS: std::ops::Range<u8> = 128..192;

fn by_hand(lab: &Lab) {
    for web in ["web1", "web2", "web3"] {
        for setting in ["arp_ignore=1", "arp_announce=2", "rp_filter=0"] {
            done(lab, web, &format!("sysctl -qw net.ipv4.conf.all.{setting}"));
        }
    }
    // All at once: what a route of this type leads to is the host's own, and is answered for.
    for name in ["web1", "web2", "web3", "director"] {
        done(lab, name, "ip route add local 172.25.7.128/26 dev lo");
    }
}

async fn tally_of(lab: &Lab, service: &Service) -> Tally {
    let flag = if service.protocol == Protocol::Tcp { "-t" } else { "-u" };
    let target = SocketAddr::from((service.vip, service.port));
    done(lab, "director", &format!("ipvsadm -A {flag} {target} -s {}", service.scheduler));
    for server in &service.real_servers {
        let (rip, weight) = (server.rip, server.weight);
        done(lab, "director", &format!("ipvsadm -a {flag} {target} -r {rip} -g -w {weight}"));
    }
    // A request that is turned away may hear nothing: ICMP is sent at a bounded rate (icmp(7)).
    let patience = Duration::from_secs(2);
    let ask = async |count| {
        let client = host("client");
        clients::ask(lab, &client, target, service.protocol, count, patience).await.unwrap()
    };
    // Neither at the beginning of a cycle nor with empty counts.
    ask(5).await;
    ask(REQUESTS).await
}

#[test]
#[ignore = "needs a kernel with IPVS"]
fn the_kernel_shares_requests_out_as_expected() {
    lab::isolate().unwrap();
    let topology = topology();
    let lab = Lab::build(&topology, Management::None).unwrap();
    by_hand(&lab);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut faults = Vec::new();
    let mut judged = 0;
    let mut vips = VIPS;
    runtime.block_on(async {
        let _responders = responders::start(&lab, &topology).await.unwrap();
        for scheduler in Scheduler::ALL {
            let name = format!("ipvsadm -A -f 1 -s {scheduler}");
            if !run(&lab, "director", &name).status.success() {
                println!("{scheduler}: not in this kernel");
                continue;
            }
            done(&lab, "director", "ipvsadm -D -f 1");
            for weights in [[1, 1, 1], [1, 2, 3], [0, 1, 3], [2, 2, 0]] {
                let vip = vips.next().unwrap();
                for service in &topology.services {
                    let mut service = service.clone();
                    service.vip = std::net::Ipv4Addr::new(172, 25, 7, vip).into();
                    service.scheduler = *scheduler;
                    for (server, weight) in service.real_servers.iter_mut().zip(weights) {
                        server.weight = weight;
                    }
                    let tally = tally_of(&lab, &service).await;
                    let verdict = expect::judge(&service, &tally, REQUESTS, &expect::Before::new());
                    let line = format!("{} {weights:?} {verdict:?}", service.protocol);
                    println!("{line}");
                    judged += 1;
                    if verdict.is_err() {
                        faults.push(line);
                    }
                }
            }
        }
    });
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(judged >= 8 * 10, "only {judged} combinations could be tried on this kernel");
}
