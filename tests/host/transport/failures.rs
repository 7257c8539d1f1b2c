//! Over ssh, as it should not go: each trouble is told apart, in bounded time.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use lvsprov::topology::{Reach, SshTarget};
use lvsprov::transport::{Connection, Options, TransportErrorKind};
use nix::sys::signal::Signal;

use super::sshd::{Like, Sshd, free_port, kill, until};
use super::wire::Wire;
use super::{Expected, Slow, assert_kind, check_words, look, look_once, name, refused, seen};
use crate::support::cases::{Case, async_cases};
use crate::support::speed;

pub fn cases() -> Vec<Case> {
    async_cases![
        a_host_whose_key_is_not_known_or_has_changed_is_refused,
        a_refused_login_is_named,
        where_no_host_answers_is_named_in_time,
        a_host_that_looks_like_an_option_is_a_host,
        a_command_that_is_forced_into_something_else_is_told_apart,
        a_host_that_opens_no_session_is_named,
        a_connection_that_is_cut_or_clogs_while_the_agent_is_sent,
        a_connection_that_is_cut_during_a_call,
        an_agent_that_is_killed_on_its_host_is_a_cut_connection,
        a_connection_that_was_turned_away_is_tried_again
    ]
}

async fn a_host_whose_key_is_not_known_or_has_changed_is_refused() {
    let sshd = Sshd::plain();
    fs::write(sshd.file("known_hosts"), "").unwrap();
    let error = refused(&sshd.reach(), &sshd.options()).await;
    assert_kind!(error, TransportErrorKind::UnknownHostKey);
    assert_eq!(fs::read_to_string(sshd.file("known_hosts")).unwrap(), "");
    sshd.know(&sshd.file("other_key.pub"));
    let error = refused(&sshd.reach(), &sshd.options()).await;
    let error = assert_kind!(error, TransportErrorKind::ChangedHostKey);
    assert!(error.stderr().contains("HAS CHANGED"), "{error:?}");
    assert_eq!(sshd.logins(), 0);
}

async fn a_refused_login_is_named() {
    let sshd = Sshd::plain();
    sshd.write_client_config("other_key", sshd.port);
    let error = refused(&sshd.reach(), &sshd.options()).await;
    let error = assert_kind!(error, TransportErrorKind::LoginRefused);
    assert!(error.stderr().contains("Permission denied (publickey)"), "{error:?}");
    assert_eq!(sshd.masters(), Vec::<i32>::new());
}

async fn where_no_host_answers_is_named_in_time() {
    let sshd = Sshd::plain();
    let options =
        Options { connect_timeout: speed::scaled(Duration::from_secs(1)), ..sshd.options() };
    let start = Instant::now();
    sshd.write_client_config("user_key", free_port());
    assert_kind!(refused(&sshd.reach(), &options).await, TransportErrorKind::Refused);

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    sshd.write_client_config("user_key", silent.local_addr().unwrap().port());
    assert_kind!(refused(&sshd.reach(), &options).await, TransportErrorKind::LoginTimeout { .. });

    // One that greets and then hangs: beyond what ssh's own ConnectTimeout covers.
    let polite = TcpListener::bind("127.0.0.1:0").unwrap();
    sshd.write_client_config("user_key", polite.local_addr().unwrap().port());
    let greeter = std::thread::spawn(move || {
        let (mut stream, _) = polite.accept().unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap();
        stream
    });
    assert_kind!(refused(&sshd.reach(), &options).await, TransportErrorKind::LoginTimeout { .. });
    drop(greeter.join().unwrap());

    let closing = TcpListener::bind("127.0.0.1:0").unwrap();
    sshd.write_client_config("user_key", closing.local_addr().unwrap().port());
    std::thread::spawn(move || closing.incoming().for_each(drop));
    assert_kind!(refused(&sshd.reach(), &options).await, TransportErrorKind::ClosedEarly);

    let nowhere = SshTarget { host: "x".repeat(70), user: None, port: None };
    assert_kind!(refused(&Reach::Ssh(nowhere), &options).await, TransportErrorKind::Unresolved);

    fs::write(sshd.file("ssh_config"), "Nonsense yes\n").unwrap();
    assert_kind!(refused(&sshd.reach(), &options).await, TransportErrorKind::SshConfig);
    assert!(start.elapsed() < speed::patience());
    assert_eq!(sshd.masters(), Vec::<i32>::new());
}

async fn a_host_that_looks_like_an_option_is_a_host() {
    let sshd = Sshd::plain();
    let proof = sshd.file("proof");
    let evil = format!("-oProxyCommand=touch {}", proof.display());
    let reach = Reach::Ssh(SshTarget { host: evil, user: None, port: None });
    refused(&reach, &sshd.options()).await;
    assert!(!proof.exists());
}

