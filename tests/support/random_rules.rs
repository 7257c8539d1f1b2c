//! Random rulesets of nftables and iptables, each of a seed, over the addresses, ports and interfaces of one small network.

#![allow(clippy::format_push_string, reason = "short texts in a test")]

use crate::support::random_clusters::dice::Dice;

/// A ruleset, as `nft -f` takes it, and rules for `iptables-restore`.
#[derive(Debug, Clone)]
pub struct RandomRules {
    pub nft: String,
    pub iptables: Option<String>,
}

const DEVICES: &[&str] = &[
    "iifname \"v1\"",
    "iifname != \"v2\"",
    "iifname \"v*\"",
    "iifname { \"v1\", \"v9\" }",
    "iif \"v1\"",
    "iif \"lo\"",
    "oifname \"v2\"",
    "oif != \"v1\"",
    "oifname { \"v2\", \"lo\" }",
];
const V4: &[&str] = &[
    "ip saddr 192.0.2.1",
    "ip saddr 192.0.2.0/28",
    "ip saddr != 192.0.2.0/24",
    "ip daddr 198.51.100.0-198.51.100.9",
    "ip daddr { 192.0.2.254, 198.51.100.1, 203.0.113.0/24 }",
    "ip daddr != { 198.51.100.1, 203.0.113.9 }",
    "ip saddr @hosts",
    "ip daddr @nets",
    "ip daddr != @nets",
    "ip protocol udp",
    "meta protocol ip",
    "ip saddr . ip daddr { 192.0.2.1 . 198.51.100.1, 198.51.100.1 . 192.0.2.1 }",
];
const V6: &[&str] = &[
    "ip6 saddr 2001:db8:1::1",
    "ip6 saddr 2001:db8:1::/64",
    "ip6 daddr != 2001:db8:2::/48",
    "ip6 daddr { 2001:db8:2::1-2001:db8:2::9, 2001:db8:1::/64 }",
    "ip6 nexthdr udp",
    "meta nfproto ipv6",
];
const PORTS: &[&str] = &[
    "udp dport 5000",
    "udp dport 5000-5010",
    "udp dport != 5001",
    "udp dport { 53, 5000, 6000-7000 }",
    "udp dport != { 5001, 6001 }",
    "th dport 6000",
    "udp sport >= 40000",
    "udp sport < 6000",
    "udp dport @ports",
    "meta l4proto { tcp, sctp } th dport 5000",
    "meta l4proto udp",
    "meta l4proto { tcp, sctp }",
];
const STATES: &[&str] = &[
    "ct state new",
    "ct state established,related",
    "ct state { new, established }",
    "ct state invalid",
    "ct state != new",
    "ct state untracked",
    "ct state new,untracked",
];
const REST: &[&str] = &[
    "meta mark 0",
    "meta mark 7",
    "meta mark & 0xff == 7",
    "meta mark 1-9",
    "meta mark { 7, 8 }",
    "meta mark != 7",
    "limit rate 100000/second",
    "fib daddr type local",
    "meta length < 2000",
];
const PAIRS: &[&str] = &[
    "ip saddr . udp dport { 192.0.2.1 . 5000, 192.0.2.0/24 . 6000-7000 }",
    "ip daddr . udp dport @pairs",
    "meta l4proto . udp dport { udp . 5000, tcp . 6000 }",
];

/// The ruleset of `seed`.
pub fn random_rules(seed: u64) -> RandomRules {
    let mut dice = Dice::new(seed);
    let mut nft = "table inet one {
        set hosts { type ipv4_addr; elements = { 192.0.2.1, 192.0.2.254 } }
        set nets { type ipv4_addr; flags interval; elements = { 198.51.100.0/25, 192.0.2.254-192.0.2.255 } }
        set ports { type inet_service; flags interval; elements = { 5000-5000, 6001-65535 } }
        set pairs { type ipv4_addr . inet_service; flags interval; \
            elements = { 198.51.100.0/24 . 5000-5001, 192.0.2.254 . 6000 } }\n"
        .to_owned();
    nft.push_str(&chains(&mut dice, true));
    nft.push_str("}\n");
    if dice.chance(30) {
        nft.push_str("table ip two {\n");
        let plain = chains(&mut dice, false);
        nft.push_str(&plain);
        nft.push_str("}\n");
    }
    let iptables = dice.chance(40).then(|| iptables(&mut dice));
    RandomRules { nft, iptables }
}

fn chains(dice: &mut Dice, with_sets: bool) -> String {
    let mut text = String::new();
    for number in (0..3).rev() {
        text.push_str(&format!(
            "chain c{number} {{\n{}}}\n",
            rules(dice, number + 1, with_sets, false)
        ));
    }
    for number in 0..=dice.below(3) {
        let hook =
            dice.one_of(&["prerouting", "input", "forward", "forward", "output", "postrouting"]);
        let priority = dice.one_of(&[-300, -150, 0, 0, 10, 101]);
        let policy = if dice.chance(25) { "drop" } else { "accept" };
        let may_untrack = priority == -300 && matches!(hook, "prerouting" | "output");
        text.push_str(&format!(
            "chain b{number} {{ type filter hook {hook} priority {priority}; policy {policy};\n{}}}\n",
            rules(dice, 0, with_sets, may_untrack)
        ));
    }
    text
}

