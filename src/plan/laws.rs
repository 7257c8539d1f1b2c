//! The laws of design, by property test on the simulator: whatever the two states, a plan leads from
//! one to the other, touches nothing else, survives being cut off anywhere, and can be undone.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::ownership::Goal;
use super::step::Change;
use super::{Stage, order, simulate, stages};
use crate::desired::{Desired, Reasons, desired_for};
use crate::protocol::{HostFacts, Receipt, Sighting};
use crate::state::*;
use crate::support::{Cluster, cluster};
use crate::topology::{Forward, HostName, IfName, Role, TopologyName};

fn dev(name: &str) -> IfName {
    name.parse().unwrap()
}

/// A kernel has every value of every interface; only the numbers differ.
fn sysctls() -> impl Strategy<Value = BTreeMap<Sysctl, String>> {
    let devs =
        [ConfDev::All, ConfDev::Default, ConfDev::Dev(dev("eth0")), ConfDev::Dev(dev("eth1"))];
    let keys: Vec<Sysctl> = devs
        .iter()
        .flat_map(|dev| ConfItem::ALL.iter().map(|item| Sysctl::Conf(dev.clone(), *item)))
        .filter(|key| *key != Sysctl::all(ConfItem::Forwarding))
        .chain([Sysctl::IpForward])
        .collect();
    vec(0..3u8, keys.len()).prop_map(move |values| {
        let boolean =
            |key: &Sysctl| matches!(key, Sysctl::IpForward | Sysctl::Conf(_, ConfItem::Forwarding));
        keys.iter()
            .zip(values)
            .map(|(key, value)| {
                (key.clone(), if boolean(key) { value % 2 } else { value }.to_string())
            })
            .collect()
    })
}

fn addresses() -> impl Strategy<Value = BTreeMap<AddressKey, Address>> {
    let keys = ["192.0.2.1/32@lo", "192.0.2.1/32@eth0", "192.0.2.9/24@eth0", "10.0.0.1/8@eth1"];
    let keys: Vec<AddressKey> = keys.iter().map(|key| key.parse().unwrap()).collect();
    let attributes =
        (select(vec![Scope::Global, Scope::Host]), select(vec![None, Some("lo:7")]), any::<bool>());
    let address = attributes.prop_map(|(scope, label, broadcast)| Address {
        scope,
        label: label.map(str::to_owned),
        broadcast: broadcast.then(|| [192, 0, 2, 255].into()),
        nodad: false,
        deprecated: false,
    });
    btree_map(select(keys), address, 0..4)
}

fn routes() -> impl Strategy<Value = BTreeMap<RouteKey, Route>> {
    let keys: Vec<RouteKey> =
        ["default", "192.0.2.1/32"].iter().map(|key| key.parse().unwrap()).collect();
    let route =
        (1..4u8, select(vec![0, 100]), select(vec![3, 4])).prop_map(|(host, metric, protocol)| {
            Route {
                gateway: Some([10, 0, 0, host].into()),
                dev: Some(dev("eth0")),
                scope: Scope::Global,
                metric,
                protocol,
                source: None,
                onlink: false,
                unheld: Vec::new(),
            }
        });
    btree_map(select(keys), route, 0..3)
}

fn services() -> impl Strategy<Value = BTreeMap<ServiceKey, VirtualService>> {
    let keys = ["tcp 192.0.2.1:80", "udp 192.0.2.1:53", "fwmark4 8"];
    let keys: Vec<ServiceKey> = keys.iter().map(|key| key.parse().unwrap()).collect();
    let destination = (0..3u32, any::<bool>()).prop_map(|(weight, nat)| Destination {
        method: if nat { ForwardingMethod::Masquerade } else { ForwardingMethod::DirectRoute },
        weight,
        upper_threshold: 0,
        lower_threshold: 0,
        tunnel: Tunnel::Ipip,
    });
    let at = (1..5u8).prop_map(|host| DestinationKey::new([10, 0, 0, host].into(), 80));
    let service = (select(vec!["rr", "wlc"]), btree_map(at, destination, 0..4)).prop_map(
        |(scheduler, destinations)| VirtualService {
            scheduler: scheduler.to_owned(),
            flags: ServiceFlags::default(),
            timeout: 0,
            netmask: u32::MAX,
            engine: None,
            destinations,
        },
    );
    btree_map(select(keys), service, 0..3)
}

/// A host as it may be found: with or without IPIP.
fn seen_state() -> impl Strategy<Value = HostState> {
    let modules = btree_set(Just(Module::IpVs), 0..2);
    (modules, sysctls(), addresses(), routes(), services()).prop_map(
        |(modules, sysctls, addresses, routes, services)| HostState {
            modules,
            sysctls,
            links: [(dev("lo"), Link::Up), (dev("eth0"), Link::Up)].into(),
            addresses,
            routes,
            services,
            ..HostState::default()
        },
    )
}

