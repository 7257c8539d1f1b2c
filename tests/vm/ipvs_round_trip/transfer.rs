//! What does not change lives on: a transfer through one service while the rest of the table becomes
//! another one, again and again.
//!
//! Three namespaces: client, director, and one real server behind it by NAT. Both sides count their
//! bytes: each byte says where in the stream it stands.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lvsprov::kernel::ipvs::Table;
use lvsprov::protocol::{Reply, Request};
use lvsprov::state::{
    Counters, Destination, DestinationKey, ForwardingMethod, ServiceKey, VirtualService,
};

use super::laws::{change, only_what_differs};
use crate::support::any_tables;
use crate::support::netns_host::{NetnsHost, eventually, run};

const CHANGES: usize = 30;
const BLOCK: usize = 4096;

/// The service that does not change, and its real server.
const VIP: &str = "10.1.0.1:7777";
const RIP: &str = "10.2.0.2:7777";
/// One that is done with: its connection is remembered, and counted.
const DONE: &str = "10.1.0.1:7778";

fn key(address: &str) -> ServiceKey {
    format!("tcp {address}").parse().unwrap()
}

fn rip() -> DestinationKey {
    RIP.parse().unwrap()
}

/// Both services, which every table of this test has.
fn witnesses() -> Table {
    let destination = Destination::plain(ForwardingMethod::Masquerade, 1);
    let service = |address| {
        let key = key(address);
        let mut service = VirtualService::plain(&key, "wlc");
        service.destinations.insert(rip(), destination.clone());
        (key, service)
    };
    [VIP, DONE].map(service).into()
}

/// Client, director and real server, with routes between them.
fn three() -> (NetnsHost, NetnsHost, NetnsHost) {
    let (client, director) = NetnsHost::two("10.1.0.2/24", "10.1.0.1/24");
    let server = NetnsHost::with_lo();
    let there = format!("/proc/{}/fd/{}", std::process::id(), server.raw());
    director.run(|| {
        let peer = ["type", "veth", "peer", "name", "v0", "netns", &there];
        run(Command::new("ip").args(["link", "add", "v1"]).args(peer))
    });
    director.ip("address add 10.2.0.1/24 dev v1");
    director.ip("link set v1 up");
    director.set_sysctl("ip_forward", "1");
    server.ip("address add 10.2.0.2/24 dev v0");
    server.ip("link set v0 up");
    server.ip("route add default via 10.2.0.1");
    (client, director, server)
}

/// The bytes of a stream from `position` on. 251 is prime, so a lost or repeated block shows.
fn bytes_at(position: u64) -> Vec<u8> {
    let length = u64::try_from(BLOCK).unwrap();
    (position..position + length).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// Gives every block back, once it is what it should be; says how many bytes there were.
fn serve(listener: &TcpListener) -> u64 {
    let (mut stream, _) = listener.accept().unwrap();
    let mut position = 0;
    let mut block = vec![0; BLOCK];
    loop {
        // The end may come between blocks only.
        if stream.peek(&mut [0]).unwrap() == 0 {
            return position;
        }
        stream.read_exact(&mut block).unwrap();
        assert!(block == bytes_at(position), "the server got other bytes at {position}");
        stream.write_all(&block).unwrap();
        position += u64::try_from(BLOCK).unwrap();
    }
}

/// Sends blocks and takes them back until `stop`; says how many bytes there were.
fn transfer(mut stream: TcpStream, stop: &AtomicBool, position: &AtomicU64) -> u64 {
    stream.set_read_timeout(Some(crate::support::speed::patience())).unwrap();
    let mut block = vec![0; BLOCK];
    while !stop.load(Ordering::Relaxed) {
        let at = position.load(Ordering::Relaxed);
        stream.write_all(&bytes_at(at)).unwrap();
        stream.read_exact(&mut block).unwrap();
        assert!(block == bytes_at(at), "the client got other bytes at {at}");
        position.store(at + u64::try_from(BLOCK).unwrap(), Ordering::Relaxed);
        // A pace that leaves the processors to the changes.
        std::thread::sleep(Duration::from_millis(3));
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut block).unwrap(), 0, "nothing is left over");
    position.load(Ordering::Relaxed)
}

