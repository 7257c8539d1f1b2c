//! The verdict on packets by rules of other programs, against the kernel's: random rulesets on a host between two others, and
//! datagrams through it, to it and from it.
//!
//! `LVSPROV_RULESETS=1000` tries more than `make test` does; `LVSPROV_SEED=17` one.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lvsprov::names::IfName;
use lvsprov::state::firewall::{
    FilterOp, FilterRule, FilterTable, Firewall, HookPoint, RuleVerdict,
};
use lvsprov::walk::{ESTABLISHED, FilterEnd, HookedPacket, Judgement, NEW, PacketDevice};

use crate::support::cases::{Case, cases};
use crate::support::netns_host::NetnsHost;
use crate::support::nft_tables::nft;
use crate::support::random_rules::{RandomRules, random_rules};

/// Rulesets that `make test` tries.
const RULESETS: u64 = 120;
/// How long a datagram that should not come is waited for. One that comes later is found at the end.
const SHORT: Duration = Duration::from_millis(10);
const PORTS: [u16; 3] = [5000, 5001, 6000];
const UDP: u8 = 17;

pub fn cases() -> Vec<Case> {
    cases![
        the_kernel_drops_what_the_rules_are_said_to_drop,
        the_kernel_drops_what_legacy_rules_are_said_to_drop,
        legacy_tables_are_read_whole,
        rules_and_sets_are_read_whole
    ]
}

/// Hosts in a row: a, router, b.
struct Row {
    a: NetnsHost,
    router: NetnsHost,
    b: NetnsHost,
}

impl Row {
    fn new() -> Self {
        let row =
            Self { a: NetnsHost::with_lo(), router: NetnsHost::with_lo(), b: NetnsHost::with_lo() };
        let ends = [
            (&row.a, "v1", "192.0.2", "2001:db8:1:", 1),
            (&row.b, "v2", "198.51.100", "2001:db8:2:", 2),
        ];
        for (end, dev, v4, v6, mac) in ends {
            end.ip(&format!("link add v0 type veth peer name {dev}"));
            end.give(dev, &row.router);
            end.ip(&format!("link set v0 address 02:00:00:00:00:0{mac}"));
            row.router.ip(&format!("link set {dev} address 02:00:00:00:01:0{mac}"));
            for (host, dev, own) in [(end, "v0", "1"), (&row.router, dev, "254")] {
                host.ip(&format!("link set {dev} up"));
                host.ip(&format!("address add {v4}.{own}/24 dev {dev}"));
                host.ip(&format!("address add {v6}:{own}/64 dev {dev} nodad"));
            }
            // Rules may drop what neighbours ask over IPv6.
            for (family, there, here) in [
                ("", format!("{v4}.254"), format!("{v4}.1")),
                ("-6 ", format!("{v6}:254"), format!("{v6}:1")),
            ] {
                end.ip(&format!("{family}neigh replace {there} lladdr 02:00:00:00:01:0{mac} dev v0 nud permanent"));
                row.router.ip(&format!("{family}neigh replace {here} lladdr 02:00:00:00:00:0{mac} dev {dev} nud permanent"));
                end.ip(&format!("{family}route add default via {there}"));
            }
        }
        row.router.set_sysctl("ip_forward", "1");
        row.router.run(|| std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap());
        row
    }

    fn load(&self, rules: &RandomRules) {
        nft(&self.router, "flush ruleset");
        nft(&self.router, &rules.nft);
        if let Some(text) = &rules.iptables {
            self.restore("iptables-restore", text);
        }
    }

    /// The rules of iptables for both families, in tables of xtables, and none of nftables.
    fn load_legacy(&self, iptables: &str) {
        const NONE: &str =
            "*raw\n:PREROUTING ACCEPT\nCOMMIT\n*mangle\n:PREROUTING ACCEPT\nCOMMIT\n";
        let ipv6 = iptables
            .replace("192.0.2.0/24", "2001:db8:1::/64")
            .replace("198.51.100.1", "2001:db8:2::1");
        for (program, text) in
            [("iptables-legacy-restore", iptables), ("ip6tables-legacy-restore", &ipv6)]
        {
            self.restore(program, NONE);
            self.restore(program, text);
        }
    }

    fn restore(&self, program: &str, text: &str) {
        self.router.run(|| {
            let mut child = Command::new(program).stdin(Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            assert!(child.wait().unwrap().success(), "{program}: {text}");
        });
    }
}

fn bound(host: &NetnsHost, address: &str, port: u16) -> UdpSocket {
    host.run(|| {
        let address: IpAddr = address.parse().unwrap();
        let socket = UdpSocket::bind((address, port)).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    })
}

/// Where datagrams go, and the hooks of the router on the way there and back.
struct Way<'a> {
    name: &'static str,
    from: (&'a NetnsHost, &'static str),
    to: (&'a NetnsHost, &'static str),
    there: Vec<Hook>,
    back: Vec<Hook>,
}

