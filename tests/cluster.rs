//! Whole commands on the running kernel, against hosts in network namespaces that each test makes.
//!
//! The director's interface is down unless a test says otherwise: something stands in its way then on
//! every kernel, with IPVS or without, and the rest of the cluster is what is looked at here. Clusters
//! that go live are in `by_hand.rs`.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "cluster/ground.rs"]
mod ground;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use ground::{Ground, VIP, difference};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn real_servers_get_ready_while_something_stands_in_the_directors_way() {
    let ground = Ground::new();
    let before = ground.photograph();
    let plan = ground.expect(&["plan"], 5);
    assert!(plan.contains("! interface eth0 is down"), "{plan}");
    assert!(plan.contains("do:  bring it up"), "{plan}");
    assert_eq!(ground.photograph(), before, "plan changed something");

    let applied = ground.expect(&["apply"], 5);
    assert!(applied.contains("lvs  not touched: something stands in the way"), "{applied}");
    assert!(applied.contains("rs1  3 steps done, verified"), "{applied}");
    assert!(applied.contains("6 changes made, 1 host failed"), "{applied}");
    assert!(applied.contains("to finish:  mend what is said above"), "{applied}");
    for rs in ["rs1", "rs2"] {
        assert!(ground.addresses(rs).contains(VIP));
        assert_eq!(ground.sysctl(rs, "net.ipv4.conf.all.arp_ignore"), "1");
    }
    let during = ground.photograph();
    let again = ground.expect(&["apply", "--limit", "rs1,rs2"], 0);
    assert!(again.contains("0 changes made"), "{again}");
    assert!(again.contains("lvs  left out by --limit"), "{again}");
    assert_eq!(ground.photograph(), during, "a second apply changed something");

    ground.ip("rs1", &["address", "del", &format!("{VIP}/32"), "dev", "lo"]);
    ground.expect(&["plan", "--limit", "rs1"], 4);
    let mended = ground.expect(&["apply", "--limit", "rs1"], 0);
    assert!(mended.contains("1 change made"), "{mended}");
    assert_eq!(ground.photograph(), during, "the drift was not mended exactly");

    let destroyed = ground.expect(&["destroy"], 0);
    assert!(destroyed.contains("6 changes taken back"), "{destroyed}");
    let after = ground.photograph();
    assert!(before == after, "destroy left a difference:\n{}", difference(&before, &after));
    assert!(!ground.receipt("rs1").exists());
    ground.expect(&["destroy"], 0);
}

#[test]
fn a_vip_that_was_there_before_is_kept_as_it_was() {
    let ground = Ground::new();
    ground.ip("rs1", &["address", "add", &format!("{VIP}/32"), "dev", "lo", "label", "lo:vip"]);
    ground.set("rs1", "net.ipv4.conf.all.arp_announce", "1");
    let before = ground.photograph();
    let applied = ground.expect(&["apply", "--limit", "rs1"], 0);
    assert!(applied.contains("2 changes made"), "{applied}");
    ground.expect(&["destroy"], 0);
    let after = ground.photograph();
    assert!(before == after, "destroy left a difference:\n{}", difference(&before, &after));
}

#[test]
fn a_host_that_is_not_there_is_said_and_the_others_are_done() {
    let ground = Ground::new();
    let text = std::fs::read_to_string(&ground.file).unwrap();
    let gone = format!("{}-gone", ground.name("rs2"));
    std::fs::write(&ground.file, text.replace(&ground.name("rs2"), &gone)).unwrap();
    let applied = ground.expect(&["apply"], 5);
    assert!(applied.contains("rs2  not touched: it could not be reached"), "{applied}");
    assert!(applied.contains(&gone), "which namespace is not said:\n{applied}");
    assert!(applied.contains("rs1  3 steps done, verified"), "{applied}");
    assert!(ground.addresses("rs1").contains(VIP));
    assert!(!applied.contains("Os {"), "{applied}");
}

