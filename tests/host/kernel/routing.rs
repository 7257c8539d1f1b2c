//! The walk's routing and source validation against the kernel's: random addresses, routes, rules and settings are read, and
//! for random packets the kernel is asked what it would do with them (RTM_GETROUTE with an input interface, as
//! `ip route get ADDRESS from SOURCE iif DEVICE`), without sending one.
//!
//! `LVSPROV_ROUTED=100000` asks for so many packets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};

use lvsprov::names::{HostName, IfName};
use lvsprov::state::HostFacts;
use lvsprov::topology::Topology;
use lvsprov::walk::{self, Addresses, Cause, HostStates, Input, NotTaken, SeenHost, World};
use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};
use serde_json::Value;

use crate::support::cases::{Case, cases};
use crate::support::netns_host::{NetnsHost, eventually};

pub fn cases() -> Vec<Case> {
    cases![policy_rules_are_read_as_ip_shows_them, packets_go_where_the_kernel_sends_them]
}

/// Packets for each state.
const PACKETS: usize = 250;
/// How many are tried where `LVSPROV_ROUTED` does not say more.
const ROUTED: usize = 10_000;
/// Interfaces of the host.
const DEVICES: [&str; 3] = ["d0", "d1", "d2"];

/// So many rules that are read as they are, and one that is not.
fn policy_rules_are_read_as_ip_shows_them() {
    let host = NetnsHost::with_pair("192.0.2.1/24");
    for rule in [
        "rule add pref 10 from 192.0.2.0/24 to 198.51.100.0/24 iif v0 lookup 77",
        "rule add pref 11 not from all fwmark 0x1/0xff lookup 78",
        "rule add pref 12 lookup main suppress_prefixlength 0",
        "rule add pref 13 to 203.0.113.9 prohibit",
        "rule add pref 14 ipproto tcp dport 80 lookup 77",
        "rule add pref 15 oif v1 nop",
        "-6 rule add pref 16 from 2001:db8::/32 lookup 79",
        "route add default via 192.0.2.9 table 77 metric 5",
        "route add throw 10.0.0.0/8 table 77",
        "route add unreachable 10.1.0.0/16",
    ] {
        host.ip(rule);
    }
    let routing = host.look(&[]).facts.routing;
    let of = |priority: u32| {
        let mut fitting = routing.rules.iter().filter(move |rule| rule.priority == priority);
        fitting.next()
    };
    let first = of(10).unwrap();
    assert_eq!(first.from, Some("192.0.2.0/24".parse().unwrap()));
    assert_eq!(first.to, Some("198.51.100.0/24".parse().unwrap()));
    assert_eq!((first.iif.as_ref().map(IfName::as_str), first.table), (Some("v0"), Some(77)));
    let marked = of(11).unwrap();
    assert!(marked.invert && marked.unclear.is_empty());
    assert_eq!(marked.mark, Some((1, 0xff)));
    assert_eq!(of(12).unwrap().suppress_prefix, Some(0));
    assert_eq!(of(13).unwrap().table, None);
    assert!(!of(14).unwrap().unclear.is_empty(), "{:?}", of(14));
    let own = routing.rules.iter().filter(|rule| ![14, 15].contains(&rule.priority));
    assert!(own.into_iter().all(|rule| rule.unclear.is_empty()), "{:?}", routing.rules);
    assert_eq!(of(15), None, "a rule that does nothing");
    assert!(of(16).unwrap().ipv6);
    let in_ip = host.ip_json("rule show").len() + host.ip_json("-6 rule show").len();
    assert_eq!(routing.rules.len(), in_ip - 1, "{:?}", routing.rules);
    assert_eq!(routing.routes.len(), 3, "{:?}", routing.routes);
}

/// Words and numbers by chance.
struct Chance(TestRng);

