//! Where a text may be cut without tearing a sentence. Part of the frozen chunking rule, version 1.
//!
//! A sentence ends at position `p` if the bytes before `p` are, in this order,
//!
//! * a terminator (`.` `!` `?` `…` and their Arabic and Devanagari counterparts), any closing quotes and brackets, and
//!   at least one white-space byte, all white space taken; or
//! * a wide terminator (`。` `！` `？` `｡`), any closing quotes and brackets, and white space, which may be absent; or
//! * two or more line feeds with nothing but white space between and after them (the end of a paragraph);
//!
//! and the byte at `p` is no white space. White space is space, tab, carriage return and line feed. Only the 64 bytes before
//! `p` count: what begins earlier is not seen, and of a longer run of white space the last two line feeds are. So whether a
//! sentence ends at `p` never depends on where the search began.

/// How many bytes before a position decide whether a sentence ends there.
const RUN_UP_BYTES: usize = 64;
/// The search goes outwards in these steps; most text has an end within the first.
const REACHES: [usize; 3] = [1024, 8 * 1024, usize::MAX];

/// What a byte sequence means to the search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Terminator,
    WideTerminator,
    Closer,
    LineFeed,
    Space,
    Other,
}

/// What has been read so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Inside a sentence.
    Inside,
    /// Inside a sentence, one line feed and nothing but white space since.
    LineEnd,
    /// After a terminator and perhaps closers: white space makes it an end.
    Ended,
    /// After a wide terminator and perhaps closers: anything else makes it an end.
    WideEnded,
    /// In the white space after an end.
    Gap,
}

/// The best cut in `earliest..=latest` for a candidate between them. `latest` is a position inside `bytes`.
pub(crate) fn nearest_cut(bytes: &[u8], earliest: usize, candidate: usize, latest: usize) -> usize {
    let candidate = candidate.min(latest);
    for reach in REACHES {
        let first = candidate.saturating_sub(reach).max(earliest);
        let last = candidate.saturating_add(reach).min(latest);
        if let Some(end) = nearest(SentenceEnds::new(bytes, first, last), candidate) {
            return end;
        }
    }
    nearest(line_ends(bytes, earliest, latest), candidate)
        .unwrap_or_else(|| character_boundary(bytes, earliest, candidate))
}

/// The position nearest to `candidate`, the earlier of two at equal distance; `positions` ascend.
fn nearest(positions: impl Iterator<Item = usize>, candidate: usize) -> Option<usize> {
    let mut before = None;
    for position in positions {
        if position > candidate {
            return match before {
                Some(before) if candidate - before <= position - candidate => Some(before),
                _ => Some(position),
            };
        }
        before = Some(position);
    }
    before
}

fn line_ends(bytes: &[u8], earliest: usize, latest: usize) -> impl Iterator<Item = usize> {
    (earliest..=latest).filter(|position| *position > 0 && bytes[position - 1] == b'\n')
}

fn character_boundary(bytes: &[u8], earliest: usize, candidate: usize) -> usize {
    let lowest = candidate.saturating_sub(3).max(earliest);
    (lowest..=candidate)
        .rev()
        .find(|position| bytes.get(*position).is_none_or(|byte| byte & 0xc0 != 0x80))
        .unwrap_or(candidate)
}

/// Sentence ends in `earliest..=latest`, ascending.
struct SentenceEnds<'b> {
    bytes: &'b [u8],
    earliest: usize,
    latest: usize,
    at: usize,
    state: State,
    /// Where the end in question begins: its terminator, or the last line feed but one.
    anchor: usize,
    /// The last line feed, if nothing but white space came after it.
    line_feed: Option<usize>,
}

impl<'b> SentenceEnds<'b> {
    fn new(bytes: &'b [u8], earliest: usize, latest: usize) -> Self {
        let at = earliest.saturating_sub(RUN_UP_BYTES);
        Self {
            bytes,
            earliest,
            latest,
            at,
            state: State::Inside,
            anchor: 0,
            line_feed: None,
        }
    }

    /// Whether a sentence ends right before a byte sequence of `class` at `position`.
    const fn ends_before(&self, position: usize, class: Class) -> bool {
        let ends = match self.state {
            State::Gap => !matches!(class, Class::Space | Class::LineFeed),
            State::WideEnded => matches!(class, Class::Other),
            State::Inside | State::LineEnd | State::Ended => false,
        };
        ends && position >= self.earliest && position - self.anchor <= RUN_UP_BYTES
    }

    fn step(&mut self, position: usize, class: Class) {
        match class {
            Class::Terminator => {
                self.state = State::Ended;
                self.anchor = position;
            }
            Class::WideTerminator => {
                self.state = State::WideEnded;
                self.anchor = position;
            }
            Class::Closer => {
                if !matches!(self.state, State::Ended | State::WideEnded) {
                    self.state = State::Inside;
                }
            }
            Class::Space => {
                if matches!(self.state, State::Ended | State::WideEnded) {
                    self.state = State::Gap;
                }
                return;
            }
            Class::LineFeed => {
                match (self.state, self.line_feed) {
                    (State::Inside, _) => self.state = State::LineEnd,
                    (State::LineEnd | State::Gap, Some(before)) => {
                        self.state = State::Gap;
                        self.anchor = self.anchor.max(before);
                    }
                    _ => self.state = State::Gap,
                }
                self.line_feed = Some(position);
                return;
            }
            Class::Other => self.state = State::Inside,
        }
        self.line_feed = None;
    }
}

