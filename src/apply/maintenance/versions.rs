//! The versions of a topology within one run: that of the file, and those with hosts in maintenance.

use std::sync::OnceLock;

use crate::apply::cluster_plan::receipts;
use crate::apply::session::{Observations, Session};
use crate::plan::maintenance;
use crate::state::Maintenance;
use crate::topology::Topology;

/// The topology of the file, and each version of it that this run has planned with. A session keeps one of them, so all of
/// them live as long as this value.
#[derive(Debug)]
pub struct TopologyVersions {
    topology: Topology,
    next: OnceLock<Box<TopologyVersions>>,
}

impl TopologyVersions {
    /// With the topology of the file alone.
    pub fn of(file: Topology) -> Self {
        Self { topology: file, next: OnceLock::new() }
    }

    /// The topology of the file.
    pub fn file(&self) -> &Topology {
        &self.topology
    }

    /// The topology of the file while `maintenance` lasts.
    pub fn in_maintenance(&self, maintenance: &Maintenance) -> &Topology {
        let mut last = self;
        while let Some(next) = last.next.get() {
            last = next;
        }
        let version = || Box::new(Self::of(self.topology.in_maintenance(maintenance)));
        &last.next.get_or_init(version).topology
    }

    /// Has `session` follow the receipts of `observed`: from now on the hosts that they have in maintenance are out of service.
    pub fn follow<'a>(&'a self, session: &mut Session<'a>, observed: &Observations) -> Maintenance {
        let maintenance = self.observed(observed);
        self.aim(session, &maintenance);
        maintenance
    }

    /// The real servers in maintenance by the receipts of `observed`.
    pub fn observed(&self, observed: &Observations) -> Maintenance {
        maintenance::of_receipts(receipts(observed).into_values())
            .among(&self.file().real_servers())
    }

    /// Has `session` want what the file says while `maintenance` lasts.
    pub fn aim<'a>(&'a self, session: &mut Session<'a>, maintenance: &Maintenance) {
        if session.topology.maintenance != *maintenance {
            session.retarget(self.in_maintenance(maintenance));
        }
    }
}
