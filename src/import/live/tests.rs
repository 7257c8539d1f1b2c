//! Hosts as they could look, and the files that come of them.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::check;
use crate::finding::Severity;
use crate::import::{self, ipvsadm};
use crate::state::{Address, HostState, Route, Scope};

/// A host with these addresses (`DEV ADDRESS/LENGTH`), this default gateway and these rules.
fn observed(name: &str, addresses: &[&str], gateway: Option<&str>, rules: &str) -> ObservedHost {
    let mut state = HostState::default();
    for text in addresses {
        let (dev, net) = text.split_once(' ').unwrap();
        let key = format!("{net}@{dev}").parse().unwrap();
        let address = Address::plain(Scope::Global);
        state.addresses.insert(key, address);
    }
    if let Some(gateway) = gateway {
        let gateway: IpAddr = gateway.parse().unwrap();
        let route = Route { protocol: 3, ..Route::via(gateway, None) };
        state.routes.insert(RouteKey::default_for(gateway), route);
    }
    state.sysctls.insert(Sysctl::IpForward, "0".to_owned());
    let rules = ipvsadm::read(rules);
    assert_eq!(rules.remarks, []);
    state.services = rules.services;
    let observation = Observation { state, ..Observation::default() };
    ObservedHost {
        name: name.parse().unwrap(),
        reach: ("ssh", format!("root@{name}")),
        observation,
    }
}

fn set(host: &mut ObservedHost, key: &str, value: &str) {
    host.observation.state.sysctls.insert(key.parse().unwrap(), value.to_owned());
}

/// The file and the remarks; the file must pass `check`.
fn written(hosts: &[ObservedHost]) -> (String, String) {
    let (draft, remarks) = draft(hosts, "live".parse().unwrap()).unwrap();
    let written = import::write(&draft, remarks, "hosts");
    let findings = check::examine("live.yaml", &written.topology).findings;
    let errors: Vec<_> = findings.iter().filter(|f| f.severity == Severity::Error).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{}", written.topology);
    let remarks: Vec<_> = written.remarks.iter().map(ToString::to_string).collect();
    (written.topology, remarks.join("\n"))
}

fn assert_parts(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing:\n{text}");
    }
}

const NAT: &str = "-A -t 198.51.100.8:80 -s wlc\n-a -t 198.51.100.8:80 -r 10.0.0.11:8080 -m -w 3\n\
    -a -t 198.51.100.8:80 -r 10.0.0.12:8080 -m\n";

#[test]
fn nat_with_two_networks_and_a_client() {
    let hosts = [
        observed("client", &["eth0 198.51.100.1/24", "docker0 172.17.0.1/16"], None, ""),
        observed("lvs", &["ens3 198.51.100.8/24", "ens4 10.0.0.1/24", "lo 127.0.0.1/8"], None, NAT),
        observed("web1", &["eth0 10.0.0.11/24", "docker0 172.17.0.1/16"], Some("10.0.0.1"), ""),
        observed("web2", &["eth0 10.0.0.12/24", "eth0 fe80::1/64"], Some("10.0.0.1"), ""),
    ];
    let (text, remarks) = written(&hosts);
    assert_parts(
        &text,
        &[
            "net1: [10.0.0.0/24]\n  net2: [198.51.100.0/24]",
            "client: {role: client, interfaces: {eth0: 198.51.100.1/24}, ssh: root@client}",
            // The VIP is the director's own address: lvsprov neither sets nor removes it.
            "lvs: {role: director, interfaces: {ens3: 198.51.100.8/24, ens4: 10.0.0.1/24}, ssh: root@lvs}",
            "web1: {role: real_server, interfaces: {eth0: 10.0.0.11/24}, gateway: lvs, ssh: root@web1}",
            "- vip: 198.51.100.8\n    port: 80\n    vip_interface: ens3\n    forward: nat",
            "- {host: web1, port: 8080, weight: 3}",
        ],
    );
    assert_parts(&remarks, &["web1: cannot be expressed: 172.17.0.1/16 on docker0", "role client"]);
}

#[test]
fn nat_whose_replies_go_elsewhere_is_fullnat() {
    let mut lvs = observed(
        "lvs",
        &["eth0 198.51.100.2/24", "eth0 198.51.100.8/32"],
        Some("198.51.100.254"),
        NAT,
    );
    set(&mut lvs, "net.ipv4.vs.conntrack", "1");
    let mut router =
        observed("router", &["eth0 198.51.100.254/24", "eth1 10.0.0.254/24"], None, "");
    set(&mut router, "net.ipv4.ip_forward", "1");
    let hosts = [
        lvs,
        router,
        observed("web1", &["eth0 10.0.0.11/24"], Some("10.0.0.254"), ""),
        observed("web2", &["eth0 10.0.0.12/24"], Some("10.0.0.254"), ""),
    ];
    let (text, remarks) = written(&hosts);
    assert_parts(
        &text,
        &[
            "forward: fullnat",
            "router: {role: router,",
            "gateway: router",
            "interfaces: {eth0: 198.51.100.2/24}",
        ],
    );
    assert_parts(&remarks, &["forward: fullnat of tcp 198.51.100.8:80", "role router"]);
}

