//! Hosts that mean harm: what they send to the terminal, and how much of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use lvsprov::failure::Failure;
use lvsprov::topology::Reach;
use lvsprov::transport::{Connection, Options, TransportErrorKind};
use lvsprov::visible::is_hidden;
use serde_json::{Value, json};

use super::sshd::{Like, PROGRAM, Sshd};
use super::{Namespace, assert_kind, check_words, impostor, local_options, look, name, refused};
use crate::support::cases::{Case, async_cases, cases};

pub fn cases() -> Vec<Case> {
    [
        cases![
            a_report_shows_what_a_host_says_and_obeys_nothing_of_it,
            a_host_that_would_eat_the_memory_harms_no_other_host_and_not_the_controller
        ],
        async_cases![
            answers_that_would_eat_the_memory_are_refused_and_the_host_is_named,
            what_is_printed_before_or_beside_the_answers_is_shown_and_not_obeyed
        ],
    ]
    .concat()
}

/// Writes the clipboard, clears the screen, overwrites the line, turns the direction of writing around.
const EVIL: &str =
    "\u{1b}]52;c;aGk=\u{7}\u{1b}[2J\u{9b}2J\rverified\u{202e}\u{2066}\u{200b}\u{7f}\nweb1: applied";
/// The same as it is shown.
const SHOWN: &str =
    r"\x1b]52;c;aGk=\x07\x1b[2J\x9b2J\rverified\u{202e}\u{2066}\u{200b}\x7f\nweb1: applied";

fn frame(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
}

/// What an agent says that greets as it should and then answers everything with `reply`.
fn answers(reply: &[u8]) -> Vec<u8> {
    let hello = json!({ "version": lvsprov::protocol::VERSION, "uid": 0 }).to_string();
    [b"lvsprov@ hello\n", &frame(hello.as_bytes())[..], &frame(reply)].concat()
}

/// A script that says what is in a file and then listens.
fn says(path: &Path) -> String {
    format!("cat {}; exec cat >/dev/null", path.display())
}

fn refusal() -> Vec<u8> {
    json!({ "refused": { "message": EVIL, "causes": [EVIL], "cure": EVIL } })
        .to_string()
        .into_bytes()
}

/// An answer of about so many bytes, all of it empty texts.
fn empties(length: usize) -> Vec<u8> {
    [br#"{"changed":["#, &br#""","#.repeat(length / 3)[..], br#"""]}"#].concat()
}

/// An agent of this machine that answers so.
fn local(folder: &Path, reply: &[u8]) -> Options {
    let said = folder.join("said");
    fs::write(&said, answers(reply)).unwrap();
    Options { agent_binary: Some(impostor(folder, &says(&said))), ..local_options(folder) }
}

async fn answers_that_would_eat_the_memory_are_refused_and_the_host_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for (reply, why) in [
        (empties(60 << 20), " values, the limit is "),
        (empties(80 << 20), "the limit is 67108864"),
        (
            json!({ "changed": ["x".repeat(2 << 20)] }).to_string().into_bytes(),
            "a text of 2097153 bytes",
        ),
    ] {
        let options = local(folder.path(), &reply);
        let mut connection = Connection::open(&name(), &Reach::Local, &options).await.unwrap();
        let error = connection.call(look()).await.unwrap_err();
        let error = assert_kind!(error, TransportErrorKind::BadFrame { request: "observe", .. });
        let failure = Failure::from(&error);
        assert!(failure.causes[0].contains(why), "{failure}");
        assert!(failure.cure.unwrap().contains("what answers in the place"));
    }
}

async fn what_is_printed_before_or_beside_the_answers_is_shown_and_not_obeyed() {
    let folder = tempfile::tempdir().unwrap();
    let said = folder.path().join("said");
    fs::write(&said, EVIL).unwrap();
    let script = format!("cat {0}; cat {0} >&2; exit 3", said.display());
    let options = Options {
        agent_binary: Some(impostor(folder.path(), &script)),
        ..local_options(folder.path())
    };
    let error = refused(&Reach::Local, &options).await;
    let shown = SHOWN.replace(r"\nweb1", "\nweb1");
    assert_eq!(error.stderr(), shown);
    assert_kind!(error, TransportErrorKind::NoHello { chatter, .. } if *chatter == shown);

    let mark = format!("lvsprov@ failed {}\n", EVIL.replace('\n', " "));
    fs::write(&said, mark).unwrap();
    let error = refused(&Reach::Local, &options).await;
    assert_kind!(error, TransportErrorKind::AgentFailed { reason } if *reason == SHOWN.replace(r"\nweb1", " web1"));
}

