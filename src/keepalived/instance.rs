//! The process that carries out the checks of the file on each director, as a part of what is wanted there.

use std::collections::BTreeMap;

use super::configuration;
use crate::desired::{self, Desired};
use crate::names::HostName;
use crate::state::{DaemonInstance, DaemonProgram};
use crate::topology::Topology;

/// What each host must look like so that every service of `topology` works and its checks are carried out.
pub fn desired_with_checks(topology: &Topology) -> BTreeMap<HostName, Desired> {
    let mut all = desired::desired(topology);
    for (host, desired) in &mut all {
        if let Some(text) = configuration(topology, host) {
            let program = DaemonProgram::Keepalived;
            let instance = DaemonInstance { program, topology: topology.name.clone() };
            let why = "keepalived carries out the checks of the file, and takes real servers that fail them out of service";
            desired.instance(instance, &text, why);
        }
    }
    all
}
