//! YAML text as a tree in which everything knows where it stands.
//!
//! Responsible for the syntax: text to scalars, lists and mappings with their positions, duplicate
//! keys, anchors, and limits that no file can break. What the keys mean is `load`'s business.
//!
//! The tree is built from the events of `granit-parser` (the parser below `serde-saphyr`) rather
//! than by serde: a deserialiser stops at the first error, decides what a scalar is before we can
//! ask what is wanted there, and refuses or swallows a duplicate key without saying where the
//! first one was. A scalar stays text here; only its reader says what it must be.

use std::collections::HashMap;

use granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};

use crate::finding::{Finding, Position};
use crate::visible::is_hidden;

/// Nested deeper than the format ever goes; also bounds every recursion over the tree.
const MAX_DEPTH: usize = 24;
/// Nodes in one file, those repeated by aliases counted again.
const MAX_NODES: usize = 500_000;
/// Bytes of text in one file, those repeated by aliases counted again: twice what a file may have.
const MAX_TEXT: usize = 8 * 1024 * 1024;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub at: Position,
}

/// One value of the file.
#[derive(Debug, Clone)]
pub struct Node {
    /// What it is.
    pub content: Content,
    /// Where it stands.
    pub at: Position,
}

/// What a value is.
#[derive(Debug, Clone)]
pub enum Content {
    /// Nothing, `~` or `null`.
    Nothing,
    /// Text; what it means is decided by who reads it.
    Scalar {
        /// Without quotes, escapes replaced.
        text: String,
        /// Written without quotes.
        plain: bool,
    },
    /// `[a, b]` or lines with dashes.
    List(Vec<Node>),
    /// `{a: b}` or lines with colons. No key is in it twice.
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The key's text.
    pub key: At<String>,
    /// Its value.
    pub value: Node,
}

/// Reads `text`. `None` where it is not YAML at all: then the one finding says why.
pub fn parse(text: &str) -> (Option<Node>, Vec<Finding>) {
    let mut options = granit_parser::Options::default();
    options.set_emit_comments(false);
    options.block_nesting_limit = MAX_DEPTH;
    options.flow_nesting_limit = MAX_DEPTH;
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let done = match event {
            Ok((event, span)) => builder.take(event, span),
            Err(error) => Err(syntax(&error).into()),
        };
        if let Err(stop) = done {
            builder.findings.push(*stop);
            return (None, builder.findings);
        }
    }
    (builder.root, builder.findings)
}

/// A finding after which the rest of the text cannot be trusted.
type Stop = Box<Finding>;

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, Size)>,
    root: Option<Node>,
    held: Held,
    findings: Vec<Finding>,
}

/// What memory it takes.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    nodes: usize,
    /// Bytes.
    text: usize,
}

/// How much a node holds, itself included.
#[derive(Debug, Clone, Copy)]
struct Size {
    held: Held,
    height: usize,
}

/// A collection whose end has not come yet.
struct Open {
    collection: Collection,
    start: Span,
    anchor: usize,
    held_before: Held,
    height: usize,
}

enum Collection {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, seen: HashMap<String, Position>, key: Option<Key> },
}

enum Key {
    Good(At<String>),
    /// A duplicate, or no scalar: what it holds is read and dropped.
    Dropped,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Stop> {
        if span.tag_start().is_some() {
            self.findings.push(tag(span));
        }
        match event {
            Event::DocumentStart(..) if self.root.is_some() => Err(second_document(span).into()),
            Event::Scalar(text, style, anchor, _) => {
                let held = Held { nodes: 1, text: text.len() };
                self.count(held, span)?;
                let plain = matches!(style, ScalarStyle::Plain);
                let content = match &*text {
                    "" | "~" | "null" | "Null" | "NULL" if plain => Content::Nothing,
                    _ => Content::Scalar { text: text.into_owned(), plain },
                };
                let size = Size { held, height: 0 };
                self.finish(Node { content, at: position(span) }, anchor, size);
                Ok(())
            }
            Event::SequenceStart(_, anchor, _) => {
                self.open(Collection::List(Vec::new()), span, anchor)
            }
            Event::MappingStart(_, anchor, _) => {
                let seen = HashMap::new();
                self.open(Collection::Map { entries: Vec::new(), seen, key: None }, span, anchor)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.close(span);
                Ok(())
            }
            Event::Alias(anchor) => {
                let Some(&(_, size)) = self.anchors.get(&anchor) else {
                    return Err(self_reference(span).into());
                };
                self.count(size.held, span)?;
                if self.open.len() + size.height > MAX_DEPTH {
                    return Err(too_deep(span).into());
                }
                if let Some((node, _)) = self.anchors.get(&anchor).cloned() {
                    self.finish(node, 0, size);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn count(&mut self, more: Held, span: Span) -> Result<(), Stop> {
        self.held.nodes = self.held.nodes.saturating_add(more.nodes);
        self.held.text = self.held.text.saturating_add(more.text);
        let fits = self.held.nodes <= MAX_NODES && self.held.text <= MAX_TEXT;
        if fits { Ok(()) } else { Err(too_large(span, self.held).into()) }
    }

    fn open(&mut self, collection: Collection, start: Span, anchor: usize) -> Result<(), Stop> {
        let held_before = self.held;
        self.count(Held { nodes: 1, text: 0 }, start)?;
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(start).into());
        }
        self.open.push(Open { collection, start, anchor, held_before, height: 1 });
        Ok(())
    }

    fn close(&mut self, end: Span) {
        let Some(Open { collection, start, anchor, held_before, height }) = self.open.pop() else {
            return;
        };
        let mut at = position(Span::new(start.start, end.end));
        let content = match collection {
            Collection::List(items) => Content::List(items),
            Collection::Map { entries, .. } => {
                if let (0, Some(first)) = (at.length, entries.first()) {
                    at = first.key.at;
                }
                Content::Map(entries)
            }
        };
        let held = Held {
            nodes: self.held.nodes.saturating_sub(held_before.nodes),
            text: self.held.text.saturating_sub(held_before.text),
        };
        self.finish(Node { content, at }, anchor, Size { held, height });
    }

    /// Puts a node that is complete where it belongs.
    fn finish(&mut self, node: Node, anchor: usize, size: Size) {
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), size));
        }
        if let Some(parent) = self.open.last_mut() {
            parent.height = parent.height.max(size.height + 1);
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open { collection: Collection::List(items), .. }) => items.push(node),
            Some(Open { collection: Collection::Map { entries, seen, key }, .. }) => {
                match key.take() {
                    None => *key = Some(take_key(node, seen, &mut self.findings)),
                    Some(Key::Dropped) => {}
                    Some(Key::Good(key)) => entries.push(Entry { value: placed(node, &key), key }),
                }
            }
        }
    }
}

