//! Whole commands on the running kernel, against hosts in network namespaces that each test makes.
//!
//! The director's interface is down unless a test says otherwise: something stands in its way then on
//! every kernel, with IPVS or without, and the rest of the cluster is what is looked at here. Clusters
//! that go live are in `by_hand.rs`.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/beat.rs"]
mod beat;
#[path = "cluster/ground.rs"]
mod ground;

use std::io::{BufRead as _, BufReader, Write as _};
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
    assert!(applied.contains("to finish:  mend what is shown above"), "{applied}");
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
    let refused = ground.expect(&["apply", "--limit", "rs1", "--wait", "0"], 5);
    assert!(refused.contains("rs1  failed: nothing on it was changed"), "{refused}");
    assert!(refused.contains("is under way"), "{refused}");
    assert_eq!(ground.photograph(), before);
    // Who waits gets its turn.
    let waiting = ground
        .command(&["apply", "--limit", "rs1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut waiting = waiting;
    let mut said = BufReader::new(waiting.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.starts_with("waiting: rs1: "), "{line}");
    drop(lock);
    let waited = waiting.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&waited.stdout).into_owned();
    assert_eq!(waited.status.code(), Some(0), "{text}");
    assert!(text.contains("rs1  3 steps done, verified"), "{text}");
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
fn an_agent_killed_half_way_is_undone_and_where_that_is_kept_one_more_apply_finishes() {
    const VIPS: usize = 200;
    let ground = Ground::with_vips(VIPS);
    let before = ground.photograph();
    let same = |what: &str| {
        let after = ground.photograph();
        assert!(before == after, "{what} left a difference:\n{}", difference(&before, &after));
    };
    let undone = caught(&ground, &["apply", "--limit", "rs1"], |_| true);
    assert!(undone.contains("done, and undone again"), "{undone}");
    assert!(undone.contains("every host that took part is as it was before"), "{undone}");
    same("undoing");
    assert!(!ground.receipt("rs1").exists());

    let half_way = |ground: &Ground| (1..VIPS).contains(&ground.vips("rs1"));
    let keep = ["apply", "--limit", "rs1", "--on-error", "keep"];
    let kept = caught(&ground, &keep, half_way);
    assert!(kept.contains("NOT KNOWN whether done"), "{kept}");
    assert!(kept.contains("left unfinished on rs1"), "{kept}");
    assert!(kept.contains("to go back: `lvsprov rollback`"), "{kept}");
    let plan = ground.expect(&["plan", "--limit", "rs1"], 4);
    assert!(plan.contains(&format!("{} of ", ground.vips("rs1") + 2)), "{plan}");
    assert!(plan.contains("`lvsprov rollback` undoes it"), "{plan}");
    ground.expect(&["apply", "--limit", "rs1"], 0);
    assert_eq!(ground.vips("rs1"), VIPS);
    ground.expect(&["destroy", "--limit", "rs1"], 0);
    same("destroy");

    caught(&ground, &keep, half_way);
    let dry = ground.expect(&["rollback", "--limit", "rs1", "--dry-run"], 0);
    assert!(dry.contains("would be undone"), "{dry}");
    assert!(half_way(&ground), "a dry run changed something");
    let back = ground.expect(&["rollback", "--limit", "rs1"], 0);
    assert!(back.contains("rs1  undone: it is as it was before"), "{back}");
    same("rollback");
    let nothing = ground.expect(&["rollback", "--limit", "rs1"], 0);
    assert!(nothing.contains("nothing is unfinished"), "{nothing}");
}

/// What a command says whose agent was killed at work, and which left what `fits`.
fn caught(ground: &Ground, command: &[&str], fits: impl Fn(&Ground) -> bool) -> String {
    let text = (0..5).find_map(|_| {
        let text = killed_half_way(ground, command).filter(|_| fits(ground));
        // It was through before the signal came, or looked at the host already: once more from the
        // start.
        if text.is_none() {
            ground.expect(&["destroy", "--limit", "rs1"], 0);
        }
        text
    });
    text.unwrap_or_else(|| panic!("the agent was never caught at work"))
}

#[test]
fn a_change_is_kept_when_the_operator_says_so_and_undone_when_not() {
    let ground = Ground::new();
    let before = ground.photograph();
    let within = beat::seconds(300) + "s";
    let manual =
        ["apply", "--limit", "rs1,rs2", "--confirm", "manual", "--confirm-within", within.as_str()];
    let start = || {
        let mut command = ground.command(&manual);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("everything was verified; say `yes`"), "{line}");
        child
    };
    let end = |child: std::process::Child, code: i32| {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(code), "{text}");
        text
    };
    let mut no = start();
    assert!(ground.addresses("rs2").contains(VIP));
    no.stdin.take().unwrap().write_all(b"no\n").unwrap();
    let text = end(no, 5);
    assert!(text.contains("because the operator answered no"), "{text}");
    assert_eq!(ground.photograph(), before);

    let interrupted = start();
    kill(Pid::from_raw(interrupted.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let text = end(interrupted, 5);
    assert!(text.contains("because it was interrupted"), "{text}");
    assert_eq!(ground.photograph(), before);

    let elsewhere = start();
    let confirmed = ground.expect(&["confirm", "--limit", "rs1,rs2"], 0);
    assert!(confirmed.contains("rs1  kept, and closed"), "{confirmed}");
    let text = end(elsewhere, 0);
    assert!(text.contains("6 changes made"), "{text}");
    ground.expect(&["plan", "--limit", "rs1,rs2"], 0);
    ground.expect(&["confirm", "--limit", "rs1,rs2"], 0);
    ground.expect(&["destroy"], 0);
    ground.expect(&["confirm", "--limit", "rs1,rs2"], 4);

    let mut yes = start();
    yes.stdin.take().unwrap().write_all(b"yes\n").unwrap();
    end(yes, 0);
    ground.expect(&["destroy"], 0);
    assert_eq!(ground.photograph(), before);
}

#[test]
fn a_saved_plan_does_just_what_it_shows_and_nothing_once_the_hosts_have_moved_on() {
    let ground = Ground::new();
    let before = ground.photograph();
    let file = ground.file.with_file_name("monday.plan");
    let path = file.to_str().unwrap();
    let limit = ["--limit", "rs1,rs2"];
    let save = |more: &[&str], code| {
        ground.expect(&[&["plan", "--out", path][..], &limit, more].concat(), code)
    };
    let shown = save(&[], 4);
    let digits = shown.lines().find_map(|line| line.strip_prefix("fingerprint of this plan: "));
    assert_eq!(digits.unwrap().len(), 12, "{shown}");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(save(&[], 1).contains("exists already"), "it was replaced");
    save(&["--force"], 4);
    assert!(
        Ground::expect_of(&file, &["apply", "--adopt"], 2).contains("--adopt is in the saved plan")
    );

    ground.set("rs2", "net.ipv4.conf.all.arp_ignore", "2");
    let moved = ground.photograph();
    let refused = Ground::expect_of(&file, &["apply"], 5);
    assert!(refused.contains("rs2\n    net.ipv4.conf.all.arp_ignore: 0 -> 2"), "{refused}");
    assert!(refused.contains(digits.unwrap()), "{refused}");
    assert_eq!(ground.photograph(), moved, "something was touched");
    ground.set("rs2", "net.ipv4.conf.all.arp_ignore", "0");

    let whole = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, whole.replace("arp_ignore", "arp_filter")).unwrap();
    let tampered = Ground::expect_of(&file, &["apply"], 1);
    assert!(tampered.contains("damaged") || tampered.contains("was changed after"), "{tampered}");
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    assert!(Ground::expect_of(&file, &["apply"], 1).contains("is a saved plan, but damaged"));
    assert_eq!(ground.photograph(), before, "something was touched");

    std::fs::write(&file, &whole).unwrap();
    // The plan is whole in itself.
    std::fs::rename(&ground.file, ground.file.with_file_name("gone")).unwrap();
    let applied = Ground::expect_of(&file, &["apply"], 0);
    assert!(applied.contains("6 changes made"), "{applied}");
    std::fs::rename(ground.file.with_file_name("gone"), &ground.file).unwrap();
    let late = Ground::expect_of(&file, &["apply"], 5);
    assert!(late.contains("no longer to do: "), "{late}");
    ground.expect(&["destroy"], 0);
    assert_eq!(ground.photograph(), before);
}

