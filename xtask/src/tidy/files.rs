//! What may stand in a file, and how long it may be.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::run::root;

/// The longest Rust file, in lines.
const MAX_LINES: usize = 600;

/// A text, where it is at home (beginnings of paths), and what to do elsewhere. Only in Rust files
/// below `crates/`, before their tests.
const AT_HOME: &[(&str, &[&str], &str)] = &[
    (
        "SystemTime::now",
        // When the process itself was started, as the kernel counts it.
        &["crates/base/src/clock.rs", "crates/daemon/src/metrics/process.rs"],
        "take a signet_base::Clock",
    ),
    ("UnboundedSender", &[], "bound the queue"),
    ("allow(unsafe_code", &[], "there is no unsafe code"),
    (
        "\"/proc",
        &[
            "crates/attest/",
            "crates/agent/src/csi/",
            "crates/controller/src/leader/host_lock.rs",
            // What a process knows of itself, and what a person asks to be told of the machine.
            "crates/daemon/src/metrics/process.rs",
            "crates/daemon/src/support.rs",
            "crates/agent/src/cli/doctor.rs",
            "crates/fleet/",
        ],
        "only attest reads /proc",
    ),
    ("sqlx::", &["crates/store/"], "only store writes SQL"),
    ("unbounded_channel", &[], "bound the queue"),
];

/// How tests begin that leave early without asking; `signet_testkit::skip!` is how it is done.
const SKIPPING: &str = concat!("print", "ln!(\"skip");

/// The target of all end-to-end tests, which names their files one by one.
const LISTS_TESTS: &str = "tests/main.rs";

/// What may stand nowhere. Written in halves, so that this file may stand here itself.
const NOWHERE: &[(&str, &str, &str)] = &[
    ("FIX", "ME", "finish it, or write an issue"),
    ("to", "do!(", "finish it"),
    ("unimple", "mented!(", "finish it"),
    ("#[ig", "nore", "a test that matters runs in CI, or it does not exist"),
    ("/wo", "rk/", "no path of one machine"),
    ("/ro", "ot/.cargo", "no path of one machine"),
    ("/ho", "me/", "no path of one machine"),
];

pub(super) fn problems() -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let listed = fs::read_to_string(root().join(LISTS_TESTS)).context(LISTS_TESTS)?;
    for path in tracked()? {
        if is_forgotten(&path, &listed) {
            problems.push(format!("{path}: {LISTS_TESTS} does not list it, so it never runs"));
        }
        // Deleted but not committed yet, or not a text.
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        problems.extend(check(&path, &text));
    }
    Ok(problems)
}

/// Whether a file of end-to-end tests is in no target.
fn is_forgotten(path: &str, listed: &str) -> bool {
    path.strip_prefix("tests/tests/").is_some_and(|name| {
        name.ends_with(".rs")
            && !name.contains('/')
            && !listed.contains(&format!("#[path = \"tests/{name}\"]"))
    })
}

/// The files that git knows.
pub(super) fn tracked() -> Result<Vec<String>> {
    let output = Command::new("git")
        .current_dir(root())
        .args(["ls-files", "-z"])
        .output()
        .context("running git ls-files")?;
    if !output.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let list = String::from_utf8(output.stdout).context("a path is not UTF-8")?;
    Ok(list.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect())
}

fn check(path: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let rust = path.ends_with(".rs");
    if rust && text.lines().count() > MAX_LINES {
        problems.push(format!("{path}: more than {MAX_LINES} lines; split it by noun"));
    }
    // What tests share has to be called so, or cargo takes it for a test.
    if rust && !is_test(path) && Path::new(path).file_name().is_some_and(|name| name == "mod.rs") {
        problems.push(format!("{path}: name the file after its module"));
    }
    let in_crates = rust && path.starts_with("crates/") && !is_test(path);
    let mut in_tests = false;
    for (number, line) in (1..).zip(text.lines()) {
        for (first, second, why) in NOWHERE {
            if line.contains(&format!("{first}{second}")) {
                problems.push(format!("{path}:{number}: {first}{second}: {why}"));
            }
        }
        let skips = line.to_ascii_lowercase().contains(SKIPPING);
        if rust && skips && !path.starts_with("crates/testkit/") {
            problems.push(format!("{path}:{number}: use signet_testkit::skip!, which fails in CI"));
        }
        // By convention the tests are the end of a file.
        in_tests |= line.starts_with("#[cfg(test)]");
        let code = line.trim_start();
        if !in_crates || in_tests || code.starts_with("//") {
            continue;
        }
        for (what, homes, why) in AT_HOME {
            if code.contains(what) && !homes.iter().any(|home| path.starts_with(home)) {
                problems.push(format!("{path}:{number}: {what}: {why}"));
            }
        }
    }
    problems
}

fn is_test(path: &str) -> bool {
    let dirs = ["/tests/", "/examples/", "/benches/"];
    dirs.iter().any(|dir| path.contains(dir))
        || path.ends_with("/tests.rs")
        || path.starts_with("crates/testkit/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_finds_its_violation() {
        let long = "x\n".repeat(MAX_LINES + 1);
        let path = format!("see {}{}", "/wo", "rk/x");
        for (file, text) in [
            ("crates/a/src/b.rs", long.as_str()),
            ("crates/a/src/b/mod.rs", ""),
            ("docs/x.md", path.as_str()),
            ("crates/a/src/b.rs", "let t = SystemTime::now();"),
            ("crates/server/src/b.rs", "sqlx::query(\"\")"),
            ("tests/tests/b.rs", concat!("ep", "rintln!(\"SKIPPED: no root\");")),
        ] {
            assert_eq!(check(file, text).len(), 1, "{file}");
        }
    }

    #[test]
    fn tests_comments_and_homes_are_free() {
        for (file, text) in [
            ("crates/base/src/clock.rs", "SystemTime::now()"),
            ("crates/a/src/b.rs", "// SystemTime::now()"),
            ("crates/a/src/b.rs", "#[cfg(test)]\nmod tests { SystemTime::now() }"),
            ("crates/a/tests/b.rs", "SystemTime::now()"),
            ("crates/a/src/b/tests.rs", "SystemTime::now()"),
        ] {
            assert_eq!(check(file, text), Vec::<String>::new(), "{file}");
        }
    }
}
