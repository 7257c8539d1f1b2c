//! What is different in IPv6: addresses that are looked for, settings that write others, routes that
//! a router gave.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd as _;

use lvsprov::plan::preflight::disable_ipv6;
use lvsprov::state::{Address, Edit, Link, Route, Scope, Sysctl};
use serde_json::{Value, json};

use crate::support::cases::{Case, cases};
use crate::support::netns_host::{
    NetnsHost, address_key, eventually, plain_address, route_key, via,
};

pub fn cases() -> Vec<Case> {
    cases![
        an_address_without_duplicate_detection_is_there_at_once,
        a_deprecated_address_is_never_the_source,
        a_scope_that_the_kernel_would_ignore_is_refused,
        where_ipv6_is_off_an_address_is_refused,
        an_interface_that_goes_down_keeps_its_addresses,
        forwarding_is_set_with_all_that_it_writes,
        settings_of_ipvs_are_left_out_where_there_is_none,
        routes_read_back_as_they_were_asked_for,
        a_route_that_a_router_gave_is_none_of_a_person,
        a_router_advertisement_is_seen_for_what_it_is
    ]
}

/// What `ip -j address` says of one address.
fn in_ip(netns: &NetnsHost, dev: &str, local: &str) -> Option<Value> {
    let links = netns.ip_json(&format!("-6 address show dev {dev}"));
    let all = links.first()?["addr_info"].as_array()?;
    all.iter().find(|info| info["local"] == local).cloned()
}

/// A value below /proc/sys/net/ipv6.
fn sysctl6(netns: &NetnsHost, path: &str) -> String {
    netns.sysctl(&format!("../ipv6/{path}"))
}

fn nodad() -> Address {
    Address { nodad: true, ..plain_address() }
}

fn set(key: &str, before: &str, after: &str) -> Edit {
    let (before, after) = (before.to_owned(), after.to_owned());
    Edit::change::<Sysctl>(key.parse().unwrap(), before, after)
}

fn an_address_without_duplicate_detection_is_there_at_once() {
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    let (asked, at_once) = (address_key("2001:db8::1/64@v0"), address_key("2001:db8::2/64@v0"));
    let outcome = netns.do_all(vec![
        Edit::add::<Address>(at_once.clone(), nodad()),
        Edit::add::<Address>(asked.clone(), plain_address()),
    ]);
    let seen = |local| in_ip(&netns, "v0", local).unwrap();
    // Duplicates are looked for during a second at least.
    assert_eq!(seen("2001:db8::1")["tentative"], true);
    assert_eq!(seen("2001:db8::2").get("tentative"), None);
    assert_eq!(seen("2001:db8::2")["nodad"], true);
    assert_eq!(outcome.after.state.addresses[&at_once], nodad());
    assert_eq!(outcome.after.state.addresses[&asked], plain_address());
    // That it is not tentative any more is no change.
    eventually("no duplicate", || seen("2001:db8::1").get("tentative").is_none());
    assert_eq!(netns.look(&[]).state.addresses[&asked], plain_address());

    let other = Edit::remove::<Address>(at_once.clone(), plain_address());
    netns.fails(other, "expected scope global, found scope global, nodad");
    netns.do_all(vec![Edit::remove::<Address>(at_once, nodad())]);
    assert_eq!(in_ip(&netns, "v0", "2001:db8::2"), None);
}

/// `preflight` finds it before any step.
fn where_ipv6_is_off_an_address_is_refused() {
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    netns.run(|| std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap());
    for key in ["2001:db8::80/128@v0", "2001:db8::80/128@lo"] {
        let key = address_key(key);
        let setting = disable_ipv6(&key).unwrap();
        let seen = netns.look(&[&setting.to_string()]);
        assert_eq!(seen.state.sysctls[&setting], "1");
        netns.fails(Edit::add::<Address>(key.clone(), nodad()), "Permission denied");
        let path = setting.path();
        netns.run(|| std::fs::write(&path, "0").unwrap());
        netns.do_all(vec![Edit::add::<Address>(key, nodad())]);
    }
}

/// A VIP next to an address with a shorter prefix would be what the host sends from.
fn a_deprecated_address_is_never_the_source() {
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    let own = address_key("2001:db8::2/64@v0");
    let vip = address_key("2001:db8::80/128@v0");
    let deprecated = Address { deprecated: true, ..nodad() };
    let source = || {
        let routes = netns.ip_json("-6 route get 2001:db8::3");
        routes[0]["prefsrc"].as_str().map(str::to_owned)
    };
    let outcome = netns.do_all(vec![
        Edit::add::<Address>(own.clone(), nodad()),
        Edit::add::<Address>(vip.clone(), deprecated.clone()),
    ]);
    assert_eq!(outcome.after.state.addresses[&vip], deprecated);
    assert_eq!(in_ip(&netns, "v0", "2001:db8::80").unwrap()["deprecated"], true);
    assert_eq!(source().as_deref(), Some("2001:db8::2"));
    netns.do_all(vec![
        Edit::remove::<Address>(vip.clone(), deprecated),
        Edit::add::<Address>(vip, nodad()),
    ]);
    assert_eq!(source().as_deref(), Some("2001:db8::80"), "then this test would prove nothing");
}

