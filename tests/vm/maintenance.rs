//! Real servers are taken out, rebooted and returned while clients send requests all the time: none may fail.
//!
//! A lab host is a network namespace, whose agent reboots nothing: here the connection to it serves `Request::Reboot`. The
//! namespace is replaced by a bare one, `lvsprov agent --boot` runs there as a boot unit would, and its server starts anew. All
//! else is the code of `lvsprov reboot`. Needs a kernel with IPVS.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use futures_util::future::BoxFuture;
use lvsprov::apply::maintenance::{
    MaintenanceEnd, MaintenanceOptions, MaintenanceReport, TopologyVersions, maintain, reboot,
    return_to_service,
};
use lvsprov::apply::session::{AgentConnection, HostConnector};
use lvsprov::apply::transaction::VerifyBy;
use lvsprov::apply::{ConnectionSettings, Session, operator};
use lvsprov::failure::Failure;
use lvsprov::lab::Lab;
use lvsprov::names::HostName;
use lvsprov::protocol::{Reply, Request};
use lvsprov::report;
use lvsprov::state::{BootUnit, Observation};
use lvsprov::topology::{Host, Topology};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;

use crate::end_to_end;
use crate::live_changes::cluster::{Cluster, Method, at, web};
use crate::live_changes::load::{self, Load, failures, told};
use crate::support::cases::Case;
use crate::support::{speed, vm};

const CLIENTS: [&str; 2] = ["client", "other"];
const AT_ONCE: usize = 4;
const AROUND: usize = 10;

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for method in [Method::Dr, Method::Nat, Method::Tun] {
        let name = format!("each_real_server_in_turn_without_a_failed_request_{method:?}");
        all.push(Case::new(name.to_lowercase(), move || in_turn(method)));
    }
    all.push(Case::new("a_hash_and_persistence_lose_no_client_either", hashed_and_persistent));
    all.push(Case::new("connections_that_stay_are_counted_and_not_cut", staying_connections));
    all.push(Case::new("the_commands_as_a_user_types_them", by_hand));
    all
}

/// What the machine under a lab host would do.
struct RebootingHosts<'c> {
    settings: &'c ConnectionSettings,
    lab: Mutex<&'c mut Lab>,
    topology: &'c Topology,
    disks: BTreeMap<HostName, PathBuf>,
    runtime: Handle,
    /// The hosts that were rebooted.
    done: Mutex<Vec<String>>,
}

impl RebootingHosts<'_> {
    fn reboot(&self, host: &HostName) {
        let mut lab = self.lab.lock().unwrap();
        lab.restart(self.topology, host).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_lvsprov"))
            .args(["agent", "--boot", "--netns"])
            .arg(lab.netns_path(host).unwrap())
            .arg("--state-dir")
            .arg(&self.disks[host])
            .output()
            .unwrap();
        println!("{host}: {}", String::from_utf8_lossy(&output.stdout).trim_end());
        assert!(output.status.success(), "{output:?}");
        load::serve_on(&self.runtime, &lab, host.as_str(), &[80, 81]);
        self.done.lock().unwrap().push(host.to_string());
    }
}

impl HostConnector for RebootingHosts<'_> {
    fn reaches(&self, host: &Host) -> bool {
        self.settings.reaches(host)
    }

    fn connect<'d>(
        &'d self,
        host: &'d Host,
        fresh: bool,
    ) -> BoxFuture<'d, Result<Box<dyn AgentConnection>, Failure>> {
        Box::pin(async move {
            let agent = self.settings.connect(host, fresh).await?;
            // The requests of a session end with it, and the hosts outlive it.
            Ok(Box::new(RebootingAgent { agent, host: host.name.clone() })
                as Box<dyn AgentConnection>)
        })
    }
}

/// The agent of a host with a boot unit, which [`RebootingHosts::reboot`] runs.
struct RebootingAgent {
    agent: Box<dyn AgentConnection>,
    host: HostName,
}

impl AgentConnection for RebootingAgent {
    fn ask(&mut self, request: Request) -> BoxFuture<'_, Result<Reply, Failure>> {
        Box::pin(async move {
            if request == Request::Reboot {
                REBOOTS.lock().unwrap().push(self.host.clone());
                return Ok(Reply::Rebooting);
            }
            let mut reply = self.agent.ask(request).await?;
            match &mut reply {
                Reply::Observed(observation) => with_unit(observation),
                Reply::Executed(execution) => with_unit(&mut execution.after),
                _ => {}
            }
            Ok(reply)
        })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        self.agent.close()
    }
}

