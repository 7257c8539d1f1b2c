//! ARP and test traffic over a cable between two namespaces; the namespaces themselves.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use lvsprov::kernel::arp::{ArpListener, Operation};
use lvsprov::kernel::namespace::{self, EnterError};
use lvsprov::protocol::{Fetched, Reply, Request};
use lvsprov::state::Protocol;

use crate::support::cases::{Case, cases};
use crate::support::netns_host::{NetnsHost, eventually};

pub fn cases() -> Vec<Case> {
    cases![
        everybody_who_has_an_address_is_named,
        who_has_refuses_what_cannot_be_asked,
        who_has_an_ipv6_address_is_named_and_lo_is_silent,
        a_listener_hears_both_sides_from_another_thread,
        tcp_answers_are_counted_by_who_gave_them,
        udp_answers_are_counted_by_who_gave_them,
        failures_are_counted_by_their_reason,
        a_process_with_threads_does_not_enter_a_namespace,
        a_namespace_is_left_as_soon_as_the_work_is_done
    ]
}

fn mac(netns: &NetnsHost, dev: &str) -> String {
    netns.ip_json(&format!("link show {dev}"))[0]["address"].as_str().unwrap().to_owned()
}

fn who_has(netns: &NetnsHost, target: &str, wait_ms: u32) -> Reply {
    let (dev, target) = ("v0".parse().unwrap(), target.parse().unwrap());
    netns.ask(Request::WhoHas { dev, target, wait_ms })
}

