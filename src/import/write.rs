//! Writes a draft as a topology file, with comments about guesses.
//!
//! Only values that differ from the file's defaults are written. A comment at the end lists the parts of
//! the source that are not in the file.

use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::draft::{DraftHost, DraftInterface, DraftIpvs, DraftTopology};
use super::entries::{self, EntryTarget, PersistenceEntry, RealServerEntry, ServiceEntry};
use super::remark::{Remark, RemarkKind};
use super::rules::GivenTimeouts;
use crate::state::{Protocol, SyncDaemon, VsItem};
use crate::topology::Role;
use crate::visible::visible;

/// A topology file with the remarks about it.
#[derive(Debug, Clone, Serialize)]
pub struct WrittenTopology {
    /// The text of the file.
    pub topology: String,
    /// All guesses and left-out parts.
    pub remarks: Vec<Remark>,
}

/// Writes `draft`. `remarks` are the remarks so far, `source` names the source.
pub fn write(draft: &DraftTopology, mut remarks: Vec<Remark>, source: &str) -> WrittenTopology {
    let mut entries = entries::entries(draft, &mut remarks);
    let mut hosts = draft.hosts.clone();
    for host in hosts.values_mut() {
        host.ipvs.timeouts = entries::timeouts(host.ipvs.timeouts, &mut remarks);
    }
    let mut text = TopologyText(String::new());
    text.head(source, &remarks, hosts.values().any(|host| host.reach.is_some()));
    text.line(format_args!("version: 1"));
    text.line(format_args!("name: {}", scalar(draft.name.as_str())));
    text.line(format_args!("networks:"));
    for (name, subnets) in &draft.networks {
        let subnets: Vec<_> = subnets.iter().map(|net| scalar(&net.to_string())).collect();
        text.line(format_args!("  {}: [{}]", scalar(name.as_str()), subnets.join(", ")));
    }
    text.line(format_args!("hosts:"));
    for (name, host) in &hosts {
        text.host(name.as_str(), host);
    }
    if let Some(check) = share_check(&mut entries) {
        text.line(format_args!("defaults: {{check: {check}}}"));
    }
    // With one director, services need not name it.
    let directors =
        draft.hosts.values().filter(|host| host.roles.contains(&Role::Director)).count();
    if entries.is_empty() {
        text.line(format_args!("services: []"));
    } else {
        text.line(format_args!("services:"));
    }
    for entry in &entries {
        text.service(entry, directors > 1);
    }
    text.foot(&remarks);
    WrittenTopology { topology: text.0, remarks }
}

struct TopologyText(String);

