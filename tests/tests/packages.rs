//! Packages: installed, upgraded and removed; images that hold what they say.

use std::{fs, path::Path, process::Command};

use e2e::{TestDir, bins, cli, on_path, skip};

/// Packages of the programs under test. Go's module proxy is asked for nfpm when it is not built yet.
fn package(dir: &Path, version: &str, programs: &[&str]) {
    let mut command = Command::new(bins::find("xtask"));
    command.args(["package", "--version", version, "--bins"]).arg(bins::server().parent().unwrap());
    command.arg("--out").arg(dir);
    for program in programs {
        command.args(["--program", program]);
    }
    cli::run(&mut command, "").ok();
}

/// Why packages cannot be tried here, if so.
fn obstacle() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("installing packages takes root".to_owned());
    }
    if on_path("dpkg").is_none() {
        return Some("this is no Debian".to_owned());
    }
    ["go", "rpm", "apt-get", "unshare"]
        .iter()
        .find(|name| on_path(name).is_none())
        .map(|name| format!("{name} is not installed"))
}

#[test]
fn packages_install_serve_upgrade_without_losing_identities_and_leave_state_behind() {
    if let Some(why) = obstacle() {
        skip!("{why}");
    }
    let dir = TestDir::new();
    let (packages, work) = (dir.path().join("packages"), dir.path().join("work"));
    fs::create_dir(&work).unwrap();
    for version in ["0.1.0", "0.1.1"] {
        package(&packages, version, &["signet-server", "signet-agent"]);
    }
    let script = bins::sources().join("packages/install.sh");
    let mut command = Command::new("unshare");
    // A network of its own: the ports of the samples are free, and nothing is downloaded.
    command.args(["--mount", "--pid", "--fork", "--net", "--kill-child", "sh", "-c"]);
    command.arg("ip link set lo up 2>/dev/null || true; exec \"$@\"").arg("sh").arg(script);
    command.arg(&packages).arg(&work).args(["0.1.0", "0.1.1"]);
    let output = cli::run(&mut command, "");
    let held: Vec<_> = output.stdout.lines().filter_map(|line| line.strip_prefix("ok: ")).collect();
    let promised = ["installed", "served", "upgraded", "removed", "moved to rpm", "rpm removed"];
    assert_eq!(held, promised, "{output}");
    assert_eq!(output.code, 0, "{output}");
}

#[test]
fn packages_made_twice_are_the_same_byte_for_byte_and_their_images_hold_the_program() {
    if on_path("go").is_none() {
        skip!("go is not installed");
    }
    let dir = TestDir::new();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    for dir in [&one, &two] {
        package(dir, "0.1.0", &["signet-agent"]);
    }
    let sums = fs::read_to_string(one.join("SHA256SUMS")).unwrap();
    assert_eq!(sums, fs::read_to_string(two.join("SHA256SUMS")).unwrap());
    assert_eq!(sums.lines().count(), 4, "{sums}");
    cli::run(Command::new("sha256sum").args(["-c", "SHA256SUMS"]).current_dir(&one), "").ok();

    // The layer of the image is found by digests alone, and its program runs.
    let layout = dir.path().join("layout");
    fs::create_dir(&layout).unwrap();
    let image = one.join(format!("signet-agent_0.1.0_{}.oci.tar", architecture()));
    cli::run(Command::new("tar").arg("-xf").arg(image).arg("-C").arg(&layout), "").ok();
    let read = |path: &Path| -> serde_json::Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    };
    let blob = |descriptor: &serde_json::Value| {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        layout.join("blobs/sha256").join(digest)
    };
    let index = read(&layout.join("index.json"));
    let manifest = read(&blob(&index["manifests"][0]));
    let config = read(&blob(&manifest["config"]));
    assert_eq!(config["config"]["Entrypoint"][0], "/opt/spire/bin/spire-agent");
    let files = dir.path().join("files");
    fs::create_dir(&files).unwrap();
    let layer = blob(&manifest["layers"][0]);
    cli::run(Command::new("tar").arg("-xf").arg(layer).arg("-C").arg(&files), "").ok();
    let program = fs::read(files.join("usr/bin/signet-agent")).unwrap();
    assert_eq!(program, fs::read(bins::agent()).unwrap());
}

#[test]
fn the_configuration_that_a_package_brings_is_accepted() {
    let sample = bins::sources().join("../docs/samples/oidc.conf");
    let mut command = Command::new(bins::find("signet-oidc"));
    command.args(["validate", "-config"]).arg(sample);
    cli::run(&mut command, "").ok().says("configuration is valid");
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}
