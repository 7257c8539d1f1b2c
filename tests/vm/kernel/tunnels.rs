//! GRE devices, GUE ports, and the modules of both.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::Duration;

use lvsprov::kernel;
use lvsprov::state::{Capability, Edit, GuePort, Link, Module, Present, TunnelDevice, TunnelKind};
use serde_json::{Value, json};

use super::modules::loaded;
use crate::support::netns_host::{NetnsHost, eventually};

/// Looking finds every module loadable and loads none; loading brings what it says.
pub fn every_module_is_loaded() {
    let netns = NetnsHost::new();
    let all = [
        (Module::Sit, "sit"),
        (Module::Ip6Tnl, "ip6_tunnel"),
        (Module::IpGre, "ip_gre"),
        (Module::Ip6Gre, "ip6_gre"),
        (Module::Fou6, "fou6"),
        (Module::Fou, "fou"),
        (Module::NfTables, "nf_tables"),
        (Module::IpVsFtp, "ip_vs_ftp"),
    ];
    for (module, name) in all {
        assert!(!loaded(name) || name == "fou", "start without {name}");
        let seen = netns.look(&[]);
        // fou6 brought fou.
        let expected = if name == "fou" { Capability::Present } else { Capability::Loadable };
        assert_eq!(*seen.facts.capability(module), expected, "{name}");
        assert!(!loaded(name) || name == "fou", "looking loaded {name}");
        assert!(seen.state.gue_ports.is_empty());
        let outcome = netns.do_all(vec![Edit::add::<Module>(module, Present)]);
        assert!(loaded(name), "{name}");
        assert_eq!(*outcome.after.facts.capability(module), Capability::Present);
        assert!(outcome.after.state.modules.contains(&module));
        if let Some(dev) = module.device() {
            assert_eq!(outcome.after.state.links[&dev.parse().unwrap()], Link::Down, "{dev}");
        }
    }
    // Their wildcard devices are none of ours.
    assert!(netns.look(&[]).state.tunnels.is_empty());
    assert_eq!(kernel::modules::capability(Module::Fou6), Capability::Present);
}

fn gre(local: &str, checksum: bool) -> TunnelDevice {
    let local: std::net::IpAddr = local.parse().unwrap();
    let kind = if local.is_ipv4() { TunnelKind::Gre } else { TunnelKind::Ip6gre };
    TunnelDevice { kind, local, checksum }
}

fn add(dev: &str, device: TunnelDevice) -> Edit {
    Edit::add::<TunnelDevice>(dev.parse().unwrap(), device)
}

/// What `ip -d link` says of a device: its kind, and its data without what is not set.
fn in_ip(netns: &NetnsHost, dev: &str) -> (Value, Value) {
    let link = netns.ip_json(&format!("link show dev {dev}")).remove(0);
    assert!(!link["flags"].as_array().unwrap().contains(&"UP".into()), "{link}");
    (link["linkinfo"]["info_kind"].clone(), link["linkinfo"]["info_data"].clone())
}

pub fn gre_devices() {
    let netns = NetnsHost::with_lo();
    let steps = vec![
        add("lvs-plain", gre("192.0.2.1", false)),
        add("lvs-sum", gre("192.0.2.2", true)),
        add("lvs-six", gre("2001:db8::1", false)),
        add("lvs-six-sum", gre("2001:db8::2", true)),
    ];
    let outcome = netns.do_all(steps.clone());
    for step in &steps {
        let (dev, device) = step.added::<TunnelDevice>().unwrap();
        assert_eq!(outcome.after.state.tunnels[dev], *device);
        assert_eq!(outcome.after.state.links[dev], Link::Down);
        let (kind, data) = in_ip(&netns, dev.as_str());
        assert_eq!(kind, device.kind.to_string());
        assert_eq!((&data["remote"], &data["local"]), (&json!("any"), &json!(device.local)));
        for sum in ["icsum", "ocsum"] {
            assert_eq!(data.get(sum), device.checksum.then_some(&json!(true)), "{dev}: {data}");
        }
    }
    assert_eq!(outcome.after.state.tunnels.len(), 4);
    netns.fails(steps[0].clone(), "expected nothing, found gre local 192.0.2.1");
    let failure = netns.fails(add("lvs-more", gre("192.0.2.1", false)), "cannot add tunnel");
    assert!(failure.cure.unwrap().contains("already"));
    let other = add("lvs-plain", gre("192.0.2.1", true)).inverse().unwrap();
    netns.fails(other, "found gre local 192.0.2.1");
    netns.do_all(steps.iter().rev().map(|step| step.inverse().unwrap()).collect());
    assert!(netns.look(&[]).state.tunnels.is_empty());
    assert!(!netns.ip("link show").contains("lvs-"));
    netns.fails(steps[0].inverse().unwrap(), "found nothing");
}

