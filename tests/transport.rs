//! The transports against real processes: agents of this build, a namespace, a real sshd.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "transport/sshd.rs"]
mod sshd;
#[path = "transport/wire.rs"]
mod wire;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lvsprov::protocol::{Failure, Reply, Request, Sighting};
use lvsprov::topology::{HostName, Protocol, Reach, SshTarget};
use lvsprov::transport::{Connection, Options, TransportError, Trouble};
use nix::sys::signal::Signal;
use sshd::{Like, PROGRAM, Sshd, free_port, kill, processes, until};
use wire::Wire;

fn name() -> HostName {
    "web1".parse().unwrap()
}

fn look() -> Request {
    Request::Look { topology: "test".parse().unwrap(), sysctls: BTreeSet::new(), counters: false }
}

async fn seen(connection: &mut Connection) -> Sighting {
    match connection.call(look()).await.unwrap() {
        Reply::Seen(sighting) => *sighting,
        other => panic!("{other:?}"),
    }
}

async fn look_once(reach: &Reach, options: &Options) -> Result<Sighting, TransportError> {
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

macro_rules! assert_trouble {
    ($error:expr, $pattern:pat $(if $guard:expr)?) => {{
        let error = $error;
        check_words(&error);
        assert!(matches!(error.trouble(), $pattern $(if $guard)?), "{error:?}");
        error
    }};
}

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
    Options {
        agent_binary: Some(PROGRAM.into()),
        state_dir: Some(state.to_owned()),
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

#[tokio::test]
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

#[tokio::test]
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

#[tokio::test]
async fn an_agent_in_a_namespace_sees_only_that_namespace() {
    let namespace = Namespace::new();
    let state = tempfile::tempdir().unwrap();
    let options = local_options(state.path());
    let reach = Reach::Netns(namespace.path());
    let mut connection = Connection::open(&name(), &reach, &options).await.unwrap();
    let links: Vec<String> =
        seen(&mut connection).await.state.links.keys().map(ToString::to_string).collect();
    assert!(links.iter().all(|l| !l.starts_with("eth")), "{links:?}");
    assert!(links.contains(&"lo".to_owned()), "{links:?}");
    let agent = agents_with(state.path());
    let inside = fs::read_link(format!("/proc/{}/ns/net", agent[0])).unwrap();
    assert_eq!(inside, fs::read_link(namespace.path()).unwrap());
    connection.close().await;
}

#[tokio::test]
async fn a_namespace_that_is_not_there_or_none_is_said_so() {
    let state = tempfile::tempdir().unwrap();
    let options = local_options(state.path());
    let missing = Reach::Netns("/run/netns/no-such-namespace".into());
    let error = assert_trouble!(refused(&missing, &options).await, Trouble::AgentFailed { .. });
    assert!(error.to_string().contains("/run/netns/no-such-namespace"), "{error}");
    let plain = Reach::Netns("/etc/hostname".into());
    let error = assert_trouble!(refused(&plain, &options).await, Trouble::AgentFailed { .. });
    assert!(error.to_string().contains("not a network namespace"), "{error}");
}

#[tokio::test]
async fn an_agent_that_is_killed_during_a_call_is_a_cut_connection() {
    let state = tempfile::tempdir().unwrap();
    let slow = Slow::new();
    let options = local_options(state.path());
    let mut connection = Connection::open(&name(), &Reach::Local, &options).await.unwrap();
    let agent = agents_with(state.path())[0];
    let listener = slow.listener.try_clone().unwrap();
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        kill(agent, Signal::SIGKILL);
        drop(listener);
    });
    let error = connection.call(slow.request(20_000)).await.unwrap_err();
    killer.join().unwrap();
    let error = assert_trouble!(error, Trouble::Cut { request: "fetch", acting: false, .. });
    assert!(error.to_string().contains("signal: 9"), "{error}");
    let error = connection.call(look()).await.unwrap_err();
    assert!(matches!(error.trouble(), Trouble::GivenUp), "{error:?}");
}

#[tokio::test]
async fn an_agent_that_hangs_is_given_up_in_time() {
    let state = tempfile::tempdir().unwrap();
    let options =
        Options { call_timeout: Duration::from_millis(300), ..local_options(state.path()) };
    let mut connection = Connection::open(&name(), &Reach::Local, &options).await.unwrap();
    let agent = agents_with(state.path())[0];
    kill(agent, Signal::SIGSTOP);
    let start = Instant::now();
    let error = connection.call(look()).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_trouble!(error, Trouble::CallTimeout { request: "look", .. });
    kill(agent, Signal::SIGCONT);
    until("the agent ends", || agents_with(state.path()).is_empty().then_some(()));
}

