//! The director of a service, and which of its interfaces gets the VIP.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Resolver;
use super::services::lacks_role;
use crate::finding::Finding;
use crate::names::{HostName, IfName, NetworkName};
use crate::topology::document::{Said, ServiceDoc};
use crate::topology::model::{Host, Interface, Role};
use crate::topology::suggest;

impl Resolver {
    pub(super) fn director(&mut self, doc: &ServiceDoc) -> Option<HostName> {
        match &doc.director {
            Said::Unclear => None,
            Said::This(name) => {
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
            Said::Nothing => self.only_director(doc),
        }
    }

    fn only_director(&mut self, doc: &ServiceDoc) -> Option<HostName> {
        let finding = match self.directors.as_slice() {
            [only] => return Some(only.clone()),
            // Has a finding of its own, once for all services.
            [] => return None,
            several => Finding::error(
                "several-directors",
                doc.at,
                format!(
                    "several hosts are directors ({}), and the service names none",
                    suggest::listed(several)
                ),
                "a VIP can be on one machine only",
                "add `director: NAME` to the service",
            ),
        };
        self.findings.push(finding);
        None
    }

    /// Where the VIP goes on the director: see `derive_vip_interface` for the order.
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
            Said::Unclear => return None,
            Said::This(stated) => {
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
            Said::Nothing => {}
        }
        let found = self.derive_vip_interface(host, &plugged, vip);
        let clear = !self.unclear.contains(director) && !self.unclear_gateways.contains(director);
        if found.is_none() && clear {
            let at = doc.vip.value().map_or(doc.at, |v| v.at);
            let names = suggest::listed(plugged.iter().map(|i| &i.name));
            self.findings.push(Finding::error(
                "vip-interface-unclear",
                at,
                format!("it is not clear on which interface of {director} {vip} belongs"),
                "the VIP is in no subnet of the director's networks, and several interfaces could lead to clients",
                format!("add `vip_interface:` to the service, one of: {names}"),
            ));
        }
        found
    }

    /// In this order: the interface that has the VIP already; whose subnet holds it; whose
    /// network has a subnet that holds it; the only one; the one to the gateway; the only one on
    /// a network with clients or routers.
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
