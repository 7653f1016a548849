//! What SDS costs: a thousand proxies with three streams each, at the agent and at the plainest server
//! that could serve them. As root, and when asked for (`--only sds`): one user may hold no more than half
//! of what a socket has room for, so the proxies are of several.

use std::{
    io::{BufRead as _, BufReader, Lines, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::Context;
use serde_json::json;
use signet_api::pb::spire::api::{
    server::entry::v1::{BatchUpdateEntryRequest, entry_client::EntryClient},
    types::{Entry, EntryMask},
};
use tokio::net::UnixStream;

use crate::{
    client::{admin, create, entry},
    goals::{self, Report},
    programs::{NODE, Programs},
    usage,
};

/// Whose proxies these are.
const USERS: [u32; 3] = [65_531, 65_532, 65_533];
/// How many streams each proxy has: as many as Envoy has for two certificates and a bundle.
const STREAMS: usize = 3;
/// How often all certificates are renewed.
const ROUNDS: u32 = 10;
/// How long the plain server may take to listen.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a server used.
struct Used {
    /// Resident memory for the streams, MB.
    memory: f64,
    /// CPU for opening a stream, ms.
    open: f64,
    /// CPU for an answer to a renewal and its acceptance, ms: in the cheapest round, for the machine
    /// may have other things to do.
    answer: f64,
}

/// Runs all of them.
pub async fn measure(
    programs: &mut Programs,
    proxies: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    if !report.names("sds") {
        return Ok(());
    }
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "sds needs root, to be several users");
    let own = std::env::current_exe().context("this program")?;
    let load = own.with_file_name("sds-load");
    let mut entries = EntryClient::new(admin(programs).await?);
    let of_users =
        USERS.map(|uid| entry(NODE, &format!("/proxy{uid}"), &format!("unix:uid:{uid}")));
    let ids = create(&mut entries, of_users.to_vec()).await?;

    let bare = {
        let socket = programs.file("sds/bare.sock", "");
        std::fs::remove_file(&socket).context("the place of a socket")?;
        let mut command = Command::new(&load);
        command.arg("bare").arg(&socket).stdin(Stdio::piped());
        let mut server = Ended(command.spawn().context("starting sds-load")?);
        listening(&socket).await?;
        let everyone = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(&socket, everyone).context("opening a socket to everyone")?;
        let mut trigger = server.0.stdin.take().context("its input")?;
        let pid = server.0.id();
        let mut crowd = Crowd::start(&load, &socket, pid, proxies)?;
        for _ in 0..ROUNDS {
            let before = usage::cpu(pid)?;
            trigger.write_all(b"again\n").context("telling the plain server")?;
            crowd.answered(before)?;
        }
        crowd.used
    };

    let pid = programs.agent_pid()?;
    let mut crowd = Crowd::start(&load, &programs.agent_socket(), pid, proxies)?;
    for round in 0..ROUNDS {
        let changed = ids.iter().map(|id| Entry {
            id: id.clone(),
            x509_svid_ttl: 1800 + i32::try_from(round).unwrap_or_default(),
            ..Entry::default()
        });
        let request = BatchUpdateEntryRequest {
            entries: changed.collect(),
            input_mask: Some(EntryMask { x509_svid_ttl: true, ..EntryMask::default() }),
            output_mask: None,
        };
        let before = usage::cpu(pid)?;
        entries.batch_update_entry(request).await?;
        crowd.answered(before)?;
    }
    let agent = crowd.used;

    let more = json!({ "proxies": proxies, "agent": agent.memory, "bare": bare.memory });
    report.add(goals::SDS_MEMORY, agent.memory / bare.memory, &more)?;
    let more = json!({
        "proxies": proxies, "agent": agent.answer, "bare": bare.answer,
        "open_ms": { "agent": agent.open, "bare": bare.open },
    });
    report.add(goals::SDS_ANSWER, agent.answer / bare.answer, &more)?;
    Ok(())
}

async fn listening(socket: &Path) -> anyhow::Result<()> {
    let connected = async {
        while UnixStream::connect(socket).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, connected).await.context("the plain server does not listen")
}

/// All proxies of a server, and what they made it use.
struct Crowd {
    loads: Vec<(Lines<BufReader<ChildStdout>>, Ended)>,
    pid: u32,
    streams: f64,
    used: Used,
}

impl Crowd {
    /// Starts them, and waits until each stream has its first answer.
    fn start(load: &Path, socket: &PathBuf, pid: u32, proxies: usize) -> anyhow::Result<Self> {
        let each = proxies.div_ceil(USERS.len());
        let streams = (each * USERS.len() * STREAMS) as f64;
        let (cpu, memory) = (usage::cpu(pid)?, usage::rss(pid)?);
        let mut loads = Vec::new();
        for uid in USERS {
            let mut command = Command::new(load);
            command.arg("load").arg(socket);
            command.args([each.to_string(), STREAMS.to_string(), uid.to_string()]);
            let mut child = command.stdout(Stdio::piped()).spawn().context("starting sds-load")?;
            let said = child.stdout.take().context("its output")?;
            loads.push((BufReader::new(said).lines(), Ended(child)));
        }
        let used = Used { memory: 0.0, open: 0.0, answer: f64::INFINITY };
        let mut crowd = Self { loads, pid, streams, used };
        crowd.heard()?;
        crowd.used.open = (usage::cpu(pid)? - cpu).as_secs_f64() * 1e3 / streams;
        crowd.used.memory = usage::rss(pid)? - memory;
        Ok(crowd)
    }

    /// Waits until each stream has had one more answer to what was done since the CPU time was `before`.
    fn answered(&mut self, before: Duration) -> anyhow::Result<()> {
        self.heard()?;
        // Acceptances may still be under way.
        std::thread::sleep(Duration::from_millis(500));
        let cost = (usage::cpu(self.pid)? - before).as_secs_f64() * 1e3 / self.streams;
        self.used.answer = self.used.answer.min(cost);
        Ok(())
    }

    fn heard(&mut self) -> anyhow::Result<()> {
        for (lines, _) in &mut self.loads {
            lines.next().context("sds-load ended")?.context("reading from sds-load")?;
        }
        Ok(())
    }
}

/// A process that ends with this.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}
