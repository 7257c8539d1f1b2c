//! Links, addresses and routes.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use lvsprov::state::{Address, Edit, Link, Route, Scope};
use serde_json::{Value, json};

use crate::support::cases::{Case, cases};
use crate::support::netns_host::{
    NetnsHost, address_key, eventually, plain_address, route_key, via,
};

pub fn cases() -> Vec<Case> {
    cases![
        a_vip_on_lo_has_its_label_scope_and_prefix,
        an_address_gets_exactly_the_broadcast_that_was_asked_for,
        an_ipv6_vip_is_added_and_removed,
        an_address_that_somebody_changed_is_left_alone,
        a_label_that_the_kernel_would_cut_is_refused,
        the_other_addresses_of_a_subnet_stay_when_the_first_is_removed,
        a_link_goes_up_and_down,
        a_host_route_to_the_vip_comes_and_goes,
        a_gateway_out_of_reach_is_explained,
        the_default_gateway_is_replaced_in_place,
        with_another_metric_the_new_gateway_comes_before_the_old_one_goes,
        an_ipv6_default_route_without_a_metric_is_one_without_a_metric,
        a_route_that_a_dhcp_client_adds_again_is_no_hindrance_for_putting_it_back,
        a_route_that_could_not_be_put_back_is_shown_and_not_replaced,
        what_the_reader_sees_is_what_ip_sees
    ]
}

/// What `ip -j address` says of one address.
fn address_in_ip(netns: &NetnsHost, dev: &str, local: &str) -> Option<Value> {
    let links = netns.ip_json(&format!("address show dev {dev}"));
    let all = links[0]["addr_info"].as_array().unwrap();
    all.iter().find(|info| info["local"] == local).cloned()
}

/// The destinations, gateways and metrics of the main table as `ip -j route` says.
fn routes_in_ip(netns: &NetnsHost, which: &str) -> Vec<Value> {
    let routes = netns.ip_json(&format!("route show {which}"));
    let field = |route: &Value, name: &str| route.get(name).cloned().unwrap_or(Value::Null);
    let short = |route: &Value| {
        json!([
            field(route, "dst"),
            field(route, "gateway"),
            field(route, "dev"),
            field(route, "metric")
        ])
    };
    routes.iter().map(short).collect()
}

fn vip_on_lo() -> Edit {
    Edit::add::<Address>(
        address_key("172.18.253.53/32@lo"),
        Address {
            scope: Scope::Host,
            label: Some("lo:0".to_owned()),
            broadcast: None,
            nodad: false,
            deprecated: false,
        },
    )
}

fn a_vip_on_lo_has_its_label_scope_and_prefix() {
    let netns = NetnsHost::new();
    netns.ip("link set lo up");
    let outcome = netns.do_all(vec![vip_on_lo()]);
    let seen = address_in_ip(&netns, "lo", "172.18.253.53").unwrap();
    assert_eq!(seen["label"], "lo:0");
    assert_eq!(seen["scope"], "host");
    assert_eq!(seen["prefixlen"], 32);
    assert_eq!(seen.get("broadcast"), None);
    let vip = vip_on_lo();
    let (key, address) = vip.added::<Address>().unwrap();
    assert_eq!(outcome.after.state.addresses.get(key), Some(address));

    netns.fails(vip_on_lo(), "changed after it was observed");
    netns.do_all(vec![vip_on_lo().inverse().unwrap()]);
    assert_eq!(address_in_ip(&netns, "lo", "172.18.253.53"), None);
    netns.fails(vip_on_lo().inverse().unwrap(), "found nothing");
}

fn an_address_gets_exactly_the_broadcast_that_was_asked_for() {
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    let without = address_key("192.0.2.1/24@v0");
    let with = address_key("198.51.100.1/24@v0");
    let broadcast = Address { broadcast: Some([198, 51, 100, 255].into()), ..plain_address() };
    let outcome = netns.do_all(vec![
        Edit::add::<Address>(without.clone(), plain_address()),
        Edit::add::<Address>(with.clone(), broadcast.clone()),
    ]);
    let seen = |local| address_in_ip(&netns, "v0", local).unwrap();
    assert_eq!(seen("192.0.2.1").get("broadcast"), None);
    assert_eq!(seen("192.0.2.1")["label"], "v0");
    assert_eq!(seen("198.51.100.1")["broadcast"], "198.51.100.255");
    assert_eq!(outcome.after.state.addresses[&without], plain_address());
    assert_eq!(outcome.after.state.addresses[&with], broadcast);
}

