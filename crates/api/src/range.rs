//! Which bytes of a representation a request asks for (RFC 9110 §13 and §14): `Range`, `If-Range`, `If-None-Match`.
//!
//! Content never changes under its id, so the one strong validator of a representation is its id in quotes.

use std::ops::Range;

use axum::http::{HeaderMap, header};

/// What to answer with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    /// 304: the caller has it.
    NotModified,
    /// 200 with everything.
    Whole,
    /// 206 with these bytes.
    Part(Range<u64>),
    /// 416: no byte of it was asked for.
    Unsatisfiable,
}

/// Decides from the request's headers; `etag` is the quoted validator, `size` the length in bytes.
pub(crate) fn select(headers: &HeaderMap, etag: &str, size: u64) -> Selection {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(known) = text(header::IF_NONE_MATCH)
        && known
            .split(',')
            .map(str::trim)
            .any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
    {
        return Selection::NotModified;
    }
    let Some(wanted) = text(header::RANGE) else {
        return Selection::Whole;
    };
    if text(header::IF_RANGE).is_some_and(|validator| validator != etag) {
        return Selection::Whole;
    }
    parse(wanted, size)
}

/// Several ranges, other units and what cannot be read are ignored, as RFC 9110 §14.2 allows: the answer is whole.
fn parse(wanted: &str, size: u64) -> Selection {
    let Some(spec) = wanted.trim().strip_prefix("bytes=") else {
        return Selection::Whole;
    };
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Selection::Whole;
    };
    let number = |text: &str| match text.trim() {
        "" => Some(None),
        text if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(Some(text.parse::<u64>().unwrap_or(u64::MAX)))
        }
        _ => None,
    };
    match (number(first), number(last)) {
        (Some(Some(first)), Some(Some(last))) if first > last => Selection::Whole,
        (Some(Some(first)), Some(last)) => match first < size {
            true => {
                Selection::Part(first..last.map_or(size, |last| last.saturating_add(1).min(size)))
            }
            false => Selection::Unsatisfiable,
        },
        (Some(None), Some(Some(0))) => Selection::Unsatisfiable,
        (Some(None), Some(Some(_))) if size == 0 => Selection::Unsatisfiable,
        (Some(None), Some(Some(suffix))) => Selection::Part(size.saturating_sub(suffix)..size),
        _ => Selection::Whole,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn single_ranges_are_cut_to_the_size() {
        for (wanted, expected) in [
            ("bytes=0-0", Selection::Part(0..1)),
            ("bytes=5-", Selection::Part(5..10)),
            ("bytes=5-99", Selection::Part(5..10)),
            ("bytes=-3", Selection::Part(7..10)),
            ("bytes=-99", Selection::Part(0..10)),
            ("bytes=10-", Selection::Unsatisfiable),
            ("bytes=-0", Selection::Unsatisfiable),
            ("bytes=99999999999999999999-", Selection::Unsatisfiable),
        ] {
            assert_eq!(parse(wanted, 10), expected, "{wanted}");
        }
    }

    #[test]
    fn what_is_not_one_byte_range_is_answered_whole() {
        for wanted in [
            "bytes=0-1,3-4",
            "lines=0-1",
            "bytes=4-2",
            "bytes=a-b",
            "bytes=",
            "0-1",
            "bytes=-",
        ] {
            assert_eq!(parse(wanted, 10), Selection::Whole, "{wanted}");
        }
    }

    #[test]
    fn a_caller_that_has_it_is_told_so() {
        let known = headers(&[(header::IF_NONE_MATCH, "\"other\", W/\"x\"")]);
        assert_eq!(select(&known, "\"x\"", 10), Selection::NotModified);
    }

    #[test]
    fn a_range_of_another_version_is_answered_whole() {
        let wanted = headers(&[
            (header::RANGE, "bytes=0-1"),
            (header::IF_RANGE, "\"other\""),
        ]);
        assert_eq!(select(&wanted, "\"x\"", 10), Selection::Whole);
        let wanted = headers(&[(header::RANGE, "bytes=0-1"), (header::IF_RANGE, "\"x\"")]);
        assert_eq!(select(&wanted, "\"x\"", 10), Selection::Part(0..2));
    }
}
