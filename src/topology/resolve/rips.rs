//! The real servers of a service, and the address of each as the director sends to it.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Resolver;
use super::services::lacks_role;
use crate::check::Finding;
use crate::topology::document::{RealServerDoc, Said};
use crate::topology::model::{Host, Interface, Position, RealServer, Role};
use crate::topology::names::{HostName, IfName};
use crate::topology::node::At;

impl Resolver {
    pub(super) fn real_server(
        &mut self,
        doc: &RealServerDoc,
        director: Option<&HostName>,
        port: Option<u16>,
        default_weight: Option<u32>,
    ) -> Option<RealServer> {
        let At { value: name, at } = &doc.host;
        let Some(host) = self.hosts.get(name) else {
            self.unknown_host(name, *at);
            return None;
        };
        let unclear = self.unclear.contains(name);
        if !host.roles.contains(&Role::RealServer) && !unclear {
            let finding = lacks_role(host, "real_server", *at);
            self.findings.push(finding);
        }
        let host = self.hosts.get(name)?;
        let director = self.hosts.get(director?)?;
        let found = match &doc.address {
            Said::Unclear => return None,
            Said::This(stated) => stated_rip(host, IpAddr::V4(stated.value), stated.at),
            Said::Nothing => rip(host, director, *at),
        };
        let (rip, interface) = match found {
            Ok(found) => found,
            Err(finding) => {
                self.findings.extend((!unclear).then_some(*finding));
                return None;
            }
        };
        Some(RealServer {
            host: name.clone(),
            rip,
            interface,
            port: doc.port.value().map(|p| p.value).or(port.filter(|_| !doc.port.is_unclear()))?,
            weight: doc
                .weight
                .value()
                .map(|w| w.value)
                .or(default_weight.filter(|_| !doc.weight.is_unclear()))?,
            at: doc.at,
        })
    }
}

type Rip = Result<(IpAddr, IfName), Box<Finding>>;

fn stated_rip(host: &Host, address: IpAddr, at: Position) -> Rip {
    let plugged = host.interface_with(address).filter(|(i, _)| i.network.is_some());
    if let Some((interface, _)) = plugged {
        return Ok((address, interface.name.clone()));
    }
    let all: Vec<String> = plugged_addresses(host).map(|(_, a)| a.addr().to_string()).collect();
    Err(Box::new(Finding::error(
        "rip-not-its-own",
        at,
        format!("{address} is not an address of {}", host.name),
        "the director would send packets to a machine that is somebody else or nobody",
        format!("one of: {}", all.join(", ")),
    )))
}

/// The address that the director has on-link; without one, the host's only or first address.
fn rip(host: &Host, director: &Host, at: Position) -> Rip {
    let near = |interface: &Interface, address: IpNet| {
        director
            .interfaces
            .values()
            .filter(|d| d.network == interface.network)
            .any(|d| d.addresses.iter().any(|n| n.contains(&address.addr())))
    };
    let mut all: Vec<_> = plugged_addresses(host).filter(|(i, a)| near(i, *a)).collect();
    if all.is_empty() {
        all = plugged_addresses(host).collect();
    }
    let Some((interface, address)) = all.first() else {
        return Err(Box::new(Finding::error(
            "rip-missing",
            at,
            format!("{} has no address on any network", host.name),
            "the director needs an address to send to",
            format!("give an interface of {} an address", host.name),
        )));
    };
    if all.iter().any(|(other, _)| other.name != interface.name) {
        let all: Vec<String> = all.iter().map(|(_, a)| a.addr().to_string()).collect();
        return Err(Box::new(Finding::error(
            "rip-ambiguous",
            at,
            format!("{} could be reached at any of {}", host.name, all.join(", ")),
            "a destination of IPVS is one address",
            format!("write {{host: {}, address: {}}}", host.name, address.addr()),
        )));
    }
    Ok((address.addr(), interface.name.clone()))
}

fn plugged_addresses(host: &Host) -> impl Iterator<Item = (&Interface, IpNet)> {
    let plugged = host.interfaces.values().filter(|i| i.network.is_some());
    plugged.flat_map(|i| i.addresses.iter().map(move |a| (i, *a)))
}