#[tokio::test]
async fn what_is_not_our_agent_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let with = |script: &str| Options {
        agent_binary: Some(impostor(folder.path(), script)),
        hello_timeout: Duration::from_secs(1),
        ..local_options(folder.path())
    };
    let error = refused(&Reach::Local, &with("echo good day; echo oh >&2; exit 3")).await;
    let error = assert_trouble!(error, Trouble::NoHello { chatter, .. } if chatter == "good day");
    assert_eq!(error.said(), "oh");
    assert!(error.to_string().contains("exit status: 3"), "{error}");
    let error = refused(&Reach::Local, &with("exec yes")).await;
    assert_trouble!(error, Trouble::NotAnAgent { .. });
    let error = refused(&Reach::Local, &with("exec sleep 600")).await;
    assert_trouble!(error, Trouble::HelloTimeout { .. });
    until("the impostor ends", || agents_with(folder.path()).is_empty().then_some(()));
    let old = r#"printf 'lvsprov@ hello\n\000\000\000\027{"version":999,"uid":0}'; exec sleep 9"#;
    let error = refused(&Reach::Local, &with(old)).await;
    assert_trouble!(error, Trouble::Version { theirs: 999, .. });
    let odd = r"printf 'lvsprov@ hello\n\377\377\377\377{}'; exec sleep 9";
    let error = refused(&Reach::Local, &with(odd)).await;
    assert_trouble!(error, Trouble::BadFrame { .. });
    let user = r#"printf 'lvsprov@ hello\n\000\000\000\030{"version":1,"uid":1000}'; exec sleep 9"#;
    let error = refused(&Reach::Local, &with(user)).await;
    assert_trouble!(error, Trouble::NotRoot { uid: 1000 });
    let none = Options { agent_binary: Some("/no/such/program".into()), ..with("") };
    let error = refused(&Reach::Local, &none).await;
    assert!(matches!(error.trouble(), Trouble::Start { .. }), "{error:?}");
}

#[tokio::test]
async fn ssh_sends_the_agent_once_and_keeps_the_connection() {
    let sshd = Sshd::plain();
    let wire = Wire::to(sshd.port);
    sshd.write_client_config("user_key", wire.port);
    let (reach, options) = (sshd.reach(), sshd.options());
    look_once(&reach, &options).await.unwrap();
    let pushed = wire.carried();
    let stored = sshd.stored();
    assert_eq!(stored.len(), 1, "{stored:?}");
    let found = fs::metadata(&stored[0]).unwrap();
    assert_eq!(found.len(), fs::metadata(PROGRAM).unwrap().len());
    assert_eq!((found.uid(), found.mode() & 0o777), (0, 0o755));
    let folder = fs::metadata(stored[0].parent().unwrap()).unwrap();
    assert_eq!((folder.uid(), folder.mode() & 0o777), (0, 0o755));

    for _ in 0..3 {
        look_once(&reach, &options).await.unwrap();
    }
    assert_eq!(sshd.logins(), 1);
    assert_eq!(sshd.sockets().len(), 1);
    assert_eq!(sshd.masters().len(), 1);
    assert!(wire.carried() - pushed < 50_000, "{} then {}", pushed, wire.carried());
    assert!(pushed > 500_000);
    assert_eq!(fs::metadata(&sshd.stored()[0]).unwrap().ino(), found.ino());
    until("the agents end", || sshd.running_agents().is_empty().then_some(()));
}

#[tokio::test]
async fn a_connection_that_is_not_kept_ends_with_its_agent() {
    let sshd = Sshd::plain();
    let options = Options { keep: Duration::ZERO, ..sshd.options() };
    for logins in 1..3 {
        look_once(&sshd.reach(), &options).await.unwrap();
        assert_eq!(sshd.logins(), logins);
        until("the master ends", || sshd.masters().is_empty().then_some(()));
        assert_eq!(sshd.sockets(), Vec::<PathBuf>::new());
    }
}

