//! The real servers of a service, and the address of each as the director sends to it.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Resolver;
use super::services::lacks_role;
use crate::finding::{Finding, Position};
use crate::names::{HostName, IfName};
use crate::state::Tunnel;
use crate::topology::document::{RealServerDoc, Said};
use crate::topology::model::{Forward, Host, Interface, RealServer, Role};
use crate::topology::node::At;
use crate::topology::suggest;

impl Resolver {
    pub(super) fn real_server(
        &mut self,
        doc: &RealServerDoc,
        director: Option<&HostName>,
        defaults: &ForAll,
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
            Said::This(stated) => stated_rip(host, stated.value, stated.at),
            Said::Nothing => rip(host, director, defaults.ipv6, *at),
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
            port: or(&doc.port, defaults.port)?,
            weight: or(&doc.weight, defaults.weight)?,
            upper_threshold: or(&doc.upper_threshold, Some(0))?,
            lower_threshold: or(&doc.lower_threshold, Some(0))?,
            forward: or(&doc.forward, defaults.forward)?,
            tunnel: or(&doc.tunnel, defaults.tunnel)?,
            at: doc.at,
        })
    }
}

/// What a service says for those of its real servers that say nothing themselves; `None`: not clear.
pub(super) struct ForAll {
    pub ipv6: bool,
    pub port: Option<u16>,
    pub weight: Option<u32>,
    pub forward: Option<Forward>,
    pub tunnel: Option<Tunnel>,
}

/// What is said here, else what holds for all; `None` where it is not clear.
fn or<T: Copy>(said: &Said<T>, for_all: Option<T>) -> Option<T> {
    match said {
        Said::This(value) => Some(value.value),
        Said::Nothing => for_all,
        Said::Unclear => None,
    }
}

type Rip = Result<(IpAddr, IfName), Box<Finding>>;

fn stated_rip(host: &Host, address: IpAddr, at: Position) -> Rip {
    let plugged = host.interface_with(address).filter(|(i, _)| i.network.is_some());
    if let Some((interface, _)) = plugged {
        return Ok((address, interface.name.clone()));
    }
    let all = suggest::listed(plugged_addresses(host).map(|(_, a)| a.addr()));
    Err(Box::new(Finding::error(
        "rip-not-its-own",
        at,
        format!("{address} is not an address of {}", host.name),
        "the director would send packets to a machine that is somebody else or nobody",
        format!("one of: {all}"),
    )))
}

/// The address of the service's family that the director has on-link; without one, the only or first
/// of that family; without that, of the other.
fn rip(host: &Host, director: &Host, ipv6: bool, at: Position) -> Rip {
    let of_family: Vec<_> =
        plugged_addresses(host).filter(|(_, a)| a.addr().is_ipv6() == ipv6).collect();
    // A host that has only the other family's addresses can be reached through a tunnel.
    let usable = if of_family.is_empty() { plugged_addresses(host).collect() } else { of_family };
    let near = |interface: &Interface, address: IpNet| {
        director
            .interfaces
            .values()
            .filter(|d| d.network == interface.network)
            .any(|d| d.addresses.iter().any(|n| n.contains(&address.addr())))
    };
    let mut all: Vec<_> = usable.iter().filter(|(i, a)| near(i, *a)).copied().collect();
    if all.is_empty() {
        all = usable;
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
        let all = suggest::listed(all.iter().map(|(_, a)| a.addr()));
        return Err(Box::new(Finding::error(
            "rip-ambiguous",
            at,
            format!("{} could be reached at any of {all}", host.name),
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
