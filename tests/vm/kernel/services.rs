//! Services and destinations: what we make and what ipvsadm shows, and the other way round.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;

use lvsprov::kernel::ipvs::{self, IpvsRequest as Request, IpvsSocket, wire};
use lvsprov::protocol::{self, Reply};
use lvsprov::state::{
    Counters, Destination, DestinationId, DestinationKey, Edit, ForwardingMethod, Protocol,
    ServiceFlags, ServiceKey, Tunnel, VirtualService,
};
use lvsprov::topology::Scheduler;
use nix::errno::Errno;

use crate::support::netns_host::{NetnsHost, eventually, run};

/// Runs ipvsadm in there; `words` are split at blanks.
pub fn ipvsadm(netns: &NetnsHost, words: &str) -> String {
    netns.run(|| run(Command::new("ipvsadm").args(words.split(' '))))
}

/// `ipvsadm -Sn`, sorted: it dumps in hash order.
pub fn saved(netns: &NetnsHost) -> Vec<String> {
    let text = ipvsadm(netns, "-Sn");
    let mut lines: Vec<_> = text.lines().map(|line| line.trim().to_owned()).collect();
    lines.sort();
    lines
}

pub fn service_key(text: &str) -> ServiceKey {
    text.parse().unwrap()
}

pub fn web() -> ServiceKey {
    service_key("tcp 192.0.2.1:80")
}

pub fn dr(weight: u32) -> Destination {
    Destination::plain(ForwardingMethod::DirectRoute, weight)
}

pub fn add(key: &ServiceKey, scheduler: &str) -> Edit {
    let service = VirtualService::plain(key, scheduler);
    Edit::add::<VirtualService>(key.clone(), service)
}

pub fn add_rs(service: &ServiceKey, rip: &str, destination: Destination) -> Edit {
    let key = rip.parse().unwrap();
    Edit::add::<Destination>(DestinationId { service: service.clone(), key }, destination)
}

/// One plain service.
pub fn plain(scheduler: &str) -> Vec<Edit> {
    vec![add(&web(), scheduler)]
}

pub fn every_scheduler() {
    let release = run(Command::new("uname").arg("-r"));
    let listed =
        std::fs::read_to_string(format!("/lib/modules/{}/modules.dep", release.trim())).unwrap();
    let mut worked = 0;
    for scheduler in Scheduler::ALL {
        let netns = NetnsHost::with_lo();
        if listed.contains(&format!("/ip_vs_{scheduler}.ko")) {
            let outcome = netns.do_all(plain(scheduler.as_str()));
            assert_eq!(saved(&netns), [format!("-A -t 192.0.2.1:80 -s {scheduler}")]);
            assert_eq!(outcome.after.state.services[&web()].scheduler, scheduler.as_str());
            worked += 1;
        } else {
            println!("this kernel has no scheduler {scheduler}");
            netns.fails(add(&web(), scheduler.as_str()), "this kernel has no scheduler");
        }
    }
    // Linux 5.11 brought the fourteenth.
    assert!(worked >= Scheduler::ALL.len() - 1, "only {worked} schedulers");
}

pub fn an_unknown_scheduler() {
    let netns = NetnsHost::with_lo();
    let failure = netns.fails(add(&web(), "nonsense"), "no scheduler \"nonsense\"");
    assert!(failure.causes[0].contains("ENOENT"), "{failure}");
    assert!(failure.cure.unwrap().contains("ip_vs_nonsense"));
    let service =
        VirtualService { engine: Some("nope".to_owned()), ..VirtualService::plain(&web(), "rr") };
    netns.fails(Edit::add::<VirtualService>(web(), service), "persistence engine \"nope\"");
    assert!(saved(&netns).is_empty());
}

const PERSISTENT: u32 = ServiceFlags::PERSISTENT;

