//! What a snapshot must show, and only a kernel with IPVS, GRE and fou has.

use lvsprov::lab::network::Management;
use lvsprov::lab::snapshot::{difference, snapshot};
use lvsprov::lab::{self, Lab};

use super::{TOPOLOGY, done, host};

/// One change each: how it is made, how it is undone, and how the line begins that it must show.
const CHANGES: [(&str, &str, &str); 4] = [
    (
        "ipvsadm --set 100 50 60",
        "ipvsadm --set 900 120 300",
        "changed ipvs timeouts: tcp 900 tcp-fin 120 udp 300 -> tcp 100 tcp-fin 50 udp 60",
    ),
    (
        "ipvsadm --start-daemon backup --mcast-interface eth0",
        "ipvsadm --stop-daemon backup",
        "added ipvs daemon: ",
    ),
    ("ip fou add port 6080 gue", "ip fou del port 6080", "added fou ipv4 port 6080: "),
    (
        "ip link add g1 type gre local 172.25.7.2 csum",
        "ip link del g1",
        "added link g1: down queue ",
    ),
];

pub(super) fn snapshots_show_it() {
    lab::isolate().unwrap();
    let topology = lvsprov::check::examine("looks", TOPOLOGY).topology.unwrap();
    let lab = Lab::build(&topology, Management::None).unwrap();
    for module in ["ip_vs", "fou", "ip_gre"] {
        done(&lab, "director", &format!("/sbin/modprobe {module}"));
    }
    let look = || snapshot(lab.namespace(&host("director")).unwrap()).unwrap();
    let before = look();
    for (change, undo, expected) in CHANGES {
        done(&lab, "director", change);
        let lines = difference(&before, &look());
        assert!(lines.iter().any(|line| line.starts_with(expected)), "{change}: {lines:#?}");
        done(&lab, "director", undo);
        assert_eq!(difference(&before, &look()), Vec::<String>::new(), "{undo}");
    }
    // The same device but for the checksum is another.
    done(&lab, "director", "ip link add g1 type gre local 172.25.7.2 csum");
    let with = look();
    done(&lab, "director", "ip link del g1");
    done(&lab, "director", "ip link add g1 type gre local 172.25.7.2");
    let lines = difference(&with, &look());
    assert!(lines.iter().any(|line| line.starts_with("changed link g1: ")), "{lines:#?}");
}
