//! What must be true of a host before anything on it is touched.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::ownership::Goal;
use super::{instances, link_managers, simulate};
use crate::desired::Desired;
use crate::state::effects::LEADERS;
use crate::state::silent::is_silent;
use crate::state::{
    AddressKey, Capability, Conf6Item, ConfDev, Controller, Edit, HostState, Item, Link, Module,
    Observation, Present, RECEIPT_VERSION, Route, RouteKey, Sysctl, VsItem,
};

/// Something on a host that stands in the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obstacle {
    /// What is wrong.
    pub message: String,
    /// Why it matters.
    pub why: String,
    /// What to do.
    pub cure: String,
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {}", self.message, self.why, self.cure)
    }
}

/// Everything on a host that stands in the way of `goal`; empty if nothing does.
pub fn obstacles(desired: &Desired, goal: &Goal, seen: &Observation) -> Vec<Obstacle> {
    let mut all = Vec::new();
    receipt(seen, &mut all);
    interfaces(desired, seen, &mut all);
    capabilities(desired, seen, &mut all);
    parts(desired, seen, &mut all);
    settings(desired, seen, &mut all);
    ipv6(desired, seen, &mut all);
    routes(goal, seen, &mut all);
    vips(desired, goal, seen, &mut all);
    contested(goal, &mut all);
    link_managers::obstacles(goal, seen, &mut all);
    instances::obstacles(goal, seen, &mut all);
    all
}

/// A service that lvsprov did not make, and that differs from the file.
fn contested(goal: &Goal, all: &mut Vec<Obstacle>) {
    for (key, how) in &goal.contested {
        all.push(Obstacle {
            message: format!("{key} is in the IPVS table already, and not by lvsprov: {how}"),
            why: "the program that made it may rely on it".to_owned(),
            cure:
                "take it out of the file or out of the table, or take it over with `--adopt`: it \
                   becomes what the file says, and destroy removes it"
                    .to_owned(),
        });
    }
}

/// `ipvs: exclusive` on a host where another topology has services.
pub fn exclusive(goal: &Goal, seen: &Observation, all: &mut Vec<Obstacle>) {
    for (other, receipt) in &seen.others {
        let theirs = receipt.owned.iter().filter_map(|item| match item {
            Item::Service(key) if !goal.wanted.services.contains_key(key) => Some(key.to_string()),
            _ => None,
        });
        let theirs: Vec<String> = theirs.collect();
        if !theirs.is_empty() {
            all.push(Obstacle {
                message: format!(
                    "the topology {other} has services on this host: {}",
                    theirs.join(", ")
                ),
                why: "`ipvs: exclusive` leaves no service that is not in this file".to_owned(),
                cure: format!(
                    "destroy {other} first, say both in one file, or write `ipvs: shared`"
                ),
            });
        }
    }
}

/// A receipt of a later version says things that we would lose.
pub fn receipt(seen: &Observation, all: &mut Vec<Obstacle>) {
    let Some(receipt) = &seen.receipt else { return };
    if receipt.version > RECEIPT_VERSION {
        all.push(Obstacle {
            message: format!("the receipt on this host has version {}", receipt.version),
            why: format!("this lvsprov reads versions up to {RECEIPT_VERSION}"),
            cure: "use the lvsprov that wrote it, or a later one".to_owned(),
        });
    }
}

/// A caution where the operator's own way to the host changes, or may change. Where the host does not know
/// from where it is reached, or knows a link-local address only, every route, address and link counts.
pub fn way_back(seen: &Observation, after: &HostState) -> Option<String> {
    let from = match seen.facts.controller {
        Controller::Pipe => return None,
        Controller::Address(address) if !is_link_local(address) => {
            return route_back(seen, after, address);
        }
        Controller::Address(address) => {
            format!("you are logged in from {address}, an address of one link")
        }
        Controller::Unknown => {
            "this host does not know from which address you are logged in".to_owned()
        }
    };
    let HostState { routes, addresses, links, tunnels, .. } = &seen.state;
    let changed = [
        ("routes", *routes != after.routes),
        ("addresses", *addresses != after.addresses),
        ("links", *links != after.links || *tunnels != after.tunnels),
    ];
    let changed: Vec<&str> =
        changed.into_iter().filter_map(|(what, differs)| differs.then_some(what)).collect();
    (!changed.is_empty())
        .then(|| format!("{from}, and its {} change. {UNDONE_UNLESS}", changed.join(" and ")))
}

