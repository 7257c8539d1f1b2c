//! YAML text to a tree with the position of every value.
//!
//! Handles the syntax: scalars, lists and mappings, duplicate keys, anchors, and size limits. `load`
//! knows the keys.
//!
//! The tree is built from the events of `granit-parser` (the parser below `serde-saphyr`), not by
//! serde: a deserialiser stops at the first error, chooses a scalar's type before the expected type is
//! known, and does not report where the first of two duplicate keys is. A scalar stays text here; its
//! reader gives it a type.

use std::collections::HashMap;

use granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};

use crate::finding::{Finding, Position};
use crate::visible::is_hidden;

/// Maximum nesting; the format needs 6 levels. Also bounds every recursion over the tree.
const MAX_DEPTH: usize = 24;
/// Maximum number of nodes in one file; each alias counts its nodes again.
const MAX_NODES: usize = 500_000;
/// Maximum bytes of scalar text in one file, twice the file's size limit; each alias counts its text again.
const MAX_TEXT: usize = 8 * 1024 * 1024;

/// A value with its position in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Its position.
    pub at: Position,
}

/// One value of the file.
#[derive(Debug, Clone)]
pub struct YamlNode {
    /// Scalar, list or mapping.
    pub content: YamlValue,
    /// Its position.
    pub at: Position,
}

/// A YAML value.
#[derive(Debug, Clone)]
pub enum YamlValue {
    /// An empty value, `~` or `null`.
    Null,
    /// Text; its reader gives it a type.
    Scalar {
        /// Unquoted, escapes resolved.
        text: String,
        /// Written without quotes.
        plain: bool,
    },
    /// `[a, b]` or lines with dashes.
    List(Vec<YamlNode>),
    /// `{a: b}` or lines with colons. Keys are unique.
    Map(Vec<KeyValue>),
}

/// A key with its value.
#[derive(Debug, Clone)]
pub struct KeyValue {
    /// The key's text.
    pub key: At<String>,
    /// Its value.
    pub value: YamlNode,
}

/// Reads `text`. `None` if it is not YAML; the finding says why.
pub fn parse(text: &str) -> (Option<YamlNode>, Vec<Finding>) {
    let mut builder = TreeBuilder::default();
    for event in Parser::new_from_str_with_options(text, options()) {
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

/// The parser's options: no comments, and a limit to the depth.
pub(super) fn options() -> granit_parser::Options {
    let mut options = granit_parser::Options::default();
    options.set_emit_comments(false);
    options.block_nesting_limit = MAX_DEPTH;
    options.flow_nesting_limit = MAX_DEPTH;
    options
}

/// A finding that ends the parse.
type FatalFinding = Box<Finding>;

#[derive(Default)]
struct TreeBuilder {
    open: Vec<OpenCollection>,
    anchors: HashMap<usize, (YamlNode, NodeSize)>,
    root: Option<YamlNode>,
    footprint: Footprint,
    findings: Vec<Finding>,
}

/// Memory that nodes take, as counted against the limits.
#[derive(Debug, Clone, Copy, Default)]
struct Footprint {
    nodes: usize,
    /// Bytes.
    text: usize,
}

/// Size of a node and everything in it.
#[derive(Debug, Clone, Copy)]
struct NodeSize {
    footprint: Footprint,
    height: usize,
}

/// A collection that the parser is still in.
struct OpenCollection {
    collection: Collection,
    start: Span,
    anchor: usize,
    footprint_before: Footprint,
    height: usize,
}

enum Collection {
    List(Vec<YamlNode>),
    Map { entries: Vec<KeyValue>, seen: HashMap<String, Position>, key: Option<MapKey> },
}

enum MapKey {
    Good(At<String>),
    /// A duplicate, or not a scalar: its value is parsed and dropped.
    Dropped,
}

impl TreeBuilder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), FatalFinding> {
        if span.tag_start().is_some() {
            self.findings.push(tag(span));
        }
        match event {
            Event::DocumentStart(..) if self.root.is_some() => Err(second_document(span).into()),
            Event::Scalar(text, style, anchor, _) => {
                let footprint = Footprint { nodes: 1, text: text.len() };
                self.count(footprint, span)?;
                let plain = matches!(style, ScalarStyle::Plain);
                let content = match &*text {
                    "" | "~" | "null" | "Null" | "NULL" if plain => YamlValue::Null,
                    _ => YamlValue::Scalar { text: text.into_owned(), plain },
                };
                let size = NodeSize { footprint, height: 0 };
                self.attach(YamlNode { content, at: position(span) }, anchor, size);
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
                self.count(size.footprint, span)?;
                if self.open.len() + size.height > MAX_DEPTH {
                    return Err(too_deep(span).into());
                }
                if let Some((node, _)) = self.anchors.get(&anchor).cloned() {
                    self.attach(node, 0, size);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn count(&mut self, more: Footprint, span: Span) -> Result<(), FatalFinding> {
        self.footprint.nodes = self.footprint.nodes.saturating_add(more.nodes);
        self.footprint.text = self.footprint.text.saturating_add(more.text);
        let fits = self.footprint.nodes <= MAX_NODES && self.footprint.text <= MAX_TEXT;
        if fits { Ok(()) } else { Err(too_large(span, self.footprint).into()) }
    }

    fn open(
        &mut self,
        collection: Collection,
        start: Span,
        anchor: usize,
    ) -> Result<(), FatalFinding> {
        let footprint_before = self.footprint;
        self.count(Footprint { nodes: 1, text: 0 }, start)?;
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(start).into());
        }
        self.open.push(OpenCollection { collection, start, anchor, footprint_before, height: 1 });
        Ok(())
    }

    fn close(&mut self, end: Span) {
        let Some(OpenCollection { collection, start, anchor, footprint_before, height }) =
            self.open.pop()
        else {
            return;
        };
        let mut at = position(Span::new(start.start, end.end));
        let content = match collection {
            Collection::List(items) => YamlValue::List(items),
            Collection::Map { entries, .. } => {
                if let (0, Some(first)) = (at.length, entries.first()) {
                    at = first.key.at;
                }
                YamlValue::Map(entries)
            }
        };
        let footprint = Footprint {
            nodes: self.footprint.nodes.saturating_sub(footprint_before.nodes),
            text: self.footprint.text.saturating_sub(footprint_before.text),
        };
        self.attach(YamlNode { content, at }, anchor, NodeSize { footprint, height });
    }

    /// Adds a complete node to its parent.
    fn attach(&mut self, node: YamlNode, anchor: usize, size: NodeSize) {
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), size));
        }
        if let Some(parent) = self.open.last_mut() {
            parent.height = parent.height.max(size.height + 1);
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(OpenCollection { collection: Collection::List(items), .. }) => items.push(node),
            Some(OpenCollection { collection: Collection::Map { entries, seen, key }, .. }) => {
                match key.take() {
                    None => *key = Some(take_key(node, seen, &mut self.findings)),
                    Some(MapKey::Dropped) => {}
                    Some(MapKey::Good(key)) => {
                        entries.push(KeyValue { value: with_position(node, &key), key });
                    }
                }
            }
        }
    }
}

