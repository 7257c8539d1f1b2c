//! keepalived as lvsprov starts it on a director: checks are turned on and off while clients send requests, and what is cut
//! off half-way, or killed, is made whole by the next apply, by the rollback and by the boot.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use lvsprov::apply::cluster_plan::{self, Direction};
use lvsprov::apply::{ClusterReport, Session, StepState, transaction};
use lvsprov::names::HostName;
use lvsprov::state::{DaemonConfiguration, DaemonInstance};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cluster::{Cluster, Method, at, text, web};
use super::load::{Load, failures, told};
use super::{AROUND, AT_ONCE, CLIENTS, health, unnoticed};
use crate::support::cases::Case;
use crate::support::speed;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("checks_are_turned_on_and_off_unnoticed_dr", || on_and_off(Method::Dr)),
        Case::new("checks_are_turned_on_and_off_unnoticed_nat", || on_and_off(Method::Nat)),
        Case::new("a_dead_real_server_is_taken_out_by_its_own_keepalived", takes_out),
        Case::new("what_became_of_keepalived_is_mended", is_mended),
        Case::new("a_configuration_that_keepalived_refuses_changes_nothing", refused),
        Case::new("keepalived_comes_again_after_a_restart", restarted),
    ]
}

const SERVICES: &str = "port: 80, scheduler: wrr, weights: external";

/// keepalived's configuration for the service, `retry` tells texts apart.
fn checks(method: Method, retry: u32) -> String {
    let (net, kind) = match method {
        Method::Nat => ("192.168.12", "NAT"),
        Method::Dr => ("172.25.7", "DR"),
        Method::Tun => ("172.25.7", "TUN"),
    };
    let servers: String = (11..14)
        .map(|number| {
            format!(
                "  real_server {net}.{number} 80 {{\n    weight 10\n    TCP_CHECK {{\n      connect_timeout 2\n      retry \
                 {retry}\n      delay_before_retry 1\n    }}\n  }}\n"
            )
        })
        .collect();
    format!(
        "virtual_server 172.25.7.1 80 {{\n  delay_loop 1\n  lb_algo wrr\n  lb_kind {kind}\n  protocol TCP\n{servers}}}\n"
    )
}

fn director() -> HostName {
    "lvs".parse().unwrap()
}

fn instance() -> DaemonInstance {
    "keepalived of live-changes".parse().unwrap()
}

/// Applies the service, with keepalived on the director if `checks` are given.
fn try_apply(cluster: &Cluster, checks: Option<&str>) -> ClusterReport {
    run(cluster, checks, Direction::Apply { now: 1 })
}

fn run(cluster: &Cluster, checks: Option<&str>, direction: Direction) -> ClusterReport {
    let topology = cluster.topology(&web(SERVICES, &[10, 10, 10]));
    cluster.runtime.block_on(async {
        let mut session = Session::open(&topology, &cluster.settings).await;
        if let Some(checks) = checks {
            let desired = session.desired.get_mut(&director()).unwrap();
            desired.instance(instance(), checks, "the test wants it");
        }
        let seen = session.observe(true).await;
        let absent = BTreeMap::new();
        let plan = cluster_plan::plan(&topology, &session.desired, &seen, &absent, direction);
        let done = transaction::run_plain(&mut session, &plan, &seen, direction).await;
        session.close().await;
        done
    })
}

/// Applies it; the steps on the director, one line each.
fn apply(cluster: &Cluster, checks: Option<&str>) -> Vec<String> {
    let done = try_apply(cluster, checks);
    assert!(!done.has_failures(), "{}", text(&done));
    steps(&done)
}

fn steps(report: &ClusterReport) -> Vec<String> {
    report.hosts[&director()].steps.iter().map(|step| step.edit.to_string()).collect()
}

/// What the director has of keepalived.
fn seen(cluster: &Cluster) -> BTreeMap<DaemonInstance, DaemonConfiguration> {
    let look = || lvsprov::kernel::instances::read().unwrap();
    cluster.lab.run_in(&director(), look).unwrap()
}

