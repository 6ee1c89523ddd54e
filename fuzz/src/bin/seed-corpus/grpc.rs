//! Bodies of gRPC requests.

use warren_rpc::core::grpc::prefixed;

use crate::Seeds;

pub(crate) fn seeds() -> anyhow::Result<(&'static str, Seeds)> {
    let one = prefixed(b"one message")?.to_vec();
    let empty = prefixed(b"")?.to_vec();
    let several = [&one[..], &empty, &prefixed(&[0; 300])?].concat();
    let compressed = [&[1], &one[1..]].concat();
    let boundless = [&[0, 255, 255, 255, 255], &one[..]].concat();
    Ok((
        "grpc_message",
        vec![
            ("one", one),
            ("several", several),
            ("compressed", compressed),
            ("boundless", boundless),
        ],
    ))
}
