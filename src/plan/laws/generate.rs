//! Hosts and wishes by chance: some of everything that a host can have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::desired::Desired;
use crate::names::IfName;
use crate::plan::simulate;
use crate::state::*;
use crate::state::{Edit, Module, Present, Protocol};

pub(super) fn dev(name: &str) -> IfName {
    name.parse().unwrap()
}

/// A kernel has every value of every interface; only the numbers differ.
fn sysctls() -> impl Strategy<Value = BTreeMap<Sysctl, String>> {
    let devs =
        [ConfDev::All, ConfDev::Default, ConfDev::Dev(dev("eth0")), ConfDev::Dev(dev("eth1"))];
    let v4 = devs
        .iter()
        .flat_map(|dev| ConfItem::ALL.iter().map(|item| Sysctl::Conf(dev.clone(), *item)));
    let v6 = devs
        .iter()
        .flat_map(|dev| Conf6Item::ALL.iter().map(|item| Sysctl::Conf6(dev.clone(), *item)));
    let keys: Vec<Sysctl> = v4
        .chain(v6)
        .filter(|key| *key != Sysctl::all(ConfItem::Forwarding))
        .filter(|key| *key != Sysctl::Conf6(ConfDev::All, Conf6Item::Forwarding))
        .chain([Sysctl::IpForward, Sysctl::Ip6Forward])
        .collect();
    vec(0..3u8, keys.len()).prop_map(move |values| {
        let boolean = |key: &Sysctl| {
            matches!(
                key,
                Sysctl::IpForward
                    | Sysctl::Ip6Forward
                    | Sysctl::Conf(_, ConfItem::Forwarding)
                    | Sysctl::Conf6(_, Conf6Item::Forwarding)
            )
        };
        keys.iter()
            .zip(values)
            .map(|(key, value)| {
                (key.clone(), if boolean(key) { value % 2 } else { value }.to_string())
            })
            .collect()
    })
}

/// What moves with forwarding, and what new interfaces start with, is never asked for by a file.
pub(super) fn follows(key: &Sysctl) -> bool {
    matches!(
        key,
        Sysctl::Conf(_, ConfItem::Forwarding)
            | Sysctl::Conf(ConfDev::All, ConfItem::AcceptRedirects)
            | Sysctl::Conf6(_, Conf6Item::Forwarding)
    )
}

/// Settings of IPVS, of the kind that a file and methods set.
fn ipvs_settings() -> impl Strategy<Value = BTreeMap<Sysctl, String>> {
    let keys = [VsItem::Conntrack, VsItem::ExpireNodestConn, VsItem::ExpireQuiescentTemplate];
    let keys: Vec<Sysctl> = keys.into_iter().map(Sysctl::Vs).collect();
    btree_map(select(keys), (0..2u8).prop_map(|value| value.to_string()), 0..4)
}

fn addresses() -> impl Strategy<Value = BTreeMap<AddressKey, Address>> {
    let keys = [
        "192.0.2.1/32@lo",
        "192.0.2.1/32@eth0",
        "192.0.2.9/24@eth0",
        "10.0.0.1/8@eth1",
        "2001:db8::1/128@lo",
        "2001:db8::1/128@eth0",
    ];
    let keys: Vec<AddressKey> = keys.iter().map(|key| key.parse().unwrap()).collect();
    let attributes =
        (select(vec![Scope::Global, Scope::Host]), select(vec![None, Some("lo:7")]), any::<bool>());
    let address = attributes.prop_map(|(scope, label, broadcast)| Address {
        scope,
        label: label.map(str::to_owned),
        broadcast: broadcast.then(|| [192, 0, 2, 255].into()),
        nodad: broadcast,
        deprecated: label.is_none(),
    });
    btree_map(select(keys), address, 0..5)
}

fn routes() -> impl Strategy<Value = BTreeMap<RouteKey, Route>> {
    let keys = ["default", "default6", "192.0.2.1/32", "2001:db8::1/128"];
    let keys: Vec<RouteKey> = keys.iter().map(|key| key.parse().unwrap()).collect();
    let route = (1..4u8, select(vec![0, 100]), select(vec![3, 4, 9])).prop_map(
        |(host, metric, protocol)| Route {
            metric,
            protocol,
            ..Route::via([10, 0, 0, host].into(), Some(dev("eth0")))
        },
    );
    btree_map(select(keys), route, 0..3)
}

