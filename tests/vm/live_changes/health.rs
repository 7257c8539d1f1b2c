//! A health checker on the director beside lvsprov (`weights: external`): ipvsadm by hand, and keepalived.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lvsprov::apply::cluster_plan::{self, Direction};
use lvsprov::apply::verify::{self, VerifyReport};
use lvsprov::apply::{ClusterReport, Session};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::{Digest as _, Sha256};

use super::cluster::{Cluster, Method, at, text, web};
use super::load::{self, Load, failures, told};
use super::{AROUND, AT_ONCE, CLIENTS, unnoticed};
use crate::support::cases::Case;
use crate::support::speed;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("what_a_checker_takes_out_stays_out_dr", || by_hand(Method::Dr)),
        Case::new("what_a_checker_takes_out_stays_out_nat", || by_hand(Method::Nat)),
        Case::new("keepalived_and_lvsprov_do_not_fight", keepalived),
    ]
}

/// The weights of web1, web2 and web3 in the director's table, by ipvsadm; `None`: it is not there.
pub fn weights(cluster: &Cluster, port: u16) -> [Option<u32>; 3] {
    let run = || Command::new("ipvsadm").arg("-Sn").output().unwrap();
    let output = cluster.lab.run_in(&"lvs".parse().unwrap(), run).unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let of_service = format!("-a -t 172.25.7.1:{port} ");
    [11, 12, 13].map(|number| {
        let rip = format!(".{number}:{port} ");
        let is_it = |line: &&str| line.starts_with(&of_service) && line.contains(&rip);
        let line = text.lines().find(is_it)?;
        Some(line.rsplit_once("-w ")?.1.split(' ').next()?.parse().unwrap())
    })
}

/// How many steps an apply does, and what the plan says.
fn apply(cluster: &Cluster, services: &str) -> (usize, String) {
    let (planned, done) = cluster.apply(services);
    (steps(&done), text(&planned))
}

fn steps(report: &ClusterReport) -> usize {
    report.hosts.values().map(|host| host.steps.len()).sum()
}

fn verified(cluster: &Cluster, services: &str) -> VerifyReport {
    let topology = cluster.topology(services);
    cluster.runtime.block_on(async {
        let mut session = Session::open(&topology, &cluster.settings).await;
        let seen = session.observe(true).await;
        let direction = Direction::Apply { now: 1 };
        let absent = BTreeMap::new();
        let plan = cluster_plan::plan(&topology, &session.desired, &seen, &absent, direction);
        let report = verify::verify(&mut session, &plan, &seen).await;
        session.close().await;
        report
    })
}

