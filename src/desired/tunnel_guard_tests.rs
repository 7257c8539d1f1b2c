//! Which rules a real server gets against packets that no director has wrapped.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::super::desired;
use crate::state::{PacketRule, TunnelGuard};
use crate::topology;

/// Two directors, and a real server with two addresses of each family.
fn guards(services: &str) -> Vec<String> {
    let text = format!(
        r#"
version: 1
name: t
networks: {{lan: [192.0.2.0/24, "2001:db8::/64"]}}
hosts:
  client: {{role: client, interfaces: {{eth0: [192.0.2.9/24, "2001:db8::9/64"]}}}}
  lvs1: {{role: director, interfaces: {{eth0: [192.0.2.2/24, "2001:db8::2/64"]}}}}
  lvs2: {{role: director, interfaces: {{eth0: 192.0.2.3/24, eth1: 198.51.100.3/24}}}}
  web: {{role: real_server, interfaces: {{eth0: [192.0.2.4/24, "2001:db8::4/64"]}}}}
defaults: {{forward: tun}}
services:
{services}
"#
    );
    let text = text.replace("lan: [192.0.2.0/24,", "wan: [198.51.100.0/24], lan: [192.0.2.0/24,");
    let read = topology::read("t.yaml", &text);
    let topology = read.topology.unwrap_or_else(|| panic!("{:?}", read.findings));
    let web = &desired(&topology)[&"web".parse().unwrap()];
    let rules = web.state.tables.values().flat_map(|table| &table.rules);
    let guards =
        |rule: &&PacketRule| matches!(rule, PacketRule::Guard(_) | PacketRule::Fragments(_));
    rules.filter(guards).map(ToString::to_string).collect()
}

fn one(keys: &str) -> String {
    format!("  - {{director: lvs1, port: 80, real_servers: [web], {keys}}}\n")
}

#[test]
fn every_director_of_the_file_may_wrap_and_no_other_host() {
    assert_eq!(
        guards(&one("vip: 192.0.2.80")),
        ["wrapped in IPv4 for 192.0.2.80: only by 192.0.2.2, 192.0.2.3, 198.51.100.3"]
    );
    assert_eq!(
        guards(&one(r#"vip: "2001:db8::80""#)),
        [
            "wrapped in IPv6 for 2001:db8::80: only by 2001:db8::2",
            "fragments of wrapped packets that hide their VIP: only by 2001:db8::2",
        ]
    );
    // A VIP in a subnet of its own may be the source of what the director sends there.
    let from = "192.0.2.2, 192.0.2.3, 198.51.100.3";
    assert_eq!(
        guards(&one("vip: 203.0.113.80/24")),
        [format!("wrapped in IPv4 for 203.0.113.80: only by {from}, 203.0.113.80")]
    );
    assert_eq!(
        guards(&one("vip: 192.0.2.80/24")),
        [format!("wrapped in IPv4 for 192.0.2.80: only by {from}")]
    );
}

#[test]
fn every_vip_is_guarded_in_every_way_in_which_the_host_unwraps() {
    let from = "192.0.2.2, 192.0.2.3, 198.51.100.3";
    let gue = guards(&one("vip: 192.0.2.80, tunnel: {type: gue, port: 6080}"));
    assert_eq!(
        gue,
        [
            format!("wrapped in IPv4 for 192.0.2.80: only by {from}"),
            format!("wrapped in GUE (port 6080) over IPv4 for 192.0.2.80: only by {from}"),
        ],
        "tunl0 takes IPIP too"
    );
    let two = [
        one("vip: 192.0.2.80, tunnel: gre"),
        one("vip: 192.0.2.81"),
        one("vip: 192.0.2.82, forward: dr"),
        one("vip: 192.0.2.83, forward: fullnat"),
    ];
    let vips = "192.0.2.80, 192.0.2.81, 192.0.2.82";
    assert_eq!(
        guards(&two.concat()),
        [
            format!("wrapped in IPv4 for {vips}: only by {from}"),
            format!("wrapped in GRE over IPv4 for {vips}: only by {from}"),
        ]
    );
    assert!(guards(&two[2..].concat()).is_empty(), "the host unwraps nothing");
}

#[test]
fn both_families_inside_have_their_own_rules() {
    let both = [
        one(r#"vip: "2001:db8::80", tunnel: {type: gre, checksum: true}"#),
        one(r#"vip: 192.0.2.80, tunnel: {type: gre, checksum: true}, real_servers: [{host: web, address: "2001:db8::4"}]"#)
            .replace("real_servers: [web], ", ""),
    ];
    assert_eq!(
        guards(&both.concat()),
        [
            "wrapped in GRE with checksum over IPv6 for 192.0.2.80: only by 2001:db8::2",
            "wrapped in GRE with checksum over IPv6 for 2001:db8::80: only by 2001:db8::2",
            "fragments of wrapped packets that hide their VIP: only by 2001:db8::2",
        ]
    );
}

#[test]
fn the_file_names_further_sources_or_lets_all_in() {
    let also = "vip: 192.0.2.80, tunnel: {type: ipip, sources: [203.0.113.7, 10.0.0.0/8]}";
    let from = "192.0.2.2, 192.0.2.3, 198.51.100.3";
    assert_eq!(
        guards(&one(also)),
        [format!("wrapped in IPv4 for 192.0.2.80: only by 10.0.0.0/8, {from}, 203.0.113.7")]
    );
    let any = one("vip: 192.0.2.81, tunnel: {type: ipip, sources: any}");
    assert!(guards(&any).is_empty());
    // Of two services with one VIP the one that lets more in decides; another VIP keeps its rule.
    let same = any.replace("port: 80", "port: 81").replace("sources: any", "sources: 10.1.1.1");
    let all = [any, same, one("vip: 192.0.2.80")].concat();
    assert_eq!(guards(&all), [format!("wrapped in IPv4 for 192.0.2.80: only by {from}")]);
}

#[test]
fn it_drops_what_a_stranger_wrapped_and_what_was_wrapped_twice() {
    use crate::state::{Tunnel, TunnelHeader};
    let ip = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    let dev = |text: &str| text.parse::<crate::names::IfName>().unwrap();
    let guard = TunnelGuard {
        outside_v6: false,
        header: TunnelHeader::None,
        vips: [ip("192.0.2.80")].into(),
        sources: ["192.0.2.2/32".parse().unwrap(), "10.0.0.0/8".parse().unwrap()].into(),
        devices: [dev("tunl0")].into(),
    };
    let drops = |source: &str, on: &str, tunnel, vip: &str| {
        guard.drops((ip(source), &dev(on)), tunnel, ip(vip))
    };
    let vip = "192.0.2.80";
    assert!(drops("192.0.2.9", "eth0", Tunnel::Ipip, vip));
    assert!(!drops("192.0.2.2", "eth0", Tunnel::Ipip, vip));
    assert!(!drops("10.255.0.1", "eth0", Tunnel::Ipip, vip));
    assert!(drops("192.0.2.2", "tunl0", Tunnel::Ipip, vip));
    assert!(!drops("192.0.2.9", "eth0", Tunnel::Ipip, "192.0.2.81"));
    assert!(!drops("192.0.2.9", "eth0", Tunnel::Gre { flags: 0 }, vip));
    assert!(!drops("2001:db8::9", "eth0", Tunnel::Ipip, vip));
}
