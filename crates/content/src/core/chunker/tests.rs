#![allow(clippy::unwrap_used, clippy::expect_used)]
use proptest::prelude::*;

use super::*;

/// Pseudo-random bytes that any implementation can make: BLAKE3 output for the key-derivation context `seed`.
fn noise(seed: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_derive_key(seed)
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// English-looking text: words out of noise, sentences of 4 to 19 words.
fn prose(seed: &str, length: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "the", "network", "of", "machines", "keeps", "every", "document", "whole", "and", "finds",
        "it", "again", "by", "its", "name", "quietly",
    ];
    let mut text = Vec::with_capacity(length + 64);
    let mut left = 0;
    for byte in noise(seed, length / 3) {
        if text.len() >= length {
            break;
        }
        if left == 0 {
            left = 4 + usize::from(byte % 16);
        }
        text.extend_from_slice(WORDS[usize::from(byte >> 4)].as_bytes());
        left -= 1;
        text.extend_from_slice(if left == 0 { b". " } else { b" " });
    }
    text.truncate(length);
    text
}

fn cut(content: &[u8], mut piece: impl FnMut() -> usize) -> Vec<Bytes> {
    let mut chunker = Chunker::new();
    let mut chunks = Vec::new();
    let mut rest = content;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(piece().clamp(1, rest.len()));
        chunker.push(now);
        while let Some(chunk) = chunker.next_chunk() {
            chunks.push(chunk);
        }
        rest = later;
    }
    chunker.finish();
    while let Some(chunk) = chunker.next_chunk() {
        chunks.push(chunk);
    }
    chunks
}

fn lengths(chunks: &[Bytes]) -> Vec<usize> {
    chunks.iter().map(Bytes::len).collect()
}

/// The rule of the module's documentation, word by word, for content that is no text.
fn candidates_by_the_book(content: &[u8]) -> Vec<usize> {
    let mut lengths = Vec::new();
    let mut start = 0;
    while start < content.len() {
        let left = content.len() - start;
        let cut = (MIN_CHUNK_BYTES..=MAX_CHUNK_BYTES.min(left)).find(|length| {
            let at = start + length;
            let hash = (0..64).fold(0_u64, |sum, k| {
                sum.wrapping_add(GEAR[usize::from(content[at - 1 - k])] << k)
            });
            match *length {
                MAX_CHUNK_BYTES => true,
                length if length < MIDDLE_BYTES => hash >> 42 == 0,
                _ => hash >> 46 == 0,
            }
        });
        let length = cut.unwrap_or(left);
        lengths.push(length);
        start += length;
    }
    lengths
}

#[test]
fn the_gear_table_is_frozen() {
    let mut hasher = blake3::Hasher::new();
    for word in GEAR.iter() {
        hasher.update(&word.to_le_bytes());
    }
    assert_eq!(
        hasher.finalize().to_hex().as_str(),
        include_str!("../../../vectors/gear-table-v1.blake3").trim()
    );
}

#[test]
fn the_cut_points_are_frozen() {
    let mut lines = String::new();
    for (name, content) in [
        ("noise", noise("warren chunker vector noise v1", 16 << 20)),
        ("prose", prose("warren chunker vector prose v1", 16 << 20)),
    ] {
        for length in lengths(&cut(&content, || 1 << 20)) {
            lines.push_str(&format!("{name} {length}\n"));
        }
    }
    assert_eq!(
        lines,
        include_str!("../../../vectors/cut-points-v1.txt"),
        "left: made now"
    );
}

#[test]
fn noise_is_cut_as_the_documentation_says() {
    let content = noise("by the book", 6 << 20);
    assert_eq!(
        lengths(&cut(&content, || 65_536)),
        candidates_by_the_book(&content)
    );
}

