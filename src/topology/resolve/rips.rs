//! The real servers of a service, and their RIPs: the addresses that the director sends to.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Resolver;
use super::services::lacks_role;
use crate::finding::{Finding, Position};
use crate::names::{HostName, IfName};
use crate::topology::document::{CheckDoc, Field, RealServerDoc, TunnelDoc};
use crate::topology::model::{Forward, Host, Interface, RealServer, Role};
use crate::topology::node::At;
use crate::topology::suggest;

impl Resolver {
    pub(super) fn real_server(
        &mut self,
        doc: &RealServerDoc,
        director: Option<&HostName>,
        defaults: &ServiceDefaults,
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
            Field::Invalid => return None,
            Field::Value(stated) => stated_rip(host, stated.value, stated.at),
            Field::Missing => rip(host, director, defaults.ipv6, *at),
        };
        let (rip, interface) = match found {
            Ok(found) => found,
            Err(finding) => {
                self.findings.extend((!unclear).then_some(*finding));
                return None;
            }
        };
        let TunnelDoc { tunnel, sources } = or(&doc.tunnel, defaults.tunnel.clone())?;
        Some(RealServer {
            host: name.clone(),
            rip,
            interface,
            port: or(&doc.port, defaults.port)?,
            weight: or(&doc.weight, defaults.weight)?,
            upper_threshold: or(&doc.upper_threshold, Some(0))?,
            lower_threshold: or(&doc.lower_threshold, Some(0))?,
            forward: or(&doc.forward, defaults.forward)?,
            tunnel,
            tunnel_sources: sources,
            check: or(&doc.check, defaults.check.clone())?,
            sorry: false,
            at: doc.at,
        })
    }
}

/// A service's defaults for its real servers; `None`: not valid.
#[derive(Clone)]
pub(super) struct ServiceDefaults {
    pub ipv6: bool,
    pub port: Option<u16>,
    pub weight: Option<u32>,
    pub forward: Option<Forward>,
    pub tunnel: Option<TunnelDoc>,
    pub check: Option<CheckDoc>,
}

/// The value, else the default; `None` if not valid.
fn or<T: Clone>(field: &Field<T>, for_all: Option<T>) -> Option<T> {
    match field {
        Field::Value(value) => Some(value.value.clone()),
        Field::Missing => for_all,
        Field::Invalid => None,
    }
}

type RipResult = Result<(IpAddr, IfName), Box<Finding>>;

fn stated_rip(host: &Host, address: IpAddr, at: Position) -> RipResult {
    let plugged = host.interface_with(address).filter(|(i, _)| i.network.is_some());
    if let Some((interface, _)) = plugged {
        return Ok((address, interface.name.clone()));
    }
    let all = suggest::listed(plugged_addresses(host).map(|(_, a)| a.addr()));
    Err(Box::new(Finding::error(
        "rip-not-its-own",
        at,
        format!("{address} is not an address of {}", host.name),
        "the director would send packets to another machine, or to no machine",
        format!("one of: {all}"),
    )))
}

/// The address of the service's family that is on-link for the director; else the first of that family;
/// else of the other family.
fn rip(host: &Host, director: &Host, ipv6: bool, at: Position) -> RipResult {
    let of_family: Vec<_> =
        plugged_addresses(host).filter(|(_, a)| a.addr().is_ipv6() == ipv6).collect();
    // A tunnel can carry the other family.
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
            "an IPVS destination has one address",
            format!("write {{host: {}, address: {}}}", host.name, address.addr()),
        )));
    }
    Ok((address.addr(), interface.name.clone()))
}

fn plugged_addresses(host: &Host) -> impl Iterator<Item = (&Interface, IpNet)> {
    let plugged = host.interfaces.values().filter(|i| i.network.is_some());
    plugged.flat_map(|i| i.addresses.iter().map(move |a| (i, *a)))
}
