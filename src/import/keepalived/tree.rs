//! The block structure of a keepalived.conf.

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

/// Words, quotes and escapes as keepalived.conf(5) has them under "Quoted strings".
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' | '\'' => {
                let word = word.get_or_insert_default();
                while let Some(inner) = characters.next().filter(|inner| *inner != character) {
                    let inner = if inner == '\\' { characters.next() } else { Some(inner) };
                    word.extend(inner);
                }
            }
            '\\' => word.get_or_insert_default().extend(characters.next()),
            // A reference to an undefined name: not a block.
            '$' if characters.peek() == Some(&'{') => {
                let word = word.get_or_insert_default();
                word.push('$');
                for inner in characters.by_ref() {
                    word.push(inner);
                    if inner == '}' {
                        break;
                    }
                }
            }
            '{' | '}' => {
                tokens.extend(word.take().map(Token::Word));
                tokens.push(if character == '{' { Token::Open } else { Token::Close });
            }
            blank if blank.is_whitespace() => tokens.extend(word.take().map(Token::Word)),
            other => word.get_or_insert_default().push(other),
        }
    }
    tokens.extend(word.map(Token::Word));
    tokens
}