#[test]
fn sizes_stay_within_their_limits_and_near_the_target() {
    let content = noise("sizes", 192 << 20);
    let lengths = lengths(&cut(&content, || 1 << 20));
    let (_, all_but_last) = lengths.split_last().unwrap();
    assert!(
        all_but_last
            .iter()
            .all(|length| (MIN_CHUNK_BYTES..=MAX_CHUNK_BYTES).contains(length))
    );
    let mean = all_but_last.iter().sum::<usize>() / all_but_last.len();
    let off = mean.abs_diff(TARGET_CHUNK_BYTES);
    assert!(
        off < TARGET_CHUNK_BYTES / 10,
        "mean of {} chunks is {mean}",
        all_but_last.len()
    );
}

#[test]
fn content_without_any_cut_point_is_cut_at_the_maximum() {
    let chunks = cut(&vec![7; (9 << 20) + 5], || 100_000);
    assert_eq!(
        lengths(&chunks),
        [MAX_CHUNK_BYTES, MAX_CHUNK_BYTES, (1 << 20) + 5]
    );
}

#[test]
fn every_cut_in_prose_is_at_a_sentence_end() {
    let content = prose("sentences", 20 << 20);
    let chunks = cut(&content, || 300_000);
    assert_eq!(chunks.concat(), content);
    let (_, all_but_last) = chunks.split_last().unwrap();
    for chunk in all_but_last {
        assert!((MIN_CHUNK_BYTES..=MAX_CHUNK_BYTES).contains(&chunk.len()));
        assert!(
            chunk.ends_with(b". "),
            "{:?}",
            String::from_utf8_lossy(&chunk[chunk.len() - 40..])
        );
    }
    let mean = all_but_last.iter().map(Bytes::len).sum::<usize>() / all_but_last.len();
    assert!((700_000..1_400_000).contains(&mean), "mean {mean}");
}

#[test]
fn text_without_sentences_is_cut_at_line_ends() {
    let mut content = Vec::new();
    while content.len() < 5 << 20 {
        let number = content.len();
        content.extend_from_slice(
            format!("{number:08x};{:08x};wert\n", number ^ 0x5a5a_1234).as_bytes(),
        );
    }
    let chunks = cut(&content, || 50_000);
    let (_, all_but_last) = chunks.split_last().unwrap();
    assert!(!all_but_last.is_empty());
    assert!(all_but_last.iter().all(|chunk| chunk.ends_with(b"\n")));
}

#[test]
fn a_change_in_the_middle_leaves_most_chunks_alone() {
    let before = noise("edit", 24 << 20);
    let mut after = before.clone();
    after.splice((9 << 20)..(9 << 20), *b"inserted");
    let known: std::collections::HashSet<Bytes> = cut(&before, || 1 << 20).into_iter().collect();
    let chunks = cut(&after, || 1 << 20);
    let fresh = chunks
        .iter()
        .filter(|chunk| !known.contains(*chunk))
        .count();
    assert!(fresh <= 3, "{fresh} of {} chunks are new", chunks.len());
}

#[test]
fn text_is_told_by_the_first_bytes() {
    assert!(is_text(b"plain"));
    assert!(is_text("grün".as_bytes()));
    assert!(!is_text(b""));
    assert!(!is_text(b"a\0b"));
    assert!(!is_text(&[0xff, 0xfe, b'a']));
    // A character torn by the end of the probe is forgiven, one torn by the end of the document is not.
    let mut torn = vec![b'a'; TEXT_PROBE_BYTES - 1];
    torn.push(0xc3);
    assert!(is_text(&torn));
    assert!(!is_text(&torn[1..]));
}

#[test]
fn nothing_gives_no_chunk() {
    assert!(cut(b"", || 1).is_empty());
    assert_eq!(lengths(&cut(b"x", || 1)), [1]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn chunks_do_not_depend_on_how_reads_are_split(
        seed in any::<u64>(),
        length in 0_usize..(3 << 20),
        text in any::<bool>(),
        pieces in prop::collection::vec(1_usize..700_000, 1..12),
    ) {
        let seed = format!("split {seed}");
        let content = if text { prose(&seed, length) } else { noise(&seed, length) };
        let whole = cut(&content, || usize::MAX);
        let mut turn = pieces.iter().cycle();
        let split = cut(&content, || *turn.next().unwrap());
        prop_assert_eq!(lengths(&whole), lengths(&split));
        prop_assert_eq!(split.concat(), content);
    }
}
