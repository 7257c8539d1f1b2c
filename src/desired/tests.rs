//! What follows from a file, setting by setting, where a playbook would hide it among others.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::IpAddr;

use super::*;
use crate::state::{Conf6Item, ConfDev, ConfItem, PacketRules, Scope, TunnelKind};
use crate::topology::{self, Forward};

/// A director with a leg in each family, two real servers, and what `services` says.
fn cluster(services: &str) -> Topology {
    let text = format!(
        r#"
version: 1
name: t
networks: {{lan: [192.0.2.0/24, "2001:db8::/64"]}}
ipvs: {{timeouts: {{tcp: 600}}, sync: {{master: {{interface: eth0}}}}, settings: {{expire_nodest_conn: 1}}}}
hosts:
  client: {{role: client, interfaces: {{eth0: [192.0.2.9/24, "2001:db8::9/64"]}}}}
  lvs: {{role: [director, real_server], interfaces: {{eth0: [192.0.2.2/24, "2001:db8::2/64"]}}}}
  web1: {{role: real_server, interfaces: {{eth0: [192.0.2.3/24, "2001:db8::3/64"]}}}}
  web2: {{role: real_server, interfaces: {{eth0: [192.0.2.4/24, "2001:db8::4/64"]}}}}
services:
{services}
"#
    );
    let read = topology::read("t.yaml", &text);
    read.topology.unwrap_or_else(|| panic!("{:?}", read.findings))
}

fn wanted(services: &str, host: &str) -> Desired {
    let topology = cluster(services);
    desired_for(&topology, &topology.hosts[&host.parse().unwrap()])
}

fn state(services: &str, host: &str) -> HostState {
    wanted(services, host).state
}

fn rules(state: &HostState) -> Vec<String> {
    let all = state.tables.values().flat_map(|PacketRules { rules }| rules);
    all.map(ToString::to_string).collect()
}

fn value<'a>(state: &'a HostState, key: &str) -> Option<&'a str> {
    state.sysctls.get(&key.parse().unwrap()).map(String::as_str)
}

fn addresses(state: &HostState) -> Vec<String> {
    state.addresses.keys().map(ToString::to_string).collect()
}

#[test]
fn a_mark_is_set_by_the_director_unless_others_do() {
    let web = "  - {name: web, vip: 192.0.2.80, mark: 8, ports: [80, 443], forward: dr, persistence: 600, real_servers: [web1]}";
    let lvs = state(web, "lvs");
    let service = &lvs.services[&"fwmark4 8".parse().unwrap()];
    assert_eq!(service.timeout, 600);
    assert_eq!(service.destinations.keys().next().unwrap().to_string(), "192.0.2.3:0");
    assert_eq!(rules(&lvs).len(), 1, "{:?}", rules(&lvs));
    assert!(lvs.modules.contains(&Module::NfTables));
    assert_eq!(addresses(&lvs), ["192.0.2.80/32@eth0"]);
    assert_eq!(addresses(&state(web, "web1")), ["192.0.2.80/32@lo"]);
    let theirs = state(&web.replace("mark: 8,", "mark: 8, marked_by: others,"), "lvs");
    assert!(theirs.tables.is_empty() && !theirs.modules.contains(&Module::NfTables));
    assert_eq!(theirs.services, lvs.services);
}

#[test]
fn fullnat_is_tracked_rewritten_and_forwarded_and_asks_nothing_of_the_real_server() {
    let web = "  - {name: web, vip: 192.0.2.80, port: 80, forward: fullnat, real_servers: [{host: web1, port: 8080}, {host: web2, forward: dr}]}";
    let lvs = wanted(web, "lvs");
    assert_eq!(value(&lvs.state, "net.ipv4.vs.conntrack"), Some("1"));
    assert_eq!(value(&lvs.state, "net.ipv4.ip_forward"), Some("1"));
    assert_eq!(value(&lvs.state, "net.ipv4.conf.all.send_redirects"), None);
    let table = TableName::of(&"t".parse().unwrap());
    let rule = PacketRule::Masquerade {
        vip: Some([192, 0, 2, 80].into()),
        rip: [192, 0, 2, 3].into(),
        protocol: crate::state::Protocol::Tcp,
        port: 8080,
    };
    assert_eq!(lvs.state.tables[&table].rules, [rule].into());
    assert!(lvs.reasons.of(&Item::Table(table)).unwrap().contains("source port"));
    assert_eq!(state(web, "web1"), HostState::default());
    assert_eq!(addresses(&state(web, "web2")), ["192.0.2.80/32@lo"]);
}

