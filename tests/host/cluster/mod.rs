//! Whole commands on the running kernel, against hosts in network namespaces that each test makes.
//!
//! The director's interface is down unless a test says otherwise: something stands in its way then on
//! every kernel, with IPVS or without, and the rest of the cluster is what is looked at here. Clusters
//! that go live are in `vm/end_to_end.rs`.
mod drift;
mod formats;
mod holders;
mod netns_cluster;
mod reboot;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use netns_cluster::{NetnsCluster, VIP, difference};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::cases::{Case, cases};
use crate::support::speed;

pub fn cases() -> Vec<Case> {
    [changes(), drift::cases(), formats::cases(), holders::cases(), reboot::cases()].concat()
}

fn changes() -> Vec<Case> {
    cases![
        real_servers_get_ready_while_something_stands_in_the_directors_way,
        a_vip_that_was_there_before_is_kept_as_it_was,
        a_host_that_is_not_there_is_said_and_the_others_are_done,
        while_another_run_acts_on_a_host_it_is_refused_and_nothing_is_touched,
        runs_at_the_same_time_never_mix,
        an_agent_killed_half_way_is_undone_and_where_that_is_kept_one_more_apply_finishes,
        a_change_is_kept_when_the_operator_says_so_and_undone_when_not,
        a_saved_plan_does_just_what_it_shows_and_nothing_once_the_hosts_have_moved_on,
        a_plan_of_a_pipe_is_saved_with_the_text_that_came_through_it,
        a_plan_that_cannot_be_saved_is_shown_all_the_same,
        where_no_receipt_can_be_kept_nothing_is_touched,
        what_two_topologies_share_is_given_back_by_the_last,
        killed_anywhere_what_two_topologies_share_is_given_back_by_the_last,
        an_unreadable_receipt_of_another_topology_is_in_the_way_only_where_it_matters,
        every_command_says_one_json_document_with_a_schema,
        in_a_pipe_there_is_neither_progress_nor_colour,
        a_full_disk_behind_standard_output_is_an_error_and_no_panic
    ]
}

fn real_servers_get_ready_while_something_stands_in_the_directors_way() {
    let cluster = NetnsCluster::new();
    let before = cluster.photograph();
    let plan = cluster.expect(&["plan"], 5);
    assert!(plan.contains("! interface eth0 is down"), "{plan}");
    assert!(plan.contains("do:  bring it up"), "{plan}");
    assert_eq!(cluster.photograph(), before, "plan changed something");

    let applied = cluster.expect(&["apply"], 5);
    assert!(applied.contains("lvs  not touched: something stands in the way"), "{applied}");
    assert!(applied.contains("rs1, rs2  3 steps done, verified"), "{applied}");
    assert!(
        applied.contains("6 changes made on 2 hosts, 1 host unchanged, 1 host failed"),
        "{applied}"
    );
    assert!(applied.contains("to finish:  mend what is shown above"), "{applied}");
    for rs in ["rs1", "rs2"] {
        assert!(cluster.addresses(rs).contains(VIP));
        assert_eq!(cluster.sysctl(rs, "net.ipv4.conf.all.arp_ignore"), "1");
    }
    let during = cluster.photograph();
    let again = cluster.expect(&["apply", "--limit", "rs1,rs2"], 0);
    assert!(again.contains("0 changes made"), "{again}");
    assert!(again.contains("lvs  left out by --limit"), "{again}");
    assert_eq!(cluster.photograph(), during, "a second apply changed something");

    cluster.ip("rs1", &["address", "del", &format!("{VIP}/32"), "dev", "lo"]);
    cluster.expect(&["plan", "--limit", "rs1"], 4);
    let mended = cluster.expect(&["apply", "--limit", "rs1"], 0);
    assert!(mended.contains("1 change made"), "{mended}");
    assert_eq!(cluster.photograph(), during, "the drift was not mended exactly");

    let destroyed = cluster.expect(&["destroy"], 0);
    assert!(destroyed.contains("6 changes taken back"), "{destroyed}");
    let after = cluster.photograph();
    assert!(before == after, "destroy left a difference:\n{}", difference(&before, &after));
    assert!(!cluster.receipt("rs1").exists());
    cluster.expect(&["destroy"], 0);
}

