//! What IPVS has beside its table: timeouts, sync daemons, settings.

use lvsprov::failure::Failure;
use lvsprov::state::{DaemonRole, Edit, KeyedEdit, SyncDaemon, Sysctl, Timeouts, VsItem};

use super::services::ipvsadm;
use crate::support::netns_host::NetnsHost;

fn timeouts_line(netns: &NetnsHost) -> String {
    ipvsadm(netns, "-l --timeout").trim().to_owned()
}

fn set_timeouts(before: Timeouts, after: Timeouts) -> Edit {
    Edit::change::<Timeouts>((), before, after)
}

pub fn timeouts() {
    let (netns, other) = (NetnsHost::new(), NetnsHost::new());
    let kernels = Timeouts::default();
    assert_eq!(netns.look(&[]).state.timeouts, Some(kernels));
    let largest = Timeouts { tcp: 2_147_483, tcp_fin: 1, udp: 2_147_483 };
    let outcome = netns.do_all(vec![set_timeouts(kernels, largest)]);
    assert_eq!(outcome.after.state.timeouts, Some(largest));
    assert_eq!(timeouts_line(&netns), "Timeout (tcp tcpfin udp): 2147483 1 2147483");
    // Each namespace has its own.
    assert_eq!(timeouts_line(&other), "Timeout (tcp tcpfin udp): 900 120 300");
    netns.fails(set_timeouts(kernels, largest), "expected tcp 900 s");
    ipvsadm(&netns, "--set 7200 30 60");
    let theirs = Timeouts { tcp: 7200, tcp_fin: 30, udp: 60 };
    assert_eq!(netns.look(&[]).state.timeouts, Some(theirs));
    // 0 leaves one as it is.
    let only_udp = Timeouts { tcp: 0, tcp_fin: 0, udp: 61 };
    netns.do_all(vec![set_timeouts(theirs, only_udp)]);
    assert_eq!(timeouts_line(&netns), "Timeout (tcp tcpfin udp): 7200 30 61");
    let seen = Timeouts { udp: 61, ..theirs };
    let failure = netns.fails(set_timeouts(seen, Timeouts { tcp: u32::MAX, ..seen }), "cannot set");
    assert!(failure.cure.unwrap().contains("2147483"));
    assert_eq!(timeouts_line(&netns), "Timeout (tcp tcpfin udp): 7200 30 61");
}

fn set(role: DaemonRole, before: Option<&SyncDaemon>, after: Option<&SyncDaemon>) -> Edit {
    Edit::Daemon(KeyedEdit { key: role, before: before.cloned(), after: after.cloned() })
}

fn daemon_lines(netns: &NetnsHost) -> Vec<String> {
    ipvsadm(netns, "-l --daemon").lines().map(str::to_owned).collect()
}

fn on(dev: &str) -> SyncDaemon {
    SyncDaemon::on(dev.parse().unwrap())
}

pub fn daemons() {
    use DaemonRole::{Backup, Master};
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    assert!(netns.look(&[]).state.daemons.is_empty());
    let all = SyncDaemon {
        id: 255,
        max_length: 1000,
        group: "224.0.0.99".parse().unwrap(),
        port: 9000,
        ttl: 255,
        ..on("v0")
    };
    let seen = netns.do_all(vec![set(Master, None, Some(&all))]).after.state.daemons;
    assert_eq!(seen, [(Master, all.clone())].into());
    let line = "master sync daemon (mcast=v0, syncid=255, maxlen=1000, group=224.0.0.99, \
                port=9000, ttl=255)";
    assert_eq!(daemon_lines(&netns), [line]);
    // What is not said is the kernel's choice, and it says what it chose.
    let seen = netns.do_all(vec![set(Backup, None, Some(&on("v1")))]).after.state.daemons;
    let chosen = SyncDaemon { max_length: 1472, ..on("v1") };
    assert_eq!(seen, [(Master, all.clone()), (Backup, chosen.clone())].into());
    let theirs = "backup sync daemon (mcast=v1, syncid=0, maxlen=1472, group=224.0.0.81, \
                  port=8848, ttl=1)";
    assert_eq!(daemon_lines(&netns), [line, theirs]);
    // A restart, over and over: the old one is always gone in time.
    for id in 0..10 {
        let (old, new) = (SyncDaemon { id, ..on("v1") }, SyncDaemon { id: id + 1, ..on("v1") });
        let seen = netns.do_all(vec![set(Backup, Some(&old), Some(&new))]).after.state.daemons;
        assert_eq!(seen[&Backup], SyncDaemon { id: id + 1, ..chosen.clone() });
    }
    netns.fails(set(Backup, Some(&chosen), None), "expected on v1, id 0");
    netns.fails(set(Backup, None, Some(&chosen)), "expected not running");
    let tenth = SyncDaemon { id: 10, ..chosen };
    let outcome = netns.do_all(vec![
        set(Backup, Some(&tenth), None),
        set(Master, None, Some(&all)).inverse().unwrap(),
    ]);
    assert!(outcome.after.state.daemons.is_empty());
    assert!(daemon_lines(&netns).is_empty());
    netns.fails(set(Master, Some(&all), None), "found not running");
}

pub fn daemons_over_ipv6() {
    use DaemonRole::Master;
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    let v6 = SyncDaemon { group: "ff02::81".parse().unwrap(), max_length: 1400, ..on("v0") };
    let seen = netns.do_all(vec![set(Master, None, Some(&v6))]).after.state.daemons;
    assert_eq!(seen[&Master], v6);
    assert!(daemon_lines(&netns)[0].contains("group=ff02::81"), "{:?}", daemon_lines(&netns));
    netns.do_all(vec![set(Master, Some(&v6), None)]);
}

