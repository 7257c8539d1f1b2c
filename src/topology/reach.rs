//! How a host is reached: `ssh`, `local` or `netns`, at most one of them.

use super::document::{ReachDoc, Said};
use super::load::{Loader, Table};
use super::model::SshTarget;
use super::node::{At, Content, Node};
use super::scalar;
use crate::finding::{Finding, Position};

const SSH: &[&str] = &["host", "user", "port"];

/// Reads whichever of the three keys is there.
pub(super) fn reach(loader: &mut Loader, table: &Table<'_>) -> Said<ReachDoc> {
    let mut ways = table.ways();
    if let (Some(_), Some(second)) = (ways.next(), ways.next()) {
        loader.findings.push(Finding::error(
            "several-ways",
            second.at,
            format!("`{}` is a second way to reach this host", second.value),
            "only one of them can be taken",
            "keep one of ssh, local and netns",
        ));
        return Said::Unclear;
    }
    if let Some(node) = table.get("ssh") {
        return match ssh(loader, node) {
            Some(target) => Said::This(At { value: ReachDoc::Ssh(target), at: node.at }),
            None => Said::Unclear,
        };
    }
    if let Some(node) = table.get("local") {
        return match loader.keep(scalar::boolean(node, "`local`")) {
            Some(true) => Said::This(At { value: ReachDoc::Local, at: node.at }),
            Some(false) => Said::Nothing,
            None => Said::Unclear,
        };
    }
    match loader.said(table, "netns", scalar::netns) {
        Said::This(At { value, at }) => Said::This(At { value: ReachDoc::Netns(value), at }),
        Said::Nothing => Said::Nothing,
        Said::Unclear => Said::Unclear,
    }
}

impl Table<'_> {
    fn ways(&self) -> impl Iterator<Item = &At<String>> {
        let mut ways: Vec<_> =
            ["ssh", "local", "netns"].iter().filter_map(|k| self.key(k)).collect();
        ways.sort_by_key(|key| key.at);
        ways.into_iter()
    }
}

fn ssh(loader: &mut Loader, node: &Node) -> Option<SshTarget> {
    if !matches!(node.content, Content::Map(_)) {
        let text = loader.keep(scalar::text(node, "`ssh`"))?;
        return loader.keep(target(text, node.at));
    }
    let table = loader.table(node, "`ssh`", node.at, SSH)?;
    let word = |n: &Node| {
        let text = scalar::text(n, "this")?;
        Ok(At { value: plain(text, n.at)?.to_owned(), at: n.at })
    };
    let host = loader.said(&table, "host", word);
    let user = loader.said(&table, "user", word);
    let port = loader.said(&table, "port", scalar::port);
    if host == Said::Nothing {
        let cure = "add `host:` with a name, an address or an alias of ssh_config";
        loader.missing(&table, node.at, "host", "`ssh`", cure);
    }
    if user.is_unclear() || port.is_unclear() {
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

    /// `[user@]host[:port]`; `Err` says what is wrong and what to write.
    fn from_str(text: &str) -> Result<Self, String> {
        target(text, Position::default())
            .map_err(|finding| format!("{}; {}", finding.message, finding.cure))
    }
}

/// What ssh(1) cannot take for an option, and a terminal not for a command.
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
        format!("{text:?} does not say where ssh goes"),
        "it is given to ssh as it stands, so it must not look like anything else",
        "write [user@]host[:port]; jump hosts, keys and the rest belong into ssh_config",
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn ssh_targets_say_what_they_said() {
        for good in ["web1", "root@10.0.0.1", "root@10.0.0.1:2222", "a.b-c:22"] {
            let target = target(good, Position::default()).unwrap();
            assert_eq!(target.to_string(), good);
        }
        let v6 = target("root@[2001:db8::1]:22", Position::default()).unwrap();
        assert_eq!((v6.host.as_str(), v6.port), ("2001:db8::1", Some(22)));
    }

    #[test]
    fn nothing_that_ssh_would_take_for_an_option_passes() {
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
