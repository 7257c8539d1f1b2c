//! Hosts that fail in other ways: a full disk, a read-only one, a module that is missing, a host that
//! dies between two stages, a clock that jumps. Each ends in bounded time, with clear words, and nothing
//! is lost.

use std::process::Command;
use std::time::{Duration, Instant};

use lvsprov::names::HostName;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::beat;
use super::cluster::{Cluster, Ended, Running, difference};
use super::scenes;
use super::stage::Stage;

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
fn refused(stage: &Stage, to: usize, words: &[&str]) {
    let before = stage.cluster.photograph();
    let ended = stage.cluster.start(&["apply", stage.file(to)]).wait(BOUND);
    println!("{words:?}: {ended}");
    says(&ended, 5, words);
    let lines = difference(&before, &stage.cluster.photograph());
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
fn stopped(stage: &Stage, to: usize, more: &[&str], name: &str, point: &str) -> (Running, Pid) {
    stage.cluster.fault(&host(name), &format!("{point} stop\n"));
    let mut arguments = vec!["apply", stage.file(to)];
    arguments.extend(more);
    let mut controller = stage.cluster.start(&arguments);
    let agent = stage.cluster.wait_for_stopped(&host(name), &mut controller).unwrap();
    stage.cluster.no_faults();
    (controller, agent)
}

const FILL: &str = "head -c 1G /dev/zero > /var/lib/fill; test -s /var/lib/fill";

pub fn disks() {
    let mut stage = Stage::set(scenes::dr());
    for to in [1, 2, 1] {
        stage.walk(to);
    }
    // Little is left on that disk, and then nothing.
    on(&stage.cluster, "web2", "mount -o remount,size=80m /var/lib");
    on(&stage.cluster, "web2", FILL);
    refused(&stage, 2, &["web2", "No space left on device"]);
    on(&stage.cluster, "web2", "rm /var/lib/fill");
    // It fills up while the transaction is under way: all the room was taken before.
    let (controller, agent) = stopped(&stage, 2, &[], "web2", "step 0");
    on(&stage.cluster, "web2", FILL);
    kill(agent, Signal::SIGCONT).unwrap();
    says(&controller.wait(BOUND), 0, &[]);
    on(&stage.cluster, "web2", "rm /var/lib/fill");
    stage.arrived(2);
    // The same, and it is undone.
    let (controller, agent) = stopped(&stage, 1, &[], "web2", "step 1");
    on(&stage.cluster, "web2", FILL);
    kill(agent, Signal::SIGKILL).unwrap();
    let ended = controller.wait(BOUND);
    println!("undone on a full disk: {ended}");
    says(&ended, 5, &["web2"]);
    on(&stage.cluster, "web2", "rm /var/lib/fill");
    stage.arrived(2);
    // What nobody can write to.
    on(&stage.cluster, "director", "mount -o remount,ro /var/lib");
    refused(&stage, 1, &["director", "Read-only file system"]);
    on(&stage.cluster, "director", "mount -o remount,rw /var/lib");
    stage.walk(1);
    stage.walk(0);
}

/// Debian builds every scheduler but this one.
const MISSING: &str = "twos";

pub fn modules() {
    let mut stage = Stage::set(scenes::dr());
    for to in [1, 2, 1] {
        stage.walk(to);
    }
    let text = stage.scene.text(2).replace("scheduler: wrr", &format!("scheduler: {MISSING}"));
    let file = stage.cluster.file(MISSING, &text);
    let director = host("director");
    let before = stage.cluster.photograph();
    let apply = |stage: &Stage| {
        let ended = stage.cluster.start(&["apply", file.to_str().unwrap()]).wait(BOUND);
        println!("without the module: {ended}");
        says(&ended, 5, &["director", MISSING]);
        (stage.cluster.photograph(), ended)
    };
    // It is known before: the director is not touched. Real servers that can get ready do.
    let (after, ended) = apply(&stage);
    assert_eq!(after[&director], before[&director], "{ended}");
    stage.walk(1);
    // It turns out in the midst of it.
    on(&stage.cluster, "director", "mount -t tmpfs none /lib/modules");
    let (after, ended) = apply(&stage);
    let lines = difference(&before, &after);
    assert!(lines.is_empty(), "something was changed: {lines:#?}\n{ended}");
    on(&stage.cluster, "director", "umount /lib/modules");
    stage.walk(0);
}

/// The real servers are ready, the director is about to go live: and one of them is gone.
pub fn a_host_dies() {
    let mut stage = Stage::set(scenes::tun());
    for to in [1, 2, 1] {
        stage.walk(to);
    }
    let before = stage.cluster.photograph();
    let within = beat::seconds(300) + "s";
    let (controller, agent) =
        stopped(&stage, 2, &["--confirm-within", &within], "director", "step 0");
    stage.cluster.sshds.kill(&host("web1"));
    kill(agent, Signal::SIGCONT).unwrap();
    let ended = controller.wait(BOUND);
    println!("died: {ended}");
    says(&ended, 5, &["web1"]);
    let after = stage.cluster.photograph();
    for name in ["director", "web2"] {
        assert_eq!(after[&host(name)], before[&host(name)], "{name}: {ended}");
    }
}

/// An hour on, then two back: nothing is undone for it, and nothing is waited for longer.
pub fn clocks() {
    let mut stage = Stage::set(scenes::dr());
    for to in [1, 2, 1] {
        stage.walk(to);
    }
    let long = beat::seconds(300) + "s";
    let within = ["--confirm-within", long.as_str()];
    let (controller, agent) = stopped(&stage, 2, &within, "web1", "step 1");
    jump(3600);
    kill(agent, Signal::SIGCONT).unwrap();
    says(&controller.wait(BOUND), 0, &[]);
    stage.arrived(2);
    let (controller, agent) = stopped(&stage, 1, &within, "web1", "step 1");
    jump(-7200);
    kill(agent, Signal::SIGCONT).unwrap();
    says(&controller.wait(BOUND), 0, &[]);
    stage.arrived(1);
    // Nobody confirms, and the controller is no more: the time is what it was.
    let short = beat::seconds(20) + "s";
    let within = ["--confirm-within", short.as_str()];
    let (controller, agent) = stopped(&stage, 2, &within, "web1", "step 1");
    let since = Instant::now();
    controller.kill();
    jump(3600);
    kill(agent, Signal::SIGCONT).unwrap();
    while let Err(lines) = stage.is(1, &stage.cluster.photograph()) {
        assert!(since.elapsed() < beat::scaled(BOUND), "not undone: {lines}");
        std::thread::sleep(Duration::from_millis(300));
    }
    println!("undone by itself after {:.0} s", since.elapsed().as_secs_f64());
    stage.walk(0);
}

/// Sets the machine's clock so many seconds on.
fn jump(seconds: i64) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let then = i64::try_from(now.as_secs()).unwrap() + seconds;
    let set = Command::new("date").args(["-s", &format!("@{then}")]).output().unwrap();
    assert!(set.status.success(), "date: {set:?}");
}
