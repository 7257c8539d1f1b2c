//! The packet walk against the kernel: a cluster is brought up, one thing on one host is broken, and requests of every
//! client say whether the walk was right.
//!
//! What was seen and answered is recorded (`scripts/walk-record`); `pure` tries the walk on the record.
//!
//! What is broken: a setting, an address, a link ([`mutants`]); routes and policy rules are added as a VPN or an old script
//! would ([`foreign_routing`]); the MTU of interfaces is lowered ([`large`]); firewalls are put on hosts ([`firewalls`]). `make test` tries every
//! [`SHARE`]th; `LVSPROV_EVERY_MUTANT=1` all, `LVSPROV_EVERY_MUTANT=12` every twelfth, `LVSPROV_EVERY_MUTANT=routing` all routes
//! and rules, `LVSPROV_EVERY_MUTANT=mtu` all MTUs, `LVSPROV_EVERY_MUTANT=firewall` all firewalls. Transfers that hang take long, so of these `make test` tries a few.
//! `LVSPROV_RANDOM_CLUSTERS=1-60` tries those of the random clusters that `check` accepts instead of the files.

mod firewalls;
mod large;
mod mutants;
pub mod neighbours;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lvsprov::apply::{ConnectionSettings, Session};
use lvsprov::lab::clients::{self, ClientRequest};
use lvsprov::lab::network::Management;
use lvsprov::lab::scenario::drift;
use lvsprov::lab::{self, Lab, responders, targets};
use lvsprov::names::HostName;
use lvsprov::plan::simulate;
use lvsprov::state::{Link, Receipt, Routing};
use lvsprov::topology::Topology;
use lvsprov::walk::{HostStates, World};

use crate::hosts;
use crate::random;
use mutants::Mutant;

use crate::support::cases::Case;
use crate::support::foreign_routing::{self, ForeignRouting};
use crate::support::playbooks::{load, playbooks};
use crate::support::prediction::{Prediction, Record, announced, is_known, seen_world, ways};
use crate::support::random_clusters::{RandomCluster, random_cluster};
use crate::support::random_verdict::examine;
use crate::support::vm::thorough;

/// One in so many mutants is tried by `make test`: what the kernel did with all of them is on record, and replayed by `pure`.
const SHARE: usize = 36;
/// One in so many firewalls: `kernel::filter` in `host` compares their rules with the kernel in large numbers.
const FIREWALL_SHARE: usize = 120;
/// So many times as many are tried where there is time.
const THOROUGH: usize = 2;
/// After so long a request counts as lost: nothing is slow here, but the processor.
pub const PATIENCE: Duration = Duration::from_millis(1500);

/// One for each cluster.
pub fn cases() -> Vec<Case> {
    let case = |name: &str, subject: Subject| {
        let name = name.replace('-', "_");
        Case::new(format!("the_kernel_does_what_the_walk_says_{name}"), move || agrees(&subject))
    };
    if let Some(seeds) = random::wanted() {
        let accepted = seeds.into_iter().filter_map(Subject::random);
        return accepted.map(|subject| case(&subject.name.clone(), subject)).collect();
    }
    let all = playbooks().into_iter().chain(own());
    all.map(|path| case(path.file_stem().unwrap().to_str().unwrap(), Subject::file(&path)))
        .collect()
}

/// Random clusters are many in one machine.
pub fn prepare() {
    if random::wanted().is_some() {
        random::prepare();
    }
}

/// A cluster that is tried.
struct Subject {
    /// The file, from the project's folder on; `random-SEED` for a random one.
    name: String,
    /// The text of a random one: the generator may change.
    random: Option<RandomCluster>,
    topology: Topology,
}

impl Subject {
    fn file(path: &Path) -> Self {
        let name = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().display().to_string();
        Self { name, random: None, topology: load(path) }
    }

    /// `None`: `check` refuses it.
    fn random(seed: u64) -> Option<Self> {
        let random = random_cluster(seed);
        let (topology, errors) = examine(&random.text).ok()?;
        let name = format!("random-{seed}");
        errors.is_empty().then_some(Self { name, random: Some(random), topology })
    }
}

