//! From running hosts to a draft: what each looked like says what it is for.
//!
//! A host with IPVS services is a director; one with a RIP, or with a VIP on lo or a tunnel device, is
//! a real server; one that is another's gateway is a router. Interfaces and addresses are taken that
//! lead to another host of the import, a VIP, a RIP or a gateway; what lvsprov sets itself (VIPs as
//! host addresses, and all that goes with a method) is left to it. The rest is named.

mod addresses;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::draft::{Draft, DraftHost, DraftService};
use super::guess;
use super::remark::{Remark, RemarkKind};
use crate::names::{HostName, IfName, NameError, TopologyName};
use crate::state::{
    ForwardingMethod, Observation, RouteKey, ServiceFlags, ServiceKey, Sysctl, VirtualService,
    VsItem,
};
use crate::topology::Role;

use addresses::Places;
pub use settings::{differences, sysctls_to_read};

/// A host that was looked at.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its name in the file.
    pub name: HostName,
    /// How it was reached, as the file says it: a key and its value.
    pub reach: (&'static str, String),
    /// What it looked like.
    pub sighting: Observation,
}

/// Makes a topology of `seen`. `Err` only if a name that is made here is none, which is a fault of
/// lvsprov.
pub fn draft(seen: &[Seen], name: TopologyName) -> Result<(Draft, Vec<Remark>), NameError> {
    let mut live = Live::of(seen);
    let rips = live.owners()?;
    let places = addresses::Places::of(seen, &live.vips, &rips, &mut live.remarks);
    let networks = places.networks()?;
    let mut hosts = BTreeMap::new();
    for host in seen {
        hosts.insert(host.name.clone(), live.host(host, &places, &rips));
    }
    live.unseen(&rips, &places, &mut hosts);
    let services = live.services(&places, &hosts, &rips);
    Ok((Draft { name, networks, hosts, services, rips }, live.remarks))
}

struct Live<'a> {
    seen: &'a [Seen],
    /// Of every service of every director.
    vips: BTreeSet<IpAddr>,
    remarks: Vec<Remark>,
}

