//! What ssh's own words mean. OpenSSH's exit status is 255 for everything, its messages are stable
//! since version 7 and not translated. Pure.

use std::time::Duration;

use super::super::Trouble;

/// From the most telling to the least: behind a jump host ssh first says why the jump failed, then
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

/// The trouble behind what ssh said before it gave up; `limit` is what it had for the login.
pub(super) fn trouble(said: &str, limit: Duration) -> Trouble {
    let meaning = WORDS.iter().find(|(words, _)| said.contains(words)).map(|(_, meaning)| *meaning);
    match meaning {
        Some(Meaning::Config) => Trouble::SshConfig,
        Some(Meaning::Unresolved) => Trouble::Unresolved,
        Some(Meaning::ChangedHostKey) => Trouble::ChangedHostKey,
        Some(Meaning::UnknownHostKey) => Trouble::UnknownHostKey,
        Some(Meaning::Refused) => Trouble::Refused,
        Some(Meaning::NoRoute) => Trouble::NoRoute,
        Some(Meaning::Timeout) => Trouble::LoginTimeout { limit },
        Some(Meaning::LoginRefused) => Trouble::LoginRefused,
        Some(Meaning::ClosedEarly) => Trouble::ClosedEarly,
        None => Trouble::Ssh,
    }
}

/// Whether sshd turned the connection away before it said anything: with MaxStartups (10:30:100 by
/// default, sshd_config(5)) it does so at random when many log in at once, through a jump host say.
pub(super) fn was_turned_away(said: &str) -> bool {
    said.contains("exchange_identification")
        && (said.contains("Connection closed") || said.contains("Connection reset"))
}

/// What sudo's refusal means.
pub(super) fn sudo_trouble(said: &str, uid: u32) -> Trouble {
    if said.contains("a password is required") || said.contains("a terminal is required") {
        Trouble::SudoPassword { uid }
    } else {
        Trouble::SudoRefused { uid }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts as OpenSSH 9.2 prints them.
    #[test]
    fn each_message_has_its_trouble() {
        let limit = Duration::from_secs(3);
        let name = |said| format!("{:?}", trouble(said, limit));
        for (said, wanted) in [
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
            assert_eq!(name(said), wanted, "{said}");
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
            sudo_trouble("sudo: a password is required", 1000),
            Trouble::SudoPassword { uid: 1000 }
        ));
        assert!(matches!(
            sudo_trouble("ops is not in the sudoers file.", 1000),
            Trouble::SudoRefused { uid: 1000 }
        ));
    }
}
