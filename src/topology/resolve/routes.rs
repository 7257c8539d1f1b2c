//! Static routes: the next hop of each is a neighbour, and no host has two to one destination.

use std::collections::HashMap;

use ipnet::IpNet;

use super::Resolver;
use super::gateways::NextHopDoc;
use crate::finding::Finding;
use crate::names::{HostName, IfName};
use crate::topology::document::{GatewayDoc, HostDoc, RouteDoc};
use crate::topology::model::StaticRoute;
use crate::topology::node::At;
use crate::topology::suggest;

/// The static routes that the file sets for hosts.
pub(super) fn resolve(resolver: &mut Resolver, hosts: &[HostDoc]) {
    for HostDoc { name: At { value: name, .. }, routes, .. } in hosts {
        let before = resolver.findings.len();
        let twice = resolver.duplicate_routes(name, &routes.valid);
        let once = routes.valid.iter().filter(|route| !twice.contains(&route.to.value));
        let mut found: Vec<StaticRoute> =
            once.clone().filter_map(|route| resolver.route(name, route)).collect();
        let complete = found.len() == once.count() && resolver.findings.len() == before;
        if routes.unclear || !complete {
            resolver.unclear_gateways.insert(name.clone());
        }
        found.sort_by_key(|route| route.to);
        if let Some(host) = resolver.hosts.get_mut(name) {
            host.routes = found;
        }
    }
}

impl Resolver {
    /// The destinations that stand more than once.
    fn duplicate_routes(&mut self, of: &HostName, routes: &[RouteDoc]) -> Vec<IpNet> {
        let mut seen: HashMap<IpNet, &RouteDoc> = HashMap::new();
        let mut twice = Vec::new();
        for route in routes {
            let to = &route.to;
            let Some(first) = seen.get(&to.value) else {
                seen.insert(to.value, route);
                continue;
            };
            twice.push(to.value);
            self.findings.push(Finding::error(
                "duplicate-route",
                to.at,
                format!(
                    "{of} has a route to {} already (at {}:{})",
                    to.value, first.at.line, first.at.column
                ),
                "lvsprov sets one route to each destination",
                "keep one of them",
            ));
        }
        twice
    }

    fn route(&mut self, of: &HostName, doc: &RouteDoc) -> Option<StaticRoute> {
        let RouteDoc { at: _, to: At { value: to, .. }, via, interface } = doc;
        let interface = match interface {
            Some(stated) => Some(self.stated_interface(of, stated)?),
            None => None,
        };
        let ipv4 = to.addr().is_ipv4();
        if let GatewayDoc::Address(address) = via.value
            && address.is_ipv4() != ipv4
        {
            let (theirs, ours) = if ipv4 { ("IPv6", "IPv4") } else { ("IPv4", "IPv6") };
            self.findings.push(Finding::error(
                "route-families-differ",
                via.at,
                format!("the next hop {address} of the route to {to} is an {theirs} address"),
                format!("lvsprov sets {ours} routes by {ours} next hops only"),
                format!("name an {ours} address in a subnet of {of}"),
            ));
            return None;
        }
        let hop = NextHopDoc {
            key: "via",
            of,
            stated: via,
            ipv4: Some(ipv4),
            interface: interface.as_ref(),
        };
        let via = self.next_hop(hop)?.into_iter().next()?;
        Some(StaticRoute { to: *to, via })
    }

    /// An interface of `of` that is on a network.
    fn stated_interface(&mut self, of: &HostName, stated: &At<IfName>) -> Option<IfName> {
        let host = self.clear_host(of)?;
        let plugged = host.interfaces.values().filter(|interface| interface.network.is_some());
        let known: Vec<&str> = plugged.map(|interface| interface.name.as_str()).collect();
        if known.contains(&stated.value.as_str()) {
            return Some(stated.value.clone());
        }
        let what = format!("interface on a network of {of} named");
        let (mistakes, name) = (self.findings.len(), stated.value.as_str());
        let finding = suggest::unknown_name(&what, stated.at, name, mistakes, known.into_iter());
        self.findings.push(finding);
        None
    }
}
