//! Words that several sources share: addresses, ports, masks, scheduler flags.

use std::net::{IpAddr, Ipv4Addr};

use crate::state::ServiceFlags;

/// The port that a service name stands for: those that are served by LVS in practice, as IANA and
/// /etc/services of the distributions have them. The file itself is not read: what an import gives
/// must not depend on the machine it runs on.
pub(super) fn named_port(name: &str) -> Option<u16> {
    Some(match name {
        "ftp-data" => 20,
        "ftp" => 21,
        "ssh" => 22,
        "telnet" => 23,
        "smtp" | "mail" => 25,
        "domain" => 53,
        "bootps" => 67,
        "tftp" => 69,
        "http" | "www" => 80,
        "kerberos" | "kerberos5" => 88,
        "pop3" | "pop-3" => 110,
        "sunrpc" | "portmapper" => 111,
        "nntp" => 119,
        "ntp" => 123,
        "imap2" | "imap" => 143,
        "snmp" => 161,
        "ldap" => 389,
        "https" => 443,
        "microsoft-ds" => 445,
        "submissions" | "ssmtp" | "smtps" | "urd" => 465,
        "syslog" => 514,
        "submission" => 587,
        "ldaps" => 636,
        "domain-s" => 853,
        "imaps" => 993,
        "pop3s" => 995,
        "ms-sql-s" => 1433,
        "radius" => 1812,
        "radius-acct" => 1813,
        "nfs" => 2049,
        "iscsi-target" => 3260,
        "mysql" => 3306,
        "ms-wbt-server" => 3389,
        "sip" => 5060,
        "sip-tls" => 5061,
        "postgresql" | "postgres" => 5432,
        "amqp" => 5672,
        "redis" => 6379,
        "http-alt" | "webcache" => 8080,
        _ => return None,
    })
}

/// A port by number or name.
pub(super) fn port(text: &str) -> Option<u16> {
    number(text, 0, u16::MAX.into())
        .and_then(|n| u16::try_from(n).ok())
        .or_else(|| named_port(text))
}

/// A decimal number within a range. Unlike `str::parse` it takes no sign.
pub(super) fn number(text: &str, low: u32, high: u32) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|n| (low..=high).contains(n))
}

/// An address as `inet_aton` and `inet_pton` take it, without the short and octal forms of the former:
/// those read as something else to everybody but libc.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

/// A persistence mask: dotted, or a prefix length, as the family has it.
pub(super) fn mask(text: &str, ipv6: bool) -> Option<Mask> {
    if ipv6 {
        return number(text, 1, 128).map(|bits| Mask { value: bits, guessed: false });
    }
    if let Ok(mask) = text.parse::<Ipv4Addr>() {
        return Some(Mask { value: mask.into(), guessed: false });
    }
    let bits = number(text, 1, 32)?;
    Some(Mask { value: u32::MAX.checked_shl(32 - bits).unwrap_or(0), guessed: true })
}

/// A persistence mask as [`crate::state::VirtualService`] has it.
pub(super) struct Mask {
    pub value: u32,
    /// It was written as a prefix length where a dotted mask belongs.
    pub guessed: bool,
}

/// The bit of a scheduler flag, if `scheduler` has it.
pub(super) fn scheduler_flag(name: &str, scheduler: &str) -> Result<u32, FlagTrouble> {
    let (bit, only) = match name {
        "flag-1" => (ServiceFlags::SCHEDULER_1, None),
        "flag-2" => (ServiceFlags::SCHEDULER_2, None),
        "flag-3" => (ServiceFlags::SCHEDULER_3, None),
        "sh-fallback" => (ServiceFlags::SCHEDULER_1, Some("sh")),
        "sh-port" => (ServiceFlags::SCHEDULER_2, Some("sh")),
        "mh-fallback" => (ServiceFlags::SCHEDULER_1, Some("mh")),
        "mh-port" => (ServiceFlags::SCHEDULER_2, Some("mh")),
        _ => return Err(FlagTrouble::Unknown),
    };
    match only {
        Some(only) if only != scheduler => Err(FlagTrouble::OnlyFor(only)),
        _ => Ok(bit),
    }
}

/// Why a scheduler flag is none.
pub(super) enum FlagTrouble {
    /// There is none of this name.
    Unknown,
    /// It is another scheduler's.
    OnlyFor(&'static str),
}

impl FlagTrouble {
    /// For a person.
    pub fn why(&self, scheduler: &str) -> String {
        match self {
            Self::Unknown => {
                "it is no scheduler flag: flag-1, flag-2, flag-3, sh-fallback, sh-port, \
                 mh-fallback and mh-port are"
                    .to_owned()
            }
            Self::OnlyFor(only) => {
                format!("it is a flag of the scheduler {only}, and this service has {scheduler}")
            }
        }
    }
}

/// Whether the text can be a scheduler's name: `IP_VS_SCHEDNAME_MAXLEN` is 16 with its NUL.
pub(super) fn is_scheduler_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() < 16
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}
