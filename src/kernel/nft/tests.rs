//! The codec and the tables, without a kernel.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;

use super::codec::{
    self, Base, ObservedChain, ObservedRule, ObservedSet, SetKeys, message as kind,
};
use super::expr::Expr;
use super::filter;
use super::rule::{self, Chain};
use super::table::{self, TableContents};
use crate::kernel::wire::{self, AttributeList};
use crate::state::{
    FragmentGuard, PacketRule, PacketRules, Protocol, TableName, TunnelGuard, TunnelHeader,
};
use crate::support::fuzz;

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)]
}

fn family() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
        any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
    ]
}

fn packet_rule() -> impl Strategy<Value = PacketRule> {
    let ports = prop::collection::btree_set(any::<u16>(), 0..5);
    let mark = (any::<IpAddr>(), protocol(), ports, any::<u32>())
        .prop_map(|(vip, protocol, ports, mark)| PacketRule::Mark { vip, protocol, ports, mark });
    let masquerade = (family(), any::<bool>(), protocol(), any::<u16>()).prop_map(
        |((vip, rip), named, protocol, port)| PacketRule::Masquerade {
            vip: named.then_some(vip),
            rip,
            protocol,
            port,
        },
    );
    let clamp = (any::<IpAddr>(), any::<u16>())
        .prop_map(|(source, mss)| PacketRule::ClampMss { source, mss });
    let guards = prop_oneof![
        3 => guard().prop_map(PacketRule::from),
        1 => fragments().prop_map(PacketRule::from),
    ];
    prop_oneof![1 => mark, 1 => masquerade, 1 => clamp, 2 => guards]
}

fn fragments() -> impl Strategy<Value = FragmentGuard> {
    let ports = prop::collection::btree_set(1..=u16::MAX, 0..3);
    let net = (any::<[u8; 16]>(), 1..=128_u8)
        .prop_map(|(address, length)| IpNet::new(IpAddr::from(address), length).unwrap().trunc());
    let nets = prop::collection::btree_set(net, 1..4);
    let devices = prop::sample::subsequence(vec!["lvstnl0a000001", "sit0"], 0..=2);
    (any::<bool>(), any::<bool>(), ports, nets, devices)
        .prop_filter("guards nothing", |(plain, gre, ports, ..)| {
            *plain || *gre || !ports.is_empty()
        })
        .prop_map(|(plain, gre, gue_ports, sources, devices)| {
            let devices = devices.iter().map(|dev| dev.parse().unwrap()).collect();
            FragmentGuard { plain, gre, gue_ports, sources, devices }
        })
}

fn guard() -> impl Strategy<Value = TunnelGuard> {
    let header = prop_oneof![
        Just(TunnelHeader::None),
        any::<bool>().prop_map(|checksum| TunnelHeader::Gre { checksum }),
        (1..=u16::MAX).prop_map(|port| TunnelHeader::Gue { port }),
    ];
    let addresses = |ipv6: bool, most| {
        let address = if ipv6 {
            any::<[u8; 16]>().prop_map(IpAddr::from).boxed()
        } else {
            any::<[u8; 4]>().prop_map(IpAddr::from).boxed()
        };
        prop::collection::btree_set(address, 1..most)
    };
    let devices = prop::sample::subsequence(vec!["lvsgre0a000001", "sit0", "tunl0"], 0..=3);
    (any::<bool>(), any::<bool>(), header, devices).prop_flat_map(
        move |(outside_v6, inside_v6, header, devices)| {
            let nets = prop::collection::vec(1..=128_u8, 4);
            (addresses(inside_v6, 4), addresses(outside_v6, 4), nets).prop_map(
                move |(vips, sources, lengths)| {
                    let net = |(address, length): (IpAddr, u8)| {
                        let most = if address.is_ipv6() { 128 } else { 32 };
                        IpNet::new(address, length.min(most)).unwrap().trunc()
                    };
                    let sources = sources.into_iter().zip(lengths).map(net).collect();
                    let devices = devices.iter().map(|dev| dev.parse().unwrap()).collect();
                    TunnelGuard { outside_v6, header, vips, sources, devices }
                },
            )
        },
    )
}

