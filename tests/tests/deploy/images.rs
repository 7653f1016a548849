//! Images: what the Dockerfile says, and that programs run in the root file system it makes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use e2e::{Process, TestDir, bins, cli, eventually, kubernetes};

use super::needs_judge;

/// The Dockerfile's stages: name, then instructions and their arguments.
fn stages() -> BTreeMap<String, Vec<(String, String)>> {
    let file = kubernetes::deploy().join("container/Dockerfile");
    let text = fs::read_to_string(file).expect("the Dockerfile");
    let mut stages: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let mut current = String::new();
    for line in text.replace("\\\n", " ").lines() {
        let Some((instruction, rest)) = line.trim().split_once(' ') else { continue };
        if instruction == "#" {
            continue;
        }
        if instruction == "FROM" {
            current = rest.split(' ').next_back().expect("a name").to_owned();
        }
        let stage = stages.entry(current.clone()).or_default();
        stage.push((instruction.to_owned(), rest.trim().to_owned()));
    }
    stages
}

#[test]
fn hadolint_has_nothing_to_say() {
    needs_judge!();
    let words = e2e::clients::kubernetes_schemas().expect("the environment");
    let hadolint = Path::new(&words[0]).with_file_name("hadolint");
    let file = kubernetes::deploy().join("container/Dockerfile");
    cli::run(Command::new(hadolint).arg(file), "").ok();
}

/// Nothing but the program is in an image, and only what must be is root.
#[test]
fn images_hold_one_program_and_no_shell() {
    let stages = stages();
    let names: BTreeSet<_> = stages.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["agent", "broker", "build", "controller", "csi", "helper", "oidc", "server"].into()
    );
    for (name, stage) in stages.iter().filter(|(name, _)| *name != "build") {
        let words: Vec<_> = stage.iter().map(|(word, _)| word.as_str()).collect();
        assert_eq!(words, ["FROM", "COPY", "USER", "WORKDIR", "ENTRYPOINT"], "{name}");
        let part = if name == "csi" { "agent" } else { name };
        assert!(stage[0].1.starts_with("scratch AS"), "{name}");
        assert_eq!(stage[1].1, format!("--from=build /rootfs/{part} /"), "{name}");
        let user = if part == "agent" { "0:0" } else { "65532:65532" };
        assert_eq!(stage[2].1, user, "{name}");
        assert!(stage[4].1.starts_with('['), "{name}: an entry point needs no shell");
    }
    let (_, base) = &stages["build"][0];
    let registry = base.split('/').next().is_some_and(|first| first.contains('.'));
    assert!(base.contains(':') && !(base.contains('/') && registry), "{base}");
}

/// The root file system of an image, made as the Dockerfile makes it.
fn rootfs(dir: &TestDir, name: &str) -> std::path::PathBuf {
    let root = dir.join(name);
    let script = kubernetes::deploy().join("container/rootfs.sh");
    cli::run(Command::new(script).arg(&root).arg(bins::find(name)), "").ok();
    root
}

/// A command whose root directory is `root`: by chroot as root, else in a user namespace.
fn inside(root: &Path) -> Command {
    if nix::unistd::geteuid().is_root() {
        let mut command = Command::new("chroot");
        command.arg(root);
        return command;
    }
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--wd=/"]).arg(format!("--root={}", root.display()));
    command
}

#[test]
fn programs_find_all_their_libraries_in_their_images() {
    let dir = TestDir::new();
    for (name, spire) in [
        ("signet-server", "/opt/spire/bin/spire-server"),
        ("signet-agent", "/opt/spire/bin/spire-agent"),
        ("signet-controller", "/spire-controller-manager"),
    ] {
        let root = rootfs(&dir, name);
        for program in [format!("/usr/bin/{name}").as_str(), spire] {
            cli::run(inside(&root).arg(program).arg("--help"), "").ok().says("Usage");
        }
        for shell in ["/bin/sh", "/bin/bash"] {
            assert!(!root.join(shell.trim_start_matches('/')).exists(), "{name}: {shell}");
        }
    }
}

/// glibc resolves names by modules that a static check of libraries does not see.
#[test]
fn a_server_resolves_names_and_serves_in_its_image() {
    let dir = TestDir::new();
    let root = rootfs(&dir, "signet-server");
    fs::write(root.join("etc/hosts"), "127.0.0.1 server.image.test\n").expect("the hosts");
    let config = "server {\n bind_address = \"server.image.test\"\n bind_port = 0\n \
                  trust_domain = \"image.test\"\n data_dir = \"/tmp\"\n}\nplugins {\n \
                  DataStore \"sql\" { plugin_data { database_type = \"sqlite3\" \
                  connection_string = \"/tmp/datastore.sqlite3\" } }\n \
                  KeyManager \"disk\" { plugin_data { keys_path = \"/tmp/keys.json\" } }\n \
                  NodeAttestor \"join_token\" { plugin_data {} }\n}\n";
    fs::write(root.join("etc/server.conf"), config).expect("the configuration");
    let mut command = inside(&root);
    // As the image's entry point: SPIRE's name, and so its socket.
    command.args(["/opt/spire/bin/spire-server", "run", "-config", "/etc/server.conf"]);
    let mut server = Process::start("spire-server", &mut command, &dir.join("server.log"));
    let socket = root.join("tmp/spire-server/private/api.sock");
    eventually("a healthy server", || {
        let mut check = inside(&root);
        check.args(["/opt/spire/bin/spire-server", "healthcheck"]);
        (socket.exists() && cli::run(&mut check, "").code == 0).then_some(())
    });
    assert_eq!(server.terminate(), 0);
}
