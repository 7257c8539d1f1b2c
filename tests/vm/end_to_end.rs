//! The commands as a user types them, against hosts in named network namespaces, judged by other
//! programs than ours: `ipvsadm -Sn`, `ip -j`, /proc/sys, `tcpdump` and `arping`.
//!
//! Needs a kernel with IPVS.
#![allow(clippy::format_push_string, clippy::format_collect, reason = "short texts in a test")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::cases::Case;

const LVSPROV: &str = env!("CARGO_BIN_EXE_lvsprov");

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("dr_is_applied_mended_and_taken_back", dr),
        Case::new("nat_is_applied_mended_and_taken_back", nat),
        Case::new("tun_is_applied_mended_and_taken_back", tun),
        Case::new("what_others_made_is_left_shown_adopted_and_given_back", foreign),
        Case::new("the_director_waits_for_a_real_server_that_is_not_there", waiting),
        Case::new("a_cluster_that_answers_nobody_is_undone_and_says_why", answers_nobody),
        Case::new("a_value_that_serves_is_kept_and_left", serving),
        Case::new("a_stateful_firewall_under_nat_is_refused_or_tracked", stateful_firewall),
        Case::new("without_a_client_that_is_reached_it_says_what_was_not_tried", no_client),
        Case::new(
            "a_vip_that_moves_is_announced_and_one_that_another_machine_has_is_refused",
            moves,
        ),
    ]
}

/// Hosts `client`, `lvs`, `rs1` and `rs2` on one bridge, each a named namespace with its own address.
pub(super) struct Cluster {
    folder: tempfile::TempDir,
    pub(super) file: PathBuf,
    hosts: Vec<&'static str>,
}

const ADDRESSES: [(&str, &str); 4] = [
    ("client", "172.25.7.250/24"),
    ("lvs", "172.25.7.2/24"),
    ("rs1", "172.25.7.3/24"),
    ("rs2", "172.25.7.4/24"),
];

impl Cluster {
    pub(super) fn new(services: &str, client: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("topology.yaml");
        let mut hosts = String::new();
        for (host, address) in ADDRESSES {
            let role = match host {
                "client" => "client",
                "lvs" => "director",
                _ => "real_server",
            };
            let address = if host == "client" { client } else { address };
            hosts.push_str(&format!(
                "  {host}: {{role: {role}, netns: {host}, interfaces: {{eth0: {address}}}}}\n"
            ));
        }
        let networks = "[172.25.7.0/24, 172.25.254.0/24]";
        let text = format!(
            "version: 1\nname: by-hand\nnetworks: {{lan: {networks}}}\nhosts:\n{hosts}services:\n{services}"
        );
        std::fs::write(&file, text).unwrap();
        let cluster = Self { folder, file, hosts: ADDRESSES.map(|(host, _)| host).to_vec() };
        Self::build(client);
        cluster
    }

