//! What goes over netlink, ours beside ipvsadm's, captured by the kernel itself (nlmon) with tcpdump.
//!
//! The order of attributes means nothing, so each message is taken apart, and each attribute's bytes
//! are compared. ipvsadm always sends whole structures; where only a name is needed (which service a
//! destination belongs to, what to delete) the kernel reads the name only and we send only that:
//! what ipvsadm adds there is checked to be exactly that.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use lvsprov::kernel::ipvs::codec::command;
use lvsprov::kernel::ipvs::{IpvsRequest as Request, IpvsSocket, wire};
use lvsprov::state::{
    Destination, DestinationKey, ForwardingMethod, ServiceFlags, ServiceKey, Timeouts, Tunnel,
    VirtualService,
};

use super::services::{dr, ipvsadm, service_key, web};
use crate::support::netns_host::{NetnsHost, eventually, run};

/// Listens to all netlink of a namespace.
struct Capture {
    tcpdump: Child,
    file: tempfile::NamedTempFile,
}

impl Capture {
    fn start(netns: &NetnsHost) -> Self {
        run(Command::new("modprobe").arg("nlmon"));
        netns.ip("link add nlmon0 type nlmon");
        netns.ip("link set nlmon0 up");
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut tcpdump = netns.run(|| {
            Command::new("tcpdump")
                .args(["-i", "nlmon0", "-s", "0", "-U", "-Z", "root", "-w"])
                .arg(file.path())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        });
        let said = BufReader::new(tcpdump.stderr.as_mut().unwrap()).lines().next();
        let said = said.unwrap().unwrap();
        assert!(said.contains("listening on nlmon0"), "{said}");
        Self { tcpdump, file }
    }

    /// The requests to `family` that were heard, once there are `count` of them.
    fn requests(mut self, family: u16, count: usize) -> Vec<Heard> {
        let mut heard = Vec::new();
        eventually("all requests in the capture", || {
            heard = requests_in(&fs::read(self.file.path()).unwrap(), family);
            heard.len() >= count
        });
        self.tcpdump.kill().unwrap();
        self.tcpdump.wait().unwrap();
        assert_eq!(heard.len(), count);
        heard
    }
}

/// One request: its command, and its attributes by the path of their types.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Heard {
    command: u8,
    attributes: BTreeMap<(u16, u16), Vec<u8>>,
}

fn requests_in(pcap: &[u8], family: u16) -> Vec<Heard> {
    let mut all = Vec::new();
    // pcap: a header of 24 bytes; each packet has one of 16 with its length at 8; then 16 bytes of
    // "cooked" header (LINKTYPE_NETLINK), whose last two say the protocol: 16 is generic netlink.
    let mut rest = pcap.get(24..).unwrap_or_default();
    while let Some(header) = rest.get(..16) {
        let length = u32::from_ne_bytes(header[8..12].try_into().unwrap()) as usize;
        let Some(packet) = rest.get(16..16 + length) else { break };
        rest = &rest[16 + length..];
        if packet[14..16] != [0, 16] {
            continue;
        }
        for message in wire::messages(&packet[16..]).map(Result::unwrap) {
            let request = message.kind == family && message.flags & 1 != 0;
            if let Some(heard) = request.then(|| take_apart(&message)).filter(is_change) {
                all.push(heard);
            }
        }
    }
    all
}

fn is_change(heard: &Heard) -> bool {
    !matches!(heard.command, command::GET_SERVICE | command::GET_DEST | command::GET_INFO)
}

fn take_apart(message: &wire::Message<'_>) -> Heard {
    let (command, body) = message.generic().unwrap();
    let mut attributes = BTreeMap::new();
    for attribute in wire::attributes(body) {
        let (kind, value) = attribute.unwrap();
        // 1 to 3 are nested; 4 to 6 are numbers.
        if kind > 3 {
            attributes.insert((kind, 0), value.to_vec());
            continue;
        }
        for inner in wire::attributes(value) {
            let (inner, value) = inner.unwrap();
            attributes.insert((kind, inner), value.to_vec());
        }
    }
    Heard { command, attributes }
}

