//! The key `check`, of `defaults`, of a service or of a real server.

use super::super::document::{CheckDoc, Field};
use super::super::node::{YamlNode, YamlValue};
use super::super::scalar::{self, checks};
use super::{Loader, Mapping};
use crate::finding::{Finding, Position};
use crate::topology::model::{Check, CheckQuestion, CheckWay, DnsRecord, HttpBody, HttpQuestion};

/// The keys of every check.
const COMMON: &[&str] = &["type", "via", "port", "interval", "timeout", "fall", "rise"];
const HTTP: &[&str] = &["path", "host", "status", "body", "body_regex"];
const DNS: &[&str] = &["name", "record"];
const SCRIPT: &[&str] = &["command"];
const ALL: &[&str] = &[
    "type",
    "via",
    "port",
    "interval",
    "timeout",
    "fall",
    "rise",
    "path",
    "host",
    "status",
    "body",
    "body_regex",
    "name",
    "record",
    "command",
];
const TYPES: &[&str] = &["tcp", "http", "https", "dns", "script", "none"];

impl Loader {
    /// A word, or a mapping.
    pub(super) fn check(&mut self, mapping: &Mapping<'_>) -> Field<CheckDoc> {
        self.nested(mapping, "check", Self::check_doc)
    }

    fn check_doc(&mut self, node: &YamlNode) -> Option<CheckDoc> {
        if !matches!(node.content, YamlValue::Map(_)) {
            let kind = self.accept(checks::kind(node, TYPES))?;
            if kind == "none" {
                return Some(None);
            }
            let nothing = Mapping { entries: &[], mistyped: Vec::new(), at: node.at };
            return self.check_of(kind, &nothing, node.at).map(Some);
        }
        let mapping = self.mapping(node, "`check`", node.at, ALL)?;
        let Some(kind) = mapping.get("type") else {
            let cure = "add `type: tcp`, `http`, `https`, `dns` or `script`";
            self.missing(&mapping, node.at, "type", "`check`", cure);
            return None;
        };
        // `none` has no other keys.
        let kind = self.accept(checks::kind(kind, &TYPES[..TYPES.len() - 1]))?;
        self.check_of(kind, &mapping, node.at).map(Some)
    }

    fn check_of(&mut self, kind: &str, mapping: &Mapping<'_>, at: Position) -> Option<Check> {
        let question = match kind {
            "tcp" => CheckQuestion::Tcp,
            "dns" => self.dns_question(mapping),
            "script" => self.script_question(mapping, at)?,
            _ => CheckQuestion::Http(self.http_question(kind == "https", mapping, at)?),
        };
        let own = match kind {
            "tcp" => &[],
            "dns" => DNS,
            "script" => SCRIPT,
            _ => HTTP,
        };
        for key in ALL.iter().filter(|key| !COMMON.contains(key) && !own.contains(key)) {
            if let Some(key) = mapping.key(key) {
                let message = format!("a check of type {kind} has no `{}`", key.value);
                self.contradiction(
                    key.at,
                    message,
                    "it would be ignored",
                    "remove it, or choose another type",
                );
            }
        }
        let interval = self.field(mapping, "interval", checks::interval);
        let timeout = self.field(mapping, "timeout", checks::timeout);
        if let Some(rise) = mapping.get("rise") {
            self.accept(checks::rise(rise));
        }
        let seconds = |field: &Field<u32>, default| field.value().map_or(default, |it| it.value);
        let interval_s = seconds(&interval, Check::INTERVAL);
        let timeout_s = seconds(&timeout, Check::TIMEOUT.min(interval_s - 1));
        if timeout_s >= interval_s {
            self.contradiction(
                timeout.value().map_or(at, |it| it.at),
                format!("the timeout of {timeout_s} s is not less than the interval of {interval_s} s"),
                "one question must be over before the next begins: a real server would be out later than `fall` times the interval",
                "write a smaller `timeout`, or a larger `interval`",
            );
        }
        Some(Check {
            question,
            way: self
                .field(mapping, "via", checks::way)
                .value()
                .map_or(CheckWay::Vip, |it| it.value),
            port: self.field(mapping, "port", scalar::port).value().map(|port| port.value),
            interval_s,
            timeout_s,
            fall: self
                .field(mapping, "fall", checks::fall)
                .value()
                .map_or(Check::FALL, |it| it.value),
            at,
        })
    }

    fn http_question(
        &mut self,
        tls: bool,
        mapping: &Mapping<'_>,
        at: Position,
    ) -> Option<HttpQuestion> {
        let path = self.field(mapping, "path", checks::path);
        let host = self.field(mapping, "host", checks::http_host);
        let status = self.several(mapping, "status", "`status`", checks::status);
        let body = self.field(mapping, "body", |n| checks::plain_text(n, "the body"));
        let regex = self.field(mapping, "body_regex", |n| checks::plain_text(n, "the expression"));
        if body != Field::Missing && regex != Field::Missing {
            let why = "keepalived looks for one expression in an answer";
            self.contradiction(
                at,
                "this check has both `body` and `body_regex`",
                why,
                "remove one of them",
            );
            return None;
        }
        let text = body.value().map(|it| HttpBody::Text(it.value.clone()));
        let regex = regex.value().map(|it| HttpBody::Regex(it.value.clone()));
        let listed = status.value().map(|all| all.value.iter().map(|it| it.value).collect());
        Some(HttpQuestion {
            tls,
            path: path.value().map_or_else(|| "/".to_owned(), |it| it.value.clone()),
            host: host.value().map(|it| it.value.clone()),
            status: listed.unwrap_or_else(|| vec![(200, 299)]),
            body: text.or(regex),
        })
    }

    fn dns_question(&mut self, mapping: &Mapping<'_>) -> CheckQuestion {
        let name = self.field(mapping, "name", checks::dns_name);
        let record = self.field(mapping, "record", checks::dns_record);
        CheckQuestion::Dns {
            name: name.value().map_or_else(|| ".".to_owned(), |it| it.value.clone()),
            record: record.value().map_or(DnsRecord::Soa, |it| it.value),
        }
    }

    fn script_question(&mut self, mapping: &Mapping<'_>, at: Position) -> Option<CheckQuestion> {
        if mapping.get("command").is_none() {
            let cure = "add `command: [/usr/local/bin/check-it, \"{rip}\"]`";
            self.missing(mapping, at, "command", "a check of type script", cure);
            return None;
        }
        let command = self.several(mapping, "command", "`command`", checks::script_word);
        let command: Vec<_> = command.value()?.value.iter().collect();
        let program = command.first()?;
        if !program.value.starts_with('/') || program.value.contains(char::is_whitespace) {
            self.findings.push(Finding::error(
                "bad-name",
                program.at,
                format!("{:?} is not the absolute path of a program", program.value),
                "keepalived starts the program itself: no shell looks for it or splits its arguments",
                "write a list: the path, then each argument, `[/usr/local/bin/check-it, \"{rip}\"]`",
            ));
            return None;
        }
        Some(CheckQuestion::Script {
            command: command.into_iter().map(|word| word.value.clone()).collect(),
        })
    }

    fn contradiction(&mut self, at: Position, message: impl Into<String>, why: &str, cure: &str) {
        self.findings.push(Finding::error("check-contradicts", at, message, why, cure));
    }
}
