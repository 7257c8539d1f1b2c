//! Why a way ends too early, and what makes it go on: a gateway, a static route, a role.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Subject;
use super::path::WalkEnd;
use crate::names::{HostName, IfName};
use crate::state::{ConfItem, Sysctl};
use crate::topology::{Host, Interface, Role, Topology, UnclearHosts};
use crate::walk::{Cause, Death};

/// Neighbours that are tried as the next hop of a route.
const TRIED: usize = 100;
/// Hosts and walks that all searches for missing routes may look at: bounds the time for a hostile file.
const WORTH: usize = 1_000_000;

/// Why packets do not arrive; `None` if they do, or if that is not known.
pub(super) fn obstacle(end: WalkEnd<'_>) -> Option<String> {
    Some(match end {
        WalkEnd::Arrives | WalkEnd::Unknown => return None,
        WalkEnd::NoGateway(at) => {
            format!("{} has no subnet with it, no route to it and no gateway", at.name)
        }
        WalkEnd::NotForwarding(at) => {
            format!("{} is the gateway, but does not forward", at.name)
        }
        WalkEnd::GatewayLoop(at) => format!("the gateways lead back to {}", at.name),
        WalkEnd::WrongWire(at, interface) => {
            format!(
                "{} looks for it on {}, but no host on that network has it",
                at.name, interface.name
            )
        }
    })
}

/// What lets packets go from `from` to `to`, an address of `towards`, where the walk ends with `end`.
pub(super) fn of_walk<'a>(
    subject: &Subject<'a>,
    (from, to): (&'a Host, IpAddr),
    end: WalkEnd<'a>,
    towards: &str,
) -> String {
    match end {
        WalkEnd::NoGateway(at) => of_no_route(subject, at, to, towards, None),
        WalkEnd::NotForwarding(at) => {
            format!("add router to the roles of {}, or name another gateway", at.name)
        }
        WalkEnd::GatewayLoop(_) | WalkEnd::Arrives | WalkEnd::Unknown => {
            let correct = format!("correct a `gateway:` or a route on the path to {towards}");
            let (_, passed) = subject.walk_passing(from, to);
            let missing = passed.into_iter().find_map(|at| {
                let entry = missing_route(subject, at, to, None)?;
                Some(add(at, &entry))
            });
            missing.map_or_else(|| correct.clone(), |add| format!("{add}, or {correct}"))
        }
        WalkEnd::WrongWire(at, _) => format!(
            "correct the prefix length or the network of {}, or name the interface with `vip_interface:`",
            at.name
        ),
    }
}

/// What to do about the death of a packet, with the route that is missing, if one is.
pub fn cure_of_death(topology: &Topology, death: &Death) -> String {
    of_death(&Subject::new(topology, &UnclearHosts::default(), true), death)
}

/// The same, for a rule.
pub(super) fn of_death(subject: &Subject<'_>, death: &Death) -> String {
    let Death { host, cause } = death.innermost();
    let (target, dev) = match cause {
        Cause::NoRoute { target } | Cause::Loop { target } => (*target, None),
        Cause::SourceInvalid { dev, source, towards: None, refused: false, .. } => {
            (*source, Some(dev))
        }
        Cause::OwnSource { source, .. } if is_own_of_director(subject, *source) => {
            return format!(
                "{}; or, if the director itself sends it, give the director another address than the VIP",
                death.cause.cure(&death.host)
            );
        }
        Cause::OwnSource { dev, source } if is_passed_on_by_director(subject, host, *source) => {
            return format!(
                "`lvsprov apply`, which sets {}=1 on {host}; or {}",
                Sysctl::dev(dev, ConfItem::AcceptLocal),
                death.cause.cure(&death.host)
            );
        }
        Cause::WrongHost { target } if has_vip_as_real_server(subject, host, *target) => {
            return format!(
                "{host} has {target} as a real server: let another host be the client or router here, or give the services \
                 VIPs of their own"
            );
        }
        _ => return death.cause.cure(&death.host),
    };
    let Some(at) = subject.host(host) else { return death.cause.cure(&death.host) };
    if matches!(cause, Cause::Loop { .. }) {
        return of_walk(subject, (at, target), subject.walk(at, target), &target.to_string());
    }
    of_no_route(subject, at, target, &target.to_string(), dev)
}

