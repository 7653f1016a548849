//! `cargo xtask fuzz`: coverage-guided tests of everything that reads what others write.
//!
//! The engine is libFuzzer, which needs a C++ compiler. What is wrong shows as a panic, a failed
//! assertion, an input that takes too long or too much memory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use anyhow::{Context, Result, bail};

use crate::run::{bin_dir, cargo, root, run};

/// Every reader, and where inputs to begin with are, besides those in `fuzz/seeds`.
const TARGETS: &[(&str, Option<&str>)] = &[
    ("bundle", Some("crates/pki/tests/data/bundles")),
    ("certificate", None),
    ("cgroup", Some("crates/attest/tests/fixtures/kubernetes")),
    ("csr", None),
    ("hcl", Some("docs/samples")),
    ("http2", None),
    ("json", None),
    ("jwt", None),
    ("mountinfo", None),
    ("pods", Some("crates/attest/tests/fixtures/kubernetes")),
    ("proxy", None),
    ("push", None),
    ("template", None),
    ("workload_api", None),
];
/// The longest input, bytes.
const MAX_LEN: u32 = 16 * 1024;
/// How long one input may take, seconds, in a build that is little optimised on a busy machine, and
/// how much memory, MiB.
const TIMEOUT: u32 = 20;
const MEMORY: u32 = 1024;

/// What to run, and for how long.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long each target runs
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Only these targets
    targets: Vec<String>,
}

impl Options {
    /// Every target, for so many seconds.
    pub(crate) const fn each(seconds: u32) -> Self {
        Self { seconds, targets: Vec::new() }
    }
}

/// Runs the targets, as many at once as there are cores; a finding is an error, and its input is
/// kept below `target/fuzz`.
pub(crate) fn run_all(options: &Options) -> Result<()> {
    let known: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = options.targets.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("no target {unknown}; there are {}", known.join(", "));
    }
    let is_chosen = |name: &str| {
        options.targets.is_empty() || options.targets.iter().any(|chosen| chosen == name)
    };
    let chosen: Vec<_> = TARGETS.iter().filter(|(name, _)| is_chosen(name)).collect();
    // With the workspace, so that dependencies have the features that they were built with already.
    let args = ["build", "--locked", "--workspace", "--bin", "fuzz", "--features", "fuzz/engine"];
    let mut build = cargo(&args);
    run(build.env("RUSTC_WORKSPACE_WRAPPER", root().join("fuzz/rustc")))?;
    let bin_dir = bin_dir()?;
    let home = bin_dir.with_file_name("fuzz");

    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(chosen.len());
    let next = AtomicUsize::new(0);
    let work = || {
        let mut findings = Vec::new();
        while let Some((name, seeds)) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = fuzz(&bin_dir, &home, name, *seeds, options.seconds) {
                findings.push(format!("{name}: {error:#}"));
            }
        }
        findings
    };
    let findings: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let ended = workers.into_iter().map(|worker| worker.join());
        ended.flat_map(|found| found.unwrap_or_else(|_| vec!["a worker panicked".into()])).collect()
    });
    if findings.is_empty() { Ok(()) } else { bail!("{}", findings.join("\n")) }
}

/// Runs one target; what it found is in the error.
fn fuzz(bin_dir: &Path, home: &Path, name: &str, seeds: Option<&str>, seconds: u32) -> Result<()> {
    let made = |kind: &str| -> Result<PathBuf> {
        let directory = home.join(kind).join(name);
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        Ok(directory)
    };
    let (corpus, artifacts) = (made("corpus")?, made("artifacts")?);
    let own = root().join("fuzz/seeds").join(name);
    let mut command = Command::new(bin_dir.join("fuzz"));
    command.env("SIGNET_FUZZ_TARGET", name).arg(&corpus);
    command.args(seeds.map(|dir| root().join(dir)).into_iter().chain([own]).filter(|d| d.is_dir()));
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={MAX_LEN}"))
        .arg(format!("-timeout={TIMEOUT}"))
        .arg(format!("-rss_limit_mb={MEMORY}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()));
    let begun = Instant::now();
    let output = command.output().with_context(|| command.get_program().display().to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{}; run it with SIGNET_FUZZ_TARGET={name}\n{said}", output.status);
    }
    let last = |what: &str| said.lines().rev().find(|line| line.contains(what)).unwrap_or_default();
    eprintln!("{name}: {} s; {}; {}", begun.elapsed().as_secs(), last("cov: "), last("Done "));
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_reader_is_a_target_and_seeds_are_there() {
        let readers = std::fs::read_to_string(super::root().join("fuzz/src/readers.rs")).unwrap();
        let listed = readers.lines().filter(|line| line.starts_with("    (\""));
        assert_eq!(listed.count(), super::TARGETS.len());
        for (target, seeds) in super::TARGETS {
            assert!(readers.contains(&format!("    (\"{target}\", ")), "{target}");
            let own = super::root().join("fuzz/seeds").join(target);
            let seeds = seeds.map(|seeds| super::root().join(seeds));
            assert!(own.is_dir() || seeds.is_some(), "{target} has no input to begin with");
            assert!(seeds.is_none_or(|seeds| seeds.is_dir()), "{target}");
        }
    }
}
