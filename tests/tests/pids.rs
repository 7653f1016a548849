//! A pid is not an identity.

use std::{
    fs,
    io::{IoSlice, IoSliceMut, Read},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use e2e::{Node, eventually, skip};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use signet_api::{
    connect,
    pb::workload::{X509svidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient},
};
use tonic::{Code, Request, Status, Streaming, metadata::MetadataValue, transport::Channel};

use crate::grpc;

const SOCKET: &str = "SIGNET_TEST_LENDER_SOCKET";
const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";

/// Not a test of its own: a process that connects to the agent and lends its connection to whoever
/// holds the other end of its standard input, or, without a socket in its environment, only waits.
#[test]
fn lender_process() {
    let Some(socket) = std::env::var_os(SOCKET) else { return };
    let stdin = std::io::stdin();
    if !socket.is_empty() {
        let to_agent = UnixStream::connect(socket).expect("the agent's socket");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [to_agent.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(stdin.as_fd(), &[IoSlice::new(b"x")], &mut control, SendFlags::empty())
            .expect("a loan");
    }
    let _ = stdin.lock().read(&mut [0]);
}

fn borrow(from: &UnixStream) -> UnixStream {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .expect("a message");
    let lent = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    UnixStream::from(lent.expect("a connection"))
}

/// Copies of this test program stand for workloads: each has a path of its own.
fn start(program: &Path, socket: &Path, stdin: OwnedFd) -> Child {
    Command::new(program)
        .args(["--exact", "pids::lender_process", "--nocapture"])
        .env(SOCKET, socket)
        .stdin(stdin)
        .stdout(Stdio::null())
        .spawn()
        .expect("a process")
}

fn end(mut process: Child) {
    process.kill().expect("a running process");
    process.wait().expect("its end");
}

/// Starts `program` until it has this very pid, which is free.
fn start_as(pid: u32, program: &Path) -> Option<(Child, UnixStream)> {
    let end_of_patience = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end_of_patience {
        let (mine, its) = UnixStream::pair().expect("a pair of sockets");
        fs::write(LAST_PID, (pid - 1).to_string()).ok()?;
        let process = start(program, Path::new(""), its.into());
        if process.id() == pid {
            return Some((process, mine));
        }
        // Another program was faster.
        end(process);
    }
    panic!("pid {pid} was not to be had within a minute");
}

async fn stream(
    client: &mut SpiffeWorkloadApiClient<Channel>,
) -> Result<Streaming<signet_api::pb::workload::X509svidResponse>, Status> {
    let mut request = Request::new(X509svidRequest {});
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    Ok(client.fetch_x509svid(request).await?.into_inner())
}

#[test]
fn a_process_that_gets_the_pid_of_another_gets_nothing_else_of_it() {
    if fs::write(LAST_PID, fs::read(LAST_PID).unwrap_or_default()).is_err() {
        skip!("pids can only be chosen by root: {LAST_PID} cannot be written");
    }
    let node = Node::start();
    let this = std::env::current_exe().expect("this program");
    let [lender, heir] = ["lender", "heir"].map(|name| {
        let copy = node.server.dir().join(name);
        fs::copy(&this, &copy).expect("a copy");
        node.register(&format!("/{name}"), &[&format!("unix:path:{}", copy.display())], "");
        copy
    });
    let explained = |pid: u32, path: &str| {
        let told = node.agent.admin_cli().json(&format!("explain -pid {pid}"));
        told["matches"].to_string().contains(path)
    };
    let (mine, its) = UnixStream::pair().expect("a pair of sockets");
    let process = start(&lender, &node.agent.socket(), its.into());
    let pid = process.id();
    let lent = borrow(&mine);
    eventually("both entries are known", || explained(pid, "/lender").then_some(()));

    let rt = grpc::runtime();
    rt.block_on(async {
        lent.set_nonblocking(true).expect("a socket");
        let lent = Mutex::new(Some(tokio::net::UnixStream::from_std(lent).expect("a socket")));
        let channel = connect::over("http://localhost", move || {
            let stream = lent.lock().expect("the socket").take();
            async move { stream.ok_or_else(|| std::io::ErrorKind::NotConnected.into()) }
        })
        .await
        .expect("a channel");
        let mut client = SpiffeWorkloadApiClient::new(channel);
        let mut answers = stream(&mut client).await.expect("a stream");
        let first = answers.message().await.expect("an answer").expect("an answer");
        assert_eq!(first.svids[0].spiffe_id, node.id("/lender"));

        // The pid goes to another program, while the socket is still open here.
        end(process);
        let (successor, _mine) = start_as(pid, &heir).expect("pids can be chosen");
        let ended = tokio::time::timeout(e2e::DEADLINE, answers.message()).await;
        let ended = ended.expect("the stream ends with its process");
        assert!(!matches!(ended, Ok(Some(_))), "another answer: {ended:?}");
        for _ in 0..5 {
            let again = async { stream(&mut client).await?.message().await };
            let refused = again.await.expect_err("the pid alone is no identity");
            assert_ne!(refused.code(), Code::Ok, "{refused}");
        }
        // Whoever has the pid now is somebody else, with an identity of its own.
        eventually("the heir is known", || explained(pid, "/heir").then_some(()));
        assert!(!explained(pid, "/lender"));
        end(successor);
    });
}

#[test]
fn a_caller_of_another_pid_namespace_is_refused_by_name() {
    let mut node = Node::start();
    node.register_caller("/workload", "");
    eventually("the identity is served", || {
        (node.agent.cli().line("api fetch x509").code == 0).then_some(())
    });
    // An agent in a namespace of its own cannot see those outside it.
    let inside = ["--pid", "--fork", "--mount-proc", "--kill-child"].map(str::to_owned);
    let users = ["--user", "--map-root-user"].map(str::to_owned);
    let unshare = |more: &[String]| [&["unshare".to_owned()], &inside[..], more].concat();
    let works = |prefix: &[String]| {
        let mut command = Command::new(&prefix[0]);
        command.args(&prefix[1..]).arg("true");
        command.output().is_ok_and(|output| output.status.success())
    };
    let Some(prefix) = [unshare(&[]), unshare(&users)].into_iter().find(|p| works(p)) else {
        skip!("no pid namespace can be made here");
    };
    node.agent.stop();
    node.agent.reconfigure(|options| options.prefix = prefix);
    node.agent.launch();
    eventually("its socket", || node.agent.socket().exists().then_some(()));
    let refused = eventually("an answer", || {
        let refused = node.agent.cli().line("api fetch x509 -timeout 5s");
        node.agent.log().contains("pid namespace").then_some(refused)
    });
    assert_ne!(refused.code, 0, "{refused}");
    assert!(!refused.stdout.contains("/workload"), "{refused}");
}
