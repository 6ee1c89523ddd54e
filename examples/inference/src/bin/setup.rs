//! Makes keys and certificates for every program of the example.

use std::path::PathBuf;

use clap::Parser;
use warren_example_inference::organization::set_up;
use warren_example_inference::{DIRECTORS, WORKERS};

#[derive(Parser)]
struct Arguments {
    /// Folder to write to
    folder: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let folder = Arguments::parse().folder;
    let directors = (1..=DIRECTORS).map(|number| (format!("director-{number}"), &["director"][..]));
    let workers = (1..=WORKERS).map(|number| (format!("worker-{number}"), &["worker"][..]));
    let client = [("client".to_owned(), &[][..])];
    set_up(&folder, directors.chain(workers).chain(client))?;
    println!("{}", folder.display());
    Ok(())
}
