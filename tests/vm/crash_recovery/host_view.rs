//! Whether a change is there, by what `ip -j`, `ipvsadm -Sn` and /proc/sys say: nothing of lvsprov's own
//! reading is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use lvsprov::lab::snapshot::Snapshot;
use lvsprov::names::IfName;
use lvsprov::state::{
    AddressKey, Destination, DestinationId, Edit, ForwardingMethod, KeyedEdit, Link, Route,
    RouteKey, ServiceKey, Sysctl, VirtualService,
};
use serde_json::Value;

/// What the tried clusters are reached by.
const VIPS: [Ipv4Addr; 2] = [Ipv4Addr::new(172, 25, 7, 200), Ipv4Addr::new(172, 25, 7, 201)];

/// One host as other programs show it.
pub struct HostView<'a> {
    settings: &'a Snapshot,
    links: Vec<Value>,
    routes: Vec<Value>,
    /// `-t 192.0.2.1:80` and what comes behind it.
    services: BTreeMap<String, String>,
    /// The same, and `-r 192.0.2.2:80`.
    destinations: BTreeMap<(String, String), String>,
}

impl<'a> HostView<'a> {
    pub fn of(seen: &'a Snapshot) -> Self {
        let mut documents = serde_json::Deserializer::from_str(&seen["ip -j"]).into_iter::<Value>();
        // In the order in which they were asked for: links, addresses, routes, rules.
        let mut next = || documents.next().unwrap().unwrap().as_array().unwrap().clone();
        let (_, links, routes) = (next(), next(), next());
        let mut services = BTreeMap::new();
        let mut destinations = BTreeMap::new();
        for line in seen["ipvsadm -Sn"].lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["-A", kind, at, how @ ..] => {
                    services.insert(format!("{kind} {at}"), how.join(" "));
                }
                ["-a", kind, at, "-r", to, how @ ..] => {
                    destinations.insert((format!("{kind} {at}"), (*to).to_owned()), how.join(" "));
                }
                other => panic!("ipvsadm -Sn says {other:?}"),
            }
        }
        Self { settings: seen, links, routes, services, destinations }
    }

    /// How many of `changes` are there: of several that change one thing, the last one counts.
    pub fn count<'c>(&self, changes: impl DoubleEndedIterator<Item = &'c Edit>) -> usize {
        let mut last: BTreeMap<String, bool> = BTreeMap::new();
        let mut count = 0;
        for change in changes.rev() {
            let there = *last.entry(change.precise_name()).or_insert_with(|| self.is_done(change));
            count += usize::from(there);
        }
        count
    }

    /// Whether the host is as `edit` leaves it.
    pub fn is_done(&self, edit: &Edit) -> bool {
        match edit {
            // A module is the machine's: the test loads all of them before.
            Edit::Module(_) => true,
            Edit::Sysctl(of) => Some(self.setting(&of.key)) == of.after.as_deref().map(words),
            Edit::Link(of) => self.is_up(&of.key) == (of.after == Some(Link::Up)),
            Edit::Address(of) => self.has_address(&of.key) == of.after.is_some(),
            Edit::Route(KeyedEdit { key, before, after }) => match (before, after) {
                (_, Some(route)) => self.route(key, route).is_some_and(|r| leads_as(r, route)),
                (Some(route), None) => self.route(key, route).is_none(),
                (None, None) => panic!("{edit} does nothing"),
            },
            Edit::Service(KeyedEdit { key, after, .. }) => {
                let wanted = after.as_ref().map(service_words);
                self.services.get(&name(key)) == wanted.as_ref()
            }
            Edit::Destination(KeyedEdit { key: DestinationId { service, key }, after, .. }) => {
                let wanted = after.as_ref().map(destination_words);
                self.destinations.get(&(name(service), key.to_string())) == wanted.as_ref()
            }
            Edit::Table(KeyedEdit { key, after, .. }) => {
                let wanted = after.as_ref().map(|rules| vips_in(&rules.to_string()));
                self.table(&key.to_string()) == wanted
            }
            other => panic!("the clusters that are tried need no {other}"),
        }
    }

    /// The VIPs that a table's rules name, by what the kernel lists; `None` if there is no such table.
    fn table(&self, name: &str) -> Option<BTreeSet<Ipv4Addr>> {
        let mut vips = None;
        for (entry, text) in self.settings {
            let words: Vec<&str> = entry.split(' ').collect();
            if words.first() == Some(&"nftables") && words.get(2) == Some(&name) {
                let there = |vip: &Ipv4Addr| text.contains(&format!("{:08x}", vip.to_bits()));
                vips.get_or_insert_with(BTreeSet::new).extend(VIPS.into_iter().filter(there));
            }
        }
        vips
    }

    fn setting(&self, key: &Sysctl) -> String {
        let path = key.to_string().replace('.', "/");
        self.settings.get(&path).cloned().unwrap_or_else(|| panic!("there is no {path}"))
    }

    fn link(&self, dev: &IfName) -> Option<&Value> {
        self.links.iter().find(|link| link["ifname"] == dev.as_str())
    }

    fn is_up(&self, dev: &IfName) -> bool {
        let flags = self.link(dev).and_then(|link| link["flags"].as_array());
        flags.is_some_and(|flags| flags.iter().any(|flag| flag == "UP"))
    }

    fn has_address(&self, key: &AddressKey) -> bool {
        let all = self.link(&key.dev).and_then(|link| link["addr_info"].as_array());
        let (address, length) = (key.net.addr().to_string(), u64::from(key.net.prefix_len()));
        all.into_iter()
            .flatten()
            .any(|a| a["local"] == address.as_str() && a["prefixlen"] == length)
    }

    /// The main table's, of that metric.
    fn route(&self, key: &RouteKey, route: &Route) -> Option<&Value> {
        let destination = match key.0.prefix_len() {
            0 => "default".to_owned(),
            32 if key.0.addr().is_ipv4() => key.0.addr().to_string(),
            _ => key.0.to_string(),
        };
        self.routes.iter().find(|found| {
            found["dst"] == destination.as_str()
                && found.get("table").is_none()
                && found.get("metric").and_then(Value::as_u64).unwrap_or(0)
                    == u64::from(route.metric)
        })
    }
}