/// The director as after a restart, and what it makes again by itself.
pub fn restart(cluster: &mut Cluster, services: &str) {
    let (topology, director) = (cluster.topology(services), "lvs".parse().unwrap());
    let path = cluster.lab.netns_path(&director).unwrap();
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    let half: [u8; 16] = digest[..16].try_into().unwrap();
    let disk =
        cluster.states().join("netns-by-path").join(format!("{:032x}", u128::from_be_bytes(half)));
    cluster.lab.restart(&topology, &director).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_lvsprov"))
        .args(["agent", "--boot", "--netns"])
        .arg(cluster.lab.netns_path(&director).unwrap())
        .arg("--state-dir")
        .arg(disk)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn by_hand(method: Method) {
    let mut cluster = Cluster::build(method);
    let (to, how) = match method {
        Method::Nat => ("192.168.12", "-m"),
        Method::Dr | Method::Tun => ("172.25.7", "-g"),
    };
    let edit = |cluster: &Cluster, verb: &str, number: u8, rest: &str| {
        let rip = format!("{to}.{}:80", 10 + number);
        cluster.run("lvs", &format!("ipvsadm {verb} -t 172.25.7.1:80 -r {rip}{rest}"));
    };
    let file = |weights: &[u32]| {
        web("port: 80, scheduler: wrr, drain: 3, ramp: 60, weights: external", weights)
    };
    let same = file(&[10, 10, 10]);
    assert!(apply(&cluster, &same).0 > 0);
    assert_eq!(weights(&cluster, 80), [Some(10); 3]);

    let load = Load::start(&cluster.lab, &CLIENTS, AT_ONCE, at(80));
    load.pass(AROUND);
    edit(&cluster, "-e", 3, &format!(" {how} -w 0"));
    edit(&cluster, "-e", 2, &format!(" {how} -w 0"));
    load.pass(AROUND);
    edit(&cluster, "-d", 2, "");
    unnoticed(&load, "an apply while two real servers are out", || {
        let (count, planned) = apply(&cluster, &same);
        assert_eq!(count, 0, "{planned}");
        for line in [
            "web3: out of service in tcp 172.25.7.1:80 by the health checker of lvs: weight 0, the file has 10",
            "web2: out of service in tcp 172.25.7.1:80 by the health checker of lvs: removed, the file has weight 10",
        ] {
            assert!(planned.contains(line), "{planned}");
        }
    });
    assert_eq!(weights(&cluster, 80), [Some(10), None, Some(0)]);
    let report = verified(&cluster, &same);
    assert!(!report.has_failures(), "{report:#?}");

    unnoticed(&load, "the file gives other weights and another scheduler", || {
        let (count, planned) = apply(&cluster, &file(&[5, 6, 7]).replace("wrr", "wlc"));
        assert!(count > 0, "{planned}");
    });
    assert_eq!(weights(&cluster, 80), [Some(5), None, Some(0)]);
    let now = file(&[5, 6, 7]).replace("wrr", "wlc");

    unnoticed(&load, "the checker puts both back", || {
        edit(&cluster, "-e", 3, &format!(" {how} -w 7"));
        edit(&cluster, "-a", 2, &format!(" {how} -w 9"));
        assert_eq!(apply(&cluster, &now).0, 0);
    });
    assert_eq!(weights(&cluster, 80), [Some(5), Some(9), Some(7)]);
    unnoticed(&load, "a real server leaves the file", || {
        assert!(apply(&cluster, &file(&[5, 6]).replace("wrr", "wlc")).0 > 0);
    });
    assert_eq!(weights(&cluster, 80), [Some(5), Some(9), None]);
    unnoticed(&load, "and is named again", || assert!(apply(&cluster, &now).0 > 0));
    assert_eq!(weights(&cluster, 80), [Some(5), Some(9), Some(7)], "without a ramp");
    drop(load.stop());

    cluster.run("lvs", "ipvsadm -C");
    assert!(apply(&cluster, &now).0 > 0);
    assert_eq!(weights(&cluster, 80), [Some(5), Some(6), Some(7)]);
    edit(&cluster, "-e", 3, &format!(" {how} -w 0"));
    restart(&mut cluster, &now);
    assert_eq!(weights(&cluster, 80), [Some(5), Some(6), Some(7)]);
    edit(&cluster, "-e", 3, &format!(" {how} -w 0"));
    let (count, planned) = apply(&cluster, &now);
    assert_eq!(count, 0, "{planned}");
    assert_eq!(weights(&cluster, 80)[2], Some(0));
}

/// keepalived in the director's namespace; SIGTERM ends it.
pub struct Keepalived(Child);

impl Keepalived {
    /// With the configuration `text`; its log and its file are in `folder`.
    pub fn start(cluster: &Cluster, folder: &Path, text: &str) -> Self {
        let file = folder.join("keepalived.conf");
        fs::write(&file, text).unwrap();
        let mut command = Command::new("keepalived");
        command.args(["--dont-fork", "--check", "--log-console", "--no-syslog", "--use-file"]);
        command.arg(&file).arg("--pid").arg(folder.join("pid"));
        command.arg("--checkers_pid").arg(folder.join("checkers.pid"));
        let log = fs::File::create(folder.join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let start = || command.spawn().unwrap();
        Self(cluster.lab.run_in(&"lvs".parse().unwrap(), start).unwrap())
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0.id()).unwrap();
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// A service on port 82 with checks of the RIP, as an operator writes it.
fn configuration() -> String {
    let mut text = String::from(
        "virtual_server 172.25.7.1 82 {\n  delay_loop 1\n  lb_algo wrr\n  lb_kind DR\n  protocol TCP\n",
    );
    for number in 11..14 {
        let check = "TCP_CHECK { \n connect_timeout 2\n retry 1\n delay_before_retry 1\n }\n";
        let _ = writeln!(text, "  real_server 172.25.7.{number} 82 {{\n weight 10\n {check} }}");
    }
    text + "}\n"
}

/// Polls until the table is as `wanted`.
fn until(cluster: &Cluster, wanted: [Option<u32>; 3], folder: &Path) {
    let deadline = Instant::now() + speed::patience();
    while weights(cluster, 82) != wanted {
        let log = || fs::read_to_string(folder.join("log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "{:?}, not {wanted:?}\n{}", weights(cluster, 82), log());
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// A server stops and comes back; keepalived takes its real server out and in, and five applies leave it so.
fn keepalived() {
    let cluster = Cluster::build(Method::Dr);
    let folder = tempfile::tempdir().unwrap();
    let server = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for host in ["web1", "web2"] {
        load::serve(&cluster.runtime, &cluster.lab, host, &[82]);
    }
    let third = server();
    load::serve(&third, &cluster.lab, "web3", &[82]);
    let services = web("port: 82, scheduler: wrr, weights: external", &[10, 10, 10]);
    assert!(apply(&cluster, &services).0 > 0);
    let checker = Keepalived::start(&cluster, folder.path(), &configuration());
    until(&cluster, [Some(10); 3], folder.path());

    third.shutdown_timeout(Duration::from_secs(5));
    until(&cluster, [Some(10), Some(10), None], folder.path());
    // Few requests: keepalived needs some of the machine's time to check.
    let load = Load::start(&cluster.lab, &CLIENTS, 1, at(82));
    for nth in 1..=5 {
        unnoticed(&load, &format!("apply {nth} of 5 while web3 is dead"), || {
            let (count, planned) = apply(&cluster, &services);
            assert_eq!(count, 0, "{planned}");
            assert!(planned.contains("web3: out of service"), "{planned}");
        });
        assert_eq!(weights(&cluster, 82), [Some(10), Some(10), None]);
    }
    let report = verified(&cluster, &services);
    assert!(!report.has_failures(), "{report:#?}");

    let third = server();
    unnoticed(&load, "web3 comes back", || {
        load::serve(&third, &cluster.lab, "web3", &[82]);
        until(&cluster, [Some(10); 3], folder.path());
        let (count, planned) = apply(&cluster, &services);
        assert_eq!(count, 0, "{planned}");
        assert!(!planned.contains("out of service"), "{planned}");
    });
    let rest = load.stop();
    assert_eq!(failures(&rest).len(), 0, "{}", told(&rest));
    drop(checker);
    third.shutdown_timeout(Duration::from_secs(5));
}