impl Iterator for SentenceEnds<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        while self.at <= self.latest && self.at < self.bytes.len() {
            let position = self.at;
            let (class, length) = classify(self.bytes, position);
            let ends_here = self.ends_before(position, class);
            self.step(position, class);
            self.at += length;
            if ends_here {
                return Some(position);
            }
        }
        None
    }
}

fn classify(bytes: &[u8], at: usize) -> (Class, usize) {
    match bytes[at] {
        b'.' | b'!' | b'?' => (Class::Terminator, 1),
        b'"' | b'\'' | b')' | b']' | b'}' => (Class::Closer, 1),
        b'\n' => (Class::LineFeed, 1),
        b' ' | b'\t' | b'\r' => (Class::Space, 1),
        0xc2 | 0xd8 | 0xdb | 0xe0 | 0xe2 | 0xe3 | 0xef => classify_wide(bytes, at),
        _ => (Class::Other, 1),
    }
}

fn classify_wide(bytes: &[u8], at: usize) -> (Class, usize) {
    let two = bytes.get(at..at + 2);
    let three = bytes.get(at..at + 3);
    // Arabic question mark and full stop; closing guillemet.
    match two {
        Some([0xd8, 0x9f] | [0xdb, 0x94]) => return (Class::Terminator, 2),
        Some([0xc2, 0xbb]) => return (Class::Closer, 2),
        _ => {}
    }
    match three {
        // Ellipsis; danda and double danda.
        Some([0xe2, 0x80, 0xa6] | [0xe0, 0xa5, 0xa4 | 0xa5]) => (Class::Terminator, 3),
        // Ideographic full stop, fullwidth exclamation and question marks, halfwidth full stop.
        Some([0xe3, 0x80, 0x82] | [0xef, 0xbc, 0x81 | 0x9f] | [0xef, 0xbd, 0xa1]) => {
            (Class::WideTerminator, 3)
        }
        // Single and double closing quotes; corner brackets; fullwidth closing parenthesis.
        Some([0xe2, 0x80, 0x99 | 0x9d] | [0xe3, 0x80, 0x8d | 0x8f] | [0xef, 0xbc, 0x89]) => {
            (Class::Closer, 3)
        }
        _ => (Class::Other, 1),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    fn ends(text: &str) -> Vec<&str> {
        SentenceEnds::new(text.as_bytes(), 0, text.len() - 1)
            .map(|at| &text[at..])
            .collect()
    }

    #[test]
    fn a_sentence_ends_after_its_terminator_closers_and_white_space() {
        assert_eq!(ends("One. Two"), ["Two"]);
        assert_eq!(ends("He said \"go!\" She went."), ["She went."]);
        assert_eq!(ends("(See above.)  Next"), ["Next"]);
        assert_eq!(ends("Really?!\r\nYes"), ["Yes"]);
        assert_eq!(ends("Wait… what"), ["what"]);
        assert_eq!(ends("version 1.2.3 of it"), Vec::<&str>::new());
    }

    #[test]
    fn wide_terminators_need_no_white_space() {
        assert_eq!(ends("你好。再见"), ["再见"]);
        assert_eq!(ends("「好！」他说"), ["他说"]);
        assert_eq!(ends("好？ 是"), ["是"]);
    }

    #[test]
    fn a_blank_line_ends_a_paragraph() {
        assert_eq!(ends("Heading\n\nText"), ["Text"]);
        assert_eq!(ends("Heading\r\n \r\nText"), ["Text"]);
        assert_eq!(ends("one line\nanother line"), Vec::<&str>::new());
    }

    #[test]
    fn the_nearest_end_wins_and_the_earlier_of_two() {
        let text = b"aa. bb. cc. dd";
        assert_eq!(nearest_cut(text, 0, 9, 13), 8);
        assert_eq!(nearest_cut(text, 0, 10, 13), 8);
        assert_eq!(nearest_cut(text, 0, 11, 13), 12);
        assert_eq!(nearest_cut(text, 5, 5, 13), 8);
    }

    #[test]
    fn without_a_sentence_end_a_line_end_and_then_a_character_decides() {
        assert_eq!(nearest_cut(b"a,b\nc,d\ne,f\n", 0, 5, 11), 4);
        let text = "aaä".repeat(10);
        assert_eq!(nearest_cut(text.as_bytes(), 0, 7, 20), 6);
    }

    proptest! {
        #[test]
        fn an_end_does_not_depend_on_where_the_search_begins(
            tokens in prop::collection::vec(0_usize..12, 0..400),
            begin in 0_usize..300,
        ) {
            const TOKENS: [&str; 12] =
                ["a", "b", " ", "\n", ".", "?", "\"", "…", "。", "」", "      ", "\r\n"];
            let text: String = tokens.iter().map(|token| TOKENS[*token]).collect();
            let bytes = text.as_bytes();
            prop_assume!(begin < bytes.len());
            let all = SentenceEnds::new(bytes, 0, bytes.len() - 1);
            let expected: Vec<usize> = all.filter(|end| *end >= begin).collect();
            let found: Vec<usize> = SentenceEnds::new(bytes, begin, bytes.len() - 1).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