fn a_scope_that_the_kernel_would_ignore_is_refused() {
    let netns = NetnsHost::with_lo();
    let address = Address { scope: Scope::Host, ..plain_address() };
    let key = address_key("2001:db8::53/128@lo");
    let failure = netns.fails(Edit::add::<Address>(key, address), "cannot have scope host");
    assert!(failure.cure.unwrap().contains("here global"));
    assert_eq!(in_ip(&netns, "lo", "2001:db8::53"), None);
}

fn an_interface_that_goes_down_keeps_its_addresses() {
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    netns.ip("address add 2001:db8::1/64 dev v0 nodad");
    netns.ip("address add 2001:db8::2/128 dev v0");
    let dev = || "v0".parse().unwrap();
    let down = Edit::change::<Link>(dev(), Link::Up, Link::Down);
    netns.do_all(vec![down.clone()]);
    assert_eq!(in_ip(&netns, "v0", "2001:db8::1").unwrap()["nodad"], true);
    assert_eq!(in_ip(&netns, "v0", "2001:db8::2").unwrap()["prefixlen"], 128);
    let outcome = netns.do_all(vec![down.inverse().unwrap()]);
    let addresses = outcome.after.state.addresses;
    assert_eq!(addresses[&address_key("2001:db8::1/64@v0")], nodad());
    assert_eq!(addresses[&address_key("2001:db8::2/128@v0")], plain_address());
    assert_eq!(addresses[&address_key("10.9.0.1/24@v0")], plain_address());
}

fn forwarding_is_set_with_all_that_it_writes() {
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    let key = "net.ipv6.conf.all.forwarding";
    let before = netns.look(&[key]).state.sysctls;
    let names = |dev: &str| format!("net.ipv6.conf.{dev}.forwarding").parse::<Sysctl>().unwrap();
    for dev in ["all", "default", "lo", "v0", "v1"] {
        assert_eq!(before[&names(dev)], sysctl6(&netns, &format!("conf/{dev}/forwarding")));
    }
    assert_eq!(before[&names("all")], "0");
    netns.do_all(vec![set(key, "0", "1")]);
    let after = netns.look(&[key]).state.sysctls;
    for dev in ["all", "default", "lo", "v0", "v1"] {
        assert_eq!(sysctl6(&netns, &format!("conf/{dev}/forwarding")), "1", "{dev}");
        assert_eq!(after[&names(dev)], "1", "{dev}");
    }
    netns.fails(set(key, "0", "1"), "expected 0, found 1");
    netns.do_all(vec![set("net.ipv6.conf.v0.accept_ra", "1", "2")]);
    assert_eq!(sysctl6(&netns, "conf/v0/accept_ra"), "2");
    let failure = netns.fails(set("net.ipv6.conf.v9.accept_ra", "1", "2"), "no such setting");
    assert!(failure.cure.unwrap().contains("no interface v9"));
}

fn settings_of_ipvs_are_left_out_where_there_is_none() {
    let netns = NetnsHost::new();
    assert!(!netns.run(|| std::path::Path::new("/proc/sys/net/ipv4/vs").exists()));
    let seen = netns.look(&["net.ipv4.vs.conntrack", "net.ipv6.conf.lo.accept_ra"]).state;
    assert_eq!(seen.sysctls.len(), 1, "{:?}", seen.sysctls);
    assert_eq!((seen.timeouts, seen.daemons.len(), seen.gue_ports.len()), (None, 0, 0));
    let failure = netns.fails(set("net.ipv4.vs.conntrack", "0", "1"), "no such setting");
    assert!(failure.cure.unwrap().contains("ip_vs"));
}

/// What `ip -6 route` says of the routes to `destination`: gateway, interface, metric, protocol.
fn routes(netns: &NetnsHost, destination: &str) -> Vec<Value> {
    let all = netns.ip_json(&format!("-6 route show {destination}"));
    let short = |r: &Value| json!([r["gateway"], r["dev"], r["metric"], r["protocol"]]);
    all.iter().map(short).collect()
}

