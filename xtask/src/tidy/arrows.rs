//! Who may use whom. [`HOUSE`] is the one table of every crate's place; dependencies point down in it.
//!
//! Top → planes → foundation. Planes do not know each other; they meet in the daemon, or through a trait that the
//! lower one owns. Inside the foundation and the top the order is the table's. Pure crates decide and do nothing
//! else, so they may not even link what touches the world.

use super::Finding;
use super::repository::{Dependency, Package, Repository};

/// A crate's place. Inside [`Layer::Knowledge`] there are no arrows: its crates meet in the daemon. Inside the other
/// layers arrows follow the table's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layer {
    /// What every plane stands on.
    Foundation,
    /// Documents: content, and what replicates, guards and finds it.
    Knowledge,
    /// Calls: members that call each other, and the groups that they form for it.
    Call,
    /// The API, the daemon and the command line: composition.
    Top,
    /// Test beds and the project's own commands: nothing of the product depends on them, save its tests.
    Tool,
}

/// How much of the outside world a crate may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// No runtime, socket, file, clock or global randomness anywhere.
    Pure,
    /// Pure in its `core` folder, shells beside it.
    Mixed,
    /// Moves bytes, timers and events.
    Shell,
}

/// One row of [`HOUSE`].
pub(super) struct Room {
    name: &'static str,
    layer: Layer,
    pub(super) kind: Kind,
}

const fn room(name: &'static str, layer: Layer, kind: Kind) -> Room {
    Room { name, layer, kind }
}

/// Every crate, lowest first. A crate may use those above it in this list that its layer allows.
const HOUSE: &[Room] = &[
    room("warren-config", Layer::Foundation, Kind::Pure),
    room("warren-identity", Layer::Foundation, Kind::Pure),
    room("warren-balance", Layer::Foundation, Kind::Pure),
    room("warren-swim", Layer::Foundation, Kind::Pure),
    room("warren-telemetry", Layer::Foundation, Kind::Shell),
    room("warren-mesh", Layer::Foundation, Kind::Mixed),
    room("warren-discovery", Layer::Foundation, Kind::Mixed),
    room("warren-content", Layer::Knowledge, Kind::Mixed),
    room("warren-rpc-macros", Layer::Call, Kind::Pure),
    room("warren-cluster", Layer::Call, Kind::Mixed),
    room("warren-rpc", Layer::Call, Kind::Mixed),
    room("warren-director", Layer::Call, Kind::Mixed),
    room("warren-api", Layer::Top, Kind::Mixed),
    room("warren-daemon", Layer::Top, Kind::Mixed),
    room("warren", Layer::Top, Kind::Mixed),
    room("warren-lab", Layer::Tool, Kind::Mixed),
    room("warren-sim", Layer::Tool, Kind::Shell),
    room("warren-fuzz", Layer::Tool, Kind::Shell),
    room("warren-example-calculator", Layer::Tool, Kind::Shell),
    room("warren-example-inference", Layer::Tool, Kind::Shell),
    room("xtask", Layer::Tool, Kind::Shell),
];

/// What touches the world: no pure crate links it.
const SHELL_PACKAGES: &[&str] = &[
    "async-std",
    "axum",
    "hyper",
    "hyper-util",
    "libp2p",
    "libp2p-stream",
    "mio",
    "quinn",
    "redb",
    "reqwest",
    "rustix",
    "socket2",
    "sqlx",
    "tempfile",
    "tokio",
    "tokio-rustls",
    "tokio-util",
    "tracing-appender",
    "tracing-subscriber",
];

/// The row of a crate, by its folder in the repository.
pub(super) fn room_of_folder(folder: &str) -> Option<&'static Room> {
    HOUSE.iter().find(|room| match room.name {
        "warren" => folder == "crates/cli",
        name => folder.rsplit('/').next() == Some(name.trim_start_matches("warren-")),
    })
}

/// Arrows that point up or sideways, pure crates with a shell below them, crates and rows without each other.
pub(super) fn check(repository: &Repository) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in repository.members() {
        let Some(place) = rank(&package.name) else {
            findings.push(finding(
                repository,
                package,
                &package.name,
                format!("crate `{}` has no place in the house", package.name),
                "an unplaced crate may depend on anything",
                "add it to HOUSE in xtask/src/tidy/arrows.rs".into(),
            ));
            continue;
        };
        for dependency in &package.dependencies {
            findings.extend(check_arrow(repository, package, place, dependency));
        }
    }
    for room in HOUSE {
        if !repository
            .members()
            .any(|package| package.name == room.name)
            && repository.members().next().is_some()
        {
            findings.push(Finding {
                path: "xtask/src/tidy/arrows.rs".into(),
                line: 1,
                what: format!(
                    "HOUSE names `{}`, which is no crate of the workspace",
                    room.name
                ),
                why: "the table must be the truth",
                fix: "take the row out".into(),
            });
        }
    }
    findings
}

