//! One worker.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use warren_example_inference::organization::Files;
use warren_example_inference::{Backwards, WORKERS, place_of_worker, worker};

#[derive(Parser)]
struct Arguments {
    /// Folder that `setup` wrote
    folder: PathBuf,
    /// Which one
    #[arg(value_parser = clap::value_parser!(u16).range(1..=i64::from(WORKERS)))]
    number: u16,
    /// Milliseconds for each word
    #[arg(long, default_value_t = 5)]
    pace: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().init();
    let Arguments {
        folder,
        number,
        pace,
    } = Arguments::parse();
    let name = format!("worker-{number}");
    let files = Files::of(&folder, &name);
    let model = Backwards {
        worker: name,
        pace: Duration::from_millis(pace),
    };
    let (server, _cluster) = worker(&files, &place_of_worker(number), model).await?;
    server.run_until_signal().await?;
    Ok(())
}
