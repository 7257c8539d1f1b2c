//! `doctor` on clusters that are broken in one place, with a real kernel and real requests: it names what was broken, and what
//! it says mends it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use super::end_to_end::{Cluster, inside, modules};
use crate::support::cases::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases![direct_routing_is_diagnosed, nat_is_diagnosed]
}

/// Answers every connection to `port` in a namespace, on all addresses, until it is dropped.
struct Listener {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    fn start(host: &'static str, port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let (ready, listening) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let namespace = File::open(format!("/run/netns/{host}")).unwrap();
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
            listener.set_nonblocking(true).unwrap();
            ready.send(()).unwrap();
            while !stopped.load(Ordering::Relaxed) {
                let Ok((mut client, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                };
                client.set_nonblocking(false).unwrap();
                client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                // A client that is gone has its answer, or wants none.
                let _ = client.read(&mut [0; 512]);
                let _ = client.write_all(format!("{host}\n").as_bytes());
            }
        });
        listening.recv().unwrap();
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Commands that break a host in one place, and what `doctor` then says.
struct Broken {
    host: &'static str,
    /// Breaks it.
    by: &'static [&'static [&'static str]],
    /// Each stands in the report.
    named: &'static [&'static str],
    /// Mends it; empty: `lvsprov apply`, which the report must name.
    mended_by: &'static [&'static [&'static str]],
}

impl Broken {
    fn is_diagnosed(&self, cluster: &Cluster) {
        let Self { host, by, named, mended_by } = self;
        for command in *by {
            inside(host, command[0], &command[1..]);
        }
        let report = cluster.expect(&["doctor"], 6);
        for text in *named {
            assert!(report.contains(text), "{host} {by:?}: {text:?} is not named:\n{report}");
        }
        if mended_by.is_empty() {
            let command = format!("lvsprov apply {}", cluster.file.display());
            assert!(report.contains(&command), "{host} {by:?}:\n{report}");
            cluster.expect(&["apply"], 0);
        }
        for command in *mended_by {
            inside(host, command[0], &command[1..]);
        }
        let report = cluster.expect(&["doctor"], 0);
        assert!(report.contains("every request is answered"), "{host} {by:?}:\n{report}");
    }
}

/// Firewalls in the way of direct routing.
fn firewalls() -> [Broken; 4] {
    [
        // What the walk cannot judge: which side of IPVS it is on is all that can be known, and whose rules may do it.
        Broken {
            host: "lvs",
            by: &[
                &["nft", "add table inet old"],
                &["nft", "add chain inet old in { type filter hook input priority -300; }"],
                &["nft", "add rule inet old in tcp dport 80 meta length < 1000 drop"],
            ],
            named: &[
                "requests do not reach IPVS on lvs",
                "not known whether packets pass lvs: the nftables chain inet old in: the rule with handle ",
                "look at the firewalls of lvs (inet old)",
                "rs1 answers itself",
            ],
            mended_by: &[&["nft", "delete table inet old"]],
        },
        Broken {
            host: "lvs",
            by: &[
                &["nft", "add table inet old"],
                &[
                    "nft",
                    "add chain inet old in { type filter hook input priority 0; policy drop; }",
                ],
                &["nft", "add rule inet old in tcp dport 22 accept"],
            ],
            named: &[
                "lvs drops tcp to 172.25.7.200 port 80 from 172.25.7.250 at the hook input: the policy of the nftables \
                 chain inet old in",
                "accept tcp to 172.25.7.200 port 80 from 172.25.7.250 in the nftables chain inet old in of lvs before that",
            ],
            mended_by: &[&[
                "nft",
                "add rule inet old in ip daddr 172.25.7.200 tcp dport 80 accept",
            ]],
        },
        Broken {
            host: "rs1",
            by: &[&[
                "iptables",
                "-A",
                "INPUT",
                "-p",
                "tcp",
                "-m",
                "multiport",
                "--dports",
                "80,443",
                "-j",
                "REJECT",
            ]],
            named: &[
                "rs1 drops tcp to 172.25.7.200 port 80 from 172.25.7.250 at the hook input: the rule with handle ",
                "of the nftables chain ip filter INPUT",
            ],
            mended_by: &[&["iptables", "-F", "INPUT"]],
        },
        Broken {
            host: "rs2",
            by: &[
                &["nft", "add table inet old"],
                &["nft", "add chain inet old out { type filter hook output priority 0; }"],
                &["nft", "add rule inet old out oifname eth0 tcp sport 80 drop"],
            ],
            named: &[
                "rs2 drops tcp from 172.25.7.200 port 80 to 172.25.7.250 at the hook output: the rule with handle ",
                "2 requests answered",
                "of the nftables chain inet old out",
            ],
            mended_by: &[&["nft", "delete table inet old"]],
        },
    ]
}

fn direct_routing_is_diagnosed() {
    modules();
    let services =
        "  - {vip: 172.25.7.200, port: 80, scheduler: rr, forward: dr, real_servers: [rs1, rs2]}\n";
    let cluster = Cluster::new(services, "172.25.7.250/24");
    let _rs1 = Listener::start("rs1", 80);
    let rs2 = Listener::start("rs2", 80);
    let bare = cluster.expect(&["doctor"], 6);
    assert!(bare.contains("lvsprov apply "), "{bare}");
    cluster.expect(&["apply"], 0);
    let well = cluster.expect(&["doctor"], 0);
    assert!(well.contains("client -> tcp 172.25.7.200:80: answered"), "{well}");
    for broken in [
        Broken {
            host: "lvs",
            by: &[&["ipvsadm", "-C"]],
            named: &["lvs has no IPVS service for 172.25.7.200", "add service tcp 172.25.7.200:80"],
            mended_by: &[],
        },
        // The kernel agrees, and its counter of packets for other hosts shows it.
        Broken {
            host: "rs1",
            by: &[&["ip", "address", "del", "172.25.7.200/32", "dev", "lo"]],
            named: &[
                "rs1 does not forward what comes in on eth0 for 172.25.7.200",
                "the kernel agrees: on rs1 `ip route get 172.25.7.200 from 172.25.7.250 iif eth0`: EHOSTUNREACH",
                "on rs1 Ip InAddrErrors rose by ",
                "add address 172.25.7.200/32 to lo",
            ],
            mended_by: &[],
        },
        // Nothing that lvsprov sets: a rule of an operator.
        Broken {
            host: "rs2",
            by: &[&["ip", "rule", "add", "pref", "5", "to", "172.25.7.250", "prohibit"]],
            named: &[
                "rs2 drops it on eth0: strict source validation",
                "a route or rule refuses the source 172.25.7.250",
                "the kernel agrees: on rs2 `ip route get 172.25.7.200 from 172.25.7.250 iif eth0`: EXDEV",
                "on rs2 TcpExt IPReversePathFilter rose by ",
                "remove the route or rule of rs2",
            ],
            mended_by: &[&["ip", "rule", "del", "pref", "5"]],
        },
        Broken {
            host: "rs1",
            by: &[&["sysctl", "-qw", "net.ipv4.conf.all.arp_ignore=0"]],
            named: &["rs1", "set net.ipv4.conf.all.arp_ignore: 0 -> 1"],
            mended_by: &[],
        },
    ]
    .into_iter()
    .chain(firewalls()) {
        broken.is_diagnosed(&cluster);
    }
    drop(rs2);
    let report = cluster.expect(&["doctor"], 6);
    assert!(report.contains("no process on rs2 listens on tcp 172.25.7.200:80"), "{report}");
    assert!(!report.contains("listens on tcp 172.25.7.200:80 of rs1"), "{report}");
    cluster.expect(&["destroy"], 0);
}

fn nat_is_diagnosed() {
    modules();
    let services = "  - {vip: 172.25.254.100/24, port: 80, scheduler: rr, forward: nat, \
                    real_servers: [{host: rs1, port: 8080}, {host: rs2, port: 8080}]}\n";
    let cluster = Cluster::new(services, "172.25.254.1/24");
    let _listeners = [Listener::start("rs1", 8080), Listener::start("rs2", 8080)];
    cluster.expect(&["apply"], 0);
    cluster.expect(&["doctor"], 0);
    for broken in [
        Broken {
            host: "lvs",
            by: &[&["sysctl", "-qw", "net.ipv4.ip_forward=0"]],
            named: &[
                "lvs does not forward what comes in on eth0",
                "set net.ipv4.ip_forward: 0 -> 1",
            ],
            mended_by: &[],
        },
        // Strict source validation where the way back leaves elsewhere.
        Broken {
            host: "lvs",
            by: &[
                &["ip", "link", "add", "away", "type", "dummy"],
                &["ip", "link", "set", "away", "up"],
                &["ip", "route", "add", "172.25.254.1/32", "dev", "away"],
                &[
                    "sysctl",
                    "-qw",
                    "net.ipv4.conf.all.rp_filter=1",
                    "net.ipv4.conf.eth0.rp_filter=1",
                ],
            ],
            named: &[
                "lvs drops it on eth0: strict source validation",
                "its route to the source 172.25.254.1 leaves by away",
                "the kernel agrees: on lvs `ip route get 172.25.254.100 from 172.25.254.1 iif eth0`: EXDEV",
            ],
            mended_by: &[&["ip", "link", "del", "away"]],
        },
        Broken {
            host: "lvs",
            by: &[
                &["nft", "add table inet old"],
                &["nft", "add chain inet old forward { type filter hook forward priority 0; }"],
                &["nft", "add rule inet old forward ct state invalid drop"],
            ],
            named: &[
                "lvs drops tcp from 172.25.7.3 port 8080 to 172.25.254.1 at the hook forward: the rule with handle ",
                "of the nftables chain inet old forward (connection tracking calls it invalid: net.ipv4.vs.conntrack is 0)",
                "conntrack: 1",
            ],
            mended_by: &[&["nft", "delete table inet old"]],
        },
        Broken {
            host: "rs1",
            by: &[&["ip", "route", "replace", "blackhole", "172.25.254.0/24"]],
            named: &["rs1 drops it on eth0", "a route or rule refuses the source 172.25.254.1"],
            mended_by: &[&["ip", "route", "del", "blackhole", "172.25.254.0/24"]],
        },
    ] {
        broken.is_diagnosed(&cluster);
    }
    cluster.expect(&["destroy"], 0);
}
