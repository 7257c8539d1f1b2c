//! The text of each kind of check; tests/host/keepalived.rs has keepalived read it.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use super::*;
use crate::check::examine;
use crate::topology::CheckTarget;

fn topology(services: &str) -> Topology {
    let text = format!(
        "version: 1\nname: t\nnetworks: {{lan: [192.0.2.0/24], far: [198.51.100.0/24]}}\nhosts:\n  \
         client: {{role: client, interfaces: {{eth0: 192.0.2.100/24}}}}\n  \
         lvs: {{role: director, interfaces: {{eth0: 192.0.2.2/24, eth1: 198.51.100.2/24}}}}\n  \
         web1: {{role: real_server, interfaces: {{eth0: 192.0.2.3/24}}}}\n  \
         router: {{role: router, interfaces: {{eth0: 192.0.2.1/24, eth1: 198.51.100.1/24}}}}\n  \
         far1: {{role: real_server, interfaces: {{eth0: 198.51.100.3/24}}, gateway: router}}\n  \
         nat1: {{role: real_server, interfaces: {{eth0: 198.51.100.4/24}}, gateway: lvs}}\nservices:\n  - {services}\n"
    );
    let examined = examine("t.yaml", &text);
    examined.topology.unwrap_or_else(|| panic!("{:#?}", examined.findings))
}

/// The lines of the first check.
fn check(services: &str) -> Vec<String> {
    let topology = topology(services);
    let text = configuration(&topology, &"lvs".parse().unwrap()).unwrap();
    let block = text.split("lvs_method ").nth(1).unwrap().split("\n    }").next().unwrap();
    block.lines().skip(1).map(|line| line.trim().to_owned()).collect()
}

fn check_marks(topology: &Topology, director: &HostName) -> BTreeMap<CheckTarget, u32> {
    CheckAims::of(topology, director).marks().clone()
}

fn mark(services: &str) -> u32 {
    *check_marks(&topology(services), &"lvs".parse().unwrap()).first_key_value().unwrap().1
}

#[test]
fn without_a_check_there_is_no_configuration_and_still_a_text() {
    let topology = topology("{vip: 192.0.2.80, port: 80, forward: dr, real_servers: [web1]}");
    let lvs = "lvs".parse().unwrap();
    assert_eq!(configuration(&topology, &lvs), None);
    assert!(every_service(&topology, &lvs).unwrap().contains("virtual_server 192.0.2.80 80 {"));
    assert_eq!(every_service(&topology, &"web1".parse().unwrap()), None);
}

#[test]
fn dr_goes_to_the_vip_by_a_mark_and_nat_to_the_rip() {
    let dr = "{vip: 192.0.2.80, port: 80, forward: dr, check: tcp, real_servers: [web1]}";
    assert_eq!(
        check(dr),
        [
            "TCP_CHECK {".to_owned(),
            "connect_ip 192.0.2.80".to_owned(),
            "bindto 192.0.2.2".to_owned(),
            format!("fwmark {}", mark(dr)),
            "connect_port 80".to_owned(),
            "connect_timeout 2".to_owned(),
            "delay_loop 5".to_owned(),
            "retry 2".to_owned(),
            "delay_before_retry 3".to_owned(),
            "}".to_owned(),
        ]
    );
    let nat = "{vip: 192.0.2.80, port: 80, forward: nat, check: {type: tcp, fall: 1, interval: 9, timeout: 1}, \
               real_servers: [{host: nat1, port: 8080}]}";
    assert_eq!(
        check(nat),
        [
            "TCP_CHECK {",
            "connect_port 8080",
            "connect_timeout 1",
            "delay_loop 9",
            "retry 0",
            "delay_before_retry 8",
            "}"
        ]
    );
    let rip = "{vip: 192.0.2.80, port: 80, forward: dr, check: {type: tcp, via: rip}, real_servers: [web1]}";
    assert!(!check(rip).iter().any(|line| line.starts_with("fwmark")));
    assert!(check_marks(&topology(rip), &"lvs".parse().unwrap()).is_empty());
}

