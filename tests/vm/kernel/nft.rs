//! Packet rules together with IPVS: marks that choose a service, and source NAT behind IPVS's own.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use lvsprov::kernel::nft::NftSocket;
use lvsprov::state::{
    Capability, Destination, Edit, ForwardingMethod, Module, PacketRule, PacketRules, Protocol,
    ServiceFlags, Sysctl, VirtualService,
};

use super::services::{add, add_rs, dr, service_key};
use crate::support::netns_host::{NetnsHost, eventually};
use crate::support::nft_tables::{gallery, listed, mark, masquerade, name, nft, put, rules, set};

fn loaded(module: &str) -> bool {
    let modules = fs::read_to_string("/proc/modules").unwrap();
    modules.lines().any(|line| line.split(' ').next() == Some(module))
}

/// Also shows why a look must not even open the socket.
pub fn asking_netfilter_loads_it() {
    let none = || !loaded("nfnetlink") && !loaded("nf_tables");
    assert!(none(), "start from a kernel without nfnetlink and nf_tables");
    let netns = NetnsHost::new();
    let seen = netns.look(&[]);
    assert_eq!(*seen.facts.capability(Module::NfTables), Capability::Loadable);
    assert!(seen.state.tables.is_empty() && seen.facts.foreign_tables.is_empty());
    assert!(none(), "looking loaded a module");
    let mut socket = netns.run(NftSocket::open).unwrap();
    assert!(loaded("nfnetlink") && !loaded("nf_tables"), "what opening the socket loads");
    socket.read().unwrap();
    assert!(loaded("nf_tables"), "what the first message loads");
    let seen = netns.look(&[]);
    assert_eq!(*seen.facts.capability(Module::NfTables), Capability::Present);
    // Other cases start without it.
    drop((socket, netns));
    eventually("nf_tables is unloaded", || {
        let done = Command::new("modprobe").args(["-r", "nf_tables", "nfnetlink"]).status();
        done.unwrap().success() && none()
    });
}

/// Chain types and expressions are modules of their own, which the kernel loads by itself.
pub fn every_packet_rule() {
    assert!(!loaded("nft_chain_nat") && !loaded("nft_masq"));
    let (here, there) = (NetnsHost::new(), NetnsHost::new());
    put(&here, &gallery());
    assert!(loaded("nft_chain_nat") && loaded("nft_masq"));
    nft(&there, &listed(&here));
    assert_eq!(there.look(&[]).state.tables[&name()], gallery());
    nft(&there, "add rule inet lvsprov-t marks counter");
    let drifted = there.look(&[]).state.tables.remove(&name()).unwrap();
    assert!(drifted.rules.iter().any(|rule| matches!(rule, PacketRule::Unknown(_))), "{drifted}");
    put(&there, &gallery());
    here.do_all(vec![set(&here, None)]);
    assert!(here.look(&[]).state.tables.is_empty());
}

const VIP: &str = "192.0.2.80";
const VIP6: &str = "2001:db8::80";
const RIP: &str = "10.0.0.2:8080";
const RIP6: &str = "[2001:db8:1::2]:8080";

/// Long enough for an answer that is not expected.
const SHORT: Duration = Duration::from_secs(3);

/// A client, a director with two VIPs, and a real server that knows no way to the client.
struct Cluster {
    client: NetnsHost,
    director: NetnsHost,
    server: NetnsHost,
}

impl Cluster {
    fn new() -> Self {
        let (client, director) = NetnsHost::two("192.0.2.1/24", "192.0.2.2/24");
        let server = NetnsHost::with_lo();
        director.ip("link add v1 type veth peer name w1");
        director.give("w1", &server);
        for (netns, dev, address) in [
            (&client, "v0", "2001:db8::1/64"),
            (&director, "v0", "2001:db8::2/64"),
            (&director, "v0", "2001:db8::80/128"),
            (&director, "v1", "2001:db8:1::1/64"),
            (&server, "w1", "2001:db8:1::2/64"),
        ] {
            netns.ip(&format!("address add {address} dev {dev} nodad"));
        }
        director.ip("address add 192.0.2.80/32 dev v0");
        director.ip("address add 10.0.0.1/24 dev v1");
        server.ip("address add 10.0.0.2/24 dev w1");
        director.ip("link set v1 up");
        server.ip("link set w1 up");
        director.set_sysctl("ip_forward", "1");
        director.run(|| fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap());
        Self { client, director, server }
    }

    /// As a classic real server of NAT has it.
    fn with_way_back(&self) {
        self.server.ip("route add default via 10.0.0.1");
        self.server.ip("-6 route add default via 2001:db8:1::1");
    }

