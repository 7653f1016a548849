//! What the process of a flood does.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use signet_api::{
    connect,
    pb::workload::{
        JwtsvidRequest, X509svidRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient,
    },
};
use tokio::{
    net::{TcpStream, UnixStream},
    task::JoinSet,
    time::sleep,
};

use crate::{
    client::{attest_with, open_stream, workload},
    usage,
};

/// Connections that are held.
const CONNECTIONS: usize = 10_000;
/// Calls that are open, on so many connections.
const CALLS: usize = 10_000;
const CARRIERS: usize = 50;
/// What asks again and again.
const LOOPS: usize = 60;
/// More supplementary groups than are accepted.
const GROUPS: u32 = 36_000;
/// Between two tries of what was refused.
const PAUSE: Duration = Duration::from_millis(5);

/// Floods `target` as the user `uid` until it is killed.
///
/// # Errors
/// When it cannot begin.
pub async fn flood(kind: &str, target: &str, uid: &str) -> anyhow::Result<()> {
    usage::raise_open_files()?;
    let uid: u32 = uid.parse().context("a user")?;
    let groups = if kind == "groups" { 200_000..200_000 + GROUPS } else { 0..0 };
    setgroups(&groups.map(Gid::from_raw).collect::<Vec<_>>()).context("setting groups")?;
    setgid(Gid::from_raw(uid)).context("setting the group")?;
    setuid(Uid::from_raw(uid)).context("setting the user")?;
    println!("flooding");
    let mut work = JoinSet::new();
    match kind {
        "connections" => {
            for _ in 0..CONNECTIONS {
                work.spawn(hold(PathBuf::from(target)));
            }
        }
        "calls" => {
            for _ in 0..CARRIERS {
                work.spawn(open(PathBuf::from(target)));
            }
        }
        "tokens" => {
            for at in 0..LOOPS {
                work.spawn(tokens(PathBuf::from(target), at));
            }
        }
        "groups" | "hashing" => {
            for _ in 0..LOOPS {
                work.spawn(fetch(PathBuf::from(target)));
            }
        }
        "attestations" | "handshakes" => {
            let port: u16 = target.parse().context("a port")?;
            for _ in 0..LOOPS {
                match kind {
                    "attestations" => work.spawn(attest(port)),
                    _ => work.spawn(shake(port)),
                };
            }
        }
        _ => bail!("no such flood: {kind}"),
    }
    while work.join_next().await.is_some() {}
    Ok(())
}

/// A connection on which nothing comes; another one when it is closed.
async fn hold(socket: PathBuf) {
    loop {
        if let Ok(stream) = UnixStream::connect(&socket).await {
            _ = stream.readable().await;
            let mut byte = [0];
            while matches!(stream.try_read(&mut byte), Ok(1)) {}
            while stream.readable().await.is_ok() && !matches!(stream.try_read(&mut byte), Ok(0)) {}
        }
        sleep(PAUSE).await;
    }
}

/// A connection with as many open calls as it may have.
async fn open(socket: PathBuf) {
    loop {
        let Ok(channel) = connect::unix(&socket).await else {
            sleep(PAUSE).await;
            continue;
        };
        let mut calls = JoinSet::new();
        for _ in 0..CALLS / CARRIERS {
            let mut client = SpiffeWorkloadApiClient::new(channel.clone());
            calls.spawn(async move {
                loop {
                    if let Ok(stream) = client.fetch_x509svid(workload(X509svidRequest {})).await {
                        let mut stream = stream.into_inner();
                        while let Ok(Some(_)) = stream.message().await {}
                    }
                    sleep(PAUSE).await;
                }
            });
        }
        while calls.join_next().await.is_some() {}
    }
}

/// JWT-SVIDs for audiences that nobody has asked for before.
async fn tokens(socket: PathBuf, at: usize) {
    let mut n = 0_u64;
    loop {
        let Ok(channel) = connect::unix(&socket).await else {
            sleep(PAUSE).await;
            continue;
        };
        let mut client = SpiffeWorkloadApiClient::new(channel);
        loop {
            n += 1;
            let audience = vec![format!("{at}-{n}")];
            let request = workload(JwtsvidRequest { audience, spiffe_id: String::new() });
            if client.fetch_jwtsvid(request).await.is_err() {
                break;
            }
        }
        sleep(PAUSE).await;
    }
}

/// X.509-SVIDs over new connections: each time the process is attested.
async fn fetch(socket: PathBuf) {
    loop {
        if open_stream(&socket).await.is_err() {
            sleep(PAUSE).await;
        }
    }
}

/// Attestation with tokens that are none.
async fn attest(port: u16) {
    loop {
        _ = attest_with(port, "guessed").await;
    }
}

/// Connections over which no handshake comes to its end.
async fn shake(port: u16) {
    loop {
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)).await {
            _ = stream.try_write(b"\x16\x03\x01");
            sleep(Duration::from_millis(100)).await;
        }
    }
}
