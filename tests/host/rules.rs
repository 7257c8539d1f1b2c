//! What rules of `check` say about addresses and routes, shown by the kernel: the mistake that a rule names, and what its page
//! in docs/diagnostics.md tells to do. `vm/rules` has those that need IPVS.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use lvsprov::check;
use lvsprov::kernel::drop_counters;
use lvsprov::lab::capture::{FrameCapture, Mac, claims_of};
use lvsprov::lab::clients::{self, ClientRequest};
use lvsprov::lab::network::Management;
use lvsprov::lab::responders::{self, Endpoint, Responders};
use lvsprov::lab::{self, Lab};
use lvsprov::names::HostName;
use lvsprov::state::Protocol;
use lvsprov::state::examination::DropCounter;

use crate::support::cases::{Case, cases};
use crate::support::netns_host::{NetnsHost, run};
use crate::support::speed;

pub fn cases() -> Vec<Case> {
    cases![
        an_address_with_two_prefix_lengths,
        a_prefix_length_that_covers_another_network,
        one_address_on_two_interfaces,
        one_address_on_two_hosts,
        subnets_of_two_networks_that_overlap,
        an_address_outside_of_its_network,
        two_default_routes,
        a_route_to_everything,
        two_routes_to_one_destination,
        a_next_hop_that_does_not_forward,
        a_host_that_is_its_own_next_hop,
    ]
}

/// Hosts and the file's other words, without services: what `check` says about those does not matter here.
struct Network {
    lab: Lab,
    runtime: tokio::runtime::Runtime,
    _responders: Responders,
}

fn name(host: &str) -> HostName {
    host.parse().unwrap()
}

/// A file of these networks and hosts.
fn file(networks: &str, hosts: &str, services: &str) -> String {
    format!(
        "version: 1\nname: rules\nnetworks: {networks}\nhosts:\n{hosts}services: [{services}]\n"
    )
}

fn rules_of(file: &str) -> BTreeSet<&'static str> {
    let examined = check::examine("rules.yaml", file);
    examined.findings.iter().map(|finding| finding.rule).collect()
}

/// Whether `check` finds this in the broken file, and not in the mended one.
fn tells_apart(rule: &str, broken: &str, mended: &str) {
    assert!(rules_of(broken).contains(rule), "{rule} in {broken}");
    assert!(!rules_of(mended).contains(rule), "{rule} in {mended}");
}

impl Network {
    /// The hosts of the file; `servers` answer on TCP port 80. Also of a file that `check` refuses.
    fn of(file: &str, servers: &[&str]) -> Self {
        lab::isolate().unwrap();
        let topology = lvsprov::topology::read("rules.yaml", file).topology.unwrap();
        let lab = Lab::build(&topology, Management::None).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let endpoint =
            |host: &&str| Endpoint { host: name(host), protocol: Protocol::Tcp, port: 80 };
        let endpoints = servers.iter().map(endpoint).collect();
        let responders = runtime.block_on(responders::start_at(&lab, endpoints)).unwrap();
        Self { lab, runtime, _responders: responders }
    }

    fn ip(&self, host: &str, words: &str) {
        let mut ip = Command::new("ip");
        ip.args(words.split(' '));
        self.lab.run_in(&name(host), || run(&mut ip)).unwrap();
    }

    fn set(&self, host: &str, setting: &str, value: &str) {
        let set = || std::fs::write(format!("/proc/sys/{setting}"), value);
        self.lab.run_in(&name(host), set).unwrap().unwrap();
    }

    fn forward(&self, host: &str) {
        self.set(host, "net/ipv4/ip_forward", "1");
    }

    /// Who answers a request of `host`.
    fn ask(&self, host: &str, to: &str) -> Result<String, String> {
        let request = ClientRequest {
            from: None,
            target: SocketAddr::new(to.parse().unwrap(), 80),
            protocol: Protocol::Tcp,
            patience: speed::scaled(Duration::from_millis(500)),
        };
        let (from, requests) = (name(host), [request]);
        let asking = clients::ask_each(&self.lab, &from, &requests);
        let answer = self.runtime.block_on(asking).unwrap().remove(0);
        println!("{host} asks {to}: {answer:?}");
        answer.map(|it| it.server)
    }