fn packet_rules() -> impl Strategy<Value = PacketRules> {
    prop::collection::btree_set(packet_rule(), 0..6).prop_map(|rules| PacketRules { rules })
}

fn name() -> TableName {
    "lvsprov-t".parse().unwrap()
}

/// What the kernel dumps after these messages: it names anonymous sets, counts parts, numbers
/// rules, and drops the set's number from a rule.
fn as_dumped(rules: &PacketRules) -> TableContents {
    let mut parts = TableContents::default();
    let mut sets: BTreeMap<u32, (ObservedSet, SetKeys)> = BTreeMap::new();
    let mut handle = 0;
    for message in table::transaction(&name(), true, Some(rules)).unwrap() {
        let body = message.body.into_bytes();
        let id = || number_at(&body, if message.message == kind::NEWSET { 10 } else { 4 });
        match message.message {
            kind::NEWTABLE => parts.table = codec::table(&body).unwrap(),
            kind::NEWCHAIN => parts.chains.push(codec::chain(&body).unwrap()),
            kind::NEWSET => {
                let mut observed = codec::set(&body).unwrap();
                observed.name = format!("__set{}", id()).into_bytes();
                sets.insert(id(), (observed, SetKeys::new()));
            }
            kind::NEWSETELEM => {
                let (_, elements) = sets.get_mut(&id()).unwrap();
                assert!(codec::elements(&body, elements).unwrap());
            }
            kind::NEWRULE => {
                handle += 1;
                let mut observed = ObservedRule { handle, ..codec::rule(&body).unwrap() };
                for expr in observed.expressions.iter_mut().flatten() {
                    if let Expr::InSet { set, id } = expr {
                        *set = format!("__set{id}");
                        *id = 0;
                    }
                }
                parts.rules.push(observed);
            }
            kind::DELTABLE => assert!(parts.table.name.is_empty(), "the old table goes first"),
            other => panic!("message {other}"),
        }
    }
    parts.sets = sets.into_values().map(|(set, keys)| (set, Some(keys))).collect();
    parts.table.parts = u32::try_from(parts.chains.len()).unwrap();
    parts
}

fn number_at(body: &[u8], kind: u16) -> u32 {
    let mut all = wire::attributes(body).map(Result::unwrap);
    wire::read_be32(all.find(|(found, _)| *found == kind).unwrap().1, "a number").unwrap()
}

fn read_everything(bytes: &[u8]) {
    let _ = codec::table(bytes);
    let _ = codec::chain(bytes);
    let _ = codec::rule(bytes);
    let _ = codec::set(bytes);
    let _ = codec::elements(bytes, &mut SetKeys::new());
    let _ = codec::generation(bytes);
    let _ = filter::rule(bytes);
    let _ = filter::set(bytes);
    let _ = filter::elements(bytes);
    let _ = Expr::decode(bytes);
    for message in wire::messages(bytes).flatten() {
        let _ = message.errno();
        let _ = message.family();
    }
}

