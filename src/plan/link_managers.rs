//! Programs on a host that work against lvsprov's settings, each with the answer: a file that lvsprov owns, or a
//! finding with its cure. Pure.
//!
//! systemd-networkd drops addresses and routes that it did not make as it starts and as it reads a changed file
//! (src/network/networkd-link.c, `link_drop_foreign_config`; from systemd 257 on `link_drop_unmanaged_config`). A drop-in
//! beside the .network file of the interface has it keep them. The file is installed and removed with the boot unit.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::ownership::Goal;
use super::preflight::Obstacle;
use crate::names::IfName;
use crate::state::{
    HostState, Item, KeepConfiguration, LinkManager, Observation, Owned, Receipt, Route, RouteKey,
    ServiceKey,
};

/// The drop-in. `static` is what keeps permanent addresses and routes of `proto static`; it is a value of each systemd
/// since 243.
pub const DROP_IN: &str = concat!(
    "# Written by lvsprov, which removes it with its last topology on this host.\n",
    "# networkd keeps the addresses and static routes that lvsprov made: KeepConfiguration= in systemd.network(5).\n",
    "[Network]\n",
    "KeepConfiguration=static\n",
);

/// By what a file of lvsprov's is known.
pub const HEADER: &str = "# Written by lvsprov";

/// Where networkd reads drop-ins of .network files wherever these lie.
pub const DROP_INS: &str = "/etc/systemd/network";

/// The path of lvsprov's drop-in for a .network file.
pub fn drop_in(file: &Path) -> Option<PathBuf> {
    let mut folder = file.file_name()?.to_owned();
    folder.push(".d");
    Some(Path::new(DROP_INS).join(folder).join("lvsprov.conf"))
}

/// The interfaces that carry addresses or routes of `wanted`, on a host that has the addresses of `seen`.
pub fn carriers(wanted: &HostState, seen: &HostState) -> BTreeSet<IfName> {
    let addresses = wanted.addresses.keys().map(|key| key.dev.clone());
    let routes = wanted.routes.iter().filter_map(|(key, route)| {
        let present = seen.routes.get(key).and_then(|route| route.dev.clone());
        route.dev.clone().or_else(|| on_link(route.gateway?, seen)).or(present)
    });
    addresses.chain(routes).collect()
}

/// The interfaces that carry addresses or routes that the receipts own.
pub fn carriers_of<'a>(
    receipts: impl IntoIterator<Item = &'a Receipt>,
    seen: &HostState,
) -> BTreeSet<IfName> {
    let mut owned = Owned::new();
    for receipt in receipts.into_iter().filter(|receipt| receipt.settled.is_some()) {
        owned.extend(receipt.owned.iter().cloned());
    }
    let mut all = carriers(&seen.restricted_to(&owned), seen);
    all.extend(owned.into_iter().filter_map(|item| match item {
        Item::Address(key) => Some(key.dev),
        _ => None,
    }));
    all
}

/// The interface whose subnet has `gateway`.
fn on_link(gateway: IpAddr, seen: &HostState) -> Option<IfName> {
    let fitting = seen.addresses.keys().filter(|key| key.net.contains(&gateway));
    fitting.max_by_key(|key| key.net.prefix_len()).map(|key| key.dev.clone())
}

/// The drop-ins that `carriers` need, whether they are there or not.
pub fn drop_ins(
    carriers: &BTreeSet<IfName>,
    managers: &BTreeMap<IfName, LinkManager>,
) -> BTreeSet<PathBuf> {
    networkd(carriers, managers)
        .filter(|(_, _, keeps)| matches!(keeps, KeepConfiguration::Unset | KeepConfiguration::Ours))
        .filter_map(|(_, file, _)| drop_in(Path::new(file)))
        .collect()
}

/// The interfaces among `carriers` that networkd manages.
fn networkd<'a>(
    carriers: &'a BTreeSet<IfName>,
    managers: &'a BTreeMap<IfName, LinkManager>,
) -> impl Iterator<Item = (&'a IfName, &'a str, &'a KeepConfiguration)> {
    carriers.iter().filter_map(|dev| match managers.get(dev)? {
        LinkManager::Networkd { file, keeps } => Some((dev, file.as_str(), keeps)),
        LinkManager::NetworkManager => None,
    })
}

/// The carriers of what the host makes again by itself once `goal` is reached.
fn kept_carriers(goal: &Goal, seen: &Observation) -> BTreeSet<IfName> {
    goal.settled.as_ref().map(|it| carriers(&it.state, &seen.state)).unwrap_or_default()
}

/// The drop-ins that the transaction to `goal` writes, with their interfaces.
pub(super) fn lacking(goal: &Goal, seen: &Observation) -> Vec<(IfName, PathBuf)> {
    let carriers = kept_carriers(goal, seen);
    let unset = networkd(&carriers, &seen.managers).filter(|(_, _, keeps)| {
        seen.boot_unit.is_possible() && **keeps == KeepConfiguration::Unset
    });
    unset.filter_map(|(dev, file, _)| Some((dev.clone(), drop_in(Path::new(file))?))).collect()
}

/// A file of another program where lvsprov needs one of its own.
pub(super) fn obstacles(goal: &Goal, seen: &Observation, all: &mut Vec<Obstacle>) {
    let carriers = kept_carriers(goal, seen);
    for (dev, file, keeps) in networkd(&carriers, &seen.managers) {
        let Some(path) = drop_in(Path::new(file)).filter(|_| seen.boot_unit.is_possible()) else {
            continue;
        };
        if *keeps == KeepConfiguration::Taken {
            all.push(Obstacle {
                message: format!("{} was not written by lvsprov", path.display()),
                why: format!(
                    "lvsprov needs this file: without it systemd-networkd drops what lvsprov sets on {dev}"
                ),
                cure: "rename it; or write KeepConfiguration=static in it, then lvsprov needs none; or write \
                       `persist: false` in the file"
                    .to_owned(),
            });
        }
    }
}

