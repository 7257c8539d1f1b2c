//! How long large IPVS tables take, beside ipvsadm and beside the least that netlink itself takes.
//!
//! `cargo bench --bench bulk [ROUNDS]` (5 unless told) boots the lab's virtual machine and runs
//! itself in it: 1,000 services with 10 real servers each, and 100 with 100. Everything is measured
//! in one run, in turns, each in a fresh network namespace; what is shown are medians and least times,
//! and ratios to:
//!
//! - for loading a table, a bare sender: the same requests in few large sends on one socket, of
//!   which only the last of each send is acknowledged. It checks nothing and reads nothing back;
//! - for finding out that nothing is to be done, `ipvsadm -Sn`.
//!
//! "The changes alone" are `kernel::ipvs::run`: what is there is read as far as it is to be changed,
//! compared with what the plan expects, and changed. "The act" is all that a host does: the receipts
//! before and after, the changes, and reading everything back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::fs::File;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use lvsprov::desired::Desired;
use lvsprov::kernel::ipvs::codec::VERSION;
use lvsprov::kernel::ipvs::{self, Table, wire};
use lvsprov::plan::{Goal, steps_between};
use lvsprov::protocol::{Decision, Prepare, Reply, Request};
use lvsprov::state::{
    Destination, DestinationKey, ForwardingMethod, HostState, Observation, ServiceKey, Step,
    VirtualService,
};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};
use support::netns_host::{self, NetnsHost, run};
use support::vm;

const SIZES: [(u16, u8); 2] = [(1000, 10), (100, 100)];
/// Requests in one send of the bare sender.
const SEND: usize = 1000;

fn main() -> ExitCode {
    if let Some(code) = vm::boot(3600) {
        return code;
    }
    let rounds = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(5);
    run(Command::new("modprobe").args(["-a", "ip_vs", "ip_vs_wrr"]));
    println!("{rounds} rounds, in one virtual machine");
    println!("| table | what | median ms | ratio | least ms | ratio | to |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (services, servers) in SIZES {
        measure(&Bench::new(services, servers), rounds);
    }
    ExitCode::SUCCESS
}

/// `services` services with `servers` real servers each.
fn table(services: u16, servers: u8) -> Table {
    let destination = Destination::plain(ForwardingMethod::DirectRoute, 1);
    let service = |nth: u16| {
        let port = 1000 + nth;
        let key: ServiceKey = format!("tcp 192.0.2.1:{port}").parse().unwrap();
        let mut service = VirtualService::plain(&key, "wrr");
        for server in 1..=servers {
            let rip = DestinationKey::new([198, 51, 100, server].into(), port);
            service.destinations.insert(rip, destination.clone());
        }
        (key, service)
    };
    (0..services).map(service).collect()
}

/// The same with another weight for every hundredth real server.
fn one_percent(table: &Table) -> Table {
    let mut changed = table.clone();
    let destinations = changed.values_mut().flat_map(|service| service.destinations.values_mut());
    for destination in destinations.step_by(100) {
        destination.weight = 7;
    }
    changed
}

/// A table in all the forms that are needed.
struct Bench {
    name: String,
    table: Table,
    changed: Table,
    /// For `ipvsadm -R`.
    rules: tempfile::NamedTempFile,
}

impl Bench {
    fn new(services: u16, servers: u8) -> Self {
        let table = table(services, servers);
        let rules = tempfile::NamedTempFile::new().unwrap();
        let mut text = String::new();
        for (key, service) in &table {
            let vip = key.to_string().replace("tcp ", "");
            let _ = writeln!(text, "-A -t {vip} -s wrr");
            for rip in service.destinations.keys() {
                let _ = writeln!(text, "-a -t {vip} -r {rip} -g -w 1");
            }
        }
        std::fs::write(rules.path(), text).unwrap();
        let changed = one_percent(&table);
        Self { name: format!("{services} x {servers}"), table, changed, rules }
    }
}

/// One of the things that are measured; the order is that of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Bare,
    Restore,
    LoadRun,
    LoadAct,
    LoadPlan,
    LoadLook,
    Save,
    IdleLook,
    Idle,
    ChangeRun,
    ChangeAct,
    ChangeWhole,
}

