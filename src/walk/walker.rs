//! One request and its reply, hop by hop.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::World;
use super::death::{Cause, Death};
use super::input::{Addresses, Input, NotTaken};
use super::machine::{DeviceKind, Machine};
use super::request::{Hop, Walk, WalkRequest, WalkVerdict};
use super::routes::Flow;
use crate::names::{HostName, IfName, NetworkName};
use crate::state::routing::{RouteEntry, RouteKind};
use crate::state::{Destination, ForwardingMethod, PacketRule, Tunnel, VsItem};

/// More hops than any way has: what goes on longer goes round in a circle.
const MOST_HOPS: usize = 64;

/// A packet on its way.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    source: IpAddr,
    pub(super) target: IpAddr,
    /// Destination port; of a reply the source port.
    pub(super) port: u16,
    pub(super) mark: u32,
    /// The packet inside, and how it is wrapped.
    inside: Option<(Box<Packet>, Tunnel)>,
}

/// A packet that has reached a host that takes it.
struct Arrival<'a> {
    machine: &'a Machine,
    packet: Packet,
}

/// What the director remembers of the connection.
struct Connection<'a> {
    director: &'a HostName,
    client: IpAddr,
    vip: IpAddr,
    rip: IpAddr,
    rewrites: bool,
    /// FULLNAT: the director's own address that real servers see.
    hides_behind: Option<IpAddr>,
}

struct Walker<'a> {
    world: &'a World,
    hops: Vec<Hop>,
    connection: Option<Connection<'a>>,
    /// Neighbours that a host knows because they asked for it: net/ipv4/arp.c, `arp_process`, and RFC 4861, 7.2.3,
    /// take the sender of a request into the cache. By host, network and address.
    known: BTreeMap<(&'a HostName, NetworkName, IpAddr), (&'a Machine, &'a IfName)>,
    /// What hosts have asked for on the way.
    asked: BTreeSet<(&'a HostName, NetworkName, IpAddr)>,
    /// A host on the way of requests has learned another machine for the VIP than the director.
    misled: Option<Death>,
    /// Of several devices of a host that answer, the last is taken, not the first.
    last: bool,
    /// Several did.
    has_choice: bool,
    left: usize,
}

/// A walk that ends before its goal.
enum Stop {
    Dead(Death),
    Unknown(String),
}

type Onward<T> = Result<T, Stop>;

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
        let mut walker = Walker {
            world: self,
            hops: Vec::new(),
            connection: None,
            known: BTreeMap::new(),
            asked: BTreeSet::new(),
            misled: None,
            last,
            has_choice: false,
            left: MOST_HOPS,
        };
        let mut in_reply = false;
        let end = match walker.run(request, &mut in_reply) {
            Ok(()) => WalkVerdict::Answered,
            Err(Stop::Dead(death)) => WalkVerdict::Dead { death, in_reply },
            Err(Stop::Unknown(missing)) => WalkVerdict::Unknown(missing),
        };
        (Walk { hops: walker.hops, end, by_chance: false }, walker.has_choice)
    }
}

fn unclear(machine: &Machine, target: IpAddr) -> Stop {
    let name = &machine.name;
    Stop::Unknown(format!(
        "which way {name} takes for {target}: rules or routes are in the way that the walk does not follow (`ip rule`, \
         `ip route show table all`)"
    ))
}

fn dead(machine: &Machine, cause: Cause) -> Stop {
    Stop::Dead(Death { host: machine.name.clone(), cause })
}

