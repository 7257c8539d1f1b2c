//! Rules made by hand: verdicts that are known in part, and walks through hosts that have them.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::*;
use crate::desired::{desired, expected_requests};
use crate::names::HostName;
use crate::state::Sysctl;
use crate::state::firewall::{
    Comparison, FilterFamily, FilterField, FilterSet, Octets, SetElement,
};
use crate::topology;
use crate::walk::hooked_packet::PacketDevice;
use crate::walk::{Cause, Walk, WalkVerdict, World};

fn rule(handle: u64, ops: &[FilterOp]) -> FilterRule {
    FilterRule { handle, ops: ops.to_vec() }
}

fn verdict(verdict: RuleVerdict) -> FilterOp {
    FilterOp::Verdict(verdict)
}

fn accept() -> FilterOp {
    verdict(RuleVerdict::Accept)
}

fn discard() -> FilterOp {
    verdict(RuleVerdict::Drop)
}

fn unread() -> FilterOp {
    FilterOp::Unread("limit".to_owned())
}

fn to_port(port: u16) -> [FilterOp; 2] {
    let field = FilterField::Transport { offset: 2, length: 2 };
    let with = Octets(port.to_be_bytes().to_vec());
    [FilterOp::Load { field, to: 0 }, FilterOp::Compare { at: 0, how: Comparison::Equal, with }]
}

fn in_state(bits: u32) -> FilterOp {
    FilterOp::States { bits, negated: false }
}

fn chain(hook: HookPoint, drops: bool, rules: Vec<FilterRule>) -> FilterChain {
    let base = Some(FilterBase { hook, priority: 0, nat: false, drops });
    FilterChain { name: hook.to_string(), base, rules }
}

fn table(chains: Vec<FilterChain>) -> FilterTable {
    let (family, name, sets) = (FilterFamily::Inet, "fw".to_owned(), BTreeMap::new());
    FilterTable { family, name, chains, sets, unread: None }
}

fn firewall(chains: Vec<FilterChain>) -> Firewall {
    Firewall { tables: vec![table(chains)], indexes: BTreeMap::new() }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn packet() -> HookedPacket<'static> {
    HookedPacket {
        incoming: PacketDevice::Unclear,
        outgoing: PacketDevice::None,
        source: ip("198.51.100.9"),
        target: ip("192.0.2.80"),
        protocol: 6,
        ports: Some([None, Some(80)]),
        tcp_flags: Some(2),
        icmp: None,
        mark: Some(0),
        state: Some(NEW),
        is_fresh: false,
    }
}

fn judged(firewall: &Firewall, packet: &HookedPacket<'_>) -> FilterEnd {
    firewall.judge(HookPoint::Input, &(i32::MIN..=i32::MAX), packet).end
}

/// Of rules in a chain of input: passes, drops, or not known.
fn end_of(drops: bool, rules: Vec<FilterRule>) -> &'static str {
    match judged(&firewall(vec![chain(HookPoint::Input, drops, rules)]), &packet()) {
        FilterEnd::Passes => "passes",
        FilterEnd::Drops(_) => "drops",
        FilterEnd::Unclear(_) => "unclear",
    }
}

