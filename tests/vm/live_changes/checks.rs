//! `check:` in the file, carried out by keepalived with the configuration that lvsprov writes: what is broken on a real
//! server takes it out, and what is mended brings it back.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lvsprov::keepalived;
use tokio::runtime::Runtime;

use super::cluster::{Cluster, Method, text};
use super::health::{Keepalived, weights};
use super::load;
use crate::support::cases::Case;
use crate::support::speed;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("a_check_goes_the_way_of_the_clients_dr", || broken(Method::Dr)),
        Case::new("a_check_goes_the_way_of_the_clients_tun", || broken(Method::Tun)),
        Case::new("http_dns_and_scripts_are_asked", questions),
        Case::new("the_sorry_server_takes_over", sorry_server),
    ]
}

const VIP: Ipv4Addr = Ipv4Addr::new(172, 25, 7, 1);
/// `check:` of these tests.
const INTERVAL: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(1);
const FALL: u32 = 2;
/// How much later it may be: the machine is emulated, and keepalived gets its share of it.
const SLOWER: u32 = 3;

/// keepalived on the director of `cluster`, after an apply of `services`.
struct Checked {
    cluster: Cluster,
    folder: tempfile::TempDir,
    services: String,
    /// Ends with it.
    _daemon: Keepalived,
}