#[tokio::test]
async fn a_kept_connection_ends_by_itself() {
    let sshd = Sshd::plain();
    let options = Options { keep: Duration::from_secs(1), ..sshd.options() };
    look_once(&sshd.reach(), &options).await.unwrap();
    until("the master ends", || sshd.masters().is_empty().then_some(()));
}

#[tokio::test]
async fn a_dead_or_hanging_kept_connection_is_replaced() {
    let mut sshd = Sshd::plain();
    look_once(&sshd.reach(), &sshd.options()).await.unwrap();
    sshd.stop();
    until("the master ends", || sshd.masters().is_empty().then_some(()));
    assert_eq!(sshd.sockets().len(), 1, "a stale socket is what this is about");
    sshd.start();
    look_once(&sshd.reach(), &sshd.options()).await.unwrap();
    assert_eq!(sshd.logins(), 2);

    let master = sshd.masters()[0];
    kill(master, Signal::SIGSTOP);
    let options = Options { hello_timeout: Duration::from_secs(2), ..sshd.options() };
    look_once(&sshd.reach(), &options).await.unwrap();
    assert_eq!(sshd.logins(), 3);
    kill(master, Signal::SIGKILL);
}

#[tokio::test]
async fn many_connections_at_once_share_one_host() {
    let sshd = Sshd::plain();
    let (reach, options) = (sshd.reach(), sshd.options());
    let many = (0..6).map(|_| look_once(&reach, &options));
    for one in futures_util::future::join_all(many).await {
        one.unwrap();
    }
    assert_eq!(sshd.stored().len(), 1);
    assert_eq!(sshd.sockets().len(), 1, "{:?}", sshd.sockets());
}

#[tokio::test]
async fn chatter_of_the_login_shell_is_skipped() {
    let sshd = Sshd::like(Like {
        config: r#"ForceCommand echo Welcome; printf 'no line feed'; exec sh -c "$SSH_ORIGINAL_COMMAND""#
            .to_owned(),
        ..Like::default()
    });
    for _ in 0..2 {
        look_once(&sshd.reach(), &sshd.options()).await.unwrap();
    }
}

/// A shell that finds no more than PATH offers; busybox's own finds all its applets.
fn plain_sh() -> (&'static str, String) {
    ("sh", "#!/bin/sh\nexec /bin/sh \"$@\"\n".to_owned())
}

#[tokio::test]
async fn a_host_without_gzip_and_sha256sum_gets_the_plain_bytes() {
    let sshd = Sshd::like(Like {
        tools: vec![plain_sh()],
        only: Some(&["id", "uname", "mkdir", "chmod", "mktemp", "head", "wc", "mv", "rm"]),
        ..Like::default()
    });
    let wire = Wire::to(sshd.port);
    sshd.write_client_config("user_key", wire.port);
    for _ in 0..2 {
        look_once(&sshd.reach(), &sshd.options()).await.unwrap();
    }
    let length = fs::metadata(PROGRAM).unwrap().len();
    assert!((length..length * 3 / 2).contains(&wire.carried()), "{}", wire.carried());
    assert_eq!(fs::read(&sshd.stored()[0]).unwrap(), fs::read(PROGRAM).unwrap());
}

#[tokio::test]
async fn busybox_is_enough() {
    let sshd = Sshd::like(Like {
        config: r#"ForceCommand exec busybox sh -c "$SSH_ORIGINAL_COMMAND""#.to_owned(),
        only: Some(&["sh", "busybox"]),
        ..Like::default()
    });
    for _ in 0..2 {
        look_once(&sshd.reach(), &sshd.options()).await.unwrap();
    }
    assert_eq!(fs::read(&sshd.stored()[0]).unwrap(), fs::read(PROGRAM).unwrap());
}

#[tokio::test]
async fn old_agents_are_cleaned_up() {
    let sshd = Sshd::plain();
    let folder = sshd.root().join("var/lib/lvsprov/agent");
    fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, age| {
        let file = fs::File::create(folder.join(name)).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(age)).unwrap();
    };
    for age in 1..6 {
        file(&format!("lvsprov-{age}"), age * 1000);
    }
    file(".new.abandon", 100_000);
    file(".new.working", 1);
    look_once(&sshd.reach(), &sshd.options()).await.unwrap();
    let names: Vec<String> = sshd
        .stored()
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    let is_ours = |name: &String| name.len() == "lvsprov-".len() + 64;
    assert_eq!(names.iter().filter(|n| is_ours(n)).count(), 1, "{names:?}");
    let others: Vec<&String> = names.iter().filter(|n| !is_ours(n)).collect();
    assert_eq!(others, [".new.working", "lvsprov-1", "lvsprov-2"]);
}

