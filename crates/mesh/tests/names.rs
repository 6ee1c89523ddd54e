//! What the mesh registers and what the documentation says are the same.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::Organization;
use warren_telemetry::{Metrics, NetworkMetrics};

#[tokio::test]
async fn given_a_running_node_when_its_families_are_compared_with_the_docs_table_then_they_are_equal()
 {
    let docs = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/metrics.md"
    ))
    .unwrap();
    let section = docs
        .split("## Mesh node")
        .nth(1)
        .unwrap()
        .split("\n## ")
        .next()
        .unwrap();
    let mut documented: Vec<(String, String, String)> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|row| {
            let cells: Vec<&str> = row
                .split('|')
                .map(|cell| cell.trim().trim_matches('`'))
                .collect();
            (
                cells[0].to_owned(),
                cells[1].to_owned(),
                cells[3].to_owned(),
            )
        })
        .collect();
    documented.sort();
    let shared = Metrics::new();
    let _network = NetworkMetrics::register(&shared);
    let node = Organization::new("org_acme").node().await;

    let registered: Vec<(String, String, String)> = node
        .metrics
        .families()
        .into_iter()
        .filter(|family| !shared.families().contains(family))
        .map(|family| (family.name, family.kind.to_owned(), family.help))
        .collect();

    assert_eq!(registered, documented);
}