#[test]
fn direct_routing_over_ipv6_needs_no_arp_settings() {
    let web =
        r#"  - {name: web, vip: "2001:db8::80", port: 80, forward: dr, real_servers: [web1]}"#;
    let web1 = state(web, "web1");
    assert!(web1.sysctls.is_empty(), "{:?}", web1.sysctls);
    let (lvs, key) = (state(web, "lvs"), "2001:db8::80/128@lo".parse().unwrap());
    let quiet = |address: &Address| address.nodad && address.deprecated && address.label.is_none();
    assert!(quiet(&web1.addresses[&key]) && web1.addresses[&key].scope == Scope::Global);
    assert!(lvs.addresses.values().all(quiet), "{:?}", lvs.addresses);
    assert_eq!(value(&lvs, "net.ipv6.conf.all.forwarding"), None);
}

#[test]
fn nat_over_ipv6_forwards_and_keeps_a_route_that_a_router_gave() {
    let web =
        r#"  - {name: web, vip: "2001:db8:1::80", port: 80, forward: nat, real_servers: [web1]}"#;
    let lvs = state(web, "lvs");
    assert_eq!(value(&lvs, "net.ipv6.conf.all.forwarding"), Some("1"));
    let accept_ra = Sysctl::Conf6(ConfDev::Dev("eth0".parse().unwrap()), Conf6Item::AcceptRa);
    assert_eq!(lvs.sysctls.get(&accept_ra).map(String::as_str), Some("2"));
    assert_eq!(value(&lvs, "net.ipv4.ip_forward"), None);
    assert!(!lvs.sysctls.contains_key(&Sysctl::all(ConfItem::SendRedirects)));
    let default = state(web, "web1").routes[&"default6".parse().unwrap()].clone();
    assert_eq!(default.gateway, Some("2001:db8::2".parse::<IpAddr>().unwrap()));
}

#[test]
fn every_wrapping_has_what_takes_it_off() {
    let v4 = ("192.0.2.80", "192.0.2.3");
    let v6 = ("2001:db8::80", "2001:db8::3");
    let cases = [
        (v4.0, v4.1, "ipip", "tunl0", Module::Ipip, None),
        (v6.0, v4.1, "ipip", "sit0", Module::Sit, None),
        (v6.0, v6.1, "ipip", "lvstnl20010dbb", Module::Ip6Tnl, Some(TunnelKind::Ip6tnl)),
        (v4.0, v6.1, "ipip", "lvstnl20010dbb", Module::Ip6Tnl, Some(TunnelKind::Ip6tnl)),
        (v4.0, v4.1, "{type: gue, port: 6080}", "tunl0", Module::Ipip, None),
        (v6.0, v4.1, "{type: gue, port: 6080}", "sit0", Module::Sit, None),
        (v4.0, v4.1, "gre", "lvsgrec0000203", Module::IpGre, Some(TunnelKind::Gre)),
        (v6.0, v6.1, "gre", "lvsgre20010dbb", Module::Ip6Gre, Some(TunnelKind::Ip6gre)),
    ];
    for (vip, rip, tunnel, device, module, own) in cases {
        let web = format!(
            r#"  - {{name: web, vip: "{vip}", port: 80, forward: tun, tunnel: {tunnel}, real_servers: [{{host: web1, address: "{rip}"}}]}}"#
        );
        let web1 = state(&web, "web1");
        let what = format!("{vip} {rip} {tunnel}");
        let dev: IfName = device.parse().unwrap();
        assert_eq!(web1.links, [(dev.clone(), Link::Up)].into(), "{what}");
        assert!(web1.modules.contains(&module), "{what}");
        assert_eq!(web1.tunnels.get(&dev).map(|tunnel| tunnel.kind), own, "{what}");
        assert_eq!(web1.gue_ports.len(), usize::from(tunnel.contains("gue")), "{what}");
        let rp_filter = web1.sysctls.get(&Sysctl::dev(&dev, ConfItem::RpFilter));
        let (on, prefix) = if vip.contains(':') { ("lo", 128) } else { (device, 32) };
        assert_eq!(rp_filter.is_some(), on == device, "{what}");
        assert_eq!(addresses(&web1), [format!("{vip}/{prefix}@{on}")], "{what}");
        let clamps = |rule: &&String| rule.starts_with("MSS of");
        assert_eq!(rules(&web1).iter().filter(clamps).count(), 1, "{what}");
    }
}

