//! Whether a tag may be set: the membership protocol's own rules, applied before its task hears of it.

use std::collections::BTreeMap;

use warren_swim::{TagError, limits};

use crate::core::vault::LEAF_TAG;

/// Bytes of the tag that this crate sets itself.
const LEAF_BYTES: usize = LEAF_TAG.len() + 16;

/// Puts a tag in among `tags`.
///
/// # Errors
/// [`TagError`]; nothing has changed. The tag `leaf` is this crate's own, and so a bad key.
pub(crate) fn set(
    tags: &mut BTreeMap<String, String>,
    key: &str,
    value: &str,
) -> Result<(), TagError> {
    let is_key_char = |c: u8| {
        c.is_ascii_lowercase()
            || c.is_ascii_digit()
            || matches!(c, b'.' | b'-' | b'_' | b'/' | b':')
    };
    let is_key =
        !key.is_empty() && key.len() <= limits::TAG_KEY_BYTES && key.bytes().all(is_key_char);
    if !is_key || key == LEAF_TAG {
        return Err(TagError::BadKey(key.chars().take(80).collect()));
    }
    if value.len() > limits::TAG_VALUE_BYTES || value.chars().any(char::is_control) {
        return Err(TagError::BadValue(key.into()));
    }
    let others = || tags.iter().filter(|(other, _)| *other != key);
    let bytes: usize = others().map(|(key, value)| key.len() + value.len()).sum();
    let is_too_much = others().count() + 2 > limits::TAGS
        || bytes + key.len() + value.len() + LEAF_BYTES > limits::TAGS_BYTES;
    if is_too_much {
        return Err(TagError::TooMuch(key.into()));
    }
    tags.insert(key.into(), value.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Instant;

    use super::*;
    use warren_identity::NodeKey;
    use warren_swim::{Config, Swim};

    #[test]
    fn given_tags_on_the_edge_when_set_here_then_the_protocol_takes_them_and_the_leaf_too() {
        let (key, now) = (NodeKey::from_seed([1; 32]), Instant::now());
        let (id, address) = (key.peer_id(), "10.0.0.1:7946".parse().unwrap());
        let mut swim = Swim::new(Config::lan(), key, id, address, 1, 1, now).unwrap();
        let mut tags = BTreeMap::new();
        let mut count = 0;
        while set(&mut tags, &format!("key.{count}"), &"v".repeat(16)).is_ok() {
            count += 1;
        }
        let room = limits::TAGS_BYTES - LEAF_BYTES;
        let used: usize = tags
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        let rest = room - used;
        set(&mut tags, "z", &"v".repeat(rest - 1)).unwrap();

        for (key, value) in &tags {
            swim.set_tag(key, value, now).unwrap();
        }
        swim.set_tag(LEAF_TAG, &"0".repeat(16), now).unwrap();
    }

    #[test]
    fn given_what_the_protocol_refuses_when_set_then_it_is_refused_here_with_the_same_error() {
        let mut tags = BTreeMap::new();
        for key in ["", "Upper", "with space", LEAF_TAG] {
            assert_eq!(set(&mut tags, key, "v"), Err(TagError::BadKey(key.into())));
        }
        let long = "v".repeat(256);
        for value in ["line\n", &long] {
            let refused = set(&mut tags, "key", value);
            assert_eq!(refused, Err(TagError::BadValue("key".into())));
        }
        assert!(tags.is_empty());
    }
}
