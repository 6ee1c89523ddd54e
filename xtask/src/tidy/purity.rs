//! Cores decide and touch nothing: no runtime, socket, file, clock, environment, global randomness, and no hash map,
//! whose order differs from run to run.
//!
//! Core code is all of a pure crate, and in every other crate what lies under a folder or file named `core`. Of what
//! lies beside the core in its crate it may name modules that are as pure (plain data, say), so that no shell slips in.
//!
//! A hash map that is only ever looked up in may stay, when its line or the one above says `// lookup-only: why`.

use std::collections::BTreeSet;

use super::Finding;
use super::arrows::{Kind, room_of_folder};
use super::repository::{File, Repository};
use super::source::{Name, Place, is_test_module, names_outside_tests, test_modules};

const WHY: &str =
    "a core takes its world as arguments, so that a simulator and a fuzzer can run it";

/// Crates whose name opens a path that no core may say.
const SHELL_CRATES: &[&str] = &[
    "async_std",
    "axum",
    "getrandom",
    "hyper",
    "hyper_util",
    "libp2p",
    "libp2p_stream",
    "mio",
    "quinn",
    "redb",
    "reqwest",
    "rustix",
    "socket2",
    "sqlx",
    "tempfile",
    "tokio",
    "tokio_rustls",
    "tokio_util",
    "tracing_appender",
    "tracing_subscriber",
];

/// Runs of segments that no core may say anywhere in a path, each with what to do instead.
const BANNED: &[(&[&str], &str)] = &[
    (&["std", "fs"], "take the bytes, or a closure that reads"),
    (&["std", "env"], "take the values as an argument"),
    (&["std", "process"], "let a shell run it"),
    (&["thread", "sleep"], "give back when to be called again"),
    (&["thread", "spawn"], "let a shell own the thread"),
    (&["Instant", "now"], "take `now` as an argument"),
    (&["SystemTime", "now"], "take `now` as an argument"),
    (&["UnixTime", "now"], "take `now` as an argument"),
    (&["Timestamp", "now"], "take `now` as an argument"),
    (&["Zoned", "now"], "take `now` as an argument"),
    (&["rand", "rng"], "take the random generator as an argument"),
    (&["thread_rng"], "take the random generator as an argument"),
    (&["OsRng"], "take the random generator as an argument"),
    (&["TcpStream"], "take bytes in and give bytes out"),
    (&["TcpListener"], "take bytes in and give bytes out"),
    (&["UdpSocket"], "take bytes in and give bytes out"),
    (&["UnixStream"], "take bytes in and give bytes out"),
    (&["UnixListener"], "take bytes in and give bytes out"),
    (&["UnixDatagram"], "take bytes in and give bytes out"),
    (&["ToSocketAddrs"], "take resolved addresses"),
];

/// Methods that read the clock or the network behind an innocent name.
const BANNED_METHODS: &[(&str, &str)] = &[
    ("elapsed", "subtract from the `now` you were given"),
    ("to_socket_addrs", "take resolved addresses"),
];

/// Names in core code that reach into the world.
pub(super) fn check(repository: &Repository) -> Vec<Finding> {
    let test_modules = test_modules(repository);
    let mut findings = Vec::new();
    for file in &repository.files {
        let Some(syntax) = file.rust() else { continue };
        let Some(scope) = core_scope(&file.path) else {
            continue;
        };
        if is_test_module(file, &test_modules) {
            continue;
        }
        let lines = file.lines();
        for name in names_outside_tests(syntax) {
            let complaint = impure(&name, &lines).or_else(|| match scope {
                Scope::Crate => None,
                Scope::Folder => beside(repository, &file.path, &name),
            });
            if let Some((what, fix)) = complaint {
                findings.push(finding(file, name.line, what, fix));
            }
        }
    }
    findings
}

/// What is wrong with a name in a core, and what to do instead.
fn impure(name: &Name, lines: &[&str]) -> Option<(String, String)> {
    banned(name).or_else(|| hash_map(name, lines))
}

/// How a file came to be core code.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// It belongs to a pure crate.
    Crate,
    /// It lies in a `core` folder of a crate that has shells too.
    Folder,
}

