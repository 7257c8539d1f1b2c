//! `lab chaos`: what the program measures when parts of real clusters die, and what it says about promises.
//!
//! Shares and outages are compared with what must be true on a machine of any speed: half of the requests of two real
//! servers that take turns, all requests of a dead director, none of a client beside the cut link.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use quick_junit::Report;
use serde_json::Value;

use crate::support::cases::{Case, cases};
use crate::support::playbooks::playbooks;
use crate::support::processes::{processes, wait_until};
use crate::support::vm::thorough;

pub fn cases() -> Vec<Case> {
    let mut all = cases![
        direct_routing_measures_hosts_links_and_daemons_and_refutes_promises,
        nat_measures_a_dead_director_and_a_dead_process,
        a_health_checker_takes_a_dead_real_server_out_and_may_die_itself,
        tunnels_lose_half_with_one_real_server_and_all_with_both,
        interrupted_it_leaves_nothing_behind
    ];
    if thorough() {
        all.extend(cases![every_fault_of_every_playbook_is_measured]);
    }
    all
}

const DR: &str = "version: 1
name: chaos
networks: {lan: [172.25.7.0/24]}
defaults: {forward: dr, scheduler: rr}
promise: {real_server: 1s, daemon: 2s, connections: keep}
hosts:
  client: {role: client, interfaces: {eth0: 172.25.7.250/24}}
  other: {role: client, interfaces: {eth0: 172.25.7.251/24}}
  lvs: {role: director, interfaces: {eth0: 172.25.7.2/24}, ipvs: {sync: {master: {interface: eth0}}}}
  web1: {role: real_server, interfaces: {eth0: 172.25.7.11/24}}
  web2: {role: real_server, interfaces: {eth0: 172.25.7.12/24}}
services:
  - {name: web, vip: 172.25.7.80, port: 80, real_servers: [web1, web2]}
";

fn command(file: &Path, options: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lvsprov"));
    command.args(["lab", "chaos", "--in", "here", "--around", "1"]);
    command.args(options.split_whitespace()).arg(file).stdin(Stdio::null());
    command
}

/// Runs it, and returns the document.
fn measured(file: &Path, options: &str, exit: i32) -> Value {
    let Output { status, stdout, stderr } =
        command(file, &format!("--format json --dead 4 {options}")).output().unwrap();
    let (text, errors) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    println!("{text}\n{errors}");
    assert_eq!(status.code(), Some(exit), "{text}\n{errors}");
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["schema"], "lvsprov/chaos/1");
    for fault in report["faults"].as_array().unwrap() {
        assert_eq!(fault["error"], Value::Null, "{fault:#}");
        for stream in fault["requests"].as_array().unwrap() {
            assert_eq!(stream["after"]["failed"], 0, "{fault:#}");
            assert!(stream["after"]["sent"].as_u64() > Some(0), "{fault:#}");
        }
    }
    report
}

fn fault<'r>(report: &'r Value, name: &str) -> &'r Value {
    let faults = report["faults"].as_array().unwrap();
    faults.iter().find(|it| it["fault"] == name).unwrap_or_else(|| panic!("no {name}: {report:#}"))
}

fn stream<'r>(fault: &'r Value, service: &str, client: &str) -> &'r Value {
    let streams = fault["requests"].as_array().unwrap();
    let mut streams = streams.iter().filter(|it| it["service"] == service);
    streams
        .find(|it| it["client"] == client)
        .unwrap_or_else(|| panic!("{service} {client}: {fault:#}"))
}

/// Failed and sent while the part was dead.
fn dead(stream: &Value) -> (u64, u64) {
    let count = &stream["dead"];
    (count["failed"].as_u64().unwrap(), count["sent"].as_u64().unwrap())
}

