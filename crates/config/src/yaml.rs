//! YAML text to a tree that knows where each node stands.
//!
//! The parser's events are folded without recursion. What a file may cost is bounded before it is spent: bytes, depth, nodes
//! (aliases count with everything they stand for). A duplicate key does not end the reading.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError};

/// Bytes of one file. A node's configuration has some kilobytes.
pub const MAX_FILE_BYTES: usize = 1024 * 1024;

/// Mappings and sequences inside one another.
const MAX_DEPTH: usize = 64;

/// Nodes of one file, aliases expanded.
const MAX_NODES: usize = 50_000;

/// A place in a file, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl From<Marker> for Place {
    fn from(marker: Marker) -> Self {
        Self {
            line: marker.line().max(1),
            column: marker.col() + 1,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) content: Content,
}

#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// `plain`: written without quotes.
    Scalar {
        text: String,
        plain: bool,
    },
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) value: Node,
}

/// What is wrong with the YAML itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) place: Place,
    pub(crate) what: String,
    pub(crate) help: Option<String>,
}

impl Fault {
    fn new(place: Place, what: impl Into<String>) -> Self {
        Self {
            place,
            what: what.into(),
            help: None,
        }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl Node {
    /// Whether nothing is written: `key:`, `key: ~`, `key: null`.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null"))
    }

    /// What the node is, for messages.
    pub(crate) fn describe(&self) -> &'static str {
        match &self.content {
            _ if self.is_null() => "nothing",
            Content::Scalar { .. } => "a single value",
            Content::Sequence(_) => "a list",
            Content::Mapping(_) => "a section",
        }
    }

    /// The node as JSON, plain scalars typed by YAML's core schema.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.content {
            _ if self.is_null() => serde_json::Value::Null,
            Content::Scalar { text, plain: true } => match text.as_str() {
                "true" => true.into(),
                "false" => false.into(),
                number => number
                    .parse::<i64>()
                    .map(Into::into)
                    .or_else(|_| number.parse::<f64>().map(Into::into))
                    .unwrap_or_else(|_| text.clone().into()),
            },
            Content::Scalar { text, .. } => text.clone().into(),
            Content::Sequence(items) => items.iter().map(Self::to_json).collect(),
            Content::Mapping(entries) => serde_json::Value::Object(
                entries
                    .iter()
                    .map(|e| (e.key.clone(), e.value.to_json()))
                    .collect(),
            ),
        }
    }
}

/// Reads one document. `None` with no fault: the file is empty.
pub(crate) fn parse(bytes: &[u8]) -> (Option<Node>, Vec<Fault>) {
    let start = Place { line: 1, column: 1 };
    if bytes.len() > MAX_FILE_BYTES {
        let fault = Fault::new(
            start,
            format!("the file is larger than {} KiB", MAX_FILE_BYTES / 1024),
        );
        return (None, vec![fault.help("is this the right file?")]);
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let line = 1 + bytes[..error.valid_up_to()]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count();
            let fault = Fault::new(
                Place { line, column: 1 },
                "the file is no text: it is not UTF-8",
            );
            return (None, vec![fault.help("is this the right file?")]);
        }
    };
    let mut fold = Fold::default();
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let step = match event {
            Ok((event, span)) => fold.take(event, Place::from(span.start)),
            Err(error) => Err(explain(&error, text)),
        };
        if let Err(fault) = step {
            fold.faults.push(fault);
            return (None, fold.faults);
        }
    }
    (fold.root, fold.faults)
}