fn services() -> impl Strategy<Value = BTreeMap<ServiceKey, VirtualService>> {
    let keys = ["tcp 192.0.2.1:80", "udp 192.0.2.1:53", "fwmark4 8", "tcp [2001:db8::1]:0"];
    let keys: Vec<ServiceKey> = keys.iter().map(|key| key.parse().unwrap()).collect();
    let method = select(vec![
        (ForwardingMethod::Masquerade, Tunnel::Ipip),
        (ForwardingMethod::DirectRoute, Tunnel::Ipip),
        (ForwardingMethod::Tunnel, Tunnel::Ipip),
        (ForwardingMethod::Tunnel, Tunnel::Gue { port: 6080, flags: 1 }),
    ]);
    let destination = (0..3u32, method, 0..2u32).prop_map(|(weight, (method, tunnel), upper)| {
        Destination { method, weight, upper_threshold: upper, lower_threshold: 0, tunnel }
    });
    let at = (1..5u8).prop_map(|host| DestinationKey::new([10, 0, 0, host].into(), 80));
    let service = (select(vec!["rr", "wlc"]), 0..2u32, btree_map(at, destination, 0..4)).prop_map(
        |(scheduler, persistent, destinations)| VirtualService {
            scheduler: scheduler.to_owned(),
            flags: ServiceFlags::new(persistent),
            timeout: persistent * 600,
            netmask: u32::MAX,
            engine: None,
            destinations,
        },
    );
    btree_map(select(keys), service, 0..3)
}

fn timeouts(least: u32) -> impl Strategy<Value = Timeouts> {
    (least..3, least..3, least..3).prop_map(|(tcp, tcp_fin, udp)| Timeouts { tcp, tcp_fin, udp })
}

fn daemons(lengths: Vec<u16>) -> impl Strategy<Value = BTreeMap<DaemonRole, SyncDaemon>> {
    let daemon = (select(vec!["eth0", "eth1"]), 0..2u8, select(lengths)).prop_map(
        |(interface, id, max_length)| SyncDaemon {
            id,
            max_length,
            ..SyncDaemon::on(dev(interface))
        },
    );
    btree_map(select(vec![DaemonRole::Master, DaemonRole::Backup]), daemon, 0..3)
}

/// The topology's own table, and one that is none of its business.
pub(super) const TABLES: [&str; 2] = ["lvsprov-t", "lvsprov-other"];

pub(super) fn is_source_nat(rule: &PacketRule) -> bool {
    matches!(rule, PacketRule::Masquerade { .. })
}

fn guard(vip: IpAddr, source: &str) -> TunnelGuard {
    TunnelGuard {
        outside_v6: false,
        header: TunnelHeader::None,
        vips: [vip].into(),
        sources: [source.parse::<IpAddr>().unwrap().into()].into(),
        devices: [dev("tunl0")].into(),
    }
}

fn packet_rules() -> impl Strategy<Value = PacketRules> {
    let vip = IpAddr::from([192, 0, 2, 1]);
    let rip = [10, 0, 0, 1].into();
    let all = vec![
        PacketRule::Mark { vip, protocol: Protocol::Tcp, ports: BTreeSet::from([80]), mark: 8 },
        PacketRule::Masquerade { vip: Some(vip), rip, protocol: Protocol::Tcp, port: 80 },
        PacketRule::ClampMss { source: vip, mss: 1440 },
        guard(vip, "10.0.0.9").into(),
        guard(vip, "10.0.0.8").into(),
    ];
    subsequence(all, 1..=5).prop_map(|rules| PacketRules { rules: rules.into_iter().collect() })
}

fn tables(names: Vec<&'static str>) -> impl Strategy<Value = BTreeMap<TableName, PacketRules>> {
    btree_map(select(names).prop_map(|name| name.parse().unwrap()), packet_rules(), 0..3)
}

fn gue_ports() -> impl Strategy<Value = BTreeSet<GuePort>> {
    let ports = vec![GuePort { v6: false, port: 6080 }, GuePort { v6: true, port: 6080 }];
    btree_set(select(ports), 0..3)
}

fn instances(
    topologies: Vec<&'static str>,
) -> impl Strategy<Value = BTreeMap<DaemonInstance, DaemonConfiguration>> {
    let key = |topology: &str| format!("keepalived of {topology}").parse().unwrap();
    let text = (select(vec!["", "virtual_server 192.0.2.1 80 {\n}\n"]), any::<bool>());
    let value = text
        .prop_map(|(text, loaded)| DaemonConfiguration { loaded, ..DaemonConfiguration::of(text) });
    btree_map(select(topologies).prop_map(key), value, 0..3)
}

/// A host as it may be found: with or without IPVS and what comes with it.
pub(super) fn seen_state() -> impl Strategy<Value = HostState> {
    let net = (sysctls(), addresses(), routes());
    let ipvs = (ipvs_settings(), services(), timeouts(1), daemons(vec![1400, 1472]));
    let others = (tables(TABLES.to_vec()), gue_ports(), instances(vec!["t", "other"]));
    (net, option::of(ipvs), others).prop_map(|((sysctls, addresses, routes), ipvs, others)| {
        let mut state = HostState {
            sysctls,
            links: [(dev("lo"), Link::Up), (dev("eth0"), Link::Up)].into(),
            addresses,
            routes,
            tables: others.0,
            gue_ports: others.1,
            instances: others.2,
            ..HostState::default()
        };
        if let Some((settings, services, timeouts, daemons)) = ipvs {
            let module = Edit::add::<Module>(Module::IpVs, Present);
            state = simulate(&state, [&module]).unwrap();
            state.sysctls.extend(settings);
            state.services = services;
            state.timeouts = Some(timeouts);
            state.daemons = daemons;
        }
        state
    })
}

