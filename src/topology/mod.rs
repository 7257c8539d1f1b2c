//! The topology file: what a user says about a cluster.
//!
//! ```text
//! text -> node (syntax, positions) -> load (keys, types) -> resolve (names, defaults) -> Topology
//! ```
//!
//! [`model`] holds the resolved topology that the rest of the
//! program works with. All of it is pure but [`read_file`]. Findings are collected, never thrown:
//! one run shows them all. Whether the result makes sense is the business of [`crate::check`].

mod document;
mod file;
mod load;
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

pub use file::{FileError, read_file};
pub use model::{
    Engine, Forward, Gateway, Host, Interface, IpvsSettings, Mark, Network, Pace, PaceOverride,
    Persistence, Reach, RealServer, Role, Scheduler, SchedulerFlag, Service, SshTarget, Topology,
    Vip,
};
pub(crate) use suggest::listed;

/// Hosts of which something could not be understood.
#[derive(Debug, Default)]
pub struct Unclear {
    /// Whose roles or interfaces.
    pub hosts: BTreeSet<HostName>,
    /// Whose gateway.
    pub gateways: BTreeSet<HostName>,
}

/// What was read from a text.
#[derive(Debug)]
pub struct Read {
    /// As much as could be resolved; `None` where nothing sensible could be.
    /// With an error among the findings it is good for looking for more of them only.
    pub topology: Option<Topology>,
    /// Nothing may be concluded from what these lack.
    pub unclear: Unclear,
    /// What was wrong in the text, in no particular order.
    pub findings: Vec<Finding>,
}

/// Reads the text of a topology file. `name` is the file's name for messages.
///
/// Pure and total: any text gives a result. See [`crate::check::examine`] for the rules as well.
pub fn read(_name: &str, text: &str) -> Read {
    let (root, mut findings) = node::parse(text);
    let nothing = |findings| Read { topology: None, unclear: Unclear::default(), findings };
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
    Read { topology: resolved.topology, unclear: resolved.unclear, findings }
}

fn empty() -> Finding {
    Finding::error(
        "empty-file",
        Position { line: 1, column: 1, length: 0 },
        "the file says nothing",
        "a topology describes networks, hosts and services",
        "start from one of the files under playbooks/",
    )
}
