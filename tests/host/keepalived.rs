//! keepalived reads what lvsprov writes for it: the real program, with its own test of a configuration.

use std::fs;
use std::path::Path;
use std::process::Command;

use lvsprov::check;
use lvsprov::keepalived;
use lvsprov::topology::{Role, Topology};

use crate::support::cases::{Case, cases};
use crate::support::playbooks::{load, playbooks};

pub fn cases() -> Vec<Case> {
    cases![
        keepalived_takes_every_playbook,
        keepalived_takes_every_kind_of_check,
        no_text_of_the_file_becomes_a_line_of_its_own,
        keepalived_refuses_what_is_wrong
    ]
}

/// `keepalived -t`: its exit code, and what it says. 4: it takes the file with corrections.
fn try_configuration(text: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keepalived.conf");
    fs::write(&file, text).unwrap();
    let output =
        Command::new("keepalived").arg("--config-test").arg("-f").arg(&file).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn takes(name: &str, text: &str) {
    let (code, said) = try_configuration(text);
    assert_eq!((code, said.as_str()), (Some(0), ""), "{name}\n{text}");
    assert!(!text.contains("lvs_flush"), "{name}");
    for line in text.lines() {
        assert!(line.len() <= keepalived::LONGEST_LINE, "{name}: {line}");
    }
}

fn texts(topology: &Topology) -> Vec<(String, String)> {
    let directors = topology.with_role(Role::Director);
    directors
        .flat_map(|host| {
            let every = keepalived::every_service(topology, &host.name);
            let checked = keepalived::configuration(topology, &host.name);
            every.into_iter().chain(checked).map(|text| (host.name.to_string(), text))
        })
        .collect()
}

fn keepalived_takes_every_playbook() {
    let (mut all, mut checked) = (0, 0);
    for path in playbooks() {
        let topology = load(&path);
        for (director, text) in texts(&topology) {
            takes(&format!("{} {director}", path.display()), &text);
            all += 1;
            checked += usize::from(text.contains("_CHECK {"));
        }
    }
    assert!(all > 20 && checked > 0, "{all} configurations, {checked} with checks");
}

fn of_services(services: &str) -> Topology {
    let text = format!(
        "version: 1\nname: every\nnetworks: {{lan: [172.25.7.0/24, \"2001:db8::/64\"], farm: [10.0.0.0/24]}}\n\
         defaults: {{forward: dr, scheduler: wrr}}\nhosts:\n\
         \x20 client: {{role: client, interfaces: {{eth0: [172.25.7.250/24, \"2001:db8::250/64\"]}}}}\n\
         \x20 lvs: {{role: director, interfaces: {{eth0: [172.25.7.2/24, \"2001:db8::2/64\"], eth1: 10.0.0.1/24}}}}\n\
         \x20 web1: {{role: real_server, interfaces: {{eth0: [172.25.7.3/24, \"2001:db8::3/64\"]}}}}\n\
         \x20 web2: {{role: real_server, interfaces: {{eth0: [172.25.7.4/24, \"2001:db8::4/64\"]}}}}\n\
         \x20 spare: {{role: real_server, interfaces: {{eth0: [172.25.7.5/24, \"2001:db8::5/64\"]}}}}\n\
         \x20 nat1: {{role: real_server, gateway: lvs, interfaces: {{eth0: 10.0.0.3/24}}}}\nservices:\n{services}"
    );
    let examined = check::examine("every.yaml", &text);
    examined.topology.unwrap_or_else(|| panic!("{:#?}", examined.findings))
}

fn keepalived_takes_every_kind_of_check() {
    let topology = of_services(
        r#"  - {vip: 172.25.7.200, port: 80, real_servers: [web1, {host: web2, check: none, weight: 0, upper_threshold: 9, lower_threshold: 3}],
     quorum: 1, sorry_server: spare, check: {type: http, path: "/a?b=%22", host: "www.example.org:8080", status: [200, 301-302], body: ok}}
  - {vip: 172.25.7.200, port: 443, real_servers: [web1], check: {type: https, host: www.example.org, body_regex: "^(ok|fine) \\d+$"}}
  - {vip: 172.25.7.200, port: 53, protocol: udp, one_packet: true, real_servers: [web1], check: {type: dns, name: _x.example.org., record: TXT}}
  - {vip: 172.25.7.200, port: 81, real_servers: [web1, web2], check: {type: script, command: [/bin/true, "{vip} {port}", "{rip}", "{mark}", "{source}", "x=%20?&*@,:+"]}}
  - {vip: 172.25.7.200, port: any, persistence: {timeout: 60, mask: 255.255.255.0}, real_servers: [web1, web2], check: {type: tcp, port: 22, via: rip}}
  - {vip: 172.25.7.201, mark: 7, ports: [80, 443], scheduler: sh, scheduler_flags: [sh-port, sh-fallback], real_servers: [web1, web2], check: tcp}
  - {vip: 172.25.7.202, port: 80, forward: nat, real_servers: [{host: nat1, port: 8080}], check: tcp}
  - {vip: 172.25.7.202, port: 81, protocol: sctp, forward: nat, real_servers: [nat1], check: {type: tcp, port: 8080}}
  - {vip: "2001:db8::200", port: 80, real_servers: [web1, web2], check: tcp}
  - {vip: "2001:db8::200", mark: 8, ports: [81], forward: tun, persistence: {timeout: 50, mask: 64}, real_servers: [web1, web2], check: tcp}
  - {vip: "2001:db8::201", port: 80, forward: tun, tunnel: {type: gre, checksum: true}, real_servers: [web2], check: tcp}
  - {vip: 172.25.7.203, port: 5060, protocol: udp, scheduler: mh, scheduler_flags: [mh-port, mh-fallback], forward: tun, tunnel: {type: gue, port: 6080, checksum: remote},
     persistence: {timeout: 60, engine: sip}, real_servers: [spare], check: {type: script, command: [/bin/true]}}
"#,
    );
    let texts = texts(&topology);
    assert_eq!(texts.len(), 2);
    for (director, text) in texts {
        takes(&director, &text);
        for kind in ["TCP_CHECK", "HTTP_GET", "SSL_GET", "DNS_CHECK", "MISC_CHECK"] {
            assert!(text.contains(kind), "no {kind}\n{text}");
        }
    }
}