#[test]
fn what_is_not_known_decides_only_where_it_could() {
    let maybe = |verdict: FilterOp| rule(1, &[unread(), verdict]);
    assert_eq!(end_of(false, vec![]), "passes");
    assert_eq!(end_of(true, vec![]), "drops");
    assert_eq!(end_of(false, vec![maybe(discard())]), "unclear");
    assert_eq!(end_of(true, vec![maybe(discard())]), "drops");
    assert_eq!(end_of(true, vec![maybe(accept())]), "unclear");
    assert_eq!(end_of(true, vec![maybe(accept()), rule(2, &[accept()])]), "passes");
    assert_eq!(
        end_of(false, vec![maybe(verdict(RuleVerdict::Return)), rule(2, &[discard()])]),
        "unclear"
    );
    assert_eq!(
        end_of(true, vec![maybe(verdict(RuleVerdict::Return)), rule(2, &[discard()])]),
        "drops"
    );
    // It asks for another port, before or behind what is not known.
    let [load, compare] = to_port(443);
    for ops in
        [[unread(), load.clone(), compare.clone(), discard()], [load, compare, unread(), discard()]]
    {
        assert_eq!(end_of(false, vec![rule(1, &ops)]), "passes");
    }
    // The port of the client is not known; that it has one below 1024 is not so.
    let from = |ranges: &[(u16, u16)]| {
        let ranges = ranges.to_vec();
        let ports = FilterOp::Ports { source: true, target: false, ranges, negated: false };
        vec![rule(1, &[ports, discard()])]
    };
    assert_eq!(end_of(false, from(&[(1, 1023)])), "passes");
    assert_eq!(end_of(false, from(&[(1024, 65535)])), "drops");
    assert_eq!(end_of(false, from(&[(49152, 65535)])), "unclear");
}

#[test]
fn chains_that_are_called_come_back_or_end_the_way() {
    let called = |how: fn(String) -> RuleVerdict, rules: Vec<FilterRule>| {
        let base = chain(
            HookPoint::Input,
            false,
            vec![rule(1, &[verdict(how("own".to_owned()))]), rule(2, &[discard()])],
        );
        let own = FilterChain { name: "own".to_owned(), base: None, rules };
        match judged(&firewall(vec![base, own]), &packet()) {
            FilterEnd::Passes => "passes",
            FilterEnd::Drops(_) => "drops",
            FilterEnd::Unclear(_) => "unclear",
        }
    };
    assert_eq!(called(RuleVerdict::Jump, vec![]), "drops");
    assert_eq!(called(RuleVerdict::Goto, vec![]), "passes", "the policy");
    assert_eq!(called(RuleVerdict::Jump, vec![rule(3, &[accept()])]), "passes");
    assert_eq!(called(RuleVerdict::Jump, vec![rule(3, &[verdict(RuleVerdict::Return)])]), "drops");
    assert_eq!(called(RuleVerdict::Jump, vec![rule(3, &[unread(), accept()])]), "unclear");
    assert_eq!(
        called(RuleVerdict::Jump, vec![rule(3, &[verdict(RuleVerdict::Jump("no".to_owned()))])]),
        "unclear"
    );
}

#[test]
fn a_later_chain_drops_what_an_earlier_one_accepts_or_may_drop() {
    for first in [accept(), discard()] {
        let mut early = chain(HookPoint::Input, false, vec![rule(1, &[unread(), first])]);
        early.name = "early".to_owned();
        early.base = early.base.map(|base| FilterBase { priority: -10, ..base });
        let late = chain(HookPoint::Input, true, vec![]);
        let end = judged(&firewall(vec![late, early]), &packet());
        let by = FilterDrop {
            chain: "nftables chain inet fw input".to_owned(),
            rule: "policy".to_owned(),
            shown_by: "nft -a list chain inet fw input".to_owned(),
        };
        assert_eq!(end, FilterEnd::Drops(by));
    }
}

#[test]
fn a_set_that_was_not_read_and_a_table_that_was_not_are_not_known() {
    let lookup =
        FilterOp::Lookup { at: 0, set: "s".to_owned(), negated: false, gives: MapResult::Nothing };
    let load = FilterOp::Load { field: FilterField::Network { offset: 16, length: 4 }, to: 0 };
    let mut rules =
        firewall(vec![chain(HookPoint::Input, false, vec![rule(1, &[load, lookup, discard()])])]);
    let key = Some(Octets(vec![192, 0, 2, 80]));
    let element = SetElement { key, ..SetElement::default() };
    let set = FilterSet { length: 4, elements: vec![element], ..FilterSet::default() };
    rules.tables[0].sets.insert("s".to_owned(), set);
    assert!(matches!(judged(&rules, &packet()), FilterEnd::Drops(_)));
    rules.tables[0].sets.get_mut("s").unwrap().unread = Some("too large".to_owned());
    assert!(matches!(judged(&rules, &packet()), FilterEnd::Unclear(_)));
    rules.tables[0].chains[0].rules.clear();
    rules.tables[0].unread = Some("5000 rules are too many".to_owned());
    let FilterEnd::Unclear(why) = judged(&rules, &packet()) else { panic!("known") };
    assert_eq!(why, "the nftables chain inet fw input was not read: 5000 rules are too many");
}