/// What a file may want: some of everything, tunnel included.
fn wanted() -> impl Strategy<Value = Desired> {
    let tunnel = any::<bool>();
    let parts = (sysctls(), addresses(), routes(), services(), tunnel);
    (parts, 0.0..1.0f64).prop_flat_map(|((sysctls, addresses, routes, services, tunnel), share)| {
        let keys: Vec<Sysctl> = sysctls
            .keys()
            // What moves with ip_forward is never asked for by a file.
            .filter(|key| {
                !matches!(
                    key,
                    Sysctl::Conf(_, ConfItem::Forwarding)
                        | Sysctl::Conf(ConfDev::All, ConfItem::AcceptRedirects)
                        | Sysctl::Conf(ConfDev::Default, _)
                )
            })
            .cloned()
            .collect();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let most = (keys.len() as f64 * share) as usize;
        subsequence(keys, most).prop_map(move |keys| {
            let mut state = HostState {
                sysctls: keys.iter().map(|key| (key.clone(), sysctls[key].clone())).collect(),
                addresses: addresses.clone(),
                routes: routes.clone(),
                services: services.clone(),
                ..HostState::default()
            };
            if tunnel {
                state.modules.insert(Module::Ipip);
                state.links.insert(dev("tunl0"), Link::Up);
                state.sysctls.insert(Sysctl::dev(&dev("tunl0"), ConfItem::RpFilter), "2".into());
            }
            Desired { state, ..Desired::default() }
        })
    })
}

fn sighting(state: HostState, receipt: Option<Receipt>) -> Sighting {
    Sighting {
        facts: HostFacts::default(),
        state,
        receipt,
        others: BTreeMap::new(),
        counters: BTreeMap::new(),
    }
}

/// Modules stay, a tunnel device with them, and what `ip_forward` moves along is not ours.
fn can_drift(item: &Item) -> bool {
    match item {
        Item::Module(_) | Item::Sysctl(Sysctl::IpForward) => false,
        Item::Link(dev) | Item::Sysctl(Sysctl::Conf(ConfDev::Dev(dev), _)) => {
            dev.as_str() != "tunl0"
        }
        Item::Sysctl(_)
        | Item::Address(_)
        | Item::Route(_)
        | Item::Service(_)
        | Item::Timeouts
        | Item::Daemon(_)
        | Item::Table(_)
        | Item::Tunnel(_)
        | Item::GuePort(_) => true,
    }
}

fn name() -> TopologyName {
    "t".parse().unwrap()
}

fn goal(desired: &Desired, seen: &Sighting) -> Goal {
    Goal::apply(&name(), 7, desired, seen).unwrap()
}

fn changes(seen: &HostState, goal: &Goal) -> Vec<Change> {
    let steps = order::steps_between(seen, &goal.wanted, &goal.owned, &Reasons::default()).unwrap();
    steps.into_all().into_iter().map(|step| step.change).collect()
}

/// Applies `desired` to `seen` and returns the host afterwards, receipt included.
fn applied(desired: &Desired, seen: &Sighting) -> Sighting {
    let goal = goal(desired, seen);
    let after = simulate(&seen.state, &changes(&seen.state, &goal)).unwrap();
    sighting(after, goal.settled)
}

fn destroyed(seen: &Sighting) -> HostState {
    let Some(goal) = Goal::destroy(seen) else { return seen.state.clone() };
    simulate(&seen.state, &changes(&seen.state, &goal)).unwrap()
}

/// A module stays, and with it the tunnel device, down and with the values it started with.
fn without_tunnel(mut state: HostState, was: &HostState) -> HostState {
    state.modules.clone_from(&was.modules);
    if !was.links.contains_key(&dev("tunl0")) {
        assert_ne!(state.links.remove(&dev("tunl0")), Some(Link::Up), "the tunnel was left up");
        state.sysctls.retain(
            |key, _| !matches!(key, Sysctl::Conf(ConfDev::Dev(d), _) if d.as_str() == "tunl0"),
        );
    }
    state
}