/// With each text the configuration has the same lines, but for the one that the text is in.
fn no_text_of_the_file_becomes_a_line_of_its_own() {
    let with = |body: &str| {
        let body = serde_json::to_string(body).unwrap();
        let service = format!(
            "  - {{vip: 172.25.7.200, port: 80, real_servers: [web1], check: {{type: http, body: {body}}}}}\n"
        );
        keepalived::configuration(&of_services(&service), &"lvs".parse().unwrap()).unwrap()
    };
    let skeleton = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.trim_start().starts_with("regex "));
        lines.map(str::to_owned).collect()
    };
    let plain = with("x");
    for text in [
        "\" } } lvs_flush",
        "' # !",
        "$X ${_PWD} ${_HASH}",
        "@lvs lvs_flush",
        "~SEQ(x, 1, 2) ~LST(a, b)",
        "\\ \\x22 \\cA \\042",
        "{ } {{ }} {% x %}",
        "é\u{2028}日本",
        "include /etc/passwd",
    ] {
        let configuration = with(text);
        takes(text, &configuration);
        assert_eq!(skeleton(&configuration), skeleton(&plain), "{text}");
        let line =
            configuration.lines().find(|line| line.trim_start().starts_with("regex ")).unwrap();
        let quoted = line.trim().strip_prefix("regex \"").unwrap().strip_suffix('"').unwrap();
        let harmless = |c: char| c.is_ascii_alphanumeric() || "\\-._/:=,+".contains(c);
        assert!(quoted.chars().all(harmless), "{text}: {line}");
    }
}

/// The test above is worth something only if the program says no to other files.
fn keepalived_refuses_what_is_wrong() {
    let topology = load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("playbooks/dr-checks.yaml"));
    let right = keepalived::configuration(&topology, &"server2".parse().unwrap()).unwrap();
    for (from, to) in [
        ("lvs_sched wrr", "lvs_sched"),
        ("connect_port 80", "connect_port eighty"),
        ("real_server 172.25.7.3 80 {", "real_server 172.25.7.3 81 {"),
        ("type A", "type ANY"),
    ] {
        assert!(right.contains(from), "{right}");
        let (code, said) = try_configuration(&right.replacen(from, to, 1));
        assert_ne!(code, Some(0), "{to}: {said}");
    }
}