const HOSTS: &str = "version: 1
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
  - {name: web, vip: 198.51.100.80, port: 80, forward: nat, real_servers: [{host: web1, port: 8080}]}
";

/// The walk where `host` has these rules, and these settings.
fn walk(file: &str, host: &str, chains: Vec<FilterChain>, settings: &[(&str, &str)]) -> Walk {
    let topology = topology::read("walk.yaml", file).topology.unwrap();
    let states = desired(&topology).into_iter().map(|(name, it)| (name, it.state)).collect();
    let mut world = World::of_file(&topology, &states);
    let host: HostName = host.parse().unwrap();
    let machine = world.machines.get_mut(&host).unwrap();
    machine.firewall = Arc::new(firewall(chains));
    for (key, value) in settings {
        machine.sysctls.insert(key.parse::<Sysctl>().unwrap(), (*value).to_owned());
    }
    world.is_filtered = true;
    let expected = expected_requests(&topology).next().unwrap();
    world.walk(&expected.request)
}

/// The packet that is dropped, the hook, its state, and whether it is the reply; empty: none is.
fn dropped(walk: Walk) -> String {
    match walk.end {
        WalkVerdict::Answered => String::new(),
        WalkVerdict::Dead { death, in_reply } => {
            let Cause::Filtered { hook, packet, state, .. } = death.cause else {
                panic!("{death}")
            };
            let what = if in_reply { "reply" } else { "request" };
            format!("{what}: {packet} at {hook}, {}", state.unwrap_or("not known"))
        }
        WalkVerdict::Unknown(missing) => panic!("{missing}"),
    }
}

fn of(forward: &str) -> String {
    HOSTS.replace("FORWARD", forward)
}

#[test]
fn what_a_director_takes_must_pass_its_input() {
    let closed = || vec![chain(HookPoint::Input, true, vec![])];
    for forward in ["dr", "tun", "fullnat"] {
        let found = dropped(walk(&of(forward), "lvs", closed(), &[]));
        assert_eq!(
            found, "request: tcp to 192.0.2.80 port 80 from 198.51.100.9 at input, new",
            "{forward}"
        );
        let [load, compare] = to_port(80);
        let open = vec![chain(HookPoint::Input, true, vec![rule(1, &[load, compare, accept()])])];
        assert_eq!(dropped(walk(&of(forward), "lvs", open, &[])), "");
    }
    // IPVS takes the request first.
    let mut late = closed();
    late[0].base = late[0].base.map(|base| FilterBase { priority: 100, ..base });
    assert_eq!(dropped(walk(&of("dr"), "lvs", late, &[])), "");
}

#[test]
fn what_ipvs_sends_passes_output_without_a_state() {
    let only_known = || {
        vec![chain(
            HookPoint::Output,
            true,
            vec![rule(1, &[in_state(NEW | ESTABLISHED), accept()])],
        )]
    };
    let found = dropped(walk(&of("dr"), "lvs", only_known(), &[]));
    assert_eq!(found, "request: tcp to 192.0.2.80 port 80 from 198.51.100.9 at output, untracked");
    let found = dropped(walk(NAT, "lvs", only_known(), &[]));
    assert_eq!(found, "request: tcp to 192.0.2.3 port 8080 from 198.51.100.9 at output, untracked");
    // What is wrapped is a new packet, and FULLNAT needs connection tracking.
    assert_eq!(dropped(walk(&of("tun"), "lvs", only_known(), &[])), "");
    assert_eq!(dropped(walk(&of("fullnat"), "lvs", only_known(), &[])), "");
    let closed = vec![chain(HookPoint::Output, true, vec![])];
    let found = dropped(walk(&of("tun"), "lvs", closed, &[]));
    assert_eq!(found, "request: IP protocol 4 to 192.0.2.3 from 192.0.2.2 at output, new");
}