/// A tunnel as a file may want it: one of the kernel's devices, or one of our own.
fn tunnel() -> impl Strategy<Value = HostState> {
    let kinds = vec![
        (Module::Ipip, "tunl0", None),
        (Module::IpGre, "lvsgre0a000001", Some((TunnelKind::Gre, "10.0.0.1"))),
        (Module::Ip6Tnl, "lvstnl20010db8", Some((TunnelKind::Ip6tnl, "2001:db8::9"))),
    ];
    (select(kinds), any::<bool>(), any::<bool>()).prop_map(|((module, name, own), address, sum)| {
        let mut state = HostState::default();
        state.modules.insert(module);
        state.links.insert(dev(name), Link::Up);
        state.sysctls.insert(Sysctl::dev(&dev(name), ConfItem::RpFilter), "2".into());
        if let Some((kind, local)) = own {
            let checksum = sum && kind == TunnelKind::Gre;
            let local = local.parse().unwrap();
            state.tunnels.insert(dev(name), TunnelDevice { kind, local, checksum });
        }
        if address {
            let key = AddressKey { dev: dev(name), net: "192.0.2.1/32".parse().unwrap() };
            let address = Address::plain(Scope::Host);
            state.addresses.insert(key, address);
        }
        state
    })
}

/// For some of the settings that have a choice, further values that serve.
fn accepted(state: &HostState, choice: u64) -> BTreeMap<Sysctl, AcceptedValues> {
    let of = |(key, value): (&Sysctl, &String)| {
        let number: u32 = value.parse().unwrap();
        let accepted = match (key, number) {
            (Sysctl::Conf(_, ConfItem::ArpIgnore), _) => {
                AcceptedValues::of([number, 2 - number / 2])
            }
            (Sysctl::Conf(ConfDev::Dev(_), ConfItem::RpFilter), 2) => AcceptedValues::NotStrict,
            (Sysctl::Conf6(ConfDev::Dev(_), Conf6Item::AcceptRa), 2) => {
                AcceptedValues::KeepsAdvertisedRoute
            }
            _ => return None,
        };
        Some((key.clone(), accepted))
    };
    let all = state.sysctls.iter().filter_map(of).enumerate();
    all.filter(|(nth, _)| choice >> (nth % 64) & 1 == 1).map(|(_, it)| it).collect()
}

/// What a file may want: some of everything, tunnels included. Its own table only; source NAT only
/// together with connection tracking, as [`crate::desired`] has it.
pub(super) fn wanted() -> impl Strategy<Value = Desired> {
    let net = (sysctls(), addresses(), routes(), vec(tunnel(), 0..3), gue_ports());
    let ipvs = (
        ipvs_settings(),
        services(),
        option::of(timeouts(0)),
        daemons(vec![0, 1400]),
        tables(vec![TABLES[0]]),
        instances(vec!["t"]),
    );
    (net, ipvs, 0.0..1.0f64, any::<u64>()).prop_flat_map(|(net, ipvs, share, choice)| {
        let (sysctls, addresses, routes, tunnels, gue_ports) = net;
        let (settings, services, timeouts, daemons, tables, instances) = ipvs;
        let keys: Vec<Sysctl> = sysctls
            .keys()
            .filter(|key| !follows(key) && !matches!(key, Sysctl::Conf(ConfDev::Default, _)))
            .filter(|key| !matches!(key, Sysctl::Conf6(ConfDev::Default | ConfDev::All, _)))
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
                timeouts,
                daemons: daemons.clone(),
                tables: tables.clone(),
                gue_ports: gue_ports.clone(),
                instances: instances.clone(),
                ..HostState::default()
            };
            state.sysctls.extend(settings.clone());
            if state.tables.values().any(|table| table.rules.iter().any(is_source_nat)) {
                state.sysctls.insert(Sysctl::Vs(VsItem::Conntrack), "1".into());
            }
            let vs = state.sysctls.keys().any(|key| matches!(key, Sysctl::Vs(_)));
            if vs || timeouts.is_some() || !daemons.is_empty() || !services.is_empty() {
                state.modules.insert(Module::IpVs);
            }
            for tunnel in &tunnels {
                state.modules.extend(&tunnel.modules);
                state.links.extend(tunnel.links.clone());
                state.sysctls.extend(tunnel.sysctls.clone());
                state.tunnels.extend(tunnel.tunnels.clone());
                state.addresses.extend(tunnel.addresses.clone());
            }
            Desired { accepted: accepted(&state, choice), state, ..Desired::default() }
        })
    })
}