type Hook = (HookPoint, Option<&'static str>, Option<&'static str>);

fn ways(row: &Row) -> Vec<Way<'_>> {
    let through = |from, to| {
        vec![
            (HookPoint::Prerouting, Some(from), None),
            (HookPoint::Forward, Some(from), Some(to)),
            (HookPoint::Postrouting, None, Some(to)),
        ]
    };
    let in_by =
        |dev| vec![(HookPoint::Prerouting, Some(dev), None), (HookPoint::Input, Some(dev), None)];
    let out_by =
        |dev| vec![(HookPoint::Output, None, Some(dev)), (HookPoint::Postrouting, None, Some(dev))];
    let Row { a, router, b } = row;
    vec![
        Way {
            name: "forward",
            from: (a, "192.0.2.1"),
            to: (b, "198.51.100.1"),
            there: through("v1", "v2"),
            back: through("v2", "v1"),
        },
        Way {
            name: "forward",
            from: (a, "2001:db8:1::1"),
            to: (b, "2001:db8:2::1"),
            there: through("v1", "v2"),
            back: through("v2", "v1"),
        },
        Way {
            name: "input",
            from: (a, "192.0.2.1"),
            to: (router, "192.0.2.254"),
            there: in_by("v1"),
            back: out_by("v1"),
        },
        Way {
            name: "output",
            from: (router, "198.51.100.254"),
            to: (b, "198.51.100.1"),
            there: out_by("v2"),
            back: in_by("v2"),
        },
        Way {
            name: "output",
            from: (router, "2001:db8:2::254"),
            to: (b, "2001:db8:2::1"),
            there: out_by("v2"),
            back: in_by("v2"),
        },
    ]
}

/// What the rules do at all `hooks`; and whether connection tracking keeps the packet, if that is known.
fn judge(rules: &Firewall, hooks: &[Hook], packet: HookedPacket<'_>) -> (FilterEnd, Option<bool>) {
    let names: Vec<IfName> = ["v1", "v2"].map(|name| name.parse().unwrap()).into();
    let device = |name: Option<&str>| {
        let found = names.iter().find(|it| Some(it.as_str()) == name);
        found.map_or(PacketDevice::None, PacketDevice::Is)
    };
    let (mut packet, mut unclear) = (packet, None);
    let tracked = packet.state;
    for (hook, incoming, outgoing) in hooks {
        packet.incoming = match hook {
            HookPoint::Postrouting => PacketDevice::Unclear,
            _ => device(*incoming),
        };
        packet.outgoing = device(*outgoing);
        let Judgement { end, mark, state, altered } =
            rules.judge(*hook, &(i32::MIN..=i32::MAX), &packet);
        assert_eq!(altered, None);
        (packet.mark, packet.state, packet.is_fresh) = (mark, state, false);
        match end {
            FilterEnd::Drops(by) => return (FilterEnd::Drops(by), None),
            FilterEnd::Unclear(why) => unclear = Some(why),
            FilterEnd::Passes => {}
        }
    }
    let kept = packet.state.map(|state| Some(state) == tracked);
    (unclear.map_or(FilterEnd::Passes, FilterEnd::Unclear), kept)
}

#[derive(Default)]
struct Tally {
    passed: usize,
    dropped: usize,
    unclear: usize,
    wrong: Vec<String>,
    /// Datagrams that did not come in time, which none must do later.
    lost: Vec<Vec<u8>>,
}

impl Tally {
    /// Sends, compares, and says whether it came.
    fn shoot(
        &mut self,
        what: &str,
        said: &FilterEnd,
        (from, to): (&UdpSocket, &UdpSocket),
    ) -> bool {
        let payload = what.as_bytes().to_vec();
        // A rule of output that drops it makes the call fail.
        let _ = from.send_to(&payload, to.local_addr().unwrap());
        let patience = if *said == FilterEnd::Passes { Duration::from_secs(2) } else { SHORT };
        let came = self.receive(to, &payload, patience);
        match (said, came) {
            (FilterEnd::Unclear(_), _) => self.unclear += 1,
            (FilterEnd::Passes, true) => self.passed += 1,
            (FilterEnd::Drops(_), false) => self.dropped += 1,
            _ => self.wrong.push(format!("{what}: said {said:?}, came: {came}")),
        }
        if !came {
            self.lost.push(payload);
        }
        came
    }

