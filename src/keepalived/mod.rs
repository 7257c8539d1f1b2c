//! The configuration of keepalived on a director: the checks of the file, carried out by keepalived 2.2.7 (Debian 12) and
//! later.
//!
//! Pure: a [`Topology`] in, text out. How the text comes onto a director is left to [`crate::apply`] and [`crate::agent`];
//! the IPVS services by mark that checks go through, and the settings that they need, are in [`crate::desired`].
//!
//! keepalived adds the services and real servers of its configuration to the table and takes those that exist for its own,
//! so the text has them exactly as lvsprov makes them. It never has `lvs_flush`, which would empty the whole table.

mod checker;
mod instance;
mod quote;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use serde::Serialize;

use crate::desired::{CheckAims, destination_key};
use crate::names::HostName;
use crate::state::{Protocol, Tunnel};
use crate::topology::{Forward, RealServer, Service, Topology};
use checker::Checker;
pub use instance::desired_with_checks;

const TEMPLATE: &str = include_str!("../../templates/keepalived.conf.j2");

/// The longest line that keepalived reads, in bytes (lib/parser.h, `MAXBUF`, with room for what it appends).
pub const LONGEST_LINE: usize = 1000;

/// The configuration of keepalived on `director`: the services with checks. `None`: it has none, so it needs no keepalived.
pub fn configuration(topology: &Topology, director: &HostName) -> Option<String> {
    text(topology, director, Service::has_checks)
}

/// The same with every service of `director`, with and without checks. `None`: it has no service.
pub fn every_service(topology: &Topology, director: &HostName) -> Option<String> {
    text(topology, director, |_| true)
}

#[derive(Serialize)]
struct VirtualServerText {
    name: String,
    /// What stands behind `virtual_server`: address and port, or a mark.
    selects: String,
    lines: Vec<String>,
    real_servers: Vec<RealServerText>,
}

#[derive(Serialize)]
struct RealServerText {
    host: String,
    /// Address and port.
    at: String,
    lines: Vec<String>,
    check: Option<Checker>,
}

impl RealServerText {
    fn has_script(&self) -> bool {
        self.check.as_ref().is_some_and(Checker::is_script)
    }
}

fn text(
    topology: &Topology,
    director: &HostName,
    is_wanted: impl Fn(&Service) -> bool,
) -> Option<String> {
    let aims = CheckAims::of(topology, director);
    let of_director = topology.services.iter().filter(|service| service.director == *director);
    let services: Vec<VirtualServerText> = of_director
        .filter(|service| is_wanted(service))
        .map(|service| {
            let block = |rs: &RealServer| RealServerText {
                host: rs.host.to_string(),
                at: place(service, rs),
                lines: real_server_lines(rs),
                check: checker::of(&aims, service, rs),
            };
            VirtualServerText {
                name: service.display_name(),
                selects: selects(service),
                lines: service_lines(service),
                real_servers: service.serving().map(block).collect(),
            }
        })
        .collect();
    if services.is_empty() {
        return None;
    }
    let about = [
        format!("Services of {director} in the topology {}, written by lvsprov: changes here are lost.", topology.name),
        "keepalived reads it; lvsprov has what else they need: addresses, settings, and services by mark for checks.".to_owned(),
    ];
    // Else keepalived warns that root runs scripts that others may have written, and its test fails.
    let has_scripts =
        services.iter().flat_map(|it| &it.real_servers).any(RealServerText::has_script);
    let values = minijinja::context! { about => about.to_vec(), has_scripts, services => minijinja::value::Serde(&services) };
    let mut environment = minijinja::Environment::new();
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    // Template and values are the program's own, so it renders; the tests render every playbook.
    let text = environment.render_named_str("keepalived.conf", TEMPLATE, values).ok()?;
    Some(text.trim_end().to_owned() + "\n")
}

fn selects(service: &Service) -> String {
    match (&service.mark, service.vip_address()) {
        (None, Some(vip)) if service.port != 0 => format!("{vip} {}", service.port),
        (None, Some(vip)) => vip.to_string(),
        (mark, _) => format!("fwmark {}", mark.as_ref().map_or(0, |mark| mark.mark)),
    }
}

/// The address of a real server, and its port in the table.
fn place(service: &Service, rs: &RealServer) -> String {
    match destination_key(service, rs).0.port() {
        0 => rs.rip.to_string(),
        port => format!("{} {port}", rs.rip),
    }
}

fn service_lines(service: &Service) -> Vec<String> {
    let mut lines = Vec::new();
    if service.mark.is_some() && service.ipv6 {
        lines.push("ip_family inet6".to_owned());
    }
    lines.push(format!("lvs_sched {}", service.scheduler));
    lines.extend(service.scheduler_flags.iter().map(|flag| flag.as_str().to_owned()));
    if service.one_packet {
        lines.push("ops".to_owned());
    }
    if service.mark.is_none() {
        lines.push(format!("protocol {}", protocol(service.protocol)));
    }
    if let Some(persistence) = &service.persistence {
        lines.push(format!("persistence_timeout {}", persistence.timeout));
        let whole = if service.ipv6 { 128 } else { u32::MAX };
        if persistence.netmask != whole {
            let mask = persistence.netmask;
            let mask =
                if service.ipv6 { mask.to_string() } else { Ipv4Addr::from(mask).to_string() };
            lines.push(format!("persistence_granularity {mask}"));
        }
        lines.extend(persistence.engine.map(|it| format!("persistence_engine {}", it.as_str())));
    }
    lines.extend(service.quorum.map(|quorum| format!("quorum {}", quorum.weight)));
    if let Some(sorry) = service.sorry_server() {
        lines.push(format!("sorry_server {}", place(service, sorry)));
        lines.push(format!("sorry_server_lvs_method {}", method(sorry)));
    }
    lines
}

fn real_server_lines(rs: &RealServer) -> Vec<String> {
    let mut lines = vec![format!("weight {}", rs.weight), format!("lvs_method {}", method(rs))];
    if rs.upper_threshold != 0 {
        lines.push(format!("uthreshold {}", rs.upper_threshold));
    }
    if rs.lower_threshold != 0 {
        lines.push(format!("lthreshold {}", rs.lower_threshold));
    }
    lines
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

/// The forwarding method. IPVS itself knows no FULLNAT: it is NAT there.
fn method(rs: &RealServer) -> String {
    let (mut method, flags) = match (rs.forward, rs.tunnel) {
        (Forward::Nat | Forward::Fullnat, _) => return "NAT".to_owned(),
        (Forward::Dr, _) => return "DR".to_owned(),
        (Forward::Tun, Tunnel::Ipip) => return "TUN".to_owned(),
        (Forward::Tun, Tunnel::Gre { flags }) => ("TUN type gre".to_owned(), flags),
        (Forward::Tun, Tunnel::Gue { port, flags }) => (format!("TUN type gue port {port}"), flags),
    };
    let checksum = match flags {
        0 => "nocsum",
        1 => "csum",
        _ => "remcsum",
    };
    let _ = write!(method, " {checksum}");
    method
}