/// Everything that a service can be, with what `ipvsadm -Sn` shows for it.
fn gallery() -> Vec<(ServiceKey, VirtualService, String)> {
    let mut all = Vec::new();
    let mut put = |key: &str, shown: &str, make: fn(&mut VirtualService)| {
        let key = service_key(key);
        let mut service = VirtualService::plain(&key, "rr");
        make(&mut service);
        all.push((key, service, shown.to_owned()));
    };
    put("tcp 192.0.2.1:80", "-A -t 192.0.2.1:80 -s rr", |_| {});
    put("udp 192.0.2.1:53", "-A -u 192.0.2.1:53 -s rr -o", |s| {
        s.flags = ServiceFlags::new(ServiceFlags::ONE_PACKET);
    });
    put("sctp 192.0.2.1:99", "-A --sctp-service 192.0.2.1:99 -s rr", |_| {});
    put(
        "tcp [2001:db8::1]:80",
        "-A -t [2001:db8::1]:80 -s sh -p 600 -M 64 -b sh-fallback,sh-port",
        |s| {
            s.scheduler = "sh".into();
            s.flags = ServiceFlags::new(
                PERSISTENT | ServiceFlags::SCHEDULER_1 | ServiceFlags::SCHEDULER_2,
            );
            (s.timeout, s.netmask) = (600, 64);
        },
    );
    put("tcp 192.0.2.2:0", "-A -t 192.0.2.2:0 -s rr -p 300 -M 255.255.255.0", |s| {
        s.flags = ServiceFlags::new(PERSISTENT);
        (s.timeout, s.netmask) = (300, 0xffff_ff00);
    });
    put("fwmark4 8", "-A -f 8 -s rr", |_| {});
    put("fwmark6 8", "-A -f 8 -6 -s rr", |_| {});
    // (ipvsadm prints larger ones as negative numbers.)
    put("fwmark4 2147483647", "-A -f 2147483647 -s mh -b mh-port", |s| {
        s.scheduler = "mh".into();
        s.flags = ServiceFlags::new(ServiceFlags::SCHEDULER_2);
    });
    put("udp 192.0.2.1:5060", "-A -u 192.0.2.1:5060 -s rr -p 60 --pe sip -o", |s| {
        s.flags = ServiceFlags::new(PERSISTENT | ServiceFlags::ONE_PACKET);
        (s.timeout, s.engine) = (60, Some("sip".to_owned()));
    });
    put("tcp 192.0.2.1:81", "-A -t 192.0.2.1:81 -s rr -b flag-3", |s| {
        s.flags = ServiceFlags::new(ServiceFlags::SCHEDULER_3);
    });
    all
}

/// Everything that a destination of `tcp 192.0.2.1:80` can be, with what `ipvsadm -Sn` shows.
fn destinations() -> Vec<(DestinationKey, Destination, &'static str)> {
    let with = |method, weight, tunnel| Destination { method, weight, tunnel, ..dr(0) };
    let (nat, tun) = (ForwardingMethod::Masquerade, ForwardingMethod::Tunnel);
    let gue = |flags| Tunnel::Gue { port: 6080, flags };
    vec![
        ("192.0.2.10:80", dr(1), "-g -w 1"),
        ("192.0.2.11:8080", with(nat, 3, Tunnel::Ipip), "-m -w 3"),
        ("192.0.2.12:80", with(tun, 0, Tunnel::Ipip), "-i -w 0"),
        (
            "192.0.2.13:80",
            with(tun, 1, gue(0)),
            "-i -w 1 --tun-type gue --tun-port 6080 --tun-nocsum",
        ),
        (
            "192.0.2.14:80",
            with(tun, 1, gue(1)),
            "-i -w 1 --tun-type gue --tun-port 6080 --tun-csum",
        ),
        (
            "192.0.2.15:80",
            with(tun, 1, Tunnel::Gre { flags: 1 }),
            "-i -w 1 --tun-type gre --tun-csum",
        ),
        (
            "192.0.2.16:80",
            Destination { upper_threshold: 100, lower_threshold: 50, ..dr(2) },
            "-g -w 2",
        ),
        ("[2001:db8::10]:80", with(tun, 1, Tunnel::Ipip), "-i -w 1"),
    ]
    .into_iter()
    .map(|(key, destination, shown)| (key.parse().unwrap(), destination, shown))
    .collect()
}

/// ipvsadm prints option groups in an order and with defaults that differ from version to version:
/// compared are the options of each line as a set.
fn as_sets(lines: &[String]) -> Vec<Vec<String>> {
    let mut all: Vec<_> = lines
        .iter()
        .map(|line| {
            let mut words: Vec<String> = Vec::new();
            for word in line.split(' ') {
                let value = !word.starts_with('-') && !words.is_empty();
                match words.last_mut().filter(|_| value) {
                    Some(option) => *option = format!("{option} {word}"),
                    None => words.push(word.to_owned()),
                }
            }
            // A default that some versions print, and what older ones call otherwise.
            words.retain(|word| word != "--tun-type ipip");
            for word in &mut words {
                match word.as_str() {
                    "pe sip" => *word = "--pe sip".into(),
                    "ops" => *word = "-o".into(),
                    _ => {}
                }
            }
            words.sort();
            words
        })
        .collect();
    all.sort();
    all
}