#[test]
fn settings_that_lvsprov_derives_are_not_imported() {
    let rules = "-A -t 192.0.2.100:80 -s rr\n-a -t 192.0.2.100:80 -r 192.0.2.3 -i\n\
        -A -t [2001:db8::100]:80 -s rr\n-a -t [2001:db8::100]:80 -r [2001:db8::3]:80 -g\n\
        -A -f 8 -s rr\n-a -f 8 -r 192.0.2.9 -g\n";
    let hosts = [
        observed(
            "lvs",
            &[
                "eth0 192.0.2.2/24",
                "eth0 192.0.2.100/24",
                "eth0 2001:db8::2/64",
                "eth0 2001:db8::100/128",
            ],
            None,
            rules,
        ),
        observed(
            "web1",
            &[
                "eth0 192.0.2.3/24",
                "eth0 2001:db8::3/64",
                "tunl0 192.0.2.100/32",
                "lo 2001:db8::100/128",
            ],
            Some("192.0.2.254"),
            "",
        ),
        observed("spare", &["eth0 192.0.2.7/24", "tunl0 192.0.2.100/32"], None, ""),
    ];
    let (text, remarks) = written(&hosts);
    assert_parts(
        &text,
        &[
            "interfaces: {eth0: [192.0.2.2/24, \"2001:db8::2/64\"]}",
            "- vip: 192.0.2.100/24\n",
            "- vip: \"2001:db8::100\"\n",
            "- {host: web1, address: 192.0.2.3}",
            "- {host: web1, address: \"2001:db8::3\"}",
            "gateway: 192.0.2.254",
            "# guessed: name, interface and prefix length (this host was not observed)",
            "rs-192-0-2-9: {role: real_server, interfaces: {eth0: 192.0.2.9/24}}",
            "- mark: 8\n",
        ],
    );
    assert_parts(
        &remarks,
        &["spare: guessed: role real_server", "mark 8", "no observed host has 192.0.2.9"],
    );
}

#[test]
fn without_a_director_the_import_is_empty() {
    let hosts = [observed("web1", &["eth0 192.0.2.3/24"], None, "")];
    let (draft, remarks) = draft(&hosts, "live".parse().unwrap()).unwrap();
    assert!(draft.services.is_empty());
    assert!(remarks.iter().any(|remark| remark.what == "no director"), "{remarks:?}");
}

#[test]
fn static_routes_by_neighbours_are_taken_and_others_are_remarks() {
    let mut lvs = observed("lvs", &["eth0 198.51.100.2/24", "eth1 10.0.0.1/24"], None, NAT);
    let mut route = |to: &str, gateway: &str, protocol| {
        let route = Route { protocol, ..Route::via(gateway.parse().unwrap(), None) };
        lvs.observation.state.routes.insert(RouteKey(to.parse().unwrap()), route);
    };
    route("192.0.2.0/24", "198.51.100.254", 3);
    route("192.0.2.128/25", "198.51.100.77", 4);
    // By DHCP and by a routing daemon.
    route("203.0.113.0/25", "198.51.100.254", 16);
    route("203.0.113.128/25", "198.51.100.254", 186);
    let mut router = observed("router", &["eth0 198.51.100.254/24"], None, "");
    set(&mut router, "net.ipv4.ip_forward", "1");
    let vip: IpAddr = "198.51.100.8".parse().unwrap();
    let by_director = Route::via("198.51.100.2".parse().unwrap(), None);
    router.observation.state.routes.insert(RouteKey::host(vip), by_director);
    let web1 = observed("web1", &["eth0 10.0.0.11/24"], Some("10.0.0.1"), "");
    let web2 = observed("web2", &["eth0 10.0.0.12/24"], Some("10.0.0.1"), "");
    let (text, remarks) = written(&[lvs, router, web1, web2]);
    assert_parts(
        &text,
        &[
            "routes: [{to: 192.0.2.0/24, via: router}, {to: 192.0.2.128/25, via: 198.51.100.77}]",
            "router: {role: router, interfaces: {eth0: 198.51.100.254/24}, ssh: root@router}",
        ],
    );
    assert_parts(&remarks, &["2 other route(s): 203.0.113.0/25"]);
}
