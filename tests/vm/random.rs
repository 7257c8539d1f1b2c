//! Random clusters (`tests/support/random_clusters.rs`): `check` finds nothing if and only if requests are answered, and what it
//! refuses is dead when it is brought up all the same.
//!
//! `make test` tries the seeds that once found something and a few others; `LVSPROV_RANDOM_CLUSTERS=300` the seeds 1 to 300,
//! `LVSPROV_RANDOM_CLUSTERS=301-600` those, `LVSPROV_RANDOM_CLUSTERS=17,301-303` four. `scripts/random-record` writes a record.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Instant;

use lvsprov::apply::Session;
use lvsprov::kernel::modules;
use lvsprov::lab;
use lvsprov::lab::clients::{self, ClientRequest};
use lvsprov::lab::targets;
use lvsprov::state::Module;
use lvsprov::topology::Topology;

use crate::support::cases::{Case, cases};
use crate::support::prediction::ways;
use crate::support::random_clusters::{RandomCluster, random_cluster};
use crate::support::random_verdict::{RandomTrial, examine};
use crate::walk::{Cluster, PATIENCE, Served, neighbours};

/// Seeds whose clusters showed that the walk, a rule or a setting was wrong.
const FOUND: &[u64] = &[
    6,    // a real server's gateway is the director, and no reply passes it
    56,   // a client has the VIP as a real server of another service
    1004, // a mark of a client on the director; an IPv6 tunnel from the VIP
    1013, // a director that is a router is the gateway of DR and TUN real servers
    1051, // a service for every port beside one for port 80
    1067, // a director that is a router, with a VIP in no subnet
];
/// Seeds that `make test` tries beside them.
const FEW: RangeInclusive<u64> = 1..=3;

pub fn cases() -> Vec<Case> {
    cases![check_finds_nothing_if_and_only_if_requests_are_answered]
}

/// Loads every module: `register_pernet_operations` (net/core/net_namespace.c) waits for namespaces that are being removed, and
/// those of an earlier cluster may take minutes.
pub fn prepare() {
    for module in Module::ALL {
        // A kernel without it: the clusters that need it say so.
        let _ = modules::load(*module);
    }
}

/// The seeds of `LVSPROV_RANDOM_CLUSTERS`.
pub fn wanted() -> Option<Vec<u64>> {
    let wanted = std::env::var("LVSPROV_RANDOM_CLUSTERS").ok()?;
    let number = |text: &str| {
        text.parse()
            .expect("LVSPROV_RANDOM_CLUSTERS is numbers and ranges: 17,301-600; or one: 300")
    };
    if !wanted.contains(['-', ',']) {
        return Some((1..=number(&wanted)).collect());
    }
    let ranges = wanted.split(',').map(|range| range.split_once('-').unwrap_or((range, range)));
    Some(ranges.flat_map(|(first, last)| number(first)..=number(last)).collect())
}

fn seeds() -> Vec<u64> {
    wanted().unwrap_or_else(|| FOUND.iter().copied().chain(FEW).collect())
}

fn check_finds_nothing_if_and_only_if_requests_are_answered() {
    lab::isolate().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (mut wrong, mut accepted, mut refused, mut unread) = (Vec::new(), 0, 0, 0);
    for seed in seeds() {
        let cluster = random_cluster(seed);
        let Ok((topology, errors)) = examine(&cluster.text) else {
            unread += 1;
            continue;
        };
        // The file says nothing of rp_filter: a refusal is right if the usual strict one makes it so.
        let strict = !errors.is_empty();
        *if strict { &mut refused } else { &mut accepted } += 1;
        let begun = Instant::now();
        let (trial, found) = runtime.block_on(try_one(&cluster, &topology, strict));
        let verdict = if strict { "refused" } else { "accepted" };
        let took = begun.elapsed().as_secs_f32();
        println!("seed {seed}: {verdict}, {} disagreements ({took:.1} s)", found.len());
        for what in &found {
            println!("WRONG {what}");
        }
        if std::env::var_os("LVSPROV_RECORD").is_some() {
            println!("RECORD {}", serde_json::to_string(&trial).unwrap());
        }
        wrong.extend(found);
    }
    println!(
        "{accepted} clusters accepted, {refused} refused, {unread} not read, {} disagreements",
        wrong.len()
    );
    assert!(wrong.is_empty(), "{} disagreements:\n{}", wrong.len(), wrong.join("\n"));
}

/// Brings the cluster up and asks. Where something disagrees, asks again: what is wrong stays wrong.
async fn try_one(
    random: &RandomCluster,
    topology: &Topology,
    strict: bool,
) -> (RandomTrial, Vec<String>) {
    let begun = Instant::now();
    let cluster = Cluster::up(topology).await;
    let up = begun.elapsed().as_secs_f32();
    let before = random.rp_filter.iter();
    let before = before.map(|(host, value)| (host.clone(), if strict { 1 } else { *value }));
    cluster.set_rp_filter(&before.collect());
    let mut session = Session::open(topology, &cluster.settings).await;
    let failed = cluster.try_apply(&mut session).await.err();
    let (mut states, mut routing) = (BTreeMap::new(), BTreeMap::new());
    for (host, observation) in session.observe(false).await {
        let observation = observation.unwrap();
        states.insert(host.clone(), observation.state);
        routing.insert(host, observation.facts.routing);
    }
    let applied = begun.elapsed().as_secs_f32() - up;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim().to_owned();
    let (seed, text) = (random.seed, random.text.clone());
    let served = ask_all(&cluster, topology).await;
    let mut trial = RandomTrial { seed, text, kernel, failed, states, routing, served };
    let asked = begun.elapsed().as_secs_f32() - up - applied;
    let mut found = trial.disagreements();
    if !found.is_empty() {
        trial.served = ask_all(&cluster, topology).await;
        found = trial.disagreements();
    }
    session.close().await;
    println!("{up:.1} s up, {applied:.1} s applied, {asked:.1} s asked");
    (trial, found)
}

/// From each client to each service as many requests as it has real servers, side by side.
async fn ask_all(cluster: &Cluster<'_>, topology: &Topology) -> Served {
    neighbours::forget(&cluster.lab);
    let mut served = Served::new();
    for ((client, number), ways) in ways(topology) {
        let Some(target) = targets::of_service(ways[0].service).first().copied() else { continue };
        let question = ClientRequest {
            from: None,
            target: target.at,
            protocol: target.protocol,
            patience: PATIENCE,
        };
        let questions = [question];
        let requests = ways.iter().map(|_| clients::ask_each(&cluster.lab, client, &questions));
        let answers = futures_util::future::join_all(requests).await;
        let answers = answers.into_iter().flat_map(Result::unwrap);
        let answers = answers.map(|answer| answer.ok().map(|it| it.server)).collect();
        served.push((client.clone(), number, answers));
    }
    served
}
