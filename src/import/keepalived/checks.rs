//! One check of a real server (`TCP_CHECK`, `HTTP_GET` and so on) as a check of a topology.
//!
//! Values have the defaults of keepalived 2.2.7 (`check/check_api.c`, `queue_checker`; `check/check_data.c`, `alloc_vs` and
//! `validate_check_config`). What becomes of the virtual server of a check without words in a topology is left to `health`, and what
//! an HTTP, DNS or script check asks to `questions`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::super::remark::{Remark, RemarkKind, quote};
use super::super::words;
use super::tree::Statement;
use crate::finding::Position;
use crate::topology::{Check, CheckQuestion, CheckWay};

/// Microseconds in a second: keepalived reads times with up to six decimals (`read_timer`).
const SECOND: u64 = 1_000_000;

/// Keywords of a virtual or real server that its checks inherit.
const INHERITED: &[&str] =
    &["delay_loop", "connect_timeout", "retry", "delay_before_retry", "warmup", "virtualhost"];

/// The statements of a virtual or real server that its checks inherit.
#[derive(Debug, Default)]
pub(super) struct CheckSettings(BTreeMap<String, Statement>);

impl CheckSettings {
    /// Takes a statement; `false` if it is about something else. The last of several counts.
    pub fn take(&mut self, statement: &Statement) -> bool {
        let is_known = INHERITED.contains(&statement.keyword());
        if is_known {
            self.0.insert(statement.keyword().to_owned(), statement.clone());
        }
        is_known
    }

    pub fn get(&self, keyword: &str) -> Option<&Statement> {
        self.0.get(keyword)
    }

    pub fn statements(&self) -> impl Iterator<Item = &Statement> {
        self.0.values()
    }
}

/// The user that runs scripts: `script_user` of `global_defs`, if given.
pub(super) type ScriptUser = Option<String>;

/// A check in its place.
pub(super) struct CheckPlace<'a> {
    /// Its block.
    pub block: &'a Statement,
    /// Address and port of its real server; port 0: none.
    pub rip: IpAddr,
    pub port: u16,
    /// The VIP, if it has exactly one.
    pub vip: Option<IpAddr>,
    pub real_server: &'a CheckSettings,
    pub virtual_server: &'a CheckSettings,
    pub script_user: &'a ScriptUser,
}

/// A check, with what differs from the source. `Err`: a topology has no such check.
pub(super) fn read(place: &CheckPlace<'_>) -> Result<(Check, Vec<Remark>), Remark> {
    let mut reader = CheckReader { place, remarks: Vec::new() };
    let check = reader.check()?;
    Ok((check, reader.remarks))
}

pub(super) struct CheckReader<'a> {
    pub place: &'a CheckPlace<'a>,
    pub remarks: Vec<Remark>,
}

/// A remark about `line`.
pub(super) fn remark(
    kind: RemarkKind,
    line: u32,
    what: impl Into<String>,
    why: impl Into<String>,
) -> Remark {
    Remark { line: Some(line), ..Remark::general(kind, what, why) }
}

