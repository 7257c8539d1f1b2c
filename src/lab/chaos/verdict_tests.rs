#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::super::fault::{PairChoice, schedule};
use super::*;
use crate::report::chaos::RequestCount;
use crate::topology::{CheckQuestion, CheckWay, read};

const FILE: &str = "
version: 1
name: chaos
networks: {lan: [192.0.2.0/24]}
promise: {director: 3s, real_server: 6s, router: 1s, link: 2s, connections: keep}
hosts:
  client: {role: client, interfaces: {eth0: 192.0.2.9/24}}
  other: {role: client, interfaces: {eth0: 192.0.2.10/24}}
  lvs: {role: director, interfaces: {eth0: 192.0.2.1/24}}
  web1: {role: real_server, interfaces: {eth0: 192.0.2.11/24}}
  web2: {role: real_server, interfaces: {eth0: 192.0.2.12/24}}
services:
  - {name: web, vip: 192.0.2.80, port: 80, forward: dr, real_servers: [web1, web2]}
";

fn topology() -> Topology {
    read("chaos", FILE).topology.unwrap()
}

fn fault(topology: &Topology, name: &str) -> Fault {
    let faults = schedule(topology, &[], PairChoice::Worst);
    faults.into_iter().find(|fault| fault.to_string() == name).unwrap()
}

fn stream(client: &str, outage_s: f64, failing_s: Option<f64>, until_return: bool) -> StreamResult {
    let some = RequestCount { sent: 10, failed: u64::from(failing_s.is_some()) };
    StreamResult {
        service: "web".to_owned(),
        client: client.parse().unwrap(),
        outage_s,
        dead: some,
        returning: RequestCount::default(),
        after: RequestCount::default(),
        failing_s,
        until_return,
        failing_return_s: None,
    }
}

const NO_CONNECTIONS: ConnectionResult = ConnectionResult { opened: 0, ended_with_it: 0, kept: 0 };

fn judged(name: &str, streams: &[StreamResult]) -> Vec<(String, bool)> {
    let topology = topology();
    let all = verdicts(&topology, &fault(&topology, name), streams, NO_CONNECTIONS);
    all.into_iter().map(|it| (it.promise, it.kept)).collect()
}

#[test]
fn a_time_is_kept_if_neither_outage_nor_failures_last_longer() {
    let of = |streams: &[StreamResult]| judged("host lvs", streams);
    let promise = |kept| vec![("director: 3s".to_owned(), kept)];
    assert_eq!(of(&[stream("client", 3.0, Some(2.9), false)]), promise(true));
    assert_eq!(of(&[stream("client", 3.1, None, false)]), promise(false));
    assert_eq!(of(&[stream("client", 0.1, Some(3.1), false)]), promise(false));
    let late = StreamResult { failing_return_s: Some(3.1), ..stream("client", 0.1, None, false) };
    assert_eq!(of(&[late]), promise(false));
    // One bad stream among good ones is enough.
    let both = [stream("client", 0.1, None, false), stream("other", 0.2, Some(0.2), true)];
    assert_eq!(of(&both), promise(false));
}

#[test]
fn a_dead_real_server_without_a_health_check_has_no_bound_and_the_note_says_so() {
    let topology = topology();
    let streams = [stream("client", 0.4, Some(4.9), true)];
    assert_eq!(judged("host web1", &streams), [("real_server: 6s".to_owned(), false)]);
    let of = |name: &str| notes(&topology, &fault(&topology, name), &streams);
    let note = "web1 keeps its share of web until it is back or `lvsprov maintain` takes it out: no health check watches it";
    assert_eq!(of("host web1"), [note]);
    assert_eq!(of("process at tcp port 80 of web1"), [note]);
    assert_eq!(of("link eth0 of web1"), [note]);
    // Without the director nothing has a share.
    assert_eq!(of("host lvs"), Vec::<String>::new());
    assert_eq!(of("hosts lvs and web1"), Vec::<String>::new());
    let mut external = topology.clone();
    external.services[0].weights = WeightSource::External;
    let note = notes(&external, &fault(&topology, "host web1"), &streams);
    assert!(note[0].contains("does not run here"), "{note:?}");
    let at = external.services[0].at;
    external.services[0].real_servers[0].check = Some(Check {
        question: CheckQuestion::Tcp,
        way: CheckWay::Vip,
        port: None,
        interval_s: 5,
        timeout_s: 2,
        fall: 3,
        at,
    });
    let note = notes(&external, &fault(&topology, "host web1"), &streams);
    let said = "web1 keeps its share of web until its check has failed 3 times, at most 17 s: choose a longer `--dead`";
    assert_eq!(note, [said]);
}

