//! Announcements of addresses, and the question who has one: what a neighbour sees of both.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use lvsprov::kernel::arp::{ArpFrame, ArpListener, Operation};
use lvsprov::names::IfName;
use lvsprov::protocol::{Reply, Request, SegmentAnswers};
use lvsprov::state::{Address, AddressKey, Edit};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};

use crate::support::agents::{Agent, begin, do_all, revert_after};
use crate::support::cases::{Case, cases};
use crate::support::netns_host::{NetnsHost, address_key, eventually, plain_address};

pub fn cases() -> Vec<Case> {
    cases![
        a_neighbour_with_an_old_entry_learns_the_new_machine,
        an_ipv6_neighbour_with_an_old_entry_learns_the_new_machine,
        the_vip_of_a_real_server_is_never_announced,
        an_address_that_has_gone_is_not_announced_again,
        an_address_that_the_revert_timer_puts_back_is_announced,
        what_cannot_be_announced_is_a_warning,
        a_machine_that_has_the_address_answers,
        a_router_with_proxy_arp_does_not_answer,
        where_a_host_cannot_ask_it_says_why
    ]
}

const VIP: &str = "192.0.2.80";
const VIP6: &str = "2001:db8::80";
/// The machine that had the VIP before.
const OLD: &str = "02:00:00:00:00:99";

fn mac(netns: &NetnsHost, dev: &str) -> String {
    netns.ip_json(&format!("link show {dev}"))[0]["address"].as_str().unwrap().to_owned()
}

/// The hardware address that `netns` sends to for `address`.
fn cached(netns: &NetnsHost, address: &str) -> String {
    let entries = netns.ip_json(&format!("neigh show {address} dev v0"));
    entries[0]["lladdr"].as_str().unwrap().to_owned()
}

fn remember(netns: &NetnsHost, address: &str) {
    netns.ip(&format!("neigh add {address} lladdr {OLD} dev v0 nud stale"));
    assert_eq!(cached(netns, address), OLD);
}

fn nodad() -> Address {
    Address { nodad: true, deprecated: true, ..plain_address() }
}

/// The announcements of the VIP among ARP frames: no other frame may name it as its sender.
fn announcements(frames: &[ArpFrame]) -> usize {
    let of_vip = frames.iter().filter(|frame| frame.sender_ip.to_string() == VIP);
    let announcing = |frame: &&ArpFrame| {
        assert_eq!(frame.operation, Operation::Request, "{frame:?}");
        assert_eq!(frame.target_ip, frame.sender_ip, "{frame:?}");
        true
    };
    of_vip.filter(announcing).count()
}

/// Everything that came in on v0 of a namespace: ARP, and neighbour discovery.
struct Listener {
    arp: ArpListener,
    icmp6: OwnedFd,
    frames: Vec<ArpFrame>,
    messages: Vec<Vec<u8>>,
}

impl Listener {
    fn at(netns: &NetnsHost) -> Self {
        let dev = "v0".parse().unwrap();
        let (arp, icmp6) = netns.run(|| {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let protocol = SockProtocol::IcmpV6;
            let icmp6 = socket(AddressFamily::Inet6, SockType::Raw, flags, protocol).unwrap();
            setsockopt(&icmp6, sockopt::BindToDevice, &"v0".into()).unwrap();
            (ArpListener::open(&dev).unwrap(), icmp6)
        });
        Self { arp, icmp6, frames: Vec::new(), messages: Vec::new() }
    }

    fn collect(&mut self) -> &mut Self {
        self.frames.extend(self.arp.collect().unwrap());
        let mut bytes = [0; 1280];
        while let Ok(length) = recv(self.icmp6.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
            self.messages.push(bytes[..length].to_vec());
        }
        self
    }

    fn announcements(&mut self) -> usize {
        announcements(&self.collect().frames)
    }

    /// Advertisements of the IPv6 VIP, with their flags.
    fn advertisements(&mut self) -> Vec<u8> {
        let vip: Ipv6Addr = VIP6.parse().unwrap();
        let all = self.collect().messages.iter();
        let of_vip = all.filter(|m| m[0] == 136 && m.get(8..24) == Some(&vip.octets()[..]));
        of_vip.map(|message| message[4]).collect()
    }

    /// Whether the host itself asked for the VIP.
    fn has_asked(&mut self) -> bool {
        let asks = |frame: &ArpFrame| frame.outgoing && frame.target_ip.to_string() == VIP;
        self.collect().frames.iter().any(asks)
    }
}

/// Longer than the time between two announcements: what has not come by then does not come.
fn one_more_round() {
    std::thread::sleep(Duration::from_millis(1600));
}

