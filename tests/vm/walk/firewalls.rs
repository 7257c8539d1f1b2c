//! Rules of other programs: a firewall of nftables or iptables on each host in turn, and whether requests pass it as the walk
//! says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

use lvsprov::apply::Session;
use lvsprov::lab::targets;
use lvsprov::names::HostName;
use lvsprov::state::Routing;
use lvsprov::state::firewall::Firewall;
use lvsprov::topology::{Service, Topology};
use lvsprov::walk::HostStates;

use super::Cluster;
use crate::support::prediction::{Mtus, seen_world_of};

/// A firewall on a host.
pub(super) struct Filtered {
    host: HostName,
    what: &'static str,
    program: &'static [&'static str],
    script: String,
}

/// What every rule below lets pass: neighbours of IPv6 cannot be found without.
const USUAL: &str = "meta l4proto { icmp, ipv6-icmp } accept; iifname lo accept;";

const OPEN_FOR_PORTS: &str = "iptables: input open for ports";

/// Rulesets on every host.
pub(super) fn all(topology: &Topology) -> Vec<Filtered> {
    let mut all = Vec::new();
    for host in topology.hosts.keys() {
        for (what, chains) in nftables(topology) {
            let script = format!("table inet foreign {{\n{chains}\n}}\n");
            all.push(Filtered { host: host.clone(), what, program: &["nft", "-f", "-"], script });
        }
        for (what, script) in iptables(topology) {
            if what == OPEN_FOR_PORTS {
                all.push(Filtered {
                    host: host.clone(),
                    what: "iptables-legacy: input open for ports",
                    program: &["iptables-legacy-restore"],
                    script: script.clone(),
                });
            }
            all.push(Filtered { host: host.clone(), what, program: &["iptables-restore"], script });
        }
        if has_ipv6(topology) {
            for (what, chains) in neighbours(&ports(topology)) {
                let script = format!("table inet foreign {{\n{chains}\n}}\n");
                all.push(Filtered {
                    host: host.clone(),
                    what,
                    program: &["nft", "-f", "-"],
                    script,
                });
            }
            let script = "*filter\n-A INPUT -p ipv6-icmp --icmpv6-type neighbour-solicitation -j DROP\nCOMMIT\n";
            all.push(Filtered {
                host: host.clone(),
                what: "ip6tables: input drops neighbour solicitations",
                program: &["ip6tables-restore"],
                script: script.to_owned(),
            });
        }
    }
    all
}

fn has_ipv6(topology: &Topology) -> bool {
    let interfaces = topology.hosts.values().flat_map(|host| host.interfaces.values());
    interfaces.flat_map(|interface| &interface.addresses).any(|own| own.addr().is_ipv6())
}

/// Neighbour discovery of IPv6 is dropped, in part.
fn neighbours(ports: &str) -> Vec<(&'static str, String)> {
    let chain = |hook: &str, policy: &str, rules: &str| {
        format!("chain {hook} {{ type filter hook {hook} priority 0; policy {policy}; {rules} }}")
    };
    let solicit = "icmpv6 type nd-neighbor-solicit";
    let advert = "icmpv6 type nd-neighbor-advert";
    let port = format!("meta l4proto {{ tcp, udp, sctp }} th dport {{ {ports} }} accept;");
    let known = "ct state established,related accept; iifname lo accept;";
    vec![
        ("input drops solicitations", chain("input", "accept", &format!("{solicit} drop;"))),
        ("input drops advertisements", chain("input", "accept", &format!("{advert} drop;"))),
        ("output drops advertisements", chain("output", "accept", &format!("{advert} drop;"))),
        (
            "input open for ports, not for neighbours",
            chain("input", "drop", &format!("{known} {port}")),
        ),
        (
            "input open for ports and solicitations",
            chain("input", "drop", &format!("{known} {port} {solicit} accept;")),
        ),
    ]
}

/// Ports of services and of real servers.
fn ports(topology: &Topology) -> String {
    let services = topology.services.iter();
    let asked = services.clone().flat_map(targets::of_service).map(|target| target.at.port());
    let served = services.flat_map(|service| &service.real_servers).map(|it| it.port);
    let served = served.filter(|port| *port != 0);
    let ports: BTreeSet<String> = asked.chain(served).map(|port| port.to_string()).collect();
    ports.into_iter().collect::<Vec<_>>().join(", ")
}

fn vips(topology: &Topology, ipv6: bool) -> Vec<String> {
    let all: BTreeSet<String> = topology
        .services
        .iter()
        .filter_map(Service::vip_address)
        .filter(|vip| vip.is_ipv6() == ipv6)
        .map(|vip| vip.to_string())
        .collect();
    all.into_iter().collect()
}