fn measure(bench: &Bench, rounds: usize) {
    let mut times = std::collections::BTreeMap::<What, Vec<Duration>>::new();
    let mut used = Vec::new();
    let mut put_away = |netns: NetnsHost| {
        // A namespace that goes away takes its table apart in the background, in the time of what is
        // measured next: so the table goes now, and the namespace later.
        netns.run(|| run(Command::new("ipvsadm").arg("-C")));
        used.push(netns);
        // The kernel frees the memory behind its back (call_rcu); nothing tells when it is done.
        std::thread::sleep(Duration::from_millis(500));
    };
    for _ in 0..rounds {
        let mut put = |what, time| times.entry(what).or_default().push(time);
        let netns = NetnsHost::with_lo();
        put(What::Bare, netns.run(|| bare(&bench.table)));
        check(&netns, &bench.table);
        put_away(netns);

        let netns = NetnsHost::with_lo();
        put(What::Restore, netns.run(|| restore(bench)));
        check(&netns, &bench.table);
        put_away(netns);

        let netns = NetnsHost::with_lo();
        put(What::LoadRun, run_only(&netns, &bench.table));
        put(What::ChangeRun, run_only(&netns, &bench.changed));
        check(&netns, &bench.changed);
        put_away(netns);

        let netns = NetnsHost::with_lo();
        let [look, plan, act] = apply(&netns, &bench.table);
        put(What::LoadLook, look);
        put(What::LoadPlan, plan);
        put(What::LoadAct, act);
        put(What::Save, netns.run(save));
        let [look, plan, act] = apply(&netns, &bench.table);
        assert_eq!(act, Duration::ZERO, "there was something to do");
        put(What::IdleLook, look);
        put(What::Idle, look + plan);
        let [look, plan, act] = apply(&netns, &bench.changed);
        put(What::ChangeAct, act);
        put(What::ChangeWhole, look + plan + act);
        check(&netns, &bench.changed);
        put_away(netns);
    }
    let of = |what: What| Times::of(&times[&what]);
    let sum = |parts: [What; 3]| {
        // Round by round: the parts of one round belong together.
        let rounds = (0..rounds).map(|nth| parts.iter().map(|what| times[what][nth]).sum());
        Times::of(&rounds.collect::<Vec<Duration>>())
    };
    let load = sum([What::LoadLook, What::LoadPlan, What::LoadAct]);
    let row = |what: &str, time: Times, floor: Times, to: &str| {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let ratio = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
        println!(
            "| {} | {what} | {:.1} | {:.2} | {:.1} | {:.2} | {to} |",
            bench.name,
            ms(time.median),
            ratio(time.median, floor.median),
            ms(time.least),
            ratio(time.least, floor.least)
        );
    };
    let bare = of(What::Bare);
    row("load: bare sender", bare, bare, "itself");
    row("load: `ipvsadm -R`", of(What::Restore), bare, "bare sender");
    row("load: the look", of(What::LoadLook), bare, "bare sender");
    row("load: the plan", of(What::LoadPlan), bare, "bare sender");
    row("load: the changes alone", of(What::LoadRun), bare, "bare sender");
    row("load: the changes alone", of(What::LoadRun), of(What::Restore), "`ipvsadm -R`");
    row("load: the act", of(What::LoadAct), bare, "bare sender");
    row("load: look, plan, act", load, bare, "bare sender");
    row("load: look, plan, act", load, of(What::Restore), "`ipvsadm -R`");
    let saved = of(What::Save);
    row("no-op: `ipvsadm -Sn`", saved, saved, "itself");
    row("no-op: the look", of(What::IdleLook), saved, "`ipvsadm -Sn`");
    row("no-op: look, plan", of(What::Idle), saved, "`ipvsadm -Sn`");
    row("1 %: the changes alone", of(What::ChangeRun), of(What::LoadRun), "the changes of a load");
    row("1 %: the act", of(What::ChangeAct), of(What::LoadAct), "the act of a load");
    row("1 %: look, plan, act", of(What::ChangeWhole), load, "a whole load");
}

/// Of several rounds. The least is what other work on the machine disturbs the least.
#[derive(Debug, Clone, Copy)]
struct Times {
    median: Duration,
    least: Duration,
}

impl Times {
    fn of(times: &[Duration]) -> Self {
        let mut times = times.to_vec();
        times.sort_unstable();
        Self { median: times[times.len() / 2], least: times[0] }
    }
}

fn check(netns: &NetnsHost, table: &Table) {
    assert!(netns.look(&[]).state.services == *table, "the table is not what it should be");
}

fn socket() -> Socket {
    let mut socket = Socket::new(NETLINK_GENERIC).unwrap();
    socket.bind_auto().unwrap();
    socket.connect(&SocketAddr::new(0, 0)).unwrap();
    socket
}

/// The number of the family IPVS.
fn family(socket: &Socket) -> u16 {
    let mut name = wire::AttributeList::default();
    name.put_text(2, "IPVS");
    socket.send(&wire::frame(16, 1, 1, 3, 1, &name.into_bytes()), 0).unwrap();
    let (answer, _) = socket.recv_from_full().unwrap();
    let message = wire::messages(&answer).next().unwrap().unwrap();
    let mut attributes = wire::attributes(message.generic().unwrap().1).map(Result::unwrap);
    let (_, family) = attributes.find(|(kind, _)| *kind == 1).unwrap();
    wire::read_u16(family, "family").unwrap()
}

