//! Wrapped packets at the hook input: who may send them, in every form in which a tunnel device would take them. No device
//! is needed: what counts is the rule's own counter.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Command;

use ipnet::IpNet;
use lvsprov::state::{FragmentGuard, TunnelGuard, TunnelHeader};
use serde_json::Value;

use crate::support::cases::{Case, cases};
use crate::support::netns_host::{NetnsHost, eventually, run};
use crate::support::nft_tables::{put, rules};
use crate::support::wrapped::{Form, behind_options, forms, fragments, inside, ip, send};

pub fn cases() -> Vec<Case> {
    cases![
        strangers_reach_no_vip_in_any_form,
        a_subnet_may_wrap,
        what_comes_out_of_a_tunnel_is_not_a_directors,
        tunnels_of_other_programs_go_on,
        a_fragment_hides_no_vip
    ]
}

const PORT: u16 = 6080;

/// In one family: the host, a director, a stranger; two VIPs, and an address that is none.
struct Addresses {
    host: IpAddr,
    director: IpAddr,
    stranger: IpAddr,
    vips: [IpAddr; 2],
    other: IpAddr,
}

impl Addresses {
    fn of(ipv6: bool) -> Self {
        let address = |v4: &str, v6: &str| if ipv6 { v6 } else { v4 }.parse().unwrap();
        Self {
            host: address("10.9.0.1", "fd09::1"),
            director: address("10.9.0.8", "fd09::8"),
            stranger: address("10.9.0.9", "fd09::9"),
            vips: [address("192.0.2.80", "2001:db8::80"), address("192.0.2.81", "2001:db8::81")],
            other: address("192.0.2.82", "2001:db8::82"),
        }
    }
}

/// The host, and one that sends packets with any source.
fn two() -> (NetnsHost, NetnsHost) {
    let (host, sender) = NetnsHost::two("10.9.0.1/24", "10.9.0.2/24");
    for (netns, address) in [(&host, "fd09::1/64"), (&sender, "fd09::2/64")] {
        netns.ip(&format!("address add {address} dev v0 nodad"));
    }
    // Senders here are no neighbours that answer: the host need not find them to take their packets.
    host.set_sysctl("conf/all/rp_filter", "0");
    host.set_sysctl("conf/v0/rp_filter", "0");
    (host, sender)
}

fn guard(header: TunnelHeader, outside_v6: bool, vips: &[IpAddr]) -> TunnelGuard {
    TunnelGuard {
        outside_v6,
        header,
        vips: vips.iter().copied().collect(),
        sources: [Addresses::of(outside_v6).director.into()].into(),
        devices: BTreeSet::new(),
    }
}

/// Packets that our table has dropped.
fn dropped(netns: &NetnsHost) -> u64 {
    let words = ["-j", "list", "chain", "inet", "lvsprov-t", "wrapped"];
    let text = netns.run(|| run(Command::new("nft").args(words)));
    let value: Value = serde_json::from_str(&text).unwrap();
    let parts = value["nftables"].as_array().unwrap().iter();
    let exprs = parts.filter_map(|part| part["rule"]["expr"].as_array()).flatten();
    exprs.filter_map(|expr| expr["counter"]["packets"].as_u64()).sum()
}

const HEADERS: [TunnelHeader; 4] = [
    TunnelHeader::None,
    TunnelHeader::Gre { checksum: false },
    TunnelHeader::Gre { checksum: true },
    TunnelHeader::Gue { port: PORT },
];

/// Every header, over both families, around both.
fn all_kinds() -> impl Iterator<Item = (TunnelHeader, bool, bool)> {
    let families = [(false, false), (false, true), (true, false), (true, true)];
    HEADERS.into_iter().flat_map(move |header| {
        families.into_iter().map(move |(outside, inside)| (header, outside, inside))
    })
}

