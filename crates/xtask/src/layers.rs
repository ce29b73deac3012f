//! Which room may use which: the table of ARCHITECTURE.md, compared with `cargo metadata`.

use std::path::Path;

use anyhow::Context;
use serde_json::Value;

/// Room, the rooms of ours it may use, and the outside crates it may not know.
const ROOMS: &[(&str, &[&str], &[&str])] = &[
    ("weir-core", &[], &["tokio", "prost", "tonic", "rdkafka", "object_store"]),
    ("weir-graph", &["weir-core"], &["tokio", "prost", "tonic", "datafusion-expr"]),
    ("weir-expr", &["weir-core"], &["tokio", "tonic"]),
    ("weir-state", &["weir-core"], &["tokio", "prost", "tonic", "object_store"]),
    ("weir-s3", &["weir-core"], &["tokio", "prost", "tonic"]),
    ("weir-checkpoint", &["weir-core", "weir-s3"], &["prost", "tonic"]),
    ("weir-operator-api", &["weir-core", "weir-state"], &["prost", "tonic"]),
    (
        "weir-operators",
        &["weir-core", "weir-graph", "weir-expr", "weir-state", "weir-operator-api"],
        &["tokio", "prost", "tonic", "rdkafka", "redis"],
    ),
    ("weir-connectors", &["weir-core", "weir-operator-api", "weir-s3"], &["tonic"]),
    ("weir-proto", &["weir-core", "weir-graph"], &[]),
    (
        "weir-coordinator",
        &["weir-core", "weir-graph", "weir-expr", "weir-checkpoint", "weir-proto", "weir-operator-api"],
        &["rdkafka", "redis", "arrow-array"],
    ),
    (
        "weir-worker",
        &[
            "weir-core",
            "weir-graph",
            "weir-expr",
            "weir-state",
            "weir-checkpoint",
            "weir-proto",
            "weir-operator-api",
            "weir-operators",
        ],
        &["rdkafka", "redis"],
    ),
    // The binary wires: it hands the connectors to both planes.
    (
        "weir-cli",
        &[
            "weir-core",
            "weir-graph",
            "weir-proto",
            "weir-operator-api",
            "weir-connectors",
            "weir-coordinator",
            "weir-worker",
        ],
        &["rdkafka", "redis"],
    ),
    ("weir-testkit", &["weir-core", "weir-graph", "weir-state", "weir-checkpoint", "weir-operator-api"], &[]),
    ("weir-bench", &[], &[]),
    ("weir-xtask", &[], &[]),
    ("weir-tests", &["weir-core", "weir-graph", "weir-proto", "weir-cli", "weir-testkit"], &[]),
];

/// Compares the workspace with the table.
pub fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()
        .context("run cargo metadata")?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    Ok(compare(&metadata))
}

fn compare(metadata: &Value) -> Vec<String> {
    let mut findings = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, may_use, may_not_know)) = ROOMS.iter().find(|(room, _, _)| *room == name) else {
            findings.push(format!("{name}: not in the table of rooms (crates/xtask/src/layers.rs, ARCHITECTURE.md)"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let uses = dependency["name"].as_str().unwrap_or_default();
            let is_dev = dependency["kind"].as_str() == Some("dev");
            let is_ours = uses.starts_with("weir-");
            let is_test_help = is_dev && (uses == "weir-testkit" || name == "weir-tests");
            if is_ours && !is_test_help && !may_use.contains(&uses) {
                findings.push(format!("{name} uses {uses}: not an edge of the table of rooms (ARCHITECTURE.md)"));
            }
            if !is_dev && may_not_know.contains(&uses) {
                findings.push(format!("{name} uses {uses}, which it must not know (ARCHITECTURE.md)"));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Value {
        let dependencies: Vec<Value> =
            dependencies.iter().map(|(name, kind)| serde_json::json!({"name": name, "kind": kind})).collect();
        serde_json::json!({"packages": [{"name": name, "dependencies": dependencies}]})
    }

    #[test]
    fn edges_outside_the_table_are_found() {
        assert_eq!(compare(&package("weir-worker", &[("weir-core", None)])), Vec::<String>::new());
        assert_eq!(compare(&package("weir-worker", &[("weir-coordinator", None)])).len(), 1);
        assert_eq!(compare(&package("weir-core", &[("tokio", None)])).len(), 1);
        assert_eq!(compare(&package("weir-operators", &[("weir-testkit", Some("dev"))])), Vec::<String>::new());
        assert_eq!(compare(&package("weir-operators", &[("weir-testkit", None)])).len(), 1);
        assert_eq!(compare(&package("weir-new", &[])).len(), 1);
    }
}