impl TopologyText {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{line}");
    }

    fn comment(&mut self, text: &str) {
        // Text from the source must not end the comment.
        let safe = visible(text);
        self.line(format_args!("# {safe}"));
    }

    fn head(&mut self, source: &str, remarks: &[Remark], reached: bool) {
        self.comment(&format!("Made by `lvsprov import` from {source}."));
        let guesses: Vec<_> =
            remarks.iter().filter(|remark| remark.kind == RemarkKind::Guessed).collect();
        for remark in &guesses {
            self.comment(&remark.to_string());
        }
        if remarks.len() > guesses.len() {
            self.comment("Parts of the source that are not in this file are listed at the end.");
        }
        self.comment(if reached {
            "Next: run lvsprov check, then plan."
        } else {
            "Next: add the connection of each host (ssh: root@HOST), then run lvsprov check, then plan."
        });
    }

    fn foot(&mut self, remarks: &[Remark]) {
        let mut left =
            remarks.iter().filter(|remark| remark.kind != RemarkKind::Guessed).peekable();
        if left.peek().is_some() {
            self.line(format_args!("#"));
            self.comment("Not in this file:");
        }
        for remark in left {
            self.comment(&remark.to_string());
        }
    }

    fn host(&mut self, name: &str, host: &DraftHost) {
        let DraftHost { roles, interfaces, gateways, routes, reach, ipvs, guessed } = host;
        if let Some(guessed) = guessed {
            self.line(format_args!("  # guessed: {guessed}"));
        }
        let mut parts = vec![format!("role: {}", list(roles.iter().map(|role| role_name(*role))))];
        let interfaces: Vec<_> = interfaces
            .iter()
            .map(|(name, interface)| format!("{}: {}", scalar(name.as_str()), plugged(interface)))
            .collect();
        parts.push(format!("interfaces: {{{}}}", interfaces.join(", ")));
        if !gateways.is_empty() {
            parts
                .push(format!("gateway: {}", list(gateways.iter().map(|gateway| scalar(gateway)))));
        }
        if !routes.is_empty() {
            let route = |(to, via): &(IpNet, String)| {
                format!("{{to: {}, via: {}}}", scalar(&to.to_string()), scalar(via))
            };
            let routes: Vec<_> = routes.iter().map(route).collect();
            parts.push(format!("routes: [{}]", routes.join(", ")));
        }
        if let Some((key, value)) = reach {
            let value = if *key == "local" { "true".to_owned() } else { scalar(value) };
            parts.push(format!("{key}: {value}"));
        }
        if ipvs.is_empty() {
            self.line(format_args!("  {}: {{{}}}", scalar(name), parts.join(", ")));
            return;
        }
        self.line(format_args!("  {}:", scalar(name)));
        for part in parts {
            self.line(format_args!("    {part}"));
        }
        self.ipvs(ipvs);
    }

    fn ipvs(&mut self, ipvs: &DraftIpvs) {
        let DraftIpvs { timeouts, daemons, settings } = ipvs;
        self.line(format_args!("    ipvs:"));
        if !timeouts.is_empty() {
            let GivenTimeouts { tcp, tcp_fin, udp } = timeouts;
            let all = [("tcp", tcp), ("tcp_fin", tcp_fin), ("udp", udp)];
            let parts =
                all.into_iter().filter_map(|(name, value)| Some(format!("{name}: {}", (*value)?)));
            self.line(format_args!("      timeouts: {{{}}}", parts.collect::<Vec<_>>().join(", ")));
        }
        if !daemons.is_empty() {
            self.line(format_args!("      sync:"));
        }
        for (role, daemon) in daemons {
            self.line(format_args!("        {role}: {{{}}}", daemon_parts(daemon).join(", ")));
        }
        if !settings.is_empty() {
            let parts = settings.iter().map(|(item, value)| setting(*item, value));
            self.line(format_args!("      settings: {{{}}}", parts.collect::<Vec<_>>().join(", ")));
        }
    }

    fn service(&mut self, entry: &ServiceEntry, several_directors: bool) {
        let ServiceEntry {
            target,
            director,
            vip_prefix,
            vip_interface,
            forward,
            tunnel,
            scheduler,
            scheduler_flags,
            persistence,
            one_packet,
            external,
            check,
            quorum,
            sorry_server,
            reals,
        } = entry;
        let mut parts = target_parts(target, *vip_prefix);
        if several_directors {
            parts.push(format!("director: {}", scalar(director.as_str())));
        }
        parts.extend(
            vip_interface.iter().map(|dev| format!("vip_interface: {}", scalar(dev.as_str()))),
        );
        parts.push(format!("forward: {forward}"));
        parts.extend(tunnel.iter().map(|tunnel| format!("tunnel: {tunnel}")));
        parts.push(format!("scheduler: {scheduler}"));
        if !scheduler_flags.is_empty() {
            parts.push(format!("scheduler_flags: [{}]", scheduler_flags.join(", ")));
        }
        parts.extend(persistence.iter().map(persistence_part));
        if *one_packet {
            parts.push("one_packet: true".to_owned());
        }
        if *external {
            parts.push("weights: external".to_owned());
        }
        parts.extend(check.iter().map(|check| format!("check: {check}")));
        parts.extend(quorum.map(|quorum| format!("quorum: {quorum}")));
        parts
            .extend(sorry_server.iter().map(|sorry| format!("sorry_server: {}", real_text(sorry))));
        for (number, part) in parts.iter().enumerate() {
            self.line(format_args!("  {} {part}", if number == 0 { '-' } else { ' ' }));
        }
        let plain = |real: &RealServerEntry| real_parts(real).len() == 1;
        if reals.iter().all(plain) && reals.len() <= 6 {
            let names = reals.iter().map(|real| scalar(real.host.as_str()));
            self.line(format_args!("    real_servers: [{}]", names.collect::<Vec<_>>().join(", ")));
            return;
        }
        self.line(format_args!("    real_servers:"));
        for real in reals {
            self.line(format_args!("      - {}", real_text(real)));
        }
    }
}

/// Takes the check that every service has out of them: it is a default.
fn share_check(entries: &mut [ServiceEntry]) -> Option<String> {
    let first = entries.first().and_then(|entry| entry.check.clone())?;
    if entries.len() < 2 || entries.iter().any(|entry| entry.check.as_ref() != Some(&first)) {
        return None;
    }
    for entry in entries {
        entry.check = None;
    }
    Some(first)
}

fn role_name(role: Role) -> String {
    match role {
        Role::Client => "client",
        Role::Router => "router",
        Role::Director => "director",
        Role::RealServer => "real_server",
    }
    .to_owned()
}

/// One item as a scalar, several as a list.
fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<_> = items.collect();
    match items.as_slice() {
        [only] => only.clone(),
        _ => format!("[{}]", items.join(", ")),
    }
}

fn plugged(interface: &DraftInterface) -> String {
    let DraftInterface { addresses, network } = interface;
    let addresses = || list(addresses.iter().map(|net: &IpNet| scalar(&net.to_string())));
    match network {
        None => addresses(),
        Some(network) if interface.addresses.is_empty() => {
            format!("{{network: {}}}", scalar(network.as_str()))
        }
        Some(network) => {
            format!(
                "{{addresses: [{}], network: {}}}",
                addresses().trim_matches(['[', ']']),
                scalar(network.as_str())
            )
        }
    }
}