#[test]
fn a_clients_own_link_is_no_matter_of_the_cluster() {
    let cut = [stream("client", 9.0, Some(5.0), true), stream("other", 0.1, None, false)];
    assert_eq!(judged("link eth0 of client", &cut), []);
    let topology = topology();
    assert!(notes(&topology, &fault(&topology, "link eth0 of client"), &cut).is_empty());
    let own = notes(&topology, &fault(&topology, "host client"), &cut);
    assert_eq!(own, ["client sent no requests while it was dead: its outage is its own"]);
    assert_eq!(judged("link eth0 of web1", &cut[1..]), [("link: 2s".to_owned(), true)]);
}

#[test]
fn connections_that_could_survive_must() {
    let topology = topology();
    let streams = [stream("client", 0.1, None, false)];
    let of = |opened, ended_with_it, kept| {
        let connections = ConnectionResult { opened, ended_with_it, kept };
        let all = verdicts(&topology, &fault(&topology, "host web1"), &streams, connections);
        all.into_iter().find(|it| it.promise == "connections: keep")
    };
    assert!(of(8, 4, 4).unwrap().kept);
    let lost = of(8, 4, 3).unwrap();
    assert!(!lost.kept && lost.because == "3 of 4 open connections survived", "{lost:?}");
    // None could survive: nothing is shown.
    assert_eq!(of(4, 4, 0), None);
}

#[test]
fn a_promise_without_a_fault_is_not_tried() {
    let topology = topology();
    let row = |promises: Vec<PromiseVerdict>| FaultResult {
        fault: "host lvs".to_owned(),
        kind: "host",
        hosts: Vec::new(),
        dead_s: 5.0,
        return_s: 0.0,
        seconds: 9.0,
        requests: Vec::new(),
        connections: NO_CONNECTIONS,
        promises,
        notes: Vec::new(),
        error: None,
    };
    let verdict = |promise: &str, kept| PromiseVerdict {
        promise: promise.to_owned(),
        kept,
        because: String::new(),
    };
    let faults = [
        row(vec![verdict("director: 3s", true), verdict("connections: keep", true)]),
        row(vec![verdict("connections: keep", false)]),
    ];
    let all = over_all(&topology.promise, &faults);
    let all: Vec<(&str, PromiseState)> =
        all.iter().map(|it| (it.promise.as_str(), it.verdict)).collect();
    assert_eq!(
        all,
        [
            ("director: 3s", PromiseState::Kept),
            ("real_server: 6s", PromiseState::NotTried),
            ("router: 1s", PromiseState::NotTried),
            ("link: 2s", PromiseState::NotTried),
            ("connections: keep", PromiseState::Refuted),
        ]
    );
}

proptest! {
    /// More harm never makes a promise hold that did not hold before.
    #[test]
    fn harm_refutes(
        outage in 0.0_f64..10.0,
        failing in proptest::option::of(0.0_f64..10.0),
        more in 0.0_f64..10.0,
        until_return: bool,
    ) {
        let little = judged("host lvs", &[stream("client", outage, failing, until_return)]);
        let much = judged("host lvs", &[stream("client", outage + more, failing.map(|it| it + more), until_return)]);
        prop_assert!(little[0].1 || !much[0].1);
        let harm = outage.max(failing.unwrap_or(0.0));
        prop_assert_eq!(little[0].1, harm <= 3.0 && !until_return);
    }
}