/// Clusters that no playbook has: static routes, two routers, two ways, two directors.
fn own() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/walk");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|it| it == "yaml")).collect();
    all.sort();
    all
}

fn agrees(subject: &Subject) {
    lab::isolate().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let wrong = runtime.block_on(async {
        let cluster = Cluster::up(&subject.topology).await;
        if let Some(random) = &subject.random {
            cluster.set_rp_filter(&random.rp_filter);
        }
        cluster.try_all(subject).await
    });
    assert!(wrong.is_empty(), "{} disagreements:\n{}", wrong.len(), wrong.join("\n"));
}

/// Of each kind of mutant one in so many is tried, or none.
struct Share {
    settings: Option<usize>,
    routing: Option<usize>,
    firewalls: Option<usize>,
    narrow: Option<Narrow>,
}

/// Which MTUs are tried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Narrow {
    Few,
    All,
}

impl Share {
    /// Of the cluster of `file`.
    fn wanted(file: &str) -> Self {
        let none = Self { settings: None, routing: None, firewalls: None, narrow: None };
        let denser = if thorough() { THOROUGH } else { 1 };
        match std::env::var("LVSPROV_EVERY_MUTANT").unwrap_or_default().as_str() {
            "" if large::is_made_for(file) => Self { narrow: Some(Narrow::Few), ..none },
            "" => Self {
                settings: Some(SHARE / denser),
                routing: Some(SHARE / denser),
                firewalls: Some(FIREWALL_SHARE / denser),
                narrow: Some(Narrow::Few),
            },
            "routing" => Self { routing: Some(1), ..none },
            "firewall" => Self { firewalls: Some(1), ..none },
            "mtu" => Self { narrow: Some(Narrow::All), ..none },
            number => {
                let step = Some(
                    number
                        .parse()
                        .expect("LVSPROV_EVERY_MUTANT is a number, routing, firewall or mtu"),
                );
                let narrow = Some(Narrow::All);
                Self { settings: step, routing: step, firewalls: step, narrow }
            }
        }
    }
}

/// Who answered each request, by client and number of the service.
pub type Served = Vec<(HostName, usize, Vec<Option<String>>)>;

/// Prints a line for the record that `scripts/walk-record` collects.
fn record(line: impl FnOnce() -> Record) {
    if std::env::var_os("LVSPROV_RECORD").is_some() {
        println!("RECORD {}", serde_json::to_string(&line()).unwrap());
    }
}

pub struct Cluster<'a> {
    topology: &'a Topology,
    pub lab: Lab,
    pub settings: ConnectionSettings,
    _responders: responders::Responders,
    _state: tempfile::TempDir,
}

impl<'a> Cluster<'a> {
    pub async fn up(topology: &'a Topology) -> Self {
        let lab = Lab::build(topology, Management::None).unwrap();
        forget_half_open_connections(&lab);
        let responders = responders::start(&lab, topology).await.unwrap();
        let state = tempfile::tempdir().unwrap();
        let settings = hosts::settings(&lab, topology, &state.path().join("state"));
        Self { topology, lab, settings, _responders: responders, _state: state }
    }

    /// Of `net.ipv4.conf.all`, as other programs leave it.
    pub fn set_rp_filter(&self, values: &BTreeMap<String, u8>) {
        for (host, value) in values {
            let path = "/proc/sys/net/ipv4/conf/all/rp_filter";
            let write = || std::fs::write(path, value.to_string());
            self.lab.run_in(&host.parse().unwrap(), write).unwrap().unwrap();
        }
    }

