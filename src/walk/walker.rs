//! One request and its reply, hop by hop.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::World;
use super::conntrack::TrackedConnections;
use super::death::{Cause, Death};
use super::hooks::Tracking;
use super::large::ends;
use super::machine::Machine;
use super::packet::{Connection, Ends, Packet, PacketStage, Sizes, TooBig};
use super::request::{Hop, Lookup, Walk, WalkRequest, WalkVerdict};
use super::routes::Flow;
use crate::names::{HostName, IfName, NetworkName};
use crate::state::Protocol;
use crate::state::routing::RouteKind;

/// More hops than any way has: what goes on longer goes round in a circle.
pub(super) const MOST_HOPS: usize = 64;

pub(super) struct Walker<'a> {
    pub(super) world: &'a World,
    pub(super) hops: Vec<Hop>,
    /// Where in them the reply begins.
    pub(super) reply_from: Option<usize>,
    pub(super) lookups: Vec<Lookup>,
    /// The director, once it is known.
    pub(super) director: Option<&'a HostName>,
    pub(super) protocol: Protocol,
    /// Which packets of the connection are followed.
    pub(super) stage: PacketStage,
    /// What the hosts have tracked.
    pub(super) tracks: TrackedConnections<'a>,
    /// A rule of another program has rewritten the packet, or may have: which.
    pub(super) altered_by: Option<String>,
    /// Rules of other programs whose verdict is not known, by host.
    pub(super) unclear: BTreeSet<(HostName, String)>,
    pub(super) connection: Option<Connection<'a>>,
    /// Neighbours that a host knows because they asked for it: net/ipv4/arp.c, `arp_process`, and RFC 4861, 7.2.3,
    /// take the sender of a request into the cache. By host, network and address.
    pub(super) known: BTreeMap<(&'a HostName, NetworkName, IpAddr), (&'a Machine, &'a IfName)>,
    /// What hosts have asked for on the way.
    pub(super) asked: BTreeSet<(&'a HostName, NetworkName, IpAddr)>,
    /// A host on the way of requests has learned another machine for the VIP than the director.
    pub(super) misled: Option<Death>,
    /// Of several devices of a host that answer, the last is taken, not the first.
    pub(super) last: bool,
    /// Several did.
    pub(super) has_choice: bool,
    pub(super) left: usize,
    pub(super) sizes: Sizes,
    pub(super) ends: Option<Ends>,
    /// Set where a walk ends with [`Stop::TooBig`].
    pub(super) too_big: Option<TooBig<'a>>,
    /// An ICMP message has passed the director, which made it one about the VIP.
    pub(super) passed_director: bool,
}

/// A walk that ends before its goal.
pub(super) enum Stop {
    Dead(Death),
    Unknown(String),
    /// A packet does not fit; [`Walker::too_big`] has it.
    TooBig,
}

pub(super) type Onward<T> = Result<T, Stop>;

impl World {
    /// Follows `request` and its reply. Where several devices of one host answer, both ends of them are tried: which one
    /// wins is chance.
    pub fn walk(&self, request: &WalkRequest<'_>) -> Walk {
        let (first, has_choice) = self.walk_by(request, false);
        if !has_choice {
            return first;
        }
        let (last, _) = self.walk_by(request, true);
        match (&first.end, &last.end) {
            (WalkVerdict::Answered, WalkVerdict::Answered) => first,
            (WalkVerdict::Answered, _) => Walk { by_chance: true, ..last },
            (_, WalkVerdict::Answered) => Walk { by_chance: true, ..first },
            _ => first,
        }
    }

    /// The walk, and whether several devices of a host answered; `last`: the last of them is taken.
    fn walk_by(&self, request: &WalkRequest<'_>, last: bool) -> (Walk, bool) {
        let mut walker = Walker::new(self, Sizes::default(), last);
        let mut in_reply = false;
        let end = match walker.run_twice(request, &mut in_reply) {
            Ok(()) => WalkVerdict::Answered,
            Err(Stop::Dead(death)) => WalkVerdict::Dead { death, in_reply },
            Err(Stop::Unknown(missing)) => WalkVerdict::Unknown(missing),
            // A packet without a size fits everywhere.
            Err(Stop::TooBig) => WalkVerdict::Unknown("what fits on the way".to_owned()),
        };
        let Walker { hops, lookups, reply_from, has_choice, unclear, .. } = walker;
        let unclear = unclear.into_iter().collect();
        (Walk { hops, end, reply_from, by_chance: false, lookups, unclear }, has_choice)
    }
}

pub(super) fn unclear(machine: &Machine, target: IpAddr) -> Stop {
    let name = &machine.name;
    Stop::Unknown(format!(
        "which way {name} takes for {target}: rules or routes are in the way that the walk does not follow (`ip rule`, \
         `ip route show table all`)"
    ))
}

pub(super) fn dead(machine: &Machine, cause: Cause) -> Stop {
    Stop::Dead(Death { host: machine.name.clone(), cause })
}

impl<'a> Walker<'a> {
    pub(super) fn new(world: &'a World, sizes: Sizes, last: bool) -> Self {
        Self {
            world,
            hops: Vec::new(),
            reply_from: None,
            lookups: Vec::new(),
            director: None,
            protocol: Protocol::Tcp,
            stage: PacketStage::First,
            tracks: TrackedConnections::default(),
            altered_by: None,
            unclear: BTreeSet::new(),
            connection: None,
            known: BTreeMap::new(),
            asked: BTreeSet::new(),
            misled: None,
            last,
            has_choice: false,
            left: MOST_HOPS,
            sizes,
            ends: None,
            too_big: None,
            passed_director: false,
        }
    }

    /// The first packets of a connection, and where rules of other programs are on the way the later ones too: connection
    /// tracking tells them apart.
    pub(super) fn run_twice(
        &mut self,
        request: &WalkRequest<'a>,
        in_reply: &mut bool,
    ) -> Onward<()> {
        self.run(request, in_reply)?;
        // A datagram and its answer may be all.
        if !self.world.is_filtered() || request.protocol == Protocol::Udp {
            return Ok(());
        }
        let first = (std::mem::take(&mut self.hops), self.reply_from.take(), self.lookups.len());
        (self.connection, self.left, *in_reply) = (None, MOST_HOPS, false);
        self.stage = PacketStage::Later;
        let client = self.machine(request.client)?;
        self.note(client, "has its connection; what follows is a later packet of it".to_owned());
        self.run(request, in_reply)?;
        let lookups;
        (self.hops, self.reply_from, lookups) = first;
        self.lookups.truncate(lookups);
        Ok(())
    }

    pub(super) fn run(&mut self, request: &WalkRequest<'a>, in_reply: &mut bool) -> Onward<()> {
        (self.director, self.protocol) = (Some(request.director), request.protocol);
        let client = self.machine(request.client)?;
        let director = self.machine(request.director)?;
        let (packet, client_mtu) = start(client, request, self.sizes.request)?;
        let own = packet.source;
        self.note(client, format!("asks {} from {own}", request.vip));
        let arrival = self.send(client, packet)?;
        if arrival.machine.name == client.name && client.name != director.name {
            let mut asked = arrival.packet;
            self.before_routing(director, &mut asked);
            let service = director.service(&asked, request.protocol);
            if !service.is_some_and(|service| client.serves(service, asked.port)) {
                return Err(dead(client, Cause::WrongHost { target: request.vip }));
            }
            // The rule `client-is-real-server` says that this is not balanced.
            self.note(client, format!("has {} itself and answers itself", request.vip));
            return Ok(());
        }
        if arrival.machine.name != director.name {
            return Err(dead(arrival.machine, Cause::WrongHost { target: request.vip }));
        }
        let arrival = self.direct(director, arrival.packet, request)?;
        let server = arrival.machine;
        if server.name != *request.real_server {
            return Err(dead(server, Cause::WrongHost { target: arrival.packet.target }));
        }
        self.note(server, format!("takes it and replies from {}", arrival.packet.target));
        *in_reply = true;
        self.reply_from = Some(self.hops.len());
        self.left = MOST_HOPS;
        let reply = Packet {
            source: arrival.packet.target,
            target: arrival.packet.source,
            mark: 0,
            mark_is_known: true,
            tracking: Tracking::Fresh,
            size: self.sizes.reply,
            ..arrival.packet
        };
        self.ends = Some(ends(client_mtu, server, &reply));
        let arrival = self.send(server, reply)?;
        let mut source = arrival.packet.source;
        if arrival.machine.name == director.name {
            // A client on the director: IPVS rewrites what comes in for the host itself, too.
            source = self
                .connection
                .as_ref()
                .filter(|it| it.rewrites && it.rip == source)
                .map_or(source, |it| it.vip);
        }
        if arrival.machine.name != client.name {
            return Err(dead(arrival.machine, Cause::WrongHost { target: arrival.packet.target }));
        }
        if source != request.vip {
            return Err(dead(client, Cause::WrongSource { source, expected: request.vip }));
        }
        self.note(client, format!("gets the reply from {source}"));
        self.misled.take().map_or(Ok(()), |death| Err(Stop::Dead(death)))
    }

    pub(super) fn machine(&self, name: &HostName) -> Onward<&'a Machine> {
        let missing = || Stop::Unknown(format!("{name} is not a host of the file"));
        self.world.machines.get(name).ok_or_else(missing)
    }

    pub(super) fn note(&mut self, machine: &Machine, text: String) {
        self.hops.push(Hop { host: machine.name.clone(), text, over: None });
    }

    /// The packet leaves `machine` over `network`.
    pub(super) fn note_sent(&mut self, machine: &Machine, network: &NetworkName, text: String) {
        let over = Some(network.clone());
        self.hops.push(Hop { host: machine.name.clone(), text, over });
    }
}

/// The first packet, and what fits on its first way.
fn start(client: &Machine, request: &WalkRequest<'_>, size: u32) -> Onward<(Packet, u32)> {
    let target = request.vip;
    let flow = Flow { source: None, target, iif: None, oif: None, mark: 0 };
    let route = client.route(&flow).ok_or_else(|| dead(client, Cause::NoRoute { target }))?;
    match route.kind {
        RouteKind::Unclear => return Err(unclear(client, target)),
        RouteKind::Refuses | RouteKind::Throw => {
            return Err(dead(client, Cause::RouteRefuses { target }));
        }
        RouteKind::Local | RouteKind::Unicast => {}
    }
    let source = client.source_for(route, target);
    let source = source.ok_or_else(|| dead(client, Cause::NoSource { target }))?;
    let packet = Packet { size, ..Packet::small(source, target, request.port) };
    Ok((packet, client.mtu_of(route)))
}