fn vips_in(text: &str) -> BTreeSet<Ipv4Addr> {
    VIPS.into_iter().filter(|vip| text.contains(&vip.to_string())).collect()
}

fn leads_as(found: &Value, route: &Route) -> bool {
    let gateway = route.gateway.map(|gateway| gateway.to_string());
    let text = |name: &str| found.get(name).and_then(Value::as_str).map(str::to_owned);
    text("gateway") == gateway && text("dev") == route.dev.as_ref().map(ToString::to_string)
}

fn words(text: &str) -> String {
    text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

/// As ipvsadm(8) names a service.
fn name(key: &ServiceKey) -> String {
    match key {
        ServiceKey::Address(protocol, address) => {
            let kind = if protocol.to_string() == "tcp" { "-t" } else { "-u" };
            format!("{kind} {address}")
        }
        ServiceKey::Fwmark { mark, .. } => format!("-f {mark}"),
    }
}

fn service_words(service: &VirtualService) -> String {
    assert!(service.timeout == 0 && service.flags.bits() == 0, "not written down here: {service}");
    format!("-s {}", service.scheduler)
}

fn destination_words(destination: &Destination) -> String {
    let method = match destination.method {
        ForwardingMethod::Masquerade => "-m",
        ForwardingMethod::Tunnel => "-i",
        ForwardingMethod::DirectRoute => "-g",
        other => panic!("not written down here: {other}"),
    };
    let tunnel =
        if destination.method == ForwardingMethod::Tunnel { " --tun-type ipip" } else { "" };
    format!("{method} -w {}{tunnel}", destination.weight)
}
