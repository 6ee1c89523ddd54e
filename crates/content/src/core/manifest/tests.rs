#![allow(clippy::unwrap_used, clippy::expect_used)]
use proptest::prelude::*;

use super::*;

fn chunk(seed: u64, size: u32) -> ChunkRef {
    ChunkRef {
        id: ChunkId::of(&seed.to_le_bytes()),
        size,
    }
}

fn entry(name: &str, size: u64) -> DirectoryEntry {
    DirectoryEntry {
        name: name.to_owned(),
        id: DocumentId::of(name.as_bytes()),
        size,
    }
}

fn samples() -> Vec<(&'static str, Manifest)> {
    let part = |n: u64| PartRef {
        id: DocumentId::of(&n.to_le_bytes()),
        size: 1 << 36,
    };
    vec![
        (
            "empty file",
            Manifest::File {
                size: 0,
                chunks: Vec::new(),
            },
        ),
        (
            "file",
            Manifest::File {
                size: 1_400_000,
                chunks: vec![chunk(1, 1_000_000), chunk(2, 400_000)],
            },
        ),
        (
            "directory",
            Manifest::Directory {
                size: 30,
                entries: vec![entry("a.txt", 10), entry("sub/ü.txt", 20)],
            },
        ),
        (
            "tree",
            Manifest::Tree {
                size: 2 << 36,
                of: TreeOf::File,
                parts: vec![part(1), part(2)],
            },
        ),
    ]
}

#[test]
fn the_encoding_is_frozen() {
    let mut lines = String::new();
    for (name, manifest) in samples() {
        let block = manifest.encode().unwrap();
        lines.push_str(&format!(
            "{name}\n  {}\n  {}\n",
            block.id,
            hex::encode(&block.bytes)
        ));
    }
    assert_eq!(
        lines,
        include_str!("../../../vectors/manifests-v1.txt"),
        "left: made now"
    );
}

#[test]
fn what_is_encoded_decodes_to_the_same() {
    for (name, manifest) in samples() {
        let block = manifest.encode().unwrap();
        assert_eq!(Manifest::decode(&block.bytes).unwrap(), manifest, "{name}");
    }
}

#[test]
fn trailing_and_missing_bytes_are_refused() {
    for (_, manifest) in samples() {
        let mut bytes = manifest.encode().unwrap().bytes.to_vec();
        for length in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..length]).is_err());
        }
        bytes.push(0);
        assert!(Manifest::decode(&bytes).is_err());
    }
}

#[test]
fn another_encoding_of_the_same_manifest_is_refused() {
    let bytes = Manifest::File {
        size: 0,
        chunks: Vec::new(),
    }
    .encode()
    .unwrap()
    .bytes
    .to_vec();
    let zero = bytes
        .windows(6)
        .position(|window| window == b"dsize\0")
        .unwrap()
        + 5;
    // The size as a two-byte integer: valid CBOR, not canonical.
    let mut longer = bytes;
    longer.splice(zero..=zero, [0x18, 0]);
    assert!(matches!(
        Manifest::decode(&longer),
        Err(ManifestError::Malformed(_))
    ));
}

#[test]
fn sizes_that_do_not_add_up_or_overflow_are_refused() {
    let wrong = Manifest::File {
        size: 3,
        chunks: vec![chunk(1, 1), chunk(2, 1)],
    };
    assert_eq!(wrong.encode(), Err(ManifestError::Size));
    let empty_chunk = Manifest::File {
        size: 0,
        chunks: vec![chunk(1, 0)],
    };
    assert_eq!(empty_chunk.encode(), Err(ManifestError::Size));
    let large_chunk = Manifest::File {
        size: 5 << 20,
        chunks: vec![chunk(1, 5 << 20)],
    };
    assert_eq!(large_chunk.encode(), Err(ManifestError::Size));
    let overflow = Manifest::Directory {
        size: 0,
        entries: vec![entry("a", u64::MAX), entry("b", 1)],
    };
    assert_eq!(overflow.encode(), Err(ManifestError::Size));
}

#[test]
fn unsafe_names_are_refused() {
    let long = "x".repeat(256);
    let deep = "x/".repeat(600);
    for name in [
        "",
        "/",
        "/etc/passwd",
        "..",
        "../a",
        "a/../b",
        "a/./b",
        "a//b",
        "a/",
        "a\0b",
        &long,
        &deep,
    ] {
        assert!(
            matches!(check_name(name), Err(ManifestError::Name { .. })),
            "{name:?}"
        );
        let manifest = Manifest::Directory {
            size: 1,
            entries: vec![entry(name, 1)],
        };
        assert!(manifest.encode().is_err(), "{name:?}");
    }
    for name in [
        "a",
        "a/b/c.txt",
        "...",
        "..a",
        "mit leerzeichen",
        "ü",
        &"x".repeat(255),
    ] {
        assert!(check_name(name).is_ok(), "{name:?}");
    }
}

