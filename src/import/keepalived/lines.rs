//! The lines of a keepalived.conf as its parser sees them: without comments, with definitions
//! (`$NAME=VALUE`) replaced, and with `~SEQ` and `~LST` expanded. keepalived.conf(5), "ADVANCED
//! CONFIGURATION".
//!
//! Statements that depend on the host get a remark and are left out: `include`, and lines for one
//! configuration (`@NAME`).

use std::collections::BTreeMap;

use super::super::remark::{Remarks, quote};

/// A line, with the line number of its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ConfigLine {
    /// From 1.
    pub number: u32,
    /// Trimmed, without comment, known definitions replaced.
    pub text: String,
}

/// Limits of the expanded text: more than any real file, and small enough for memory.
const MAX_BYTES: usize = 4 << 20;
const MAX_LINES: usize = 100_000;
/// Maximum nesting of definitions.
const MAX_DEPTH: u32 = 32;

/// Reads `text` into lines.
pub(super) fn lines(text: &str, remarks: &mut Remarks) -> Vec<ConfigLine> {
    let mut reader = LineReader {
        definitions: BTreeMap::new(),
        done: Vec::new(),
        bytes: 0,
        visits: 0,
        exhausted: false,
        remarks,
    };
    let mut source = (1u32..).zip(text.lines()).peekable();
    while let Some((number, line)) = source.next() {
        let mut line = without_comment(line).trim().to_owned();
        // Only a definition may continue after a backslash; it keeps its line breaks.
        while line.ends_with('\\') && source.peek().is_some() {
            line.pop();
            line.truncate(line.trim_end().len());
            let (_, next) = source.next().unwrap_or_default();
            line.push('\n');
            line.push_str(without_comment(next).trim());
        }
        reader.remarks.line = Some(number);
        match definition(&line) {
            Some((name, value)) => reader.define(name, value),
            None => reader.take(&line, number, 0),
        }
    }
    reader.done
}

/// Up to a `#` or `!` outside of quotes.
fn without_comment(line: &str) -> &str {
    let mut quoted = None;
    let mut escaped = false;
    for (at, character) in line.char_indices() {
        match (escaped, quoted, character) {
            (true, _, _) => escaped = false,
            (false, _, '\\') => escaped = true,
            (false, None, '"' | '\'') => quoted = Some(character),
            (false, Some(open), close) if open == close => quoted = None,
            (false, None, '#' | '!') => return line.get(..at).unwrap_or(line),
            _ => {}
        }
    }
    line
}

struct LineReader<'r> {
    definitions: BTreeMap<String, String>,
    done: Vec<ConfigLine>,
    bytes: usize,
    visits: usize,
    exhausted: bool,
    remarks: &'r mut Remarks,
}