/// What becomes of a change that cuts the operator off.
const UNDONE_UNLESS: &str = "If that cuts you off, the connection breaks: unless `--confirm-within off` says \
                             otherwise, every host then undoes by itself what is not confirmed in time";

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// The same where it is known to where the way leads.
fn route_back(seen: &Observation, after: &HostState, controller: IpAddr) -> Option<String> {
    let (before, after) = (way_to(&seen.state, controller), way_to(after, controller));
    let hops = |way: Option<(&RouteKey, &Route)>| way.map(|(_, r)| (r.gateway, r.dev.clone()));
    if hops(before) == hops(after) {
        return None;
    }
    let text = |way: Option<(&RouteKey, &Route)>| {
        way.map_or_else(|| "no route".to_owned(), |(key, route)| format!("{key} {route}"))
    };
    Some(format!(
        "you are logged in from {controller}, and the way back there changes: {} -> {}. If the new one \
         does not lead to you, the connection breaks: unless `--confirm-within off` says otherwise, every \
         host then undoes by itself what is not confirmed in time",
        text(before),
        text(after)
    ))
}

/// The route of the main table that a packet to `address` takes.
fn way_to(state: &HostState, address: IpAddr) -> Option<(&RouteKey, &Route)> {
    let fitting = state.routes.iter().filter(|(key, _)| key.0.contains(&address));
    fitting.max_by_key(|(key, _)| key.0.prefix_len())
}

/// A caution where forwarding is switched on, and LRO off with it (net/core/dev.c, `dev_disable_lro`).
pub fn lost_lro(seen: &Observation, after: &HostState) -> Option<String> {
    let is = |state: &HostState, key: &Sysctl, value: &str| {
        state.sysctls.get(key).is_some_and(|present| present == value)
    };
    let switched_on = LEADERS.iter().any(|key| is(&seen.state, key, "0") && is(after, key, "1"));
    let devices: Vec<String> = seen.facts.lro.iter().map(ToString::to_string).collect();
    (switched_on && !devices.is_empty()).then(|| {
        format!(
            "forwarding switches large receive offload (LRO) off on {}, for good: destroy does not switch it on again, \
             `ethtool -K DEVICE lro on` does",
            devices.join(", ")
        )
    })
}

fn interfaces(desired: &Desired, seen: &Observation, all: &mut Vec<Obstacle>) {
    for (dev, nets) in &desired.needs {
        let Some(link) = seen.state.links.get(dev) else {
            // tunl0 comes with its module.
            if desired.state.links.contains_key(dev) {
                continue;
            }
            let there: Vec<_> = seen.state.links.keys().map(ToString::to_string).collect();
            all.push(Obstacle {
                message: format!("there is no interface {dev}"),
                why: "the file says that the host has it".to_owned(),
                cure: format!("name one that it has: {}", there.join(", ")),
            });
            continue;
        };
        if *link == Link::Down {
            all.push(Obstacle {
                message: format!("interface {dev} is down"),
                why: "no packet passes it".to_owned(),
                cure: format!(
                    "bring it up in the host's own network configuration (`ip link set {dev} up`)"
                ),
            });
        }
        for net in nets {
            let key = AddressKey { dev: dev.clone(), net: *net };
            if !seen.state.addresses.contains_key(&key) {
                let there: Vec<_> = seen
                    .state
                    .addresses
                    .keys()
                    .filter(|key| key.dev == *dev)
                    .map(|key| key.net.to_string())
                    .collect();
                all.push(Obstacle {
                    message: format!("interface {dev} does not have the address {net}"),
                    why: format!(
                        "the file says that the host has it; {dev} has {}",
                        if there.is_empty() { "none".to_owned() } else { there.join(", ") }
                    ),
                    cure: "correct the file, or set the address in the host's own network configuration"
                        .to_owned(),
                });
            }
        }
    }
}

