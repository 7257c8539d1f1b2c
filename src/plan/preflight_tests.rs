//! Each thing that can stand in the way, on hosts made by hand.

#![allow(clippy::unwrap_used)]

use super::super::other_topologies::{
    cautions, moment, open_elsewhere, overlap, shared, unreadable,
};
use super::*;
use crate::failure::Failure;
use crate::state::{
    Address, AddressKey, Capability, ConfItem, HostFacts, HostState, Operator, OtherTransaction,
    Receipt, Scope, ServiceKey, Sysctl, VirtualService,
};

const ETH0: &str = "192.0.2.2/24@eth0";

fn key(text: &str) -> AddressKey {
    text.parse().unwrap()
}

fn address() -> Address {
    Address::plain(Scope::Global)
}

fn route(gateway: &str) -> Route {
    Route::via(gateway.parse().unwrap(), Some("eth0".parse().unwrap()))
}

/// A host with eth0 up, its address and a default route.
fn seen() -> Observation {
    let state = HostState {
        links: [("eth0".parse().unwrap(), Link::Up)].into(),
        addresses: [(key(ETH0), address())].into(),
        routes: [("default".parse().unwrap(), route("192.0.2.1"))].into(),
        sysctls: [(Sysctl::all(ConfItem::ArpIgnore), "0".to_owned())].into(),
        ..HostState::default()
    };
    Observation {
        facts: HostFacts { kernel: "6.1".to_owned(), ..HostFacts::default() },
        state,
        ..Observation::default()
    }
}

fn desired() -> Desired {
    let needs = [("eth0".parse().unwrap(), vec!["192.0.2.2/24".parse().unwrap()])].into();
    Desired { needs, ..Desired::default() }
}

fn goal(desired: &Desired, seen: &Observation) -> Goal {
    Goal::apply(&"t".parse().unwrap(), 7, desired, seen).unwrap()
}

/// What stands in the way, as the messages say it.
fn messages(desired: &Desired, seen: &Observation) -> Vec<String> {
    let all = obstacles(desired, &goal(desired, seen), seen);
    for Obstacle { message, why, cure } in &all {
        assert!(!why.is_empty() && !cure.is_empty(), "{message}: without why or cure");
    }
    all.into_iter().map(|obstacle| obstacle.message).collect()
}

#[test]
fn nothing_stands_in_the_way_of_a_host_as_the_file_says() {
    assert_eq!(messages(&desired(), &seen()), Vec::<String>::new());
}

#[test]
fn an_interface_that_is_missing_or_down_or_has_another_address() {
    let mut absent = seen();
    absent.state.links = [("ens3".parse().unwrap(), Link::Up)].into();
    assert_eq!(messages(&desired(), &absent), ["there is no interface eth0"]);

    let mut down = seen();
    down.state.links.insert("eth0".parse().unwrap(), Link::Down);
    assert_eq!(messages(&desired(), &down), ["interface eth0 is down"]);

    for other in ["192.0.2.3/24@eth0", "192.0.2.2/25@eth0", "192.0.2.2/24@eth1"] {
        let mut elsewhere = seen();
        elsewhere.state.addresses = [(key(other), address())].into();
        assert_eq!(
            messages(&desired(), &elsewhere),
            ["interface eth0 does not have the address 192.0.2.2/24"],
            "{other}"
        );
    }
}

#[test]
fn a_tunnel_device_comes_with_its_module_and_is_not_missed() {
    let mut desired = desired();
    desired.needs.insert("tunl0".parse().unwrap(), vec![]);
    assert_eq!(messages(&desired, &seen()), ["there is no interface tunl0"]);
    desired.state.links.insert("tunl0".parse().unwrap(), Link::Up);
    assert_eq!(messages(&desired, &seen()), Vec::<String>::new());
}

#[test]
fn a_kernel_without_the_module_but_not_one_that_can_load_it() {
    let mut desired = desired();
    desired.state.modules = [Module::IpVs, Module::Ipip].into();
    let mut seen = seen();
    seen.facts
        .modules
        .insert(Module::IpVs, Capability::Missing("nothing in /lib/modules".to_owned()));
    seen.facts.modules.insert(Module::Ipip, Capability::Loadable);
    assert_eq!(messages(&desired, &seen), ["kernel 6.1 has no ip_vs: nothing in /lib/modules"]);
    seen.facts.modules.insert(Module::IpVs, Capability::Present);
    assert_eq!(messages(&desired, &seen), Vec::<String>::new());
    seen.facts.modules.insert(Module::Ipip, Capability::Missing("no".to_owned()));
    assert_eq!(messages(&desired, &seen), ["kernel 6.1 has no ipip: no"]);
}

