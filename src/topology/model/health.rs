//! Health checks of real servers: what is asked, how often, and by which way.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::finding::Position;
use crate::names::HostName;
use crate::state::Tunnel;

use super::{Forward, RealServer, Service, Topology};

/// One check, as it applies to one real server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub question: CheckQuestion,
    /// By which way it is asked.
    pub way: CheckWay,
    /// The port that is asked, 1-65535; `None`: the one that clients use, or the real server's own by [`CheckWay::Rip`].
    pub port: Option<u16>,
    /// Seconds from one question to the next, 2-3600.
    pub interval_s: u32,
    /// Seconds for one answer, 1-60, less than the interval.
    pub timeout_s: u32,
    /// Failures in a row after which the real server is out, 1-20.
    pub fall: u32,
    /// Its position in the file.
    pub at: Position,
}

impl Check {
    /// Default of `interval`, in seconds.
    pub const INTERVAL: u32 = 5;
    /// Default of `timeout`, in seconds.
    pub const TIMEOUT: u32 = 2;
    /// Default of `fall`.
    pub const FALL: u32 = 3;
}

/// By which way a check reaches the service on a real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckWay {
    /// As the packets of clients: to the VIP, forwarded by the service's method.
    Vip,
    /// To the RIP.
    Rip,
}

impl CheckWay {
    /// Every way.
    pub const ALL: [Self; 2] = [Self::Vip, Self::Rip];

    /// The word in a topology file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vip => "vip",
            Self::Rip => "rip",
        }
    }
}

/// What a check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckQuestion {
    /// Whether a TCP connection is accepted.
    Tcp,
    /// HTTP, or HTTPS.
    Http(HttpQuestion),
    /// DNS over UDP: any answer without an error is right.
    Dns {
        /// The name; `.`: the root.
        name: String,
        /// The type of record.
        record: DnsRecord,
    },
    /// A program on the director: exit status 0 is right.
    Script {
        /// Absolute path and arguments, with the words of [`SCRIPT_WORDS`] in braces. No shell reads it; root runs it.
        command: Vec<String>,
    },
}

impl CheckQuestion {
    /// The word in a topology file.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http(http) if http.tls => "https",
            Self::Http(_) => "http",
            Self::Dns { .. } => "dns",
            Self::Script { .. } => "script",
        }
    }

    /// Bytes of its longest free text.
    pub fn text_length(&self) -> usize {
        match self {
            Self::Http(HttpQuestion {
                body: Some(HttpBody::Text(text) | HttpBody::Regex(text)),
                ..
            }) => text.len(),
            Self::Script { command } => command.iter().map(String::len).sum(),
            Self::Tcp | Self::Http(_) | Self::Dns { .. } => 0,
        }
    }
}

/// What stands in braces in the command of a script for what differs between real servers.
pub const SCRIPT_WORDS: [&str; 5] = ["vip", "rip", "port", "mark", "source"];

/// A request of HTTP, and the answer that is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpQuestion {
    /// Over TLS. No certificate is checked.
    pub tls: bool,
    /// Path and query, with `/` at the beginning; only characters that are safe in a URL.
    pub path: String,
    /// The `Host` header, and the name for TLS (SNI); `None`: the address.
    pub host: Option<String>,
    /// Status codes that are right, as ranges within 100-599.
    pub status: Vec<(u16, u16)>,
    /// What the body has; `None`: anything.
    pub body: Option<HttpBody>,
}

/// What the body of an answer has somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpBody {
    /// This text.
    Text(String),
    /// What matches this regular expression (PCRE2).
    Regex(String),
}

macro_rules! dns_records {
    ($($variant:ident $name:literal),+ $(,)?) => {
        /// A type of record that keepalived can ask for (`check_dns.c`, `DNS_TYPE`).
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the names of DNS")]
        pub enum DnsRecord {
            $($variant),+
        }

        impl DnsRecord {
            /// Every type.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Its name in DNS.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }
    };
}

dns_records! { A "A", Ns "NS", Cname "CNAME", Soa "SOA", Mx "MX", Txt "TXT", Aaaa "AAAA" }

/// How much of a service must work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quorum {
    /// The least sum of weights of real servers that pass their checks; at least 1.
    pub weight: u32,
    /// Its position in the file.
    pub at: Position,
}

/// What a check through the VIP goes to: IPVS forwards what has a mark of its own to this real server only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckTarget {
    /// Whether the VIP is of IPv6.
    pub ipv6: bool,
    /// The real server.
    pub rip: IpAddr,
    /// Forwarding method; never one that rewrites.
    pub forward: Forward,
    /// Encapsulation.
    pub tunnel: Tunnel,
}

impl Topology {
    /// The directors of services with checks, sorted by name.
    pub fn checking_directors(&self) -> BTreeSet<&HostName> {
        let checked = self.services.iter().filter(|service| service.has_checks());
        checked.map(|service| &service.director).collect()
    }
}

impl Service {
    /// Whether any of its real servers has a check.
    pub fn has_checks(&self) -> bool {
        self.real_servers.iter().any(|real_server| real_server.check.is_some())
    }

    /// The real servers that take requests while the quorum is met.
    pub fn serving(&self) -> impl Iterator<Item = &RealServer> {
        self.real_servers.iter().filter(|real_server| !real_server.sorry)
    }

    /// The sorry server: it takes all requests while the quorum is not met.
    pub fn sorry_server(&self) -> Option<&RealServer> {
        self.real_servers.iter().find(|real_server| real_server.sorry)
    }

    /// Where the check of `real_server` goes, if it goes through the VIP by a mark. NAT and FULLNAT need none: clients'
    /// packets reach the RIP as the director's own do.
    pub fn check_target(&self, real_server: &RealServer) -> Option<CheckTarget> {
        let check = real_server.check.as_ref()?;
        let by_mark =
            check.way == CheckWay::Vip && self.vip.is_some() && !real_server.forward.rewrites();
        by_mark.then_some(CheckTarget {
            ipv6: self.ipv6,
            rip: real_server.rip,
            forward: real_server.forward,
            tunnel: real_server.tunnel,
        })
    }

    /// The port that the check of `real_server` asks; `None`: the service is for every port, and the check names none.
    pub fn check_port(&self, real_server: &RealServer) -> Option<u16> {
        let check = real_server.check.as_ref()?;
        let by_vip = self.check_target(real_server).is_some();
        let own = if by_vip || real_server.port == 0 { None } else { Some(real_server.port) };
        check.port.or(own).or_else(|| self.ports().first().copied())
    }
}
