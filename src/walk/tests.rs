#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::IpAddr;

use super::routes::Flow;
use super::*;
use crate::desired::{ExpectedRequest, desired, every_request, expected_requests};
use crate::state::routing::{PolicyRule, RouteEntry};
use crate::state::{
    Address, AddressKey, ConfItem, HostState, Link, PacketRule, Route, RouteKey, Scope, Sysctl,
    TunnelGuard,
};
use crate::topology::{self, Topology};

const DR: &str = "version: 1
name: walk
networks: {clients: [198.51.100.0/24], farm: [192.0.2.0/24]}
hosts:
  client: {role: client, interfaces: {eth0: 198.51.100.9/24}, gateway: router}
  router: {role: router, interfaces: {eth0: 198.51.100.1/24, eth1: 192.0.2.1/24}}
  lvs: {role: director, interfaces: {eth0: 192.0.2.2/24}, gateway: router}
  web1: {role: real_server, interfaces: {eth0: 192.0.2.3/24}, gateway: router}
services:
  - {name: web, vip: 192.0.2.80, port: 80, forward: FORWARD, real_servers: [web1]}
";

const NAT: &str = "version: 1
name: walk
networks: {clients: [198.51.100.0/24], farm: [192.0.2.0/24]}
hosts:
  client: {role: client, interfaces: {eth0: 198.51.100.9/24}}
  lvs: {role: director, interfaces: {eth0: 198.51.100.2/24, eth1: 192.0.2.2/24}}
  web1: {role: real_server, interfaces: {eth0: 192.0.2.3/24}}
services:
  - {name: web, vip: 198.51.100.80, port: 80, forward: nat, real_servers: [web1]}
";

fn read(text: &str) -> Topology {
    topology::read("walk.yaml", text).topology.unwrap()
}

fn states(topology: &Topology) -> HostStates {
    desired(topology).into_iter().map(|(name, it)| (name, it.state)).collect()
}

/// The first request, on hosts that `change` has changed.
fn walk(text: &str, change: impl FnOnce(&mut HostStates)) -> WalkVerdict {
    let topology = read(text);
    let mut states = states(&topology);
    change(&mut states);
    let world = World::of_file(&topology, &states);
    let ExpectedRequest { request, .. } = expected_requests(&topology).next().unwrap();
    world.walk(&request).end
}

fn host<'a>(states: &'a mut HostStates, name: &str) -> &'a mut HostState {
    states.get_mut(&name.parse::<HostName>().unwrap()).unwrap()
}

