//! The packet walk against the kernel: a cluster is brought up, one thing on one host is broken, and requests of every
//! client say whether the walk was right.
//!
//! What was seen and answered is recorded (`scripts/walk-record`); `pure` tries the walk on the record.
//!
//! What is broken: each setting that lvsprov made is taken away, each interface is set down, the VIP is put on hosts
//! that must not have it, settings of hosts are set to other values than they have, and routes and policy rules are added
//! as a VPN or an old script would. `make test` tries every
//! [`SHARE`]th; `LVSPROV_EVERY_MUTANT=1` all, `LVSPROV_EVERY_MUTANT=routing` all routes and rules.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lvsprov::apply::cluster_plan::{self, Direction};
use lvsprov::apply::transaction::{self, TransactionPolicy, VerifyBy};
use lvsprov::apply::{ConnectionSettings, Session, operator};
use lvsprov::lab::clients::{self, ClientRequest};
use lvsprov::lab::network::Management;
use lvsprov::lab::scenario::drift;
use lvsprov::lab::{self, Lab, responders, targets};
use lvsprov::names::HostName;
use lvsprov::plan::simulate;
use lvsprov::state::{
    Address, AddressKey, ConfDev, ConfItem, Edit, HostState, Link, Receipt, Routing, Scope, Sysctl,
};
use lvsprov::topology::{Reach, Role, Topology};
use lvsprov::transport::Options;
use lvsprov::walk::{HostStates, World};

use crate::support::cases::Case;
use crate::support::foreign_routing::{self, ForeignRouting};
use crate::support::playbooks::{load, playbooks};
use crate::support::prediction::{Prediction, Record, announced, is_known, seen_world, ways};

/// One in so many mutants is tried by `make test`.
const SHARE: usize = 18;
/// After so long a request counts as lost: nothing is slow here, but the processor.
const PATIENCE: Duration = Duration::from_millis(1500);

/// One for each cluster.
pub fn cases() -> Vec<Case> {
    let all = playbooks().into_iter().chain(own());
    all.map(|path| {
        let name = path.file_stem().unwrap().to_str().unwrap().replace('-', "_");
        Case::new(format!("the_kernel_does_what_the_walk_says_{name}"), move || agrees(&path))
    })
    .collect()
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

fn agrees(path: &Path) {
    lab::isolate().unwrap();
    let topology = load(path);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let wrong = runtime.block_on(async {
        let cluster = Cluster::up(&topology).await;
        let file = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap();
        cluster.try_all(file.to_str().unwrap()).await
    });
    assert!(wrong.is_empty(), "{} disagreements:\n{}", wrong.len(), wrong.join("\n"));
}

/// Who answered each request, by client and number of the service.
type Served = Vec<(HostName, usize, Vec<Option<String>>)>;

/// Prints a line for the record that `scripts/walk-record` collects.
fn record(line: impl FnOnce() -> Record) {
    if std::env::var_os("LVSPROV_RECORD").is_some() {
        println!("RECORD {}", serde_json::to_string(&line()).unwrap());
    }
}

/// Something that is broken on a host.
struct Mutant {
    host: HostName,
    edit: Edit,
}

struct Cluster<'a> {
    topology: &'a Topology,
    lab: Lab,
    settings: ConnectionSettings,
    _responders: responders::Responders,
    _state: tempfile::TempDir,
}

impl<'a> Cluster<'a> {
    async fn up(topology: &'a Topology) -> Self {
        let lab = Lab::build(topology, Management::None).unwrap();
        let responders = responders::start(&lab, topology).await.unwrap();
        let state = tempfile::tempdir().unwrap();
        let transport = Options {
            state_dir: Some(state.path().join("state")),
            agent_binary: Some(env!("CARGO_BIN_EXE_lvsprov").into()),
            call_timeout: Duration::from_mins(1),
            hello_timeout: Duration::from_mins(1),
            ..Options::default()
        };
        let reach = topology.hosts.keys();
        let reach = reach.map(|host| (host.clone(), Reach::Netns(lab.netns_path(host).unwrap())));
        let reach = reach.collect();
        let settings = ConnectionSettings { transport, reach, ..ConnectionSettings::default() };
        Self { topology, lab, settings, _responders: responders, _state: state }
    }