#[test]
fn the_smallest_segment_of_several_wrappings_holds() {
    let both = "  - {name: a, vip: 192.0.2.80, port: 80, forward: tun, tunnel: gre, real_servers: [web1]}\n  - {name: b, vip: 192.0.2.80, port: 81, forward: tun, real_servers: [web1]}\n  - {name: c, vip: 192.0.2.81, port: 53, protocol: udp, forward: tun, real_servers: [web1]}";
    assert_eq!(rules(&state(both, "web1"))[0], "MSS of 192.0.2.80 at most 1436");
}

#[test]
fn a_director_that_serves_itself_stays_a_director() {
    for forward in Forward::ALL {
        let web = format!(
            "  - {{name: web, vip: 192.0.2.80, port: 80, forward: {forward}, real_servers: [lvs]}}"
        );
        let lvs = state(&web, "lvs");
        assert_eq!(addresses(&lvs), ["192.0.2.80/32@eth0"], "{forward}");
        let not_ipvs = |key: &&Sysctl| !matches!(key, Sysctl::Vs(_));
        assert_eq!(lvs.sysctls.keys().filter(not_ipvs).count(), 0, "{forward}");
        assert!(lvs.links.is_empty() && lvs.tables.is_empty(), "{forward}");
        let ignores = value(&lvs, "net.ipv4.vs.ignore_tunneled");
        assert_eq!(ignores.is_some(), *forward == Forward::Tun, "{forward}");
    }
}

#[test]
fn a_drained_real_server_of_a_persistent_service_is_let_go_of() {
    let web = "  - {name: web, vip: 192.0.2.80, port: 80, forward: dr, persistence: 600, real_servers: [web1, {host: web2, weight: 0}]}";
    let key = "net.ipv4.vs.expire_quiescent_template";
    assert_eq!(value(&state(web, "lvs"), key), Some("1"));
    assert_eq!(value(&state(&web.replace("persistence: 600, ", ""), "lvs"), key), None);
}

#[test]
fn what_the_file_says_of_ipvs_is_for_directors() {
    let web = "  - {name: web, vip: 192.0.2.80, port: 21, forward: nat, real_servers: [web1]}";
    let lvs = state(web, "lvs");
    assert_eq!(lvs.timeouts, Some(Timeouts { tcp: 600, tcp_fin: 0, udp: 0 }));
    assert_eq!(lvs.daemons.len(), 1);
    assert_eq!(value(&lvs, "net.ipv4.vs.expire_nodest_conn"), Some("1"));
    assert!(lvs.modules.contains(&Module::IpVsFtp));
    let web1 = state(web, "web1");
    assert!(web1.timeouts.is_none() && web1.daemons.is_empty() && web1.sysctls.is_empty());
}

/// The VIP is in no subnet; `routes` is of the router next to the director.
fn behind_two_routers(routes: &str) -> Topology {
    let text = format!(
        r"
version: 1
name: t
networks: {{clients: [198.51.100.0/24], transit: [203.0.113.0/24], farm: [192.0.2.0/24], other: [100.65.0.0/24]}}
hosts:
  client: {{role: client, interfaces: {{eth0: 198.51.100.9/24}}, gateway: outer}}
  outer: {{role: router, interfaces: {{eth0: 198.51.100.1/24, eth1: 203.0.113.1/24}}, gateway: inner}}
  inner:
    role: router
    interfaces: {{eth0: 203.0.113.2/24, eth1: 192.0.2.1/24, eth2: 100.65.0.1/24}}
    routes: [{routes}]
  lvs: {{role: director, interfaces: {{eth0: 192.0.2.2/24}}, gateway: inner}}
  web1: {{role: real_server, interfaces: {{eth0: 192.0.2.3/24}}, gateway: 192.0.2.77, routes: [{{to: 198.51.100.0/24, via: inner}}]}}
services:
  - {{name: web, vip: 100.64.0.80, port: 80, forward: dr, real_servers: [web1]}}
"
    );
    let read = topology::read("t.yaml", &text);
    assert!(read.findings.is_empty(), "{:?}", read.findings);
    read.topology.unwrap()
}