fn rank(name: &str) -> Option<usize> {
    HOUSE.iter().position(|room| room.name == name)
}

fn check_arrow(
    repository: &Repository,
    package: &Package,
    place: usize,
    dependency: &Dependency,
) -> Option<Finding> {
    let room = &HOUSE[place];
    let is_test = dependency.kind.as_deref() == Some("dev");
    let Some(target) = rank(&dependency.name) else {
        let breaks_purity = room.kind == Kind::Pure
            && !is_test
            && SHELL_PACKAGES.contains(&dependency.name.as_str());
        return breaks_purity.then(|| {
            finding(
                repository,
                package,
                &dependency.name,
                format!(
                    "pure crate `{}` depends on `{}`",
                    package.name, dependency.name
                ),
                "what decides must run in a simulator and a fuzzer",
                "do this in a shell crate and hand the result in".into(),
            )
        });
    };
    if is_test && HOUSE[target].layer == Layer::Tool || allowed(place, target) {
        return None;
    }
    Some(finding(
        repository,
        package,
        &dependency.name,
        format!("`{}` depends on `{}`", package.name, dependency.name),
        "arrows point down: top, planes, foundation, and planes do not know each other",
        "own a trait in the lower crate and implement it in the upper one".into(),
    ))
}

fn allowed(from: usize, to: usize) -> bool {
    let (user, used) = (&HOUSE[from], &HOUSE[to]);
    let points_down = to < from;
    let stays_pure = user.kind != Kind::Pure || used.kind == Kind::Pure;
    let is_plane = |layer| matches!(layer, Layer::Knowledge | Layer::Call);
    let between_planes = is_plane(user.layer)
        && is_plane(used.layer)
        && (user.layer != used.layer || user.layer == Layer::Knowledge);
    points_down
        && stays_pure
        && !between_planes
        && (used.layer != Layer::Tool || user.layer == Layer::Tool)
}

/// A finding at the line of the manifest that names `needle`.
fn finding(
    repository: &Repository,
    package: &Package,
    needle: &str,
    what: String,
    why: &'static str,
    fix: String,
) -> Finding {
    let manifest = repository.manifest(package);
    let line = manifest
        .and_then(|file| {
            file.lines()
                .iter()
                .position(|line| line.trim_start().starts_with(needle))
        })
        .map_or(1, |index| index + 1);
    let path = manifest.map_or_else(|| "Cargo.toml".to_owned(), |file| file.path.clone());
    Finding {
        path,
        line,
        what,
        why,
        fix,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is reported about a crate with these dependencies, rows without a crate aside.
    fn reported(name: &str, dependencies: &[&str]) -> Vec<String> {
        let repository = Repository::sample(&[]).with_member(name, dependencies);
        check(&repository)
            .into_iter()
            .map(|finding| finding.what)
            .filter(|what| !what.starts_with("HOUSE names"))
            .collect()
    }

    #[test]
    fn an_arrow_down_is_fine() {
        assert_eq!(
            reported("warren-content", &["warren-identity", "tokio"]),
            Vec::<String>::new()
        );
    }

    #[test]
    fn an_arrow_up_is_reported() {
        assert_eq!(
            reported("warren-identity", &["warren-content"]),
            ["`warren-identity` depends on `warren-content`"]
        );
    }

    #[test]
    fn a_tool_below_the_product_is_reported() {
        assert_eq!(
            reported("warren-daemon", &["warren-lab"]),
            ["`warren-daemon` depends on `warren-lab`"]
        );
    }

    #[test]
    fn a_tool_in_a_crates_tests_is_fine() {
        let mut repository = Repository::sample(&[]).with_member("warren-daemon", &["warren-lab"]);
        repository.packages[0].dependencies[0].kind = Some("dev".into());

        assert!(
            !check(&repository)
                .iter()
                .any(|finding| finding.what.contains("depends on"))
        );
    }

    #[test]
    fn a_runtime_in_a_pure_crate_is_reported() {
        assert_eq!(
            reported("warren-config", &["tokio"]),
            ["pure crate `warren-config` depends on `tokio`"]
        );
    }

    #[test]
    fn a_shell_crate_in_a_pure_one_is_reported() {
        let up = rank("warren-identity").unwrap();

        assert!(!allowed(up, rank("warren-telemetry").unwrap()));
    }

    #[test]
    fn a_crate_without_a_place_is_reported() {
        assert_eq!(
            reported("warren-surprise", &[]),
            ["crate `warren-surprise` has no place in the house"]
        );
    }

    #[test]
    fn a_row_without_a_crate_is_reported() {
        let repository = Repository::sample(&[]).with_member("warren-config", &[]);

        assert!(
            check(&repository)
                .iter()
                .any(|finding| finding.what.starts_with("HOUSE names `xtask`"))
        );
    }
}
