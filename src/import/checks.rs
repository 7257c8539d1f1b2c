//! Health checks as text of a topology file: the mapping under `check`, and what the real servers of a service share.

use crate::check::examine;
use crate::finding::Severity;
use crate::topology::{Check, CheckQuestion, CheckWay, HttpBody, HttpQuestion};

use super::write::scalar;

/// The value of `check`. `rewrites`: the forwarding method rewrites addresses, so that every check goes to the RIP.
pub(super) fn value(check: &Check, rewrites: bool) -> String {
    let kind = check.question.as_str();
    let mut parts = vec![format!("type: {kind}")];
    if check.way == CheckWay::Rip && !rewrites {
        parts.push(format!("via: {}", check.way.as_str()));
    }
    parts.extend(check.port.map(|port| format!("port: {port}")));
    for (name, value, usual) in [
        ("interval", check.interval_s, Check::INTERVAL),
        ("timeout", check.timeout_s, Check::TIMEOUT.min(check.interval_s - 1)),
        ("fall", check.fall, Check::FALL),
    ] {
        if value != usual {
            parts.push(format!("{name}: {value}"));
        }
    }
    parts.extend(question(&check.question));
    if parts.len() == 1 { kind.to_owned() } else { format!("{{{}}}", parts.join(", ")) }
}

/// Values that differ from the defaults.
fn question(question: &CheckQuestion) -> Vec<String> {
    match question {
        CheckQuestion::Tcp => Vec::new(),
        CheckQuestion::Http(http) => http_parts(http),
        CheckQuestion::Dns { name, record } => {
            let mut parts = Vec::new();
            if name != "." {
                parts.push(format!("name: {}", scalar(name)));
            }
            if record.as_str() != "SOA" {
                parts.push(format!("record: {}", record.as_str()));
            }
            parts
        }
        CheckQuestion::Script { command } => {
            let words: Vec<_> = command.iter().map(|word| scalar(word)).collect();
            vec![format!("command: [{}]", words.join(", "))]
        }
    }
}

fn http_parts(http: &HttpQuestion) -> Vec<String> {
    let HttpQuestion { tls: _, path, host, status, body } = http;
    let mut parts = Vec::new();
    if path != "/" {
        parts.push(format!("path: {}", scalar(path)));
    }
    parts.extend(host.iter().map(|host| format!("host: {}", scalar(host))));
    if status[..] != [(200, 299)] {
        let codes: Vec<_> = status
            .iter()
            .map(
                |(first, last)| {
                    if first == last { first.to_string() } else { format!("{first}-{last}") }
                },
            )
            .collect();
        parts.push(format!("status: [{}]", codes.join(", ")));
    }
    parts.extend(body.iter().map(|body| match body {
        HttpBody::Text(text) => format!("body: {text:?}"),
        HttpBody::Regex(regex) => format!("body_regex: {regex:?}"),
    }));
    parts
}

/// Why the reader of topology files refuses `value` under `check`, in its own words.
pub(super) fn why_refused(value: &str) -> Option<String> {
    let text = format!(
        "version: 1\nname: x\nnetworks: {{lan: [192.0.2.0/24]}}\nhosts:\n\
         \x20 lvs: {{role: director, interfaces: {{eth0: 192.0.2.2/24}}}}\n\
         \x20 web: {{role: real_server, interfaces: {{eth0: 192.0.2.3/24}}, gateway: lvs}}\nservices:\n\
         \x20 - vip: 192.0.2.9\n    mark: 1\n    ports: [80]\n    protocol: [tcp, udp]\n    forward: nat\n\
         \x20   check: {value}\n    real_servers: [web]\n"
    );
    let findings = examine("import", &text).findings;
    let error = findings.into_iter().find(|finding| finding.severity == Severity::Error);
    error.map(|finding| finding.message)
}

/// The check that a service has, and those of its real servers that differ from it, of the checks of all real servers.
/// `none` is one without a check in a service with one.
pub(super) fn shared(checks: &[Option<String>]) -> (Option<String>, Vec<Option<String>>) {
    let count = |wanted: &Option<String>| checks.iter().filter(|check| *check == wanted).count();
    let most = checks.iter().rev().max_by_key(|check| (count(check), check.is_some()));
    let of_service = most.cloned().flatten();
    let own = checks
        .iter()
        .map(|check| match check {
            _ if *check == of_service => None,
            None => Some("none".to_owned()),
            Some(text) => Some(text.clone()),
        })
        .collect();
    (of_service, own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_most_real_servers_have_is_the_check_of_the_service() {
        let check = |text: &str| Some(text.to_owned());
        let (a, b) = (check("a"), check("b"));
        let all = [a.clone(), b.clone(), None, a.clone()];
        assert_eq!(shared(&all), (a.clone(), vec![None, b.clone(), check("none"), None]));
        assert_eq!(shared(&[None, None, b.clone()]), (None, vec![None, None, b.clone()]));
        assert_eq!(shared(&[None, b.clone()]), (b, vec![check("none"), None]));
        assert_eq!(shared(&[]), (None, vec![]));
    }

    #[test]
    fn the_reader_says_why_it_refuses_a_check() {
        assert_eq!(why_refused("{type: http, path: /a}"), None);
        assert_eq!(why_refused("{type: dns, name: example.org}"), None);
        let why = why_refused("{type: http, path: \"/a b\"}");
        assert!(why.as_ref().is_some_and(|why| why.contains("\"/a b\"")), "{why:?}");
        let why = why_refused(&format!(
            "{{type: script, command: [/bin/a, {}]}}",
            vec!["x".repeat(200); 6].join(", ")
        ));
        assert!(why.as_ref().is_some_and(|why| why.contains("bytes")), "{why:?}");
    }
}