impl<'a> Walker<'a> {
    fn run(&mut self, request: &WalkRequest<'a>, in_reply: &mut bool) -> Onward<()> {
        let client = self.machine(request.client)?;
        let director = self.machine(request.director)?;
        let packet = start(client, request)?;
        let own = packet.source;
        self.note(client, format!("asks {} from {own}", request.vip));
        let arrival = self.send(client, packet)?;
        if arrival.machine.name == client.name && client.name != director.name {
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
        self.left = MOST_HOPS;
        let reply = Packet {
            source: arrival.packet.target,
            target: arrival.packet.source,
            mark: 0,
            ..arrival.packet
        };
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

    fn machine(&self, name: &HostName) -> Onward<&'a Machine> {
        let missing = || Stop::Unknown(format!("{name} is not a host of the file"));
        self.world.machines.get(name).ok_or_else(missing)
    }

    fn note(&mut self, machine: &Machine, text: String) {
        self.hops.push(Hop { host: machine.name.clone(), text });
    }

    /// Sends a packet that the host makes itself, until a host takes it.
    fn send(&mut self, from: &'a Machine, packet: Packet) -> Onward<Arrival<'a>> {
        let flow = Flow {
            source: Some(packet.source),
            target: packet.target,
            iif: None,
            oif: None,
            mark: packet.mark,
        };
        match from.route(&flow) {
            None => Err(dead(from, Cause::NoRoute { target: packet.target })),
            Some(route) => match route.kind {
                RouteKind::Local => Ok(Arrival { machine: from, packet }),
                RouteKind::Refuses | RouteKind::Throw => {
                    Err(dead(from, Cause::RouteRefuses { target: packet.target }))
                }
                RouteKind::Unclear => Err(unclear(from, packet.target)),
                RouteKind::Unicast => self.follow(from, route, packet),
            },
        }
    }

    /// Sends a packet along `route`, and on from host to host.
    fn follow(
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
            let next_hop = route.gateway.unwrap_or(packet.target);
            let (next, dev) = self.neighbour(machine, route, packet.source, next_hop)?;
            match self.take(next, dev, packet)? {
                Taken::Here(packet) => return Ok(Arrival { machine: next, packet }),
                Taken::Onwards(its, changed) => (machine, route, packet) = (next, its, changed),
            }
        }
    }

    /// The host that answers for the next hop, and the device where the frame comes in.
    fn neighbour(
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
                self.note(machine, text);
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
                self.asked.insert((&machine.name, network.clone(), next_hop));
                if let Some(sender) = asks_as {
                    self.learn(next, network, sender, (machine, dev));
                }
                self.note(
                    machine,
                    format!("sends it by {dev}{by}; {} answers on {network}", next.name),
                );
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
    fn take(&mut self, machine: &'a Machine, dev: &'a IfName, packet: Packet) -> Onward<Taken<'a>> {
        let (mut packet, mut dev) = (packet, dev);
        loop {
            self.before_routing(machine, &mut packet);
            let addresses =
                Addresses { source: packet.source, target: packet.target, mark: packet.mark };
            let input = machine.input(dev, addresses).map_err(|why| match why {
                NotTaken::Dies(cause) => dead(machine, cause),
                NotTaken::Unclear => unclear(machine, addresses.target),
            })?;
            match input {
                Input::Forward(route) => {
                    let route = self.while_forwarding(machine, route, &mut packet)?;
                    return Ok(Taken::Onwards(route, packet));
                }
                Input::Local => {}
            }
            let Some((inner, tunnel)) = packet.inside.take() else {
                return Ok(Taken::Here(packet));
            };
            let ipv6 = inner.target.is_ipv6();
            let unwrapped = machine.unwraps(packet.target, tunnel, ipv6);
            let cause = Cause::NotUnwrapped { rip: packet.target };
            dev = unwrapped.ok_or_else(|| dead(machine, cause))?;
            self.note(machine, format!("unwraps it; it comes out of {dev}"));
            packet = *inner;
        }
    }

    /// Hook prerouting on the director: firewall marks, and connection tracking, which knows whom FULLNAT hid.
    fn before_routing(&self, machine: &Machine, packet: &mut Packet) {
        for rule in &machine.packet_rules {
            if let PacketRule::Mark { vip, protocol: _, ports, mark } = rule
                && *vip == packet.target
                && (ports.is_empty() || ports.contains(&packet.port))
            {
                packet.mark = *mark;
            }
        }
        if let Some(connection) = &self.connection
            && *connection.director == machine.name
            && connection.hides_behind == Some(packet.target)
            && connection.rip == packet.source
        {
            packet.target = connection.client;
        }
    }

    /// Hook forward on the director: IPVS puts the VIP back as the source, and with `snat_reroute` the packet is routed anew,
    /// as one that the host sends (net/netfilter/ipvs/ip_vs_core.c, `ip_vs_route_me_harder`).
    fn while_forwarding(
        &mut self,
        machine: &'a Machine,
        route: &'a RouteEntry,
        packet: &mut Packet,
    ) -> Onward<&'a RouteEntry> {
        let Some(connection) = &self.connection else { return Ok(route) };
        let is_reply = connection.rewrites
            && *connection.director == machine.name
            && connection.rip == packet.source;
        if !is_reply {
            return Ok(route);
        }
        packet.source = connection.vip;
        let text = format!("puts {} back as the source", connection.vip);
        self.note(machine, text);
        if !machine.ipvs_setting(VsItem::SnatReroute) {
            return Ok(route);
        }
        let target = packet.target;
        let flow =
            Flow { source: Some(packet.source), target, iif: None, oif: None, mark: packet.mark };
        let Some(route) = machine.route(&flow) else {
            return Err(dead(machine, Cause::NoRoute { target }));
        };
        match route.kind {
            RouteKind::Unicast => Ok(route),
            RouteKind::Unclear => Err(unclear(machine, target)),
            RouteKind::Local | RouteKind::Refuses | RouteKind::Throw => {
                Err(dead(machine, Cause::RouteRefuses { target }))
            }
        }
    }

