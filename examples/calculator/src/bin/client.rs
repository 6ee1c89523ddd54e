//! Calls every method of a calculator once and prints what it answers.

use std::net::SocketAddr;

use clap::Parser;
use warren_example_calculator::{Files, connect, tour};

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    files: Files,
    /// Where the calculator is
    #[arg(long, default_value = "127.0.0.1:7000")]
    server: SocketAddr,
    /// A number
    #[arg(default_value_t = 2, allow_negative_numbers = true)]
    a: i64,
    /// Another
    #[arg(default_value_t = 3, allow_negative_numbers = true)]
    b: i64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let calculator = connect(&arguments.files, arguments.server).await?;
    for line in tour(&calculator, arguments.a, arguments.b).await? {
        println!("{line}");
    }
    Ok(())
}