/// A value that is not there is missing beside its key, not where the parser noticed.
fn placed(mut node: Node, key: &At<String>) -> Node {
    if matches!(node.content, Content::Nothing) && node.at.length == 0 {
        node.at = key.at;
    }
    node
}

fn take_key(node: Node, seen: &mut HashMap<String, Position>, findings: &mut Vec<Finding>) -> Key {
    let Content::Scalar { text, .. } = node.content else {
        findings.push(Finding::error(
            "bad-key",
            node.at,
            "a key must be a word",
            "keys here are names: of settings, hosts, networks and interfaces",
            "write `name: value`; a value in braces or brackets cannot stand before the colon",
        ));
        return Key::Dropped;
    };
    if text == "<<" {
        findings.push(Finding::error(
            "bad-key",
            node.at,
            "merge keys (`<<`) are not understood",
            "they belong to YAML 1.1, and hide which value counts",
            "put what several services or hosts share under `defaults`",
        ));
        return Key::Dropped;
    }
    if let Some(first) = seen.get(&text) {
        findings.push(Finding::error(
            "duplicate-key",
            node.at,
            format!("{text:?} stands here twice: the first is at {}:{}", first.line, first.column),
            "only one of them could count, and nobody could tell which was meant",
            "remove or rename one of them",
        ));
        return Key::Dropped;
    }
    seen.insert(text.clone(), node.at);
    Key::Good(At { value: text, at: node.at })
}

fn position(span: Span) -> Position {
    let Position { line, column, .. } = mark(span.start);
    let same_line = span.start.line() == span.end.line();
    let length = if same_line { span.end.col().saturating_sub(span.start.col()) } else { 0 };
    Position { line, column, length: small(length) }
}

fn mark(mark: Marker) -> Position {
    Position { line: small(mark.line()), column: small(mark.col().saturating_add(1)), length: 0 }
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn syntax(error: &ScanError) -> Finding {
    Finding::error(
        "yaml-syntax",
        mark(*error.marker()),
        format!("this is not YAML: {}", plain(&error.info())),
        "nothing after this place can be understood",
        "check indentation (blanks, no tabs), colons followed by a blank, and closing brackets and quotes",
    )
}

/// What the parser says may quote the text.
fn plain(message: &str) -> String {
    let shown = |c: char| if is_hidden(c) { '\u{fffd}' } else { c };
    message.chars().map(shown).collect()
}

fn tag(span: Span) -> Finding {
    Finding::error(
        "yaml-tag",
        position(span.tag_span().unwrap_or(span)),
        "tags mean nothing here",
        "every key says by itself what kind of value it takes",
        "remove the tag (the word with the exclamation mark)",
    )
}

fn second_document(span: Span) -> Finding {
    Finding::error(
        "second-document",
        position(span),
        "a second document begins here",
        "one file describes one cluster",
        "put the other cluster into a file of its own",
    )
}

fn self_reference(span: Span) -> Finding {
    Finding::error(
        "yaml-alias",
        position(span),
        "this alias stands for a value that it is itself a part of",
        "it would never end",
        "write the value out",
    )
}

fn too_large(span: Span, held: Held) -> Finding {
    let most = if held.nodes > MAX_NODES {
        format!("{MAX_NODES} values")
    } else {
        format!("{MAX_TEXT} bytes of text")
    };
    Finding::error(
        "too-large",
        position(span),
        format!("more than {most}, counting what aliases repeat"),
        "a file like that is an accident or an attack: aliases of aliases multiply",
        "split the cluster into several files, or write fewer aliases",
    )
}

fn too_deep(span: Span) -> Finding {
    Finding::error(
        "too-deep",
        position(span),
        format!("nested more than {MAX_DEPTH} levels deep"),
        "nothing in this format lies that deep",
        "check indentation and brackets",
    )
}
