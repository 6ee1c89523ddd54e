#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

fn chunk(byte: u8) -> BlockId {
    BlockId::Chunk(ChunkId::from_hash([byte; 32]))
}

fn document(byte: u8) -> DocumentId {
    DocumentId::from_hash([byte; 32])
}

fn request_bytes(request: &Request) -> Vec<u8> {
    let mut out = Vec::new();
    request.encode(&mut out);
    out
}

fn response_bytes(response: &Response) -> Vec<u8> {
    let mut out = Vec::new();
    response.encode(&mut out);
    out
}

fn body(frame: &[u8]) -> &[u8] {
    let (prefix, body) = frame.split_first_chunk::<LENGTH_PREFIX>().unwrap();
    assert_eq!(frame_length(*prefix).unwrap(), body.len());
    body
}

#[test]
fn given_a_get_when_encoded_then_it_is_the_frozen_vector() {
    let mut expected = vec![0, 0, 0, 38, 0x01, 0, 0, 0, 7, 0x55];
    expected.extend([0xab; 32]);
    assert_eq!(
        request_bytes(&Request::Get {
            request: 7,
            block: chunk(0xab)
        }),
        expected
    );
}

#[test]
fn given_a_have_when_encoded_then_it_is_the_frozen_vector() {
    let mut expected = vec![0, 0, 0, 71, 0x02, 1, 2, 3, 4, 0, 2];
    expected.extend([1; 32]);
    expected.extend([2; 32]);
    let request = Request::Have {
        request: 0x0102_0304,
        documents: vec![document(1), document(2)],
    };
    assert_eq!(request_bytes(&request), expected);
}

#[test]
fn given_a_block_answer_when_encoded_then_it_is_the_frozen_vector() {
    let header = BlockHeader {
        encoding: Encoding::Zstd,
        plain_size: 0x0010_0000,
        stored_size: 0x0001_0203,
    };
    assert_eq!(
        response_bytes(&Response::Block { request: 9, header }),
        [0, 0, 0, 14, 0x81, 0, 0, 0, 9, 1, 0, 0x10, 0, 0, 0, 1, 2, 3]
    );
}

#[test]
fn given_the_short_answers_when_encoded_then_they_are_the_frozen_vectors() {
    assert_eq!(
        response_bytes(&Response::NotFound { request: 1 }),
        [0, 0, 0, 5, 0x82, 0, 0, 0, 1]
    );
    assert_eq!(
        response_bytes(&Response::Busy {
            request: 1,
            retry_after_ms: 500
        }),
        [0, 0, 0, 9, 0x83, 0, 0, 0, 1, 0, 0, 1, 0xf4]
    );
    assert_eq!(
        response_bytes(&Response::Error {
            request: 1,
            code: 403,
            message: "no".into()
        }),
        [0, 0, 0, 9, 0x84, 0, 0, 0, 1, 1, 0x93, b'n', b'o']
    );
    assert_eq!(
        response_bytes(&Response::Having {
            request: 1,
            bitmap: vec![0b101]
        }),
        [0, 0, 0, 6, 0x85, 0, 0, 0, 1, 5]
    );
    assert_eq!(
        response_bytes(&Response::Record {
            request: 1,
            record: vec![9, 8]
        }),
        [0, 0, 0, 7, 0x86, 0, 0, 0, 1, 9, 8]
    );
}

#[test]
fn given_every_request_when_sent_through_the_codec_then_it_comes_back_equal() {
    for request in [
        Request::Get {
            request: 1,
            block: chunk(3),
        },
        Request::Get {
            request: u32::MAX,
            block: BlockId::Manifest(document(4)),
        },
        Request::Have {
            request: 2,
            documents: (0..200).map(document).collect(),
        },
        Request::Record {
            request: 3,
            document: document(5),
        },
    ] {
        assert_eq!(
            Request::decode(body(&request_bytes(&request))).unwrap(),
            request
        );
    }
}

