//! Builds the clients once, below `target/clients`.

use std::{
    collections::hash_map::DefaultHasher,
    fs::{self, File},
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use super::Client;
use crate::{bins, on_path};

type Built = Result<Vec<String>, String>;

/// Builds a client, or says what is missing.
pub fn prepare(client: Client) -> Result<(), String> {
    prepare_words(client).map(drop)
}

/// The words that start a client.
pub fn prepare_words(client: Client) -> Built {
    static GO: OnceLock<Built> = OnceLock::new();
    static JAVA: OnceLock<Built> = OnceLock::new();
    static PYTHON: OnceLock<Built> = OnceLock::new();
    match client {
        Client::Go => GO.get_or_init(|| locked("clients/go", "clients", go)).clone(),
        Client::Java => JAVA.get_or_init(|| locked("clients/java", "", java)).clone(),
        Client::Python => {
            PYTHON.get_or_init(|| locked("clients/python", "clients.py", python)).clone()
        }
        Client::Rust => Ok(vec![bins::own("rust-client").display().to_string()]),
    }
}

/// The Go program, which is also a SPIRE agent and a SPIRE server. An error says what is missing.
pub fn go_binary() -> Result<PathBuf, String> {
    prepare_words(Client::Go).map(|words| PathBuf::from(&words[0]))
}

/// The Go program that speaks to CSI drivers. An error says what is missing.
pub fn csi_binary() -> Result<PathBuf, String> {
    static CSI: OnceLock<Built> = OnceLock::new();
    CSI.get_or_init(|| locked("clients/csi", "clients", go))
        .clone()
        .map(|words| PathBuf::from(&words[0]))
}

/// The program that authenticates tokens as a Kubernetes API server does. An error says what is
/// missing.
pub fn kubernetes_authenticator() -> Result<PathBuf, String> {
    static KUBERNETES: OnceLock<Built> = OnceLock::new();
    KUBERNETES
        .get_or_init(|| locked("clients/kubernetes", "authenticator", go))
        .clone()
        .map(|words| PathBuf::from(&words[0]))
}

/// Pebble, and the program that tells it where domains are. An error says what is missing.
pub fn pebble() -> Result<[PathBuf; 2], String> {
    static PEBBLE: OnceLock<Built> = OnceLock::new();
    let words = PEBBLE.get_or_init(|| locked("clients/pebble", "", go_tools)).clone()?;
    let dir = PathBuf::from(&words[0]);
    Ok(["pebble", "pebble-challtestsrv"].map(|name| dir.join(name)))
}

/// The program that judges manifests as Kubernetes and Helm do.
pub fn kubernetes_judge() -> Built {
    static JUDGE: OnceLock<Built> = OnceLock::new();
    JUDGE.get_or_init(|| locked("kubernetes/judge", "judge", go)).clone()
}

/// The program that knows the schemas of Kubernetes.
pub fn kubernetes_schemas() -> Built {
    static SCHEMAS: OnceLock<Built> = OnceLock::new();
    SCHEMAS.get_or_init(|| locked("kubernetes/schemas", "schemas.py", python)).clone()
}

/// Runs `build` on a directory of sources (below `tests/`) for the program named, in a directory
/// below `target/clients`, while no other test program does.
fn locked(sources: &str, program: &str, build: fn(&Path, &Path, &str) -> Built) -> Built {
    let name = sources.strip_prefix("clients/").unwrap_or(sources);
    let dir = bins::clients_dir().join(name);
    let text = |e: std::io::Error| format!("{}: {e}", dir.display());
    fs::create_dir_all(&dir).map_err(text)?;
    let lock = File::create(dir.join("lock")).map_err(text)?;
    lock.lock().map_err(text)?;
    build(&bins::sources().join(sources), &dir, program)
}

fn go(sources: &Path, dir: &Path, program: &str) -> Built {
    let program = dir.join(program);
    // Go knows by itself when there is nothing to do.
    tool(Command::new("go").current_dir(sources).args(["build", "-o"]).arg(&program).arg("."))?;
    Ok(vec![program.display().to_string()])
}

/// Builds the tools that a module names; returns the directory that they are in.
fn go_tools(sources: &Path, dir: &Path, _: &str) -> Built {
    // With a stroke at the end it is a directory.
    let target = format!("{}/", dir.display());
    tool(Command::new("go").current_dir(sources).args(["build", "-o", &target, "tool"]))?;
    Ok(vec![target])
}

fn java(sources: &Path, dir: &Path, _: &str) -> Built {
    let target = dir.join("target");
    let done = || {
        tool(
            Command::new("mvn")
                .current_dir(sources)
                .args(["-q", "-B", "package"])
                .arg(format!("-DbuildDirectory={}", target.display())),
        )
    };
    once(dir, &[sources.join("pom.xml"), sources.join("src/main/java/test/Clients.java")], done)?;
    tool(Command::new("java").arg("-version"))?;
    let classpath = format!("{0}/classes:{0}/lib/*", target.display());
    // A client lives for a second: compiling little is faster than compiling well.
    let words = ["java", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-cp", &classpath];
    Ok(words.iter().map(|&w| w.to_owned()).chain(["test.Clients".to_owned()]).collect())
}

fn python(sources: &Path, dir: &Path, script: &str) -> Built {
    let (venv, requirements) = (dir.join("venv"), sources.join("requirements.txt"));
    let done = || {
        tool(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
        tool(
            Command::new(venv.join("bin/pip"))
                .args(["install", "-q", "--disable-pip-version-check", "-r"])
                .arg(&requirements),
        )
    };
    once(dir, std::slice::from_ref(&requirements), done)?;
    let script = sources.join(script);
    // `-B`: no caches beside the sources.
    Ok(vec![
        venv.join("bin/python3").display().to_string(),
        "-B".to_owned(),
        script.display().to_string(),
    ])
}

/// Runs `build` unless it was already done for these very inputs.
fn once(
    dir: &Path,
    inputs: &[PathBuf],
    build: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    let mut hasher = DefaultHasher::new();
    for input in inputs {
        fs::read(input).map_err(|e| format!("{}: {e}", input.display()))?.hash(&mut hasher);
    }
    let stamp = format!("{:x}", hasher.finish());
    let file = dir.join("stamp");
    if fs::read_to_string(&file).is_ok_and(|old| old == stamp) {
        return Ok(());
    }
    build()?;
    fs::write(&file, stamp).map_err(|e| format!("{}: {e}", file.display()))
}

fn tool(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// A program on the search path.
pub fn which(name: &str) -> PathBuf {
    on_path(name).unwrap_or_else(|| PathBuf::from(name))
}