/// Packets of `source` to `vip` in every form.
fn wrapped(
    header: TunnelHeader,
    (source, outside_v6): (IpAddr, bool),
    vip: IpAddr,
) -> Vec<(Form, Vec<u8>)> {
    let outside = (source, Addresses::of(outside_v6).host);
    let client = Addresses::of(vip.is_ipv6()).stranger;
    let all = forms(header, outside, |text| inside((client, vip), text));
    all.into_iter()
        .map(|form| {
            let packet = form.packet(outside);
            (form, packet)
        })
        .collect()
}

fn strangers_reach_no_vip_in_any_form() {
    let (host, sender) = two();
    for (header, outside_v6, inside_v6) in all_kinds() {
        let (outer, inner) = (Addresses::of(outside_v6), Addresses::of(inside_v6));
        for vips in [&inner.vips[..1], &inner.vips[..]] {
            put(&host, &rules([guard(header, outside_v6, vips).into()]));
            let mut expected = 0;
            for vip in vips {
                for (form, packet) in wrapped(header, (outer.stranger, outside_v6), *vip) {
                    send(&sender, outer.host, &[packet]);
                    expected += 1;
                    let what = format!("{header:?} {outside_v6} {inside_v6} {}", form.name);
                    eventually(&what, || dropped(&host) == expected);
                }
                for (_, packet) in wrapped(header, (outer.director, outside_v6), *vip) {
                    send(&sender, outer.host, &[packet]);
                }
            }
            // One more, after which all have come.
            let (_, last) = wrapped(header, (outer.stranger, outside_v6), vips[0]).remove(0);
            send(&sender, outer.host, &[last]);
            eventually("the last one", || dropped(&host) > expected);
            assert_eq!(dropped(&host), expected + 1, "{header:?}: a director's was dropped");
        }
    }
}

fn a_subnet_may_wrap() {
    let (host, sender) = two();
    for ipv6 in [false, true] {
        let Addresses { host: target, director, stranger, vips, .. } = Addresses::of(ipv6);
        let net: IpNet = if ipv6 { "fd09::9/127" } else { "10.9.0.9/31" }.parse().unwrap();
        let sources = [net.trunc(), director.into()].into();
        let narrow = guard(TunnelHeader::None, ipv6, &vips);
        put(&host, &rules([TunnelGuard { sources, ..narrow }.into()]));
        let another = if ipv6 { "fd09::a" } else { "10.9.0.10" }.parse().unwrap();
        for source in [stranger, director, another] {
            let (_, packet) = wrapped(TunnelHeader::None, (source, ipv6), vips[0]).remove(0);
            send(&sender, target, &[packet]);
        }
        eventually("the one from outside", || dropped(&host) > 0);
        assert_eq!(dropped(&host), 1, "a subnet beside the director");
    }
}

/// A packet that is wrapped twice names any source after the first time.
fn what_comes_out_of_a_tunnel_is_not_a_directors() {
    let (host, sender) = two();
    for (header, outside_v6, inside_v6) in all_kinds() {
        let (outer, inner) = (Addresses::of(outside_v6), Addresses::of(inside_v6));
        let devices = ["tunl0", "v0"].map(|dev| dev.parse().unwrap()).into();
        let guard = TunnelGuard { devices, ..guard(header, outside_v6, &inner.vips) };
        put(&host, &rules([guard.into()]));
        for (expected, (form, packet)) in
            (1..).zip(wrapped(header, (outer.director, outside_v6), inner.vips[0]))
        {
            send(&sender, outer.host, &[packet]);
            eventually(&form.name, || dropped(&host) == expected);
        }
    }
}

