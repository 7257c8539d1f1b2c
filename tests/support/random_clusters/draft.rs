//! Networks, hosts and routes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::dice::Dice;

/// A network's subnet of one family: `part` tells the two IPv4 subnets of a network apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Segment {
    pub(super) ipv6: bool,
    pub(super) network: usize,
    pub(super) part: usize,
}

impl Segment {
    pub(super) fn subnet(self) -> String {
        let Self { ipv6, network, part } = self;
        let number = network + 1;
        if ipv6 { format!("2001:db8:{number}::/64") } else { format!("10.{number}.{part}.0/24") }
    }

    /// The address with this number in the subnet.
    pub(super) fn address(self, number: usize) -> String {
        let Self { ipv6, network, part } = self;
        let network = network + 1;
        if ipv6 {
            format!("2001:db8:{network}::{number:x}")
        } else {
            format!("10.{network}.{part}.{number}")
        }
    }

    fn length(self) -> u8 {
        if self.ipv6 { 64 } else { 24 }
    }
}

pub(super) struct DraftHost {
    pub(super) name: String,
    pub(super) roles: BTreeSet<&'static str>,
    /// One interface each.
    pub(super) networks: Vec<usize>,
    /// Where it has addresses.
    pub(super) segments: Vec<Segment>,
    /// The last part of its addresses.
    pub(super) number: usize,
    /// Its gateway is not in the file: NAT derives it.
    pub(super) derived_gateway: bool,
    /// A director that must be its gateway.
    pub(super) gateway_by_method: Option<usize>,
    gateways: Vec<String>,
    routes: Vec<(String, String)>,
}

impl DraftHost {
    pub(super) fn has_role(&self, role: &str) -> bool {
        self.roles.contains(role)
    }

    fn forwards(&self) -> bool {
        self.has_role("router")
    }

    pub(super) fn shares(&self, other: &Self, ipv6: bool) -> Option<Segment> {
        let shared = |segment: &&Segment| segment.ipv6 == ipv6 && other.segments.contains(segment);
        self.segments.iter().find(shared).copied()
    }
}

pub(super) struct Draft {
    pub(super) ipv4: bool,
    pub(super) ipv6: bool,
    /// Of each network, whether it has two IPv4 subnets.
    pub(super) networks: Vec<bool>,
    pub(super) hosts: Vec<DraftHost>,
    /// VIPs in no subnet, with the director.
    pub(super) foreign: Vec<(String, usize)>,
    /// Of IPVS, on every director.
    settings: Vec<&'static str>,
}

impl Draft {
    pub(super) fn roll(dice: &mut Dice) -> Self {
        let (ipv4, ipv6) = dice.one_of(&[
            (true, false),
            (true, false),
            (true, false),
            (true, true),
            (false, true),
        ]);
        let count = dice.one_of(&[2, 2, 3, 3, 4]);
        let networks = (0..count).map(|_| ipv4 && dice.rarely(15, 40)).collect();
        let mut draft = Self {
            ipv4,
            ipv6,
            networks,
            hosts: Vec::new(),
            foreign: Vec::new(),
            settings: Vec::new(),
        };
        for setting in ["conntrack: 1", "snat_reroute: 0", "sloppy_tcp: 1", "schedule_icmp: 1"] {
            if dice.is_nasty() && dice.chance(10) {
                draft.settings.push(setting);
            }
        }
        draft.roll_routers(dice);
        draft.roll_servers(dice);
        let clients = dice.one_of(&[1, 1, 2]);
        for nth in 0..clients {
            let mut networks = draft.some_networks(dice, 10, 40);
            let far = draft.without_real_servers();
            if !far.is_empty() && dice.chance(60) {
                networks = vec![dice.one_of(&far)];
            }
            draft.add(dice, format!("client{}", nth + 1), &["client"], networks);
        }
        // A host with one role more.
        while dice.rarely(15, 40) {
            let nth = dice.below(draft.hosts.len());
            let role = dice.one_of(&["client", "router", "real_server"]);
            draft.hosts[nth].roles.insert(role);
            if !dice.is_nasty() {
                break;
            }
        }
        draft
    }

    /// Routers that connect all networks, some of them twice.
    fn roll_routers(&mut self, dice: &mut Dice) {
        let count = dice.one_of(&[1, 1, 2, 2, 3]);
        let all: Vec<usize> = (0..self.networks.len()).collect();
        let mut connected = vec![dice.one_of(&all)];
        for nth in 0..count {
            let left: Vec<usize> =
                all.iter().copied().filter(|it| !connected.contains(it)).collect();
            let last = nth + 1 == count;
            let take = if last { left.len() } else { left.len().min(1 + dice.below(2)) };
            let mut networks = dice.some_of(&left, take);
            networks.push(dice.one_of(&connected));
            if networks.len() == 1 || dice.chance(30) {
                let more: Vec<usize> =
                    all.iter().copied().filter(|it| !networks.contains(it)).collect();
                networks.extend(dice.some_of(&more, 1));
            }
            connected.extend(networks.iter().filter(|it| left.contains(it)));
            networks.sort_unstable();
            self.add(dice, format!("router{}", nth + 1), &["router"], networks);
        }
    }

