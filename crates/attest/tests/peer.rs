//! A caller is who it was when it connected, and nobody else.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

use std::{
    io::{Read, Write},
    os::unix::{
        net::{UnixListener, UnixStream},
        process::CommandExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use signet_attest::{
    peer::{PeerError, PinnedPeer},
    procfs::ProcRoot,
    workload::{
        WorkloadAttestor, WorkloadAttestors,
        unix::{DEFAULT_SIZE_LIMIT, UnixAttestor, UnixConfig},
    },
};
use signet_identity::Selector;

const SOCKET: &str = "SIGNET_TEST_SOCKET";

/// Not a test of its own: the process the tests below talk to. It connects, waits for one byte,
/// and then becomes `sleep`, which closes the connection.
#[test]
fn child() {
    let Some(socket) = std::env::var_os(SOCKET) else { return };
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(b"!").unwrap();
    let mut order = [0];
    if stream.read(&mut order).unwrap_or(0) == 1 {
        panic!("exec failed: {}", Command::new("/bin/sleep").arg("60").exec());
    }
}

fn caller(dir: &Path) -> (Child, UnixStream) {
    caller_by(dir, &mut Command::new(std::env::current_exe().unwrap()))
}

/// A caller that this command becomes, given the arguments of the test above.
fn caller_by(dir: &Path, command: &mut Command) -> (Child, UnixStream) {
    let socket = dir.join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    command.args(["--exact", "child", "--nocapture"]).env(SOCKET, &socket).stdout(Stdio::null());
    // A process that another test has just started may hold a new program open for writing still.
    let child = loop {
        match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                std::thread::yield_now();
            }
            started => break started.unwrap(),
        }
    };
    let (mut stream, _) = listener.accept().unwrap();
    let mut hello = [0];
    stream.read_exact(&mut hello).unwrap();
    (child, stream)
}

fn attestor() -> UnixAttestor {
    UnixAttestor::new(UnixConfig { discover_workload_path: true, workload_size_limit: None })
}

fn value<'a>(selectors: &'a [Selector], key: &str) -> &'a str {
    selectors.iter().find_map(|s| s.value().strip_prefix(key)).unwrap()
}

#[tokio::test]
async fn exec_changes_the_selectors_of_the_same_caller() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, mut stream) = caller(dir.path());
    let peer = PinnedPeer::from_socket(&stream, &ProcRoot::default()).unwrap();
    assert_eq!(peer.pid(), child.id() as i32);
    let before = attestor().attest(&peer).await.unwrap();
    assert_eq!(value(&before, "path:"), std::env::current_exe().unwrap().to_str().unwrap());
    stream.write_all(b"x").unwrap();
    // exec closes the child's end: when this returns, it has happened.
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    let after = attestor().attest(&peer).await.unwrap();
    peer.verify().unwrap();
    assert!(value(&after, "path:").ends_with("/sleep"), "{after:?}");
    assert_ne!(value(&before, "sha256:"), value(&after, "sha256:"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(peer.verify(), Err(PeerError::Exited(_))));
    assert!(!peer.is_alive());
}

#[tokio::test]
async fn a_caller_that_is_gone_gets_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, stream) = caller(dir.path());
    let peer = PinnedPeer::from_socket(&stream, &ProcRoot::default()).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let all = WorkloadAttestors::new(vec![Box::new(attestor())], Duration::from_secs(5));
    assert!(all.attest(&peer).await.is_err());
    assert!(PinnedPeer::from_socket(&stream, &ProcRoot::default()).is_err());
    let own = nix::unistd::getuid().as_raw();
    assert!(PinnedPeer::from_pid(peer.pid(), own, own, &ProcRoot::default()).is_err());
}

#[test]
fn a_pid_of_another_user_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, _stream) = caller(dir.path());
    let pid = child.id() as i32;
    let status = PinnedPeer::from_named_pid(pid, &ProcRoot::default()).unwrap();
    let pinned =
        PinnedPeer::from_pid(pid, status.uid().wrapping_add(1), status.gid(), &ProcRoot::default());
    assert!(matches!(pinned, Err(PeerError::Replaced(..))));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn an_executable_over_the_size_limit_is_an_error_and_a_negative_limit_never_hashes() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, stream) = caller(dir.path());
    let peer = PinnedPeer::from_socket(&stream, &ProcRoot::default()).unwrap();
    let with = |workload_size_limit| {
        let workload_size_limit = Some(workload_size_limit);
        UnixAttestor::new(UnixConfig { discover_workload_path: true, workload_size_limit })
    };
    let error = with(10).attest(&peer).await.unwrap_err();
    assert!(error.to_string().contains("exceeds size limit"), "{error}");
    let found = with(-1).attest(&peer).await.unwrap();
    assert!(found.iter().any(|s| s.value().starts_with("path:")));
    assert!(!found.iter().any(|s| s.value().starts_with("sha256:")));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn a_path_that_only_the_caller_s_own_mount_namespace_has_is_not_its_path() {
    let dir = tempfile::tempdir().unwrap();
    // Another program is there for everybody else.
    let path = dir.path().join("trusted");
    std::fs::copy("/bin/sleep", &path).unwrap();
    let own_namespace = ["--user", "--map-root-user", "--mount", "--propagation", "private"];
    if !Command::new("unshare").args(own_namespace).arg("true").status().unwrap().success() {
        signet_testkit::skip!("no user namespaces");
    }
    let script = "mount --bind \"$1\" \"$2\" && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(own_namespace).args(["sh", "-c", script, "sh"]);
    command.arg(std::env::current_exe().unwrap()).arg(&path);
    let (mut child, stream) = caller_by(dir.path(), &mut command);
    let peer = PinnedPeer::from_socket(&stream, &ProcRoot::default()).unwrap();
    let target = peer.proc_root().exe_target(peer.pid()).unwrap();
    assert_eq!(target, path, "the kernel shows the path that the caller chose");
    let found = attestor().attest(&peer).await.unwrap();
    assert!(!found.iter().any(|s| s.value().starts_with("path:")), "{found:?}");
    let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    assert_eq!(value(&found, "sha256:"), signet_pki::digest::sha256_hex(&own));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn an_executable_over_the_limit_that_nobody_set_has_no_hash() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large");
    std::fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(DEFAULT_SIZE_LIMIT + 1).unwrap();
    drop(file);
    let (mut child, stream) = caller_by(dir.path(), &mut Command::new(&path));
    let peer = PinnedPeer::from_socket(&stream, &ProcRoot::default()).unwrap();
    let found = attestor().attest(&peer).await.unwrap();
    assert_eq!(value(&found, "path:"), path.to_str().unwrap());
    assert!(!found.iter().any(|s| s.value().starts_with("sha256:")), "{found:?}");
    child.kill().unwrap();
    child.wait().unwrap();
}
