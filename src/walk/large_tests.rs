//! Large packets, on hosts of the file with other MTUs.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::desired::{ExpectedRequest, desired, expected_requests};
use crate::names::IfName;
use crate::state::firewall::{
    Comparison, FilterBase, FilterChain, FilterFamily, FilterField, FilterOp, FilterRule,
    FilterTable, Firewall, HookPoint, Octets, RuleVerdict,
};
use crate::state::{ConfItem, RouteKey, Sysctl};
use crate::topology::{self, Topology};
use crate::walk::HostStates;

const NARROW: &str = include_str!("../../tests/cases/walk/narrow.yaml");

/// The cluster of `narrow.yaml`.
struct Cluster {
    topology: Topology,
    states: HostStates,
    /// Interfaces with another MTU.
    mtus: Vec<(HostName, IfName, u32)>,
}

impl Cluster {
    fn new() -> Self {
        Self::of(NARROW)
    }

    fn of(text: &str) -> Self {
        let topology = topology::read("narrow.yaml", text).topology.unwrap();
        let states = desired(&topology).into_iter().map(|(name, it)| (name, it.state)).collect();
        Self { topology, states, mtus: Vec::new() }
    }

    /// Every interface of `network` gets another MTU.
    fn narrow(mut self, network: &str, mtu: u32) -> Self {
        for host in self.topology.hosts.values() {
            for interface in host.interfaces.values() {
                if interface.network.as_ref().is_some_and(|it| it.as_str() == network) {
                    self.mtus.push((host.name.clone(), interface.name.clone(), mtu));
                }
            }
        }
        self
    }

    fn one(mut self, host: &str, dev: &str, mtu: u32) -> Self {
        self.mtus.push((host.parse().unwrap(), dev.parse().unwrap(), mtu));
        self
    }

    fn state(&mut self, host: &str) -> &mut crate::state::HostState {
        self.states.get_mut(&host.parse::<HostName>().unwrap()).unwrap()
    }

    fn world(&self) -> World {
        let mut world = World::of_file(&self.topology, &self.states);
        for (host, dev, mtu) in &self.mtus {
            world.machines.get_mut(host).unwrap().devices.get_mut(dev).unwrap().mtu = *mtu;
        }
        world
    }

    /// Uploads to and downloads from the service of this name.
    fn large(&self, service: &str) -> (LargeVerdict, LargeVerdict) {
        let mut all = expected_requests(&self.topology);
        let is_it = |it: &ExpectedRequest<'_>| it.service.name.as_str() == service;
        let found = all.find(is_it).unwrap();
        self.world().large(&found.request).unwrap()
    }
}

fn shrunk(by: &str, mtu: u32) -> LargeVerdict {
    LargeVerdict::Shrunk { by: by.parse().unwrap(), mtu }
}

fn lost(verdict: LargeVerdict) -> (Death, bool) {
    match verdict {
        LargeVerdict::Lost { death, in_reply } => (death, in_reply),
        other => panic!("{other:?}"),
    }
}

const SERVICES: [&str; 5] = ["wrapped", "gre", "hidden", "six", "hidden-six"];

#[test]
fn everything_passes_where_all_have_one_mtu() {
    for mtu in [1500, 9000] {
        let networks = ["clients", "front", "transit", "farm"];
        let cluster = networks.iter().fold(Cluster::new(), |it, network| it.narrow(network, mtu));
        for service in SERVICES {
            assert_eq!(
                cluster.large(service),
                (LargeVerdict::Pass, LargeVerdict::Pass),
                "{service} {mtu}"
            );
        }
    }
}

#[test]
fn routers_tell_the_sender_by_way_of_the_director() {
    let cluster = Cluster::new().narrow("transit", 1400);
    // What wraps it takes 20 bytes of them, or 24.
    for (service, fits) in [("wrapped", 1380), ("gre", 1376), ("hidden", 1400)] {
        let (up, down) = cluster.large(service);
        assert_eq!(up, shrunk("inner", fits), "{service}");
        assert_eq!(down, shrunk("deep", 1400), "{service}");
    }
}

/// `ip_vs_find_tunnel` finds one of both.
#[test]
fn a_real_server_by_ipip_and_by_gre_may_get_nothing() {
    let both = NARROW.replace(
        "tunnel: gre, scheduler: rr, real_servers: [other]",
        "tunnel: gre, real_servers: [web]",
    );
    let both = Cluster::of(&both).narrow("transit", 1400);
    for service in ["wrapped", "gre"] {
        assert!(matches!(both.large(service).0, LargeVerdict::Unknown(_)), "{service}");
    }
}

/// A message about a wrapped IPv6 packet is for no connection that IPVS knows.
#[test]
fn what_is_wrapped_in_ipv6_does_not_learn_of_a_narrow_network() {
    let cluster = Cluster::new().narrow("transit", 1400);
    let (death, in_reply) = lost(cluster.large("six").0);
    assert_eq!((death.host.as_str(), in_reply), ("inner", false));
    let Cause::TooBig { mtu: 1400, size: 1500, message, .. } = death.cause else {
        panic!("{death:?}")
    };
    assert_eq!(message.host.as_str(), "lvs");
    assert_eq!(cluster.large("hidden-six").0, shrunk("inner", 1400));
}

#[test]
fn an_end_that_has_a_smaller_mtu_says_so_and_nothing_is_lost() {
    for (host, network) in [("client", "clients"), ("web", "farm")] {
        let cluster = Cluster::new().narrow(network, 1400);
        for service in ["hidden", "hidden-six"] {
            let passes = (LargeVerdict::Pass, LargeVerdict::Pass);
            assert_eq!(cluster.large(service), passes, "{service}, {host}");
        }
    }
}