#[tokio::test]
async fn a_damaged_agent_on_the_host_is_sent_again() {
    let sshd = Sshd::plain();
    let length = fs::metadata(PROGRAM).unwrap().len();
    look_once(&sshd.reach(), &sshd.options()).await.unwrap();
    let path = sshd.stored().remove(0);
    let whole = fs::read(&path).unwrap();
    for damage in [&b""[..], &whole[..1000], b"#!/bin/sh\nyes\n", b"\0\0\0"] {
        until("the agent ends", || fs::write(&path, damage).ok());
        look_once(&sshd.reach(), &sshd.options()).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), length);
    }
    assert_eq!(sshd.stored().len(), 1);
}

#[tokio::test]
async fn an_agent_folder_of_somebody_else_is_refused() {
    let sshd = Sshd::plain();
    let folder = sshd.root().join("var/lib/lvsprov/agent");
    fs::create_dir_all(&folder).unwrap();
    std::os::unix::fs::chown(&folder, Some(65534), None).unwrap();
    let error = refused(&sshd.reach(), &sshd.options()).await;
    assert_trouble!(error, Trouble::UnsafeFolder { path } if path == "/var/lib/lvsprov/agent");
}

#[tokio::test]
async fn a_full_disk_is_said_so() {
    let sshd = Sshd::like(Like { room: Some("1m"), ..Like::default() });
    let error = refused(&sshd.reach(), &sshd.options()).await;
    let error = assert_trouble!(error, Trouble::AgentFailed { .. });
    assert!(error.said().contains("No space left"), "{error:?}");
    assert_eq!(sshd.stored(), Vec::<PathBuf>::new());
}

fn fake_id() -> (&'static str, String) {
    ("id", "#!/bin/sh\necho 1000\n".to_owned())
}

#[tokio::test]
async fn a_user_becomes_root_by_sudo() {
    let sudo = "#!/bin/sh\n[ \"$1 $2\" = '-n --' ] || exit 9\nshift 2\nexec \"$@\"\n".to_owned();
    let sshd = Sshd::like(Like { tools: vec![fake_id(), ("sudo", sudo)], ..Like::default() });
    for _ in 0..2 {
        look_once(&sshd.reach(), &sshd.options()).await.unwrap();
    }
    assert_eq!(sshd.stored().len(), 1);
}

#[tokio::test]
async fn a_user_who_cannot_become_root_is_told_why() {
    let cases: [(Option<&str>, fn(&Trouble) -> bool); 3] = [
        (None, |t| matches!(t, Trouble::NoSudo { uid: 1000 })),
        (Some("echo 'sudo: a password is required' >&2; exit 1"), |t| {
            matches!(t, Trouble::SudoPassword { uid: 1000 })
        }),
        (Some("echo 'web is not in the sudoers file.' >&2; exit 1"), |t| {
            matches!(t, Trouble::SudoRefused { uid: 1000 })
        }),
    ];
    for (sudo, wanted) in cases {
        let mut tools = vec![fake_id(), plain_sh()];
        tools.extend(sudo.map(|script| ("sudo", format!("#!/bin/sh\n{script}\n"))));
        let only = Some(&[][..]);
        let sshd = Sshd::like(Like { tools, only, ..Like::default() });
        let error = refused(&sshd.reach(), &sshd.options()).await;
        check_words(&error);
        assert!(wanted(error.trouble()), "{error:?}");
        assert_eq!(sshd.stored(), Vec::<PathBuf>::new());
    }
}