pub fn as_ipvsadm_shows_them() {
    let netns = NetnsHost::with_lo();
    let mut steps = Vec::new();
    let mut shown = Vec::new();
    let mut wanted = std::collections::BTreeMap::new();
    for (key, service, text) in gallery() {
        steps.push(Edit::add::<VirtualService>(key.clone(), service.clone()));
        shown.push(text);
        wanted.insert(key, service);
    }
    for (key, destination, text) in destinations() {
        steps.push(Edit::add::<Destination>(
            DestinationId { service: web(), key },
            destination.clone(),
        ));
        shown.push(format!("-a -t 192.0.2.1:80 -r {key} {text}"));
        wanted.get_mut(&web()).unwrap().destinations.insert(key, destination);
    }
    let outcome = netns.do_all(steps.clone());
    assert_eq!(as_sets(&saved(&netns)), as_sets(&shown));
    assert_eq!(outcome.after.state.services, wanted);
    let listed = ipvsadm(&netns, "-Ln --thresholds");
    let line = listed.lines().find(|line| line.contains("192.0.2.16:80")).unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[..4], ["->", "192.0.2.16:80", "100", "50"], "{listed}");

    edit_all_of_it(&netns);
    netns.do_all(steps.iter().rev().map(|step| step.inverse().unwrap()).collect());
    assert!(saved(&netns).is_empty());
}

/// Changes one of everything, looks, and changes it back.
fn edit_all_of_it(netns: &NetnsHost) {
    let before = saved(netns);
    let plain = VirtualService::plain(&web(), "rr");
    let persistent = VirtualService {
        scheduler: "wlc".to_owned(),
        flags: ServiceFlags::new(ServiceFlags::PERSISTENT),
        timeout: 60,
        ..plain.clone()
    };
    let nat = Destination { method: ForwardingMethod::Masquerade, ..dr(9) };
    let rip: DestinationKey = "192.0.2.10:80".parse().unwrap();
    let edits = [
        Edit::change::<VirtualService>(web(), plain, persistent),
        Edit::change::<Destination>(DestinationId { service: web(), key: rip }, dr(1), nat),
    ];
    netns.do_all(edits.to_vec());
    let after = saved(netns);
    assert!(after.contains(&"-A -t 192.0.2.1:80 -s wlc -p 60".to_owned()), "{after:?}");
    assert!(after.contains(&"-a -t 192.0.2.1:80 -r 192.0.2.10:80 -m -w 9".to_owned()), "{after:?}");
    netns.do_all(edits.iter().rev().map(|edit| edit.inverse().unwrap()).collect());
    assert_eq!(saved(netns), before);
}

/// What ipvsadm made is what we read.
pub fn as_ipvsadm_makes_them() {
    let netns = NetnsHost::with_lo();
    let mut wanted = std::collections::BTreeMap::new();
    for (key, service, text) in gallery() {
        ipvsadm(&netns, &text);
        wanted.insert(key, service);
    }
    for (key, destination, text) in destinations() {
        let Destination { upper_threshold: x, lower_threshold: y, .. } = destination;
        let text = format!("-a -t 192.0.2.1:80 -r {key} {text} -x {x} -y {y}");
        ipvsadm(&netns, &text);
        wanted.get_mut(&web()).unwrap().destinations.insert(key, destination);
    }
    assert_eq!(netns.look(&[]).state.services, wanted);
    ipvsadm(&netns, "--set 100 0 200");
    let timeouts = netns.run(|| IpvsSocket::open().unwrap().timeouts()).unwrap();
    assert_eq!((timeouts.tcp, timeouts.tcp_fin, timeouts.udp), (100, 120, 200));
}