impl Checked {
    fn begin(method: Method, services: &str, serve: impl FnOnce(&Cluster)) -> Self {
        let cluster = Cluster::build(method);
        let folder = tempfile::tempdir().unwrap();
        serve(&cluster);
        let (planned, _) = cluster.apply(services);
        println!("{}", text(&planned));
        let topology = cluster.topology(services);
        let configuration = keepalived::configuration(&topology, &"lvs".parse().unwrap()).unwrap();
        let before = table(&cluster);
        let daemon = Keepalived::start(&cluster, folder.path(), &configuration);
        let all = Self { cluster, folder, services: services.to_owned(), _daemon: daemon };
        // It has read its configuration, taken what exists for its own, and asked once.
        all.wait_for_log("Activating healthchecker");
        assert_eq!(table(&all.cluster), before, "{}", all.log());
        all
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn wait_for_log(&self, what: &str) {
        let deadline = Instant::now() + speed::patience();
        while !self.log().contains(what) {
            assert!(Instant::now() < deadline, "no {what:?}\n{}", self.log());
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Until web3 takes requests at `port`, or none: how long that took.
    fn until(&self, port: u16, is_in: bool) -> Duration {
        let started = Instant::now();
        let deadline = started + speed::patience();
        while weights(&self.cluster, port)[2].is_some() != is_in {
            assert!(Instant::now() < deadline, "port {port}, in: {is_in}\n{}", self.log());
            thread::sleep(Duration::from_millis(100));
        }
        started.elapsed()
    }

    /// web3 leaves and comes back in time at port 82, and at port 83, whose check is of the RIP, as `rip_sees` says.
    fn out_and_in(&self, what: &str, rip_sees: bool, breaks: impl FnOnce(), mends: impl FnOnce()) {
        breaks();
        let out = self.until(82, false);
        let by_rip = if rip_sees { Some(self.until(83, false)) } else { None };
        // A check of the RIP that saw it would have had as much time.
        thread::sleep(if rip_sees { Duration::ZERO } else { INTERVAL * (FALL + 1) });
        assert_eq!(weights(&self.cluster, 83)[2].is_some(), !rip_sees, "{what}\n{}", self.log());
        assert_eq!(weights(&self.cluster, 82)[..2], [Some(10); 2], "{what}\n{}", self.log());
        mends();
        let back = self.until(82, true);
        self.until(83, true);
        println!("{what}: out after {out:.1?} (by the RIP: {by_rip:.1?}), back after {back:.1?}");
        let (out_in, back_in) = (INTERVAL * FALL + TIMEOUT + SECOND, INTERVAL + TIMEOUT + SECOND);
        assert!(out <= speed::scaled(out_in * SLOWER), "{what}: out after {out:?}");
        assert!(back <= speed::scaled(back_in * SLOWER), "{what}: back after {back:?}");
    }

    /// An apply while web3 is out: how many steps it does on the director.
    fn apply_meanwhile(&self) -> usize {
        let (planned, done) = self.cluster.apply(&self.services);
        assert!(text(&planned).contains("web3: out of service"), "{}", text(&planned));
        done.hosts[&"lvs".parse().unwrap()].steps.len()
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// What IPVS of the director has, without order.
fn table(cluster: &Cluster) -> Vec<String> {
    let run = || Command::new("ipvsadm").arg("-Sn").output().unwrap();
    let output = cluster.lab.run_in(&"lvs".parse().unwrap(), run).unwrap();
    let mut all: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    all.sort();
    all
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn broken(method: Method) {
    let service = |port: u16, via: &str| {
        format!(
            "{{vip: 172.25.7.1, port: {port}, scheduler: wrr, check: {{type: tcp, via: {via}, interval: {}, timeout: {}, \
             fall: {FALL}}}, real_servers: [{{host: web1, weight: 10}}, {{host: web2, weight: 10}}, {{host: web3, weight: 10}}]}}",
            INTERVAL.as_secs(),
            TIMEOUT.as_secs()
        )
    };
    let services = format!("{}\n  - {}", service(82, "vip"), service(83, "rip"));
    let mut third = Some(runtime());
    let checked = Checked::begin(method, &services, |cluster| {
        for host in ["web1", "web2"] {
            load::serve(&cluster.runtime, &cluster.lab, host, &[82, 83]);
        }
        load::serve(third.as_ref().unwrap(), &cluster.lab, "web3", &[82, 83]);
    });
    let run = |command: &str| checked.cluster.run("web3", command);
    thread::sleep(INTERVAL * 2);
    assert_eq!(weights(&checked.cluster, 82), [Some(10); 3], "{}", checked.log());
    assert_eq!(weights(&checked.cluster, 83), [Some(10); 3], "{}", checked.log());

    let (dead, alive) = (third.take().unwrap(), runtime());
    let serve = |runtime: &Runtime| load::serve(runtime, &checked.cluster.lab, "web3", &[82, 83]);
    let stop = || dead.shutdown_timeout(Duration::from_secs(5));
    let mend = || {
        assert_eq!(checked.apply_meanwhile(), 0);
        serve(&alive);
    };
    checked.out_and_in("the service stops", true, stop, mend);
    let down = || run("ip link set eth0 down");
    checked.out_and_in("the link is down", true, down, || run("ip link set eth0 up"));
    let dev = if matches!(method, Method::Tun) { "tunl0" } else { "lo" };
    let without = || run(&format!("ip address del 172.25.7.1/32 dev {dev}"));
    // An apply mends what is lvsprov's own, and leaves the director as it is.
    let apply = || assert_eq!(checked.apply_meanwhile(), 0);
    checked.out_and_in("the VIP is missing", false, without, apply);
    alive.shutdown_timeout(Duration::from_secs(5));
    checked.until(82, false);
    checked.until(83, false);

    // It listens on the RIP only: no client is ever answered.
    let only = runtime();
    load::serve_at(
        only.handle(),
        &checked.cluster.lab,
        "web3",
        Ipv4Addr::new(172, 25, 7, 13),
        &[82, 83],
    );
    checked.until(83, true);
    thread::sleep(INTERVAL * 3);
    assert_eq!(weights(&checked.cluster, 82)[2], None, "{}", checked.log());
    only.shutdown_timeout(Duration::from_secs(5));
    let alive = runtime();
    serve(&alive);
    checked.until(82, true);
    if matches!(method, Method::Tun) {
        let strict = || {
            run("sysctl -q -w net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.tunl0.rp_filter=1");
        };
        checked.out_and_in("the source check of tunl0 is strict", false, strict, apply);
    } else {
        // Clients may go past the director now, and no check sees that: the director has the VIP itself.
        run("sysctl -q -w net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.all.arp_announce=0");
        run("ip neigh flush all");
        thread::sleep(INTERVAL * (FALL + 2));
        assert_eq!(weights(&checked.cluster, 82)[2], Some(10), "{}", checked.log());
    }
    drop(alive);
}

/// A responder on web1 to web3 that can be told to be ill.
struct Responder {
    is_well: Arc<AtomicBool>,
}

impl Responder {
    /// HTTP on port 80, DNS on port 53, both on the VIP.
    fn start(cluster: &Cluster, host: &str) -> Self {
        let is_well = Arc::new(AtomicBool::new(true));
        let bind = || {
            let tcp = TcpListener::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 8080)).unwrap();
            // Answers of a socket of UDP that is bound to no address have the RIP as their source.
            (tcp, UdpSocket::bind(SocketAddrV4::new(VIP, 53)).unwrap())
        };
        let (tcp, udp) = cluster.lab.run_in(&host.parse().unwrap(), bind).unwrap();
        let well = is_well.clone();
        thread::spawn(move || {
            for stream in tcp.incoming() {
                let Ok(mut stream) = stream else { continue };
                let mut request = [0; 1024];
                let got = stream.read(&mut request).unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..got]).into_owned();
                let asked =
                    request.starts_with("GET /up?x=1 ") && request.contains("www.example.org");
                let body =
                    if well.load(Ordering::Relaxed) { "it is \"fine\"!" } else { "it is bad" };
                let status = if asked { "200 OK" } else { "404 Not Found" };
                let length = body.len();
                let _ = stream.write_all(
                    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
                        .as_bytes(),
                );
            }
        });
        let well = is_well.clone();
        thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((length, from)) = udp.recv_from(&mut question) {
                let answer = &mut question[..length];
                // A response; SERVFAIL if it is ill (RFC 1035, 4.1.1). Another name gets no answer.
                answer[2] |= 0x80;
                answer[3] = if well.load(Ordering::Relaxed) { 0 } else { 2 };
                if answer.windows(13).any(|part| part == b"\x07example\x03org\0") {
                    let _ = udp.send_to(answer, from);
                }
            }
        });
        Self { is_well }
    }

