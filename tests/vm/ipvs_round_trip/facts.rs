//! What the kernel does with values at and beyond the edge: the table in docs/kernel-facts.md, row by
//! row. The docs are the expectation; what the kernel does otherwise is printed as a row.

use std::process::Command;
use std::sync::OnceLock;

use lvsprov::kernel::ipvs::codec::command;
use lvsprov::kernel::ipvs::wire::AttributeList;
use lvsprov::kernel::ipvs::{IpvsRequest as Request, IpvsSocket};
use lvsprov::state::{
    Destination, DestinationKey, ForwardingMethod, ServiceFlags, ServiceKey, Timeouts, Tunnel,
    VirtualService,
};
use nix::errno::Errno;

use super::raw::{self, Raw};
use crate::support::netns_host::{NetnsHost, run};

const DOCS: &str = include_str!("../../../docs/kernel-facts.md");
const NEW_DAEMON: u8 = 9;
const DEL_DAEMON: u8 = 10;
const FLUSH: u8 = 17;
const PERSISTENT: u32 = ServiceFlags::PERSISTENT;

/// What was asked, and what came of it: each a cell of the table.
struct Rows(Vec<(String, String)>);

pub fn as_the_docs_say() {
    let mut rows = Rows(Vec::new());
    services(&mut rows);
    raw_services(&mut rows);
    destinations(&mut rows);
    tunnels(&mut rows);
    addresses(&mut rows);
    families(&mut rows);
    timeouts(&mut rows);
    daemons(&mut rows);
    let missing: Vec<String> = rows
        .0
        .iter()
        .map(|(asked, does)| format!("| {asked} | {does} |"))
        .filter(|row| !DOCS.lines().any(|line| line.starts_with(row)))
        .collect();
    assert!(missing.is_empty(), "not in docs/kernel-facts.md:\n{}", missing.join("\n"));
    let told = DOCS.lines().skip_while(|line| !line.starts_with("| asked |"));
    let told = told.take_while(|line| line.starts_with('|')).count();
    assert_eq!(told, rows.0.len() + 2, "the docs have rows that nothing shows");
}

impl Rows {
    fn put(&mut self, asked: &str, does: impl Into<String>) {
        self.0.push((asked.to_owned(), does.into()));
    }
}

fn refused(errno: Errno) -> String {
    format!("refused: {errno:?}")
}

/// An empty table in a namespace with an address. It is one namespace for all rows, as making one
/// takes most of the time.
fn in_ground<T: Send>(work: impl FnOnce(&mut IpvsSocket) -> T + Send) -> T {
    static GROUND: OnceLock<NetnsHost> = OnceLock::new();
    let netns = GROUND.get_or_init(|| {
        let netns = NetnsHost::with_pair("192.0.2.1/24");
        netns.ip("address add 2001:db8::1/64 dev v0 nodad");
        netns
    });
    netns.run(|| {
        let mut ipvs = IpvsSocket::open().unwrap();
        raw::send(Raw { command: FLUSH, attributes: AttributeList::default() }).unwrap();
        for state in [1, 2] {
            // ESRCH where none runs.
            let _ = raw::send(Raw { command: DEL_DAEMON, ..daemon(|d| d.state = state) });
        }
        send(&mut ipvs, Request::SetTimeouts(Timeouts { tcp: 900, tcp_fin: 120, udp: 300 }))
            .unwrap();
        work(&mut ipvs)
    })
}

fn send(ipvs: &mut IpvsSocket, request: Request) -> Result<(), Errno> {
    ipvs.carry_out(&[request]).unwrap()[0]
}

/// Adds a service and reads it back. What has become of it is said in the words of its `Display`.
fn service(key: &str, make: impl FnOnce(&mut VirtualService) + Send) -> String {
    let key: ServiceKey = key.parse().unwrap();
    let mut service = VirtualService::plain(&key, "rr");
    make(&mut service);
    in_ground(|ipvs| {
        if let Err(errno) = send(ipvs, Request::NewService(key.clone(), service.clone())) {
            return refused(errno);
        }
        let table = ipvs.observe(false).unwrap().table;
        match table.get(&key) {
            Some(there) if *there == service => "kept".to_owned(),
            Some(there) => format!("becomes {there}"),
            None => {
                let keys: Vec<_> = table.keys().map(ToString::to_string).collect();
                format!("becomes {}", keys.join(", "))
            }
        }
    })
}