fn core_scope(path: &str) -> Option<Scope> {
    let (folder, inside) = path.split_once("/src/")?;
    if room_of_folder(folder).is_some_and(|room| room.kind == Kind::Pure) {
        return Some(Scope::Crate);
    }
    inside
        .split('/')
        .any(|part| part == "core" || part == "core.rs")
        .then_some(Scope::Folder)
}

fn banned(name: &Name) -> Option<(String, String)> {
    if name.place == Place::Member {
        let (method, fix) = BANNED_METHODS
            .iter()
            .find(|(method, _)| name.segments[0] == *method)?;
        return Some((format!("`.{method}()` in a core"), (*fix).into()));
    }
    if is_of_shell_crate(name) {
        return Some((
            format!("`{}` in a core", name.text()),
            "do this in a shell".into(),
        ));
    }
    let (_, fix) = BANNED.iter().find(|(needle, _)| name.contains(needle))?;
    Some((format!("`{}` in a core", name.text()), (*fix).into()))
}

/// A local or a field may be called `libp2p`; an import or a path that begins so is the crate. Addresses and peer ids
/// are values, wherever they come from.
fn is_of_shell_crate(name: &Name) -> bool {
    let [first, rest @ ..] = name.segments.as_slice() else {
        return false;
    };
    let names_the_crate = !rest.is_empty() || matches!(name.place, Place::Import | Place::Renamed);
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    let is_value = first == "libp2p"
        && matches!(
            rest.as_slice(),
            ["PeerId" | "Multiaddr" | "multiaddr" | "identity", ..] | ["swarm", "ConnectionId", ..]
        );
    names_the_crate && SHELL_CRATES.contains(&first.as_str()) && !is_value
}

fn hash_map(name: &Name, lines: &[&str]) -> Option<(String, String)> {
    let is_map = name
        .segments
        .iter()
        .any(|segment| segment == "HashMap" || segment == "HashSet");
    // A plain import says nothing yet; the places that use it do. A renamed one would hide them.
    if !is_map || name.place == Place::Import {
        return None;
    }
    let excused = [name.line.checked_sub(1), name.line.checked_sub(2)]
        .into_iter()
        .flatten()
        .filter_map(|index| lines.get(index)?.split_once("// lookup-only:"))
        .any(|(_, reason)| !reason.trim().is_empty());
    (!excused).then(|| {
        let fix = "use a BTreeMap, or say `// lookup-only: why` if it is never iterated";
        (format!("`{}` in a core", name.text()), fix.into())
    })
}

/// Holds `crate::…` of a core to modules that are pure themselves.
fn beside(repository: &Repository, path: &str, name: &Name) -> Option<(String, String)> {
    let (folder, _) = path.split_once("/src/")?;
    let module = module_beside(name)?;
    let mut seen = BTreeSet::from(["core".to_owned()]);
    let shell = shell_below(repository, folder, module, &mut seen)?;
    let what = format!("`{}` in a core: {shell}", name.text());
    Some((
        what,
        "move what decides into the core, or plain data into a module of its own".into(),
    ))
}

/// The module of its own crate that a name begins with.
fn module_beside(name: &Name) -> Option<&str> {
    match name.segments.as_slice() {
        [first, module, ..] if first == "crate" => Some(module),
        _ => None,
    }
}

/// Where a module, or one it names, touches the world. A name of the crate's root could come from anywhere.
fn shell_below(
    repository: &Repository,
    folder: &str,
    module: &str,
    seen: &mut BTreeSet<String>,
) -> Option<String> {
    if !seen.insert(module.to_owned()) {
        return None;
    }
    let (file, inside) = (
        format!("{folder}/src/{module}.rs"),
        format!("{folder}/src/{module}/"),
    );
    let mut files = repository
        .files
        .iter()
        .filter(|other| other.path == file || other.path.starts_with(&inside))
        .peekable();
    if files.peek().is_none() {
        return Some("it does not say which module that lies in".into());
    }
    for other in files {
        let lines = other.lines();
        for name in other.rust().map(names_outside_tests).unwrap_or_default() {
            if impure(&name, &lines).is_some() {
                return Some(format!("{} says `{}`", other.path, name.text()));
            }
            if let Some(module) = module_beside(&name)
                && let Some(shell) = shell_below(repository, folder, module, seen)
            {
                return Some(shell);
            }
        }
    }
    None
}