    /// IPVS on the director: the service, and the way to the real server.
    fn direct(
        &mut self,
        director: &'a Machine,
        packet: Packet,
        request: &WalkRequest<'a>,
    ) -> Onward<Arrival<'a>> {
        let found = director.service(&packet, request.protocol);
        let destination = found.and_then(|it| it.destinations.get(&request.destination));
        let Some(Destination { method, tunnel, .. }) = destination else {
            return Err(dead(director, Cause::NoService { target: request.vip }));
        };
        let rip = request.destination.0.ip();
        let rewrites = *method == ForwardingMethod::Masquerade;
        let mut connection = Connection {
            director: &director.name,
            client: packet.source,
            vip: request.vip,
            rip,
            rewrites,
            hides_behind: None,
        };
        let flow = Flow { source: None, target: rip, iif: None, oif: None, mark: packet.mark };
        let Some(route) = director.route(&flow) else {
            return Err(dead(director, Cause::NoRoute { target: rip }));
        };
        if route.kind == RouteKind::Local {
            self.note(director, "is the real server itself".to_owned());
            self.connection = Some(Connection { rewrites: false, ..connection });
            return Ok(Arrival { machine: director, packet });
        }
        if route.kind == RouteKind::Unclear {
            return Err(unclear(director, rip));
        }
        if route.kind != RouteKind::Unicast {
            return Err(dead(director, Cause::RouteRefuses { target: rip }));
        }
        let port = request.destination.0.port();
        match method {
            ForwardingMethod::Masquerade => {
                let mut packet = Packet { target: rip, port, ..packet };
                if let Some(hidden) = director.masquerades(&packet, request, route) {
                    connection.hides_behind = Some(hidden);
                    packet.source = hidden;
                }
                self.note(director, format!("IPVS rewrites it for {rip} (nat)"));
                self.connection = Some(connection);
                self.follow(director, route, packet)
            }
            ForwardingMethod::DirectRoute => {
                if let Some(gateway) = route.gateway {
                    return Err(dead(director, Cause::DirectRouteByGateway { rip, gateway }));
                }
                self.note(director, format!("IPVS sends it in a frame to {rip} (dr)"));
                self.connection = Some(connection);
                // The frame goes to the real server; the packet in it keeps its destination.
                let (next, dev) = self.neighbour(director, route, packet.source, rip)?;
                match self.take(next, dev, packet)? {
                    Taken::Here(packet) => Ok(Arrival { machine: next, packet }),
                    Taken::Onwards(route, packet) => self.follow(next, route, packet),
                }
            }
            ForwardingMethod::Tunnel => {
                let source = director.source_for(route, rip);
                let source =
                    source.ok_or_else(|| dead(director, Cause::NoSource { target: rip }))?;
                self.note(director, format!("IPVS wraps it for {rip} (tun)"));
                self.connection = Some(connection);
                let outer = Packet {
                    source,
                    target: rip,
                    port: 0,
                    mark: 0,
                    inside: Some((Box::new(packet), *tunnel)),
                };
                self.follow(director, route, outer)
            }
            ForwardingMethod::Local | ForwardingMethod::Bypass => {
                Err(Stop::Unknown(format!("what IPVS does with the method {method}")))
            }
        }
    }
}

/// What happened to a packet that came in.
enum Taken<'a> {
    /// The host takes it.
    Here(Packet),
    /// It is forwarded.
    Onwards(&'a RouteEntry, Packet),
}

/// The first packet.
fn start(client: &Machine, request: &WalkRequest<'_>) -> Onward<Packet> {
    let target = request.vip;
    let flow = Flow { source: None, target, iif: None, oif: None, mark: 0 };
    let route = client.route(&flow).ok_or_else(|| dead(client, Cause::NoRoute { target }))?;
    if route.kind == RouteKind::Unclear {
        return Err(unclear(client, target));
    }
    let source = client.source_for(route, target);
    let source = source.ok_or_else(|| dead(client, Cause::NoSource { target }))?;
    Ok(Packet { source, target, port: request.port, mark: 0, inside: None })
}
