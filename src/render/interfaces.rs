//! Addresses and routes of a host in the files of ifupdown and systemd-networkd. Pure.
//!
//! Both know interfaces alone. ifupdown also runs commands, so its stanzas set the values below /proc/sys before they add
//! an address.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::host::{HostFile, HostFiles, HostFilesError, is_of_other_programs, left_out, one_line};
use super::shell::{self, below_proc_sys, line, quote};
use crate::names::{IfName, TopologyName};
use crate::state::{Address, AddressKey, Edit, HostState, KeyedEdit, Link, Route, RouteKey, Step};
use crate::topology::Host;

/// The name as it stands in a file of either program.
fn plain(dev: &IfName) -> Result<&str, HostFilesError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-@".contains(c);
    if dev.as_str().chars().all(is_plain) {
        Ok(dev.as_str())
    } else {
        Err(HostFilesError::InterfaceName(dev.clone()))
    }
}

/// The interface that a route belongs to: its own, or the one whose subnet has the next hop.
fn dev_of(route: &Route, host: &Host) -> Option<IfName> {
    let has = |gateway: IpAddr| {
        let fits = |dev: &&crate::topology::Interface| {
            dev.addresses.iter().any(|net| net.contains(&gateway))
        };
        host.interfaces.values().find(fits).map(|dev| dev.name.clone())
    };
    route.dev.clone().or_else(|| has(route.gateway?))
}

/// The lines of one stanza.
#[derive(Default)]
struct Stanza {
    /// Whether lvsprov's part makes or raises the interface.
    is_own: bool,
    lines: Vec<String>,
}

/// Stanzas beside those that give the interfaces their own addresses (interfaces(5)).
pub(super) fn ifupdown(
    topology: &TopologyName,
    host: &Host,
    steps: &[Step],
) -> Result<HostFiles, HostFilesError> {
    let mut stanzas: BTreeMap<IfName, Stanza> = BTreeMap::new();
    let mut unsupported = Vec::new();
    for step in steps {
        match stanza_lines(&step.edit, host) {
            Ok(Some((dev, lines))) => {
                let stanza = stanzas.entry(dev).or_default();
                stanza.is_own |= matches!(step.edit, Edit::Link(_));
                stanza.lines.extend(lines);
            }
            Ok(None) => {}
            Err(why) => unsupported.push(left_out(&step.edit, why)),
        }
    }
    let mut text = format!(
        "# {} in the cluster {topology}: what lvsprov adds to its interfaces.\n\
         # Install it beside the stanzas that give the interfaces their own addresses; those stay as they are.\n\
         # What it cannot keep: values of lo count for all interfaces, so lo has to come up first (it does, where \
         `auto lo`\n# is the first stanza); a director's VIP comes with its interface, whether IPVS has its services or not.\n",
        host.name
    );
    for (dev, Stanza { is_own, lines }) in &stanzas {
        let name = plain(dev)?;
        text.push('\n');
        if *is_own {
            let _ = writeln!(text, "auto {name}");
        }
        // Writing to a String does not fail.
        let _ = writeln!(text, "iface {name} inet manual");
        for line in lines {
            let _ = writeln!(text, "    {}", one_line(line));
        }
    }
    let path = format!("/etc/network/interfaces.d/lvsprov-{topology}");
    Ok(HostFiles { files: vec![HostFile { path, mode: 0o644, text }], unsupported })
}

/// The interface whose stanza has `edit`, and its lines; `None`: it is part of another edit. `Err`: why there is none.
fn stanza_lines(edit: &Edit, host: &Host) -> Result<Option<(IfName, Vec<String>)>, &'static str> {
    // It is a valid name, whatever else the host has.
    let lo = || "lo".parse::<IfName>().map_err(|_| "ifupdown has no word for it");
    Ok(Some(match edit {
        Edit::Module(edit) => {
            (lo()?, vec![format!("pre-up modprobe {}", quote(edit.key.as_str()))])
        }
        Edit::Sysctl(KeyedEdit { key, after: Some(value), .. }) => {
            let dev = key.device().cloned().map_or_else(lo, Ok)?;
            let target = format!("/proc/sys/{}", below_proc_sys(key));
            (dev, vec![format!("pre-up {} >{}", line(["echo", value]), quote(&target))])
        }
        Edit::Link(KeyedEdit { key, after: Some(Link::Up), .. }) => {
            let up = line(["ip", "link", "set", "dev", key.as_str(), "up"]);
            (key.clone(), vec![format!("up {up}")])
        }
        Edit::Tunnel(KeyedEdit { key, .. }) => match shell::command(edit, &HostState::default())? {
            Some(command) => (key.clone(), vec![format!("pre-up {command}")]),
            None => return Ok(None),
        },
        Edit::Address(KeyedEdit { key, after: Some(address), .. }) => {
            let net = key.net.to_string();
            let down = line(["ip", "address", "delete", &net, "dev", key.dev.as_str()]);
            let up = shell::add_address(key, address);
            (key.dev.clone(), vec![format!("up {up}"), format!("down {down} || :")])
        }
        Edit::Route(KeyedEdit { key, after: Some(route), .. }) => {
            let dev = dev_of(route, host).ok_or(LEADS_NOWHERE)?;
            (dev, vec![format!("up {}", shell::replace_route(key, route)?)])
        }
        Edit::Destination(_) => return Ok(None),
        edit if is_of_other_programs(edit) => {
            return Err(
                "ifupdown knows interfaces alone; `render ipvsadm` has the services, `render host --as lsb` all of it",
            );
        }
        _ => return Err("ifupdown has no word for it"),
    }))
}

