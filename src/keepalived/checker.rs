//! One check as keepalived's block: TCP_CHECK, HTTP_GET, SSL_GET, DNS_CHECK, MISC_CHECK.
//!
//! keepalived waits `delay_loop` from the end of a question to the next, and `delay_before_retry` after a failure while it
//! still counts the real server as good (check_tcp.c, `tcp_epilog`). The latter is the interval less the timeout: the next
//! question begins an interval after one that was never answered, and a real server is out within `fall` times the interval
//! and one timeout. Scripts are counted from their start (check_misc.c, `misc_check_child_thread`).

use serde::Serialize;

use super::quote::{command_line, literal, quoted};
use crate::desired::CheckAims;
use crate::topology::{
    Check, CheckQuestion, CheckWay, HttpBody, HttpQuestion, RealServer, Service,
};

/// A block of one check.
#[derive(Debug, Serialize)]
pub(super) struct Checker {
    /// Its keyword.
    kind: &'static str,
    lines: Vec<String>,
    /// The lines of its block `url`; empty: it has none.
    url: Vec<String>,
}

impl Checker {
    /// Whether keepalived starts a program for it.
    pub(super) fn is_script(&self) -> bool {
        self.kind == "MISC_CHECK"
    }
}

/// The check of `rs`, if it has one that keepalived can carry out.
pub(super) fn of(aims: &CheckAims<'_>, service: &Service, rs: &RealServer) -> Option<Checker> {
    let check = rs.check.as_ref()?;
    let aim = CheckAddress {
        vip: service.vip_address().map(|vip| vip.to_string()),
        source: aims.source(service, rs).map(|(source, _)| source.to_string()),
        mark: aims.mark(service, rs),
        port: service.check_port(rs),
    };
    let (kind, own, url) = match &check.question {
        CheckQuestion::Tcp => ("TCP_CHECK", Vec::new(), Vec::new()),
        CheckQuestion::Http(http) => {
            let sni = (http.tls && http.host.is_some()).then(|| "enable_sni".to_owned());
            // Else a real server comes back an interval later: after a failure two answers count (check_http.c, `epilog`).
            let own = std::iter::once("fast_recovery".to_owned()).chain(sni).collect();
            (if http.tls { "SSL_GET" } else { "HTTP_GET" }, own, url(http))
        }
        CheckQuestion::Dns { name, record } => {
            let own = vec![format!("type {}", record.as_str()), format!("name {name}")];
            ("DNS_CHECK", own, Vec::new())
        }
        CheckQuestion::Script { command } => {
            let words: Vec<String> = command.iter().map(|word| aim.fill_in(word, rs)).collect();
            let own = vec![
                format!("misc_path {}", command_line(&words)),
                format!("misc_timeout {}", check.timeout_s),
                // `keepalived -t` of 2.2.7 kills itself where the user is another than its own (lib/notify.c).
                "user root".to_owned(),
            ];
            ("MISC_CHECK", own, Vec::new())
        }
    };
    let is_script = matches!(check.question, CheckQuestion::Script { .. });
    let mut lines = if is_script { Vec::new() } else { aim.lines(check) };
    lines.extend(times(check, is_script));
    lines.extend(own);
    Some(Checker { kind, lines, url })
}

fn times(check: &Check, is_script: bool) -> [String; 3] {
    let retry = if is_script { check.interval_s } else { check.interval_s - check.timeout_s };
    [
        format!("delay_loop {}", check.interval_s),
        format!("retry {}", check.fall - 1),
        format!("delay_before_retry {retry}"),
    ]
}

fn url(http: &HttpQuestion) -> Vec<String> {
    let mut lines = vec![format!("path {}", http.path)];
    let codes: Vec<String> = http
        .status
        .iter()
        .map(
            |(first, last)| {
                if first == last { first.to_string() } else { format!("{first}-{last}") }
            },
        )
        .collect();
    lines.push(format!("status_code {}", codes.join(" ")));
    lines.extend(http.host.as_ref().map(|host| format!("virtualhost {host}")));
    lines.extend(http.body.as_ref().map(|body| match body {
        HttpBody::Text(text) => format!("regex {}", quoted(&literal(text))),
        HttpBody::Regex(regex) => format!("regex {}", quoted(regex)),
    }));
    lines
}

/// Where a check goes.
struct CheckAddress {
    vip: Option<String>,
    source: Option<String>,
    /// `None`: to the RIP.
    mark: Option<u32>,
    port: Option<u16>,
}

impl CheckAddress {
    fn lines(&self, check: &Check) -> Vec<String> {
        let mut lines = Vec::new();
        if let (Some(mark), CheckWay::Vip) = (self.mark, check.way) {
            lines.extend(self.vip.as_ref().map(|vip| format!("connect_ip {vip}")));
            lines.extend(self.source.as_ref().map(|source| format!("bindto {source}")));
            lines.push(format!("fwmark {mark}"));
        }
        lines.extend(self.port.map(|port| format!("connect_port {port}")));
        lines.push(format!("connect_timeout {}", check.timeout_s));
        lines
    }

    /// What stands for the words of [`crate::topology::SCRIPT_WORDS`].
    fn fill_in(&self, word: &str, rs: &RealServer) -> String {
        let number = |number: Option<u32>| number.unwrap_or(0).to_string();
        word.replace("{vip}", self.vip.as_deref().unwrap_or_default())
            .replace("{source}", self.source.as_deref().unwrap_or_default())
            .replace("{rip}", &rs.rip.to_string())
            .replace("{port}", &number(self.port.map(u32::from)))
            .replace("{mark}", &number(self.mark))
    }
}