/// About every second request failed, until the part came back.
fn lost_half(stream: &Value) {
    let (failed, sent) = dead(stream);
    assert!(sent >= 4 && failed * 4 >= sent && failed * 4 <= 3 * sent, "{stream:#}");
    assert_eq!(stream["until_return"], true, "{stream:#}");
}

/// Nothing was answered while the part was dead; what began while it died may have been.
fn lost_all(fault: &Value, stream: &Value) {
    let (failed, sent) = dead(stream);
    assert!(sent >= 4 && failed * 10 >= 6 * sent, "{stream:#}");
    assert!(stream["outage_s"].as_f64() > fault["dead_s"].as_f64().map(|it| it - 0.6), "{fault:#}");
    assert_eq!(stream["until_return"], true, "{stream:#}");
}

fn verdict(fault: &Value, promise: &str) -> bool {
    let verdicts = fault["promises"].as_array().unwrap();
    let found = verdicts.iter().find(|it| it["promise"] == promise);
    found.unwrap_or_else(|| panic!("no {promise}: {fault:#}"))["kept"].as_bool().unwrap()
}

fn direct_routing_measures_hosts_links_and_daemons_and_refutes_promises() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("chaos.yaml");
    std::fs::write(&file, DR).unwrap();
    let only = "--only host:lvs,host:web1,daemon,link:client";
    let report = measured(&file, only, 6);
    assert_eq!(report["faults"].as_array().unwrap().len(), 4, "{report:#}");

    let web1 = fault(&report, "host web1");
    for client in ["client", "other"] {
        lost_half(stream(web1, "web", client));
    }
    assert!(!verdict(web1, "real_server: 1s"), "{web1:#}");
    let note = web1["notes"][0].as_str().unwrap();
    assert!(note.contains("web1 keeps its share of web until it is back"), "{note}");
    let connections = &web1["connections"];
    assert!(connections["ended_with_it"].as_u64() > Some(0), "{connections}");
    assert!(verdict(web1, "connections: keep"), "{web1:#}");

    let lvs = fault(&report, "host lvs");
    for client in ["client", "other"] {
        lost_all(lvs, stream(lvs, "web", client));
    }
    // The table of connections went with the power.
    assert_eq!(lvs["connections"]["kept"], 0, "{lvs:#}");
    assert!(!verdict(lvs, "connections: keep"), "{lvs:#}");

    let link = fault(&report, "link eth0 of client");
    lost_all(link, stream(link, "web", "client"));
    let (failed, sent) = dead(stream(link, "web", "other"));
    assert!(failed == 0 && sent > 0, "{link:#}");
    assert!(verdict(link, "connections: keep"), "{link:#}");

    let daemon = fault(&report, "sync daemon master of lvs");
    assert!(verdict(daemon, "daemon: 2s"), "{daemon:#}");
    assert_eq!(dead(stream(daemon, "web", "client")).0, 0, "{daemon:#}");
    let promises: Vec<(&str, &str)> = report["promises"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["promise"].as_str().unwrap(), it["verdict"].as_str().unwrap()))
        .collect();
    let expected =
        [("real_server: 1s", "refuted"), ("daemon: 2s", "kept"), ("connections: keep", "refuted")];
    assert_eq!(promises, expected);
}

fn playbook(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("playbooks").join(format!("{name}.yaml"))
}

fn nat_measures_a_dead_director_and_a_dead_process() {
    let folder = tempfile::tempdir().unwrap();
    let junit = folder.path().join("chaos.xml");
    let options = format!("--only host:director,process:rs1 --junit {}", junit.display());
    let report = measured(&playbook("nat-two-nics"), &options, 0);
    let director = fault(&report, "host director");
    for service in ["web", "dns"] {
        lost_all(director, stream(director, service, "client"));
    }
    let process = fault(&report, "process at udp port 53 of rs1");
    lost_half(stream(process, "dns", "client"));
    assert_eq!(dead(stream(process, "web", "client")).0, 0, "{process:#}");
    let web = fault(&report, "process at tcp port 8080 of rs1");
    assert!(dead(stream(web, "web", "client")).0 > 0, "{web:#}");
    let xml = std::fs::read_to_string(&junit).unwrap();
    let xml = Report::deserialize_from_str(&xml).unwrap();
    assert_eq!((xml.tests, xml.failures), (3, 0));
}