fn an_ipv6_vip_is_added_and_removed() {
    let netns = NetnsHost::new();
    netns.ip("link set lo up");
    let key = address_key("2001:db8::53/128@lo");
    let change = Edit::add::<Address>(key.clone(), plain_address());
    let outcome = netns.do_all(vec![change.clone()]);
    assert_eq!(outcome.after.state.addresses[&key], plain_address());
    assert_eq!(address_in_ip(&netns, "lo", "2001:db8::53").unwrap()["prefixlen"], 128);
    netns.do_all(vec![change.inverse().unwrap()]);
    assert_eq!(address_in_ip(&netns, "lo", "2001:db8::53"), None);
}

fn an_address_that_somebody_changed_is_left_alone() {
    let netns = NetnsHost::new();
    netns.ip("link set lo up");
    netns.ip("address add 172.18.253.53/32 dev lo label lo:7 scope host");
    let failure = netns.fails(vip_on_lo().inverse().unwrap(), "label lo:0, found scope host");
    assert!(failure.cure.unwrap().contains("plan again"));
    assert_eq!(address_in_ip(&netns, "lo", "172.18.253.53").unwrap()["label"], "lo:7");
}

fn a_label_that_the_kernel_would_cut_is_refused() {
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    for (label, why) in [("lo:0", "starts with"), ("v0:0123456789abc", "1 to 15 bytes")] {
        let address = Address { label: Some(label.to_owned()), ..plain_address() };
        netns.fails(Edit::add::<Address>(address_key("192.0.2.1/32@v0"), address), why);
    }
}

fn the_other_addresses_of_a_subnet_stay_when_the_first_is_removed() {
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    netns.set_sysctl("conf/all/promote_secondaries", "0");
    netns.set_sysctl("conf/v0/promote_secondaries", "0");
    netns.ip("address add 10.9.0.2/24 broadcast 10.9.0.255 dev v0 label v0:x");
    netns.ip("address add 10.9.0.3/24 dev v0");
    let key = address_key("10.9.0.1/24@v0");
    let outcome = netns.do_all(vec![Edit::remove::<Address>(key, plain_address())]);
    let left: Vec<_> = outcome.after.state.addresses.keys().map(ToString::to_string).collect();
    assert!(left.contains(&"10.9.0.2/24@v0".to_owned()), "{left:?}");
    assert!(left.contains(&"10.9.0.3/24@v0".to_owned()), "{left:?}");
    assert_eq!(address_in_ip(&netns, "v0", "10.9.0.1"), None);
    let second = address_in_ip(&netns, "v0", "10.9.0.2").unwrap();
    assert_eq!(second["label"], "v0:x");
    assert_eq!(second["broadcast"], "10.9.0.255");
    assert!(address_in_ip(&netns, "v0", "10.9.0.3").is_some());
}

fn a_link_goes_up_and_down() {
    let netns = NetnsHost::new();
    let flags = || netns.ip_json("link show lo")[0]["flags"].as_array().unwrap().clone();
    let up = |before, after| Edit::change::<Link>("lo".parse().unwrap(), before, after);
    assert!(!flags().contains(&json!("UP")));
    let outcome = netns.do_all(vec![up(Link::Down, Link::Up)]);
    assert!(flags().contains(&json!("UP")));
    assert_eq!(outcome.after.state.links[&"lo".parse().unwrap()], Link::Up);
    netns.fails(up(Link::Down, Link::Up), "expected down, found up");
    netns.do_all(vec![up(Link::Up, Link::Down)]);
    assert!(!flags().contains(&json!("UP")));
    let dev = "tunl0".parse().unwrap();
    let failure = netns.fails(Edit::change::<Link>(dev, Link::Down, Link::Up), "no interface");
    assert!(failure.cure.unwrap().contains("ipip"));
}

fn a_host_route_to_the_vip_comes_and_goes() {
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    let to_vip = Edit::add::<Route>(route_key("172.18.253.53/32"), via("10.9.0.2", "v0", 0));
    let on_link = Edit::add::<Route>(
        route_key("203.0.113.0/24"),
        Route {
            gateway: None,
            scope: Scope::Link,
            source: Some([10, 9, 0, 1].into()),
            ..via("10.9.0.2", "v0", 0)
        },
    );
    let outcome = netns.do_all(vec![to_vip.clone(), on_link.clone()]);
    for change in [&to_vip, &on_link] {
        let (key, route) = change.added::<Route>().unwrap();
        assert_eq!(outcome.after.state.routes.get(key), Some(route));
    }
    let seen = routes_in_ip(&netns, "172.18.253.53/32");
    assert_eq!(seen, [json!(["172.18.253.53", "10.9.0.2", "v0", null])]);
    let seen = netns.ip_json("route show 203.0.113.0/24");
    assert_eq!((&seen[0]["scope"], &seen[0]["prefsrc"]), (&json!("link"), &json!("10.9.0.1")));
    netns.fails(to_vip.clone(), "expected nothing, found via 10.9.0.2 dev v0");
    netns.do_all(vec![on_link.inverse().unwrap(), to_vip.inverse().unwrap()]);
    assert!(routes_in_ip(&netns, "172.18.253.53/32").is_empty());
    netns.fails(to_vip.inverse().unwrap(), "found nothing");
}

