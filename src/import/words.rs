//! Values with the same form in all sources: addresses, ports, masks, scheduler flags.

use std::net::{IpAddr, Ipv4Addr};

use crate::state::ServiceFlags;

/// The port of a service name: names in practical use with LVS, from IANA and the distributions'
/// /etc/services. The file itself is not read: the result of an import must not depend on the machine.
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

/// An address in the form of `inet_pton`. The short and octal forms of `inet_aton` are refused: other
/// programs read them differently.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

/// A persistence mask: dotted for IPv4, a prefix length for IPv6.
pub(super) fn mask(text: &str, ipv6: bool) -> Option<PersistenceMask> {
    if ipv6 {
        return number(text, 1, 128).map(|bits| PersistenceMask { value: bits, guessed: false });
    }
    if let Ok(mask) = text.parse::<Ipv4Addr>() {
        return Some(PersistenceMask { value: mask.into(), guessed: false });
    }
    let bits = number(text, 1, 32)?;
    Some(PersistenceMask { value: u32::MAX.checked_shl(32 - bits).unwrap_or(0), guessed: true })
}

/// A persistence mask as [`crate::state::VirtualService`] has it.
pub(super) struct PersistenceMask {
    pub value: u32,
    /// An IPv4 mask was written as a prefix length.
    pub guessed: bool,
}

/// The bit of a flag of `scheduler`.
pub(super) fn scheduler_flag(name: &str, scheduler: &str) -> Result<u32, FlagError> {
    let (bit, only) = match name {
        "flag-1" => (ServiceFlags::SCHEDULER_1, None),
        "flag-2" => (ServiceFlags::SCHEDULER_2, None),
        "flag-3" => (ServiceFlags::SCHEDULER_3, None),
        "sh-fallback" => (ServiceFlags::SCHEDULER_1, Some("sh")),
        "sh-port" => (ServiceFlags::SCHEDULER_2, Some("sh")),
        "mh-fallback" => (ServiceFlags::SCHEDULER_1, Some("mh")),
        "mh-port" => (ServiceFlags::SCHEDULER_2, Some("mh")),
        _ => return Err(FlagError::Unknown),
    };
    match only {
        Some(only) if only != scheduler => Err(FlagError::OnlyFor(only)),
        _ => Ok(bit),
    }
}

/// Why a scheduler flag is not valid.
pub(super) enum FlagError {
    /// Unknown name.
    Unknown,
    /// A flag of another scheduler.
    OnlyFor(&'static str),
}

impl FlagError {
    /// The reason, for a remark.
    pub fn why(&self, scheduler: &str) -> String {
        match self {
            Self::Unknown => {
                "it is not a scheduler flag; the flags are flag-1, flag-2, flag-3, sh-fallback, sh-port, \
                 mh-fallback and mh-port"
                    .to_owned()
            }
            Self::OnlyFor(only) => {
                format!("it is a flag of the scheduler {only}, but this service has {scheduler}")
            }
        }
    }
}

/// Whether the text is a possible scheduler name: `IP_VS_SCHEDNAME_MAXLEN` is 16 with its NUL.
pub(super) fn is_scheduler_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() < 16
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}
