//! `warren check` and `warren config`: the configuration, looked at without starting anything.

use std::process::ExitCode;

use serde::Serialize;
use warren_config::Problems;
use warren_daemon::material;
use warren_identity::UnixTime;

use crate::args::Global;
use crate::output::{Format, print_line, table};

/// Every problem on lines of its own, with a count.
pub(super) fn problems_text(problems: &Problems) -> String {
    problems.to_string()
}

#[derive(Serialize)]
struct Checked {
    valid: bool,
    errors: Vec<String>,
    warnings: Vec<String>,
}

/// Reads the configuration and the keys and certificates that it names; starts nothing.
pub(crate) fn check(global: &Global, format: Format) -> anyhow::Result<ExitCode> {
    let files = super::config_files(global);
    let checked = match warren_daemon::settings::load(&files) {
        Err(problems) => Checked {
            valid: false,
            errors: problems.listed.iter().map(ToString::to_string).collect(),
            warnings: Vec::new(),
        },
        Ok(loaded) => {
            let errors: Vec<String> = material::problems(&loaded.settings, UnixTime::now())
                .iter()
                .map(ToString::to_string)
                .collect();
            let warnings = loaded.warnings.iter().map(ToString::to_string).collect();
            Checked {
                valid: errors.is_empty(),
                errors,
                warnings,
            }
        }
    };
    format.print(&checked, |checked| {
        let errors = checked.errors.iter().map(|error| format!("error: {error}"));
        let warnings = checked
            .warnings
            .iter()
            .map(|warning| format!("warning: {warning}"));
        let verdict = match checked.errors.len() {
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
