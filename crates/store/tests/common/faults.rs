//! A proxy before PostgreSQL that does what other databases, failovers and bad networks do.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// What happens to a COMMIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not committed, and says so with this code.
    Refused(&'static str),
    /// It is committed, and answered with this code.
    Done(&'static str),
    /// It is committed, and the connection is cut before the answer.
    CutAfter,
    /// It is not committed, and the connection is cut.
    CutBefore,
}

/// What a COMMIT meets, in turn.
pub const FAULTS: &[Option<Fault>] = &[
    None,
    Some(Fault::Refused("40001")),
    None,
    Some(Fault::CutAfter),
    None,
    Some(Fault::Refused("40P01")),
    None,
    Some(Fault::Done("40003")),
    None,
    Some(Fault::Refused("40003")),
    None,
    Some(Fault::Refused("57P01")),
    None,
    Some(Fault::CutBefore),
    None,
    Some(Fault::Refused("25006")),
    None,
    Some(Fault::Done("57P01")),
];

/// What becomes of the answer to one message.
enum Answer {
    Pass,
    Replace(&'static str),
    Cut,
}

/// Starts the proxy before a port; answers its own. It refuses LISTEN, makes advisory locks do
/// nothing, and lets COMMIT meet `faults` in turn.
pub async fn before(port: u16, faults: &'static [Option<Fault>]) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    let commits = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&commits);
    // The runtime of the test ends it.
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tokio::spawn(relay(client, server, faults, Arc::clone(&count)));
        }
    });
    (own, commits)
}

async fn relay(
    client: TcpStream,
    server: TcpStream,
    faults: &'static [Option<Fault>],
    commits: Arc<AtomicUsize>,
) -> Option<()> {
    client.set_nodelay(true).ok()?;
    server.set_nodelay(true).ok()?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let answers = Arc::new(Mutex::new(VecDeque::from([Answer::Pass])));
    let expected = Arc::clone(&answers);
    let back = tokio::spawn(async move {
        let mut gathered = Vec::new();
        loop {
            let (kind, body) = message(&mut from_server).await?;
            append(&mut gathered, kind, &body);
            if kind != b'Z' {
                // A long answer is passed on as it comes, unless it may be replaced.
                if matches!(expected.lock().unwrap().front(), Some(Answer::Pass)) {
                    to_client.write_all(&std::mem::take(&mut gathered)).await.ok()?;
                }
                continue;
            }
            let answer = expected.lock().unwrap().pop_front().unwrap_or(Answer::Pass);
            match answer {
                Answer::Pass => to_client.write_all(&gathered).await.ok()?,
                Answer::Cut => return Some(()),
                Answer::Replace(code) => {
                    let mut said = Vec::new();
                    let fields = format!("SERROR\0VERROR\0C{code}\0Minjected\0\0");
                    append(&mut said, b'E', fields.as_bytes());
                    append(&mut said, b'Z', b"I");
                    to_client.write_all(&said).await.ok()?;
                    if code == "57P01" {
                        return Some(());
                    }
                }
            }
            gathered.clear();
        }
    });
    let forth = async {
        let mut length = [0; 4];
        from_client.read_exact(&mut length).await.ok()?;
        let mut startup = vec![0; u32::from_be_bytes(length) as usize - 4];
        from_client.read_exact(&mut startup).await.ok()?;
        to_server.write_all(&length).await.ok()?;
        to_server.write_all(&startup).await.ok()?;
        loop {
            let (kind, mut body) = message(&mut from_client).await?;
            let mut answer = Answer::Pass;
            if kind == b'Q' {
                let text = String::from_utf8_lossy(&body[..body.len() - 1]).into_owned();
                if text.starts_with("LISTEN") {
                    body = b"SELECT 1\0".to_vec();
                    answer = Answer::Replace("0A000");
                } else if text.contains("pg_advisory_xact_lock") {
                    body = text.replace("pg_advisory_xact_lock", "abs").into_bytes();
                    body.push(0);
                } else if text.ends_with("COMMIT") {
                    let number = commits.fetch_add(1, Ordering::Relaxed);
                    let fault = faults.get(number % faults.len().max(1)).copied().flatten();
                    let undone = text.replace("COMMIT", "ROLLBACK");
                    let undo = |body: &mut Vec<u8>| {
                        *body = undone.clone().into_bytes();
                        body.push(0);
                    };
                    match fault {
                        None => {}
                        Some(Fault::Refused(code)) => {
                            undo(&mut body);
                            answer = Answer::Replace(code);
                        }
                        Some(Fault::Done(code)) => answer = Answer::Replace(code),
                        Some(Fault::CutAfter) => answer = Answer::Cut,
                        Some(Fault::CutBefore) => {
                            undo(&mut body);
                            answer = Answer::Cut;
                        }
                    }
                }
            }
            if kind == b'Q' || kind == b'S' {
                answers.lock().unwrap().push_back(answer);
            }
            let mut sent = Vec::new();
            append(&mut sent, kind, &body);
            to_server.write_all(&sent).await.ok()?;
        }
    };
    tokio::select! {
        ended = forth => ended,
        ended = back => ended.ok().flatten(),
    }
}

async fn message<R: tokio::io::AsyncRead + Unpin>(from: &mut R) -> Option<(u8, Vec<u8>)> {
    let kind = from.read_u8().await.ok()?;
    let length = from.read_u32().await.ok()?;
    let mut body = vec![0; length as usize - 4];
    from.read_exact(&mut body).await.ok()?;
    Some((kind, body))
}

fn append(to: &mut Vec<u8>, kind: u8, body: &[u8]) {
    to.push(kind);
    to.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    to.extend(body);
}
