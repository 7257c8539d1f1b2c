//! The topology file: the operator's description of a cluster.
//!
//! ```text
//! text -> node (syntax, positions) -> load (keys, types) -> resolve (names, defaults) -> Topology
//! ```
//!
//! [`model`] has the resolved topology that the rest of the program uses. Everything is pure except
//! [`read_file`]. Findings are collected: one run shows them all. [`crate::check`] has the rules that
//! tell whether the cluster would work.

mod comments;
mod document;
mod file;
mod load;
mod maintenance;
pub mod model;
mod node;
#[cfg(test)]
mod properties;
mod reach;
mod resolve;
mod scalar;
mod suggest;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use crate::finding::{Finding, Position};
use crate::names::HostName;

pub use comments::{AllowComment, allow_comments};
pub use file::{FileError, read_file};
pub use model::{
    Check, CheckQuestion, CheckTarget, CheckWay, DnsRecord, ETHERNET_MTU, Engine, FirewallMark,
    Forward, Gateway, Host, HttpBody, HttpQuestion, Interface, IpvsSettings, Network, NextHop,
    Pace, PaceOverride, Persistence, Promise, PromisedPart, Quorum, Reach, RealServer, Role,
    SCRIPT_WORDS, Scheduler, SchedulerFlag, Service, SshTarget, StaticRoute, Topology,
    TunnelSources, Vip, WeightSource,
};
pub(crate) use suggest::listed;

/// Hosts with invalid values in the file: rules draw no conclusion from what they lack.
#[derive(Debug, Default)]
pub struct UnclearHosts {
    /// Hosts whose roles or interfaces are not all valid.
    pub hosts: BTreeSet<HostName>,
    /// Hosts whose gateway or routes are not all valid.
    pub gateways: BTreeSet<HostName>,
}

/// The result of reading a text.
#[derive(Debug)]
pub struct ParsedTopology {
    /// The valid part of the topology; `None` if the text has no hosts.
    /// If `findings` has an error, use it only to look for more findings.
    pub topology: Option<Topology>,
    /// Hosts with invalid values.
    pub unclear: UnclearHosts,
    /// Findings about the text, in no particular order.
    pub findings: Vec<Finding>,
}

/// Reads the text of a topology file. `name` is the file's name for messages.
///
/// Pure and total: any text gives a result. [`crate::check::examine`] also applies the rules.
pub fn read(_name: &str, text: &str) -> ParsedTopology {
    let (root, mut findings) = node::parse(text);
    let nothing =
        |findings| ParsedTopology { topology: None, unclear: UnclearHosts::default(), findings };
    let Some(root) = root else {
        if findings.is_empty() {
            findings.push(empty());
        }
        return nothing(findings);
    };
    let (document, more) = load::load(&root);
    findings.extend(more);
    let Some(document) = document else { return nothing(findings) };
    let resolved = resolve::resolve(&document);
    findings.extend(resolved.findings);
    ParsedTopology { topology: resolved.topology, unclear: resolved.unclear, findings }
}

fn empty() -> Finding {
    Finding::error(
        "empty-file",
        Position { line: 1, column: 1, length: 0 },
        "the file is empty",
        "a topology describes networks, hosts and services",
        "start from one of the files under playbooks/",
    )
}
