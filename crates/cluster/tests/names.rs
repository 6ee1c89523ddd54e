//! Every metric is in the reference, and the reference's are registered.
#![allow(clippy::unwrap_used)]

mod support;

use support::Organization;

#[test]
fn given_a_running_cluster_when_its_metrics_are_listed_then_the_reference_has_the_same() {
    let page = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/metrics.md"
    ));
    let node = Organization::new("org_names").node(&[], &[]);
    let registered: Vec<String> = node
        .metrics
        .families()
        .into_iter()
        .map(|family| family.name)
        .collect();

    let mut documented: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|name| name.starts_with("warren_cluster_"))
        .collect();
    documented.sort_unstable();

    assert_eq!(registered, documented);
}
