//! Custom resources: definitions that Kubernetes takes, and resources that fit them.

use std::fs;

use e2e::{
    TestDir,
    kubernetes::{self, VERSION},
};

use super::{list, needs_judge, text};

/// Helm installs definitions, and neither changes nor deletes them: with them would go every
/// resource, and every identity. SPIRE's own, where they are, stay as they are.
#[test]
fn definitions_of_resources_are_no_templates_and_the_same_everywhere() {
    needs_judge!();
    let crds = kubernetes::deploy().join("kubernetes/crds");
    let ours = kubernetes::files(&crds, "yaml");
    let charts = kubernetes::files(&kubernetes::chart().join("crds"), "yaml");
    assert_eq!(ours.len(), 3);
    assert_eq!(charts.len(), ours.len());
    for (ours, charts) in ours.iter().zip(&charts) {
        assert_eq!(ours.file_name(), charts.file_name());
        assert_eq!(fs::read(ours).unwrap(), fs::read(charts).unwrap(), "{}", ours.display());
    }
    let rendered = kubernetes::helm(VERSION, &[kubernetes::values("minimal")]).json();
    assert_eq!(rendered["crds"], 3);
    assert!(!rendered["manifests"].as_str().unwrap().contains("CustomResourceDefinition"));
    // The first of the two steps of a plain installation has them too.
    let plain = kubernetes::documents(&kubernetes::plain_files());
    let there = plain.iter().filter(|o| text(o, "/kind") == "CustomResourceDefinition").count();
    assert_eq!(there, 3);
}

#[test]
fn resources_fit_their_definitions_and_the_definitions_are_structural() {
    needs_judge!();
    let dir = TestDir::new();
    let crds = kubernetes::files(&kubernetes::deploy().join("kubernetes/crds"), "yaml");
    let mut resources = kubernetes::plain_files();
    for values in kubernetes::values_files() {
        resources.push(kubernetes::rendered(&dir, VERSION, &values));
    }
    let all: Vec<_> =
        crds.iter().cloned().chain(["--".into()]).chain(resources).collect::<Vec<_>>();
    let said = kubernetes::judge("resources", &[], &all).json();
    assert_eq!(said["definitions"], serde_json::json!([]), "{said:#}");
    assert_eq!(said["resources"], serde_json::json!([]), "{said:#}");
    assert!(list(&said, "/checked").len() >= 5, "{said:#}");
    // The judge is not blind.
    let bad = dir.write(
        "bad.yaml",
        "apiVersion: spire.spiffe.io/v1alpha1\nkind: ClusterSPIFFEID\nmetadata: {name: x}\n\
         spec: {spiffeIDTemplate: 7, nosuch: 1}\n",
    );
    let all: Vec<_> = crds.iter().cloned().chain(["--".into(), bad]).collect();
    let said = kubernetes::judge("resources", &[], &all).json()["resources"].to_string();
    assert!(said.contains("spiffeIDTemplate") && said.contains("nosuch"), "{said}");
}
