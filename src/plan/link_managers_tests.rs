//! Cautions, obstacles and files for each program, on hosts made by hand.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::desired::Desired;
use crate::plan::boot;
use crate::plan::preflight;
use crate::plan::unmanaged::AdoptPolicy;
use crate::state::{Address, AddressKey, BootUnit, Link, RouteKey, Scope, VirtualService};

const FILE: &str = "/run/systemd/network/10-netplan-eth0.network";
const PATH: &str = "/etc/systemd/network/10-netplan-eth0.network.d/lvsprov.conf";

fn dev(name: &str) -> IfName {
    name.parse().unwrap()
}

fn key(text: &str) -> AddressKey {
    text.parse().unwrap()
}

fn default_route() -> RouteKey {
    "default".parse().unwrap()
}

/// A VIP on lo, and the default route through the router. The file leaves open by which interface.
fn desired() -> Desired {
    let mut desired = Desired::default();
    desired.state.addresses.insert(key("192.0.2.80/32@lo"), Address::plain(Scope::Global));
    let route = Route::via("192.0.2.1".parse().unwrap(), None);
    desired.state.routes.insert(default_route(), route);
    desired
}

/// A host with eth0, which this program manages.
fn seen(manager: Option<LinkManager>) -> Observation {
    let mut seen = Observation { boot_unit: BootUnit::Missing, ..Observation::default() };
    for dev in ["lo", "eth0"].map(dev) {
        seen.state.links.insert(dev, Link::Up);
    }
    seen.state.addresses.insert(key("192.0.2.2/24@eth0"), Address::plain(Scope::Global));
    seen.managers.extend(manager.map(|manager| (dev("eth0"), manager)));
    seen
}

fn networkd(keeps: KeepConfiguration) -> LinkManager {
    LinkManager::Networkd { file: FILE.to_owned(), keeps }
}

fn set(value: &str) -> KeepConfiguration {
    KeepConfiguration::Set { file: FILE.to_owned(), value: value.to_owned() }
}

fn goal_on(transient: bool, desired: &Desired, seen: &Observation) -> Goal {
    let policy = AdoptPolicy { transient, ..AdoptPolicy::default() };
    Goal::apply_on(policy, &"t".parse().unwrap(), 7, desired, seen).unwrap()
}

fn goal(seen: &Observation) -> Goal {
    goal_on(false, &desired(), seen)
}

#[test]
fn what_is_ours_lies_on_the_interfaces_that_carry_it() {
    let seen = seen(None);
    let expected: BTreeSet<IfName> = ["eth0", "lo"].map(dev).into();
    assert_eq!(carriers(&desired().state, &seen.state), expected, "by the subnet of the gateway");
    let mut after = seen.clone();
    let goal = goal(&seen);
    let receipt = goal.receipt_after.unwrap();
    let only_lo: BTreeSet<IfName> = [dev("lo")].into();
    let of_receipt = |state: &HostState| carriers_of([&receipt], state);
    assert_eq!(of_receipt(&after.state), only_lo, "nothing says by which interface it went");
    after
        .state
        .routes
        .insert(default_route(), Route::via("192.0.2.1".parse().unwrap(), Some(dev("eth0"))));
    assert_eq!(of_receipt(&after.state), expected);
    // A topology that is not kept needs no file.
    let transient = Receipt { settled: None, ..receipt.clone() };
    assert_eq!(carriers_of([&transient], &after.state), BTreeSet::new());
}

#[test]
fn networkd_gets_a_drop_in_beside_the_file_of_the_interface() {
    let needs = |keeps| {
        let seen = seen(Some(networkd(keeps)));
        drop_ins(&carriers(&desired().state, &seen.state), &seen.managers)
    };
    for keeps in [KeepConfiguration::Unset, KeepConfiguration::Ours] {
        assert_eq!(needs(keeps), BTreeSet::from([PathBuf::from(PATH)]));
    }
    for keeps in [set("yes"), set("no"), KeepConfiguration::Taken, KeepConfiguration::NetworkRoot] {
        assert_eq!(needs(keeps.clone()), BTreeSet::new(), "{keeps:?}");
    }
    // An interface without anything of lvsprov.
    let seen = seen(Some(networkd(KeepConfiguration::Unset)));
    assert_eq!(drop_ins(&[dev("lo")].into(), &seen.managers), BTreeSet::new());
    assert_eq!(drop_in(Path::new("/")), None);
    let lines: Vec<&str> = DROP_IN.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines, ["[Network]", "KeepConfiguration=static"]);
    assert!(DROP_IN.starts_with(HEADER));
}

#[test]
fn the_plan_names_the_drop_in_while_it_is_to_be_written() {
    let mut seen = seen(Some(networkd(KeepConfiguration::Unset)));
    let goal = goal(&seen);
    let all = cautions(&goal, &seen);
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all[0].starts_with(&format!("writes {PATH}: ")), "{}", all[0]);
    assert!(boot::installs_unit(&goal, &seen));
    // A topology before has the unit already, and nothing on eth0.
    seen.boot_unit = BootUnit::Installed;
    assert!(boot::installs_unit(&goal, &seen));
    assert_eq!(cautions(&goal, &seen), all);
    // The operator removed the file.
    seen.boot_unit = BootUnit::Incomplete(vec![PATH.to_owned()]);
    assert!(boot::installs_unit(&goal, &seen));
    assert_eq!(boot::caution(&goal, &seen), None, "one sentence is enough");
    seen.boot_unit = BootUnit::Incomplete(vec![PATH.to_owned(), "/etc/x".to_owned()]);
    let others = boot::caution(&goal, &seen).unwrap();
    assert!(others.ends_with("lvsprov-boot.service: /etc/x"), "{others}");
    seen.boot_unit = BootUnit::Installed;
    seen.managers.insert(dev("eth0"), networkd(KeepConfiguration::Ours));
    assert!(!boot::installs_unit(&goal, &seen));
    assert_eq!(cautions(&goal, &seen), Vec::<String>::new());
    // Where no unit can be, there is no file either.
    seen.boot_unit = BootUnit::Impossible("x".to_owned());
    seen.managers.insert(dev("eth0"), networkd(KeepConfiguration::Unset));
    assert!(!boot::installs_unit(&goal, &seen));
    assert_eq!(cautions(&goal, &seen), Vec::<String>::new());
}

