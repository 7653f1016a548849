//! `cargo xtask test`: what CI runs.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};

use crate::{
    fuzz,
    run::{bin_dir, cargo, shown},
    setup,
};

/// How long each coverage-guided test runs.
const FUZZ_SECONDS: u32 = 5;
/// How documentation is checked. It is for readers of the source, who see what is private too.
const RUSTDOC_FLAGS: &str = "-Dwarnings -Arustdoc::private_intra_doc_links";
/// The programs that can send traces, with the feature `otel`.
const TRACED: [&str; 3] = ["signet-agent", "signet-broker", "signet-server"];

/// How much is tested.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// First install what is missing (on Debian, as root); nothing may be skipped then
    #[arg(long)]
    setup: bool,
    /// Leave out the end-to-end tests, which start the built programs
    #[arg(long)]
    quick: bool,
    /// Also run clippy, with warnings as errors, and cargo deny: which crates may be used, by whom,
    /// under which licences, from where
    #[arg(long)]
    lint: bool,
    /// Also run each coverage-guided test for some seconds
    #[arg(long)]
    fuzz: bool,
    /// Only tests whose name contains this
    filter: Option<String>,
}

impl Options {
    /// Every test, with nothing skipped.
    pub(crate) const fn everything() -> Self {
        Self { setup: true, quick: false, lint: true, fuzz: true, filter: None }
    }
}

/// Checks the formatting, builds the programs, runs every test (the tidy test among them).
///
/// All steps run even when one fails, so that one run shows everything that is wrong.
pub(crate) fn run(options: &Options) -> Result<()> {
    let all = Instant::now();
    let path = if options.setup { Some(setup::run_all()?) } else { None };
    let mut failed = Vec::new();
    let mut step = |name: &'static str, args: &[&str]| {
        let mut command = cargo(args);
        if let Some(path) = &path {
            // With everything there, a test that is skipped fails.
            command.env("PATH", path).env("SIGNET_REQUIRE_ALL", "1");
        }
        let begun = Instant::now();
        let done = match name {
            "tests" => tests(&mut command),
            "build with traces" => crate::run::run(&mut command).and_then(|()| put_aside()),
            "documentation" => crate::run::run(command.env("RUSTDOCFLAGS", RUSTDOC_FLAGS)),
            _ => crate::run::run(&mut command),
        };
        eprintln!("{name}: {} s", begun.elapsed().as_secs());
        if let Err(error) = done {
            eprintln!("error: {error:#}");
            failed.push(name);
            return false;
        }
        true
    };
    step("formatting", &["fmt", "--all", "--check"]);
    if !options.quick {
        // Put aside for the tests of traces; the usual programs take their place then.
        let features = TRACED.map(|program| format!("{program}/otel")).join(",");
        let mut args = vec!["build", "--locked", "--bins", "--features", &features];
        args.extend(TRACED.iter().flat_map(|program| ["-p", program]));
        step("build with traces", &args);
    }
    // The end-to-end tests look for the programs beside themselves.
    let built = step("build", &["build", "--locked", "--workspace", "--bins"]);
    if built {
        let mut args = vec!["test", "--locked", "--workspace", "--no-fail-fast"];
        if options.quick {
            args.extend(["--exclude", "e2e"]);
        }
        if let Some(filter) = &options.filter {
            args.extend(["--", filter.as_str()]);
        }
        step("tests", &args);
    }
    if options.lint {
        let args = ["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"];
        step("lints", &args);
        step("documentation", &["doc", "--locked", "--workspace", "--no-deps", "--lib"]);
        if path.is_some() || has_deny() {
            let fences = ["bans", "licenses", "sources"];
            step("dependencies", &[&["deny", "--locked", "check"][..], &fences[..]].concat());
        } else {
            eprintln!("cargo deny is not installed: dependencies are not checked");
        }
    }
    if options.fuzz {
        let begun = Instant::now();
        if let Err(error) = fuzz::run_all(&fuzz::Options::each(FUZZ_SECONDS)) {
            eprintln!("error: {error:#}");
            failed.push("fuzz");
        }
        eprintln!("fuzz: {} s", begun.elapsed().as_secs());
    }
    eprintln!("in all: {} s", all.elapsed().as_secs());
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    eprintln!("all good");
    Ok(())
}

/// Moves the programs that were built just now into a directory beside.
fn put_aside() -> Result<()> {
    let bins = bin_dir()?;
    let aside = bins.join("otel");
    fs::create_dir_all(&aside).with_context(|| format!("creating {}", aside.display()))?;
    for program in TRACED {
        let (from, to) = (bins.join(program), aside.join(program));
        fs::rename(&from, &to).with_context(|| format!("moving {}", from.display()))?;
    }
    Ok(())
}

/// Whether cargo has the subcommand `deny`.
fn has_deny() -> bool {
    cargo(&["deny", "--version"]).output().is_ok_and(|output| output.status.success())
}

/// Runs cargo's tests and repeats their closing lines at the end, where people look.
fn tests(command: &mut Command) -> Result<()> {
    if env::var_os("RUST_TEST_THREADS").is_none() {
        // Most end-to-end tests wait for something, so more of them than cores may run at once.
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        command.env("RUST_TEST_THREADS", cores.max(4).to_string());
    }
    eprintln!("$ {}", shown(command));
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| shown(command))?;
    let mut closing = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.context("reading the output of cargo test")?;
            println!("{line}");
            if line.starts_with("test result:") || line.ends_with("... FAILED") {
                closing.push(line);
            }
        }
    }
    let status = child.wait().context("waiting for cargo test")?;
    println!("\n{}", closing.join("\n"));
    if !status.success() {
        bail!("{}: {status}", shown(command));
    }
    Ok(())
}
