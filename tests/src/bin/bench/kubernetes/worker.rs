//! The one process of a pod: a program of its own that asks for its SVID when it is told to.

use std::{
    io::{Read, Write},
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::Context;
use nix::time::{ClockId, clock_gettime};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::pods::Pod;
use crate::client::open_stream;

/// Between two attempts of a process that has no identity yet.
const PAUSE: Duration = Duration::from_millis(50);

/// A process that waits, asks, and holds its stream.
pub struct Worker {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Starts one in a pod; it does nothing yet.
    ///
    /// # Errors
    /// When it cannot be started or put there.
    pub async fn start(pod: &Pod, socket: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("the path of this program")?;
        let mut child = Command::new(program)
            .arg("worker")
            .arg(socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting a worker")?;
        pod.take_in(child.id().context("a worker that has ended")?)?;
        let input = child.stdin.take().context("its input")?;
        let output = BufReader::new(child.stdout.take().context("its output")?).lines();
        Ok(Self { _child: child, input, output })
    }

    /// Tells it to ask.
    ///
    /// # Errors
    /// When it is gone.
    pub async fn go(&mut self) -> anyhow::Result<()> {
        self.input.write_all(b"\n").await.context("telling a worker to begin")
    }

    /// When it had its SVID, on the clock of [`now`].
    ///
    /// # Errors
    /// When it fails or takes longer than `patience`.
    pub async fn svid(&mut self, patience: Duration) -> anyhow::Result<Duration> {
        let line = tokio::time::timeout(patience, self.output.next_line());
        let line = line.await.context("a worker has no SVID")??.context("a worker has ended")?;
        let nanos = line.parse().with_context(|| format!("a worker failed: {line}"))?;
        Ok(Duration::from_nanos(nanos))
    }
}

/// The clock that all processes share.
pub fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}

/// What the process does: waits for a line, asks until it has an SVID, says when, and holds the
/// stream until its input ends.
///
/// # Errors
/// When it gets no SVID.
pub async fn run(socket: &Path) -> anyhow::Result<()> {
    let mut begin = [0];
    std::io::stdin().read_exact(&mut begin).context("being told to begin")?;
    let end = now() + Duration::from_secs(60);
    let held = loop {
        match open_stream(socket).await {
            Ok((stream, first)) => {
                anyhow::ensure!(first.svids.len() == 1, "{} SVIDs", first.svids.len());
                break stream;
            }
            // Its entry may be on its way.
            Err(error) if now() < end => drop(error),
            Err(error) => {
                println!("{error:#}");
                return Err(error);
            }
        }
        tokio::time::sleep(PAUSE).await;
    };
    println!("{}", now().as_nanos());
    std::io::stdout().flush()?;
    // Elsewhere: the stream is asked from time to time whether it still lives.
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    ended.await.context("waiting for the end")??;
    drop(held);
    Ok(())
}