impl LineReader<'_> {
    fn define(&mut self, name: &str, value: &str) {
        self.definitions.insert(name.to_owned(), value.to_owned());
    }

    /// Expands a line, which can become several lines.
    fn take(&mut self, text: &str, number: u32, depth: u32) {
        let text = text.trim();
        if text.is_empty() || self.is_exhausted(text, depth) {
            return;
        }
        if text.contains('\n') {
            for line in text.split('\n') {
                self.take(line, number, depth + 1);
            }
            return;
        }
        if let Some((name, value)) = definition(text) {
            self.define(name, value);
            return;
        }
        if text.starts_with('@') {
            let word = text.split_whitespace().next().unwrap_or_default();
            self.remarks.not_understood(
                quote(word),
                "this line applies to some hosts only (`keepalived -i`); left out. \
                 Remove the prefix if it is for this director",
            );
            return;
        }
        if let Some((bindings, rest)) = block(text) {
            self.repeat(&bindings, rest, number, depth);
            return;
        }
        if let Some(replaced) = self.replaced(text) {
            self.bytes += replaced.len();
            self.take(&replaced, number, depth + 1);
            return;
        }
        self.keep(text, number);
    }

    fn keep(&mut self, text: &str, number: u32) {
        let word = text.split_whitespace().next().unwrap_or_default();
        if matches!(
            word,
            "include" | "includer" | "includem" | "includew" | "includeb" | "includea"
        ) {
            self.remarks.not_understood(
                word,
                "import does not read other files; import that file too, or copy its content here",
            );
            return;
        }
        self.bytes += text.len();
        self.done.push(ConfigLine { number, text: text.to_owned() });
    }

    fn is_exhausted(&mut self, text: &str, depth: u32) -> bool {
        self.visits += 1;
        let too_much = depth > MAX_DEPTH
            || self.visits > MAX_LINES
            || text.len() > MAX_BYTES
            || self.bytes > MAX_BYTES;
        if too_much && !self.exhausted {
            self.exhausted = true;
            self.remarks.not_understood(
                "definitions",
                "they expand to more than 100000 lines or 4 MB, or contain themselves; \
                 the rest of the expansion is left out",
            );
        }
        too_much
    }

    /// Expands the line once for each of the bindings.
    fn repeat(&mut self, bindings: &[Vec<(String, String)>], rest: &str, number: u32, depth: u32) {
        for binding in bindings {
            if self.exhausted {
                return;
            }
            self.definitions.extend(binding.iter().cloned());
            self.take(rest, number, depth + 1);
        }
    }

    /// The line with known definitions replaced; `None` if it has none.
    fn replaced(&self, text: &str) -> Option<String> {
        let mut result = String::new();
        let mut rest = text;
        let mut any = false;
        while let Some((before, after)) = rest.split_once('$') {
            result.push_str(before);
            rest = after;
            let known = reference(after)
                .and_then(|(name, tail)| Some((self.definitions.get(name)?, tail)))
                .filter(|(value, _)| result.len() + value.len() <= MAX_BYTES);
            match known {
                Some((value, tail)) => {
                    result.push_str(value);
                    rest = tail;
                    any = true;
                }
                None => result.push('$'),
            }
        }
        result.push_str(rest);
        any.then_some(result)
    }
}

/// `$NAME=VALUE`.
fn definition(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.strip_prefix('$')?.split_once('=')?;
    is_name(name).then(|| (name, value.trim()))
}

/// A reference after `$`: `NAME` up to a blank or the end, or `{NAME}`; and the rest of the text.
fn reference(text: &str) -> Option<(&str, &str)> {
    if let Some(inner) = text.strip_prefix('{') {
        return inner.split_once('}').filter(|(name, _)| is_name(name));
    }
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    text.split_at_checked(end).filter(|(name, _)| is_name(name))
}

