//! Files that are sealed, damaged, cut short, or open to others.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use e2e::{Agent, AgentOptions, Node, Server, ServerOptions, cli, eventually, skip};

/// A program that must end by itself, complaining.
fn fails(mut command: Command, what: &str) {
    let output = cli::run(&mut command, "");
    assert_ne!(output.code, 0, "{output}");
    output.says(what);
}

fn authority(server: &Server) -> String {
    let shown = server.cli().json("localauthority x509 show");
    shown["active"]["authority_id"].as_str().expect("an ID").to_owned()
}

/// A file that only its owner may read.
fn secret(server: &Server, name: &str, content: &[u8]) -> PathBuf {
    let path = server.dir().write(name, content);
    mode(&path, 0o600);
    path
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

/// Everything in a directory by name, with what it holds; without logs, and without what marks a
/// directory or a database as in use.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            let name = path.display().to_string();
            path.is_file() && !["log", "lock", "-shm"].iter().any(|end| name.ends_with(end))
        })
        .map(|path| (path.clone(), fs::read(path).expect("a file")))
        // A log of the database in which nothing was written.
        .filter(|(path, bytes)| !bytes.is_empty() || !path.display().to_string().ends_with("-wal"))
        .collect();
    all.sort();
    all
}

fn key_manager(more: &str) -> String {
    format!("KeyManager \"disk\" {{ plugin_data {{ keys_path = \"DIR/keys.json\" {more} }} }}")
}

#[test]
fn keys_are_sealed_with_a_key_file_or_a_passphrase_and_opened_with_nothing_else() {
    let mut server = Server::start(ServerOptions::default());
    let id = authority(&server);
    let keys = server.data().join("keys.json");
    assert!(fs::read_to_string(&keys).is_ok_and(|text| text.contains("x509-CA-A")));
    let word = |name: &str, text: &[u8]| secret(&server, name, text).display().to_string();
    let key_file =
        |name: &str, byte: u8| format!("seal_key_file = \"{}\"", word(name, &[byte; 32]));
    let passphrase = |name: &str, text: &str| {
        format!("seal_passphrase_file = \"{}\"", word(name, text.as_bytes()))
    };
    let (key, other_key) = (key_file("seal.key", 7), key_file("other.key", 8));
    let (phrase, other_phrase) =
        (passphrase("seal.txt", "correct horse\n"), passphrase("other.txt", "battery staple\n"));
    let missing = "seal_key_file = \"/nonexistent/seal.key\"".to_owned();
    let short = format!("seal_key_file = \"{}\"", word("short.key", &[7; 31]));
    let empty = passphrase("empty.txt", "\n");
    let open = {
        let path = secret(&server, "open.key", &[7; 32]);
        mode(&path, 0o644);
        format!("seal_key_file = \"{}\"", path.display())
    };
    let open_phrase = {
        let path = secret(&server, "open.txt", b"correct horse\n");
        mode(&path, 0o640);
        format!("seal_passphrase_file = \"{}\"", path.display())
    };
    let plain = fs::read(&keys).expect("the keys");
    for (right, wrong) in [
        (&key, vec![&other_key, &phrase, &missing, &short, &open]),
        (&phrase, vec![&other_phrase, &key, &empty, &open_phrase]),
    ] {
        server.process().terminate();
        fs::write(&keys, &plain).expect("the keys");
        // The first start seals what is there.
        server.reconfigure(|options| options.key_manager = key_manager(right));
        for _ in 0..2 {
            server.restart();
            assert_eq!(authority(&server), id);
            let sealed = fs::read(&keys).expect("the keys");
            assert!(sealed.starts_with(b"SGNS"), "{right}");
            assert!(!sealed.windows(9).any(|window| window == b"x509-CA-A"), "{right}");
            assert_eq!(fs::metadata(&keys).expect("the keys").permissions().mode() & 0o777, 0o600);
        }
        server.process().terminate();
        let before = contents(server.data());
        for wrong in wrong.into_iter().chain([&String::new()]) {
            server.reconfigure(|options| options.key_manager = key_manager(wrong));
            let output = cli::run(&mut server.command(), "");
            assert_ne!(output.code, 0, "{wrong}: {output}");
            // What cannot be opened is named, or what should open it.
            let with = wrong.split('"').nth(1).unwrap_or("keys.json");
            let said = format!("{}{}", output.stdout, output.stderr);
            assert!(said.contains("keys.json") || said.contains(with), "{wrong}: {output}");
            server.reconfigure(|options| options.key_manager = key_manager(right));
            let after = contents(server.data());
            let changed: Vec<_> = after.iter().filter(|file| !before.contains(file)).collect();
            let changed: Vec<_> = changed.into_iter().map(|(path, _)| path).collect();
            assert!(changed.is_empty() && after.len() == before.len(), "{wrong}: {changed:?}");
        }
        server.restart();
        assert_eq!(authority(&server), id);
    }
}