#[test]
fn clashing_names_are_refused() {
    let names = |names: &[&str]| build_directory(names.iter().map(|name| entry(name, 1)).collect());
    assert!(names(&["b", "a"]).is_ok());
    assert!(matches!(
        names(&["a", "a"]),
        Err(ManifestError::Name { .. })
    ));
    // `a-b` sorts between the file and the folder of the same name.
    let error = names(&["a", "a-b", "a/c"]).unwrap_err();
    assert!(
        error.to_string().contains("both a file and a folder"),
        "{error}"
    );
}

#[test]
fn equal_files_have_equal_ids_and_a_tree_only_when_they_must() {
    let build = |count: u64, max_links| {
        let mut builder = FileBuilder::with_max_links(max_links);
        let mut blocks = Vec::new();
        for seed in 0..count {
            blocks.extend(builder.push(chunk(seed, 10)).unwrap());
        }
        assert_eq!((builder.size(), builder.chunk_count()), (count * 10, count));
        blocks.extend(builder.finish().unwrap());
        blocks
    };
    assert_eq!(build(4, 4).len(), 1);
    assert_eq!(build(0, 4).len(), 1);
    let tree = build(9, 4);
    let Manifest::Tree {
        size: 90,
        of: TreeOf::File,
        parts,
    } = Manifest::decode(&tree[3].bytes).unwrap()
    else {
        panic!("no tree: {tree:?}");
    };
    assert_eq!(
        parts.iter().map(|part| part.size).collect::<Vec<_>>(),
        [40, 40, 10]
    );
    assert_eq!(
        parts.iter().map(|part| part.id).collect::<Vec<_>>(),
        [tree[0].id, tree[1].id, tree[2].id]
    );
}

#[test]
fn a_large_directory_becomes_a_tree_of_directories() {
    let entries: Vec<_> = (0..10).map(|n| entry(&format!("file-{n}"), n)).collect();
    let blocks = build_directory_within(entries, 3 * (6 + ENTRY_WEIGHT)).unwrap();
    assert_eq!(blocks.len(), 5);
    let root = Manifest::decode(&blocks[4].bytes).unwrap();
    assert_eq!(
        (root.size(), root.is_directory(), root.links().count()),
        (45, true, 4)
    );
    for (link, block) in root.links().zip(&blocks) {
        let part = Manifest::decode(&block.bytes).unwrap();
        assert_eq!(
            (link.id, link.role),
            (block.id.into(), LinkRole::DirectoryPart)
        );
        part.check_link(&link).unwrap();
    }
}

#[test]
fn the_largest_file_manifest_fits_a_block() {
    let chunks = (0..MAX_LINKS as u64)
        .map(|seed| chunk(seed, MAX_BLOCK_BYTES))
        .collect::<Vec<_>>();
    let size = MAX_LINKS as u64 * u64::from(MAX_BLOCK_BYTES);
    let block = Manifest::File {
        size,
        chunks: chunks.clone(),
    }
    .encode()
    .unwrap();
    assert!(block.bytes.len() < MAX_BLOCK_BYTES as usize);
    let mut more = chunks;
    more.push(chunk(7, 1));
    assert_eq!(
        Manifest::File {
            size: size + 1,
            chunks: more
        }
        .encode(),
        Err(ManifestError::TooLarge)
    );
}

#[test]
fn a_link_must_lead_to_what_it_says() {
    let file = Manifest::File {
        size: 10,
        chunks: vec![chunk(1, 10)],
    };
    let link = |role, size| Link {
        id: DocumentId::of(b"").into(),
        size,
        role,
    };
    assert!(file.check_link(&link(LinkRole::Member, 10)).is_ok());
    assert!(file.check_link(&link(LinkRole::FilePart, 10)).is_ok());
    assert_eq!(
        file.check_link(&link(LinkRole::Member, 11)),
        Err(ManifestError::Link)
    );
    assert_eq!(
        file.check_link(&link(LinkRole::DirectoryPart, 10)),
        Err(ManifestError::Link)
    );
    let directory = Manifest::Directory {
        size: 0,
        entries: Vec::new(),
    };
    assert_eq!(
        directory.check_link(&link(LinkRole::Member, 0)),
        Err(ManifestError::Link)
    );
}

proptest! {
    #[test]
    fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Manifest::decode(&bytes);
    }

    #[test]
    fn a_manifest_with_a_byte_changed_is_refused_or_another(at in 0_usize..200, value in any::<u8>()) {
        for (_, manifest) in samples() {
            let mut bytes = manifest.encode().unwrap().bytes.to_vec();
            let at = at % bytes.len();
            if bytes[at] == value {
                continue;
            }
            bytes[at] = value;
            if let Ok(other) = Manifest::decode(&bytes) {
                prop_assert_ne!(&other, &manifest);
                prop_assert_eq!(other.encode().unwrap().bytes, bytes);
            }
        }
    }
}
