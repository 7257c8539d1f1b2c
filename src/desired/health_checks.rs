//! The daemon that carries out the checks of the file on each director. What it is to do, [`crate::keepalived`] writes.

use std::collections::BTreeMap;

use super::Desired;
use crate::keepalived;
use crate::names::HostName;
use crate::state::{DaemonInstance, DaemonProgram};
use crate::topology::Topology;

/// Adds keepalived to the directors that have checks.
pub(super) fn settle(topology: &Topology, all: &mut BTreeMap<HostName, Desired>) {
    for (host, desired) in all {
        if let Some(text) = keepalived::configuration(topology, host) {
            let program = DaemonProgram::Keepalived;
            let instance = DaemonInstance { program, topology: topology.name.clone() };
            let why = "keepalived carries out the checks of the file, and takes real servers that fail them out of service";
            desired.instance(instance, text, why);
        }
    }
}