/// Rules that call only chains from `first` on.
fn rules(dice: &mut Dice, first: usize, with_sets: bool, may_untrack: bool) -> String {
    let mut text = String::new();
    for _ in 0..dice.below(5) {
        let mut all: Vec<String> = Vec::new();
        let add = |all: &mut Vec<String>, dice: &mut Dice, percent, from: &[&str]| {
            let known: Vec<&&str> =
                from.iter().filter(|it| with_sets || !it.contains('@')).collect();
            if dice.chance(percent) {
                all.push((*dice.one_of(&known)).to_string());
            }
        };
        add(&mut all, dice, 35, DEVICES);
        if dice.chance(15) {
            add(&mut all, dice, 100, PAIRS);
        } else {
            let addresses = if with_sets && dice.chance(40) { V6 } else { V4 };
            add(&mut all, dice, 40, addresses);
            add(&mut all, dice, 40, PORTS);
        }
        add(&mut all, dice, 30, STATES);
        add(&mut all, dice, 20, REST);
        all.push(verdict(dice, first, may_untrack));
        text.push_str(&format!("    {}\n", all.join(" ")));
    }
    text
}

fn verdict(dice: &mut Dice, first: usize, may_untrack: bool) -> String {
    if may_untrack && dice.chance(30) {
        return "notrack".to_owned();
    }
    let called = first + dice.below(4);
    match dice.below(12) {
        3..=4 => "drop".to_owned(),
        5 => "counter drop".to_owned(),
        6 if called < 3 => format!("goto c{called}"),
        7 if called < 3 => format!("jump c{called}"),
        8 => "return".to_owned(),
        9 => dice.one_of(&["meta mark set 7", "meta mark set 8", "counter"]).to_owned(),
        10 if first < 3 => dice
            .one_of(&[
                "th dport vmap { 5000 : accept, 6000-7000 : drop, 53 : jump c2 }",
                "ct state vmap { established : accept, invalid : drop, new : jump c2 }",
                "iifname vmap { \"v1\" : jump c2, \"v2\" : accept }",
                "meta mark set th dport map { 5000 : 7, 6000 : 9 }",
            ])
            .to_owned(),
        _ => "accept".to_owned(),
    }
}

fn iptables(dice: &mut Dice) -> String {
    const ASKED: &[&str] = &[
        "-p udp --dport 5000",
        "-p udp ! --dport 5000:5010",
        "-p udp -m multiport --dports 5000,6000:7000",
        "-p udp -m multiport ! --ports 53,5001",
        "-p udp --sport 32768:",
        "-m conntrack --ctstate NEW,ESTABLISHED",
        "-m conntrack ! --ctstate ESTABLISHED",
        "-m conntrack --ctstate INVALID,UNTRACKED",
        "-m state --state NEW",
        "-i v1",
        "-i v+",
        "-s 192.0.2.0/24",
        "! -d 198.51.100.1",
        "-m mark --mark 7/0xff",
        "-m mark ! --mark 7",
        "-m comment --comment x",
        "-m limit --limit 1000/s",
        "-m addrtype --dst-type LOCAL",
        "-p tcp --dport 5000",
        "-p tcp --syn",
    ];
    let mut text = String::new();
    if dice.chance(40) {
        text.push_str("*mangle\n:PREROUTING ACCEPT\n");
        let line = format!("-A PREROUTING {} -j MARK --set-mark 7\n", dice.one_of(ASKED));
        text.push_str(&line);
        text.push_str("COMMIT\n");
    }
    if dice.chance(20) {
        text.push_str(
            "*raw\n:PREROUTING ACCEPT\n-A PREROUTING -p udp --dport 5000 -j CT --notrack\nCOMMIT\n",
        );
    }
    text.push_str("*filter\n");
    for chain in ["INPUT", "FORWARD", "OUTPUT"] {
        let policy = if dice.chance(25) { "DROP" } else { "ACCEPT" };
        text.push_str(&format!(":{chain} {policy}\n"));
    }
    text.push_str(":USER -\n");
    for chain in ["INPUT", "FORWARD", "FORWARD", "OUTPUT", "USER", "USER"] {
        let asked = if chain == "OUTPUT" {
            let fitting: Vec<&&str> = ASKED.iter().filter(|it| !it.starts_with("-i")).collect();
            (*dice.one_of(&fitting)).to_string()
        } else {
            dice.one_of(ASKED).to_owned()
        };
        let target = match chain {
            "USER" => dice.one_of(&["ACCEPT", "DROP", "RETURN", "REJECT"]),
            _ => dice.one_of(&["ACCEPT", "DROP", "USER", "USER", "LOG"]),
        };
        text.push_str(&format!("-A {chain} {asked} -j {target}\n"));
    }
    text.push_str("COMMIT\n");
    text
}
