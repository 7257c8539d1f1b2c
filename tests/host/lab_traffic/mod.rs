//! What the lab measures on the running kernel: responders, clients, the watch over ARP, snapshots.

mod deaths;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use lvsprov::check;
use lvsprov::lab::capture::{AddressFrame, CapturedFrame, FrameCapture, Operation, claims_of};
use lvsprov::lab::clients::{self, Attempt, Stream, Tally};
use lvsprov::lab::network::Management;
use lvsprov::lab::responders::{self, Endpoint};
use lvsprov::lab::snapshot::{Snapshot, difference, snapshot};
use lvsprov::lab::{self, Lab};
use lvsprov::names::HostName;
use lvsprov::state::Protocol;
use lvsprov::topology::Topology;

use crate::support::cases::{Case, cases};
use crate::support::speed;

pub fn cases() -> Vec<Case> {
    let own = cases![
        real_servers_answer_with_their_names_and_are_counted,
        two_services_on_one_port_share_a_listener,
        a_port_that_is_taken_is_an_error_that_names_it,
        a_datagram_is_answered_from_the_address_that_was_asked,
        what_a_responder_sends_to_a_responder_is_not_answered,
        clients_that_say_nothing_block_nobody,
        failures_have_their_reasons,
        a_stream_outlives_what_it_asks_and_tells_what_was_lost,
        the_watch_hears_each_arp_frame_once_and_knows_who_sent_it,
        the_watch_tells_exactly_who_answers_for_a_vip,
        the_watch_tells_a_vip_as_the_sender_of_a_request,
        a_snapshot_shows_one_change_and_nothing_else,
        a_snapshot_shows_packet_rules_and_not_their_counts,
        a_link_that_comes_and_goes_takes_its_traces_along
    ];
    [own, deaths::cases(), traffic::cases()].concat()
}

const PATIENCE: Duration = Duration::from_mins(3);
/// For requests that nobody answers.
const IMPATIENCE: Duration = Duration::from_millis(300);
const WEB1: Ipv4Addr = Ipv4Addr::new(172, 25, 7, 3);
const WEB2: Ipv4Addr = Ipv4Addr::new(172, 25, 7, 4);
const VIP: Ipv4Addr = Ipv4Addr::new(172, 25, 7, 200);

/// One network, a client, a director and two real servers; TCP and UDP.
const TOPOLOGY: &str = "
version: 1
name: lab-traffic
networks: {lan: [172.25.7.0/24]}
hosts:
  client: {role: client, interfaces: {eth0: 172.25.7.250/24}}
  director: {role: director, interfaces: {eth0: 172.25.7.2/24}}
  web1: {role: real_server, interfaces: {eth0: 172.25.7.3/24}}
  web2: {role: real_server, interfaces: {eth0: 172.25.7.4/24}}
services:
  - {vip: 172.25.7.200, port: 80, forward: dr, real_servers: [web1, web2]}
  - {vip: 172.25.7.200, port: 53, protocol: udp, forward: dr, real_servers: [web1, web2]}
";

/// Runs `test` in a lab of one network, `client`, `director`, `web1` and `web2`.
fn in_lab<F: Future<Output = ()>>(test: impl FnOnce(&'static Lab, &'static Topology) -> F) {
    lab::isolate().unwrap();
    let topology = Box::leak(Box::new(check::examine("lab-traffic", TOPOLOGY).topology.unwrap()));
    let lab = Box::leak(Box::new(Lab::build(topology, Management::None).unwrap()));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(test(lab, topology));
}

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

