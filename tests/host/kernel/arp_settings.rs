//! `arp_ignore` and `arp_announce` of a real server, value by value, against the running kernel: which requests it answers, and
//! which sender its own name. What lvsprov accepts is what serves here.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use lvsprov::desired::desired_for;
use lvsprov::kernel::arp::{ArpFrame, ArpListener, Operation};
use lvsprov::state::{AcceptedValues, ConfItem, Sysctl};
use lvsprov::topology;

use crate::support::cases::{Case, cases};
use crate::support::netns_host::{NetnsHost, eventually};

pub fn cases() -> Vec<Case> {
    cases![
        a_real_server_answers_as_arp_ignore_says,
        a_real_server_names_the_sender_that_arp_announce_says
    ]
}

const RIP: &str = "192.0.2.3";
const VIP: &str = "192.0.2.80";
/// A sender in the real server's subnet, and one in no subnet of it.
const NEAR: &str = "192.0.2.2";
const FAR: &str = "198.51.100.2";

/// A real server with the VIP on lo, and its neighbour.
fn two() -> (NetnsHost, NetnsHost) {
    let (server, neighbour) = NetnsHost::two("192.0.2.3/24", "192.0.2.2/24");
    server.ip("address add 192.0.2.80/32 dev lo scope host");
    server.set_sysctl("conf/all/rp_filter", "0");
    server.set_sysctl("conf/v0/rp_filter", "0");
    neighbour.ip("address add 198.51.100.2/32 dev v0");
    (server, neighbour)
}

/// Sends a datagram, and returns the ARP frames until a request for its target was seen, and what came at once after it.
fn frames(from: &NetnsHost, source: &str, target: &str) -> Vec<ArpFrame> {
    let (source, target): (Ipv4Addr, Ipv4Addr) = (source.parse().unwrap(), target.parse().unwrap());
    from.ip("neigh flush all");
    let listener = from.run(|| ArpListener::open(&"v0".parse().unwrap()).unwrap());
    from.run(|| {
        let socket = UdpSocket::bind((source, 0)).unwrap();
        socket.send_to(b"?", (target, 9)).unwrap();
    });
    let mut frames = Vec::new();
    let asks = |frame: &ArpFrame| frame.outgoing && frame.target_ip == target;
    eventually("a request", || {
        frames.extend(listener.collect().unwrap());
        frames.iter().any(asks)
    });
    // On a veth the answer is made while the request is sent.
    std::thread::sleep(Duration::from_millis(100));
    frames.extend(listener.collect().unwrap());
    frames
}

fn is_answered(from: &NetnsHost, source: &str, target: &str) -> bool {
    let target_ip: Ipv4Addr = target.parse().unwrap();
    let answers = |frame: &ArpFrame| {
        !frame.outgoing && frame.operation == Operation::Reply && frame.sender_ip == target_ip
    };
    frames(from, source, target).iter().any(answers)
}

/// What the file accepts on a real server whose director has this address.
fn accepted(director: &str) -> AcceptedValues {
    let text = format!(
        "version: 1
name: arp
networks: {{lan: [192.0.2.0/24, 192.0.0.0/16]}}
hosts:
  lvs: {{role: director, interfaces: {{v0: {director}}}}}
  web: {{role: real_server, interfaces: {{v0: {RIP}/24}}}}
services:
  - {{vip: {VIP}, port: 80, forward: dr, real_servers: [web]}}
"
    );
    let topology = topology::read("arp.yaml", &text).topology.unwrap();
    let desired = desired_for(&topology, &topology.hosts[&"web".parse().unwrap()]);
    desired.accepted[&Sysctl::all(ConfItem::ArpIgnore)].clone()
}

fn a_real_server_answers_as_arp_ignore_says() {
    let (server, neighbour) = two();
    let (of_near, of_wider) = (accepted("192.0.2.2/24"), accepted("192.0.2.2/16"));
    for value in 0..=9 {
        let value = value.to_string();
        server.set_sysctl("conf/all/arp_ignore", &value);
        let own = is_answered(&neighbour, NEAR, RIP);
        let own_of_far = is_answered(&neighbour, FAR, RIP);
        let vip = is_answered(&neighbour, NEAR, VIP);
        let vip_of_far = is_answered(&neighbour, FAR, VIP);
        let expected = match value.as_str() {
            "1" | "3" => (true, true, false, false),
            "2" => (true, false, false, false),
            "8" => (false, false, false, false),
            _ => (true, true, true, true),
        };
        assert_eq!((own, own_of_far, vip, vip_of_far), expected, "arp_ignore {value}");
        if value == "3" {
            // The recipes in circulation put the VIP on lo with the scope that it gets by itself.
            server.ip("address del 192.0.2.80/32 dev lo");
            server.ip("address add 192.0.2.80/32 dev lo scope global");
            assert!(is_answered(&neighbour, NEAR, VIP), "arp_ignore 3 hides no global address");
            server.ip("address del 192.0.2.80/32 dev lo");
            server.ip("address add 192.0.2.80/32 dev lo scope host");
            continue;
        }
        let right = own && !vip;
        assert_eq!(of_near.serves_anywhere(&value), right, "arp_ignore {value}");
        let right = right && own_of_far && !vip_of_far;
        assert_eq!(of_wider.serves_anywhere(&value), right, "arp_ignore {value}, a wider subnet");
    }
    assert!(!of_near.serves_anywhere("3") && !of_wider.serves_anywhere("3"));
}

/// 2 is the only value that never names the VIP: 3 is none that is stricter.
fn a_real_server_names_the_sender_that_arp_announce_says() {
    let (server, _neighbour) = two();
    server.ip("address add 203.0.113.80/32 dev lo scope host");
    for (value, near, far) in [
        ("0", VIP, "203.0.113.80"),
        ("1", VIP, RIP),
        ("2", RIP, RIP),
        ("3", VIP, "203.0.113.80"),
        ("8", VIP, "203.0.113.80"),
    ] {
        server.set_sysctl("conf/all/arp_announce", value);
        for (source, named) in [(VIP, near), ("203.0.113.80", far)] {
            let target: Ipv4Addr = NEAR.parse().unwrap();
            let frames = frames(&server, source, NEAR);
            let first = frames.iter().find(|frame| frame.outgoing && frame.target_ip == target);
            assert_eq!(first.unwrap().sender_ip.to_string(), named, "arp_announce {value}");
        }
    }
}
