//! A host that loses all that its kernel knows: its network namespace is deleted, and made anew as bare as a boot
//! leaves it. Then `lvsprov agent --boot` runs there, as it does on a real host.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use lvsprov::kernel::{namespace, who_has};

use super::netns_cluster::{NetnsCluster, VIP};
use crate::support::cases::{Case, cases};
use crate::support::netns_host::eventually;

pub fn cases() -> Vec<Case> {
    cases![
        a_restarted_real_server_is_as_before_and_never_answers_for_the_vip,
        what_is_unfinished_at_a_restart_comes_to_what_was_settled,
        after_a_restart_without_a_boot_unit_destroy_writes_no_values_of_before,
    ]
}

const BOTH: [&str; 2] = ["--limit", "rs1,rs2"];

fn expect(cluster: &NetnsCluster, command: &str, code: i32) -> String {
    cluster.expect(&[&[command][..], &BOTH].concat(), code)
}

/// [`NetnsCluster::photograph`] without what a new cable has anew: hardware addresses and the number of its other end.
fn photograph(cluster: &NetnsCluster) -> String {
    let anew = |line: &&str| {
        let line = line.trim_start();
        line.starts_with(r#""link_index""#)
            || line.starts_with(r#""address": "#) && line.contains(':')
    };
    let text = cluster.photograph();
    text.lines().filter(|line| !anew(line)).collect::<Vec<_>>().join("\n")
}

/// What a boot starts on a host; its words, and whether it succeeded.
fn boot(cluster: &NetnsCluster, host: &str) -> (String, bool) {
    let netns = Path::new("/run/netns").join(cluster.name(host));
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_lvsprov"))
        .args(["agent", "--boot", "--netns"])
        .arg(netns)
        .arg("--state-dir")
        .arg(cluster.state(host))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&stderr), "");
    (String::from_utf8(stdout).unwrap(), status.success())
}

/// The hardware addresses that answer ARP for `address` on the client's segment while `work` is done; asked again and
/// again.
fn answering(cluster: &NetnsCluster, address: &str, work: impl FnOnce()) -> BTreeSet<String> {
    let netns = File::open(Path::new("/run/netns").join(cluster.name("client"))).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            namespace::run_in(&netns, || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let dev = "eth0".parse().unwrap();
                let mut all = BTreeSet::new();
                loop {
                    let last = done.load(Ordering::Relaxed);
                    let wait = Duration::from_millis(20);
                    let asked = who_has(&dev, address.parse().unwrap(), wait);
                    all.extend(runtime.block_on(asked).unwrap());
                    if last {
                        break all;
                    }
                }
            })
            .unwrap()
        });
        work();
        done.store(true, Ordering::Relaxed);
        asking.join().unwrap()
    })
}

fn a_restarted_real_server_is_as_before_and_never_answers_for_the_vip() {
    let cluster = NetnsCluster::new();
    expect(&cluster, "apply", 0);
    let applied = photograph(&cluster);
    for host in ["rs1", "rs2"] {
        cluster.restart(host);
        // The boot sets another value than at the first apply.
        cluster.set(host, "net.ipv4.conf.all.arp_announce", "1");
    }
    let bare = photograph(&cluster);
    assert!(!bare.contains(VIP), "{bare}");
    let answers = answering(&cluster, VIP, || {
        for host in ["rs1", "rs2"] {
            assert_eq!(boot(&cluster, host), ("cluster-test: as settled, 3 steps\n".into(), true));
        }
    });
    assert_eq!(answers, BTreeSet::new(), "a real server answered for the VIP");
    assert_eq!(answering(&cluster, "172.25.7.3", || {}).len(), 1, "nothing answers at all");
    assert_eq!(photograph(&cluster), applied);
    expect(&cluster, "plan", 0);
    let receipt = std::fs::read(cluster.receipt("rs1")).unwrap();
    assert_eq!(boot(&cluster, "rs1").0, "cluster-test: as settled, nothing to do\n");
    assert_eq!(std::fs::read(cluster.receipt("rs1")).unwrap(), receipt);
    // The network is restarted under it, and only that.
    cluster.ip("rs1", &["address", "delete", &format!("{VIP}/32"), "dev", "lo"]);
    assert_eq!(boot(&cluster, "rs1"), ("cluster-test: as settled, 1 step\n".into(), true));
    assert_eq!(photograph(&cluster), applied);
    expect(&cluster, "destroy", 0);
    assert_eq!(photograph(&cluster), bare, "destroy put back values of before the restart");
    assert!(!cluster.state("rs1").join("cluster-test").exists());
    assert_eq!(boot(&cluster, "rs1"), (String::new(), true));
}

/// The director cannot take part here; of the real servers nothing is committed before both have voted.
fn what_is_unfinished_at_a_restart_comes_to_what_was_settled() {
    let cluster = NetnsCluster::new();
    let manual = cluster
        .command(&["apply", "--limit", "rs1,rs2", "--confirm", "manual"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn();
    let mut manual = manual.unwrap();
    eventually("both have the VIP", || {
        ["rs1", "rs2"].iter().all(|host| cluster.addresses(host).contains(VIP))
    });
    manual.kill().unwrap();
    manual.wait().unwrap();
    cluster.restart("rs1");
    let (text, fine) = boot(&cluster, "rs1");
    assert!(fine && text.contains("was not committed before the restart: undone"), "{text}");
    assert!(text.ends_with("cluster-test: nothing to make again\n"), "{text}");
    assert!(!cluster.addresses("rs1").contains(VIP));
    let status = cluster.expect(&["status", "--limit", "rs1,rs2"], 4);
    assert!(status.contains("was not confirmed before this host was restarted"), "{status}");
    cluster.expect(&["rollback", "--limit", "rs1,rs2"], 0);
    assert!(!cluster.addresses("rs2").contains(VIP));
    expect(&cluster, "apply", 0);
    expect(&cluster, "destroy", 0);
}

fn after_a_restart_without_a_boot_unit_destroy_writes_no_values_of_before() {
    let cluster = NetnsCluster::new();
    expect(&cluster, "apply", 0);
    let applied = photograph(&cluster);
    cluster.restart("rs1");
    cluster.set("rs1", "net.ipv4.conf.all.arp_announce", "1");
    let plan = expect(&cluster, "plan", 4);
    assert!(plan.contains("net.ipv4.conf.all.arp_announce"), "{plan}");
    expect(&cluster, "apply", 0);
    assert_eq!(photograph(&cluster), applied);
    expect(&cluster, "destroy", 0);
    assert_eq!(cluster.sysctl("rs1", "net.ipv4.conf.all.arp_announce"), "1");
}