impl Chance {
    fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.0.next_u32()).unwrap() % count
    }

    fn one<'w>(&mut self, words: &[&'w str]) -> &'w str {
        words[self.below(words.len())]
    }

    fn yes(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    /// An address of the few networks that all of this is about.
    fn address(&mut self, ipv6: bool) -> IpAddr {
        let net = u8::try_from(self.below(5)).unwrap();
        let host = [1, 2, 3, 200, 7][self.below(5)];
        if ipv6 {
            return Ipv6Addr::new(0x2001, 0xdb8, net.into(), 0, 0, 0, 0, host.into()).into();
        }
        Ipv4Addr::new(10, 9, net, host).into()
    }

    fn prefix(&mut self, ipv6: bool) -> String {
        let address = self.address(ipv6);
        let lengths = if ipv6 { [128, 64, 32] } else { [32, 24, 16] };
        let net = ipnet::IpNet::new(address, lengths[self.below(3)]).unwrap();
        net.trunc().to_string()
    }

    fn table(&mut self) -> &'static str {
        self.one(&["main", "77", "78"])
    }

    fn route(&mut self, ipv6: bool) -> String {
        let to = if self.yes(4) { "default".to_owned() } else { self.prefix(ipv6) };
        let table = self.table();
        let metric = self.one(&["1", "5", "9"]);
        let kind = if self.yes(4) {
            self.one(&["blackhole", "unreachable", "prohibit", "throw"])
        } else {
            ""
        };
        if !kind.is_empty() {
            return format!("route add {kind} {to} table {table} metric {metric}");
        }
        let dev = self.one(&DEVICES);
        if self.yes(2) {
            return format!("route add {to} dev {dev} table {table} metric {metric}");
        }
        let gateway = self.address(ipv6);
        format!("route add {to} via {gateway} dev {dev} table {table} metric {metric} onlink")
    }

    fn rule(&mut self, ipv6: bool) -> String {
        let mut rule = format!("rule add pref {}", 100 + self.below(50));
        if self.yes(5) {
            rule.push_str(" not");
        }
        let _ = if self.yes(2) {
            write!(rule, " from {}", self.prefix(ipv6))
        } else {
            write!(rule, " from all")
        };
        if self.yes(2) {
            let _ = write!(rule, " to {}", self.prefix(ipv6));
        }
        if self.yes(4) {
            let _ = write!(rule, " iif {}", self.one(&["d0", "d1", "lo"]));
        }
        if self.yes(8) {
            rule.push_str(" fwmark 7");
        }
        if self.yes(5) {
            let _ = write!(rule, " {}", self.one(&["prohibit", "blackhole", "unreachable"]));
            return rule;
        }
        let _ = write!(rule, " lookup {}", self.table());
        if self.yes(6) {
            let _ = write!(rule, " suppress_prefixlength {}", self.one(&["0", "16", "24"]));
        }
        rule
    }
}

/// A host with everything by chance.
fn any_host(chance: &mut Chance) -> NetnsHost {
    let host = NetnsHost::with_lo();
    let mut batch = String::new();
    for dev in DEVICES {
        let _ = writeln!(batch, "link add {dev} type veth peer name {dev}p");
        let _ = writeln!(batch, "link set {dev} up\nlink set {dev}p up");
    }
    host_batch(&host, &batch, true);
    for (nth, dev) in DEVICES.into_iter().enumerate() {
        host.set_sysctl(&format!("conf/{dev}/rp_filter"), chance.one(&["0", "1", "2"]));
        host.set_sysctl(&format!("conf/{dev}/accept_local"), chance.one(&["0", "0", "1"]));
        host.set_sysctl(&format!("conf/{dev}/forwarding"), chance.one(&["0", "1", "1", "1"]));
        batch.clear();
        // Now and then a device without an address, or with one of another network.
        for _ in 0..chance.below(3) {
            let other = if chance.yes(4) { 9 } else { nth };
            let length = chance.one(&["24", "24", "32"]);
            let _ = writeln!(
                batch,
                "address add 10.9.{other}.{}/{length} dev {dev}",
                1 + chance.below(3)
            );
            let _ = writeln!(
                batch,
                "address add 2001:db8:{other}::{}/64 dev {dev} nodad",
                1 + chance.below(3)
            );
        }
        host_batch(&host, &batch, false);
    }
    // Of IPv6, `ip route get` asks not whether the host forwards.
    host.set_sysctl("../ipv6/conf/all/forwarding", "1");
    host.set_sysctl("conf/all/rp_filter", chance.one(&["0", "0", "1", "2"]));
    host.set_sysctl("conf/all/accept_local", chance.one(&["0", "0", "0", "1"]));
    batch.clear();
    for ipv6 in [false, true] {
        for _ in 0..chance.below(8) {
            let _ = writeln!(batch, "{}", chance.route(ipv6));
        }
    }
    host_batch(&host, &batch, false);
    for ipv6 in [false, true] {
        for _ in 0..chance.below(4) {
            let rule = chance.rule(ipv6);
            // What the kernel refuses is not there.
            let _ = host.run(|| {
                let family = if ipv6 { "-6" } else { "-4" };
                Command::new("ip").arg(family).args(rule.split(' ')).output()
            });
        }
    }
    // A new address of IPv6 is used a moment later.
    let count = |what: &str, starts: &str| {
        host.ip(what).lines().filter(|line| line.trim().starts_with(starts)).count()
    };
    eventually("the addresses are in use", || {
        count("-6 route show table local", "local 2001:") == count("-6 address show", "inet6 2001:")
    });
    for dev in DEVICES {
        if chance.yes(10) {
            host.ip(&format!("link set {dev} down"));
        }
    }
    host
}