#[test]
fn the_operators_own_setting_stays_and_is_named_where_it_drops() {
    for value in ["static", "yes", "True", "1", "on"] {
        let seen = seen(Some(networkd(set(value))));
        assert_eq!(cautions(&goal(&seen), &seen), Vec::<String>::new(), "{value}");
    }
    for value in ["no", "dhcp", "dynamic-on-stop", ""] {
        let seen = seen(Some(networkd(set(value))));
        let all = cautions(&goal(&seen), &seen);
        assert!(all[0].starts_with(&format!("{FILE} says KeepConfiguration={value}: ")), "{all:?}");
    }
}

#[test]
fn a_file_of_another_program_in_its_place_is_an_obstacle() {
    let mut seen = seen(Some(networkd(KeepConfiguration::Taken)));
    let obstacles = |goal: &Goal, seen: &Observation| {
        let desired = Desired::default();
        preflight::obstacles(&desired, goal, seen).into_iter().map(|it| it.message).collect()
    };
    let none = Vec::<String>::new();
    let found: Vec<String> = obstacles(&goal(&seen), &seen);
    assert_eq!(found, [format!("{PATH} was not written by lvsprov")]);
    assert_eq!(obstacles(&goal_on(true, &desired(), &seen), &seen), none, "it is not needed");
    seen.boot_unit = BootUnit::Impossible("x".to_owned());
    assert_eq!(obstacles(&goal(&seen), &seen), none);
}

#[test]
fn what_is_not_kept_is_dropped_by_the_program_that_manages_the_interface() {
    let said = |manager| {
        let seen = seen(manager);
        cautions(&goal_on(true, &desired(), &seen), &seen)
    };
    let by_networkd = said(Some(networkd(KeepConfiguration::Unset)));
    assert!(by_networkd[0].starts_with("systemd-networkd manages eth0, "), "{by_networkd:?}");
    let by_other = said(Some(LinkManager::NetworkManager));
    assert!(by_other[0].starts_with("NetworkManager manages eth0, "), "{by_other:?}");
    assert_eq!(said(Some(networkd(set("static")))), Vec::<String>::new());
    assert_eq!(said(None), Vec::<String>::new());
    // NetworkManager lists lo among its devices, and drops nothing there.
    let mut only_lo = seen(None);
    only_lo.managers.insert(dev("lo"), LinkManager::NetworkManager);
    let goal = goal_on(true, &desired(), &only_lo);
    assert_eq!(cautions(&goal, &only_lo), Vec::<String>::new());
    // Where it is kept, the units answer.
    let kept = seen(Some(LinkManager::NetworkManager));
    assert_eq!(cautions(&super::tests::goal(&kept), &kept), Vec::<String>::new());
}

#[test]
fn a_default_route_by_dhcp_is_not_replaced_in_silence() {
    const OTHER: &str = "192.0.2.9";
    let said = |manager, protocol, gateway: &str| {
        let mut seen = seen(manager);
        seen.boot_unit = BootUnit::Installed;
        let mut route = Route::via(gateway.parse().unwrap(), Some(dev("eth0")));
        route.protocol = protocol;
        seen.state.routes.insert(default_route(), route);
        cautions(&goal(&seen), &seen).join("\n")
    };
    let by_networkd = said(Some(networkd(KeepConfiguration::Ours)), DHCP, OTHER);
    assert!(by_networkd.contains("via 192.0.2.9 dev eth0 came by DHCP"), "{by_networkd}");
    assert!(by_networkd.contains("`UseGateway=no`") && by_networkd.contains(FILE), "{by_networkd}");
    let by_other = said(Some(LinkManager::NetworkManager), DHCP, OTHER);
    assert!(by_other.contains("ipv4.never-default"), "{by_other}");
    assert!(said(None, DHCP, OTHER).contains("dhclient"));
    assert_eq!(said(None, 4, OTHER), "", "an operator's");
    assert_eq!(said(None, DHCP, "192.0.2.1"), "", "the same");
}

#[test]
fn kube_proxy_deletes_services_and_is_named_on_a_director_only() {
    let mut seen = seen(None);
    seen.boot_unit = BootUnit::Installed;
    seen.state.links.insert(dev(KUBE_IPVS), Link::Down);
    assert_eq!(cautions(&goal(&seen), &seen), Vec::<String>::new());
    let said = |service: &str| {
        let mut desired = desired();
        let key: ServiceKey = service.parse().unwrap();
        desired.state.services.insert(key.clone(), VirtualService::plain(&key, "rr"));
        cautions(&goal_on(false, &desired, &seen), &seen).join("\n")
    };
    let said_of_address = said("tcp 192.0.2.80:80");
    assert!(
        said_of_address.contains("name 192.0.2.80/32 in `ipvs.excludeCIDRs`"),
        "{said_of_address}"
    );
    let said_of_mark = said("fwmark4 7");
    assert!(
        said_of_mark.ends_with("are not its own: take another host as the director"),
        "{said_of_mark}"
    );
}