#[test]
fn a_real_server_must_accept_what_is_wrapped_and_what_is_in_it() {
    let accepting = |rules: Vec<FilterRule>| vec![chain(HookPoint::Input, true, rules)];
    let protocol = FilterOp::Load { field: FilterField::Protocol, to: 0 };
    let is = |protocol| {
        let with = Octets(vec![protocol]);
        FilterOp::Compare { at: 0, how: Comparison::Equal, with }
    };
    let [load, compare] = to_port(80);
    let port = rule(1, &[protocol.clone(), is(6), load, compare, accept()]);
    let found = dropped(walk(&of("tun"), "web1", accepting(vec![port.clone()]), &[]));
    assert_eq!(found, "request: IP protocol 4 to 192.0.2.3 from 192.0.2.2 at input, new");
    let wrapped = rule(2, &[protocol, is(4), accept()]);
    let found = dropped(walk(&of("tun"), "web1", accepting(vec![wrapped.clone()]), &[]));
    assert_eq!(found, "request: tcp to 192.0.2.80 port 80 from 198.51.100.9 at input, new");
    assert_eq!(dropped(walk(&of("tun"), "web1", accepting(vec![wrapped, port]), &[])), "");
}

#[test]
fn replies_of_nat_are_invalid_until_connections_are_tracked() {
    let careful = || {
        let invalid = rule(1, &[in_state(INVALID), discard()]);
        vec![chain(HookPoint::Forward, false, vec![invalid])]
    };
    let found = walk(NAT, "lvs", careful(), &[]);
    let WalkVerdict::Dead { death, .. } = &found.end else { panic!("{found:?}") };
    let cure = death.cause.cure(&death.host);
    assert!(cure.contains("conntrack: 1"), "{cure}");
    assert_eq!(
        dropped(found),
        "reply: tcp from 192.0.2.3 port 8080 to 198.51.100.9 at forward, invalid"
    );
    let tracked = [("net.ipv4.vs.conntrack", "1")];
    assert_eq!(dropped(walk(NAT, "lvs", careful(), &tracked)), "");
    // The director's input sees requests, and they are new.
    let input =
        vec![chain(HookPoint::Input, false, vec![rule(1, &[in_state(INVALID), discard()])])];
    assert_eq!(dropped(walk(NAT, "lvs", input, &[])), "");
}

#[test]
fn the_first_packets_may_pass_where_later_ones_do_not() {
    let only_new = |hook| vec![chain(hook, true, vec![rule(1, &[in_state(NEW), accept()])])];
    // The handshake does not come to its end.
    let found = dropped(walk(&of("dr"), "web1", only_new(HookPoint::Input), &[]));
    assert_eq!(found, "request: tcp to 192.0.2.80 port 80 from 198.51.100.9 at input, established");
    // The router sees the reply, which is not new.
    let found = dropped(walk(&of("dr"), "router", only_new(HookPoint::Forward), &[]));
    assert_eq!(found, "reply: tcp from 192.0.2.80 port 80 to 198.51.100.9 at forward, established");
    // A director of dr sees no replies: with conntrack its acknowledgements are invalid, without it each packet is new.
    let found =
        walk(&of("dr"), "lvs", only_new(HookPoint::Input), &[("net.ipv4.vs.conntrack", "1")]);
    assert_eq!(found.hops[0].text, "has its connection; what follows is a later packet of it");
    assert_eq!(
        dropped(found),
        "request: tcp to 192.0.2.80 port 80 from 198.51.100.9 at input, invalid"
    );
    assert_eq!(dropped(walk(&of("dr"), "lvs", only_new(HookPoint::Input), &[])), "");
}