fn with_unit(observation: &mut Observation) {
    observation.boot_unit = BootUnit::Installed;
}

/// Hosts that were asked to reboot, and have not yet.
static REBOOTS: Mutex<Vec<HostName>> = Mutex::new(Vec::new());

#[derive(Debug, Clone, Copy)]
enum Work {
    Maintain,
    Return,
    Reboot,
}

fn options() -> MaintenanceOptions {
    MaintenanceOptions {
        allow_outage: false,
        dry_run: false,
        wait: Duration::from_secs(30),
        verify: VerifyBy::Traffic,
        cut_connections: false,
        back_within: speed::patience(),
        by: operator::here(),
    }
}

/// Where the receipts of each host lie.
fn disks(lab: &Lab, topology: &Topology, states: &std::path::Path) -> BTreeMap<HostName, PathBuf> {
    let disk = |host: &HostName| {
        let path = lab.netns_path(host).unwrap();
        let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
        let half: [u8; 16] = digest[..16].try_into().unwrap();
        let name = format!("{:032x}", u128::from_be_bytes(half));
        (host.clone(), states.join("netns-by-path").join(name))
    };
    topology.hosts.keys().map(disk).collect()
}

/// Runs a command; hosts that it asks to reboot do so on another thread meanwhile.
fn work(cluster: &mut Cluster, services: &str, work: Work, hosts: &[&str]) -> MaintenanceReport {
    let mut topology = cluster.topology(services);
    for (name, host) in &mut topology.hosts {
        host.reach = cluster.settings.reach.get(name).cloned();
    }
    let disks = disks(&cluster.lab, &topology, &cluster.states());
    let (settings, runtime) = (cluster.settings.clone(), cluster.runtime.handle().clone());
    let machines = RebootingHosts {
        settings: &settings,
        lab: Mutex::new(&mut cluster.lab),
        topology: &topology,
        disks,
        runtime: runtime.clone(),
        done: Mutex::default(),
    };
    let versions = TopologyVersions::of(topology.clone());
    let hosts: Vec<HostName> = hosts.iter().map(|host| host.parse().unwrap()).collect();
    let done = std::sync::atomic::AtomicBool::new(false);
    let report = thread::scope(|scope| {
        let machines = &machines;
        let over = &done;
        scope.spawn(move || {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let next = REBOOTS.lock().unwrap().pop();
                if let Some(host) = next {
                    machines.reboot(&host);
                }
                thread::sleep(Duration::from_millis(50));
            }
        });
        let report = runtime.block_on(async {
            let mut session = Session::open_with_console(versions.file(), machines, &Quiet).await;
            let options = options();
            let report = match work {
                Work::Maintain => maintain(&mut session, &versions, &hosts, &options).await,
                Work::Return => return_to_service(&mut session, &versions, &hosts, &options).await,
                Work::Reboot => reboot::reboot(&mut session, &versions, &hosts, &options).await,
            };
            session.close().await;
            report
        });
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        report
    });
    println!("{}", text(&report));
    if matches!(work, Work::Reboot) && !report.has_failures() {
        let names: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        assert_eq!(*machines.done.lock().unwrap(), names);
    }
    report
}

struct Quiet;

impl operator::OperatorConsole for Quiet {
    fn show_awaited(&self, _: operator::Activity, _: &std::collections::BTreeSet<HostName>) {}
}

fn text(report: &MaintenanceReport) -> String {
    anstream::adapter::strip_str(&report::maintenance::text(report)).to_string()
}

/// Does `change` among requests, of which none may fail; who answered while it was under way, and afterwards.
fn unnoticed(load: &Load, what: &str, change: impl FnOnce()) -> Vec<load::Request> {
    load.take();
    load.pass(AROUND);
    change();
    let meanwhile = load.take();
    load.pass(AROUND);
    let after = load.take();
    for requests in [&meanwhile, &after] {
        println!("{what}: {}", told(requests));
        assert_eq!(failures(requests).len(), 0, "{what}: {}", told(requests));
    }
    after
}

fn answered_by(requests: &[load::Request], server: &str) -> bool {
    requests.iter().any(|request| request.result.as_deref() == Ok(server))
}

fn ends(report: &MaintenanceReport) -> Vec<MaintenanceEnd> {
    report.hosts.iter().map(|host| host.end).collect()
}

