//! Derived values: their sources, and the choice among several candidates.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::IpAddr;

use super::*;
use crate::check::examine;
use crate::finding::Severity;
use crate::state::Protocol;

/// A topology without errors.
fn topology(text: &str) -> Topology {
    let examined = examine("test.yaml", text);
    let errors: Vec<_> =
        examined.findings.iter().filter(|f| f.severity == Severity::Error).collect();
    examined.topology.unwrap_or_else(|| panic!("{errors:#?}"))
}

fn host<'a>(topology: &'a Topology, name: &str) -> &'a Host {
    &topology.hosts[&name.parse::<HostName>().unwrap()]
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A director on two networks, a router, and the given services.
fn with_services(director: &str, services: &str) -> String {
    format!(
        "version: 1
name: test
networks: {{front: [192.0.2.0/24, 203.0.113.0/24], back: [10.0.0.0/24]}}
defaults: {{forward: nat, port: 80}}
hosts:
  router: {{role: router, interfaces: {{eth0: [192.0.2.1/24, 203.0.113.1/24]}}}}
  lvs: {{role: director, {director}}}
  rs1: {{role: real_server, interfaces: {{eth0: 10.0.0.11/24}}}}
  rs2: {{role: real_server, interfaces: {{eth0: 10.0.0.12/24}}}}
services:
{services}
"
    )
}

const TWO_NICS: &str = "interfaces: {eth0: 192.0.2.2/24, eth1: 10.0.0.1/24}, gateway: router";

#[test]
fn defaults_apply_only_to_keys_that_a_service_lacks() {
    let text = with_services(
        TWO_NICS,
        "  - {vip: 192.0.2.80, real_servers: [rs1, {host: rs2, weight: 5, port: 8080}]}
  - {name: dns, vip: 192.0.2.80, protocol: udp, port: 53, scheduler: sed, real_servers: [rs2]}",
    );
    let text = text.replace("port: 80}", "port: 80, scheduler: wrr, weight: 7, protocol: tcp}");
    let topology = topology(&text);
    let [web, dns] = topology.services.as_slice() else { panic!("{topology:#?}") };
    assert_eq!(
        (web.name.as_str(), web.port, web.protocol),
        ("tcp-192.0.2.80-80", 80, Protocol::Tcp)
    );
    assert_eq!((web.scheduler, web.real_servers[0].forward), (Scheduler::Wrr, Forward::Nat));
    let reals: Vec<_> = web.real_servers.iter().map(|r| (r.rip, r.port, r.weight)).collect();
    assert_eq!(reals, [(ip("10.0.0.11"), 80, 7), (ip("10.0.0.12"), 8080, 5)]);
    assert_eq!((dns.name.as_str(), dns.port, dns.scheduler), ("dns", 53, Scheduler::Sed));
    assert_eq!(dns.real_servers[0].port, 53);
}

#[test]
fn without_any_defaults_it_is_wlc_tcp_and_weight_one() {
    let text = with_services(TWO_NICS, "  - {vip: 192.0.2.80, real_servers: [rs1, rs2]}");
    let service = &topology(&text).services[0];
    assert_eq!((service.scheduler, service.protocol), (Scheduler::Wlc, Protocol::Tcp));
    assert!(service.real_servers.iter().all(|r| r.weight == 1));
    assert_eq!(service.director.as_str(), "lvs");
}

#[test]
fn the_vip_goes_where_it_is_then_where_it_fits_then_where_clients_come_from() {
    let interface = |director: &str, vip: &str| {
        let service = format!("  - {{vip: {vip}, real_servers: [rs1, rs2]}}");
        let topology = topology(&with_services(director, &service));
        topology.services[0].vip.as_ref().unwrap().interface.to_string()
    };
    let own = "interfaces: {eth0: [192.0.2.2/24, 192.0.2.80/24], eth1: 10.0.0.1/24}";
    assert_eq!(interface(own, "192.0.2.80"), "eth0", "has it already");
    assert_eq!(interface(TWO_NICS, "192.0.2.80"), "eth0", "in its subnet");
    assert_eq!(interface(TWO_NICS, "10.0.0.80"), "eth1", "in its subnet");
    assert_eq!(interface(TWO_NICS, "203.0.113.80"), "eth0", "in a subnet of its network");
    assert_eq!(interface(TWO_NICS, "100.64.0.80"), "eth0", "on the way to its gateway");
    let no_gateway = TWO_NICS.replace(", gateway: router", "");
    assert_eq!(interface(&no_gateway, "100.64.0.80"), "eth0", "on the wire with the router");
}

