//! Manifests and the chart of `deploy/`, judged by the libraries of Kubernetes and Helm.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    TestDir, bins,
    cli::{self, Output},
    clients,
};

/// The version of Kubernetes that manifests are made for.
pub const VERSION: &str = "1.37.0";

/// `deploy/` in the sources.
pub fn deploy() -> PathBuf {
    bins::sources().parent().expect("the root of the sources").join("deploy")
}

/// The chart.
pub fn chart() -> PathBuf {
    deploy().join("helm/signet")
}

/// Files of values that the chart is rendered with: the tests' own and the chart's examples.
pub fn values_files() -> Vec<PathBuf> {
    let mut all = files(&bins::sources().join("kubernetes/values"), "yaml");
    all.extend(files(&chart().join("examples"), "yaml"));
    assert!(all.len() >= 6, "{all:?}");
    all
}

/// One of the tests' own files of values.
pub fn values(name: &str) -> PathBuf {
    bins::sources().join("kubernetes/values").join(name).with_extension("yaml")
}

/// What `kubectl apply -f deploy/kubernetes/` applies, and the identities of the second step.
pub fn plain_files() -> Vec<PathBuf> {
    let mut all = files(&deploy().join("kubernetes"), "yaml");
    all.extend(files(&deploy().join("kubernetes/identities"), "yaml"));
    all
}

/// The files in `dir` with the extension, sorted.
///
/// # Panics
///
/// When there are none.
pub fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut all: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a directory entry").path())
        .filter(|path| path.is_file() && path.extension().is_some_and(|e| e == extension))
        .collect();
    all.sort();
    assert!(!all.is_empty(), "no files in {}", dir.display());
    all
}

/// Builds the judge and the schemas, or says what this machine lacks.
pub fn prepare() -> Result<(), String> {
    clients::kubernetes_judge()?;
    clients::kubernetes_schemas().map(drop)
}

/// Runs a command of the judge.
///
/// # Panics
///
/// When it cannot be built.
pub fn judge(command: &str, args: &[&str], paths: &[PathBuf]) -> Output {
    let words = clients::kubernetes_judge().unwrap_or_else(|e| panic!("{e}"));
    cli::run(Command::new(&words[0]).arg(command).args(args).args(paths), "")
}

/// The objects in files of manifests.
pub fn documents(paths: &[PathBuf]) -> Vec<Value> {
    let all = judge("documents", &[], paths).json();
    all.as_array().cloned().expect("a list of objects")
}

/// The chart, rendered as the release `signet` in the namespace `signet-server`, or Helm's refusal.
pub fn helm(version: &str, values: &[PathBuf]) -> Output {
    let chart = chart().display().to_string();
    judge("chart", &[&chart, "signet", "signet-server", version], values)
}

/// The chart, rendered into a file in `dir`.
pub fn rendered(dir: &TestDir, version: &str, values: &Path) -> PathBuf {
    let answer = helm(version, &[values.to_owned()]).json();
    let text = answer["manifests"].as_str().expect("manifests");
    let stem = values.file_stem().expect("a name").to_string_lossy();
    dir.write(format!("{stem}-{version}.yaml"), text)
}

/// What does not fit the schemas of a version of Kubernetes.
///
/// # Panics
///
/// When the schemas cannot be had.
pub fn schemas(version: &str, paths: &[PathBuf]) -> Value {
    let words = clients::kubernetes_schemas().unwrap_or_else(|e| panic!("{e}"));
    let mut command = Command::new(&words[0]);
    cli::run(command.args(&words[1..]).arg(version).args(paths), "").json()
}
