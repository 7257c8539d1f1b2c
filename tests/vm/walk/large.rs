//! Large packets: the MTU of an interface, or of a whole network, is lowered, and transfers in both directions say whether
//! the walk was right about them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lvsprov::apply::Session;
use lvsprov::lab::clients::{TransferDirection, transfer};
use lvsprov::lab::targets;
use lvsprov::names::{HostName, IfName, NetworkName};
use lvsprov::state::firewall::Firewall;
use lvsprov::state::{Protocol, Routing};
use lvsprov::topology::{ETHERNET_MTU, Interface, Role, Topology};
use lvsprov::walk::{HostStates, LargeVerdict, WalkVerdict, World};

use super::Cluster;
use crate::support::prediction::{Mtus, seen_world_of, ways};

/// Large enough for many full segments.
const BYTES: u64 = 100_000;
/// After so long a transfer counts as hanging where the walk says that it hangs, and where it says that it does not.
const HANGS: Duration = Duration::from_millis(2_500);
const PASSES: Duration = Duration::from_secs(15);
/// IPv6 goes down to 1280; wrapped twice it still fits.
const NARROW: u32 = 1400;

/// Interfaces with a smaller MTU, and perhaps a host that drops the messages about it at a hook.
pub struct Narrowed {
    what: String,
    interfaces: Vec<(HostName, IfName, u32)>,
    drops: Option<(HostName, &'static str)>,
}

/// What `make test` tries: a message that passes the director, ones that are lost, devices that get too large packets, an
/// end that is narrow, a firewall.
const ALWAYS: [(&str, &str); 5] = [
    ("walk/narrow", "MTU 1400 of every interface on transit"),
    ("walk/narrow", "messages dropped at input of client, MTU 1400 of every interface on transit"),
    ("/nat-ipv6", "MTU 1400 of eth0 on director"),
    ("/dr-one-network", "MTU 1400 of eth0 on server2"),
    ("/tun.", "MTU 1400 of eth0 on server3"),
];

/// Whether the cluster of `file` is there for large packets: `make test` breaks nothing else in it.
pub fn is_made_for(file: &str) -> bool {
    file.contains("walk/narrow")
}

impl Narrowed {
    /// Whether `make test` tries it on the cluster of `file`.
    pub fn is_always_tried(&self, file: &str) -> bool {
        ALWAYS.iter().any(|(part, what)| file.contains(part) && self.what.starts_with(what))
    }
}

/// Each interface alone, and all interfaces of each network; where that is between others, also with a host that drops the
/// messages about it. (A host at the end announces what its own interface takes.)
pub fn all(topology: &Topology) -> Vec<Narrowed> {
    let mut all = Vec::new();
    let mut networks: BTreeMap<&NetworkName, Vec<(HostName, IfName, u32)>> = BTreeMap::new();
    for host in topology.hosts.values() {
        for Interface { name, network, .. } in host.interfaces.values() {
            let Some(network) = network else { continue };
            let narrowed = (host.name.clone(), name.clone(), NARROW);
            networks.entry(network).or_default().push(narrowed.clone());
            let what = format!("MTU {NARROW} of {name} on {}", host.name);
            all.push(Narrowed { what, interfaces: vec![narrowed], drops: None });
        }
    }
    for (network, interfaces) in networks {
        let what = format!("MTU {NARROW} of every interface on {network}");
        let is_end = |(host, ..): &(HostName, IfName, u32)| {
            let roles = &topology.hosts[host].roles;
            roles.contains(&Role::Client) || roles.contains(&Role::RealServer)
        };
        let hosts = topology.hosts.keys().filter(|_| !interfaces.iter().any(is_end));
        for host in hosts {
            for hook in ["input", "forward", "output"] {
                all.push(Narrowed {
                    what: format!("messages dropped at {hook} of {host}, {what}"),
                    interfaces: interfaces.clone(),
                    drops: Some((host.clone(), hook)),
                });
            }
        }
        all.push(Narrowed { what, interfaces, drops: None });
    }
    all
}

impl Cluster<'_> {
    /// The walk looks at packets as they are; a kernel that hands several at once from host to host would not.
    pub(super) fn send_single_segments(&self) {
        for (host, interface) in self.wired() {
            let dev = interface.name.as_str();
            assert!(self.ip(host, false, &format!("link set dev {dev} gso_max_segs 1")));
        }
    }

    fn wired(&self) -> impl Iterator<Item = (&HostName, &Interface)> {
        self.topology.hosts.values().flat_map(|host| {
            let interfaces = host.interfaces.values().filter(|it| it.network.is_some());
            interfaces.map(move |interface| (&host.name, interface))
        })
    }