fn persistent(timeout: u32) -> impl FnOnce(&mut VirtualService) + Send {
    move |service| {
        service.flags = ServiceFlags::new(PERSISTENT);
        service.timeout = timeout;
    }
}

fn flags(bits: u32) -> impl FnOnce(&mut VirtualService) + Send {
    move |service| service.flags = ServiceFlags::new(bits)
}

fn services(rows: &mut Rows) {
    const TCP: &str = "tcp 192.0.2.100:80";
    const UDP: &str = "udp 192.0.2.100:5060";
    const SIX: &str = "tcp [2001:db8::100]:80";
    let engine = |service: &mut VirtualService| service.engine = Some("sip".to_owned());
    rows.put("port 0, not persistent", service("tcp 192.0.2.100:0", |_| {}));
    rows.put("port 0, persistent", service("tcp 192.0.2.100:0", persistent(300)));
    rows.put("mark 4294967295", service("fwmark4 4294967295", |_| {}));
    rows.put("mark 0", service("fwmark4 0", |_| {}));
    rows.put("VIP 0.0.0.0", service("tcp 0.0.0.0:80", |_| {}));
    rows.put("VIP 127.0.0.1", service("tcp 127.0.0.1:80", |_| {}));
    rows.put("VIP 224.0.0.1", service("tcp 224.0.0.1:80", |_| {}));
    rows.put("VIP fe80::1", service("tcp [fe80::1]:80", |_| {}));
    rows.put("VIP ff02::1", service("tcp [ff02::1]:80", |_| {}));
    rows.put("one-packet on tcp", service(TCP, flags(ServiceFlags::ONE_PACKET)));
    rows.put("one-packet on sctp", {
        service("sctp 192.0.2.100:80", flags(ServiceFlags::ONE_PACKET))
    });
    rows.put("one-packet on a mark", service("fwmark4 8", flags(ServiceFlags::ONE_PACKET)));
    rows.put("one-packet and persistent", {
        service(UDP, flags(ServiceFlags::ONE_PACKET | PERSISTENT))
    });
    rows.put("flags sh-fallback, sh-port on rr", {
        service(TCP, flags(ServiceFlags::SCHEDULER_1 | ServiceFlags::SCHEDULER_2))
    });
    rows.put("flag-3 on sh", {
        service(TCP, |s| {
            s.scheduler = "sh".into();
            s.flags = ServiceFlags::new(ServiceFlags::SCHEDULER_3);
        })
    });
    rows.put("unknown flag 0x40", service(TCP, flags(0x40)));
    rows.put("persistence timeout 0", service(TCP, persistent(0)));
    rows.put("persistence timeout 2147483", service(TCP, persistent(2_147_483)));
    rows.put("persistence timeout 17179869", service(TCP, persistent(17_179_869)));
    rows.put("persistence timeout 17179870", service(TCP, persistent(17_179_870)));
    rows.put("persistence timeout 4294967295", service(TCP, persistent(u32::MAX)));
    rows.put("a timeout, not persistent", service(TCP, |s| s.timeout = 300));
    let mask = |netmask| {
        move |s: &mut VirtualService| {
            persistent(300)(s);
            s.netmask = netmask;
        }
    };
    rows.put("IPv4 mask 0.0.0.0", service(TCP, mask(0)));
    rows.put("IPv4 mask 255.0.255.0", service(TCP, mask(0xff00_ff00)));
    rows.put("IPv4 mask, not persistent", service(TCP, |s| s.netmask = 0xffff_ff00));
    rows.put("IPv6 prefix length 0", service(SIX, mask(0)));
    rows.put("IPv6 prefix length 1", service(SIX, mask(1)));
    rows.put("IPv6 prefix length 129", service(SIX, mask(129)));
    rows.put("IPv6 prefix length, not persistent", service(SIX, |s| s.netmask = 64));
    rows.put("engine sip, not persistent", service(UDP, engine));
    rows.put("engine sip on tcp", {
        service(TCP, move |s| {
            persistent(300)(s);
            engine(s);
        })
    });
    rows.put("engine that is not there", service(TCP, |s| s.engine = Some("nope".to_owned())));
    rows.put("scheduler that is not there", service(TCP, |s| s.scheduler = "nope".into()));
    rows.put("scheduler `none`", service(TCP, |s| s.scheduler = "none".into()));
    rows.put("scheduler name of 16 letters", {
        service(TCP, |s| s.scheduler = "abcdefghijklmnop".into())
    });
    rows.put("one service twice", {
        in_ground(|ipvs| {
            let key: ServiceKey = TCP.parse().unwrap();
            let new = Request::NewService(key.clone(), VirtualService::plain(&key, "rr"));
            send(ipvs, new.clone()).unwrap();
            send(ipvs, new).map_or_else(refused, |()| "kept".to_owned())
        })
    });
}

