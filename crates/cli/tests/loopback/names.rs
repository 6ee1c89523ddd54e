//! `docs/names.md`: what it calls built is there.

use std::collections::BTreeSet;
use std::path::Path;

use crate::support::warren;

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(name);
    std::fs::read_to_string(path).unwrap()
}

/// What stands in backticks in Warren's column of the built rows of one section.
fn built(section: &str) -> Vec<String> {
    let text = page("docs/names.md");
    let (_, rest) = text.split_once(&format!("\n## {section}\n")).unwrap();
    let rows = rest.split("\n## ").next().unwrap().lines();
    let names = rows
        .map(|row| row.split(" | ").collect::<Vec<_>>())
        .filter(|cells| cells.len() == 4 && cells[3].trim_end_matches(" |") == "built")
        .flat_map(|cells| {
            let ours = if cells[2].contains("the same") && !cells[2].contains('`') {
                cells[1]
            } else {
                cells[2]
            };
            let quoted = ours.split('`').skip(1).step_by(2);
            quoted.map(str::to_owned).collect::<Vec<_>>()
        });
    let names: Vec<String> = names.collect();
    assert!(names.len() > 3, "{section}: {names:?}");
    names
}

#[test]
fn given_a_command_that_is_built_when_asked_for_help_then_it_has_some() {
    for name in built("Commands") {
        let words = name.split_whitespace().skip(1);
        let command: Vec<&str> = words
            .take_while(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
            .take_while(|word| !word.starts_with('-'))
            .collect();
        if name.starts_with("warren ") {
            warren(command.iter().chain(&["--help"])).ok();
        }
    }
}

#[test]
fn given_a_variable_that_is_built_when_looked_up_then_a_key_has_it() {
    let reference = page("docs/configuration.md");
    let paths: BTreeSet<String> = reference
        .lines()
        .filter_map(|row| row.strip_prefix("| `")?.split('`').next())
        .map(|key| format!("WARREN_{}", key.replace('.', "__").to_uppercase()))
        .collect();
    for name in built("Environment variables") {
        let known = reference.contains(&format!("`{name}`")) || paths.contains(&name);
        assert!(known || !name.starts_with("WARREN_"), "{name} sets no key");
    }
}

#[test]
fn given_a_metric_that_is_built_when_looked_up_then_the_list_has_it() {
    let reference = page("docs/metrics.md") + &page("docs/rpc-metrics.md");
    for name in built("Metrics") {
        let base = name.trim_end_matches("_total");
        assert!(reference.contains(base), "{name} is on no page");
    }
}

#[test]
fn given_a_request_that_is_built_when_looked_up_then_the_contract_has_its_path() {
    let contract = page("contracts/network-layer.yaml");
    for name in built("HTTP interface") {
        let path = name.split_whitespace().last().unwrap();
        if path.starts_with('/') {
            let path = path.replace("{id}", "{cid}");
            assert!(
                contract.contains(&format!("\"{path}\"")),
                "{name} is not served"
            );
        }
    }
}