/// What a person should know of other programs of the host.
pub fn cautions(goal: &Goal, seen: &Observation) -> Vec<String> {
    if goal.receipt_after.is_none() {
        return Vec::new();
    }
    let mut all: Vec<String> = lacking(goal, seen)
        .into_iter()
        .map(|(dev, path)| {
            format!(
                "writes {}: without it systemd-networkd drops addresses and routes of {dev} that it did not make",
                path.display()
            )
        })
        .collect();
    let carriers = kept_carriers(goal, seen);
    all.extend(networkd(&carriers, &seen.managers).filter_map(drops_by_order));
    all.extend(unkept(goal, seen));
    all.extend(replaced_lease(goal, seen));
    all.extend(kube_proxy(goal, seen));
    all
}

/// The operator's own files have networkd drop what it did not make.
fn drops_by_order((dev, _, keeps): (&IfName, &str, &KeepConfiguration)) -> Option<String> {
    let KeepConfiguration::Set { file, value } = keeps else { return None };
    let keeps_all = ["static", "yes", "true", "on", "1", "y", "t"];
    (!keeps_all.iter().any(|word| value.eq_ignore_ascii_case(word))).then(|| {
        format!(
            "{file} says KeepConfiguration={value}: systemd-networkd drops addresses and routes of {dev} that it did not \
             make, and the host makes them again a moment later; write `static` there, or `yes` if leases are to be kept \
             too"
        )
    })
}

/// Interfaces of a topology that is not kept, and that a program of the host manages.
fn unkept(goal: &Goal, seen: &Observation) -> Option<String> {
    let carriers = carriers(&goal.wanted.restricted_to(&goal.owned), &seen.state);
    let managed: Vec<String> = carriers
        .iter()
        .filter(|_| goal.settled.is_none())
        .filter_map(|dev| match seen.managers.get(dev)? {
            LinkManager::Networkd { keeps: KeepConfiguration::Unset, .. } => {
                Some(format!("systemd-networkd manages {dev}"))
            }
            LinkManager::NetworkManager if dev.as_str() != "lo" => {
                Some(format!("NetworkManager manages {dev}"))
            }
            LinkManager::Networkd { .. } | LinkManager::NetworkManager => None,
        })
        .collect();
    (!managed.is_empty()).then(|| {
        format!(
            "{}, and drops what lvsprov sets there as it is reconfigured; with `persist: false` nothing makes that again",
            managed.join(", ")
        )
    })
}

/// `RTPROT_DHCP` (include/uapi/linux/rtnetlink.h).
const DHCP: u8 = 16;

/// A default route that came by DHCP and is replaced.
fn replaced_lease(goal: &Goal, seen: &Observation) -> Option<String> {
    let is_replaced = |key: &RouteKey, wanted: &Route, present: &Route| {
        let differs = present.protocol == DHCP && present.gateway != wanted.gateway;
        differs && goal.owned.contains(&Item::Route(key.clone()))
    };
    let (key, present) = goal.wanted.routes.iter().find_map(|(key, wanted)| {
        let present = seen.state.routes.get(key)?;
        is_replaced(key, wanted, present).then_some((key, present))
    })?;
    let manager = present.dev.as_ref().and_then(|dev| seen.managers.get(dev));
    let cure = match manager {
        Some(LinkManager::Networkd { file, .. }) => {
            format!("`UseGateway=no` in [DHCPv4] of a drop-in for {file}")
        }
        Some(LinkManager::NetworkManager) => {
            "`nmcli connection modify NAME ipv4.never-default yes`".to_owned()
        }
        None => {
            "the DHCP client's configuration (dhclient: no `routers` in its `request`)".to_owned()
        }
    };
    Some(format!(
        "the route {key} {present} came by DHCP and is replaced. At the next lease the DHCP client adds its own again, which \
         counts whenever the one of lvsprov is dropped. Have it leave the route out: {cure}"
    ))
}

/// The device that kube-proxy has in IPVS mode.
const KUBE_IPVS: &str = "kube-ipvs0";

/// kube-proxy in IPVS mode deletes services that are not its own (kubernetes/kubernetes#59507).
fn kube_proxy(goal: &Goal, seen: &Observation) -> Option<String> {
    let is_present = seen.state.links.keys().any(|dev| dev.as_str() == KUBE_IPVS);
    if !is_present || goal.wanted.services.is_empty() {
        return None;
    }
    let vips = goal.wanted.services.keys().filter_map(|key| match key {
        ServiceKey::Address(_, vip) => Some(IpNet::from(vip.ip()).to_string()),
        ServiceKey::Fwmark { .. } => None,
    });
    let vips: BTreeSet<String> = vips.collect();
    let exclude = if vips.is_empty() {
        String::new()
    } else {
        let vips: Vec<&str> = vips.iter().map(String::as_str).collect();
        format!("name {} in `ipvs.excludeCIDRs` of its configuration, or ", vips.join(", "))
    };
    Some(format!(
        "kube-proxy works in IPVS mode here ({KUBE_IPVS}), and deletes IPVS services that are not its own: {exclude}take \
         another host as the director"
    ))
}

#[cfg(test)]
#[path = "link_managers_tests.rs"]
mod tests;
