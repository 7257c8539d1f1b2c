//! Running hosts to a draft: the state of each host determines its roles.
//!
//! A host with IPVS services is a director; one with a RIP, or with a VIP on lo or a tunnel device, is
//! a real server; another host's gateway is a router. The draft has the interfaces and addresses that
//! lead to another host of the import, a VIP, a RIP or a gateway. It does not have settings that lvsprov
//! derives (VIPs as host addresses, settings of a method). Everything else becomes a remark.

mod addresses;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::draft::{DraftHost, DraftService, DraftTopology};
use super::guess;
use super::remark::{Remark, RemarkKind};
use super::rules::ServiceHealth;
use crate::names::{HostName, IfName, NameError, TopologyName};
use crate::state::{
    ForwardingMethod, Observation, Route, RouteKey, ServiceFlags, ServiceKey, Sysctl,
    VirtualService, VsItem,
};
use crate::topology::Role;

use addresses::AddressMap;
pub use settings::{differences, sysctls_to_read};

/// An observed host.
#[derive(Debug, Clone)]
pub struct ObservedHost {
    /// Its name in the file.
    pub name: HostName,
    /// Its connection as a key and value of the file.
    pub reach: (&'static str, String),
    /// Its state.
    pub observation: Observation,
}

/// Builds a topology from `observed`. `Err` only if a generated name is not valid: a bug.
pub fn draft(
    observed: &[ObservedHost],
    name: TopologyName,
) -> Result<(DraftTopology, Vec<Remark>), NameError> {
    let mut live = LiveImport::of(observed);
    let rips = live.owners()?;
    let addresses = addresses::AddressMap::of(observed, &live.vips, &rips, &mut live.remarks);
    let networks = addresses.networks()?;
    let mut hosts = BTreeMap::new();
    for host in observed {
        hosts.insert(host.name.clone(), live.host(host, &addresses, &rips));
    }
    live.unobserved_hosts(&rips, &addresses, &mut hosts);
    let services = live.services(&addresses, &hosts, &rips);
    Ok((DraftTopology { name, networks, hosts, services, rips }, live.remarks))
}

struct LiveImport<'a> {
    observed: &'a [ObservedHost],
    /// The VIPs of all services of all directors.
    vips: BTreeSet<IpAddr>,
    remarks: Vec<Remark>,
}

impl<'a> LiveImport<'a> {
    fn of(observed: &'a [ObservedHost]) -> Self {
        let keys = observed.iter().flat_map(|host| host.observation.state.services.keys());
        let vips = keys.filter_map(|key| match key {
            ServiceKey::Address(_, vip) => Some(vip.ip()),
            ServiceKey::Fwmark { .. } => None,
        });
        Self { observed, vips: vips.collect(), remarks: Vec::new() }
    }

    fn remark(
        &mut self,
        host: Option<&HostName>,
        kind: RemarkKind,
        what: impl Into<String>,
        why: impl Into<String>,
    ) {
        let mut remark = Remark::general(kind, what, why);
        remark.host = host.map(ToString::to_string);
        self.remarks.push(remark);
    }

    /// The host of each RIP; a RIP of no observed host becomes a new host.
    fn owners(&mut self) -> Result<BTreeMap<IpAddr, HostName>, NameError> {
        let mut rips = BTreeMap::new();
        for director in self.observed {
            for service in director.observation.state.services.values() {
                for (at, destination) in &service.destinations {
                    let rip = at.0.ip();
                    if rip.is_loopback() || rips.contains_key(&rip) {
                        continue;
                    }
                    let local = destination.method == ForwardingMethod::Local;
                    let owner = self.observed.iter().find(|host| {
                        let has = host
                            .observation
                            .state
                            .addresses
                            .keys()
                            .any(|key| key.net.addr() == rip);
                        has && (host.name == director.name || !local)
                            // A VIP is on many hosts; as a RIP it belongs to the director.
                            && (host.name == director.name || !self.vips.contains(&rip))
                    });
                    let name = match owner {
                        Some(owner) => owner.name.clone(),
                        None => guess::host_name(rip).parse()?,
                    };
                    rips.insert(rip, name);
                }
            }
        }
        Ok(rips)
    }

