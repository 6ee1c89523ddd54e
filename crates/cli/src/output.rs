//! What commands print: data on standard output, everything else on standard error.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

/// How a command's result is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON value for programs.
    Json,
}

impl Format {
    pub(crate) fn from_flag(json: bool) -> Self {
        if json { Self::Json } else { Self::Text }
    }

    /// Prints `value` as JSON, or what `text` makes of it.
    pub(crate) fn print<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> io::Result<()> {
        let shown = match self {
            Self::Json => serde_json::to_string_pretty(value).map_err(io::Error::other)?,
            Self::Text => text(value),
        };
        print_line(&shown)
    }
}

/// A failure that programs can tell by its code. With `--json` it is printed as the management API words its errors: one
/// object `error` with `code`, `message`, where there is more `details`, and the `request_id` of a node that refused.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Failure {
    code: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    timestamp: String,
}

impl Failure {
    pub(crate) fn new(code: &str, message: String) -> Self {
        Self {
            code: code.to_owned(),
            message,
            details: None,
            request_id: None,
            timestamp: jiff::Timestamp::now().to_string(),
        }
    }

    pub(crate) fn with_details(self, details: serde_json::Value) -> Self {
        Self {
            details: Some(details),
            ..self
        }
    }

    /// What a node answered, if it is an error of the API.
    pub(crate) fn from_answer(body: &serde_json::Value) -> Option<Self> {
        let error = &body["error"];
        let text = |field: &str| error[field].as_str().map(str::to_owned);
        Some(Self {
            details: error.get("details").cloned(),
            request_id: text("request_id"),
            ..Self::new(&text("code")?, text("message")?)
        })
    }

    /// The same failure in other words.
    pub(crate) fn told_as(self, message: String) -> Self {
        Self { message, ..self }
    }

    /// One line.
    pub(crate) fn to_json(&self) -> String {
        serde_json::json!({ "error": self }).to_string()
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Prints to standard output; a reader that has gone away (`warren ls | head`) is no error.
pub(crate) fn print_line(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = if line.is_empty() || line.ends_with('\n') {
        write!(stdout, "{line}")
    } else {
        writeln!(stdout, "{line}")
    };
    match written.and_then(|()| stdout.flush()) {
        Err(gone) if gone.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("cannot write to standard output: {error}"),
            )
        }),
    }
}

/// Columns under their headings, as wide as what stands in them; the last one is not padded.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells
            .chain([headings[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut headings.iter().copied())];
    lines.extend(
        rows.iter()
            .map(|row| line(&mut row.iter().map(String::as_str))),
    );
    lines.join("\n")
}

/// A size for people: three figures and a binary unit.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} B"),
        _ if value < 9.995 => format!("{value:.2} {}", UNITS[unit]),
        _ if value < 99.95 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// A limit as it was configured: in a decimal unit where that divides it and no binary one does.
pub(crate) fn capacity(count: u64) -> String {
    const UNITS: [(u64, &str); 3] = [
        (1_000_000_000_000, "TB"),
        (1_000_000_000, "GB"),
        (1_000_000, "MB"),
    ];
    let decimal = UNITS
        .iter()
        .find(|(unit, _)| count > 0 && count.is_multiple_of(*unit));
    match decimal {
        Some((unit, name)) if !count.is_multiple_of(1 << 30) => format!("{} {name}", count / unit),
        _ => bytes(count),
    }
}

/// Progress of a transfer on standard error: a bar on a terminal, nothing on a pipe.
pub(crate) fn progress(total_bytes: Option<u64>, what: &str) -> indicatif::ProgressBar {
    use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match total_bytes {
        Some(total) => (
            ProgressBar::new(total),
            "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
        ),
        None => (
            ProgressBar::no_length(),
            "{msg} {spinner} {binary_bytes} {binary_bytes_per_sec}",
        ),
    };
    bar.set_draw_target(ProgressDrawTarget::stderr());
    // The template is a constant: a mistake in it would show as the plain bar.
    bar.set_style(
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.set_message(what.to_owned());
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_have_no_trailing_blanks() {
        let rows = vec![
            vec!["a".to_owned(), "x".to_owned()],
            vec!["longer".to_owned(), String::new()],
        ];
        assert_eq!(
            table(&["id", "size"], &rows),
            "id      size\na       x\nlonger"
        );
    }

    #[test]
    fn a_limit_is_shown_as_it_was_configured() {
        let shown: Vec<String> = [100_000_000_000, 16 << 20, 500_000_000, 2 << 40, 0]
            .map(capacity)
            .into();
        assert_eq!(shown, ["100 GB", "16.0 MiB", "500 MB", "2.00 TiB", "0 B"]);
    }

    #[test]
    fn sizes_keep_three_figures() {
        let shown: Vec<String> = [0, 1023, 1024, 1_048_575, 10_485_760, 1 << 40]
            .map(bytes)
            .into();
        assert_eq!(
            shown,
            [
                "0 B", "1023 B", "1.00 KiB", "1.00 MiB", "10.0 MiB", "1.00 TiB"
            ]
        );
    }
}
