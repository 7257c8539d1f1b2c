//! Files with the mistake that a rule names, each beside the same file after what the rule's page tells to do.

use super::{Ask, Served, Trial};

pub const DIRECT: &str = "
version: 1
name: rules
networks: {lan: [192.0.2.0/24]}
hosts:
  client:
    role: client
    interfaces:
      eth0: [192.0.2.10/24, 192.0.2.11/24, 192.0.2.12/24, 192.0.2.13/24, 192.0.2.14/24, 192.0.2.15/24]
  lvs: {role: director, interfaces: {eth0: 192.0.2.2/24}}
  web1: {role: real_server, interfaces: {eth0: 192.0.2.21/24}}
  web2: {role: real_server, interfaces: {eth0: 192.0.2.22/24}}
services:
";

pub const NAT: &str = "
version: 1
name: rules
networks: {outside: [192.0.2.0/24], inside: [10.0.0.0/24]}
hosts:
  client: {role: client, interfaces: {eth0: 192.0.2.10/24}}
  lvs: {role: director, interfaces: {eth0: 192.0.2.2/24, eth1: 10.0.0.1/24}}
  web1: {role: real_server, interfaces: {eth0: 10.0.0.21/24}, gateway: 10.0.0.1}
  web2: {role: real_server, interfaces: {eth0: 10.0.0.22/24}, gateway: 10.0.0.1}
services:
";

/// A router in the middle, to which the file has no connection.
pub const ROUTED: &str = "
version: 1
name: rules
networks: {outside: [198.51.100.0/24], farm: [172.18.0.0/16, 192.168.142.0/24]}
hosts:
  client: {role: client, interfaces: {eth0: 198.51.100.10/24}, gateway: router}
  router: {role: router, interfaces: {eth0: 198.51.100.1/24, eth1: 172.18.0.1/16, eth2: 192.168.142.1/24}}
  lvs: {role: director, ssh: lvs, interfaces: {eth0: 192.168.142.2/24}, gateway: router}
  web1: {role: real_server, ssh: web1, interfaces: {eth0: 192.168.142.21/24}, gateway: router}
services:
";

/// Two directors, with a network of their own between them on which they have no addresses.
pub const TWO_DIRECTORS: &str = "
version: 1
name: rules
networks: {lan: [192.0.2.0/24], between: [10.9.9.0/24]}
hosts:
  client: {role: client, interfaces: {eth0: 192.0.2.10/24}}
  lvs1: {role: director, interfaces: {eth0: 192.0.2.2/24, eth1: {network: between}}}
  lvs2: {role: director, interfaces: {eth0: 192.0.2.3/24, eth1: {network: between}}}
  web1: {role: real_server, interfaces: {eth0: 192.0.2.21/24}}
  web2: {role: real_server, interfaces: {eth0: 192.0.2.22/24}}
services:
";