    fn mac(&self, host: &str, interface: &str) -> Mac {
        self.lab.mac_of(&name(host), &interface.parse().unwrap()).unwrap()
    }

    fn macs<const N: usize>(&self, interfaces: [(&str, &str); N]) -> BTreeSet<Mac> {
        interfaces.map(|(host, interface)| self.mac(host, interface)).into()
    }

    /// Who answers when the client looks for an address.
    fn answering(&self, address: &str) -> BTreeSet<Mac> {
        let capture = FrameCapture::start(&self.lab).unwrap();
        self.ip("client", "neigh flush dev eth0");
        self.ask("client", address).unwrap();
        let claims = claims_of(&capture.stop().unwrap(), address.parse().unwrap());
        claims.into_iter().filter(|(_, claim)| claim.replies > 0).map(|(mac, _)| mac).collect()
    }
}

/// Runs `ip` where the kernel refuses it, and returns why.
fn refused(host: &NetnsHost, words: &str) -> String {
    let output = host.run(|| Command::new("ip").args(words.split(' ')).output().unwrap());
    assert!(!output.status.success(), "ip {words} was done");
    String::from_utf8(output.stderr).unwrap()
}

/// The lengths with which a host has an address.
fn lengths(host: &NetnsHost, address: &str) -> Vec<u64> {
    let links = host.ip_json("address show dev v0");
    let all = links[0]["addr_info"].as_array().unwrap();
    let those = all.iter().filter(|it| it["local"] == address);
    those.map(|it| it["prefixlen"].as_u64().unwrap()).collect()
}

const LAN: &str = "{lan: [192.0.2.0/24]}";
const DIRECTOR: &str = "  lvs: {role: director, interfaces: {eth0: 192.0.2.2/24}}
  web1: {role: real_server, interfaces: {eth0: 192.0.2.21/24}}
";

fn service(vip: &str, port: u16) -> String {
    format!("{{vip: {vip}, port: {port}, forward: dr, real_servers: [web1]}}")
}

/// IPv4 keeps both; IPv6 refuses the second.
fn an_address_with_two_prefix_lengths() {
    let two = |vip: &str| {
        file(LAN, DIRECTOR, &[service("192.0.2.80/32", 80), service(vip, 443)].join(", "))
    };
    tells_apart("vip-prefix-differs", &two("192.0.2.80/24"), &two("192.0.2.80/32"));
    let host = NetnsHost::with_pair("192.0.2.2/24");
    host.ip("address add 192.0.2.80/32 dev v0");
    host.ip("address add 192.0.2.80/24 dev v0");
    assert_eq!(lengths(&host, "192.0.2.80"), [32, 24]);
    host.ip("address del 192.0.2.80/32 dev v0");
    assert_eq!(lengths(&host, "192.0.2.80"), [24], "it is still there");
    host.ip("address add 2001:db8::80/128 dev v0 nodad");
    refused(&host, "address add 2001:db8::80/64 dev v0 nodad");
    assert_eq!(lengths(&host, "2001:db8::80"), [128]);
}

/// The director asks for hosts of the other network by ARP on its own.
fn a_prefix_length_that_covers_another_network() {
    const HOSTS: &str =
        "  client: {role: client, interfaces: {eth0: 192.0.3.10/24}, gateway: router}
  router: {role: router, interfaces: {eth0: 192.0.3.1/24, eth1: 192.0.2.1/24}}
  lvs: {role: director, interfaces: {eth0: 192.0.2.2/24}, gateway: router}
  web1: {role: real_server, interfaces: {eth0: 192.0.2.21/24}, gateway: router}
";
    const NETWORKS: &str = "{lan: [192.0.2.0/24], outside: [192.0.3.0/24]}";
    let with = |vip: &str| file(NETWORKS, HOSTS, &service(vip, 80));
    tells_apart("vip-mask-overlaps", &with("192.0.2.80/16"), &with("192.0.2.80"));
    let network = Network::of(&with("192.0.2.80"), &["client"]);
    network.forward("router");
    network.ip("client", "route add default via 192.0.3.1");
    network.ip("lvs", "route add default via 192.0.2.1");
    network.ip("lvs", "address add 192.0.2.80/16 dev eth0");
    assert!(network.ask("lvs", "192.0.3.10").is_err());
    network.ip("lvs", "address del 192.0.2.80/16 dev eth0");
    network.ip("lvs", "address add 192.0.2.80/32 dev eth0");
    assert_eq!(network.ask("lvs", "192.0.3.10"), Ok("client".to_owned()));
}

