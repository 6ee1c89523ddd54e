//! The `warren` binary: parses the command line and hands it to one module of [`commands`].
//!
//! Exit codes: 0 done, 1 it failed, 2 usage. Standard output carries data only; messages go to standard error, with `--json`
//! a failure as one object.

mod args;
mod client;
mod commands;
mod output;
mod values;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;
use crate::output::{Failure, Format};

fn main() -> ExitCode {
    // libp2p brings a second provider along, so rustls cannot choose by itself.
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        eprintln!("warren: another TLS provider was installed first");
        return ExitCode::FAILURE;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    let format = Format::from_flag(cli.global.json);
    match commands::run(cli) {
        Ok(code) => code,
        Err(error) => {
            match format {
                Format::Text => eprintln!("warren: {}", explain(&error)),
                Format::Json => eprintln!("{}", failure(&error).to_json()),
            }
            ExitCode::FAILURE
        }
    }
}

/// Help and version go to standard output and are no failure; what was typed wrongly is told, and is exit code 2.
fn misused(error: &clap::Error) -> ExitCode {
    // The line was not understood, so the flag is looked for as it was typed.
    let json = std::env::args_os()
        .take_while(|argument| argument != "--")
        .any(|argument| argument == "--json");
    if !(json && error.use_stderr()) {
        error.exit();
    }
    let told = error.render().to_string();
    // Usage and the way to the help follow, which are for people.
    let told = told.split("\n\n").next().unwrap_or_default();
    let message = told.trim().trim_start_matches("error: ").to_owned();
    eprintln!("{}", Failure::new("usage", message).to_json());
    ExitCode::from(2)
}

/// The failure for programs: what a part of the program named, with all that people would read.
fn failure(error: &anyhow::Error) -> Failure {
    let named = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Failure>());
    match named {
        Some(named) => named.clone().told_as(explain(error)),
        None => Failure::new("failed", explain(error)),
    }
}

/// The error and its causes on one line, leaving out a cause that the text above it already holds.
fn explain(error: &anyhow::Error) -> String {
    let mut shown = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !shown.contains(&cause) {
            shown.push_str(": ");
            shown.push_str(&cause);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_named_failure_keeps_its_name_and_is_told_with_what_stands_above_it() {
        let error = anyhow::Error::new(Failure::new("no_node", "nobody answers".to_owned()))
            .context("cannot join");
        let shown: serde_json::Value = serde_json::from_str(&failure(&error).to_json()).unwrap();
        assert_eq!(shown["error"]["code"], "no_node");
        assert_eq!(shown["error"]["message"], "cannot join: nobody answers");
    }

    #[test]
    fn a_cause_that_is_told_already_is_not_told_again() {
        let error = anyhow::anyhow!("disk full")
            .context("cannot write a.pem: disk full")
            .context("cannot make a key");
        assert_eq!(
            explain(&error),
            "cannot make a key: cannot write a.pem: disk full"
        );
    }
}