proptest! {
    #[test]
    fn a_table_survives_its_encoding(rules in packet_rules()) {
        prop_assert_eq!(table::rules_of(&as_dumped(&rules)), rules);
    }

    #[test]
    fn an_expression_survives_its_encoding(rule in packet_rule(), id: u32) {
        let rules = rule::kernel_rules(&rule).unwrap();
        for expr in rules.iter().flat_map(|rule| rule.naming("__set7", id)) {
            let mut list = AttributeList::default();
            expr.encode(&mut list);
            let bytes = list.into_bytes();
            let (kind, element) = wire::attributes(&bytes).next().unwrap().unwrap();
            prop_assert_eq!(kind, 1);
            prop_assert_eq!(Expr::decode(element).unwrap(), expr);
        }
    }

    /// No other rule is read as the one it was damaged from.
    #[test]
    fn a_damaged_rule_is_something_else(
        rule in packet_rule(),
        at: prop::sample::Index,
        how in 0..3_usize,
    ) {
        let whole = rule::kernel_rules(&rule).unwrap();
        let chain = Chain::of(&rule).unwrap();
        let known = Some((rule.clone(), whole.len()));
        prop_assert_eq!(rule::recognise(chain, &whole), known.clone());
        let lengths = whole.iter().map(|rule| rule.expressions.len());
        let all: Vec<_> =
            lengths.enumerate().flat_map(|(nth, all)| (0..all).map(move |at| (nth, at))).collect();
        let (nth, at) = *at.get(&all);
        let mut damaged = whole.clone();
        let expressions = &mut damaged[nth].expressions;
        match how {
            0 => drop(expressions.remove(at)),
            1 => expressions.insert(at, Expr::Other("limit".to_owned())),
            _ => expressions[at] = Expr::Other("limit".to_owned()),
        }
        prop_assert_ne!(rule::recognise(chain, &damaged), known);
        for other in Chain::ALL.into_iter().filter(|other| *other != chain) {
            prop_assert_eq!(rule::recognise(other, &whole), None);
        }
    }

    /// Of several guards in one chain each has its own rules.
    #[test]
    fn a_guard_that_lost_a_rule_is_not_taken_for_another(
        guards in prop::collection::btree_set(guard().prop_map(PacketRule::from), 1..4),
        at: prop::sample::Index,
    ) {
        let mut parts = as_dumped(&PacketRules { rules: guards.clone() });
        let lost = parts.rules.remove(at.index(parts.rules.len()));
        parts.table.parts = u32::try_from(parts.chains.len()).unwrap();
        prop_assert_ne!(table::rules_of(&parts), PacketRules { rules: guards }, "{:?}", lost);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read_everything(&bytes);
    }

    #[test]
    fn damaged_messages_make_nothing_panic(
        rules in packet_rules(),
        at: prop::sample::Index,
        with: u8,
        cut: prop::sample::Index,
    ) {
        for message in table::transaction(&name(), true, Some(&rules)).unwrap() {
            let mut bytes = message.body.into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = with;
            read_everything(&bytes);
            bytes.truncate(cut.index(bytes.len()));
            read_everything(&bytes);
        }
    }
}

fn mark(port: u16, mark: u32) -> PacketRule {
    let vip = "192.0.2.1".parse().unwrap();
    PacketRule::Mark { vip, protocol: Protocol::Tcp, ports: [port].into(), mark }
}

fn rules(all: impl IntoIterator<Item = PacketRule>) -> PacketRules {
    PacketRules { rules: all.into_iter().collect() }
}

/// What is unknown of `parts`; the rest is `left`.
fn unknown(parts: &TableContents, left: &[PacketRule]) -> Vec<String> {
    let (mut unknown, mut known) = (Vec::new(), Vec::new());
    for rule in table::rules_of(parts).rules {
        match rule {
            PacketRule::Unknown(text) => unknown.push(text),
            rule => known.push(rule),
        }
    }
    assert_eq!(known, left);
    unknown
}

