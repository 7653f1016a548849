//! Housekeeping that the compiler does not do: who may use whom, how long a file may get, and
//! nothing left undone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::run;

/// Which of our crates each may use. One that is not here may use none.
const EDGES: &[(&str, &[&str])] = &[
    ("identity", &[]),
    ("base", &[]),
    ("api", &["identity"]),
    ("daemon", &["base"]),
    ("pki", &["identity", "base"]),
    ("store", &["identity", "base"]),
    ("authority", &["identity", "pki", "base"]),
    ("remote", &["identity", "pki", "base"]),
    ("attest", &["identity", "pki", "base", "remote"]),
    (
        "server",
        &["identity", "base", "api", "daemon", "pki", "store", "authority", "remote", "attest"],
    ),
    ("agent", &["identity", "base", "api", "daemon", "pki", "remote", "attest"]),
    ("testkit", &["identity", "base"]),
];

/// Heavy crates of others, and who may use them. Tools and tests may use all.
const FENCES: &[(&str, &[&str])] = &[
    ("sqlx", &["store"]),
    ("aws-lc-rs", &["pki"]),
    ("rcgen", &["pki"]),
    ("x509-parser", &["pki"]),
    ("jsonwebtoken", &["pki"]),
    ("rustls-webpki", &["pki"]),
    ("kube", &["controller"]),
    ("tonic", &["api", "server", "agent", "controller", "oidc", "broker"]),
];

/// Longest file, in lines.
const LONGEST: usize = 600;

struct Dependency {
    user: String,
    used: String,
    dev: bool,
}

fn dependencies() -> Vec<Dependency> {
    let text = run::captured(run::cargo().args(["metadata", "--format-version", "1", "--no-deps"]))
        .expect("cargo metadata");
    let metadata: Value = serde_json::from_str(&text).expect("JSON");
    let mut all = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            all.push(Dependency {
                user: name(package),
                used: name(dependency),
                dev: dependency["kind"] == "dev",
            });
        }
    }
    all
}

fn name(value: &Value) -> String {
    value["name"].as_str().expect("a name").to_owned()
}

/// The short name of one of our library crates.
fn ours(package: &str) -> Option<&str> {
    package.strip_prefix("signet-")
}

#[test]
fn crates_use_one_another_only_as_the_design_says() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        EDGES.iter().map(|(user, used)| (*user, used.iter().copied().collect())).collect();
    for dependency in dependencies() {
        let (Some(user), Some(used)) = (ours(&dependency.user), ours(&dependency.used)) else {
            continue;
        };
        let known = allowed.get(user).unwrap_or_else(|| panic!("{user} is not in the table"));
        let for_tests = dependency.dev && (used == "testkit" || used == user);
        assert!(for_tests || known.contains(used), "{user} must not use {used}");
    }
}

#[test]
fn heavy_crates_stay_behind_their_fences() {
    for dependency in dependencies().iter().filter(|d| !d.dev) {
        let Some(user) = ours(&dependency.user) else { continue };
        for (fenced, users) in FENCES {
            assert!(
                *fenced != dependency.used || users.contains(&user),
                "{user} must not use {fenced}; only {users:?} may"
            );
        }
    }
}

#[test]
fn no_file_is_too_long_and_nothing_is_left_undone() {
    // Put together here, so that this file does not hold them.
    let undone = [concat!("to", "do!("), concat!("unimple", "mented!("), concat!("FIX", "ME")];
    for file in sources() {
        let text = fs::read_to_string(&file).expect("a source file");
        let lines = text.lines().count();
        assert!(lines <= LONGEST, "{}: {lines} lines; split it by noun", file.display());
        for word in undone {
            assert!(!text.contains(word), "{}: {word}", file.display());
        }
    }
}

/// Every Rust file of the project.
fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for top in ["crates", "tests", "xtask"] {
        collect(&run::root().join(top), &mut found);
    }
    assert!(found.len() > 50, "the sources were not found");
    found
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target" && name != "clients") {
                collect(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}
