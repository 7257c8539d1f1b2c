//! Addresses and routes of a host in the files of ifupdown and systemd-networkd. Pure.
//!
//! Both know interfaces alone. ifupdown also runs commands, so its stanzas set the values below /proc/sys before they add
//! an address.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::host::{
    HostFile, HostFiles, HostFilesError, is_of_other_programs, left_out, one_line,
};
use super::shell::{self, below_proc_sys, line, quote};
use crate::names::{IfName, TopologyName};
use crate::state::{
    Address, AddressKey, Edit, HostState, KeyedEdit, Link, Route, RouteKey, Step,
};
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
    // lo is a valid name, whatever else the host has.
    let Ok(loopback) = "lo".parse::<IfName>() else { return Ok(HostFiles::default()) };
    let lo = || loopback.clone();
    let mut stanzas: BTreeMap<IfName, Stanza> = BTreeMap::new();
    let mut unsupported = Vec::new();
    let none = HostState::default();
    for step in steps {
        let (dev, lines) = match &step.edit {
            Edit::Module(edit) => (lo(), vec![format!("pre-up modprobe {}", quote(edit.key.as_str()))]),
            Edit::Sysctl(KeyedEdit { key, after: Some(value), .. }) => {
                let dev = key.device().cloned().unwrap_or_else(lo);
                let target = format!("/proc/sys/{}", below_proc_sys(key));
                (dev, vec![format!("pre-up {} >{}", line(["echo", value]), quote(&target))])
            }
            Edit::Link(KeyedEdit { key, after: Some(Link::Up), .. }) => {
                stanzas.entry(key.clone()).or_default().is_own = true;
                (key.clone(), vec![format!("up {}", line(["ip", "link", "set", "dev", key.as_str(), "up"]))])
            }
            Edit::Tunnel(edit) => match shell::command(&step.edit, &none) {
                Ok(Some(command)) => (edit.key.clone(), vec![format!("pre-up {command}")]),
                _ => continue,
            },
            Edit::Address(KeyedEdit { key, after: Some(address), .. }) => {
                let net = key.net.to_string();
                let down = line(["ip", "address", "delete", &net, "dev", key.dev.as_str()]);
                let up = shell::add_address(key, address);
                (key.dev.clone(), vec![format!("up {up}"), format!("down {down} || :")])
            }
            Edit::Route(KeyedEdit { key, after: Some(route), .. }) => {
                match (dev_of(route, host), shell::replace_route(key, route)) {
                    (Some(dev), Ok(command)) => (dev, vec![format!("up {command}")]),
                    _ => {
                        unsupported.push(left_out(&step.edit, "no interface of the file leads there"));
                        continue;
                    }
                }
            }
            Edit::Destination(_) => continue,
            edit => {
                let why = if is_of_other_programs(edit) {
                    "ifupdown knows interfaces alone; `render ipvsadm` has the services, `render host --as lsb` all of it"
                } else {
                    "ifupdown has no word for it"
                };
                unsupported.push(left_out(edit, why));
                continue;
            }
        };
        stanzas.entry(dev).or_default().lines.extend(lines);
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
                _ => unsupported.push(left_out(&step.edit, "no interface of the file leads there")),
            },
            Edit::Destination(_) => {}
            edit => {
                let why = match edit {
                    Edit::Sysctl(_) | Edit::Module(_) => "networkd does not set it; `render host --as sysctl` does",
                    _ => "networkd does not set it; `render host --as lsb` does",
                };
                unsupported.push(left_out(edit, why));
            }
        }
    }
    let mut files = Vec::new();
    for (dev, sections) in parts {
        let name = plain(&dev)?;
        let about = format!("# {} in the cluster {topology}: what lvsprov adds to {name}.\n", host.name);
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