#[test]
fn what_lvsprov_does_not_write_is_reported_as_unknown() {
    let (one, two) = (mark(80, 1), mark(443, 2));
    let whole = as_dumped(&rules([one.clone(), two.clone()]));
    let both = [one.clone(), two.clone()];
    assert!(unknown(&whole, &both).is_empty());
    let with = |change: &dyn Fn(&mut TableContents)| {
        let mut parts = whole.clone();
        change(&mut parts);
        parts
    };
    let gone = ["chain marks", "chain marks handle 1", "chain marks handle 2"];
    let base =
        |change: &dyn Fn(&mut Base)| with(&|parts| change(parts.chains[0].base.as_mut().unwrap()));
    for parts in [
        base(&|base| base.accepts = false),
        base(&|base| base.hook = 1),
        base(&|base| base.priority = 0),
        base(&|base| base.kind = b"route".to_vec()),
        with(&|parts| parts.chains[0].base = None),
        with(&|parts| parts.chains[0].extras = true),
    ] {
        assert_eq!(unknown(&parts, &[]), gone);
    }
    let doubled = with(&|parts| {
        let again = ObservedRule { handle: 9, ..parts.rules[1].clone() };
        parts.rules.push(again);
    });
    assert_eq!(unknown(&doubled, &both), ["chain marks handle 9"]);
    let turned = with(&|parts| parts.rules.reverse());
    assert_eq!(unknown(&turned, &[two]), ["chain marks handle 1"]);
    let of_iptables = with(&|parts| parts.rules[1].expressions = None);
    assert_eq!(unknown(&of_iptables, &[one]), ["chain marks handle 2"]);
    let more = with(&|parts| parts.table.parts += 2);
    assert_eq!(unknown(&more, &both), ["2 more parts (counters, flowtables and the like)"]);
    let dormant = with(&|parts| parts.table.flags = 1);
    assert_eq!(unknown(&dormant, &both), ["the table has the flags 0x1"]);
    let chain = with(&|parts| {
        let name = b"a\x1b[2Jb".to_vec();
        parts.chains.push(ObservedChain { name, ..parts.chains[0].clone() });
        parts.table.parts += 1;
    });
    assert_eq!(unknown(&chain, &both), ["chain a\u{fffd}[2Jb"]);
    let empty = with(&|parts| parts.rules.clear());
    assert_eq!(unknown(&empty, &[]), ["chain marks without rules"]);
    let set = with(&|parts| {
        let name = b"__set9".to_vec();
        let observed = ObservedSet { table: Vec::new(), name, plain: true, anonymous: true };
        parts.sets.push((observed, Some([vec![0, 1]].into())));
    });
    assert_eq!(unknown(&set, &both), ["set __set9"]);
}

#[test]
fn what_cannot_be_written_is_an_error() {
    let vip = Some("192.0.2.1".parse().unwrap());
    let rip = "2001:db8::1".parse().unwrap();
    let mixed = PacketRule::Masquerade { vip, rip, protocol: Protocol::Tcp, port: 80 };
    let error = table::transaction(&name(), false, Some(&rules([mixed]))).unwrap_err();
    assert!(error.to_string().contains("two families"), "{error}");
    let unknown = PacketRule::Unknown("chain x".to_owned());
    assert!(table::transaction(&name(), false, Some(&rules([unknown]))).is_err());
    assert!(table::transaction(&name(), false, None).unwrap().is_empty());
    // A rule of the kernel has an end (NFT_RULE_MAXEXPRS).
    let guard = |sources: u8| TunnelGuard {
        outside_v6: false,
        header: TunnelHeader::None,
        vips: [[192, 0, 2, 1].into()].into(),
        sources: (1..=sources).map(|host| IpAddr::from([10, 0, 0, host]).into()).collect(),
        devices: BTreeSet::new(),
    };
    let of = |sources| table::transaction(&name(), false, Some(&rules([guard(sources).into()])));
    assert!(of(50).is_ok());
    let error = of(200).unwrap_err().to_string();
    assert!(error.contains("sources: any"), "{error}");
}

#[test]
fn many_ports_go_out_in_several_messages() {
    let ports: BTreeSet<u16> = (1..=u16::MAX).collect();
    let vip = "192.0.2.1".parse().unwrap();
    let all = rules([PacketRule::Mark { vip, protocol: Protocol::Udp, ports, mark: 7 }]);
    assert_eq!(table::rules_of(&as_dumped(&all)), all);
}

#[test]
fn fuzz_nft() {
    let mut seeds = Vec::new();
    for rules in fuzz::samples(&packet_rules(), 50) {
        for message in table::transaction(&name(), true, Some(&rules)).unwrap() {
            let body = message.body.into_bytes();
            seeds.push(wire::frame_of(codec::kind(message.message), 1, 7, [1, 0, 0, 0], &body));
            seeds.push(body);
        }
    }
    fuzz::target!("fuzz_nft", 5000, seeds, |bytes| {
        read_everything(bytes);
        for message in wire::messages(bytes).flatten() {
            if let Ok((_, body)) = message.family() {
                read_everything(body);
            }
        }
        for (_, value) in wire::attributes(bytes).flatten() {
            read_everything(value);
        }
    });
}