/// The part that nobody owns and nothing moves.
fn outside(state: &HostState, owned: &Owned) -> HostState {
    let mut state = state.clone();
    for item in owned {
        state.copy_item(item, &HostState::default());
    }
    state.sysctls.retain(|key, _| {
        !matches!(
            key,
            Sysctl::Conf(_, ConfItem::Forwarding)
                | Sysctl::Conf(ConfDev::All, ConfItem::AcceptRedirects)
        )
    });
    without_tunnel(state, &HostState::default())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn law_1_a_plan_reaches_its_goal_and_moves_nothing_else(a in seen_state(), b in wanted()) {
        let seen = sighting(a.clone(), None);
        let goal = goal(&b, &seen);
        let after = simulate(&a, &changes(&a, &goal)).unwrap();
        prop_assert_eq!(after.restricted_to(&goal.owned), goal.wanted.restricted_to(&goal.owned));
        let mut owned = goal.owned.clone();
        owned.extend(b.state.modules.iter().map(|m| Item::Module(*m)));
        prop_assert_eq!(outside(&after, &owned), outside(&a, &owned));
    }

    #[test]
    fn law_2_a_second_apply_does_nothing(a in seen_state(), b in wanted()) {
        let after = applied(&b, &sighting(a, None));
        let again = goal(&b, &after);
        prop_assert_eq!(changes(&after.state, &again), vec![]);
        prop_assert_eq!(again.settled, after.receipt);
    }

    #[test]
    fn law_3_cut_off_anywhere_one_more_apply_reaches_the_goal(
        a in seen_state(), b in wanted(), cut in any::<prop::sample::Index>(),
    ) {
        let seen = sighting(a.clone(), None);
        let first = goal(&b, &seen);
        let steps = changes(&a, &first);
        let cut = cut.index(steps.len() + 1);
        let halfway = simulate(&a, &steps[..cut]).unwrap();
        let after = applied(&b, &sighting(halfway.clone(), Some(first.receipt.clone())));
        prop_assert_eq!(
            after.state.restricted_to(&first.owned),
            first.wanted.restricted_to(&first.owned)
        );
        // And destroy from half-way restores what was there.
        let back = destroyed(&sighting(halfway, Some(first.receipt)));
        prop_assert_eq!(without_tunnel(back, &a), without_tunnel(a.clone(), &a));
    }

    #[test]
    fn law_7_destroy_restores_what_was_found(a in seen_state(), b in wanted(), c in wanted()) {
        let once = applied(&b, &sighting(a.clone(), None));
        let back = destroyed(&once);
        prop_assert_eq!(without_tunnel(back, &a), without_tunnel(a.clone(), &a));
        // Also when the file changed in between.
        let twice = applied(&c, &once);
        let back = destroyed(&twice);
        prop_assert_eq!(without_tunnel(back, &a), without_tunnel(a.clone(), &a));
    }

    /// Somebody changed what is ours, in any way, between two runs.
    #[test]
    fn law_7_drift_is_mended_and_destroy_restores_what_was_found_at_first(
        a in seen_state(), b in wanted(), other in seen_state(),
    ) {
        let mut drifted = applied(&b, &sighting(a.clone(), None));
        let first = drifted.receipt.clone().map(|receipt| receipt.owned).unwrap_or_default();
        for item in first.iter().filter(|item| can_drift(item)) {
            drifted.state.copy_item(item, &other);
        }
        let goal = goal(&b, &drifted);
        let mended = applied(&b, &drifted);
        prop_assert_eq!(
            mended.state.restricted_to(&goal.owned), goal.wanted.restricted_to(&goal.owned)
        );
        prop_assert_eq!(&mended.receipt, &drifted.receipt);
        let back = destroyed(&mended);
        prop_assert_eq!(without_tunnel(back, &a), without_tunnel(a.clone(), &a));
        // Nor does it need the mending.
        let back = destroyed(&drifted);
        prop_assert_eq!(without_tunnel(back, &a), without_tunnel(a.clone(), &a));
    }

    /// The director takes requests only when all else on it is as it must be.
    #[test]
    fn law_4_the_vip_is_the_last_to_come_and_the_first_to_go(a in seen_state(), b in wanted()) {
        let kind = |change: &Change| match change {
            Change::RemoveAddress { .. } => 0,
            Change::AddAddress { .. } => 2,
            _ => 1,
        };
        let after = applied(&b, &sighting(a.clone(), None));
        let there = changes(&a, &goal(&b, &sighting(a.clone(), None)));
        let back = Goal::destroy(&after).map(|goal| changes(&after.state, &goal)).unwrap_or_default();
        for steps in [there, back] {
            prop_assert!(steps.iter().map(kind).is_sorted(), "{steps:?}");
        }
    }

    #[test]
    fn law_7_every_step_has_an_inverse(a in seen_state(), b in wanted()) {
        let mut state = a.clone();
        for change in changes(&a, &goal(&b, &sighting(a.clone(), None))) {
            let before = state.clone();
            state = simulate(&state, [&change]).unwrap();
            let Some(inverse) = change.inverse() else { continue };
            let mut back = simulate(&state, [&inverse]).unwrap();
            if matches!(change, Change::SetSysctl { key: Sysctl::IpForward, .. }) {
                // What moves along is put back by a destroy, from the receipt.
                back.sysctls.clone_from(&before.sysctls);
            }
            prop_assert_eq!(back, before);
        }
    }

    #[test]
    fn law_4_on_the_way_nothing_is_exposed(
        from in cluster(), to in cluster(), order in any::<prop::sample::Index>(),
    ) {
        let mut world = World::bare(&to);
        world.walk(&from, Some(&order), "bare to first");
        world.walk(&to, Some(&order), "first to second");
        world.walk_back(&to, "second to bare");
        for (host, state) in &world.hosts {
            prop_assert!(state.services.is_empty() && vips_on(state).is_empty(), "{host} keeps something");
        }
    }
}