#[test]
fn while_another_run_acts_on_a_host_it_is_refused_and_nothing_is_touched() {
    let ground = Ground::new();
    ground.expect(&["apply", "--limit", "rs1"], 0);
    ground.expect(&["destroy", "--limit", "rs1"], 0);
    let before = ground.photograph();
    let lock = std::fs::OpenOptions::new().write(true).open(ground.state("rs1").join("lock"));
    let lock = Flock::lock(lock.unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
    let refused = ground.expect(&["apply", "--limit", "rs1"], 5);
    assert!(refused.contains("rs1  failed: nothing on it was changed"), "{refused}");
    assert!(refused.contains("another lvsprov is changing this host"), "{refused}");
    assert_eq!(ground.photograph(), before);
    drop(lock);
    ground.expect(&["apply", "--limit", "rs1"], 0);
}

#[test]
fn runs_at_the_same_time_never_mix() {
    let ground = Ground::with_vips(20);
    let before = ground.photograph();
    let runs: Vec<_> = (0..6)
        .map(|_| ground.command(&["apply", "--limit", "rs1"]).stdout(Stdio::piped()).spawn())
        .collect();
    for run in runs {
        let output = run.unwrap().wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // Done, too late, or refused because another was at it.
        assert!(matches!(output.status.code(), Some(0 | 5)), "{text}");
        assert!(!text.contains("already there"), "{text}");
    }
    let last = ground.expect(&["apply", "--limit", "rs1"], 0);
    assert!(last.contains("0 changes made"), "one of six must have come through:\n{last}");
    ground.expect(&["destroy", "--limit", "rs1"], 0);
    let after = ground.photograph();
    assert!(before == after, "destroy left a difference:\n{}", difference(&before, &after));
}

#[test]
fn an_agent_killed_half_way_is_said_and_one_more_apply_finishes() {
    const VIPS: usize = 200;
    let ground = Ground::with_vips(VIPS);
    let before = ground.photograph();
    let text = (0..5).find_map(|_| {
        let half_way = |_: &_| (1..VIPS).contains(&ground.vips("rs1"));
        let text = killed_half_way(&ground).filter(half_way);
        // It was through before the signal came, or looked at the host already: once more from the
        // start.
        if text.is_none() {
            ground.expect(&["destroy", "--limit", "rs1"], 0);
        }
        text
    });
    let text = text.unwrap_or_else(|| panic!("the agent was never caught at work"));
    let count = ground.vips("rs1");
    assert!((1..VIPS).contains(&count), "{count} addresses: not half-way");
    assert!(text.contains("NOT KNOWN whether done"), "{text}");
    assert!(text.contains("left half-way: rs1"), "{text}");
    assert!(text.contains("to go back: `lvsprov destroy`"), "{text}");

    ground.expect(&["apply", "--limit", "rs1"], 0);
    assert_eq!(ground.vips("rs1"), VIPS);
    ground.expect(&["destroy", "--limit", "rs1"], 0);
    let after = ground.photograph();
    assert!(before == after, "destroy left a difference:\n{}", difference(&before, &after));
}

/// Applies, and kills the agent once it has begun. What apply said; `None` if the agent was faster.
fn killed_half_way(ground: &Ground) -> Option<String> {
    let apply = ground
        .command(&["apply", "--limit", "rs1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_mins(1);
    while !ground.receipt("rs1").exists() || ground.vips("rs1") == 0 {
        assert!(Instant::now() < deadline, "apply does not begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    let children = format!("/proc/{pid}/task", pid = apply.id());
    for thread in std::fs::read_dir(children).into_iter().flatten().flatten() {
        let agents = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for agent in agents.split_whitespace() {
            let agent = Pid::from_raw(agent.parse().unwrap());
            let _ = kill(agent, Signal::SIGKILL);
        }
    }
    let output = apply.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code() == Some(5)).then_some(text)
}

#[test]
fn where_no_receipt_can_be_kept_nothing_is_touched() {
    let ground = Ground::new();
    let before = ground.photograph();
    for (mount, cure) in [("ro", "read-only"), ("size=4k", "make room")] {
        let text = ground.on_a_bad_disk("rs1", mount, &["apply", "--limit", "rs1"], 5);
        assert!(text.contains("rs1  failed: nothing on it was changed"), "{mount}:\n{text}");
        assert!(text.to_lowercase().contains(cure), "{mount}:\n{text}");
        assert!(text.contains("/var/lib/lvsprov"), "{mount}: which folder is not said:\n{text}");
        let after = ground.photograph();
        assert!(before == after, "{mount}: touched:\n{}", difference(&before, &after));
    }
}

/// Two files that both need `arp_ignore` on one host: taking one away must not break the other.
#[test]
fn what_two_topologies_share_is_given_back_by_the_last() {
    let ground = Ground::new();
    let before = ground.photograph();
    let other = ground.another("other", "172.25.7.201");
    ground.expect(&["apply", "--limit", "rs1"], 0);
    Ground::expect_of(&other, &["apply", "--limit", "rs1"], 0);
    let refused = ground.expect(&["destroy", "--limit", "rs1"], 5);
    assert!(refused.contains("the topology other on this host has"), "{refused}");
    assert!(refused.contains("destroy other first"), "{refused}");
    assert_eq!(ground.sysctl("rs1", "net.ipv4.conf.all.arp_ignore"), "1");
    assert!(ground.addresses("rs1").contains(VIP), "half a destroy was done");
    // Drift of what both have is mended by either.
    ground.set("rs1", "net.ipv4.conf.all.arp_ignore", "0");
    ground.expect(&["apply", "--limit", "rs1"], 0);
    Ground::expect_of(&other, &["destroy", "--limit", "rs1"], 0);
    assert_eq!(ground.sysctl("rs1", "net.ipv4.conf.all.arp_ignore"), "1");
    ground.expect(&["destroy", "--limit", "rs1"], 0);
    let after = ground.photograph();
    assert!(before == after, "destroy left a difference:\n{}", difference(&before, &after));
}

#[test]
fn every_command_says_one_json_document_with_a_schema() {
    let ground = Ground::new();
    let folder = ground.file.parent().unwrap();
    let bad = folder.join("bad.yaml");
    std::fs::write(&bad, "version: 1\n").unwrap();
    let binary = folder.join("binary.yaml");
    std::fs::write(&binary, [0xff, 0xfe, 0x00]).unwrap();
    let huge = folder.join("huge.yaml");
    std::fs::write(&huge, vec![b'#'; 5_000_000]).unwrap();
    let good = ground.file.as_path();
    let missing = Path::new("/no/such/file.yaml");
    let cases: [(&[&str], &Path, i32, &str); 17] = [
        (&["check"], good, 0, "check"),
        (&["check"], &bad, 3, "check"),
        (&["check"], missing, 1, "error"),
        (&["check"], folder, 1, "error"),
        (&["check"], &binary, 1, "error"),
        (&["check"], &huge, 1, "error"),
        (&["plan"], good, 5, "plan"),
        (&["plan", "--limit", "rs1"], good, 4, "plan"),
        (&["plan", "--limit", "nobody"], good, 2, "error"),
        (&["apply"], &bad, 3, "check"),
        (&["apply"], missing, 1, "error"),
        (&["apply"], &binary, 1, "error"),
        (&["apply"], good, 5, "result"),
        (&["status"], good, 5, "status"),
        (&["verify"], good, 6, "verify"),
        (&["destroy", "--dry-run"], good, 0, "plan"),
        (&["destroy"], good, 0, "result"),
    ];
    for (arguments, file, code, schema) in cases {
        let arguments = [arguments, &["--format", "json"]].concat();
        let output = Ground::command_of(file, &arguments).output().unwrap();
        let shown = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{arguments:?} {}:\n{shown}", file.display());
        let document: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{arguments:?} {}: {error}\n{shown}", file.display()));
        assert_eq!(document["schema"], format!("lvsprov/{schema}/1"), "{arguments:?}");
        assert_ne!(schema == "error", document.get("error").is_none(), "{document}");
    }
}

#[test]
fn in_a_pipe_there_is_neither_progress_nor_colour() {
    let ground = Ground::new();
    for arguments in [&["check"][..], &["plan"], &["status"], &["destroy", "--dry-run"]] {
        let output = ground.command(arguments).output().unwrap();
        assert!(!output.stdout.is_empty(), "{arguments:?}");
        assert!(!output.stdout.contains(&0x1b), "{arguments:?}: escape codes in a pipe");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
        let forced = ground.command(arguments).env("CLICOLOR_FORCE", "1").output().unwrap();
        let coloured = forced.stdout.contains(&0x1b);
        assert_eq!(coloured, arguments != ["check"], "{arguments:?}: colours can be forced");
    }
}

#[test]
fn a_full_disk_behind_standard_output_is_an_error_and_no_panic() {
    let ground = Ground::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = ground.command(&["apply", "--limit", "rs1"]).stdout(full).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write the result"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert!(ground.addresses("rs1").contains(VIP), "what was done is done");
}
