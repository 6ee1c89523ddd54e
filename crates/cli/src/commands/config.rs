//! `warren check` and `warren config`: the configuration, looked at without starting anything.

use std::process::ExitCode;

use serde::Serialize;
use warren_config::Problems;
use warren_daemon::preflight;
use warren_daemon::settings::Variables;
use warren_identity::UnixTime;

use crate::args::Global;
use crate::output::{Failure, Format, print_line, table};

/// Every problem on lines of its own, with a count.
pub(super) fn bad_configuration(problems: &Problems) -> Failure {
    let listed: Vec<String> = problems.listed.iter().map(ToString::to_string).collect();
    Failure::new("bad_configuration", problems.to_string())
        .with_details(serde_json::json!({ "errors": listed, "unlisted": problems.unlisted }))
}

#[derive(Serialize)]
struct Checked {
    valid: bool,
    errors: Vec<String>,
    /// Errors that are not listed.
    unlisted: usize,
    warnings: Vec<String>,
}

/// Reads the configuration and every file that it names; starts and makes nothing.
pub(crate) fn check(global: &Global, format: Format) -> anyhow::Result<ExitCode> {
    let inspection = super::sources(global, Variables::Own).inspect();
    let (listed, unlisted) = match &inspection.outcome {
        Ok(_) => (&[][..], 0),
        Err(problems) => (problems.listed.as_slice(), problems.unlisted),
    };
    let obstacles = preflight::obstacles(&inspection, UnixTime::now());
    let errors: Vec<String> = listed
        .iter()
        .map(ToString::to_string)
        .chain(obstacles.iter().map(ToString::to_string))
        .collect();
    let warnings = inspection.warnings.iter().map(ToString::to_string);
    let checked = Checked {
        valid: errors.is_empty(),
        unlisted,
        errors,
        warnings: warnings.collect(),
    };
    format.print(&checked, |checked| {
        let errors = checked.errors.iter().map(|error| format!("error: {error}"));
        let warnings = checked
            .warnings
            .iter()
            .map(|warning| format!("warning: {warning}"));
        let verdict = match checked.errors.len() + checked.unlisted {
            0 => "the configuration is valid".to_owned(),
            1 => "1 problem".to_owned(),
            count => format!("{count} problems"),
        };
        errors
            .chain(warnings)
            .chain([verdict])
            .collect::<Vec<_>>()
            .join("\n")
    })?;
    Ok(if checked.valid {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[derive(Serialize)]
struct Line {
    key: String,
    value: String,
    origin: String,
}

pub(crate) fn show(global: &Global, format: Format) -> anyhow::Result<()> {
    let loaded = super::load_config(global)?;
    let lines: Vec<Line> = loaded
        .effective()
        .into_iter()
        .map(|line| Line {
            key: line.path,
            value: line.value,
            origin: line.origin.to_string(),
        })
        .collect();
    Ok(format.print(&lines, |lines| {
        let rows: Vec<Vec<String>> = lines
            .iter()
            .map(|line| vec![line.key.clone(), line.value.clone(), line.origin.clone()])
            .collect();
        table(&["key", "value", "from"], &rows)
    })?)
}

pub(crate) fn schema() -> anyhow::Result<()> {
    Ok(print_line(&serde_json::to_string_pretty(
        &warren_config::schema(),
    )?)?)
}
