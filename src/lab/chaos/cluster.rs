//! The lab's cluster, whose parts die and come back.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use super::fault::ClusterPart;
use crate::apply::ConnectionSettings;
use crate::kernel::instances;
use crate::kernel::ipvs::{IpvsSocket, control};
use crate::lab::child::ChildSpec;
use crate::lab::network::Management;
use crate::lab::responders::{self, Endpoint, Responders};
use crate::lab::scenario::{self, phases};
use crate::lab::{Lab, LabError, targets};
use crate::names::HostName;
use crate::state::{DaemonRole, Protocol};
use crate::topology::Topology;
use crate::transport;

/// How long the boot of a host may take, also where it is emulated.
const BOOT_LIMIT: Duration = Duration::from_mins(2);

/// A failed operation, for a row of the report: the text with its causes.
pub(super) type ChaosResult<T> = Result<T, String>;

/// The text of an error with its causes.
pub(super) fn failed(error: &dyn std::error::Error) -> String {
    crate::failure::Failure::from_error(error).to_string()
}

/// Hosts, applications and how agents are reached.
pub(super) struct ChaosCluster<'t> {
    topology: &'t Topology,
    pub lab: Lab,
    settings: ConnectionSettings,
    responders: Responders,
    program: PathBuf,
    state: tempfile::TempDir,
    /// Dead at present.
    dead: Vec<ClusterPart>,
}

impl<'t> ChaosCluster<'t> {
    /// Bare hosts with applications that listen.
    pub async fn build(topology: &'t Topology) -> ChaosResult<Self> {
        let lab = Lab::build(topology, Management::None).map_err(|error| failed(&error))?;
        let state = tempfile::Builder::new().prefix("lvsprov-lab-").tempdir();
        let state = state.map_err(|error| format!("cannot make a folder for the lab: {error}"))?;
        let program = std::env::current_exe();
        let program = program.map_err(|error| format!("cannot find this program: {error}"))?;
        let reach = scenario::local_reach(&lab, topology).map_err(|error| failed(&error))?;
        let settings = ConnectionSettings {
            transport: scenario::transport_options(state.path()),
            reach,
            ..ConnectionSettings::default()
        };
        let responders = responders::start(&lab, topology).await.map_err(|error| failed(&error))?;
        Ok(Self { topology, lab, settings, responders, program, state, dead: Vec::new() })
    }

    /// Whether the kernel has SCTP, as far as the file needs it.
    pub fn has_sctp(&self) -> bool {
        !self.responders.not_served().keys().any(|at| at.protocol == Protocol::Sctp)
    }

    /// Brings the hosts to what the file says.
    pub async fn apply(&self) -> ChaosResult<()> {
        let report = phases::change(self.topology, &self.settings, phases::apply_direction()).await;
        phases::succeeded(&report)
    }

    /// Kills `part`.
    pub async fn kill(&mut self, part: &ClusterPart) -> ChaosResult<()> {
        // Half of a death is one: the return makes all of it again.
        self.dead.push(part.clone());
        let killed = match part {
            ClusterPart::Host(host) => {
                // First the cables: a host without power sends no farewell.
                let off = self.lab.power_off(self.topology, host);
                self.responders.stop(host).await;
                off
            }
            ClusterPart::Process(endpoint) => {
                self.responders.stop_at(endpoint).await;
                Ok(())
            }
            ClusterPart::SyncDaemon { host, role } => return self.stop_daemon(host, *role),
            ClusterPart::HealthChecker(host) => return self.kill_health_checker(host),
            ClusterPart::Link { host, interface } => {
                self.lab.unplug(self.topology, host, interface)
            }
        };
        killed.map_err(|error| failed(&error))
    }

