//! A client under load, which prints each second what came of it. Exit code 1 when a call failed.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use warren_example_inference::organization::Files;
use warren_example_inference::{DIRECTORS, client, load, place_of_director};

#[derive(Parser)]
struct Arguments {
    /// Folder that `setup` wrote
    folder: PathBuf,
    /// How long
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Prompts in flight
    #[arg(long, default_value_t = 32)]
    callers: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let files = Files::of(&arguments.folder, "client");
    let directors = (1..=DIRECTORS).map(|number| place_of_director(number).calls);
    let model = client(&files, directors)?;
    let mut failed = 0;
    for second in 1..=arguments.seconds {
        let until = Instant::now() + Duration::from_secs(1);
        let tally = load(&model, arguments.callers, until).await;
        let completed: u64 = tally.completed.values().sum();
        let workers: Vec<String> = tally
            .completed
            .iter()
            .map(|(worker, count)| format!("{worker} {count}"))
            .collect();
        println!(
            "{second:>3} s: {completed} completed ({}), {} failed",
            workers.join(", "),
            tally.failed.len()
        );
        for reason in tally.failed.iter().take(3) {
            println!("       {reason}");
        }
        failed += tally.failed.len();
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
