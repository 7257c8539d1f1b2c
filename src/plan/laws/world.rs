//! Whole clusters that are built, changed and taken down, step by step, looked at after every step.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;

use super::{goal, sighting};
use crate::desired::{Desired, Reasons, desired_for};
use crate::names::{HostName, IfName};
use crate::plan::ownership::Goal;
use crate::plan::{order, simulate, stages};
use crate::state::*;
use crate::state::{Edit, Receipt, Stage};
use crate::support::Cluster;
use crate::topology::Role;

/// All hosts of a cluster, as far as they are simulated.
pub(super) struct World {
    pub(super) hosts: BTreeMap<HostName, HostState>,
    receipts: BTreeMap<HostName, Option<Receipt>>,
}

impl World {
    /// Hosts on which nothing was set but `arp_ignore` and `rp_filter` of `all`.
    pub(super) fn bare(cluster: &Cluster, arp_ignore: u8, rp_filter: u8) -> Self {
        let host = |interfaces: Vec<IfName>| {
            let mut state = HostState::default();
            let devs = interfaces.iter().map(|d| ConfDev::Dev(d.clone()));
            for conf in devs.chain([ConfDev::All, ConfDev::Default]) {
                for item in ConfItem::ALL {
                    if (conf.clone(), *item) != (ConfDev::All, ConfItem::Forwarding) {
                        state.sysctls.insert(Sysctl::Conf(conf.clone(), *item), "0".into());
                    }
                }
                for item in Conf6Item::ALL {
                    if (conf.clone(), *item) != (ConfDev::All, Conf6Item::Forwarding) {
                        state.sysctls.insert(Sysctl::Conf6(conf.clone(), *item), "1".into());
                    }
                }
            }
            state.sysctls.insert(Sysctl::IpForward, "0".into());
            state.sysctls.insert(Sysctl::Ip6Forward, "0".into());
            for (item, value) in
                [(ConfItem::ArpIgnore, arp_ignore), (ConfItem::RpFilter, rp_filter)]
            {
                state.sysctls.insert(Sysctl::all(item), value.to_string());
            }
            state
        };
        let hosts: BTreeMap<_, _> = cluster
            .topology
            .hosts
            .values()
            .map(|h| (h.name.clone(), host(h.interfaces.keys().cloned().collect())))
            .collect();
        Self { receipts: hosts.keys().map(|h| (h.clone(), None)).collect(), hosts }
    }

    pub(super) fn walk(
        &mut self,
        cluster: &Cluster,
        shuffle: Option<&prop::sample::Index>,
        what: &str,
    ) {
        let goals = |world: &Self, host: &crate::topology::Host| {
            let desired = desired_for(&cluster.topology, host);
            let seen =
                sighting(world.hosts[&host.name].clone(), world.receipts[&host.name].clone());
            goal(&desired, &seen)
        };
        self.go(cluster, shuffle, what, goals);
    }

    pub(super) fn walk_back(&mut self, cluster: &Cluster, what: &str) {
        let goals = |world: &Self, host: &crate::topology::Host| {
            let seen =
                sighting(world.hosts[&host.name].clone(), world.receipts[&host.name].clone());
            Goal::destroy(&seen).unwrap_or_else(|| goal(&Desired::default(), &seen))
        };
        self.go(cluster, None, what, goals);
    }

    fn go(
        &mut self,
        cluster: &Cluster,
        shuffle: Option<&prop::sample::Index>,
        what: &str,
        goals: impl Fn(&Self, &crate::topology::Host) -> Goal,
    ) {
        let mut turns: BTreeMap<Stage, Vec<(HostName, Vec<Edit>)>> = BTreeMap::new();
        for host in cluster.topology.hosts.values() {
            let goal = goals(self, host);
            let state = &self.hosts[&host.name];
            let steps = order::steps_between(state, &goal.wanted, &goal.owned, &Reasons::default())
                .unwrap();
            for (stage, steps) in stages::stage(host, steps) {
                let changes = steps.into_iter().map(|step| step.edit).collect();
                turns.entry(stage).or_default().push((host.name.clone(), changes));
            }
            self.receipts.insert(host.name.clone(), goal.receipt_after);
        }
        for (_, mut hosts) in turns {
            // Hosts of one stage act in any order, step by step.
            while hosts.iter().any(|(_, changes)| !changes.is_empty()) {
                hosts.retain(|(_, changes)| !changes.is_empty());
                let at = shuffle.map_or(0, |index| index.index(hosts.len()));
                let (host, changes) = &mut hosts[at];
                let change = changes.remove(0);
                let state = self.hosts.get_mut(host).unwrap();
                *state = simulate(state, [&change]).unwrap();
                self.check(cluster, &format!("{what}: {host}: {change}"));
            }
        }
    }