#[test]
fn nat_makes_the_director_the_gateway_and_a_default_gateway_does_not_stand_in_its_way() {
    let text = with_services(TWO_NICS, "  - {vip: 192.0.2.80, real_servers: [rs1, rs2]}");
    let text = text.replace("port: 80}", "port: 80, gateway: router}");
    let topology = topology(&text);
    let gateway = host(&topology, "rs1").gateways.first().unwrap();
    assert_eq!((gateway.address, gateway.derived), (ip("10.0.0.1"), true));
    assert_eq!(gateway.host.as_ref().unwrap().as_str(), "lvs");
    assert_eq!(gateway.interface.as_str(), "eth0");
    let lvs = host(&topology, "lvs").gateways.first().unwrap();
    assert_eq!((lvs.address, lvs.derived), (ip("192.0.2.1"), false));
    assert_eq!(host(&topology, "router").gateways, [], "no host is its own gateway");
}

#[test]
fn a_gateway_is_found_by_name_on_the_network_that_both_are_on() {
    let text = std::fs::read_to_string("playbooks/dr-two-networks.yaml").unwrap();
    let topology = topology(&text);
    for (name, address) in
        [("client", "192.168.244.129"), ("lvs", "192.168.142.133"), ("web1", "192.168.142.133")]
    {
        let gateway = host(&topology, name).gateways.first().unwrap();
        assert_eq!(gateway.address, ip(address), "{name}");
        assert_eq!(gateway.host.as_ref().unwrap().as_str(), "router", "{name}");
    }
    let lvs = host(&topology, "lvs").interfaces.values().next().unwrap();
    assert_eq!(lvs.network.as_ref().unwrap().as_str(), "farm");
    let vip = topology.services[0].vip.as_ref().unwrap();
    assert_eq!((vip.prefix, vip.prefix_on_director()), (None, 32));
}

#[test]
fn an_address_of_no_host_in_the_file_may_be_a_gateway() {
    let text = with_services(
        &TWO_NICS.replace("gateway: router", "gateway: 192.0.2.254"),
        "  - {vip: 192.0.2.80, real_servers: [rs1, rs2]}",
    );
    let gateway = host(&topology(&text), "lvs").gateways[0].clone();
    assert_eq!((gateway.address, gateway.host), (ip("192.0.2.254"), None));
}

#[test]
fn a_prefix_written_once_holds_for_every_service_of_the_vip() {
    let text = with_services(
        TWO_NICS,
        "  - {vip: 203.0.113.80, real_servers: [rs1, rs2]}
  - {vip: 203.0.113.80/24, port: 81, real_servers: [rs1, rs2]}",
    );
    assert!(topology(&text).services.iter().all(|s| s.vip.as_ref().unwrap().prefix == Some(24)));
}

#[test]
fn reach_follows_the_file() {
    let text = with_services(TWO_NICS, "  - {vip: 192.0.2.80, real_servers: [rs1, rs2]}")
        .replace("rs1: {", "rs1: {ssh: root@rs1:2222, ")
        .replace("rs2: {", "rs2: {netns: rs2, ")
        .replace("lvs: {", "lvs: {local: true, ")
        .replace("router: {", "router: {netns: /proc/42/ns/net, ");
    let topology = topology(&text);
    let reach = |name| host(&topology, name).reach.clone().unwrap();
    let Reach::Ssh(target) = reach("rs1") else { panic!("{:?}", reach("rs1")) };
    assert_eq!(target.to_string(), "root@rs1:2222");
    assert_eq!(reach("rs2"), Reach::Netns("/run/netns/rs2".into()));
    assert_eq!(reach("lvs"), Reach::Local);
    assert_eq!(reach("router"), Reach::Netns("/proc/42/ns/net".into()));
}

#[test]
fn positions_point_at_the_text_of_their_item() {
    let text = std::fs::read_to_string("playbooks/nat-two-nics.yaml").unwrap();
    let topology = topology(&text);
    let at = |p: Position| {
        let line = text.lines().nth(p.line as usize - 1).unwrap();
        let chars = line.chars().skip(p.column as usize - 1);
        chars.take(p.length as usize).collect::<String>()
    };
    let web = topology.services.iter().find(|s| s.name.as_str() == "web").unwrap();
    assert_eq!(at(web.at), "web");
    assert_eq!(at(web.vip.as_ref().unwrap().at), "172.16.100.8");
    assert_eq!(at(web.real_servers[1].at), "{host: rs2, port: 8080, weight: 3}");
    let rs1 = host(&topology, "rs1");
    assert_eq!(at(rs1.at), "rs1");
    assert_eq!(at(rs1.interfaces.values().next().unwrap().at), "192.168.12.11/24");
    assert_eq!(at(topology.networks.values().next().unwrap().at), "inside");
}

