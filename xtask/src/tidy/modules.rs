//! Which module may name which library or type: what the edges between crates are too coarse for.

use std::fs;

use anyhow::Result;

use super::files::tracked;
use crate::run::root;

/// Names that only some modules of a crate may use, before their tests.
struct Fence {
    /// The crate's sources.
    below: &'static str,
    /// Paths that must not be named.
    names: &'static [&'static str],
    /// Beginnings of the files that may, and the reason in a few words.
    open_to: &'static [(&'static str, &'static str)],
    /// What to do elsewhere.
    instead: &'static str,
}

const FENCES: &[Fence] = &[Fence {
    below: "crates/server/src/",
    names: &["tonic", "prost", "signet_api::pb", "signet_api::status"],
    open_to: &[
        ("crates/server/src/grpc.rs", "the gRPC edge"),
        ("crates/server/src/grpc/", "the gRPC edge"),
        ("crates/server/src/cli.rs", "a client"),
        ("crates/server/src/cli/", "a client"),
        ("crates/server/src/app.rs", "starts the gRPC server"),
        ("crates/server/src/app/http2.rs", "starts the gRPC server"),
        ("crates/server/src/listen", "hands connections to it"),
        ("crates/server/src/limits/calls.rs", "a layer in front of it"),
    ],
    instead: "rules are told in values of identity and usecase; messages and statuses end in grpc",
}];

pub(super) fn problems() -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for path in tracked()? {
        for fence in FENCES.iter().filter(|fence| fence.closes(&path)) {
            // Deleted but not committed yet, or not a text.
            let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
            problems.extend(fence.check(&path, &text));
        }
    }
    Ok(problems)
}

impl Fence {
    fn closes(&self, path: &str) -> bool {
        path.starts_with(self.below)
            && path.ends_with(".rs")
            && !self.open_to.iter().any(|(open, _)| path.starts_with(open))
    }

    fn check(&self, path: &str, text: &str) -> Vec<String> {
        // A group of imports may stand over several lines.
        let code: String = text
            .lines()
            .take_while(|line| !line.starts_with("#[cfg(test)]"))
            .map(|line| line.split("//").next().unwrap_or_default().trim())
            .collect::<Vec<_>>()
            .join(" ");
        let named = |name: &&&str| names_of(&code).iter().any(|used| is_or_below(used, name));
        let found = self.names.iter().filter(named);
        found.map(|name| format!("{path}: names {name}: {}", self.instead)).collect()
    }
}

/// The paths that `code` names: those written out, and those of `use` with groups taken apart.
fn names_of(code: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for part in code.split("use ").skip(1) {
        let tree = part.split(';').next().unwrap_or_default();
        flatten("", tree, &mut names);
    }
    let is_path = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    names.extend(code.split(|c| !is_path(c)).filter(|it| it.contains("::")).map(str::to_owned));
    names
}

/// Takes `a::{b, c::{d}}` apart into `a::b` and `a::c::d`.
fn flatten(before: &str, tree: &str, names: &mut Vec<String>) {
    let mut depth = 0_usize;
    let mut start = 0;
    let mut parts = Vec::new();
    for (at, c) in tree.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(tree.get(start..at).unwrap_or_default());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(tree.get(start..).unwrap_or_default());
    for part in parts.into_iter().map(str::trim).filter(|part| !part.is_empty()) {
        match part.split_once('{') {
            Some((path, rest)) => {
                let inner = rest.strip_suffix('}').unwrap_or(rest);
                flatten(&format!("{before}{}", path.trim()), inner, names);
            }
            None => names.push(format!("{before}{part}")),
        }
    }
}

fn is_or_below(used: &str, name: &str) -> bool {
    used.strip_prefix(name)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::") || rest.starts_with(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(path: &str, text: &str) -> usize {
        let fences = FENCES.iter().filter(|fence| fence.closes(path));
        fences.map(|fence| fence.check(path, text).len()).sum()
    }

    #[test]
    fn a_rule_that_names_the_protocol_is_found_however_it_is_written() {
        let rule = "crates/server/src/usecase/entries.rs";
        for text in [
            "use tonic::Status;",
            "use tonic;",
            "fn f() -> Result<(), tonic::Status> {}",
            "use signet_api::{\n    convert::entry_to_pb,\n    pb::spire::api::types,\n};",
            "use signet_api::status::{self, Reason};",
            "use {prost::Message as _, std::fmt};",
        ] {
            assert_eq!(violations(rule, text), 1, "{text}");
        }
    }

    #[test]
    fn edges_tests_comments_and_like_names_are_free() {
        for (path, text) in [
            ("crates/server/src/grpc/entry.rs", "use tonic::Status;"),
            ("crates/server/src/cli/entry.rs", "use signet_api::pb::x;"),
            ("crates/agent/src/client.rs", "use tonic::Status;"),
            ("crates/server/src/cache.rs", "// as tonic::Status says"),
            ("crates/server/src/cache.rs", "use signet_api::convert::EntryChange;"),
            ("crates/server/src/cache.rs", "use tonic_like::Status; use my::tonic;"),
            ("crates/server/src/cache.rs", "#[cfg(test)]\nmod tests { use tonic::Code; }"),
        ] {
            assert_eq!(violations(path, text), 0, "{path}: {text}");
        }
    }
}
