//! Changes of a running cluster: clients send requests all the time, and none may fail.
//!
//! Needs a kernel with IPVS.

pub mod checks;
pub mod cluster;
pub mod health;
pub mod instance;
pub mod load;

use std::thread;
use std::time::{Duration, Instant};

use cluster::{Cluster, Method, at, costs, text, web};
use load::{Load, failures, told};

use crate::support::cases::Case;
use crate::support::speed;

/// Clients, and how many requests each has under way at most.
const CLIENTS: [&str; 2] = ["client", "other"];
const AT_ONCE: usize = 4;
/// Requests of each client before and after a change, so that it lies among them.
const AROUND: usize = 10;

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for method in [Method::Dr, Method::Nat, Method::Tun] {
        let case = |what: &str, test: fn(Method)| {
            let name = format!("{what}_{method:?}").to_lowercase();
            Case::new(name, move || test(method))
        };
        all.push(case("nobody_notices", nobody_notices));
        all.push(case("what_ends_in_time_is_not_cut", draining));
        all.push(case("another_port_costs_what_was_said", another_port));
    }
    all.push(Case::new("the_same_port_again_is_answered_dr", || same_ports(Method::Dr)));
    all.push(Case::new("the_same_port_again_is_answered_tun", || same_ports(Method::Tun)));
    all.push(Case::new("the_same_port_again_is_answered_nat", || same_ports(Method::Nat)));
    all.push(Case::new("a_bare_exchange_of_the_scheduler_refuses", a_bare_exchange_refuses));
    all.push(Case::new("persistence_lets_go_of_what_is_drained", persistence_lets_go));
    all.push(Case::new("a_share_grows", a_share_grows));
    all
}

/// Does `change` among requests, of which none may fail.
fn unnoticed(load: &Load, what: &str, change: impl FnOnce()) {
    load.take();
    load.pass(AROUND);
    change();
    load.pass(AROUND);
    let requests = load.take();
    println!("{what}: {}", told(&requests));
    assert_eq!(failures(&requests).len(), 0, "{what}: {}", told(&requests));
}

/// Add, weigh, exchange the scheduler, remove: nobody is refused, reset or left waiting.
fn nobody_notices(method: Method) {
    let cluster = Cluster::build(method);
    let base = "port: 80, drain: 3, scheduler: ";
    let apply = |what: &str, weights: &[u32]| {
        let (_, done) = cluster.apply(&web(&format!("{base}{what}"), weights));
        assert!(done.count(lvsprov::apply::StepState::Done) > 0, "{}", text(&done));
    };
    apply("wrr", &[10, 10]);
    let load = Load::start(&cluster.lab, &CLIENTS, AT_ONCE, at(80));
    unnoticed(&load, "a real server is added", || apply("wrr", &[10, 10, 10]));
    unnoticed(&load, "weights are changed", || apply("wrr", &[10, 5, 20]));
    for scheduler in ["wlc", "sh", "rr", "wrr"] {
        let what = format!("the scheduler becomes {scheduler}");
        unnoticed(&load, &what, || apply(scheduler, &[10, 5, 20]));
    }
    unnoticed(&load, "a real server is removed", || apply("wrr", &[10, 5]));
    unnoticed(&load, "and added again, slowly", || apply("wrr, ramp: 2", &[10, 5, 10]));
    unnoticed(&load, "the scheduler becomes sh", || apply("sh", &[10, 5, 10]));
    unnoticed(&load, "a real server is removed from sh", || apply("sh", &[10, 5]));
    let rest = load.stop();
    assert_eq!(failures(&rest).len(), 0, "{}", told(&rest));
}