#[test]
fn line_ends_of_windows_a_byte_order_mark_and_wide_characters_change_nothing() {
    let text = std::fs::read_to_string("playbooks/tun.yaml").unwrap();
    let plain = topology(&text);
    assert_eq!(topology(&text.replace('\n', "\r\n")), plain);
    assert_eq!(topology(&format!("\u{feff}{text}")), plain);
    assert_eq!(topology(&text.replacen("IPIP tunnels", "隧道 тоннель", 1)), plain);
}

#[test]
fn with_an_error_there_is_no_topology_and_with_a_warning_there_is() {
    let text =
        with_services(TWO_NICS, "  - {vip: 192.0.2.80, scheduler: sh, real_servers: [rs1, rs2]}");
    let examined = examine("x", &text);
    assert_eq!(examined.findings.len(), 1, "{:#?}", examined.findings);
    assert_eq!(examined.findings[0].severity, Severity::Warning);
    assert!(examined.topology.is_some());
    assert!(examine("x", &text.replace("sh,", "sh2,")).topology.is_none());
}

/// Two routers between the clients and the farm; `routes` is of the first.
fn with_routes(routes: &str) -> Topology {
    topology(&format!(
        r#"
version: 1
name: t
networks: {{clients: [198.51.100.0/24, "2001:db8:1::/64"], transit: [203.0.113.0/24, "2001:db8:2::/64"], farm: [192.0.2.0/24]}}
hosts:
  client: {{role: client, interfaces: {{eth0: 198.51.100.9/24}}, gateway: r1}}
  r1:
    role: router
    interfaces: {{eth0: [198.51.100.1/24, "2001:db8:1::1/64"], eth1: [203.0.113.1/24, "2001:db8:2::1/64"], eth2: 203.0.113.11/24}}
    routes: [{routes}]
  r2:
    role: router
    interfaces: {{eth0: [203.0.113.2/24, "2001:db8:2::2/64"], eth1: 192.0.2.1/24}}
    gateway: 203.0.113.1
  lvs: {{role: director, interfaces: {{eth0: 192.0.2.2/24}}, gateway: r2}}
  rs1: {{role: real_server, interfaces: {{eth0: 192.0.2.3/24}}, gateway: r2}}
services:
  - {{vip: 192.0.2.80, port: 80, forward: dr, real_servers: [rs1]}}
"#
    ))
}

#[test]
fn the_next_hop_of_a_route_is_named_or_an_address_over_the_interface_that_the_file_says() {
    let found = with_routes(
        "{to: 192.0.2.0/24, via: r2}, {to: \"2001:db8:9::/48\", via: r2}, \
         {to: 100.64.0.0/10, via: 203.0.113.77, interface: eth2}, \
         {to: 192.0.2.80/32, via: 203.0.113.2, interface: eth2}",
    );
    let shown: Vec<String> = host(&found, "r1")
        .routes
        .iter()
        .map(|StaticRoute { to, via }| {
            let host = via.host.as_ref().map_or("no host of the file", |name| name.as_str());
            format!("{to} by {} ({host}) on {}", via.address, via.interface)
        })
        .collect();
    assert_eq!(
        shown,
        [
            "100.64.0.0/10 by 203.0.113.77 (no host of the file) on eth2",
            "192.0.2.0/24 by 203.0.113.2 (r2) on eth1",
            "192.0.2.80/32 by 203.0.113.2 (r2) on eth2",
            "2001:db8:9::/48 by 2001:db8:2::2 (r2) on eth1",
        ]
    );
}

#[test]
fn the_longest_prefix_wins_and_a_connected_route_before_a_static_one() {
    let found = with_routes(
        "{to: 192.0.2.0/24, via: r2}, {to: 192.0.2.128/25, via: 203.0.113.77}, \
         {to: 198.51.100.128/25, via: r2}, {to: 198.51.0.0/16, via: 203.0.113.78}",
    );
    let via = |address: &str| match host(&found, "r1").next_hop(ip(address)) {
        None => "none".to_owned(),
        Some(NextHop::OnLink(interface, _)) => interface.name.to_string(),
        Some(NextHop::Via(gateway)) => gateway.address.to_string(),
    };
    assert_eq!(via("192.0.2.80"), "203.0.113.2");
    assert_eq!(via("192.0.2.200"), "203.0.113.77");
    assert_eq!(via("198.51.100.9"), "eth0", "connected, and longer than the /16");
    assert_eq!(via("198.51.100.200"), "203.0.113.2", "the /25 is longer than the connected /24");
    assert_eq!(via("198.51.7.7"), "203.0.113.78");
    assert_eq!(via("100.64.0.1"), "none");
    let r2 = host(&found, "r2").next_hop(ip("100.64.0.1"));
    assert!(matches!(r2, Some(NextHop::Via(gateway)) if gateway.address == ip("203.0.113.1")));
}