fn is_loaded(cluster: &Cluster, checks: &str) {
    assert_eq!(seen(cluster), [(instance(), DaemonConfiguration::of(checks))].into());
}

/// The instance's folder: the only one of a namespace.
fn folder() -> PathBuf {
    let all: Vec<PathBuf> =
        fs::read_dir("/run/lvsprov").unwrap().map(|it| it.unwrap().path()).collect();
    let [one] = all.as_slice() else { panic!("{all:?}") };
    one.join("keepalived/live-changes")
}

fn pid() -> Pid {
    Pid::from_raw(fs::read_to_string(folder().join("pid")).unwrap().trim().parse().unwrap())
}

/// The table of the director, by ipvsadm.
fn table(cluster: &Cluster) -> String {
    let run = || Command::new("ipvsadm").arg("-Sn").output().unwrap();
    String::from_utf8(cluster.lab.run_in(&director(), run).unwrap().stdout).unwrap()
}

/// Takes all away, and looks whether anything is left.
fn destroy(cluster: &Cluster) {
    let done = run(cluster, None, Direction::Destroy);
    assert!(!done.has_failures(), "{}", text(&done));
    assert_eq!((seen(cluster), table(cluster)), (BTreeMap::new(), String::new()));
    assert!(!fs::exists("/run/lvsprov").unwrap(), "files are left");
}

fn on_and_off(method: Method) {
    let cluster = Cluster::build(method);
    let (first, second) = (checks(method, 1), checks(method, 2));
    assert!(!apply(&cluster, None).is_empty());
    let before = table(&cluster);
    let load = Load::start(&cluster.lab, &CLIENTS, AT_ONCE, at(80));
    load.pass(AROUND);
    for round in 1..=2 {
        unnoticed(&load, &format!("checks are turned on, round {round}"), || {
            let steps = apply(&cluster, Some(&first));
            assert_eq!(steps, ["start keepalived of live-changes (1 virtual server, 3 checks)"]);
        });
        is_loaded(&cluster, &first);
        let running = pid();
        unnoticed(&load, "the same again", || assert!(apply(&cluster, Some(&first)).is_empty()));
        unnoticed(&load, "checks are changed", || {
            let steps = apply(&cluster, Some(&second));
            assert!(steps.len() == 1 && steps[0].starts_with("reload keepalived"), "{steps:?}");
        });
        is_loaded(&cluster, &second);
        assert_eq!(pid(), running, "the process is the same");
        assert_eq!(table(&cluster), before);
        unnoticed(&load, "checks are turned off", || {
            assert_eq!(apply(&cluster, None), ["stop keepalived of live-changes"]);
        });
        assert_eq!((seen(&cluster), table(&cluster)), (BTreeMap::new(), before.clone()));
        assert_eq!(kill(running, None), Err(nix::errno::Errno::ESRCH));
    }
    let rest = load.stop();
    assert_eq!(failures(&rest).len(), 0, "{}", told(&rest));
    apply(&cluster, Some(&first));
    destroy(&cluster);
}