fn routes_read_back_as_they_were_asked_for() {
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    netns.ip("address add 2001:db8::1/64 dev v0 nodad");
    let host = route_key("2001:db8:1::53/128");
    let net = route_key("2001:db8:2::/48");
    let fallback = route_key("default6");
    let on_link = Route { gateway: None, ..via("2001:db8::2", "v0", 0) };
    let (plain, metric) = (via("2001:db8::2", "v0", 0), via("2001:db8::3", "v0", 7));
    let steps = vec![
        Edit::add::<Route>(host.clone(), plain.clone()),
        Edit::add::<Route>(net.clone(), on_link.clone()),
        Edit::add::<Route>(fallback.clone(), metric.clone()),
    ];
    let seen = netns.do_all(steps.clone()).after.state.routes;
    assert_eq!(seen[&host], plain);
    assert_eq!(seen[&net], on_link);
    assert_eq!(seen[&fallback], metric);
    let gateway = |text: &str, metric: u32| vec![json!([text, "v0", metric, "static"])];
    assert_eq!(routes(&netns, "2001:db8:1::53"), gateway("2001:db8::2", 1024));
    assert_eq!(routes(&netns, "2001:db8:2::/48"), [json!([null, "v0", 1024, "static"])]);
    assert_eq!(routes(&netns, "default"), gateway("2001:db8::3", 7));
    // 1024 and none are one and the same.
    let before = Route { metric: 1024, ..plain.clone() };
    let change = Edit::change::<Route>(host.clone(), before, metric.clone());
    netns.fails(change, "changed after it was observed");
    let change = Edit::change::<Route>(host, plain, metric);
    netns.do_all(vec![change.clone()]);
    assert_eq!(routes(&netns, "2001:db8:1::53"), gateway("2001:db8::3", 7));
    netns.do_all(vec![change.inverse().unwrap()]);
    netns.do_all(steps.iter().rev().map(|step| step.inverse().unwrap()).collect());
    for destination in ["2001:db8:1::53", "2001:db8:2::/48", "default"] {
        assert!(routes(&netns, destination).is_empty(), "{destination}");
    }
}

fn a_route_that_a_router_gave_is_none_of_a_person() {
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    netns.ip("address add 2001:db8::1/64 dev v0 nodad");
    for (made, unsupported) in [
        ("default via 2001:db8::9 dev v0 proto ra", vec!["ra"]),
        ("default via 2001:db8::9 dev v0 proto ra expires 600", vec!["ra", "expires"]),
        ("default via 2001:db8::9 dev v0 proto static expires 600", vec!["expires"]),
    ] {
        netns.ip(&format!("-6 route add {made}"));
        let key = route_key("default6");
        let before = netns.look(&[]).state.routes[&key].clone();
        assert_eq!(before.unsupported, unsupported, "{made}");
        // The time that is left is none of it: it would change from look to look.
        let left = || netns.ip_json("-6 route show default")[0].get("expires").cloned();
        let first = left();
        eventually("a second", || first.is_none() || left() != first);
        assert_eq!(netns.look(&[]).state.routes[&key], before);
        let after = via("2001:db8::2", "v0", 0);
        netns.fails(Edit::change::<Route>(key, before, after), "lvsprov could not restore");
        netns.ip("-6 route del default");
    }
}

/// A real advertisement, from the other end of a cable.
fn a_router_advertisement_is_seen_for_what_it_is() {
    let (host, router) = NetnsHost::two("10.9.0.1/24", "10.9.0.2/24");
    let ready = |netns: &NetnsHost| {
        let all = netns.ip("-6 address show dev v0");
        all.contains("fe80") && !all.contains("tentative")
    };
    eventually("link-local addresses", || ready(&host) && ready(&router));
    let gateway = router.ip_json("-6 address show dev v0")[0]["addr_info"][0]["local"].clone();
    let gateway = gateway.as_str().unwrap();
    router.run(advertise);
    let key = route_key("default6");
    eventually("a default route", || host.look(&[]).state.routes.contains_key(&key));
    let route = host.look(&[]).state.routes[&key].clone();
    assert_eq!(route.gateway.unwrap().to_string(), gateway);
    assert!(route.unsupported.starts_with(&["ra".to_owned()]), "{route:?}");
    assert!(route.unsupported.contains(&"expires".to_owned()), "{route:?}");
}

/// Sends a router advertisement (RFC 4861, 4.2) with a lifetime of half an hour to all nodes of v0.
fn advertise() {
    use nix::sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, setsockopt,
        socket, sockopt,
    };
    let open =
        socket(AddressFamily::Inet6, SockType::Raw, SockFlag::empty(), Some(SockProtocol::IcmpV6))
            .unwrap();
    // A hop limit below 255 could come from elsewhere: it is not believed.
    setsockopt(&open, sockopt::Ipv6MulticastHops, &255).unwrap();
    let index = nix::net::if_::if_nametoindex("v0").unwrap();
    let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    let to = SockaddrIn6::from(SocketAddrV6::new(all_nodes, 0, 0, index));
    // Type 134, code 0, checksum (the kernel's), hop limit 64, no flags, lifetime 1800 s, timers 0.
    let message = [134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    sendto(open.as_raw_fd(), &message, &to, MsgFlags::empty()).unwrap();
}
