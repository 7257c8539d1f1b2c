//! A host that looks for drift by itself, as its timer has it do: `lvsprov agent --drift` in its namespace.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::netns_cluster::{NetnsCluster, VIP};
use crate::support::cases::{Case, cases};
use crate::support::netns_host::eventually;

pub fn cases() -> Vec<Case> {
    cases![
        drift_is_reported_or_mended_as_the_file_says_of_each_host,
        nothing_is_looked_at_while_a_transaction_is_open,
        a_host_that_is_not_to_look_does_not
    ]
}

const BOTH: [&str; 2] = ["--limit", "rs1,rs2"];

fn expect(cluster: &NetnsCluster, command: &str, code: i32) -> String {
    cluster.expect(&[&[command][..], &BOTH].concat(), code)
}

/// One look of a host; its words, and its exit code.
fn look(cluster: &NetnsCluster, host: &str, option: &str) -> (String, Option<i32>) {
    let netns = Path::new("/run/netns").join(cluster.name(host));
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_lvsprov"))
        .args(["agent", option, "--netns"])
        .arg(netns)
        .arg("--state-dir")
        .arg(cluster.state(host))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&stderr), "");
    (String::from_utf8(stdout).unwrap(), status.code())
}

/// The file with `line` at its end.
fn append(cluster: &NetnsCluster, line: &str) {
    let text = std::fs::read_to_string(&cluster.file).unwrap();
    std::fs::write(&cluster.file, format!("{text}{line}\n")).unwrap();
}

fn drift_is_reported_or_mended_as_the_file_says_of_each_host() {
    let cluster = NetnsCluster::new();
    append(&cluster, "drift: {do: mend, every: 600}");
    // One of them only reports.
    let text = std::fs::read_to_string(&cluster.file).unwrap();
    let (before, after) = text.split_once("  rs2: {").unwrap();
    std::fs::write(&cluster.file, format!("{before}  rs2: {{drift: report, {after}")).unwrap();
    expect(&cluster, "apply", 0);
    expect(&cluster, "plan", 0);
    for host in ["rs1", "rs2"] {
        let clean = "cluster-test: no drift\n".to_owned();
        assert_eq!(look(&cluster, host, "--drift"), (clean, Some(0)));
        cluster.ip(host, &["address", "delete", &format!("{VIP}/32"), "dev", "lo"]);
        cluster.set(host, "net.ipv4.conf.all.arp_ignore", "0");
    }

    let (text, code) = look(&cluster, "rs1", "--drift");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("cluster-test: drift of 2 items: mended\n"), "{text}");
    assert_eq!(text.matches("\ncluster-test: drift: ").count(), 2, "{text}");
    assert!(cluster.addresses("rs1").contains(VIP));
    assert_eq!(cluster.sysctl("rs1", "net.ipv4.conf.all.arp_ignore"), "1");
    assert_eq!(look(&cluster, "rs1", "--drift").0, "cluster-test: no drift\n");

    let (text, code) = look(&cluster, "rs2", "--drift");
    assert_eq!(code, Some(4), "{text}");
    assert!(text.starts_with("cluster-test: drift of 2 items: left as it is (report)\n"), "{text}");
    assert!(!cluster.addresses("rs2").contains(VIP));
    let status = expect(&cluster, "status", 4);
    assert!(status.contains("own look for drift (mend): "), "{status}");
    let open =
        |line: &str| line.contains("drift of 2 items seen ") && line.ends_with(", still there");
    assert!(status.lines().any(open), "{status}");
    assert!(status.contains(", mended "), "{status}");
    let json = cluster.expect(&["status", "--limit", "rs1,rs2", "--format", "json"], 4);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let of = |host: &str| json["hosts"][host]["own_looks"].clone();
    assert_eq!(of("rs1")["action"], "mend");
    assert!(of("rs1")["found"]["mended_at"].is_u64(), "{}", of("rs1"));
    assert_eq!(of("rs2")["found"]["items"].as_array().unwrap().len(), 2);

    // By hand, whatever the file says.
    assert_eq!(look(&cluster, "rs2", "--drift=mend").1, Some(0));
    assert!(cluster.addresses("rs2").contains(VIP));

    expect(&cluster, "destroy", 0);
    assert!(!cluster.state("rs1").join("cluster-test").exists(), "the record is left");
    assert_eq!(look(&cluster, "rs1", "--drift"), (String::new(), Some(0)));
}

fn nothing_is_looked_at_while_a_transaction_is_open() {
    let cluster = NetnsCluster::new();
    append(&cluster, "drift: mend");
    expect(&cluster, "apply", 0);
    // Another topology waits for its operator: what differs may be its doing.
    let other = cluster.another("other", "172.25.8.99");
    let manual = Command::new(env!("CARGO_BIN_EXE_lvsprov"))
        .arg("apply")
        .arg(&other)
        .args(BOTH)
        .args(["--confirm", "manual"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn();
    let mut manual = manual.unwrap();
    eventually("rs1 has the other VIP", || cluster.addresses("rs1").contains("172.25.8.99"));
    cluster.ip("rs1", &["address", "delete", &format!("{VIP}/32"), "dev", "lo"]);
    let (text, code) = look(&cluster, "rs1", "--drift");
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("cluster-test: not looked at: "), "{text}");
    assert!(!cluster.addresses("rs1").contains(VIP));
    // The operator goes away: the transaction stays open, and undecided.
    manual.kill().unwrap();
    manual.wait().unwrap();
    let (text, _) = look(&cluster, "rs1", "--drift");
    assert!(text.contains("not looked at: a transaction of other is open"), "{text}");
    assert!(!cluster.addresses("rs1").contains(VIP));
    let rolled = Command::new(env!("CARGO_BIN_EXE_lvsprov"))
        .arg("rollback")
        .arg(&other)
        .args(BOTH)
        .output()
        .unwrap();
    assert!(rolled.status.success(), "{rolled:?}");
    let (text, code) = look(&cluster, "rs1", "--drift");
    assert_eq!(code, Some(0), "{text}");
    assert!(cluster.addresses("rs1").contains(VIP), "{text}");
    expect(&cluster, "destroy", 0);
}

fn a_host_that_is_not_to_look_does_not() {
    let cluster = NetnsCluster::new();
    expect(&cluster, "apply", 0);
    cluster.ip("rs1", &["address", "delete", &format!("{VIP}/32"), "dev", "lo"]);
    assert_eq!(look(&cluster, "rs1", "--drift"), (String::new(), Some(0)));
    // Turned on, the plan says what becomes of it; turned off again too.
    append(&cluster, "drift: report");
    let plan = expect(&cluster, "plan", 4);
    assert!(plan.contains("no timer looks for drift here"), "{plan}");
    expect(&cluster, "apply", 0);
    assert_eq!(look(&cluster, "rs1", "--drift").0, "cluster-test: no drift\n");
    assert!(cluster.state("rs1").join("cluster-test/drift.json").exists());
    let text = std::fs::read_to_string(&cluster.file).unwrap();
    std::fs::write(&cluster.file, text.replace("drift: report", "drift: off")).unwrap();
    expect(&cluster, "apply", 0);
    assert!(!cluster.state("rs1").join("cluster-test/drift.json").exists(), "the record is left");
    assert_eq!(look(&cluster, "rs1", "--drift").0, "");
    expect(&cluster, "destroy", 0);
}
