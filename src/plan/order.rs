//! From what is seen to what is wanted on one host, in an order that is safe at every point.
//!
//! First what makes the host take requests is withdrawn, last it is added; in between the ground is
//! prepared. So a VIP never stands on a real server without its ARP settings, a destination never
//! without its service, and a director has the VIP only while its rules are complete:
//!
//! 1. addresses removed, instances of daemons stopped, which would see their services go, destinations and services
//!    removed, sync daemons stopped, tunnels down and away, GUE ports closed, packet rules removed, which guarded the tunnels, routes removed; a destination whose
//!    forwarding method or way of wrapping changes goes too, as its real server is made ready for the new
//!    one only while nothing is sent there;
//! 2. modules; tunnel devices, which have settings of their own; `ip_forward`, because
//!    writing it moves other values; other sysctls, those that grow before those that shrink, so that
//!    a maximum over two of them never dips;
//! 3. packet rules, GUE ports, tunnels up, routes, timeouts, connection tracking off (source NAT needs it as long
//!    as there is any), services and destinations, sync daemons, addresses, instances of daemons: a health checker
//!    that starts before the VIP is there takes real servers out.

use super::scheduler_swap;
use super::simulate::{self, SimulateError};
use crate::desired::Reasons;
use crate::state::announcement;
use crate::state::{
    Address, Conf6Item, DaemonConfiguration, Destination, DestinationId, Edit, GuePort, HostState,
    Item, Link, Module, Owned, PacketRules, Present, Route, ServiceFlags, ServiceKey, SettingKind,
    Step, SyncDaemon, Sysctl, Timeouts, TunnelDevice, VirtualService, VsItem,
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
    let mut draft = PlanDraft { state: seen.clone(), wanted, owned, reasons, steps: Vec::new() };
    draft.withdraw()?;
    let withdraw = std::mem::take(&mut draft.steps);
    draft.prepare()?;
    draft.build()?;
    Ok(Steps { withdraw, build: draft.steps })
}

/// A plan in the making: the state as it will be after the steps so far.
struct PlanDraft<'a> {
    state: HostState,
    wanted: &'a HostState,
    owned: &'a Owned,
    reasons: &'a Reasons,
    steps: Vec<Step>,
}

