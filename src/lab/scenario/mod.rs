//! The test scenario of one playbook. Phases, each with its cases:
//!
//! no service answers -> plan changes nothing -> apply: only the director claims the VIP, no request is
//! lost -> traffic of each service: shares and the properties of its setup -> verify passes -> a second
//! apply changes nothing -> apply repairs drift -> destroy restores every host.

pub mod drift;
pub(in crate::lab) mod phases;
mod service;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use super::expect::setups::CaseOutcome;
use super::sshd::Sshds;
use super::{Lab, LabError, checks, network::Management, targets};
use crate::apply::ConnectionSettings;
use crate::names::HostName;
use crate::report::lab::CaseResult;
use crate::state::Protocol;
use crate::topology::{Host, Reach, Role, Service, SshTarget, Topology};
use crate::transport::Options;

/// How lvsprov connects to the lab's hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LabTransport {
    /// Agents start directly in the namespaces.
    Local,
    /// A real sshd runs in each namespace, as in production.
    Ssh,
}

/// Options of a scenario.
#[derive(Debug, Clone)]
pub struct ScenarioOptions {
    /// How lvsprov connects to the hosts.
    pub transport: LabTransport,
    /// Requests to each service, from each client.
    pub requests: u32,
}

/// The lab with everything that the phases need.
struct Scenario<'a> {
    topology: &'a Topology,
    lab: Lab,
    settings: ConnectionSettings,
    requests: u32,
    /// Whether the kernel supports SCTP; true until a responder fails.
    sctp: bool,
    /// Kept alive for the whole scenario.
    _sshds: Option<Sshds>,
    _state: tempfile::TempDir,
}

/// Runs the scenario of one topology. Errors become failed cases.
pub async fn run(
    playbook: &str,
    topology: &Topology,
    options: &ScenarioOptions,
    print: &dyn Fn(&str),
) -> Vec<CaseResult> {
    let mut recorder = Recorder {
        playbook: format!(
            "{playbook} ({})",
            match options.transport {
                LabTransport::Local => "local",
                LabTransport::Ssh => "ssh",
            }
        ),
        output: print,
        cases: Vec::new(),
        started: Instant::now(),
    };
    recorder.title(topology);
    let (topology, notes) = checks::answerable(topology);
    for note in notes {
        recorder.print(&format!("  note    {note}\n"));
    }
    match Scenario::new(&topology, options) {
        Ok(mut scenario) => {
            recorder.case("the lab builds the hosts of the file", Ok(scenario.describe()));
            phases::all(&mut scenario, &mut recorder).await;
        }
        Err(error) => {
            let text = crate::failure::Failure::from_error(error.as_ref()).to_string();
            recorder.case("the lab builds the hosts of the file", Err(text));
        }
    }
    recorder.cases
}

impl<'a> Scenario<'a> {
    fn new(
        topology: &'a Topology,
        options: &ScenarioOptions,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let management = match options.transport {
            LabTransport::Local => Management::None,
            LabTransport::Ssh => Management::Bridge,
        };
        let lab = Lab::build(topology, management)?;
        let state = tempfile::Builder::new().prefix("lvsprov-lab-").tempdir()?;
        let mut transport = transport_options(state.path());
        let mut reach = BTreeMap::new();
        let mut sshds = None;
        match options.transport {
            LabTransport::Local => reach = local_reach(&lab, topology)?,
            LabTransport::Ssh => {
                let program = std::env::current_exe()?;
                let started = Sshds::start(&lab, topology.hosts.keys(), &program)?;
                // To the first it is sent, as in production. To send it to each takes an emulated machine five
                // seconds a host, and shows nothing more.
                started.place_agent(topology.hosts.keys().skip(1), &program)?;
                transport.ssh_config = Some(started.ssh_config());
                for host in topology.hosts.keys() {
                    reach.insert(host.clone(), Reach::Ssh(ssh_target(host)));
                }
                sshds = Some(started);
            }
        }
        let settings = ConnectionSettings { transport, reach, ..ConnectionSettings::default() };
        Ok(Self {
            topology,
            lab,
            settings,
            requests: options.requests,
            sctp: true,
            _sshds: sshds,
            _state: state,
        })
    }

    fn describe(&self) -> String {
        format!(
            "{} hosts on {} networks, kernel {}",
            self.topology.hosts.len(),
            self.topology.networks.len(),
            kernel_release()
        )
    }

    fn clients(&self) -> impl Iterator<Item = &'a Host> + use<'a> {
        self.topology.with_role(Role::Client)
    }

    /// Services that the lab can test: with a VIP, and with a protocol that the kernel supports.
    fn services(&self) -> impl Iterator<Item = &'a Service> + use<'a> {
        let sctp = self.sctp;
        let all = self.topology.services.iter().filter(|service| service.vip.is_some());
        all.filter(move |service| sctp || !uses_sctp(service))
    }

    /// Services with a protocol that the kernel does not support.
    fn unsupported_services(&self) -> impl Iterator<Item = &'a Service> + use<'a> {
        let sctp = self.sctp;
        self.topology.services.iter().filter(move |service| !sctp && uses_sctp(service))
    }
}

/// How agents of lab hosts are reached; their files, and those of the controller, lie in `state`.
pub(in crate::lab) fn transport_options(state: &Path) -> Options {
    Options {
        state_dir: Some(state.join("state")),
        // Emulated machines are slow.
        connect_timeout: Duration::from_mins(1),
        hello_timeout: Duration::from_mins(1),
        call_timeout: Duration::from_mins(1),
        control_dir: Some(state.join("c")),
        // A kept connection would hold the namespaces after the lab has ended.
        keep: Duration::ZERO,
        ..Options::default()
    }
}

/// Every host by its namespace.
pub(in crate::lab) fn local_reach(
    lab: &Lab,
    topology: &Topology,
) -> Result<BTreeMap<HostName, Reach>, LabError> {
    let hosts = topology.hosts.keys();
    hosts.map(|host| Ok((host.clone(), Reach::Netns(lab.netns_path(host)?)))).collect()
}

pub(in crate::lab) fn uses_sctp(service: &Service) -> bool {
    targets::of_service(service).iter().any(|target| target.protocol == Protocol::Sctp)
}

fn ssh_target(host: &HostName) -> SshTarget {
    SshTarget { host: host.to_string(), user: None, port: None }
}

fn kernel_release() -> String {
    nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Records the cases, and prints each one when it ends.
struct Recorder<'a> {
    playbook: String,
    output: &'a dyn Fn(&str),
    cases: Vec<CaseResult>,
    started: Instant,
}

impl Recorder<'_> {
    fn title(&self, topology: &Topology) {
        let title = crate::report::lab::title(&self.playbook, topology.name.as_str());
        self.print(&format!("{title}\n"));
    }

    fn print(&self, text: &str) {
        (self.output)(text);
    }

    /// Records a case; true if it passed.
    fn case(&mut self, name: &str, outcome: CaseOutcome) -> bool {
        let (ok, detail) = match outcome {
            Ok(detail) => (true, detail),
            Err(detail) => (false, detail),
        };
        let case = CaseResult {
            playbook: self.playbook.clone(),
            name: name.to_owned(),
            ok,
            seconds: self.started.elapsed().as_secs_f64(),
            detail,
        };
        self.started = Instant::now();
        self.print(&crate::report::lab::case(&case));
        self.cases.push(case);
        ok
    }
}
