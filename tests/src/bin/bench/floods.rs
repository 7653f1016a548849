//! How long one user waits while another one floods the programs. As root, and when asked for
//! (`--only floods`): each flood is a process of its own under another user.

pub mod flood;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::json;
use signet_api::pb::spire::api::server::entry::v1::entry_client::EntryClient;
use tonic::transport::Channel;

use crate::{
    client::{admin, create, entry, join, open_stream},
    goals::{self, Report},
    programs::{NODE, Programs},
};

/// Who floods.
const FLOODER: u32 = 65_534;
/// Hashing on, and no limit on what is hashed.
const ATTESTOR: &str = "WorkloadAttestor \"unix\" {
    plugin_data { discover_workload_path = true workload_size_limit = 0 }
}";
/// The length of the executable that nobody can hash: 8 TiB, all of it holes.
const HUGE: u64 = 8 << 40;
/// How often the victim asks.
const ASKED: usize = 300;
/// How often an agent attests.
const ATTESTED: usize = 60;

/// Runs all of them.
pub async fn measure(programs: &mut Programs, report: &mut Report) -> anyhow::Result<()> {
    if !report.names("floods") {
        return Ok(());
    }
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "floods need root, to be another user");
    let mut entries = EntryClient::new(admin(programs).await?);
    let flooded = entry(NODE, "/flood", &format!("unix:uid:{FLOODER}"));
    create(&mut entries, vec![flooded]).await?;
    programs.restart_agent(ATTESTOR, Vec::new()).await?;
    let own = std::env::current_exe().context("this program")?;
    let socket = programs.agent_socket();
    let huge = programs.file("huge/flood", "");
    fs::copy(&own, &huge).context("copying this program")?;
    fs::set_permissions(&huge, fs::Permissions::from_mode(0o755))?;
    fs::File::options().write(true).open(&huge)?.set_len(HUGE).context("a file of 8 TiB")?;

    let alone = Times::of(ASKED, || fetch(&socket)).await?;
    for (kind, program) in [
        ("connections", &own),
        ("calls", &own),
        ("tokens", &own),
        ("groups", &own),
        ("hashing", &huge),
    ] {
        let flood = Flood::start(program, kind, &socket)?;
        let beside = Times::of(ASKED, || fetch(&socket)).await?;
        drop(flood);
        report.add(goals::FLOODED_FETCH, beside.p99 / alone.p99, &told(kind, &alone, &beside))?;
    }
    let channel = admin(programs).await?;
    let port = programs.port();
    let attest = || attest(&channel, port);
    let alone = Times::of(ATTESTED, attest).await?;
    for kind in ["attestations", "handshakes"] {
        let flood = Flood::start(&own, kind, Path::new(&port.to_string()))?;
        let beside = Times::of(ATTESTED, attest).await?;
        drop(flood);
        report.add(goals::FLOODED_ATTEST, beside.p99 / alone.p99, &told(kind, &alone, &beside))?;
    }
    Ok(())
}

/// Fetches as a client does that tries again where the socket has no room for a connection.
async fn fetch(socket: &Path) -> anyhow::Result<()> {
    loop {
        match open_stream(socket).await {
            Err(error) if has_no_room(&error) => tokio::time::sleep(Duration::from_millis(1)).await,
            other => return other.map(drop),
        }
    }
}

/// Whether more connections wait to be accepted than the socket keeps (`EAGAIN`).
fn has_no_room(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    causes.any(|cause| cause.kind() == std::io::ErrorKind::WouldBlock)
}

async fn attest(admin: &Channel, port: u16) -> anyhow::Result<()> {
    join((admin, port), NODE).await.map(drop)
}

fn told(flood: &str, alone: &Times, beside: &Times) -> serde_json::Value {
    json!({
        "flood": flood,
        "alone_ms": { "p50": alone.p50, "p99": alone.p99 },
        "beside_ms": { "p50": beside.p50, "p99": beside.p99 },
    })
}

/// Milliseconds.
struct Times {
    p50: f64,
    p99: f64,
}

impl Times {
    async fn of<F>(count: usize, ask: impl Fn() -> F) -> anyhow::Result<Self>
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let begun = Instant::now();
            ask().await?;
            times.push(begun.elapsed());
        }
        times.sort();
        let at = |part: usize| {
            let index = (times.len() * part / 100).min(times.len().saturating_sub(1));
            times.get(index).map_or(0.0, |time| (time.as_secs_f64() * 1e5).round() / 100.0)
        };
        Ok(Self { p50: at(50), p99: at(99) })
    }
}

/// A process that floods until it is dropped.
struct Flood(Child);

impl Flood {
    /// Starts it, and waits until it does its worst.
    fn start(program: &PathBuf, kind: &str, target: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.args(["flood", kind]).arg(target).arg(FLOODER.to_string());
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut flood = Self(child.with_context(|| format!("starting {}", program.display()))?);
        let said = flood.0.stdout.take().context("its output")?;
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(said), &mut line)?;
        anyhow::ensure!(line == "flooding\n", "the flood of {kind} ended: {line:?}");
        std::thread::sleep(Duration::from_secs(1));
        Ok(flood)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}