    async fn try_all(&self, file: &str) -> Vec<String> {
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
        let mutants = mutants(self.topology, &mut states, &receipts);
        record(|| Record::Cluster {
            file: file.to_owned(),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap()
                .trim()
                .to_owned(),
            states: states.clone(),
            routing: routing.clone(),
        });
        let every = std::env::var("LVSPROV_EVERY_MUTANT").unwrap_or_default();
        let step = if every.is_empty() { SHARE } else { 1 };
        let mutants = if every == "routing" { Vec::new() } else { mutants };
        let count = mutants.len();
        let mut tried = 0;
        for mutant in mutants.into_iter().step_by(step) {
            tried += 1;
            let found = self.try_one(&mutant, &states, &routing).await;
            wrong.extend(found.into_iter().filter(|what| !is_known(file, what)));
            self.apply(&mut session).await;
            if mutant.edit.changed::<Link>().is_some() {
                self.settle(&seen_world(self.topology, &states, &routing)).await;
            }
        }
        let foreign = foreign_routing::all(self.topology);
        let count = count + foreign.len();
        // Not all of them begin with the same command, and a host has always the same number of them.
        for (nth, mutant) in foreign.into_iter().enumerate() {
            if !every.is_empty() || nth % SHARE == file.len() % SHARE {
                tried += 1;
                let found = self.try_routing(&mutant, &mut session).await;
                wrong.extend(found.into_iter().filter(|what| !is_known(file, what)));
            }
        }
        session.close().await;
        println!("{tried} of {count} mutants tried, {} disagreements", wrong.len());
        wrong
    }

    async fn apply(&self, session: &mut Session<'_>) {
        let direction = Direction::Apply { now: operator::now() };
        let observed = session.observe(false).await;
        let plan = cluster_plan::plan(
            self.topology,
            &session.desired,
            &observed,
            session.absent(),
            direction,
        );
        let policy = TransactionPolicy {
            verify: VerifyBy::State,
            ..TransactionPolicy::plain(operator::here(), operator::now())
        };
        let report = transaction::run(session, &plan, &observed, direction, &policy).await.report;
        assert!(!report.has_failures(), "{}", lvsprov::report::cluster::text(&report));
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
    async fn compare(&self, world: &World, what: &str) -> (Vec<String>, Served) {
        self.forget_neighbours();
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

    /// A neighbour that is known is not asked for: what ARP would say now shows only without.
    fn forget_neighbours(&self) {
        for host in self.topology.hosts.keys() {
            let flush = || Command::new("ip").args(["neigh", "flush", "all"]).status();
            assert!(self.lab.run_in(host, flush).unwrap().unwrap().success());
        }
    }
}

/// Everything that is broken, one at a time. Values that `states` does not have yet are added to it: they are the lab's.
fn mutants(
    topology: &Topology,
    states: &mut HostStates,
    receipts: &BTreeMap<HostName, Receipt>,
) -> Vec<Mutant> {
    let mut all = Vec::new();
    for (host, receipt) in receipts {
        let state = &states[host];
        for item in &receipt.owned {
            let edits = drift::damage(item, state, &receipt.found);
            all.extend(edits.into_iter().map(|edit| Mutant { host: host.clone(), edit }));
        }
    }
    for host in topology.hosts.values() {
        let state = states.get_mut(&host.name).unwrap();
        let mut edits = Vec::new();
        for interface in host.interfaces.values().filter(|interface| interface.network.is_some()) {
            let dev = &interface.name;
            edits.push(Edit::change::<Link>(dev.clone(), Link::Up, Link::Down));
            for (item, value) in [
                (ConfItem::Forwarding, "0"),
                (ConfItem::RpFilter, "1"),
                (ConfItem::ArpIgnore, "1"),
                (ConfItem::ArpIgnore, "2"),
                (ConfItem::ArpIgnore, "8"),
                (ConfItem::ArpAnnounce, "2"),
                (ConfItem::AcceptLocal, "1"),
            ] {
                edits.extend(set(state, Sysctl::dev(dev, item), value));
            }
            for vip in topology.services.iter().filter_map(lvsprov::topology::Service::vip_address)
            {
                let key = AddressKey { dev: dev.clone(), net: vip.into() };
                let address = Address { nodad: vip.is_ipv6(), ..Address::plain(Scope::Global) };
                edits.push(Edit::add::<Address>(key, address));
            }
        }
        for (item, value) in [(ConfItem::RpFilter, "0"), (ConfItem::RpFilter, "2")] {
            edits.extend(set(state, Sysctl::all(item), value));
        }
        if host.roles.contains(&Role::Client) {
            edits.retain(|edit| edit.added::<Address>().is_none());
        }
        edits.retain(|edit| simulate(state, [edit]).is_ok());
        all.extend(edits.into_iter().map(|edit| Mutant { host: host.name.clone(), edit }));
    }
    all.retain(|mutant| simulate(&states[&mutant.host], [&mutant.edit]).is_ok());
    all
}

/// The setting with another value; a value that is not known is the one that the lab gives a bare host.
fn set(state: &mut HostState, key: Sysctl, value: &str) -> Option<Edit> {
    let bare = match &key {
        Sysctl::Conf(ConfDev::All, ConfItem::RpFilter) => "1".to_owned(),
        Sysctl::Conf(_, ConfItem::Forwarding) => {
            state.sysctls.get(&Sysctl::IpForward).cloned().unwrap_or_else(|| "0".to_owned())
        }
        _ => "0".to_owned(),
    };
    let before = state.sysctls.entry(key.clone()).or_insert(bare).clone();
    (before != value).then(|| Edit::change::<Sysctl>(key, before, value.to_owned()))
}
