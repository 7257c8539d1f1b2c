//! A table of lvsprov as a script for `nft -f`. Pure.
//!
//! Rules against foreign tunnels ([`crate::state::TunnelGuard`]) are left out: `nft` 1.0.6 has no words for what they ask
//! of the packet inside.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::state::{PacketRule, PacketRules, TableName};

/// What begins the chains, by their names; as the agent makes them.
const CHAINS: [(&str, &str); 3] = [
    ("marks", "type filter hook prerouting priority mangle; policy accept;"),
    ("mss", "type filter hook output priority mangle; policy accept;"),
    ("source", "type nat hook postrouting priority srcnat; policy accept;"),
];

/// Replaces the table by one with these rules. `None`: nft has words for none of them.
pub(super) fn script(name: &TableName, rules: &PacketRules) -> Option<String> {
    let lines: Vec<(&str, String)> = rules.rules.iter().filter_map(rule).collect();
    if lines.is_empty() {
        return None;
    }
    let mut text = format!("table inet {name}\ndelete table inet {name}\ntable inet {name} {{\n");
    for (chain, begin) in CHAINS {
        let own: Vec<&String> =
            lines.iter().filter(|(of, _)| *of == chain).map(|(_, line)| line).collect();
        if own.is_empty() {
            continue;
        }
        // Writing to a String does not fail.
        let _ = writeln!(text, "    chain {chain} {{\n        {begin}");
        for line in own {
            let _ = writeln!(text, "        {line}");
        }
        text.push_str("    }\n");
    }
    text.push_str("}\n");
    Some(text)
}

/// Whether `rule` has a line in such a script.
pub(super) fn can_say(rule: &PacketRule) -> bool {
    self::rule(rule).is_some()
}

/// The chain of a rule, and its line.
fn rule(rule: &PacketRule) -> Option<(&'static str, String)> {
    Some(match rule {
        PacketRule::Mark { vip, protocol, ports, mark } => {
            let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
            let matched = match ports.as_slice() {
                [] => format!("meta l4proto {protocol}"),
                [port] => format!("{protocol} dport {port}"),
                several => format!("{protocol} dport {{ {} }}", several.join(", ")),
            };
            ("marks", format!("{} daddr {vip} {matched} meta mark set {mark}", family(*vip)))
        }
        PacketRule::Masquerade { vip, rip, protocol, port } => {
            let matched = if *port == 0 {
                format!("meta l4proto {protocol}")
            } else {
                format!("{protocol} dport {port}")
            };
            let made_to = vip.map_or_else(String::new, |vip| {
                format!(" ct original {} daddr {vip}", family(vip))
            });
            ("source", format!("{} daddr {rip} {matched}{made_to} masquerade", family(*rip)))
        }
        PacketRule::ClampMss { source, mss } => (
            "mss",
            format!(
                "{} saddr {source} tcp flags & syn == syn tcp option maxseg size set {mss}",
                family(*source)
            ),
        ),
        PacketRule::Guard(_) | PacketRule::Fragments(_) | PacketRule::Unknown(_) => return None,
    })
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "ip6" } else { "ip" }
}