/// An address belongs to the host: with two interfaces on one network both answer for it.
fn one_address_on_two_interfaces() {
    const HOSTS: &str = "  client: {role: client, interfaces: {eth0: 192.0.2.10/24}}
  lvs: {role: director, interfaces: {eth0: 192.0.2.2/24, eth1: {addresses: 192.0.2.3/24, network: lan}}}
  web1: {role: real_server, interfaces: {eth0: 192.0.2.21/24}}
";
    let with = |interface: &str| {
        let on = |port: u16, interface: &str| {
            service("192.0.2.80", port)
                .replace("forward", &format!("vip_interface: {interface}, forward"))
        };
        file(LAN, HOSTS, &[on(80, "eth0"), on(443, interface)].join(", "))
    };
    tells_apart("vip-interface-differs", &with("eth1"), &with("eth0"));
    let network = Network::of(&with("eth0"), &["lvs"]);
    // Strict source validation drops the question on the interface by which no route leads back.
    network.set("lvs", "net/ipv4/conf/all/rp_filter", "0");
    network.ip("lvs", "address add 192.0.2.80/32 dev eth0");
    assert_eq!(network.answering("192.0.2.80"), network.macs([("lvs", "eth0"), ("lvs", "eth1")]));
    network.set("lvs", "net/ipv4/conf/all/arp_ignore", "1");
    assert_eq!(network.answering("192.0.2.80"), network.macs([("lvs", "eth0")]));
    network.ip("lvs", "address add 192.0.2.80/32 dev eth1");
    assert_eq!(network.answering("192.0.2.80"), network.macs([("lvs", "eth0"), ("lvs", "eth1")]));
}

/// Both answer ARP, and each takes what reaches it.
fn one_address_on_two_hosts() {
    const ADDRESS: &str = "192.0.2.21";
    let hosts = |second: &str| {
        format!(
            "  client: {{role: client, interfaces: {{eth0: 192.0.2.10/24}}}}
{DIRECTOR}  web2: {{role: real_server, interfaces: {{eth0: {second}/24}}}}
"
        )
    };
    let with = |second: &str| {
        file(
            LAN,
            &hosts(second),
            "{vip: 192.0.2.80, port: 80, forward: dr, real_servers: [web1, web2]}",
        )
    };
    tells_apart("duplicate-address", &with(ADDRESS), &with("192.0.2.22"));
    let network = Network::of(&with("192.0.2.22"), &["web1", "web2"]);
    network.ip("web2", "address add 192.0.2.21/24 dev eth0");
    let both = [("web1", "eth0"), ("web2", "eth0")];
    assert_eq!(network.answering(ADDRESS), network.macs(both));
    for server in ["web1", "web2"] {
        let mac = network.mac(server, "eth0");
        let words = format!("neigh replace {ADDRESS} lladdr {mac} dev eth0 nud permanent");
        network.ip("client", &words);
        assert_eq!(network.ask("client", ADDRESS), Ok(server.to_owned()));
    }
    network.ip("client", &format!("neigh del {ADDRESS} dev eth0"));
    network.ip("web2", "address del 192.0.2.21/24 dev eth0");
    assert_eq!(network.answering(ADDRESS), network.macs([("web1", "eth0")]));
}