    fn is(&self, well: bool) {
        self.is_well.store(well, Ordering::Relaxed);
    }
}

/// An executable that looks for a file with the name of its second argument.
fn script(folder: &Path) -> String {
    let path = folder.join("check");
    fs::write(&path, "#!/bin/sh\ntest \"$2\" = \"172.25.7.1 85\" && test ! -e \"$1.ill\"\n")
        .unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

fn questions() {
    let scripts = tempfile::tempdir().unwrap();
    let script = script(scripts.path());
    let ill = |rip: &str| scripts.path().join(format!("{rip}.ill"));
    let prefix = scripts.path().display();
    let times =
        format!("interval: {}, timeout: {}, fall: {FALL}", INTERVAL.as_secs(), TIMEOUT.as_secs());
    let servers = "real_servers: [{host: web1, weight: 10}, {host: web2, weight: 10}, {host: web3, weight: 10}]";
    let services = [
        format!(
            "{{vip: 172.25.7.1, port: 8080, {servers}, check: {{type: http, path: '/up?x=1', host: www.example.org, body: '\"fine\"!', {times}}}}}"
        ),
        format!(
            "{{vip: 172.25.7.1, port: 53, protocol: udp, {servers}, check: {{type: dns, name: example.org, record: A, {times}}}}}"
        ),
        format!(
            "{{vip: 172.25.7.1, port: 85, {servers}, check: {{type: script, command: [{script}, '{prefix}/{{rip}}', '{{vip}} {{port}}'], {times}}}}}"
        ),
    ];
    let services = services.join("\n  - ");
    let cluster = Cluster::build(Method::Dr);
    // Responders want the VIP.
    cluster.apply(&services);
    let responders = ["web1", "web2", "web3"].map(|host| Responder::start(&cluster, host));
    let folder = tempfile::tempdir().unwrap();
    let topology = cluster.topology(&services);
    let configuration = keepalived::configuration(&topology, &"lvs".parse().unwrap()).unwrap();
    let daemon = Keepalived::start(&cluster, folder.path(), &configuration);
    let checked = Checked { cluster, folder, services, _daemon: daemon };
    let at = |port: u16| weights_of(&checked.cluster, port);
    let wait = |wanted: [[Option<u32>; 3]; 3]| {
        let deadline = Instant::now() + speed::patience();
        while [at(8080), at(53), at(85)] != wanted {
            assert!(
                Instant::now() < deadline,
                "{:?}\n{}",
                [at(8080), at(53), at(85)],
                checked.log()
            );
            thread::sleep(Duration::from_millis(200));
        }
    };
    let (all, two) = ([Some(10); 3], [Some(10), Some(10), None]);
    checked.wait_for_log("Activating healthchecker");
    thread::sleep(INTERVAL * (FALL + 2));
    wait([all, all, all]);
    responders[2].is(false);
    wait([two, two, all]);
    fs::write(ill("172.25.7.13"), "").unwrap();
    wait([two, two, two]);
    responders[2].is(true);
    fs::remove_file(ill("172.25.7.13")).unwrap();
    wait([all, all, all]);
}

/// As [`weights`], of TCP or UDP.
fn weights_of(cluster: &Cluster, port: u16) -> [Option<u32>; 3] {
    let kind = if port == 53 { "-u" } else { "-t" };
    let lines = table(cluster);
    [11, 12, 13].map(|number| {
        let start = format!("-a {kind} 172.25.7.1:{port} -r 172.25.7.{number}:{port} ");
        let line = lines.iter().find(|line| line.starts_with(&start))?;
        Some(line.rsplit_once("-w ")?.1.split(' ').next()?.parse().unwrap())
    })
}

/// Below the quorum web3 takes all requests, and only then.
fn sorry_server() {
    let services = format!(
        "{{vip: 172.25.7.1, port: 82, check: {{type: tcp, interval: {}, timeout: {}, fall: {FALL}}}, quorum: 20, \
         sorry_server: web3, real_servers: [{{host: web1, weight: 10}}, {{host: web2, weight: 10}}]}}",
        INTERVAL.as_secs(),
        TIMEOUT.as_secs()
    );
    let second = runtime();
    let checked = Checked::begin(Method::Dr, &services, |cluster| {
        for host in ["web1", "web3"] {
            load::serve(&cluster.runtime, &cluster.lab, host, &[82]);
        }
        load::serve(&second, &cluster.lab, "web2", &[82]);
    });
    let wait = |wanted: [bool; 3]| {
        let deadline = Instant::now() + speed::patience();
        let present =
            || weights(&checked.cluster, 82).map(|weight| weight.is_some_and(|it| it > 0));
        while present() != wanted {
            assert!(Instant::now() < deadline, "{:?}\n{}", table(&checked.cluster), checked.log());
            thread::sleep(Duration::from_millis(200));
        }
    };
    wait([true, true, false]);
    second.shutdown_timeout(Duration::from_secs(5));
    wait([false, false, true]);
    let (_, done) = checked.cluster.apply(&services);
    let steps: usize = done.hosts.values().map(|host| host.steps.len()).sum();
    assert_eq!(steps, 0, "{}", text(&done));
    wait([false, false, true]);
    let second = runtime();
    load::serve(&second, &checked.cluster.lab, "web2", &[82]);
    wait([true, true, false]);
}