async fn a_command_that_is_forced_into_something_else_is_told_apart() {
    let cases: [(&str, Expected); 4] = [
        (
            "exec yes hello",
            |t| matches!(t, TransportErrorKind::NotAnAgent { chatter } if chatter.contains("hello")),
        ),
        ("exec sleep 600", |t| matches!(t, TransportErrorKind::HelloTimeout { .. })),
        (
            "echo go away; exit 1",
            |t| matches!(t, TransportErrorKind::NoHello { how, chatter } if how == "exit status: 1" && chatter == "go away"),
        ),
        // An honest message that quotes the command must not be taken for the agent.
        (r#"echo "not allowed: $SSH_ORIGINAL_COMMAND""#, |t| {
            matches!(t, TransportErrorKind::NoHello { .. })
        }),
    ];
    for (command, wanted) in cases {
        let config = format!("ForceCommand {command}");
        let sshd = Sshd::like(&Like { config, ..Like::default() });
        let options =
            Options { hello_timeout: speed::scaled(Duration::from_secs(1)), ..sshd.options() };
        let error = refused(&sshd.reach(), &options).await;
        check_words(&error);
        assert!(wanted(error.kind()), "{command}: {error:?}");
    }
}

async fn a_host_that_opens_no_session_is_named() {
    let config = "MaxSessions 0".to_owned();
    let sshd = Sshd::like(&Like { config, ..Like::default() });
    let error = refused(&sshd.reach(), &sshd.options()).await;
    assert_kind!(error, TransportErrorKind::NoSession { .. });
}

async fn a_connection_that_is_cut_or_clogs_while_the_agent_is_sent() {
    for clogs in [false, true] {
        let sshd = Sshd::plain();
        let wire = Wire::to(sshd.port);
        sshd.write_client_config("user_key", wire.port);
        let options =
            Options { hello_timeout: speed::scaled(Duration::from_secs(2)), ..sshd.options() };
        wire.end(400_000, clogs);
        let start = Instant::now();
        let error = refused(&sshd.reach(), &options).await;
        assert!(start.elapsed() < speed::patience());
        if clogs {
            assert_kind!(
                error,
                TransportErrorKind::PushStalled { .. } | TransportErrorKind::HelloTimeout { .. }
            );
        } else {
            assert_kind!(error, TransportErrorKind::PushCut { .. });
        }
        wire.cut();
        until("nothing half is left", || sshd.stored().is_empty().then_some(()));
        wire.mend();
        look_once(&sshd.reach(), &sshd.options()).await.unwrap();
        assert_eq!(sshd.stored().len(), 1);
    }
}

async fn a_connection_that_is_cut_during_a_call() {
    let sshd = Sshd::plain();
    let wire = Wire::to(sshd.port);
    sshd.write_client_config("user_key", wire.port);
    let slow = Slow::new();
    let mut connection = Connection::open(&name(), &sshd.reach(), &sshd.options()).await.unwrap();
    seen(&mut connection).await;
    let listener = slow.listener.try_clone().unwrap();
    let cutter = std::thread::spawn(move || {
        // It is in the midst of it.
        let taken = listener.accept();
        wire.cut();
        (wire, taken)
    });
    let start = Instant::now();
    let error = connection.call(slow.request(speed::millis(2000))).await.unwrap_err();
    assert!(start.elapsed() < speed::patience());
    assert_kind!(error, TransportErrorKind::Cut { request: "fetch", .. });
    drop(connection);
    drop(cutter.join().unwrap());
    until("the agent ends", || sshd.running_agents().is_empty().then_some(()));
}

async fn an_agent_that_is_killed_on_its_host_is_a_cut_connection() {
    let sshd = Sshd::plain();
    let mut connection = Connection::open(&name(), &sshd.reach(), &sshd.options()).await.unwrap();
    let agents = sshd.running_agents();
    assert_eq!(agents.len(), 1);
    kill(agents[0], Signal::SIGKILL);
    let error = connection.call(look()).await.unwrap_err();
    assert_kind!(error, TransportErrorKind::Cut { request: "observe", .. });
    // The ssh connection itself is well: the next command uses it.
    look_once(&sshd.reach(), &sshd.options()).await.unwrap();
    assert_eq!(sshd.logins(), 1);
}

async fn a_connection_that_was_turned_away_is_tried_again() {
    let sshd = Sshd::plain();
    let wire = Wire::to(sshd.port);
    sshd.write_client_config("user_key", wire.port);
    wire.turn_away(2);
    look_once(&sshd.reach(), &sshd.options()).await.unwrap();
    assert_eq!(sshd.logins(), 1);
}
