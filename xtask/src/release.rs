//! `cargo xtask release`: everything that is released, made and checked on this machine.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    package::{self, Arch, PROGRAMS},
    run::{cargo, finished, root, run},
    setup, test,
};

/// What is left out of a release that is only tried.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Do everything but tag the commit; the tree may differ from the last commit
    #[arg(long)]
    dry_run: bool,
    /// Leave out the tests
    #[arg(long)]
    skip_tests: bool,
    /// Only this architecture [default: amd64 and arm64]
    #[arg(long, value_name = "ARCH")]
    arch: Option<Arch>,
    /// Only this program [default: all]
    #[arg(long = "program", value_name = "NAME")]
    programs: Vec<String>,
    /// Build once more, in another directory, and compare
    #[arg(long)]
    twice: bool,
}

/// Tests, builds, packages, compares, and says what a person has to do then.
pub(crate) fn run_all(options: &Options) -> Result<()> {
    let version = package::version()?;
    changelog_has(if options.dry_run { "Unreleased" } else { &version })?;
    if !options.dry_run {
        is_committed()?;
    }
    if !options.skip_tests {
        test::run(&test::Options::everything())?;
    }
    let out = package::target_dir()?.join("release-packages").join(&version);
    if out.is_dir() {
        fs::remove_dir_all(&out).with_context(|| format!("removing {}", out.display()))?;
    }
    let arches = options.arch.map_or_else(|| vec![Arch::Amd64, Arch::Arm64], |arch| vec![arch]);
    for arch in arches {
        setup::cross(arch)?;
        let built = build(root(), arch, &options.programs)?;
        if options.twice {
            compare(&built, arch, &options.programs)?;
        }
        package::run_all(&package::Options {
            bins: Some(built),
            arch,
            out: Some(out.clone()),
            version: None,
            programs: options.programs.clone(),
        })?;
    }
    let tag = format!("v{version}");
    if !options.dry_run {
        run(Command::new("git").current_dir(root()).args(["tag", "-a", &tag, "-m", &tag]))?;
    }
    println!("\nWhat is left for a person (docs/releasing.md):");
    println!("  gpg --armor --detach-sign {}", out.join("SHA256SUMS").display());
    println!("  git push origin {tag}");
    println!("  publish the directory {}", out.display());
    Ok(())
}

/// `CHANGELOG.md` must say what is in the release.
fn changelog_has(version: &str) -> Result<()> {
    let path = root().join("CHANGELOG.md");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let heading = |line: &str| line.starts_with("## ") && line.contains(version);
    if !text.lines().any(heading) {
        bail!("{}: expected a heading \"## {version}\"", path.display());
    }
    Ok(())
}

fn is_committed() -> Result<()> {
    let mut command = Command::new("git");
    command.current_dir(root()).args(["status", "--porcelain"]);
    if !finished(&mut command)?.is_empty() {
        bail!("the tree differs from the last commit: commit first, or take -dry-run");
    }
    Ok(())
}

/// Builds the released programs from the sources in `sources`; gives the directory they are in.
///
/// Paths of this machine are replaced in everything that compilers write, so that the place of the
/// sources does not show.
fn build(sources: &Path, arch: Arch, programs: &[String]) -> Result<PathBuf> {
    let target = sources.join("target/release-build");
    let home = env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    );
    // The longest first: of several that fit, compilers take the last.
    let places =
        [(sources, "/usr/src/signet"), (&target, "/usr/src/build"), (&home, "/usr/src/cargo")];
    let rust: Vec<_> = places
        .iter()
        .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()))
        .collect();
    let c: Vec<_> = places
        .iter()
        .map(|(from, to)| format!("-ffile-prefix-map={}={to}", from.display()))
        .collect();
    let c = c.join(" ");
    let mut command = cargo(&["build", "--release", "--locked", "--target", arch.triple()]);
    for program in PROGRAMS {
        if programs.is_empty() || programs.iter().any(|name| name == program.name) {
            command.args(["-p", program.name]);
        }
    }
    run(command
        .current_dir(sources)
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_ENCODED_RUSTFLAGS", rust.join("\u{1f}"))
        .env("CFLAGS", &c)
        // As in .cargo/config.toml, which the environment replaces.
        .env("AWS_LC_SYS_CFLAGS", format!("-DMY_ASSEMBLER_IS_TOO_OLD_FOR_512AVX {c}"))
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", "aarch64-linux-gnu-gcc"))?;
    Ok(target.join(arch.triple()).join("release"))
}

/// Builds a copy of the sources elsewhere, and fails unless the programs are the same.
fn compare(built: &Path, arch: Arch, programs: &[String]) -> Result<()> {
    let dir = tempfile::Builder::new()
        .prefix("signet-again")
        .tempdir_in(package::target_dir()?)
        .context("making a directory")?;
    let copy = dir.path().join("another/place");
    fs::create_dir_all(&copy).context("making a directory")?;
    // Tracked files, and new ones that are not ignored.
    let list =
        "git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t \"$0\"";
    run(Command::new("sh").current_dir(root()).args(["-c", list]).arg(&copy))?;
    let again = build(&copy, arch, programs)?;
    for program in PROGRAMS {
        if !built.join(program.name).is_file() {
            continue;
        }
        let read = |dir: &Path| {
            let path = dir.join(program.name);
            fs::read(&path).with_context(|| path.display().to_string())
        };
        if read(built)? != read(&again)? {
            bail!("{} differs when it is built in another directory", program.name);
        }
        println!("{} for {} is the same, built in two places", program.name, arch.debian());
    }
    Ok(())
}
