//! A list of points that are looked at one by one.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use warren_cluster::{ClusterState, DEFAULT_MAX_AGE};

use crate::output::{Format, table};

/// A backup that is older tells of another cluster.
const OLDEST_BACKUP: Duration = Duration::from_secs(7 * 86_400);

/// One point.
#[derive(Debug, Serialize)]
pub(super) struct Point {
    name: &'static str,
    passed: bool,
    /// What was seen; where it failed, what to do.
    detail: String,
}

impl Point {
    /// What was seen, or what is missing.
    pub(super) fn new(name: &'static str, outcome: Result<String, String>) -> Self {
        let passed = outcome.is_ok();
        let (Ok(detail) | Err(detail)) = outcome;
        Self {
            name,
            passed,
            detail,
        }
    }
}

#[derive(Serialize)]
struct Checklist {
    passed: bool,
    points: Vec<Point>,
}

/// Prints the points; exit code 1 where one failed.
pub(super) fn print(points: Vec<Point>, format: Format) -> anyhow::Result<ExitCode> {
    let passed = points.iter().all(|point| point.passed);
    let checklist = Checklist { passed, points };
    format.print(&checklist, |checklist| {
        let rows: Vec<Vec<String>> = checklist
            .points
            .iter()
            .enumerate()
            .map(|(index, point)| {
                let verdict = if point.passed { "pass" } else { "FAIL" };
                vec![
                    (index + 1).to_string(),
                    point.name.to_owned(),
                    verdict.to_owned(),
                    point.detail.clone(),
                ]
            })
            .collect();
        table(&["", "point", "", ""], &rows)
    })?;
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A backup that can be read, is not old and has somebody in it.
pub(super) fn backup(path: &Path) -> Result<String, String> {
    let fix = "write one with `warren cluster backup --out FILE`, and name it with --backup";
    let state = ClusterState::read(path).map_err(|error| format!("{error}: {fix}"))?;
    let now = SystemTime::now();
    let members = state.seeds(now, DEFAULT_MAX_AGE).len();
    if members == 0 {
        return Err(format!(
            "{} has no member to restore from: {fix}",
            path.display()
        ));
    }
    let age = now.duration_since(state.timestamp).unwrap_or_default();
    if age > OLDEST_BACKUP {
        let days = age.as_secs() / 86_400;
        return Err(format!("{} is {days} days old: {fix}", path.display()));
    }
    Ok(format!(
        "{} has {members} members to restore from",
        path.display()
    ))
}

/// Something to read where it is said to be.
pub(super) fn documents(path: &Path) -> Result<String, String> {
    let has_content = match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            std::fs::read_dir(path).is_ok_and(|mut all| all.next().is_some())
        }
        Ok(found) => found.len() > 0,
        Err(_) => false,
    };
    match has_content {
        true => Ok(path.display().to_string()),
        false => Err(format!(
            "nothing at {}: name the file or folder with --runbooks",
            path.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn given_an_empty_folder_when_documents_are_looked_for_then_there_are_none() {
        let folder = tempfile::tempdir().unwrap();

        assert!(documents(folder.path()).is_err());
        std::fs::write(folder.path().join("a"), "text").unwrap();
        assert!(documents(folder.path()).is_ok());
        assert!(documents(&folder.path().join("a")).is_ok());
        assert!(documents(&folder.path().join("b")).is_err());
    }

    #[test]
    fn given_what_is_no_backup_then_it_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state.json");
        std::fs::write(&file, "{}").unwrap();

        assert!(backup(&file).unwrap_err().contains("is no cluster backup"));
    }
}
