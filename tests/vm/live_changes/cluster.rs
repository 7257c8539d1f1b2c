//! A cluster in namespaces that is changed while it is asked.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::process::Command;
use std::time::{Duration, Instant};

use lvsprov::apply::cluster_plan::{self, Direction};
use lvsprov::apply::{ClusterReport, ConnectionSettings, Session, transaction};
use lvsprov::lab::network::Management;
use lvsprov::lab::{self, Lab};
use lvsprov::topology::{PaceOverride, Reach, Topology};
use lvsprov::transport::Options;
use lvsprov::{check, report};

use super::load;

/// A way of forwarding, with two clients and three real servers.
#[derive(Debug, Clone, Copy)]
pub enum Method {
    Dr,
    Nat,
    Tun,
}

impl Method {
    /// The file with this under `services`.
    pub fn file(self, services: &str) -> String {
        let hosts = match self {
            Self::Dr | Self::Tun => {
                "networks: {lan: [172.25.7.0/24]}
hosts:
  client: {role: client, interfaces: {eth0: 172.25.7.250/24}}
  other: {role: client, interfaces: {eth0: 172.25.7.251/24}}
  lvs: {role: director, interfaces: {eth0: 172.25.7.2/24}}
  web1: {role: real_server, interfaces: {eth0: 172.25.7.11/24}}
  web2: {role: real_server, interfaces: {eth0: 172.25.7.12/24}}
  web3: {role: real_server, interfaces: {eth0: 172.25.7.13/24}}
"
            }
            Self::Nat => {
                "networks: {outside: [172.25.7.0/24], inside: [192.168.12.0/24]}
hosts:
  client: {role: client, interfaces: {eth0: 172.25.7.250/24}}
  other: {role: client, interfaces: {eth0: 172.25.7.251/24}}
  lvs: {role: director, interfaces: {eth0: 172.25.7.2/24, eth1: 192.168.12.1/24}}
  web1: {role: real_server, gateway: lvs, interfaces: {eth0: 192.168.12.11/24}}
  web2: {role: real_server, gateway: lvs, interfaces: {eth0: 192.168.12.12/24}}
  web3: {role: real_server, gateway: lvs, interfaces: {eth0: 192.168.12.13/24}}
"
            }
        };
        let forward = match self {
            Self::Dr => "dr",
            Self::Nat => "nat",
            Self::Tun => "tun",
        };
        format!(
            "version: 1\nname: live-changes\n{hosts}defaults: {{forward: {forward}}}\nservices:\n  - {services}\n"
        )
    }
}

/// The VIP's services.
pub fn at(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new([172, 25, 7, 1].into(), port)
}

/// One service: `what` beside VIP and real servers with their weights.
pub fn web(what: &str, weights: &[u32]) -> String {
    let server = |(n, weight): (usize, &u32)| format!("{{host: web{}, weight: {weight}}}", n + 1);
    let servers: Vec<String> = weights.iter().enumerate().map(server).collect();
    format!("{{vip: 172.25.7.1, {what}, real_servers: [{}]}}", servers.join(", "))
}

/// The namespaces, and how their agents are reached.
pub struct Cluster {
    pub lab: Lab,
    method: Method,
    pub settings: ConnectionSettings,
    pub runtime: tokio::runtime::Runtime,
    state: tempfile::TempDir,
}

impl Cluster {
    /// Bare hosts; real servers answer on 80 and 81.
    pub fn build(method: Method) -> Self {
        lab::isolate().unwrap();
        let topology = topology(method, &web("port: 80", &[1, 1, 1]));
        let lab = Lab::build(&topology, Management::None).unwrap();
        let state = tempfile::tempdir().unwrap();
        let transport = Options {
            state_dir: Some(state.path().join("state")),
            agent_binary: Some(env!("CARGO_BIN_EXE_lvsprov").into()),
            ..Options::default()
        };
        let reach = topology.hosts.keys();
        let reach = reach.map(|host| (host.clone(), Reach::Netns(lab.netns_path(host).unwrap())));
        let settings = ConnectionSettings {
            transport,
            reach: reach.collect(),
            ..ConnectionSettings::default()
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        for web in ["web1", "web2", "web3"] {
            load::serve(&runtime, &lab, web, &[80, 81]);
        }
        Self { lab, method, settings, runtime, state }
    }

    /// What a plan says, and then what was done.
    pub fn apply(&self, services: &str) -> (ClusterReport, ClusterReport) {
        self.apply_at(services, PaceOverride::default())
    }

    /// The same with the operator's word.
    pub fn apply_at(&self, services: &str, pace: PaceOverride) -> (ClusterReport, ClusterReport) {
        let mut topology = topology(self.method, services);
        topology.pace = pace;
        let direction = Direction::Apply { now: 1 };
        self.runtime.block_on(async {
            let mut session = Session::open(&topology, &self.settings).await;
            let seen = session.observe(true).await;
            let absent = BTreeMap::new();
            let plan = cluster_plan::plan(&topology, &session.desired, &seen, &absent, direction);
            let planned = plan.report(&topology);
            let done = transaction::run_plain(&mut session, &plan, &seen, direction).await;
            session.close().await;
            assert!(!done.has_failures(), "{}", text(&done));
            (planned, done)
        })
    }

    /// The topology of the file with `services`.
    pub fn topology(&self, services: &str) -> Topology {
        topology(self.method, services)
    }

    /// Where the agents keep their state.
    pub fn states(&self) -> std::path::PathBuf {
        self.state.path().join("state")
    }

    /// Runs a program on a host.
    pub fn run(&self, host: &str, command: &str) {
        let mut words = command.split(' ');
        let mut command = Command::new(words.next().unwrap());
        let run = || command.args(words).output().unwrap();
        let output = self.lab.run_in(&host.parse().unwrap(), run).unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

/// Until IPVS of this namespace has a real server of weight 0.
pub fn wait_for_weight_0() {
    let deadline = Instant::now() + crate::support::speed::patience();
    loop {
        let output = Command::new("ipvsadm").arg("-Sn").output().unwrap();
        if String::from_utf8_lossy(&output.stdout).contains(" -w 0") {
            return;
        }
        assert!(Instant::now() < deadline, "nobody is drained");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn topology(method: Method, services: &str) -> Topology {
    let examined = check::examine("live-changes", &method.file(services));
    examined.topology.unwrap_or_else(|| panic!("{:?}", examined.findings))
}

/// A report as a person reads it.
pub fn text(report: &ClusterReport) -> String {
    anstream::adapter::strip_str(&report::cluster::text(report)).to_string()
}

/// How many connections the plan says are cut at once, how many may end before, and how many the result
/// says were cut.
pub fn costs(planned: &ClusterReport, done: &ClusterReport) -> (u64, u64, u64) {
    let steps = |report: &ClusterReport| {
        report.hosts.values().flat_map(|host| host.steps.clone()).collect::<Vec<_>>()
    };
    let planned = steps(planned);
    let of = |drained: bool| {
        let those = planned.iter().filter(|step| step.cost.drain_seconds.is_some() == drained);
        those.filter_map(|step| step.cost.connections).sum()
    };
    let cut = steps(done).iter().filter_map(|step| step.cost.connections_cut).sum();
    (of(false), of(true), cut)
}
