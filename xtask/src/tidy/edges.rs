//! Which crate may use which: the table in `docs/architecture.md`, and the fences around the
//! dependencies that carry weight or risk.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::run::{metadata, root};

/// Who may depend on what, besides tests. What is not named here is open to all.
const FENCES: &[(&str, &[&str])] = &[
    ("aws-lc-rs", &["pki"]),
    ("axum", &["controller", "daemon", "helper", "oidc", "server"]),
    ("cryptoki", &["pkcs11"]),
    ("instant-acme", &["acme"]),
    ("jsonwebtoken", &["pki"]),
    ("prometheus-client", &["daemon"]),
    ("prost", &["api", "server", "agent"]),
    ("prost-types", &["api", "server", "agent"]),
    ("rcgen", &["pki"]),
    ("rustls-webpki", &["pki"]),
    ("sqlx", &["store"]),
    (
        "tonic",
        &["agent", "api", "broker", "controller", "fleet", "helper", "nested", "oidc", "server"],
    ),
    ("tonic-prost", &["api"]),
    ("tracing-subscriber", &["daemon"]),
    ("x509-parser", &["pki"]),
    ("zbus", &["attest"]),
];

/// Crates that are tools, not part of the programs: anyone may test with `testkit`.
const TOOLS: &[&str] = &["testkit"];

/// What nobody may depend on, and why.
const BANNED: &[(&str, &str)] = &[
    ("chrono", "use time"),
    ("dashmap", "use a mutex, a watch channel or arc-swap"),
    ("k8s-openapi", "use signet_k8s"),
    ("kube", "use signet_k8s"),
    ("lazy_static", "use std::sync::LazyLock"),
    ("native-tls", "use rustls"),
    ("openssl", "use aws-lc-rs, in pki"),
    ("reqwest", "use signet_http"),
    ("ring", "use aws-lc-rs, in pki"),
    ("rsa", "use aws-lc-rs, in pki"),
    ("rustls-pemfile", "use rustls-pki-types"),
    ("serde_yaml", "not maintained"),
];

struct Dependency {
    name: String,
    dev: bool,
}

pub(super) fn problems() -> Result<Vec<String>> {
    let table = fs::read_to_string(root().join("docs/architecture.md"))
        .context("reading docs/architecture.md")?;
    let allowed = allowed_edges(&table)?;
    Ok(check(&allowed, &members(&metadata()?)))
}

/// Reads the code map: each row names a crate and, in the last column, those that it may use.
fn allowed_edges(document: &str) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut allowed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in document.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let (Some(first), Some(last)) = (cells.first(), cells.last()) else { continue };
        let above: BTreeSet<String> = allowed.keys().cloned().collect();
        let may: BTreeSet<String> = if let Some(rest) = last.strip_prefix("all above") {
            let except = names(rest.trim_start().strip_prefix("but").unwrap_or_default());
            above.into_iter().filter(|name| !except.contains(name)).collect()
        } else if last.starts_with("nothing") {
            BTreeSet::new()
        } else {
            names(last)
        };
        for name in names(first) {
            allowed.insert(name, may.clone());
        }
    }
    if allowed.is_empty() {
        bail!("docs/architecture.md has no table of crates");
    }
    // The programs are no libraries for one another.
    for may in allowed.values_mut() {
        may.remove("server");
        may.remove("agent");
    }
    Ok(allowed)
}

fn names(cell: &str) -> BTreeSet<String> {
    let words = cell.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn members(metadata: &Value) -> BTreeMap<String, Vec<Dependency>> {
    let text = |value: &Value, key: &str| {
        value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let list = |value: &Value, key: &str| {
        value.get(key).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let mut members = BTreeMap::new();
    for package in list(metadata, "packages") {
        let dependencies = list(&package, "dependencies")
            .iter()
            .map(|d| Dependency { name: text(d, "name"), dev: text(d, "kind") == "dev" })
            .collect();
        members.insert(text(&package, "name"), dependencies);
    }
    members
}

fn check(
    allowed: &BTreeMap<String, BTreeSet<String>>,
    members: &BTreeMap<String, Vec<Dependency>>,
) -> Vec<String> {
    let mut problems = Vec::new();
    for (package, dependencies) in members {
        for dependency in dependencies {
            if let Some((name, why)) = BANNED.iter().find(|(name, _)| *name == dependency.name) {
                problems.push(format!("{package} depends on {name}: {why}"));
            }
        }
        // Tests of the whole and xtask may use what they like of the rest.
        let Some(me) = package.strip_prefix("signet-") else { continue };
        if TOOLS.contains(&me) {
            continue;
        }
        let Some(may) = allowed.get(me) else {
            problems.push(format!("{package} is not in the table of docs/architecture.md"));
            continue;
        };
        for dependency in dependencies.iter().filter(|dependency| !dependency.dev) {
            let name = dependency.name.as_str();
            if let Some(other) = name.strip_prefix("signet-") {
                if !may.contains(other) {
                    problems.push(format!(
                        "{package} depends on {name}, which docs/architecture.md does not allow"
                    ));
                }
            } else if let Some((_, who)) = FENCES.iter().find(|(fenced, _)| *fenced == name)
                && !who.contains(&me)
            {
                problems.push(format!(
                    "{package} depends on {name}, which is for {} only",
                    who.join(", ")
                ));
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "
| crate | what | may use |
|---|---|---|
| `identity` | x | nothing of ours |
| `pki` | x, `y` | identity |
| `store` | x | identity |
| `server` | x | all above |
| `agent` | x | all above but store |
";

    fn with(edges: &[(&str, &str, bool)]) -> Vec<String> {
        let mut members: BTreeMap<String, Vec<Dependency>> = BTreeMap::new();
        for (from, to, dev) in edges {
            let to = Dependency { name: (*to).to_owned(), dev: *dev };
            members.entry((*from).to_owned()).or_default().push(to);
        }
        check(&allowed_edges(TABLE).unwrap(), &members)
    }

    #[test]
    fn edges_of_the_table_pass_and_others_are_named() {
        assert!(
            with(&[
                ("signet-pki", "signet-identity", false),
                ("signet-server", "signet-store", false),
                ("signet-agent", "signet-pki", false),
                ("signet-identity", "signet-testkit", true),
                ("e2e", "signet-server", false),
            ])
            .is_empty()
        );
        for (from, to) in [
            ("signet-identity", "signet-pki"),
            ("signet-agent", "signet-store"),
            ("signet-agent", "signet-server"),
            ("signet-server", "signet-agent"),
            ("signet-store", "rcgen"),
            ("signet-new", "signet-identity"),
            ("e2e", "openssl"),
        ] {
            assert_eq!(with(&[(from, to, false)]).len(), 1, "{from} {to}");
        }
    }

    #[test]
    fn a_table_that_is_gone_is_an_error() {
        assert!(allowed_edges("no table").is_err());
    }
}