/// A pipe gives its text once, and that is planned and saved.
#[test]
fn a_plan_of_a_pipe_is_saved_with_the_text_that_came_through_it() {
    let ground = Ground::new();
    let saved = ground.file.with_file_name("piped.plan");
    let path = saved.to_str().unwrap();
    let arguments = ["plan", "--out", path, "--limit", "rs1,rs2"];
    let mut plan = Ground::command_of(Path::new("/dev/stdin"), &arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text = std::fs::read_to_string(&ground.file).unwrap();
    plan.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = plan.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    let document: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&saved).unwrap()).unwrap();
    assert_eq!(document["plan"]["topology"], text);
    let applied = Ground::expect_of(&saved, &["apply"], 0);
    assert!(applied.contains("6 changes made"), "{applied}");
    ground.expect(&["destroy"], 0);
}

/// One document on standard output, whatever becomes of saving it.
#[test]
fn a_plan_that_cannot_be_saved_is_shown_all_the_same() {
    let ground = Ground::new();
    let plan = |file: &Path, limit: &str| {
        let out = file.to_str().unwrap();
        let arguments = ["plan", "--format", "json", "--out", out, "--limit", limit];
        let output = ground.command(&arguments).output().unwrap();
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!file.exists());
        (document["schema"].clone(), output.status.code(), said)
    };
    let file = ground.file.with_file_name("never.plan");
    // Something stands in the way of the director.
    let (schema, code, said) = plan(&file, "lvs,rs1");
    assert_eq!((schema, code), ("lvsprov/plan/1".into(), Some(5)));
    assert!(
        said.contains("the plan is not saved, as it is not whole: lvs could not be planned"),
        "{said}"
    );
    let (schema, code, said) = plan(&file.join("no").join("folder"), "rs1");
    assert_eq!((schema, code), ("lvsprov/plan/1".into(), Some(1)));
    assert!(said.contains("cannot write the plan to"), "{said}");
}