#[tokio::test]
async fn another_architecture_is_named_unless_a_build_lies_beside() {
    let uname = "#!/bin/sh\n[ \"$1\" = -s ] && echo Linux || echo riscv64\n".to_owned();
    let sshd = Sshd::like(Like { tools: vec![("uname", uname)], ..Like::default() });
    let error = refused(&sshd.reach(), &sshd.options()).await;
    let error = assert_trouble!(error, Trouble::WrongMachine { host, .. } if host == "riscv64");
    assert!(error.to_string().contains(std::env::consts::ARCH), "{error}");
    assert!(error.cure().unwrap().contains("lvsprov-riscv64"), "{error:?}");
    drop(sshd);

    // The other way round: our own program is for another machine, the host's lies beside.
    let sshd = Sshd::plain();
    let foreign = sshd.file("lvsprov");
    let mut bytes = fs::read(PROGRAM).unwrap();
    bytes[18..20].copy_from_slice(&243_u16.to_le_bytes());
    fs::write(&foreign, bytes).unwrap();
    let options = Options { agent_binary: Some(foreign), ..sshd.options() };
    let beside = sshd.file(&format!("lvsprov-{}", std::env::consts::ARCH));
    fs::copy(PROGRAM, &beside).unwrap();
    for _ in 0..2 {
        look_once(&sshd.reach(), &options).await.unwrap();
        assert_eq!(sshd.stored().len(), 1);
    }
}

#[tokio::test]
async fn what_is_not_linux_is_named() {
    let uname = "#!/bin/sh\n[ \"$1\" = -s ] && echo FreeBSD || echo amd64\n".to_owned();
    let sshd = Sshd::like(Like { tools: vec![("uname", uname)], ..Like::default() });
    let error = refused(&sshd.reach(), &sshd.options()).await;
    assert_trouble!(error, Trouble::NotLinux { system } if system == "FreeBSD");
}

#[tokio::test]
async fn a_host_whose_key_is_not_known_or_has_changed_is_refused() {
    let sshd = Sshd::plain();
    fs::write(sshd.file("known_hosts"), "").unwrap();
    let error = refused(&sshd.reach(), &sshd.options()).await;
    assert_trouble!(error, Trouble::UnknownHostKey);
    assert_eq!(fs::read_to_string(sshd.file("known_hosts")).unwrap(), "");
    sshd.know(&sshd.file("other_key.pub"));
    let error = refused(&sshd.reach(), &sshd.options()).await;
    let error = assert_trouble!(error, Trouble::ChangedHostKey);
    assert!(error.said().contains("HAS CHANGED"), "{error:?}");
    assert_eq!(sshd.logins(), 0);
}

#[tokio::test]
async fn a_refused_login_is_named() {
    let sshd = Sshd::plain();
    sshd.write_client_config("other_key", sshd.port);
    let error = refused(&sshd.reach(), &sshd.options()).await;
    let error = assert_trouble!(error, Trouble::LoginRefused);
    assert!(error.said().contains("Permission denied (publickey)"), "{error:?}");
    assert_eq!(sshd.masters(), Vec::<i32>::new());
}

#[tokio::test]
async fn where_no_host_answers_is_named_in_time() {
    let sshd = Sshd::plain();
    let options = Options { connect_timeout: Duration::from_secs(1), ..sshd.options() };
    let start = Instant::now();
    sshd.write_client_config("user_key", free_port());
    assert_trouble!(refused(&sshd.reach(), &options).await, Trouble::Refused);

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    sshd.write_client_config("user_key", silent.local_addr().unwrap().port());
    assert_trouble!(refused(&sshd.reach(), &options).await, Trouble::LoginTimeout { .. });

    // One that greets and then hangs: beyond what ssh's own ConnectTimeout covers.
    let polite = TcpListener::bind("127.0.0.1:0").unwrap();
    sshd.write_client_config("user_key", polite.local_addr().unwrap().port());
    let greeter = std::thread::spawn(move || {
        let (mut stream, _) = polite.accept().unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap();
        stream
    });
    assert_trouble!(refused(&sshd.reach(), &options).await, Trouble::LoginTimeout { .. });
    drop(greeter.join().unwrap());

    let closing = TcpListener::bind("127.0.0.1:0").unwrap();
    sshd.write_client_config("user_key", closing.local_addr().unwrap().port());
    std::thread::spawn(move || closing.incoming().for_each(drop));
    assert_trouble!(refused(&sshd.reach(), &options).await, Trouble::ClosedEarly);

    let nowhere = SshTarget { host: "x".repeat(70), user: None, port: None };
    assert_trouble!(refused(&Reach::Ssh(nowhere), &options).await, Trouble::Unresolved);

    fs::write(sshd.file("ssh_config"), "Nonsense yes\n").unwrap();
    assert_trouble!(refused(&sshd.reach(), &options).await, Trouble::SshConfig);
    assert!(start.elapsed() < Duration::from_secs(30));
    assert_eq!(sshd.masters(), Vec::<i32>::new());
}

