//! Writes the client and server of the peer tonic, as its own generator does, from the definition below.

use tonic_build::manual::{Builder, Method, Service};

fn main() {
    let message = "crate::roles::calls::tonic::Message";
    let echo = Method::builder()
        .name("echo")
        .route_name("Echo")
        .input_type(message)
        .output_type(message)
        .codec_path("tonic_prost::ProstCodec")
        .build();
    let service = Service::builder()
        .name("Echo")
        .package("bench.v1")
        .method(echo)
        .build();
    Builder::new().compile(&[service]);
}