/// What differs from the kernel's defaults.
fn daemon_parts(daemon: &SyncDaemon) -> Vec<String> {
    let usual = SyncDaemon::on(daemon.interface.clone());
    let SyncDaemon { interface, id, max_length, group, port, ttl } = daemon;
    let mut parts = vec![format!("interface: {}", scalar(interface.as_str()))];
    let mut say = |differs: bool, part: String| {
        if differs {
            parts.push(part);
        }
    };
    say(*id != usual.id, format!("id: {id}"));
    say(*group != usual.group, format!("group: {}", scalar(&group.to_string())));
    say(*port != usual.port, format!("port: {port}"));
    say(*ttl != usual.ttl, format!("ttl: {ttl}"));
    say(*max_length != usual.max_length, format!("max_length: {max_length}"));
    parts
}

/// `sync_threshold` is two numbers.
fn setting(item: VsItem, value: &str) -> String {
    let values: Vec<_> = value.split_whitespace().map(scalar).collect();
    match values.as_slice() {
        [one] => format!("{}: {one}", item.as_str()),
        _ => format!("{}: [{}]", item.as_str(), values.join(", ")),
    }
}

fn target_parts(target: &EntryTarget, prefix: Option<u8>) -> Vec<String> {
    match target {
        EntryTarget::Address { vip, protocol, ports } => {
            let vip = match prefix {
                Some(bits) => format!("{vip}/{bits}"),
                None => vip.to_string(),
            };
            let mut parts = vec![format!("vip: {}", scalar(&vip))];
            parts.push(match ports.as_slice() {
                [0] => "port: any".to_owned(),
                [port] => format!("port: {port}"),
                _ => format!("ports: {ports:?}"),
            });
            if *protocol != Protocol::Tcp {
                parts.push(format!("protocol: {protocol}"));
            }
            parts
        }
        EntryTarget::Mark { mark, v6, udp } => {
            let mut parts = vec![format!("mark: {mark}")];
            if *udp {
                parts.push("protocol: udp".to_owned());
            }
            if *v6 {
                parts.push("family: ipv6".to_owned());
            }
            parts
        }
    }
}

fn persistence_part(persistence: &PersistenceEntry) -> String {
    let PersistenceEntry { timeout, mask, engine } = persistence;
    if mask.is_none() && engine.is_none() {
        return format!("persistence: {timeout}");
    }
    let mut parts = vec![format!("timeout: {timeout}")];
    parts.extend(mask.iter().map(|mask| format!("mask: {mask}")));
    parts.extend(engine.iter().map(|engine| format!("engine: {}", scalar(engine))));
    format!("persistence: {{{}}}", parts.join(", "))
}

/// A name, or a mapping.
fn real_text(real: &RealServerEntry) -> String {
    match real_parts(real).as_slice() {
        [_] => scalar(real.host.as_str()),
        parts => format!("{{{}}}", parts.join(", ")),
    }
}

fn real_parts(real: &RealServerEntry) -> Vec<String> {
    let RealServerEntry { host, address, port, weight, upper, lower, forward, tunnel, check } =
        real;
    let mut parts = vec![format!("host: {}", scalar(host.as_str()))];
    parts.extend(address.iter().map(|ip: &IpAddr| format!("address: {}", scalar(&ip.to_string()))));
    parts.extend(port.iter().map(|port| format!("port: {port}")));
    for (name, value, usual) in
        [("weight", *weight, 1), ("upper_threshold", *upper, 0), ("lower_threshold", *lower, 0)]
    {
        if value != usual {
            parts.push(format!("{name}: {value}"));
        }
    }
    parts.extend(forward.iter().map(|forward| format!("forward: {forward}")));
    parts.extend(tunnel.iter().map(|tunnel| format!("tunnel: {tunnel}")));
    parts.extend(check.iter().map(|check| format!("check: {check}")));
    parts
}

/// A scalar that YAML 1.1 and 1.2 read as that text, in flow collections too: IPv4 addresses, names that
/// begin with a letter, paths and numbers are plain, everything else is quoted.
pub(super) fn scalar(text: &str) -> String {
    const WORDS: &[&str] = &["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let ipv4 =
        text.split('/').next().is_some_and(|text| text.parse::<std::net::Ipv4Addr>().is_ok());
    let name = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@' | '/'))
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    let digits = text.strip_prefix('-').unwrap_or(text);
    let number = text.len() < 10
        && digits.bytes().all(|b| b.is_ascii_digit())
        && !digits.is_empty()
        && (digits == "0" || !digits.starts_with('0'));
    if ipv4 || name || number {
        return text.to_owned();
    }
    // Debug quoting is valid YAML here: names that passed their constructor have no escapes.
    format!("{text:?}")
}
