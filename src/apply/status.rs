//! What `status` shows: the running cluster, and how it differs from the file. Pure. The JSON form is stable:
//! members are only ever added.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cluster_plan::{ClusterPlan, HostPlanResult, receipts};
use super::health::{self, ExternalWeightView};
use super::open_transactions;
use super::outcome::{HostStatus, HostTransactionReport, OpenTransactionReport, StepState};
use super::session::Observations;
use crate::desired::service_key;
use crate::failure::Failure;
use crate::names::HostName;
use crate::plan::{UnmanagedItem, maintenance};
use crate::state::{
    BootUnit, Counters, DaemonRole, DestinationKey, DriftRecord, Observation, Reverted,
    ServiceFlags, ServiceKey, SyncDaemon, Timeouts,
};
use crate::topology::Topology;

/// What `status` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The topology's name.
    pub topology: String,
    /// By host name.
    pub hosts: BTreeMap<HostName, HostView>,
    /// The open transactions, and what each command would do with them.
    #[serde(default, rename = "unfinished", skip_serializing_if = "Vec::is_empty")]
    pub open_transactions: Vec<OpenTransactionReport>,
}

/// One host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostView {
    /// Whether it is reachable, and whether it drifted.
    pub status: HostStatus,
    /// Why it could not be observed.
    pub failure: Option<Failure>,
    /// The first apply, in seconds since 1970; `None`: there was none.
    pub applied_since: Option<u64>,
    /// What differs from the file, one line each.
    pub drift: Vec<String>,
    /// Services of the file that this host directs.
    pub services: Vec<ServiceView>,
    /// Items that lvsprov did not make.
    #[serde(default)]
    pub foreign: Vec<UnmanagedItem>,
    /// The timeouts of its IPVS, where it directs something.
    #[serde(default)]
    pub timeouts: Option<Timeouts>,
    /// Its sync daemons.
    #[serde(default)]
    pub daemons: BTreeMap<DaemonRole, SyncDaemon>,
    /// Its open transaction.
    #[serde(default, rename = "unfinished", skip_serializing_if = "Option::is_none")]
    pub open_transaction: Option<HostTransactionReport>,
    /// The transaction that it reverted by itself, if none was prepared there since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverted: Option<Reverted>,
    /// Since when it is in maintenance, in seconds since 1970; absent: it is in service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_maintenance_since: Option<u64>,
    /// Real servers whose weights a health checker has set, where they are not the file's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub external_weights: Vec<ExternalWeightView>,
    /// What a person should know of hosts in maintenance, and of real servers that a health checker has out, one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What its own looks for drift found, where it looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_looks: Option<DriftRecord>,
}

/// One service in the IPVS table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its name: the file's, or the one derived from protocol, VIP and port.
    pub name: String,
    /// The name to show: the file's, or the key.
    #[serde(skip)]
    pub display_name: String,
    /// Its key in the IPVS table.
    pub key: ServiceKey,
    /// The scheduler in use; `None`: IPVS has no such service.
    pub scheduler: Option<String>,
    /// Scheduler, persistence, flags and engine in one line; `None`: IPVS has no such service.
    #[serde(default)]
    pub settings: Option<String>,
    /// Seconds that a client stays with its real server; `None`: it does not.
    #[serde(default)]
    pub persistence: Option<u32>,
    /// Its real servers.
    pub real_servers: Vec<RealServerView>,
}

/// One real server in the IPVS table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RealServerView {
    /// The host's name; `None`: the address is not in the file.
    pub host: Option<HostName>,
    /// Address and port.
    pub key: DestinationKey,
    /// nat, dr, tun, local.
    pub method: String,
    /// Its present weight.
    pub weight: u32,
    /// Connections from which on it gets no new ones; 0: no limit.
    #[serde(default)]
    pub upper_threshold: u32,
    /// Connections below which it gets new ones again.
    #[serde(default)]
    pub lower_threshold: u32,
    /// Connections.
    pub counters: Counters,
}