/// A cluster of a host that answers what is in a file, and one that is as it should be.
struct Pair {
    sshd: Sshd,
    namespace: Namespace,
}

impl Pair {
    fn new() -> Self {
        let lie = "#!/bin/sh\ncat \"${0%/bin/*}/said\"; exec cat >/dev/null\n".to_owned();
        let sshd = Sshd::like(&Like {
            config: "ForceCommand lie".to_owned(),
            tools: vec![("lie", lie)],
            ..Like::default()
        });
        let pair = Self { sshd, namespace: Namespace::new() };
        fs::create_dir(pair.sshd.file("x")).unwrap();
        let text = format!(
            "version: 1\nname: hostile\nnetworks: {{lan: 192.0.2.0/24}}\nhosts:\n  \
             lvs: {{role: director, netns: {}, interfaces: {{eth0: 192.0.2.2/24}}}}\n  \
             web1: {{role: real_server, ssh: host, interfaces: {{eth0: 192.0.2.3/24}}}}\nservices:\n  \
             - {{vip: 192.0.2.80, port: 80, forward: dr, real_servers: [web1]}}\n",
            pair.namespace.path().display()
        );
        fs::write(pair.file(), text).unwrap();
        pair
    }

    fn file(&self) -> PathBuf {
        self.sshd.file("hostile.yaml")
    }

    /// What `plan` says of it, with 1.5 GB of address space, and escape sequences not taken out.
    fn plan(&self, format: &str) -> Output {
        Command::new("sh")
            .args(["-c", "ulimit -v 1500000; exec \"$@\"", "sh", PROGRAM, "plan"])
            .arg(self.file())
            .args(["--format", format, "--ssh-config"])
            .arg(self.sshd.file("ssh_config"))
            .env("XDG_RUNTIME_DIR", self.sshd.file("x"))
            .env("CLICOLOR_FORCE", "1")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

/// Everything that was printed, without the colours that are ours.
fn printed(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8(all).unwrap();
    let mut parts = text.split("\u{1b}[");
    let mut plain = parts.next().unwrap().to_owned();
    for part in parts {
        let (code, rest) = part.split_once('m').unwrap_or_else(|| panic!("no colour: {part:?}"));
        assert!(code.bytes().all(|b| b.is_ascii_digit() || b == b';'), "{part:?}");
        plain.push_str(rest);
    }
    plain
}

fn a_report_shows_what_a_host_says_and_obeys_nothing_of_it() {
    let pair = Pair::new();
    fs::write(pair.sshd.file("said"), answers(&refusal())).unwrap();
    for format in ["text", "json"] {
        let output = pair.plan(format);
        assert_eq!(output.status.code(), Some(5), "{output:?}");
        let text = printed(&output);
        let hidden: Vec<char> = text.chars().filter(|&c| is_hidden(c) && c != '\n').collect();
        assert_eq!(hidden, [], "{text:?}");
        let shown = match format {
            "json" => SHOWN.replace('\\', r"\\"),
            _ => SHOWN.to_owned(),
        };
        // The message, the cause and the cure.
        assert_eq!(text.matches(&shown).count(), 3, "{text}");
    }
}

fn a_host_that_would_eat_the_memory_harms_no_other_host_and_not_the_controller() {
    let pair = Pair::new();
    for (length, why) in [(60 << 20, " values, the limit is "), (250 << 20, "was announced")] {
        fs::write(pair.sshd.file("said"), answers(&empties(length))).unwrap();
        let output = pair.plan("json");
        assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let failure = report["hosts"]["web1"]["failure"].to_string();
        assert!(failure.contains("web1") && failure.contains(why), "{failure}");
        assert_eq!(report["hosts"]["lvs"]["failure"], Value::Null, "{report:#}");
    }
}