fn a_vip_that_was_there_before_is_kept_as_it_was() {
    let cluster = NetnsCluster::new();
    cluster.ip("rs1", &["address", "add", &format!("{VIP}/32"), "dev", "lo", "label", "lo:vip"]);
    cluster.set("rs1", "net.ipv4.conf.all.arp_announce", "1");
    let before = cluster.photograph();
    let applied = cluster.expect(&["apply", "--limit", "rs1"], 0);
    assert!(applied.contains("2 changes made"), "{applied}");
    cluster.expect(&["destroy"], 0);
    let after = cluster.photograph();
    assert!(before == after, "destroy left a difference:\n{}", difference(&before, &after));
}

fn a_host_that_is_not_there_is_said_and_the_others_are_done() {
    let cluster = NetnsCluster::new();
    let text = std::fs::read_to_string(&cluster.file).unwrap();
    let gone = format!("{}-gone", cluster.name("rs2"));
    std::fs::write(&cluster.file, text.replace(&cluster.name("rs2"), &gone)).unwrap();
    let applied = cluster.expect(&["apply"], 5);
    assert!(applied.contains("rs2  not touched: it could not be reached"), "{applied}");
    assert!(applied.contains(&gone), "which namespace is not said:\n{applied}");
    assert!(applied.contains("rs1  3 steps done, verified"), "{applied}");
    assert!(cluster.addresses("rs1").contains(VIP));
    assert!(!applied.contains("Os {"), "{applied}");
}

fn while_another_run_acts_on_a_host_it_is_refused_and_nothing_is_touched() {
    let cluster = NetnsCluster::new();
    cluster.expect(&["apply", "--limit", "rs1"], 0);
    cluster.expect(&["destroy", "--limit", "rs1"], 0);
    let before = cluster.photograph();
    let lock = std::fs::OpenOptions::new().write(true).open(cluster.state("rs1").join("lock"));
    let lock = Flock::lock(lock.unwrap(), FlockArg::LockExclusiveNonblock).unwrap();
    let refused = cluster.expect(&["apply", "--limit", "rs1", "--wait", "0"], 5);
    assert!(refused.contains("rs1  failed: nothing on it was changed"), "{refused}");
    assert!(refused.contains("is under way"), "{refused}");
    assert_eq!(cluster.photograph(), before);
    // Who waits gets its turn.
    let waiting = cluster
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
    cluster.expect(&["apply", "--limit", "rs1"], 0);
}

fn runs_at_the_same_time_never_mix() {
    let cluster = NetnsCluster::with_vips(20);
    let before = cluster.photograph();
    let runs: Vec<_> = (0..6)
        .map(|_| cluster.command(&["apply", "--limit", "rs1"]).stdout(Stdio::piped()).spawn())
        .collect();
    for run in runs {
        let output = run.unwrap().wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // Done, too late, or refused because another was at it.
        assert!(matches!(output.status.code(), Some(0 | 5)), "{text}");
        assert!(!text.contains("already there"), "{text}");
    }
    let last = cluster.expect(&["apply", "--limit", "rs1"], 0);
    assert!(last.contains("0 changes made"), "one of six must have come through:\n{last}");
    cluster.expect(&["destroy", "--limit", "rs1"], 0);
    let after = cluster.photograph();
    assert!(before == after, "destroy left a difference:\n{}", difference(&before, &after));
}

