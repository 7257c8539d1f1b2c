//! Who has the VIP: machines that are not in the file, hosts of the file that keep it, and real servers, which never
//! announce it.

use lvsprov::kernel::arp::ArpListener;
use lvsprov::kernel::namespace;

use super::netns_cluster::{NetnsCluster, VIP};
use crate::support::cases::{Case, cases};
use crate::support::netns_host::eventually;

pub fn cases() -> Vec<Case> {
    cases![
        a_machine_that_is_not_in_the_file_keeps_the_director_from_the_vip,
        a_host_of_the_file_that_keeps_the_vip_is_named,
        real_servers_never_announce_the_vip
    ]
}

/// A cluster whose director is up.
fn cluster() -> NetnsCluster {
    let cluster = NetnsCluster::new();
    cluster.ip("lvs", &["link", "set", "eth0", "up"]);
    cluster
}

fn mac(cluster: &NetnsCluster, host: &str, dev: &str) -> String {
    let links = cluster.ip(host, &["-j", "link", "show", dev]);
    let links: serde_json::Value = serde_json::from_str(&links).unwrap();
    links[0]["address"].as_str().unwrap().to_owned()
}

/// What a command prints. Its exit code depends on whether this kernel has IPVS.
fn output(cluster: &NetnsCluster, arguments: &[&str]) -> String {
    let output = cluster.command(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The switch has the VIP: a machine on the segment that the file does not know.
fn a_machine_that_is_not_in_the_file_keeps_the_director_from_the_vip() {
    let cluster = cluster();
    let vip = format!("{VIP}/32");
    cluster.ip("sw", &["address", "add", &vip, "dev", "br0"]);
    let before = cluster.photograph();
    let found = format!(
        "! another machine has {VIP}: {} answers for it on eth0",
        mac(&cluster, "sw", "br0")
    );
    let plan = cluster.expect(&["plan"], 5);
    assert!(plan.contains(&found), "{plan}");
    assert!(plan.contains("why: no host of the file has this hardware address"), "{plan}");
    assert!(plan.contains("do:  take the address away from that machine"), "{plan}");
    let limited = cluster.expect(&["plan", "--limit", "lvs"], 5);
    assert!(limited.contains(&found), "{limited}");
    assert!(limited.contains("not observed: client, rs1, rs2"), "{limited}");
    let json = cluster.expect(&["plan", "--limit", "lvs", "--format", "json"], 5);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["hosts"]["lvs"]["status"], "obstructed");
    assert!(json["hosts"]["lvs"]["obstacles"].to_string().contains(&found[2..]), "{json:#}");
    let applied = cluster.expect(&["apply", "--limit", "lvs"], 5);
    assert!(applied.contains("lvs  not touched: something stands in the way"), "{applied}");
    assert!(applied.contains(&found), "{applied}");
    assert_eq!(cluster.photograph(), before, "something was touched");

    // The operator goes on.
    let unasked = output(&cluster, &["plan", "--no-vip-probe"]);
    assert!(!unasked.contains("another machine"), "{unasked}");
    // The machine has given it up.
    cluster.ip("sw", &["address", "del", &vip, "dev", "br0"]);
    let free = output(&cluster, &["plan"]);
    assert!(!free.contains("another machine"), "{free}");
    // The director has it: there is no question any more.
    cluster.ip("lvs", &["address", "add", &vip, "dev", "eth0"]);
    cluster.ip("sw", &["address", "add", &vip, "dev", "br0"]);
    let held = output(&cluster, &["plan"]);
    assert!(!held.contains("another machine"), "{held}");
}

fn a_host_of_the_file_that_keeps_the_vip_is_named() {
    let cluster = cluster();
    let vip = format!("{VIP}/32");
    cluster.ip("client", &["address", "add", &vip, "dev", "eth0"]);
    let plan = cluster.expect(&["plan"], 5);
    let found = format!(
        "! client has {VIP} too: {} answers for it on eth0",
        mac(&cluster, "client", "eth0")
    );
    assert!(plan.contains(&found), "{plan}");
    assert!(plan.contains(&format!("no step of this plan removes {vip}@eth0 there")), "{plan}");
    assert!(!plan.contains("another machine"), "{plan}");
    cluster.ip("client", &["address", "del", &vip, "dev", "eth0"]);

    // A real server says by itself that its VIP stands in the wrong place.
    cluster.ip("rs1", &["address", "add", &vip, "dev", "eth0"]);
    let plan = cluster.expect(&["plan"], 5);
    assert!(plan.contains(&format!("! the VIP is on this host already, as {vip}@eth0")), "{plan}");
    assert!(!plan.contains("rs1 has"), "{plan}");
    cluster.ip("rs1", &["address", "del", &vip, "dev", "eth0"]);

    // One that answers only until its ARP settings are made is no obstacle.
    cluster.ip("rs1", &["address", "add", &vip, "dev", "lo"]);
    let plan = output(&cluster, &["plan"]);
    assert!(!plan.contains("answers for it"), "{plan}");
}

fn real_servers_never_announce_the_vip() {
    let cluster = cluster();
    let switch = std::fs::File::open(format!("/run/netns/{}", cluster.name("sw"))).unwrap();
    let dev = "br0".parse().unwrap();
    let listener = namespace::run_in(&switch, || ArpListener::open(&dev)).unwrap().unwrap();
    let mut frames = Vec::new();
    let mut claims = || {
        frames.extend(listener.collect().unwrap());
        frames.iter().filter(|frame| frame.sender_ip.to_string() == VIP).count()
    };
    cluster.expect(&["apply", "--limit", "rs1,rs2"], 0);
    cluster.ip("rs2", &["address", "del", &format!("{VIP}/32"), "dev", "lo"]);
    cluster.expect(&["apply", "--limit", "rs1,rs2"], 0);
    // The third announcement would come within 2 seconds.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert_eq!(claims(), 0);
    // The listener would notice it.
    let arping = ["arping", "-q", "-U", "-c", "1", "-I", "eth0", "-s", VIP, VIP];
    let rs1 = cluster.name("rs1");
    let exec = [&["netns", "exec", &rs1][..], &arping].concat();
    let _ = std::process::Command::new("ip").args(exec).status();
    eventually("an announcement of a real server", || claims() > 0);
    cluster.expect(&["destroy", "--limit", "rs1,rs2"], 0);
}