#[test]
fn a_device_with_a_smaller_mtu_than_its_neighbours_is_named() {
    let cluster = Cluster::new().one("edge", "eth0", 1400);
    let (death, in_reply) = lost(cluster.large("hidden").0);
    assert_eq!((death.host.as_str(), in_reply), ("edge", false));
    let dev = "eth0".parse().unwrap();
    assert_eq!(death.cause, Cause::TooLarge { dev, mtu: 1400, size: 1500 });
    assert_eq!(cluster.large("hidden").1, shrunk("edge", 1400));
}

#[test]
fn a_director_without_a_way_to_the_client_cannot_tell_it() {
    let mut cluster = Cluster::new().narrow("transit", 1400);
    let lvs = cluster.state("lvs");
    lvs.routes.remove(&RouteKey("0.0.0.0/0".parse().unwrap()));
    let eth0 = Sysctl::dev(&"eth0".parse().unwrap(), ConfItem::RpFilter);
    for key in [Sysctl::all(ConfItem::RpFilter), eth0] {
        lvs.sysctls.insert(key, "0".to_owned());
    }
    let (death, _) = lost(cluster.large("wrapped").0);
    let text = death.to_string();
    assert!(text.contains("lvs has no route to 198.51.100.9"), "{text}");
    // Without the DF bit the wrapped packet is sent in fragments.
    let lvs = cluster.state("lvs");
    lvs.sysctls.insert(Sysctl::Vs(VsItem::PmtuDisc), "0".to_owned());
    assert_eq!(cluster.large("wrapped").0, LargeVerdict::Pass);
}

#[test]
fn a_route_has_an_mtu_of_its_own() {
    let mut cluster = Cluster::new();
    let key = RouteKey("192.0.2.0/24".parse().unwrap());
    let route = cluster.state("inner").routes.get_mut(&key).unwrap();
    route.unsupported = vec!["mtu 1300".to_owned()];
    assert_eq!(cluster.large("hidden"), (shrunk("inner", 1300), LargeVerdict::Pass));
}

/// 20 bytes around an IPv6 packet leave less than 1280, which every host may send.
#[test]
fn no_host_sends_smaller_packets_than_ipv6_allows() {
    let cluster = Cluster::new().narrow("transit", 1270);
    let (death, _) = lost(cluster.large("hidden-six").0);
    let Cause::TooBig { message, .. } = death.cause else { panic!("{death:?}") };
    assert_eq!(message.cause, Cause::Smallest { size: 1280 });
}

/// The chain of `hook` drops ICMP "destination unreachable".
fn without_messages(hook: HookPoint) -> Arc<Firewall> {
    let load = |field| FilterOp::Load { field, to: 0 };
    let is = |byte| {
        let with = Octets(vec![byte]);
        FilterOp::Compare { at: 0, how: Comparison::Equal, with }
    };
    let kind = FilterField::Transport { offset: 0, length: 1 };
    let drop = FilterOp::Verdict(RuleVerdict::Drop);
    let ops = vec![load(FilterField::Protocol), is(1), load(kind), is(3), drop];
    let rules = vec![FilterRule { handle: 1, ops }];
    let base = Some(FilterBase { hook, priority: 0, nat: false, drops: false });
    let chains = vec![FilterChain { name: hook.to_string(), base, rules }];
    let (family, name, sets) = (FilterFamily::Inet, "fw".to_owned(), BTreeMap::new());
    let tables = vec![FilterTable { family, name, chains, sets, unread: None }];
    Arc::new(Firewall { tables, indexes: BTreeMap::new() })
}

#[test]
fn a_firewall_that_drops_the_message_makes_transfers_hang() {
    let cluster = Cluster::new().narrow("transit", 1400);
    let up = |host: &str, hook, service: &str| {
        let mut world = cluster.world();
        let host: HostName = host.parse().unwrap();
        world.machines.get_mut(&host).unwrap().firewall = without_messages(hook);
        world.is_filtered = true;
        let mut all = expected_requests(&cluster.topology);
        let found = all.find(|it| it.service.name.as_str() == service).unwrap();
        world.large(&found.request).unwrap().0
    };
    let client =
        "icmp type destination-unreachable code frag-needed from 203.0.113.80 to 198.51.100.9";
    // The router tells the director, which wrapped the packet, and the director tells the client.
    for (host, hook) in [
        ("client", HookPoint::Input),
        ("edge", HookPoint::Forward),
        ("lvs", HookPoint::Output),
        ("lvs", HookPoint::Postrouting),
    ] {
        let (death, _) = lost(up(host, hook, "wrapped"));
        assert_eq!(death.host.as_str(), "inner");
        let text = death.to_string();
        assert!(text.contains(&format!("{host} drops {client} at the hook {hook}")), "{text}");
        let cure = death.cause.cure(&death.host);
        assert!(cure.contains(&format!("accept {client} in the nftables chain")), "{cure}");
    }
    let (death, _) = lost(up("lvs", HookPoint::Input, "wrapped"));
    let text = death.to_string();
    assert!(
        text.contains("frag-needed from 203.0.113.3 to 203.0.113.2 at the hook input"),
        "{text}"
    );
    // FULLNAT passes it on, and the real server is not on its way.
    assert!(lost(up("lvs", HookPoint::Forward, "hidden")).0.to_string().contains("lvs drops icmp"));
    assert_eq!(up("lvs", HookPoint::Forward, "wrapped"), shrunk("inner", 1380));
    assert_eq!(up("web", HookPoint::Input, "wrapped"), shrunk("inner", 1380));
}
