//! Text from outside, made safe for a terminal.
//!
//! Text of hosts, other operators and files may have anything in it: commands for the terminal (clear the screen, write
//! the clipboard), a carriage return that overwrites a line, characters that turn the direction of
//! writing around or that cannot be seen. Each is replaced by a visible escape: `\x1b`, `\r`, `\u{202e}`.
//!
//! It is done once, where text comes in: the output of ssh and of a host before the agent's first frame
//! ([`crate::transport::greeting`]), every text in every reply ([`crate::transport`]), an operator's name,
//! a saved plan. A tab stays: the kernel's settings with several values have it. What is
//! compared with the kernel cannot be changed by this: names of topologies, hosts and interfaces, keys
//! of addresses, routes and services are visible ASCII by their types ([`crate::topology`]), and
//! the kernel's settings are numbers and words. Cleaning what is clean already changes nothing. Pure.
//!
//! Bytes that are no text become hexadecimal digits ([`hex`]).

use std::borrow::Cow;
use std::fmt::Write as _;

/// Bytes as hexadecimal digits in lower case, two each.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether a terminal would obey `c`, or not show it. Control characters (C0 but for the tab, DEL, C1);
/// line and paragraph separators; what orders the direction of writing (U+061C, U+200E, U+200F,
/// U+202A-202E, U+2066-2069); what has no width (U+00AD, U+180E, U+200B-200D, U+2060-206F, U+FEFF,
/// U+FFF9-FFFB, the tags U+E0000-E007F).
pub fn is_hidden(c: char) -> bool {
    match c {
        '\t' => false,
        c if c.is_ascii() => c.is_ascii_control(),
        '\u{ad}'
        | '\u{61c}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}' => true,
        c => c.is_control(),
    }
}

/// The text with a visible escape for each character that [`is_hidden`].
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_hidden(c) {
            escape(c, &mut out);
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// The same for text of several lines, which stay lines: each without blanks at its end, and without
/// empty ones. A carriage return before a line feed is a part of it.
pub fn visible_lines(text: &str) -> String {
    let lines = text.lines().map(|line| visible(line.trim_end()));
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

/// Appends what stands for `c`.
pub fn escape(c: char, out: &mut String) {
    match c {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        c => {
            let number = u32::from(c);
            // Writing to a String does not fail.
            let _ = match number {
                0..=0xff => write!(out, "\\x{number:02x}"),
                _ => write!(out, "\\u{{{number:x}}}"),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_instead() {
        for (text, shown) in [
            ("web1: ok", "web1: ok"),
            ("3\t50", "3\t50"),
            ("\u{1b}]52;c;aGk=\u{7}", "\\x1b]52;c;aGk=\\x07"),
            ("\u{1b}[2J", "\\x1b[2J"),
            ("\u{9b}2J", "\\x9b2J"),
            ("failed\rverified", "failed\\rverified"),
            ("a\nweb2: verified", "a\\nweb2: verified"),
            ("\u{202e}drow", "\\u{202e}drow"),
            (
                "\u{2066}a\u{2069}\u{200e}\u{200f}\u{61c}",
                "\\u{2066}a\\u{2069}\\u{200e}\\u{200f}\\u{61c}",
            ),
            ("ro\u{200b}ot\u{feff}\u{ad}", "ro\\u{200b}ot\\u{feff}\\xad"),
            ("\u{e0041}\u{7f}\0", "\\u{e0041}\\x7f\\x00"),
            ("Grüße, 東京 – ok", "Grüße, 東京 – ok"),
        ] {
            assert_eq!(visible(text), shown);
        }
    }

    #[test]
    fn lines_stay_lines() {
        let said = "Welcome\r\n\u{1b}[31mto web1  \n\n\u{202e}bye\rnow";
        assert_eq!(visible_lines(said), "Welcome\n\\x1b[31mto web1\n\\u{202e}bye\\rnow");
    }

    proptest! {
        #[test]
        fn what_is_clean_is_left_alone(text in any::<String>()) {
            let once = visible(&text).into_owned();
            prop_assert!(!once.chars().any(is_hidden));
            prop_assert_eq!(visible(&once), once.as_str());
        }
    }
}