impl CheckReader<'_> {
    fn check(&mut self) -> Result<Check, Remark> {
        let question = match self.place.block.keyword() {
            "TCP_CHECK" => CheckQuestion::Tcp,
            "HTTP_GET" => CheckQuestion::Http(self.http(false)?),
            "SSL_GET" => CheckQuestion::Http(self.http(true)?),
            "DNS_CHECK" => self.dns(),
            "MISC_CHECK" => self.script()?,
            _ => return Err(self.refused(self.place.block, "`check:` has no such type")),
        };
        let way = self.way()?;
        self.other_keywords(&question, way)?;
        let is_script = matches!(question, CheckQuestion::Script { .. });
        let port = self.last("connect_port").and_then(|it| words::port(it.word(1)?));
        let port = Some(port.unwrap_or(self.place.port)).filter(|_| !is_script);
        if port == Some(0) {
            let why = "neither the check nor its real server has a port";
            return Err(self.refused(self.place.block, why));
        }
        let (interval_s, timeout_s, fall) = self.times(&question);
        Ok(Check { question, way, port, interval_s, timeout_s, fall, at: Position::default() })
    }

    /// The last statement with this keyword in the block of the check.
    pub fn last(&self, keyword: &str) -> Option<&Statement> {
        self.place.block.children().iter().rev().find(|it| it.keyword() == keyword)
    }

    /// The same, or that of its real server or virtual server.
    pub fn nearest(&self, keyword: &str) -> Option<&Statement> {
        let CheckPlace { real_server, virtual_server, .. } = self.place;
        let own = self.last(keyword);
        own.or_else(|| real_server.get(keyword)).or_else(|| virtual_server.get(keyword))
    }

    /// Something without which the check is another, and for which a topology has no key.
    pub fn refused(&self, statement: &Statement, why: &str) -> Remark {
        let kind = self.place.block.keyword();
        let what = match statement.keyword() {
            keyword if keyword == kind => kind.to_owned(),
            keyword => format!("{keyword} in {kind}"),
        };
        remark(RemarkKind::NotExpressible, statement.line, what, why)
    }

    pub fn note(
        &mut self,
        kind: RemarkKind,
        line: u32,
        what: impl Into<String>,
        why: impl Into<String>,
    ) {
        self.remarks.push(remark(kind, line, what, why));
    }

    pub fn unknown(&mut self, statement: &Statement) {
        let what = format!("{} in {}", quote(statement.keyword()), self.place.block.keyword());
        self.note(RemarkKind::NotUnderstood, statement.line, what, "keepalived ignores it here");
    }

    /// To the RIP, or as lvsprov's own checks to the VIP: with a mark by which IPVS forwards to one real server.
    fn way(&mut self) -> Result<CheckWay, Remark> {
        let target = self.last("connect_ip");
        let mark = self.last("fwmark");
        let number = mark.and_then(|it| words::number(it.word(1)?, 0, u32::MAX));
        let address = target.and_then(|it| words::address(it.word(1)?));
        let is_own = number.is_some_and(|mark| mark >> 16 == 0x4c56);
        match (target, mark) {
            (Some(statement), Some(_))
                if is_own && address.is_some() && address == self.place.vip =>
            {
                self.note(
                    RemarkKind::Guessed,
                    statement.line,
                    "connect_ip, fwmark, bindto",
                    "`via: vip`: a mark as lvsprov gives it; lvsprov chooses mark and source address anew",
                );
                Ok(CheckWay::Vip)
            }
            (_, Some(mark)) if number != Some(0) => {
                Err(self.refused(mark, "a mark of your own sends the check another way"))
            }
            (Some(statement), _) if address != Some(self.place.rip) => {
                Err(self
                    .refused(statement, "a check asks the real server, by its RIP or by the VIP"))
            }
            _ => Ok(CheckWay::Rip),
        }
    }

    /// Keywords that every type of check has, and those of none.
    fn other_keywords(&mut self, question: &CheckQuestion, way: CheckWay) -> Result<(), Remark> {
        let own: &[&str] = match question {
            CheckQuestion::Tcp => &[],
            CheckQuestion::Http(_) => &[
                "url",
                "virtualhost",
                "enable_sni",
                "fast_recovery",
                "http_protocol",
                "nb_get_retry",
            ],
            CheckQuestion::Dns { .. } => &["type", "name"],
            CheckQuestion::Script { .. } => &["misc_path", "misc_timeout", "user"],
        };
        let is_script = matches!(question, CheckQuestion::Script { .. });
        for statement in self.place.block.children() {
            let line = statement.line;
            match statement.keyword() {
                word if own.contains(&word) => {}
                "retry" | "delay_before_retry" | "delay_loop" | "warmup" => {}
                "alpha" => self.note(RemarkKind::NotExpressible, line, "alpha", ALPHA),
                "log_all_failures" => {
                    let why = "what keepalived logs is a setting of the process";
                    self.note(RemarkKind::NotExpressible, line, "log_all_failures", why);
                }
                "misc_dynamic" if is_script => {
                    let why = "the exit status of a script sets no weight in a topology";
                    return Err(self.refused(statement, why));
                }
                "connect_ip" | "connect_port" | "connect_timeout" | "fwmark" if !is_script => {}
                "bindto" | "bind_port" if way == CheckWay::Vip => {}
                word @ ("bindto" | "bind_port" | "bind_if") if !is_script => {
                    let why =
                        "`check:` has no key for the source of a check: the kernel chooses it";
                    self.note(RemarkKind::NotExpressible, line, word, why);
                }
                _ => self.unknown(statement),
            }
        }
        Ok(())
    }

    /// Interval and timeout in seconds, and `fall`.
    fn times(&mut self, question: &CheckQuestion) -> (u32, u32, u32) {
        let line = self.place.block.line;
        let is_script = matches!(question, CheckQuestion::Script { .. });
        let (default_retry, default_delay) = match question {
            CheckQuestion::Tcp => (1, Some(SECOND)),
            CheckQuestion::Http(_) => (1, Some(3 * SECOND)),
            CheckQuestion::Dns { .. } => (3, None),
            CheckQuestion::Script { .. } => (0, Some(SECOND)),
        };
        let interval = self.time("delay_loop", 60 * SECOND);
        let interval_s = interval.whole(2, 3600);
        self.differs(&interval, interval_s, "`interval` is 2 to 3600 whole seconds");
        let timeout = if is_script {
            self.script_timeout()
        } else {
            self.time("connect_timeout", 5 * SECOND)
        };
        let timeout_s = timeout.whole(1, 60.min(interval_s - 1));
        self.differs(
            &timeout,
            timeout_s,
            "`timeout` is 1 to 60 whole seconds, and less than `interval`",
        );
        let retry = self.retry(default_retry);
        let fall = retry.saturating_add(1).min(20);
        if fall != retry.saturating_add(1) {
            self.note(RemarkKind::Guessed, line, format!("retry {retry}"), "`fall: 20`, the most");
        }
        let delay = self.time("delay_before_retry", default_delay.unwrap_or(interval.microseconds));
        let (delay_s, why) = if is_script {
            (interval_s, "after a failure the script runs again at the next `interval`")
        } else {
            (
                interval_s - timeout_s,
                "after a failure the next question comes after `interval` less `timeout`",
            )
        };
        if fall > 1 {
            self.differs(&delay, delay_s, why);
        }
        let warmup = self.time("warmup", interval.microseconds);
        self.differs(&warmup, interval_s, "the first question comes at any time within `interval`");
        (interval_s, timeout_s, fall)
    }

    /// keepalived ends a script without a timeout after the `delay_loop` of the virtual server (`misc_check_thread`).
    fn script_timeout(&mut self) -> CheckTime {
        let own = self.last("misc_timeout").cloned();
        let number = own.as_ref().and_then(|it| words::number(it.word(1)?, 1, 4294));
        if let (Some(statement), Some(number)) = (own, number) {
            let (line, what) = (statement.line, format!("misc_timeout {number}"));
            return CheckTime { microseconds: u64::from(number) * SECOND, line, what };
        }
        let of_service = self.place.virtual_server.get("delay_loop");
        let microseconds = of_service.and_then(|it| time(it.word(1)?)).unwrap_or(60 * SECOND);
        let what = format!("misc_timeout, by default {} s", seconds(microseconds));
        CheckTime { microseconds, line: self.place.block.line, what }
    }

    fn retry(&mut self, default: u32) -> u32 {
        let Some(statement) = self.last("nb_get_retry").or_else(|| self.nearest("retry")) else {
            return default;
        };
        let text = statement.word(1).unwrap_or_default().to_owned();
        let (line, number) = (statement.line, words::number(&text, 0, u32::MAX));
        if number.is_none() {
            let why = format!("it is not a number; {default}, keepalived's default, is used");
            self.note(RemarkKind::Guessed, line, format!("retry {}", quote(&text)), why);
        }
        number.unwrap_or(default)
    }

    fn time(&mut self, keyword: &str, default: u64) -> CheckTime {
        let what = format!("{keyword}, by default {} s", seconds(default));
        let line = self.place.block.line;
        let Some(statement) = self.nearest(keyword) else {
            return CheckTime { microseconds: default, line, what };
        };
        let text = statement.word(1).unwrap_or_default();
        // An interval or a timeout of 0 is none.
        let least = u64::from(matches!(keyword, "delay_loop" | "connect_timeout"));
        let (line, read) = (statement.line, time(text).filter(|time| *time >= least));
        let said =
            format!("{keyword} {}", if read.is_some() { text.to_owned() } else { quote(text) });
        if read.is_none() {
            let why = format!("it is not a number of seconds; {} s is used", seconds(default));
            self.note(RemarkKind::Guessed, line, said.clone(), why);
        }
        CheckTime { microseconds: read.unwrap_or(default), line, what: said }
    }

    fn differs(&mut self, source: &CheckTime, written_s: u32, why: &str) {
        if source.microseconds != u64::from(written_s) * SECOND {
            let why = format!("{written_s} s: {why}");
            self.note(RemarkKind::Guessed, source.line, source.what.clone(), why);
        }
    }
}

