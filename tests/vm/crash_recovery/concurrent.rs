//! Two applies of one topology at once: one after the other, never a mixture.

use std::time::Duration;

use super::cluster::{Cluster, PATIENCE};
use super::scene_run::SceneRun;
use super::scenes;

/// How often they meet.
const ROUNDS: u64 = 10;

/// What others do to a cluster, so that both files have something to mend on every host.
fn disturb(cluster: &Cluster) {
    for (host, line) in [
        ("director", "ipvsadm -e -t 172.25.7.200:80 -r 172.25.7.11 -g -w 77"),
        ("web1", "sysctl -qw net.ipv4.conf.all.arp_ignore=0"),
        ("web2", "ip route del default"),
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        cluster.inside(&host.parse().unwrap(), words[0], &words[1..], "");
    }
}

pub fn at_once() {
    let mut run = SceneRun::set(scenes::dr());
    for to in [1, 2, 1] {
        run.walk(to);
    }
    let mut waited = 0;
    for round in 0..ROUNDS {
        disturb(&run.cluster);
        // In turn, and further and further apart.
        let (first, second) = if round % 2 == 0 { (1, 2) } else { (2, 1) };
        let apart = Duration::from_millis(round / 2 * 150);
        let one = run.cluster.start(&["apply", run.file(first)]);
        std::thread::sleep(apart);
        let other = run.cluster.start(&["apply", run.file(second)]);
        let (one, other) = (one.wait(PATIENCE), other.wait(PATIENCE));
        assert_eq!((one.code, other.code), (Some(0), Some(0)), "{one}\n{other}");
        let told = one.err.contains("waiting") || other.err.contains("waiting");
        waited += u32::from(told);
        let photo = run.cluster.photograph();
        // Who waited for the other is the last; where nobody did, whichever it is.
        let (one_waited, other_waited) =
            (one.err.contains("waiting"), other.err.contains("waiting"));
        let last = match (one_waited, other_waited) {
            (true, false) => first,
            (false, true) => second,
            _ if run.is(first, &photo).is_ok() => first,
            _ => second,
        };
        if !told {
            println!("nobody waited: {one}{other}");
        }
        println!("round {round}: {} won, the other waited: {told}", run.scene.states[last].0);
        run.is(last, &photo).unwrap_or_else(|lines| {
            panic!("not the last one's work alone:\n{lines}\n{one}\n{other}");
        });
        run.state = last;
    }
    assert!(waited > 0, "they never met");
}

/// Who does not want to wait hears at once who is at work.
pub fn without_waiting() {
    let mut run = SceneRun::set(scenes::dr());
    run.walk(1);
    let web1 = "web1".parse().unwrap();
    run.cluster.fault(&web1, "step 0 stop\n");
    let mut one = run.cluster.start(&["apply", run.file(2)]);
    let agent = run.cluster.wait_for_stopped(&web1, &mut one).unwrap();
    run.cluster.no_faults();
    let other = run.cluster.lvsprov(&["apply", run.file(1), "--wait", "0"]);
    println!("without waiting: {other}");
    assert_eq!(other.code, Some(5), "{other}");
    let said = other.out.clone() + &other.err;
    assert!(said.contains("root@") && said.contains(&one.pid().to_string()), "{other}");
    nix::sys::signal::kill(agent, nix::sys::signal::Signal::SIGCONT).unwrap();
    let one = one.wait(PATIENCE);
    assert_eq!(one.code, Some(0), "{one}");
    run.walk(1);
    run.walk(0);
}