/// Runs commands of `ip`; `all`: none may fail.
fn host_batch(host: &NetnsHost, commands: &str, all: bool) -> (String, String) {
    host.run(|| {
        let mut ip = Command::new("ip");
        ip.args(["-force", "-j", "-batch", "-"]);
        let mut child =
            ip.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            scope.spawn(move || input.write_all(commands.as_bytes()).unwrap());
            child.wait_with_output().unwrap()
        });
        assert!(!all || output.status.success(), "{output:?}");
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr))
    })
}

/// The host as a file names it.
fn topology() -> Topology {
    let text = "version: 1\nname: t\nnetworks: {n0: [10.9.0.0/24], n1: [10.9.1.0/24], n2: [10.9.2.0/24]}\nhosts:\n  \
                host: {role: router, interfaces: {d0: 10.9.0.250/24, d1: 10.9.1.250/24, d2: 10.9.2.250/24}}\n";
    lvsprov::topology::read("t.yaml", text).topology.expect("it is a topology")
}

/// One packet that comes in.
struct Packet {
    dev: &'static str,
    source: IpAddr,
    target: IpAddr,
}

fn packets_go_where_the_kernel_sends_them() {
    let wanted = std::env::var("LVSPROV_ROUTED").ok().and_then(|it| it.parse().ok());
    let wanted: usize = wanted.unwrap_or(ROUTED);
    let seed = std::env::var("LVSPROV_SEED").ok().and_then(|it| it.parse().ok());
    let first: u64 = seed.unwrap_or(1);
    let topology = topology();
    let (mut wrong, mut known, mut verdicts) = (Vec::new(), 0, BTreeMap::new());
    for nth in 0..wanted.div_ceil(PACKETS) {
        let seed = first + u64::try_from(nth).unwrap();
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let mut chance = Chance(TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        let host = any_host(&mut chance);
        let found = compare(&topology, &host, &mut chance, &mut verdicts);
        known += found.0;
        wrong.extend(found.1.into_iter().map(|why| format!("LVSPROV_SEED={seed}: {why}")));
        assert!(wrong.len() < 20, "{} disagreements:\n{}", wrong.len(), wrong.join("\n"));
    }
    println!("{known} packets: {verdicts:?}");
    assert!(wrong.is_empty(), "{} disagreements:\n{}", wrong.len(), wrong.join("\n"));
    assert!(known >= wanted * 8 / 10, "only {known} of {wanted} were compared");
    assert!(
        verdicts.len() >= 4 && verdicts.values().all(|count| *count > known / 200),
        "{verdicts:?}"
    );
}

/// How many packets were compared, and where walk and kernel disagree.
fn compare(
    topology: &Topology,
    host: &NetnsHost,
    chance: &mut Chance,
    verdicts: &mut BTreeMap<&'static str, usize>,
) -> (usize, Vec<String>) {
    let name: HostName = "host".parse().unwrap();
    let keys = walk::sysctls(&topology.hosts[&name], &lvsprov::state::HostState::default());
    let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
    let observation = host.look(&keys.iter().map(String::as_str).collect::<Vec<_>>());
    let HostFacts { routing, mtus, .. } = &observation.facts;
    let seen = SeenHost { state: &observation.state, routing, mtus, firewall: None };
    let world = World::of_hosts(topology, &[(name.clone(), seen)].into(), &HostStates::new());
    let machine = world.machine(&name).unwrap();
    let packets: Vec<Packet> = (0..PACKETS)
        .map(|_| {
            let ipv6 = chance.yes(4);
            Packet {
                dev: chance.one(&DEVICES),
                source: chance.address(ipv6),
                target: chance.address(ipv6),
            }
        })
        .collect();
    let questions: Vec<String> = packets
        .iter()
        .map(|Packet { dev, source, target }| format!("route get {target} from {source} iif {dev}"))
        .collect();
    let answers = kernel_says(host, &questions);
    let (mut count, mut wrong) = (0, Vec::new());
    for ((packet, kernel), question) in packets.iter().zip(answers).zip(&questions) {
        let Packet { dev, source, target } = packet;
        let addresses = Addresses { source: *source, target: *target, mark: 0 };
        let walk = match machine.input(&dev.parse().unwrap(), addresses) {
            Ok(Input::Local) => "local".to_owned(),
            Ok(Input::Forward(route)) => {
                let gateway = route.gateway.map(|it| format!(" via {it}")).unwrap_or_default();
                let dev = route.dev.as_ref().map_or("", |dev| dev.as_str());
                format!("dev {dev}{gateway}")
            }
            // Nothing comes in there, and `ip route get` does not ask.
            Err(NotTaken::Dies(Cause::DeviceDown { .. }) | NotTaken::Unclear) => continue,
            Err(NotTaken::Dies(_)) => "dies".to_owned(),
        };
        count += 1;
        let kind = if walk.starts_with("dev") {
            "forwarded"
        } else if walk == "local" {
            "local"
        } else {
            "dies"
        };
        let kind = match (kind, source.is_ipv6()) {
            ("forwarded", true) => "forwarded, IPv6",
            ("local", true) => "local, IPv6",
            ("dies", true) => "dies, IPv6",
            (kind, _) => kind,
        };
        *verdicts.entry(kind).or_default() += 1;
        if walk != kernel {
            wrong.push(format!(
                "{question}: walk: {walk}, kernel: {kernel}\n{:?}",
                machine.input(&dev.parse().unwrap(), addresses)
            ));
        }
    }
    if let Some(first) = wrong.first_mut() {
        for what in [
            "rule show",
            "route show table all",
            "-6 rule show",
            "-6 route show table all",
            "address show",
        ] {
            let _ = write!(first, "\n--- ip {what}\n{}", host.ip(what));
        }
    }
    (count, wrong)
}

/// What the kernel says to each question. `ip` names the lines of its input that failed on standard error, and prints a
/// document for each of the others.
fn kernel_says(host: &NetnsHost, questions: &[String]) -> Vec<String> {
    let (text, errors) = host_batch(host, &questions.join("\n"), false);
    let failed: BTreeSet<usize> = errors
        .lines()
        .filter_map(|line| line.strip_prefix("Command failed -:")?.parse().ok())
        .collect();
    let mut documents = serde_json::Deserializer::from_str(&text).into_iter::<Vec<Value>>();
    let answers: Vec<String> = (1..=questions.len())
        .map(|line| {
            if failed.contains(&line) {
                return "dies".to_owned();
            }
            let document = documents.next().expect("an answer to each question").unwrap();
            document.first().map_or_else(|| "dies".to_owned(), verdict)
        })
        .collect();
    assert!(documents.next().is_none(), "more answers than questions");
    answers
}

/// `local`, `dev DEVICE [via GATEWAY]`, or `dies`.
fn verdict(route: &Value) -> String {
    let text = |key: &str| route.get(key).and_then(Value::as_str);
    match text("type").unwrap_or("unicast") {
        "local" => "local".to_owned(),
        "unicast" => {
            let gateway = text("gateway").map(|it| format!(" via {it}")).unwrap_or_default();
            format!("dev {}{gateway}", text("dev").unwrap_or_default())
        }
        _ => "dies".to_owned(),
    }
}