/// Applies, and kills the agent once it has begun. What apply said; `None` if the agent was faster.
fn killed_half_way(ground: &Ground, command: &[&str]) -> Option<String> {
    let apply =
        ground.command(command).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + beat::patience();
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
    // The older goes first: what the younger needs stays, and the younger gives back what was here first.
    let plan = ground.expect(&["destroy", "--dry-run", "--limit", "rs1"], 0);
    assert!(plan.contains("because the topology other has it too: net.ipv4.conf.all"), "{plan}");
    ground.expect(&["destroy", "--limit", "rs1"], 0);
    assert!(!ground.receipt("rs1").exists() && ground.vips("rs1") == 0);
    assert_eq!(ground.sysctl("rs1", "net.ipv4.conf.all.arp_ignore"), "1");
    Ground::expect_of(&other, &["plan", "--limit", "rs1"], 0);
    Ground::expect_of(&other, &["destroy", "--limit", "rs1"], 0);
    let after = ground.photograph();
    assert!(before == after, "destroy left a difference:\n{}", difference(&before, &after));

    ground.expect(&["apply", "--limit", "rs1"], 0);
    Ground::expect_of(&other, &["apply", "--limit", "rs1"], 0);
    // Drift of what both have is mended by either.
    ground.set("rs1", "net.ipv4.conf.all.arp_ignore", "0");
    ground.expect(&["apply", "--limit", "rs1"], 0);
    Ground::expect_of(&other, &["destroy", "--limit", "rs1"], 0);
    assert_eq!(ground.sysctl("rs1", "net.ipv4.conf.all.arp_ignore"), "1");
    ground.expect(&["destroy", "--limit", "rs1"], 0);
    let after = ground.photograph();
    assert!(before == after, "destroy left a difference:\n{}", difference(&before, &after));
}