/// Long connections to the real server that is removed: those that end in time are not cut, the others
/// are, and the report counts them.
fn draining(method: Method) {
    let cluster = Cluster::build(method);
    cluster.apply(&web("port: 80, scheduler: wrr", &[10, 10, 10]));
    let load = Load::start(&cluster.lab, &CLIENTS, AT_ONCE, at(80));
    load.pass(AROUND);
    let open = || {
        let all = load::talks_to(&cluster.lab, "client", at(80), "web3", 4);
        all.into_iter().partition::<Vec<_>, _>(|talk| talk.server == "web3")
    };

    // All of them end meanwhile, after they were asked once more.
    let (leaving, staying) = open();
    let drained = load::on(&cluster.lab, "lvs", cluster::wait_for_weight_0);
    let ending = thread::spawn(move || {
        drained.join().unwrap();
        load::dead(leaving)
    });
    let drained = format!("port: 80, scheduler: wrr, drain: {}", speed::seconds(60));
    unnoticed(&load, "web3 goes, its connections end", || {
        let (planned, done) = cluster.apply(&web(&drained, &[10, 10]));
        println!("{}", text(&done));
        let (at_once, may_end, cut) = costs(&planned, &done);
        assert_eq!((at_once, cut), (0, 0), "{}", text(&done));
        assert!(may_end >= 4, "{}", text(&planned));
        assert!(text(&done).contains("connections were over after"), "{}", text(&done));
    });
    assert_eq!(ending.join().unwrap(), 0, "a connection was cut that had the time to end");
    assert_eq!(load::dead(staying), 0, "a connection to another real server was cut");

    // Some do not.
    cluster.apply(&web("port: 80, scheduler: wrr", &[10, 10, 10]));
    load.pass(AROUND);
    let (mut leaving, staying) = open();
    let stays = leaving.split_off(2);
    let count = stays.len();
    drop(leaving);
    let drained = format!("port: 80, scheduler: wrr, drain: {}", speed::seconds(4));
    unnoticed(&load, "web3 goes, some connections stay", || {
        let (planned, done) = cluster.apply(&web(&drained, &[10, 10]));
        println!("{}", text(&done));
        let (at_once, _, cut) = costs(&planned, &done);
        assert_eq!((at_once, cut), (0, u64::try_from(count).unwrap()), "{}", text(&done));
        assert!(text(&done).contains("left, and cut when it is removed"), "{}", text(&done));
    });
    assert_eq!(load::dead(stays), count, "what was still open is cut");
    assert_eq!(load::dead(staying), 0, "a connection to another real server was cut");
    let rest = load.stop();
    assert_eq!(failures(&rest).len(), 0, "{}", told(&rest));
}

/// The service moves: everything that is open dies, and the plan has said how much that is.
fn another_port(method: Method) {
    let cluster = Cluster::build(method);
    cluster.apply(&web("port: 80, scheduler: wrr", &[10, 10, 10]));
    let talks = load::talks(&cluster.lab, "client", at(80), 9);
    let (planned, done) = cluster.apply(&web("port: 81, scheduler: wrr", &[10, 10, 10]));
    println!("{}", text(&planned));
    let (at_once, may_end, cut) = costs(&planned, &done);
    assert_eq!((at_once, may_end, cut), (9, 0, 9), "{}\n{}", text(&planned), text(&done));
    assert!(text(&planned).contains("live connections: 9 are cut at once"), "{}", text(&planned));
    assert_eq!(load::dead(talks), 9);
    let after = Load::start(&cluster.lab, &CLIENTS, 1, at(81));
    after.pass(10);
    let requests = after.stop();
    assert_eq!(failures(&requests).len(), 0, "{}", told(&requests));
}

/// Clients that were answered by a real server that is removed come back from the same ports at once.
fn same_ports(method: Method) {
    let dead = |settings: &str| {
        let cluster = Cluster::build(method);
        // Else the client's own memory of its connections keeps it from coming back for a minute.
        cluster.run("client", "sysctl -qw net.ipv4.tcp_tw_reuse=1");
        let file = |weights: &[u32]| web("port: 80, scheduler: rr", weights) + settings;
        cluster.apply(&file(&[1, 1, 1]));
        let first = load::from_ports(&cluster.lab, "client", at(80), (20_000..20_012).collect());
        let gone = first.iter().filter(|(_, server)| server.as_deref() == Some("web3"));
        let gone: Vec<u16> = gone.map(|(port, _)| *port).collect();
        assert_eq!(gone.len(), 4, "{first:?}");
        cluster.apply(&file(&[1, 1]));
        let again = load::from_ports(&cluster.lab, "client", at(80), gone);
        println!("{settings:?}: {again:?}");
        again.iter().filter(|(_, server)| server.is_none()).count()
    };
    assert_eq!(dead(""), 0);
    if matches!(method, Method::Dr) {
        assert_ne!(dead("\nipvs: {settings: {expire_nodest_conn: 0}}"), 0, "is it needed?");
    }
}

