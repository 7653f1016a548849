//! `signet-server server list` and `server retire`: straight from the database, so that they also
//! work when no server does.

use std::process::ExitCode;

use signet_base::SystemClock;
use signet_daemon::{cli::Output, program::Program};
use signet_store::{ServerRecord, Store};
use signet_time::UnixTime;

use super::HEARTBEAT;
use crate::{
    config::Config,
    offline::{self, ConfigFlags},
};

/// `signet-server server …`.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// List the servers that share the registration database
    List(ListFlags),
    /// Say that a server is gone for good
    #[command(long_about = "Say that a server is gone for good.\n\n\
        Its authorities leave the trust bundle once the last SVID that it signed has expired; one \
        of the other servers sees to that. A server that starts again is not retired any more.")]
    Retire(RetireFlags),
}

/// Flags of `server list`.
#[derive(Clone, Debug, clap::Args)]
pub struct ListFlags {
    /// Where the database is.
    #[command(flatten)]
    pub config: ConfigFlags,
    /// Form of what is printed
    #[arg(long = "output", value_name = "FORMAT", value_enum, default_value_t)]
    pub output: Output,
}

/// Flags of `server retire`.
#[derive(Clone, Debug, clap::Args)]
pub struct RetireFlags {
    /// ID of the server, as `server list` shows it
    #[arg(long = "id", value_name = "ID")]
    pub id: String,
    /// Also if it was seen a moment ago
    #[arg(long = "force")]
    pub force: bool,
    /// Where the database is.
    #[command(flatten)]
    pub config: ConfigFlags,
}

/// Runs the command and prints what came of it.
pub fn run(program: Program, command: &Command) -> ExitCode {
    let flags = match command {
        Command::List(flags) => &flags.config,
        Command::Retire(flags) => &flags.config,
    };
    let now = SystemClock::shared().unix();
    offline::run(
        program,
        flags,
        async |config: &Config| done(config, command, now).await,
        |_| false,
    )
}

async fn done(config: &Config, command: &Command, now: UnixTime) -> anyhow::Result<String> {
    let store = config.plugins.data_store.settings.open(config.store_rules(), None).await?;
    let text = match command {
        Command::List(flags) => list(&store, flags.output, now).await,
        Command::Retire(flags) => retire(&store, flags, now).await,
    };
    store.close().await;
    text
}

async fn list(store: &Store, output: Output, now: UnixTime) -> anyhow::Result<String> {
    let servers = store.servers().await?;
    if let Output::Json = output {
        let all: Vec<_> = servers.iter().map(json).collect();
        return Ok(format!("{}\n", serde_json::json!({ "servers": all })));
    }
    let mut text = match servers.len() {
        1 => "Found 1 server\n".to_owned(),
        count => format!("Found {count} servers\n"),
    };
    for server in &servers {
        let state = match (server.retired_at, is_alive(server, now)) {
            (UnixTime::EPOCH, true) => "running",
            (UnixTime::EPOCH, false) => "not seen lately",
            _ => "retired",
        };
        text.push_str(&format!(
            "\nServer ID   : {}\nHost        : {}\nVersion     : {}\nState       : {state}\n\
             Last seen   : {} s ago\n",
            server.id,
            server.host,
            server.version,
            (now - server.seen_at).max(0),
        ));
    }
    Ok(text)
}

fn json(server: &ServerRecord) -> serde_json::Value {
    serde_json::json!({
        "id": server.id,
        "host": server.host,
        "version": server.version,
        "started_at": server.started_at,
        "seen_at": server.seen_at,
        "issued_until": server.issued_until,
        "retired_at": server.retired_at,
    })
}

/// Whether a server was heard of so lately that it most likely runs.
fn is_alive(server: &ServerRecord, now: UnixTime) -> bool {
    let silence = i64::try_from((HEARTBEAT * 2).as_secs()).unwrap_or(i64::MAX);
    now - server.seen_at <= silence
}

async fn retire(store: &Store, flags: &RetireFlags, now: UnixTime) -> anyhow::Result<String> {
    let servers = store.servers().await?;
    let Some(server) = servers.iter().find(|server| server.id == flags.id) else {
        anyhow::bail!("there is no server {}: see `server list`", flags.id);
    };
    if is_alive(server, now) && !flags.force {
        anyhow::bail!(
            "server {} on {} was seen {} s ago: stop it first (-force retires it all the same)",
            server.id,
            server.host,
            (now - server.seen_at).max(0),
        );
    }
    store.retire_server(&flags.id, now).await?;
    Ok(format!(
        "Server {} is retired. Its authorities leave the bundle when what it signed has expired.\n",
        flags.id
    ))
}