const CHECKED: &str = "version: 1
name: checked
networks: {lan: [172.25.7.0/24]}
defaults: {forward: dr, scheduler: rr, check: {type: tcp, interval: 2, timeout: 1, fall: 1}}
promise: {real_server: 15s, daemon: 2s}
hosts:
  client: {role: client, interfaces: {eth0: 172.25.7.250/24}}
  lvs: {role: director, interfaces: {eth0: 172.25.7.2/24}}
  web1: {role: real_server, interfaces: {eth0: 172.25.7.11/24}}
  web2: {role: real_server, interfaces: {eth0: 172.25.7.12/24}}
services:
  - {name: web, vip: 172.25.7.80, port: 80, real_servers: [web1, web2]}
";

fn a_health_checker_takes_a_dead_real_server_out_and_may_die_itself() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("checked.yaml");
    std::fs::write(&file, CHECKED).unwrap();
    let report = measured(&file, "--only host:web1,daemon", 0);
    assert_eq!(report["faults"].as_array().unwrap().len(), 2, "{report:#}");
    let web1 = fault(&report, "host web1");
    assert!(verdict(web1, "real_server: 15s"), "{web1:#}");
    let web = stream(web1, "web", "client");
    assert_eq!(web["until_return"], false, "{web1:#}");
    let (failed, sent) = dead(web);
    // It had its share until the check failed.
    assert!(failed > 0 && failed * 2 < sent, "{web1:#}");
    let checker = fault(&report, "health checker of lvs");
    assert!(verdict(checker, "daemon: 2s"), "{checker:#}");
    assert_eq!(dead(stream(checker, "web", "client")).0, 0, "{checker:#}");
}

fn tunnels_lose_half_with_one_real_server_and_all_with_both() {
    let report = measured(&playbook("tun"), "--only host:server3,pair:server4", 0);
    let one = fault(&report, "host server3");
    let both = fault(&report, "hosts server3 and server4");
    for service in ["web", "dns"] {
        lost_half(stream(one, service, "client"));
        lost_all(both, stream(both, service, "client"));
    }
    assert_eq!(report["promises"], serde_json::json!([]));
    let wrong = command(&playbook("tun"), "--only server5").output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}

fn interrupted_it_leaves_nothing_behind() {
    let mut child = command(&playbook("tun"), "--only host:server3 --dead 600")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let below = |id: u32| -> Vec<String> {
        let marked = format!("/proc/{id}/fd/");
        processes().filter(|it| it.command.contains(&marked)).map(|it| it.command).collect()
    };
    let id = child.id();
    // Its agents name the namespaces by their descriptors.
    wait_until("an agent starts", || !below(id).is_empty());
    kill(Pid::from_raw(i32::try_from(id).unwrap()), Signal::SIGINT).unwrap();
    let mut errors = String::new();
    child.stderr.as_mut().unwrap().read_to_string(&mut errors).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(1), "{errors}");
    assert!(errors.contains("interrupted: the lab's hosts are gone with it"), "{errors}");
    wait_until("agents of its hosts end with it", || below(id).is_empty());
}

/// In an emulated machine it takes a quarter of an hour.
fn every_fault_of_every_playbook_is_measured() {
    for file in playbooks() {
        let report = measured(&file, "", 0);
        for fault in report["faults"].as_array().unwrap() {
            let streams = fault["requests"].as_array().unwrap();
            assert!(!streams.is_empty(), "{}: {fault:#}", file.display());
            assert!(streams.iter().all(|it| it["outage_s"].as_f64() > Some(0.0)), "{fault:#}");
        }
    }
}
