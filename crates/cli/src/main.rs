//! The `warren` binary: parses the command line and hands it to one module of [`commands`].
//!
//! Exit codes: 0 done, 1 it failed, 2 usage. Standard output carries data only; messages go to standard error.

mod args;
mod client;
mod commands;
mod output;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;

fn main() -> ExitCode {
    // libp2p brings a second provider along, so rustls cannot choose by itself.
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        eprintln!("warren: another TLS provider was installed first");
        return ExitCode::FAILURE;
    }
    match commands::run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("warren: {}", explain(&error));
            ExitCode::FAILURE
        }
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
    use super::*;

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