    fn receive(&mut self, at: &UdpSocket, wanted: &[u8], patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut buffer = [0; 512];
        loop {
            match at.recv_from(&mut buffer) {
                Ok((length, _)) if buffer[..length] == *wanted => return true,
                Ok((length, _)) => {
                    let late = &buffer[..length];
                    if self.lost.iter().any(|lost| lost == late) {
                        self.wrong.push(format!("late: {}", String::from_utf8_lossy(late)));
                    }
                }
                Err(_) if Instant::now() > deadline => return false,
                Err(_) => std::thread::sleep(Duration::from_micros(200)),
            }
        }
    }
}

fn packet(from: SocketAddr, to: SocketAddr, state: u32) -> HookedPacket<'static> {
    HookedPacket {
        incoming: PacketDevice::None,
        outgoing: PacketDevice::None,
        source: from.ip(),
        target: to.ip(),
        protocol: UDP,
        ports: Some([Some(from.port()), Some(to.port())]),
        tcp_flags: None,
        icmp: None,
        mark: Some(0),
        state: Some(state),
        is_fresh: true,
    }
}

fn the_kernel_drops_what_the_rules_are_said_to_drop() {
    compare(|row, rules| {
        row.load(rules);
        true
    });
}

/// A third as many: only some have rules of iptables.
fn the_kernel_drops_what_legacy_rules_are_said_to_drop() {
    compare(|row, rules| {
        let text = rules.iptables.as_ref();
        text.inspect(|text| row.load_legacy(text)).is_some()
    });
}

/// `load` loads the rules, or none of a seed that has none of the kind.
fn compare(load: impl Fn(&Row, &RandomRules) -> bool) {
    let row = Row::new();
    let ways = ways(&row);
    let mut listeners = BTreeMap::new();
    for way in &ways {
        let all = || PORTS.map(|port| bound(way.to.0, way.to.1, port));
        listeners.entry(way.to.1).or_insert_with(all);
    }
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("LVSPROV_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LVSPROV_RULESETS").unwrap_or(RULESETS),
    };
    let mut tally = Tally::default();
    for seed in seeds {
        let rules = random_rules(seed);
        if !load(&row, &rules) {
            continue;
        }
        let firewall = row.router.look(&[]).facts.firewall;
        let wrong_before = tally.wrong.len();
        for way in &ways {
            for to in &listeners[way.to.1] {
                // Connection tracking remembers the connections of rulesets before for minutes, and the kernel may choose the
                // client port of one of them again: what contradicts is tried with other ports.
                for last in [false, false, true] {
                    let known = tally.wrong.len();
                    try_way(&mut tally, &firewall, seed, (way, to));
                    let wrong = &tally.wrong[known..];
                    if last || wrong.is_empty() || wrong.iter().any(|it| it.starts_with("late")) {
                        break;
                    }
                    tally.wrong.truncate(known);
                }
            }
        }
        if tally.wrong.len() > wrong_before {
            println!("seed {seed}:\n{}\n{}", rules.nft, rules.iptables.unwrap_or_default());
        }
    }
    let Tally { passed, dropped, unclear, wrong, .. } = tally;
    println!("{passed} passed, {dropped} dropped, {unclear} not known, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    if number("LVSPROV_SEED").is_none() {
        assert!(passed > 200 && dropped > 200, "{passed} passed, {dropped} dropped");
        assert!(unclear < (passed + dropped) / 3, "{unclear} are not known");
    }
}