/// The parser's message, with the cause where we know the usual one.
fn explain(error: &ScanError, text: &str) -> Fault {
    let place = Place::from(*error.marker());
    let fault = Fault::new(place, format!("this is not valid YAML: {}", error.info()));
    // The parser sees some mistakes a line later than they were made.
    let first = place.line.saturating_sub(2);
    for (index, line) in text.lines().enumerate().skip(first).take(3) {
        if let Some(help) = unquoted_comparison(line) {
            return Fault {
                place: Place {
                    line: index + 1,
                    ..place
                },
                ..fault
            }
            .help(help);
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        if indent.contains('\t') {
            let fault = Fault {
                place: Place {
                    line: index + 1,
                    column: 1,
                },
                ..fault
            };
            return fault.help("indent with spaces: YAML does not allow tabs");
        }
    }
    fault
}

/// `query_count: > 1000/day`: the `>` opens a block of text in YAML, and nothing may follow it.
fn unquoted_comparison(line: &str) -> Option<String> {
    let (key, value) = line.split_once(": ")?;
    let value = value.trim();
    let operand = value
        .strip_prefix(['>', '|'])?
        .trim_start_matches('=')
        .trim();
    let key = key.trim_start().trim_start_matches("- ");
    let block_header = operand.is_empty() || operand.starts_with(['#', '+', '-']);
    if block_header || value.contains('"') || key.chars().count() > 64 {
        return None;
    }
    let value: String = value.chars().take(64).collect();
    Some(format!("a comparison needs quotes: {key}: \"{value}\""))
}

/// The tree as far as it is built.
#[derive(Default)]
struct Fold {
    open: Vec<Open>,
    anchors: BTreeMap<usize, (Node, usize)>,
    nodes: usize,
    root: Option<Node>,
    documents: usize,
    faults: Vec<Fault>,
}

/// A mapping or sequence that has not ended.
struct Open {
    place: Place,
    anchor: usize,
    nodes_before: usize,
    kind: OpenKind,
}

enum OpenKind {
    Sequence(Vec<Node>),
    Mapping {
        entries: Vec<Entry>,
        seen: BTreeSet<String>,
        key: Option<(String, Place)>,
    },
}

impl Fold {
    fn take(&mut self, event: Event<'_>, place: Place) -> Result<(), Fault> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(
                        Fault::new(place, "the file has more than one YAML document").help(
                            "put the second one into a file of its own and name both with --config",
                        ),
                    );
                }
                Ok(())
            }
            Event::SequenceStart(anchor, _) => {
                self.open(place, anchor, OpenKind::Sequence(Vec::new()))
            }
            Event::MappingStart(anchor, _) => {
                let kind = OpenKind::Mapping {
                    entries: Vec::new(),
                    seen: BTreeSet::new(),
                    key: None,
                };
                self.open(place, anchor, kind)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Scalar(text, style, anchor, _) => self.scalar(text, style, anchor, place),
            Event::Alias(anchor) => self.alias(anchor, place),
        }
    }

    fn count(&mut self, nodes: usize, place: Place) -> Result<(), Fault> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return Err(
                Fault::new(place, format!("the file has more than {MAX_NODES} values"))
                    .help("an alias counts with all that its anchor holds"),
            );
        }
        Ok(())
    }

    fn open(&mut self, place: Place, anchor: usize, kind: OpenKind) -> Result<(), Fault> {
        if self.open.len() == MAX_DEPTH {
            return Err(Fault::new(
                place,
                format!("sections are nested deeper than {MAX_DEPTH}"),
            ));
        }
        self.reject_as_key(place)?;
        let nodes_before = self.nodes;
        self.count(1, place)?;
        self.open.push(Open {
            place,
            anchor,
            nodes_before,
            kind,
        });
        Ok(())
    }

    /// A key must be a plain word.
    fn reject_as_key(&self, place: Place) -> Result<(), Fault> {
        match self.open.last() {
            Some(Open {
                kind: OpenKind::Mapping { key: None, .. },
                ..
            }) => Err(
                Fault::new(place, "a key must be a single word, not a list or section")
                    .help("text that begins with { or [ needs quotes"),
            ),
            _ => Ok(()),
        }
    }

    fn close(&mut self) -> Result<(), Fault> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let content = match open.kind {
            OpenKind::Sequence(items) => Content::Sequence(items),
            OpenKind::Mapping { entries, .. } => Content::Mapping(entries),
        };
        let node = Node {
            place: open.place,
            content,
        };
        if open.anchor != 0 {
            self.anchors
                .insert(open.anchor, (node.clone(), self.nodes - open.nodes_before));
            // The copy kept for aliases is memory too.
            self.count(self.nodes - open.nodes_before, open.place)?;
        }
        self.insert(node)
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        anchor: usize,
        place: Place,
    ) -> Result<(), Fault> {
        self.count(1, place)?;
        let content = Content::Scalar {
            text: text.into_owned(),
            plain: style == ScalarStyle::Plain,
        };
        let node = Node { place, content };
        if anchor != 0 {
            self.count(1, place)?;
            self.anchors.insert(anchor, (node.clone(), 1));
        }
        self.insert(node)
    }

    fn alias(&mut self, anchor: usize, place: Place) -> Result<(), Fault> {
        let Some((_, nodes)) = self.anchors.get(&anchor) else {
            return Err(Fault::new(
                place,
                "an alias inside its own anchor has no end",
            ));
        };
        self.count(*nodes, place)?;
        let Some((node, _)) = self.anchors.get(&anchor) else {
            return Ok(());
        };
        let node = Node {
            place,
            content: node.content.clone(),
        };
        if matches!(node.content, Content::Sequence(_) | Content::Mapping(_)) {
            self.reject_as_key(place)?;
        }
        if self.open.len() + depth(&node) > MAX_DEPTH {
            return Err(Fault::new(
                place,
                format!("sections are nested deeper than {MAX_DEPTH}"),
            ));
        }
        self.insert(node)
    }

    fn insert(&mut self, node: Node) -> Result<(), Fault> {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.kind {
            OpenKind::Sequence(items) => items.push(node),
            OpenKind::Mapping { entries, seen, key } => match key.take() {
                Some((key, place)) => {
                    if seen.insert(key.clone()) {
                        entries.push(Entry {
                            key,
                            place,
                            value: node,
                        });
                    } else {
                        let what = format!(
                            "the key {} is there twice in one section",
                            crate::problem::quoted(&key)
                        );
                        self.faults
                            .push(Fault::new(place, what).help("keep one of the two"));
                    }
                }
                None => {
                    // Lists and sections were refused as keys before.
                    if let Content::Scalar { text, .. } = node.content {
                        *key = Some((text, node.place));
                    }
                }
            },
        }
        Ok(())
    }
}

