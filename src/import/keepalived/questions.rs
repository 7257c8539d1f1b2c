//! What a check asks: the URL of `HTTP_GET` and `SSL_GET`, the name of `DNS_CHECK`, the command of `MISC_CHECK`.

use super::super::remark::{Remark, RemarkKind, quote};
use super::super::words;
use super::checks::CheckReader;
use super::tree::{Statement, command_words};
use crate::topology::{CheckQuestion, DnsRecord, HttpBody, HttpQuestion};

/// Most bytes of a command with its arguments.
const LONGEST_COMMAND: usize = 800;

impl CheckReader<'_> {
    pub(super) fn http(&mut self, tls: bool) -> Result<HttpQuestion, Remark> {
        let block = self.place.block;
        let mut urls = block.children().iter().filter(|it| it.keyword() == "url");
        let Some(url) = urls.next() else {
            return Err(self.refused(block, "it has no url, and keepalived ignores it"));
        };
        if let Some(second) = urls.next() {
            let why = "a check asks one URL: each of several must answer";
            return Err(self.refused(second, why));
        }
        let (mut path, mut host, mut body, mut status) = (None, None, None, Vec::new());
        for statement in url.children() {
            let value = statement.word(1).map(str::to_owned);
            match statement.keyword() {
                "path" => path = value,
                "virtualhost" => host = value,
                "regex" => body = value.map(HttpBody::Regex),
                "status_code" => status.extend(self.status(statement)),
                "digest" => {
                    let why =
                        "a topology has no word for it: write `body:` with a text of the page";
                    return Err(self.refused(statement, why));
                }
                word if word.starts_with("regex_") && word != "regex_stack" => {
                    return Err(self.refused(statement, "a `body_regex` has no options"));
                }
                "regex_stack" => {}
                _ => self.unknown(statement),
            }
        }
        let Some(path) = path else {
            return Err(self.refused(url, "it has no path, and keepalived ignores it"));
        };
        if status.is_empty() {
            status.push((200, 299));
        }
        let host = host.or_else(|| self.nearest("virtualhost")?.word(1).map(str::to_owned));
        self.http_options(tls, host.as_deref());
        Ok(HttpQuestion { tls, path, host, status, body })
    }

    /// What lvsprov always writes in one way.
    fn http_options(&mut self, tls: bool, host: Option<&str>) {
        let kind = self.place.block.keyword().to_owned();
        let line = self.place.block.line;
        let is_set = |statement: Option<&Statement>| {
            statement.is_some_and(|it| !matches!(it.word(1), Some("false" | "off" | "no")))
        };
        if !is_set(self.last("fast_recovery")) {
            let why = "`fast_recovery`: a real server is back after the first answer, not an interval later";
            self.note(RemarkKind::Guessed, line, format!("{kind} without fast_recovery"), why);
        }
        let sni = is_set(self.last("enable_sni"));
        if tls && sni != host.is_some() {
            let (what, why) = if sni {
                ("enable_sni without virtualhost", "without a name there is none to send: left out")
            } else {
                ("virtualhost without enable_sni", "`host` is sent in the TLS handshake too (SNI)")
            };
            self.note(RemarkKind::Guessed, line, what, why);
        }
        if let Some(protocol) = self.last("http_protocol").filter(|it| it.word(1) != Some("1.0")) {
            let (line, what) = (
                protocol.line,
                format!("http_protocol {}", quote(protocol.word(1).unwrap_or_default())),
            );
            self.note(RemarkKind::NotExpressible, line, what, "checks ask by HTTP/1.0");
        }
    }

    /// Codes and ranges, as `strtoul` reads them (`status_code_handler`).
    fn status(&mut self, statement: &Statement) -> Vec<(u16, u16)> {
        let mut all = Vec::new();
        for text in statement.words.iter().skip(1) {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let code = |text| words::number(text, 100, 599).and_then(|n| u16::try_from(n).ok());
            match (code(first), code(last)) {
                (Some(first), Some(last)) if first <= last => all.push((first, last)),
                _ => {
                    let why = "it is no status code, 100 to 599, and no range of them; left out";
                    let what = format!("status_code {}", quote(text));
                    self.note(RemarkKind::NotUnderstood, statement.line, what, why);
                }
            }
        }
        all
    }

    pub(super) fn dns(&mut self) -> CheckQuestion {
        let mut record = DnsRecord::Soa;
        if let Some(statement) = self.last("type") {
            let text = statement.word(1).unwrap_or_default().to_owned();
            if let Some(known) = DnsRecord::ALL.iter().find(|record| record.as_str() == text) {
                record = *known;
            } else {
                let (line, what) = (statement.line, format!("type {} in DNS_CHECK", quote(&text)));
                let why = "keepalived asks for SOA instead, and so does the file";
                self.note(RemarkKind::NotUnderstood, line, what, why);
            }
        }
        let name = self.last("name").and_then(|it| it.word(1)).filter(|name| !name.is_empty());
        CheckQuestion::Dns { name: name.unwrap_or(".").to_owned(), record }
    }

    pub(super) fn script(&mut self) -> Result<CheckQuestion, Remark> {
        let block = self.place.block;
        let Some(path) = self.last("misc_path").cloned() else {
            return Err(self.refused(block, "it has no misc_path, and keepalived ignores it"));
        };
        self.user(&path)?;
        if path.words.len() > 2 {
            let what = format!("misc_path with {} words", path.words.len() - 1);
            let why =
                "keepalived reads one word or quoted text there: the arguments are not passed on";
            self.note(RemarkKind::Guessed, path.line, what, why);
        }
        let text = path.word(1).unwrap_or_default();
        if text.contains(['{', '}']) {
            return Err(self.refused(&path, "braces stand for words in a `command`"));
        }
        if text.len() > LONGEST_COMMAND {
            return Err(self.refused(&path, "the command is longer than keepalived reads a line"));
        }
        let rip = self.place.rip.to_string();
        let command: Vec<String> = command_words(text)
            .into_iter()
            .map(|word| if word == rip { "{rip}".to_owned() } else { word })
            .collect();
        if command.is_empty() {
            return Err(self.refused(&path, "it names no program"));
        }
        Ok(CheckQuestion::Script { command })
    }

    /// lvsprov has scripts run by root.
    fn user(&mut self, path: &Statement) -> Result<(), Remark> {
        const OTHER: &str =
            "a check of a topology is run by root, with more rights than the file gives it";
        match (self.last("user"), self.place.script_user) {
            (Some(statement), _) if statement.word(1) != Some("root") => {
                Err(self.refused(statement, OTHER))
            }
            (None, Some(user)) if user != "root" => {
                Err(self.refused(path, &format!("script_user in global_defs: {OTHER}")))
            }
            (None, None) => {
                let why = "run by root: keepalived takes the user keepalived_script, where the host has one";
                self.note(RemarkKind::Guessed, path.line, "MISC_CHECK without user", why);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
