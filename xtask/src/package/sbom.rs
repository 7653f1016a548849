//! What a program is made of, as CycloneDX 1.5 (ECMA-424).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Arch;
use crate::run::{cargo, finished};

/// The bill of materials of the program `name`: every crate that is linked into it, with version,
/// licence and the checksum of `Cargo.lock`.
pub(crate) fn of(name: &str, version: &str, arch: Arch) -> Result<String> {
    let args = ["metadata", "--format-version=1", "--locked", "--filter-platform", arch.triple()];
    let metadata = serde_json::from_str(&finished(&mut cargo(&args))?)
        .context("the output of cargo metadata")?;
    let bill = bill(&metadata, &checksums()?, name, version)?;
    Ok(format!("{bill:#}\n"))
}

/// Checksums by name and version.
fn checksums() -> Result<BTreeMap<(String, String), String>> {
    let path = crate::run::root().join("Cargo.lock");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut all = BTreeMap::new();
    for package in text.split("[[package]]").skip(1) {
        let value = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|line| line.strip_prefix(" = "))
                .map(|text| text.trim_matches('"').to_owned())
        };
        if let (Some(name), Some(version), Some(sum)) =
            (value("name"), value("version"), value("checksum"))
        {
            all.insert((name, version), sum);
        }
    }
    Ok(all)
}

#[allow(
    clippy::indexing_slicing,
    reason = "cargo metadata holds what it refers to; a JSON value may be asked for any key"
)]
fn bill(
    metadata: &Value,
    checksums: &BTreeMap<(String, String), String>,
    name: &str,
    version: &str,
) -> Result<Value> {
    let list = |value: &Value, key: &str| -> Vec<Value> {
        value.get(key).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let text = |value: &Value, key: &str| -> String {
        value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let packages: BTreeMap<String, Value> = list(metadata, "packages")
        .into_iter()
        .map(|package| (text(&package, "id"), package))
        .collect();
    let nodes: BTreeMap<String, Value> = list(&metadata["resolve"], "nodes")
        .into_iter()
        .map(|node| (text(&node, "id"), node))
        .collect();
    let root = packages.iter().find(|(_, package)| text(package, "name") == name);
    let root = root.with_context(|| format!("the workspace has no package {name}"))?.0.clone();
    let mut linked = BTreeSet::from([root.clone()]);
    let mut waiting = vec![root.clone()];
    let mut edges = Vec::new();
    while let Some(id) = waiting.pop() {
        let mut below = BTreeSet::new();
        for dependency in list(&nodes[&id], "deps") {
            // What only builds or tests it is not in it.
            if list(&dependency, "dep_kinds").iter().any(|kind| kind["kind"].is_null()) {
                below.insert(text(&dependency, "pkg"));
            }
        }
        waiting.extend(below.iter().filter(|id| linked.insert((*id).clone())).cloned());
        edges.push((id, below));
    }
    let reference = |id: &str| {
        let package = &packages[id];
        format!("pkg:cargo/{}@{}", text(package, "name"), text(package, "version"))
    };
    let component = |id: &String| {
        let package = &packages[id];
        let (name, version) = (text(package, "name"), text(package, "version"));
        let mut component = json!({
            "type": "library", "bom-ref": reference(id), "purl": reference(id),
            "name": name, "version": version,
        });
        if let Some(license) = package.get("license").and_then(Value::as_str) {
            // Older crates write MIT/Apache-2.0, which is no SPDX expression.
            component["licenses"] = json!([{ "expression": license.replace('/', " OR ") }]);
        }
        if let Some(sum) = checksums.get(&(name, version)) {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
        }
        component
    };
    edges.sort();
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": {
            "type": "application", "bom-ref": reference(&root), "name": name, "version": version,
            "licenses": [{ "expression": "Apache-2.0" }],
        }},
        "components": linked.iter().filter(|id| **id != root).map(component).collect::<Vec<_>>(),
        "dependencies": edges.iter().map(|(id, below)| json!({
            "ref": reference(id),
            "dependsOn": below.iter().map(|id| reference(id)).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bill_lists_what_is_linked_and_not_what_builds_or_tests_it() {
        let bill: Value = of("signet-agent", "1.2.3", Arch::Amd64).unwrap().parse().unwrap();
        let names: Vec<_> = bill["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap())
            .collect();
        assert!(names.contains(&"rustls") && names.contains(&"signet-pki"), "{names:?}");
        assert!(
            !names.contains(&"tonic-prost-build") && !names.contains(&"sqlx-core"),
            "{names:?}"
        );
        let rustls = bill["components"].as_array().unwrap().iter().find(|c| c["name"] == "rustls");
        assert_eq!(rustls.unwrap()["hashes"][0]["content"].as_str().unwrap().len(), 64);
    }
}