    async fn try_all(&self, subject: &Subject) -> Vec<String> {
        let file = subject.name.as_str();
        let mut session = Session::open(self.topology, &self.settings).await;
        self.apply(&mut session).await;
        let observed = session.observe(false).await;
        let mut states = HostStates::new();
        let mut receipts: BTreeMap<HostName, Receipt> = BTreeMap::new();
        let mut routing = BTreeMap::new();
        for (host, observation) in observed {
            let observation = observation.unwrap();
            states.insert(host.clone(), observation.state);
            routing.insert(host.clone(), observation.facts.routing);
            receipts.extend(observation.receipt.map(|receipt| (host, receipt)));
        }
        let (mut wrong, _) =
            self.compare(&seen_world(self.topology, &states, &routing), "nothing broken").await;
        let mutants = mutants::all(self.topology, &mut states, &receipts);
        record(|| Record::Cluster {
            file: file.to_owned(),
            text: subject.random.as_ref().map(|random| random.text.clone()),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap()
                .trim()
                .to_owned(),
            states: states.clone(),
            routing: routing.clone(),
        });
        let share = Share::wanted(file);
        let (mut count, mut tried) = (0, 0);
        if let Some(step) = share.settings {
            count += mutants.len();
            for mutant in mutants.into_iter().step_by(step) {
                tried += 1;
                let found = self.try_one(&mutant, &states, &routing).await;
                wrong.extend(found.into_iter().filter(|what| !is_known(file, what)));
                self.apply(&mut session).await;
                if mutant.edit.changed::<Link>().is_some() {
                    self.settle(&seen_world(self.topology, &states, &routing)).await;
                }
            }
        }
        // Not all of them begin with the same command, and a host has always the same number of them.
        let is_chosen = |nth: usize, step: usize| nth % step == file.len() % step;
        if let Some(step) = share.routing {
            for (nth, mutant) in foreign_routing::all(self.topology).into_iter().enumerate() {
                count += 1;
                if is_chosen(nth, step) {
                    tried += 1;
                    let found = self.try_routing(&mutant, &mut session).await;
                    wrong.extend(found.into_iter().filter(|what| !is_known(file, what)));
                }
            }
        }
        if let Some(step) = share.firewalls {
            for (nth, mutant) in firewalls::all(self.topology).into_iter().enumerate() {
                count += 1;
                if is_chosen(nth, step) {
                    tried += 1;
                    wrong.extend(self.try_rules(&mutant, &mut session).await);
                }
            }
        }
        if let Some(which) = share.narrow {
            let narrow = large::all(self.topology);
            count += narrow.len();
            let narrow = narrow.into_iter();
            let narrow = narrow.filter(|it| which == Narrow::All || it.is_always_tried(file));
            for (nth, mutant) in narrow.enumerate() {
                if nth == 0 {
                    self.send_single_segments();
                }
                tried += 1;
                wrong.extend(self.try_narrow(&mutant, &mut session).await);
            }
        }
        session.close().await;
        println!("{tried} of {count} mutants tried, {} disagreements", wrong.len());
        wrong
    }

    async fn apply(&self, session: &mut Session<'_>) {
        self.try_apply(session).await.unwrap();
    }

    pub async fn try_apply(&self, session: &mut Session<'_>) -> Result<(), String> {
        hosts::apply(self.topology, session).await
    }

    /// Breaks it, compares, and takes it back.
    async fn try_one(
        &self,
        mutant: &Mutant,
        states: &HostStates,
        routing: &BTreeMap<HostName, Routing>,
    ) -> Vec<String> {
        let Mutant { host, edit } = mutant;
        let mut broken = states.clone();
        let state = broken.get_mut(host).unwrap();
        *state = simulate(state, [edit]).unwrap();
        drift::inflict(&self.lab, host, edit).unwrap();
        let world = seen_world(self.topology, &broken, routing);
        let (wrong, served) = self.compare(&world, &format!("{edit} on {host}")).await;
        record(|| Record::Broken { host: host.clone(), edit: Box::new(edit.clone()), served });
        // What is not lvsprov's, apply does not mend.
        if let Some(back) = edit.inverse() {
            let _ = drift::inflict(&self.lab, host, &back);
        }
        wrong
    }

