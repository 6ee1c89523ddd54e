//! One director.

use std::path::PathBuf;

use clap::Parser;
use warren_example_inference::organization::Files;
use warren_example_inference::{DIRECTORS, director, place_of_director};

#[derive(Parser)]
struct Arguments {
    /// Folder that `setup` wrote
    folder: PathBuf,
    /// Which one
    #[arg(value_parser = clap::value_parser!(u16).range(1..=i64::from(DIRECTORS)))]
    number: u16,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().init();
    let Arguments { folder, number } = Arguments::parse();
    let files = Files::of(&folder, &format!("director-{number}"));
    let (server, _cluster) = director(&files, &place_of_director(number)).await?;
    server.run_until_signal().await?;
    Ok(())
}