impl PlanDraft<'_> {
    fn push(&mut self, edit: Edit) -> Result<(), SimulateError> {
        let why = why(&edit, self.reasons);
        self.push_step(Step { edit, why })
    }

    fn push_step(&mut self, step: Step) -> Result<(), SimulateError> {
        simulate::apply(&mut self.state, &step.edit)?;
        self.steps.push(step);
        Ok(())
    }

    /// The edit that gives `key` its wanted value, if it may be changed and has another.
    fn edit<S: SettingKind>(&self, key: &S::Key) -> Option<Edit> {
        let edit = Edit::between_states::<S>(key, &self.state, self.wanted)?;
        self.owned.contains(&S::item(key)).then_some(edit)
    }

    /// Removes what is owned of a kind and not wanted, or cannot be changed in place and is wanted otherwise.
    fn withdraw_all<S: SettingKind>(&mut self) -> Result<(), SimulateError> {
        for key in S::keys(&self.state) {
            let wanted = S::get(self.wanted, &key);
            let present = S::get(&self.state, &key).filter(|_| self.owned.contains(&S::item(&key)));
            let goes = wanted.is_none() || S::VERBS.change.is_none();
            if let Some(present) = present.filter(|value| goes && wanted.as_ref() != Some(value)) {
                self.push(Edit::remove::<S>(key, present))?;
            }
        }
        Ok(())
    }

    /// Gives everything of a kind that is owned and wanted its wanted value.
    fn build_all<S: SettingKind>(&mut self) -> Result<(), SimulateError> {
        for key in S::keys(self.wanted) {
            if let Some(edit) = self.edit::<S>(&key) {
                self.push(edit)?;
            }
        }
        Ok(())
    }

    fn withdraw(&mut self) -> Result<(), SimulateError> {
        self.withdraw_all::<Address>()?;
        self.withdraw_all::<DaemonConfiguration>()?;
        for key in VirtualService::keys(&self.state) {
            self.withdraw_service(&key)?;
        }
        self.withdraw_all::<SyncDaemon>()?;
        self.links_down()?;
        self.withdraw_all::<TunnelDevice>()?;
        self.withdraw_all::<GuePort>()?;
        self.withdraw_all::<PacketRules>()?;
        self.withdraw_all::<Route>()
    }

    /// A link that is owned and not wanted goes down.
    fn links_down(&mut self) -> Result<(), SimulateError> {
        for dev in Link::keys(&self.state) {
            let wanted = self.wanted.links.get(&dev).copied().unwrap_or(Link::Down);
            let present = self.state.links.get(&dev).copied();
            let goes_down = (present, wanted) == (Some(Link::Up), Link::Down);
            if goes_down && self.owned.contains(&Item::Link(dev.clone())) {
                self.push(Edit::change::<Link>(dev, Link::Up, Link::Down))?;
            }
        }
        Ok(())
    }

    fn withdraw_service(&mut self, key: &ServiceKey) -> Result<(), SimulateError> {
        let Some(seen) = self.state.services.get(key).cloned() else { return Ok(()) };
        if !self.owned.contains(&Item::Service(key.clone())) {
            return Ok(());
        }
        let wanted = self.wanted.services.get(key);
        for (at, destination) in &seen.destinations {
            let stays =
                wanted.and_then(|wanted| wanted.destinations.get(at)).is_some_and(|wanted| {
                    wanted.method == destination.method && wanted.tunnel == destination.tunnel
                });
            if !stays {
                let id = DestinationId { service: key.clone(), key: *at };
                self.push(Edit::remove::<Destination>(id, destination.clone()))?;
            }
        }
        if wanted.is_none() {
            self.push(Edit::remove::<VirtualService>(key.clone(), seen.settings()))?;
        }
        Ok(())
    }

    fn prepare(&mut self) -> Result<(), SimulateError> {
        let missing: Vec<Module> =
            self.wanted.modules.difference(&self.state.modules).copied().collect();
        for module in missing {
            if self.owned.contains(&Item::Module(module)) {
                self.push(Edit::add::<Module>(module, Present))?;
            }
        }
        self.build_all::<TunnelDevice>()?;
        // Writing either `forwarding` moves others: those are looked at afterwards.
        self.write_sysctls(|key| *key == Sysctl::IpForward)?;
        self.write_sysctls(|key| *key != Sysctl::Ip6Forward && !follows_ip6_forward(key))?;
        self.write_sysctls(|key| *key == Sysctl::Ip6Forward)?;
        self.write_sysctls(follows_ip6_forward)
    }

    /// Those that `which` names, as far as they differ now.
    fn write_sysctls(&mut self, which: impl Fn(&Sysctl) -> bool) -> Result<(), SimulateError> {
        let keys = self.wanted.sysctls.keys().filter(|key| which(key));
        let mut edits: Vec<Edit> =
            keys.filter_map(|key| self.sysctl(key)).filter(|edit| !stops_tracking(edit)).collect();
        edits.sort_by_key(shrinks);
        edits.into_iter().try_for_each(|edit| self.push(edit))
    }

    /// The edit of a setting that exists: what this kernel lacks is an obstacle, found elsewhere.
    fn sysctl(&self, key: &Sysctl) -> Option<Edit> {
        self.edit::<Sysctl>(key).filter(|_| self.state.sysctls.contains_key(key))
    }

    fn build(&mut self) -> Result<(), SimulateError> {
        self.build_all::<PacketRules>()?;
        self.build_all::<GuePort>()?;
        for dev in Link::keys(self.wanted) {
            if let Some(edit) =
                self.edit::<Link>(&dev).filter(|_| self.state.links.contains_key(&dev))
            {
                self.push(edit)?;
            }
        }
        self.build_all::<Route>()?;
        if self.state.timeouts.is_some() {
            self.build_all::<Timeouts>()?;
        }
        if let Some(edit) = self.sysctl(&CONNTRACK) {
            self.push(edit)?;
        }
        let wanted = self.wanted;
        for (key, service) in &wanted.services {
            if self.owned.contains(&Item::Service(key.clone())) {
                self.build_service(key, service)?;
            }
        }
        self.build_all::<SyncDaemon>()?;
        self.build_all::<Address>()?;
        self.build_all::<DaemonConfiguration>()
    }

    fn build_service(
        &mut self,
        key: &ServiceKey,
        wanted: &VirtualService,
    ) -> Result<(), SimulateError> {
        let (mut first, mut last) = (Vec::new(), Vec::new());
        // Without real servers all clients are refused anyhow.
        let occupied = |service: &&VirtualService| !service.destinations.is_empty();
        if let Some(seen) = self.state.services.get(key).filter(occupied) {
            (first, last) = scheduler_swap::around(seen, wanted, &self.state).unwrap_or_default();
        }
        // While a real server of weight 0 is still chosen, the flag keeps its clients from being refused.
        let later = self.edit::<VirtualService>(key).filter(stops_falling_back);
        if later.is_none() {
            first.into_iter().try_for_each(|step| self.push_step(step))?;
            if let Some(edit) = self.edit::<VirtualService>(key) {
                self.push(edit)?;
            }
            last.into_iter().try_for_each(|step| self.push_step(step))?;
        }
        for at in wanted.destinations.keys() {
            let id = DestinationId { service: key.clone(), key: *at };
            if let Some(edit) = self.edit::<Destination>(&id) {
                self.push(edit)?;
            }
        }
        later.into_iter().try_for_each(|edit| self.push(edit))
    }
}