fn with(weight: u32, method: ForwardingMethod, tunnel: Tunnel) -> Destination {
    Destination { method, tunnel, ..dr(weight) }
}

/// What ipvsadm is told, and what we ask for instead.
fn pairs() -> Vec<(&'static str, Request)> {
    let rip = |text: &str| text.parse::<DestinationKey>().unwrap();
    let plain = |key: &ServiceKey, scheduler| VirtualService::plain(key, scheduler);
    let persistent = |service: VirtualService, extra, timeout, netmask| VirtualService {
        flags: ServiceFlags::new(ServiceFlags::PERSISTENT | extra),
        timeout,
        netmask,
        ..service
    };
    let (both, ops) =
        (ServiceFlags::SCHEDULER_1 | ServiceFlags::SCHEDULER_2, ServiceFlags::ONE_PACKET);
    let v6 = service_key("tcp [2001:db8::1]:80");
    let sip = service_key("udp 192.0.2.1:5060");
    let (all, sctp) = (service_key("tcp 192.0.2.2:0"), service_key("sctp 192.0.2.1:99"));
    let (mark4, mark6) = (service_key("fwmark4 8"), service_key("fwmark6 8"));
    let (nat, tun) = (ForwardingMethod::Masquerade, ForwardingMethod::Tunnel);
    let limited = Destination { upper_threshold: 100, lower_threshold: 50, ..dr(3) };
    let gue = Tunnel::Gue { port: 6080, flags: 0 };
    let with_engine = VirtualService { engine: Some("sip".to_owned()), ..plain(&sip, "rr") };
    let new = Request::NewService;
    let new_rs = |key: &str, rs| Request::NewDestination(web(), rip(key), rs);
    vec![
        ("-A -t 192.0.2.1:80 -s wlc", new(web(), plain(&web(), "wlc"))),
        (
            "-A -t [2001:db8::1]:80 -s sh -b sh-fallback,sh-port -p 600 -M 64",
            new(v6.clone(), persistent(plain(&v6, "sh"), both, 600, 64)),
        ),
        (
            "-A -t 192.0.2.2:0 -s rr -p 300 -M 255.255.255.0",
            new(all.clone(), persistent(plain(&all, "rr"), 0, 300, 0xffff_ff00)),
        ),
        ("-A -f 8 -s wrr", new(mark4.clone(), plain(&mark4, "wrr"))),
        ("-A -f 8 -6 -s rr", new(mark6.clone(), plain(&mark6, "rr"))),
        (
            "-A -u 192.0.2.1:5060 -s rr -p 60 --pe sip -o",
            new(sip.clone(), persistent(with_engine, ops, 60, u32::MAX)),
        ),
        ("-A --sctp-service 192.0.2.1:99 -s lc", new(sctp.clone(), plain(&sctp, "lc"))),
        (
            "-E -t 192.0.2.1:80 -s rr -p 90",
            Request::SetService(web(), persistent(plain(&web(), "rr"), 0, 90, u32::MAX)),
        ),
        (
            "-a -t 192.0.2.1:80 -r 192.0.2.10:80 -g -w 3 -x 100 -y 50",
            new_rs("192.0.2.10:80", limited),
        ),
        (
            "-a -t 192.0.2.1:80 -r 192.0.2.11:8080 -m -w 0",
            new_rs("192.0.2.11:8080", with(0, nat, Tunnel::Ipip)),
        ),
        (
            "-a -t 192.0.2.1:80 -r 192.0.2.12:80 -i",
            new_rs("192.0.2.12:80", with(1, tun, Tunnel::Ipip)),
        ),
        (
            "-a -t 192.0.2.1:80 -r 192.0.2.13:80 -i --tun-type gue --tun-port 6080 --tun-nocsum",
            new_rs("192.0.2.13:80", with(1, tun, gue)),
        ),
        (
            "-a -t 192.0.2.1:80 -r 192.0.2.14:80 -i --tun-type gre --tun-csum",
            new_rs("192.0.2.14:80", with(1, tun, Tunnel::Gre { flags: 1 })),
        ),
        (
            "-a -f 8 -r 192.0.2.15:0 -g",
            Request::NewDestination(mark4.clone(), rip("192.0.2.15:0"), dr(1)),
        ),
        (
            "-a -t [2001:db8::1]:80 -r [2001:db8::10]:80 -g -w 2147483647",
            Request::NewDestination(v6.clone(), rip("[2001:db8::10]:80"), dr(2_147_483_647)),
        ),
        (
            "-e -t 192.0.2.1:80 -r 192.0.2.10:80 -g -w 5",
            Request::SetDestination(web(), rip("192.0.2.10:80"), dr(5)),
        ),
        (
            "-d -t 192.0.2.1:80 -r 192.0.2.10:80",
            Request::DeleteDestination(web(), rip("192.0.2.10:80")),
        ),
        (
            "-d -t [2001:db8::1]:80 -r [2001:db8::10]:80",
            Request::DeleteDestination(v6.clone(), rip("[2001:db8::10]:80")),
        ),
        ("-D -t [2001:db8::1]:80", Request::DeleteService(v6)),
        ("-D -f 8", Request::DeleteService(mark4)),
        ("--set 100 0 200", Request::SetTimeouts(Timeouts { tcp: 100, tcp_fin: 0, udp: 200 })),
    ]
}