    /// Adds routes and rules, looks at the hosts, compares, and takes them back.
    async fn try_routing(&self, mutant: &ForeignRouting, session: &mut Session<'_>) -> Vec<String> {
        let ForeignRouting { host, ipv6, commands, back } = mutant;
        // What the kernel refuses (a gateway that is no neighbour) is nothing to compare.
        let all_done = commands.iter().all(|command| self.ip(host, *ipv6, command));
        let mut wrong = Vec::new();
        if all_done {
            let observed = session.observe(false).await;
            let (mut states, mut routing) = (HostStates::new(), BTreeMap::new());
            for (name, observation) in observed {
                let observation = observation.unwrap();
                states.insert(name.clone(), observation.state);
                routing.insert(name, observation.facts.routing);
            }
            let world = seen_world(self.topology, &states, &routing);
            let what = format!("ip {} on {host}", commands.join("; ip "));
            let (found, served) = self.compare(&world, &what).await;
            wrong = found;
            record(|| Record::Routed {
                host: host.clone(),
                commands: commands.clone(),
                state: Box::new(states[host].clone()),
                routing: routing[host].clone(),
                served,
            });
        }
        for command in back {
            let done = self.ip(host, *ipv6, command);
            assert!(done || !all_done, "ip {command} on {host}: it is not taken back");
        }
        wrong
    }

    fn ip(&self, host: &HostName, ipv6: bool, command: &str) -> bool {
        let family = if ipv6 { "-6" } else { "-4" };
        let run = || {
            let mut ip = Command::new("ip");
            ip.arg(family).args(command.split(' ')).output()
        };
        self.lab.run_in(host, run).unwrap().unwrap().status.success()
    }

    /// Waits until all is as before: a device that comes up looks for duplicates of its IPv6 addresses first.
    async fn settle(&self, world: &World) {
        for _ in 0..20 {
            if self.compare(world, "nothing broken").await.0.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the cluster does not come back");
    }

    /// Asks every service from every client, and says where the walk was wrong.
    ///
    /// What an earlier trial left on its way (an ICMP error that a host sends when it has given up asking for a
    /// neighbour, a question by which a host checks an old entry) teaches hosts their neighbours, who then need no
    /// answer. So what contradicts the walk is asked again.
    async fn compare(&self, world: &World, what: &str) -> (Vec<String>, Served) {
        let mut found = self.compare_once(world, what).await;
        for _ in 0..2 {
            if found.0.is_empty() {
                break;
            }
            found = self.compare_once(world, what).await;
        }
        found
    }

    async fn compare_once(&self, world: &World, what: &str) -> (Vec<String>, Served) {
        neighbours::forget(&self.lab);
        let mut served_all = Vec::new();
        let mut wrong = Vec::new();
        let all_ways = ways(self.topology);
        let announced = announced(world, &all_ways);
        for ((client, number), ways) in all_ways {
            let says = Prediction::of(world, &announced, &ways);
            let Some(target) = targets::of_service(ways[0].service).first().copied() else {
                continue;
            };
            let question = ClientRequest {
                from: None,
                target: target.at,
                protocol: target.protocol,
                patience: PATIENCE,
            };
            let count = if says.is_all_dead() { 2 } else { (ways.len() * 2).min(4) };
            let answers =
                clients::ask_each(&self.lab, client, &vec![question; count]).await.unwrap();
            let served: Vec<Option<String>> =
                answers.into_iter().map(|answer| answer.ok().map(|it| it.server)).collect();
            served_all.push((client.clone(), number, served.clone()));
            if let Some(why) = says.contradicted_by(&served) {
                let service = ways[0].service.display_name();
                wrong.push(format!("{what}: {client} asks {service}: {why}\n    walk: {says:?}\n    kernel: {served:?}"));
            }
        }
        (wrong, served_all)
    }
}

/// A real server whose SYN-ACK is lost sends it again for a minute, and each on its way teaches hosts their neighbours
/// (`arp_process` learns from a question): later trials of ARP would see answers that came from this one.
fn forget_half_open_connections(lab: &Lab) {
    for host in lab.host_names() {
        let write = || std::fs::write("/proc/sys/net/ipv4/tcp_synack_retries", "0");
        lab.run_in(host, write).unwrap().unwrap();
    }
}
