//! Thousands of agents in one process, against servers that it starts: what `cargo xtask fleet` runs.
//!
//! Each agent is one task with a key, an X.509-SVID and an mTLS connection of its own. It attests by
//! a join token, follows its entries as a Signet agent does (push) or as SPIRE's (every five
//! seconds), has every SVID signed from a CSR with a new key, and renews its own. Nothing is
//! simulated on the server's side: the same runs against a stock SPIRE server.
//!
//! The result is one JSON document, and a page with plots that opens without a network.

mod agent;
mod measure;
mod report;
mod scenario;
mod servers;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Parser;

/// What is simulated.
#[derive(Debug, Clone, Parser)]
#[command(name = "cargo xtask fleet")]
pub struct Options {
    /// What happens: all of them in turn unless one is named
    #[arg(long, value_enum)]
    scenario: Vec<scenario::Scenario>,
    /// Agents
    #[arg(long, default_value_t = 200)]
    agents: usize,
    /// Entries of each agent
    #[arg(long, default_value_t = 10)]
    entries: usize,
    /// Servers on one store; more than one needs --postgres
    #[arg(long, default_value_t = 1)]
    servers: usize,
    /// How long the fleet is watched, seconds
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Entries created and deleted in a second, in the scenario `churn`
    #[arg(long, default_value_t = 50)]
    churn: usize,
    /// The server program; a SPIRE server is driven as SPIRE's agents do
    #[arg(long, value_name = "PROGRAM")]
    server: PathBuf,
    /// A PostgreSQL database, as its connection string; SQLite without
    #[arg(long, value_name = "CONNECTION")]
    postgres: Option<String>,
    /// Follow by asking every five seconds, as SPIRE's agents do, in place of push
    #[arg(long)]
    poll: bool,
    /// Where the JSON document and the page go
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Options {
    fn watched(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = runtime.context("a runtime").and_then(|runtime| runtime.block_on(run(options)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fleet: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> anyhow::Result<()> {
    measure::raise_open_files()?;
    let report = scenario::run(&options).await?;
    println!("{}", serde_json::to_string(&report)?);
    if let Some(dir) = &options.out {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let json = dir.join("fleet.json");
        std::fs::write(&json, serde_json::to_string_pretty(&report)?)
            .with_context(|| json.display().to_string())?;
        let page = dir.join("fleet.html");
        std::fs::write(&page, report.page()).with_context(|| page.display().to_string())?;
        eprintln!("{}\n{}", json.display(), page.display());
    }
    let failed: Vec<_> = report.failures().collect();
    anyhow::ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}