    fn roll_servers(&mut self, dice: &mut Dice) {
        let directors = dice.one_of(&[1, 1, 1, 2]);
        for nth in 0..directors {
            let networks = self.some_networks(dice, 35, 75);
            let roles: &[&str] = match dice.below(12) {
                0 => &["director", "router"],
                1 => &["director", "real_server"],
                2 => &["director", "client"],
                _ => &["director"],
            };
            self.add(dice, format!("lvs{}", nth + 1), roles, networks);
        }
        let count = dice.one_of(&[1, 2, 2, 3]);
        for nth in 0..count {
            let mut networks = self.some_networks(dice, 25, 60);
            let directors: Vec<usize> = self.directors();
            let near = dice.one_of(&directors);
            if dice.chance(70) {
                let near = dice.one_of(&self.hosts[near].networks.clone());
                if !networks.contains(&near) {
                    networks[0] = near;
                    networks.sort_unstable();
                }
            }
            let roles: &[&str] =
                if dice.chance(8) { &["real_server", "client"] } else { &["real_server"] };
            self.add(dice, format!("web{}", nth + 1), roles, networks);
        }
    }

    fn without_real_servers(&self) -> Vec<usize> {
        let has = |network: &usize| {
            let mut servers = self.hosts.iter().filter(|host| host.has_role("real_server"));
            servers.any(|host| host.networks.contains(network))
        };
        (0..self.networks.len()).filter(|network| !has(network)).collect()
    }

    /// One, or two in so many of 100 cases.
    fn some_networks(&self, dice: &mut Dice, percent: usize, nasty: usize) -> Vec<usize> {
        let count = 1 + usize::from(dice.rarely(percent, nasty));
        dice.some_of(&(0..self.networks.len()).collect::<Vec<_>>(), count)
    }

