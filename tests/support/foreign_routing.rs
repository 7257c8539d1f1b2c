//! Routes and policy rules that are not lvsprov's: what a VPN, a second provider or an old script leaves on a host.

use std::net::IpAddr;

use ipnet::IpNet;
use lvsprov::names::HostName;
use lvsprov::topology::{Host, Role, Service, Topology};

/// Commands of `ip` on one host, and those that take it back.
#[derive(Debug, Clone)]
pub struct ForeignRouting {
    pub host: HostName,
    /// Of which family the commands are.
    pub ipv6: bool,
    pub commands: Vec<String>,
    pub back: Vec<String>,
}

/// A table that nothing else uses.
const TABLE: u32 = 77;
/// Before the main table is asked.
const PRIORITY: u32 = 900;

/// What is tried on every host of `topology` but its clients.
pub fn all(topology: &Topology) -> Vec<ForeignRouting> {
    let mut all = Vec::new();
    for host in topology.hosts.values() {
        for client in topology.with_role(Role::Client) {
            for own in client.interfaces.values().flat_map(|it| &it.addresses) {
                if host.name != client.name && has_family(host, own.addr()) {
                    all.extend(towards(topology, host, own.addr()));
                }
            }
        }
        let vips = topology.services.iter().filter_map(Service::vip_address);
        let vips: std::collections::BTreeSet<IpAddr> = vips.collect();
        for vip in vips.into_iter().filter(|vip| has_family(host, *vip)) {
            all.extend(for_vip(host, vip));
        }
    }
    all
}

fn has_family(host: &Host, address: IpAddr) -> bool {
    let mut own = host.interfaces.values().flat_map(|interface| &interface.addresses);
    own.any(|net| net.addr().is_ipv4() == address.is_ipv4())
}

/// Ways to a client that differ from the default one.
fn towards(topology: &Topology, host: &Host, client: IpAddr) -> Vec<ForeignRouting> {
    let client_net = IpNet::from(client);
    let rule = |what: &str| format!("rule add pref {PRIORITY} {what}");
    let no_rule = format!("rule del pref {PRIORITY}");
    let one = |command: String, back: String| ForeignRouting {
        host: host.name.clone(),
        ipv6: client.is_ipv6(),
        commands: vec![command],
        back: vec![back],
    };
    let mut all = vec![
        one(
            format!("route add blackhole {client_net}"),
            format!("route del blackhole {client_net}"),
        ),
        one(rule(&format!("to {client_net} prohibit")), no_rule.clone()),
        one(rule(&format!("from {client_net} blackhole")), no_rule.clone()),
        // Empty: the main table is asked next.
        one(rule(&format!("to {client_net} lookup {TABLE}")), no_rule.clone()),
        // As wg-quick(8) does: default routes of the main table are passed over, and then asked all the same.
        one(rule("lookup main suppress_prefixlength 0"), no_rule.clone()),
        one(rule("not from all fwmark 51820 lookup 77"), no_rule.clone()),
        // A selector that the walk does not know.
        one(rule(&format!("to {client_net} uidrange 4000-5000 prohibit")), no_rule.clone()),
    ];
    // A more specific way by each other host on its networks.
    let neighbours = topology.hosts.values().filter(|other| other.name != host.name);
    for other in neighbours {
        let gateway = other.interfaces.values().flat_map(|it| &it.addresses).find(|net| {
            net.addr().is_ipv4() == client.is_ipv4()
                && net.addr() != client
                && host
                    .interfaces
                    .values()
                    .flat_map(|own| &own.addresses)
                    .any(|own| own.contains(&net.addr()))
        });
        let Some(gateway) = gateway.map(IpNet::addr) else { continue };
        all.push(one(
            format!("route add {client_net} via {gateway} metric 7"),
            format!("route del {client_net} via {gateway} metric 7"),
        ));
        all.push(ForeignRouting {
            host: host.name.clone(),
            ipv6: client.is_ipv6(),
            commands: vec![
                format!("route add default via {gateway} table {TABLE}"),
                rule(&format!("to {client_net} lookup {TABLE}")),
            ],
            back: vec![no_rule.clone(), format!("route flush table {TABLE}")],
        });
    }
    all
}

/// What is about the VIP.
fn for_vip(host: &Host, vip: IpAddr) -> Vec<ForeignRouting> {
    let net = IpNet::from(vip);
    let no_rule = format!("rule del pref {PRIORITY}");
    let rules = [
        format!("from {net} prohibit"),
        format!("to {net} unreachable"),
        format!("from {net} lookup {TABLE}"),
    ];
    let of_rule = |rule: String| ForeignRouting {
        host: host.name.clone(),
        ipv6: vip.is_ipv6(),
        commands: vec![format!("rule add pref {PRIORITY} {rule}")],
        back: vec![no_rule.clone()],
    };
    let throw = ForeignRouting {
        host: host.name.clone(),
        ipv6: vip.is_ipv6(),
        commands: vec![
            format!("route add throw {net} table {TABLE}"),
            format!("route add blackhole default table {TABLE}"),
            format!("rule add pref {PRIORITY} to {net} lookup {TABLE}"),
        ],
        back: vec![no_rule.clone(), format!("route flush table {TABLE}")],
    };
    rules.map(of_rule).into_iter().chain([throw]).collect()
}
