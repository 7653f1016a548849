//! Callers that do what no workload should.

use std::{
    io::{IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    os::{fd::AsFd as _, fd::OwnedFd, unix::net::UnixStream},
    process::{Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use signet_api::{
    connect,
    pb::workload::{
        JwtsvidRequest, ValidateJwtsvidRequest, X509svidRequest,
        spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
};
use tonic::Code;

use crate::fixture::{Fixture, PATIENCE, id, next, workload};

const SOCKET: &str = "SIGNET_TEST_LENDER_SOCKET";

/// Not a test of its own: a process that connects to the agent and lends its connection.
#[test]
fn lender_process() {
    let Ok(socket) = std::env::var(SOCKET) else { return };
    let to_agent = UnixStream::connect(socket).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [to_agent.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    // Standard input is a socket to the borrower.
    let stdin = std::io::stdin();
    sendmsg(stdin.as_fd(), &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
    // Lives until the borrower hangs up or kills it.
    let _ = stdin.lock().read(&mut [0]);
}

fn borrow(from: &UnixStream) -> UnixStream {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .unwrap();
    let lent = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    UnixStream::from(lent.unwrap())
}

#[tokio::test]
async fn a_stream_ends_with_the_process_that_connected_whoever_holds_its_socket() {
    let mut fixture = Fixture::new().await;
    fixture.options.unix = "discover_workload_path = true".into();
    let lender = fixture.dir.path().join("lender");
    std::fs::copy(std::env::current_exe().unwrap(), &lender).unwrap();
    {
        let mut state = fixture.server.lock();
        state.entries.clear();
        state.add_entry("lender", &[&format!("unix:path:{}", lender.display())]);
    }
    let agent = fixture.serving().await;
    let (mine, its) = UnixStream::pair().unwrap();
    let mut process = Command::new(&lender)
        .args(["--exact", "intruders::lender_process", "--nocapture"])
        .env(SOCKET, &agent.socket)
        .stdin(OwnedFd::from(its))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let (mine, lent) = tokio::task::spawn_blocking(move || {
        let lent = borrow(&mine);
        (mine, lent)
    })
    .await
    .unwrap();
    lent.set_nonblocking(true).unwrap();
    let lent = Mutex::new(Some(tokio::net::UnixStream::from_std(lent).unwrap()));
    let channel = connect::over("http://localhost", move || {
        let stream = lent.lock().unwrap().take();
        async move { stream.ok_or_else(|| std::io::ErrorKind::NotConnected.into()) }
    })
    .await
    .unwrap();
    let mut client = SpiffeWorkloadApiClient::new(channel);
    let mut stream =
        client.fetch_x509svid(workload(X509svidRequest {})).await.unwrap().into_inner();
    // The identity is that of the process that connected ...
    assert_eq!(next(&mut stream).await.unwrap(), [id("lender")]);
    // ... and is gone with it, although the socket is open here.
    process.kill().unwrap();
    process.wait().unwrap();
    next(&mut stream).await.unwrap_err();
    drop(mine);
    agent.stop().await;
}

#[tokio::test]
async fn garbage_and_silence_disturb_nobody() {
    let fixture = Fixture::new().await;
    let agent = fixture.serving().await;
    let mut silent = Vec::new();
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 4096],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff",
    ] {
        let mut stream = UnixStream::connect(&agent.socket).unwrap();
        stream.write_all(garbage).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // Whatever the agent says, it ends the connection or waits; it does not fall.
        silent.push(stream);
    }
    for _ in 0..50 {
        silent.push(UnixStream::connect(&agent.socket).unwrap());
    }
    assert_eq!(agent.fetch().await.unwrap(), [id("w1")]);
    agent.stop().await;
}

#[tokio::test]
async fn oversized_requests_are_refused() {
    let fixture = Fixture::new().await;
    let agent = fixture.serving().await;
    let mut client = agent.client().await;
    let request = ValidateJwtsvidRequest { audience: "a".into(), svid: "x".repeat(1 << 20) };
    let refusal = client.validate_jwtsvid(workload(request)).await.unwrap_err();
    assert!(matches!(refusal.code(), Code::OutOfRange | Code::ResourceExhausted), "{refusal}");
    let request = JwtsvidRequest { audience: vec!["a".repeat(100_000)], ..Default::default() };
    let refusal = client.fetch_jwtsvid(workload(request)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument);
    let request = JwtsvidRequest { audience: vec!["a".into()], spiffe_id: "spiffe://".into() };
    let refusal = client.fetch_jwtsvid(workload(request)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument);
    assert_eq!(agent.fetch().await.unwrap(), [id("w1")]);
    agent.stop().await;
}

#[tokio::test]
async fn a_stopped_agent_waits_for_nobody() {
    let fixture = Fixture::new().await;
    let agent = fixture.serving().await;
    let silent = UnixStream::connect(&agent.socket).unwrap();
    let mut stream = agent.x509_stream().await.unwrap();
    next(&mut stream).await.unwrap();
    let begun = tokio::time::Instant::now();
    agent.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    drop(silent);
}