    /// NAT to the real server.
    fn nat(&self, service: &str, rip: &str) {
        let key = service_key(service);
        let nat = Destination { method: ForwardingMethod::Masquerade, ..dr(1) };
        self.director.do_all(vec![add(&key, "rr"), add_rs(&key, rip, nat)]);
    }

    fn conntrack(&self, value: &str) {
        let key = "net.ipv4.vs.conntrack".parse().unwrap();
        let before = self.director.sysctl("vs/conntrack");
        let after = value.to_owned();
        if before != after {
            self.director.do_all(vec![Edit::change::<Sysctl>(key, before, after)]);
        }
    }

    /// Whom the real server at `rip` sees, when the client asks `to`.
    fn seen_by_tcp(&self, to: &str, rip: &str) -> String {
        let seen = self.try_by_tcp(to, rip, crate::support::speed::patience());
        seen.unwrap_or_else(|| panic!("{to}: no answer"))
    }

    /// `None`: it never answers, not within `patience`.
    fn try_by_tcp(&self, to: &str, rip: &str, patience: Duration) -> Option<String> {
        let (to, rip): (SocketAddr, SocketAddr) = (to.parse().unwrap(), rip.parse().unwrap());
        let listener = self.server.run(|| TcpListener::bind(rip).unwrap());
        listener.set_nonblocking(true).unwrap();
        let connected = self.client.run(|| TcpStream::connect_timeout(&to, patience));
        let Ok(mut asking) = connected else { return None };
        // The client is connected a moment before the server is.
        let mut accepted = None;
        eventually("a connection", || {
            accepted = listener.accept().ok();
            accepted.is_some()
        });
        let (mut serving, peer) = accepted.unwrap();
        serving.write_all(b"x").unwrap();
        asking.set_read_timeout(Some(crate::support::speed::patience())).unwrap();
        asking.read_exact(&mut [0]).unwrap();
        Some(peer.ip().to_string())
    }

    fn seen_by_udp(&self, to: &str, rip: &str) -> String {
        let (to, rip): (SocketAddr, SocketAddr) = (to.parse().unwrap(), rip.parse().unwrap());
        let serving = self.server.run(|| UdpSocket::bind(rip).unwrap());
        let any: IpAddr = if to.is_ipv6() { "::" } else { "0.0.0.0" }.parse().unwrap();
        let asking = self.client.run(|| UdpSocket::bind((any, 0)).unwrap());
        for socket in [&serving, &asking] {
            socket.set_read_timeout(Some(crate::support::speed::patience())).unwrap();
        }
        asking.send_to(b"x", to).unwrap();
        let (_, peer) = serving.recv_from(&mut [0; 9]).unwrap();
        serving.send_to(b"y", peer).unwrap();
        let (_, from) = asking.recv_from(&mut [0; 9]).unwrap();
        assert_eq!(from, to, "the answer comes from the VIP");
        peer.ip().to_string()
    }
}

fn udp_masquerade(vip: &str, rip: &str) -> PacketRule {
    let (vip, rip) = (Some(vip.parse().unwrap()), rip.parse().unwrap());
    PacketRule::Masquerade { vip, rip, protocol: Protocol::Udp, port: 8080 }
}

fn fullnat() -> PacketRules {
    rules([
        masquerade(Some(VIP), "10.0.0.2", 8080),
        masquerade(Some(VIP6), "2001:db8:1::2", 8080),
        udp_masquerade(VIP, "10.0.0.2"),
        udp_masquerade(VIP6, "2001:db8:1::2"),
    ])
}

pub fn fullnat_needs_no_way_back() {
    let cluster = Cluster::new();
    let (web, web6) = (format!("{VIP}:80"), format!("[{VIP6}]:80"));
    for protocol in ["tcp", "udp"] {
        cluster.nat(&format!("{protocol} {web}"), RIP);
        cluster.nat(&format!("{protocol} {web6}"), RIP6);
    }
    cluster.conntrack("1");
    assert_eq!(cluster.try_by_tcp(&web, RIP, SHORT), None, "NAT alone: no way back to the client");
    put(&cluster.director, &fullnat());
    assert_eq!(cluster.seen_by_tcp(&web, RIP), "10.0.0.1");
    assert_eq!(cluster.seen_by_tcp(&web6, RIP6), "2001:db8:1::1");
    assert_eq!(cluster.seen_by_udp(&web, RIP), "10.0.0.1");
    assert_eq!(cluster.seen_by_udp(&web6, RIP6), "2001:db8:1::1");
}

