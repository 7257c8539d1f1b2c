//! A lab whose hosts get the services of one file after the other, as in the life of a cluster.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use lvsprov::apply::{ConnectionSettings, Session};
use lvsprov::check;
use lvsprov::finding::Finding;
use lvsprov::lab::Lab;
use lvsprov::lab::clients::{self, ClientRequest};
use lvsprov::lab::network::{self, Management};
use lvsprov::lab::responders::{self, Endpoint, Responders};
use lvsprov::names::HostName;
use lvsprov::state::Protocol;
use lvsprov::topology::Topology;

use super::tables::PASSIVE;
use super::{Ask, Served};
use crate::support::netns_host;
use crate::support::speed;

/// The real server of each answer, or why there is none.
pub type Answers = Vec<Result<String, String>>;

/// Ports on which every real server answers.
const PORTS: [(Protocol, u16); 7] = [
    (Protocol::Tcp, 21),
    (Protocol::Tcp, 80),
    (Protocol::Tcp, 443),
    (Protocol::Tcp, PASSIVE),
    (Protocol::Udp, 53),
    (Protocol::Udp, 5060),
    (Protocol::Udp, 5070),
];

pub struct TrialLab {
    pub lab: Lab,
    pub settings: ConnectionSettings,
    pub runtime: tokio::runtime::Runtime,
    hosts: String,
    client: Vec<IpAddr>,
    _responders: Responders,
    _state: tempfile::TempDir,
}

impl TrialLab {
    /// Bare hosts; those whose name begins with `web` answer. The thread has left the machine's network.
    pub fn build(hosts: &str, services: &str) -> Self {
        let topology = topology(hosts, services);
        let lab = Lab::build(&topology, Management::None).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let responders = runtime.block_on(responders::start_at(&lab, listeners(&topology)));
        let state = tempfile::tempdir().unwrap();
        Self {
            settings: crate::hosts::settings(&lab, &topology, state.path()),
            client: network::addresses_of(&topology, &name("client")),
            hosts: hosts.to_owned(),
            _responders: responders.unwrap(),
            _state: state,
            lab,
            runtime,
        }
    }

    /// Also what `check` refuses.
    pub fn apply(&self, services: &str) {
        self.apply_to(&self.hosts, services);
    }

    /// The same of hosts for which the file says something else.
    pub fn apply_to(&self, hosts: &str, services: &str) {
        let topology = topology(hosts, services);
        self.runtime.block_on(async {
            let mut session = Session::open(&topology, &self.settings).await;
            crate::hosts::apply(&topology, &mut session).await.unwrap();
            session.close().await;
        });
    }

    /// Runs a program on a host, which must succeed, and returns what it prints.
    pub fn run(&self, host: &str, command: &str) -> String {
        let mut words = command.split(' ');
        let mut program = Command::new(words.next().unwrap());
        program.args(words);
        self.lab.run_in(&name(host), || netns_host::run(&mut program)).unwrap()
    }

    pub fn ask(&self, vip: &str, asks: &[Ask]) -> Answers {
        let vip = vip.parse().unwrap();
        let all = asks.iter().map(|ask| self.runtime.block_on(self.ask_one(vip, ask)));
        all.collect::<Vec<_>>().concat()
    }

    async fn ask_one(&self, vip: IpAddr, ask: &Ask) -> Answers {
        let client = name("client");
        let tcp = |from: Option<IpAddr>, port| ClientRequest {
            from,
            target: SocketAddr::from((vip, port)),
            protocol: Protocol::Tcp,
            patience: patience(),
        };
        let lab = &self.lab;
        let got = match ask {
            Ask::Tcp(port, count) => {
                clients::ask_each(lab, &client, &vec![tcp(None, *port); *count]).await
            }
            Ask::TcpFromEach(port) => {
                let own = self.client.iter();
                let questions: Vec<_> = own.map(|ip| tcp(Some(*ip), *port)).collect();
                clients::ask_each(lab, &client, &questions).await
            }
            Ask::UdpFromOnePort(port, count) => {
                let target = SocketAddr::from((vip, *port));
                clients::ask_from_one_port(lab, &client, target, *count, patience()).await
            }
        };
        got.unwrap().into_iter().map(|answer| answer.map(|it| it.server)).collect()
    }

    /// Sends requests, and compares what comes back.
    pub fn expect(&self, what: &str, vip: &str, asks: &[Ask], served: &Served) {
        let answers = self.ask(vip, asks);
        println!("{what}: {answers:?}");
        assert_eq!(served.agrees(&answers), Ok(()), "{what}: {answers:?}");
    }
}

/// How long an answer may take.
pub fn patience() -> Duration {
    speed::scaled(Duration::from_millis(1500))
}

pub fn name(host: &str) -> HostName {
    host.parse().unwrap()
}

fn text(hosts: &str, services: &str) -> String {
    format!("{hosts}{services}\n")
}

/// Also of a file that `check` refuses.
pub fn topology(hosts: &str, services: &str) -> Topology {
    let parsed = lvsprov::topology::read("rules.yaml", &text(hosts, services));
    parsed.topology.unwrap_or_else(|| panic!("{services}: {:?}", parsed.findings))
}

pub fn findings(hosts: &str, services: &str) -> Vec<Finding> {
    check::examine("rules.yaml", &text(hosts, services)).findings
}

pub fn rules_of(hosts: &str, services: &str) -> BTreeSet<&'static str> {
    findings(hosts, services).iter().map(|finding| finding.rule).collect()
}

fn listeners(topology: &Topology) -> BTreeSet<Endpoint> {
    let servers = topology.hosts.keys().filter(|host| host.as_str().starts_with("web"));
    let at = |host: &HostName| {
        PORTS.map(|(protocol, port)| Endpoint { host: host.clone(), protocol, port })
    };
    servers.flat_map(at).collect()
}

/// The version of the running kernel: 6, 1.
pub fn kernel() -> (u32, u32) {
    let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap())
}