#[tokio::test]
async fn a_host_that_looks_like_an_option_is_a_host() {
    let sshd = Sshd::plain();
    let proof = sshd.file("proof");
    let evil = format!("-oProxyCommand=touch {}", proof.display());
    let reach = Reach::Ssh(SshTarget { host: evil, user: None, port: None });
    refused(&reach, &sshd.options()).await;
    assert!(!proof.exists());
}

#[tokio::test]
async fn a_command_that_is_forced_into_something_else_is_told_apart() {
    let cases: [(&str, fn(&Trouble) -> bool); 4] = [
        (
            "exec yes hello",
            |t| matches!(t, Trouble::NotAnAgent { chatter } if chatter.contains("hello")),
        ),
        ("exec sleep 600", |t| matches!(t, Trouble::HelloTimeout { .. })),
        (
            "echo go away; exit 1",
            |t| matches!(t, Trouble::NoHello { how, chatter } if how == "exit status: 1" && chatter == "go away"),
        ),
        // An honest message that quotes the command must not be taken for the agent.
        (r#"echo "not allowed: $SSH_ORIGINAL_COMMAND""#, |t| matches!(t, Trouble::NoHello { .. })),
    ];
    for (command, wanted) in cases {
        let config = format!("ForceCommand {command}");
        let sshd = Sshd::like(Like { config, ..Like::default() });
        let options = Options { hello_timeout: Duration::from_secs(1), ..sshd.options() };
        let error = refused(&sshd.reach(), &options).await;
        check_words(&error);
        assert!(wanted(error.trouble()), "{command}: {error:?}");
    }
}

#[tokio::test]
async fn a_host_that_opens_no_session_is_named() {
    let config = "MaxSessions 0".to_owned();
    let sshd = Sshd::like(Like { config, ..Like::default() });
    let error = refused(&sshd.reach(), &sshd.options()).await;
    assert_trouble!(error, Trouble::NoSession { .. });
}

#[tokio::test]
async fn a_connection_that_is_cut_or_clogs_while_the_agent_is_sent() {
    for clogs in [false, true] {
        let sshd = Sshd::plain();
        let wire = Wire::to(sshd.port);
        sshd.write_client_config("user_key", wire.port);
        let options = Options { hello_timeout: Duration::from_secs(2), ..sshd.options() };
        wire.end(400_000, clogs);
        let start = Instant::now();
        let error = refused(&sshd.reach(), &options).await;
        assert!(start.elapsed() < Duration::from_secs(15));
        if clogs {
            assert_trouble!(error, Trouble::PushStalled { .. } | Trouble::HelloTimeout { .. });
        } else {
            assert_trouble!(error, Trouble::PushCut { .. });
        }
        wire.cut();
        until("nothing half is left", || sshd.stored().is_empty().then_some(()));
        wire.mend();
        look_once(&sshd.reach(), &sshd.options()).await.unwrap();
        assert_eq!(sshd.stored().len(), 1);
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_during_a_call() {
    let sshd = Sshd::plain();
    let wire = Wire::to(sshd.port);
    sshd.write_client_config("user_key", wire.port);
    let slow = Slow::new();
    let mut connection = Connection::open(&name(), &sshd.reach(), &sshd.options()).await.unwrap();
    seen(&mut connection).await;
    let cutter = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        wire.cut();
        wire
    });
    let start = Instant::now();
    let error = connection.call(slow.request(2_000)).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(15));
    assert_trouble!(error, Trouble::Cut { request: "fetch", .. });
    drop(connection);
    drop(cutter.join().unwrap());
    until("the agent ends", || sshd.running_agents().is_empty().then_some(()));
}

#[tokio::test]
async fn an_agent_that_is_killed_on_its_host_is_a_cut_connection() {
    let sshd = Sshd::plain();
    let mut connection = Connection::open(&name(), &sshd.reach(), &sshd.options()).await.unwrap();
    let agents = sshd.running_agents();
    assert_eq!(agents.len(), 1);
    kill(agents[0], Signal::SIGKILL);
    let error = connection.call(look()).await.unwrap_err();
    assert_trouble!(error, Trouble::Cut { request: "look", .. });
    // The ssh connection itself is well: the next command uses it.
    look_once(&sshd.reach(), &sshd.options()).await.unwrap();
    assert_eq!(sshd.logins(), 1);
}