const SERVERS: [&str; 3] = ["web1", "web2", "web3"];

/// Each server in turn, under DR; of the others the first, for the time that `make test` has.
fn in_turn(method: Method) {
    let each = vm::thorough() || matches!(method, Method::Dr);
    let servers = if each { &SERVERS[..] } else { &SERVERS[..1] };
    let mut cluster = Cluster::build(method);
    let drain = speed::seconds(10);
    let services = web(&format!("port: 80, scheduler: wrr, drain: {drain}"), &[10, 10, 10]);
    cluster.apply(&services);
    let load = Load::start(&cluster.lab, &CLIENTS, AT_ONCE, at(80));
    load.pass(AROUND);
    for &server in servers {
        let after = unnoticed(&load, &format!("maintain {server}"), || {
            let report = work(&mut cluster, &services, Work::Maintain, &[server]);
            assert_eq!(ends(&report), [MaintenanceEnd::InMaintenance], "{}", text(&report));
            assert_eq!(report.connections_left(), 0, "{}", text(&report));
        });
        assert!(!answered_by(&after, server), "{server} still gets requests");
        unnoticed(&load, &format!("return {server}"), || {
            let report = work(&mut cluster, &services, Work::Return, &[server]);
            assert_eq!(ends(&report), [MaintenanceEnd::Returned], "{}", text(&report));
        });
        load.pass(AROUND);
        assert!(answered_by(&load.take(), server), "{server} gets no requests");
    }
    let after = unnoticed(&load, "reboot all", || {
        let report = work(&mut cluster, &services, Work::Reboot, servers);
        let all = vec![MaintenanceEnd::Rebooted; servers.len()];
        assert_eq!(ends(&report), all, "{}", text(&report));
    });
    for server in SERVERS {
        assert!(answered_by(&after, server), "{server} gets no requests after its reboot");
    }
    let rest = load.stop();
    assert_eq!(failures(&rest).len(), 0, "{}", told(&rest));
}

/// `sh` and persistence would go on sending clients to a real server of weight 0. Tries one that has clients,
/// `LVSPROV_THOROUGH` each of those.
fn hashed_and_persistent() {
    for what in ["scheduler: sh", "scheduler: mh", "scheduler: rr, persistence: 300"] {
        let mut cluster = Cluster::build(Method::Dr);
        let services = web(&format!("port: 80, drain: {}, {what}", speed::seconds(10)), &[1, 1, 1]);
        cluster.apply(&services);
        let load = Load::start(&cluster.lab, &CLIENTS, AT_ONCE, at(80));
        load.pass(AROUND);
        let before = load.take();
        let busy = SERVERS.into_iter().filter(|server| answered_by(&before, server));
        for server in busy.take(if vm::thorough() { SERVERS.len() } else { 1 }) {
            let after = unnoticed(&load, &format!("{what}: maintain {server}"), || {
                let report = work(&mut cluster, &services, Work::Maintain, &[server]);
                assert_eq!(ends(&report), [MaintenanceEnd::InMaintenance], "{}", text(&report));
            });
            assert!(!answered_by(&after, server), "{what}: {server} still gets requests");
            unnoticed(&load, &format!("{what}: return {server}"), || {
                let report = work(&mut cluster, &services, Work::Return, &[server]);
                assert_eq!(ends(&report), [MaintenanceEnd::Returned], "{}", text(&report));
            });
        }
        let rest = load.stop();
        assert_eq!(failures(&rest).len(), 0, "{what}: {}", told(&rest));
    }
}

fn staying_connections() {
    let mut cluster = Cluster::build(Method::Nat);
    let services = web("port: 80, scheduler: wrr, drain: 2", &[10, 10, 10]);
    cluster.apply(&services);
    let all = load::talks_to(&cluster.lab, "client", at(80), "web2", 3);
    let (stay, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|talk| talk.server == "web2");
    let report = work(&mut cluster, &services, Work::Maintain, &["web2"]);
    assert_eq!(report.connections_left(), 3, "{}", text(&report));
    assert!(report.leaves_connections() && !report.has_failures(), "{}", text(&report));
    let report = work(&mut cluster, &services, Work::Reboot, &["web2"]);
    // It is out already: the reboot does not wait again, and the operator was told.
    assert_eq!(ends(&report), [MaintenanceEnd::Failed], "{}", text(&report));
    assert!(text(&report).contains("3 connections to web2 are left"), "{}", text(&report));
    // Nothing was cut, and the apply of another controller keeps it out.
    assert_eq!(load::dead(stay), 0);
    assert_eq!(load::dead(others), 0);
    let report = work(&mut cluster, &services, Work::Maintain, &["web2"]);
    assert_eq!(report.connections_left(), 0, "{}", text(&report));
    let report = work(&mut cluster, &services, Work::Return, &["web2"]);
    assert_eq!(ends(&report), [MaintenanceEnd::Returned], "{}", text(&report));
}