/// A host of one network looks for the other's on its own, although a router leads there.
fn subnets_of_two_networks_that_overlap() {
    let with = |far: &str, router: &str, web1: &str| {
        let hosts = format!(
            "  client: {{role: client, interfaces: {{eth0: 192.0.2.10/24}}}}
  lvs: {{role: director, interfaces: {{eth0: 192.0.2.2/24}}}}
  router: {{role: router, interfaces: {{eth0: 192.0.2.1/24, eth1: {{addresses: {router}/25, network: far}}}}}}
  web1: {{role: real_server, interfaces: {{eth0: {{addresses: {web1}/25, network: far}}}}}}
"
        );
        let networks = format!("{{near: [192.0.2.0/24], far: [{far}/25]}}");
        file(&networks, &hosts, &service("192.0.2.80", 80).replace("dr", "tun"))
    };
    let broken = with("192.0.2.128", "192.0.2.129", "192.0.2.130");
    let mended = with("198.51.100.128", "198.51.100.129", "198.51.100.130");
    tells_apart("subnets-overlap", &broken, &mended);
    let network = Network::of(&mended, &["web1"]);
    network.forward("router");
    network.ip("client", "route add default via 192.0.2.1");
    network.ip("web1", "route add default via 198.51.100.129");
    assert_eq!(network.ask("client", "198.51.100.130"), Ok("web1".to_owned()));
    // The same hosts with the other addresses.
    network.ip("router", "address add 192.0.2.129/25 dev eth1");
    network.ip("web1", "address add 192.0.2.130/25 dev eth0");
    assert!(network.ask("client", "192.0.2.130").is_err());
    assert_eq!(network.ask("router", "192.0.2.130"), Ok("web1".to_owned()), "it is there");
}

/// Its neighbours have no route to it, although it is on their segment.
fn an_address_outside_of_its_network() {
    let with = |address: &str| {
        let hosts = DIRECTOR.replace(
            "{eth0: 192.0.2.21/24}",
            &format!("{{eth0: {{addresses: {address}/24, network: lan}}}}"),
        );
        let client = "  client: {role: client, interfaces: {eth0: 192.0.2.10/24}}\n";
        file(LAN, &format!("{client}{hosts}"), &service("192.0.2.80", 80))
    };
    tells_apart("address-outside-network", &with("198.51.100.21"), &with("192.0.2.21"));
    let network = Network::of(&with("192.0.2.21"), &["web1"]);
    assert_eq!(network.ask("client", "192.0.2.21"), Ok("web1".to_owned()));
    network.ip("web1", "address add 198.51.100.21/24 dev eth0");
    assert_eq!(network.ask("client", "198.51.100.21"), Err("no route".to_owned()));
}

/// A host in a subnet with two neighbours, and one in a subnet of IPv6.
fn host_with_two_neighbours() -> NetnsHost {
    let host = NetnsHost::with_pair("192.0.2.2/24");
    host.ip("address add 2001:db8::2/64 dev v0 nodad");
    host
}

/// By which next hop packets to an address go.
fn next_hop(host: &NetnsHost, to: &str) -> String {
    host.ip_json(&format!("route get {to}"))[0]["gateway"].as_str().unwrap().to_owned()
}

/// A second route to `to` is refused; with a larger metric it is kept and does nothing, with a smaller one it takes all.
fn one_route_counts(host: &NetnsHost, to: &str, (first, second): (&str, &str), within: &str) {
    host.ip(&format!("route add {to} via {first} metric 100"));
    let twice = refused(host, &format!("route add {to} via {second} metric 100"));
    assert!(twice.contains("File exists"), "{twice}");
    host.ip(&format!("route add {to} via {second} metric 200"));
    assert_eq!(next_hop(host, within), first);
    host.ip(&format!("route del {to} via {second} metric 200"));
    host.ip(&format!("route add {to} via {second} metric 50"));
    assert_eq!(next_hop(host, within), second);
}

const FOUR: (&str, &str) = ("192.0.2.1", "192.0.2.3");
const SIX: (&str, &str) = ("2001:db8::1", "2001:db8::3");

fn two_default_routes() {
    let with = |gateway: &str| {
        let lvs = format!("eth0: 192.0.2.2/24}}, gateway: {gateway}}}");
        file(LAN, &DIRECTOR.replace("eth0: 192.0.2.2/24}}", &lvs), &service("192.0.2.80", 80))
    };
    tells_apart("two-gateways", &with("[192.0.2.1, 192.0.2.3]"), &with("192.0.2.1"));
    let host = host_with_two_neighbours();
    one_route_counts(&host, "default", FOUR, "198.51.100.9");
    one_route_counts(&host, "default", SIX, "2001:db8:f::9");
}

