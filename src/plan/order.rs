//! From what is seen to what is wanted on one host, in an order that is safe at every point.
//!
//! First what makes the host take requests is withdrawn, last it is added; in between the ground is
//! prepared. So a VIP never stands on a real server without its ARP settings, a destination never
//! without its service, and a director has the VIP only while its rules are complete:
//!
//! 1. addresses removed, destinations and services removed, packet rules removed, sync daemons stopped,
//!    tunnels down and away, GUE ports closed, routes removed; a destination whose forwarding method
//!    or way of wrapping changes goes too, as its real server is made ready for the new one only while
//!    nothing is sent there;
//! 2. modules; GUE ports and tunnel devices, which have settings of their own; `ip_forward`, because
//!    writing it moves other values; other sysctls, those that grow before those that shrink, so that
//!    a maximum over two of them never dips;
//! 3. tunnels up, routes, timeouts, packet rules, connection tracking off (source NAT needs it as long
//!    as there is any), services and destinations, sync daemons, addresses.

use super::silence;
use super::simulate::{self, SimulateError};
use crate::desired::Reasons;
use crate::state::{
    Change, Conf6Item, HostState, Item, Link, Module, Owned, Step, Sysctl, VirtualService, VsItem,
};

/// The steps that withdraw, and the steps that build up. Across hosts others come in between.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Steps {
    /// Part 1.
    pub withdraw: Vec<Step>,
    /// Parts 2 and 3.
    pub build: Vec<Step>,
}

impl Steps {
    /// All of them, in their order.
    pub fn into_all(self) -> Vec<Step> {
        let mut all = self.withdraw;
        all.extend(self.build);
        all
    }
}

/// The steps from `seen` to `wanted`, as far as `owned` names what may be changed. A thing that is
/// owned and not wanted is removed; a link goes down instead, and a module or a sysctl stays.
pub fn steps_between(
    seen: &HostState,
    wanted: &HostState,
    owned: &Owned,
    reasons: &Reasons,
) -> Result<Steps, SimulateError> {
    let mut draft = Draft { state: seen.clone(), wanted, owned, reasons, steps: Vec::new() };
    draft.withdraw()?;
    let withdraw = std::mem::take(&mut draft.steps);
    draft.prepare()?;
    draft.build()?;
    Ok(Steps { withdraw, build: draft.steps })
}

/// A plan in the making: the state as it will be after the steps so far.
struct Draft<'a> {
    state: HostState,
    wanted: &'a HostState,
    owned: &'a Owned,
    reasons: &'a Reasons,
    steps: Vec<Step>,
}

