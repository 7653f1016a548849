//! The manifests for External Secrets Operator, by its own definitions and the API server's
//! validation; the baseline, by the schemas of Kubernetes and the restricted profile.

use std::{path::PathBuf, process::Command};

use e2e::{TestDir, cli, kubernetes};
use serde_json::json;

use super::{list, needs_judge};

/// Where its definitions come from: the Go module proxy has the whole of each release.
const MODULE: &str = "github.com/external-secrets/external-secrets@v1.3.2";

/// Its definitions, or why they cannot be had.
fn definitions(dir: &TestDir) -> Result<Vec<PathBuf>, String> {
    dir.write("go.mod", "module none\ngo 1.25\n");
    let mut command = Command::new("go");
    command.args(["mod", "download", "-json", MODULE]).current_dir(dir.path());
    let output = cli::run(command.env("GOFLAGS", "-mod=mod"), "");
    if output.code != 0 {
        return Err(format!("the definitions cannot be had: {output}"));
    }
    let place = PathBuf::from(output.json()["Dir"].as_str().ok_or("no directory")?);
    let bases = place.join("config/crds/bases");
    let names = ["clustersecretstores", "externalsecrets", "secretstores"];
    Ok(names.iter().map(|n| bases.join(format!("external-secrets.io_{n}.yaml"))).collect())
}

#[test]
fn the_stores_of_external_secrets_operator_fit_its_own_definitions() {
    needs_judge!();
    let dir = TestDir::new();
    let crds = match definitions(&dir) {
        Ok(crds) => crds,
        Err(why) => e2e::skip!("{why}"),
    };
    let ours = kubernetes::files(&kubernetes::deploy().join("external-secrets"), "yaml");
    let all: Vec<_> = crds.iter().cloned().chain(["--".into()]).chain(ours).collect();
    let said = kubernetes::judge("resources", &[], &all).json();
    assert_eq!(said["resources"], json!([]), "{said:#}");
    let kinds = list(&said, "/checked");
    assert_eq!(kinds.len(), 5, "{said:#}");
    // The judge is not blind, and the version before is served no more.
    let bad = dir.write(
        "bad.yaml",
        "apiVersion: external-secrets.io/v1\nkind: SecretStore\nmetadata: {name: x}\n\
         spec: {provider: {vault: {auth: {kubernetes: {rolle: x}}}}}\n",
    );
    let all: Vec<_> = crds.iter().cloned().chain(["--".into(), bad]).collect();
    let said = kubernetes::judge("resources", &[], &all).json()["resources"].to_string();
    assert!(said.contains("rolle"), "{said}");
    for path in &crds {
        let definition = &kubernetes::documents(std::slice::from_ref(path))[0];
        let served: Vec<_> = list(definition, "/spec/versions")
            .iter()
            .filter(|version| version["served"] == true)
            .map(|version| version["name"].clone())
            .collect();
        assert_eq!(served, ["v1"]);
    }
}

#[test]
fn the_baseline_and_the_broker_fit_the_schemas_of_kubernetes() {
    needs_judge!();
    let files = |name| kubernetes::files(&kubernetes::deploy().join(name), "yaml");
    let baseline: Vec<_> = [files("baseline"), files("broker")].concat();
    let baseline: Vec<_> =
        baseline.into_iter().filter(|path| !path.ends_with("kustomization.yaml")).collect();
    let said = kubernetes::schemas("1.37", &baseline);
    assert_eq!((&said["wrong"], &said["unknown"]), (&json!([]), &json!([])), "{said:#}");
    assert!(said["checked"].as_u64().is_some_and(|n| n >= 14), "{said}");
}