/// A service of protocol `protocol`, attribute by attribute; flags with `mask`.
fn raw_service(protocol: u16, bits: u32, mask: u32) -> Raw {
    let mut service = AttributeList::default();
    service.put_u16(1, 2);
    service.put_u16(2, protocol);
    service.put(3, &[192, 0, 2, 100, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    service.put(4, &80_u16.to_be_bytes());
    service.put_text(6, "rr");
    service.put(7, &[bits.to_ne_bytes(), mask.to_ne_bytes()].concat());
    service.put_u32(8, 0);
    service.put(9, &[255; 4]);
    let mut attributes = AttributeList::default();
    attributes.put_nested(1, &service);
    Raw { command: command::NEW_SERVICE, attributes }
}

fn raw_services(rows: &mut Rows) {
    let shown = || {
        let text = run(Command::new("ipvsadm").arg("-Sn"));
        format!("`{}`", text.trim())
    };
    let outcome = |raw: Raw| {
        in_ground(|_| {
            raw::send(raw).map_or_else(refused, |()| format!("kept; ipvsadm: {}", shown()))
        })
    };
    rows.put("protocol 50 (ESP)", outcome(raw_service(50, 0, u32::MAX)));
    rows.put("flags outside of the message's own mask", outcome(raw_service(6, PERSISTENT, 0)));
}

fn plain(method: ForwardingMethod) -> Destination {
    Destination::plain(method, 1)
}

/// Adds a destination to a service of `vip` and reads it back.
fn destination(vip: &str, rip: &str, wanted: &Destination) -> String {
    in_ground(|ipvs| add_destination(ipvs, vip, rip, wanted))
}

fn add_destination(ipvs: &mut IpvsSocket, vip: &str, rip: &str, wanted: &Destination) -> String {
    let key: ServiceKey = vip.parse().unwrap();
    let rip: DestinationKey = rip.parse().unwrap();
    send(ipvs, Request::NewService(key.clone(), VirtualService::plain(&key, "rr"))).unwrap();
    if let Err(errno) = send(ipvs, Request::NewDestination(key.clone(), rip, wanted.clone())) {
        return refused(errno);
    }
    let table = ipvs.observe(false).unwrap().table;
    match table[&key].destinations.get(&rip) {
        Some(there) if there == wanted => "kept".to_owned(),
        Some(there) => format!("becomes {there}"),
        None => format!("becomes {:?}", table[&key].destinations.keys()),
    }
}

const FOUR: &str = "tcp 192.0.2.100:80";
const SIX: &str = "tcp [2001:db8::100]:80";
const NAT: ForwardingMethod = ForwardingMethod::Masquerade;
const DR: ForwardingMethod = ForwardingMethod::DirectRoute;
const TUN: ForwardingMethod = ForwardingMethod::Tunnel;

fn destinations(rows: &mut Rows) {
    const RIP: &str = "192.0.2.10:80";
    let weight = |weight| destination(FOUR, RIP, &Destination { weight, ..plain(DR) });
    rows.put("weight 0", weight(0));
    rows.put("weight 2147483647", weight(i32::MAX.unsigned_abs()));
    rows.put("weight 2147483648", weight(i32::MAX.unsigned_abs() + 1));
    let thresholds = |upper_threshold, lower_threshold| {
        destination(FOUR, RIP, &Destination { upper_threshold, lower_threshold, ..plain(DR) })
    };
    rows.put("upper threshold 2147483647", thresholds(i32::MAX.unsigned_abs(), 0));
    rows.put("upper threshold 2147483648", thresholds(i32::MAX.unsigned_abs() + 1, 0));
    rows.put("lower threshold = upper", thresholds(5, 5));
    rows.put("lower threshold > upper", thresholds(5, 6));
    rows.put("lower threshold, no upper", thresholds(0, 5));
    rows.put(
        "real server of DR with another port",
        destination(FOUR, "192.0.2.10:8080", &plain(DR)),
    );
    rows.put("real server of a tunnel with another port", {
        destination(FOUR, "192.0.2.10:8080", &plain(TUN))
    });
    rows.put("real server with port 0", destination(FOUR, "192.0.2.10:0", &plain(NAT)));
    rows.put("method local for another host", {
        destination(FOUR, RIP, &plain(ForwardingMethod::Local))
    });
    rows.put("method DR for the director itself", destination(FOUR, "192.0.2.1:80", &plain(DR)));
    rows.put("method bypass", destination(FOUR, RIP, &plain(ForwardingMethod::Bypass)));
    rows.put("one real server twice", {
        in_ground(|ipvs| {
            add_destination(ipvs, FOUR, RIP, &plain(DR));
            let (service, rip) = (FOUR.parse().unwrap(), RIP.parse().unwrap());
            send(ipvs, Request::NewDestination(service, rip, plain(NAT)))
                .map_or_else(refused, |()| "kept".to_owned())
        })
    });
}

fn tunnels(rows: &mut Rows) {
    const RIP: &str = "192.0.2.10:80";
    let tunnel = |method, tunnel| destination(FOUR, RIP, &Destination { tunnel, ..plain(method) });
    rows.put("gue with port 0", tunnel(TUN, Tunnel::Gue { port: 0, flags: 0 }));
    rows.put("gue with port 0, forwarding by nat", tunnel(NAT, Tunnel::Gue { port: 0, flags: 0 }));
    rows.put(
        "gue with a port, forwarding by nat",
        tunnel(NAT, Tunnel::Gue { port: 6080, flags: 1 }),
    );
    rows.put("gue with remote checksum", tunnel(TUN, Tunnel::Gue { port: 6080, flags: 2 }));
    rows.put("gue with both checksums (3)", tunnel(TUN, Tunnel::Gue { port: 6080, flags: 3 }));
    rows.put("gre with remote checksum (2)", tunnel(TUN, Tunnel::Gre { flags: 2 }));
    let number = |kind: u8, port: u16, bits: u16| {
        in_ground(|ipvs| {
            let key: ServiceKey = FOUR.parse().unwrap();
            send(ipvs, Request::NewService(key.clone(), VirtualService::plain(&key, "rr")))
                .unwrap();
            let mut service = AttributeList::default();
            service.put_u16(1, 2);
            service.put_u16(2, 6);
            service.put(3, &[192, 0, 2, 100, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            service.put(4, &80_u16.to_be_bytes());
            let mut destination = AttributeList::default();
            destination.put(1, &[192, 0, 2, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            destination.put(2, &80_u16.to_be_bytes());
            for (kind, value) in [(3, 2), (4, 1), (5, 0), (6, 0)] {
                destination.put_u32(kind, value);
            }
            destination.put(13, &[kind]);
            destination.put(14, &port.to_be_bytes());
            destination.put_u16(15, bits);
            let mut attributes = AttributeList::default();
            attributes.put_nested(1, &service);
            attributes.put_nested(2, &destination);
            raw::send(Raw { command: command::NEW_DEST, attributes })
                .map_or_else(refused, |()| "kept".to_owned())
        })
    };
    rows.put("tunnel type 3 (none such)", number(3, 0, 0));
    rows.put("ipip with a port and checksum", number(0, 6080, 1));
}

fn addresses(rows: &mut Rows) {
    for rip in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "192.0.2.255", "255.255.255.255"] {
        rows.put(
            &format!("real server {rip}"),
            destination(FOUR, &format!("{rip}:80"), &plain(DR)),
        );
    }
    for rip in ["::", "::1", "fe80::1", "ff02::1", "::ffff:192.0.2.10"] {
        rows.put(
            &format!("real server {rip}"),
            destination(SIX, &format!("[{rip}]:80"), &plain(DR)),
        );
    }
}

fn families(rows: &mut Rows) {
    const RIP4: &str = "192.0.2.10:80";
    const RIP6: &str = "[2001:db8::10]:80";
    for (method, name) in [(NAT, "nat"), (DR, "DR"), (TUN, "a tunnel")] {
        rows.put(
            &format!("IPv6 real server of an IPv4 service, by {name}"),
            destination(FOUR, RIP6, &plain(method)),
        );
        rows.put(
            &format!("IPv4 real server of an IPv6 service, by {name}"),
            destination(SIX, RIP4, &plain(method)),
        );
    }
    let wrapped = Destination { tunnel: Tunnel::Gue { port: 6080, flags: 0 }, ..plain(TUN) };
    rows.put("the same by gue", destination(FOUR, RIP6, &wrapped));
    rows.put("the same, changed from a tunnel to nat", {
        in_ground(|ipvs| {
            add_destination(ipvs, FOUR, RIP6, &plain(TUN));
            let (service, rip) = (FOUR.parse().unwrap(), RIP6.parse().unwrap());
            send(ipvs, Request::SetDestination(service, rip, plain(NAT)))
                .map_or_else(refused, |()| "kept".to_owned())
        })
    });
    rows.put("mixed families by a tunnel while a sync daemon runs", {
        in_ground(|ipvs| {
            raw::send(daemon(|_| {})).unwrap();
            add_destination(ipvs, FOUR, RIP6, &plain(TUN))
        })
    });
    rows.put("a sync daemon while there are mixed families", {
        in_ground(|ipvs| {
            add_destination(ipvs, FOUR, RIP6, &plain(TUN));
            raw::send(daemon(|_| {})).map_or_else(refused, |()| "kept".to_owned())
        })
    });
    rows.put("a sync daemon after the mixed one was removed", {
        in_ground(|ipvs| {
            add_destination(ipvs, FOUR, RIP6, &plain(TUN));
            let (service, rip) = (FOUR.parse().unwrap(), RIP6.parse().unwrap());
            send(ipvs, Request::DeleteDestination(service, rip)).unwrap();
            raw::send(daemon(|_| {})).map_or_else(refused, |()| "kept".to_owned())
        })
    });
}

fn timeouts(rows: &mut Rows) {
    let set = |tcp| {
        in_ground(|ipvs| {
            let asked = Timeouts { tcp, tcp_fin: 0, udp: 0 };
            if let Err(errno) = send(ipvs, Request::SetTimeouts(asked)) {
                return refused(errno);
            }
            let Timeouts { tcp: now, tcp_fin, udp } = ipvs.timeouts().unwrap();
            assert_eq!((tcp_fin, udp), (120, 300), "0 leaves one as it is");
            if now == tcp { "kept".to_owned() } else { format!("becomes {now}") }
        })
    };
    rows.put("timeout 0", set(0));
    rows.put("timeout 1", set(1));
    rows.put("timeout 2147483", set(2_147_483));
    rows.put("timeout 8589934", set(8_589_934));
    rows.put("timeout 8589935", set(8_589_935));
    rows.put("timeout 4294967295", set(u32::MAX));
}

/// What a sync daemon is told.
struct Daemon {
    state: u32,
    interface: &'static str,
    id: u32,
    max_length: Option<u16>,
    group: Option<[u8; 4]>,
    group6: Option<std::net::Ipv6Addr>,
    port: Option<u16>,
    ttl: Option<u8>,
}

/// A master on v0 with id 7, otherwise as `make` says.
fn daemon(make: impl FnOnce(&mut Daemon)) -> Raw {
    let mut said = Daemon {
        state: 1,
        interface: "v0",
        id: 7,
        max_length: None,
        group: None,
        group6: None,
        port: None,
        ttl: None,
    };
    make(&mut said);
    let mut daemon = AttributeList::default();
    daemon.put_u32(1, said.state);
    daemon.put_text(2, said.interface);
    daemon.put_u32(3, said.id);
    if let Some(length) = said.max_length {
        daemon.put_u16(4, length);
    }
    if let Some(group) = said.group {
        daemon.put(5, &group);
    }
    if let Some(group) = said.group6 {
        daemon.put(6, &group.octets());
    }
    if let Some(port) = said.port {
        daemon.put_u16(7, port);
    }
    if let Some(ttl) = said.ttl {
        daemon.put(8, &[ttl]);
    }
    let mut attributes = AttributeList::default();
    attributes.put_nested(3, &daemon);
    Raw { command: NEW_DAEMON, attributes }
}

/// Starts it, and says how ipvsadm shows it.
fn started(make: impl FnOnce(&mut Daemon) + Send) -> String {
    let raw = daemon(make);
    in_ground(|_| match raw::send(raw) {
        Err(errno) => refused(errno),
        Ok(()) => format!("runs: `{}`", shown_daemons()),
    })
}

fn shown_daemons() -> String {
    let text = run(Command::new("ipvsadm").args(["-Ln", "--daemon"]));
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn daemons(rows: &mut Rows) {
    rows.put("sync daemon: interface and id 7 only", started(|_| {}));
    rows.put("sync daemon: id 0", started(|d| d.id = 0));
    rows.put("sync daemon: id 255", started(|d| d.id = 255));
    rows.put("sync daemon: id 256", started(|d| d.id = 256));
    rows.put("sync daemon: no such interface", started(|d| d.interface = "v9"));
    rows.put("sync daemon: interface lo", started(|d| d.interface = "lo"));
    rows.put(
        "sync daemon: interface without an IPv4 address, another has one",
        started(|d| d.interface = "v1"),
    );
    rows.put("sync daemon: max length 0", started(|d| d.max_length = Some(0)));
    rows.put("sync daemon: max length 1", started(|d| d.max_length = Some(1)));
    rows.put("sync daemon: max length 1473 at MTU 1500", started(|d| d.max_length = Some(1473)));
    rows.put("sync daemon: max length 65507 at MTU 1500", started(|d| d.max_length = Some(65507)));
    rows.put("sync daemon: max length 65535", started(|d| d.max_length = Some(65535)));
    rows.put("sync daemon: group 192.0.2.9", started(|d| d.group = Some([192, 0, 2, 9])));
    rows.put("sync daemon: group 239.0.0.9", started(|d| d.group = Some([239, 0, 0, 9])));
    rows.put("sync daemon: group ff02::51", {
        started(|d| d.group6 = Some("ff02::51".parse().unwrap()))
    });
    rows.put("sync daemon: group ff05::51", {
        started(|d| d.group6 = Some("ff05::51".parse().unwrap()))
    });
    rows.put("sync daemon: group 2001:db8::9", {
        started(|d| d.group6 = Some("2001:db8::9".parse().unwrap()))
    });
    rows.put("sync daemon: port 0", started(|d| d.port = Some(0)));
    rows.put("sync daemon: ttl 0", started(|d| d.ttl = Some(0)));
    rows.put("sync daemon: ttl 255", started(|d| d.ttl = Some(255)));
    rows.put("sync daemon: started twice", {
        in_ground(|_| {
            raw::send(daemon(|_| {})).unwrap();
            raw::send(daemon(|d| d.id = 8)).map_or_else(refused, |()| shown_daemons())
        })
    });
    rows.put("sync daemon: master and backup, ids 7 and 8", {
        in_ground(|_| {
            raw::send(daemon(|_| {})).unwrap();
            let backup = daemon(|d| (d.state, d.id) = (2, 8));
            raw::send(backup).map_or_else(refused, |()| "both run".to_owned())
        })
    });
    rows.put("sync daemon: both in one request (state 3)", started(|d| d.state = 3));
    rows.put("sync daemon: stopped where none runs", {
        in_ground(|_| {
            let raw = Raw { command: DEL_DAEMON, ..daemon(|_| {}) };
            raw::send(raw).map_or_else(refused, |()| "fine".to_owned())
        })
    });
}