fn nftables(topology: &Topology) -> Vec<(&'static str, String)> {
    let ports = ports(topology);
    let hook = |name: &str, priority: i32, policy: &str, rules: &str| {
        format!(
            "chain {name} {{ type filter hook {name} priority {priority}; policy {policy}; {rules} }}"
        )
    };
    let known = "ct state established,related accept;";
    let asked = format!("meta l4proto {{ tcp, udp, sctp }} th dport {{ {ports} }}");
    let port = format!("{asked} accept;");
    let mut to_vips = String::new();
    for (ipv6, word) in [(false, "ip"), (true, "ip6")] {
        let vips = vips(topology, ipv6);
        if !vips.is_empty() {
            let _ = write!(to_vips, "{word} daddr {{ {} }} accept; ", vips.join(", "));
        }
    }
    let wrapped = "meta l4proto { ipip, ipv6, gre } accept; udp dport 1024-65535 accept;";
    vec![
        (
            "input closed",
            hook("input", 0, "drop", &format!("{USUAL} {known} tcp dport 22 accept;")),
        ),
        ("input open for ports", hook("input", 0, "drop", &format!("{USUAL} {known} {port}"))),
        ("input open for VIPs", hook("input", 0, "drop", &format!("{USUAL} {known} {to_vips}"))),
        (
            "input open for VIPs and what is wrapped",
            hook("input", 0, "drop", &format!("{USUAL} {to_vips} {wrapped}")),
        ),
        (
            "input takes what is new only",
            hook("input", 0, "drop", &format!("{USUAL} ct state new accept;")),
        ),
        ("input drops what is invalid", hook("input", 0, "accept", "ct state invalid drop;")),
        ("forward closed", hook("forward", 0, "drop", &format!("{USUAL} {known}"))),
        ("forward drops what is invalid", hook("forward", 0, "accept", "ct state invalid drop;")),
        ("forward open for ports", hook("forward", 0, "drop", &format!("{USUAL} {known} {port}"))),
        ("forward takes what comes in by eth0", hook("forward", 0, "drop", "iifname eth0 accept;")),
        ("output closed", hook("output", 0, "drop", &format!("{USUAL} {known}"))),
        (
            "output drops what is untracked",
            hook("output", 0, "accept", &format!("{USUAL} ct state invalid,untracked drop;")),
        ),
        (
            "postrouting closed for ports",
            hook("postrouting", 110, "accept", &format!("{asked} drop;")),
        ),
        (
            "prerouting untracks, input takes that",
            format!(
                "{}\n{}",
                hook("prerouting", -300, "accept", &format!("{asked} notrack;")),
                hook("input", 0, "drop", &format!("{USUAL} ct state untracked accept;"))
            ),
        ),
        (
            "prerouting drops by the VIP",
            hook("prerouting", -150, "accept", &to_vips.replace("accept", "drop")),
        ),
    ]
}

fn iptables(topology: &Topology) -> Vec<(&'static str, String)> {
    let ports = ports(topology).replace(' ', "");
    let accepting = |chain: &str, rules: &str| {
        let drops = |name| if name == chain { "DROP" } else { "ACCEPT" };
        format!(
            "*filter\n:INPUT {} [0:0]\n:FORWARD {} [0:0]\n:OUTPUT {} [0:0]\n:OWN - [0:0]\n-A {chain} -j OWN\n{rules}COMMIT\n",
            drops("INPUT"),
            drops("FORWARD"),
            drops("OUTPUT")
        )
    };
    let known = "-A OWN -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n";
    let port = format!(
        "-A OWN -p tcp -m multiport --dports {ports} -j ACCEPT\n-A OWN -p udp -m multiport --dports {ports} -j ACCEPT\n"
    );
    vec![
        (OPEN_FOR_PORTS, accepting("INPUT", &format!("{known}{port}"))),
        ("iptables: forward open for ports", accepting("FORWARD", &format!("{known}{port}"))),
        ("iptables: output open for what is known", accepting("OUTPUT", known)),
        (
            "iptables: forward refuses what is invalid",
            accepting(
                "INPUT",
                "-A OWN -j ACCEPT\n-A FORWARD -m conntrack --ctstate INVALID -j REJECT\n",
            ),
        ),
    ]
}

impl Cluster<'_> {
    /// Loads the rules, looks at the hosts, compares, and takes them back.
    pub(super) async fn try_rules(
        &self,
        mutant: &Filtered,
        session: &mut Session<'_>,
    ) -> Vec<String> {
        let Filtered { host, what, program, script } = mutant;
        self.run(host, program, script);
        let observed = session.observe(false).await;
        let (mut states, mut routing) = (HostStates::new(), BTreeMap::<HostName, Routing>::new());
        let mut firewalls = BTreeMap::<HostName, Arc<Firewall>>::new();
        for (name, observation) in observed {
            let observation = observation.unwrap();
            states.insert(name.clone(), observation.state);
            routing.insert(name.clone(), observation.facts.routing);
            firewalls.insert(name, observation.facts.firewall);
        }
        assert!(!firewalls[host].is_empty(), "{what}: the rules are not seen on {host}");
        let world = seen_world_of(self.topology, &states, &routing, &Mtus::new(), &firewalls);
        let (wrong, _) = self.compare(&world, &format!("{what} on {host}")).await;
        let table = match program[0] {
            "nft" => "inet foreign",
            "ip6tables-restore" => "ip6 filter",
            "iptables-restore" => "ip filter",
            _ => {
                let none = "*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n";
                self.run(host, program, none);
                return wrong;
            }
        };
        self.load(host, &format!("delete table {table}\n"));
        wrong
    }

    /// Gives a host rules of nftables.
    pub(super) fn load(&self, host: &HostName, script: &str) {
        self.run(host, &["nft", "-f", "-"], script);
    }

    fn run(&self, host: &HostName, program: &[&str], input: &str) {
        let run = || {
            let mut child =
                Command::new(program[0]).args(&program[1..]).stdin(Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            child.wait().unwrap().success()
        };
        assert!(self.lab.run_in(host, run).unwrap(), "{program:?} on {host}: {input}");
    }
}