fn with_routes(routes: &str) -> String {
    let lvs = format!("eth0: 192.0.2.2/24}}, routes: [{routes}]}}");
    file(LAN, &DIRECTOR.replace("eth0: 192.0.2.2/24}}", &lvs), &service("192.0.2.80", 80))
}

/// It is the default route by another name.
fn a_route_to_everything() {
    let to = |destination: &str| with_routes(&format!("{{to: \"{destination}\", via: 192.0.2.1}}"));
    tells_apart("route-is-default", &to("0.0.0.0/0"), &to("198.51.100.0/24"));
    tells_apart("route-is-default", &to("::/0"), &to("198.51.100.0/24"));
    let host = host_with_two_neighbours();
    for (family, everything, (first, second)) in [("-4", "0.0.0.0/0", FOUR), ("-6", "::/0", SIX)] {
        host.ip(&format!("{family} route add {everything} via {first}"));
        assert!(host.ip(&format!("{family} route show default")).contains(first));
        let twice = refused(&host, &format!("{family} route add default via {second}"));
        assert!(twice.contains("File exists"), "{twice}");
    }
}

fn two_routes_to_one_destination() {
    const ONE: &str = "{to: 198.51.100.0/24, via: 192.0.2.1}";
    let two = format!("{ONE}, {{to: 198.51.100.0/24, via: 192.0.2.3}}");
    tells_apart("duplicate-route", &with_routes(&two), &with_routes(ONE));
    let host = host_with_two_neighbours();
    one_route_counts(&host, "198.51.100.0/24", FOUR, "198.51.100.9");
    one_route_counts(&host, "2001:db8:f::/64", SIX, "2001:db8:f::9");
}

/// It drops the packets, and only a counter shows it.
fn a_next_hop_that_does_not_forward() {
    const NETWORKS: &str = "{lan: [192.0.2.0/24], far: [198.51.100.0/24]}";
    let with = |role: &str| {
        let hosts = format!(
            "  client: {{role: client, interfaces: {{eth0: 192.0.2.10/24}}, routes: [{{to: 198.51.100.0/24, via: middle}}]}}
  middle: {{role: {role}, interfaces: {{eth0: 192.0.2.1/24, eth1: 198.51.100.1/24}}}}
{DIRECTOR}  server: {{role: client, interfaces: {{eth0: 198.51.100.9/24}}, gateway: middle}}
"
        );
        file(NETWORKS, &hosts, &service("192.0.2.80", 80))
    };
    tells_apart("route-via-no-router", &with("client"), &with("router"));
    let network = Network::of(&with("client"), &["server"]);
    network.ip("client", "route add 198.51.100.0/24 via 192.0.2.1");
    network.ip("server", "route add default via 198.51.100.1");
    let dropped = || {
        let counters = network.lab.run_in(&name("middle"), || drop_counters::read().unwrap());
        counters.unwrap()[&DropCounter::InAddrErrors]
    };
    let before = dropped();
    assert_eq!(network.ask("client", "198.51.100.9"), Err("timed out".to_owned()));
    assert!(dropped() > before);
    network.forward("middle");
    assert_eq!(network.ask("client", "198.51.100.9"), Ok("server".to_owned()));
}

/// IPv4 makes a route without a gateway of it: all is looked for on the own network. IPv6 refuses it.
fn a_host_that_is_its_own_next_hop() {
    let with = |gateway: &str| {
        let lvs = format!("eth0: 192.0.2.2/24}}, gateway: {gateway}}}");
        file(LAN, &DIRECTOR.replace("eth0: 192.0.2.2/24}}", &lvs), &service("192.0.2.80", 80))
    };
    tells_apart("own-gateway", &with("192.0.2.2"), &with("192.0.2.1"));
    let host = host_with_two_neighbours();
    host.ip("route add default via 192.0.2.2");
    let route = &host.ip_json("route get 198.51.100.9")[0];
    assert_eq!((route.get("gateway"), &route["dev"]), (None, &"v0".into()));
    host.ip("route del default");
    host.ip("route add default via 192.0.2.1");
    assert_eq!(next_hop(&host, "198.51.100.9"), "192.0.2.1");
    refused(&host, "route add default via 2001:db8::2");
    host.ip("route add default via 2001:db8::1");
    assert_eq!(next_hop(&host, "2001:db8:f::9"), "2001:db8::1");
}
