//! Values under `check`. What becomes part of keepalived's configuration consists of characters that end no string and no
//! line there, or is written with escapes ([`crate::keepalived`]).

use super::{ScalarResult, number_of, refuse, text, word};
use crate::topology::model::{CheckWay, DnsRecord, SCRIPT_WORDS};
use crate::topology::node::{At, YamlNode};

/// The type of a check, one of `known`.
pub fn kind<'a>(node: &'a YamlNode, known: &[&str]) -> ScalarResult<&'a str> {
    word(node, "type of check", "unknown-word", known, |text| known.contains(&text).then_some(()))?;
    text(node, "the type of a check")
}

/// `vip` or `rip`.
pub fn way(node: &YamlNode) -> ScalarResult<At<CheckWay>> {
    let known = CheckWay::ALL.map(CheckWay::as_str);
    word(node, "way of a check", "unknown-word", &known, |text| {
        CheckWay::ALL.into_iter().find(|way| way.as_str() == text)
    })
}

/// 2-3600 seconds.
pub fn interval(node: &YamlNode) -> ScalarResult<At<u32>> {
    number_of(node, "number of seconds", "2 to 3600", (2, 3600))
}

/// 1-60 seconds.
pub fn timeout(node: &YamlNode) -> ScalarResult<At<u32>> {
    number_of(node, "number of seconds", "1 to 60", (1, 60))
}

/// 1-20.
pub fn fall(node: &YamlNode) -> ScalarResult<At<u32>> {
    number_of(node, "number of failures", "1 to 20", (1, 20))
}

/// 1: keepalived knows no other.
pub fn rise(node: &YamlNode) -> ScalarResult<()> {
    if text(node, "`rise`")? == "1" {
        return Ok(());
    }
    refuse(
        "check-contradicts",
        node.at,
        "`rise` is 1",
        "keepalived puts a real server back after the first check that passes (check_tcp.c, `tcp_epilog`): it counts none",
        "write `rise: 1`, or remove it",
    )
}

/// 1-2147483647.
pub fn quorum(node: &YamlNode) -> ScalarResult<At<u32>> {
    number_of(node, "sum of weights", "1 to 2147483647", (1, super::MAX_WEIGHT))
}

/// `200`, or `200-299`.
pub fn status(node: &YamlNode) -> ScalarResult<At<(u16, u16)>> {
    let text = text(node, "a status code")?;
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let code = |text: &str| {
        let code = text.parse::<u16>().ok().filter(|code| (100..=599).contains(code))?;
        (code.to_string() == text).then_some(code)
    };
    match (code(first), code(last)) {
        (Some(first), Some(last)) if first <= last => Ok(At { value: (first, last), at: node.at }),
        _ => refuse(
            "bad-number",
            node.at,
            format!("{text:?} is no status code of HTTP"),
            "keepalived compares numbers, 100 to 599",
            "write a code, `200`, or a range, `200-299`",
        ),
    }
}

/// Refuses what is empty, too long, or has a character that is not allowed.
fn safe(
    node: &YamlNode,
    what: &str,
    longest: usize,
    is_allowed: impl Fn(char) -> bool,
    cure: &str,
) -> ScalarResult<At<String>> {
    let text = text(node, what)?;
    let why = "it becomes part of keepalived's configuration, where other characters have a meaning of their own";
    let message = match text.chars().find(|c| !is_allowed(*c)) {
        Some(character) => format!("{what}: {text:?} contains {character:?}"),
        None if text.is_empty() => format!("{what} is empty"),
        None if text.len() > longest => {
            format!("{what} is {} bytes long, the most is {longest}", text.len())
        }
        None => return Ok(At { value: text.to_owned(), at: node.at }),
    };
    refuse("bad-name", node.at, message, why, cure)
}

/// Path and query of a URL.
pub fn path(node: &YamlNode) -> ScalarResult<At<String>> {
    const CURE: &str = "begin with `/`, and write other characters as % and two hexadecimal digits";
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-._/?&=+%:,;*".contains(c);
    let path = safe(node, "the path", 512, is_allowed, CURE)?;
    if path.value.starts_with('/') {
        return Ok(path);
    }
    let message = format!("the path {:?} does not begin with `/`", path.value);
    refuse("bad-name", node.at, message, "a server of HTTP answers 400", CURE)
}

/// A host name or an address, perhaps with a port.
pub fn http_host(node: &YamlNode) -> ScalarResult<At<String>> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-.:[]".contains(c);
    safe(node, "the host name", 253, is_allowed, "write a host name, such as www.example.org")
}

/// A name of DNS; `.`: the root.
pub fn dns_name(node: &YamlNode) -> ScalarResult<At<String>> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let cure = "write a name, such as example.org";
    let name = safe(node, "the name", 253, is_allowed, cure)?;
    let labels = name.value.strip_suffix('.').unwrap_or(&name.value);
    let is_right = |label: &str| (1..=63).contains(&label.len());
    if name.value == "." || labels.split('.').all(is_right) {
        return Ok(name);
    }
    let message = format!("{:?} is no name of DNS", name.value);
    refuse("bad-name", node.at, message, "each part between dots has 1 to 63 characters", cure)
}

/// A type of record.
pub fn dns_record(node: &YamlNode) -> ScalarResult<At<DnsRecord>> {
    let known: Vec<&str> = DnsRecord::ALL.iter().map(|record| record.as_str()).collect();
    word(node, "type of record that keepalived asks for", "unknown-word", &known, |text| {
        DnsRecord::ALL.iter().copied().find(|record| record.as_str() == text)
    })
}

/// Any text without control characters.
pub fn plain_text(node: &YamlNode, what: &str) -> ScalarResult<At<String>> {
    safe(node, what, 256, |c| !c.is_control(), "write 1 to 256 bytes without control characters")
}

/// A word of a command: no character that keepalived reads in another way, and braces only around [`SCRIPT_WORDS`].
pub fn script_word(node: &YamlNode) -> ScalarResult<At<String>> {
    const CURE: &str =
        "use letters, digits, spaces and -._/:=,+%?&*@; put anything else into the script";
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || " -._/:=,+%?&*@{}".contains(c);
    let word = safe(node, "a word of the command", 256, is_allowed, CURE)?;
    let mut rest = word.value.clone();
    for known in SCRIPT_WORDS {
        rest = rest.replace(&format!("{{{known}}}"), "");
    }
    if !rest.contains(['{', '}']) {
        return Ok(word);
    }
    let known = SCRIPT_WORDS.map(|word| format!("{{{word}}}")).join(", ");
    refuse(
        "unknown-word",
        node.at,
        format!("{:?} has braces around a word that stands for nothing", word.value),
        "words in braces stand for what differs between real servers",
        format!("one of: {known}"),
    )
}
