//! Serves a calculator until SIGINT or SIGTERM.

use std::net::SocketAddr;

use clap::Parser;
use warren_example_calculator::{Files, bind};

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    files: Files,
    /// Where to listen, UDP
    #[arg(long, default_value = "127.0.0.1:7000")]
    listen: SocketAddr,
    /// Where to serve gRPC clients too, TCP
    #[arg(long, value_name = "ADDR")]
    grpc: Option<SocketAddr>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let server = bind(&arguments.files, arguments.listen, arguments.grpc)?;
    println!("listening on {}", server.local_address()?);
    if let Some(address) = server.grpc_address() {
        println!("gRPC on {address}");
    }
    let report = server.run_until_signal().await?;
    println!("stopped after {:?}, {} calls cut", report.took, report.cut);
    Ok(())
}
