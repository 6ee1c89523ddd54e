//! No input may panic, hang or exhaust memory.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;
use warren_config::{KEYS, fuzz};

/// Words that reach deep into the reader.
fn word() -> impl Strategy<Value = String> {
    let keys: Vec<String> = KEYS
        .iter()
        .flat_map(|key| {
            key.path
                .split('.')
                .map(|part| part.trim_end_matches("[]").to_owned())
        })
        .collect();
    prop_oneof![
        4 => proptest::sample::select(keys),
        1 => "[a-z_]{1,12}",
    ]
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("true".to_owned()),
        Just("127.0.0.1:0".to_owned()),
        Just("/ip4/127.0.0.1/tcp/4001".to_owned()),
        Just("org_acme_corp".to_owned()),
        Just("https://a.example".to_owned()),
        Just("[storage, discovery, relay]".to_owned()),
        Just("client".to_owned()),
        Just("${HOSTNAME}".to_owned()),
        Just("&a [*a]".to_owned()),
        "[0-9]{1,22}(s|m|h|d|KiB|GB)?",
        "/(ip4|ip6|dns4|tcp|udp|p2p|ws)/[0-9a-zA-Z.:]{0,20}/(tcp|udp)/[0-9]{0,6}",
        "\\PC{0,20}",
    ]
}

/// Lines of a file with sections of any depth.
fn file() -> impl Strategy<Value = String> {
    proptest::collection::vec((0_usize..5, word(), value()), 0..40).prop_map(|lines| {
        lines
            .into_iter()
            .map(|(depth, key, value)| format!("{}{key}: {value}\n", "  ".repeat(depth)))
            .collect()
    })
}

/// A file in which each key stands where it belongs, with a value that may not.
fn placed() -> impl Strategy<Value = String> {
    let paths: Vec<&'static str> = KEYS
        .iter()
        .map(|key| key.path)
        .filter(|path| !path.contains("[]"))
        .collect();
    (proptest::sample::select(paths), value()).prop_map(|(path, value)| {
        let parts: Vec<&str> = path.split('.').collect();
        let mut text = String::new();
        for (depth, part) in parts.iter().enumerate() {
            let value = if depth + 1 == parts.len() {
                value.as_str()
            } else {
                ""
            };
            text.push_str(&format!("{}{part}: {value}\n", "  ".repeat(depth)));
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn given_arbitrary_bytes_when_loaded_then_nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        fuzz(&bytes);
    }

    #[test]
    fn given_arbitrary_text_when_loaded_then_nothing_panics(text in "[\\[\\]{}:,&*!|>'\"%@#?\\- \n\ta-z0-9$]{0,200}") {
        fuzz(text.as_bytes());
    }

    #[test]
    fn given_files_of_known_words_when_loaded_then_nothing_panics(text in file()) {
        fuzz(text.as_bytes());
    }

    #[test]
    fn given_known_keys_with_any_value_when_loaded_then_nothing_panics(text in placed()) {
        fuzz(text.as_bytes());
    }
}

#[test]
fn given_a_full_size_file_of_unknown_keys_when_loaded_then_it_ends_soon() {
    let mut text = String::new();
    for n in 0.. {
        let line = format!("network_{n:x}: {{}}\n");
        if text.len() + line.len() > 900_000 {
            break;
        }
        text.push_str(&line);
    }
    let began = std::time::Instant::now();

    fuzz(text.as_bytes());

    assert!(
        began.elapsed() < std::time::Duration::from_secs(10),
        "it took {:?}",
        began.elapsed()
    );
}