/// Against named namespaces, judged by `ipvsadm`.
fn by_hand() {
    end_to_end::modules();
    let services =
        "  - {vip: 172.25.7.80, port: 80, scheduler: wrr, forward: dr, real_servers: [rs1, rs2]}\n";
    let cluster = end_to_end::Cluster::new(services, "172.25.7.250/24");
    let rules = || end_to_end::inside("lvs", "ipvsadm", &["-Sn"]);
    let early = cluster.expect(&["maintain", "rs1"], 5);
    assert!(early.contains("lvs is not as the file says"), "{early}");
    cluster.expect(&["apply", "--verify", "state"], 0);
    let applied = rules();
    assert!(applied.contains("172.25.7.3:80 -g -w 1"), "{applied}");

    let dry = cluster.expect(&["maintain", "rs1", "--dry-run"], 0);
    assert!(dry.contains("nothing was changed (--dry-run)"), "{dry}");
    assert_eq!(rules(), applied);
    let out = cluster.expect(&["maintain", "rs1"], 0);
    assert!(out.contains("rs1  out of service"), "{out}");
    assert!(out.contains("back to service: `lvsprov return FILE rs1`"), "{out}");
    assert!(rules().contains("172.25.7.3:80 -g -w 0"), "{}", rules());
    cluster.expect(&["maintain", "rs1"], 0);
    for command in ["plan", "status"] {
        let shown = cluster.expect(&[command], 0);
        assert!(shown.contains("rs1 is in maintenance since 20"), "{shown}");
    }
    let json = cluster.expect(&["status", "--format", "json"], 0);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["hosts"]["rs1"]["in_maintenance_since"].as_u64() > Some(1_700_000_000), "{json}");
    assert!(json["hosts"]["rs2"].get("in_maintenance_since").is_none(), "{json}");

    // The last one stays, and a namespace is not rebooted.
    let last = cluster.expect(&["maintain", "rs2"], 5);
    assert!(last.contains("rs2 is the last real server of"), "{last}");
    let none = cluster.expect(&["reboot", "rs1"], 5);
    assert!(none.contains("rs1 starts no `lvsprov agent --boot` at boot"), "{none}");
    let none = cluster.expect(&["reboot", "lvs"], 5);
    assert!(none.contains("lvs is the only director of"), "{none}");
    let unknown = cluster.expect(&["maintain", "rs9"], 2);
    assert!(unknown.contains("there is no such host in the file"), "{unknown}");

    // A change of the file leaves it out.
    let text = std::fs::read_to_string(&cluster.file).unwrap();
    std::fs::write(
        &cluster.file,
        text.replace("[rs1, rs2]", "[{host: rs1, weight: 3}, {host: rs2, weight: 5}]"),
    )
    .unwrap();
    let differs = cluster.expect(&["return", "rs1"], 5);
    assert!(differs.contains("lvs is not as the file says: 1 step,"), "{differs}");
    cluster.expect(&["apply", "--verify", "state"], 0);
    let changed = rules();
    assert!(
        changed.contains("172.25.7.3:80 -g -w 0") && changed.contains("172.25.7.4:80 -g -w 5"),
        "{changed}"
    );
    cluster.expect(&["plan"], 0);

    let back = cluster.expect(&["return", "rs1", "--verify", "state", "--format", "json"], 0);
    let back: serde_json::Value = serde_json::from_str(&back).unwrap();
    assert_eq!(back["schema"], "lvsprov/maintenance/1");
    assert_eq!(
        (&back["action"], &back["hosts"][0]["end"]),
        (&"return".into(), &"returned".into()),
        "{back:#}"
    );
    assert!(rules().contains("172.25.7.3:80 -g -w 3"), "{}", rules());
    assert!(!cluster.expect(&["plan"], 0).contains("maintenance"));
    let nothing = cluster.expect(&["return", "rs1"], 0);
    assert!(nothing.contains("rs1  not in maintenance: nothing to return"), "{nothing}");
    cluster.expect(&["destroy"], 0);
}
