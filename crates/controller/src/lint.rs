//! `signet-controller lint`: what in manifests, or in a cluster, breaks the baseline of
//! `deploy/baseline`: secrets in manifests, shared or default service accounts, tokens that nobody
//! asked for, stores that serve whole clusters.

mod report;
mod rules;
mod workload;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde_json::Value;
use signet_base::{SystemClock, files::read_regular_text};
use signet_daemon::cli::{EXIT_DONE, EXIT_FAILED, EXIT_USAGE};
use signet_k8s::{ApiServer, KubeSource};

pub use self::rules::{Level, RULES, Rule};

/// The longest file that is read, bytes.
const MAX_FILE: u64 = 16 << 20;
/// The most files of one run.
const MAX_FILES: usize = 10_000;
/// What is listed of a cluster.
const LISTS: &[&str] = &[
    "/api/v1/namespaces",
    "/api/v1/serviceaccounts",
    "/apis/apps/v1/deployments",
    "/apis/apps/v1/statefulsets",
    "/apis/apps/v1/daemonsets",
    "/apis/batch/v1/jobs",
    "/apis/batch/v1/cronjobs",
    "/apis/networking.k8s.io/v1/networkpolicies",
    "/apis/rbac.authorization.k8s.io/v1/rolebindings",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
];
/// What is listed where it is known.
const OPTIONAL_LISTS: &[&str] = &[
    "/apis/external-secrets.io/v1/secretstores",
    "/apis/external-secrets.io/v1/clustersecretstores",
];

/// The form of what is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// One finding a line, for people
    #[default]
    Text,
    /// A list of findings
    Json,
    /// SARIF 2.1.0, for code scanners
    Sarif,
}

/// Flags of `lint`.
#[derive(Clone, Debug, clap::Args)]
pub struct LintFlags {
    /// Manifests, or directories of them (.yaml, .yml, .json)
    #[arg(value_name = "FILE", required_unless_present = "cluster")]
    pub files: Vec<PathBuf>,
    /// Look at the cluster instead
    #[arg(long = "cluster", conflicts_with = "files")]
    pub cluster: bool,
    /// How the cluster is found, if not by the environment
    #[arg(long = "kubeconfig", value_name = "FILE", requires = "cluster")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespaces to leave alone
    #[arg(long = "ignore", value_name = "NAMESPACE")]
    pub ignore: Vec<String>,
    /// The form of the output
    #[arg(long = "format", value_name = "FORM", default_value = "text")]
    pub format: Form,
    /// Fail on warnings as well
    #[arg(long = "strict")]
    pub strict: bool,
}

/// An object and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The file, or `cluster`.
    pub file: String,
    /// The line at which it begins, from 1.
    pub line: usize,
    /// It.
    pub object: Value,
}

/// Something that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule.
    pub rule: &'static Rule,
    /// The file.
    pub file: String,
    /// The line at which the object begins.
    pub line: usize,
    /// `Kind namespace/name`.
    pub object: String,
    /// The namespace that it is in, or is.
    pub namespace: String,
    /// What, where in the object, and what was expected.
    pub message: String,
}

/// Looks, prints, and says by the exit code whether anything is wrong.
pub fn main(name: &str, flags: &LintFlags, out: &mut dyn Write) -> u8 {
    let documents = match read(flags) {
        Ok(documents) => documents,
        Err((code, error)) => {
            eprintln!("{name}: {error:#}");
            return code;
        }
    };
    let mut findings = check(&documents);
    findings.retain(|finding| !flags.ignore.contains(&finding.namespace));
    if let Err(error) = out.write_all(report::print(&findings, flags.format).as_bytes()) {
        return if error.kind() == io::ErrorKind::BrokenPipe { EXIT_DONE } else { EXIT_FAILED };
    }
    let fails = |finding: &Finding| flags.strict || finding.rule.level == Level::Error;
    if findings.iter().any(fails) { EXIT_FAILED } else { EXIT_DONE }
}

/// Every finding in these objects, which are looked at together: what is not among them is not
/// there.
pub fn check(documents: &[Document]) -> Vec<Finding> {
    let mut findings = rules::check(documents);
    findings.sort_by(|a, b| {
        (&a.file, a.line, a.rule.id, &a.message).cmp(&(&b.file, b.line, b.rule.id, &b.message))
    });
    findings.dedup();
    findings
}