fn finding(file: &File, line: usize, what: String, fix: String) -> Finding {
    Finding {
        path: file.path.clone(),
        line,
        what,
        why: WHY,
        fix,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(path: &str, source: &str) -> Vec<String> {
        check(&Repository::sample(&[(path, source)]))
            .into_iter()
            .map(|finding| finding.what)
            .collect()
    }

    fn in_a_core(source: &str) -> Vec<String> {
        reported("crates/content/src/core/planner.rs", source)
    }

    #[test]
    fn each_way_into_the_world_is_reported() {
        for source in [
            "fn f() { tokio::spawn(g()); }",
            "use std::net::{IpAddr, TcpStream};",
            "fn f() { std::fs::read(p); }",
            "fn f() { std::env::var(p); }",
            "fn f() -> Instant { Instant::now() }",
            "fn f() { std::time::SystemTime::now(); }",
            "fn f(t: Instant) -> Duration { t.elapsed() }",
            "fn f() { std::thread::sleep(d); }",
            "fn f() { rand::rng().random() }",
            "fn f() { getrandom::fill(b); }",
            "fn f(m: HashMap<u8, u8>) {}",
            "use std::collections::HashSet as Set;",
            "fn f() { crate::store::open() }",
        ] {
            assert_eq!(in_a_core(source).len(), 1, "{source}");
        }
    }

    #[test]
    fn addresses_and_durations_are_values() {
        let source =
            "use std::net::IpAddr; use std::time::{Duration, Instant}; use crate::core::ChunkId;";

        assert_eq!(in_a_core(source), Vec::<String>::new());
    }

    #[test]
    fn a_map_that_is_only_looked_up_in_may_stay_with_its_reason() {
        let source =
            "struct S {\n    // lookup-only: keyed by block\n    held: HashMap<u8, u8>,\n}";

        assert_eq!(in_a_core(source), Vec::<String>::new());
    }

    #[test]
    fn a_lookup_only_mark_needs_a_reason() {
        assert_eq!(
            in_a_core("struct S {\n    held: HashMap<u8, u8>, // lookup-only:\n}").len(),
            1
        );
    }

    #[test]
    fn tests_of_a_core_may_do_as_they_like() {
        let source = "#[cfg(test)] mod tests { fn f() { std::fs::read(p); } }";

        assert_eq!(in_a_core(source), Vec::<String>::new());
    }

    #[test]
    fn a_shell_may_touch_the_world() {
        let found = reported(
            "crates/content/src/store.rs",
            "fn f() { std::fs::read(p); }",
        );

        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn plain_data_beside_a_core_may_be_named() {
        let repository = Repository::sample(&[
            (
                "crates/mesh/src/core/members.rs",
                "use crate::info::PeerInfo;",
            ),
            ("crates/mesh/src/info.rs", "pub struct PeerInfo(u8);"),
        ]);

        assert_eq!(check(&repository), []);
    }

    #[test]
    fn a_shell_behind_what_lies_beside_a_core_is_reported() {
        let repository = Repository::sample(&[
            (
                "crates/mesh/src/core/members.rs",
                "use crate::info::PeerInfo;",
            ),
            ("crates/mesh/src/info.rs", "use crate::store::Disk;"),
            (
                "crates/mesh/src/store/disk.rs",
                "fn f() { std::fs::read(p); }",
            ),
        ]);

        let found = check(&repository);

        assert_eq!(found.len(), 1);
        assert!(
            found[0]
                .what
                .ends_with("crates/mesh/src/store/disk.rs says `std::fs::read`"),
            "{}",
            found[0]
        );
    }

    #[test]
    fn all_of_a_pure_crate_is_core() {
        assert_eq!(
            reported(
                "crates/identity/src/keys.rs",
                "fn f() { std::fs::read(p); }"
            )
            .len(),
            1
        );
    }
}
