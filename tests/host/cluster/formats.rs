//! Plans as Markdown and as a page, and `status --watch`, of hosts in network namespaces.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::netns_cluster::NetnsCluster;
use crate::support::cases::{Case, cases};
use crate::support::processes::processes;

pub fn cases() -> Vec<Case> {
    cases![
        a_plan_is_a_comment_or_a_page_with_the_same_exit_code,
        a_watch_looks_again_over_the_same_agents_and_ends_with_a_signal,
        a_watch_ends_when_nothing_reads_it
    ]
}

fn a_plan_is_a_comment_or_a_page_with_the_same_exit_code() {
    let cluster = NetnsCluster::new();
    let before = cluster.photograph();
    let comment = cluster.expect(&["plan", "--format", "markdown"], 5);
    for part in [
        "### lvsprov plan cluster-test\n",
        "#### What stands in the way\n",
        "interface eth0 is down",
        "**rs1, rs2** (the same on each)\n",
        "```diff\n! set net.ipv4.conf.all.arp_announce: 0 -> 2\n",
    ] {
        assert!(comment.contains(part), "{part:?} is not in:\n{comment}");
    }
    let page = cluster.expect(&["plan", "--format", "html"], 5);
    assert!(page.starts_with("<!DOCTYPE html>"), "{page}");
    for part in ["What stands in the way", "interface eth0 is down", "rs1, rs2", "</html>"] {
        assert!(page.contains(part), "{part:?} is not in:\n{page}");
    }
    assert_eq!(cluster.photograph(), before, "plan changed something");
}

fn a_watch_looks_again_over_the_same_agents_and_ends_with_a_signal() {
    let cluster = NetnsCluster::new();
    let mut watch = cluster
        .command(&["status", "--watch", "--interval", "1", "--format", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut look =
        || -> serde_json::Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let first = look();
    assert_eq!(first["schema"], "lvsprov/watch/1");
    assert!(first["seconds"].is_null(), "{first}");
    assert_eq!(first["status"]["hosts"]["rs1"]["status"], "pending");
    let agents = agents_of(watch.id());
    assert!(!agents.is_empty());
    // What changes meanwhile is in a later look.
    let added = ["address", "add", "172.25.8.1/32", "dev", "lo", "label", "lo:0"];
    cluster.ip("rs1", &added);
    let differences = |look: &serde_json::Value| {
        look["status"]["hosts"]["rs1"]["drift"].as_array().unwrap().len()
    };
    let until = Instant::now() + Duration::from_mins(1);
    loop {
        let next = look();
        assert!(next["seconds"].as_f64().unwrap() >= 0.9, "{next}");
        if differences(&next) < differences(&first) {
            break;
        }
        assert!(Instant::now() < until, "{next}");
    }
    assert_eq!(agents_of(watch.id()), agents, "the connections are kept");
    kill(Pid::from_raw(i32::try_from(watch.id()).unwrap()), Signal::SIGINT).unwrap();
    drop(lines);
    let ended = watch.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!((ended.status.code(), said.as_str()), (Some(0), ""));
}

fn a_watch_ends_when_nothing_reads_it() {
    let cluster = NetnsCluster::new();
    let mut watch = cluster
        .command(&["status", "--watch", "--interval", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.starts_with("cluster-test  "), "{first}");
    drop(lines);
    assert_eq!(watch.wait().unwrap().code(), Some(0));
}

/// The processes that `parent` started, by id.
fn agents_of(parent: u32) -> Vec<u32> {
    let mut ids: Vec<u32> = processes().filter(|it| it.parent == parent).map(|it| it.id).collect();
    ids.sort_unstable();
    ids
}
