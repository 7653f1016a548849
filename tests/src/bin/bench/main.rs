//! Measures the built programs: what `cargo xtask bench` runs.
//!
//! One JSON line for each measure: `{"measure", "value", "unit", "goal", "spire", "met"}`, where
//! `spire` is what SPIRE 1.15.3 needed for the same work on the same kind of machine. CPU is what
//! the measured process itself used, by its own clock, divided by the operations done.

mod agent;
mod client;
mod floods;
mod goals;
mod kubernetes;
mod machine;
mod programs;
mod sds;
mod server;
mod usage;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, bail};

use crate::{goals::Report, programs::Programs};

/// How much work is done.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Workload API calls over new connections.
    pub fetches: usize,
    /// Workload API calls for cached JWT-SVIDs.
    pub tokens: usize,
    /// Streams held open at once.
    pub streams: usize,
    /// Entries created and deleted under an open stream.
    pub changes: usize,
    /// X.509-SVIDs signed, in batches of 50.
    pub signed: usize,
    /// JWT-SVIDs signed.
    pub signed_tokens: usize,
    /// Agents attested.
    pub attested: usize,
    /// Entries in the store for the measures of scale.
    pub entries: usize,
    /// Entries created for each measured batch size on top of those.
    pub created: usize,
    /// Seconds of doing nothing.
    pub idle: u64,
    /// Pods that start one after the other.
    pub pods: usize,
    /// Proxies with three SDS streams each.
    pub proxies: usize,
}

const FULL: Sizes = Sizes {
    fetches: 4000,
    tokens: 10_000,
    streams: 1000,
    changes: 100,
    signed: 10_000,
    signed_tokens: 5000,
    attested: 600,
    entries: 50_000,
    created: 5000,
    idle: 30,
    pods: 30,
    proxies: 1000,
};

const SMALL: Sizes = Sizes {
    fetches: 500,
    tokens: 1000,
    streams: 1000,
    changes: 20,
    signed: 2000,
    signed_tokens: 500,
    attested: 240,
    entries: 10_000,
    created: 2000,
    idle: 10,
    pods: 8,
    proxies: 300,
};

struct Options {
    small: bool,
    /// Parts that are run; all when empty.
    only: Vec<String>,
    server: PathBuf,
    agent: PathBuf,
}

fn options() -> anyhow::Result<Options> {
    let mut small = false;
    let mut only = Vec::new();
    let (mut server, mut agent) = (None, None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--small" => small = true,
            "--only" => only.push(value()?),
            "--server" => server = Some(PathBuf::from(value()?)),
            "--agent" => agent = Some(PathBuf::from(value()?)),
            _ => bail!(
                "usage: bench [--small] [--only idle|fetch|jwt|propagate|streams|sign|attest|scale|\
                 k8s_first_svid|k8s_burst_200|k8s_idle_110|floods|sds]... \
                 [--server PROGRAM] [--agent PROGRAM]"
            ),
        }
    }
    Ok(Options {
        small,
        only,
        server: server.unwrap_or_else(e2e::bins::server),
        agent: agent.unwrap_or_else(e2e::bins::agent),
    })
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut builder = match words[..] {
        ["worker" | "flood", ..] => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let done = builder.enable_all().build().context("a runtime").and_then(|runtime| {
        runtime.block_on(async {
            match words[..] {
                ["worker", socket] => kubernetes::work(socket.as_ref()).await.map(|()| true),
                ["flood", kind, target, uid] => {
                    floods::flood::flood(kind, target, uid).await.map(|()| true)
                }
                _ => run().await,
            }
        })
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:?}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<bool> {
    let options = options()?;
    let sizes = if options.small { SMALL } else { FULL };
    usage::raise_open_files()?;
    let mut report = Report::new(options.small, options.only);
    // Floods meet the server as it is installed.
    let limits = report.names("floods");
    let mut programs = Programs::start(&options.server, &options.agent, limits).await?;
    agent::measure(&mut programs, sizes, &mut report).await?;
    server::measure(&mut programs, sizes, &mut report).await?;
    kubernetes::measure(&mut programs, sizes, &mut report).await?;
    sds::measure(&mut programs, sizes.proxies, &mut report).await?;
    floods::measure(&mut programs, &mut report).await?;
    programs.stop();
    report.finish()
}
