use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::net::UnixStream as StdStream,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
};

use super::*;
use crate::procfs::ProcRoot;

/// What a fake engine answers for a path.
#[derive(Clone)]
enum Reply {
    Json(String),
    Status(u16),
    /// Half of what was announced.
    Truncated,
    /// Bytes without end.
    Huge,
    /// Nothing at all.
    Silence,
}

/// An engine on a Unix socket, which answers each path from a list, the last of it for ever.
struct FakeEngine {
    dir: tempfile::TempDir,
    replies: Arc<Mutex<BTreeMap<String, Vec<Reply>>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl FakeEngine {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let replies: Arc<Mutex<BTreeMap<String, Vec<Reply>>>> = Arc::default();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (known, log) = (Arc::clone(&replies), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&known), Arc::clone(&log)));
            }
        });
        Self { dir, replies, asked }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    fn reply(&self, path: &str, replies: &[Reply]) {
        self.replies.lock().unwrap().insert(path.to_owned(), replies.to_vec());
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: tokio::net::UnixStream,
    replies: Arc<Mutex<BTreeMap<String, Vec<Reply>>>>,
    asked: Arc<Mutex<Vec<String>>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    asked.lock().unwrap().push(path.clone());
    let reply = match replies.lock().unwrap().get_mut(&path) {
        Some(list) if list.len() > 1 => list.remove(0),
        Some(list) => list[0].clone(),
        None => Reply::Status(404),
    };
    let answer = |status: u16, length: usize| {
        format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n"
        )
    };
    let _ = match reply {
        Reply::Json(json) => stream.write_all((answer(200, json.len()) + &json).as_bytes()).await,
        Reply::Status(status) => {
            let body = "{\"message\":\"no such thing\"}";
            stream.write_all((answer(status, body.len()) + body).as_bytes()).await
        }
        Reply::Truncated => stream.write_all((answer(200, 1000) + "{\"Config\":").as_bytes()).await,
        Reply::Huge => {
            let mut sent = stream.write_all(answer(200, usize::MAX / 2).as_bytes()).await;
            while sent.is_ok() {
                sent = stream.write_all(&[b' '; 65536]).await;
            }
            sent
        }
        Reply::Silence => {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.map(|_| ())
        }
    };
}

fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

const INIT: i32 = 4_194_301;

/// A container as Docker describes it, cut to a part of the fields that it has.
fn container(pid: i32) -> Reply {
    Reply::Json(format!(
        r#"{{"Id":"{}","Created":"2026-01-01T00:00:00Z","Path":"/app","Args":[],
            "State":{{"Status":"running","Running":true,"Paused":false,"Pid":{pid},"ExitCode":0}},
            "Image":"sha256:1234","Name":"/web","HostConfig":{{"Privileged":false}},
            "Config":{{"Hostname":"h","Labels":{{"app":"web","empty":""}},
                "Env":["A=b=c","PATH=/bin"],"Cmd":null,"Image":"envoyproxy/envoy:v1"}}}}"#,
        id('a')
    ))
}

fn container_path(id: &str) -> String {
    format!("/containers/{id}/json")
}

fn config(engine: &FakeEngine) -> DockerConfig {
    let nowhere = Address::Unix("/nowhere/engine.sock".into());
    DockerConfig {
        docker: Address::Unix(engine.socket()),
        podman: nowhere,
        backoff: Duration::ZERO,
        deadline: Duration::from_secs(20),
        ..DockerConfig::default()
    }
}

/// Attests this process, with a `/proc` in which it has the cgroups `caller` and the container's
/// first process has the cgroups `init`.
async fn attest(
    config: DockerConfig,
    caller: &str,
    init: &str,
) -> Result<BTreeSet<String>, WorkloadAttestError> {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join(std::process::id().to_string());
    std::fs::create_dir(&own).unwrap();
    for file in ["stat", "status"] {
        let real = Path::new("/proc/self").join(file);
        std::fs::write(own.join(file), std::fs::read(real).unwrap()).unwrap();
    }
    std::fs::write(own.join("cgroup"), caller).unwrap();
    if !init.is_empty() {
        std::fs::create_dir(dir.path().join(INIT.to_string())).unwrap();
        std::fs::write(dir.path().join(INIT.to_string()).join("cgroup"), init).unwrap();
    }
    let (_client, server) = StdStream::pair().unwrap();
    let peer = PinnedPeer::from_socket(&server, &ProcRoot::new(dir.path())).unwrap();
    let found = DockerAttestor::new(config).attest(&peer).await?;
    Ok(found.iter().map(|selector| selector.to_string()).collect())
}

fn all() -> BTreeSet<String> {
    [
        "docker:env:A=b=c",
        "docker:env:PATH=/bin",
        "docker:image_config_digest:sha256:1234",
        "docker:image_id:envoyproxy/envoy:v1",
        "docker:label:app:web",
        "docker:label:empty:",
    ]
    .map(str::to_owned)
    .into()
}

