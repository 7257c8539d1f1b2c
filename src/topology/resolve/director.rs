//! The director of a service, and which of its interfaces gets the VIP.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Resolver;
use super::services::lacks_role;
use crate::finding::Finding;
use crate::names::{HostName, IfName, NetworkName};
use crate::topology::document::{Field, ServiceDoc};
use crate::topology::model::{Host, Interface, Role};
use crate::topology::suggest;

impl Resolver {
    pub(super) fn director(&mut self, doc: &ServiceDoc) -> Option<HostName> {
        match &doc.director {
            Field::Invalid => None,
            Field::Value(name) => {
                let Some(host) = self.hosts.get(&name.value) else {
                    self.unknown_host(&name.value, name.at);
                    return None;
                };
                if !host.roles.contains(&Role::Director) {
                    let finding = lacks_role(host, "director", name.at);
                    self.findings.extend((!self.unclear.contains(&name.value)).then_some(finding));
                    return None;
                }
                Some(name.value.clone())
            }
            Field::Missing => self.only_director(doc),
        }
    }

    fn only_director(&mut self, doc: &ServiceDoc) -> Option<HostName> {
        let finding = match self.directors.as_slice() {
            [only] => return Some(only.clone()),
            // `no_director` reports it once for all services.
            [] => return None,
            several => Finding::error(
                "several-directors",
                doc.at,
                format!(
                    "several hosts are directors ({}), and the service does not name one",
                    suggest::listed(several)
                ),
                "a VIP can be on one director only",
                "add `director: NAME` to the service",
            ),
        };
        self.findings.push(finding);
        None
    }

    /// The director's interface for the VIP; `derive_vip_interface` has the order.
    pub(super) fn vip_interface(
        &mut self,
        doc: &ServiceDoc,
        director: &HostName,
        vip: IpAddr,
    ) -> Option<IfName> {
        let host = self.hosts.get(director)?;
        let plugged: Vec<&Interface> =
            host.interfaces.values().filter(|i| i.network.is_some()).collect();
        match &doc.vip_interface {
            Field::Invalid => return None,
            Field::Value(stated) => {
                if let Some(found) = plugged.iter().find(|i| i.name == stated.value) {
                    return Some(found.name.clone());
                }
                let known = plugged.iter().map(|i| i.name.as_str());
                let what = format!("interface on a network of {director} named");
                let (mistakes, name) = (self.findings.len(), stated.value.as_str());
                let finding = suggest::unknown_name(&what, stated.at, name, mistakes, known);
                self.findings.extend((!self.unclear.contains(director)).then_some(finding));
                return None;
            }
            Field::Missing => {}
        }
        let found = self.derive_vip_interface(host, &plugged, vip);
        let clear = !self.unclear.contains(director) && !self.unclear_gateways.contains(director);
        if found.is_none() && clear {
            let at = doc.vip.value().map_or(doc.at, |v| v.at);
            let names = suggest::listed(plugged.iter().map(|i| &i.name));
            self.findings.push(Finding::error(
                "vip-interface-unclear",
                at,
                format!("the interface of {director} for {vip} is ambiguous"),
                "no network of the director has a subnet with the VIP, and several interfaces could lead to clients",
                format!("add `vip_interface:` to the service, one of: {names}"),
            ));
        }
        found
    }

    /// The first match: the interface with the VIP; the interface whose subnet contains it; the only
    /// interface on a network with a subnet that contains it; the only interface; the interface to the
    /// gateway; the only interface on a network with clients or routers.
    fn derive_vip_interface(
        &self,
        host: &Host,
        plugged: &[&Interface],
        vip: IpAddr,
    ) -> Option<IfName> {
        let named = |i: &Interface| Some(i.name.clone());
        if let Some((own, _)) = host.interface_with(vip).filter(|(i, _)| i.network.is_some()) {
            return named(own);
        }
        if let Some((near, _)) = host.on_link(vip).filter(|(i, _)| i.network.is_some()) {
            return named(near);
        }
        let hold = self.networks.values().filter(|n| n.subnets.iter().any(|s| s.contains(&vip)));
        let hold: BTreeSet<&NetworkName> = hold.map(|network| &network.name).collect();
        let holds = |i: &&&Interface| i.network.as_ref().is_some_and(|n| hold.contains(n));
        let on_segment: Vec<_> = plugged.iter().filter(holds).collect();
        if let [one] = on_segment.as_slice() {
            return named(one);
        }
        if let [only] = plugged {
            return named(only);
        }
        if let Some(gateway) = host.gateway_for(vip) {
            return Some(gateway.interface.clone());
        }
        let from_outside = |i: &&&Interface| {
            let there = i.network.as_ref().and_then(|network| self.outside.get(network));
            there.is_some_and(|there| there.iter().any(|name| *name != host.name))
        };
        let outside: Vec<_> = plugged.iter().filter(from_outside).collect();
        if let [one] = outside.as_slice() { named(one) } else { None }
    }
}