/// The routes of a host, with the reason of each.
fn routes(topology: &Topology, host: &str) -> Vec<String> {
    let host = &topology.hosts[&host.parse().unwrap()];
    let Desired { state, reasons, .. } = desired_for(topology, host);
    let of = |key: &RouteKey| reasons.of(&Item::Route(key.clone())).unwrap().to_owned();
    state.routes.iter().map(|(key, route)| format!("{key} {route}: {}", of(key))).collect()
}

#[test]
fn a_static_route_is_wanted_and_takes_the_place_of_a_derived_host_route() {
    let back = "{to: 198.51.100.0/24, via: outer}";
    let of_file = "198.51.100.0/24 via 203.0.113.1 dev eth0: `routes:` in the file: 198.51.100.0/24 lies \
                   behind 203.0.113.1 (outer)";
    let derived = routes(&behind_two_routers(back), "inner");
    assert_eq!(derived.len(), 2, "{derived:?}");
    assert!(derived[0].starts_with("100.64.0.80/32 via 192.0.2.2 dev eth1: "), "{derived:?}");
    assert_eq!(derived[1], of_file);
    let wider = behind_two_routers(&format!("{back}, {{to: 100.64.0.0/24, via: 192.0.2.77}}"));
    let wider = routes(&wider, "inner");
    assert_eq!(wider.len(), 2, "{wider:?}");
    assert!(wider[0].starts_with("100.64.0.0/24 via 192.0.2.77 dev eth1: "), "{wider:?}");
}

/// The replies' way is the static route, not the default gateway: the reason of the gateway does not say otherwise, and
/// the router on that way expects the VIP there.
#[test]
fn replies_that_leave_by_a_static_route_are_expected_where_it_leads() {
    let back = "{to: 198.51.100.0/24, via: outer}";
    let topology = behind_two_routers(back);
    let web1 = routes(&topology, "web1");
    assert!(web1[0].ends_with(": the file names 192.0.2.77 as its gateway"), "{web1:?}");
    let rp_filter = |topology: &Topology| {
        let inner = desired_for(topology, &topology.hosts[&"inner".parse().unwrap()]);
        value(&inner.state, "net.ipv4.conf.eth1.rp_filter").map(str::to_owned)
    };
    assert_eq!(rp_filter(&topology), None, "the host route to the VIP leads there too");
    let elsewhere = format!("{back}, {{to: 100.64.0.0/24, via: 100.65.0.77}}");
    assert_eq!(rp_filter(&behind_two_routers(&elsewhere)), Some("2".to_owned()));
}

#[test]
fn a_director_that_is_a_router_gets_no_route_to_its_own_vip() {
    let text = "version: 1
name: own
networks: {clients: [198.51.100.0/24], farm: [192.0.2.0/24]}
hosts:
  client: {role: client, interfaces: {eth0: 198.51.100.9/24}, gateway: lvs}
  lvs: {role: [director, router], interfaces: {eth0: 198.51.100.1/24, eth1: 192.0.2.1/24}}
  web1: {role: real_server, interfaces: {eth0: 192.0.2.3/24}}
services:
  - {vip: 100.64.0.80, port: 80, forward: nat, vip_interface: eth1, real_servers: [web1]}
";
    let topology = crate::topology::read("own.yaml", text).topology.unwrap();
    assert_eq!(routes(&topology, "lvs"), Vec::<String>::new());
}

/// A NAT service of the same VIP and real server keeps its clients' addresses.
#[test]
fn fullnat_by_mark_hides_the_clients_of_its_ports_only() {
    let text = "version: 1
name: marked
networks: {clients: [198.51.100.0/24], farm: [192.0.2.0/24]}
hosts:
  client: {role: client, interfaces: {eth0: 198.51.100.9/24}}
  lvs: {role: director, interfaces: {eth0: 198.51.100.1/24, eth1: 192.0.2.1/24}}
  web1: {role: real_server, interfaces: {eth0: 192.0.2.3/24}}
services:
  - {vip: 198.51.100.80, mark: 3, ports: [82, 92], forward: fullnat, real_servers: [web1]}
  - {vip: 198.51.100.80, port: 83, forward: nat, real_servers: [web1]}
";
    let topology = crate::topology::read("marked.yaml", text).topology.unwrap();
    let Desired { state, .. } = desired_for(&topology, &topology.hosts[&"lvs".parse().unwrap()]);
    let rules = state.tables.values().flat_map(|table| &table.rules);
    let hidden: Vec<u16> = rules
        .filter_map(|rule| match rule {
            crate::state::PacketRule::Masquerade { port, .. } => Some(*port),
            _ => None,
        })
        .collect();
    assert_eq!(hidden, [82, 92]);
}