const LEADS_NOWHERE: &str = "no interface of the file leads there";

/// Files and drop-ins (systemd.network(5)).
pub(super) fn networkd(
    topology: &TopologyName,
    host: &Host,
    steps: &[Step],
) -> Result<HostFiles, HostFilesError> {
    let mut parts: BTreeMap<IfName, String> = BTreeMap::new();
    let mut unsupported = Vec::new();
    for step in steps {
        match &step.edit {
            Edit::Address(KeyedEdit { key, after: Some(address), .. }) => {
                parts.entry(key.dev.clone()).or_default().push_str(&address_section(key, address));
            }
            Edit::Route(KeyedEdit { key, after: Some(route), .. }) => match dev_of(route, host) {
                Some(dev) if route.unsupported.is_empty() => {
                    parts.entry(dev).or_default().push_str(&route_section(key, route));
                }
                _ => unsupported.push(left_out(&step.edit, LEADS_NOWHERE)),
            },
            Edit::Destination(_) => {}
            edit => {
                let why = match edit {
                    Edit::Sysctl(_) | Edit::Module(_) => {
                        "networkd does not set it; `render host --as sysctl` does"
                    }
                    _ => "networkd does not set it; `render host --as lsb` does",
                };
                unsupported.push(left_out(edit, why));
            }
        }
    }
    let mut files = Vec::new();
    for (dev, sections) in parts {
        let name = plain(&dev)?;
        let about =
            format!("# {} in the cluster {topology}: what lvsprov adds to {name}.\n", host.name);
        let keeps = "# What it cannot keep: nothing orders it behind the ARP settings (`render host --as sysctl`) or behind IPVS.\n";
        let (path, text) = if host.interfaces.contains_key(&dev) && name != "lo" {
            let beside = format!(
                "# A drop-in: name its folder after the .network file of {name} (networkctl status {name}), with `.d` behind it.\n"
            );
            let path = format!("/etc/systemd/network/{name}.network.d/50-lvsprov-{topology}.conf");
            (path, format!("{about}{beside}{keeps}{sections}"))
        } else {
            let path = format!("/etc/systemd/network/50-lvsprov-{topology}-{name}.network");
            (path, format!("{about}{keeps}\n[Match]\nName={name}\n{sections}"))
        };
        files.push(HostFile { path, mode: 0o644, text });
    }
    Ok(HostFiles { files, unsupported })
}

fn address_section(key: &AddressKey, address: &Address) -> String {
    let Address { scope, label, broadcast, nodad, deprecated } = address;
    let mut text = format!("\n[Address]\nAddress={}\n", key.net);
    if key.net.addr().is_ipv4() {
        let _ = writeln!(text, "Scope={}", scope.number());
    }
    if let Some(label) = label {
        let _ = writeln!(text, "Label={}", one_line(label));
    }
    if let Some(broadcast) = broadcast {
        let _ = writeln!(text, "Broadcast={broadcast}");
    }
    if *nodad {
        text.push_str("DuplicateAddressDetection=none\n");
    }
    if *deprecated {
        text.push_str("PreferredLifetime=0\n");
    }
    text
}

fn route_section(key: &RouteKey, route: &Route) -> String {
    let mut text = format!("\n[Route]\nDestination={}\n", key.0);
    if let Some(gateway) = route.gateway {
        let _ = writeln!(text, "Gateway={gateway}");
    } else {
        let _ = writeln!(text, "Scope={}", route.scope.number());
    }
    if let Some(source) = route.source {
        let _ = writeln!(text, "PreferredSource={source}");
    }
    if route.metric != 0 {
        let _ = writeln!(text, "Metric={}", route.metric);
    }
    if route.onlink {
        text.push_str("GatewayOnLink=yes\n");
    }
    text
}
