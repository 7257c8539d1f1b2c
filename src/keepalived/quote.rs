//! Text of the file as a string in keepalived's configuration.

use std::fmt::Write as _;

/// `text` as one quoted string that keepalived reads with escapes (`regex`): every byte that could end the
/// string or the line, begin a comment, a block, a definition or a condition is written as `\nnn`, in octal
/// (lib/parser.c, `alloc_strvec_quoted_escaped`, `decomment`).
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._/:=,+".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "\\{byte:03o}");
        }
    }
    out.push('"');
    out
}

/// A regular expression of PCRE2 that matches exactly `text`: a backslash takes the meaning from any ASCII character that is
/// neither letter nor digit (pcre2pattern(3)).
pub(super) fn literal(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        if character.is_ascii() && !character.is_ascii_alphanumeric() {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

/// A program and its arguments as the value of `misc_path`. Versions differ in the escapes that they read there (2.2.7 reads
/// them twice, 2.3.2 not at all), so the words have only characters that need none
/// ([`crate::topology`], `scalar::checks::script_word`).
pub(super) fn command_line(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    format!("\"{}\"", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_ends_its_string_or_its_line() {
        let text = "a\" } # !\n$X ${_PWD} @b ~SEQ(x, 1) \\ 'é";
        let quoted = quoted(text);
        assert!(
            !quoted[1..quoted.len() - 1]
                .contains(['"', '\'', '\n', ' ', '$', '#', '!', '{', '}', '@', '~'])
        );
        assert_eq!(
            quoted,
            "\"a\\042\\040\\175\\040\\043\\040\\041\\012\\044X\\040\\044\\173\\137PWD\\175\\040\\100b\\040\\176SEQ\\050x,\\0401\\051\\040\\134\\040\\047\\303\\251\"".replace("\\137", "_")
        );
    }

    #[test]
    fn a_text_is_no_expression() {
        assert_eq!(literal("a.b (c)"), "a\\.b\\ \\(c\\)");
    }

    #[test]
    fn arguments_stay_apart() {
        let words = ["/bin/check".to_owned(), "a b".to_owned()];
        assert_eq!(command_line(&words), "\"'/bin/check' 'a b'\"");
    }
}