    fn check(&self, cluster: &Cluster, what: &str) {
        for (host, state) in &self.hosts {
            let roles = &cluster.topology.hosts[host].roles;
            // Where a neighbour solicitation is answered follows from the interface alone.
            let on_lo = |key: &AddressKey| key.dev.as_str() == "lo" && key.net.addr().is_ipv4();
            let exposed = vips_on(state).iter().any(on_lo);
            if roles.contains(&Role::RealServer) && exposed {
                let all = |item| state.sysctls[&Sysctl::all(item)].as_str();
                let arp_ignore = all(ConfItem::ArpIgnore);
                assert!(["1", "2"].contains(&arp_ignore), "{what}: {host} answers ARP for a VIP");
                assert_eq!(all(ConfItem::ArpAnnounce), "2", "{what}: {host} announces a VIP");
            }
            assert!(super::tracks_what_it_rewrites(state), "{what}: {host} tracks nothing");
            let open = vips_on(state).into_iter().map(|key| key.net.addr());
            let open =
                open.filter(|vip| host.as_str() != "director" && takes_from_strangers(state, *vip));
            assert_eq!(
                open.collect::<Vec<_>>(),
                [] as [IpAddr; 0],
                "{what}: {host} takes them from any host"
            );
            let live: Vec<IpAddr> = vips_on(state).iter().map(|key| key.net.addr()).collect();
            for (key, service) in &state.services {
                for vip in vips_of(key, state).into_iter().filter(|vip| live.contains(vip)) {
                    self.check_served(vip, service, what);
                }
            }
        }
    }

    /// While the director has the VIP, every real server that it sends to takes it, out of whatever
    /// it is wrapped in.
    fn check_served(&self, vip: IpAddr, service: &VirtualService, what: &str) {
        for (at, destination) in &service.destinations {
            let rip = at.0.ip();
            let name = Cluster::host_with(rip);
            if destination.method == ForwardingMethod::Masquerade || name.as_str() == "director" {
                continue;
            }
            let host = &self.hosts[&name];
            let has = vips_on(host).iter().any(|key| key.net.addr() == vip);
            assert!(has, "{what}: {name} is sent requests for {vip} and does not take them");
            if destination.method == ForwardingMethod::Tunnel {
                assert!(
                    unwraps(host, vip, rip, destination.tunnel),
                    "{what}: {name} unwraps nothing"
                );
                let director = Cluster::address_of_director(rip.is_ipv6());
                assert!(
                    !is_dropped(host, director, vip, destination.tunnel),
                    "{what}: {name} drops what the director wraps"
                );
            }
        }
    }
}

/// Where packets of a service go to: the VIP, or those that are marked for it.
fn vips_of(key: &ServiceKey, state: &HostState) -> Vec<IpAddr> {
    let of = match key {
        ServiceKey::Address(_, vip) => return vec![vip.ip()],
        ServiceKey::Fwmark { mark, .. } => *mark,
    };
    let rules = state.tables.values().flat_map(|table| &table.rules);
    let marked = rules.filter_map(|rule| match rule {
        PacketRule::Mark { vip, mark, .. } if *mark == of => Some(*vip),
        _ => None,
    });
    marked.collect()
}

/// Whether a host takes what is sent to `rip` for `vip`, wrapped like this.
fn unwraps(host: &HostState, vip: IpAddr, rip: IpAddr, tunnel: Tunnel) -> bool {
    let up = |dev: &IfName| host.links.get(dev) == Some(&Link::Up);
    let own = |kind: TunnelKind, checksum: bool| {
        let wanted = TunnelDevice { kind, local: rip, checksum };
        host.tunnels.iter().any(|(dev, device)| *device == wanted && up(dev))
    };
    let bare = match (rip, vip) {
        (IpAddr::V4(_), IpAddr::V4(_)) => up(&super::dev("tunl0")),
        (IpAddr::V4(_), IpAddr::V6(_)) => up(&super::dev("sit0")),
        (IpAddr::V6(_), _) => own(TunnelKind::Ip6tnl, false),
    };
    match tunnel {
        Tunnel::Ipip => bare,
        Tunnel::Gue { port, .. } => {
            bare && host.gue_ports.contains(&GuePort { v6: rip.is_ipv6(), port })
        }
        Tunnel::Gre { flags } if rip.is_ipv4() => own(TunnelKind::Gre, flags == 1),
        Tunnel::Gre { flags } => own(TunnelKind::Ip6gre, flags == 1),
    }
}

/// Whether a rule of the host drops what `source` has wrapped.
fn is_dropped(host: &HostState, source: IpAddr, vip: IpAddr, tunnel: Tunnel) -> bool {
    let from = (source, &super::dev("eth0"));
    host.tables.values().flat_map(|table| &table.rules).any(|rule| match rule {
        PacketRule::Guard(guard) => guard.drops(from, tunnel, vip),
        _ => false,
    })
}

/// Whether a host unwraps packets to `vip`, in some way, that no director has wrapped.
fn takes_from_strangers(host: &HostState, vip: IpAddr) -> bool {
    let strangers = [IpAddr::from([203, 0, 113, 9]), "2001:db8:9::9".parse().unwrap()];
    let ports = host.gue_ports.iter().map(|it| Tunnel::Gue { port: it.port, flags: 0 });
    let gre = [0, 1].map(|flags| Tunnel::Gre { flags });
    let tunnels: Vec<Tunnel> = ports.chain(gre).chain([Tunnel::Ipip]).collect();
    let locals = host.tunnels.values().map(|device| device.local);
    let rips: Vec<IpAddr> = locals.chain([[10, 0, 0, 1].into()]).collect();
    strangers.into_iter().any(|source| {
        let mut rips = rips.iter().filter(|rip| rip.is_ipv6() == source.is_ipv6());
        rips.any(|rip| {
            let mut tunnels = tunnels.iter().filter(|it| unwraps(host, vip, *rip, **it));
            tunnels.any(|tunnel| !is_dropped(host, source, vip, *tunnel))
        })
    })
}

pub(super) fn vips_on(state: &HostState) -> Vec<AddressKey> {
    state.addresses.keys().cloned().collect()
}
