//! Over ssh, as it should go: the agent is sent once, the connection is kept, whatever the host is like.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::time::Duration;

use lvsprov::state::Controller;
use lvsprov::transport::{Options, TransportErrorKind};
use nix::sys::signal::Signal;
use sha2::{Digest as _, Sha256};

use super::sshd::{Like, PROGRAM, Sshd, kill, until};
use super::wire::Wire;
use super::{Expected, assert_kind, check_words, look_once, refused};
use crate::support::cases::{Case, async_cases};

pub fn cases() -> Vec<Case> {
    async_cases![
        ssh_sends_the_agent_once_and_keeps_the_connection,
        a_connection_that_is_not_kept_ends_with_its_agent,
        a_kept_connection_ends_by_itself,
        a_dead_or_hanging_kept_connection_is_replaced,
        many_connections_at_once_share_one_host,
        chatter_of_the_login_shell_is_skipped,
        a_host_without_gzip_and_sha256sum_gets_the_plain_bytes,
        busybox_is_enough,
        old_agents_are_cleaned_up,
        agents_of_a_clock_that_was_ahead_are_cleaned_up_and_not_ours,
        what_another_controller_has_just_moved_into_place_is_not_made_again,
        a_damaged_agent_on_the_host_is_sent_again,
        an_agent_is_flushed_before_it_gets_its_name_and_the_name_after_it,
        an_agent_that_does_not_start_is_sent_once_and_the_reason_is_named,
        an_agent_folder_of_somebody_else_is_refused,
        a_full_disk_is_said_so,
        a_user_becomes_root_by_sudo_and_the_host_knows_from_where,
        the_real_sudo_hides_the_controller_from_nobody,
        a_user_who_cannot_become_root_is_told_why,
        another_architecture_is_named_unless_a_build_lies_beside,
        what_is_not_linux_is_named
    ]
}

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

async fn a_kept_connection_ends_by_itself() {
    let sshd = Sshd::plain();
    let options = Options { keep: Duration::from_secs(1), ..sshd.options() };
    look_once(&sshd.reach(), &options).await.unwrap();
    until("the master ends", || sshd.masters().is_empty().then_some(()));
}

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
    let options = Options {
        hello_timeout: crate::support::speed::scaled(Duration::from_secs(2)),
        ..sshd.options()
    };
    look_once(&sshd.reach(), &options).await.unwrap();
    assert_eq!(sshd.logins(), 3);
    kill(master, Signal::SIGKILL);
}

async fn many_connections_at_once_share_one_host() {
    let sshd = Sshd::plain();
    let (reach, options) = (sshd.reach(), sshd.options());
    let many = (0..6).map(|_| look_once(&reach, &options));
    for one in futures_util::future::join_all(many).await {
        one.unwrap();
    }
    assert_eq!(sshd.stored().len(), 1, "{:?}", sshd.stored());
    assert_eq!(sshd.sockets().len(), 1, "{:?}", sshd.sockets());
}