fn is_name(text: &str) -> bool {
    text.chars().next().is_some_and(|first| !first.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// One value for each name of a block, for each repetition.
type Bindings = Vec<Vec<(String, String)>>;

/// `~SEQ(NAME, START, STEP, END) REST` and `~LST(NAME, VALUE, ...) REST`.
fn block(text: &str) -> Option<(Bindings, &str)> {
    let (kind, rest) = text.strip_prefix('~')?.split_once('(')?;
    let (arguments, rest) = rest.split_once(')')?;
    let bindings = match kind.trim() {
        "SEQ" => sequence(arguments, false)?,
        "SEQx" => sequence(arguments, true)?,
        "LST" => list(arguments)?,
        _ => return None,
    };
    Some((bindings, rest))
}

fn sequence(arguments: &str, hex: bool) -> Option<Bindings> {
    let (name, numbers) = arguments.split_once(',')?;
    let numbers: Vec<i64> = numbers.split(',').map(|n| integer(n.trim())).collect::<Option<_>>()?;
    let (start, step, end) = match *numbers.as_slice() {
        [end] => (end.signum(), end.signum(), end),
        [start, end] => (start, if end < start { -1 } else { 1 }, end),
        [start, step, end] => (start, step, end),
        _ => return None,
    };
    if step == 0 || !is_name(name.trim()) {
        return None;
    }
    let mut bindings = Vec::new();
    let mut value = start;
    while (step > 0 && value <= end) || (step < 0 && value >= end) {
        let text = if hex { format!("{value:x}") } else { value.to_string() };
        bindings.push(vec![(name.trim().to_owned(), text)]);
        if bindings.len() >= MAX_LINES {
            break;
        }
        value = value.checked_add(step)?;
    }
    Some(bindings)
}

fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let value = match digits.strip_prefix("0x") {
        Some(digits) => i64::from(u32::from_str_radix(digits, 16).ok()?),
        None => i64::from(digits.parse::<u32>().ok()?),
    };
    Some(if negative { -value } else { value })
}

/// `NAME, V1, V2` or `{NAME, NAME}, {V, V}, {V, V}`.
fn list(arguments: &str) -> Option<Bindings> {
    let mut groups = grouped(arguments)?.into_iter();
    let names = groups.next()?;
    if !names.iter().all(|name| is_name(name)) {
        return None;
    }
    groups
        .map(|values| {
            (values.len() == names.len()).then(|| names.iter().cloned().zip(values).collect())
        })
        .collect()
}

fn grouped(arguments: &str) -> Option<Vec<Vec<String>>> {
    let words = |text: &str| text.split(',').map(|word| word.trim().to_owned()).collect::<Vec<_>>();
    let mut groups = Vec::new();
    let mut rest = arguments.trim();
    while !rest.is_empty() {
        let group;
        if let Some(inner) = rest.strip_prefix('{') {
            (group, rest) = inner.split_once('}')?;
            groups.push(words(group));
        } else {
            (group, rest) = rest.split_at_checked(rest.find(',').unwrap_or(rest.len()))?;
            groups.push(vec![group.trim().to_owned()]);
        }
        rest = rest.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    Some(groups)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<String> {
        let mut remarks = Remarks::default();
        lines(text, &mut remarks).into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn definitions_are_replaced_where_they_are_used() {
        let text =
            "$BASE=10.2.${SUB}\n$SUB=0\n${BASE}.100/32 # x\n$SUB=10\n${BASE}.100/32\n${NO} $NO\n";
        assert_eq!(read(text), ["10.2.0.100/32", "10.2.10.100/32", "${NO} $NO"]);
    }

    #[test]
    fn a_definition_can_have_lines() {
        let text =
            "$RS= \\\n real_server 10.0.0.${N} 80 { \\\n weight 1 \\\n }\n$N=1\n$RS\n$N=2\n$RS\n";
        let one = |n| [format!("real_server 10.0.0.{n} 80 {{"), "weight 1".into(), "}".into()];
        assert_eq!(read(text), [one(1), one(2)].concat());
    }

    #[test]
    fn sequences_and_lists_expand() {
        assert_eq!(
            read("~SEQ(N, 0, 2) 10.0.${N}.1\n~SEQ(A,2,-1,1) ~SEQx(B, 9, 10) ${A}.${B}\n"),
            ["10.0.0.1", "10.0.1.1", "10.0.2.1", "2.9", "2.a", "1.9", "1.a"]
        );
        assert_eq!(
            read("~LST({I, J}, {10,1},{20,4}) 192.${I}.${J}\n~LST(K, 5,6) a${K}\n"),
            ["192.10.1", "192.20.4", "a5", "a6"]
        );
    }

    #[test]
    fn endless_expansion_is_cut_off() {
        let mut remarks = Remarks::default();
        let bomb = "$A=$B $B\n$B=${C}${C}\n$C=${A} ${A}\n$A\n~SEQ(N,1,4000000000) ~SEQ(M,1,4000000000) x\n";
        let count = lines(bomb, &mut remarks).len();
        assert!(count <= MAX_LINES, "{count}");
        assert!(!remarks.all.is_empty());
    }

    #[test]
    fn comments_end_a_line_but_not_a_quoted_text() {
        assert_eq!(read("a \"b # c ! d\" e ! f\n# g\n! h\ni\\#j"), ["a \"b # c ! d\" e", "i\\#j"]);
    }
}
