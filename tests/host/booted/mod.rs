//! A real server that boots under systemd and networkd, loses its power, and comes up by itself.

mod drift;
mod monitor;
mod network_programs;
mod other_programs;
mod rendered;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lvsprov::kernel::{namespace, who_has};
use lvsprov::protocol::{Reply, Request};

use crate::support::agents::Agent;
use crate::support::booted_host::{BootedHost, PROGRAM};
use crate::support::cases::{Case, cases};
use crate::support::speed;

pub fn cases() -> Vec<Case> {
    let own = cases![
        a_real_server_comes_up_by_itself_and_never_answers_for_the_vip,
        power_that_fails_in_the_middle_of_an_apply_leaves_nothing,
        an_agent_has_systemd_reboot_its_host
    ];
    let programs = [other_programs::cases(), network_programs::cases()].concat();
    [own, drift::cases(), programs, rendered::cases()].concat()
}

const VIP: &str = "172.25.8.1";
const RIP: &str = "172.25.7.3";
/// As it lies on the host: the controller runs there too, as the director cannot be reached from anywhere.
const FILE: &str = "/etc/cluster.yaml";
const TOPOLOGY: &str = "version: 1
name: booted
networks: {lan: [172.25.0.0/16]}
hosts:
  client: {role: client, interfaces: {eth0: 172.25.7.1/16}}
  lvs: {role: director, interfaces: {eth0: 172.25.7.2/16}}
  rs1: {role: real_server, local: true, interfaces: {eth0: 172.25.7.3/16}}
services:
  - {vip: 172.25.8.1, port: 80, forward: dr, real_servers: [rs1]}
";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A client and a real server on one cable.
struct Segment {
    client: String,
    server: BootedHost,
}

impl Segment {
    fn new() -> Self {
        Self::of(TOPOLOGY)
    }

    fn of(topology: &str) -> Self {
        let tag = Self::tag();
        let interfaces = [("eth0", vec![format!("{RIP}/16")])];
        let server = BootedHost::with_networkd(&format!("{tag}-rs1"), &interfaces);
        Self::with_server(&tag, server, topology)
    }

    /// `server` as its real server, which is called by `tag` too.
    fn with_server(tag: &str, server: BootedHost, topology: &str) -> Self {
        let server = server.with_program();
        server.write(FILE, topology);
        let segment = Self { client: format!("{tag}-client"), server };
        ip(&["netns", "add", &segment.client]);
        segment
    }

