//! The transports against real processes: agents of this build, a namespace, a real sshd.

mod failures;
mod hostile;
mod ssh;
mod sshd;
mod wire;

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lvsprov::failure::Failure;
use lvsprov::names::HostName;
use lvsprov::protocol::{Reply, Request};
use lvsprov::state::{Controller, Observation, Protocol};
use lvsprov::topology::Reach;
use lvsprov::transport::{Connection, Options, TransportError, TransportErrorKind};
use nix::sys::signal::Signal;
use sshd::{PROGRAM, kill, processes, until};

fn name() -> HostName {
    "web1".parse().unwrap()
}

fn look() -> Request {
    Request::Observe {
        topology: "test".parse().unwrap(),
        sysctls: BTreeSet::new(),
        counters: false,
    }
}

async fn seen(connection: &mut Connection) -> Observation {
    match connection.call(look()).await.unwrap() {
        Reply::Observed(sighting) => *sighting,
        other => panic!("{other:?}"),
    }
}

async fn look_once(reach: &Reach, options: &Options) -> Result<Observation, TransportError> {
    let mut connection = Connection::open(&name(), reach, options).await?;
    let sighting = seen(&mut connection).await;
    connection.close().await;
    Ok(sighting)
}

async fn refused(reach: &Reach, options: &Options) -> TransportError {
    match look_once(reach, options).await {
        Ok(_) => panic!("it worked"),
        Err(error) => error,
    }
}

/// An error must name the host, say something, and say what to do.
fn check_words(error: &TransportError) {
    let failure = Failure::from(error);
    assert!(failure.message.contains("web1"), "{failure}");
    assert!(failure.cure.is_some(), "{failure}");
    eprintln!("{failure}\n  cure: {}", failure.cure.as_deref().unwrap());
}

macro_rules! assert_kind {
    ($error:expr, $pattern:pat $(if $guard:expr)?) => {{
        let error = $error;
        check_words(&error);
        assert!(matches!(error.kind(), $pattern $(if $guard)?), "{error:?}");
        error
    }};
}

use assert_kind;

use crate::support::cases::{Case, async_cases};
use crate::support::speed;

pub fn cases() -> Vec<Case> {
    let own = async_cases![
        a_local_agent_answers_many_requests_and_ends_with_the_connection,
        an_agent_ends_when_its_connection_is_dropped,
        an_agent_in_a_namespace_sees_only_that_namespace,
        a_namespace_that_is_not_there_or_none_is_said_so,
        an_agent_that_is_killed_during_a_call_is_a_cut_connection,
        an_agent_that_hangs_is_given_up_in_time,
        what_is_not_our_agent_is_told_apart
    ];
    [own, failures::cases(), hostile::cases(), ssh::cases()].concat()
}

/// Whether it is the trouble that was wanted.
type Expected = fn(&TransportErrorKind) -> bool;

/// A request that lasts: the far end takes the connection and says nothing.
struct Slow {
    listener: TcpListener,
}

impl Slow {
    fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    fn request(&self, timeout_ms: u32) -> Request {
        let target = self.listener.local_addr().unwrap();
        Request::Fetch { target, protocol: Protocol::Tcp, count: 1, timeout_ms }
    }
}

fn local_options(state: &Path) -> Options {
    Options { agent_binary: Some(PROGRAM.into()), state_dir: Some(state.to_owned()), ..patient() }
}

/// The limits as users have them, on this machine.
fn patient() -> Options {
    let Options { connect_timeout, hello_timeout, call_timeout, .. } = Options::default();
    Options {
        connect_timeout: speed::scaled(connect_timeout),
        hello_timeout: speed::scaled(hello_timeout),
        call_timeout: speed::scaled(call_timeout),
        ..Options::default()
    }
}

/// The local agents with that state folder.
fn agents_with(state: &Path) -> Vec<i32> {
    let state = state.display().to_string();
    let ours = |line: &str| line.contains(" agent ") && line.contains(&state);
    processes().filter(|(_, line)| ours(line)).map(|(id, _)| id).collect()
}