fn engine_with(container_id: &str) -> FakeEngine {
    let engine = FakeEngine::start();
    engine.reply(&container_path(container_id), &[container(INIT)]);
    engine.reply("/images/sha256:1234/json", &[Reply::Json(r#"{"Id":"sha256:1234"}"#.into())]);
    engine
}

#[tokio::test]
async fn a_container_of_docker_has_the_selectors_of_spire() {
    let a = id('a');
    for path in [
        format!("/docker/{a}"),
        format!("/system.slice/docker-{a}.scope"),
        format!("/kubepods/besteffort/pod2c48913c-b29f-11e7-9350-020968147796/{a}"),
        format!("/../../docker/{a}"),
    ] {
        for cgroup in [
            format!("0::{path}\n"),
            format!("3:cpu,cpuacct:{path}\n2:memory:{path}\n1:name=systemd:{path}\n0::/\n"),
        ] {
            let engine = engine_with(&a);
            assert_eq!(attest(config(&engine), &cgroup, &cgroup).await.unwrap(), all(), "{path}");
        }
    }
}

#[tokio::test]
async fn the_version_of_the_api_is_asked_for_when_it_is_configured() {
    let a = id('a');
    let engine = FakeEngine::start();
    engine.reply(&format!("/v1.44/containers/{a}/json"), &[container(INIT)]);
    let config = DockerConfig { version: Some("1.44".to_owned()), ..config(&engine) };
    let cgroup = format!("0::/docker/{a}");
    let found = attest(config, &cgroup, &cgroup).await.unwrap();
    assert!(found.contains("docker:label:app:web"), "{found:?}");
    assert!(!found.iter().any(|value| value.contains("image_config_digest")), "{found:?}");
    assert!(engine.asked().iter().all(|path| path.starts_with("/v1.44/")));
}

#[tokio::test]
async fn a_process_outside_containers_has_no_selectors_and_no_engine_is_asked() {
    let engine = FakeEngine::start();
    let found = attest(config(&engine), "0::/user.slice/user-1.slice\n", "").await.unwrap();
    assert!(found.is_empty() && engine.asked().is_empty());
}

#[tokio::test]
async fn podman_is_asked_for_its_containers_and_a_users_podman_only_when_configured() {
    let a = id('a');
    let engine = engine_with(&a);
    let podman = DockerConfig {
        docker: Address::Unix("/nowhere/docker.sock".into()),
        podman: Address::Unix(engine.socket()),
        ..config(&engine)
    };
    for path in
        [format!("/machine.slice/libpod-{a}.scope/container"), format!("/libpod_parent/libpod-{a}")]
    {
        let cgroup = format!("0::{path}\n");
        assert_eq!(attest(podman.clone(), &cgroup, &cgroup).await.unwrap(), all(), "{path}");
    }
    let rootless = format!(
        "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{a}.scope/container\n"
    );
    let before = engine.asked().len();
    let error = attest(podman.clone(), &rootless, &rootless).await.unwrap_err().to_string();
    assert!(error.contains("set podman_socket_path_template"), "{error}");
    assert_eq!(engine.asked().len(), before);
    let dir = engine.dir.path();
    std::fs::create_dir(dir.join("1000")).unwrap();
    std::os::unix::fs::symlink(engine.socket(), dir.join("1000/p.sock")).unwrap();
    let template = format!("unix://{}/%d/p.sock", dir.display());
    let users = DockerConfig {
        podman: Address::Unix("/nowhere/podman.sock".into()),
        rootless_podman: Some(template.parse().unwrap()),
        ..podman
    };
    assert_eq!(attest(users, &rootless, &rootless).await.unwrap(), all());
}

#[tokio::test]
async fn the_outermost_container_that_the_engine_knows_wins() {
    let (a, b) = (id('a'), id('b'));
    // Docker in Docker, seen by the outer engine: the inner name is never asked for.
    let nested = format!("0::/docker/{a}/docker/{b}\n");
    let engine = engine_with(&a);
    assert_eq!(
        attest(config(&engine), &nested, &format!("0::/docker/{a}\n")).await.unwrap(),
        all()
    );
    assert!(engine.asked().iter().all(|path| !path.contains(&b)), "{:?}", engine.asked());
    // Seen by the inner engine.
    let engine = engine_with(&b);
    assert_eq!(attest(config(&engine), &nested, &nested).await.unwrap(), all());
}

#[tokio::test]
async fn a_forged_path_is_refused_although_the_engine_knows_the_container() {
    let (own, victim) = (id('b'), id('a'));
    let user = "/user.slice/user-1000.slice/user@1000.service/app.slice";
    let init = format!("0::/system.slice/docker-{victim}.scope\n");
    for forged in [
        // In a container that the engine no longer knows.
        format!("0::/system.slice/docker-{own}.scope/system.slice/docker-{victim}.scope\n"),
        // By a user of the machine.
        format!("0::{user}/system.slice/docker-{victim}.scope\n"),
        format!("0::{user}/docker/{victim}\n"),
        // In a delegated hierarchy of cgroup v1 alone.
        format!("1:name=systemd:/x/docker-{victim}.scope\n0::/\n"),
    ] {
        let engine = engine_with(&victim);
        let error = attest(config(&engine), &forged, &init).await.unwrap_err().to_string();
        assert!(error.contains("which it is not in"), "{forged}: {error}");
    }
}

#[tokio::test]
async fn a_container_that_is_not_known_or_not_running_yet_is_waited_for() {
    let a = id('a');
    let cgroup = format!("0::/docker/{a}\n");
    let engine = engine_with(&a);
    let starting = Reply::Json(r#"{"Config":{},"State":{"Running":false,"Pid":0}}"#.into());
    engine.reply(
        &container_path(&a),
        &[Reply::Status(404), starting, Reply::Status(500), container(INIT)],
    );
    assert_eq!(attest(config(&engine), &cgroup, &cgroup).await.unwrap(), all());
    // Not for ever.
    let engine = FakeEngine::start();
    let error = attest(config(&engine), &cgroup, &cgroup).await.unwrap_err().to_string();
    assert!(error.contains("knows none of the process's containers"), "{error}");
    assert_eq!(engine.asked().len(), 4);
}

#[tokio::test]
async fn a_container_that_stops_while_it_is_looked_at_is_not_believed() {
    let a = id('a');
    let cgroup = format!("0::/docker/{a}\n");
    let engine = engine_with(&a);
    let stopped = Reply::Json(r#"{"Config":{},"State":{"Running":false,"Pid":0}}"#.into());
    engine.reply(&container_path(&a), &[container(INIT), stopped]);
    let error = attest(config(&engine), &cgroup, &cgroup).await.unwrap_err().to_string();
    assert!(error.contains("does not run"), "{error}");
    // Its first process is not one that can be seen here.
    let engine = engine_with(&a);
    let error = attest(config(&engine), &cgroup, "").await.unwrap_err().to_string();
    assert!(error.contains("must run in the engine's pid namespace"), "{error}");
}

#[tokio::test]
async fn bad_answers_are_errors_that_name_the_engine() {
    let a = id('a');
    let cgroup = format!("0::/docker/{a}\n");
    for (reply, wanted) in [
        (Reply::Status(500), "answers with status 500"),
        (Reply::Status(403), "answers with status 403"),
        (Reply::Truncated, "asking Docker at"),
        (Reply::Huge, "larger than 4194304 bytes"),
        (Reply::Json("[1]".into()), "is malformed"),
        (Reply::Json(r#"{"State":{}}"#.into()), "is malformed"),
        (Reply::Json(r#"{"Config":{"Labels":[]}}"#.into()), "is malformed"),
        (Reply::Silence, "did not answer within"),
    ] {
        let engine = FakeEngine::start();
        engine.reply(&container_path(&a), &[reply]);
        let deadline = Duration::from_millis(300);
        let config = DockerConfig { deadline, ..config(&engine) };
        let error = attest(config, &cgroup, &cgroup).await.unwrap_err().to_string();
        assert!(error.contains(wanted) && error.contains("Docker at"), "{wanted}: {error}");
    }
    let engine = FakeEngine::start();
    let away =
        DockerConfig { docker: Address::Unix("/nowhere/docker.sock".into()), ..config(&engine) };
    let error = attest(away, &cgroup, &cgroup).await.unwrap_err().to_string();
    assert!(error.contains("asking Docker at /nowhere/docker.sock: connecting"), "{error}");
}

#[tokio::test]
async fn without_an_image_there_is_only_its_digest_missing() {
    let a = id('a');
    let cgroup = format!("0::/docker/{a}\n");
    for reply in [Reply::Status(404), Reply::Status(500), Reply::Json("{}".into())] {
        let engine = engine_with(&a);
        engine.reply("/images/sha256:1234/json", &[reply]);
        let mut wanted = all();
        wanted.remove("docker:image_config_digest:sha256:1234");
        assert_eq!(attest(config(&engine), &cgroup, &cgroup).await.unwrap(), wanted);
    }
}

#[tokio::test]
async fn empty_fields_make_no_selectors() {
    let a = id('a');
    let cgroup = format!("0::/docker/{a}\n");
    let engine = engine_with(&a);
    let bare = format!(
        r#"{{"Config":{{"Labels":null,"Env":null,"Image":""}},"State":{{"Running":true,"Pid":{INIT}}}}}"#
    );
    engine.reply(&container_path(&a), &[Reply::Json(bare)]);
    assert!(attest(config(&engine), &cgroup, &cgroup).await.unwrap().is_empty());
}
