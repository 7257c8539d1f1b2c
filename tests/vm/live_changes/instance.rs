//! keepalived as lvsprov starts it on a director: checks are turned on and off while clients send requests, and what is cut
//! off half-way, or killed, is made whole by the next apply, by the rollback and by the boot.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
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
use super::load::{self, Load, failures, told};
use super::{AROUND, AT_ONCE, CLIENTS, health, unnoticed};
use crate::support::cases::Case;
use crate::support::speed;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("checks_are_turned_on_and_off_unnoticed_dr", || on_and_off(Method::Dr, 2)),
        Case::new("checks_are_turned_on_and_off_unnoticed_nat", || on_and_off(Method::Nat, 1)),
        Case::new("one_of_two_services_loses_its_checks_unnoticed", one_of_two),
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
    let servers: Vec<String> = (11..14)
        .map(|number| {
            format!(
                "  real_server {net}.{number} 80 {{\n    weight 10\n    TCP_CHECK {{\n      connect_timeout 2\n      retry \
                 {retry}\n      delay_before_retry 1\n    }}\n  }}\n"
            )
        })
        .collect();
    let servers = servers.concat();
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
    run(cluster, &service(), checks, Direction::Apply { now: 1 })
}

fn service() -> String {
    web(SERVICES, &[10, 10, 10])
}

fn run(
    cluster: &Cluster,
    services: &str,
    checks: Option<&str>,
    direction: Direction,
) -> ClusterReport {
    let topology = cluster.topology(services);
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

/// The folder of the director's instances; `None`: it has none.
fn namespace_folder(cluster: &Cluster) -> Option<PathBuf> {
    let inode = fs::metadata(cluster.lab.netns_path(&director()).unwrap()).unwrap().ino();
    let all = fs::read_dir("/run/lvsprov").ok()?.map(|entry| entry.unwrap().path());
    let name = format!("netns-{inode}-");
    all.into_iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&name))
}

fn folder(cluster: &Cluster) -> PathBuf {
    namespace_folder(cluster).unwrap().join("keepalived/live-changes")
}

fn pid(cluster: &Cluster) -> Pid {
    let text = fs::read_to_string(folder(cluster).join("pid")).unwrap();
    Pid::from_raw(text.trim().parse().unwrap())
}

/// The table of the director, by ipvsadm.
fn table(cluster: &Cluster) -> String {
    let run = || Command::new("ipvsadm").arg("-Sn").output().unwrap();
    String::from_utf8(cluster.lab.run_in(&director(), run).unwrap().stdout).unwrap()
}

/// Takes all away, and looks whether anything is left.
fn destroy(cluster: &Cluster) {
    let done = run(cluster, &service(), None, Direction::Destroy);
    assert!(!done.has_failures(), "{}", text(&done));
    assert_eq!((seen(cluster), table(cluster)), (BTreeMap::new(), String::new()));
    assert_eq!(namespace_folder(cluster), None, "files are left");
}

