//! Seeds from `warren-content`.

use bytes::Bytes;
use warren_content::core::block::Encoder;
use warren_content::core::manifest::{ChunkRef, DirectoryEntry, Manifest, PartRef, TreeOf};
use warren_content::core::wire::{BlockHeader, Request, Response};
use warren_content::{BlockId, ChunkId, DocumentId, DocumentRecord, Encoding};
use warren_fuzz::world;
use warren_identity::Signed;
use warren_identity::UnixMillis;

use super::Seeds;

/// The seeds of this crate's targets.
pub(crate) fn seeds() -> anyhow::Result<Vec<(&'static str, Seeds)>> {
    Ok(vec![
        ("content_block", blocks()),
        ("content_ids", ids()),
        ("content_manifest", manifests()?),
        ("content_record", records()?),
        ("content_wire", frames()),
    ])
}

fn ids() -> Seeds {
    vec![
        (
            "empty-input",
            b"bafkr4ifpcne3t5pzugtkaqcn5i3nzskjtpfslsnnyejlpte2spfoihzsmi".to_vec(),
        ),
        ("chunk", ChunkId::of(b"hello").to_string().into_bytes()),
        (
            "document",
            DocumentId::of(b"hello").to_string().into_bytes(),
        ),
        (
            "alias",
            b"bafkCnRQX8RHiCM1krnQRbGMXaXPm6egnqUrV2ZiJLk7XPmb".to_vec(),
        ),
        (
            "upper-case",
            b"BAFKR4IFPCNE3T5PZUGTKAQCN5I3NZSKJTPFSLSNNYEJLPTE2SPFOIHZSMI".to_vec(),
        ),
        (
            "sha-256",
            b"bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy".to_vec(),
        ),
    ]
}

fn manifests() -> anyhow::Result<Seeds> {
    let chunks = vec![
        ChunkRef {
            id: ChunkId::of(b"one"),
            size: 1_048_576,
        },
        ChunkRef {
            id: ChunkId::of(b"two"),
            size: 300_000,
        },
    ];
    let entry = |name: &str, size| DirectoryEntry {
        name: name.into(),
        id: DocumentId::of(name.as_bytes()),
        size,
    };
    let parts = vec![
        PartRef {
            id: DocumentId::of(b"first"),
            size: 5_000_000_000,
        },
        PartRef {
            id: DocumentId::of(b"second"),
            size: 70,
        },
    ];
    let whole = [
        (
            "empty-file",
            Manifest::File {
                size: 0,
                chunks: Vec::new(),
            },
        ),
        (
            "file",
            Manifest::File {
                size: 1_348_576,
                chunks,
            },
        ),
        (
            "empty-directory",
            Manifest::Directory {
                size: 0,
                entries: Vec::new(),
            },
        ),
        (
            "directory",
            Manifest::Directory {
                size: 12,
                entries: vec![entry("a/b.txt", 5), entry("c.txt", 7)],
            },
        ),
        (
            "tree",
            Manifest::Tree {
                size: 5_000_000_070,
                of: TreeOf::File,
                parts,
            },
        ),
    ];
    let mut seeds = Seeds::new();
    for (name, manifest) in whole {
        seeds.push((name, manifest.encode()?.bytes.to_vec()));
    }
    Ok(seeds)
}

fn records() -> anyhow::Result<Seeds> {
    let record = DocumentRecord {
        document: DocumentId::of(b"hello"),
        title: "Quarterly report".into(),
        tags: vec!["finance".into(), "q3".into()],
        source_type: "report".into(),
        created_at: UnixMillis(1_800_000_000_000),
        updated_at: UnixMillis(1_800_000_000_000),
        retention_s: Some(2_592_000),
        size: 1_348_576,
        chunk_count: 2,
    };
    let kept = DocumentRecord {
        retention_s: None,
        tags: Vec::new(),
        title: String::new(),
        ..record.clone()
    };
    let far = DocumentRecord {
        retention_s: Some(u64::MAX),
        ..record.clone()
    };
    let mut seeds = Seeds::new();
    for (name, record) in [("whole", record), ("kept", kept), ("far", far)] {
        seeds.push((name, Signed::sign(record, &world::node(1))?.to_bytes()));
    }
    Ok(seeds)
}

fn frames() -> Seeds {
    let document = DocumentId::of(b"hello");
    let header = BlockHeader {
        encoding: Encoding::Zstd,
        plain_size: 4096,
        stored_size: 100,
    };
    let requests = [
        (
            "get-chunk",
            Request::Get {
                request: 1,
                block: BlockId::Chunk(ChunkId::of(b"hello")),
            },
        ),
        (
            "get-manifest",
            Request::Get {
                request: 2,
                block: BlockId::Manifest(document),
            },
        ),
        (
            "have",
            Request::Have {
                request: 3,
                documents: vec![document, DocumentId::of(b"other")],
            },
        ),
        (
            "record",
            Request::Record {
                request: 4,
                document,
            },
        ),
    ];
    let responses = [
        ("block", Response::Block { request: 1, header }),
        ("not-found", Response::NotFound { request: 2 }),
        (
            "busy",
            Response::Busy {
                request: 3,
                retry_after_ms: 250,
            },
        ),
        (
            "error",
            Response::Error {
                request: 4,
                code: 403,
                message: "Access denied".into(),
            },
        ),
        (
            "having",
            Response::Having {
                request: 5,
                bitmap: vec![0b11],
            },
        ),
        (
            "record-answer",
            Response::Record {
                request: 6,
                record: vec![1, 2, 3],
            },
        ),
    ];
    let requests = requests
        .iter()
        .map(|(name, request)| (*name, encoded(|out| request.encode(out))));
    let responses = responses
        .iter()
        .map(|(name, response)| (*name, encoded(|out| response.encode(out))));
    requests.chain(responses).collect()
}

fn encoded(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// As the target reads them: encoding, plain size, stored bytes.
fn blocks() -> Seeds {
    let zeros = Encoder::new().encode(&Bytes::from(vec![0; 65_536]));
    let framed = |encoding: u8, plain_size: u32, stored: &[u8]| {
        [&[encoding][..], &plain_size.to_be_bytes(), stored].concat()
    };
    vec![
        ("plain", framed(0, 5, b"hello")),
        ("zstd", framed(1, zeros.plain_size, &zeros.bytes)),
        ("zstd-announces-too-little", framed(1, 16, &zeros.bytes)),
        ("plain-announces-too-much", framed(0, u32::MAX, b"hello")),
    ]
}