fn tunnels_of_other_programs_go_on() {
    let (host, sender) = two();
    for (header, outside_v6, inside_v6) in all_kinds() {
        let (outer, inner) = (Addresses::of(outside_v6), Addresses::of(inside_v6));
        put(&host, &rules([guard(header, outside_v6, &inner.vips).into()]));
        let outside = (outer.stranger, outer.host);
        let theirs = wrapped(header, (outer.stranger, outside_v6), inner.other);
        // Of GUE a stranger's other forms are dropped whatever they hold.
        let is_gue = matches!(header, TunnelHeader::Gue { .. });
        let mut packets: Vec<Vec<u8>> = theirs
            .into_iter()
            .filter(|(form, _)| !is_gue || form.is_plain || form.name == "of version 1")
            .map(|(_, packet)| packet)
            .collect();
        // Too short to hold an address, or anything.
        let (form, _) = wrapped(header, (outer.stranger, outside_v6), inner.other).remove(0);
        let kept = form.body.len() - inside((inner.stranger, inner.other), "plain").len();
        packets.push(ip(outside, form.protocol, &form.body[..kept]));
        // Not wrapped.
        packets.push(inside((outer.stranger, outer.host), "not wrapped"));
        send(&sender, outer.host, &packets);
        let (_, last) = wrapped(header, (outer.stranger, outside_v6), inner.vips[0]).remove(0);
        send(&sender, outer.host, &[last]);
        eventually("the last one", || dropped(&host) > 0);
        assert_eq!(dropped(&host), 1, "{header:?} {outside_v6} {inside_v6}");
    }
}

/// Of IPv6 the hook sees fragments. The first may be too short to show the destination inside, or what is inside at all.
fn a_fragment_hides_no_vip() {
    let (host, sender) = two();
    let outer = Addresses::of(true);
    for (header, inside_v6) in HEADERS.into_iter().flat_map(|it| [(it, false), (it, true)]) {
        let inner = Addresses::of(inside_v6);
        let guard = guard(header, true, &inner.vips);
        let short = FragmentGuard {
            plain: header == TunnelHeader::None,
            gre: matches!(header, TunnelHeader::Gre { .. }),
            gue_ports: [PORT].into_iter().filter(|_| header == HEADERS[3]).collect(),
            sources: guard.sources.clone(),
            devices: ["tunl0".parse().unwrap()].into(),
        };
        put(&host, &rules([guard.into(), short.into()]));
        let body = |source: IpAddr, to: IpAddr| {
            let outside = (source, outer.host);
            let text = "x".repeat(200);
            let mut all = forms(header, outside, |_| inside((inner.stranger, to), &text));
            let plain = all.remove(0);
            (plain.protocol, plain.body)
        };
        let cut = |source: IpAddr, to: IpAddr, first: usize| {
            let (protocol, body) = body(source, to);
            fragments((source, outer.host), (protocol, &body), first)
        };
        let cut_headers = |source: IpAddr, to: IpAddr, headers: &[u8]| {
            let (protocol, body) = body(source, to);
            let (protocol, body) = behind_options(headers, (protocol, &body));
            fragments((source, outer.host), (protocol, &body), 8)
        };
        let (vip, other) = (inner.vips[1], inner.other);
        for (what, packets, drops) in [
            ("short", cut(outer.stranger, vip, 8), 1),
            ("long", cut(outer.stranger, vip, 96), 1),
            ("cut between its headers", cut_headers(outer.stranger, vip, &[8, 8]), 1),
            ("cut in a header", cut_headers(outer.stranger, vip, &[16]), 1),
            ("long, to another address", cut(outer.stranger, other, 96), 0),
            ("of the director, short", cut(outer.director, vip, 8), 0),
            ("of the director, cut", cut_headers(outer.director, vip, &[8, 8]), 0),
        ] {
            let before = dropped(&host);
            send(&sender, outer.host, &packets);
            let (_, last) = wrapped(header, (outer.stranger, true), vip).remove(0);
            send(&sender, outer.host, &[last]);
            eventually(what, || dropped(&host) > before + drops);
            assert_eq!(dropped(&host), before + drops + 1, "{header:?} {inside_v6}: {what}");
        }
    }
}