fn counters(director: &NetnsHost, address: &str) -> Counters {
    let (topology, sysctls) = ("t".parse().unwrap(), std::collections::BTreeSet::new());
    match director.ask(Request::Observe { topology, sysctls, counters: true }) {
        Reply::Observed(seen) => seen.counters[&key(address)][&rip()],
        other => panic!("{other:?}"),
    }
}

pub fn lives_through_changes_elsewhere() {
    let (mut runner, seed) = any_tables::runner(1);
    println!("{seed}");
    let (client, director, rs) = three();
    change(&director, &witnesses());
    finished_connections(&client, &director, &rs);

    let listener = rs.run(|| TcpListener::bind(RIP)).unwrap();
    let (stop, position) = (AtomicBool::new(false), AtomicU64::new(0));
    let port = std::thread::scope(|scope| {
        let served = scope.spawn(|| serve(&listener));
        let stream = client.run(|| TcpStream::connect(VIP)).unwrap();
        let port = stream.local_addr().unwrap().port();
        let sent = scope.spawn(|| transfer(stream, &stop, &position));
        let mut names = std::collections::BTreeSet::new();
        for nth in 0..CHANGES {
            let mut wanted = any_tables::one(&mut runner, &any_tables::tables());
            wanted.extend(witnesses());
            let (before, changes, after) = change(&director, &wanted);
            assert_eq!(after.state.services, wanted, "{seed}");
            only_what_differs(&changes, &before.state.services, &wanted);
            names.extend(changes.iter().map(ToString::to_string));
            let now = position.load(Ordering::Relaxed);
            // Two blocks: one may have been on its way.
            eventually(&format!("{seed}: the transfer goes on after change {nth}"), || {
                let far = now + 2 * u64::try_from(BLOCK).unwrap();
                position.load(Ordering::Relaxed) >= far || sent.is_finished()
            });
        }
        assert!(names.len() > CHANGES, "{seed}: hardly anything changed");
        stop.store(true, Ordering::Relaxed);
        let sent = sent.join().expect("the client got what it sent");
        assert_eq!(served.join().expect("the server got what was sent"), sent, "{seed}");
        assert!(sent > 0);
        port
    });
    // One connection, the same from the first byte to the last: a service that had been made anew
    // would have forgotten it.
    let listed = director.run(|| run(Command::new("ipvsadm").args(["-Lcn"])));
    let whole = [&format!("10.1.0.2:{port}"), VIP, RIP];
    let ours = |line: &&str| line.split_whitespace().skip(3).eq(whole);
    assert_eq!(listed.lines().filter(ours).count(), 1, "{listed}");
    for (address, total) in [(VIP, 1), (DONE, FINISHED)] {
        eventually(&format!("{address}: {total} connections counted"), || {
            counters(&director, address).total == total
        });
        let Counters { active, inactive, persistent, .. } = counters(&director, address);
        assert_eq!((u64::from(active + inactive), persistent), (total, 0), "{seed}: {address}");
    }
}

const FINISHED: u64 = 3;

/// Some short connections through the other witness.
fn finished_connections(client: &NetnsHost, director: &NetnsHost, server: &NetnsHost) {
    // The real server listens on one port: that is where the service sends them.
    let listener = server.run(|| TcpListener::bind(RIP)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..FINISHED {
                listener.accept().unwrap().0.write_all(b"hello").unwrap();
            }
        });
        for _ in 0..FINISHED {
            let mut stream = client.run(|| TcpStream::connect(DONE)).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            assert_eq!(text, "hello");
        }
    });
    eventually("three connections counted", || counters(director, DONE).total == FINISHED);
}