/// Only what takes packets from anybody to one address is one of ours; of those also what a person made.
pub fn gre_devices_of_others() {
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    for made in [
        "g1 type gre remote 192.0.2.9 local 192.0.2.1",
        "g2 type gre local 192.0.2.1 key 7",
        "g3 type gre local 192.0.2.1 dev v0",
        "g4 type gre local 192.0.2.3 icsum",
        "g5 type gretap remote 192.0.2.9 local 192.0.2.4",
        "g6 type ip6gre remote 2001:db8::9 local 2001:db8::1",
        "g7 type ipip local 192.0.2.5",
        "g8 type gre external",
        "theirs type gre local 192.0.2.6 icsum ocsum ttl 3",
        "theirs6 type ip6gre local 2001:db8::6",
    ] {
        netns.ip(&format!("link add {made}"));
    }
    let seen = netns.look(&[]).state;
    let (v4, v6) = (gre("192.0.2.6", true), gre("2001:db8::6", false));
    let expected = [("theirs".parse().unwrap(), v4), ("theirs6".parse().unwrap(), v6)].into();
    assert_eq!(seen.tunnels, expected);
    netns.fails(add("g1", gre("192.0.2.1", false)), "an interface of another kind");
    let remove = add("g7", gre("192.0.2.5", false)).inverse().unwrap();
    netns.fails(remove, "an interface of another kind");
    assert!(netns.ip("link show dev g7").contains("ipip"));
}

/// Each case can run alone.
fn load(netns: &NetnsHost, modules: &[Module]) {
    netns.do_all(modules.iter().map(|module| Edit::add::<Module>(*module, Present)).collect());
}

const VIP: &str = "172.18.253.53";
const VIP6: &str = "2001:db8::53";

/// Two hosts with a cable; the first has both VIPs.
fn two_with_a_vip() -> (NetnsHost, NetnsHost) {
    let (host, sender) = NetnsHost::two("10.9.0.1/24", "10.9.0.2/24");
    for (netns, address) in [(&host, "fd09::1/64"), (&sender, "fd09::2/64")] {
        netns.ip(&format!("address add {address} dev v0 nodad"));
    }
    host.ip(&format!("address add {VIP}/32 dev lo"));
    host.ip(&format!("address add {VIP6}/128 dev lo"));
    (host, sender)
}

/// A packet in GRE comes out of the device: what the real server's side is for.
pub fn gre_is_unwrapped() {
    for (local, remote, checksum) in [
        ("10.9.0.1", "10.9.0.2", false),
        ("10.9.0.1", "10.9.0.2", true),
        ("fd09::1", "fd09::2", true),
    ] {
        let (host, sender) = two_with_a_vip();
        let dev = "lvs-gre";
        let (down, up) = (Link::Down, Link::Up);
        host.do_all(vec![
            add(dev, gre(local, checksum)),
            Edit::change::<Link>(dev.parse().unwrap(), down, up),
        ]);
        host.set_sysctl("conf/all/rp_filter", "0");
        host.set_sysctl(&format!("conf/{dev}/rp_filter"), "0");
        let kind = gre(local, checksum).kind;
        let sums = if checksum { " icsum ocsum" } else { "" };
        sender.ip(&format!("link add out type {kind} local {remote} remote {local}{sums}"));
        sender.ip("link set out up");
        sender.ip(&format!("route add {VIP} dev out src 10.9.0.2"));
        hello(&host, &sender, "10.9.0.2", VIP);
        let received = &host.ip_json(&format!("-s link show {dev}"))[0]["stats64"]["rx"];
        assert!(received["packets"].as_u64().unwrap() > 0, "{received}");
    }
}