pub fn weights_and_thresholds() {
    let netns = NetnsHost::with_lo();
    netns.do_all(plain("rr"));
    let highest = 2_147_483_647;
    netns.do_all(vec![
        add_rs(&web(), "192.0.2.10:80", dr(0)),
        add_rs(&web(), "192.0.2.11:80", dr(highest)),
    ]);
    assert!(
        saved(&netns).contains(&format!("-a -t 192.0.2.1:80 -r 192.0.2.11:80 -g -w {highest}"))
    );
    let failure = netns.fails(add_rs(&web(), "192.0.2.12:80", dr(highest + 1)), "out of range");
    assert!(failure.cure.unwrap().contains("2147483647"));
    let limits = |upper_threshold, lower_threshold| Destination {
        upper_threshold,
        lower_threshold,
        ..dr(1)
    };
    netns.fails(add_rs(&web(), "192.0.2.12:80", limits(1, 2)), "out of range");
    // Linux 6.1 takes no more than an int, although the attribute is a u32: whatever a kernel does,
    // it is said, or it is so.
    let outcome = netns.act(vec![add_rs(&web(), "192.0.2.14:80", limits(u32::MAX, 2))]);
    if let Some(failure) = outcome.failure {
        assert!(failure.message.contains("out of range"), "{failure}");
    } else {
        let seen = &outcome.after.state.services[&web()].destinations;
        assert_eq!(seen[&"192.0.2.14:80".parse().unwrap()], limits(u32::MAX, 2));
    }
    let outcome = netns.do_all(vec![add_rs(&web(), "192.0.2.12:80", limits(highest, 2))]);
    let seen = &outcome.after.state.services[&web()].destinations;
    assert_eq!(seen[&"192.0.2.12:80".parse().unwrap()], limits(highest, 2));
    let tunnel = Tunnel::Gue { port: 0, flags: 0 };
    let gue = Destination { method: ForwardingMethod::Tunnel, tunnel, ..dr(1) };
    netns.fails(add_rs(&web(), "192.0.2.13:80", gue), "GUE tunnel needs a port");
}

/// A destination that is an address of the director's own: today's kernel reports the method that
/// was asked for (and chooses "local" packet by packet); a kernel that reports "local" is fine too.
pub fn a_real_server_on_the_director() {
    let netns = NetnsHost::with_pair("192.0.2.1/24");
    netns.do_all(plain("rr"));
    let change = add_rs(&web(), "192.0.2.1:80", dr(1));
    let outcome = netns.do_all(vec![change.clone()]);
    let seen = &outcome.after.state.services[&web()].destinations;
    assert_eq!(seen[&"192.0.2.1:80".parse().unwrap()], dr(1));
    assert_eq!(saved(&netns)[1], "-a -t 192.0.2.1:80 -r 192.0.2.1:80 -g -w 1");
    netns.do_all(vec![change.inverse().unwrap()]);
    assert_eq!(saved(&netns).len(), 1);
}

pub fn counters() {
    let (client, director) = NetnsHost::two("192.0.2.2/24", "192.0.2.1/24");
    let nat = Destination { method: ForwardingMethod::Masquerade, ..dr(1) };
    director.do_all(vec![add(&web(), "rr"), add_rs(&web(), "192.0.2.1:8080", nat)]);
    let listener = director.run(|| TcpListener::bind("192.0.2.1:8080")).unwrap();
    let server = std::thread::spawn(move || {
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 64]).unwrap();
            stream.write_all(b"web1\n").unwrap();
        }
    });
    let (target, count) = ("192.0.2.1:80".parse().unwrap(), 3);
    let request =
        protocol::Request::Fetch { target, protocol: Protocol::Tcp, count, timeout_ms: 10_000 };
    let Reply::Fetched(fetched) = client.ask(request) else { panic!("not fetched") };
    assert_eq!(fetched.answers.get("web1"), Some(&3), "{fetched:?}");
    server.join().unwrap();
    let (topology, sysctls) = ("t".parse().unwrap(), std::collections::BTreeSet::new());
    let look = protocol::Request::Observe { topology, sysctls, counters: true };
    // The kernel sums up its counters every two seconds.
    eventually("three connections counted", || {
        let Reply::Observed(seen) = director.ask(look.clone()) else { panic!("not seen") };
        let Counters { active, inactive, persistent, total, packets_in, bytes_in, .. } =
            seen.counters[&web()][&"192.0.2.1:8080".parse().unwrap()];
        // Of each connection at least SYN, ACK, request and FIN, each with its headers.
        (total, active + inactive, persistent) == (3, 3, 0)
            && packets_in >= 12
            && bytes_in >= 40 * packets_in
    });
    assert!(director.look(&[]).counters.is_empty());
}