#[test]
fn rules_that_are_not_known_hinder_nothing_and_are_named() {
    let unclear = vec![chain(HookPoint::Input, true, vec![rule(7, &[unread(), accept()])])];
    let found = walk(&of("dr"), "lvs", unclear, &[]);
    assert_eq!(found.end, WalkVerdict::Answered);
    let why = "the nftables chain inet fw input: the rule with handle 7 (limit)";
    assert_eq!(found.unclear, [("lvs".parse().unwrap(), why.to_owned())]);
    // What is rewritten is another packet.
    let mut nat =
        chain(HookPoint::Prerouting, false, vec![rule(3, &[FilterOp::Alter("nat".to_owned())])]);
    nat.base = nat.base.map(|base| FilterBase { nat: true, priority: -100, ..base });
    let found = walk(&of("dr"), "lvs", vec![nat, chain(HookPoint::Input, true, vec![])], &[]);
    assert_eq!((found.end, found.unclear.len()), (WalkVerdict::Answered, 1));
}

const IPV6: &str = "version: 1
name: walk
networks: {lan: ['2001:db8::/64']}
hosts:
  client: {role: client, interfaces: {eth0: '2001:db8::9/64'}}
  lvs: {role: director, interfaces: {eth0: '2001:db8::2/64'}}
  web1: {role: real_server, interfaces: {eth0: '2001:db8::3/64'}}
services:
  - {name: web, vip: '2001:db8::80', port: 80, forward: dr, real_servers: [web1]}
";

#[test]
fn ipv6_needs_neighbour_discovery_on_both_sides() {
    let is_type = |kind| {
        let load = |field| FilterOp::Load { field, to: 0 };
        let is = |byte| {
            let with = Octets(vec![byte]);
            FilterOp::Compare { at: 0, how: Comparison::Equal, with }
        };
        let icmp = [load(FilterField::Protocol), is(58)];
        let kind = [load(FilterField::Transport { offset: 0, length: 1 }), is(kind)];
        [icmp, kind].concat()
    };
    let rules = |hook, kind, last| {
        vec![chain(hook, false, vec![rule(1, &[is_type(kind), vec![last]].concat())])]
    };
    let found = |host, hook, kind| dropped(walk(IPV6, host, rules(hook, kind, discard()), &[]));
    // The director's VIP is asked for, by its multicast group.
    assert_eq!(
        found("lvs", HookPoint::Input, 135),
        "request: icmpv6 type nd-neighbor-solicit from 2001:db8::9 to ff02::1:ff00:80 at input, not known"
    );
    // The answer leaves the director, and comes to the client.
    for (host, hook) in [("lvs", HookPoint::Output), ("client", HookPoint::Input)] {
        assert_eq!(
            found(host, hook, 136),
            format!(
                "request: icmpv6 type nd-neighbor-advert from 2001:db8::80 to 2001:db8::9 at {hook}, not known"
            )
        );
    }
    // The director asks for the real server.
    assert!(found("web1", HookPoint::Input, 135).contains("to ff02::1:ff00:3 at input"));
    // Echo requests are not needed, nor what is forwarded.
    assert_eq!(found("lvs", HookPoint::Input, 128), "");
    assert_eq!(found("lvs", HookPoint::Forward, 135), "");
    // Connection tracking leaves it alone: rules that know connections do not let it pass.
    let known = rule(1, &[in_state(NEW | ESTABLISHED), accept()]);
    let closed = vec![chain(HookPoint::Input, true, vec![known])];
    assert!(dropped(walk(IPV6, "lvs", closed, &[])).contains("nd-neighbor-solicit"));
}