#[test]
fn http_dns_and_scripts() {
    let https = "{vip: 192.0.2.80, port: 443, forward: dr, real_servers: [web1], check: {type: https, host: www.example.org, \
                 path: /up?x=1, status: [200, 300-399], body: \"all good!\"}}";
    let lines = check(https);
    assert_eq!(lines[0], "SSL_GET {");
    for line in [
        "fast_recovery",
        "enable_sni",
        "path /up?x=1",
        "status_code 200 300-399",
        "virtualhost www.example.org",
        "regex \"all\\134\\040good\\134\\041\"",
    ] {
        assert!(lines.iter().any(|it| it == line), "{line}: {lines:#?}");
    }
    let dns = "{vip: 192.0.2.80, port: 53, protocol: udp, forward: dr, real_servers: [web1], \
               check: {type: dns, name: example.org, record: AAAA}}";
    let lines = check(dns);
    assert_eq!(
        (&*lines[0], &*lines[9], &*lines[10]),
        ("DNS_CHECK {", "type AAAA", "name example.org")
    );
    let script = "{vip: 192.0.2.80, port: 80, forward: dr, real_servers: [web1], check: {type: script, \
                  command: [/bin/check, \"{vip} {port}\", \"{rip}\", \"{source}\", \"{mark}\"]}}";
    let lines = check(script);
    let arguments = format!("'192.0.2.80 80' '192.0.2.3' '192.0.2.2' '{}'", mark(script));
    assert_eq!(lines[4], format!("misc_path \"'/bin/check' {arguments}\""));
    // Counted from the start of the script.
    assert_eq!(lines[3], "delay_before_retry 5");
}

/// Others come and go, and what is running stays as it is.
#[test]
fn a_mark_hangs_on_the_names_of_topology_and_real_server_only() {
    let one = "{vip: 192.0.2.80, port: 80, forward: dr, check: tcp, real_servers: [web1]}";
    let other =
        "{vip: 192.0.2.81, port: [8080], forward: dr, check: tcp, real_servers: [far1, web1]}";
    let first = check_marks(&topology(one), &"lvs".parse().unwrap());
    let both = check_marks(&topology(&other.replace("[8080]", "8080")), &"lvs".parse().unwrap());
    assert_eq!((first.len(), both.len()), (1, 2));
    assert!(first.iter().all(|(target, mark)| both.get(target) == Some(mark)));
    assert!(both.values().all(|mark| (0x4c56_0000..=0x4c56_ffff).contains(mark)));
}

#[test]
fn the_sorry_server_is_no_destination_and_quorum_is_a_sum_of_weights() {
    let services = "{vip: 192.0.2.80, port: 80, forward: dr, check: tcp, quorum: 1, sorry_server: {host: far1}, \
                    real_servers: [web1]}";
    let topology = topology(services);
    let text = configuration(&topology, &"lvs".parse().unwrap()).unwrap();
    assert!(text.contains(
        "    quorum 1\n    sorry_server 198.51.100.3 80\n    sorry_server_lvs_method DR\n"
    ));
    assert_eq!(text.matches("real_server 1").count(), 1);
    let desired = crate::desired::desired(&topology);
    let service = crate::desired::service_key(&topology.services[0]);
    assert_eq!(desired[&"lvs".parse().unwrap()].state.services[&service].destinations.len(), 1);
    // It takes requests for the VIP, so it has the VIP.
    let far = &desired[&"far1".parse().unwrap()].state;
    assert!(
        far.addresses
            .keys()
            .any(|key| key.net.addr() == topology.services[0].vip_address().unwrap())
    );
}

#[test]
fn the_director_takes_answers_with_its_own_vip_as_source() {
    let services =
        "{vip: 192.0.2.80, port: 80, forward: dr, check: tcp, real_servers: [web1, far1]}";
    let topology = topology(services);
    let state = crate::desired::desired(&topology).remove(&"lvs".parse().unwrap()).unwrap().state;
    let value = |name: &str| state.sysctls.get(&name.parse().unwrap()).map(String::as_str);
    assert_eq!(value("net.ipv4.conf.eth0.accept_local"), Some("1"));
    assert_eq!(value("net.ipv4.conf.eth1.accept_local"), Some("1"));
    // The VIP is on eth0: its route leads there.
    assert_eq!(value("net.ipv4.conf.eth1.rp_filter"), Some("2"));
    assert_eq!(value("net.ipv4.conf.eth0.rp_filter"), None);
    assert_eq!(state.services.len(), 3);
}