pub fn the_kernels_own_lengths() {
    use DaemonRole::{Backup, Master};
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    let seen = |role| netns.look(&[]).state.daemons[&role].max_length;
    let length = |max_length| SyncDaemon { max_length, ..on("v0") };
    for (mtu, role, wanted, reported) in [
        // Of itself a master never sends more than fits into Ethernet.
        (1400, Master, 0, 1472),
        (9000, Master, 0, 1472),
        (1500, Master, 1, 1),
        (1500, Master, 65535, 65507),
        (1400, Backup, 0, 1472),
        (9000, Backup, 0, 8972),
        (1500, Backup, 500, 1024),
        (1500, Backup, 1024, 1024),
        (1500, Backup, 65507, 65507),
    ] {
        netns.ip(&format!("link set v0 mtu {mtu}"));
        netns.do_all(vec![set(role, None, Some(&length(wanted)))]);
        assert_eq!(seen(role), reported, "{role} {wanted}, MTU {mtu}");
        netns.do_all(vec![set(role, Some(&length(reported)), None)]);
    }
    // The plan's own word for it is understood, too.
    netns.do_all(vec![set(Backup, None, Some(&length(500)))]);
    netns.do_all(vec![set(Backup, Some(&length(500)), Some(&length(0)))]);
    netns.do_all(vec![set(Backup, Some(&length(0)), None)]);
}

pub fn daemons_that_cannot_run() {
    use DaemonRole::{Backup, Master};
    let netns = NetnsHost::with_pair("10.9.0.1/24");
    let cure = |failure: Failure| failure.cure.unwrap();
    let missing = netns.fails(set(Master, None, Some(&on("v9"))), "cannot start sync daemon");
    assert!(cure(missing).contains("no interface v9"));
    netns.ip("link set v1 down");
    let down = netns.fails(set(Master, None, Some(&on("v1"))), "cannot start sync daemon");
    assert!(cure(down).contains("set v1 up"));
    let unicast = SyncDaemon { group: "192.0.2.1".parse().unwrap(), ..on("v0") };
    let unicast = netns.fails(set(Backup, None, Some(&unicast)), "cannot start sync daemon");
    assert!(cure(unicast).contains("not a multicast address"));
    assert!(netns.look(&[]).state.daemons.is_empty());
    // A restart that fails leaves the old one.
    netns.do_all(vec![set(Master, None, Some(&on("v0")))]);
    netns.fails(set(Master, Some(&on("v0")), Some(&on("v9"))), "cannot start sync daemon");
    assert!(daemon_lines(&netns)[0].contains("mcast=v0"));
    // Connections to another address family do not fit into the messages.
    netns.do_all(vec![set(Master, Some(&on("v0")), None)]);
    ipvsadm(&netns, "-A -t 192.0.2.1:80 -s rr");
    ipvsadm(&netns, "-a -t 192.0.2.1:80 -r [2001:db8::1]:80 -i");
    let mixed = netns.fails(set(Master, None, Some(&on("v0"))), "cannot start sync daemon");
    assert!(cure(mixed).contains("other address family"));
}

/// Every setting that this kernel has, and `sysctl` as the second opinion.
pub fn settings() {
    let netns = NetnsHost::new();
    let asked: Vec<String> =
        VsItem::ALL.iter().map(|item| format!("net.ipv4.vs.{}", item.as_str())).collect();
    let seen = netns.look(&asked.iter().map(String::as_str).collect::<Vec<_>>()).state.sysctls;
    let files = netns.run(|| {
        let names = std::fs::read_dir("/proc/sys/net/ipv4/vs").unwrap();
        let names = names.map(|name| name.unwrap().file_name().into_string().unwrap());
        // Two schedulers have one of their own.
        names.filter(|name| !name.starts_with("lblc")).collect::<Vec<_>>()
    });
    assert_eq!(seen.len(), files.len(), "{seen:?} {files:?}");
    assert!(seen.len() >= 25);
    for item in VsItem::ALL {
        let key = format!("net.ipv4.vs.{}", item.as_str()).parse().unwrap();
        let Some(there) = seen.get(&key) else { continue };
        assert_eq!(*there, netns.sysctl(&format!("vs/{}", item.as_str())), "{key}");
        if let Some(usual) = item.default_value() {
            assert_eq!(there, usual, "{key}");
        }
    }
    let set = |name: &str, before: &str, after: &str| {
        Edit::change::<Sysctl>(
            format!("net.ipv4.vs.{name}").parse().unwrap(),
            before.to_owned(),
            after.to_owned(),
        )
    };
    let change = set("sync_threshold", "3 50", "10 100");
    let outcome = netns.do_all(vec![change.clone(), set("expire_nodest_conn", "0", "1")]);
    assert_eq!(outcome.failure, None);
    assert_eq!(netns.sysctl("vs/sync_threshold"), "10\t100");
    assert_eq!(netns.sysctl("vs/expire_nodest_conn"), "1");
    netns.do_all(vec![change.inverse().unwrap()]);
    assert_eq!(netns.sysctl("vs/sync_threshold"), "3\t50");
    netns.fails(set("conntrack", "1", "0"), "expected 1, found 0");
    netns.fails(set("sync_threshold", "3\t50", "50 3"), "cannot set");
    let failure = netns.fails(set("est_nice", "0", "1"), "no such setting");
    assert!(failure.cure.unwrap().contains("this kernel"));
}
