//! Who has the VIP: machines that are not in the file, hosts of the file that keep it, and real servers, which never
//! announce it.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lvsprov::kernel::arp::ArpListener;
use lvsprov::kernel::namespace;
use lvsprov::kernel::sys::open_arp_socket;

use super::netns_cluster::{NetnsCluster, VIP};
use crate::support::cases::{Case, cases};
use crate::support::netns_host::eventually;

pub fn cases() -> Vec<Case> {
    cases![
        a_machine_that_is_not_in_the_file_keeps_the_director_from_the_vip,
        a_machine_that_answers_for_every_address_is_no_obstacle,
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

/// As the switch of some clouds does.
fn a_machine_that_answers_for_every_address_is_no_obstacle() {
    let cluster = cluster();
    let proxy: Vec<u8> = mac(&cluster, "sw", "br0")
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    let switch = std::fs::File::open(format!("/run/netns/{}", cluster.name("sw"))).unwrap();
    let socket = namespace::run_in(&switch, || {
        open_arp_socket(nix::net::if_::if_nametoindex("br0").unwrap()).unwrap()
    });
    let socket = socket.unwrap();
    let (stop, asked) = (AtomicBool::new(false), Mutex::new(BTreeSet::new()));
    let answer = || {
        let mut frame = [0; 128];
        while !stop.load(Ordering::Relaxed) {
            let Ok(_) = nix::unistd::read(&socket, &mut frame) else {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            let (sender, target) = (frame[22..32].to_vec(), frame[38..42].to_vec());
            // A request of another machine.
            if frame[21] == 1 && sender[..6] != proxy {
                asked.lock().unwrap().insert(target.clone());
                let header = [&sender[..6], &proxy, &frame[12..20], &[0, 2]].concat();
                let reply = [&header[..], &proxy, &target, &sender].concat();
                nix::unistd::write(&socket, &reply).unwrap();
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(answer);
        let plan = output(&cluster, &["plan", "--limit", "lvs"]);
        stop.store(true, Ordering::Relaxed);
        assert!(!plan.contains("another machine has 172"), "{plan}");
    });
    let vip: std::net::Ipv4Addr = VIP.parse().unwrap();
    let expected = [vip.octets(), [172, 25, 0, 0], [198, 19, 255, 251]].map(Vec::from);
    let asked = asked.into_inner().unwrap();
    assert!(expected.iter().all(|target| asked.contains(target)), "{asked:?}");
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
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(claims(), 0);
    // The listener would notice it.
    let arping = ["arping", "-q", "-U", "-c", "1", "-I", "eth0", "-s", VIP, VIP];
    let rs1 = cluster.name("rs1");
    let exec = [&["netns", "exec", &rs1][..], &arping].concat();
    let _ = std::process::Command::new("ip").args(exec).status();
    eventually("an announcement of a real server", || claims() > 0);
    cluster.expect(&["destroy", "--limit", "rs1,rs2"], 0);
}
