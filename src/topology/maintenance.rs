//! What a topology is while hosts are in maintenance: the one place that says so. Pure.

use std::collections::BTreeSet;

use super::model::{Scheduler, SchedulerFlag, Topology};
use crate::names::HostName;
use crate::state::{Maintenance, VsItem};

impl Topology {
    /// The topology of the file while `maintenance` lasts. Start from the file's own: the weights of now are lost in the
    /// result.
    ///
    /// * A real server in maintenance has the weight 0 in each service: its connections go on, and it gets no new one.
    /// * `sh` and `mh` go on choosing it and refuse its clients, unless their flag for falling back is set
    ///   (ip_vs_sh.c, `ip_vs_sh_schedule`; ip_vs_mh.c): it is.
    /// * `dh` knows no such flag (ip_vs_dh.c): the director has the real server out of the service meanwhile
    ///   ([`crate::desired`] leaves it out), and its connections are cut.
    /// * Persistence goes on sending its clients there unless `expire_quiescent_template` is 1
    ///   (ip_vs_conn.c, `ip_vs_check_template`): what the file says of that is put aside, and [`crate::desired`] sets 1.
    ///
    /// Hosts that are no real servers of the file do not count.
    #[must_use]
    pub fn in_maintenance(&self, maintenance: &Maintenance) -> Self {
        let mut topology = self.clone();
        topology.maintenance = maintenance.clone().among(&self.real_servers());
        let mut persistent = BTreeSet::new();
        for service in &mut topology.services {
            let is_out = |host: &HostName| topology.maintenance.contains(host);
            if !service.real_servers.iter().any(|server| is_out(&server.host)) {
                continue;
            }
            for server in service.real_servers.iter_mut().filter(|server| is_out(&server.host)) {
                server.weight = 0;
            }
            if let Some(flag) = fallback(service.scheduler) {
                let has_it = |set: &SchedulerFlag| set.bit() == flag.bit();
                if !service.scheduler_flags.iter().any(has_it) {
                    service.scheduler_flags.insert(flag);
                }
            }
            if service.persistence.is_some() {
                persistent.insert(service.director.clone());
            }
        }
        for (name, host) in &mut topology.hosts {
            if persistent.contains(name) {
                host.ipvs.settings.remove(&VsItem::ExpireQuiescentTemplate);
            }
        }
        topology
    }

    /// The hosts that are real servers of any service.
    pub fn real_servers(&self) -> BTreeSet<HostName> {
        let servers = self.services.iter().flat_map(|service| &service.real_servers);
        servers
            .map(|server| server.host.clone())
            .filter(|host| self.hosts.contains_key(host))
            .collect()
    }

    /// The directors that have `host` as a real server.
    pub fn directors_of(&self, host: &HostName) -> BTreeSet<HostName> {
        let has =
            |service: &&super::Service| service.real_servers.iter().any(|it| it.host == *host);
        self.services.iter().filter(has).map(|service| service.director.clone()).collect()
    }
}

/// The flag with which a scheduler that goes by a hash takes the next real server where the one it chose has the weight 0.
fn fallback(scheduler: Scheduler) -> Option<SchedulerFlag> {
    match scheduler {
        Scheduler::Sh => Some(SchedulerFlag::ShFallback),
        Scheduler::Mh => Some(SchedulerFlag::MhFallback),
        _ => None,
    }
}

#[cfg(test)]
#[path = "maintenance_tests.rs"]
mod tests;