async fn chatter_of_the_login_shell_is_skipped() {
    let sshd = Sshd::like(&Like {
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

async fn a_host_without_gzip_and_sha256sum_gets_the_plain_bytes() {
    let sshd = Sshd::like(&Like {
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

async fn busybox_is_enough() {
    let sshd = Sshd::like(&Like {
        config: r#"ForceCommand exec busybox sh -c "$SSH_ORIGINAL_COMMAND""#.to_owned(),
        only: Some(&["sh", "busybox"]),
        ..Like::default()
    });
    for _ in 0..2 {
        look_once(&sshd.reach(), &sshd.options()).await.unwrap();
    }
    assert_eq!(fs::read(&sshd.stored()[0]).unwrap(), fs::read(PROGRAM).unwrap());
}

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

/// A clock that was ahead (a dead battery, a host that came up before its time was set) leaves files of
/// years to come: they are newer than whatever is sent now, and stay so.
async fn agents_of_a_clock_that_was_ahead_are_cleaned_up_and_not_ours() {
    let sshd = Sshd::plain();
    let folder = sshd.root().join("var/lib/lvsprov/agent");
    fs::create_dir_all(&folder).unwrap();
    let ahead = std::time::SystemTime::now() + Duration::from_hours(5 * 365 * 24);
    let file = |name: &str, seconds| {
        let file = fs::File::create(folder.join(name)).unwrap();
        file.set_modified(ahead + Duration::from_secs(seconds)).unwrap();
    };
    for nth in 0..5 {
        file(&format!("lvsprov-{nth}"), nth);
    }
    file(".new.abandon", 0);
    look_once(&sshd.reach(), &sshd.options()).await.unwrap();
    let ours = |path: &&PathBuf| path.file_name().unwrap().len() == "lvsprov-".len() + 64;
    let stored = sshd.stored();
    let first = fs::metadata(stored.iter().find(ours).unwrap()).unwrap();
    // Ours, two others, and what may be just on its way, as of today from now on.
    assert_eq!(stored.len(), 4, "{stored:?}");
    for path in &stored {
        assert!(fs::metadata(path).unwrap().modified().unwrap() < ahead, "{}", path.display());
    }
    look_once(&sshd.reach(), &sshd.options()).await.unwrap();
    let second = fs::metadata(sshd.stored().iter().find(ours).unwrap()).unwrap();
    assert_eq!(first.ino(), second.ino(), "it was sent again");
}

/// Its file is found under the name of the transfer, and has another one before it is touched.
async fn what_another_controller_has_just_moved_into_place_is_not_made_again() {
    let moved =
        "#!/bin/sh\nrm -f /var/lib/lvsprov/agent/.new.*\nexec /usr/bin/touch \"$@\"\n".to_owned();
    let sshd = Sshd::like(&Like { tools: vec![("touch", moved)], ..Like::default() });
    let folder = sshd.root().join("var/lib/lvsprov/agent");
    fs::create_dir_all(&folder).unwrap();
    let other = fs::File::create(folder.join(".new.others")).unwrap();
    other.set_modified(std::time::SystemTime::now() + Duration::from_hours(1)).unwrap();
    look_once(&sshd.reach(), &sshd.options()).await.unwrap();
    assert_eq!(sshd.stored().len(), 1, "{:?}", sshd.stored());
}

async fn a_damaged_agent_on_the_host_is_sent_again() {
    let sshd = Sshd::plain();
    let whole = fs::read(PROGRAM).unwrap();
    look_once(&sshd.reach(), &sshd.options()).await.unwrap();
    let path = sshd.stored().remove(0);
    // The last one would start and do who knows what.
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for damage in [&b""[..], &whole[..1000], b"#!/bin/sh\nyes\n", b"\0\0\0", &flipped] {
        // Twice: what was found whole is not read again until it has changed.
        look_once(&sshd.reach(), &sshd.options()).await.unwrap();
        until("the agent ends", || fs::write(&path, damage).ok());
        look_once(&sshd.reach(), &sshd.options()).await.unwrap();
        assert!(fs::read(&path).unwrap() == whole, "not the agent after {} bytes", damage.len());
    }
    assert_eq!(sshd.stored().len(), 1);
}

async fn an_agent_is_flushed_before_it_gets_its_name_and_the_name_after_it() {
    let note =
        "#!/bin/sh\necho \"$1\" >>\"${0%/bin/*}/synced\"\nexec /bin/sync \"$@\"\n".to_owned();
    let sshd = Sshd::like(&Like { tools: vec![("sync", note)], ..Like::default() });
    look_once(&sshd.reach(), &sshd.options()).await.unwrap();
    let synced = fs::read_to_string(sshd.file("synced")).unwrap();
    let paths: Vec<&str> = synced.lines().collect();
    assert_eq!(paths.len(), 2, "{synced}");
    assert!(paths[0].starts_with("/var/lib/lvsprov/agent/.new."), "{synced}");
    assert_eq!(paths[1], "/var/lib/lvsprov/agent");
}

/// One that is whole and cannot be started is not sent again and again, and it is said why it does not start.
async fn an_agent_that_does_not_start_is_sent_once_and_the_reason_is_named() {
    let sshd = Sshd::like(&Like { room: Some("512m,noexec"), ..Like::default() });
    let wire = Wire::to(sshd.port);
    sshd.write_client_config("user_key", wire.port);
    let mut carried = Vec::new();
    for _ in 0..3 {
        let error = refused(&sshd.reach(), &sshd.options()).await;
        let error = assert_kind!(error, TransportErrorKind::NotStarted { how, .. } if how == "exit status: 126");
        assert!(error.stderr().contains("Permission denied"), "{error:?}");
        assert!(error.cure().unwrap().contains("noexec"), "{error:?}");
        carried.push(wire.carried());
    }
    assert!(carried[0] > 500_000, "{carried:?}");
    assert!(carried[2] - carried[0] < 50_000, "{carried:?}");
}

async fn an_agent_folder_of_somebody_else_is_refused() {
    let sshd = Sshd::plain();
    let folder = sshd.root().join("var/lib/lvsprov/agent");
    fs::create_dir_all(&folder).unwrap();
    std::os::unix::fs::chown(&folder, Some(65534), None).unwrap();
    let error = refused(&sshd.reach(), &sshd.options()).await;
    assert_kind!(error, TransportErrorKind::UnsafeFolder { path } if path == "/var/lib/lvsprov/agent");
}

async fn a_full_disk_is_said_so() {
    let sshd = Sshd::like(&Like { room: Some("1m"), ..Like::default() });
    let error = refused(&sshd.reach(), &sshd.options()).await;
    let error = assert_kind!(error, TransportErrorKind::NotStored { .. });
    assert!(error.stderr().contains("No space left"), "{error:?}");
    assert_eq!(sshd.stored(), Vec::<PathBuf>::new());
}

fn fake_id() -> (&'static str, String) {
    ("id", "#!/bin/sh\necho 1000\n".to_owned())
}

/// From where the tests log in.
fn here() -> Controller {
    Controller::Address("127.0.0.1".parse().unwrap())
}

async fn a_user_becomes_root_by_sudo_and_the_host_knows_from_where() {
    let sudo = "#!/bin/sh\n[ \"$1 $2\" = '-n --' ] || exit 9\nshift 2\n\
                exec env -i PATH=\"$PATH\" \"$@\"\n"
        .to_owned();
    let sshd = Sshd::like(&Like { tools: vec![fake_id(), ("sudo", sudo)], ..Like::default() });
    for _ in 0..2 {
        let seen = look_once(&sshd.reach(), &sshd.options()).await.unwrap();
        assert_eq!(seen.facts.controller, here());
    }
    assert_eq!(sshd.stored().len(), 1);
}

/// The real sudo, as Debian ships it: it keeps nothing of the environment.
async fn the_real_sudo_hides_the_controller_from_nobody() {
    let sshd = Sshd::like(&Like { user: Some("operator"), ..Like::default() });
    for _ in 0..2 {
        let seen = look_once(&sshd.reach(), &sshd.options()).await.unwrap();
        assert_eq!(seen.facts.controller, here());
    }
    assert_eq!(sshd.stored().len(), 1);
}

async fn a_user_who_cannot_become_root_is_told_why() {
    let cases: [(Option<&str>, Expected); 3] = [
        (None, |t| matches!(t, TransportErrorKind::NoSudo { uid: 1000 })),
        (Some("echo 'sudo: a password is required' >&2; exit 1"), |t| {
            matches!(t, TransportErrorKind::SudoPassword { uid: 1000 })
        }),
        (Some("echo 'web is not in the sudoers file.' >&2; exit 1"), |t| {
            matches!(t, TransportErrorKind::SudoRefused { uid: 1000 })
        }),
    ];
    for (sudo, wanted) in cases {
        let mut tools = vec![fake_id(), plain_sh()];
        tools.extend(sudo.map(|script| ("sudo", format!("#!/bin/sh\n{script}\n"))));
        let only = Some(&[][..]);
        let sshd = Sshd::like(&Like { tools, only, ..Like::default() });
        let error = refused(&sshd.reach(), &sshd.options()).await;
        check_words(&error);
        assert!(wanted(error.kind()), "{error:?}");
        assert_eq!(sshd.stored(), Vec::<PathBuf>::new());
    }
}

async fn another_architecture_is_named_unless_a_build_lies_beside() {
    let uname = "#!/bin/sh\n[ \"$1\" = -s ] && echo Linux || echo riscv64\n".to_owned();
    let sshd = Sshd::like(&Like { tools: vec![("uname", uname)], ..Like::default() });
    let error = refused(&sshd.reach(), &sshd.options()).await;
    let error =
        assert_kind!(error, TransportErrorKind::WrongMachine { host, .. } if host == "riscv64");
    assert!(error.to_string().contains(std::env::consts::ARCH), "{error}");
    assert!(error.cure().unwrap().contains("lvsprov-riscv64"), "{error:?}");

    // Its disk comes from another machine, where the agent had been sent already.
    let folder = sshd.root().join("var/lib/lvsprov/agent");
    fs::create_dir_all(&folder).unwrap();
    let program = fs::read(PROGRAM).unwrap();
    let bytes = Sha256::digest(&program);
    let digest = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    let path = folder.join(format!("lvsprov-{digest}"));
    fs::write(&path, program).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let error = refused(&sshd.reach(), &sshd.options()).await;
    assert_kind!(error, TransportErrorKind::WrongMachine { host, .. } if host == "riscv64");
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

async fn what_is_not_linux_is_named() {
    let uname = "#!/bin/sh\n[ \"$1\" = -s ] && echo FreeBSD || echo amd64\n".to_owned();
    let sshd = Sshd::like(&Like { tools: vec![("uname", uname)], ..Like::default() });
    let error = refused(&sshd.reach(), &sshd.options()).await;
    assert_kind!(error, TransportErrorKind::NotLinux { system } if system == "FreeBSD");
}