/// Wherever the agent is killed while one of two topologies goes, what was here first is not forgotten; and
/// while that is unfinished the other does not go.
#[test]
fn killed_anywhere_what_two_topologies_share_is_given_back_by_the_last() {
    let ground = Ground::new();
    let before = ground.photograph();
    let other = ground.another("other", "172.25.7.201");
    let fault = ground.file.with_file_name("fault");
    for point in ["prepare", "journal", "prepared", "step 1", "close", "receipt", "closed"] {
        ground.expect(&["apply", "--limit", "rs1"], 0);
        Ground::expect_of(&other, &["apply", "--limit", "rs1"], 0);
        std::fs::write(&fault, format!("{point} kill\n")).unwrap();
        let mut destroy = ground.command(&["destroy", "--limit", "rs1", "--on-error", "keep"]);
        let output = destroy.env("LVSPROV_FAULT", &fault).output().unwrap();
        std::fs::write(&fault, "").unwrap();
        // What it had only begun, or settled, the controller closes over another connection.
        let open = ground.state("rs1").join("cluster-test/journal.json").exists();
        assert!(open || point != "step 1", "{point}: {output:?}");
        assert_eq!(ground.sysctl("rs1", "net.ipv4.conf.all.arp_ignore"), "1", "{point}");
        if open {
            let refused = Ground::expect_of(&other, &["destroy", "--limit", "rs1"], 5);
            assert!(refused.contains("the topology cluster-test has transaction"), "{refused}");
            if point == "step 1" {
                ground.expect(&["rollback", "--limit", "rs1"], 0);
                ground.expect(&["plan", "--limit", "rs1"], 0);
            }
        }
        ground.expect(&["destroy", "--limit", "rs1"], 0);
        assert_eq!(ground.sysctl("rs1", "net.ipv4.conf.all.arp_ignore"), "1", "{point}");
        Ground::expect_of(&other, &["destroy", "--limit", "rs1"], 0);
        let after = ground.photograph();
        assert!(before == after, "{point} left a difference:\n{}", difference(&before, &after));
    }
}

/// Another topology's receipt that cannot be read stops what may be its own, and no rollback.
#[test]
fn an_unreadable_receipt_of_another_topology_is_in_the_way_only_where_it_matters() {
    let ground = Ground::new();
    let before = ground.photograph();
    ground.expect(&["apply", "--limit", "rs1", "--on-error", "keep"], 0);
    let theirs = ground.state("rs1").join("other");
    std::fs::create_dir(&theirs).unwrap();
    let later = r#"{"version":99,"topology":"other","owned":{"who":"knows"}}"#;
    std::fs::write(theirs.join("receipt.json"), later).unwrap();
    std::fs::write(ground.state("rs1").join("notes.txt"), "").unwrap();
    // Nothing to do: it is said, and in nobody's way.
    let plan = ground.expect(&["plan", "--limit", "rs1"], 0);
    assert!(plan.contains("what the topology other owns on this host cannot be read"), "{plan}");
    assert!(plan.contains("was written by a later lvsprov: it has format 99"), "{plan}");
    assert!(plan.contains("notes.txt (no topology's folder)"), "{plan}");
    // What is ours and not here any more cannot be the other's.
    ground.ip("rs1", &["address", "del", &format!("{VIP}/32"), "dev", "lo"]);
    ground.expect(&["apply", "--limit", "rs1"], 0);
    // What is given back may be the other's.
    let refused = ground.expect(&["destroy", "--limit", "rs1"], 5);
    assert!(refused.contains("and it may be net.ipv4.conf.all"), "{refused}");
    assert!(refused.contains("use that version of lvsprov"), "{refused}");
    assert!(ground.addresses("rs1").contains(VIP), "half a destroy was done");
    std::fs::rename(&theirs, ground.state("rs1").join(".away")).unwrap();
    ground.expect(&["destroy", "--limit", "rs1"], 0);
    assert_eq!(ground.photograph(), before);

    // A rollback asks nothing of it.
    let fault = ground.file.with_file_name("fault");
    std::fs::write(&fault, "step 2 kill\n").unwrap();
    let mut apply = ground.command(&["apply", "--limit", "rs1", "--on-error", "keep"]);
    apply.env("LVSPROV_FAULT", &fault).output().unwrap();
    assert_ne!(ground.photograph(), before);
    std::fs::rename(ground.state("rs1").join(".away"), &theirs).unwrap();
    ground.expect(&["rollback", "--limit", "rs1"], 0);
    assert_eq!(ground.photograph(), before);
    // A first apply would take what may be the other's.
    let refused = ground.expect(&["apply", "--limit", "rs1"], 5);
    assert!(
        refused.contains("what the topology other owns on this host cannot be read"),
        "{refused}"
    );
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