fn on_and_off(method: Method, rounds: u32) {
    let cluster = Cluster::build(method);
    let (first, second) = (checks(method, 1), checks(method, 2));
    assert!(!apply(&cluster, None).is_empty());
    let before = table(&cluster);
    let load = Load::start(&cluster.lab, &CLIENTS, AT_ONCE, at(80));
    load.pass(AROUND);
    for round in 1..=rounds {
        unnoticed(&load, &format!("checks are turned on, round {round}"), || {
            let steps = apply(&cluster, Some(&first));
            assert_eq!(steps, ["start keepalived of live-changes (1 virtual server, 3 checks)"]);
        });
        is_loaded(&cluster, &first);
        let running = pid(&cluster);
        unnoticed(&load, "the same again", || assert!(apply(&cluster, Some(&first)).is_empty()));
        unnoticed(&load, "checks are changed", || {
            let steps = apply(&cluster, Some(&second));
            assert!(steps.len() == 1 && steps[0].starts_with("reload keepalived"), "{steps:?}");
        });
        is_loaded(&cluster, &second);
        assert_eq!(pid(&cluster), running, "the process is the same");
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

/// A reload would remove from the table the service that leaves the configuration.
fn one_of_two() {
    let cluster = Cluster::build(Method::Dr);
    let one = checks(Method::Dr, 1);
    let second = one.replace("172.25.7.1 80", "172.25.7.1 81").replace(" 80 {", " 81 {");
    let both = format!("{one}{second}");
    let services = format!(
        "{}\n  - {}",
        web(SERVICES, &[10, 10, 10]),
        web(&SERVICES.replace("80", "81"), &[10, 10, 10])
    );
    let apply = |checks: &str| {
        let done = run(&cluster, &services, Some(checks), Direction::Apply { now: 1 });
        assert!(!done.has_failures(), "{}", text(&done));
        steps(&done)
    };
    apply(&both);
    let before = table(&cluster);
    assert_eq!(before.matches("-A -t").count(), 2, "{before}");
    let (running, load) = (pid(&cluster), Load::start(&cluster.lab, &CLIENTS, AT_ONCE, at(81)));
    load.pass(AROUND);
    unnoticed(&load, "port 81 has no checks any more", || {
        let steps = apply(&one);
        assert!(steps.len() == 1 && steps[0].starts_with("reload keepalived"), "{steps:?}");
    });
    is_loaded(&cluster, &one);
    assert_eq!(table(&cluster), before);
    let anew = pid(&cluster);
    assert_ne!(anew, running, "the process would have removed the service");
    unnoticed(&load, "port 81 has checks again", || assert_eq!(apply(&both).len(), 1));
    assert_eq!((pid(&cluster), table(&cluster)), (anew, before));
    let rest = load.stop();
    assert_eq!(failures(&rest).len(), 0, "{}", told(&rest));
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
    let third = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for host in ["web1", "web2"] {
        load::serve(&cluster.runtime, &cluster.lab, host, &[82]);
    }
    load::serve(&third, &cluster.lab, "web3", &[82]);
    let services = web(&SERVICES.replace("80", "82"), &[10, 10, 10]);
    let on = checks(Method::Dr, 1).replace(" 80 {", " 82 {");
    let apply = |checks: Option<&str>| {
        let done = run(&cluster, &services, checks, Direction::Apply { now: 1 });
        assert!(!done.has_failures(), "{}", text(&done));
        steps(&done)
    };
    apply(Some(&on));
    until_real_servers(&cluster, 3);
    let clock = Instant::now();
    third.shutdown_timeout(Duration::from_secs(5));
    until_real_servers(&cluster, 2);
    println!("web3 is out after {:?}", clock.elapsed());
    let load = Load::start(&cluster.lab, &CLIENTS, 1, at(82));
    unnoticed(&load, "an apply while web3 is dead", || assert!(apply(Some(&on)).is_empty()));
    unnoticed(&load, "a reload while web3 is dead", || {
        assert_eq!(apply(Some(&on.replace("retry 1", "retry 2"))).len(), 1);
    });
    unnoticed(&load, "checks are turned off while web3 is dead", || {
        assert_eq!(apply(None), ["stop keepalived of live-changes"]);
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
    let running = pid(&cluster);
    fs::write(folder(&cluster).join("pending"), "").unwrap();
    mended("cut off before the process has read its file");
    assert_eq!(pid(&cluster), running);
    let file = folder(&cluster).join("daemon.conf");
    let written = fs::read_to_string(&file).unwrap();
    fs::write(&file, written.replace("retry 1", "retry 9")).unwrap();
    mended("changed by hand");
    assert_eq!((fs::read_to_string(&file).unwrap(), pid(&cluster)), (written, running));
    // With its process number the file of another could come; the process is found all the same.
    fs::remove_file(folder(&cluster).join("pid")).unwrap();
    is_loaded(&cluster, &on);
    kill(running, Signal::SIGKILL).unwrap();
    let deadline = Instant::now() + speed::patience();
    while seen(&cluster)[&instance()].loaded {
        assert!(Instant::now() < deadline, "keepalived does not die");
        std::thread::sleep(Duration::from_millis(50));
    }
    mended("killed");
    assert_ne!(pid(&cluster), running);
    destroy(&cluster);
}

/// keepalived would drop the service, and says so with another exit code than 0.
fn refused() {
    let cluster = Cluster::build(Method::Dr);
    let on = checks(Method::Dr, 1);
    apply(&cluster, Some(&on));
    let (before, files) = (table(&cluster), fs::read_dir(folder(&cluster)).unwrap().count());
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
        assert_eq!(fs::read_dir(folder(&cluster)).unwrap().count(), files, "the candidate is left");
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
    let (lost, running) = (folder(&cluster), pid(&cluster));
    health::restart(&mut cluster, &web(SERVICES, &[10, 10, 10]));
    is_loaded(&cluster, &on);
    assert_ne!(folder(&cluster), lost, "another namespace");
    assert!(!lost.exists());
    assert_eq!(kill(running, None), Err(nix::errno::Errno::ESRCH), "it went with its host");
    assert_eq!(table(&cluster), before);
    assert!(apply(&cluster, Some(&on)).is_empty());
    destroy(&cluster);
}