/// A datagram, an answer, and another datagram, each as long as the one before came.
fn try_way(tally: &mut Tally, firewall: &Firewall, seed: u64, (way, to): (&Way<'_>, &UdpSocket)) {
    let from = bound(way.from.0, way.from.1, 0);
    let (own, asked) = (from.local_addr().unwrap(), to.local_addr().unwrap());
    let what = |nth: &str| format!("seed {seed}, {nth} datagram, {} {own} to {asked}", way.name);
    let (said, kept) = judge(firewall, &way.there, packet(own, asked, NEW));
    if !tally.shoot(&what("first"), &said, (&from, to)) || kept != Some(true) {
        return;
    }
    let (said, kept) = judge(firewall, &way.back, packet(asked, own, ESTABLISHED));
    if !tally.shoot(&what("answering"), &said, (to, &from)) || kept != Some(true) {
        return;
    }
    let (said, _) = judge(firewall, &way.there, packet(own, asked, ESTABLISHED));
    tally.shoot(&what("third"), &said, (&from, to));
}

fn legacy_tables_are_read_whole() {
    let netns = NetnsHost::with_lo();
    let row = Row { a: NetnsHost::with_lo(), router: netns, b: NetnsHost::with_lo() };
    assert!(row.router.look(&[]).facts.firewall.is_empty());
    row.restore(
        "iptables-legacy-restore",
        "*nat\n:POSTROUTING ACCEPT\n-A POSTROUTING -o v2 -j MASQUERADE\nCOMMIT\n\
         *filter\n:INPUT DROP\n:FORWARD ACCEPT\n:USER -\n:OTHER -\n\
         -A INPUT -p tcp --dport 22 -j ACCEPT\n-A INPUT -p udp\n-A INPUT ! -s 192.0.2.0/24 -g USER\n\
         -A USER -m limit --limit 5/s -j OTHER\n-A OTHER -i v+ -j RETURN\nCOMMIT\n",
    );
    let firewall = row.router.look(&[]).facts.firewall;
    let mut tables: Vec<&FilterTable> = firewall.tables.iter().collect();
    tables.sort_by_key(|table| table.name.clone());
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(names, ["filter", "nat"], "asking makes no tables: {firewall:?}");
    let chains: Vec<(&str, Option<bool>, usize)> = tables[0]
        .chains
        .iter()
        .map(|chain| {
            let drops = chain.base.map(|base| base.drops);
            (chain.name.as_str(), drops, chain.rules.len())
        })
        .collect();
    // A chain of a user ends with a return; the rule that only counts is left out, and keeps its number.
    let expected = [
        ("INPUT", Some(true), 2),
        ("FORWARD", Some(false), 0),
        ("OUTPUT", Some(false), 0),
        ("OTHER", None, 2),
        ("USER", None, 2),
    ];
    assert_eq!(chains, expected);
    let verdict = |chain: usize, rule: usize| {
        let FilterRule { handle, ops } = &tables[0].chains[chain].rules[rule];
        (*handle, ops.last().unwrap().clone())
    };
    assert_eq!(verdict(0, 0), (1, FilterOp::Verdict(RuleVerdict::Accept)));
    assert_eq!(verdict(0, 1), (3, FilterOp::Verdict(RuleVerdict::Goto("USER".to_owned()))));
    assert_eq!(verdict(3, 0), (1, FilterOp::Verdict(RuleVerdict::Return)));
    assert_eq!(verdict(4, 0), (1, FilterOp::Verdict(RuleVerdict::Jump("OTHER".to_owned()))));
    assert!(tables[0].chains[4].rules[0].ops.contains(&FilterOp::Unread("match limit".to_owned())));
    let nat = &tables[1].chains.iter().find(|chain| chain.name == "POSTROUTING").unwrap();
    let base = nat.base.unwrap();
    assert_eq!((base.nat, base.priority), (true, 100));
    assert_eq!(nat.rules[0].ops.last(), Some(&FilterOp::Alter("MASQUERADE".to_owned())));
    let drop = tables[0].shown_by("INPUT");
    assert_eq!(drop, "iptables-legacy -t filter -vnL INPUT --line-numbers");
}

fn rules_and_sets_are_read_whole() {
    let netns = NetnsHost::with_lo();
    nft(
        &netns,
        "table inet fw {
            set nets { type ipv4_addr; flags interval; elements = { 198.51.100.0/25 } }
            set seen { type ipv4_addr; flags dynamic; timeout 1m; }
            chain in { type filter hook input priority 0; policy drop;
                ip saddr @nets accept
                counter
                ip saddr @seen drop
            }
            chain beside { }
        }
        table ip asleep { flags dormant; chain in { type filter hook input priority 0; policy drop; }; }
        table ip empty { }
        table arp other { chain in { type filter hook input priority 0; policy drop; }; }
        table inet lvsprov-x { chain in { type filter hook input priority 0; policy drop; }; }",
    );
    let found = netns.look(&[]).facts.firewall;
    let tables: Vec<&str> = found.tables.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(tables, ["fw"], "not what sleeps, is empty, is of ARP, or is lvsprov's");
    let table = &found.tables[0];
    let chains: Vec<(&str, usize)> =
        table.chains.iter().map(|chain| (chain.name.as_str(), chain.rules.len())).collect();
    assert_eq!(chains, [("in", 2), ("beside", 0)], "a rule that only counts is left out");
    assert!(table.chains[0].base.is_some_and(|base| base.drops && base.hook == HookPoint::Input));
    assert_eq!(table.sets["nets"].elements.len(), 3, "{:?}", table.sets["nets"]);
    assert_eq!(table.sets["seen"].unread.as_deref(), Some("packets change it"));
    assert_eq!(found.indexes[&"lo".parse::<IfName>().unwrap()], 1);
    // As messages carry it.
    let text = serde_json::to_string(&*found).unwrap();
    assert_eq!(serde_json::from_str::<Firewall>(&text).unwrap(), *found);
}