/// Reports an empty value at its key, not at the place where the parser noticed it.
fn with_position(mut node: YamlNode, key: &At<String>) -> YamlNode {
    if matches!(node.content, YamlValue::Null) && node.at.length == 0 {
        node.at = key.at;
    }
    node
}

fn take_key(
    node: YamlNode,
    seen: &mut HashMap<String, Position>,
    findings: &mut Vec<Finding>,
) -> MapKey {
    let YamlValue::Scalar { text, .. } = node.content else {
        findings.push(Finding::error(
            "bad-key",
            node.at,
            "a key must be a single value",
            "keys are names of settings, hosts, networks and interfaces",
            "write `name: value`; a value in braces or brackets cannot stand before the colon",
        ));
        return MapKey::Dropped;
    };
    if text == "<<" {
        findings.push(Finding::error(
            "bad-key",
            node.at,
            "merge keys (`<<`) are not supported",
            "they belong to YAML 1.1, and the reader cannot see which value applies",
            "put shared values under `defaults`",
        ));
        return MapKey::Dropped;
    }
    if let Some(first) = seen.get(&text) {
        findings.push(Finding::error(
            "duplicate-key",
            node.at,
            format!("duplicate key {text:?}: the first is at {}:{}", first.line, first.column),
            "only one of them can apply, and lvsprov cannot tell which",
            "remove or rename one of them",
        ));
        return MapKey::Dropped;
    }
    seen.insert(text.clone(), node.at);
    MapKey::Good(At { value: text, at: node.at })
}

/// Where `span` begins, and its length where it ends on the same line.
pub(super) fn position(span: Span) -> Position {
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
        "the text after this place cannot be parsed",
        "check the indentation (spaces, no tabs), the space after each colon, and closing brackets and quotes",
    )
}

/// Text of the file, or a message that quotes it, with hidden characters replaced.
pub(super) fn plain(message: &str) -> String {
    let shown = |c: char| if is_hidden(c) { '\u{fffd}' } else { c };
    message.chars().map(shown).collect()
}

fn tag(span: Span) -> Finding {
    Finding::error(
        "yaml-tag",
        position(span.tag_span().unwrap_or(span)),
        "YAML tags are not supported",
        "each key has a fixed type",
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
        "this alias refers to a value that contains it",
        "the value would be infinite",
        "write the value out",
    )
}

fn too_large(span: Span, footprint: Footprint) -> Finding {
    let most = if footprint.nodes > MAX_NODES {
        format!("{MAX_NODES} values")
    } else {
        format!("{MAX_TEXT} bytes of text")
    };
    Finding::error(
        "too-large",
        position(span),
        format!("more than {most}, aliases counted each time"),
        "such a file is an accident or an attack: nested aliases multiply",
        "split the cluster into several files, or use fewer aliases",
    )
}

fn too_deep(span: Span) -> Finding {
    Finding::error(
        "too-deep",
        position(span),
        format!("nested more than {MAX_DEPTH} levels deep"),
        "the format needs 6 levels at most",
        "check indentation and brackets",
    )
}
