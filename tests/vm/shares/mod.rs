//! What `lab::expect` says about shares, against the kernel's own schedulers; and that a snapshot sees
//! what only a kernel with IPVS has.
//!
//! Needs a kernel with IPVS and its schedulers.

mod looks;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Output};
use std::time::Duration;

use libtest_mimic::Completion;
use lvsprov::check;
use lvsprov::lab::clients::{self, Tally};
use lvsprov::lab::network::Management;
use lvsprov::lab::{self, Lab, expect, responders};
use lvsprov::names::HostName;
use lvsprov::state::Protocol;
use lvsprov::topology::{Scheduler, Service};

use crate::support::cases::{Case, Outcome};
use crate::support::speed;

const REQUESTS: u32 = 24;

/// Even and uneven shares, and a server that is to get nothing. UDP, which IPVS schedules alike, is
/// tried with uneven ones only: it all takes its time under emulation.
const WEIGHTS: [[u32; 3]; 3] = [[1, 1, 1], UNEVEN, [0, 1, 3]];
const UNEVEN: [u32; 3] = [1, 2, 3];

/// Three real servers under DR in one network, for TCP and UDP.
const TOPOLOGY: &str = "
version: 1
name: shares
networks: {lan: [172.25.7.0/24]}
hosts:
  client: {role: client, interfaces: {eth0: 172.25.7.250/24}}
  director: {role: director, interfaces: {eth0: 172.25.7.2/24}}
  web1: {role: real_server, interfaces: {eth0: 172.25.7.11/24}}
  web2: {role: real_server, interfaces: {eth0: 172.25.7.12/24}}
  web3: {role: real_server, interfaces: {eth0: 172.25.7.13/24}}
services:
  - {vip: 172.25.7.1, port: 80, forward: dr, real_servers: [web1, web2, web3]}
  - {vip: 172.25.7.1, port: 80, protocol: udp, forward: dr, real_servers: [web1, web2, web3]}
";

pub fn cases() -> Vec<Case> {
    let of = |scheduler: Scheduler| {
        let name = format!("the_kernel_shares_out_as_expected_by_{scheduler}");
        Case::with_outcome(name, move || shares_are_as_expected(scheduler))
    };
    let mut all: Vec<Case> = Scheduler::ALL.iter().copied().map(of).collect();
    let name = "a_snapshot_shows_what_ipvs_fou_and_tunnels_have";
    all.push(Case::new(name, looks::snapshots_show_it));
    all
}

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

/// Each combination has a VIP of its own, 172.25.7.128/26: a destination that is deleted and added
/// again keeps its counts, and old connections their destination.
fn vip(nth: usize) -> Ipv4Addr {
    Ipv4Addr::new(172, 25, 7, 128 + u8::try_from(nth).unwrap())
}

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
    let target = SocketAddr::from((service.vip_address().unwrap(), service.port));
    done(lab, "director", &format!("ipvsadm -A {flag} {target} -s {}", service.scheduler));
    for server in &service.real_servers {
        let (rip, weight) = (server.rip, server.weight);
        done(lab, "director", &format!("ipvsadm -a {flag} {target} -r {rip} -g -w {weight}"));
    }
    // A request that is turned away may hear nothing: ICMP is sent at a bounded rate (icmp(7)).
    let patience = speed::scaled(Duration::from_secs(2));
    let ask = async |count| {
        let client = host("client");
        clients::ask(lab, &client, target, service.protocol, count, patience).await.unwrap()
    };
    // Neither at the beginning of a cycle nor with empty counts.
    ask(5).await;
    ask(REQUESTS).await
}

fn shares_are_as_expected(scheduler: Scheduler) -> Outcome {
    lab::isolate().unwrap();
    let topology = check::examine("shares", TOPOLOGY).topology.unwrap();
    let lab = Lab::build(&topology, Management::None).unwrap();
    by_hand(&lab);
    if !run(&lab, "director", &format!("ipvsadm -A -f 1 -s {scheduler}")).status.success() {
        // Debian builds every scheduler but this one.
        assert_eq!(scheduler, Scheduler::Twos, "this kernel has no {scheduler}");
        return Ok(Completion::ignored_with("this kernel has no twos"));
    }
    done(&lab, "director", "ipvsadm -D -f 1");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut faults = Vec::new();
    runtime.block_on(async {
        let _responders = responders::start(&lab, &topology).await.unwrap();
        for (nth, weights) in WEIGHTS.into_iter().enumerate() {
            let tried = |service: &&Service| service.protocol == Protocol::Tcp || weights == UNEVEN;
            for service in topology.services.iter().filter(tried) {
                let mut service = service.clone();
                service.vip.as_mut().unwrap().address = vip(nth).into();
                service.scheduler = scheduler;
                for (server, weight) in service.real_servers.iter_mut().zip(weights) {
                    server.weight = weight;
                }
                let tally = tally_of(&lab, &service).await;
                let verdict =
                    expect::judge(&service, &tally, REQUESTS, &expect::PriorConnections::new(), 0);
                let line = format!("{} {weights:?} {verdict:?}", service.protocol);
                println!("{line}");
                if verdict.is_err() {
                    faults.push(line);
                }
            }
        }
    });
    if faults.is_empty() { Ok(Completion::Completed) } else { Err(format!("{faults:#?}").into()) }
}