#[test]
fn a_damaged_journal_stops_the_server_and_loses_no_authority() {
    let mut server = Server::start(ServerOptions::default());
    let id = authority(&server);
    server.process().terminate();
    let path = server.data().join("datastore.sqlite3");
    assert!(!path.with_extension("sqlite3-wal").exists(), "all of it is in one file");
    let good = fs::read(&path).expect("the database");
    let start = b"{\"version\":1";
    for (bad, what) in [
        (b"{\"version\":9", "format version 9"),
        (b"{\"versio\0\":1", "corrupt"),
        (b"[\"version\",1", "corrupt"),
    ] {
        let mut bytes = good.clone();
        let places: Vec<usize> =
            (0..good.len() - start.len()).filter(|&at| good[at..].starts_with(start)).collect();
        assert!(!places.is_empty(), "there is a journal");
        for at in places {
            bytes[at..at + start.len()].copy_from_slice(bad);
        }
        fs::write(&path, &bytes).expect("the database");
        let keys = fs::read(server.data().join("keys.json")).expect("the keys");
        let output = cli::run(&mut server.command(), "");
        assert_ne!(output.code, 0, "{output}");
        output.says("journal").says(what);
        assert!(fs::read(server.data().join("keys.json")).expect("the keys") == keys);
    }
    fs::write(&path, &good).expect("the database");
    for end in ["-wal", "-shm"] {
        let _ = fs::remove_file(server.data().join(format!("datastore.sqlite3{end}")));
    }
    server.restart();
    assert_eq!(authority(&server), id);
}

#[test]
fn a_database_that_was_cut_short_is_never_taken_for_an_empty_one() {
    let mut server = Server::start(ServerOptions::default());
    for n in 0..20 {
        server.register("/n", &format!("/w{n}"), &["a:b"], "");
    }
    server.process().terminate();
    let path = server.data().join("datastore.sqlite3");
    let good = fs::read(&path).expect("the database");
    for length in [100, 4096, good.len() / 2, good.len() - 4096] {
        fs::write(&path, &good[..length]).expect("the database");
        let output = cli::run(&mut server.command(), "");
        assert_ne!(output.code, 0, "{length} bytes: {output}");
        output.says("datastore.sqlite3");
        fs::write(&path, &good).expect("the database");
        for end in ["-wal", "-shm"] {
            let _ = fs::remove_file(server.data().join(format!("datastore.sqlite3{end}")));
        }
    }
    server.restart();
    assert_eq!(server.cli().json("entry count")["count"], 20);
}

#[test]
fn secrets_that_others_may_read_are_refused_with_what_to_do() {
    let mut node = Node::start();
    node.register_caller("/workload", "");
    eventually("the identity is served", || {
        (node.agent.cli().line("api fetch x509").code == 0).then_some(())
    });
    let sealed = node.agent.data_dir().join("svid-cache.sealed");
    eventually("the cache is sealed", || sealed.exists().then_some(()));
    node.agent.stop();
    for open in [0o644, 0o640, 0o602] {
        let keys = node.agent.data_dir().join("keys.json");
        mode(&keys, open);
        fails(node.agent.command(), "chmod 600");
        mode(&keys, 0o600);
    }
    node.server.stop();
    let keys = node.server.data().join("keys.json");
    mode(&keys, 0o644);
    fails(node.server.command(), "chmod 600");
    mode(&keys, 0o600);
    node.server.launch();
    node.server.ready();
    // Whoever knows the key of the cache can read it: it is not used, and the agent goes on.
    let cache_key = node.agent.data_dir().with_file_name("svid_cache.key");
    mode(&cache_key, 0o644);
    node.agent.launch();
    node.agent.ready();
    assert!(node.agent.log().contains("svid_cache.key"), "{}", node.agent.log());
}

#[test]
fn files_that_cannot_be_read_or_written_are_named() {
    if e2e::node::caller() != "unix:uid:0" {
        skip!("only root can start a program as somebody else");
    }
    use std::os::unix::process::CommandExt;
    let server = Server::start(ServerOptions::default());
    let options = Node::agent_options(&server, AgentOptions::default());
    let agent = Agent::prepare_in(server.dir(), "agent", options);
    let nobody = |agent: &Agent| {
        let mut command = agent.command();
        command.uid(65534).gid(65534);
        command
    };
    fails(nobody(&agent), &agent.data_dir().display().to_string());
    mode(&agent.config_file(), 0o600);
    fails(nobody(&agent), &agent.config_file().display().to_string());
    assert!(contents(&agent.data_dir()).is_empty(), "nothing was made");
}
