//! How lvsprov connects to a host: `ssh`, `local` or `netns`, at most one of them.

use super::document::{Field, ReachDoc};
use super::load::{Loader, Mapping};
use super::model::SshTarget;
use super::node::{At, YamlNode, YamlValue};
use super::scalar;
use crate::finding::{Finding, Position};

const SSH: &[&str] = &["host", "user", "port"];

/// Reads the one of the three keys that the host has.
pub(super) fn reach(loader: &mut Loader, mapping: &Mapping<'_>) -> Field<ReachDoc> {
    let mut ways = mapping.ways();
    if let (Some(_), Some(second)) = (ways.next(), ways.next()) {
        loader.findings.push(Finding::error(
            "several-ways",
            second.at,
            format!("`{}` is a second way to connect to this host", second.value),
            "lvsprov uses exactly one",
            "keep one of ssh, local and netns",
        ));
        return Field::Invalid;
    }
    if let Some(node) = mapping.get("ssh") {
        return match ssh(loader, node) {
            Some(target) => Field::Value(At { value: ReachDoc::Ssh(target), at: node.at }),
            None => Field::Invalid,
        };
    }
    if let Some(node) = mapping.get("local") {
        return match loader.accept(scalar::boolean(node, "`local`")) {
            Some(true) => Field::Value(At { value: ReachDoc::Local, at: node.at }),
            Some(false) => Field::Missing,
            None => Field::Invalid,
        };
    }
    match loader.field(mapping, "netns", scalar::netns) {
        Field::Value(At { value, at }) => Field::Value(At { value: ReachDoc::Netns(value), at }),
        Field::Missing => Field::Missing,
        Field::Invalid => Field::Invalid,
    }
}

impl Mapping<'_> {
    fn ways(&self) -> impl Iterator<Item = &At<String>> {
        let mut ways: Vec<_> =
            ["ssh", "local", "netns"].iter().filter_map(|k| self.key(k)).collect();
        ways.sort_by_key(|key| key.at);
        ways.into_iter()
    }
}

fn ssh(loader: &mut Loader, node: &YamlNode) -> Option<SshTarget> {
    if !matches!(node.content, YamlValue::Map(_)) {
        let text = loader.accept(scalar::text(node, "`ssh`"))?;
        return loader.accept(target(text, node.at));
    }
    let mapping = loader.mapping(node, "`ssh`", node.at, SSH)?;
    let word = |n: &YamlNode| {
        let text = scalar::text(n, "this")?;
        Ok(At { value: plain(text, n.at)?.to_owned(), at: n.at })
    };
    let host = loader.field(&mapping, "host", word);
    let user = loader.field(&mapping, "user", word);
    let port = loader.field(&mapping, "port", scalar::port);
    if host == Field::Missing {
        let cure = "add `host:` with a name, an address or an alias in ssh_config";
        loader.missing(&mapping, node.at, "host", "`ssh`", cure);
    }
    if user.is_invalid() || port.is_invalid() {
        return None;
    }
    Some(SshTarget {
        host: host.value()?.value.clone(),
        user: user.value().map(|u| u.value.clone()),
        port: port.value().map(|p| p.value),
    })
}

/// `[user@]host[:port]`; an IPv6 address stands in brackets.
fn target(text: &str, at: Position) -> Result<SshTarget, Box<Finding>> {
    let (user, rest) = match text.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, text),
    };
    let (host, port) = match rest.strip_prefix('[').map(|inner| inner.split_once(']')) {
        Some(Some((host, ""))) => (host, None),
        Some(Some((host, port))) => {
            (host, Some(port.strip_prefix(':').ok_or_else(|| bad(text, at))?))
        }
        Some(None) => return Err(bad(text, at).into()),
        None => match rest.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        },
    };
    let port = match port.map(str::parse::<u16>) {
        None => None,
        Some(Ok(port)) if port != 0 => Some(port),
        Some(_) => return Err(bad(text, at).into()),
    };
    let user = user.map(|user| plain(user, at).map(str::to_owned)).transpose()?;
    Ok(SshTarget { host: plain(host, at)?.to_owned(), user, port })
}

impl std::str::FromStr for SshTarget {
    type Err = String;

    /// `[user@]host[:port]`; `Err` is a message for the operator, with the cure.
    fn from_str(text: &str) -> Result<Self, String> {
        target(text, Position::default())
            .map_err(|finding| format!("{}; {}", finding.message, finding.cure))
    }
}

/// A word that is not an ssh(1) option, a shell command or a terminal sequence.
fn plain(text: &str, at: Position) -> Result<&str, Box<Finding>> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.:%+\\".contains(c);
    if !text.is_empty() && text.len() <= 255 && !text.starts_with('-') && text.chars().all(good) {
        return Ok(text);
    }
    Err(bad(text, at).into())
}

fn bad(text: &str, at: Position) -> Finding {
    Finding::error(
        "bad-ssh",
        at,
        format!("{text:?} is not an SSH destination"),
        "lvsprov passes it to ssh as an argument, so it must not look like an option or a command",
        "write [user@]host[:port]; put jump hosts and keys into ssh_config",
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn ssh_targets_print_as_they_were_written() {
        for good in ["web1", "root@10.0.0.1", "root@10.0.0.1:2222", "a.b-c:22"] {
            let target = target(good, Position::default()).unwrap();
            assert_eq!(target.to_string(), good);
        }
        let v6 = target("root@[2001:db8::1]:22", Position::default()).unwrap();
        assert_eq!((v6.host.as_str(), v6.port), ("2001:db8::1", Some(22)));
    }

    #[test]
    fn ssh_targets_that_look_like_options_or_commands_are_refused() {
        let bad = [
            "",
            "-oProxyCommand=x",
            "root@",
            "@h",
            "root@-x",
            "-x@h",
            "h:0",
            "h:99999",
            "h:",
            "a b",
            "ssh://h",
            "[::1",
            "[::1]x",
            "::1",
            "h;id",
            "h\u{1b}[m",
            "$(id)",
        ];
        for bad in bad {
            assert!(target(bad, Position::default()).is_err(), "{bad:?} passed");
        }
    }
}
