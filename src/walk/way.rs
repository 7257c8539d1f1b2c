//! A packet from host to host: the route, the neighbour that answers, and what each host does with what comes in.

use std::net::IpAddr;

use super::death::{Cause, Death};
use super::hooks::{self, Hook, Tracking, outgoing};
use super::input::{Addresses, Input, NotTaken};
use super::machine::{DeviceKind, Machine};
use super::packet::{Arrival, Packet};
use super::request::Lookup;
use super::routes::Flow;
use super::walker::{Onward, Stop, Walker, dead, unclear};
use crate::names::{HostName, IfName, NetworkName};
use crate::state::examination::RouteQuestion;
use crate::state::routing::{RouteEntry, RouteKind};

/// What happened to a packet that came in.
pub(super) enum Taken<'a> {
    /// The host takes it.
    Here(Packet),
    /// It is forwarded.
    Onwards(&'a RouteEntry, Packet),
}

impl<'a> Walker<'a> {
    /// `dev`: where the packet comes in; `None`: the host sends it itself.
    fn note_lookup(
        &mut self,
        machine: &Machine,
        dev: Option<&IfName>,
        packet: &Packet,
        passes: bool,
    ) {
        let Packet { source, target, mark, .. } = packet;
        let (dev, source) = (dev.cloned(), Some(*source));
        let question = RouteQuestion { dev, source, target: *target, mark: *mark };
        self.lookups.push(Lookup { host: machine.name.clone(), question, passes });
    }

    /// Sends a packet that the host makes itself, until a host takes it. What is for the host itself comes in on lo.
    pub(super) fn send(&mut self, from: &'a Machine, mut packet: Packet) -> Onward<Arrival<'a>> {
        let flow = Flow {
            source: Some(packet.source),
            target: packet.target,
            iif: None,
            oif: None,
            mark: packet.mark,
        };
        let route = from.route(&flow);
        let leads_on =
            route.is_some_and(|it| matches!(it.kind, RouteKind::Local | RouteKind::Unicast));
        self.note_lookup(from, None, &packet, leads_on);
        match route {
            None => Err(dead(from, Cause::NoRoute { target: packet.target })),
            Some(route) => match route.kind {
                RouteKind::Local => {
                    self.pass_by_lo(from, &mut packet)?;
                    Ok(Arrival { machine: from, packet })
                }
                RouteKind::Refuses | RouteKind::Throw => {
                    Err(dead(from, Cause::RouteRefuses { target: packet.target }))
                }
                RouteKind::Unclear => Err(unclear(from, packet.target)),
                RouteKind::Unicast => {
                    self.leave(from, route, &mut packet)?;
                    self.follow(from, route, packet)
                }
            },
        }
    }

    /// Sends a packet along `route`, and on from host to host.
    pub(super) fn follow(
        &mut self,
        from: &'a Machine,
        route: &'a RouteEntry,
        packet: Packet,
    ) -> Onward<Arrival<'a>> {
        let (mut machine, mut route, mut packet) = (from, route, packet);
        loop {
            self.left = self
                .left
                .checked_sub(1)
                .ok_or_else(|| dead(machine, Cause::Loop { target: packet.target }))?;
            self.fit(machine, route, &mut packet)?;
            let next_hop = route.gateway.unwrap_or(packet.target);
            let (next, dev) = self.neighbour(machine, route, packet.source, next_hop)?;
            match self.take(next, dev, packet)? {
                Taken::Here(packet) => return Ok(Arrival { machine: next, packet }),
                Taken::Onwards(its, mut changed) => {
                    self.pass(next, &Hook::postrouting(outgoing(its), hooks::ALL), &mut changed)?;
                    (machine, route, packet) = (next, its, changed);
                }
            }
        }
    }

    /// The host that answers for the next hop, and the device where the frame comes in.
    pub(super) fn neighbour(
        &mut self,
        machine: &'a Machine,
        route: &RouteEntry,
        source: IpAddr,
        next_hop: IpAddr,
    ) -> Onward<(&'a Machine, &'a IfName)> {
        let dev = route.dev.as_ref().and_then(|dev| machine.devices.get_key_value(dev));
        let Some((dev, device)) = dev else {
            return Err(Stop::Unknown(format!(
                "by which device {} reaches {next_hop}",
                machine.name
            )));
        };
        let DeviceKind::Wire(network) = &device.kind else {
            let what = format!("what lies behind {dev} of {}", machine.name);
            return Err(Stop::Unknown(what));
        };
        let by = if route.gateway.is_some() { format!(" by {next_hop}") } else { String::new() };
        let asks_as = machine.asks_as(route, source, next_hop);
        let answers = self.world.answers(network, (&machine.name, asks_as), next_hop);
        let known = self.known.get(&(&machine.name, network.clone(), next_hop)).copied();
        if let Some((next, its)) = known {
            // An earlier packet may have had it ask, and another device of that host answer.
            let other =
                answers.iter().any(|(machine, dev)| machine.name == next.name && *dev != its);
            self.has_choice |= other;
            if !(other && self.last) {
                let text = format!(
                    "sends it by {dev}{by} to {}, which has asked for it before",
                    next.name
                );
                self.note_sent(machine, network, text);
                return Ok((next, its));
            }
        }
        let other_than_known = |dev: &IfName| known.is_none_or(|(_, its)| its != dev);
        let mut hosts: Vec<HostName> =
            answers.iter().map(|(machine, _)| machine.name.clone()).collect();
        hosts.dedup();
        self.has_choice |= answers.len() > 1;
        let answer = if self.last {
            answers.iter().rev().find(|(_, dev)| other_than_known(dev)).or(answers.last())
        } else {
            answers.first()
        };
        match (answer, hosts.len()) {
            (Some((next, its)), 1) => {
                if let IpAddr::V6(target) = next_hop {
                    self.discover((machine, dev), (next, its), (asks_as, target))?;
                }
                self.asked.insert((&machine.name, network.clone(), next_hop));
                if let Some(sender) = asks_as {
                    self.learn(next, network, sender, (machine, dev));
                }
                let text = format!("sends it by {dev}{by}; {} answers on {network}", next.name);
                self.note_sent(machine, network, text);
                Ok((*next, *its))
            }
            (Some(_), _) => {
                let network = network.clone();
                Err(dead(machine, Cause::SeveralAnswer { network, next_hop, hosts }))
            }
            (None, _) if self.world.holders(next_hop).next().is_none() => Err(Stop::Unknown(
                format!("{next_hop}, to which {} sends it, is no host of the file", machine.name),
            )),
            (None, _) => {
                let unclear_host =
                    self.world.unclear_holder(network, &machine.name, asks_as, next_hop);
                if let Some(holder) = unclear_host.and_then(|name| self.world.machine(name)) {
                    return Err(unclear(holder, asks_as.unwrap_or(next_hop)));
                }
                let holder = self.world.silent_holder(network, &machine.name, asks_as, next_hop);
                let (network, holder) = (network.clone(), holder.map(Box::new));
                Err(dead(machine, Cause::NobodyAnswers { network, next_hop, asks_as, holder }))
            }
        }
    }