/// Which attributes ipvsadm sends beyond ours: those that the kernel does not read there.
fn beyond(request: &Request) -> Vec<(u16, u16)> {
    const SERVICE: u16 = 1;
    const DEST: u16 = 2;
    // Scheduler, flags, timeout, netmask.
    let settings = [6, 7, 8, 9].map(|kind| (SERVICE, kind));
    let mut all = Vec::new();
    match request {
        Request::NewDestination(..) | Request::SetDestination(..) | Request::DeleteService(_) => {
            all.extend(settings);
        }
        Request::DeleteDestination(..) => {
            all.extend(settings);
            // Method, weight, thresholds, tunnel.
            all.extend([3, 4, 5, 6, 13, 14, 15].map(|kind| (DEST, kind)));
        }
        _ => {}
    }
    all
}

pub fn the_same_bytes_as_ipvsadm() {
    let pairs = pairs();
    let theirs = NetnsHost::with_lo();
    let capture = Capture::start(&theirs);
    for (words, _) in &pairs {
        ipvsadm(&theirs, words);
    }
    let family = family(&theirs);
    let theirs = capture.requests(family, pairs.len());

    let ours = NetnsHost::with_lo();
    let capture = Capture::start(&ours);
    ours.run(|| {
        let mut ipvs = IpvsSocket::open().unwrap();
        for (words, request) in &pairs {
            let done = ipvs.carry_out(std::slice::from_ref(request)).unwrap();
            assert_eq!(done, [Ok(())], "{words}");
        }
    });
    let ours = capture.requests(family, pairs.len());

    for (((words, request), mut theirs), ours) in pairs.iter().zip(theirs).zip(ours) {
        for extra in beyond(request) {
            theirs.attributes.remove(&extra);
        }
        assert_eq!(ours, theirs, "ipvsadm {words}");
        // And ours, read back, is what was asked for.
        assert_eq!(ours, take_apart_encoded(request), "{words}");
    }
}

fn take_apart_encoded(request: &Request) -> Heard {
    let frame = wire::frame(99, 1, 1, request.command(), 1, &request.encode());
    take_apart(&wire::messages(&frame).next().unwrap().unwrap())
}

/// The number of the family IPVS, as `genl` sees it: the second opinion on our own lookup.
pub fn family(netns: &NetnsHost) -> u16 {
    let text = netns.run(|| run(Command::new("genl").args(["ctrl", "get", "name", "IPVS"])));
    let id = text.split("ID: ").nth(1).unwrap().split_whitespace().next().unwrap();
    u16::from_str_radix(id.trim_start_matches("0x"), 16).unwrap()
}
