//! The block structure of a keepalived.conf.

use std::iter::Peekable;
use std::str::Chars;

use super::super::remark::Remarks;
use super::lines::ConfigLine;

/// A keyword with its parameters, and the block that it opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Statement {
    /// Line number, from 1.
    pub line: u32,
    /// The keyword and its parameters; never empty.
    pub words: Vec<String>,
    /// The statements in its braces; `None` without braces.
    pub body: Option<Vec<Statement>>,
}

impl Statement {
    /// The first word.
    pub fn keyword(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The word at `index`; the keyword is 0.
    pub fn word(&self, index: usize) -> Option<&str> {
        self.words.get(index).map(String::as_str)
    }

    /// The statements in its block.
    pub fn children(&self) -> &[Self] {
        self.body.as_deref().unwrap_or_default()
    }
}

/// Maximum nesting of blocks; keepalived uses five levels.
const MAX_DEPTH: usize = 32;

/// Builds the statements.
pub(super) fn tree(lines: &[ConfigLine], remarks: &mut Remarks) -> Vec<Statement> {
    let mut open: Vec<Vec<Statement>> = vec![Vec::new()];
    let mut too_deep = 0usize;
    for line in lines {
        remarks.line = Some(line.number);
        let mut words = Vec::new();
        for token in tokens(&line.text) {
            match token {
                Token::Word(word) => words.push(word),
                Token::Open if open.len() > MAX_DEPTH => {
                    finish(&mut open, &mut words, line.number);
                    if too_deep == 0 {
                        remarks.not_understood("{", "blocks are nested too deep");
                    }
                    too_deep += 1;
                }
                Token::Open => {
                    finish(&mut open, &mut words, line.number);
                    if open.last().and_then(|level| level.last()).is_none_or(|s| s.body.is_some()) {
                        remarks.not_understood("{", "a block without a keyword before it");
                        let words = vec![String::new()];
                        push(&mut open, Statement { line: line.number, words, body: None });
                    }
                    open.push(Vec::new());
                }
                Token::Close => {
                    finish(&mut open, &mut words, line.number);
                    if too_deep > 0 {
                        too_deep -= 1;
                    } else if !close(&mut open) {
                        remarks.not_understood("}", "it closes no block; left out");
                    }
                }
            }
        }
        finish(&mut open, &mut words, line.number);
    }
    remarks.line = None;
    while close(&mut open) {
        remarks.not_understood("the end of the file", "a block is still open; closed here");
    }
    open.pop().unwrap_or_default()
}

fn finish(open: &mut [Vec<Statement>], words: &mut Vec<String>, line: u32) {
    if !words.is_empty() {
        push(open, Statement { line, words: std::mem::take(words), body: None });
    }
}

fn push(open: &mut [Vec<Statement>], statement: Statement) {
    if let Some(level) = open.last_mut() {
        level.push(statement);
    }
}

/// Closes the innermost block; false if none is open.
fn close(open: &mut Vec<Vec<Statement>>) -> bool {
    if open.len() < 2 {
        return false;
    }
    let body = open.pop();
    if let Some(statement) = open.last_mut().and_then(|level| level.last_mut()) {
        statement.body = body;
    }
    true
}

enum Token {
    Word(String),
    Open,
    Close,
}

/// Words, quotes and escapes as keepalived.conf(5) has them under "Quoted strings" and as lib/parser.c reads them
/// (`alloc_strvec_quoted_escaped`).
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut characters = text.chars().peekable();
    let done = |word: Vec<u8>| Token::Word(String::from_utf8_lossy(&word).into_owned());
    while let Some(character) = characters.next() {
        match character {
            '"' | '\'' => {
                let word = word.get_or_insert_default();
                while let Some(inner) = characters.next().filter(|inner| *inner != character) {
                    if inner == '\\' { escape(word, &mut characters) } else { append(word, inner) }
                }
            }
            '\\' => escape(word.get_or_insert_default(), &mut characters),
            // A reference to an undefined name: not a block.
            '$' if characters.peek() == Some(&'{') => {
                let word = word.get_or_insert_default();
                word.push(b'$');
                for inner in characters.by_ref() {
                    append(word, inner);
                    if inner == '}' {
                        break;
                    }
                }
            }
            '{' | '}' => {
                tokens.extend(word.take().map(done));
                tokens.push(if character == '{' { Token::Open } else { Token::Close });
            }
            blank if blank.is_whitespace() => tokens.extend(word.take().map(done)),
            other => append(word.get_or_insert_default(), other),
        }
    }
    tokens.extend(word.map(done));
    tokens
}

fn append(word: &mut Vec<u8>, character: char) {
    word.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
}

/// What stands behind a backslash: a byte as `x` and hexadecimal or as one to three octal digits, a control character as `c`
/// and a letter, or one of `abEfnrtv`. Any other character stands for itself.
fn escape(word: &mut Vec<u8>, characters: &mut Peekable<Chars<'_>>) {
    let Some(first) = characters.next() else { return };
    let next_digit = |characters: &mut Peekable<Chars<'_>>, radix| {
        characters.next_if(|next| next.is_digit(radix)).and_then(|next| next.to_digit(radix))
    };
    let low_byte = |value: u32| u8::try_from(value & 0xff).unwrap_or(0);
    let byte = match first {
        'x' if characters.peek().is_some_and(char::is_ascii_hexdigit) => {
            let mut value = 0;
            while let Some(digit) = next_digit(characters, 16) {
                value = value << 4 & 0xff | digit;
            }
            low_byte(value)
        }
        'c' if characters.peek().is_some() => {
            characters.next().map_or(0, |next| low_byte(u32::from(next) & 0x1f))
        }
        '0'..='7' => {
            let mut value = first.to_digit(8).unwrap_or(0);
            for _ in 0..2 {
                let Some(digit) = next_digit(characters, 8) else { break };
                value = value << 3 | digit;
            }
            low_byte(value)
        }
        'a' => 0x07,
        'b' => 0x08,
        'E' => 0x1b,
        'f' => 0x0c,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 0x0b,
        other => return append(word, other),
    };
    word.push(byte);
}

/// The words of a command: what stands between quotes is read as a line of its own, quotes and escapes included
/// (lib/notify.c, `set_script_params_array`).
pub(super) fn command_words(text: &str) -> Vec<String> {
    tokens(text)
        .into_iter()
        .map(|token| match token {
            Token::Word(word) => word,
            Token::Open => "{".to_owned(),
            Token::Close => "}".to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_read_as_keepalived_reads_them() {
        for (text, expected) in [
            (r#""\\.org\\d""#, r"\.org\d"),
            (r"\056\x2e\56a", "...a"),
            (r"'a b'\ c", "a b c"),
            (r"\303\251", "é"),
            (r"\cA\t\q", "\u{1}\tq"),
        ] {
            assert_eq!(command_words(text), [expected], "{text}");
        }
        assert_eq!(command_words("/bin/a 'b c' \"d\""), ["/bin/a", "b c", "d"]);
    }
}
