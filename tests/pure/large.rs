//! `check` on files that are an accident or an attack: it ends, says why, and shows no more than a person
//! reads. And large files of honest people, which work.

#![allow(clippy::format_collect)] // short, and only here

use std::fmt::Write as _;

use lvsprov::check::{Examined, examine};
use lvsprov::finding::Severity;
use lvsprov::report::findings;

use crate::support::cases::{Case, cases};

pub fn cases() -> Vec<Case> {
    cases![
        of_many_findings_on_one_line_a_hundred_are_shown_and_the_rest_is_counted,
        a_cut_line_keeps_its_column_and_its_mark,
        errors_are_shown_before_warnings,
        every_product_has_a_bound,
        text_that_aliases_repeat_counts,
        a_long_value_is_not_quoted_whole,
        what_is_looked_up_for_each_mistake_is_not_all_there_is,
        large_files_of_honest_people_work
    ]
}

const HEAD: &str = "version: 1\nname: x\n";

/// Hosts `w0`, `w1`... on one network with the director `lvs` and the clients `c0`, `c1`...
fn cluster(hosts: usize, clients: usize) -> String {
    let mut text =
        format!("{HEAD}networks:\n  clients: [10.0.0.0/16]\n  farm: [10.128.0.0/9]\nhosts:\n");
    text.push_str("  lvs: {role: director, interfaces: {eth0: 10.0.0.1/16, eth1: 10.128.0.1/9}}\n");
    for n in 0..clients {
        let address = format!("10.0.{}.{}/16", 1 + n / 250, 1 + n % 250);
        writeln!(text, "  c{n}: {{role: client, interfaces: {{eth0: {address}}}, gateway: lvs}}")
            .unwrap();
    }
    for n in 0..hosts {
        let address = format!("10.{}.{}.{}/9", 129 + n / 62_500, n / 250 % 250, 1 + n % 250);
        writeln!(text, "  w{n}: {{role: real_server, interfaces: {{eth0: {address}}}}}").unwrap();
    }
    text.push_str("services:\n");
    text
}

/// A service with a list of ports and the first `servers` hosts.
fn service(text: &mut String, ports: &str, servers: impl Iterator<Item = usize>) {
    let servers: Vec<String> = servers.map(|n| format!("w{n}")).collect();
    let servers = servers.join(", ");
    writeln!(
        text,
        "  - {{vip: 10.0.250.1, ports: [{ports}], forward: nat, real_servers: [{servers}]}}"
    )
    .unwrap();
}

fn list(numbers: std::ops::Range<usize>, each: impl Fn(usize) -> String) -> String {
    numbers.map(each).collect::<Vec<_>>().join(", ")
}

/// The one finding, refused for its size.
fn refused(text: &str) -> String {
    let examined = examine("x", text);
    assert!(examined.topology.is_none());
    let large: Vec<_> = examined.findings.iter().filter(|f| f.rule == "too-large").collect();
    let [finding] = large.as_slice() else { panic!("{:?}", examined.findings.first()) };
    assert!(finding.at.line > 0 && !finding.why.is_empty() && !finding.cure.is_empty());
    finding.message.clone()
}

fn is_good(examined: &Examined) -> bool {
    examined.topology.is_some() && examined.findings.iter().all(|f| f.severity != Severity::Error)
}

fn of_many_findings_on_one_line_a_hundred_are_shown_and_the_rest_is_counted() {
    let keys = list(0..20_000, |n| format!("N_{n}_!: 10.0.0.0/33"));
    let text = format!("{HEAD}networks: {{{keys}}}\n");
    let found = examine("x", &text).findings;
    assert!(found.len() > 20_000);
    let shown = findings::text("x", &text, &found, &[], false);
    assert_eq!(shown.matches("\nerror[").count() + 1, 100);
    assert!(shown.lines().all(|line| line.chars().count() < 300), "a line is not cut");
    let rest = found.len() - 100;
    let summary = format!("x: {} errors; 100 findings shown, {rest} not shown\n", found.len());
    assert!(shown.ends_with(&summary), "{:?}", shown.lines().last());
    let json = findings::json("x", &found, &[]);
    assert_eq!(json["errors"], found.len());
    assert_eq!(json["not_shown"], rest);
    assert_eq!(json["findings"].as_array().unwrap().len(), 100);
}

fn a_cut_line_keeps_its_column_and_its_mark() {
    let before = list(0..2_000, |n| format!("n{n}: 10.{}.{}.0/24", n / 250, n % 250));
    let after = list(0..2_000, |n| format!("m{n}: 11.{}.{}.0/24", n / 250, n % 250));
    let line = format!("networks: {{{before}, wrong: 10.0.0.0/33, {after}}}");
    let column = line.find("10.0.0.0/33").unwrap() + 1;
    let text = format!("{HEAD}{line}\n");
    let found = examine("x", &text).findings;
    let wrong = found.iter().filter(|f| f.at.line == 3 && f.message.contains("/33")).cloned();
    let shown = findings::text("x", &text, &wrong.collect::<Vec<_>>(), &[], false);
    assert!(shown.contains(&format!("--> x:3:{column}\n")), "{shown}");
    let lines: Vec<&str> = shown.lines().collect();
    let source = lines.iter().position(|line| line.contains("wrong: 10.0.0.0/33")).unwrap();
    let mark = lines[source + 1].find('^').unwrap();
    assert!(lines[source][mark..].starts_with("10.0.0.0/33"), "{shown}");
}

fn errors_are_shown_before_warnings() {
    let mut text = cluster(300, 1);
    service(&mut text, "80", 0..1);
    text.push_str("nonsense: 1\n");
    let found = examine("x", &text).findings;
    let shown = findings::text("x", &text, &found, &[], false);
    assert!(shown.contains("error[LVS089 unknown-key]"), "{shown}");
}