    /// `machine` takes the sender of a request into its cache.
    fn learn(
        &mut self,
        machine: &'a Machine,
        network: &NetworkName,
        sender: IpAddr,
        asker: (&'a Machine, &'a IfName),
    ) {
        let key = (&machine.name, network.clone(), sender);
        let vip = self.connection.as_ref().filter(|it| it.vip == sender);
        if vip.is_some_and(|it| *it.director != asker.0.name) && self.asked.contains(&key) {
            let (host, network) = (asker.0.name.clone(), network.clone());
            let misled = machine.name.clone();
            let cause = Cause::Announces { vip: sender, network, misled };
            self.misled.get_or_insert(Death { host, cause });
        }
        self.known.insert(key, asker);
    }

    /// What `machine` does with a packet that comes in on `dev`.
    pub(super) fn take(
        &mut self,
        machine: &'a Machine,
        dev: &'a IfName,
        packet: Packet,
    ) -> Onward<Taken<'a>> {
        let (mut packet, mut dev) = (packet, dev);
        (packet.mark, packet.mark_is_known, packet.tracking) = (0, true, Tracking::Fresh);
        if let Some(device) = machine.devices.get(dev).filter(|it| packet.size > it.mtu) {
            let (dev, mtu, size) = (dev.clone(), device.mtu, packet.size);
            return Err(dead(machine, Cause::TooLarge { dev, mtu, size }));
        }
        loop {
            self.pass(machine, &Hook::prerouting(dev, hooks::BEFORE_NAT_DST), &mut packet)?;
            self.before_routing(machine, &mut packet);
            self.pass(machine, &Hook::prerouting(dev, hooks::AFTER_NAT_DST), &mut packet)?;
            let addresses =
                Addresses { source: packet.source, target: packet.target, mark: packet.mark };
            let input = machine.input(dev, addresses);
            self.note_lookup(machine, Some(dev), &packet, input.is_ok());
            let input = input.map_err(|why| match why {
                NotTaken::Dies(cause) => dead(machine, cause),
                NotTaken::Unclear => unclear(machine, addresses.target),
            })?;
            match input {
                Input::Forward(route) => {
                    // Before the packet is rewritten (net/ipv4/ip_forward.c, `ip_forward`).
                    self.fit(machine, route, &mut packet)?;
                    let route = self.forward(machine, (dev, route), &mut packet)?;
                    return Ok(Taken::Onwards(route, packet));
                }
                Input::Local => {
                    if let Some(cause) = machine.guards(dev, &packet) {
                        return Err(dead(machine, cause));
                    }
                    let is_request = self.connection.is_none() && packet.inside.is_none();
                    let for_ipvs = is_request && self.director == Some(&machine.name);
                    let chains = if for_ipvs { hooks::BEFORE_IPVS } else { hooks::ALL };
                    self.pass(machine, &Hook::input(dev, chains), &mut packet)?;
                }
            }
            let Some((inner, tunnel)) = packet.inside.take() else {
                return Ok(Taken::Here(packet));
            };
            let ipv6 = inner.target.is_ipv6();
            let unwrapped = machine.unwraps(packet.target, tunnel, ipv6);
            let cause = Cause::NotUnwrapped { rip: packet.target };
            dev = unwrapped.ok_or_else(|| dead(machine, cause))?;
            if machine.refuses_outer_source(dev, packet.source) {
                let (dev, source) = (dev.clone(), packet.source);
                return Err(dead(machine, Cause::OwnSource { dev, source }));
            }
            self.note(machine, format!("unwraps it; it comes out of {dev}"));
            // What is unwrapped keeps the mark (net/core/skbuff.c, `skb_scrub_packet`).
            let (mark, mark_is_known) = (packet.mark, packet.mark_is_known);
            packet = Packet { mark, mark_is_known, tracking: Tracking::Fresh, ..*inner };
        }
    }
}