#[test]
fn given_every_response_when_sent_through_the_codec_then_it_comes_back_equal() {
    let header = BlockHeader {
        encoding: Encoding::Plain,
        plain_size: MAX_BLOCK_BYTES,
        stored_size: MAX_BLOCK_BYTES,
    };
    for response in [
        Response::Block { request: 1, header },
        Response::NotFound { request: 2 },
        Response::Busy {
            request: 3,
            retry_after_ms: 10,
        },
        Response::Error {
            request: 4,
            code: 500,
            message: "disk".into(),
        },
        Response::Having {
            request: 5,
            bitmap: bitmap(&[true, false, true]),
        },
        Response::Record {
            request: 6,
            record: vec![1; MAX_RECORD],
        },
    ] {
        assert_eq!(
            Response::decode(body(&response_bytes(&response))).unwrap(),
            response
        );
    }
}

#[test]
fn given_a_two_gibibyte_frame_length_when_checked_then_it_is_refused() {
    let announced = 2u32 * 1024 * 1024 * 1024;
    assert_eq!(
        frame_length(announced.to_be_bytes()),
        Err(DecodeError::FrameLength { length: announced })
    );
}

#[test]
fn given_a_two_gibibyte_block_when_decoded_then_it_is_refused_by_its_header() {
    let mut frame = vec![0x81, 0, 0, 0, 1, 0];
    frame.extend(4096u32.to_be_bytes());
    frame.extend((2u32 * 1024 * 1024 * 1024).to_be_bytes());
    assert_eq!(
        Response::decode(&frame),
        Err(DecodeError::BlockTooLarge {
            plain_size: 4096,
            stored_size: 2 * 1024 * 1024 * 1024
        })
    );
}

#[test]
fn given_any_strict_prefix_of_a_request_when_decoded_then_it_is_an_error() {
    let whole = request_bytes(&Request::Have {
        request: 1,
        documents: vec![document(1), document(2)],
    });
    let whole = body(&whole);
    for end in 0..whole.len() {
        assert!(
            Request::decode(&whole[..end]).is_err(),
            "prefix of {end} bytes was accepted"
        );
    }
}

#[test]
fn given_a_byte_after_the_last_field_when_decoded_then_it_is_an_error() {
    let mut frame = request_bytes(&Request::Get {
        request: 1,
        block: chunk(1),
    });
    frame.push(0);
    assert_eq!(
        Request::decode(&frame[LENGTH_PREFIX..]),
        Err(DecodeError::TrailingBytes)
    );
}

#[test]
fn given_an_answer_where_a_request_is_due_when_decoded_then_its_kind_is_unknown() {
    let frame = response_bytes(&Response::NotFound { request: 1 });
    assert_eq!(
        Request::decode(body(&frame)),
        Err(DecodeError::UnknownKind { kind: 0x82 })
    );
}

#[test]
fn given_a_have_of_no_documents_when_decoded_then_it_is_refused() {
    assert_eq!(
        Request::decode(&[2, 0, 0, 0, 1, 0, 0]),
        Err(DecodeError::DocumentCount { count: 0 })
    );
}

#[test]
fn given_a_long_message_when_encoded_then_it_is_cut_at_a_character() {
    let message = "ä".repeat(MAX_MESSAGE);
    let frame = response_bytes(&Response::Error {
        request: 1,
        code: 500,
        message,
    });
    let Response::Error { message, .. } = Response::decode(body(&frame)).unwrap() else {
        panic!("no error")
    };
    assert_eq!(message.len(), MAX_MESSAGE);
}

#[test]
fn given_a_bitmap_when_read_beyond_its_end_then_nothing_is_held() {
    let bits = bitmap(&[true, false, false, false, false, false, false, false, true]);
    assert!(bitmap_holds(&bits, 0) && bitmap_holds(&bits, 8));
    assert!(!bitmap_holds(&bits, 1) && !bitmap_holds(&bits, 99));
}

proptest::proptest! {
    #[test]
    fn given_any_bytes_when_decoded_then_what_is_accepted_encodes_to_the_same_bytes(
        kind in proptest::sample::select(vec![1u8, 2, 3, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x7f]),
        rest in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
    ) {
        let bytes = [vec![kind], rest].concat();
        if let Ok(request) = Request::decode(&bytes) {
            let encoded = request_bytes(&request);
            proptest::prop_assert_eq!(body(&encoded), bytes.as_slice());
        }
        if let Ok(response) = Response::decode(&bytes) {
            let encoded = response_bytes(&response);
            proptest::prop_assert_eq!(body(&encoded), bytes.as_slice());
        }
    }
}