/// The agent is killed as soon as it has answered: the announcements go on.
fn a_neighbour_with_an_old_entry_learns_the_new_machine() {
    let (a, b) = NetnsHost::two("192.0.2.1/24", "192.0.2.2/24");
    remember(&b, VIP);
    let mut listener = Listener::at(&b);
    // As a director gets it.
    let labelled = Address { label: Some("v0:0".to_owned()), ..plain_address() };
    let changes = vec![Edit::add::<Address>(address_key("192.0.2.80/32@v0"), labelled)];
    let mut agent = Agent::start(&a);
    let wish = begin(1, changes.clone(), &agent.look());
    assert_eq!(agent.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
    assert_eq!(listener.announcements(), 0);
    let done = agent.done(&do_all(1, changes));
    assert_eq!(done.warnings, [""; 0]);
    agent.kill();
    assert!((1..3).contains(&listener.announcements()), "{:?}", listener.frames);
    assert_eq!(cached(&b, VIP), mac(&a, "v0"));
    eventually("the third announcement", || listener.announcements() == 3);
    one_more_round();
    assert_eq!(listener.announcements(), 3);
    assert!(!listener.has_asked(), "{:?}", listener.frames);
    assert_eq!(cached(&b, VIP), mac(&a, "v0"));
}

fn an_ipv6_neighbour_with_an_old_entry_learns_the_new_machine() {
    let (a, b) = NetnsHost::two("192.0.2.1/24", "192.0.2.2/24");
    let link_local = |netns: &NetnsHost| {
        let links = netns.ip_json("-6 address show dev v0 scope link");
        let of_link = links.first().and_then(|link| link["addr_info"].as_array()?.first().cloned());
        of_link.is_some_and(|info| info.get("tentative").is_none())
    };
    eventually("both have their link-local addresses", || link_local(&a) && link_local(&b));
    remember(&b, VIP6);
    let mut listener = Listener::at(&b);
    let key = address_key("2001:db8::80/128@v0");
    assert_eq!(a.do_all(vec![Edit::add::<Address>(key.clone(), nodad())]).warnings, [""; 0]);
    eventually("the entry is the new one", || cached(&b, VIP6) == mac(&a, "v0"));
    eventually("the third advertisement", || listener.advertisements().len() == 3);
    one_more_round();
    // Override, not solicited, no router.
    assert_eq!(listener.advertisements(), [0x20; 3]);
    // A router says that it is one: else hosts would take it out of their routers.
    a.run(|| std::fs::write("/proc/sys/net/ipv6/conf/v0/forwarding", "1").unwrap());
    a.do_all(vec![Edit::remove::<Address>(key.clone(), nodad())]);
    a.do_all(vec![Edit::add::<Address>(key, nodad())]);
    eventually("an advertisement of a router", || listener.advertisements().contains(&0xa0));
}

/// The failure that operators of LVS fear most: a real server that tells the clients that it has the VIP.
fn the_vip_of_a_real_server_is_never_announced() {
    let (a, b) = NetnsHost::two("192.0.2.1/24", "192.0.2.2/24");
    remember(&b, VIP);
    let mut listener = Listener::at(&b);
    let keys = ["192.0.2.80/32@lo", "2001:db8::80/128@lo"].map(address_key);
    let edits = [plain_address(), nodad()];
    let edits = keys.into_iter().zip(edits).map(|(key, it)| Edit::add::<Address>(key, it));
    let edits: Vec<Edit> = edits.collect();
    a.do_all(edits.clone());
    a.do_all(edits.iter().map(|edit| edit.inverse().unwrap()).collect());
    a.do_all(edits);
    one_more_round();
    assert_eq!(listener.announcements(), 0);
    assert_eq!(listener.advertisements(), [0; 0]);
    assert_eq!(cached(&b, VIP), OLD);
}

/// Another host may have it by then.
fn an_address_that_has_gone_is_not_announced_again() {
    let (a, b) = NetnsHost::two("192.0.2.1/24", "192.0.2.2/24");
    let mut listener = Listener::at(&b);
    let add = Edit::add::<Address>(address_key("192.0.2.80/32@v0"), plain_address());
    a.do_all(vec![add.clone()]);
    a.do_all(vec![add.inverse().unwrap()]);
    let until_then = listener.announcements();
    assert!(until_then > 0);
    one_more_round();
    one_more_round();
    assert_eq!(listener.announcements(), until_then);
    // Nor one that the same request takes away again.
    a.do_all(vec![add.clone(), add.inverse().unwrap()]);
    assert_eq!(listener.announcements(), until_then);
}

fn an_address_that_the_revert_timer_puts_back_is_announced() {
    let (a, b) = NetnsHost::two("192.0.2.1/24", "192.0.2.2/24");
    a.ip("address add 192.0.2.80/32 dev v0");
    let key = address_key("192.0.2.80/32@v0");
    remember(&b, VIP);
    let mut listener = Listener::at(&b);
    let mut agent = Agent::start(&a);
    let seen = agent.look();
    let changes = vec![Edit::remove::<Address>(key.clone(), seen.state.addresses[&key].clone())];
    let mut wish = begin(1, changes.clone(), &seen);
    wish.revert = Some(revert_after(2000));
    assert_eq!(agent.ask(&Request::Prepare(Box::new(wish))), Reply::Prepared);
    agent.done(&do_all(1, changes));
    agent.kill();
    assert_eq!(listener.announcements(), 0);
    eventually("three announcements", || listener.announcements() == 3);
    assert_eq!(cached(&b, VIP), mac(&a, "v0"));
    assert!(!listener.has_asked());
}

fn what_cannot_be_announced_is_a_warning() {
    let netns = NetnsHost::with_pair("192.0.2.1/24");
    netns.ip("link set v0 down");
    let key = address_key("192.0.2.80/32@v0");
    let outcome = netns.do_all(vec![Edit::add::<Address>(key.clone(), plain_address())]);
    let warning = outcome.warnings.concat();
    assert_eq!(warning, "192.0.2.80 not announced on v0: the interface is down");
    assert!(outcome.after.state.addresses.contains_key(&key));
    // One without neighbours has none to warn of.
    netns.ip("link set v1 arp off");
    let key = address_key("192.0.2.81/32@v1");
    let outcome = netns.do_all(vec![Edit::add::<Address>(key, plain_address())]);
    assert_eq!(outcome.warnings, [""; 0]);
}

fn find(netns: &NetnsHost, keys: &[&str], wait_ms: u32) -> SegmentAnswers {
    let addresses = keys.iter().map(|key| address_key(key)).collect();
    match netns.ask(Request::FindHolders { addresses, wait_ms }) {
        Reply::Holders(answers) => answers,
        other => panic!("{other:?}"),
    }
}

fn answers(pairs: &[(&str, &[&str])]) -> BTreeMap<AddressKey, BTreeSet<String>> {
    let texts = |macs: &[&str]| macs.iter().map(|mac| (*mac).to_owned()).collect();
    pairs.iter().map(|(key, macs)| (address_key(key), texts(macs))).collect()
}

/// All addresses are asked for at once, and the question leaves no trace at the neighbour.
fn a_machine_that_has_the_address_answers() {
    let (a, b) = NetnsHost::two("192.0.2.1/24", "192.0.2.2/24");
    b.ip("address add 192.0.2.80/32 dev v0");
    b.ip("address add 2001:db8::80/128 dev v0 nodad");
    let holder = mac(&b, "v0");
    let asked = ["192.0.2.80/32@v0", "192.0.2.81/32@v0", "2001:db8::80/128@v0"];
    let mut found = SegmentAnswers::default();
    // Until a's link-local address can be used, its solicitations have no sender, and are dropped.
    eventually("all answers", || {
        found = find(&a, &asked, 700);
        found.answers.values().filter(|macs| !macs.is_empty()).count() == 2
    });
    let expected: [(&str, &[&str]); 3] =
        [(asked[0], &[&holder]), (asked[1], &[]), (asked[2], &[&holder])];
    assert_eq!(found.answers, answers(&expected));
    assert!(found.failures.is_empty(), "{found:?}");
    assert_eq!(b.ip("-4 neigh show"), "");
}

/// It answers a request of a host that names its own address.
fn a_router_with_proxy_arp_does_not_answer() {
    let (a, b) = NetnsHost::two("192.0.2.1/24", "192.0.2.2/24");
    b.ip("link add w0 type veth peer name w1");
    b.ip("address add 198.51.100.1/24 dev w0");
    b.ip("link set w0 up");
    b.ip("link set w1 up");
    for (path, value) in [("conf/v0/proxy_arp", "1"), ("ip_forward", "1")] {
        b.set_sysctl(path, value);
    }
    let found = find(&a, &["198.51.100.80/32@v0"], 2000);
    assert_eq!(found.answers, answers(&[("198.51.100.80/32@v0", &[])]));
    // After a while of its own choosing (`proxy_delay`, arp(7)).
    let dev: IfName = "v0".parse().unwrap();
    let target = "198.51.100.80".parse().unwrap();
    eventually("it is a proxy", || {
        let asked = Request::WhoHas { dev: dev.clone(), target, wait_ms: 500 };
        a.ask(asked) == Reply::Answered([mac(&b, "v0")].into())
    });
}

fn where_a_host_cannot_ask_it_says_why() {
    let netns = NetnsHost::with_pair("192.0.2.1/24");
    netns.ip("link set v0 down");
    let found = find(&netns, &["192.0.2.80/32@v0", "2001:db8::80/128@v9", "192.0.2.80/32@v1"], 50);
    let why = |dev: &str| found.failures[&dev.parse().unwrap()].message.clone();
    assert!(why("v0").contains("is down"), "{found:?}");
    assert!(why("v9").contains("no interface v9"), "{found:?}");
    assert_eq!(found.answers, answers(&[("192.0.2.80/32@v1", &[])]));
    let Reply::Refused(failure) =
        netns.ask(Request::FindHolders { addresses: [].into(), wait_ms: 0 })
    else {
        panic!("not refused")
    };
    assert!(failure.message.contains("1 to 10000"), "{failure}");
}
