//! The operator's definitions, and what the built program makes of its resources.

use std::{collections::BTreeSet, path::PathBuf, process::Command};

use e2e::{
    TestDir, bins, cli,
    kubernetes::{self, VERSION},
};
use serde_json::{Value, json};

use super::{configuration, list, needs_judge, text};

fn operator() -> PathBuf {
    kubernetes::deploy().join("operator")
}

fn samples() -> Vec<PathBuf> {
    kubernetes::files(&operator().join("samples"), "yaml")
}

/// What the built program renders of a sample.
fn rendered(dir: &TestDir, sample: &std::path::Path, flags: &[&str]) -> PathBuf {
    let mut command = Command::new(bins::find("signet-controller"));
    command.arg("operator").args(flags).arg("-render").arg(sample);
    let output = cli::run(&mut command, "").ok();
    let stem = sample.file_stem().expect("a name").to_string_lossy();
    dir.write(format!("{stem}{}.yaml", flags.concat()), output.stdout)
}

#[test]
fn samples_and_examples_fit_the_definitions_of_the_operator() {
    needs_judge!();
    let dir = TestDir::new();
    let bundle = operator().join("bundle/manifests/signet-operator.clusterserviceversion.yaml");
    let csv = kubernetes::documents(&[bundle]).remove(0);
    let examples = text(&csv, "/metadata/annotations/alm-examples");
    let examples: Vec<Value> = serde_json::from_str(examples).expect("a list of examples");
    let lines: Vec<String> = examples.iter().map(|one| format!("---\n{one}\n")).collect();
    let mut resources = samples();
    resources.push(dir.write("examples.yaml", lines.concat()));
    let mut crds = kubernetes::files(&operator().join("crds"), "yaml");
    crds.extend(kubernetes::files(&kubernetes::deploy().join("kubernetes/crds"), "yaml"));
    let judged = |resources: Vec<PathBuf>| {
        let all: Vec<_> = crds.iter().cloned().chain(["--".into()]).chain(resources).collect();
        kubernetes::judge("resources", &[], &all).json()
    };
    let said = judged(resources);
    assert_eq!(said["definitions"], json!([]), "{said:#}");
    assert_eq!(said["resources"], json!([]), "{said:#}");
    assert_eq!(list(&said, "/checked").len(), 2 * 5 + 8, "{said:#}");
    // The judge is not blind, and the rules of the definitions are asked.
    let bad = |kind: &str, name: &str, spec: Value| {
        let object = json!({"apiVersion": "operator.openshift.io/v1alpha1", "kind": kind,
            "metadata": {"name": name}, "spec": spec});
        judged(vec![dir.write("bad.yaml", object.to_string())])["resources"].to_string()
    };
    for (kind, name, spec, said) in [
        ("SpireAgent", "other", json!({}), "its name is cluster"),
        ("SpireAgent", "cluster", json!({"socketPath": "relative"}), "socketPath"),
        ("SpiffeCSIDriver", "cluster", json!({"nosuch": 1}), "nosuch"),
        ("SpireOIDCDiscoveryProvider", "cluster", json!({}), "jwtIssuer"),
        (
            "SpireAgent",
            "cluster",
            json!({"workloadAttestors": {"workloadAttestorsVerification": {"type": "hostCert"}}}),
            "hostCert needs",
        ),
    ] {
        let found = bad(kind, name, spec);
        assert!(found.contains(said), "{said}: {found}");
    }
}

#[test]
fn what_the_operator_makes_fits_kubernetes_and_the_restricted_profile_where_it_can() {
    needs_judge!();
    let dir = TestDir::new();
    let mut files: Vec<_> = samples().iter().map(|one| rendered(&dir, one, &[])).collect();
    files.extend(kubernetes::files(&operator(), "yaml"));
    let said = kubernetes::schemas(VERSION.trim_end_matches(".0"), &files);
    assert_eq!(said["wrong"], json!([]), "{said:#}");
    assert!(said["checked"].as_u64().is_some_and(|n| n > 50), "{said}");
    let mut seen = BTreeSet::new();
    for verdict in
        kubernetes::judge("podsecurity", &[], &files).json().as_array().expect("verdicts")
    {
        let what = text(verdict, "/kind");
        seen.insert(what.to_owned());
        let failed = |level: &str| !verdict[level].as_object().expect("checks").is_empty();
        // Server, OIDC provider and operator keep the restricted profile; what is on every node
        // cannot, for the reasons that deploy/kubernetes/42-agent.yaml gives.
        let can = what != "DaemonSet";
        assert_eq!(failed("baseline"), !can, "{verdict:#}");
        assert_eq!(failed("restricted"), !can, "{verdict:#}");
    }
    let kinds = ["DaemonSet", "Deployment", "StatefulSet"].map(str::to_owned);
    assert_eq!(seen, kinds.into());
}

#[test]
fn the_configurations_that_the_operator_makes_are_accepted() {
    needs_judge!();
    let dir = TestDir::new();
    for sample in samples() {
        for flags in [&[][..], &["-openshift"]] {
            let objects = kubernetes::documents(&[rendered(&dir, &sample, flags)]);
            let mut seen = 0;
            for map in objects.iter().filter(|o| text(o, "/kind") == "ConfigMap") {
                for (key, config) in map["data"].as_object().into_iter().flatten() {
                    let file = dir.write(key, config.as_str().expect("a configuration"));
                    let (program, flags): (_, &[&str]) = match key.as_str() {
                        "server.conf" => (bins::server(), &["-expandEnv"]),
                        "agent.conf" => (bins::agent(), &[]),
                        "controller-manager-config.yaml" => (bins::find("signet-controller"), &[]),
                        "oidc-discovery-provider.conf" => (bins::find("signet-oidc"), &[]),
                        other => panic!("{other}: who reads this?"),
                    };
                    configuration::validate(&program, flags, &file);
                    seen += 1;
                }
            }
            assert_eq!(seen, 4);
        }
    }
}

#[test]
fn what_cannot_be_rendered_is_named() {
    let dir = TestDir::new();
    let render = |text: &str| {
        let file = dir.write("resources.yaml", text);
        let mut command = Command::new(bins::find("signet-controller"));
        cli::run(command.arg("operator").arg("-render").arg(file), "")
    };
    const TOP: &str = "apiVersion: operator.openshift.io/v1alpha1\n\
        kind: ZeroTrustWorkloadIdentityManager\nmetadata: {name: cluster}\n\
        spec: {trustDomain: example.org, clusterName: c}\n";
    render("{}").exits(64).says("there is no ZeroTrustWorkloadIdentityManager");
    render(&format!("{TOP}---\n{TOP}")).exits(64).says("there twice");
    render(&format!(
        "{TOP}---\napiVersion: operator.openshift.io/v1alpha1\nkind: SpireServer\n\
         spec: {{jwtIssuer: 'https://o', datastore: {{databaseType: mysql}}}}\n"
    ))
    .exits(64)
    .says("mysql is not supported");
    render(TOP).ok();
}