fn an_agent_killed_half_way_is_undone_and_where_that_is_kept_one_more_apply_finishes() {
    const VIPS: usize = 200;
    let cluster = NetnsCluster::with_vips(VIPS);
    let before = cluster.photograph();
    let same = |what: &str| {
        let after = cluster.photograph();
        assert!(before == after, "{what} left a difference:\n{}", difference(&before, &after));
    };
    let undone = caught(&cluster, &["apply", "--limit", "rs1"], |_| true);
    assert!(undone.contains("done, and undone again"), "{undone}");
    assert!(undone.contains("every host that took part is as it was before"), "{undone}");
    same("undoing");
    assert!(!cluster.receipt("rs1").exists());

    let half_way = |cluster: &NetnsCluster| (1..VIPS).contains(&cluster.vips("rs1"));
    let keep = ["apply", "--limit", "rs1", "--on-error", "keep"];
    let kept = caught(&cluster, &keep, half_way);
    assert!(kept.contains("NOT KNOWN whether done"), "{kept}");
    assert!(kept.contains("left unfinished on rs1"), "{kept}");
    assert!(kept.contains("to go back: `lvsprov rollback`"), "{kept}");
    let plan = cluster.expect(&["plan", "--limit", "rs1"], 4);
    assert!(plan.contains(&format!("{} of ", cluster.vips("rs1") + 2)), "{plan}");
    assert!(plan.contains("`lvsprov rollback` undoes it"), "{plan}");
    cluster.expect(&["apply", "--limit", "rs1"], 0);
    assert_eq!(cluster.vips("rs1"), VIPS);
    cluster.expect(&["destroy", "--limit", "rs1"], 0);
    same("destroy");

    caught(&cluster, &keep, half_way);
    let dry = cluster.expect(&["rollback", "--limit", "rs1", "--dry-run"], 0);
    assert!(dry.contains("would be undone"), "{dry}");
    assert!(half_way(&cluster), "a dry run changed something");
    let back = cluster.expect(&["rollback", "--limit", "rs1"], 0);
    assert!(back.contains("rs1  undone: it is as it was before"), "{back}");
    same("rollback");
    let nothing = cluster.expect(&["rollback", "--limit", "rs1"], 0);
    assert!(nothing.contains("nothing is unfinished"), "{nothing}");
}

/// What a command says whose agent was killed at work, and which left what `fits`.
fn caught(
    cluster: &NetnsCluster,
    command: &[&str],
    fits: impl Fn(&NetnsCluster) -> bool,
) -> String {
    let text = (0..5).find_map(|_| {
        let text = killed_half_way(cluster, command).filter(|_| fits(cluster));
        // It was through before the signal came, or looked at the host already: once more from the
        // start.
        if text.is_none() {
            cluster.expect(&["destroy", "--limit", "rs1"], 0);
        }
        text
    });
    text.unwrap_or_else(|| panic!("the agent was never caught at work"))
}