impl Draft<'_> {
    fn push(&mut self, change: Change) -> Result<(), SimulateError> {
        let why = why(&change, self.reasons);
        self.push_because(change, why)
    }

    fn push_because(&mut self, change: Change, why: String) -> Result<(), SimulateError> {
        simulate::apply(&mut self.state, &change)?;
        self.steps.push(Step { change, why });
        Ok(())
    }

    fn withdraw(&mut self) -> Result<(), SimulateError> {
        let owned = self.owned;
        for item in owned {
            let Item::Address(key) = item else { continue };
            let (seen, wanted) = (self.state.addresses.get(key), self.wanted.addresses.get(key));
            if let Some(address) = seen.filter(|seen| wanted != Some(seen)).cloned() {
                self.push(Change::RemoveAddress { key: key.clone(), address })?;
            }
        }
        for item in owned {
            let Item::Service(key) = item else { continue };
            self.withdraw_service(key)?;
        }
        self.withdraw_rules()?;
        for item in owned {
            let Item::Link(dev) = item else { continue };
            let wanted = self.wanted.links.get(dev).copied().unwrap_or(Link::Down);
            if wanted == Link::Down && self.state.links.get(dev) == Some(&Link::Up) {
                let (before, after) = (Link::Up, Link::Down);
                self.push(Change::SetLink { dev: dev.clone(), before, after })?;
            }
        }
        self.withdraw_tunnels()?;
        for item in owned {
            let Item::Route(key) = item else { continue };
            if self.wanted.routes.contains_key(key) {
                continue;
            }
            if let Some(route) = self.state.routes.get(key).cloned() {
                self.push(Change::RemoveRoute { key: key.clone(), route })?;
            }
        }
        Ok(())
    }

    /// Packet rules and daemons that are not wanted at all; what changes is replaced later, in place.
    fn withdraw_rules(&mut self) -> Result<(), SimulateError> {
        for item in self.owned {
            match item {
                Item::Table(name) if !self.wanted.tables.contains_key(name) => {
                    let Some(before) = self.state.tables.get(name).cloned() else { continue };
                    let before = Some(before);
                    self.push(Change::SetTable { name: name.clone(), before, after: None })?;
                }
                Item::Daemon(role) if !self.wanted.daemons.contains_key(role) => {
                    let Some(before) = self.state.daemons.get(role).cloned() else { continue };
                    let before = Some(before);
                    self.push(Change::SetDaemon { role: *role, before, after: None })?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A tunnel device cannot be changed in place: one that is to be otherwise goes first.
    fn withdraw_tunnels(&mut self) -> Result<(), SimulateError> {
        for item in self.owned {
            match item {
                Item::Tunnel(dev) => {
                    let Some(device) = self.state.tunnels.get(dev).cloned() else { continue };
                    if self.wanted.tunnels.get(dev) != Some(&device) {
                        self.push(Change::RemoveTunnel { dev: dev.clone(), device })?;
                    }
                }
                Item::GuePort(port)
                    if self.state.gue_ports.contains(port)
                        && !self.wanted.gue_ports.contains(port) =>
                {
                    self.push(Change::RemoveGuePort { port: *port })?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn withdraw_service(&mut self, key: &crate::state::ServiceKey) -> Result<(), SimulateError> {
        let Some(seen) = self.state.services.get(key).cloned() else { return Ok(()) };
        let wanted = self.wanted.services.get(key);
        for (at, destination) in &seen.destinations {
            let stays =
                wanted.and_then(|wanted| wanted.destinations.get(at)).is_some_and(|wanted| {
                    wanted.method == destination.method && wanted.tunnel == destination.tunnel
                });
            if !stays {
                self.push(Change::RemoveDestination {
                    service: key.clone(),
                    key: *at,
                    destination: destination.clone(),
                })?;
            }
        }
        if wanted.is_none() {
            let service = without_destinations(&seen);
            self.push(Change::RemoveService { key: key.clone(), service })?;
        }
        Ok(())
    }

    fn prepare(&mut self) -> Result<(), SimulateError> {
        let missing: Vec<Module> =
            self.wanted.modules.difference(&self.state.modules).copied().collect();
        for module in missing {
            if self.owned.contains(&Item::Module(module)) {
                self.push(Change::LoadModule { module })?;
            }
        }
        self.receivers()?;
        // Writing either `forwarding` moves others: those are looked at afterwards.
        self.write_sysctls(|key| *key == Sysctl::IpForward)?;
        self.write_sysctls(|key| *key != Sysctl::Ip6Forward && !follows_ip6_forward(key))?;
        self.write_sysctls(|key| *key == Sysctl::Ip6Forward)?;
        self.write_sysctls(follows_ip6_forward)
    }

    /// Those that `which` names, as far as they differ now.
    fn write_sysctls(&mut self, which: impl Fn(&Sysctl) -> bool) -> Result<(), SimulateError> {
        let mut changes: Vec<Change> = self
            .owned
            .iter()
            .filter_map(|item| match item {
                Item::Sysctl(key) if which(key) => self.sysctl(key),
                _ => None,
            })
            .filter(|change| !stops_tracking(change))
            .collect();
        changes.sort_by_key(shrinks);
        for change in changes {
            self.push(change)?;
        }
        Ok(())
    }

    fn receivers(&mut self) -> Result<(), SimulateError> {
        let (owned, wanted) = (self.owned, self.wanted);
        for port in wanted.gue_ports.difference(&self.state.gue_ports.clone()) {
            if owned.contains(&Item::GuePort(*port)) {
                self.push(Change::AddGuePort { port: *port })?;
            }
        }
        for (dev, device) in &wanted.tunnels {
            if owned.contains(&Item::Tunnel(dev.clone())) && !self.state.tunnels.contains_key(dev) {
                self.push(Change::AddTunnel { dev: dev.clone(), device: device.clone() })?;
            }
        }
        Ok(())
    }

    fn sysctl(&self, key: &Sysctl) -> Option<Change> {
        if !self.owned.contains(&Item::Sysctl(key.clone())) {
            return None;
        }
        let (before, after) = (self.state.sysctls.get(key)?, self.wanted.sysctls.get(key)?);
        (before != after).then(|| Change::SetSysctl {
            key: key.clone(),
            before: before.clone(),
            after: after.clone(),
        })
    }

    fn build(&mut self) -> Result<(), SimulateError> {
        let (owned, wanted) = (self.owned, self.wanted);
        for (dev, after) in &wanted.links {
            let Some(before) = self.state.links.get(dev).copied() else { continue };
            if before != *after && owned.contains(&Item::Link(dev.clone())) {
                self.push(Change::SetLink { dev: dev.clone(), before, after: *after })?;
            }
        }
        for (key, route) in &wanted.routes {
            if !owned.contains(&Item::Route(key.clone())) {
                continue;
            }
            let (key, route) = (key.clone(), route.clone());
            match self.state.routes.get(&key).cloned() {
                None => self.push(Change::AddRoute { key, route })?,
                Some(before) if before != route => {
                    self.push(Change::ReplaceRoute { key, before, after: route })?;
                }
                Some(_) => {}
            }
        }
        self.build_rules()?;
        if let Some(change) = self.sysctl(&CONNTRACK) {
            self.push(change)?;
        }
        for (key, service) in &wanted.services {
            if owned.contains(&Item::Service(key.clone())) {
                self.build_service(key, service)?;
            }
        }
        for (role, daemon) in &wanted.daemons {
            let before = self.state.daemons.get(role).cloned();
            if before.as_ref() != Some(daemon) && owned.contains(&Item::Daemon(*role)) {
                let after = Some(daemon.clone());
                self.push(Change::SetDaemon { role: *role, before, after })?;
            }
        }
        for (key, address) in &wanted.addresses {
            if owned.contains(&Item::Address(key.clone()))
                && !self.state.addresses.contains_key(key)
            {
                self.push(Change::AddAddress { key: key.clone(), address: address.clone() })?;
            }
        }
        Ok(())
    }

    fn build_rules(&mut self) -> Result<(), SimulateError> {
        let (owned, wanted) = (self.owned, self.wanted);
        if let (Some(before), Some(after)) = (self.state.timeouts, wanted.timeouts)
            && before != after
            && owned.contains(&Item::Timeouts)
        {
            self.push(Change::SetTimeouts { before, after })?;
        }
        for (name, rules) in &wanted.tables {
            let before = self.state.tables.get(name).cloned();
            if before.as_ref() != Some(rules) && owned.contains(&Item::Table(name.clone())) {
                let after = Some(rules.clone());
                self.push(Change::SetTable { name: name.clone(), before, after })?;
            }
        }
        Ok(())
    }

    fn build_service(
        &mut self,
        key: &crate::state::ServiceKey,
        wanted: &VirtualService,
    ) -> Result<(), SimulateError> {
        let seen = self.state.services.get(key).cloned();
        let after = without_destinations(wanted);
        match &seen {
            None => self.push(Change::AddService { key: key.clone(), service: after })?,
            Some(seen) if !seen.same_settings(wanted) => {
                let before = without_destinations(seen);
                // Without real servers everybody is refused anyhow.
                let occupied = !seen.destinations.is_empty();
                let silence = occupied.then(|| silence::around(&before, &after, &self.state));
                let change = Change::EditService { key: key.clone(), before, after };
                let (first, last) = silence.flatten().unwrap_or_default();
                for Step { change, why } in first {
                    self.push_because(change, why)?;
                }
                self.push(change)?;
                for Step { change, why } in last {
                    self.push_because(change, why)?;
                }
            }
            Some(_) => {}
        }
        for (at, destination) in &wanted.destinations {
            let (service, key, after) = (key.clone(), *at, destination.clone());
            match seen.as_ref().and_then(|seen| seen.destinations.get(at)) {
                None => self.push(Change::AddDestination { service, key, destination: after })?,
                Some(before) if before != destination => {
                    let before = before.clone();
                    self.push(Change::EditDestination { service, key, before, after })?;
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

fn without_destinations(service: &VirtualService) -> VirtualService {
    VirtualService { destinations: std::collections::BTreeMap::new(), ..service.clone() }
}

/// Each interface's `forwarding`, which `net.ipv6.conf.all.forwarding` writes. That comes behind
/// `accept_ra`, without which turning it on loses default routes.
fn follows_ip6_forward(key: &Sysctl) -> bool {
    matches!(key, Sysctl::Conf6(_, Conf6Item::Forwarding))
}

/// `net.ipv4.vs.conntrack`.
const CONNTRACK: Sysctl = Sysctl::Vs(VsItem::Conntrack);

/// Rules that are replaced in place may still rewrite sources until they are.
fn stops_tracking(change: &Change) -> bool {
    matches!(change, Change::SetSysctl { key, .. } if *key == CONNTRACK) && shrinks(change)
}

/// Growing values first. What is no number counts as growing.
fn shrinks(change: &Change) -> bool {
    let Change::SetSysctl { before, after, .. } = change else { return false };
    match (before.parse::<i64>(), after.parse::<i64>()) {
        (Ok(before), Ok(after)) => after < before,
        _ => false,
    }
}

fn why(change: &Change, reasons: &Reasons) -> String {
    if let Change::AddDestination { service, key, .. }
    | Change::EditDestination { service, key, .. }
    | Change::RemoveDestination { service, key, .. } = change
    {
        // Where the service goes as a whole, nobody has taken its real servers out.
        let stays = reasons.of(&change.item()).is_some();
        let gone = if stays { "it is no real server of this service in the file" } else { BACK };
        return reasons.of_destination(service, *key).unwrap_or(gone).to_owned();
    }
    reasons.of(&change.item()).unwrap_or(BACK).to_owned()
}

/// Why something is no longer as lvsprov had made it.
const BACK: &str = "put back as it was before lvsprov";