    fn host(
        &mut self,
        observed: &ObservedHost,
        addresses: &AddressMap,
        rips: &BTreeMap<IpAddr, HostName>,
    ) -> DraftHost {
        let state = &observed.observation.state;
        for topology in observed.observation.others.keys() {
            self.remark(
                Some(&observed.name),
                RemarkKind::Guessed,
                format!("topology {topology}"),
                "lvsprov already manages this host with that topology: change its file instead of importing a second one",
            );
        }
        let mut host = DraftHost {
            interfaces: addresses.interfaces(&observed.name),
            reach: Some(observed.reach.clone()),
            ..DraftHost::default()
        };
        (host.gateways, host.routes) = self.routes(observed, addresses);
        if !state.services.is_empty() {
            host.roles.insert(Role::Director);
            host.ipvs = settings::ipvs(state);
        } else if state.timeouts.is_some() && !state.daemons.is_empty() {
            self.remark(
                Some(&observed.name),
                RemarkKind::NotExpressible,
                "sync daemon",
                "this host has no services, so import does not treat it as a director; lvsprov does not set up a \
                 second director for one VIP yet",
            );
        }
        let serves = rips.values().any(|owner| *owner == observed.name);
        if serves || addresses.has_silent_vip(&observed.name) {
            host.roles.insert(Role::RealServer);
        }
        if !serves && addresses.has_silent_vip(&observed.name) {
            self.remark(
                Some(&observed.name),
                RemarkKind::Guessed,
                "role real_server",
                "it has a VIP on lo or a tunnel device, but no service forwards to it",
            );
        }
        if host.roles.is_empty() {
            let forwards = state.sysctls.get(&Sysctl::IpForward).is_some_and(|value| value == "1");
            let role = if forwards { Role::Router } else { Role::Client };
            host.roles.insert(role);
            let why = if forwards {
                "it forwards, and no service uses it"
            } else {
                "no service uses it, and it does not forward"
            };
            let what = if forwards { "role router" } else { "role client" };
            self.remark(Some(&observed.name), RemarkKind::Guessed, what, why);
        }
        host
    }

