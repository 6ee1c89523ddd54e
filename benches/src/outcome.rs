//! What a measurement came to: a row with medians, the ratio's spread and whether it is good enough.

use std::fmt;
use std::path::Path;

use anyhow::Context;
use serde::{Serialize, Serializer};

/// What a value is held against.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, "≥ {least}"),
            Self::AtMost(most) => write!(f, "≤ {most}"),
        }
    }
}

impl Serialize for Bound {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a row is held against: its ratio, or our value where there is no peer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Target {
    pub(crate) must: Option<Bound>,
    pub(crate) aim: Option<Bound>,
}

impl Target {
    /// For what is told beside and held against nothing.
    pub(crate) const NONE: Self = Self {
        must: None,
        aim: None,
    };

    pub(crate) const fn at_least(must: f64, aim: f64) -> Self {
        Self {
            must: Some(Bound::AtLeast(must)),
            aim: Some(Bound::AtLeast(aim)),
        }
    }

    pub(crate) const fn at_most(must: f64, aim: f64) -> Self {
        Self {
            must: Some(Bound::AtMost(must)),
            aim: Some(Bound::AtMost(aim)),
        }
    }

    fn met(self, value: f64) -> Met {
        match (self.must, self.aim) {
            (None, None) => Met::NotHeld,
            (_, Some(aim)) if aim.holds(value) => Met::Aim,
            (Some(must), _) if must.holds(value) => Met::Must,
            _ => Met::No,
        }
    }
}

/// How good it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Met {
    /// What was aimed at.
    Aim,
    /// What must be.
    Must,
    /// Not even that.
    No,
    /// Nothing is asked of it.
    NotHeld,
    /// It could not be measured here.
    NotMeasured,
    /// A side failed, or gave out something else than what went in.
    Failed,
}

impl Met {
    fn text(self) -> &'static str {
        match self {
            Self::Aim => "aim",
            Self::Must => "must",
            Self::No => "NO",
            Self::NotHeld => "-",
            Self::NotMeasured => "not measured",
            Self::Failed => "FAILED",
        }
    }
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) case: String,
    pub(crate) unit: String,
    /// Median.
    pub(crate) ours: Option<f64>,
    pub(crate) peer: String,
    /// Median.
    pub(crate) peer_value: Option<f64>,
    /// Median over the pairs.
    pub(crate) ratio: Option<f64>,
    /// Least and most: of the ratio over the pairs, or of our values where there is no peer.
    pub(crate) spread: Option<[f64; 2]>,
    pub(crate) must: Option<Bound>,
    pub(crate) aim: Option<Bound>,
    pub(crate) met: Met,
    /// Why there are no figures.
    pub(crate) note: Option<String>,
}

impl Row {
    /// Ours against a peer's, pair by pair; the ratio is ours over the peer's.
    pub(crate) fn paired(
        case: &str,
        unit: &str,
        peer: &str,
        pairs: &[(f64, f64)],
        target: Target,
    ) -> Self {
        let ratios: Vec<f64> = pairs.iter().map(|(ours, peer)| ours / peer).collect();
        let ratio = median(&ratios);
        Self {
            ours: median(&pairs.iter().map(|pair| pair.0).collect::<Vec<_>>()),
            peer_value: median(&pairs.iter().map(|pair| pair.1).collect::<Vec<_>>()),
            ratio,
            spread: spread(&ratios),
            met: ratio.map_or(Met::NotMeasured, |ratio| target.met(ratio)),
            ..Self::empty(case, unit, peer, target)
        }
    }

    /// Ours, held against a fixed figure.
    pub(crate) fn alone(case: &str, unit: &str, values: &[f64], target: Target) -> Self {
        let ours = median(values);
        Self {
            ours,
            spread: spread(values),
            met: ours.map_or(Met::NotMeasured, |ours| target.met(ours)),
            ..Self::empty(case, unit, "-", target)
        }
    }

    /// A case that could not be measured, and why.
    pub(crate) fn not_measured(case: &str, reason: &anyhow::Error) -> Self {
        Self {
            note: Some(format!("{reason:#}")),
            ..Self::empty(case, "-", "-", Target::NONE)
        }
    }

    /// A case that went wrong.
    pub(crate) fn failed(case: &str, error: &anyhow::Error) -> Self {
        Self {
            met: Met::Failed,
            ..Self::not_measured(case, error)
        }
    }

    fn empty(case: &str, unit: &str, peer: &str, target: Target) -> Self {
        Self {
            case: case.to_owned(),
            unit: unit.to_owned(),
            ours: None,
            peer: peer.to_owned(),
            peer_value: None,
            ratio: None,
            spread: None,
            must: target.must,
            aim: target.aim,
            met: Met::NotMeasured,
            note: None,
        }
    }

    pub(crate) fn is_acceptable(&self) -> bool {
        !matches!(self.met, Met::No | Met::Failed)
    }
}

/// The one in the middle, or between the two in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

fn spread(values: &[f64]) -> Option<[f64; 2]> {
    let least = values.iter().copied().min_by(f64::total_cmp)?;
    let most = values.iter().copied().max_by(f64::total_cmp)?;
    Some([least, most])
}

/// Prints a table that is Markdown as well.
pub(crate) fn print(rows: &[Row]) {
    println!("| case | unit | ours | peer | peer value | ratio | spread | must | aim | met |");
    println!("|---|---|---:|---|---:|---:|---|---|---|---|");
    for row in rows {
        let bound =
            |bound: Option<Bound>| bound.map_or_else(String::new, |bound| bound.to_string());
        let spread = row.spread.map_or_else(String::new, |[least, most]| {
            format!("{}–{}", figure(least), figure(most))
        });
        let shown = |value: Option<f64>| value.map_or_else(String::new, figure);
        println!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            row.case,
            row.unit,
            shown(row.ours),
            row.peer,
            shown(row.peer_value),
            shown(row.ratio),
            spread,
            bound(row.must),
            bound(row.aim),
            row.note.as_deref().map_or_else(
                || row.met.text().to_owned(),
                |note| format!("{}: {note}", row.met.text())
            ),
        );
    }
}

/// Three significant digits or so.
fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Writes `{"conditions": …, "rows": […]}`.
pub(crate) fn write_json(file: &Path, conditions: &str, rows: &[Row]) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Document<'a> {
        conditions: &'a str,
        rows: &'a [Row],
    }
    let mut text = serde_json::to_string_pretty(&Document { conditions, rows })?;
    text.push('\n');
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_pairs_when_a_row_is_made_then_the_ratio_is_the_median_over_the_pairs() {
        let pairs = [(1.0, 2.0), (3.0, 2.0), (8.0, 10.0)];
        let row = Row::paired("case", "unit", "peer", &pairs, Target::at_least(0.6, 0.85));
        assert_eq!((row.ours, row.peer_value), (Some(3.0), Some(2.0)));
        assert_eq!((row.ratio, row.spread), (Some(0.8), Some([0.5, 1.5])));
        assert_eq!(row.met, Met::Must);
    }

    #[test]
    fn given_a_value_above_its_most_when_a_row_is_made_then_it_is_not_acceptable() {
        let row = Row::alone(
            "case",
            "MiB",
            &[151.0],
            Target {
                must: Some(Bound::AtMost(150.0)),
                aim: None,
            },
        );
        assert_eq!(row.met, Met::No);
        assert!(!row.is_acceptable());
    }

    #[test]
    fn given_an_even_number_of_values_when_their_median_is_taken_then_it_lies_between_the_two_in_the_middle()
     {
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