/// All hosts of a cluster, as far as they are simulated.
struct World {
    hosts: BTreeMap<HostName, HostState>,
    receipts: BTreeMap<HostName, Option<Receipt>>,
}

impl World {
    fn bare(cluster: &Cluster) -> Self {
        let host = |interfaces: Vec<IfName>| {
            let mut state = HostState::default();
            let devs = interfaces.iter().map(|d| ConfDev::Dev(d.clone()));
            for conf in devs.chain([ConfDev::All, ConfDev::Default]) {
                for item in ConfItem::ALL {
                    if (conf.clone(), *item) != (ConfDev::All, ConfItem::Forwarding) {
                        state.sysctls.insert(Sysctl::Conf(conf.clone(), *item), "0".into());
                    }
                }
            }
            state.sysctls.insert(Sysctl::IpForward, "0".into());
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

    fn walk(&mut self, cluster: &Cluster, shuffle: Option<&prop::sample::Index>, what: &str) {
        let goals = |world: &Self, host: &crate::topology::Host| {
            let desired = desired_for(&cluster.topology, host);
            let seen =
                sighting(world.hosts[&host.name].clone(), world.receipts[&host.name].clone());
            goal(&desired, &seen)
        };
        self.go(cluster, shuffle, what, goals);
    }

    fn walk_back(&mut self, cluster: &Cluster, what: &str) {
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
        let mut turns: BTreeMap<Stage, Vec<(HostName, Vec<Change>)>> = BTreeMap::new();
        for host in cluster.topology.hosts.values() {
            let goal = goals(self, host);
            let state = &self.hosts[&host.name];
            let steps = order::steps_between(state, &goal.wanted, &goal.owned, &Reasons::default())
                .unwrap();
            for (stage, steps) in stages::stage(host, steps) {
                let changes = steps.into_iter().map(|step| step.change).collect();
                turns.entry(stage).or_default().push((host.name.clone(), changes));
            }
            self.receipts.insert(host.name.clone(), goal.settled);
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
            let exposed = vips_on(state).iter().any(|key| key.dev.as_str() == "lo");
            if roles.contains(&Role::RealServer) && exposed {
                let all = |item| state.sysctls[&Sysctl::all(item)].as_str();
                assert_eq!(all(ConfItem::ArpIgnore), "1", "{what}: {host} answers ARP for a VIP");
                assert_eq!(all(ConfItem::ArpAnnounce), "2", "{what}: {host} announces a VIP");
            }
            let live: Vec<_> = vips_on(state);
            for (key, service) in &state.services {
                let ServiceKey::Address(_, vip) = key else { continue };
                if live.iter().any(|key| key.net.addr() == vip.ip()) {
                    self.check_served(vip.ip(), service, what);
                }
            }
        }
    }

    /// While the director has the VIP, every real server that it sends to takes it.
    fn check_served(&self, vip: std::net::IpAddr, service: &VirtualService, what: &str) {
        for (at, destination) in &service.destinations {
            if destination.method == ForwardingMethod::Masquerade {
                continue;
            }
            let host = Cluster::host_with(at.0.ip());
            let has = vips_on(&self.hosts[&host]).iter().any(|key| key.net.addr() == vip);
            assert!(has, "{what}: {host} is sent requests for {vip} and does not take them");
        }
    }
}

fn vips_on(state: &HostState) -> Vec<AddressKey> {
    state.addresses.keys().cloned().collect()
}

#[test]
fn settings_differ_by_method() {
    let of = |forward| {
        let cluster = Cluster::of(&[(forward, 80, vec![1, 2])]);
        let host = &cluster.topology.hosts[&"rs1".parse().unwrap()];
        desired_for(&cluster.topology, host).state
    };
    assert!(of(Forward::Nat).addresses.is_empty());
    assert!(of(Forward::Nat).sysctls.is_empty());
    assert_eq!(of(Forward::Dr).addresses.keys().next().unwrap().dev, dev("lo"));
    assert_eq!(of(Forward::Tun).links, [(dev("tunl0"), Link::Up)].into());
}