#[test]
fn a_route_that_could_not_be_put_back_is_not_replaced_but_may_stay() {
    let mut seen = seen();
    let there = seen.state.routes.get_mut(&"default".parse().unwrap()).unwrap();
    there.unsupported = vec!["2 next hops".to_owned()];
    let mut other = desired();
    other.state.routes = [("default".parse().unwrap(), route("192.0.2.9"))].into();
    let found = messages(&other, &seen);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("route default via 192.0.2.1"), "{found:?}");
    assert_eq!(messages(&desired(), &seen), Vec::<String>::new(), "it is not ours");
}

/// The file has a route to a subnet of an interface that it does not name.
#[test]
fn a_static_route_does_not_take_the_place_of_a_connected_one() {
    let net: RouteKey = "198.51.100.0/24".parse().unwrap();
    let mut wanted = desired();
    wanted.state.routes = [(net.clone(), route("192.0.2.1"))].into();
    let mut seen = seen();
    assert_eq!(messages(&wanted, &seen), Vec::<String>::new());
    let by_another = route("192.0.2.9");
    seen.state.routes.insert(net.clone(), by_another.clone());
    assert_eq!(messages(&wanted, &seen), Vec::<String>::new(), "it is replaced");
    let dev = Some("eth1".parse().unwrap());
    let connected = Route { gateway: None, dev, scope: Scope::Link, protocol: 2, ..by_another };
    seen.state.routes.insert(net, connected);
    let found = messages(&wanted, &seen);
    assert_eq!(found, ["198.51.100.0/24 is connected to this host already: dev eth1"]);
}

/// DHCP and hosters put an MTU or a window on default routes: there is nothing to replace.
#[test]
fn a_route_that_leads_where_it_should_stays_with_whatever_else_it_says() {
    let default: RouteKey = "default".parse().unwrap();
    let mut wanted = desired();
    wanted.state.routes = [(default.clone(), route("192.0.2.1"))].into();
    let with = |unsupported: &str| {
        let mut seen = seen();
        let there = seen.state.routes.get_mut(&default).unwrap();
        there.unsupported = vec![unsupported.to_owned()];
        (there.protocol, there.metric) = (16, 100);
        seen
    };
    let seen = with("mtu 1400");
    assert_eq!(messages(&wanted, &seen), Vec::<String>::new());
    assert_eq!(goal(&wanted, &seen).wanted.routes, seen.state.routes, "it is not touched");
    for partial in ["tos 0x10", "type blackhole"] {
        assert_eq!(messages(&wanted, &with(partial)).len(), 1, "{partial}");
    }
}

#[test]
fn a_vip_that_stands_elsewhere_on_a_real_server() {
    let mut desired = desired();
    desired.state.addresses = [(key("192.0.2.80/32@lo"), address())].into();
    for there in ["192.0.2.80/24@lo", "192.0.2.80/32@eth0"] {
        let mut seen = seen();
        seen.state.addresses.insert(key(there), address());
        assert_eq!(
            messages(&desired, &seen),
            [format!("the VIP is on this host already, as {there}")],
        );
    }
    let mut seen = seen();
    seen.state.addresses.insert(key("192.0.2.80/32@lo"), address());
    assert_eq!(messages(&desired, &seen), Vec::<String>::new(), "there it belongs");
}

#[test]
fn an_interface_without_ipv6_takes_no_ipv6_address() {
    let mut desired = desired();
    let vips = ["2001:db8::80/128@eth0", "2001:db8::81/128@eth0", "192.0.2.80/32@eth0"];
    desired.state.addresses = vips.map(|vip| (key(vip), address())).into();
    let with = |dev: &str, value: &str| {
        let mut seen = seen();
        let setting = format!("net.ipv6.conf.{dev}.disable_ipv6").parse().unwrap();
        seen.state.sysctls.insert(setting, value.to_owned());
        seen
    };
    let off = obstacles(&desired, &goal(&desired, &seen()), &with("eth0", "1"));
    assert_eq!(off.len(), 1, "{off:?}");
    let obstacle = &off[0];
    assert_eq!(obstacle.message, "IPv6 is off on eth0: net.ipv6.conf.eth0.disable_ipv6=1");
    assert!(obstacle.why.contains("2001:db8::80/128, 2001:db8::81/128"), "{obstacle}");
    for on in [with("eth0", "0"), with("eth1", "1")] {
        assert_eq!(messages(&desired, &on), Vec::<String>::new());
    }
    desired.state.addresses.retain(|key, _| key.net.addr().is_ipv4());
    assert_eq!(messages(&desired, &with("eth0", "1")), Vec::<String>::new());
}