/// What the silence is for: without it connections are refused while the scheduler is exchanged.
fn a_bare_exchange_refuses() {
    let cluster = Cluster::build(Method::Dr);
    cluster.apply(&web("port: 80, scheduler: wrr", &[10, 10]));
    let load = Load::start(&cluster.lab, &CLIENTS, AT_ONCE, at(80));
    load.pass(AROUND);
    let mut all = Vec::new();
    // The moment is short: how often it is hit hangs on the machine.
    for nth in 0..400 {
        let scheduler = if nth % 2 == 0 { "wlc" } else { "wrr" };
        cluster.run("lvs", &format!("ipvsadm -E -t 172.25.7.1:80 -s {scheduler}"));
        load.pass(1);
        all.extend(load.take());
        if !failures(&all).is_empty() {
            break;
        }
    }
    all.extend(load.stop());
    println!("by hand: {}", told(&all));
    assert!(
        failures(&all).keys().any(|why| why.contains("refused")),
        "no request was refused: is the silence needed? {}",
        told(&all)
    );
}

/// One client, all of whose requests persistence sends to one real server, until that is drained.
fn persistence_lets_go() {
    let cluster = Cluster::build(Method::Dr);
    let drain = speed::scaled(Duration::from_secs(6));
    let persistent =
        format!("port: 80, scheduler: rr, persistence: 300, drain: {}", drain.as_secs());
    cluster.apply(&web(&persistent, &[1, 1]));
    let load = Load::start(&cluster.lab, &["client"], 1, at(80));
    load.pass(10);
    let before = load.take();
    let server = before[0].result.clone().unwrap();
    assert!(before.iter().all(|request| request.result.as_ref() == Ok(&server)), "{before:?}");
    // It stays open all the time, so that the real server is there until the time is over.
    let held = load::talks(&cluster.lab, "client", at(80), 1);
    assert_eq!(held[0].server, server);
    let stays = if server == "web1" { 2 } else { 1 };
    let (_, done) =
        cluster.apply(&format!("{{vip: 172.25.7.1, {persistent}, real_servers: [web{stays}]}}"));
    let ended = Instant::now();
    assert_eq!(costs(&done, &done).2, 1, "{}", text(&done));
    load.pass(10);
    let requests = load.stop();
    println!("persistent: {}", told(&requests));
    assert_eq!(failures(&requests).len(), 0, "{}", told(&requests));
    let other = requests.iter().position(|request| request.result.as_ref() != Ok(&server));
    let other = other.expect("nobody else ever answered");
    assert!(requests[other].began + drain / 2 < ended, "it was let go of too late");
    let back = requests[other..].iter().filter(|r| r.result.as_ref() == Ok(&server)).count();
    assert_eq!(back, 0, "a client came back to a real server that is drained");
    cluster.run("lvs", "grep -qx 0 /proc/sys/net/ipv4/vs/expire_quiescent_template");
}

/// A new real server has less of the requests at first than in the end.
fn a_share_grows() {
    let cluster = Cluster::build(Method::Dr);
    cluster.apply(&web("port: 80, scheduler: wrr", &[10, 10]));
    let load = Load::start(&cluster.lab, &CLIENTS, AT_ONCE, at(80));
    load.pass(AROUND);
    load.take();
    let ramp = speed::scaled(Duration::from_secs(12));
    let ramped = format!("port: 80, scheduler: wrr, ramp: {}", ramp.as_secs());
    let (_, done) = cluster.apply(&web(&ramped, &[10, 10, 10]));
    println!("{}", text(&done));
    let during = load.take();
    load.pass(3 * AROUND);
    let after = load.stop();
    for requests in [&during, &after] {
        assert_eq!(failures(requests).len(), 0, "{}", told(requests));
    }
    let is_new = |request: &&load::Request| request.result.as_deref() == Ok("web3");
    let first = during.iter().find(is_new).expect("web3 is never asked").began;
    let early: Vec<_> =
        during.iter().filter(|r| r.began >= first && r.began < first + ramp * 5 / 24).collect();
    #[allow(clippy::cast_precision_loss)]
    let share =
        |all: &[&load::Request]| all.iter().filter(|r| is_new(r)).count() as f64 / all.len() as f64;
    let (early, late) = (share(&early), share(&after.iter().collect::<Vec<_>>()));
    println!("web3 has {early:.2} of the requests at first, {late:.2} in the end");
    // 2 of 22 by its weight, then 10 of 30.
    assert!(early < 0.17, "{early}");
    assert!(late > 0.28, "{late}");
}
