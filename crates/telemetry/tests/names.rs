//! What is registered and what the documentation says are the same.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use warren_telemetry::{Metrics, NetworkMetrics, RetrievalMetrics};

#[test]
fn given_the_registered_families_when_compared_with_the_docs_table_then_they_are_equal() {
    let docs = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/metrics.md"
    ))
    .unwrap();
    let section = docs
        .split("## Mesh and retrieval")
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
    let metrics = Metrics::new();
    let _network = NetworkMetrics::register(&metrics);
    let _retrieval = RetrievalMetrics::register(&metrics);

    let registered: Vec<(String, String, String)> = metrics
        .families()
        .into_iter()
        .map(|family| (family.name, family.kind.to_owned(), family.help))
        .collect();

    assert_eq!(registered, documented);
}