#[test]
fn a_receipt_of_a_later_version() {
    let mut later = seen();
    later.receipt = Some(Receipt {
        version: RECEIPT_VERSION + 1,
        topology: "t".parse().unwrap(),
        since: 0,
        owned: [].into(),
        found: HostState::default(),
        run: None,
        settled: None,
        maintenance: crate::state::Maintenance::default(),
        drift: None,
        external: crate::state::ExternalWeights::default(),
    });
    let message = format!("the receipt on this host has version {}", RECEIPT_VERSION + 1);
    assert_eq!(messages(&desired(), &later), [message]);
}

mod sharing {
    use super::*;
    use crate::plan::order::steps_between;
    use crate::state::ConfDev;

    fn arp() -> Item {
        Item::Sysctl(Sysctl::all(ConfItem::ArpIgnore))
    }

    fn wants_arp() -> Desired {
        let mut desired = desired();
        desired.state.sysctls = [(Sysctl::all(ConfItem::ArpIgnore), "1".to_owned())].into();
        desired
    }

    /// What another topology has written down that found `value`.
    fn theirs(value: &str) -> Receipt {
        let mut found = HostState::default();
        found.sysctls.insert(Sysctl::all(ConfItem::ArpIgnore), value.to_owned());
        let topology = "other".parse().unwrap();
        Receipt {
            version: RECEIPT_VERSION,
            topology,
            since: 0,
            owned: [arp()].into(),
            found,
            run: None,
            settled: None,
            maintenance: crate::state::Maintenance::default(),
            drift: None,
            external: crate::state::ExternalWeights::default(),
        }
    }

    fn with_value(value: &str) -> Observation {
        let mut seen = seen();
        seen.state.sysctls.insert(Sysctl::all(ConfItem::ArpIgnore), value.to_owned());
        seen.others = [("other".parse().unwrap(), theirs(value))].into();
        seen
    }

    fn found(goal: &Goal, seen: &Observation) -> Vec<String> {
        let reasons = crate::desired::Reasons::default();
        let steps = steps_between(&seen.state, &goal.wanted, &goal.owned, &reasons).unwrap();
        let changes: Vec<Edit> = steps.into_all().into_iter().map(|step| step.edit).collect();
        let mut all = Vec::new();
        shared(&changes, goal, seen, &mut all);
        open_elsewhere(&changes, goal, seen, &mut all);
        all.into_iter().map(|obstacle| obstacle.message).collect()
    }

    #[test]
    fn what_both_want_alike_is_shared_and_the_last_gives_it_back() {
        // The other one set it: we find what we want.
        let mut seen = with_value("1");
        let goal = goal(&wants_arp(), &seen);
        assert_eq!(found(&goal, &seen), Vec::<String>::new());
        // We give it back as we found it: nothing to do.
        seen.receipt = goal.receipt_after;
        assert_eq!(found(&Goal::destroy(&seen).unwrap(), &seen), Vec::<String>::new());
    }

    #[test]
    fn what_the_other_relies_on_is_not_given_back() {
        let mut seen = with_value("0");
        seen.receipt = goal(&wants_arp(), &seen).receipt_after;
        seen.state.sysctls.insert(Sysctl::all(ConfItem::ArpIgnore), "1".to_owned());
        let dropped = goal(&desired(), &seen);
        for back in [Goal::destroy(&seen).unwrap(), dropped] {
            assert_eq!(back.wanted.sysctls[&Sysctl::all(ConfItem::ArpIgnore)], "1");
            assert_eq!(found(&back, &seen), Vec::<String>::new());
            let said = cautions(&back, &seen).join("\n");
            assert!(said.contains("the topology other has it too: net.ipv4.conf.all.arp_ignore"));
        }
        // Nobody else has it any more.
        seen.others.clear();
        let back = Goal::destroy(&seen).unwrap();
        assert_eq!(back.wanted.sysctls[&Sysctl::all(ConfItem::ArpIgnore)], "0");
    }