/// Whether a service goes on with its scheduler, `sh` or `mh`, and loses only the flag with which it falls back to another
/// real server where the one that it chose has the weight 0.
fn stops_falling_back(edit: &Edit) -> bool {
    let Some((_, before, after)) = edit.changed::<VirtualService>() else { return false };
    let with_flag = ServiceFlags::new(after.flags.bits() | ServiceFlags::SCHEDULER_1);
    matches!(after.scheduler.as_str(), "sh" | "mh")
        && after.flags != with_flag
        && *before == (VirtualService { flags: with_flag, ..after.clone() })
}

/// Each interface's `forwarding`, which `net.ipv6.conf.all.forwarding` writes. That comes behind
/// `accept_ra`, without which turning it on loses default routes.
fn follows_ip6_forward(key: &Sysctl) -> bool {
    matches!(key, Sysctl::Conf6(_, Conf6Item::Forwarding))
}

/// `net.ipv4.vs.conntrack`.
const CONNTRACK: Sysctl = Sysctl::Vs(VsItem::Conntrack);

/// Rules that are replaced in place may still rewrite sources until they are.
fn stops_tracking(edit: &Edit) -> bool {
    edit.changed::<Sysctl>().is_some_and(|(key, ..)| *key == CONNTRACK) && shrinks(edit)
}

/// Growing values first. Non-numeric values count as growing.
fn shrinks(edit: &Edit) -> bool {
    let Some((_, before, after)) = edit.changed::<Sysctl>() else { return false };
    match (before.parse::<i64>(), after.parse::<i64>()) {
        (Ok(before), Ok(after)) => after < before,
        _ => false,
    }
}

fn why(edit: &Edit, reasons: &Reasons) -> String {
    let of_item = reasons.of(&edit.item());
    let Some(of) = edit.of::<Destination>() else {
        let why = of_item.unwrap_or(BACK);
        return match announcement::describe(edit) {
            Some(announced) => format!("{why}; {announced}"),
            None => why.to_owned(),
        };
    };
    // Where the service goes as a whole, its real servers were not taken out of the file.
    let gone =
        if of_item.is_some() { "it is no real server of this service in the file" } else { BACK };
    let DestinationId { service, key } = &of.key;
    reasons.of_destination(service, *key).unwrap_or(gone).to_owned()
}

/// Why something is no longer as lvsprov had made it.
const BACK: &str = "put back as it was before lvsprov";
