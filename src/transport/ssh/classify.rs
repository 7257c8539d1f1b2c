//! What the messages of ssh mean. OpenSSH's exit status is 255 for everything, its messages are stable
//! since version 7 and not translated. Pure.

use std::time::Duration;

use super::super::TransportErrorKind;

/// From the most specific to the least: behind a jump host ssh first says why the jump failed, then
/// that the connection was closed.
const WORDS: &[(&str, Meaning)] = &[
    ("Bad configuration option", Meaning::Config),
    ("bad configuration options", Meaning::Config),
    ("Bad owner or permissions on", Meaning::Config),
    ("Can't open user config file", Meaning::Config),
    ("Could not resolve hostname", Meaning::Unresolved),
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", Meaning::ChangedHostKey),
    ("HOST IDENTIFICATION HAS CHANGED", Meaning::ChangedHostKey),
    ("Host key verification failed", Meaning::UnknownHostKey),
    ("host key is known for", Meaning::UnknownHostKey),
    ("Connection refused", Meaning::Refused),
    ("No route to host", Meaning::NoRoute),
    ("Network is unreachable", Meaning::NoRoute),
    ("Host is down", Meaning::NoRoute),
    ("Connection timed out", Meaning::Timeout),
    ("Operation timed out", Meaning::Timeout),
    ("Permission denied (", Meaning::LoginRefused),
    ("Too many authentication failures", Meaning::LoginRefused),
    ("No supported authentication methods", Meaning::LoginRefused),
    ("kex_exchange_identification", Meaning::ClosedEarly),
    ("ssh_exchange_identification", Meaning::ClosedEarly),
    ("Connection closed by", Meaning::ClosedEarly),
    ("Connection reset by", Meaning::ClosedEarly),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Config,
    Unresolved,
    ChangedHostKey,
    UnknownHostKey,
    Refused,
    NoRoute,
    Timeout,
    LoginRefused,
    ClosedEarly,
}

/// The error that ssh's messages describe; `limit`: the time that it had for the login.
pub(super) fn login_error(stderr: &str, limit: Duration) -> TransportErrorKind {
    let meaning =
        WORDS.iter().find(|(words, _)| stderr.contains(words)).map(|(_, meaning)| *meaning);
    match meaning {
        Some(Meaning::Config) => TransportErrorKind::SshConfig,
        Some(Meaning::Unresolved) => TransportErrorKind::Unresolved,
        Some(Meaning::ChangedHostKey) => TransportErrorKind::ChangedHostKey,
        Some(Meaning::UnknownHostKey) => TransportErrorKind::UnknownHostKey,
        Some(Meaning::Refused) => TransportErrorKind::Refused,
        Some(Meaning::NoRoute) => TransportErrorKind::NoRoute,
        Some(Meaning::Timeout) => TransportErrorKind::LoginTimeout { limit },
        Some(Meaning::LoginRefused) => TransportErrorKind::LoginRefused,
        Some(Meaning::ClosedEarly) => TransportErrorKind::ClosedEarly,
        None => TransportErrorKind::Ssh,
    }
}

/// Whether sshd turned the connection away before its first message: with MaxStartups (10:30:100 by
/// default, sshd_config(5)) it does so at random when many log in at once, through a jump host say.
pub(super) fn was_turned_away(stderr: &str) -> bool {
    stderr.contains("exchange_identification")
        && (stderr.contains("Connection closed") || stderr.contains("Connection reset"))
}

/// The error that sudo's messages describe.
pub(super) fn sudo_error(stderr: &str, uid: u32) -> TransportErrorKind {
    if stderr.contains("a password is required") || stderr.contains("a terminal is required") {
        TransportErrorKind::SudoPassword { uid }
    } else {
        TransportErrorKind::SudoRefused { uid }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts as OpenSSH 9.2 prints them.
    #[test]
    fn each_message_has_its_error() {
        let limit = Duration::from_secs(3);
        let name = |stderr| format!("{:?}", login_error(stderr, limit));
        for (stderr, wanted) in [
            (
                "ssh: Could not resolve hostname nowhere.invalid: Name or service not known",
                "Unresolved",
            ),
            ("ssh: connect to host 127.0.0.1 port 9: Connection refused", "Refused"),
            ("ssh: connect to host 10.0.0.1 port 22: No route to host", "NoRoute"),
            ("ssh: connect to host 10.0.0.1 port 22: Network is unreachable", "NoRoute"),
            (
                "ssh: connect to host 10.0.0.1 port 22: Connection timed out",
                "LoginTimeout { limit: 3s }",
            ),
            (
                "Connection timed out during banner exchange\nConnection to 127.0.0.1 port 22 timed out",
                "LoginTimeout { limit: 3s }",
            ),
            ("root@10.0.0.1: Permission denied (publickey).", "LoginRefused"),
            ("Host key verification failed.", "UnknownHostKey"),
            (
                "No ED25519 host key is known for [127.0.0.1]:22 and you have requested strict checking.\nHost key verification failed.",
                "UnknownHostKey",
            ),
            (
                "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\nHost key verification failed.",
                "ChangedHostKey",
            ),
            (
                "kex_exchange_identification: Connection closed by remote host\nConnection closed by 127.0.0.1 port 22",
                "ClosedEarly",
            ),
            ("/root/.ssh/config: line 1: Bad configuration option: nonsense", "SshConfig"),
            (
                "ssh: connect to host jump port 22: Connection refused\nkex_exchange_identification: Connection closed by remote host",
                "Refused",
            ),
            ("something new", "Ssh"),
            ("", "Ssh"),
        ] {
            assert_eq!(name(stderr), wanted, "{stderr}");
        }
    }

    #[test]
    fn only_a_connection_that_was_turned_away_is_worth_another_try() {
        assert!(was_turned_away("kex_exchange_identification: read: Connection reset by peer"));
        assert!(!was_turned_away("Connection closed by 127.0.0.1 port 22"));
    }

    #[test]
    fn sudo_that_asks_differs_from_sudo_that_refuses() {
        assert!(matches!(
            sudo_error("sudo: a password is required", 1000),
            TransportErrorKind::SudoPassword { uid: 1000 }
        ));
        assert!(matches!(
            sudo_error("ops is not in the sudoers file.", 1000),
            TransportErrorKind::SudoRefused { uid: 1000 }
        ));
    }
}