    /// What another topology has whose receipt cannot be read is not known.
    #[test]
    fn what_may_be_that_of_an_unreadable_topology_is_not_touched() {
        let failure = Failure {
            message: "it was written by a later lvsprov".to_owned(),
            causes: Vec::new(),
            cure: Some("use that version".to_owned()),
        };
        let blind = |mut seen: Observation| {
            seen.others.clear();
            seen.unreadable = [("other".parse().unwrap(), failure.clone())].into();
            seen
        };
        let in_the_way = |goal: &Goal, seen: &Observation| {
            let steps = steps_between(
                &seen.state,
                &goal.wanted,
                &goal.owned,
                &crate::desired::Reasons::default(),
            );
            let changes: Vec<Edit> =
                steps.unwrap().into_all().into_iter().map(|step| step.edit).collect();
            let mut all = Vec::new();
            unreadable(&changes, goal, seen, &mut all);
            all
        };
        // Changed, or only taken for what was found: both could be the other's.
        for value in ["0", "1"] {
            let seen = blind(with_value(value));
            let all = in_the_way(&goal(&wants_arp(), &seen), &seen);
            assert_eq!(
                all[0].message,
                "what the topology other owns on this host cannot be read, and it may be \
                 net.ipv4.conf.all.arp_ignore"
            );
            assert_eq!(all[0].why, "it was written by a later lvsprov");
            assert_eq!(all[0].cure, "use that version");
        }
        // What was ours before and stays so was taken when the other could be read.
        let mut seen = blind(with_value("0"));
        seen.receipt = goal(&wants_arp(), &seen).receipt_after;
        assert_eq!(in_the_way(&goal(&wants_arp(), &seen), &seen), []);
        assert!(cautions(&goal(&wants_arp(), &seen), &seen)[0].contains("cannot be read"));
        // Given back, it may be the other's that it is taken from.
        seen.state.sysctls.insert(Sysctl::all(ConfItem::ArpIgnore), "1".to_owned());
        assert_eq!(in_the_way(&Goal::destroy(&seen).unwrap(), &seen).len(), 1);
        // What is not here is nobody's.
        let mut adds = desired();
        let vip = "192.0.2.80/32@lo".parse().unwrap();
        adds.state = HostState::default();
        adds.state.addresses.insert(vip, crate::state::Address::plain(crate::state::Scope::Host));
        let seen = blind(with_value("0"));
        assert_eq!(in_the_way(&goal(&adds, &seen), &seen), []);
    }

    #[test]
    fn what_the_other_has_set_otherwise_is_not_taken_over() {
        let seen = with_value("2");
        assert_eq!(
            found(&goal(&wants_arp(), &seen), &seen),
            ["net.ipv4.conf.all.arp_ignore belongs to the topology other on this host already"]
        );
    }

    fn at_work(touched: Item) -> Observation {
        let theirs = OtherTransaction {
            transaction: "0123456789abcdef".parse().unwrap(),
            by: Operator { user: "ann".to_owned(), host: "desk".to_owned(), pid: 7 },
            since: 1_795_243_200,
            touched: [touched].into(),
        };
        let mut seen = seen();
        seen.open_elsewhere = [("other".parse().unwrap(), theirs)].into();
        seen
    }

    #[test]
    fn what_another_topology_may_still_put_back_is_not_touched() {
        let seen = at_work(arp());
        assert_eq!(
            found(&goal(&wants_arp(), &seen), &seen),
            [
                "the topology other has transaction 0123456789abcdef unfinished on this host, begun by \
              ann@desk (process 7), 2026-11-21 06:40:00 UTC; it and t both need \
              net.ipv4.conf.all.arp_ignore"
            ]
        );
        // Where they do not overlap both may go on, and where there is nothing to do.
        let seen = at_work(Item::Sysctl(Sysctl::all(ConfItem::ArpAnnounce)));
        assert_eq!(found(&goal(&wants_arp(), &seen), &seen), Vec::<String>::new());
        let seen = at_work(arp());
        assert_eq!(found(&goal(&desired(), &seen), &seen), Vec::<String>::new());
    }