    fn build(client: &str) {
        run("ip", &["netns", "add", "switch"]);
        run("ip", &["-n", "switch", "link", "add", "br0", "type", "bridge"]);
        run("ip", &["-n", "switch", "link", "set", "br0", "up"]);
        for (host, address) in ADDRESSES {
            let address = if host == "client" { client } else { address };
            run("ip", &["netns", "add", host]);
            // Its addresses come and go by themselves for a while.
            inside(host, "sysctl", &["-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
            let peer = ["peer", "name", "eth0", "netns", host];
            let veth = ["-n", "switch", "link", "add", host, "type", "veth"];
            run("ip", &[&veth[..], &peer[..]].concat());
            run("ip", &["-n", "switch", "link", "set", host, "master", "br0", "up"]);
            run("ip", &["-n", host, "link", "set", "lo", "up"]);
            run("ip", &["-n", host, "link", "set", "eth0", "up"]);
            run("ip", &["-n", host, "address", "add", address, "dev", "eth0"]);
            // As strict as distributions make it.
            inside(host, "sysctl", &["-qw", "net.ipv4.conf.all.rp_filter=1"]);
        }
    }

    fn lvsprov(&self, arguments: &[&str]) -> (i32, String) {
        let (command, rest) = arguments.split_first().unwrap();
        let output = Command::new(LVSPROV)
            .arg(command)
            .arg(&self.file)
            .args(rest)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap_or(-1), text)
    }

    pub(super) fn expect(&self, arguments: &[&str], code: i32) -> String {
        let (exit, text) = self.lvsprov(arguments);
        assert_eq!(exit, code, "{arguments:?} said:\n{text}");
        text
    }

    /// Everything about every host that other programs show.
    fn photograph(&self) -> String {
        let mut all = String::new();
        for host in &self.hosts {
            for show in [
                &["-n", host, "-j", "address", "show"][..],
                &["-n", host, "-j", "route", "show", "table", "all"],
                &["-n", host, "-j", "rule", "show"],
            ] {
                all.push_str(&format!("{host} {show:?}\n{}\n", without_noise(&run("ip", show))));
            }
            all.push_str(&inside(host, "sysctl", &["-a", "-r", r"^net\.ipv4\.(conf|ip_forward$)"]));
            all.push_str(&inside(host, "ipvsadm", &["-Sn"]));
        }
        all
    }

    /// Undoes one thing with another program; the plan names just `step`, apply does just that.
    fn mends(&self, host: &str, program: &str, arguments: &[&str], step: &str) {
        self.mends_in(1, host, program, arguments, step);
    }

    /// The same where `step` needs others around it: `count` in all.
    fn mends_in(&self, count: usize, host: &str, program: &str, arguments: &[&str], step: &str) {
        inside(host, program, arguments);
        let plan = self.expect(&["plan"], 4);
        assert!(plan.contains(step), "the plan does not say {step:?}:\n{plan}");
        let changes = if count == 1 { "1 change".to_owned() } else { format!("{count} changes") };
        assert!(plan.contains(&format!("{changes} to do")), "not {changes}:\n{plan}");
        let applied = self.expect(&["apply"], 0);
        assert!(applied.contains(&format!("{changes} made")), "{applied}");
        self.expect(&["plan"], 0);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for name in self.hosts.iter().chain(&["switch"]) {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
        assert!(self.folder.path().exists());
    }
}

/// Lifetimes count down; a device that was up once keeps its qdisc.
fn without_noise(json: &str) -> String {
    let mut value: serde_json::Value = serde_json::from_str(json).unwrap();
    for link in value.as_array_mut().unwrap() {
        link.as_object_mut().unwrap().remove("qdisc");
        for address in
            link.get_mut("addr_info").and_then(|a| a.as_array_mut()).into_iter().flatten()
        {
            let address = address.as_object_mut().unwrap();
            address.remove("valid_life_time");
            address.remove("preferred_life_time");
        }
    }
    format!("{value:#}")
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    checked(program, arguments, &output)
}

pub(super) fn inside(host: &str, program: &str, arguments: &[&str]) -> String {
    run("ip", &[&["netns", "exec", host, program], arguments].concat())
}

fn checked(program: &str, arguments: &[&str], output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {} {error}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn sysctl(host: &str, key: &str) -> String {
    inside(host, "sysctl", &["-n", key]).trim().to_owned()
}

pub(super) fn modules() {
    for module in ["ip_vs", "ip_vs_rr", "ip_vs_wrr", "ipip"] {
        run("modprobe", &[module]);
    }
}

/// A real server cannot be reached: the other gets ready, the director takes no request before both
/// are. On the way back the director goes first, and without it nothing is taken from a real server.
fn waiting() {
    modules();
    let services = "  - {vip: 172.25.7.200, port: 80, scheduler: rr, forward: dr, \
                    real_servers: [rs1, rs2]}\n";
    let cluster = Cluster::new(services, "172.25.7.250/24");
    let before = cluster.photograph();
    let text = std::fs::read_to_string(&cluster.file).unwrap();
    let without = |host: &str| {
        let gone = text.replace(&format!("netns: {host},"), "netns: not-there,");
        std::fs::write(&cluster.file, gone).unwrap();
    };

    without("rs2");
    let applied = cluster.expect(&["apply"], 5);
    let waits = "lvs  not attempted, because rs2 is not ready: it could not be reached";
    assert!(applied.contains(waits), "{applied}");
    assert!(applied.contains("rs1  3 steps done, verified"), "{applied}");
    assert_eq!(inside("lvs", "ipvsadm", &["-Sn"]), "");
    // The operator says so: it goes live without them, and the report tells.
    let limited = cluster.expect(&["apply", "--limit", "lvs"], 0);
    assert!(limited.contains("not looked at: rs1 (left out by --limit), rs2"), "{limited}");
    assert!(inside("lvs", "ipvsadm", &["-Sn"]).contains("172.25.7.4:80"));

    without("lvs");
    let live = cluster.photograph();
    let destroyed = cluster.expect(&["destroy"], 5);
    assert!(destroyed.contains("rs1  not attempted, because lvs may still send"), "{destroyed}");
    let after = cluster.photograph();
    assert!(live == after, "something was taken away:\n{}", difference(&live, &after));

    std::fs::write(&cluster.file, &text).unwrap();
    cluster.expect(&["destroy"], 0);
    let after = cluster.photograph();
    assert!(before == after, "destroy left a difference:\n{}", difference(&before, &after));
    receipts_gone(&cluster);
}

/// All that can be read back is as wanted, and no packet comes back.
fn answers_nobody() {
    modules();
    let services = "  - {vip: 172.25.7.200, port: 80, scheduler: rr, forward: dr, \
                    real_servers: [rs1, rs2]}\n";
    let cluster = Cluster::new(services, "172.25.7.250/24");
    let before = cluster.photograph();
    let undone = |why: &str| {
        // The rules can be read: it is refused beforehand.
        let refused = cluster.expect(&["apply"], 5);
        assert!(refused.contains("the nftables chain inet stale in"), "{refused}");
        let applied = cluster.expect(&["apply", "--allow-unanswered"], 5);
        let because = "because it is not true that client is answered by tcp 172.25.7.200:80: 0 of 1 \
                       requests answered; 1 failed: ";
        assert!(applied.contains(&format!("{because}{why}")), "{applied}");
        assert!(applied.contains("every host that took part is as it was before"), "{applied}");
        assert!(applied.contains("to keep it: `lvsprov apply --verify state`"), "{applied}");
        let after = cluster.photograph();
        assert!(before == after, "it was not undone:\n{}", difference(&before, &after));
        receipts_gone(&cluster);
    };
    // A firewall from before the cluster, on both real servers.
    let firewall = |verdict: &str| {
        for host in ["rs1", "rs2"] {
            inside(host, "nft", &["add table inet stale"]);
            inside(
                host,
                "nft",
                &["add chain inet stale in { type filter hook input priority 0; }"],
            );
            inside(host, "nft", &[&format!("add rule inet stale in tcp dport 80 {verdict}")]);
        }
    };
    let no_firewall = || {
        for host in ["rs1", "rs2"] {
            inside(host, "nft", &["delete table inet stale"]);
        }
    };
    firewall("drop");
    undone("timed out (nothing came back");
    no_firewall();
    firewall("reject");
    undone("rejected by 172.25.7.200 (ICMP: a firewall rejects it");
    no_firewall();
    let route = ["172.25.7.0/24", "dev", "eth0"];
    run("ip", &[&["-n", "client", "route", "del"], &route[..]].concat());
    let without = cluster.photograph();
    let unchanged = || {
        let after = cluster.photograph();
        assert!(without == after, "something was changed:\n{}", difference(&without, &after));
    };
    // The hosts show it beforehand, the file does not.
    cluster.expect(&["check"], 0);
    for command in ["plan", "apply"] {
        let refused = cluster.expect(&[command], 5);
        let why = "after this plan client gets no answer from tcp 172.25.7.200:80 by rs1: client has no \
                   route to 172.25.7.200";
        assert!(refused.contains(why), "{refused}");
        unchanged();
    }
    let walked = cluster.expect(&["explain", "--live"], 3);
    assert!(walked.contains("client has no route to 172.25.7.200"), "{walked}");
    cluster.expect(&["explain"], 0);
    let applied = cluster.expect(&["apply", "--allow-unanswered"], 5);
    assert!(applied.contains("no route (the client has no route to the VIP)"), "{applied}");
    unchanged();

    // The state alone is as wanted.
    let kept = cluster.expect(&["apply", "--verify", "state", "--allow-unanswered"], 0);
    let line = "not proven by requests: tcp 172.25.7.200:80 (--verify state sends none)";
    assert!(kept.contains(line), "{kept}");
    assert!(inside("lvs", "ipvsadm", &["-Sn"]).contains("172.25.7.200:80"));
    cluster.expect(&["verify"], 6);
    cluster.expect(&["destroy"], 0);
    let own = ["proto", "kernel", "scope", "link", "src", "172.25.7.250"];
    run("ip", &[&["-n", "client", "route", "add"], &route[..], &own].concat());
    let after = cluster.photograph();
    assert!(before == after, "destroy left a difference:\n{}", difference(&before, &after));
}

/// A stricter `arp_ignore`, and source validation that is off, from before the cluster.
fn serving() {
    modules();
    let services = "  - {vip: 172.25.7.200, port: 80, scheduler: rr, forward: dr, real_servers: [rs1, rs2]}\n  \
                    - {vip: 172.25.7.201, port: 80, scheduler: rr, forward: tun, real_servers: [rs2]}\n";
    let cluster = Cluster::new(services, "172.25.7.250/24");
    let arp_ignore = "net.ipv4.conf.all.arp_ignore";
    let set = |host: &str, key: &str, value: &str| {
        inside(host, "sysctl", &["-qw", &format!("{key}={value}")]);
    };
    set("rs1", arp_ignore, "2");
    set("rs2", arp_ignore, "8");
    for dev in ["all", "default", "eth0", "tunl0"] {
        set("rs2", &format!("net.ipv4.conf.{dev}.rp_filter"), "0");
    }
    let before = cluster.photograph();
    let plan = cluster.expect(&["plan"], 4);
    assert!(plan.contains("set net.ipv4.conf.all.arp_ignore: 8 -> 1"), "{plan}");
    assert_eq!(plan.matches("arp_ignore").count(), 1, "{plan}");
    assert!(!plan.contains("rp_filter"), "{plan}");
    // Requests pass, and only the director answers ARP.
    cluster.expect(&["apply"], 0);
    assert_eq!((sysctl("rs1", arp_ignore), sysctl("rs2", arp_ignore)), ("2".into(), "1".into()));
    cluster.expect(&["plan"], 0);
    // What serves is no drift on either, and what does not serve is.
    set("rs1", arp_ignore, "1");
    set("rs2", arp_ignore, "2");
    cluster.expect(&["plan"], 0);
    let lowered = [&format!("{arp_ignore}=0")[..]];
    let step = "set net.ipv4.conf.all.arp_ignore: 0 -> 1";
    cluster.mends("rs1", "sysctl", &[&["-qw"], &lowered[..]].concat(), step);
    let (all, strict) =
        ("net.ipv4.conf.all.rp_filter=1", "set net.ipv4.conf.tunl0.rp_filter: 0 -> 2");
    cluster.mends("rs2", "sysctl", &["-qw", all], strict);
    cluster.expect(&["destroy"], 0);
    assert_eq!((sysctl("rs1", arp_ignore), sysctl("rs2", arp_ignore)), ("0".into(), "8".into()));
    set("rs1", arp_ignore, "2");
    set("rs2", "net.ipv4.conf.all.rp_filter", "0");
    let after = cluster.photograph();
    assert!(before == after, "destroy left a difference:\n{}", difference(&before, &after));
    receipts_gone(&cluster);
}

/// What firewalld and ufw do: packets of no known connection are dropped. Under NAT those are the replies.
fn stateful_firewall() {
    modules();
    let services = "  - {vip: 172.25.254.100/24, port: 80, scheduler: rr, forward: nat, \
                    real_servers: [{host: rs1, port: 8080}, {host: rs2, port: 8080}]}\n";
    let cluster = Cluster::new(services, "172.25.254.1/24");
    let before = cluster.photograph();
    let firewalls: [&[&[&str]]; 2] = [
        &[
            &["nft", "add table inet old"],
            &["nft", "add chain inet old forward { type filter hook forward priority 0; }"],
            &["nft", "add chain inet old checked"],
            &["nft", "add rule inet old forward counter jump checked"],
            &["nft", "add rule inet old checked ct state invalid counter drop"],
        ],
        &[&["iptables", "-A", "FORWARD", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP"]],
    ];
    let chains = ["inet old checked", "ip filter FORWARD"];
    for (firewall, chain) in firewalls.into_iter().zip(chains) {
        for command in firewall {
            inside("lvs", command[0], &command[1..]);
        }
        let why = format!(
            "of the nftables chain {chain} (connection tracking calls it invalid: net.ipv4.vs.conntrack is 0)"
        );
        for command in ["plan", "apply"] {
            let refused = cluster.expect(&[command], 5);
            assert!(refused.contains(&why), "{refused}");
        }
        // The kernel agrees: without a listener a request that arrives is refused, and a reply that is dropped is silence.
        let undone = cluster.expect(&["apply", "--allow-unanswered"], 5);
        assert!(undone.contains("timed out (nothing came back"), "{undone}");
        let text = std::fs::read_to_string(&cluster.file).unwrap();
        let tracked = text.replace("netns: lvs,", "netns: lvs, ipvs: {settings: {conntrack: 1}},");
        std::fs::write(&cluster.file, tracked).unwrap();
        // Refused by the real server itself, through the director: the way works, and that is no reason to undo it.
        let applied = cluster.expect(&["apply"], 0);
        assert!(!applied.contains("timed out"), "{applied}");
        cluster.expect(&["destroy"], 0);
        std::fs::write(&cluster.file, text).unwrap();
        inside("lvs", "nft", &["flush ruleset"]);
    }
    let after = cluster.photograph();
    assert!(before == after, "destroy left a difference:\n{}", difference(&before, &after));
    // A rule for other packets hinders nothing.
    let some: [&[&str]; 3] = [
        &["add table inet old"],
        &["add chain inet old forward { type filter hook forward priority 0; }"],
        &["add rule inet old forward iifname eth9 ct state invalid drop"],
    ];
    for command in some {
        inside("lvs", "nft", command);
    }
    let plan = cluster.expect(&["plan"], 4);
    assert!(!plan.contains("chain inet old"), "{plan}");
    // Of one that is not read whole it is not known.
    inside("lvs", "nft", &["add rule inet old forward meta length < 1000 ct state invalid drop"]);
    let plan = cluster.expect(&["plan"], 4);
    assert!(plan.contains("under further conditions, which are not read"), "{plan}");
    assert!(plan.contains("not known whether packets of the services pass lvs"), "{plan}");
}

fn no_client() {
    modules();
    let services = "  - {vip: 172.25.7.200, port: 80, scheduler: rr, forward: dr, \
                    real_servers: [rs1, rs2]}\n";
    let cluster = Cluster::new(services, "172.25.7.250/24");
    let limited = cluster.expect(&["apply", "--limit", "lvs,rs1,rs2"], 0);
    let line = |why: &str| {
        format!(
            "not proven by requests: tcp 172.25.7.200:80 (no client can send requests: client {why})"
        )
    };
    assert!(limited.contains(&line("is left out by --limit")), "{limited}");
    cluster.expect(&["destroy"], 0);
    let text = std::fs::read_to_string(&cluster.file).unwrap();
    std::fs::write(&cluster.file, text.replace("netns: client, ", "")).unwrap();
    let applied = cluster.expect(&["apply"], 0);
    assert!(applied.contains(&line("has no `ssh`, `local` or `netns` in the file")), "{applied}");
    cluster.expect(&["destroy"], 0);
}

/// The second real server becomes the director of the VIP; then another machine has it.
fn moves() {
    modules();
    let services = "  - {vip: 172.25.7.200, port: 80, scheduler: rr, forward: dr, director: lvs, \
                    real_servers: [rs1]}\n";
    let cluster = Cluster::new(services, "172.25.7.250/24");
    let text = std::fs::read_to_string(&cluster.file).unwrap();
    let text = text.replace("rs2: {role: real_server", "rs2: {role: director");
    let directed_by = |director: &str| {
        let text = text.replace("director: lvs,", &format!("director: {director},"));
        std::fs::write(&cluster.file, text).unwrap();
    };
    let before = cluster.photograph();
    let client_sends_to = || {
        let entry = run("ip", &["-n", "client", "-j", "neigh", "show", "172.25.7.200"]);
        let entry: serde_json::Value = serde_json::from_str(&entry).unwrap();
        entry[0]["lladdr"].as_str().unwrap().to_owned()
    };
    directed_by("lvs");
    let plan = cluster.expect(&["plan", "--explain"], 4);
    assert!(plan.contains("announced on eth0 by gratuitous ARP"), "{plan}");
    // The client has asked for the VIP once its requests are refused.
    cluster.expect(&["apply"], 0);
    assert_eq!(client_sends_to(), hardware("lvs"));
    directed_by("rs2");
    // No request of the client makes it ask again.
    let moved = cluster.expect(&["apply", "--verify", "state", "--explain"], 0);
    assert!(moved.contains("announced on eth0 by gratuitous ARP"), "{moved}");
    assert!(!moved.contains("not announced"), "{moved}");
    assert_eq!(client_sends_to(), hardware("rs2"));
    let again = cluster.expect(&["apply"], 0);
    assert!(again.contains("0 changes made"), "{again}");
    cluster.expect(&["destroy"], 0);

    run("ip", &["-n", "switch", "address", "add", "172.25.7.200/32", "dev", "br0"]);
    let held = cluster.photograph();
    let switch = run("ip", &["-n", "switch", "-j", "link", "show", "br0"]);
    let switch: serde_json::Value = serde_json::from_str(&switch).unwrap();
    let mac = switch[0]["address"].as_str().unwrap();
    let found = format!("! another machine has 172.25.7.200: {mac} answers for it on eth0");
    for command in [&["plan"][..], &["apply", "--limit", "rs2"]] {
        let refused = cluster.expect(command, 5);
        assert!(refused.contains(&found), "{refused}");
        assert!(refused.contains("rs2  not touched: something stands in the way"), "{refused}");
    }
    let after = cluster.photograph();
    assert!(held == after, "something was touched:\n{}", difference(&held, &after));
    cluster.expect(&["apply", "--verify", "state", "--no-vip-probe"], 0);
    run("ip", &["-n", "switch", "address", "del", "172.25.7.200/32", "dev", "br0"]);
    cluster.expect(&["destroy"], 0);
    let after = cluster.photograph();
    assert!(before == after, "destroy left a difference:\n{}", difference(&before, &after));
    receipts_gone(&cluster);
}

/// The hardware address of a host.
fn hardware(host: &str) -> String {
    let links = run("ip", &["-n", host, "-j", "link", "show", "eth0"]);
    let links: serde_json::Value = serde_json::from_str(&links).unwrap();
    links[0]["address"].as_str().unwrap().to_owned()
}

fn receipts_gone(cluster: &Cluster) {
    for host in &cluster.hosts {
        let receipt = Path::new("/var/lib/lvsprov/netns").join(host).join("by-hand/receipt.json");
        assert!(!receipt.exists(), "{} is left", receipt.display());
    }
}

/// bare -> plan is dry -> apply -> again -> `judge` -> destroy -> as before.
fn life(cluster: &Cluster, judge: impl FnOnce(&Cluster)) {
    let before = cluster.photograph();
    cluster.expect(&["plan"], 4);
    let planned = cluster.photograph();
    assert!(before == planned, "plan changed something:\n{}", difference(&before, &planned));
    let applied = cluster.expect(&["apply"], 0);
    // Nothing listens: what a real server says to that came back through the VIP, whatever the method.
    assert!(applied.contains("warning: not true yet: client is answered by"), "{applied}");
    assert!(applied.contains("0 of 4 requests answered; 4 failed: refused (the way"), "{applied}");
    let again = cluster.expect(&["apply"], 0);
    assert!(again.contains("0 changes made"), "{again}");
    assert!(again.contains("(nothing was changed; `lvsprov verify` sends requests)"), "{again}");
    judge(cluster);
    cluster.expect(&["status"], 0);
    cluster.expect(&["destroy"], 0);
    let after = cluster.photograph();
    assert!(before == after, "destroy left a difference:\n{}", difference(&before, &after));
    receipts_gone(cluster);
    let nothing = cluster.expect(&["destroy"], 0);
    assert!(nothing.contains("0 changes taken back"), "{nothing}");
}

fn difference(before: &str, after: &str) -> String {
    let lines = before.lines().zip(after.lines()).filter(|(before, after)| before != after);
    lines.take(20).map(|(before, after)| format!("- {before}\n+ {after}\n")).collect()
}

/// `status --watch` shows new connections, packets and bytes as rates, as far as the kernel's counters go.
fn watched(cluster: &Cluster) {
    let mut watch = Command::new(LVSPROV)
        .arg("status")
        .arg(&cluster.file)
        .args(["--watch", "--format", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut look =
        || -> serde_json::Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let total = |look: &serde_json::Value| -> u64 {
        let servers = &look["status"]["hosts"]["lvs"]["services"][0]["real_servers"];
        servers.as_array().unwrap().iter().map(|it| it["counters"]["total"].as_u64().unwrap()).sum()
    };
    let first = look();
    assert_eq!(first["rates"], serde_json::json!([]), "{first}");
    // Nothing listens: each request is refused by a real server, and counted all the same.
    let (_, verified) = cluster.lvsprov(&["verify"]);
    let mut rate = 0.0;
    for _ in 0..30 {
        let next = look();
        let rates = next["rates"].as_array().unwrap();
        assert_eq!(rates.len(), 2, "{next}");
        rate = rates.iter().filter_map(|it| it["connections_per_s"].as_f64()).sum();
        if rate > 0.0 {
            assert!(total(&next) > total(&first), "{next}");
            let of = |name: &str| next["service_rates"][0][name].as_f64().unwrap();
            // Each connection has a packet at least, each packet an IP header; rates are rounded to tenths.
            assert!(of("packets_in_per_s") > rate - 0.2, "{next}");
            assert!(of("bytes_in_per_s") > 20.0 * (of("packets_in_per_s") - 0.1), "{next}");
            assert_eq!((of("packets_out_per_s"), of("bytes_out_per_s")), (0.0, 0.0), "{next}");
            break;
        }
    }
    assert!(rate > 0.0, "no request was counted: {verified}");
    let controller = nix::unistd::Pid::from_raw(i32::try_from(watch.id()).unwrap());
    nix::sys::signal::kill(controller, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(watch.wait().unwrap().code(), Some(0));
}

fn dr() {
    modules();
    let services = "  - {vip: 172.25.7.200, port: 80, scheduler: wrr, forward: dr, \
                    real_servers: [rs1, {host: rs2, weight: 3}]}\n";
    let cluster = Cluster::new(services, "172.25.7.250/24");
    life(&cluster, |cluster| {
        assert_eq!(
            inside("lvs", "ipvsadm", &["-Sn"]),
            "-A -t 172.25.7.200:80 -s wrr\n\
             -a -t 172.25.7.200:80 -r 172.25.7.3:80 -g -w 1\n\
             -a -t 172.25.7.200:80 -r 172.25.7.4:80 -g -w 3\n"
        );
        for host in ["rs1", "rs2"] {
            let lo: serde_json::Value = serde_json::from_str(&run(
                "ip",
                &["-n", host, "-j", "-4", "address", "show", "lo"],
            ))
            .unwrap();
            let vip = &lo[0]["addr_info"][1];
            assert_eq!(
                (&vip["local"], &vip["prefixlen"], &vip["scope"], &vip["label"]),
                (&"172.25.7.200".into(), &32.into(), &"host".into(), &"lo:0".into()),
                "{lo}"
            );
            assert_eq!(sysctl(host, "net.ipv4.conf.all.arp_ignore"), "1");
            assert_eq!(sysctl(host, "net.ipv4.conf.all.arp_announce"), "2");
            assert_eq!(sysctl(host, "net.ipv4.ip_forward"), "0");
        }
        assert_eq!(sysctl("lvs", "net.ipv4.ip_forward"), "0", "DR needs no forwarding");
        only_the_director_answers();
        watched(cluster);
        let (lvs, rs1) = ("lvs", "rs1");
        let vip = "172.25.7.200";
        cluster.mends(
            rs1,
            "sysctl",
            &["-qw", "net.ipv4.conf.all.arp_ignore=0"],
            "set net.ipv4.conf.all.arp_ignore: 0 -> 1",
        );
        cluster.mends(
            rs1,
            "ip",
            &["address", "del", "172.25.7.200/32", "dev", "lo"],
            "add address 172.25.7.200/32 to lo",
        );
        cluster.mends(
            lvs,
            "ipvsadm",
            &["-d", "-t", "172.25.7.200:80", "-r", "172.25.7.3"],
            "add real server 172.25.7.3:80",
        );
        cluster.mends(
            lvs,
            "ipvsadm",
            &["-e", "-t", "172.25.7.200:80", "-r", "172.25.7.4", "-g", "-w", "9"],
            "weight 9 -> dr weight 3",
        );
        // Two settings keep connections from being refused meanwhile, and are put back.
        cluster.mends_in(
            5,
            lvs,
            "ipvsadm",
            &["-E", "-t", "172.25.7.200:80", "-s", "rr"],
            "change service tcp 172.25.7.200:80: rr -> wrr",
        );
        cluster.mends(
            lvs,
            "ip",
            &["address", "del", &format!("{vip}/32"), "dev", "eth0"],
            "add address 172.25.7.200/32 to eth0",
        );
    });
}

/// arping and tcpdump, not our own eyes.
fn only_the_director_answers() {
    let director = inside("lvs", "cat", &["/sys/class/net/eth0/address"]);
    let director = director.trim();
    let mac = run("ip", &["-n", "lvs", "-j", "link", "show", "eth0"]);
    let mac: serde_json::Value = serde_json::from_str(&mac).unwrap();
    let mac = mac[0]["address"].as_str().unwrap_or(director).to_owned();
    let mut capture = Command::new("ip")
        .args(["netns", "exec", "client", "tcpdump", "-i", "eth0", "-n", "-e", "-l"])
        .args(["--immediate-mode", "arp", "and", "arp[6:2]", "=", "2"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // What is answered before it listens it does not see.
    let mut notes = BufReader::new(capture.stderr.take().unwrap()).lines();
    assert!(notes.any(|line| line.unwrap().contains("listening on")), "tcpdump does not listen");
    let output = Command::new("ip")
        .args([
            "netns",
            "exec",
            "client",
            "arping",
            "-I",
            "eth0",
            "-c",
            "4",
            "-w",
            "10",
            "172.25.7.200",
        ])
        .output()
        .unwrap();
    let heard = String::from_utf8_lossy(&output.stdout).to_lowercase();
    let answers: Vec<&str> = heard.lines().filter(|line| line.contains("reply from")).collect();
    assert!(!answers.is_empty(), "nobody answered arping: {heard}");
    assert!(answers.iter().all(|line| line.contains(&mac)), "not only {mac} answered: {heard}");
    let tcpdump = nix::unistd::Pid::from_raw(i32::try_from(capture.id()).unwrap());
    nix::sys::signal::kill(tcpdump, nix::sys::signal::Signal::SIGINT).unwrap();
    let captured = capture.wait_with_output().unwrap();
    let captured = String::from_utf8_lossy(&captured.stdout).to_lowercase();
    let replies: Vec<&str> =
        captured.lines().filter(|line| line.contains("172.25.7.200 is-at")).collect();
    assert!(!replies.is_empty(), "tcpdump saw no answer:\n{captured}");
    assert!(
        replies.iter().all(|line| line.contains(&format!("is-at {mac}"))),
        "tcpdump saw another than {mac} answer:\n{captured}"
    );
}

fn nat() {
    modules();
    let services = "  - {vip: 172.25.254.100/24, port: 80, scheduler: rr, forward: nat, \
                    real_servers: [{host: rs1, port: 8080}, {host: rs2, port: 8080}]}\n";
    let cluster = Cluster::new(services, "172.25.254.1/24");
    // Somebody's own default route, which is to be back afterwards, metric and all.
    run("ip", &["-n", "rs1", "route", "add", "default", "via", "172.25.7.9", "metric", "50"]);
    life(&cluster, |cluster| {
        assert_eq!(
            inside("lvs", "ipvsadm", &["-Sn"]),
            "-A -t 172.25.254.100:80 -s rr\n\
             -a -t 172.25.254.100:80 -r 172.25.7.3:8080 -m -w 1\n\
             -a -t 172.25.254.100:80 -r 172.25.7.4:8080 -m -w 1\n"
        );
        assert_eq!(sysctl("lvs", "net.ipv4.ip_forward"), "1");
        assert_eq!(sysctl("lvs", "net.ipv4.conf.all.send_redirects"), "0");
        assert_eq!(sysctl("lvs", "net.ipv4.conf.eth0.send_redirects"), "0");
        let default = run("ip", &["-n", "rs1", "route", "show", "default"]);
        assert_eq!(default.trim(), "default via 172.25.7.2 dev eth0 proto static metric 50");
        cluster.mends(
            "rs2",
            "ip",
            &["route", "del", "default"],
            "add route default via 172.25.7.2 dev eth0",
        );
        cluster.mends(
            "lvs",
            "sysctl",
            &["-qw", "net.ipv4.ip_forward=0"],
            "set net.ipv4.ip_forward: 0 -> 1",
        );
        cluster.mends(
            "lvs",
            "sysctl",
            &["-qw", "net.ipv4.conf.eth0.send_redirects=1"],
            "set net.ipv4.conf.eth0.send_redirects: 1 -> 0",
        );
    });
    let default = run("ip", &["-n", "rs1", "route", "show", "default"]);
    assert_eq!(default.trim(), "default via 172.25.7.9 dev eth0 metric 50");
}

fn tun() {
    modules();
    let services = "  - {vip: 172.25.7.100, port: 80, forward: tun, real_servers: [rs1, rs2]}\n";
    let cluster = Cluster::new(services, "172.25.7.250/24");
    life(&cluster, |cluster| {
        assert_eq!(
            inside("lvs", "ipvsadm", &["-Sn"]),
            "-A -t 172.25.7.100:80 -s wlc\n\
             -a -t 172.25.7.100:80 -r 172.25.7.3:80 -i -w 1 --tun-type ipip\n\
             -a -t 172.25.7.100:80 -r 172.25.7.4:80 -i -w 1 --tun-type ipip\n"
        );
        for host in ["rs1", "rs2"] {
            let tunnel = run("ip", &["-n", host, "-4", "address", "show", "tunl0"]);
            assert!(tunnel.contains("inet 172.25.7.100/32"), "{tunnel}");
            assert!(tunnel.contains("<NOARP,UP"), "{tunnel}");
            assert_eq!(sysctl(host, "net.ipv4.conf.tunl0.rp_filter"), "2");
            assert_eq!(sysctl(host, "net.ipv4.conf.all.rp_filter"), "1", "it is left alone");
            assert_eq!(sysctl(host, "net.ipv4.conf.all.arp_ignore"), "1");
        }
        cluster.mends("rs1", "ip", &["link", "set", "tunl0", "down"], "set link tunl0: down -> up");
        cluster.mends(
            "rs1",
            "sysctl",
            &["-qw", "net.ipv4.conf.tunl0.rp_filter=1"],
            "set net.ipv4.conf.tunl0.rp_filter: 1 -> 2",
        );
    });
}

/// ipvsadm makes services; lvsprov leaves them, shows them, takes over the one it is told to, and with
/// an exclusive table removes the others until destroy.
fn foreign() {
    const OURS: &str =
        "-A -t 172.25.7.200:80 -s rr\n-a -t 172.25.7.200:80 -r 172.25.7.3:80 -g -w 1\n";
    const MAIL: &str = "-A -t 172.25.7.200:25 -s wrr -p 60\n\
                        -a -t 172.25.7.200:25 -r 172.25.7.9:25 -m -w 7\n";
    modules();
    let services = "  - {vip: 172.25.7.200, port: 80, scheduler: rr, forward: dr, \
                    real_servers: [rs1]}\n";
    let cluster = Cluster::new(services, "172.25.7.250/24");
    let text = std::fs::read_to_string(&cluster.file).unwrap();
    let ipvsadm = |arguments: &str| {
        inside("lvs", "ipvsadm", &arguments.split(' ').collect::<Vec<_>>());
    };
    let table = || inside("lvs", "ipvsadm", &["-Sn"]);
    ipvsadm("-A -t 172.25.7.200:25 -s wrr -p 60");
    ipvsadm("-a -t 172.25.7.200:25 -r 172.25.7.9:25 -m -w 7");
    let with_mail = cluster.photograph();

    // Another service: left, shown, there after destroy.
    let applied = cluster.expect(&["apply"], 0);
    let line = "foreign:  service  tcp 172.25.7.200:25  wrr persistent 60 s, 1 real server";
    assert!(applied.contains(line), "{applied}");
    assert!(cluster.expect(&["plan"], 0).contains(line));
    assert!(cluster.expect(&["status"], 0).contains(line));
    let json: serde_json::Value = serde_json::from_str(&inside_json(&cluster, "status")).unwrap();
    assert_eq!(json["hosts"]["lvs"]["foreign"][0]["name"], "tcp 172.25.7.200:25", "{json:#}");
    assert_eq!(sorted(&table()), sorted(&format!("{OURS}{MAIL}")));
    cluster.expect(&["destroy"], 0);
    let after = cluster.photograph();
    assert!(with_mail == after, "destroy left:\n{}", difference(&with_mail, &after));

    // The same service, made otherwise: in the way, until it is adopted.
    ipvsadm("-A -t 172.25.7.200:80 -s wlc");
    ipvsadm("-a -t 172.25.7.200:80 -r 172.25.7.8:80 -g");
    let refused = cluster.expect(&["apply"], 5);
    assert!(
        refused.contains("it is wlc, not rr; 172.25.7.3:80 is missing; 172.25.7.8:80"),
        "{refused}"
    );
    assert!(refused.contains("--adopt"), "{refused}");
    assert!(table().contains("-A -t 172.25.7.200:80 -s wlc"), "it was touched:\n{}", table());
    cluster.expect(&["plan", "--adopt"], 4);
    cluster.expect(&["apply", "--adopt"], 0);
    assert_eq!(sorted(&table()), sorted(&format!("{OURS}{MAIL}")));
    cluster.expect(&["plan"], 0);
    cluster.expect(&["destroy"], 0);
    let after = cluster.photograph();
    assert!(with_mail == after, "destroy left:\n{}", difference(&with_mail, &after));

    // The receipt is lost: nothing is to be done, nothing is removed, and the way out is said.
    cluster.expect(&["apply"], 0);
    std::fs::remove_dir_all("/var/lib/lvsprov/netns/lvs/by-hand").unwrap();
    let again = cluster.expect(&["apply"], 0);
    assert!(again.contains("0 changes made") && again.contains("apply --adopt"), "{again}");
    cluster.expect(&["destroy"], 0);
    assert_eq!(sorted(&table()), sorted(&format!("{OURS}{MAIL}")));
    cluster.expect(&["apply", "--adopt"], 0);
    cluster.expect(&["destroy"], 0);
    let after = cluster.photograph();
    assert!(with_mail == after, "destroy left:\n{}", difference(&with_mail, &after));

    // The table is ours as a whole.
    let exclusive = text.replace("version: 1\n", "version: 1\nipvs: exclusive\n");
    std::fs::write(&cluster.file, exclusive).unwrap();
    let plan = cluster.expect(&["plan", "--explain"], 4);
    assert!(plan.contains("remove service tcp 172.25.7.200:25"), "{plan}");
    assert!(plan.contains("destroy puts it back"), "{plan}");
    cluster.expect(&["apply"], 0);
    assert_eq!(table(), OURS);
    assert!(cluster.expect(&["apply"], 0).contains("0 changes made"));
    cluster.expect(&["destroy"], 0);
    let after = cluster.photograph();
    assert!(with_mail == after, "destroy left:\n{}", difference(&with_mail, &after));
    receipts_gone(&cluster);
}

/// The rules, in an order of our own: the kernel dumps its hash table.
fn sorted(rules: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = rules.lines().collect();
    lines.sort_unstable();
    lines
}

fn inside_json(cluster: &Cluster, command: &str) -> String {
    let output = Command::new(LVSPROV)
        .arg(command)
        .arg(&cluster.file)
        .args(["--format", "json"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