fn capabilities(desired: &Desired, seen: &Observation, all: &mut Vec<Obstacle>) {
    for module in &desired.state.modules {
        if let Capability::Missing(looked) = seen.facts.capability(*module) {
            all.push(Obstacle {
                message: format!("kernel {} has no {module}: {looked}", seen.facts.kernel),
                why: "the forwarding method needs it".to_owned(),
                cure:
                    "install the distribution's full kernel (cloud flavours leave it out), or its \
                       package of extra modules"
                        .to_owned(),
            });
        }
    }
}

/// Schedulers and engines are modules of their own: the kernel refuses a service whose scheduler it
/// does not find (ENOENT), in the midst of the steps.
fn parts(desired: &Desired, seen: &Observation, all: &mut Vec<Obstacle>) {
    let Some(there) = &seen.facts.parts else { return };
    if matches!(seen.facts.capability(Module::IpVs), Capability::Missing(_)) {
        return;
    }
    let mut missing: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, service) in &desired.state.services {
        let engine = service.engine.as_ref().map(|engine| format!("pe_{engine}"));
        for part in [Some(service.scheduler.clone()), engine].into_iter().flatten() {
            if !there.contains(&part) {
                missing.entry(part).or_default().push(key.to_string());
            }
        }
    }
    for (part, services) in missing {
        let what = match part.strip_prefix("pe_") {
            Some(engine) => format!("persistence engine {engine}"),
            None => format!("scheduler {part}"),
        };
        all.push(Obstacle {
            message: format!("kernel {} has no {what} (module ip_vs_{part})", seen.facts.kernel),
            why: format!("it would refuse {} (ENOENT)", services.join(", ")),
            cure: format!(
                "choose one of: {}; or install the distribution's full kernel (mh came with Linux \
                 4.18, twos with 5.11)",
                there.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
            ),
        });
    }
}

/// A setting of IPVS that is not there: this kernel has none, or it comes with the module only.
fn ipvs_setting(item: VsItem, seen: &Observation) -> (String, String) {
    let name = format!("net.ipv4.vs.{}", item.as_str());
    let kernel = &seen.facts.kernel;
    let known =
        item.since().filter(|since| version(kernel).is_some_and(|version| version < *since));
    if let Some((major, minor)) = known {
        return (
            format!("kernel {kernel} has no setting {name}: it came with Linux {major}.{minor}"),
            "take it out of `settings`, or use a later kernel".to_owned(),
        );
    }
    if seen.state.modules.contains(&Module::IpVs) {
        return (
            format!("kernel {kernel} has no setting {name}"),
            "take it out of `settings`, or use a kernel that has it".to_owned(),
        );
    }
    (
        format!("what {name} is now is not known before ip_vs is loaded"),
        "load it on the host (`modprobe ip_vs`), then run this again: the value must be put back later"
            .to_owned(),
    )
}