    fn add(&mut self, dice: &mut Dice, name: String, roles: &[&'static str], networks: Vec<usize>) {
        let mut segments = Vec::new();
        for network in &networks {
            let of = |ipv6, part| Segment { ipv6, network: *network, part };
            if self.ipv4 {
                let both = self.networks[*network];
                let parts: &[usize] = match dice.below(3) {
                    _ if !both => &[0],
                    _ if roles.contains(&"router") => &[0, 1],
                    0 => &[1],
                    1 => &[0, 1],
                    _ => &[0],
                };
                segments.extend(parts.iter().map(|part| of(false, *part)));
            }
            if self.ipv6 && (!self.ipv4 || dice.chance(90)) {
                segments.push(of(true, 0));
            }
        }
        self.hosts.push(DraftHost {
            name,
            roles: roles.iter().copied().collect(),
            networks,
            segments,
            number: self.hosts.len() + 11,
            derived_gateway: false,
            gateway_by_method: None,
            gateways: Vec::new(),
            routes: Vec::new(),
        });
    }

    pub(super) fn with_role(&self, role: &str) -> Vec<usize> {
        (0..self.hosts.len()).filter(|nth| self.hosts[*nth].has_role(role)).collect()
    }

    pub(super) fn directors(&self) -> Vec<usize> {
        self.with_role("director")
    }

    /// How many routers are between each router and `goal`.
    fn distances(&self, goal: Segment) -> BTreeMap<usize, usize> {
        let mut known = BTreeMap::new();
        let routers: Vec<usize> =
            (0..self.hosts.len()).filter(|nth| self.hosts[*nth].forwards()).collect();
        for distance in 0..=routers.len() {
            for router in &routers {
                let here = &self.hosts[*router];
                let near = |it: &&usize| here.shares(&self.hosts[**it], goal.ipv6).is_some();
                let reached = match distance {
                    0 => here.segments.contains(&goal),
                    _ => routers
                        .iter()
                        .filter(near)
                        .any(|next| known.get(next).is_some_and(|it| *it < distance)),
                };
                if reached {
                    known.entry(*router).or_insert(distance);
                }
            }
        }
        known
    }

    /// The next hop of `host` to `goal`; in a few cases a wrong one, or none.
    fn next_hop(&self, dice: &mut Dice, host: usize, goal: Segment) -> Option<String> {
        let distances = self.distances(goal);
        let here = &self.hosts[host];
        let near: Vec<(usize, Segment)> = distances
            .keys()
            .filter(|router| **router != host)
            .filter_map(|router| Some((*router, here.shares(&self.hosts[*router], goal.ipv6)?)))
            .collect();
        let least = near.iter().map(|(router, _)| distances[router]).min()?;
        let best: Vec<(usize, Segment)> =
            near.iter().copied().filter(|(router, _)| distances[router] == least).collect();
        let wrong = if dice.is_nasty() { 6 } else { 3 };
        let (router, by) = match dice.below(100) / wrong {
            0 => return None,
            1 => dice.one_of(&near),
            _ => dice.one_of(&best),
        };
        Some(by.address(self.hosts[router].number))
    }

    /// Gateways and static routes of all hosts.
    pub(super) fn roll_routes(&mut self, dice: &mut Dice) {
        for host in 0..self.hosts.len() {
            for ipv6 in [false, true] {
                self.roll_routes_of(dice, host, ipv6);
            }
        }
    }

    fn roll_routes_of(&mut self, dice: &mut Dice, host: usize, ipv6: bool) {
        if let Some(director) = self.hosts[host].gateway_by_method {
            if !self.hosts[host].derived_gateway
                && let Some(by) = self.hosts[host].shares(&self.hosts[director], ipv6)
            {
                let address = by.address(self.hosts[director].number);
                self.hosts[host].gateways.push(address);
            }
            return;
        }
        let own = self.hosts[host].segments.clone();
        let all: BTreeSet<Segment> = self.hosts.iter().flat_map(|it| it.segments.clone()).collect();
        let goals: Vec<Segment> =
            all.into_iter().filter(|it| it.ipv6 == ipv6 && !own.contains(it)).collect();
        let mut hops: Vec<(String, String)> = Vec::new();
        for goal in goals {
            if let Some(hop) = self.next_hop(dice, host, goal) {
                hops.push((goal.subnet(), hop));
            }
        }
        for (vip, director) in self.foreign.clone() {
            let there = self.hosts[director].segments.clone();
            let there = there.into_iter().find(|it| it.ipv6 == ipv6 && vip.contains(':') == ipv6);
            let Some(there) = there.filter(|it| !own.contains(it)) else { continue };
            if let Some(hop) = self.next_hop(dice, host, there) {
                let length = if ipv6 { 128 } else { 32 };
                hops.push((format!("{vip}/{length}"), hop));
            }
        }
        let has_gateway = dice.chance(if self.hosts[host].forwards() { 40 } else { 80 });
        if has_gateway && !hops.is_empty() {
            let gateway = dice.one_of(&hops).1;
            hops.retain(|(_, hop)| *hop != gateway);
            self.hosts[host].gateways.push(gateway);
        }
        hops.retain(|_| dice.chance(92));
        self.hosts[host].routes.extend(hops);
    }

    /// The file but its services.
    pub(super) fn text(&self, seed: u64) -> String {
        let mut text = format!("version: 1\nname: random-{seed}\nnetworks:\n");
        for (network, two) in self.networks.iter().enumerate() {
            let mut subnets = Vec::new();
            let of = |ipv6, part| Segment { ipv6, network, part };
            if self.ipv4 {
                subnets.push(of(false, 0));
            }
            if *two {
                subnets.push(of(false, 1));
            }
            if self.ipv6 {
                subnets.push(of(true, 0));
            }
            let subnets: Vec<String> = subnets.iter().map(|it| quoted(&it.subnet())).collect();
            let _ = writeln!(text, "  {}: [{}]", name_of_network(network), subnets.join(", "));
        }
        if !self.settings.is_empty() {
            let _ = writeln!(text, "ipvs: {{settings: {{{}}}}}", self.settings.join(", "));
        }
        text.push_str("hosts:\n");
        for host in &self.hosts {
            host.write(&mut text);
        }
        text
    }
}

fn name_of_network(network: usize) -> String {
    format!("net{}", network + 1)
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

impl DraftHost {
    fn write(&self, text: &mut String) {
        let roles: Vec<&str> = self.roles.iter().copied().collect();
        let _ =
            writeln!(text, "  {}:\n    role: [{}]\n    interfaces:", self.name, roles.join(", "));
        for (nth, network) in self.networks.iter().enumerate() {
            let here = self.segments.iter().filter(|it| it.network == *network);
            let addresses: Vec<String> = here
                .map(|it| quoted(&format!("{}/{}", it.address(self.number), it.length())))
                .collect();
            let _ = writeln!(
                text,
                "      eth{nth}: {{addresses: [{}], network: {}}}",
                addresses.join(", "),
                name_of_network(*network)
            );
        }
        if !self.gateways.is_empty() {
            let all: Vec<String> = self.gateways.iter().map(|it| quoted(it)).collect();
            let _ = writeln!(text, "    gateway: [{}]", all.join(", "));
        }
        if !self.routes.is_empty() {
            text.push_str("    routes:\n");
        }
        for (to, via) in &self.routes {
            let _ = writeln!(text, "      - {{to: {}, via: {}}}", quoted(to), quoted(via));
        }
    }
}