pub fn without_conntrack_the_source_stays_the_clients() {
    let cluster = Cluster::new();
    cluster.with_way_back();
    let (web, web6) = (format!("{VIP}:80"), format!("[{VIP6}]:80"));
    cluster.nat(&format!("tcp {web}"), RIP);
    cluster.nat(&format!("tcp {web6}"), RIP6);
    put(&cluster.director, &fullnat());
    cluster.conntrack("0");
    assert_eq!(cluster.seen_by_tcp(&web, RIP), "192.0.2.1");
    assert_eq!(cluster.seen_by_tcp(&web6, RIP6), "2001:db8::1");
    cluster.conntrack("1");
    assert_eq!(cluster.seen_by_tcp(&web, RIP), "10.0.0.1");
    assert_eq!(cluster.seen_by_tcp(&web6, RIP6), "2001:db8:1::1");
}

/// Connection tracking knows the VIP as the original destination, although IPVS rewrote the packet.
pub fn fullnat_is_for_its_own_vip() {
    let cluster = Cluster::new();
    cluster.with_way_back();
    cluster.conntrack("1");
    cluster.director.ip("address add 192.0.2.81/32 dev v0");
    cluster.nat("tcp 192.0.2.80:80", RIP);
    cluster.nat("tcp 192.0.2.81:80", RIP);
    put(&cluster.director, &rules([masquerade(Some(VIP), "10.0.0.2", 8080)]));
    assert_eq!(cluster.seen_by_tcp("192.0.2.80:80", RIP), "10.0.0.1");
    assert_eq!(cluster.seen_by_tcp("192.0.2.81:80", RIP), "192.0.2.1");
    put(&cluster.director, &rules([masquerade(Some(VIP), "10.0.0.2", 80)]));
    assert_eq!(cluster.seen_by_tcp("192.0.2.80:80", RIP), "192.0.2.1");
    put(&cluster.director, &rules([masquerade(None, "10.0.0.2", 0)]));
    assert_eq!(cluster.seen_by_tcp("192.0.2.81:80", RIP), "10.0.0.1");
}

/// Connection tracking is not told of the real server then, and so takes its answer for something new.
pub fn fullnat_loses_the_answers_of_one_packet_services() {
    let cluster = Cluster::new();
    let key = service_key("udp 192.0.2.80:80");
    let flags = ServiceFlags::new(ServiceFlags::ONE_PACKET);
    let service = VirtualService { flags, ..VirtualService::plain(&key, "rr") };
    let nat = Destination { method: ForwardingMethod::Masquerade, ..dr(1) };
    let service = Edit::add::<VirtualService>(key.clone(), service);
    cluster.director.do_all(vec![service, add_rs(&key, RIP, nat)]);
    cluster.conntrack("1");
    put(&cluster.director, &fullnat());
    let serving = cluster.server.run(|| UdpSocket::bind(RIP).unwrap());
    let asking = cluster.client.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    serving.set_read_timeout(Some(crate::support::speed::patience())).unwrap();
    asking.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    asking.send_to(b"x", "192.0.2.80:80").unwrap();
    let (_, peer) = serving.recv_from(&mut [0; 9]).unwrap();
    assert_eq!(peer.ip().to_string(), "10.0.0.1");
    serving.send_to(b"y", peer).unwrap();
    assert!(asking.recv_from(&mut [0; 9]).is_err(), "an answer came");
}

pub fn marks_choose_a_service() {
    let cluster = Cluster::new();
    cluster.with_way_back();
    cluster.nat("fwmark4 8", RIP);
    cluster.nat("fwmark6 9", RIP6);
    let refused =
        |to: &str| assert_eq!(cluster.try_by_tcp(to, "10.0.0.2:8081", SHORT), None, "{to}");
    refused("192.0.2.80:80");
    let marks = [mark(VIP, &[80, 443], 8), mark(VIP6, &[80], 9)];
    put(&cluster.director, &rules(marks.clone()));
    for to in ["192.0.2.80:80", "192.0.2.80:443"] {
        assert_eq!(cluster.seen_by_tcp(to, RIP), "192.0.2.1", "{to}");
    }
    assert_eq!(cluster.seen_by_tcp("[2001:db8::80]:80", RIP6), "2001:db8::1");
    refused("192.0.2.80:81");
    // The director's own requests never pass prerouting.
    assert!(cluster.director.run(|| TcpStream::connect("192.0.2.80:80")).is_err());
    // Both together: a marked service with source NAT.
    cluster.conntrack("1");
    let masquerade = masquerade(Some(VIP), "10.0.0.2", 8080);
    put(&cluster.director, &rules(marks.into_iter().chain([masquerade])));
    assert_eq!(cluster.seen_by_tcp("192.0.2.80:443", RIP), "10.0.0.1");
}