    /// Another topology, not confirmed yet, has just made it what this one wants: it would go back.
    #[test]
    fn what_another_topology_may_still_put_back_is_not_relied_on() {
        let mut seen = at_work(arp());
        seen.state.sysctls.insert(Sysctl::all(ConfItem::ArpIgnore), "1".to_owned());
        let wants = goal(&wants_arp(), &seen);
        let all = found(&wants, &seen);
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all[0].ends_with("both need net.ipv4.conf.all.arp_ignore"), "{all:?}");
        // Nothing is done and nothing is written down here: it is as it was.
        seen.receipt.clone_from(&wants.receipt_after);
        assert_eq!(found(&wants, &seen), Vec::<String>::new());
    }

    #[test]
    fn what_moves_along_and_what_is_taken_over_meets_theirs_and_a_module_never_does() {
        let along = Sysctl::Conf(ConfDev::Default, ConfItem::Forwarding);
        let mut seen = at_work(Item::Sysctl(along.clone()));
        for key in [along, Sysctl::IpForward] {
            seen.state.sysctls.insert(key, "0".to_owned());
        }
        let mut forwards = desired();
        forwards.state.sysctls = [(Sysctl::IpForward, "1".to_owned())].into();
        assert_eq!(found(&goal(&forwards, &seen), &seen).len(), 1);

        let theirs = at_work(Item::Module(Module::IpVs)).open_elsewhere;
        let module = [Item::Module(Module::IpVs), arp()].into();
        for theirs in theirs.values() {
            assert!(overlap(theirs, &module, None).is_empty());
        }
    }

    #[test]
    fn any_moment_is_one_that_can_be_said() {
        assert_eq!(moment(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(moment(u64::MAX), "18446744073709551615 s after 1970");
    }

    #[test]
    fn drift_of_what_both_have_is_mended() {
        let mut seen = with_value("1");
        seen.receipt = goal(&wants_arp(), &seen).receipt_after;
        seen.state.sysctls.insert(Sysctl::all(ConfItem::ArpIgnore), "0".to_owned());
        assert_eq!(found(&goal(&wants_arp(), &seen), &seen), Vec::<String>::new());
    }
}

#[test]
fn a_way_back_that_changes_is_said_and_only_that() {
    let mut seen = seen();
    let mut after = seen.state.clone();
    after.routes.insert("default".parse().unwrap(), route("192.0.2.9"));
    seen.facts.controller = Controller::Pipe;
    assert_eq!(way_back(&seen, &after), None, "no route leads there");
    seen.facts.controller = Controller::Address("198.51.100.7".parse().unwrap());
    let said = way_back(&seen, &after).unwrap();
    assert!(said.contains("from 198.51.100.7"), "{said}");
    assert!(said.contains("via 192.0.2.1 dev eth0 -> default via 192.0.2.9 dev eth0"), "{said}");
    assert_eq!(way_back(&seen, &seen.state), None);
    // A narrower route leads there, and stays.
    let narrow = "198.51.100.0/24".parse().unwrap();
    seen.state.routes.insert(narrow, route("192.0.2.5"));
    after.routes.insert("198.51.100.0/24".parse().unwrap(), route("192.0.2.5"));
    assert_eq!(way_back(&seen, &after), None);
}

/// As under sudo, which drops SSH_CONNECTION; and a link-local address has no route that could be compared.
#[test]
fn where_the_way_back_is_not_known_it_may_change_with_all_that_carries_packets() {
    let link_local = Controller::Address("fe80::7".parse().unwrap());
    for (controller, says) in
        [(Controller::Unknown, "does not know from which address"), (link_local, "from fe80::7")]
    {
        let mut seen = seen();
        seen.facts.controller = controller;
        assert_eq!(way_back(&seen, &seen.state), None);
        let mut route = seen.state.clone();
        route.routes.insert("10.0.0.0/8".parse().unwrap(), self::route("192.0.2.9"));
        let mut address = seen.state.clone();
        let key = "192.0.2.80/32@lo".parse().unwrap();
        address.addresses.insert(key, crate::state::Address::plain(crate::state::Scope::Global));
        let mut link = seen.state.clone();
        link.links.insert("eth7".parse().unwrap(), Link::Down);
        for (after, what) in [(route, "routes"), (address, "addresses"), (link, "links")] {
            let said = way_back(&seen, &after).unwrap();
            assert!(said.contains(says) && said.contains(&format!("its {what} change")), "{said}");
            assert!(said.contains("--confirm-within off"), "{said}");
        }
        let mut values = seen.state.clone();
        values.sysctls.insert(Sysctl::IpForward, "1".to_owned());
        assert_eq!(way_back(&seen, &values), None, "no packet takes another way");
    }
}

#[test]
fn a_setting_that_the_kernel_does_not_have_is_not_passed_over() {
    let mut desired = Desired::default();
    let key = Sysctl::all(ConfItem::ArpAnnounce);
    desired.state.sysctls.insert(key.clone(), "2".to_owned());
    let mut all = Vec::new();
    settings(&desired, &seen(), &mut all);
    let messages: Vec<_> = all.iter().map(|obstacle| obstacle.message.as_str()).collect();
    let path = "/proc/sys/net/ipv4/conf/all/arp_announce";
    assert_eq!(messages, [format!("there is no setting {key} ({path})")]);
    let mut there = seen();
    there.state.sysctls.insert(key, "0".to_owned());
    let mut none = Vec::new();
    settings(&desired, &there, &mut none);
    assert_eq!(none, []);
}

#[test]
fn a_scheduler_or_engine_that_the_kernel_does_not_have() {
    let mut desired = desired();
    for (text, scheduler, engine) in
        [("tcp 192.0.2.80:80", "twos", None), ("udp 192.0.2.80:5060", "rr", Some("sip"))]
    {
        let key: ServiceKey = text.parse().unwrap();
        let mut service = VirtualService::plain(&key, scheduler);
        service.engine = engine.map(str::to_owned);
        desired.state.services.insert(key, service);
    }
    let mut seen = seen();
    assert_eq!(messages(&desired, &seen), Vec::<String>::new(), "the kernel's parts are not known");
    seen.facts.parts = Some(["rr", "wlc"].map(str::to_owned).into());
    assert_eq!(
        messages(&desired, &seen),
        [
            "kernel 6.1 has no persistence engine sip (module ip_vs_pe_sip)",
            "kernel 6.1 has no scheduler twos (module ip_vs_twos)"
        ]
    );
    seen.facts.parts = Some(["rr", "twos", "pe_sip"].map(str::to_owned).into());
    assert_eq!(messages(&desired, &seen), Vec::<String>::new());
}

#[test]
fn settings_of_ipvs_that_are_not_there_or_not_known_yet() {
    let wants = |item: VsItem| {
        let mut desired = desired();
        desired.state.modules.insert(Module::IpVs);
        desired.state.sysctls.insert(Sysctl::Vs(item), "1".to_owned());
        desired
    };
    let mut loaded = seen();
    loaded.state.modules.insert(Module::IpVs);
    let (bare, none) = (seen(), Vec::<String>::new());
    assert_eq!(messages(&wants(VsItem::Conntrack), &bare), none, "it comes with the module");
    for seen in [&bare, &loaded] {
        assert_eq!(
            messages(&wants(VsItem::EstNice), seen),
            ["kernel 6.1 has no setting net.ipv4.vs.est_nice: it came with Linux 6.2"]
        );
    }
    assert_eq!(
        messages(&wants(VsItem::DebugLevel), &bare),
        ["what net.ipv4.vs.debug_level is now is not known before ip_vs is loaded"]
    );
    assert_eq!(
        messages(&wants(VsItem::DebugLevel), &loaded),
        ["kernel 6.1 has no setting net.ipv4.vs.debug_level"]
    );
    let mut there = loaded.clone();
    there.state.sysctls.insert(Sysctl::Vs(VsItem::DebugLevel), "0".to_owned());
    assert_eq!(messages(&wants(VsItem::DebugLevel), &there), none);
}

/// GRE and tunnel devices of our own are silent as lo is. A VIP that is ours moves there with the plan.
#[test]
fn a_vip_that_is_to_stand_on_a_tunnel_device() {
    for dev in ["gre0", "lvsgrec0000202", "lvstnl20010db8"] {
        let mut desired = desired();
        desired.state.addresses = [(key(&format!("192.0.2.80/32@{dev}")), address())].into();
        let mut seen = seen();
        let there = key("192.0.2.80/32@lo");
        seen.state.addresses.insert(there.clone(), address());
        let elsewhere = "the VIP is on this host already, as 192.0.2.80/32@lo";
        assert_eq!(messages(&desired, &seen), [elsewhere], "{dev}");
        seen.receipt = Some(Receipt {
            version: RECEIPT_VERSION,
            topology: "t".parse().unwrap(),
            since: 0,
            owned: [Item::Address(there)].into(),
            found: HostState::default(),
            run: None,
            settled: None,
            maintenance: crate::state::Maintenance::default(),
            drift: None,
            external: crate::state::ExternalWeights::default(),
        });
        assert_eq!(messages(&desired, &seen), Vec::<String>::new(), "{dev}");
    }
}