/// A program that is not our agent.
fn impostor(folder: &Path, script: &str) -> PathBuf {
    let path = folder.join("impostor");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

async fn a_local_agent_answers_many_requests_and_ends_with_the_connection() {
    let state = tempfile::tempdir().unwrap();
    let options = local_options(state.path());
    let mut connection = Connection::open(&name(), &Reach::Local, &options).await.unwrap();
    let sighting = seen(&mut connection).await;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(sighting.facts.kernel, release.trim());
    let reply = connection.call(Slow::new().request(50)).await.unwrap();
    assert!(matches!(reply, Reply::Fetched(_)), "{reply:?}");
    for _ in 0..100 {
        assert_eq!(seen(&mut connection).await.facts, sighting.facts);
    }
    assert_eq!(agents_with(state.path()).len(), 1);
    connection.close().await;
    assert_eq!(agents_with(state.path()), Vec::<i32>::new());
}

async fn an_agent_ends_when_its_connection_is_dropped() {
    let state = tempfile::tempdir().unwrap();
    let options = local_options(state.path());
    let connection = Connection::open(&name(), &Reach::Local, &options).await.unwrap();
    drop(connection);
    until("the agent ends", || agents_with(state.path()).is_empty().then_some(()));
}

/// A network namespace that lasts as long as this.
struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--net", "sleep", "600"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let namespace = Self(child);
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        until("the namespace is there", || {
            let there = fs::read_link(namespace.path()).ok()?;
            (there != own).then_some(())
        });
        namespace
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn an_agent_in_a_namespace_sees_only_that_namespace() {
    let namespace = Namespace::new();
    let state = tempfile::tempdir().unwrap();
    let options = local_options(state.path());
    let reach = Reach::Netns(namespace.path());
    let mut connection = Connection::open(&name(), &reach, &options).await.unwrap();
    let sighting = seen(&mut connection).await;
    // Unless whoever runs this is logged in by ssh.
    assert_ne!(sighting.facts.controller, Controller::Unknown);
    let links: Vec<String> = sighting.state.links.keys().map(ToString::to_string).collect();
    assert!(links.iter().all(|l| !l.starts_with("eth")), "{links:?}");
    assert!(links.contains(&"lo".to_owned()), "{links:?}");
    let agent = agents_with(state.path());
    let inside = fs::read_link(format!("/proc/{}/ns/net", agent[0])).unwrap();
    assert_eq!(inside, fs::read_link(namespace.path()).unwrap());
    connection.close().await;
}

async fn a_namespace_that_is_not_there_or_none_is_said_so() {
    let state = tempfile::tempdir().unwrap();
    let options = local_options(state.path());
    let missing = Reach::Netns("/run/netns/no-such-namespace".into());
    let error =
        assert_kind!(refused(&missing, &options).await, TransportErrorKind::AgentFailed { .. });
    assert!(error.to_string().contains("/run/netns/no-such-namespace"), "{error}");
    let plain = Reach::Netns("/etc/hostname".into());
    let error =
        assert_kind!(refused(&plain, &options).await, TransportErrorKind::AgentFailed { .. });
    assert!(error.to_string().contains("not a network namespace"), "{error}");
}

async fn an_agent_that_is_killed_during_a_call_is_a_cut_connection() {
    let state = tempfile::tempdir().unwrap();
    let slow = Slow::new();
    let options = local_options(state.path());
    let mut connection = Connection::open(&name(), &Reach::Local, &options).await.unwrap();
    let agent = agents_with(state.path())[0];
    let listener = slow.listener.try_clone().unwrap();
    let killer = std::thread::spawn(move || {
        // It is in the midst of it.
        let taken = listener.accept();
        kill(agent, Signal::SIGKILL);
        drop((taken, listener));
    });
    let error = connection.call(slow.request(speed::millis(20_000))).await.unwrap_err();
    killer.join().unwrap();
    let error =
        assert_kind!(error, TransportErrorKind::Cut { request: "fetch", acting: false, .. });
    assert!(error.to_string().contains("signal: 9"), "{error}");
    let error = connection.call(look()).await.unwrap_err();
    assert!(matches!(error.kind(), TransportErrorKind::GivenUp), "{error:?}");
}

async fn an_agent_that_hangs_is_given_up_in_time() {
    let state = tempfile::tempdir().unwrap();
    let options = Options {
        call_timeout: speed::scaled(Duration::from_millis(300)),
        ..local_options(state.path())
    };
    let mut connection = Connection::open(&name(), &Reach::Local, &options).await.unwrap();
    let agent = agents_with(state.path())[0];
    kill(agent, Signal::SIGSTOP);
    let start = Instant::now();
    let error = connection.call(look()).await.unwrap_err();
    assert!(start.elapsed() < speed::patience());
    assert_kind!(error, TransportErrorKind::CallTimeout { request: "observe", .. });
    kill(agent, Signal::SIGCONT);
    until("the agent ends", || agents_with(state.path()).is_empty().then_some(()));
}

async fn what_is_not_our_agent_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let with = |script: &str| Options {
        agent_binary: Some(impostor(folder.path(), script)),
        hello_timeout: speed::scaled(Duration::from_secs(1)),
        ..local_options(folder.path())
    };
    let error = refused(&Reach::Local, &with("echo good day; echo oh >&2; exit 3")).await;
    let error =
        assert_kind!(error, TransportErrorKind::NoHello { chatter, .. } if chatter == "good day");
    assert_eq!(error.stderr(), "oh");
    assert!(error.to_string().contains("exit status: 3"), "{error}");
    let error = refused(&Reach::Local, &with("exec yes")).await;
    assert_kind!(error, TransportErrorKind::NotAnAgent { .. });
    let error = refused(&Reach::Local, &with("exec sleep 600")).await;
    assert_kind!(error, TransportErrorKind::HelloTimeout { .. });
    until("the impostor ends", || agents_with(folder.path()).is_empty().then_some(()));
    let old = r#"printf 'lvsprov@ hello\n\000\000\000\027{"version":999,"uid":0}'; exec sleep 9"#;
    let error = refused(&Reach::Local, &with(old)).await;
    assert_kind!(error, TransportErrorKind::Version { theirs: 999, .. });
    let odd = r"printf 'lvsprov@ hello\n\377\377\377\377{}'; exec sleep 9";
    let error = refused(&Reach::Local, &with(odd)).await;
    assert_kind!(error, TransportErrorKind::BadFrame { .. });
    let user = r#"printf 'lvsprov@ hello\n\000\000\000\030{"version":V,"uid":1000}'; exec sleep 9"#;
    let user = user.replace('V', &lvsprov::protocol::VERSION.to_string());
    let error = refused(&Reach::Local, &with(&user)).await;
    assert_kind!(error, TransportErrorKind::NotRoot { uid: 1000 });
    let none = Options { agent_binary: Some("/no/such/program".into()), ..with("") };
    let error = refused(&Reach::Local, &none).await;
    assert!(matches!(error.kind(), TransportErrorKind::Start { .. }), "{error:?}");
}
