//! The story of one playbook, and the proof of each of its chapters:
//!
//! bare hosts do not answer -> a plan changes nothing -> apply -> nobody but the director claimed the
//! VIP meanwhile, and nothing was lost once it answered -> requests are shared as the weights say, and
//! each service keeps what its setup promises -> a second apply does nothing -> whatever is undone by hand is mended, and only that -> destroy ->
//! the hosts are as before.

mod chapters;
mod drift;
mod service;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::sshd::Sshds;
use super::{Lab, network::Management, targets};
use crate::apply::ConnectionSettings;
use crate::names::HostName;
use crate::report::lab::CaseResult;
use crate::state::Protocol;
use crate::topology::{Host, Reach, Role, Service, SshTarget, Topology};
use crate::transport::Options;

/// How the lab's hosts are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Over {
    /// Agents are started in the namespaces directly.
    Local,
    /// A real sshd runs in each namespace: the production way.
    Ssh,
}

/// How the story is told.
#[derive(Debug, Clone)]
pub struct Setting {
    /// How hosts are reached.
    pub over: Over,
    /// Requests to each service, from each client.
    pub requests: u32,
}

/// What a chapter proves, or why it does not.
type Proof = Result<String, String>;

/// Everything that the chapters need.
struct Stage<'a> {
    topology: &'a Topology,
    lab: Lab,
    settings: ConnectionSettings,
    requests: u32,
    /// Whether the running kernel speaks SCTP, as far as it was asked.
    sctp: bool,
    /// Alive as long as the story: it ends with them.
    _sshds: Option<Sshds>,
    _state: tempfile::TempDir,
}

/// Brings one topology up and down again. Never fails: what went wrong is a case that did.
pub async fn tell(
    playbook: &str,
    topology: &Topology,
    setting: &Setting,
    say: &dyn Fn(&str),
) -> Vec<CaseResult> {
    let mut teller = Teller {
        playbook: format!(
            "{playbook} ({})",
            match setting.over {
                Over::Local => "local",
                Over::Ssh => "ssh",
            }
        ),
        output: say,
        cases: Vec::new(),
        started: Instant::now(),
    };
    teller.title(topology);
    match Stage::set(topology, setting) {
        Ok(mut stage) => {
            teller.case("bare hosts are built from the file", Ok(stage.describe()));
            chapters::all(&mut stage, &mut teller).await;
        }
        Err(error) => {
            let text = crate::failure::Failure::from_error(error.as_ref()).to_string();
            teller.case("bare hosts are built from the file", Err(text));
        }
    }
    teller.cases
}

impl<'a> Stage<'a> {
    fn set(topology: &'a Topology, setting: &Setting) -> Result<Self, Box<dyn std::error::Error>> {
        let management = match setting.over {
            Over::Local => Management::None,
            Over::Ssh => Management::Bridge,
        };
        let lab = Lab::build(topology, management)?;
        let state = tempfile::Builder::new().prefix("lvsprov-lab-").tempdir()?;
        let mut transport = Options {
            state_dir: Some(state.path().join("state")),
            // Emulated machines are slow, and a lab has no user who waits.
            connect_timeout: Duration::from_mins(1),
            hello_timeout: Duration::from_mins(1),
            call_timeout: Duration::from_mins(1),
            control_dir: Some(state.path().join("c")),
            // A kept connection would hold the namespaces after the lab has ended.
            keep: Duration::ZERO,
            ..Options::default()
        };
        let mut reach = BTreeMap::new();
        let mut sshds = None;
        match setting.over {
            Over::Local => {
                for host in topology.hosts.keys() {
                    reach.insert(host.clone(), Reach::Netns(lab.netns_path(host)?));
                }
            }
            Over::Ssh => {
                let started = Sshds::start(&lab, topology.hosts.keys(), &std::env::current_exe()?)?;
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
            requests: setting.requests,
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

    /// Services that the lab can send requests to: those of which the file says where to, and whose
    /// protocol the kernel speaks.
    fn services(&self) -> impl Iterator<Item = &'a Service> + use<'a> {
        let sctp = self.sctp;
        let all = self.topology.services.iter().filter(|service| service.vip.is_some());
        all.filter(move |service| sctp || !uses_sctp(service))
    }

    /// Services to which none can be sent because of the kernel.
    fn untried(&self) -> impl Iterator<Item = &'a Service> + use<'a> {
        let sctp = self.sctp;
        self.topology.services.iter().filter(move |service| !sctp && uses_sctp(service))
    }
}

fn uses_sctp(service: &Service) -> bool {
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

/// Collects what was proven, and says it as it goes.
struct Teller<'a> {
    playbook: String,
    output: &'a dyn Fn(&str),
    cases: Vec<CaseResult>,
    started: Instant,
}

impl Teller<'_> {
    fn title(&self, topology: &Topology) {
        let title = crate::report::lab::title(&self.playbook, topology.name.as_str());
        self.say(&format!("{title}\n"));
    }

    fn say(&self, text: &str) {
        (self.output)(text);
    }

    /// Records a chapter; whether it was proven.
    fn case(&mut self, name: &str, proof: Proof) -> bool {
        let (ok, detail) = match proof {
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
        self.say(&crate::report::lab::case(&case));
        self.cases.push(case);
        ok
    }
}
