//! `signet-controller explain -pod NAMESPACE/NAME`: which ClusterSPIFFEID gives a pod which identity,
//! and why the others do not.
//!
//! Asked of the API server and of the registration server anew, by the same rules as the running
//! controller's; nothing is written.

use std::fmt::Write as _;

use serde_json::Value;
use signet_k8s::{ApiError, ApiServer, query_value};

use crate::{
    app::cluster_settings,
    cluster::{ClusterState, Finding},
    config::{Config, RunFlags},
    data::Names,
    objects::{Namespace, Node, Pod},
    resources::{API_VERSION, Resource, Rule, SpiffeIdSpec, resource},
    server::{Held, Server, ServerError},
    slices::{elements, members},
};

/// How many objects are asked for at a time, and how often at most.
const PAGE: usize = 250;
const MAX_PAGES: usize = 1000;

/// Flags of `explain`.
#[derive(Debug, clap::Args)]
pub struct ExplainFlags {
    /// The pod
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = pod)]
    pub pod: (String, String),
    /// Which configuration to go by.
    #[command(flatten)]
    pub run: RunFlags,
}

fn pod(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !(namespace.is_empty() || name.is_empty()) => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("expected NAMESPACE/NAME".to_owned()),
    }
}

/// Why a pod cannot be explained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExplainError {
    /// The API server.
    #[error("asking the API server")]
    Api(#[from] ApiError),
    /// An object of the API server.
    #[error("{what} cannot be read: {why}")]
    Object {
        /// Which.
        what: String,
        /// Why.
        why: String,
    },
    /// There is no such pod.
    #[error("there is no pod {0}")]
    NoPod(String),
    /// The registration server.
    #[error("asking the registration server")]
    Server(#[from] ServerError),
}

/// Explains the pod `name` in `namespace`, in lines for people.
///
/// # Errors
/// [`ExplainError`] when there is no such pod, an object cannot be read, or the API server or the
/// server does not answer.
pub async fn explain(
    config: &Config,
    api: &ApiServer,
    namespace: &str,
    name: &str,
) -> Result<String, ExplainError> {
    let rules: Vec<Resource<SpiffeIdSpec>> =
        list(api, &format!("/apis/{API_VERSION}"), "clusterspiffeids", None)
            .await?
            .iter()
            .map(|json| {
                let value: Value = serde_json::from_str(json).unwrap_or_default();
                let broken =
                    |why| ExplainError::Object { what: "a ClusterSPIFFEID".to_owned(), why };
                resource(value).map_err(broken)
            })
            .collect::<Result<_, _>>()?;
    let mut names: Names = config.parent_id.names().clone();
    for rule in rules.iter().filter_map(|one| Rule::parse(one.spec.as_ref().ok()?).ok()) {
        names.add(&rule.names());
    }
    let key = format!("{namespace}/{name}");
    let pods = format!("/api/v1/namespaces/{}", query_value(namespace));
    let pod = one(api, &pods, "pods", name).await?;
    let pod = pod.ok_or_else(|| ExplainError::NoPod(key.clone()))?;
    let broken = |what: &str| {
        let what = what.to_owned();
        move |error: serde_json::Error| ExplainError::Object { what, why: error.to_string() }
    };
    let pod = Pod::read(&pod, &names).map_err(broken("the pod"))?;

    let mut cluster = ClusterState::new(cluster_settings(config));
    cluster.set_names(names);
    if let Some(json) = one(api, "/api/v1", "namespaces", namespace).await? {
        cluster.apply_namespace(Namespace::read(&json).map_err(broken("the namespace"))?);
    }
    if let Some(json) =
        one(api, "/api/v1", "nodes", &pod.node).await?.filter(|_| !pod.node.is_empty())
    {
        cluster.apply_node(Node::read(&json).map_err(broken("the node"))?);
    }
    let foreign: Vec<String> = rules
        .iter()
        .filter(|rule| rule.spec.as_ref().is_ok_and(|spec| !config.class.is_ours(&spec.class_name)))
        .map(|rule| rule.meta.name.clone())
        .collect();
    rules.into_iter().for_each(|rule| cluster.apply_rule(rule));

    let mut out = String::new();
    let node =
        if pod.node.is_empty() { "no node yet".to_owned() } else { format!("node {}", pod.node) };
    // Writing to a string cannot fail.
    let _ = writeln!(out, "Pod {key}, UID {}, {node}", pod.uid);
    if cluster.is_ignored(namespace) {
        let _ = writeln!(
            out,
            "ignoreNamespaces names its namespace: no ClusterSPIFFEID counts for it."
        );
        return Ok(out);
    }
    cluster.apply_pod(pod);
    while cluster.work(usize::MAX) {}

    let server = Server::at(&config.server_socket, config.max_message);
    let held = server.list_entries().await?;
    let findings = cluster.explain(&key);
    let mut identities = 0;
    for (rule, finding) in &findings {
        if let Finding::Gives { .. } = finding {
            identities += 1;
        }
        let _ = writeln!(out, "ClusterSPIFFEID {rule}: {}", said(finding, &held));
    }
    for rule in foreign {
        let _ = writeln!(
            out,
            "ClusterSPIFFEID {rule}: is of a class that this controller leaves alone"
        );
    }
    if identities == 0 {
        let _ = writeln!(out, "Nothing gives this pod an identity.");
    }
    Ok(out)
}

fn said(finding: &Finding, held: &[Held]) -> String {
    let Finding::Gives { spiffe_id, key, body } = finding else { return finding.to_string() };
    let entry = held.iter().find(|held| held.key == *key);
    let state = match entry {
        Some(entry) if entry.body == *body => format!("entry {} is on the server", entry.id),
        Some(entry) => format!("entry {} on the server says something else still", entry.id),
        None => "its entry is not on the server: `kubectl describe` of the resource says whether \
                 the server refuses it"
            .to_owned(),
    };
    format!("gives it {spiffe_id}; {state}")
}

/// An object by its name, as JSON: by a list, for that is what the controller may do.
async fn one(
    api: &ApiServer,
    group: &str,
    plural: &str,
    name: &str,
) -> Result<Option<String>, ExplainError> {
    Ok(list(api, group, plural, Some(name)).await?.into_iter().next())
}

async fn list(
    api: &ApiServer,
    group: &str,
    plural: &str,
    name: Option<&str>,
) -> Result<Vec<String>, ExplainError> {
    let mut all = Vec::new();
    let mut token = String::new();
    let field = name.map(|name| format!("&fieldSelector=metadata.name%3D{}", query_value(name)));
    let field = field.unwrap_or_default();
    for _ in 0..MAX_PAGES {
        let path = format!("{group}/{plural}?limit={PAGE}{field}{token}");
        let page = api.get(&path).await?;
        let broken = |why: &str| ExplainError::Object { what: path.clone(), why: why.to_owned() };
        let text = std::str::from_utf8(&page).map_err(|_| broken("it is no text"))?;
        let parts = members(text).ok_or_else(|| broken("it is no JSON object"))?;
        let items = parts.get("items").copied().filter(|items| *items != "null").unwrap_or("[]");
        let items = elements(items).ok_or_else(|| broken("items are no list"))?;
        all.extend(items.into_iter().map(str::to_owned));
        let meta: Value = parts
            .get("metadata")
            .and_then(|meta| serde_json::from_str(meta).ok())
            .unwrap_or_default();
        match meta.get("continue").and_then(Value::as_str) {
            Some(next) if !next.is_empty() => token = format!("&continue={}", query_value(next)),
            _ => return Ok(all),
        }
    }
    Ok(all)
}
