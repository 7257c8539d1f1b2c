#![allow(clippy::unwrap_used)]
use super::super::{ConnectionResult, PromiseResult, PromiseVerdict, cases, json};
use super::*;

fn stream(client: &str, dead: (u64, u64)) -> StreamResult {
    StreamResult {
        service: "web".to_owned(),
        client: client.parse().unwrap(),
        outage_s: 0.94,
        dead: RequestCount { failed: dead.0, sent: dead.1 },
        returning: RequestCount { sent: 20, failed: 0 },
        after: RequestCount { sent: 20, failed: 0 },
        failing_s: (dead.0 > 0).then_some(4.8),
        until_return: dead.0 > 0,
        failing_return_s: None,
    }
}

fn row(fault: &str, requests: Vec<StreamResult>) -> FaultResult {
    FaultResult {
        fault: fault.to_owned(),
        kind: "host",
        hosts: vec!["web1".parse().unwrap()],
        dead_s: 5.0,
        return_s: 0.0,
        seconds: 9.25,
        requests,
        connections: ConnectionResult { opened: 8, ended_with_it: 4, kept: 4 },
        promises: Vec::new(),
        notes: Vec::new(),
        error: None,
    }
}

fn report() -> ChaosReport {
    let mut web1 = row("host web1", vec![stream("client", (12, 25)), stream("other", (0, 24))]);
    web1.promises = vec![PromiseVerdict {
        promise: "real_server: 6s".to_owned(),
        kept: false,
        because: "web from client: requests failed until the part came back".to_owned(),
    }];
    web1.notes = vec!["web1 keeps its share".to_owned()];
    let mut late = row("link eth0 of web1", Vec::new());
    late.error = Some("not tried: the time limit of 9 s is over (--time-limit)".to_owned());
    ChaosReport {
        playbook: "cluster".to_owned(),
        topology: "dr".to_owned(),
        faults: vec![row("host client", vec![stream("other", (0, 25))]), web1, late],
        promises: vec![
            PromiseResult { promise: "real_server: 6s".to_owned(), verdict: PromiseState::Refuted },
            PromiseResult { promise: "router: 1s".to_owned(), verdict: PromiseState::NotTried },
        ],
        not_asked: vec!["sip: the running kernel has no SCTP (module sctp)".to_owned()],
        failure: None,
    }
}

#[test]
fn the_table_has_a_figure_or_a_reason_in_each_row() {
    let plain = anstream::adapter::strip_str(&text(&report())).to_string();
    assert_eq!(
        plain,
        "cluster  dr
  fault              longest outage  failed while dead  failed at its return  connections kept
  host client        0.9 s           0 of 25 (0 %)      0 of 20 (0 %)         4 of 4
  host web1          0.9 s           12 of 49 (24 %)    0 of 40 (0 %)         4 of 4
      web from client: outage 0.9 s, failed 12 of 25 (48 %), at its return 0 of 20 (0 %)
      web from other: outage 0.9 s, failed 0 of 24 (0 %), at its return 0 of 20 (0 %)
      REFUTED: real_server: 6s: web from client: requests failed until the part came back
      note: web1 keeps its share
  link eth0 of web1  not measured
      error: not tried: the time limit of 9 s is over (--time-limit)

refuted: real_server: 6s
not tried: router: 1s: no fault of this run is about it
no requests: sip: the running kernel has no SCTP (module sctp)
2 faults measured, 1 with an error, 1 promise refuted
"
    );
}

#[test]
fn progress_is_one_line_for_each_fault() {
    let report = report();
    let lines: Vec<String> =
        report.faults.iter().enumerate().map(|(at, it)| progress(at + 1, 3, it)).collect();
    assert_eq!(
        lines,
        [
            "[1/3] host client: outage 0.9 s, failed 0 of 25 (0 %)\n",
            "[2/3] host web1: outage 0.9 s, failed 12 of 49 (24 %); a promise is refuted\n",
            "[3/3] link eth0 of web1: error: not tried: the time limit of 9 s is over (--time-limit)\n",
        ]
    );
}

#[test]
fn json_and_junit_have_every_row() {
    let report = report();
    let one = json(std::slice::from_ref(&report));
    assert_eq!((&one["schema"], &one["ok"]), (&"lvsprov/chaos/1".into(), &false.into()));
    assert_eq!(one["faults"][1]["requests"][0]["dead"]["failed"], 12);
    assert_eq!(one["promises"][1]["verdict"], "not_tried");
    let two = json(&[report.clone(), report.clone()]);
    assert_eq!(two["files"].as_array().unwrap().len(), 2);
    assert_eq!(two["files"][0]["topology"], "dr");

    let suite = cases(&report);
    let names: Vec<(&str, bool)> = suite.iter().map(|it| (it.name.as_str(), it.ok)).collect();
    assert_eq!(names, [("host client", true), ("host web1", false), ("link eth0 of web1", false)]);
    assert!(suite[1].detail.starts_with("longest outage: 0.9 s, failed while dead: 12 of 49"));
    let failed = ChaosReport { faults: Vec::new(), failure: Some("no IPVS".to_owned()), ..report };
    let suite = cases(&failed);
    assert_eq!((suite.len(), suite[0].ok, suite[0].detail.as_str()), (1, false, "no IPVS"));
    assert!(!failed.is_good());
    assert!(text(&failed).contains("no IPVS"));
    assert!(markdown(&[failed]).contains("no IPVS"));
}

#[test]
fn markdown_is_a_table_with_what_is_behind_it() {
    let text = markdown(&[report()]);
    assert!(text.starts_with("### dr: what a death costs\n\n| fault | longest outage |"), "{text}");
    assert!(
        text.contains("\n| host web1 | 0.9 s | 12 of 49 (24 %) | 0 of 40 (0 %) | 4 of 4 |\n"),
        "{text}"
    );
    assert!(text.contains("\n| link eth0 of web1 | not measured |"), "{text}");
    assert!(text.contains("\n- host web1: REFUTED: real\\_server: 6s:"), "{text}");
}

#[test]
fn only_measured_rows_without_a_refuted_promise_are_good() {
    let good = |change: fn(&mut FaultResult)| {
        let mut one = row("host web1", vec![stream("client", (0, 25))]);
        change(&mut one);
        ChaosReport { faults: vec![one], ..report() }.is_good()
    };
    assert!(good(|_| {}));
    assert!(!good(|it| it.error = Some("no".to_owned())));
    assert!(!good(|it| {
        it.promises.push(PromiseVerdict {
            promise: String::new(),
            kept: false,
            because: String::new(),
        });
    }));
    assert!(!ChaosReport { faults: Vec::new(), ..report() }.is_good(), "nothing was tried");
}