    /// Brings every dead part back: all hosts have their power before the first of them boots.
    pub async fn revive(&mut self) -> ChaosResult<()> {
        let dead = std::mem::take(&mut self.dead);
        let mut errors = Vec::new();
        for part in &dead {
            let back = match part {
                ClusterPart::Host(host) => self.lab.power_on(self.topology, host),
                ClusterPart::Process(endpoint) => {
                    self.serve_again(BTreeSet::from([endpoint.clone()])).await
                }
                ClusterPart::Link { host, interface } => {
                    self.lab.plug_in(self.topology, host, interface)
                }
                ClusterPart::SyncDaemon { host, role } => {
                    errors.extend(self.start_daemon(host, *role).err());
                    Ok(())
                }
                ClusterPart::HealthChecker(host) => {
                    errors.extend(self.start_health_checker(host).err());
                    Ok(())
                }
            };
            errors.extend(back.err().map(|error| failed(&error)));
        }
        for part in &dead {
            if let ClusterPart::Host(host) = part {
                errors.extend(self.boot(host).await.err());
                let of_host = targets::endpoints(self.topology);
                let of_host = of_host.into_iter().filter(|at| at.host == *host).collect();
                errors.extend(self.serve_again(of_host).await.err().map(|error| failed(&error)));
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors.join("\n")) }
    }

    async fn serve_again(&mut self, endpoints: BTreeSet<Endpoint>) -> Result<(), LabError> {
        self.responders.start_again(&self.lab, endpoints).await
    }

    /// What a boot unit does: the host's own receipt makes its settings again, without a controller.
    async fn boot(&self, host: &HostName) -> ChaosResult<()> {
        let path = self.lab.netns_path(host).map_err(|error| failed(&error))?;
        let disk = transport::state_dir_of(&self.state.path().join("state"), &path);
        let spec = ChildSpec::new(&self.program).args(["agent", "--boot", "--netns"]);
        let spec = spec.arg(path).arg("--state-dir").arg(disk);
        let cannot = |error: std::io::Error| format!("{host} does not boot: {error}");
        let mut command = spec.command(&self.program).map_err(cannot)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.lab.spawner().spawn(command).map_err(cannot)?;
        let ended = tokio::task::spawn_blocking(move || child.wait_with_output());
        let output = match tokio::time::timeout(BOOT_LIMIT, ended).await {
            Ok(Ok(output)) => output.map_err(cannot)?,
            Ok(Err(error)) => return Err(format!("{host} does not boot: {error}")),
            Err(_) => {
                return Err(format!("{host} did not boot within {} s", BOOT_LIMIT.as_secs()));
            }
        };
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(format!("{host} booted without its settings ({}): {}", output.status, text.trim()))
    }

    fn kill_health_checker(&self, host: &HostName) -> ChaosResult<()> {
        let killed = self.lab.run_in(host, instances::kill).map_err(|error| failed(&error))?;
        match killed.map_err(|error| failed(&error))? {
            0 => Err(format!("no health checker runs on {host}: it cannot be killed")),
            _ => Ok(()),
        }
    }

    /// As systemd, or a look for drift, does on a real host.
    fn start_health_checker(&self, host: &HostName) -> ChaosResult<()> {
        let start = || {
            instances::read()?.iter().try_for_each(|(instance, configuration)| {
                instances::set(instance, Some(configuration), Some(configuration))
            })
        };
        let started: crate::kernel::Result<()> =
            self.lab.run_in(host, start).map_err(|error| failed(&error))?;
        started.map_err(|error| failed(&error))
    }

    fn stop_daemon(&self, host: &HostName, role: DaemonRole) -> ChaosResult<()> {
        let stop = || {
            let daemons = control::read(&mut IpvsSocket::open()?)?.daemons;
            control::set_daemon(role, daemons.get(&role), None)?;
            Ok(daemons.contains_key(&role))
        };
        let stopped: crate::kernel::Result<bool> =
            self.lab.run_in(host, stop).map_err(|error| failed(&error))?;
        if stopped.map_err(|error| failed(&error))? {
            return Ok(());
        }
        Err(format!("sync daemon {role} of {host} does not run: it cannot be ended"))
    }

    fn start_daemon(&self, host: &HostName, role: DaemonRole) -> ChaosResult<()> {
        let known = self.topology.hosts.get(host).and_then(|it| it.ipvs.daemons.get(&role));
        let start = || {
            let running = control::read(&mut IpvsSocket::open()?)?.daemons;
            control::set_daemon(role, running.get(&role), known)
        };
        let started = self.lab.run_in(host, start).map_err(|error| failed(&error))?;
        started.map_err(|error| failed(&error))
    }
}