/// A datagram to the `vip` of `host` arrives, sooner or later.
fn hello(host: &NetnsHost, sender: &NetnsHost, source: &str, vip: &str) {
    let at_vip = host.run(|| UdpSocket::bind((vip, 5000)).unwrap());
    at_vip.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let client = sender.run(|| UdpSocket::bind((source, 0)).unwrap());
    let mut buffer = [0; 16];
    eventually("a packet out of the tunnel", || {
        client.send_to(b"hello", (vip, 5000)).unwrap();
        at_vip.recv_from(&mut buffer).is_ok()
    });
    assert!(buffer.starts_with(b"hello"));
}

/// IPv4 in GUE over IPv4, to `tunl0`; and IPv6 in GUE over IPv6, to `ip6tnl0`.
pub fn gue_is_unwrapped() {
    for (port_text, device, out, source, vip) in [
        ("udp4 6080", "tunl0", "ipip local 10.9.0.2 remote 10.9.0.1", "10.9.0.2", VIP),
        (
            "udp6 6080",
            "ip6tnl0",
            "ip6tnl mode ip6ip6 local fd09::2 remote fd09::1 encaplimit none",
            "fd09::2",
            VIP6,
        ),
    ] {
        let (host, sender) = two_with_a_vip();
        let dev = device.parse().unwrap();
        load(&host, &[Module::Fou6, Module::Ipip, Module::Ip6Tnl]);
        host.do_all(vec![
            Edit::add::<GuePort>(port(port_text), Present),
            Edit::change::<Link>(dev, Link::Down, Link::Up),
        ]);
        host.set_sysctl("conf/all/rp_filter", "0");
        host.set_sysctl(&format!("conf/{device}/rp_filter"), "0");
        let encap = "encap gue encap-sport auto encap-dport 6080";
        sender.ip(&format!("link add out type {out} {encap}"));
        sender.ip("link set out up");
        sender.ip(&format!("route add {vip} dev out src {source}"));
        hello(&host, &sender, source, vip);
    }
}

fn port(text: &str) -> GuePort {
    text.parse().unwrap()
}

/// What `ip fou` says: family and port, of what is GUE.
fn gue_in_ip(netns: &NetnsHost) -> BTreeSet<String> {
    let ports: Vec<Value> = serde_json::from_str(&netns.ip("-j fou show")).unwrap();
    let gue = ports.iter().filter(|port| port.get("gue").is_some());
    gue.map(|port| {
        let family = if port["family"] == "inet6" { "udp6" } else { "udp4" };
        format!("{family} {}", port["port"])
    })
    .collect()
}

pub fn gue_ports() {
    let (netns, other) = (NetnsHost::with_lo(), NetnsHost::with_lo());
    load(&netns, &[Module::Fou]);
    let add = |text: &str| Edit::add::<GuePort>(port(text), Present);
    let steps = vec![add("udp4 6080"), add("udp6 6080"), add("udp4 6081")];
    let seen = netns.do_all(steps.clone()).after.state.gue_ports;
    assert_eq!(seen, ["udp4 6080", "udp4 6081", "udp6 6080"].map(port).into());
    let shown: Vec<_> = gue_in_ip(&netns).into_iter().collect();
    assert_eq!(shown, ["udp4 6080", "udp4 6081", "udp6 6080"]);
    assert!(other.look(&[]).state.gue_ports.is_empty());
    netns.fails(steps[0].clone(), "expected nothing, found the port");
    // What others made: GUE as we make it is seen, another protocol is not touched.
    netns.ip("fou add port 7000 gue");
    netns.ip("fou add port 7001 ipproto 4");
    let seen = netns.look(&[]).state.gue_ports;
    assert!(seen.contains(&port("udp4 7000")) && !seen.contains(&port("udp4 7001")), "{seen:?}");
    netns.fails(add("udp4 7001"), "a port of another protocol");
    netns.fails(add("udp4 7001").inverse().unwrap(), "a port of another protocol");
    assert!(netns.ip("fou show").contains("port 7001 ipproto 4"));
    // A program has the port.
    let taken = netns.run(|| UdpSocket::bind("0.0.0.0:7002").unwrap());
    let failure = netns.fails(add("udp4 7002"), "cannot decapsulate GUE on udp4 7002");
    assert!(failure.cure.unwrap().contains("another port"));
    drop(taken);
    netns.do_all(steps.iter().rev().map(|step| step.inverse().unwrap()).collect());
    assert_eq!(gue_in_ip(&netns).into_iter().collect::<Vec<_>>(), ["udp4 7000"]);
    netns.fails(steps[0].inverse().unwrap(), "found nothing");
}