/// Whether `vip` is an address that the file gives its director.
fn is_own_of_director(subject: &Subject<'_>, vip: IpAddr) -> bool {
    let mut services = subject.with_vip().filter(|(_, its)| its.address == vip);
    services.any(|(service, _)| {
        let director = subject.host(&service.director);
        director.is_some_and(|director| director.interface_with(vip).is_some())
    })
}

/// Whether `host` is the director of `vip` and forwards: it passes on replies that have it as their source.
fn is_passed_on_by_director(subject: &Subject<'_>, host: &HostName, vip: IpAddr) -> bool {
    let mut services = subject.with_vip().filter(|(_, its)| its.address == vip && vip.is_ipv4());
    services.any(|(service, _)| service.director == *host)
        && subject.host(host).is_some_and(|host| subject.forwards(host))
}

/// Whether lvsprov itself puts `vip` on `host`.
fn has_vip_as_real_server(subject: &Subject<'_>, host: &HostName, vip: IpAddr) -> bool {
    let mut services = subject.with_vip().filter(|(_, its)| its.address == vip);
    services.any(|(service, _)| {
        let mut servers = service.real_servers.iter();
        servers.any(|server| server.host == *host && !server.forward.rewrites())
    })
}

/// `at` has no route to `to`, an address of `towards`. `dev`: where packets from there come in.
fn of_no_route<'a>(
    subject: &Subject<'a>,
    at: &'a Host,
    to: IpAddr,
    towards: &str,
    dev: Option<&IfName>,
) -> String {
    let gateway = format!("give {} a `gateway:` towards {towards}", at.name);
    match missing_route(subject, at, to, dev) {
        None => format!("{gateway}, or a route under `routes:`"),
        // Routers know networks; other hosts know a router.
        Some(entry) if at.roles.contains(&Role::Router) || !at.routes.is_empty() => {
            format!("{}, or {gateway}", add(at, &entry))
        }
        Some(entry) => format!("{gateway}, or {}", add(at, &entry)),
    }
}

/// `add the route {…} to web1`, as YAML.
fn add(at: &Host, (to, via): &(IpNet, IpAddr)) -> String {
    let name = &at.name;
    let entry = yaml_route(*to, *via);
    if at.routes.is_empty() {
        format!("add `routes: [{entry}]` to {name}")
    } else {
        format!("add `{entry}` to the `routes:` of {name}")
    }
}

/// A route as the file has it. IPv6 stands in quotes: a colon has a meaning in YAML.
fn yaml_route(to: IpNet, via: IpAddr) -> String {
    if to.addr().is_ipv4() {
        format!("{{to: {to}, via: {via}}}")
    } else {
        format!("{{to: \"{to}\", via: \"{via}\"}}")
    }
}

/// The route that `at` lacks: to the subnet of `to`, by a neighbour from which packets arrive there, or would with
/// routes on further hosts. Of several neighbours one on `dev` is better: what comes in there passes strict source
/// validation.
fn missing_route<'a>(
    subject: &Subject<'a>,
    at: &'a Host,
    to: IpAddr,
    dev: Option<&IfName>,
) -> Option<(IpNet, IpAddr)> {
    let destination = subnet_of(subject.topology, to);
    let spent = subject.index.spent_on_cures.get() > WORTH;
    if spent || at.routes.iter().any(|route| route.to == destination) {
        return None;
    }
    let near = neighbours(subject, at, to);
    let leading: Vec<_> = near.iter().filter(|it| leads(subject, it.host, to)).collect();
    let on_dev = leading.iter().find(|it| dev.is_none_or(|dev| *dev == it.interface.name));
    let best = on_dev.or(leading.first()).copied();
    let best = best.or_else(|| near.iter().find(|it| may_lead(subject, at, it.host, to)));
    best.map(|it| (destination, it.address))
}