    /// A name that no other segment has.
    fn tag() -> String {
        format!("lvb{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes the hardware anew, and starts the real server on it.
    fn start(&mut self) {
        let (client, server) = (self.client.clone(), self.server.netns.clone());
        ip(&["netns", "add", &server]);
        let cable = ["-n", &client, "link", "add", "eth0", "type", "veth"];
        ip(&[&cable[..], &["peer", "name", "eth0", "netns", &server]].concat());
        ip(&["-n", &client, "address", "add", "172.25.7.1/16", "dev", "eth0"]);
        ip(&["-n", &client, "link", "set", "eth0", "up"]);
        self.server.start();
    }

    /// All that its kernel knows is lost.
    fn cut_power(&mut self) {
        self.server.cut_power();
        ip(&["netns", "delete", &self.server.netns]);
        // It goes with its other end, sooner or later.
        let _ = Command::new("ip").args(["-n", &self.client, "link", "delete", "eth0"]).output();
    }

    /// The hardware addresses that answer the client for `address`, asked again and again until `work` is done.
    fn answering(&self, address: &str, work: impl FnOnce()) -> BTreeSet<String> {
        let netns = File::open(Path::new("/run/netns").join(&self.client)).unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let ask = || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let dev = "eth0".parse().unwrap();
                let mut all = BTreeSet::new();
                loop {
                    let last = done.load(Ordering::Relaxed);
                    let wait = Duration::from_millis(20);
                    let asked = who_has(&dev, address.parse().unwrap(), wait);
                    // The cable has no carrier before the host is up.
                    all.extend(runtime.block_on(asked).unwrap_or_default());
                    if last {
                        break all;
                    }
                }
            };
            let netns = &netns;
            let asking = scope.spawn(move || namespace::run_in(netns, ask).unwrap());
            work();
            done.store(true, Ordering::Relaxed);
            asking.join().unwrap()
        })
    }

    fn lvsprov(&self, words: &[&str], code: i32) -> String {
        let (command, rest) = words.split_first().unwrap();
        self.server.expect(&[&[PROGRAM, command, FILE][..], rest].concat(), code)
    }

    fn addresses(&self) -> String {
        self.server.expect(&["ip", "-4", "-o", "address", "show"], 0)
    }

    /// All that lvsprov sets there.
    fn state(&self) -> String {
        let keys = ["all.arp_ignore", "all.arp_announce", "lo.arp_ignore", "lo.arp_announce"];
        let keys = keys.map(|key| format!("net.ipv4.conf.{key}"));
        let sysctl: Vec<&str> =
            ["sysctl"].into_iter().chain(keys.iter().map(String::as_str)).collect();
        let addresses = self.addresses();
        let addresses: Vec<&str> = addresses.lines().filter(|line| line.contains(" lo ")).collect();
        self.server.expect(&sysctl, 0) + &addresses.join("\n")
    }

    fn until(&self, what: &str, fits: impl Fn() -> bool) {
        let deadline = Instant::now() + speed::patience();
        while !fits() {
            assert!(Instant::now() < deadline, "never {what}: {}\n{}", self.state(), self.story());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What its network is, and what its units did.
    fn story(&self) -> String {
        let asked: [&[&str]; 4] = [
            &["ip", "address"],
            &["ip", "route"],
            &["systemctl", "--no-pager", "status", "lvsprov*"],
            &[
                "journalctl",
                "--no-pager",
                "-o",
                "short-precise",
                "-n",
                "80",
                "_TRANSPORT=stdout",
                "+",
                "_TRANSPORT=syslog",
                "+",
                "_TRANSPORT=journal",
            ],
        ];
        let answers = asked.map(|words| match self.server.run(words) {
            Some(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
            None => "no answer".to_owned(),
        });
        answers.join("\n")
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.server.cut_power();
        for netns in [&self.client, &self.server.netns] {
            let _ = Command::new("ip").args(["netns", "delete", netns]).output();
        }
    }
}

fn ip(words: &[&str]) {
    let output = Command::new("ip").args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

const UNIT_FILES: [&str; 7] = [
    "/etc/systemd/system/lvsprov-boot.service",
    "/etc/systemd/system/lvsprov-network.path",
    "/etc/systemd/system/lvsprov-network.service",
    "/etc/systemd/system/multi-user.target.wants/lvsprov-network.path",
    "/etc/systemd/system/multi-user.target.wants/lvsprov-boot.service",
    "/etc/systemd/system/systemd-networkd.service.wants/lvsprov-boot.service",
    "/usr/local/lib/lvsprov/bin/lvsprov",
];

fn a_real_server_comes_up_by_itself_and_never_answers_for_the_vip() {
    let mut segment = Segment::new();
    segment.start();
    segment.server.wait();
    let bare = segment.state();
    let plan = segment.lvsprov(&["plan"], 4);
    assert!(plan.contains("installs the unit lvsprov-boot.service"), "{plan}");
    let has = |segment: &Segment, path: &str| segment.server.path(path).symlink_metadata().is_ok();
    assert!(UNIT_FILES.iter().all(|path| !has(&segment, path)), "plan installed it");
    segment.lvsprov(&["apply"], 0);
    assert!(UNIT_FILES.iter().all(|path| has(&segment, path)));
    // networkd manages eth0, which carries nothing of lvsprov.
    assert!(!has(&segment, "/etc/systemd/network/10-eth0.network.d"));
    let applied = segment.state();
    assert!(applied.contains(VIP) && applied != bare, "{applied}");
    let enabled = segment.server.expect(&["systemctl", "is-enabled", "lvsprov-boot.service"], 0);
    assert_eq!(enabled, "enabled\n");

    segment.cut_power();
    segment.start();
    let answers = segment.answering(VIP, || {
        segment.server.wait();
        segment.until("as settled", || segment.state() == applied);
    });
    assert_eq!(answers, BTreeSet::new(), "the real server answered for the VIP");
    assert_eq!(segment.answering(RIP, || {}).len(), 1, "nothing answers at all");
    let plan = segment.lvsprov(&["plan"], 0);
    assert!(!plan.contains("lvsprov-boot"), "{plan}");

    // Restarted with the network.
    let vip = format!("{VIP}/32");
    segment.server.expect(&["ip", "address", "delete", &vip, "dev", "lo"], 0);
    assert_ne!(segment.state(), applied);
    segment.server.expect(&["systemctl", "restart", "systemd-networkd.service"], 0);
    segment.until("as settled after a restart of networkd", || segment.state() == applied);

    // An operator removes the unit: that is drift, and mended.
    segment.server.expect(&["rm", UNIT_FILES[0]], 0);
    let status = segment.lvsprov(&["status"], 4);
    assert!(status.contains("install lvsprov-boot.service"), "{status}");
    segment.lvsprov(&["plan"], 4);
    segment.lvsprov(&["apply"], 0);
    assert!(has(&segment, UNIT_FILES[0]));
    segment.lvsprov(&["plan"], 0);

    segment.lvsprov(&["destroy"], 0);
    assert_eq!(segment.state(), bare);
    assert!(UNIT_FILES.iter().all(|path| !has(&segment, path)), "the unit is left");
    let failed = segment.server.expect(&["systemctl", "--failed", "--no-legend"], 0);
    assert_eq!(failed, "");
}

/// The operator has not confirmed it.
fn power_that_fails_in_the_middle_of_an_apply_leaves_nothing() {
    let mut segment = Segment::new();
    segment.start();
    segment.server.wait();
    let bare = segment.state();
    let manual = [PROGRAM, "apply", FILE, "--confirm", "manual"];
    let mut apply = segment.server.command(&manual).unwrap();
    let mut apply = apply.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    segment.until("a VIP", || segment.addresses().contains(VIP));
    segment.cut_power();
    apply.wait().unwrap();
    segment.start();
    segment.server.wait();
    let journal = segment.server.path("/var/lib/lvsprov/booted/journal.json");
    segment.until("closed", || !journal.exists());
    assert_eq!(segment.state(), bare);
    segment.until("tidy", || {
        UNIT_FILES.iter().all(|path| segment.server.path(path).symlink_metadata().is_err())
    });
    segment.lvsprov(&["apply"], 0);
    segment.lvsprov(&["destroy"], 0);
    assert_eq!(segment.state(), bare);
}

/// What `lvsprov reboot` asks of a host. In a container the kernel ends all of its processes instead, and the test starts it
/// anew.
fn an_agent_has_systemd_reboot_its_host() {
    let mut segment = Segment::new();
    segment.start();
    segment.server.wait();
    segment.lvsprov(&["apply"], 0);
    let applied = segment.state();
    let observe = |segment: &Segment| {
        let mut agent = Agent::of(segment.server.command(&[PROGRAM, "agent"]).unwrap());
        let topology = "booted".parse().unwrap();
        let observe = Request::Observe { topology, sysctls: BTreeSet::new(), counters: false };
        match agent.ask(&observe) {
            Reply::Observed(seen) => (agent, *seen),
            other => panic!("{other:?}"),
        }
    };
    let (mut agent, before) = observe(&segment);
    assert!(before.receipt.is_some_and(|receipt| receipt.settled.is_some()));
    agent.send(&Request::Reboot);
    // The answer may be lost, as the agent ends with the host.
    let answer = agent.heard();
    assert!(answer.is_none() || answer == Some(Reply::Rebooting), "{answer:?}");
    // systemd stops every process before it ends them. nsenter then stops with its child, reaps it no more, and the host waits
    // for that child.
    agent.kill();
    segment.server.wait_until_down();
    segment.cut_power();
    segment.start();
    segment.server.wait();
    segment.until("as settled", || segment.state() == applied);
    let (_, after) = observe(&segment);
    assert!(after.run.unwrap().lost_state_of(&before.run.unwrap()), "it is the same boot");
    segment.lvsprov(&["plan"], 0);
    segment.lvsprov(&["destroy"], 0);
}