fn a_gateway_out_of_reach_is_explained() {
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    let route = via("192.0.2.1", "v0", 0);
    let failure = netns.fails(Edit::add::<Route>(route_key("default"), route), "unreachable");
    assert!(failure.cure.unwrap().contains("in no subnet of this host"));
}

/// Replaces the default route while `ip monitor` listens; gives what it heard.
fn heard_while(netns: &NetnsHost, change: Edit) -> Vec<String> {
    let mut monitor = netns.run(|| {
        Command::new("stdbuf")
            .args(["-oL", "ip", "-o", "monitor", "route"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    });
    let mut lines = BufReader::new(monitor.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    // It listens once it tells of a route that is added and removed over and over.
    let listens = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !listens.load(Ordering::Relaxed) {
                netns.ip("route add 198.18.0.0/32 dev v0");
                netns.ip("route del 198.18.0.0/32 dev v0");
            }
        });
        // What else it tells of is the kernel's own: routes that come with an interface.
        while !next().contains("198.18.0.0") {}
        listens.store(true, Ordering::Relaxed);
    });
    netns.do_all(vec![change]);
    netns.ip("route add 198.18.255.255/32 dev v0");
    let mut heard = Vec::new();
    loop {
        let line = next();
        if line.contains("198.18.255.255") {
            break;
        }
        if line.contains("default") {
            heard.push(line.trim().to_owned());
        }
    }
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    heard
}

fn the_default_gateway_is_replaced_in_place() {
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    netns.ip("route add default via 10.9.0.254 dev v0 metric 100");
    netns.ip("route add default via 10.9.0.253 dev v0 metric 200");
    let key = route_key("default");
    let change = Edit::change::<Route>(
        key.clone(),
        Route { protocol: 3, ..via("10.9.0.254", "v0", 100) },
        via("10.9.0.2", "v0", 100),
    );
    let heard = heard_while(&netns, change.clone());
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert!(heard[0].starts_with("default via 10.9.0.2 dev v0"), "{heard:?}");
    let expected =
        [json!(["default", "10.9.0.2", "v0", 100]), json!(["default", "10.9.0.253", "v0", 200])];
    assert_eq!(routes_in_ip(&netns, "default"), expected);
    assert_eq!(netns.look(&[]).state.routes[&key], via("10.9.0.2", "v0", 100));
    netns.fails(change.clone(), "changed after it was observed");
    netns.do_all(vec![change.inverse().unwrap()]);
    assert_eq!(routes_in_ip(&netns, "default")[0], json!(["default", "10.9.0.254", "v0", 100]));
}

fn with_another_metric_the_new_gateway_comes_before_the_old_one_goes() {
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    netns.ip("route add default via 10.9.0.254 dev v0 proto static");
    let change = Edit::change::<Route>(
        route_key("default"),
        via("10.9.0.254", "v0", 0),
        via("10.9.0.2", "v0", 50),
    );
    let heard = heard_while(&netns, change);
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert!(heard[0].starts_with("default via 10.9.0.2"), "{heard:?}");
    assert!(heard[1].starts_with("Deleted default via 10.9.0.254"), "{heard:?}");
    assert_eq!(routes_in_ip(&netns, "default"), [json!(["default", "10.9.0.2", "v0", 50])]);
}

fn an_ipv6_default_route_without_a_metric_is_one_without_a_metric() {
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    netns.ip("-6 address add 2001:db8::1/64 dev v0 nodad");
    let key = route_key("default6");
    let (old, new) = (via("2001:db8::fe", "v0", 0), via("2001:db8::2", "v0", 0));
    let gateways = || -> Vec<Value> {
        let all = netns.ip_json("-6 route show default");
        all.iter().map(|route| json!([route["gateway"], route["metric"]])).collect()
    };
    netns.do_all(vec![Edit::add::<Route>(key.clone(), old.clone())]);
    assert_eq!(gateways(), [json!(["2001:db8::fe", 1024])]);
    let change = Edit::change::<Route>(key.clone(), old, new.clone());
    let outcome = netns.do_all(vec![change]);
    assert_eq!(outcome.after.state.routes[&key], new);
    assert_eq!(gateways(), [json!(["2001:db8::2", 1024])]);
    netns.do_all(vec![Edit::remove::<Route>(key, new)]);
    assert!(gateways().is_empty());
}

