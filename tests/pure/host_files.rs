//! What `render host` writes: every setting is in it or named, and the shell reads it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use lvsprov::desired::desired_for;
use lvsprov::render::host::{HostFiles, HostForm, InitSystem, agent_script, files};
use lvsprov::state::Item;

use crate::support::cases::{Case, cases};
use crate::support::playbooks::{golden, load, playbooks};

pub fn cases() -> Vec<Case> {
    cases![
        each_form_has_every_setting_or_names_it,
        the_files_of_two_hosts_are_as_they_were_read_and_found_right,
        nothing_from_the_file_reaches_a_shell_unquoted
    ]
}

const FORMS: [HostForm; 5] = [
    HostForm::Script(InitSystem::Lsb),
    HostForm::Script(InitSystem::OpenRc),
    HostForm::Sysctl,
    HostForm::Ifupdown,
    HostForm::Networkd,
];

/// `sh -n` reads it.
fn is_shell(text: &str) {
    let mut child =
        Command::new("sh").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
}

/// How a text names an item.
fn names(item: &Item) -> String {
    match item {
        Item::Module(module) => module.to_string(),
        Item::Sysctl(key) => {
            key.path().strip_prefix("/proc/sys").unwrap().to_str().unwrap().to_owned()
        }
        Item::Link(dev) | Item::Tunnel(dev) => dev.to_string(),
        Item::Address(key) => key.net.to_string(),
        Item::Route(key) if key.0.prefix_len() == 0 => "default".to_owned(),
        Item::Route(key) => key.0.to_string(),
        Item::Table(name) => name.to_string(),
        Item::GuePort(port) => format!("port {} gue", port.port),
        // By its words for ipvsadm; the machine's kernel compares them.
        Item::Service(_) => "service -".to_owned(),
        Item::Timeouts => "--set".to_owned(),
        Item::Daemon(role) => role.to_string(),
        Item::Instance(instance) => instance.to_string(),
    }
}

fn each_form_has_every_setting_or_names_it() {
    let mut scripts = 0;
    for path in playbooks() {
        let topology = load(&path);
        for host in topology.hosts.values() {
            let desired = desired_for(&topology, host);
            for form in FORMS {
                let HostFiles { files, unsupported } =
                    files(form, &topology, host, &desired).unwrap();
                let text: String = files.iter().map(|file| file.text.as_str()).collect();
                let left: BTreeSet<&str> = unsupported.iter().map(|it| it.what.as_str()).collect();
                for item in desired.state.items() {
                    let name = names(&item);
                    let is_said = text.contains(&name)
                        || matches!(form, HostForm::Sysctl) && text.contains(&item.to_string())
                        || matches!(form, HostForm::Networkd)
                            && name == "default"
                            && (text.contains("=0.0.0.0/0") || text.contains("=::/0"));
                    let is_named = left.iter().any(|what| {
                        *what == item.to_string()
                            || what.ends_with(&format!("({item})"))
                            || what.contains(&format!("(table {name})"))
                    });
                    let place = path.display();
                    assert!(
                        is_said || is_named,
                        "{place}: {}: {form:?} lacks {item}\n{text}",
                        host.name
                    );
                }
                if let HostForm::Script(_) = form {
                    is_shell(&text);
                    scripts += 1;
                }
            }
        }
    }
    assert!(scripts > 100, "only {scripts} scripts were read");
    for init in [InitSystem::Lsb, InitSystem::OpenRc] {
        is_shell(&agent_script(init).unwrap());
    }
}

fn the_files_of_two_hosts_are_as_they_were_read_and_found_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let topology = load(&root.join("playbooks/dr-two-networks.yaml"));
    for name in ["lvs", "web1"] {
        let host = topology.hosts.values().find(|host| host.name.as_str() == name).unwrap();
        let desired = desired_for(&topology, host);
        let mut text = String::new();
        for form in [FORMS[0], FORMS[2], FORMS[3], FORMS[4]] {
            for file in files(form, &topology, host, &desired).unwrap().files {
                let _ = write!(text, "==== {} {:o}\n{}", file.path, file.mode, file.text);
            }
        }
        golden(&root.join(format!("tests/cases/render/{name}.txt")), &text);
    }
    let text: Vec<String> =
        [InitSystem::Lsb, InitSystem::OpenRc].map(|init| agent_script(init).unwrap()).into();
    golden(&root.join("tests/cases/render/init-scripts.txt"), &text.join("====\n"));
}

/// Interface names may hold almost anything.
fn nothing_from_the_file_reaches_a_shell_unquoted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("odd.yaml");
    let text = "version: 1\nname: odd\nnetworks: {lan: [192.0.2.0/24]}\nhosts:\n  \
        client: {role: client, interfaces: {eth0: 192.0.2.1/24}}\n  \
        lvs: {role: director, interfaces: {\"e$(id)'\": 192.0.2.2/24}}\n  \
        web: {role: real_server, interfaces: {eth0: 192.0.2.3/24}}\nservices:\n  \
        - {vip: 192.0.2.80, port: 80, forward: dr, real_servers: [web]}\n";
    std::fs::write(&file, text).unwrap();
    let topology = load(&file);
    let host = topology.hosts.values().find(|host| host.name.as_str() == "lvs").unwrap();
    let desired = desired_for(&topology, host);
    let script = files(FORMS[0], &topology, host, &desired).unwrap().files.remove(0).text;
    is_shell(&script);
    let lines = script.lines().filter(|line| !line.starts_with('#') && line.contains("$(id)"));
    let lines: Vec<&str> = lines.collect();
    assert!(!lines.is_empty(), "{script}");
    for line in lines {
        let is_comment = line.trim_start().starts_with('#');
        assert!(is_comment || line.contains(r"'e$(id)'\'''"), "{line}");
    }
    for form in [HostForm::Ifupdown, HostForm::Networkd] {
        let error = files(form, &topology, host, &desired).unwrap_err().to_string();
        assert!(error.contains("cannot be named in files of ifupdown or networkd"), "{error}");
    }
}