/// The settings of the director of a cluster of `tests/cases`, with the reason of each.
fn settings(text: &str) -> Vec<(String, String)> {
    let topology = topology::read("gateway.yaml", text).topology.unwrap();
    let lvs = desired_for(&topology, &topology.hosts[&"lvs".parse().unwrap()]);
    let of = |key: &Sysctl| lvs.reasons.of(&Item::Sysctl(key.clone())).unwrap().to_owned();
    let conf = lvs.state.sysctls.iter().filter(|(key, _)| key.device().is_some());
    conf.map(|(key, value)| (format!("{key}={value}"), of(key))).collect()
}

#[test]
fn a_director_that_is_the_gateway_takes_replies_with_its_own_vip_as_source() {
    let names =
        |text: &str| -> Vec<String> { settings(text).into_iter().map(|(it, _)| it).collect() };
    let all = settings(include_str!("../../tests/cases/walk/director-is-gateway.yaml"));
    let names_of_all: Vec<&str> = all.iter().map(|(it, _)| it.as_str()).collect();
    let expected = [
        "net.ipv4.conf.eth0.accept_local=1",
        "net.ipv4.conf.eth1.accept_local=1",
        "net.ipv4.conf.eth1.rp_filter=2",
    ];
    assert_eq!(names_of_all, expected);
    assert!(
        all[0].1.starts_with("replies of front with source 203.0.113.80 come in on eth0"),
        "{all:?}"
    );
    let one = names(include_str!("../../tests/cases/accepted/director-is-gateway.yaml"));
    assert_eq!(one, ["net.ipv4.conf.eth0.accept_local=1"]);
    let without =
        names(include_str!("../../tests/cases/accepted/director-is-gateway-without-clients.yaml"));
    assert_eq!(without, expected[1..]);
    let none = names(include_str!("../../tests/cases/accepted/director-is-gateway-of-none.yaml"));
    assert_eq!(none, [""; 0]);
    let six = names(include_str!("../../tests/cases/accepted/director-is-gateway-ipv6.yaml"));
    assert!(six.iter().all(|it| !it.contains("accept_local")), "{six:?}");
}

#[test]
fn a_stricter_arp_ignore_serves_where_all_that_ask_are_in_the_subnet() {
    let arp_ignore = |text: &str| {
        let read = topology::read("t.yaml", text).topology.unwrap();
        let web1 = desired_for(&read, &read.hosts[&"web1".parse().unwrap()]);
        web1.accepted[&Sysctl::all(ConfItem::ArpIgnore)].clone()
    };
    let text = |lvs: &str, role: &str, vip: &str| {
        format!(
            "version: 1
name: t
networks: {{lan: [192.0.0.0/16, 198.51.100.0/24]}}
hosts:
  lvs: {{role: director, interfaces: {{eth0: {lvs}}}}}
  web1: {{role: {role}, interfaces: {{eth0: 192.0.2.3/24}}}}
services:
  - {{vip: {vip}, port: 80, forward: dr, real_servers: [web1]}}
"
        )
    };
    let (both, only_1) = (AcceptedValues::of([1, 2]), AcceptedValues::of([1]));
    let serving = "real_server";
    assert_eq!(arp_ignore(&text("192.0.2.2/24", serving, "192.0.2.80")), both);
    assert_eq!(
        arp_ignore(&text("[192.0.2.2/24, 198.51.100.2/24]", serving, "198.51.100.80")),
        both
    );
    assert_eq!(arp_ignore(&text("192.0.2.2/16", serving, "192.0.2.80")), only_1);
    // The director asks with the VIP as its sender.
    assert_eq!(arp_ignore(&text("192.0.2.2/24", serving, "192.0.9.80/16")), only_1);
    assert_eq!(arp_ignore(&text("192.0.2.2/24", "[real_server, client]", "192.0.2.80")), only_1);
}