fn read(flags: &LintFlags) -> Result<Vec<Document>, (u8, anyhow::Error)> {
    if flags.cluster {
        return cluster(flags.kubeconfig.as_deref()).map_err(|error| (EXIT_FAILED, error));
    }
    let usage = |error| (EXIT_USAGE, error);
    let mut files = Vec::new();
    for path in &flags.files {
        collect(path, &mut files, 0).map_err(usage)?;
    }
    if files.is_empty() {
        return Err(usage(anyhow::anyhow!("there is no .yaml, .yml or .json file")));
    }
    let mut documents = Vec::new();
    for path in files {
        let text = read_regular_text(&path, MAX_FILE)
            .map_err(|error| usage(anyhow::anyhow!("reading {}: {error}", path.display())))?;
        documents.extend(parse(&path.display().to_string(), &text).map_err(usage)?);
    }
    Ok(documents)
}

fn collect(path: &Path, into: &mut Vec<PathBuf>, depth: usize) -> anyhow::Result<()> {
    let metadata = fs::metadata(path)
        .map_err(|error| anyhow::anyhow!("reading {}: {error}", path.display()))?;
    if !metadata.is_dir() {
        into.push(path.to_owned());
        return Ok(());
    }
    if depth > 16 {
        anyhow::bail!("{}: directories are nested too deeply", path.display());
    }
    let mut entries: Vec<PathBuf> = fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(|error| anyhow::anyhow!("reading {}: {error}", path.display()))?;
    entries.sort();
    for entry in entries {
        let extension = entry.extension().and_then(|extension| extension.to_str());
        if entry.is_dir() || matches!(extension, Some("yaml" | "yml" | "json")) {
            collect(&entry, into, depth + 1)?;
        }
        if into.len() > MAX_FILES {
            anyhow::bail!("more than {MAX_FILES} files");
        }
    }
    Ok(())
}

/// The objects of a text of YAML or JSON, one at a time, so that each has its line.
///
/// # Errors
/// With file and line.
pub fn parse(file: &str, text: &str) -> anyhow::Result<Vec<Document>> {
    let mut documents = Vec::new();
    let mut part = String::new();
    let mut begins = 1;
    let lines = text.lines().map(Some).chain([None]);
    for (at, line) in lines.enumerate() {
        let ends = line.is_none_or(|line| line == "---" || line.starts_with("--- "));
        if !ends {
            if part.trim().is_empty() {
                begins = at + 1;
                part.clear();
            }
            part.push_str(line.unwrap_or_default());
            part.push('\n');
            continue;
        }
        let has_content = part.lines().any(|line| {
            let line = line.trim();
            !(line.is_empty() || line.starts_with('#'))
        });
        if has_content {
            let object: Value = serde_saphyr::from_str_with_options(&part, crate::config::yaml())
                .map_err(|error| anyhow::anyhow!("{file}:{begins}: {error}"))?;
            let items = match object.get("items").and_then(Value::as_array) {
                Some(items) if object.get("kind").is_some() => items.clone(),
                _ => vec![object],
            };
            documents.extend(items.into_iter().map(|object| Document {
                file: file.to_owned(),
                line: begins,
                object,
            }));
        }
        part.clear();
    }
    Ok(documents)
}

fn cluster(kubeconfig: Option<&Path>) -> anyhow::Result<Vec<Document>> {
    let source = KubeSource::named_or_inferred(kubeconfig);
    let api = ApiServer::new(source, SystemClock::shared())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut documents = Vec::new();
        for path in LISTS.iter().chain(OPTIONAL_LISTS) {
            let list: Value = match api.get_object(path).await {
                Ok(list) => list,
                Err(_) if OPTIONAL_LISTS.contains(path) => continue,
                Err(error) => return Err(error.into()),
            };
            // Items of a list do not say what they are.
            let text = |key: &str| list.get(key).and_then(Value::as_str).unwrap_or_default();
            let kind = text("kind").trim_end_matches("List").to_owned();
            let version = text("apiVersion").to_owned();
            let items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
            for mut object in items {
                if let Some(object) = object.as_object_mut() {
                    object.insert("kind".to_owned(), Value::String(kind.clone()));
                    object.insert("apiVersion".to_owned(), Value::String(version.clone()));
                }
                documents.push(Document { file: "cluster".to_owned(), line: 1, object });
            }
        }
        Ok(documents)
    })
}

#[cfg(test)]
mod tests;