    /// Lowers the MTUs, looks at the hosts, compares, and takes it back.
    pub(super) async fn try_narrow(
        &self,
        mutant: &Narrowed,
        session: &mut Session<'_>,
    ) -> Vec<String> {
        let Narrowed { what, interfaces, drops } = mutant;
        let set = |is_narrow: bool| {
            for (host, dev, narrow) in interfaces {
                let usual = self.topology.hosts[host].interfaces[dev].mtu.unwrap_or(ETHERNET_MTU);
                let mtu = if is_narrow { *narrow } else { usual };
                assert!(self.ip(host, false, &format!("link set dev {dev} mtu {mtu}")), "{what}");
            }
        };
        set(true);
        if let Some((host, hook)) = drops {
            let chain = format!("chain {hook} {{ type filter hook {hook} priority 0;");
            let rules = "icmp type destination-unreachable drop; icmpv6 type packet-too-big drop;";
            self.load(host, &format!("table inet foreign {{\n{chain} {rules} }}\n}}\n"));
        }
        let observed = session.observe(false).await;
        let (mut states, mut routing, mut mtus) =
            (HostStates::new(), BTreeMap::<HostName, Routing>::new(), Mtus::new());
        let mut firewalls = BTreeMap::<HostName, Arc<Firewall>>::new();
        for (name, observation) in observed {
            let observation = observation.unwrap();
            states.insert(name.clone(), observation.state);
            routing.insert(name.clone(), observation.facts.routing);
            mtus.insert(name.clone(), observation.facts.mtus);
            firewalls.insert(name, observation.facts.firewall);
        }
        let world = seen_world_of(self.topology, &states, &routing, &mtus, &firewalls);
        let wrong = self.compare_large(&world, what).await;
        if let Some((host, _)) = drops {
            self.load(host, "delete table inet foreign\n");
        }
        set(false);
        wrong
    }

    /// Transfers by every service from every client, both ways, and says where the walk was wrong.
    pub(super) async fn compare_large(&self, world: &World, what: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        for ((client, number), ways) in ways(self.topology) {
            let service = ways[0].service;
            let targets = targets::of_service(service).into_iter();
            let tcp = targets.into_iter().find(|target| target.protocol == Protocol::Tcp);
            let Some(target) = tcp else { continue };
            let mut says = Vec::new();
            for way in &ways {
                let walk = world.walk(&way.request);
                let answered = walk.end == WalkVerdict::Answered && !walk.by_chance;
                let large = world.large(&way.request).filter(|_| answered);
                says.extend(large.map(|large| (way.real_server.host.to_string(), large)));
            }
            // What depends on chance, or is dead, is tried with small requests.
            if says.len() < ways.len() {
                continue;
            }
            for way in [TransferDirection::Up, TransferDirection::Down] {
                let verdict = |(server, (up, down)): &(String, (LargeVerdict, LargeVerdict))| {
                    let verdict = if way == TransferDirection::Up { up } else { down };
                    (server.clone(), verdict.clone())
                };
                let says: BTreeMap<String, LargeVerdict> = says.iter().map(verdict).collect();
                for _ in 0..says.len() {
                    self.forget_path_mtus();
                    let found = self.one_transfer(client, target.at, way, &says).await;
                    if let Some(why) = found {
                        let service = service.display_name();
                        wrong.push(format!(
                            "{what}: {client} {way} {service} ({number}): {why}\n    walk: {says:?}"
                        ));
                    }
                }
            }
        }
        wrong
    }

    async fn one_transfer(
        &self,
        client: &HostName,
        at: std::net::SocketAddr,
        way: TransferDirection,
        says: &BTreeMap<String, LargeVerdict>,
    ) -> Option<String> {
        let is_lost = |verdict: &LargeVerdict| matches!(verdict, LargeVerdict::Lost { .. });
        if says.values().any(|verdict| matches!(verdict, LargeVerdict::Unknown(_))) {
            return None;
        }
        let any_lost = says.values().any(is_lost);
        let patience = if any_lost { HANGS } else { PASSES };
        let done = transfer(&self.lab, client, at, way, BYTES, patience).await.unwrap();
        match done {
            Ok(done) => {
                let verdict = says.get(&done.server);
                let shrinks = says.values().any(|it| matches!(it, LargeVerdict::Shrunk { .. }));
                if verdict.is_some_and(is_lost) {
                    Some(format!("{} gets it through, which the walk calls lost", done.server))
                } else if way == TransferDirection::Up
                    && !shrinks
                    && !any_lost
                    && done.too_large > 0
                {
                    Some("it needed an ICMP message, of which the walk knows nothing".to_owned())
                } else {
                    None
                }
            }
            Err(why) => {
                (!any_lost).then(|| format!("it fails, and the walk calls all alive: {why}"))
            }
        }
    }

    /// Hosts remember for minutes what fits on a way.
    fn forget_path_mtus(&self) {
        for host in self.topology.hosts.keys() {
            for ipv6 in [false, true] {
                assert!(self.ip(host, ipv6, "route flush cache"));
            }
        }
    }
}