/// How deep a node goes; bounded by [`MAX_DEPTH`], as it was built under that bound.
fn depth(node: &Node) -> usize {
    match &node.content {
        Content::Scalar { .. } => 0,
        Content::Sequence(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Content::Mapping(entries) => {
            1 + entries
                .iter()
                .map(|entry| depth(&entry.value))
                .max()
                .unwrap_or(0)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use std::time::{Duration, Instant};

    fn fault(text: &str) -> String {
        let (_, faults) = parse(text.as_bytes());
        faults
            .iter()
            .map(|f| {
                format!(
                    "{}:{}: {}; {}",
                    f.place.line,
                    f.place.column,
                    f.what,
                    f.help.as_deref().unwrap_or("-")
                )
            })
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn given_a_document_when_parsed_then_values_know_their_places() {
        let (root, faults) = parse(b"a:\n  b: [1, \"x\"]\n");

        assert_eq!(faults, []);
        let root = root.unwrap();
        assert_eq!(root.to_json(), serde_json::json!({"a": {"b": [1, "x"]}}));
        let Content::Mapping(entries) = &root.content else {
            panic!()
        };
        let Content::Mapping(inner) = &entries[0].value.content else {
            panic!()
        };
        assert_eq!(inner[0].place, Place { line: 2, column: 3 });
        assert_eq!(inner[0].value.place, Place { line: 2, column: 6 });
    }

    #[test]
    fn given_an_unquoted_comparison_when_parsed_then_the_help_shows_the_quotes() {
        let text = "rules:\n  - if:\n      query_count: > 1000/day\n    then: 3\n";

        let fault = fault(text);

        assert!(fault.starts_with("3:"), "{fault}");
        assert!(
            fault.ends_with("a comparison needs quotes: query_count: \"> 1000/day\""),
            "{fault}"
        );
    }

    #[test]
    fn given_tabs_when_parsed_then_the_help_says_so() {
        let fault = fault("network:\n\tnode_id: a\n");

        assert!(fault.starts_with("2:1: "), "{fault}");
        assert!(
            fault.ends_with("indent with spaces: YAML does not allow tabs"),
            "{fault}"
        );
    }

    #[test]
    fn given_duplicate_keys_when_parsed_then_each_is_reported_and_reading_goes_on() {
        let (root, faults) = parse(b"a: 1\na: 2\nb: {c: 1, c: 2}\nd: 3\n");

        assert_eq!(
            faults
                .iter()
                .map(|f| (f.place.line, f.place.column))
                .collect::<Vec<_>>(),
            [(2, 1), (3, 11)]
        );
        assert_eq!(
            root.unwrap().to_json(),
            serde_json::json!({"a": 1, "b": {"c": 1}, "d": 3})
        );
    }

    #[test]
    fn given_anchors_when_parsed_then_aliases_stand_for_them() {
        let (root, faults) = parse(b"a: &x [1, 2]\nb: *x\n");

        assert_eq!(faults, []);
        assert_eq!(
            root.unwrap().to_json(),
            serde_json::json!({"a": [1, 2], "b": [1, 2]})
        );
    }

    #[test]
    fn given_an_anchor_bomb_when_parsed_then_it_is_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for n in 1..20 {
            let refs = vec![format!("*a{}", n - 1); 10].join(", ");
            bomb.push_str(&format!("a{n}: &a{n} [{refs}]\n"));
        }

        assert!(
            fault(&bomb).contains("the file has more than 50000 values"),
            "{}",
            fault(&bomb)
        );
    }

    #[test]
    fn given_input_that_is_no_yaml_document_when_parsed_then_the_fault_is_clear() {
        for (text, part) in [
            ("a: [1, 2", "this is not valid YAML"),
            ("a: 1\n---\nb: 2\n", "more than one YAML document"),
            ("? [a, b]\n: c\n", "a key must be a single word"),
            ("a: &x {b: *x}", "no end"),
            ("a: *nowhere", "this is not valid YAML"),
            ("\u{0}\u{1}", "this is not valid YAML"),
        ] {
            assert!(
                fault(text).contains(part),
                "{text:?} gave {:?}",
                fault(text)
            );
        }
        assert!(parse(b"a: \xff").1[0].what.contains("not UTF-8"));
        assert!(
            parse(&vec![b' '; MAX_FILE_BYTES + 1]).1[0]
                .what
                .contains("larger than 1024 KiB")
        );
    }

    #[test]
    fn given_hostile_files_of_full_size_when_parsed_then_it_ends_soon_on_a_small_stack() {
        let thread = std::thread::Builder::new()
            .stack_size(256 * 1024)
            .spawn(|| {
                for unit in [
                    "[", "{", "- ", "? ", "a: ", "[a,", "{a: ", "&a ", "!!", "\"", "'", "|\n", "%",
                    "# ", "\t", "-\n", "a\n", ": ", "*a ",
                ] {
                    let text = unit.repeat(MAX_FILE_BYTES / unit.len());
                    let began = Instant::now();
                    parse(text.as_bytes());
                    assert!(
                        began.elapsed() < Duration::from_secs(20),
                        "{unit:?} took {:?}",
                        began.elapsed()
                    );
                }
            });
        thread.unwrap().join().unwrap();
    }
}