fn every_product_has_a_bound() {
    let mut text = cluster(5_000, 1);
    service(&mut text, &list(1..65_000, |n| n.to_string()), 0..5_000);
    assert!(refused(&text).contains("services"), "ports and real servers");

    let mut text = cluster(1_000, 1);
    service(&mut text, &list(1..200, |n| n.to_string()), 0..1_000);
    assert!(refused(&text).contains("real servers of services"));

    let mut text = cluster(5_000, 5_000);
    service(&mut text, "80", 0..5_000);
    assert!(refused(&text).contains("paths"), "clients and real servers");

    let mut text = cluster(1, 0);
    for n in 1..3_000 {
        writeln!(
            text,
            "  - {{vip: 10.0.250.1, mark: {n}, port: any, protocol: [tcp, udp], forward: nat, real_servers: [w0]}}"
        )
        .unwrap();
    }
    assert!(refused(&text).contains("mark"));

    let addresses = list(0..600, |n| format!("e{n}: 10.{}.{}.1/24", n / 250, n % 250));
    let text = format!(
        "{HEAD}networks: {{n: 10.0.0.0/8}}\nhosts: {{a: {{role: client, interfaces: {{{addresses}}}}}}}\nservices: []\n"
    );
    assert!(refused(&text).contains("addresses of one host"));

    let routes =
        list(0..600, |n| format!("{{to: 10.{}.{}.0/24, via: 192.0.2.1}}", n / 250, n % 250));
    let host = |name: &str, number: usize, routes: &str| {
        format!(
            "{name}: {{role: client, interfaces: {{e: 192.0.2.{number}/16}}, routes: [{routes}]}}"
        )
    };
    let text = |hosts: &str| {
        format!("{HEAD}networks: {{n: 192.0.0.0/16}}\nhosts: {{{hosts}}}\nservices: []\n")
    };
    assert!(refused(&text(&host("a", 2, &routes))).contains("routes of one host"));
    let clients = list(0..19_000, |n| format!("c{n}: {{role: client}}"));
    let routes =
        list(0..500, |n| format!("{{to: 10.{}.{}.0/24, via: 192.0.2.1}}", n / 250, n % 250));
    let with_routes = list(0..3, |n| host(&format!("r{n}"), n + 2, &routes));
    let found = refused(&text(&format!("{with_routes}, {clients}")));
    assert!(found.contains("pairs of a route and a client"), "{found}");

    let subnets = list(0..5_000, |n| format!("n{n}: 10.{}.{}.0/24", n / 250, n % 250));
    let text =
        format!("{HEAD}networks: {{{subnets}}}\nhosts: {{a: {{role: client}}}}\nservices: []\n");
    assert!(refused(&text).contains("subnets"));
}

/// 1 MB, 5,000 times.
fn text_that_aliases_repeat_counts() {
    let long = "x".repeat(1_000_000);
    let aliases = vec!["*a"; 5_000].join(", ");
    let text = format!("{HEAD}a: &a {long}\nb: [{aliases}]\n");
    assert!(refused(&text).contains("bytes of text"));
}

fn a_long_value_is_not_quoted_whole() {
    let text = format!("{HEAD}\"{}\": 1\n", "k".repeat(1_000_000));
    let found = examine("x", &text).findings;
    assert!(findings::text("x", &text, &found, &[], false).len() < 20_000);
    assert!(findings::json("x", &found, &[]).to_string().len() < 20_000);
}

/// Every one of these took minutes or gigabytes.
fn what_is_looked_up_for_each_mistake_is_not_all_there_is() {
    let hosts = list(0..10_000, |n| format!("hostabcdefghijkl{n}: {{role: real_server}}"));
    let servers = list(0..50_000, |n| format!("hostabcdefghijkm{n}"));
    let text = format!(
        "{HEAD}hosts: {{{hosts}}}\nservices:\n - {{vip: 192.0.2.1, port: 1, forward: nat, real_servers: [{servers}]}}\n"
    );
    assert!(examine("x", &text).findings.len() > 50_000);

    let directors = list(0..4_000, |n| {
        format!("d{n}: {{role: director, interfaces: {{e: 10.0.{}.{}/8}}}}", n / 250, 1 + n % 250)
    });
    let services: String = (1..1_000)
        .map(|n| format!(" - {{vip: 10.1.0.1, port: {n}, forward: nat, real_servers: [d0]}}\n"))
        .collect();
    let text =
        format!("{HEAD}networks: {{a: 10.0.0.0/8}}\nhosts: {{{directors}}}\nservices:\n{services}");
    let found = examine("x", &text).findings;
    let longest = found.iter().map(|f| f.message.len()).max().unwrap();
    assert!(longest < 1_000, "{longest}: all directors are listed for every service");
}

fn large_files_of_honest_people_work() {
    let mut text = cluster(100, 100);
    for n in 0..1_000 {
        service(&mut text, &(1_000 + n).to_string(), (0..10).map(|turn| (n * 10 + turn) % 100));
    }
    let examined = examine("x", &text);
    assert!(is_good(&examined), "{:?}", examined.findings.first());
    assert_eq!(examined.topology.unwrap().services.len(), 1_000);

    let mut text = cluster(10_000, 1);
    for n in 0..1_000 {
        service(&mut text, &(1_000 + n).to_string(), n * 10..n * 10 + 10);
    }
    assert!(is_good(&examine("x", &text)));

    let mut text = cluster(100, 1);
    service(&mut text, &list(1_000..1_100, |n| n.to_string()), 0..100);
    assert_eq!(examine("x", &text).topology.unwrap().services.len(), 100);
}
