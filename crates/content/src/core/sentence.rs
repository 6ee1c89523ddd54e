//! Where a text may be cut without tearing a sentence. Part of the frozen chunking rule, version 1.
//!
//! A sentence ends at position `p` if the bytes before `p` are, in this order,
//!
//! * a terminator (`.` `!` `?` `…` and their Arabic and Devanagari counterparts), any closing quotes and brackets, and
//!   at least one white-space byte, all white space taken; or
//! * a wide terminator (`。` `！` `？` `｡`), any closing quotes and brackets, and white space, which may be absent; or
//! * two or more line feeds with nothing but white space between and after them (the end of a paragraph);
//!
//! and the byte at `p` is no white space. White space is space, tab, carriage return and line feed. A terminator more
//! than 64 bytes before the searched window does not count.

/// How far before the window the search begins, so that a sentence ending right at its edge is seen.
const RUN_UP_BYTES: usize = 64;

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
    nearest(sentence_ends(bytes, earliest, latest), candidate)
        .or_else(|| nearest(line_ends(bytes, earliest, latest), candidate))
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
fn sentence_ends(bytes: &[u8], earliest: usize, latest: usize) -> impl Iterator<Item = usize> {
    let mut at = earliest.saturating_sub(RUN_UP_BYTES);
    let mut state = State::Inside;
    std::iter::from_fn(move || {
        while at <= latest && at < bytes.len() {
            let position = at;
            let (class, length) = classify(bytes, position);
            let ends_here = ends_before(state, class);
            state = next_state(state, class);
            at += length;
            if ends_here && position >= earliest {
                return Some(position);
            }
        }
        None
    })
}

const fn ends_before(state: State, class: Class) -> bool {
    match state {
        State::Gap => !matches!(class, Class::Space | Class::LineFeed),
        State::WideEnded => matches!(class, Class::Other),
        State::Inside | State::LineEnd | State::Ended => false,
    }
}

const fn next_state(state: State, class: Class) -> State {
    match (class, state) {
        (Class::Terminator, _) => State::Ended,
        (Class::WideTerminator, _) => State::WideEnded,
        (Class::Closer, State::Ended) => State::Ended,
        (Class::Closer, State::WideEnded) => State::WideEnded,
        (Class::Space | Class::LineFeed, State::Ended | State::WideEnded | State::Gap) => {
            State::Gap
        }
        (Class::LineFeed, State::LineEnd) => State::Gap,
        (Class::LineFeed, State::Inside) | (Class::Space, State::LineEnd) => State::LineEnd,
        (Class::Space, State::Inside) | (Class::Closer | Class::Other, _) => State::Inside,
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
    use super::*;

    fn ends(text: &str) -> Vec<&str> {
        sentence_ends(text.as_bytes(), 0, text.len() - 1)
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
}