/// Polls until the table has `count` real servers.
fn until_real_servers(cluster: &Cluster, count: usize) {
    let deadline = Instant::now() + speed::patience();
    while table(cluster).matches("\n-a ").count() != count {
        assert!(Instant::now() < deadline, "{}", table(cluster));
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// A real server dies; turning the checks off leaves it out, as the table then has it.
fn takes_out() {
    let cluster = Cluster::build(Method::Dr);
    let on = checks(Method::Dr, 1);
    apply(&cluster, Some(&on));
    until_real_servers(&cluster, 3);
    cluster.run("web3", "ip link set eth0 down");
    let clock = Instant::now();
    until_real_servers(&cluster, 2);
    println!("web3 is out after {:?}", clock.elapsed());
    let load = Load::start(&cluster.lab, &CLIENTS, 1, at(80));
    unnoticed(&load, "an apply while web3 is dead", || {
        assert!(apply(&cluster, Some(&on)).is_empty())
    });
    unnoticed(&load, "a reload while web3 is dead", || {
        assert_eq!(apply(&cluster, Some(&checks(Method::Dr, 2))).len(), 1);
    });
    unnoticed(&load, "checks are turned off while web3 is dead", || {
        assert_eq!(apply(&cluster, None), ["stop keepalived of live-changes"]);
    });
    until_real_servers(&cluster, 2);
    let rest = load.stop();
    assert_eq!(failures(&rest).len(), 0, "{}", told(&rest));
    destroy(&cluster);
}

/// Killed, changed by hand, or cut off between its file and its process.
fn is_mended() {
    let cluster = Cluster::build(Method::Dr);
    let on = checks(Method::Dr, 1);
    apply(&cluster, Some(&on));
    let mended = |what: &str| {
        let unread = seen(&cluster);
        assert!(unread[&instance()] != DaemonConfiguration::of(&on), "{what}: {unread:?}");
        let steps = apply(&cluster, Some(&on));
        assert!(steps.len() == 1 && steps[0].starts_with("reload keepalived"), "{what}: {steps:?}");
        is_loaded(&cluster, &on);
        assert!(apply(&cluster, Some(&on)).is_empty(), "{what}");
    };
    let running = pid();
    fs::write(folder().join("pending"), "").unwrap();
    mended("cut off before the process has read its file");
    assert_eq!(pid(), running);
    let file = folder().join("daemon.conf");
    let written = fs::read_to_string(&file).unwrap();
    fs::write(&file, written.replace("retry 1", "retry 9")).unwrap();
    mended("changed by hand");
    assert_eq!((fs::read_to_string(&file).unwrap(), pid()), (written, running));
    // With its process number the file of another could come; the process is found all the same.
    fs::remove_file(folder().join("pid")).unwrap();
    is_loaded(&cluster, &on);
    kill(running, Signal::SIGKILL).unwrap();
    let deadline = Instant::now() + speed::patience();
    while seen(&cluster)[&instance()].loaded {
        assert!(Instant::now() < deadline, "keepalived does not die");
        std::thread::sleep(Duration::from_millis(50));
    }
    mended("killed");
    assert_ne!(pid(), running);
    destroy(&cluster);
}

/// keepalived would drop the service, and says so with another exit code than 0.
fn refused() {
    let cluster = Cluster::build(Method::Dr);
    let on = checks(Method::Dr, 1);
    apply(&cluster, Some(&on));
    let (before, files) = (table(&cluster), fs::read_dir(folder()).unwrap().count());
    for (bad, reason) in [
        (on.replace("lb_kind DR", "lb_kind XYZ"), "XYZ"),
        (on.replace("  protocol TCP\n", "  nonsense\n"), "nonsense"),
    ] {
        let done = try_apply(&cluster, Some(&bad));
        let said = text(&done);
        assert!(done.has_failures() && said.contains("refuses the configuration"), "{said}");
        assert!(said.contains(reason) && said.contains("nothing was changed"), "{said}");
        assert_eq!(done.count(StepState::Done), 0, "{said}");
        is_loaded(&cluster, &on);
        assert_eq!(table(&cluster), before);
        assert_eq!(fs::read_dir(folder()).unwrap().count(), files, "the candidate is left");
        assert!(apply(&cluster, Some(&on)).is_empty(), "no transaction is left open");
    }
    destroy(&cluster);
}

/// The power of the director is cut: its boot unit makes the table again, and starts keepalived last.
fn restarted() {
    let mut cluster = Cluster::build(Method::Dr);
    let on = checks(Method::Dr, 1);
    apply(&cluster, Some(&on));
    let before = table(&cluster);
    let lost = folder();
    let children = fs::read_to_string(lost.join("checkers.pid")).unwrap();
    for pid in [pid().as_raw(), children.trim().parse().unwrap()] {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    fs::remove_dir_all("/run/lvsprov").unwrap();
    health::restart(&mut cluster, &web(SERVICES, &[10, 10, 10]));
    is_loaded(&cluster, &on);
    assert_ne!(folder(), lost, "another namespace");
    assert_eq!(table(&cluster), before);
    assert!(apply(&cluster, Some(&on)).is_empty());
    destroy(&cluster);
}