/// Why `alpha` is left out.
pub(super) const ALPHA: &str = "keepalived begins with the belief that all real servers are alive: a topology has no word for the opposite";

/// A time of the source.
struct CheckTime {
    microseconds: u64,
    line: u32,
    /// As the source says it.
    what: String,
}

impl CheckTime {
    /// In seconds, rounded up, within limits.
    fn whole(&self, low: u32, high: u32) -> u32 {
        let whole = self.microseconds.div_ceil(SECOND);
        u32::try_from(whole).unwrap_or(u32::MAX).clamp(low, high)
    }
}

/// A number of seconds with up to six decimals, in microseconds.
fn time(text: &str) -> Option<u64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let whole = u64::from(words::number(whole, 0, u32::MAX)?);
    let digits: String = decimals.chars().chain("000000".chars()).take(6).collect();
    words::number(decimals, 0, u32::MAX).filter(|_| decimals.len() <= 6)?;
    Some(whole * SECOND + u64::from(words::number(&digits, 0, 999_999)?))
}

/// For messages.
fn seconds(microseconds: u64) -> String {
    let (whole, rest) = (microseconds / SECOND, microseconds % SECOND);
    if rest == 0 {
        whole.to_string()
    } else {
        format!("{whole}.{rest:06}").trim_end_matches('0').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_six_decimals() {
        for (text, microseconds) in [
            ("3", Some(3_000_000)),
            ("0", Some(0)),
            ("2.5", Some(2_500_000)),
            ("0.000001", Some(1)),
            ("1.0000001", None),
            ("-1", None),
            ("3s", None),
            ("", None),
            ("5000000000", None),
        ] {
            assert_eq!(time(text), microseconds, "{text}");
        }
        assert_eq!((seconds(2_500_000), seconds(3_000_000)), ("2.5".to_owned(), "3".to_owned()));
    }
}