/// The running cluster, and how it differs from the file.
pub fn status(topology: &Topology, plan: &ClusterPlan, observed: &Observations) -> StatusReport {
    let directs = |name: &HostName| topology.services.iter().any(|s| s.director == *name);
    let disagreements = maintenance::disagreements(topology, &receipts(observed));
    let hosts = plan.hosts.iter().map(|(name, result)| {
        let since = topology.maintenance.since(name);
        let notes = since.map(|since| maintenance::caution(name, since)).into_iter();
        let disagrees = disagreements.get(name).into_iter().flatten().cloned();
        let observation = observed.get(name).and_then(|observation| observation.as_ref().ok());
        let report = result.report();
        let mut drift: Vec<String> = report
            .steps
            .iter()
            .filter(|step| step.state == StepState::Planned)
            .map(|step| step.text.clone())
            .collect();
        drift.extend(report.obstacles.iter().map(ToString::to_string));
        if matches!(result, HostPlanResult::Plan(plan) if plan.installs_unit) {
            match observation.map(|it| &it.boot_unit) {
                Some(BootUnit::Incomplete(files)) => {
                    let write =
                        |file| format!("write {file}, which belongs to lvsprov-boot.service");
                    drift.extend(files.iter().map(write));
                }
                Some(BootUnit::Installed) => drift.push(
                    "change what the host does about drift by itself, as the file says".to_owned(),
                ),
                _ => drift.push(
                    "install lvsprov-boot.service, which makes all of it again at boot".to_owned(),
                ),
            }
        }
        let external = match result {
            HostPlanResult::Plan(plan) => plan.external.as_slice(),
            _ => &[],
        };
        let by_checker = external.iter().map(|it| health::line(topology, name, it));
        let view = |it| ExternalWeightView::of(topology, name, it);
        let view = HostView {
            status: report.status,
            failure: report.failure,
            applied_since: observation
                .and_then(|s| s.receipt.as_ref())
                .map(|receipt| receipt.since),
            drift,
            services: observation.map(|s| services(topology, name, s)).unwrap_or_default(),
            foreign: report.foreign,
            timeouts: observation.filter(|_| directs(name)).and_then(|s| s.state.timeouts),
            daemons: observation.map(|s| s.state.daemons.clone()).unwrap_or_default(),
            open_transaction: observation.and_then(open_transactions::host_transaction),
            reverted: observation.and_then(|observed| observed.reverted.clone()),
            in_maintenance_since: since,
            own_looks: observation.and_then(|observed| observed.drift.clone()),
            notes: notes.chain(disagrees).chain(by_checker).collect(),
            external_weights: external.iter().map(view).collect(),
        };
        (name.clone(), view)
    });
    StatusReport {
        topology: topology.name.to_string(),
        hosts: hosts.collect(),
        open_transactions: open_transactions::reports(plan, observed),
    }
}

fn services(topology: &Topology, director: &HostName, observed: &Observation) -> Vec<ServiceView> {
    let mine = topology.services.iter().filter(|service| service.director == *director);
    let views = mine.map(|service| {
        let key = service_key(service);
        let present = observed.state.services.get(&key);
        let counters = observed.counters.get(&key);
        let real_servers = present.into_iter().flat_map(|service| &service.destinations);
        let real_servers = real_servers.map(|(at, destination)| RealServerView {
            host: service
                .real_servers
                .iter()
                .find(|rs| rs.rip == at.0.ip())
                .map(|rs| rs.host.clone()),
            key: *at,
            method: destination.method.to_string(),
            weight: destination.weight,
            upper_threshold: destination.upper_threshold,
            lower_threshold: destination.lower_threshold,
            counters: counters.and_then(|c| c.get(at)).copied().unwrap_or_default(),
        });
        ServiceView {
            name: service.name.to_string(),
            display_name: service.display_name(),
            scheduler: present.map(|service| service.scheduler.clone()),
            settings: present.map(ToString::to_string),
            persistence: present
                .filter(|service| service.flags.has(ServiceFlags::PERSISTENT))
                .map(|service| service.timeout),
            real_servers: real_servers.collect(),
            key,
        }
    });
    views.collect()
}