/// As networkd and NetworkManager do at each lease: their route comes to stand behind the one in use.
fn a_route_that_a_dhcp_client_adds_again_is_no_hindrance_for_putting_it_back() {
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    let lease = "default via 10.9.0.3 dev v0 proto dhcp src 10.9.0.1 metric";
    for metric in [1024, 100] {
        netns.ip(&format!("route add {lease} {metric}"));
        let found = netns.look(&[]).state.routes[&route_key("default")].clone();
        let change =
            Edit::change::<Route>(route_key("default"), found, via("10.9.0.2", "v0", 1024));
        netns.do_all(vec![change.clone()]);
        netns.ip(&format!("route append {lease} {metric}"));
        let back = change.inverse().unwrap();
        if metric == 1024 {
            let outcome = netns.do_all(vec![back]);
            assert!(outcome.after.state.routes[&route_key("default")].protocol == 16);
        } else {
            // A lower metric is in use at once: the plan sees it, and does not take it for lvsprov's.
            netns.fails(back, "expected via 10.9.0.2 dev v0 metric 1024, found via 10.9.0.3");
            netns.ip("route del default metric 1024");
        }
        assert_eq!(routes_in_ip(&netns, "default"), [json!(["default", "10.9.0.3", "v0", metric])]);
        netns.ip("route del default");
    }
}

fn a_route_that_could_not_be_put_back_is_shown_and_not_replaced() {
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    for (made, shows) in [
        ("default proto static nexthop via 10.9.0.3 nexthop via 10.9.0.4", "2 next hops"),
        ("default proto static via 10.9.0.3 dev v0 mtu 1400", "1400"),
        ("blackhole default proto static", "blackhole"),
    ] {
        netns.ip(&format!("route add {made}"));
        let before = netns.look(&[]).state.routes[&route_key("default")].clone();
        assert!(before.unsupported.join(" ").to_lowercase().contains(shows), "{before:?}");
        let change = Edit::change::<Route>(route_key("default"), before, via("10.9.0.2", "v0", 0));
        netns.fails(change, "lvsprov could not restore");
        netns.ip("route del default");
    }
}

fn what_the_reader_sees_is_what_ip_sees() {
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    netns.ip("link add v0.100 type veth peer name v1.100");
    netns.ip("address add 192.0.2.1/32 dev lo label lo:1");
    netns.ip("route add 198.51.100.0/24 via 10.9.0.9 onlink dev v0 metric 7 src 10.9.0.1");
    netns.ip("route add 198.51.100.0/24 via 10.9.0.8 dev v0 metric 9");
    netns.ip("route add table 77 203.0.113.0/24 dev v0");
    netns.ip("-6 address add 2001:db8::1/64 dev v0 nodad");
    // A carrier makes the kernel add a link-local address a moment later.
    eventually("link-local addresses", || {
        let tentative = netns.ip("-6 address show tentative");
        tentative.trim().is_empty() && netns.ip("-6 address show").matches("fe80").count() == 2
    });
    let seen = netns.look(&[]);

    let links: Vec<String> = netns
        .ip_json("link show")
        .iter()
        .map(|link| link["ifname"].as_str().unwrap().to_owned())
        .collect();
    let mut ours: Vec<_> = seen.state.links.keys().map(ToString::to_string).collect();
    ours.sort_by_key(|name| links.iter().position(|link| link == name));
    assert_eq!(ours, links);

    let mut addresses = Vec::new();
    for link in netns.ip_json("address show") {
        for info in link["addr_info"].as_array().unwrap() {
            let (ip, length) = (info["local"].as_str().unwrap(), &info["prefixlen"]);
            addresses.push(format!("{ip}/{length}@{}", link["ifname"].as_str().unwrap()));
        }
        if let Some(mac) =
            seen.facts.hardware.get(&link["ifname"].as_str().unwrap().parse().unwrap())
        {
            assert_eq!(link["address"], **mac);
        }
    }
    addresses.sort();
    let mut ours: Vec<_> = seen.state.addresses.keys().map(ToString::to_string).collect();
    ours.sort();
    assert_eq!(ours, addresses);

    let mut ours: Vec<_> = seen
        .state
        .routes
        .keys()
        .map(ToString::to_string)
        .filter(|key| !key.contains("fe80"))
        .collect();
    ours.sort();
    assert_eq!(ours, ["10.9.0.0/24", "198.51.100.0/24", "2001:db8::/64"]);
    let best = &seen.state.routes[&route_key("198.51.100.0/24")];
    let expected = Route {
        onlink: true,
        protocol: 3,
        source: Some([10, 9, 0, 1].into()),
        ..via("10.9.0.9", "v0", 7)
    };
    assert_eq!(*best, expected);
    assert_eq!(seen.facts.hardware.len(), 4);
    assert_eq!(
        seen.facts.kernel,
        crate::support::netns_host::run(Command::new("uname").arg("-r")).trim()
    );
    assert_eq!(
        seen.facts.machine,
        crate::support::netns_host::run(Command::new("uname").arg("-m")).trim()
    );
}
