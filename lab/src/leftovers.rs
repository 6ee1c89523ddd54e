//! Names that tell whose a namespace is, and the removal of what dead owners left.
//!
//! Everything a lab makes outside its own memory is named `warren-lab.<pid>.<start>.<n>.<label>`: process id and start
//! time (in clock ticks since boot) of the owner, a count within it, a label. The start time keeps a new process with
//! an old number from being taken for the owner.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::namespace::{ETC_NAMESPACES, NAMESPACES, Namespace};

const PREFIX: &str = "warren-lab";

static LABS: AtomicU32 = AtomicU32::new(0);

/// A prefix nobody else has, now or before.
pub(crate) fn unique_prefix() -> String {
    static START: OnceLock<u64> = OnceLock::new();
    let pid = std::process::id();
    let start = START.get_or_init(|| start_time(pid).unwrap_or(0));
    let count = LABS.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}.{pid}.{start}.{count}")
}

/// Removes namespaces, their `/etc` folders and output folders whose owner is gone.
pub(crate) fn reap() {
    for name in orphans(Path::new(NAMESPACES)) {
        Namespace::remove(&name);
    }
    for name in orphans(Path::new(ETC_NAMESPACES)) {
        let _ = fs::remove_dir_all(Path::new(ETC_NAMESPACES).join(name));
    }
    let outputs = std::env::temp_dir();
    for name in orphans(&outputs) {
        let _ = fs::remove_dir_all(outputs.join(name));
    }
}

fn orphans(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| is_orphan(name))
        .collect()
}

/// Whether `name` is a lab's, and the lab's process is gone.
fn is_orphan(name: &str) -> bool {
    let mut parts = name.split('.');
    if parts.next() != Some(PREFIX) {
        return false;
    }
    let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok());
    let (Some(pid), Some(start)) = (number(), number()) else {
        return false;
    };
    u32::try_from(pid).is_ok_and(|pid| start_time(pid) != Some(start))
}

/// When a process started, in clock ticks since boot: field 22 of `/proc/<pid>/stat` (proc_pid_stat(5)); `None` when
/// there is none. The name in field 2 may hold blanks and brackets, so counting begins after the last bracket.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn given_our_own_name_when_judged_then_it_is_no_orphan() {
        assert!(!is_orphan(&format!("{}.host", unique_prefix())));
    }

    #[test]
    fn given_our_pid_with_another_start_when_judged_then_it_is_an_orphan() {
        let pid = std::process::id();
        assert!(is_orphan(&format!("{PREFIX}.{pid}.1.0.host")));
    }

    #[test]
    fn given_names_of_others_when_judged_then_they_are_left_alone() {
        for name in [
            "eth-vpn",
            "warren-lab",
            "warren-lab.x.1.0.a",
            "other.1.1.0.a",
        ] {
            assert!(!is_orphan(name), "{name}");
        }
    }
}