fn everybody_who_has_an_address_is_named() {
    let (a, b) = NetnsHost::two("192.0.2.1/24", "192.0.2.2/24");
    // A second machine behind the same cable: its interface is a macvlan on b's.
    b.ip("link add m0 link v0 type macvlan mode bridge");
    b.ip("link set m0 up");
    b.ip("address add 192.0.2.53/32 dev lo");
    let answered = |reply: Reply| match reply {
        Reply::Answered(macs) => macs.into_iter().collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    // Until arp_ignore is set both interfaces answer for an address on lo.
    let mut both = vec![mac(&b, "v0"), mac(&b, "m0")];
    both.sort();
    assert_eq!(answered(who_has(&a, "192.0.2.53", 1000)), both);
    b.set_sysctl("conf/v0/arp_ignore", "1");
    assert_eq!(answered(who_has(&a, "192.0.2.53", 1000)), [mac(&b, "m0")]);
    b.set_sysctl("conf/m0/arp_ignore", "1");
    assert!(answered(who_has(&a, "192.0.2.53", 300)).is_empty());
    // Our own answer is none.
    assert!(answered(who_has(&a, "192.0.2.1", 300)).is_empty());
}

fn who_has_refuses_what_cannot_be_asked() {
    let netns = NetnsHost::with_pair("192.0.2.1/24");
    let refused = |dev: &str, target: &str, wait_ms| {
        let (dev, target) = (dev.parse().unwrap(), target.parse().unwrap());
        match netns.ask(Request::WhoHas { dev, target, wait_ms }) {
            Reply::Refused(failure) => failure.message,
            other => panic!("{other:?}"),
        }
    };
    assert!(refused("v9", "192.0.2.2", 10).contains("no interface v9"));
    assert!(refused("lo", "192.0.2.2", 10).contains("does not speak ARP"));
    assert!(refused("v9", "2001:db8::2", 10).contains("no interface v9"));
    assert!(refused("lo", "2001:db8::2", 10).contains("no hardware address"));
    assert!(refused("v0", "192.0.2.2", 0).contains("1 to 10000"));
    netns.ip("link set v0 down");
    assert!(refused("v0", "192.0.2.2", 10).contains("is down"));
    assert!(refused("v0", "2001:db8::2", 10).contains("is down"));
}

fn who_has_an_ipv6_address_is_named_and_lo_is_silent() {
    let (a, b) = NetnsHost::two("192.0.2.1/24", "192.0.2.2/24");
    a.ip("address add 2001:db8::1/64 dev v0 nodad");
    b.ip("address add 2001:db8::2/64 dev v0 nodad");
    b.ip("address add 2001:db8::53/128 dev lo");
    let answered = |target: &str| match who_has(&a, target, 500) {
        Reply::Answered(macs) => macs.into_iter().collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(answered("2001:db8::2"), [mac(&b, "v0")]);
    // What is on another interface is not answered for: no setting is needed (RFC 4861, 7.2.3).
    assert!(answered("2001:db8::53").is_empty());
    b.ip("address add 2001:db8::53/128 dev v0 nodad");
    assert_eq!(answered("2001:db8::53"), [mac(&b, "v0")]);
    assert!(answered("2001:db8::1").is_empty(), "our own answer is none");
}

fn a_listener_hears_both_sides_from_another_thread() {
    let (a, b) = NetnsHost::two("192.0.2.1/24", "192.0.2.2/24");
    let dev = "v0".parse().unwrap();
    let at_b = b.run(|| ArpListener::open(&dev)).unwrap();
    assert_eq!(at_b.collect().unwrap(), []);
    let Reply::Answered(macs) = who_has(&a, "192.0.2.2", 300) else { panic!("not answered") };
    let heard = at_b.collect().unwrap();
    let asked = heard.iter().find(|frame| frame.operation == Operation::Request).unwrap();
    assert!(!asked.outgoing);
    assert_eq!(asked.sender_ip.to_string(), "192.0.2.1");
    assert_eq!(asked.target_ip.to_string(), "192.0.2.2");
    let answer = heard.iter().find(|frame| frame.operation == Operation::Reply).unwrap();
    assert!(answer.outgoing);
    assert_eq!(answer.sender_ip.to_string(), "192.0.2.2");
    assert!(macs.contains(&answer.sender_mac.to_string()));
    // An announcement that nobody asked for is heard as well.
    b.run(|| {
        let announce = ["-A", "-c", "1", "-I", "v0", "192.0.2.2"];
        let _ = std::process::Command::new("arping").args(announce).output();
    });
    let mut heard = Vec::new();
    eventually("the announcement", || {
        heard.extend(at_b.collect().unwrap());
        heard.iter().any(|frame| frame.outgoing && frame.sender_ip == frame.target_ip)
    });
    assert!(!at_b.wait(Duration::from_millis(1)).unwrap() || !at_b.collect().unwrap().is_empty());
}

fn fetch(
    netns: &NetnsHost,
    target: &str,
    protocol: Protocol,
    count: u32,
    timeout_ms: u32,
) -> Fetched {
    let target = target.parse().unwrap();
    match netns.ask(Request::Fetch { target, protocol, count, timeout_ms }) {
        Reply::Fetched(fetched) => fetched,
        other => panic!("{other:?}"),
    }
}

fn counts(pairs: &[(&str, u32)]) -> BTreeMap<String, u32> {
    pairs.iter().map(|(text, count)| ((*text).to_owned(), *count)).collect()
}

fn tcp_answers_are_counted_by_who_gave_them() {
    let (a, b) = NetnsHost::two("192.0.2.1/24", "192.0.2.2/24");
    let listener = b.run(|| TcpListener::bind("192.0.2.2:80")).unwrap();
    let answers = ["HTTP/1.0 200 OK\r\nA: b\r\n\r\nweb1\n", "web2\r\n", "", "web2\n"];
    let server = std::thread::spawn(move || {
        let mut ports = std::collections::BTreeSet::new();
        for answer in answers {
            let (mut stream, peer) = listener.accept().unwrap();
            ports.insert(peer.port());
            let mut request = [0; 64];
            let length = stream.read(&mut request).unwrap();
            assert_eq!(&request[..length], b"GET / HTTP/1.0\r\n\r\n");
            stream.write_all(answer.as_bytes()).unwrap();
        }
        ports.len()
    });
    let fetched = fetch(&a, "192.0.2.2:80", Protocol::Tcp, 4, 10_000);
    assert_eq!(fetched.answers, counts(&[("", 1), ("web1", 1), ("web2", 2)]));
    assert_eq!(fetched.failures, counts(&[]));
    assert_eq!(server.join().unwrap(), 4, "a source port was used twice");
}

fn udp_answers_are_counted_by_who_gave_them() {
    let (a, b) = NetnsHost::two("192.0.2.1/24", "192.0.2.2/24");
    let socket = b.run(|| UdpSocket::bind("192.0.2.2:53")).unwrap();
    let server = std::thread::spawn(move || {
        for name in ["web1", "web2"] {
            let (_, peer) = socket.recv_from(&mut [0; 64]).unwrap();
            socket.send_to(name.as_bytes(), peer).unwrap();
        }
    });
    let fetched = fetch(&a, "192.0.2.2:53", Protocol::Udp, 2, 10_000);
    assert_eq!(fetched.answers, counts(&[("web1", 1), ("web2", 1)]));
    server.join().unwrap();
    let closed = fetch(&a, "192.0.2.2:54", Protocol::Udp, 2, 10_000);
    assert_eq!(closed.failures, counts(&[("refused", 2)]));
}

fn failures_are_counted_by_their_reason() {
    let (a, b) = NetnsHost::two("192.0.2.1/24", "192.0.2.2/24");
    let refused = fetch(&a, "192.0.2.2:81", Protocol::Tcp, 3, 10_000);
    assert_eq!(refused.failures, counts(&[("refused", 3)]));
    // A firewall's refusal is none of the application's host.
    for command in [
        "add table inet t",
        "add chain inet t in { type filter hook input priority 0; }",
        "add rule inet t in tcp dport 82 reject",
    ] {
        let nft = b.run(|| std::process::Command::new("nft").arg(command).status().unwrap());
        assert!(nft.success(), "{command}");
    }
    let rejected = fetch(&a, "192.0.2.2:82", Protocol::Tcp, 2, 10_000);
    assert_eq!(rejected.failures, counts(&[("rejected by 192.0.2.2", 2)]));
    let no_route = fetch(&a, "203.0.113.1:80", Protocol::Tcp, 2, 10_000);
    assert_eq!(no_route.failures, counts(&[("no route", 2)]));
    // Nobody has this address: within the time the kernel is still asking by ARP.
    let late = fetch(&a, "192.0.2.77:80", Protocol::Tcp, 1, 50);
    assert_eq!(late.failures, counts(&[("timed out", 1)]));
    // The kernel of b takes the connection, and nobody ever reads from it.
    let _silent = b.run(|| TcpListener::bind("192.0.2.2:80")).unwrap();
    let silent = fetch(&a, "192.0.2.2:80", Protocol::Tcp, 1, 200);
    assert_eq!(silent.failures, counts(&[("connected, then timed out", 1)]));
    let target = "192.0.2.2:80".parse().unwrap();
    let sctp = Request::Fetch { target, protocol: Protocol::Sctp, count: 1, timeout_ms: 1 };
    assert!(matches!(a.ask(sctp), Reply::Refused(_)));
}

fn a_process_with_threads_does_not_enter_a_namespace() {
    // The test runner has threads. That it works from the start of a process is shown in `vm/kernel`.
    let error = namespace::enter_process("/proc/self/ns/net".as_ref()).unwrap_err();
    assert!(matches!(error, EnterError::Threads { threads } if threads > 1), "{error}");
}

fn a_namespace_is_left_as_soon_as_the_work_is_done() {
    let netns = NetnsHost::with_pair("192.0.2.1/24");
    let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let there = netns.run(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap());
    assert_ne!(own, there);
    assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), own);
}
