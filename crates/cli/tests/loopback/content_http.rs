//! Content as an HTTP client sees it: validators, ranges, and headers that keep a browser from running it.

use warren_content::ChunkId;

use crate::support::{Node, Organization, Reply};

/// A node that holds one small document, which is one chunk.
struct Served {
    node: Node,
    _organization: Organization,
    document: String,
    chunk: String,
}

const TEXT: &[u8] = b"0123456789";

impl Served {
    fn new() -> Self {
        let organization = Organization::new();
        let node = Node::start(&organization.home("node-1"));
        Self {
            document: node.put(TEXT),
            chunk: ChunkId::of(TEXT).to_string(),
            node,
            _organization: organization,
        }
    }

    /// The same content by its two addresses.
    fn paths(&self) -> [String; 2] {
        [
            format!("/chunks/{}", self.chunk),
            format!("/api/v1/documents/{}/content", self.document),
        ]
    }

    fn ranged(&self, path: &str, range: &str) -> Reply {
        self.node.request("GET", path).header("range", range).send()
    }
}

#[test]
fn given_content_when_got_then_it_is_whole_and_immutable_with_a_strong_validator() {
    let served = Served::new();

    for path in served.paths() {
        let reply = served.node.get(&path);

        assert_eq!((reply.status, reply.body.as_slice()), (200, TEXT), "{path}");
        let id = path
            .split('/')
            .find(|part| part.starts_with("baf"))
            .unwrap();
        assert_eq!(reply.header("etag"), Some(format!("\"{id}\"").as_str()));
        assert!(
            reply.header("cache-control").unwrap().contains("immutable"),
            "{path}"
        );
        assert_eq!(reply.header("accept-ranges"), Some("bytes"), "{path}");
        assert_eq!(reply.header("content-length"), Some("10"), "{path}");
    }
}

#[test]
fn given_content_when_got_then_a_browser_can_neither_guess_nor_run_it() {
    let served = Served::new();

    for path in served.paths() {
        let reply = served.node.get(&path);

        assert_eq!(
            reply.header("x-content-type-options"),
            Some("nosniff"),
            "{path}"
        );
        assert!(
            reply
                .header("content-disposition")
                .unwrap()
                .starts_with("attachment"),
            "{path}"
        );
        let policy = reply.header("content-security-policy").unwrap();
        assert!(
            policy.contains("sandbox") && policy.contains("default-src 'none'"),
            "{policy}"
        );
        assert_eq!(
            reply.header("content-type"),
            Some("application/octet-stream"),
            "{path}"
        );
    }
}

#[test]
fn given_a_range_when_got_then_exactly_those_bytes_come() {
    let served = Served::new();

    for path in served.paths() {
        for (range, bytes, shown) in [
            ("bytes=2-4", &b"234"[..], "bytes 2-4/10"),
            ("bytes=7-", b"789", "bytes 7-9/10"),
            ("bytes=-2", b"89", "bytes 8-9/10"),
            ("bytes=5-99", b"56789", "bytes 5-9/10"),
        ] {
            let reply = served.ranged(&path, range);

            assert_eq!(
                (reply.status, reply.body.as_slice()),
                (206, bytes),
                "{path} {range}"
            );
            assert_eq!(reply.header("content-range"), Some(shown), "{path}");
        }
    }
}

#[test]
fn given_a_range_after_the_end_when_got_then_it_is_416_with_the_size() {
    let served = Served::new();

    for path in served.paths() {
        let reply = served.ranged(&path, "bytes=10-");

        assert_eq!(reply.status, 416, "{path}");
        assert_eq!(reply.header("content-range"), Some("bytes */10"), "{path}");
    }
}

#[test]
fn given_a_client_that_has_it_when_got_again_then_nothing_is_sent() {
    let served = Served::new();

    for path in served.paths() {
        let etag = served.node.get(&path).header("etag").unwrap().to_owned();
        let reply = served
            .node
            .request("GET", &path)
            .header("if-none-match", &etag)
            .send();

        assert_eq!((reply.status, reply.body.len()), (304, 0), "{path}");
        assert_eq!(reply.header("etag"), Some(etag.as_str()), "{path}");
    }
}

#[test]
fn given_a_range_of_another_version_when_got_then_the_whole_comes() {
    let served = Served::new();

    for path in served.paths() {
        let reply = served
            .node
            .request("GET", &path)
            .header("range", "bytes=0-1")
            .header("if-range", "\"something else\"")
            .send();

        assert_eq!((reply.status, reply.body.as_slice()), (200, TEXT), "{path}");
    }
}