pub const UNDER_DIRECT_ROUTING: &[Trial] = &[
    Trial {
        rule: "broadcast-address",
        asks: &[Ask::Tcp(80, 1)],
        broken: (
            "- {vip: 192.0.2.255, port: 80, forward: dr, real_servers: [web1]}",
            Served::None("no route"),
        ),
        mended: (
            "- {vip: 192.0.2.100, port: 80, forward: dr, real_servers: [web1]}",
            Served::Only("web1"),
        ),
    },
    Trial {
        rule: "all-weights-zero",
        asks: &[Ask::Tcp(80, 2)],
        broken: (
            "- {vip: 192.0.2.100, port: 80, forward: dr, real_servers: [{host: web1, weight: 0}, {host: web2, weight: 0}]}",
            Served::None("refused"),
        ),
        mended: (
            "- {vip: 192.0.2.100, port: 80, forward: dr, real_servers: [{host: web1, weight: 0}, web2]}",
            Served::Only("web2"),
        ),
    },
    Trial {
        rule: "weights-ignored",
        asks: &[Ask::Tcp(80, 8)],
        broken: (
            "- {vip: 192.0.2.100, port: 80, forward: dr, scheduler: rr, real_servers: [{host: web1, weight: 3}, web2]}",
            Served::Shares(&[("web1", 4), ("web2", 4)]),
        ),
        mended: (
            "- {vip: 192.0.2.100, port: 80, forward: dr, scheduler: wrr, real_servers: [{host: web1, weight: 3}, web2]}",
            Served::Shares(&[("web1", 6), ("web2", 2)]),
        ),
    },
    Trial {
        rule: "one-destination",
        asks: &[Ask::TcpFromEach(80)],
        broken: (
            "- {vip: 192.0.2.100, port: 80, forward: dr, scheduler: dh, real_servers: [web1, web2]}",
            Served::OneForAll,
        ),
        mended: (
            "- {vip: 192.0.2.100, port: 80, forward: dr, scheduler: sh, real_servers: [web1, web2]}",
            Served::Both,
        ),
    },
    Trial {
        rule: "ftp-data",
        asks: &[Ask::Tcp(21, 1), Ask::Tcp(PASSIVE, 1)],
        broken: (
            "- {vip: 192.0.2.100, port: 21, forward: dr, real_servers: [web1, web2]}",
            Served::Some("refused"),
        ),
        mended: (
            "- {vip: 192.0.2.100, port: 21, forward: dr, persistence: 300, real_servers: [web1, web2]}",
            Served::OneForAll,
        ),
    },
    Trial {
        rule: "hash-without-fallback",
        asks: &[Ask::TcpFromEach(80)],
        broken: (
            "- {vip: 192.0.2.100, port: 80, forward: dr, scheduler: sh, real_servers: [{host: web1, weight: 0}, web2]}",
            Served::Some("refused"),
        ),
        mended: (
            "- {vip: 192.0.2.100, port: 80, forward: dr, scheduler: sh, scheduler_flags: [sh-fallback], real_servers: [{host: web1, weight: 0}, web2]}",
            Served::Only("web2"),
        ),
    },
    Trial {
        rule: "one-packet-persistent",
        asks: &[Ask::UdpFromOnePort(53, 6)],
        broken: (
            "- {vip: 192.0.2.100, port: 53, protocol: udp, forward: dr, scheduler: rr, one_packet: true, persistence: 60, real_servers: [web1, web2]}",
            Served::OneForAll,
        ),
        mended: (
            "- {vip: 192.0.2.100, port: 53, protocol: udp, forward: dr, scheduler: rr, one_packet: true, real_servers: [web1, web2]}",
            Served::Both,
        ),
    },
    Trial {
        rule: "mark-overlaps",
        asks: &[Ask::Tcp(443, 2)],
        broken: (
            "- {vip: 192.0.2.100, mark: 1, ports: [80, 443], forward: dr, real_servers: [web1]}\n\
             - {vip: 192.0.2.100, port: 443, forward: dr, real_servers: [web2]}",
            Served::Only("web1"),
        ),
        mended: (
            "- {vip: 192.0.2.100, mark: 1, ports: [80], forward: dr, real_servers: [web1]}\n\
             - {vip: 192.0.2.100, port: 443, forward: dr, real_servers: [web2]}",
            Served::Only("web2"),
        ),
    },
    Trial {
        rule: "network-address",
        asks: &[Ask::Tcp(80, 1)],
        broken: (
            "- {vip: 192.0.2.0, port: 80, forward: dr, real_servers: [web1]}",
            Served::Since {
                kernel: (5, 14),
                now: &Served::Only("web1"),
                before: &Served::None("no route"),
            },
        ),
        mended: (
            "- {vip: 192.0.2.100, port: 80, forward: dr, real_servers: [web1]}",
            Served::Only("web1"),
        ),
    },
    Trial {
        rule: "port-any",
        asks: &[Ask::Tcp(80, 1), Ask::Tcp(443, 1)],
        broken: (
            "- {vip: 192.0.2.100, port: any, forward: dr, scheduler: rr, real_servers: [web1, web2]}",
            Served::None("refused"),
        ),
        mended: (
            "- {vip: 192.0.2.100, port: any, forward: dr, scheduler: rr, persistence: 300, real_servers: [web1, web2]}",
            Served::OneForAll,
        ),
    },
    // dh reads no flag: not even ports spread.
    Trial {
        rule: "flag-of-other-scheduler",
        asks: &[Ask::Tcp(80, 8)],
        broken: (
            "- {vip: 192.0.2.100, port: 80, forward: dr, scheduler: dh, scheduler_flags: [sh-port], real_servers: [web1, web2]}",
            Served::OneForAll,
        ),
        mended: (
            "- {vip: 192.0.2.100, port: 80, forward: dr, scheduler: sh, scheduler_flags: [sh-port], real_servers: [web1, web2]}",
            Served::Both,
        ),
    },
    // sh reads the flag of mh as its own one of the same number.
    Trial {
        rule: "flag-of-other-scheduler",
        asks: &[Ask::TcpFromEach(80)],
        broken: (
            "- {vip: 192.0.2.100, port: 80, forward: dr, scheduler: sh, scheduler_flags: [mh-fallback], real_servers: [{host: web1, weight: 0}, web2]}",
            Served::Only("web2"),
        ),
        mended: (
            "- {vip: 192.0.2.100, port: 80, forward: dr, scheduler: sh, scheduler_flags: [sh-fallback], real_servers: [{host: web1, weight: 0}, web2]}",
            Served::Only("web2"),
        ),
    },
    // A connection has several packets: scheduled one by one they would reach both real servers, and none be answered.
    Trial {
        rule: "one-packet",
        asks: &[Ask::Tcp(80, 8)],
        broken: (
            "- {vip: 192.0.2.100, port: 80, forward: dr, scheduler: rr, one_packet: true, real_servers: [web1, web2]}",
            Served::Shares(&[("web1", 4), ("web2", 4)]),
        ),
        mended: (
            "- {vip: 192.0.2.100, port: 80, forward: dr, scheduler: rr, real_servers: [web1, web2]}",
            Served::Shares(&[("web1", 4), ("web2", 4)]),
        ),
    },
    // Every setting that needs what this director does not have, each with another value than the kernel's.
    Trial {
        rule: "setting-without-effect",
        asks: &[Ask::Tcp(80, 8)],
        broken: (
            "- {vip: 192.0.2.100, port: 80, forward: dr, scheduler: rr, real_servers: [web1, web2]}\n\
             ipvs: {settings: {backup_only: 1, sync_threshold: [1, 2], sync_refresh_period: 8, sync_retries: 1, \
             sync_persist_mode: 1, sync_version: 0, sync_qlen_max: 64, sync_ports: 2, sync_sock_size: 65536, \
             pmtu_disc: 0, ignore_tunneled: 1, nat_icmp_send: 1, snat_reroute: 0}}",
            Served::Shares(&[("web1", 4), ("web2", 4)]),
        ),
        mended: (
            "- {vip: 192.0.2.100, port: 80, forward: dr, scheduler: rr, real_servers: [web1, web2]}",
            Served::Shares(&[("web1", 4), ("web2", 4)]),
        ),
    },
    // And one of them beside what it needs: now it counts.
    Trial {
        rule: "setting-without-effect",
        asks: &[Ask::Tcp(80, 1)],
        broken: (
            "- {vip: 192.0.2.100, port: 80, forward: dr, real_servers: [web1]}\n\
             ipvs: {settings: {backup_only: 1}}",
            Served::Only("web1"),
        ),
        mended: (
            "- {vip: 192.0.2.100, port: 80, forward: dr, real_servers: [web1]}\n\
             ipvs: {sync: {backup: {interface: eth0}}, settings: {backup_only: 1}}",
            Served::None("refused"),
        ),
    },
];

/// What a host has by itself: instead of the line of web1 in [`DIRECT`]. No request is answered.
pub const OF_HOSTS: &[(&str, &str)] = &[
    (
        "mask-on-lo",
        "web1: {role: real_server, interfaces: {eth0: 192.0.2.21/24, lo: 192.0.2.100/24}}",
    ),
    ("mask-differs", "web1: {role: real_server, interfaces: {eth0: 192.0.2.21/28}}"),
];
pub const WEB1: &str = "web1: {role: real_server, interfaces: {eth0: 192.0.2.21/24}}";

pub const UNDER_NAT: &[Trial] = &[Trial {
    rule: "one-packet-nat",
    asks: &[Ask::UdpFromOnePort(53, 2)],
    broken: (
        "- {vip: 192.0.2.100, port: 53, protocol: udp, forward: nat, scheduler: rr, one_packet: true, real_servers: [web1, web2]}",
        Served::None("timed out"),
    ),
    mended: (
        "- {vip: 192.0.2.100, port: 53, protocol: udp, forward: nat, scheduler: rr, real_servers: [web1, web2]}",
        Served::OneForAll,
    ),
}];

/// A port that no service names, as an FTP server chooses one for a passive transfer.
pub const PASSIVE: u16 = 40_000;