    /// Next hops of the default routes, and the static routes, next hops by name if the host was observed.
    fn routes(
        &mut self,
        observed: &ObservedHost,
        addresses: &AddressMap,
    ) -> (Vec<String>, Vec<(IpNet, String)>) {
        let (mut gateways, mut routes, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for (key, route) in &observed.observation.state.routes {
            // On-link routes have no next hop.
            let Some(gateway) = route.gateway else { continue };
            let near = addresses.reaches(&observed.name, gateway);
            let name = addresses.owner(gateway);
            let text = || name.map_or_else(|| gateway.to_string(), ToString::to_string);
            let own = name == Some(&observed.name);
            if key.0.prefix_len() == 0 && near {
                let text = if own { gateway.to_string() } else { text() };
                if !gateways.contains(&text) {
                    gateways.push(text);
                }
            } else if self.vips.contains(&key.0.addr()) && near && !own {
                // lvsprov derives it.
            } else if near && !own && is_static(route) {
                routes.push((key.0, text()));
            } else {
                others.push(format!("{key} {route}"));
            }
        }
        if !others.is_empty() {
            self.remark(
                Some(&observed.name),
                RemarkKind::NotExpressible,
                format!("{} other route(s): {}", others.len(), others.join("; ")),
                "under `routes:` stand static routes by neighbours only; lvsprov does not change these routes",
            );
        }
        (gateways, routes)
    }

    /// Adds a host for each RIP of no observed host.
    fn unobserved_hosts(
        &mut self,
        rips: &BTreeMap<IpAddr, HostName>,
        addresses: &AddressMap,
        hosts: &mut BTreeMap<HostName, DraftHost>,
    ) {
        for (rip, name) in rips {
            if self.observed.iter().any(|host| host.name == *name) {
                continue;
            }
            let mut host =
                DraftHost { roles: BTreeSet::from([Role::RealServer]), ..DraftHost::default() };
            let Ok(interface) = "eth0".parse::<IfName>() else { continue };
            host.interfaces
                .entry(interface)
                .or_default()
                .addresses
                .push(addresses.guessed_net(*rip));
            host.guessed =
                Some("name, interface and prefix length (this host was not observed)".to_owned());
            hosts.insert(name.clone(), host);
            self.remark(
                None,
                RemarkKind::Guessed,
                name.to_string(),
                format!("no observed host has {rip}; add its host with --from"),
            );
        }
    }

    fn services(
        &mut self,
        addresses: &AddressMap,
        hosts: &BTreeMap<HostName, DraftHost>,
        rips: &BTreeMap<IpAddr, HostName>,
    ) -> Vec<DraftService> {
        let mut drafts = Vec::new();
        for director in self.observed {
            for (key, service) in &director.observation.state.services {
                let vip = match key {
                    ServiceKey::Address(_, vip) => Some(vip.ip()),
                    ServiceKey::Fwmark { .. } => None,
                };
                let address = vip.and_then(|vip| addresses.vip_on(&director.name, vip));
                if let (Some(vip), None) = (vip, &address) {
                    self.remark(
                        Some(&director.name),
                        RemarkKind::Guessed,
                        format!("VIP {vip}"),
                        "the director does not have this address; apply would add it",
                    );
                }
                if let ServiceKey::Fwmark { mark, .. } = key {
                    self.remark(
                        Some(&director.name),
                        RemarkKind::Guessed,
                        format!("mark {mark}"),
                        "existing rules keep setting this mark; for lvsprov to set it, add vip, port and protocol to the \
                         service",
                    );
                }
                let interfaces = hosts.get(&director.name).map(|host| &host.interfaces);
                let several = interfaces.is_some_and(|all| all.len() > 1);
                let known = |dev: &IfName| interfaces.is_some_and(|all| all.contains_key(dev));
                let full_nat = self.is_full_nat(director, service, addresses, rips);
                if full_nat {
                    self.remark(
                        Some(&director.name),
                        RemarkKind::Guessed,
                        format!("forward: fullnat of {key}"),
                        "net.ipv4.vs.conntrack is 1, and the gateway of a real server is not this director",
                    );
                }
                let (prefix, dev) = address.map_or((None, None), |(dev, bits)| (bits, Some(dev)));
                drafts.push(DraftService {
                    director: director.name.clone(),
                    key: key.clone(),
                    service: service.clone(),
                    vip_prefix: prefix,
                    vip_interface: dev.filter(|dev| several && known(dev)),
                    full_nat,
                    external: false,
                    health: ServiceHealth::default(),
                });
            }
        }
        if drafts.is_empty() && !self.observed.is_empty() {
            self.remark(
                None,
                RemarkKind::NotUnderstood,
                "no director",
                "no host has an IPVS service, or lvsprov lacks the permission to read them",
            );
        }
        drafts
    }

    /// NAT to real servers with another gateway than the director needs SNAT, and SNAT needs conntrack.
    fn is_full_nat(
        &self,
        director: &ObservedHost,
        service: &VirtualService,
        addresses: &AddressMap,
        rips: &BTreeMap<IpAddr, HostName>,
    ) -> bool {
        let conntrack = Sysctl::Vs(VsItem::Conntrack);
        let tracked =
            director.observation.state.sysctls.get(&conntrack).is_some_and(|value| value == "1");
        let one_packet = service.flags.has(ServiceFlags::ONE_PACKET);
        let elsewhere = |rip: IpAddr| {
            let host = self.observed.iter().find(|host| rips.get(&rip) == Some(&host.name))?;
            let gateway = host.observation.state.routes.get(&RouteKey::default_for(rip))?.gateway?;
            let is_director = addresses.owner(gateway) == Some(&director.name)
                || addresses.vip_on(&director.name, gateway).is_some();
            Some(!is_director && host.name != director.name)
        };
        tracked
            && !one_packet
            && service.destinations.iter().any(|(at, destination)| {
                destination.method == ForwardingMethod::Masquerade
                    && elsewhere(at.0.ip()) == Some(true)
            })
    }
}

/// Whether an administrator made the route (`RTPROT_BOOT`, `RTPROT_STATIC`; include/uapi/linux/rtnetlink.h), and it
/// has nothing that the file cannot say.
fn is_static(route: &Route) -> bool {
    matches!(route.protocol, 3 | 4) && route.unsupported.is_empty() && route.source.is_none()
}
