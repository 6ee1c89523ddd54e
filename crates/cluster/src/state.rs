//! Backup and restore of who was there: metadata only, no keys and no content.
//!
//! A cluster needs no backup to run. It is for the day on which all seeds are gone: the members of yesterday are
//! seeds as good as any.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use warren_identity::{PeerId, peer_id_serde};
use warren_swim::{State, limits};

use crate::node::Snapshot;

/// A backup older than this is of no use: addresses have moved on.
pub const DEFAULT_MAX_AGE: Duration = Duration::from_secs(30 * 24 * 3_600);
/// No backup of the largest cluster is longer, in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// In which state a node was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SavedState {
    /// It answered.
    Alive,
    /// Somebody got no answer from it.
    Suspect,
    /// It was gone without a word.
    Failed,
    /// It had said good-bye.
    Left,
}

impl From<State> for SavedState {
    fn from(state: State) -> Self {
        match state {
            State::Alive => Self::Alive,
            State::Suspect => Self::Suspect,
            State::Failed => Self::Failed,
            State::Left => Self::Left,
        }
    }
}

/// One node of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedNode {
    /// Who.
    #[serde(with = "peer_id_serde")]
    pub peer_id: PeerId,
    /// Its name, if it was known.
    pub name: Option<String>,
    /// Where it took part in membership.
    pub address: SocketAddr,
    /// In which state it was.
    pub state: SavedState,
    /// The age of what it said of itself.
    pub incarnation: u64,
    /// What it said of itself.
    pub tags: BTreeMap<String, String>,
}

/// Who was in the cluster at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// Every node that was known, the one that made the backup included.
    pub nodes: Vec<SavedNode>,
    /// When.
    pub timestamp: SystemTime,
}

/// Why a backup was not written or read. A file that was there before is whole.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The system refused.
    #[error("cannot {action} the cluster backup {path}: {source}")]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// No backup, or one of another version.
    #[error("{path} is no cluster backup: {source}; make one with `warren cluster backup`")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: serde_json::Error,
    },
    /// Far longer than any backup.
    #[error("{0} is no cluster backup: it is longer than 64 MiB")]
    TooLong(PathBuf),
}

impl ClusterState {
    /// The backup of a snapshot.
    #[must_use]
    pub fn of(snapshot: &Snapshot, timestamp: SystemTime) -> Self {
        let nodes = snapshot.nodes.iter().map(|node| SavedNode {
            peer_id: node.peer_id,
            name: node.name.clone(),
            address: node.address,
            state: node.state.into(),
            incarnation: node.incarnation,
            tags: node.tags.clone(),
        });
        Self {
            nodes: nodes.collect(),
            timestamp,
        }
    }

    /// Writes it as JSON, whole or not at all: beside the target first, then renamed over it. Blocks.
    ///
    /// # Errors
    /// [`BackupError::Io`]; what was there before is untouched.
    pub fn write(&self, path: &Path) -> Result<(), BackupError> {
        let failed = |source| BackupError::Io {
            action: "write",
            path: path.to_owned(),
            source,
        };
        let json = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        let name = path
            .file_name()
            .ok_or_else(|| failed(io::ErrorKind::IsADirectory.into()))?;
        let mut neighbour = name.to_owned();
        neighbour.push(format!(".{}.new", std::process::id()));
        let neighbour = path.with_file_name(neighbour);
        let written = write_whole(&neighbour, &json).and_then(|()| fs::rename(&neighbour, path));
        if let Err(source) = written {
            // What is left of the attempt is of no use; it may never have been there.
            let _ = fs::remove_file(&neighbour);
            return Err(failed(source));
        }
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let folder = File::open(folder.unwrap_or(Path::new("."))).and_then(|file| file.sync_all());
        folder.map_err(failed)
    }

    /// Reads a backup. Blocks.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn read(path: &Path) -> Result<Self, BackupError> {
        let failed = |source| BackupError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let mut json = Vec::new();
        let read = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut json);
        if read.map_err(failed)? as u64 > MAX_FILE_BYTES {
            return Err(BackupError::TooLong(path.to_owned()));
        }
        serde_json::from_slice(&json).map_err(|source| BackupError::Format {
            path: path.to_owned(),
            source,
        })
    }

    /// The addresses worth contacting for [`Cluster::contact`](crate::Cluster::contact): nodes that were live, directors
    /// first, at most 64. None when the backup is older than `max_age`. Those that are gone since are simply not heard of.
    #[must_use]
    pub fn seeds(&self, now: SystemTime, max_age: Duration) -> Vec<SocketAddr> {
        // A clock that went back makes no backup old.
        let age = now.duration_since(self.timestamp).unwrap_or_default();
        if age > max_age {
            return Vec::new();
        }
        let is_director = |node: &SavedNode| {
            let roles = node.tags.get(crate::ROLE_TAG);
            roles.is_some_and(|roles| roles.split(',').any(|role| role.trim() == "director"))
        };
        let mut live: Vec<&SavedNode> = self
            .nodes
            .iter()
            .filter(|node| matches!(node.state, SavedState::Alive | SavedState::Suspect))
            .collect();
        live.sort_by_key(|node| !is_director(node));
        let mut seeds = Vec::new();
        for node in live {
            if seeds.len() < limits::SEEDS && !seeds.contains(&node.address) {
                seeds.push(node.address);
            }
        }
        seeds
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use warren_identity::NodeKey;

    fn node(number: u8, state: SavedState, role: &str) -> SavedNode {
        SavedNode {
            peer_id: NodeKey::from_seed([number; 32]).peer_id(),
            name: Some(format!("node-{number}")),
            address: ([10, 0, 0, number], 7946).into(),
            state,
            incarnation: 7,
            tags: BTreeMap::from([("role".to_owned(), role.to_owned())]),
        }
    }

    fn state() -> ClusterState {
        ClusterState {
            nodes: vec![
                node(1, SavedState::Alive, "worker"),
                node(2, SavedState::Failed, "director"),
                node(3, SavedState::Suspect, "director"),
                node(4, SavedState::Left, "worker"),
            ],
            timestamp: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000),
        }
    }

    #[test]
    fn given_a_backup_when_written_and_read_then_it_is_the_same_and_nothing_lies_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster_state.json");
        fs::write(&path, "what was there before").unwrap();

        state().write(&path).unwrap();

        assert_eq!(ClusterState::read(&path).unwrap(), state());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn given_a_folder_that_is_not_there_when_written_then_the_error_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing/cluster_state.json");

        let error = state().write(&path).unwrap_err().to_string();

        assert!(error.contains("cluster_state.json"), "{error}");
    }

    #[test]
    fn given_something_else_when_read_then_it_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster_state.json");
        fs::write(&path, "{\"nodes\": 3}").unwrap();

        assert!(matches!(
            ClusterState::read(&path),
            Err(BackupError::Format { .. })
        ));
    }

    #[test]
    fn given_nodes_in_all_states_when_restored_then_only_live_ones_are_seeds_and_directors_come_first()
     {
        let now = state().timestamp + Duration::from_secs(60);

        let seeds = state().seeds(now, DEFAULT_MAX_AGE);

        let wanted: [SocketAddr; 2] = [([10, 0, 0, 3], 7946).into(), ([10, 0, 0, 1], 7946).into()];
        assert_eq!(seeds, wanted);
    }

    #[test]
    fn given_an_old_backup_when_restored_then_nobody_is_contacted() {
        let now = state().timestamp + DEFAULT_MAX_AGE + Duration::from_secs(1);

        assert!(state().seeds(now, DEFAULT_MAX_AGE).is_empty());
    }
}
