//! Seeds from `warren-rpc`.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use warren_rpc::core::compress::pack;
use warren_rpc::core::frame::{
    Body, Control, Hello, Part, Terms, WireFailure, put_bind, put_call, put_cancel, put_control,
    put_failure, put_opening, put_part, put_reply,
};
use warren_rpc::{Code, Metadata, MetadataError, Status};

use super::Seeds;

/// The seeds of this crate's targets.
pub(crate) fn seeds() -> anyhow::Result<Vec<(&'static str, Seeds)>> {
    Ok(vec![
        ("rpc_control", control()),
        ("rpc_lane", lanes()?),
        ("rpc_metadata", vec![("trace", encoded(&traced()?)?)]),
        ("rpc_stream", streams()?),
    ])
}

fn bytes(write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::new();
    write(&mut out);
    out.to_vec()
}

fn traced() -> Result<Metadata, MetadataError> {
    let mut metadata = Metadata::default();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    metadata.insert("traceparent", parent)?;
    metadata.insert("authorization", "Bearer a.b.c")?;
    metadata.insert("idempotency-key", "once")?;
    Ok(metadata)
}

/// As it travels, without its length.
fn encoded(metadata: &Metadata) -> anyhow::Result<Vec<u8>> {
    let pairs: Vec<(&str, &str)> = metadata.iter().collect();
    Ok(postcard::to_allocvec(&pairs)?)
}

fn terms(metadata: &Metadata) -> Terms<Option<&Metadata>> {
    Terms {
        timeout: Some(Duration::from_millis(200)),
        idempotent: true,
        metadata: Some(metadata),
    }
}

fn failure() -> WireFailure {
    WireFailure {
        status: Status::overloaded(Duration::from_millis(5)),
        application: None,
    }
}

fn application_failure() -> WireFailure {
    WireFailure {
        status: Status::new(Code::NotFound, "no such page"),
        application: Some(Bytes::from_static(b"\x01")),
    }
}

fn lanes() -> anyhow::Result<Seeds> {
    let metadata = traced()?;
    let plain = Body::plain(Bytes::from_static(b"request"));
    let packed = pack(Bytes::from(vec![b'a'; 4096]), Some(0));
    Ok(vec![
        (
            "client",
            bytes(|out| {
                put_bind(out, 0, "calculator.v1.Calculator/Add");
                put_call(out, 1, 0, &Terms::default(), &plain);
                put_call(out, 2, 0, &terms(&metadata), &packed);
                put_cancel(out, 2);
            }),
        ),
        (
            "server",
            bytes(|out| {
                put_reply(out, 1, &plain);
                put_reply(out, 2, &packed);
                put_failure(out, 3, &failure());
                put_failure(out, 4, &application_failure());
            }),
        ),
        ("no-such-kind", vec![2, 0, 0, 0, 99, 1]),
    ])
}

fn streams() -> anyhow::Result<Seeds> {
    let metadata = traced()?;
    let message = || Part::Message(Body::plain(Bytes::from_static(b"message")));
    Ok(vec![
        (
            "messages",
            bytes(|out| {
                put_opening(out, "test.v1.Probe/Count", &terms(&metadata));
                put_part(out, &message());
                put_part(out, &Part::Message(pack(vec![7; 4096].into(), Some(0))));
                put_part(out, &Part::End);
            }),
        ),
        (
            "failure",
            bytes(|out| {
                put_opening(out, "a/b", &Terms::default());
                put_part(out, &message());
                put_part(out, &Part::Failure(application_failure()));
            }),
        ),
    ])
}

fn control() -> Seeds {
    let hello = Hello {
        max_message_bytes: 16 * 1024 * 1024,
        max_calls: 4_096,
    };
    vec![(
        "hello-and-farewell",
        bytes(|out| {
            put_control(out, &Control::Hello(hello));
            put_control(out, &Control::GoAway);
        }),
    )]
}