/// A possible next hop.
struct Neighbour<'a> {
    host: &'a Host,
    /// The interface of the other host by which it is reached.
    interface: &'a Interface,
    address: IpAddr,
}

/// The hosts next to `at` that forward or have `to`, with their addresses of the family of `to`.
fn neighbours<'a>(subject: &Subject<'a>, at: &'a Host, to: IpAddr) -> Vec<Neighbour<'a>> {
    spend(subject, subject.index.forwarding.len());
    let holder = subject.holder(to).map(|(host, _)| host);
    let hosts = subject.index.forwarding.iter().copied().chain(holder);
    let all = hosts.filter(|host| host.name != at.name).flat_map(|host| {
        at.interfaces.values().filter_map(move |interface| {
            let address = address_next_to(interface, host, to)?;
            Some(Neighbour { host, interface, address })
        })
    });
    all.take(TRIED).collect()
}

/// Whether packets to `to` arrive from `next`.
fn leads<'a>(subject: &Subject<'a>, next: &'a Host, to: IpAddr) -> bool {
    spend(subject, 1);
    subject.has(next, to) || matches!(subject.walk(next, to), WalkEnd::Arrives)
}

fn spend(subject: &Subject<'_>, more: usize) {
    let spent = &subject.index.spent_on_cures;
    spent.set(spent.get().saturating_add(more));
}

/// Whether packets to `to` would arrive from `next`, past `at`, if each host on the way had a route.
fn may_lead<'a>(subject: &Subject<'a>, at: &'a Host, next: &'a Host, to: IpAddr) -> bool {
    let mut seen = BTreeSet::from([&at.name, &next.name]);
    let mut open = vec![next];
    while let Some(here) = open.pop() {
        if leads(subject, here, to) {
            return true;
        }
        // Where the way leads out of the file, a route would be a guess.
        let lacks =
            matches!(subject.walk(here, to), WalkEnd::NoGateway(end) if end.name == here.name);
        if !lacks || seen.len() > TRIED || subject.index.spent_on_cures.get() > WORTH {
            continue;
        }
        let further = neighbours(subject, here, to).into_iter();
        open.extend(further.map(|it| it.host).filter(|host| seen.insert(&host.name)));
    }
    false
}

/// The subnet of the file that has `address`, else the address alone.
fn subnet_of(topology: &Topology, address: IpAddr) -> IpNet {
    let subnets = topology.networks.values().flat_map(|network| &network.subnets);
    let holding = subnets.filter(|subnet| subnet.contains(&address));
    holding.max_by_key(|subnet| subnet.prefix_len()).copied().unwrap_or_else(|| address.into())
}

/// An address of `next`, of the family of `to`, that is on-link over `ours`.
fn address_next_to(ours: &Interface, next: &Host, to: IpAddr) -> Option<IpAddr> {
    let network = ours.network.as_ref()?;
    let theirs = next.interfaces.values().filter(|theirs| theirs.network.as_ref() == Some(network));
    theirs
        .flat_map(|theirs| &theirs.addresses)
        .map(IpNet::addr)
        .filter(|address| address.is_ipv4() == to.is_ipv4())
        .find(|address| ours.addresses.iter().any(|net| net.contains(address)))
}

/// The route by which a NAT real server sends replies to `client` back through the director, as YAML.
pub(super) fn route_through(
    subject: &Subject<'_>,
    real: (&Interface, &Host),
    client: IpAddr,
) -> Option<String> {
    let (interface, director) = real;
    let via = address_next_to(interface, director, client)?;
    Some(yaml_route(subnet_of(subject.topology, client), via))
}