fn a_change_is_kept_when_the_operator_says_so_and_undone_when_not() {
    let cluster = NetnsCluster::new();
    let before = cluster.photograph();
    let within = speed::seconds(300) + "s";
    let manual =
        ["apply", "--limit", "rs1,rs2", "--confirm", "manual", "--confirm-within", within.as_str()];
    let start = || {
        let mut command = cluster.command(&manual);
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
    assert!(cluster.addresses("rs2").contains(VIP));
    no.stdin.take().unwrap().write_all(b"no\n").unwrap();
    let text = end(no, 5);
    assert!(text.contains("because the operator answered no"), "{text}");
    assert_eq!(cluster.photograph(), before);

    let interrupted = start();
    kill(Pid::from_raw(interrupted.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let text = end(interrupted, 5);
    assert!(text.contains("because it was interrupted"), "{text}");
    assert_eq!(cluster.photograph(), before);

    let elsewhere = start();
    let confirmed = cluster.expect(&["confirm", "--limit", "rs1,rs2"], 0);
    assert!(confirmed.contains("rs1, rs2  kept, and closed"), "{confirmed}");
    let text = end(elsewhere, 0);
    assert!(text.contains("6 changes made"), "{text}");
    cluster.expect(&["plan", "--limit", "rs1,rs2"], 0);
    cluster.expect(&["confirm", "--limit", "rs1,rs2"], 0);
    cluster.expect(&["destroy"], 0);
    cluster.expect(&["confirm", "--limit", "rs1,rs2"], 4);

    let mut yes = start();
    yes.stdin.take().unwrap().write_all(b"yes\n").unwrap();
    end(yes, 0);
    cluster.expect(&["destroy"], 0);
    assert_eq!(cluster.photograph(), before);
}

fn a_saved_plan_does_just_what_it_shows_and_nothing_once_the_hosts_have_moved_on() {
    let cluster = NetnsCluster::new();
    let before = cluster.photograph();
    let file = cluster.file.with_file_name("monday.plan");
    let path = file.to_str().unwrap();
    let limit = ["--limit", "rs1,rs2"];
    let save = |more: &[&str], code| {
        cluster.expect(&[&["plan", "--out", path][..], &limit, more].concat(), code)
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
        NetnsCluster::expect_of(&file, &["apply", "--adopt"], 2)
            .contains("--adopt is in the saved plan")
    );

    cluster.set("rs2", "net.ipv4.conf.all.arp_ignore", "2");
    let moved = cluster.photograph();
    let refused = NetnsCluster::expect_of(&file, &["apply"], 5);
    assert!(refused.contains("rs2\n    net.ipv4.conf.all.arp_ignore: 0 -> 2"), "{refused}");
    assert!(refused.contains(digits.unwrap()), "{refused}");
    assert_eq!(cluster.photograph(), moved, "something was touched");
    cluster.set("rs2", "net.ipv4.conf.all.arp_ignore", "0");

    let whole = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, whole.replace("arp_ignore", "arp_filter")).unwrap();
    let tampered = NetnsCluster::expect_of(&file, &["apply"], 1);
    assert!(tampered.contains("damaged") || tampered.contains("was changed after"), "{tampered}");
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    assert!(NetnsCluster::expect_of(&file, &["apply"], 1).contains("is a saved plan, but damaged"));
    assert_eq!(cluster.photograph(), before, "something was touched");

    std::fs::write(&file, &whole).unwrap();
    // The plan is whole in itself.
    std::fs::rename(&cluster.file, cluster.file.with_file_name("gone")).unwrap();
    let applied = NetnsCluster::expect_of(&file, &["apply"], 0);
    assert!(applied.contains("6 changes made"), "{applied}");
    std::fs::rename(cluster.file.with_file_name("gone"), &cluster.file).unwrap();
    let late = NetnsCluster::expect_of(&file, &["apply"], 5);
    assert!(late.contains("no longer to do: "), "{late}");
    cluster.expect(&["destroy"], 0);
    assert_eq!(cluster.photograph(), before);
}

/// A pipe gives its text once, and that is planned and saved.
fn a_plan_of_a_pipe_is_saved_with_the_text_that_came_through_it() {
    let cluster = NetnsCluster::new();
    let saved = cluster.file.with_file_name("piped.plan");
    let path = saved.to_str().unwrap();
    let arguments = ["plan", "--out", path, "--limit", "rs1,rs2"];
    let mut plan = NetnsCluster::command_of(Path::new("/dev/stdin"), &arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text = std::fs::read_to_string(&cluster.file).unwrap();
    plan.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = plan.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    let document: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&saved).unwrap()).unwrap();
    assert_eq!(document["plan"]["topology"], text);
    let applied = NetnsCluster::expect_of(&saved, &["apply"], 0);
    assert!(applied.contains("6 changes made"), "{applied}");
    cluster.expect(&["destroy"], 0);
}

/// One document on standard output, whatever becomes of saving it.
fn a_plan_that_cannot_be_saved_is_shown_all_the_same() {
    let cluster = NetnsCluster::new();
    let plan = |file: &Path, limit: &str| {
        let out = file.to_str().unwrap();
        let arguments = ["plan", "--format", "json", "--out", out, "--limit", limit];
        let output = cluster.command(&arguments).output().unwrap();
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!file.exists());
        (document["schema"].clone(), output.status.code(), said)
    };
    let file = cluster.file.with_file_name("never.plan");
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
fn killed_half_way(cluster: &NetnsCluster, command: &[&str]) -> Option<String> {
    let apply =
        cluster.command(command).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + speed::patience();
    while !cluster.receipt("rs1").exists() || cluster.vips("rs1") == 0 {
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

fn where_no_receipt_can_be_kept_nothing_is_touched() {
    let cluster = NetnsCluster::new();
    let before = cluster.photograph();
    for (mount, cure) in [("ro", "read-only"), ("size=4k", "make room")] {
        let text = cluster.on_a_bad_disk("rs1", mount, &["apply", "--limit", "rs1"], 5);
        assert!(text.contains("rs1  failed: nothing on it was changed"), "{mount}:\n{text}");
        assert!(text.to_lowercase().contains(cure), "{mount}:\n{text}");
        assert!(text.contains("/var/lib/lvsprov"), "{mount}: which folder is not said:\n{text}");
        let after = cluster.photograph();
        assert!(before == after, "{mount}: touched:\n{}", difference(&before, &after));
    }
}

/// Two files that both need `arp_ignore` on one host: taking one away must not break the other.
fn what_two_topologies_share_is_given_back_by_the_last() {
    let cluster = NetnsCluster::new();
    let before = cluster.photograph();
    let other = cluster.another("other", "172.25.7.201");
    cluster.expect(&["apply", "--limit", "rs1"], 0);
    NetnsCluster::expect_of(&other, &["apply", "--limit", "rs1"], 0);
    // The older goes first: what the younger needs stays, and the younger gives back what was here first.
    let plan = cluster.expect(&["destroy", "--dry-run", "--limit", "rs1"], 0);
    assert!(plan.contains("because the topology other has it too: net.ipv4.conf.all"), "{plan}");
    cluster.expect(&["destroy", "--limit", "rs1"], 0);
    assert!(!cluster.receipt("rs1").exists() && cluster.vips("rs1") == 0);
    assert_eq!(cluster.sysctl("rs1", "net.ipv4.conf.all.arp_ignore"), "1");
    NetnsCluster::expect_of(&other, &["plan", "--limit", "rs1"], 0);
    NetnsCluster::expect_of(&other, &["destroy", "--limit", "rs1"], 0);
    let after = cluster.photograph();
    assert!(before == after, "destroy left a difference:\n{}", difference(&before, &after));

    cluster.expect(&["apply", "--limit", "rs1"], 0);
    NetnsCluster::expect_of(&other, &["apply", "--limit", "rs1"], 0);
    // Drift of what both have is mended by either.
    cluster.set("rs1", "net.ipv4.conf.all.arp_ignore", "0");
    cluster.expect(&["apply", "--limit", "rs1"], 0);
    NetnsCluster::expect_of(&other, &["destroy", "--limit", "rs1"], 0);
    assert_eq!(cluster.sysctl("rs1", "net.ipv4.conf.all.arp_ignore"), "1");
    cluster.expect(&["destroy", "--limit", "rs1"], 0);
    let after = cluster.photograph();
    assert!(before == after, "destroy left a difference:\n{}", difference(&before, &after));
}

/// Wherever the agent is killed while one of two topologies goes, what was here first is not forgotten; and
/// while that is unfinished the other does not go.
fn killed_anywhere_what_two_topologies_share_is_given_back_by_the_last() {
    let cluster = NetnsCluster::new();
    let before = cluster.photograph();
    let other = cluster.another("other", "172.25.7.201");
    let fault = cluster.file.with_file_name("fault");
    for point in ["prepare", "journal", "prepared", "step 1", "close", "receipt", "closed"] {
        cluster.expect(&["apply", "--limit", "rs1"], 0);
        NetnsCluster::expect_of(&other, &["apply", "--limit", "rs1"], 0);
        std::fs::write(&fault, format!("{point} kill\n")).unwrap();
        let mut destroy = cluster.command(&["destroy", "--limit", "rs1", "--on-error", "keep"]);
        let output = destroy.env("LVSPROV_FAULT", &fault).output().unwrap();
        std::fs::write(&fault, "").unwrap();
        // What it had only begun, or settled, the controller closes over another connection.
        let open = cluster.state("rs1").join("cluster-test/journal.json").exists();
        assert!(open || point != "step 1", "{point}: {output:?}");
        assert_eq!(cluster.sysctl("rs1", "net.ipv4.conf.all.arp_ignore"), "1", "{point}");
        if open {
            let refused = NetnsCluster::expect_of(&other, &["destroy", "--limit", "rs1"], 5);
            assert!(refused.contains("the topology cluster-test has transaction"), "{refused}");
            if point == "step 1" {
                cluster.expect(&["rollback", "--limit", "rs1"], 0);
                cluster.expect(&["plan", "--limit", "rs1"], 0);
            }
        }
        cluster.expect(&["destroy", "--limit", "rs1"], 0);
        assert_eq!(cluster.sysctl("rs1", "net.ipv4.conf.all.arp_ignore"), "1", "{point}");
        NetnsCluster::expect_of(&other, &["destroy", "--limit", "rs1"], 0);
        let after = cluster.photograph();
        assert!(before == after, "{point} left a difference:\n{}", difference(&before, &after));
    }
}

/// Another topology's receipt that cannot be read stops what may be its own, and no rollback.
fn an_unreadable_receipt_of_another_topology_is_in_the_way_only_where_it_matters() {
    let cluster = NetnsCluster::new();
    let before = cluster.photograph();
    cluster.expect(&["apply", "--limit", "rs1", "--on-error", "keep"], 0);
    let theirs = cluster.state("rs1").join("other");
    std::fs::create_dir(&theirs).unwrap();
    let later = r#"{"version":99,"topology":"other","owned":{"who":"knows"}}"#;
    std::fs::write(theirs.join("receipt.json"), later).unwrap();
    std::fs::write(cluster.state("rs1").join("notes.txt"), "").unwrap();
    // Nothing to do: it is said, and in nobody's way.
    let plan = cluster.expect(&["plan", "--limit", "rs1"], 0);
    assert!(plan.contains("what the topology other owns on this host cannot be read"), "{plan}");
    assert!(plan.contains("was written by a later lvsprov: it has format 99"), "{plan}");
    assert!(plan.contains("notes.txt (no topology's folder)"), "{plan}");
    // What is ours and not here any more cannot be the other's.
    cluster.ip("rs1", &["address", "del", &format!("{VIP}/32"), "dev", "lo"]);
    cluster.expect(&["apply", "--limit", "rs1"], 0);
    // What is given back may be the other's.
    let refused = cluster.expect(&["destroy", "--limit", "rs1"], 5);
    assert!(refused.contains("and it may be net.ipv4.conf.all"), "{refused}");
    assert!(refused.contains("use that version of lvsprov"), "{refused}");
    assert!(cluster.addresses("rs1").contains(VIP), "half a destroy was done");
    std::fs::rename(&theirs, cluster.state("rs1").join(".away")).unwrap();
    cluster.expect(&["destroy", "--limit", "rs1"], 0);
    assert_eq!(cluster.photograph(), before);

    // A rollback asks nothing of it.
    let fault = cluster.file.with_file_name("fault");
    std::fs::write(&fault, "step 2 kill\n").unwrap();
    let mut apply = cluster.command(&["apply", "--limit", "rs1", "--on-error", "keep"]);
    apply.env("LVSPROV_FAULT", &fault).output().unwrap();
    assert_ne!(cluster.photograph(), before);
    std::fs::rename(cluster.state("rs1").join(".away"), &theirs).unwrap();
    cluster.expect(&["rollback", "--limit", "rs1"], 0);
    assert_eq!(cluster.photograph(), before);
    // A first apply would take what may be the other's.
    let refused = cluster.expect(&["apply", "--limit", "rs1"], 5);
    assert!(
        refused.contains("what the topology other owns on this host cannot be read"),
        "{refused}"
    );
}

fn every_command_says_one_json_document_with_a_schema() {
    let cluster = NetnsCluster::new();
    let folder = cluster.file.parent().unwrap();
    let bad = folder.join("bad.yaml");
    std::fs::write(&bad, "version: 1\n").unwrap();
    let binary = folder.join("binary.yaml");
    std::fs::write(&binary, [0xff, 0xfe, 0x00]).unwrap();
    let huge = folder.join("huge.yaml");
    std::fs::write(&huge, vec![b'#'; 5_000_000]).unwrap();
    let good = cluster.file.as_path();
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
        let output = NetnsCluster::command_of(file, &arguments).output().unwrap();
        let shown = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{arguments:?} {}:\n{shown}", file.display());
        let document: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{arguments:?} {}: {error}\n{shown}", file.display()));
        assert_eq!(document["schema"], format!("lvsprov/{schema}/1"), "{arguments:?}");
        assert_ne!(schema == "error", document.get("error").is_none(), "{document}");
    }
}

fn in_a_pipe_there_is_neither_progress_nor_colour() {
    let cluster = NetnsCluster::new();
    for arguments in [&["check"][..], &["plan"], &["status"], &["destroy", "--dry-run"]] {
        let output = cluster.command(arguments).output().unwrap();
        assert!(!output.stdout.is_empty(), "{arguments:?}");
        assert!(!output.stdout.contains(&0x1b), "{arguments:?}: escape codes in a pipe");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
        let forced = cluster.command(arguments).env("CLICOLOR_FORCE", "1").output().unwrap();
        let coloured = forced.stdout.contains(&0x1b);
        assert_eq!(coloured, arguments != ["check"], "{arguments:?}: colours can be forced");
    }
}

fn a_full_disk_behind_standard_output_is_an_error_and_no_panic() {
    let cluster = NetnsCluster::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = cluster.command(&["apply", "--limit", "rs1"]).stdout(full).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write the result"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert!(cluster.addresses("rs1").contains(VIP), "what was done is done");
}