/// The least: every request made and sent, and that there was no error.
fn bare(table: &Table) -> Duration {
    let start = Instant::now();
    let socket = socket();
    let family = family(&socket);
    let mut requests = Vec::new();
    for (key, service) in table {
        let settings = VirtualService { destinations: [].into(), ..service.clone() };
        requests.push(ipvs::IpvsRequest::NewService(key.clone(), settings));
        for (rip, destination) in &service.destinations {
            let (key, destination) = (key.clone(), destination.clone());
            requests.push(ipvs::IpvsRequest::NewDestination(key, *rip, destination));
        }
    }
    for batch in requests.chunks(SEND) {
        let mut bytes = Vec::new();
        for (nth, request) in batch.iter().enumerate() {
            // NLM_F_REQUEST, and NLM_F_ACK for the last.
            let flags = if nth + 1 == batch.len() { 5 } else { 1 };
            let (command, body) = (request.command(), request.encode());
            let seq = u32::try_from(nth).unwrap();
            bytes.extend_from_slice(&wire::frame(family, flags, seq, command, VERSION, &body));
        }
        socket.send(&bytes, 0).unwrap();
        let (answer, _) = socket.recv_from_full().unwrap();
        let message = wire::messages(&answer).next().unwrap().unwrap();
        assert_eq!(message.errno().unwrap(), 0);
    }
    start.elapsed()
}

fn restore(bench: &Bench) -> Duration {
    let rules = File::open(bench.rules.path()).unwrap();
    let start = Instant::now();
    run(Command::new("ipvsadm").arg("-R").stdin(rules));
    start.elapsed()
}

fn save() -> Duration {
    let start = Instant::now();
    let mut command = Command::new("ipvsadm");
    assert!(command.arg("-Sn").stdout(Stdio::null()).status().unwrap().success());
    start.elapsed()
}

/// As an apply does it: look, plan with the receipt, act; how long each took. The act is left out
/// where there is nothing to do.
fn apply(netns: &NetnsHost, table: &Table) -> [Duration; 3] {
    let state = HostState { services: table.clone(), ..HostState::default() };
    let desired = Desired { state, ..Desired::default() };
    let start = Instant::now();
    let seen = netns.look(&[]);
    let look = start.elapsed();
    let start = Instant::now();
    let (steps, goal) = plan(&desired, &seen);
    let plan = start.elapsed();
    let receipt_after = goal.receipt_after.clone();
    if steps.is_empty() && receipt_after == seen.receipt {
        return [look, plan, Duration::ZERO];
    }
    let act = netns.run(|| transact(netns, &seen, steps, goal));
    [look, plan, act]
}

/// Prepared, executed and committed over one connection.
fn transact(netns: &NetnsHost, seen: &Observation, steps: Vec<Step>, goal: Goal) -> Duration {
    let Goal { receipt, receipt_after, .. } = goal;
    let count = steps.len();
    let changes = steps.iter().map(|step| step.edit.clone()).collect();
    let begin = Prepare { receipt, receipt_after, ..netns_host::begin(1, changes, seen) };
    let (topology, transaction) = (netns_host::topology(), begin.journal.transaction.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut host = netns_host::host(netns.folder.path());
    let mut ask = |request| runtime.block_on(host.answer(request));

    let start = Instant::now();
    assert_eq!(ask(Request::Prepare(Box::new(begin))), Reply::Prepared);
    let (whose, which) = (topology.clone(), transaction.clone());
    let sysctls = [].into();
    let reply = ask(Request::Execute { topology: whose, transaction: which, steps, sysctls });
    let settle = Request::Close { topology, transaction, decision: Decision::Commit };
    assert_eq!(ask(settle), Reply::Closed);
    let time = start.elapsed();

    let Reply::Executed(outcome) = reply else { panic!("{reply:?}") };
    assert_eq!((outcome.done, &outcome.failure), (count, &None));
    time
}

/// The part of an act that talks to IPVS: what is there is checked, then changed.
fn run_only(netns: &NetnsHost, table: &Table) -> Duration {
    let state = HostState { services: table.clone(), ..HostState::default() };
    let (steps, _) = plan(&Desired { state, ..Desired::default() }, &netns.look(&[]));
    let changes: Vec<_> = steps.iter().map(|step| &step.edit).collect();
    let start = Instant::now();
    let (done, failed) = netns.run(|| ipvs::run::carry_out(&changes));
    let time = start.elapsed();
    assert!(done == changes.len() && failed.is_none(), "{failed:?}");
    time
}

fn plan(desired: &Desired, seen: &Observation) -> (Vec<Step>, Goal) {
    let goal = Goal::apply(&"t".parse().unwrap(), 7, desired, seen).unwrap();
    let steps =
        steps_between(&seen.state, &goal.wanted, &goal.owned, &desired.reasons).unwrap().into_all();
    (steps, goal)
}
