//! Hosts that fail in other ways: a full disk, a read-only one, a module that is missing, a host that
//! dies between two stages, a clock that jumps. Each ends in bounded time, with clear words, and nothing
//! is lost.

use std::process::Command;
use std::time::{Duration, Instant};

use lvsprov::names::HostName;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cluster::{Cluster, Ended, Running, difference};
use super::scene_run::SceneRun;
use super::scenes;
use crate::support::speed;

/// In which time anything here must be over.
const BOUND: Duration = Duration::from_mins(5);

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

fn on(cluster: &Cluster, name: &str, line: &str) {
    let ended = cluster.on(&host(name), line);
    assert_eq!(ended.code, Some(0), "{line} on {name}: {ended}");
}

/// An apply that must be refused with all of `words`, and leave every host as it was.
fn refused(run: &SceneRun, to: usize, words: &[&str]) {
    let before = run.cluster.photograph();
    let ended = run.cluster.start(&["apply", run.file(to)]).wait(BOUND);
    println!("{words:?}: {ended}");
    says(&ended, 5, words);
    let lines = difference(&before, &run.cluster.photograph());
    assert!(lines.is_empty(), "something was changed: {lines:#?}\n{ended}");
}

fn says(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, Some(code), "{ended}");
    let said = ended.out.clone() + &ended.err;
    for words in words {
        assert!(said.contains(words), "it does not say {words:?}: {ended}");
    }
}

/// Starts an apply and stops it where `point` is on `name`.
fn stopped(run: &SceneRun, to: usize, more: &[&str], name: &str, point: &str) -> (Running, Pid) {
    run.cluster.fault(&host(name), &format!("{point} stop\n"));
    let mut arguments = vec!["apply", run.file(to)];
    arguments.extend(more);
    let mut controller = run.cluster.start(&arguments);
    let agent = run.cluster.wait_for_stopped(&host(name), &mut controller).unwrap();
    run.cluster.no_faults();
    (controller, agent)
}

const FILL: &str = "head -c 1G /dev/zero > /var/lib/fill; test -s /var/lib/fill";

pub fn disks() {
    let mut run = SceneRun::set(scenes::dr());
    for to in [1, 2, 1] {
        run.walk(to);
    }
    // Little is left on that disk, and then nothing.
    on(&run.cluster, "web2", "mount -o remount,size=80m /var/lib");
    on(&run.cluster, "web2", FILL);
    refused(&run, 2, &["web2", "No space left on device"]);
    on(&run.cluster, "web2", "rm /var/lib/fill");
    // It fills up while the transaction is under way: all the room was taken before.
    let (controller, agent) = stopped(&run, 2, &[], "web2", "step 0");
    on(&run.cluster, "web2", FILL);
    kill(agent, Signal::SIGCONT).unwrap();
    says(&controller.wait(BOUND), 0, &[]);
    on(&run.cluster, "web2", "rm /var/lib/fill");
    run.arrived(2);
    // The same, and it is undone.
    let (controller, agent) = stopped(&run, 1, &[], "web2", "step 1");
    on(&run.cluster, "web2", FILL);
    kill(agent, Signal::SIGKILL).unwrap();
    let ended = controller.wait(BOUND);
    println!("undone on a full disk: {ended}");
    says(&ended, 5, &["web2"]);
    on(&run.cluster, "web2", "rm /var/lib/fill");
    run.arrived(2);
    // What nobody can write to.
    on(&run.cluster, "director", "mount -o remount,ro /var/lib");
    refused(&run, 1, &["director", "Read-only file system"]);
    on(&run.cluster, "director", "mount -o remount,rw /var/lib");
    run.walk(1);
    run.walk(0);
}

/// Debian builds every scheduler but this one.
const MISSING: &str = "twos";

pub fn modules() {
    let mut run = SceneRun::set(scenes::dr());
    for to in [1, 2, 1] {
        run.walk(to);
    }
    let text = run.scene.text(2).replace("scheduler: wrr", &format!("scheduler: {MISSING}"));
    let file = run.cluster.file(MISSING, &text);
    let director = host("director");
    let before = run.cluster.photograph();
    let apply = |run: &SceneRun| {
        let ended = run.cluster.start(&["apply", file.to_str().unwrap()]).wait(BOUND);
        println!("without the module: {ended}");
        says(&ended, 5, &["director", MISSING]);
        (run.cluster.photograph(), ended)
    };
    // It is known before: the director is not touched. Real servers that can get ready do.
    let (after, ended) = apply(&run);
    assert_eq!(after[&director], before[&director], "{ended}");
    run.walk(1);
    // It turns out in the midst of it.
    on(&run.cluster, "director", "mount -t tmpfs none /lib/modules");
    let (after, ended) = apply(&run);
    let lines = difference(&before, &after);
    assert!(lines.is_empty(), "something was changed: {lines:#?}\n{ended}");
    on(&run.cluster, "director", "umount /lib/modules");
    run.walk(0);
}

/// The real servers are ready, the director is about to go live: and one of them is gone.
pub fn a_host_dies() {
    let mut run = SceneRun::set(scenes::tun());
    for to in [1, 2, 1] {
        run.walk(to);
    }
    let before = run.cluster.photograph();
    let within = speed::seconds(300) + "s";
    let (controller, agent) =
        stopped(&run, 2, &["--confirm-within", &within], "director", "step 0");
    run.cluster.sshds.kill(&host("web1"));
    kill(agent, Signal::SIGCONT).unwrap();
    let ended = controller.wait(BOUND);
    println!("died: {ended}");
    says(&ended, 5, &["web1"]);
    let after = run.cluster.photograph();
    for name in ["director", "web2"] {
        assert_eq!(after[&host(name)], before[&host(name)], "{name}: {ended}");
    }
}

/// An hour on, then two back: nothing is undone for it, and nothing is waited for longer.
pub fn clocks() {
    let mut run = SceneRun::set(scenes::dr());
    for to in [1, 2, 1] {
        run.walk(to);
    }
    let long = speed::seconds(300) + "s";
    let within = ["--confirm-within", long.as_str()];
    let (controller, agent) = stopped(&run, 2, &within, "web1", "step 1");
    jump(3600);
    kill(agent, Signal::SIGCONT).unwrap();
    says(&controller.wait(BOUND), 0, &[]);
    run.arrived(2);
    let (controller, agent) = stopped(&run, 1, &within, "web1", "step 1");
    jump(-7200);
    kill(agent, Signal::SIGCONT).unwrap();
    says(&controller.wait(BOUND), 0, &[]);
    run.arrived(1);
    // Nobody confirms, and the controller is no more: the time is what it was.
    let short = speed::seconds(20) + "s";
    let within = ["--confirm-within", short.as_str()];
    let (controller, agent) = stopped(&run, 2, &within, "web1", "step 1");
    let since = Instant::now();
    controller.kill();
    jump(3600);
    kill(agent, Signal::SIGCONT).unwrap();
    while let Err(lines) = run.is(1, &run.cluster.photograph()) {
        assert!(since.elapsed() < speed::scaled(BOUND), "not undone: {lines}");
        std::thread::sleep(Duration::from_millis(300));
    }
    println!("undone by itself after {:.0} s", since.elapsed().as_secs_f64());
    run.walk(0);
}

/// Sets the machine's clock so many seconds on.
fn jump(seconds: i64) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let then = i64::try_from(now.as_secs()).unwrap() + seconds;
    let set = Command::new("date").args(["-s", &format!("@{then}")]).output().unwrap();
    assert!(set.status.success(), "date: {set:?}");
}