#[test]
fn given_a_head_request_when_sent_then_the_headers_come_without_the_bytes() {
    let served = Served::new();

    for path in served.paths() {
        let reply = served.node.request("HEAD", &path).send();

        assert_eq!((reply.status, reply.body.len()), (200, 0), "{path}");
        assert_eq!(reply.header("content-length"), Some("10"), "{path}");
    }
}

#[test]
fn given_the_documents_own_form_of_a_chunk_id_when_got_then_it_is_the_same_chunk() {
    let served = Served::new();
    let alias = format!("bafk{}", base58(ChunkId::of(TEXT).hash()));

    let reply = served.node.get(&format!("/chunks/{alias}"));

    assert_eq!((reply.status, reply.body.as_slice()), (200, TEXT));
    assert_eq!(
        reply.header("etag"),
        Some(format!("\"{}\"", served.chunk).as_str())
    );
}

/// base58btc, for inputs that do not begin with a zero byte.
fn base58(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let mut digits: Vec<usize> = Vec::new();
    for byte in bytes {
        let mut carry = usize::from(*byte);
        for digit in &mut digits {
            carry += *digit << 8;
            *digit = carry % 58;
            carry /= 58;
        }
        while carry > 0 {
            digits.push(carry % 58);
            carry /= 58;
        }
    }
    digits
        .iter()
        .rev()
        .map(|digit| char::from(DIGITS[*digit]))
        .collect()
}

#[test]
fn given_a_chunk_that_nobody_has_when_got_then_it_is_404_in_the_common_shape() {
    let served = Served::new();

    let reply = served
        .node
        .get(&format!("/chunks/{}", ChunkId::of(b"nobody has this")));

    assert_eq!(reply.status, 404);
    let error = &reply.json()["error"];
    assert_eq!(error["code"], "not_found");
    for field in ["message", "request_id", "timestamp"] {
        assert!(error[field].is_string(), "{error}");
    }
}

#[test]
fn given_ids_that_are_none_when_got_then_they_are_400() {
    let served = Served::new();

    for path in [
        "/chunks/hello",
        "/chunks/bafk",
        "/api/v1/documents/hello",
        "/api/v1/documents/hello/content",
    ] {
        assert_eq!(served.node.get(path).status, 400, "{path}");
    }
}

#[test]
fn given_the_bytes_over_http_when_posted_then_the_answer_names_the_document() {
    let served = Served::new();

    let reply = served
        .node
        .request("POST", "/api/v1/documents?title=Numbers&tags=a,b")
        .body(TEXT)
        .send();

    assert_eq!(reply.status, 201);
    let stored = reply.json();
    assert_eq!(stored["id"], served.document.as_str());
    assert_eq!(
        (&stored["size"], &stored["chunks"]),
        (&10.into(), &1.into())
    );
}

#[test]
fn given_a_parameter_that_does_not_exist_when_posted_then_nothing_is_stored() {
    let served = Served::new();

    let reply = served
        .node
        .request("POST", "/api/v1/documents?titel=Numbers")
        .body(b"other")
        .send();

    assert_eq!(reply.status, 400);
    assert_eq!(served.node.get("/api/v1/documents").json()["total"], 1);
}

#[test]
fn given_pages_of_documents_when_followed_then_every_document_comes_once() {
    let served = Served::new();
    let mut expected: Vec<String> = (0..4_u8).map(|byte| served.node.put(&[byte])).collect();
    expected.push(served.document.clone());
    let (mut seen, mut cursor) = (Vec::new(), String::new());

    loop {
        let page = served
            .node
            .get(&format!("/api/v1/documents?limit=2{cursor}"))
            .json();
        let documents = page["documents"].as_array().unwrap();
        seen.extend(
            documents
                .iter()
                .map(|one| one["id"].as_str().unwrap().to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }

    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);
}

#[test]
fn given_a_body_that_ends_early_when_posted_then_nothing_is_listed() {
    use std::io::Write;
    let served = Served::new();
    let head = format!(
        "POST /api/v1/documents HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-length: 1000000\r\n\r\n",
        served.node.api(),
        served.node.token()
    );
    let mut stream = std::net::TcpStream::connect(served.node.api()).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&[7; 300_000]).unwrap();
    drop(stream);
    served.node.put(b"a later one");

    let listed = served.node.get("/api/v1/documents").json();

    assert_eq!(listed["total"], 2, "{listed}");
}

#[test]
fn given_a_tar_stream_that_is_none_when_posted_then_it_is_400_and_nothing_is_stored() {
    let served = Served::new();

    let reply = served
        .node
        .request("POST", "/api/v1/directories")
        .header("content-type", "application/x-tar")
        .body(&[b'x'; 2048])
        .send();

    assert_eq!(reply.status, 400, "{}", reply.text());
    assert_eq!(served.node.get("/api/v1/documents").json()["total"], 1);
}