impl<'a> Live<'a> {
    fn of(seen: &'a [Seen]) -> Self {
        let keys = seen.iter().flat_map(|host| host.sighting.state.services.keys());
        let vips = keys.filter_map(|key| match key {
            ServiceKey::Address(_, vip) => Some(vip.ip()),
            ServiceKey::Fwmark { .. } => None,
        });
        Self { seen, vips: vips.collect(), remarks: Vec::new() }
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

    /// Whose each RIP is; one of nobody that was looked at is a host of its own.
    fn owners(&mut self) -> Result<BTreeMap<IpAddr, HostName>, NameError> {
        let mut rips = BTreeMap::new();
        for director in self.seen {
            for service in director.sighting.state.services.values() {
                for (at, destination) in &service.destinations {
                    let rip = at.0.ip();
                    if rip.is_loopback() || rips.contains_key(&rip) {
                        continue;
                    }
                    let local = destination.method == ForwardingMethod::Local;
                    let owner = self.seen.iter().find(|host| {
                        let has =
                            host.sighting.state.addresses.keys().any(|key| key.net.addr() == rip);
                        has && (host.name == director.name || !local)
                            // A VIP is on many hosts; as a RIP it is the director's.
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
        seen: &Seen,
        places: &Places,
        rips: &BTreeMap<IpAddr, HostName>,
    ) -> DraftHost {
        let state = &seen.sighting.state;
        for topology in seen.sighting.others.keys() {
            self.remark(
                Some(&seen.name),
                RemarkKind::Guessed,
                format!("topology {topology}"),
                "lvsprov was here already with that file: go on with it rather than with a second one",
            );
        }
        let mut host = DraftHost {
            interfaces: places.interfaces(&seen.name),
            reach: Some(seen.reach.clone()),
            ..DraftHost::default()
        };
        host.gateways = self.gateways(seen, places);
        if !state.services.is_empty() {
            host.roles.insert(Role::Director);
            host.ipvs = settings::ipvs(state);
        } else if state.timeouts.is_some() && !state.daemons.is_empty() {
            self.remark(
                Some(&seen.name),
                RemarkKind::NotExpressible,
                "sync daemon",
                "this host has no services, and is taken for no director; a second director for the same \
                 VIP is not set up by lvsprov yet",
            );
        }
        let serves = rips.values().any(|owner| *owner == seen.name);
        if serves || places.has_silent_vip(&seen.name) {
            host.roles.insert(Role::RealServer);
        }
        if !serves && places.has_silent_vip(&seen.name) {
            self.remark(
                Some(&seen.name),
                RemarkKind::Guessed,
                "role real_server",
                "it has a VIP on lo or a tunnel device, and no service sends to it",
            );
        }
        if host.roles.is_empty() {
            let forwards = state.sysctls.get(&Sysctl::IpForward).is_some_and(|value| value == "1");
            let role = if forwards { Role::Router } else { Role::Client };
            host.roles.insert(role);
            let why = if forwards {
                "it forwards, and has no part in the services"
            } else {
                "it has no part in the services, and does not forward"
            };
            let what = if forwards { "role router" } else { "role client" };
            self.remark(Some(&seen.name), RemarkKind::Guessed, what, why);
        }
        host
    }

    /// The default routes' next hops: by name where the host was looked at.
    fn gateways(&mut self, seen: &Seen, places: &Places) -> Vec<String> {
        let routes = &seen.sighting.state.routes;
        let mut gateways: Vec<String> = Vec::new();
        let mut others = Vec::new();
        for (key, route) in routes {
            let default = key.0.prefix_len() == 0;
            match route.gateway {
                Some(gateway) if default && places.reaches(&seen.name, gateway) => {
                    let name = places.owner(gateway).filter(|name| **name != seen.name);
                    let text = name.map_or_else(|| gateway.to_string(), ToString::to_string);
                    if !gateways.contains(&text) {
                        gateways.push(text);
                    }
                }
                Some(_) => others.push(format!("{key} {route}")),
                // Of its own subnets, and routes to single addresses that need no next hop.
                None => {}
            }
        }
        if !others.is_empty() {
            self.remark(
                Some(&seen.name),
                RemarkKind::NotExpressible,
                format!("{} other route(s): {}", others.len(), others.join("; ")),
                "a topology has default gateways only; they stay as they are",
            );
        }
        gateways
    }

    /// RIPs of hosts that were not looked at.
    fn unseen(
        &mut self,
        rips: &BTreeMap<IpAddr, HostName>,
        places: &Places,
        hosts: &mut BTreeMap<HostName, DraftHost>,
    ) {
        for (rip, name) in rips {
            if self.seen.iter().any(|host| host.name == *name) {
                continue;
            }
            let mut host =
                DraftHost { roles: BTreeSet::from([Role::RealServer]), ..DraftHost::default() };
            let Ok(interface) = "eth0".parse::<IfName>() else { continue };
            host.interfaces.entry(interface).or_default().addresses.push(places.guessed_net(*rip));
            host.guessed = Some("not looked at: its name, interface and prefix length".to_owned());
            hosts.insert(name.clone(), host);
            self.remark(
                None,
                RemarkKind::Guessed,
                name.to_string(),
                format!("nobody that was looked at has {rip}; name that host with --from too"),
            );
        }
    }

    fn services(
        &mut self,
        places: &Places,
        hosts: &BTreeMap<HostName, DraftHost>,
        rips: &BTreeMap<IpAddr, HostName>,
    ) -> Vec<DraftService> {
        let mut drafts = Vec::new();
        for director in self.seen {
            for (key, service) in &director.sighting.state.services {
                let vip = match key {
                    ServiceKey::Address(_, vip) => Some(vip.ip()),
                    ServiceKey::Fwmark { .. } => None,
                };
                let place = vip.and_then(|vip| places.vip_on(&director.name, vip));
                if let (Some(vip), None) = (vip, &place) {
                    self.remark(
                        Some(&director.name),
                        RemarkKind::Guessed,
                        format!("VIP {vip}"),
                        "the director does not have this address; apply would set it",
                    );
                }
                if let ServiceKey::Fwmark { mark, .. } = key {
                    self.remark(
                        Some(&director.name),
                        RemarkKind::Guessed,
                        format!("mark {mark}"),
                        "whoever sets this mark goes on doing so; for lvsprov to set it, give the service \
                         its vip, port and protocol",
                    );
                }
                let interfaces = hosts.get(&director.name).map(|host| &host.interfaces);
                let several = interfaces.is_some_and(|all| all.len() > 1);
                let known = |dev: &IfName| interfaces.is_some_and(|all| all.contains_key(dev));
                let full_nat = self.is_full_nat(director, service, places, rips);
                if full_nat {
                    self.remark(
                        Some(&director.name),
                        RemarkKind::Guessed,
                        format!("forward: fullnat of {key}"),
                        "conntrack is on, and a real server's gateway is not this director",
                    );
                }
                let (prefix, dev) = place.map_or((None, None), |(dev, bits)| (bits, Some(dev)));
                drafts.push(DraftService {
                    director: director.name.clone(),
                    key: key.clone(),
                    service: service.clone(),
                    vip_prefix: prefix,
                    vip_interface: dev.filter(|dev| several && known(dev)),
                    full_nat,
                });
            }
        }
        if drafts.is_empty() && !self.seen.is_empty() {
            self.remark(
                None,
                RemarkKind::NotUnderstood,
                "no director",
                "none of the hosts has an IPVS service (or the right to show them)",
            );
        }
        drafts
    }

    /// NAT whose real servers do not send their replies to the director works with SNAT only, and that
    /// with conntrack.
    fn is_full_nat(
        &self,
        director: &Seen,
        service: &VirtualService,
        places: &Places,
        rips: &BTreeMap<IpAddr, HostName>,
    ) -> bool {
        let conntrack = Sysctl::Vs(VsItem::Conntrack);
        let tracked =
            director.sighting.state.sysctls.get(&conntrack).is_some_and(|value| value == "1");
        let one_packet = service.flags.has(ServiceFlags::ONE_PACKET);
        let elsewhere = |rip: IpAddr| {
            let host = self.seen.iter().find(|host| rips.get(&rip) == Some(&host.name))?;
            let gateway = host.sighting.state.routes.get(&RouteKey::default_for(rip))?.gateway?;
            let is_director = places.owner(gateway) == Some(&director.name)
                || places.vip_on(&director.name, gateway).is_some();
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
