//! The clusters that are tried: each with the states that it is moved between.

/// A cluster and its moves.
pub struct Scene {
    pub name: &'static str,
    /// What each state is called, and its file; the first is what the lab's hosts are without one.
    pub states: Vec<(&'static str, Option<String>)>,
    /// What a host has before, that is not lvsprov's.
    pub before: &'static [(&'static str, &'static [&'static str])],
}

impl Scene {
    /// The file of a state; what is bare is left by the file of the first that is not.
    pub fn text(&self, state: usize) -> &str {
        let own = self.states[state].1.as_deref();
        own.unwrap_or_else(|| self.states[1].1.as_deref().unwrap())
    }
}

const DR: &str = "
version: 1
name: crash-dr
networks: {lan: [172.25.7.0/24]}
hosts:
  client: {role: client, interfaces: {eth0: 172.25.7.250/24}}
  router: {role: router, interfaces: {eth0: [172.25.7.1/24, 172.25.7.9/24]}}
  director: {role: director, ssh: director, interfaces: {eth0: 172.25.7.2/24}}
  web1: {role: real_server, ssh: web1, gateway: GATEWAY, interfaces: {eth0: 172.25.7.11/24}}
  web2: {role: real_server, ssh: web2, gateway: GATEWAY, interfaces: {eth0: 172.25.7.12/24}}
services:
  - {vip: 172.25.7.200, port: 80, scheduler: wrr, forward: dr, real_servers: REAL_SERVERS}
";

/// One real server; then two, another weight, and another gateway.
pub fn dr() -> Scene {
    let file =
        |gateway, servers| Some(DR.replace("GATEWAY", gateway).replace("REAL_SERVERS", servers));
    Scene {
        name: "dr",
        states: vec![
            ("bare", None),
            ("one", file("172.25.7.1", "[web1]")),
            ("two", file("172.25.7.9", "[{host: web1, weight: 3}, web2]")),
        ],
        before: &[("web1", &["ip route add default via 198.18.0.1 dev mgmt0 metric 7"])],
    }
}

const NAT: &str = "
version: 1
name: crash-nat
networks: {outside: [172.16.0.0/16], inside: [192.168.12.0/24]}
hosts:
  client: {role: client, interfaces: {eth0: 172.16.100.1/16}}
  director:
    role: director
    ssh: director
    interfaces: {eth0: 172.16.100.8/16, eth1: 192.168.12.1/24}
  web1: {role: real_server, ssh: web1, interfaces: {eth0: 192.168.12.11/24}}
  web2: {role: real_server, ssh: web2, interfaces: {eth0: 192.168.12.12/24}}
services:
  - vip: 172.16.100.8
    port: 80
    forward: nat
    scheduler: SCHEDULER
    real_servers: REAL_SERVERS
";

/// Another scheduler, another port of one real server.
pub fn nat() -> Scene {
    let file = |scheduler, servers| {
        Some(NAT.replace("SCHEDULER", scheduler).replace("REAL_SERVERS", servers))
    };
    Scene {
        name: "nat",
        states: vec![
            ("bare", None),
            ("rr", file("rr", "[{host: web1, port: 8080}, {host: web2, port: 8080}]")),
            ("wrr", file("wrr", "[{host: web1, port: 8080, weight: 2}, {host: web2, port: 8081}]")),
        ],
        before: &[("web1", &["ip route add default via 198.18.0.1 dev mgmt0"])],
    }
}

const TUN: &str = "
version: 1
name: crash-tun
networks: {lan: [172.25.7.0/24]}
hosts:
  client: {role: client, interfaces: {eth0: 172.25.7.250/24}}
  director: {role: director, ssh: director, interfaces: {eth0: 172.25.7.2/24}}
  web1: {role: real_server, ssh: web1, interfaces: {eth0: 172.25.7.11/24}}
  web2: {role: real_server, ssh: web2, interfaces: {eth0: 172.25.7.12/24}}
services:
";

/// A second VIP.
pub fn tun() -> Scene {
    let service = |vip| {
        format!(
            "  - {{vip: {vip}, port: 80, scheduler: rr, forward: tun, real_servers: [web1, web2]}}\n"
        )
    };
    let one = TUN.to_owned() + &service("172.25.7.200");
    let two = one.clone() + &service("172.25.7.201");
    Scene {
        name: "tun",
        states: vec![("bare", None), ("one", Some(one)), ("two", Some(two))],
        // What a device has got when it was up for the first time (a qdisc, IPv6's settings) it keeps.
        before: &[
            ("web1", &["ip link set tunl0 up", "ip link set tunl0 down"]),
            (
                "web2",
                &[
                    "ip link set tunl0 up",
                    "ip link set tunl0 down",
                    "sysctl -qw net.ipv4.conf.all.arp_ignore=2",
                ],
            ),
        ],
    }
}
