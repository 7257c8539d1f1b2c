//! A keepalived.conf, imported and rendered again: keepalived reads both as the same services, real servers and checks, but
//! for what a remark of the import names.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::dump::{self, DumpedService, Fields};
use super::lvsprov;
use crate::support::netns_host::NetnsHost;
use crate::support::speed;

/// Sources without a check, or that keepalived itself does not read to the end.
const WITHOUT: &[&str] = &["definitions", "group", "idle", "several-urls"];
/// Where the scripts of the sources are. keepalived looks whether they exist.
const SCRIPTS: &str = "/usr/local/bin/";

/// keepalived with one configuration, in a namespace of its own.
struct Reading {
    child: Child,
    folder: tempfile::TempDir,
    _netns: NetnsHost,
}

impl Reading {
    fn begin(text: &str) -> Self {
        // keepalived refuses scripts below a folder where others may write.
        let folder = tempfile::tempdir_in("/run").unwrap();
        let scripts = format!("{}/", folder.path().display());
        for script in ["check", "check-mysql", "load", "announce", "withdraw", "tell"] {
            let path = folder.path().join(script);
            fs::write(&path, "#!/bin/sh\nexit 0\n").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let file = folder.path().join("keepalived.conf");
        fs::write(&file, text.replace(SCRIPTS, &scripts)).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new("keepalived");
        command.args(["--check", "--dont-fork", "--dont-respawn", "--log-console", "--no-syslog"]);
        command.arg("--dump-conf").arg("--use-file").arg(&file);
        command.arg("--pid").arg(folder.path().join("pid"));
        command.arg("--checkers_pid").arg(folder.path().join("checkers.pid"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let netns = NetnsHost::with_lo();
        let child = netns.run(|| command.spawn().unwrap());
        Self { child, folder, _netns: netns }
    }

    /// What it has read, once it begins to check: its dump is complete then.
    fn services(mut self) -> BTreeMap<String, DumpedService> {
        let deadline = Instant::now() + speed::patience();
        let log = || {
            let scripts = format!("{}/", self.folder.path().display());
            fs::read_to_string(self.folder.path().join("log")).unwrap().replace(&scripts, SCRIPTS)
        };
        while !log().contains("ctivating healthchecker") {
            assert!(self.child.try_wait().unwrap().is_none(), "it has ended\n{}", log());
            assert!(Instant::now() < deadline, "no check begins\n{}", log());
            thread::sleep(Duration::from_millis(200));
        }
        dump::services(&log())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn sources() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/import/keepalived");
    let all = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let all = all.filter(|path| path.extension().is_some_and(|it| it == "conf"));
    let mut all: Vec<PathBuf> = all
        .filter(|path| !WITHOUT.contains(&path.file_stem().unwrap().to_str().unwrap()))
        .collect();
    all.sort();
    assert!(all.len() >= 20, "{all:?}");
    all
}

pub fn read_again() {
    let (mut checks, mut named, mut failed) = (0, 0, Vec::new());
    for path in sources() {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let source = fs::read_to_string(&path).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("imported.yaml");
        let file = file.to_str().unwrap();
        let imported = lvsprov(&["import", path.to_str().unwrap(), "--format", "json"], 0);
        let imported: Value = serde_json::from_str(&imported).unwrap();
        fs::write(file, imported["topology"].as_str().unwrap()).unwrap();
        lvsprov(&["check", file], 0);
        let rendered = lvsprov(&["render", "keepalived", file], 0);
        let (before, after) = (Reading::begin(&source), Reading::begin(&rendered));
        let (before, after) = (before.services(), after.services());
        let remarks = imported["remarks"].as_array().unwrap();
        let mut differences = differences(&before, &after);
        let all = differences.len();
        differences.retain(|it| !remarks.iter().any(|remark| it.is_named_by(remark)));
        println!("{name}: {} services, {all} differences with a remark", before.len());
        if !differences.is_empty() {
            println!("{name}, without a remark: {differences:#?}\n{remarks:#?}\n{rendered}");
            failed.push(name.clone());
        }
        checks += after.values().map(|service| service.checks.len()).sum::<usize>();
        named += all;
        if name == "tcp-check" {
            notices(&before, &rendered);
        }
    }
    assert_eq!(failed, Vec::<String>::new());
    assert!(checks > 30 && named > 10, "{checks} checks, {named} differences");
}

/// The comparison finds what is changed in a rendered text.
fn notices(before: &BTreeMap<String, DumpedService>, rendered: &str) {
    for (from, to, field) in [
        ("retry 3", "retry 2", "Retries"),
        ("connect_timeout 3", "connect_timeout 4", "Timeout"),
        ("connect_port 80", "connect_port 81", "Dest"),
        ("delay_loop 6", "delay_loop 7", "Delay loop"),
        ("lvs_sched rr", "lvs_sched wrr", "lvs_sched"),
        ("weight 1", "weight 2", "weight"),
    ] {
        assert!(rendered.contains(from), "{from}: {rendered}");
        let after = Reading::begin(&rendered.replace(from, to)).services();
        let differences = differences(before, &after);
        assert!(differences.iter().any(|it| it.field == field), "{from}: {differences:#?}");
    }
}

/// A field that keepalived reads in another way.
#[derive(Debug)]
struct Difference {
    service: String,
    field: String,
    #[expect(dead_code, reason = "for the message of a failure")]
    values: [Option<String>; 2],
}

impl Difference {
    fn is_named_by(&self, remark: &Value) -> bool {
        let text = |key: &str| remark[key].as_str().unwrap_or_default().to_owned();
        let (what, why) = (text("what"), text("why"));
        if self.field == "no check" {
            let name = self.service.replace("FWM", "fwmark").replace(':', " ");
            let name = name.trim_end_matches(" TCP").trim_end_matches(" UDP");
            return what.contains(name) && why.contains("`weights: external`");
        }
        let Some((_, keywords)) = KEYWORDS.iter().find(|(field, _)| *field == self.field) else {
            return false;
        };
        keywords.iter().any(|keyword| what.contains(keyword))
    }
}

/// The keywords behind fields that may differ.
const KEYWORDS: &[(&str, &[&str])] = &[
    ("Alpha", &["alpha"]),
    ("Bind to", &["bindto"]),
    ("Delay before retry", &["delay_before_retry"]),
    ("Delay loop", &["delay_loop"]),
    ("Enable SNI", &["enable_sni"]),
    ("Fast recovery", &["fast_recovery"]),
    ("Inhibit on failure", &["inhibit_on_failure"]),
    ("Keepalive method", &["http_protocol"]),
    ("Mark", &["fwmark"]),
    ("RS down notify script", &["notify_down"]),
    ("Retries", &["retry"]),
    ("Timeout", &["connect_timeout"]),
    ("Warmup", &["warmup"]),
    ("alpha", &["alpha"]),
    ("omega", &["omega"]),
    ("quorum", &["hysteresis", "quorum"]),
    ("quorum and hysteresis", &["hysteresis", "quorum"]),
    ("sorry server: Inhibit on failure", &["sorry_server"]),
    ("sorry server: forwarding method", &["sorry_server"]),
    ("sorry server: sorry server", &["sorry_server"]),
    ("timeout", &["misc_timeout"]),
];

fn differences(
    before: &BTreeMap<String, DumpedService>,
    after: &BTreeMap<String, DumpedService>,
) -> Vec<Difference> {
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    let mut all = Vec::new();
    for (name, source) in before {
        let rendered = &after[name];
        let mut add = |field: &str, values: [Option<&String>; 2]| {
            let values = values.map(Option::<&String>::cloned);
            all.push(Difference { service: name.clone(), field: field.to_owned(), values });
        };
        compare(&of_service(name, source), &of_service(name, rendered), &mut add);
        assert_eq!(by_address(&source.reals), by_address(&rendered.reals), "{name}");
        for (to, fields) in &source.reals {
            let after = rendered.reals.iter().find(|(it, _)| address(it) == address(to)).unwrap();
            compare(&of_real_server(fields), &of_real_server(after.1), &mut add);
        }
        if rendered.checks.is_empty() && !source.checks.is_empty() {
            add("no check", [None, None]);
            continue;
        }
        assert_eq!(by_address(&source.checks), by_address(&rendered.checks), "{name}");
        for (to, fields) in &source.checks {
            let after = rendered.checks.iter().find(|(it, _)| address(it) == address(to)).unwrap();
            let before = of_check(fields, source, to);
            compare(&before, &of_check(after.1, rendered, after.0), &mut add);
        }
    }
    all
}

fn address(at: &str) -> &str {
    at.rsplit_once(':').unwrap().0
}

fn by_address(all: &BTreeMap<String, Fields>) -> Vec<&str> {
    all.keys().map(|at| address(at)).collect()
}

fn compare(before: &Fields, after: &Fields, add: &mut impl FnMut(&str, [Option<&String>; 2])) {
    for field in before.keys().chain(after.keys().filter(|field| !before.contains_key(*field))) {
        let values = [before.get(field), after.get(field)];
        if values[0] != values[1] {
            add(field, values);
        }
    }
}

/// Without what real servers and checks only inherit, which they show themselves, and without state.
fn of_service(name: &str, service: &DumpedService) -> Fields {
    const INHERITED: &[&str] = &[
        "VirtualHost",
        "connection timeout",
        "delay_loop",
        "Retry count",
        "Retry delay",
        "Warmup",
        "default forwarding method",
        "forwarding method",
        "Inhibit on failure",
        "alive",
        "quorum_state_up",
        "reloaded",
        "Quorum up notify script",
        "Quorum down notify script",
        "Using smtp notification",
    ];
    let mut fields = service.fields.clone();
    fields.retain(|name, _| !INHERITED.contains(&name.as_str()));
    // A mark has no protocol, and those of a group show that of its addresses. A group shows no family.
    if name.starts_with("FWM") {
        fields.remove("protocol");
    }
    fields.retain(|name, value| name != "Address family" || value != "unknown");
    let port = |value: &mut String| *value = address(value).to_owned();
    fields.entry("sorry server: sorry server".to_owned()).and_modify(port);
    fields.retain(|_, value| !value.is_empty());
    fields
}

fn of_real_server(fields: &Fields) -> Fields {
    const COMPARED: &[&str] = &[
        "weight",
        "forwarding method",
        "connection limit range",
        "Inhibit on failure",
        "Alpha",
        "RS down notify script",
    ];
    let mut fields = fields.clone();
    fields.retain(|name, _| COMPARED.contains(&name.as_str()));
    fields
}

/// With the name that keepalived sends, and without state.
fn of_check(fields: &Fields, service: &DumpedService, to: &str) -> Fields {
    const STATE: &[&str] = &[
        "Enabled",
        "Up",
        "Has run",
        "Current weight",
        "Retries iterations",
        "Default delay before retry",
        "Last ran",
        "Last status",
        "Last errno",
        "Log all failures",
        "Virtualhost",
    ];
    let mut all = fields.clone();
    all.retain(|name, _| !STATE.contains(&name.as_str()));
    let real = service.reals.get(to);
    let host = [
        fields.get("Virtual host"),
        fields.get("Virtualhost"),
        real.and_then(|real| real.get("VirtualHost")),
        service.fields.get("VirtualHost"),
    ];
    all.extend(
        host.into_iter()
            .flatten()
            .next()
            .map(|host| ("Virtual host".to_owned(), host.trim_matches('\'').to_owned())),
    );
    // The root of DNS: keepalived's default has no text.
    all.entry("Name".to_owned()).and_modify(|name| *name = name.trim_end_matches('.').to_owned());
    all.retain(|_, value| !value.is_empty());
    all
}