pub fn many_services() {
    let netns = NetnsHost::with_lo();
    let mut steps = Vec::new();
    for number in 1..=300_u32 {
        let key = ServiceKey::Fwmark { v6: number % 2 == 0, mark: number };
        steps.push(add(&key, "wrr"));
        let count = if number == 7 { 1500 } else { 2 };
        for server in 0..count {
            let [high, low] = u16::try_from(server).unwrap().to_be_bytes();
            let rip = if key.is_ipv6() {
                format!("[2001:db8::{server:x}]:80")
            } else {
                format!("10.7.{high}.{low}:80")
            };
            steps.push(add_rs(&key, &rip, dr(server + 1)));
        }
    }
    let outcome = netns.do_all(steps.clone());
    assert_eq!(saved(&netns).len(), steps.len());
    let services = &outcome.after.state.services;
    assert_eq!(services.len(), 300);
    let count: usize = services.values().map(|service| service.destinations.len()).sum();
    assert_eq!(count + 300, steps.len());
    let seventh = &services[&ServiceKey::Fwmark { v6: false, mark: 7 }].destinations;
    assert_eq!(seventh[&"10.7.5.219:80".parse().unwrap()].weight, 1500);
    // All of it away again, the last first.
    netns.do_all(steps.iter().rev().map(|step| step.inverse().unwrap()).collect());
    assert!(saved(&netns).is_empty());
}

/// In a namespace without any address the kernel knows no unicast address, so no real server.
pub fn a_bare_namespace() {
    let netns = NetnsHost::new();
    netns.do_all(plain("rr"));
    let failure = netns.fails(add_rs(&web(), "192.0.2.10:80", dr(1)), "as a unicast address");
    assert!(failure.cure.unwrap().contains("without any address"));
    netns.ip("link set lo up");
    netns.fails(add_rs(&web(), "224.0.0.1:80", dr(1)), "as a unicast address");
    netns.do_all(vec![add_rs(&web(), "192.0.2.10:80", dr(1))]);
}

/// Below the strict table: what the kernel itself says, one request at a time.
pub fn the_kernels_errors() {
    let netns = NetnsHost::with_lo();
    netns.run(|| {
        let mut ipvs = IpvsSocket::open().unwrap();
        let service = VirtualService::plain(&web(), "rr");
        let rip: DestinationKey = "192.0.2.10:80".parse().unwrap();
        let new = Request::NewService(web(), service.clone());
        let new_rs = Request::NewDestination(web(), rip, dr(1));
        let set_rs = Request::SetDestination(web(), rip, dr(2));
        let drop_rs = Request::DeleteDestination(web(), rip);
        let mut says = |request: &Request, errno: Errno, words: &str| {
            assert_eq!(ipvs.carry_out(std::slice::from_ref(request)).unwrap(), [Err(errno)]);
            let text = ipvs::explain(request, errno).to_string();
            assert!(text.contains(words), "{text}");
        };
        says(&new_rs, Errno::ESRCH, "the service does not exist");
        says(&Request::SetService(web(), service), Errno::ESRCH, "the service does not exist");
        says(&Request::DeleteService(web()), Errno::ESRCH, "the service does not exist");
        let mut ipvs = IpvsSocket::open().unwrap();
        assert!(!ipvs.has_service(&web()).unwrap());
        assert_eq!(ipvs.carry_out(std::slice::from_ref(&new)).unwrap(), [Ok(())]);
        assert!(ipvs.has_service(&web()).unwrap());
        // In one go: the kernel does not stop at an error.
        let all = [new, set_rs.clone(), drop_rs.clone(), new_rs.clone(), new_rs, set_rs, drop_rs];
        let expected = [
            Err(Errno::EEXIST),
            Err(Errno::ENOENT),
            Err(Errno::ENOENT),
            Ok(()),
            Err(Errno::EEXIST),
            Ok(()),
            Ok(()),
        ];
        assert_eq!(ipvs.carry_out(&all).unwrap(), expected);
        assert_eq!(ipvs.carry_out(&[]).unwrap(), []);
    });
}

/// Why dumps are not pipelined: of two on one socket the kernel runs the first only.
pub fn two_dumps_at_once() {
    let netns = NetnsHost::with_lo();
    netns.do_all(plain("rr"));
    let family = super::bytes::family(&netns);
    let errors = netns.run(|| {
        let mut socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_GENERIC).unwrap();
        socket.bind_auto().unwrap();
        socket.connect(&netlink_sys::SocketAddr::new(0, 0)).unwrap();
        let dump = |seq| wire::frame(family, 0x301, seq, 4, 1, &[]);
        socket.send(&[dump(1), dump(2)].concat(), 0).unwrap();
        let mut errors = std::collections::BTreeMap::new();
        while errors.len() < 2 {
            let (bytes, _) = socket.recv_from_full().unwrap();
            for message in wire::messages(&bytes).map(Result::unwrap) {
                if matches!(message.kind, wire::ERROR | wire::DONE) {
                    errors.insert(message.seq, Errno::from_raw(message.errno().unwrap()));
                }
            }
        }
        errors
    });
    assert_eq!(errors, [(1, Errno::from_raw(0)), (2, Errno::EBUSY)].into());
}