fn ip(lab: &Lab, name: &str, arguments: &str) {
    let run = || Command::new("ip").args(arguments.split(' ')).output().unwrap();
    let output = lab.run_in(&host(name), run).unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

fn set(lab: &Lab, name: &str, setting: &str, value: &str) {
    let path = format!("/proc/sys/{setting}");
    lab.run_in(&host(name), || std::fs::write(path, value)).unwrap().unwrap();
}

async fn ask(lab: &Lab, to: Ipv4Addr, port: u16, protocol: Protocol, patience: Duration) -> Tally {
    let target = SocketAddr::from((to, port));
    clients::ask(lab, &host("client"), target, protocol, 3, patience).await.unwrap()
}

fn answered(name: &str, count: u32) -> Tally {
    Tally { answers: BTreeMap::from([(name.to_owned(), count)]), ..Tally::default() }
}

fn failed(reason: &str, count: u32) -> Tally {
    Tally { failures: BTreeMap::from([(reason.to_owned(), count)]), ..Tally::default() }
}

/// Polls until `done`, for as long as anything may take.
async fn until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + speed::patience();
    while !done() {
        assert!(Instant::now() < end, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn real_servers_answer_with_their_names_and_are_counted() {
    in_lab(async |lab, topology| {
        let responders = responders::start(lab, topology).await.unwrap();
        assert_eq!(ask(lab, WEB1, 80, Protocol::Tcp, PATIENCE).await, answered("web1", 3));
        assert_eq!(ask(lab, WEB2, 53, Protocol::Udp, PATIENCE).await, answered("web2", 3));
        let endpoint = |name, protocol, port| Endpoint { host: host(name), protocol, port };
        let expected = BTreeMap::from([
            (endpoint("web1", Protocol::Tcp, 80), 3),
            (endpoint("web1", Protocol::Udp, 53), 0),
            (endpoint("web2", Protocol::Tcp, 80), 0),
            (endpoint("web2", Protocol::Udp, 53), 3),
        ]);
        until("all are counted", || responders.served() == expected).await;
        assert!(responders.not_served().is_empty());
    });
}

fn two_services_on_one_port_share_a_listener() {
    in_lab(async |lab, topology| {
        let mut topology = topology.clone();
        let mut second = topology.services[0].clone();
        second.vip.as_mut().unwrap().address = "172.25.7.201".parse().unwrap();
        topology.services.push(second);
        let responders = responders::start(lab, &topology).await.unwrap();
        assert_eq!(responders.served().len(), 4);
    });
}

fn a_port_that_is_taken_is_an_error_that_names_it() {
    in_lab(async |lab, topology| {
        let taken = lab.run_in(&host("web2"), || UdpSocket::bind("0.0.0.0:53")).unwrap().unwrap();
        let error = responders::start(lab, topology).await.err().unwrap();
        assert!(error.to_string().contains("listen on udp port 53 of web2"), "{error}");
        drop(taken);
        // A program that is being started, by another test, has a copy of the socket until it runs.
        let end = Instant::now() + speed::patience();
        while let Err(error) = responders::start(lab, topology).await {
            assert!(Instant::now() < end, "{error}");
        }
    });
}

fn a_datagram_is_answered_from_the_address_that_was_asked() {
    in_lab(async |lab, topology| {
        // Not the address that the route back prefers, and one that is on no wire, as under DR.
        ip(lab, "web1", "address add 172.25.7.33/24 dev eth0");
        ip(lab, "web1", "address add 10.9.8.7/32 dev lo");
        ip(lab, "client", "route add 10.9.8.7 via 172.25.7.3");
        let _responders = responders::start(lab, topology).await.unwrap();
        for asked in [WEB1, Ipv4Addr::new(172, 25, 7, 33), Ipv4Addr::new(10, 9, 8, 7)] {
            // A connected socket, as the client has, hears nobody else.
            let tally = ask(lab, asked, 53, Protocol::Udp, PATIENCE).await;
            assert_eq!(tally, answered("web1", 3), "{asked}");
        }
    });
}

fn what_a_responder_sends_to_a_responder_is_not_answered() {
    in_lab(async |lab, topology| {
        let responders = responders::start(lab, topology).await.unwrap();
        // As if the answer of another responder had got lost.
        let socket = lab.run_in(&host("client"), || UdpSocket::bind("0.0.0.0:53"));
        socket.unwrap().unwrap().send_to(b"web2\n", (WEB1, 53)).unwrap();
        // The socket answers in order, so the forged one has been read when this is answered.
        assert_eq!(ask(lab, WEB1, 53, Protocol::Udp, PATIENCE).await, answered("web1", 3));
        let served = |endpoint: &Endpoint| responders.served()[endpoint];
        let udp = Endpoint { host: host("web1"), protocol: Protocol::Udp, port: 53 };
        until("three are counted", || served(&udp) >= 3).await;
        assert_eq!(served(&udp), 3);
    });
}

fn clients_that_say_nothing_block_nobody() {
    in_lab(async |lab, topology| {
        let _responders = responders::start(lab, topology).await.unwrap();
        let silent = lab.run_in(&host("client"), || {
            (0..200).map(|_| TcpStream::connect((WEB1, 80)).unwrap()).collect::<Vec<_>>()
        });
        let silent = silent.unwrap();
        assert_eq!(ask(lab, WEB1, 80, Protocol::Tcp, PATIENCE).await, answered("web1", 3));
        drop(silent);
    });
}

fn failures_have_their_reasons() {
    in_lab(async |lab, topology| {
        let _responders = responders::start(lab, topology).await.unwrap();
        let elsewhere = Ipv4Addr::new(192, 0, 2, 1);
        let nobody = Ipv4Addr::new(172, 25, 7, 99);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            assert_eq!(ask(lab, WEB1, 81, protocol, PATIENCE).await, failed("refused", 3));
            assert_eq!(ask(lab, elsewhere, 80, protocol, PATIENCE).await, failed("no route", 3));
            assert_eq!(ask(lab, nobody, 80, protocol, IMPATIENCE).await, failed("timed out", 3));
        }
        assert!(
            clients::ask(lab, &host("x"), (WEB1, 80).into(), Protocol::Tcp, 1, PATIENCE)
                .await
                .is_err()
        );
    });
}

fn a_stream_outlives_what_it_asks_and_tells_what_was_lost() {
    in_lab(async |lab, topology| {
        let pause = Duration::from_millis(5);
        let start = async || {
            let (client, target) = (host("client"), SocketAddr::from((WEB1, 80)));
            let protocol = Protocol::Tcp;
            Stream::start(lab, &client, target, protocol, pause, PATIENCE).await.unwrap()
        };
        let stream = start().await;
        let ok = |attempts: &[Attempt]| attempts.iter().filter(|a| a.result.is_ok()).count();
        let failures = |attempts: &[Attempt]| attempts.len() - ok(attempts);
        until("nobody answers yet", || failures(&stream.so_far()) >= 3).await;
        let mut responders = responders::start(lab, topology).await.unwrap();
        until("it is answered", || ok(&stream.so_far()) >= 3).await;
        // So far nothing was lost: what failed, failed before the first answer.
        assert_eq!(clients::lost_after_first_answer(&stream.so_far()), []);
        let stopped = Instant::now();
        responders.stop(&host("web1")).await;
        // "reset" at first, perhaps: whoever was not yet accepted, or started a program just then.
        until("it is refused", || {
            let so_far = stream.so_far();
            let last = so_far.last().unwrap();
            last.started > stopped && last.result == Err("refused".to_owned())
        })
        .await;
        let attempts = stream.stop().await;
        let lost = clients::lost_after_first_answer(&attempts);
        assert!(!lost.is_empty() && lost.len() < failures(&attempts), "{attempts:?}");
        assert!(lost.iter().all(|attempt| attempt.ended > stopped), "{lost:?}");
        assert_eq!(attempts.last().unwrap().result, Err("refused".to_owned()));
        let in_order = attempts.is_sorted_by(|one, next| one.ended <= next.started);
        assert!(in_order && attempts.iter().all(|a| a.started <= a.ended), "{attempts:?}");
        // The other host's responders are still there.
        assert_eq!(ask(lab, WEB2, 80, Protocol::Tcp, PATIENCE).await, answered("web2", 3));
    });
}

/// Has the client ask for `address` over ARP, with nothing remembered. Returns what was heard.
async fn hear_requests_for(lab: &Lab, address: Ipv4Addr, is_held: bool) -> Vec<CapturedFrame> {
    ip(lab, "client", "neighbour flush all");
    let watch = FrameCapture::start(lab).unwrap();
    // Whoever has the address refuses: nobody listens.
    if is_held {
        assert_eq!(ask(lab, address, 9, Protocol::Tcp, PATIENCE).await, failed("refused", 3));
    } else {
        assert_eq!(ask(lab, address, 9, Protocol::Tcp, IMPATIENCE).await, failed("timed out", 3));
    }
    watch.stop().unwrap()
}

fn owners(lab: &Lab, frames: &[CapturedFrame], address: Ipv4Addr) -> BTreeSet<String> {
    let claims = claims_of(frames, address.into());
    claims.keys().map(|mac| lab.owner_of(*mac).unwrap().0.to_string()).collect()
}

fn the_watch_hears_each_arp_frame_once_and_knows_who_sent_it() {
    in_lab(async |lab, _| {
        let frames = hear_requests_for(lab, WEB1, true).await;
        let client = lab.mac_of(&host("client"), &"eth0".parse().unwrap()).unwrap();
        let asked = frames.iter().filter(|frame| {
            let AddressFrame::Arp(arp) = &frame.content else { return false };
            arp.operation == Operation::Request && arp.sender_mac == client && arp.target_ip == WEB1
        });
        assert_eq!(asked.count(), 1, "{frames:?}");
        let web1 = lab.mac_of(&host("web1"), &"eth0".parse().unwrap()).unwrap();
        let claims = claims_of(&frames, WEB1.into());
        assert_eq!(claims.keys().collect::<Vec<_>>(), [&web1], "{frames:?}");
        assert_eq!((claims[&web1].replies, claims[&web1].announcements), (1, 0));
        assert!(frames.iter().all(|frame| frame.network.as_str() == "lan"));
        assert!(frames.is_sorted_by_key(|frame| frame.at));
    });
}

fn the_watch_tells_exactly_who_answers_for_a_vip() {
    in_lab(async |lab, _| {
        assert_eq!(owners(lab, &hear_requests_for(lab, VIP, false).await, VIP), BTreeSet::new());
        ip(lab, "director", "address add 172.25.7.200/32 dev eth0");
        for web in ["web1", "web2"] {
            ip(lab, web, "address add 172.25.7.200/32 dev lo");
        }
        // As a kernel comes, an address on lo is answered for on every interface (trap 1).
        let all = ["director", "web1", "web2"].map(str::to_owned);
        assert_eq!(owners(lab, &hear_requests_for(lab, VIP, true).await, VIP), BTreeSet::from(all));
        for web in ["web1", "web2"] {
            set(lab, web, "net/ipv4/conf/all/arp_ignore", "1");
        }
        let director = BTreeSet::from(["director".to_owned()]);
        assert_eq!(owners(lab, &hear_requests_for(lab, VIP, true).await, VIP), director);
    });
}

fn the_watch_tells_a_vip_as_the_sender_of_a_request() {
    in_lab(async |lab, _| {
        ip(lab, "web1", "address add 172.25.7.200/32 dev lo");
        let socket = lab.run_in(&host("web1"), || UdpSocket::bind((VIP, 0))).unwrap().unwrap();
        ip(lab, "web1", "neighbour flush all");
        let watch = FrameCapture::start(lab).unwrap();
        // To answer from the VIP it must ask for the client; arp_announce=2 would hide the VIP (trap 3).
        socket.send_to(b"x", "172.25.7.250:9").unwrap();
        let listening = ask(lab, WEB1, 80, Protocol::Tcp, PATIENCE).await;
        assert_eq!(listening, failed("refused", 3));
        let frames = watch.stop().unwrap();
        let web1 = lab.mac_of(&host("web1"), &"eth0".parse().unwrap()).unwrap();
        let claims = claims_of(&frames, VIP.into());
        assert_eq!(claims.keys().collect::<Vec<_>>(), [&web1], "{frames:?}");
        assert_eq!((claims[&web1].requests, claims[&web1].replies), (1, 0));
    });
}

fn look(lab: &Lab, name: &str) -> Snapshot {
    snapshot(lab.namespace(&host(name)).unwrap()).unwrap()
}

fn a_snapshot_shows_one_change_and_nothing_else() {
    in_lab(async |lab, topology| {
        let before = look(lab, "web1");
        assert_eq!(before["net/ipv4/conf/all/rp_filter"], "1");
        assert!(
            before["link eth0"].starts_with("up ") && before["link eth0"].contains("mtu 1500"),
            "{}",
            before["link eth0"]
        );
        assert!(before.contains_key("address 172.25.7.3/24 on eth0"));
        assert!(before.contains_key("route main 172.25.7.0/24"));
        assert!(before.contains_key("rule ipv4 32766"));
        let now = || difference(&before, &look(lab, "web1"));

        set(lab, "web1", "net/ipv4/conf/all/arp_ignore", "1");
        assert_eq!(now(), ["changed net/ipv4/conf/all/arp_ignore: 0 -> 1"]);
        set(lab, "web1", "net/ipv4/conf/all/arp_ignore", "0");

        ip(lab, "web1", "address add 10.9.8.7/32 dev lo label lo:0 scope host");
        let lines = now();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("added address 10.9.8.7/32 on lo: "), "{lines:?}");
        assert!(lines[0].contains("label lo:0"), "{lines:?}");
        assert!(lines[1].starts_with("added route local 10.9.8.7/32: Local "), "{lines:?}");
        ip(lab, "web1", "address del 10.9.8.7/32 dev lo");

        ip(lab, "web1", "route add default via 172.25.7.2");
        let added = "added route main default: Unicast dev eth0 via 172.25.7.2 protocol boot \
                     scope universe";
        assert_eq!(now(), [added]);
        ip(lab, "web1", "route add default via 172.25.7.250 metric 9");
        assert_eq!(now().len(), 1, "{:?}", now());
        assert!(now()[0].contains("metric 9") && now()[0].contains(" and "), "{:?}", now());
        ip(lab, "web1", "route del default metric 9");
        ip(lab, "web1", "route del default");

        ip(lab, "web1", "rule add fwmark 1 table 100");
        assert_eq!(now().len(), 1, "{:?}", now());
        assert!(now()[0].starts_with("added rule ipv4 32765: "), "{:?}", now());
        ip(lab, "web1", "rule del fwmark 1 table 100");

        ip(lab, "web1", "link set lo down");
        let lines = now();
        assert!(lines.iter().any(|line| line.starts_with("changed link lo: up ")), "{lines:?}");
        ip(lab, "web1", "link set lo up");

        // All undone, and traffic in between: nothing is left, and on the other host nothing ever was.
        let other = look(lab, "web2");
        let _responders = responders::start(lab, topology).await.unwrap();
        assert_eq!(ask(lab, WEB1, 80, Protocol::Tcp, PATIENCE).await, answered("web1", 3));
        assert_eq!(ask(lab, WEB2, 53, Protocol::Udp, PATIENCE).await, answered("web2", 3));
        assert_eq!(now(), Vec::<String>::new());
        assert_eq!(difference(&other, &look(lab, "web2")), Vec::<String>::new());
    });
}

fn nft(lab: &Lab, name: &str, arguments: &str) {
    let run = || Command::new("nft").args(arguments.split(' ')).output().unwrap();
    let output = lab.run_in(&host(name), run).unwrap();
    assert!(output.status.success(), "nft {arguments}: {output:?}");
}

fn a_snapshot_shows_packet_rules_and_not_their_counts() {
    in_lab(async |lab, _| {
        let before = look(lab, "web1");
        nft(lab, "web1", "add table inet t");
        let now = || difference(&before, &look(lab, "web1"));
        assert_eq!(now(), ["added nftables inet t: a table"]);
        nft(lab, "web1", "add chain inet t c { type filter hook output priority -150 ; }");
        assert_eq!(now().len(), 2, "{:?}", now());
        assert!(now()[1].starts_with("added nftables inet t chain c: type filter"), "{:?}", now());
        nft(lab, "web1", "add rule inet t c tcp dport 80 counter meta mark set 8");
        let with_rule = look(lab, "web1");
        assert!(with_rule["nftables inet t rules of c"].contains("counter"), "{with_rule:?}");
        // It counts: that is no difference. Another mark is one.
        assert_eq!(ask(lab, WEB2, 80, Protocol::Tcp, PATIENCE).await, failed("refused", 3));
        lab.run_in(&host("web1"), || TcpStream::connect((WEB2, 80))).unwrap().unwrap_err();
        assert_eq!(difference(&with_rule, &look(lab, "web1")), Vec::<String>::new());
        nft(lab, "web1", "flush chain inet t c");
        nft(lab, "web1", "add rule inet t c tcp dport 80 counter meta mark set 9");
        assert_eq!(difference(&with_rule, &look(lab, "web1")).len(), 1);
        nft(lab, "web1", "delete table inet t");
        assert_eq!(now(), Vec::<String>::new());
    });
}

fn a_link_that_comes_and_goes_takes_its_traces_along() {
    in_lab(async |lab, _| {
        let before = look(lab, "web1");
        ip(lab, "web1", "link add link0 type veth peer name link0b");
        let lines = difference(&before, &look(lab, "web1"));
        assert!(lines.iter().any(|line| line.starts_with("added link link0: down ")), "{lines:?}");
        assert!(lines.contains(&"added net/ipv4/conf/link0/rp_filter: 0".to_owned()), "{lines:?}");
        assert!(lines.contains(&"added net/ipv6/conf/link0/accept_ra: 1".to_owned()), "{lines:?}");
        assert!(lines.iter().all(|line| line.contains("link0")), "{lines:?}");
        ip(lab, "web1", "link del link0");
        assert_eq!(difference(&before, &look(lab, "web1")), Vec::<String>::new());
    });
}