/// Major and minor number of `uname -r`.
fn version(kernel: &str) -> Option<(u32, u32)> {
    let mut numbers = kernel.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// A value that must be set and is not there would otherwise be passed over without a word.
fn settings(desired: &Desired, seen: &Observation, all: &mut Vec<Obstacle>) {
    let mut state = seen.state.clone();
    for module in &desired.state.modules {
        // That it is loaded already is the only error here.
        let _ = simulate::apply(&mut state, &Edit::add::<Module>(*module, Present));
    }
    for key in desired.state.sysctls.keys() {
        let of_missing_interface = key.device().is_some_and(|dev| !state.links.contains_key(dev));
        if let Sysctl::Vs(item) = key {
            let loaded = seen.state.modules.contains(&Module::IpVs);
            let too_new = version(&seen.facts.kernel).is_some_and(|now| item.since() > Some(now));
            if !state.sysctls.contains_key(key) || (!loaded && too_new) {
                let (message, cure) = ipvs_setting(*item, seen);
                let why = desired.reasons.of(&Item::Sysctl(key.clone()));
                let why = why.unwrap_or("the file names it").to_owned();
                all.push(Obstacle { message, why, cure });
            }
        } else if !state.sysctls.contains_key(key) && !of_missing_interface {
            all.push(Obstacle {
                message: format!("there is no setting {key} ({})", key.path().display()),
                why: desired
                    .reasons
                    .of(&Item::Sysctl(key.clone()))
                    .unwrap_or("the file needs it")
                    .to_owned(),
                cure: "use a kernel that has it, and see that /proc/sys is mounted there"
                    .to_owned(),
            });
        }
    }
}

/// The setting that switches IPv6 off where `key` is an IPv6 address.
pub fn disable_ipv6(key: &AddressKey) -> Option<Sysctl> {
    let dev = ConfDev::Dev(key.dev.clone());
    key.net.addr().is_ipv6().then_some(Sysctl::Conf6(dev, Conf6Item::DisableIpv6))
}

/// An interface without IPv6 takes no IPv6 address: the kernel would refuse it (EACCES) as the last step.
fn ipv6(desired: &Desired, seen: &Observation, all: &mut Vec<Obstacle>) {
    let mut wanted: BTreeMap<Sysctl, Vec<String>> = BTreeMap::new();
    for key in desired.state.addresses.keys() {
        if let Some(setting) = disable_ipv6(key) {
            wanted.entry(setting).or_default().push(key.net.to_string());
        }
    }
    for (setting, addresses) in wanted {
        let is_off = seen.state.sysctls.get(&setting).is_some_and(|value| value != "0");
        let Some(dev) = setting.device().filter(|_| is_off) else { continue };
        all.push(Obstacle {
            message: format!("IPv6 is off on {dev}: {setting}=1"),
            why: format!("the kernel would refuse {} there (EACCES)", addresses.join(", ")),
            cure: format!(
                "`sysctl -w {setting}=0`, and the same in /etc/sysctl.d; \
                 `net.ipv6.conf.all.disable_ipv6=1` there switches it off again on every interface"
            ),
        });
    }
}

/// A route that could not be put back as it was is not replaced.
fn routes(goal: &Goal, seen: &Observation, all: &mut Vec<Obstacle>) {
    for (key, wanted) in &goal.wanted.routes {
        let Some(there) = seen.state.routes.get(key) else { continue };
        if is_connected(there) && wanted.gateway.is_some() {
            all.push(Obstacle {
                message: format!("{key} is connected to this host already: {there}"),
                why: "the route of the file would take the place of the one to the host's own neighbours"
                    .to_owned(),
                cure: format!(
                    "leave {key} out of `routes:`, and add the interface with its address to the file"
                ),
            });
        } else if there != wanted && !there.unsupported.is_empty() {
            all.push(Obstacle {
                message: format!("route {key} {there} would have to be replaced"),
                why: format!(
                    "it has what lvsprov could not put back: {}",
                    there.unsupported.join(", ")
                ),
                cure: "replace it by hand first, or leave the gateway or the route out of the file"
                    .to_owned(),
            });
        }
    }
}

/// `RTPROT_KERNEL` without a next hop: it came with an address of the interface.
fn is_connected(route: &Route) -> bool {
    route.protocol == KERNEL && route.gateway.is_none()
}

/// `RTPROT_KERNEL` (include/uapi/linux/rtnetlink.h).
const KERNEL: u8 = 2;

/// A VIP on a silent device must stand on no other: there ARP requests for it are answered, or its whole
/// subnet is local. What is ours stays or goes as the plan says.
fn vips(desired: &Desired, goal: &Goal, seen: &Observation, all: &mut Vec<Obstacle>) {
    for wanted in desired.state.addresses.keys() {
        for there in seen.state.addresses.keys() {
            let same = there.net.addr() == wanted.net.addr() && there != wanted;
            let ours = goal.owned.contains(&Item::Address(there.clone()));
            if same && !ours && is_silent(&wanted.dev) {
                all.push(Obstacle {
                    message: format!("the VIP is on this host already, as {there}"),
                    why: "there it is answered for by ARP, or makes its whole subnet local"
                        .to_owned(),
                    cure: format!("remove it: `ip address del {} dev {}`", there.net, there.dev),
                });
            }
        }
    }
}

#[cfg(test)]
#[path = "preflight_tests.rs"]
mod tests;