/// Where it dies, why, and whether it is the reply.
fn death(verdict: WalkVerdict) -> (String, Cause, bool) {
    match verdict {
        WalkVerdict::Dead { death, in_reply } => (death.host.to_string(), death.cause, in_reply),
        other => panic!("not dead: {other:?}"),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn every_method_is_answered_as_the_file_wants_its_hosts() {
    for forward in ["dr", "tun", "fullnat"] {
        assert_eq!(
            walk(&DR.replace("FORWARD", forward), |_| {}),
            WalkVerdict::Answered,
            "{forward}"
        );
    }
    assert_eq!(walk(NAT, |_| {}), WalkVerdict::Answered);
}

#[test]
fn a_router_that_does_not_forward_is_named() {
    let dr = DR.replace("FORWARD", "dr");
    let verdict = walk(&dr, |states| {
        host(states, "router").sysctls.remove(&Sysctl::IpForward);
    });
    let (at, cause, in_reply) = death(verdict);
    let dev = "eth0".parse().unwrap();
    assert_eq!((at.as_str(), in_reply), ("router", false));
    assert_eq!(cause, Cause::NotForwarding { dev, target: ip("192.0.2.80") });
}

#[test]
fn a_reply_that_bypasses_the_director_under_nat_comes_from_the_wrong_address() {
    let text = NAT.replace(
        "  web1: {role: real_server, interfaces: {eth0: 192.0.2.3/24}}",
        "  web1: {role: real_server, interfaces: {eth0: 192.0.2.3/24, eth1: 198.51.100.3/24}}",
    );
    let text =
        text.replace("real_servers: [web1]", "real_servers: [{host: web1, address: 192.0.2.3}]");
    let text = text.replace("198.51.100.9/24}}", "198.51.100.9/24}, gateway: 198.51.100.2}");
    let verdict = walk(&text, |_| {});
    let (at, cause, in_reply) = death(verdict);
    assert_eq!((at.as_str(), in_reply), ("client", true));
    let (source, expected) = (ip("192.0.2.3"), ip("198.51.100.80"));
    assert_eq!(cause, Cause::WrongSource { source, expected });
}

#[test]
fn without_arp_settings_the_real_server_answers_too() {
    let verdict = walk(&DR.replace("FORWARD", "dr"), |states| {
        host(states, "web1").sysctls.remove(&Sysctl::all(ConfItem::ArpIgnore));
    });
    let (at, cause, _) = death(verdict);
    let Cause::SeveralAnswer { hosts, .. } = cause else { panic!("{cause:?}") };
    let hosts: Vec<&str> = hosts.iter().map(HostName::as_str).collect();
    assert_eq!((at.as_str(), hosts), ("router", vec!["lvs", "web1"]));
}

#[test]
fn a_real_server_that_names_the_vip_in_its_arp_requests_misleads_who_sends_requests() {
    let one_network = DR
        .replace("FORWARD", "dr")
        .replace("198.51.100.9/24}, gateway: router}", "192.0.2.9/24}}")
        .replace("{clients: [198.51.100.0/24], farm", "{farm")
        .replace("eth0: 198.51.100.1/24, eth1: 192.0.2.1/24", "eth1: 192.0.2.1/24");
    assert_eq!(walk(&one_network, |_| {}), WalkVerdict::Answered);
    let verdict = walk(&one_network, |states| {
        host(states, "web1").sysctls.remove(&Sysctl::all(ConfItem::ArpAnnounce));
    });
    let (at, cause, in_reply) = death(verdict);
    let Cause::Announces { misled, .. } = cause else { panic!("{cause:?}") };
    assert_eq!((at.as_str(), misled.as_str(), in_reply), ("web1", "client", true));
}

#[test]
fn a_tunnel_device_that_is_down_or_has_no_address_takes_nothing() {
    let tun = DR.replace("FORWARD", "tun");
    let dev: crate::names::IfName = "tunl0".parse().unwrap();
    let down = walk(&tun, |states| {
        host(states, "web1").links.insert(dev.clone(), Link::Down);
    });
    assert_eq!(death(down).1, Cause::NotUnwrapped { rip: ip("192.0.2.3") });
    let bare = walk(&tun, |states| {
        let state = host(states, "web1");
        state.addresses.retain(|key, _| key.dev != dev);
        let lo = AddressKey { dev: "lo".parse().unwrap(), net: ip("192.0.2.80").into() };
        state.addresses.insert(lo, Address::plain(Scope::Host));
    });
    let Cause::SourceInvalid { rp_filter: 2, loose_passes: false, .. } = death(bare).1 else {
        panic!("a device without an address passes")
    };
}

#[test]
fn a_circle_of_gateways_ends() {
    let verdict = walk(&DR.replace("FORWARD", "dr"), |states| {
        for name in ["router", "lvs"] {
            let loose = Sysctl::all(ConfItem::RpFilter);
            host(states, name).sysctls.insert(loose, "2".to_owned());
        }
        // The VIP is nowhere, and the router and the director send it to each other.
        let lvs = host(states, "lvs");
        lvs.addresses.clear();
        lvs.sysctls.insert(Sysctl::IpForward, "1".to_owned());
        let key = RouteKey::host(ip("192.0.2.80"));
        lvs.routes.insert(key.clone(), Route::via(ip("192.0.2.1"), None));
        host(states, "router").routes.insert(key, Route::via(ip("192.0.2.2"), None));
    });
    assert_eq!(death(verdict).1, Cause::Loop { target: ip("192.0.2.80") });
}

#[test]
fn what_leaves_the_file_is_not_known() {
    let text = DR
        .replace("FORWARD", "dr")
        .replace("gateway: router}\n  router", "gateway: 198.51.100.77}\n  router");
    let WalkVerdict::Unknown(missing) = walk(&text, |_| {}) else { panic!("known") };
    assert!(missing.contains("198.51.100.77"), "{missing}");
}

#[test]
fn source_validation_is_loosened_where_strict_would_drop() {
    let topology = read(include_str!("../../tests/cases/walk/two-ways.yaml"));
    let all = states(&topology);
    for (name, dev) in [("director", "eth0"), ("web1", "tunl0"), ("web2", "tunl0")] {
        let key = Sysctl::dev(&dev.parse().unwrap(), ConfItem::RpFilter);
        let name: HostName = name.parse().unwrap();
        assert_eq!(all[&name].sysctls.get(&key).map(String::as_str), Some("2"), "{name} {dev}");
    }
}

/// The table of ip-sysctl.rst, asked of a host with 192.0.2.3/24 on eth0 and 192.0.2.80/32 on lo.
#[test]
fn arp_requests_are_answered_as_arp_ignore_says() {
    let topology = read(&DR.replace("FORWARD", "dr"));
    for (arp_ignore, of_eth0, of_lo) in [
        ("0", true, true),
        ("1", true, false),
        ("2", true, false),
        ("3", true, false),
        ("5", true, true),
        ("8", false, false),
    ] {
        let mut states = states(&topology);
        let key = Sysctl::all(ConfItem::ArpIgnore);
        host(&mut states, "web1").sysctls.insert(key, arp_ignore.to_owned());
        let world = World::of_file(&topology, &states);
        let web1 = world.machine(&"web1".parse().unwrap()).unwrap();
        let answers =
            |target| web1.answers_for(&"eth0".parse().unwrap(), Some(ip("192.0.2.1")), ip(target));
        assert_eq!((answers("192.0.2.3"), answers("192.0.2.80")), (of_eth0, of_lo), "{arp_ignore}");
    }
}

/// A director that asks its own VIP sends from its first address there, which real servers do not have; replies pass
/// where it is a router and takes its own VIP as a source (seen on Linux 6.1: random cluster 1101).
#[test]
fn a_host_that_asks_its_own_second_address_sends_from_the_first() {
    let topology =
        read(&DR.replace("FORWARD", "dr").replace("vip: 192.0.2.80", "vip: 192.0.2.80/24"));
    let world = World::of_file(&topology, &states(&topology));
    let lvs = world.machine(&"lvs".parse().unwrap()).unwrap();
    let source_to = |target: &str| {
        let flow = Flow { source: None, target: ip(target), iif: None, oif: None, mark: 0 };
        lvs.source_for(lvs.route(&flow).unwrap(), ip(target))
    };
    assert_eq!(source_to("192.0.2.80"), Some(ip("192.0.2.2")));
    assert_eq!(source_to("192.0.2.2"), Some(ip("192.0.2.2")));
    let alone = read(&DR.replace("FORWARD", "dr"));
    let world = World::of_file(&alone, &states(&alone));
    let lvs = world.machine(&"lvs".parse().unwrap()).unwrap();
    let flow = Flow { source: None, target: ip("192.0.2.80"), iif: None, oif: None, mark: 0 };
    assert_eq!(lvs.source_for(lvs.route(&flow).unwrap(), ip("192.0.2.80")), Some(ip("192.0.2.80")));
}

/// The sender that a host with 192.0.2.3/24 on eth0 and the VIP on lo names, for a packet from the VIP.
#[test]
fn arp_requests_name_the_sender_that_arp_announce_says() {
    let (near, far) = ("192.0.2.80", "203.0.113.80");
    for (arp_announce, near_named, far_named) in [
        ("0", near, far),
        ("1", near, "192.0.2.3"),
        ("2", "192.0.2.3", "192.0.2.3"),
        ("3", near, far),
    ] {
        for (vip, named) in [(near, near_named), (far, far_named)] {
            let topology = read(
                &DR.replace("FORWARD", "dr").replace("vip: 192.0.2.80", &format!("vip: {vip}")),
            );
            let mut states = states(&topology);
            let key = Sysctl::all(ConfItem::ArpAnnounce);
            host(&mut states, "web1").sysctls.insert(key, arp_announce.to_owned());
            let world = World::of_file(&topology, &states);
            let web1 = world.machine(&"web1".parse().unwrap()).unwrap();
            let target = ip("192.0.2.1");
            let flow = Flow { source: Some(ip(vip)), target, iif: None, oif: None, mark: 0 };
            let route = web1.route(&flow).unwrap();
            assert_eq!(
                web1.asks_as(route, ip(vip), target),
                Some(ip(named)),
                "{arp_announce} {vip}"
            );
        }
    }
}

#[test]
fn policy_rules_come_before_the_main_table() {
    let topology = read(&DR.replace("FORWARD", "dr"));
    let world = World::of_file(&topology, &states(&topology));
    let mut web1 = world.machine(&"web1".parse().unwrap()).unwrap().clone();
    let target = ip("198.51.100.9");
    let other = ip("192.0.2.254");
    let route = |kind, metric| RouteEntry {
        table: 100,
        destination: "198.51.100.0/24".parse().unwrap(),
        kind,
        gateway: Some(other),
        dev: Some("eth0".parse().unwrap()),
        metric,
        source: None,
        mtu: None,
    };
    let from = Some("192.0.2.80/32".parse().unwrap());
    let rule = PolicyRule { from, ..PolicyRule::plain(100, false, 100) };
    web1.rules.insert(1, rule);
    let flow = |source| Flow { source: Some(ip(source)), target, iif: None, oif: None, mark: 0 };
    let gateway = |machine: &Machine, source| machine.route(&flow(source)).unwrap().gateway;
    // The table is empty: the next rule is asked.
    assert_eq!(gateway(&web1, "192.0.2.80"), Some(ip("192.0.2.1")));
    web1.routes.add(route(RouteKind::Unicast, 10));
    assert_eq!(gateway(&web1, "192.0.2.80"), Some(other));
    assert_eq!(gateway(&web1, "192.0.2.3"), Some(ip("192.0.2.1")));
    web1.routes.add(route(RouteKind::Throw, 5));
    assert_eq!(gateway(&web1, "192.0.2.80"), Some(ip("192.0.2.1")), "throw goes on");
}

#[test]
fn a_client_with_the_vip_answers_itself_only_what_it_serves() {
    let topology = read(
        "version: 1
name: walk
networks: {farm: [192.0.2.0/24]}
hosts:
  lvs: {role: director, interfaces: {eth0: 192.0.2.2/24}}
  web1: {role: [real_server, client], interfaces: {eth0: 192.0.2.3/24}}
  web2: {role: real_server, interfaces: {eth0: 192.0.2.4/24}}
services:
  - {name: own, vip: 192.0.2.80, port: 80, forward: dr, real_servers: [web1]}
  - {name: other, vip: 192.0.2.80, port: 81, forward: dr, real_servers: [web2]}
  - {name: marked, vip: 192.0.2.80, mark: 5, ports: [82], forward: dr, real_servers: [web1]}
",
    );
    let world = World::of_file(&topology, &states(&topology));
    let of = |name: &str| {
        let mut all = every_request(&topology);
        world.walk(&all.find(|it| it.service.name.as_str() == name).unwrap().request).end
    };
    assert_eq!([of("own"), of("marked")], [WalkVerdict::Answered, WalkVerdict::Answered]);
    let past = Cause::WrongHost { target: ip("192.0.2.80") };
    assert_eq!(death(of("other")), ("web1".to_owned(), past, false));
}

const SIX: &str = "version: 1
name: walk
networks: {farm: [\"2001:db8:2::/64\"]}
hosts:
  client: {role: client, interfaces: {eth0: \"2001:db8:2::9/64\"}}
  lvs: {role: [director, client], interfaces: {eth0: \"2001:db8:2::2/64\"}}
  web1: {role: real_server, interfaces: {eth0: \"2001:db8:2::3/64\"}}
services:
";

/// The verdict on the request of `client` to the only service.
fn walk_six(client: &str, service: &str) -> WalkVerdict {
    let topology = read(&format!("{SIX}{service}"));
    let world = World::of_file(&topology, &states(&topology));
    let mut all = every_request(&topology);
    world.walk(&all.find(|it| it.client.name.as_str() == client).unwrap().request).end
}

#[test]
fn a_real_server_takes_nothing_that_is_wrapped_by_the_vip_over_ipv6() {
    let of = |vip: &str, tunnel: &str| {
        let keys = "port: 80, forward: tun, real_servers: [web1]";
        walk_six(
            "client",
            &format!("  - {{vip: \"2001:db8:2::{vip}\", tunnel: {tunnel}, {keys}}}\n"),
        )
    };
    let (host, cause, in_reply) = death(of("2", "ipip"));
    assert_eq!((host.as_str(), in_reply), ("web1", false));
    assert!(matches!(cause, Cause::OwnSource { source, .. } if source == ip("2001:db8:2::2")));
    assert_eq!([of("80", "ipip"), of("2", "gre")], [WalkVerdict::Answered, WalkVerdict::Answered]);
}

/// The director has another address than the file says, or than the rule was made for.
#[test]
fn a_real_server_takes_nothing_that_a_stranger_has_wrapped() {
    let tun = DR.replace("FORWARD", "tun");
    assert_eq!(walk(&tun, |_| ()), WalkVerdict::Answered);
    let other = |states: &mut HostStates| {
        for table in host(states, "web1").tables.values_mut() {
            let rules = std::mem::take(&mut table.rules);
            table.rules = rules
                .into_iter()
                .map(|rule| match rule {
                    PacketRule::Guard(guard) => {
                        let sources = ["192.0.2.7/32".parse().unwrap()].into();
                        TunnelGuard { sources, ..guard }.into()
                    }
                    rule => rule,
                })
                .collect();
        }
    };
    let cause = Cause::WrappedByStranger { source: ip("192.0.2.2"), vip: ip("192.0.2.80") };
    assert_eq!(death(walk(&tun, other)), ("web1".to_owned(), cause, false));
    let any = tun.replace("forward: tun", "forward: tun, tunnel: {type: ipip, sources: any}");
    assert_eq!(walk(&any, other), WalkVerdict::Answered);
}

#[test]
fn what_a_client_on_the_director_sends_is_marked_on_lo_and_nothing_is_said_of_nat_then() {
    let service =
        "  - {vip: \"2001:db8:2::80\", mark: 4, ports: [80], forward: nat, real_servers: [web1]}\n";
    let verdict = walk_six("lvs", service);
    assert!(matches!(verdict, WalkVerdict::Unknown(_)), "{verdict:?}");
}
