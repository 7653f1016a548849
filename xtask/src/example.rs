//! `cargo xtask example NAME`: an example of docs/examples against the demo's server and agent.

use std::{fs, process::Command};

use anyhow::{Context, Result, bail};

use crate::{
    demo::{TRUST_DOMAIN, programs, programs::Programs},
    run::{bin_dir, cargo, root},
};

/// What `need` of the examples exits with.
const NOT_INSTALLED: i32 = 77;

/// Which example.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A directory of docs/examples; none lists them
    name: Option<String>,
}

/// Builds the programs, starts a server and an agent, and runs the example.
pub(crate) fn run(options: &Options) -> Result<()> {
    let examples = root().join("docs/examples");
    let mut names: Vec<String> = fs::read_dir(&examples)
        .with_context(|| format!("reading {}", examples.display()))?
        .flatten()
        .filter(|entry| entry.path().join("run.sh").is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    let Some(name) = &options.name else {
        println!("{}", names.join("\n"));
        return Ok(());
    };
    if !names.contains(name) {
        bail!("there is no example {name:?}; there are {}", names.join(", "));
    }
    let packages = ["-p", "signet-server", "-p", "signet-agent", "-p", "signet-helper"];
    crate::run::run(&mut cargo(&[&["build", "--locked", "--bins"], &packages[..]].concat()))?;
    let bin = bin_dir()?;
    let mut programs = Programs::new(bin.clone())?;
    programs.start_server()?;
    programs.start_agent()?;
    let work = programs.dir().join("work");
    fs::create_dir(&work).with_context(|| format!("making {}", work.display()))?;
    let cache = root().join("target/examples").join(name);
    fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
    let mut command = Command::new("sh");
    command
        .arg(examples.join(name).join("run.sh"))
        .env("SIGNET_SERVER", bin.join("signet-server"))
        .env("SIGNET_AGENT", bin.join("signet-agent"))
        .env("SIGNET_HELPER", bin.join("signet-helper"))
        .env("SERVER_SOCKET", programs.dir().join("server/api.sock"))
        .env("AGENT_SOCKET", programs.dir().join("pub/api.sock"))
        .env("TRUST_DOMAIN", TRUST_DOMAIN)
        .env("NODE_ID", format!("spiffe://{TRUST_DOMAIN}{}", programs::NODE))
        .env("WORK", &work)
        .env("CACHE", &cache);
    let status = command.status().context("sh")?;
    programs.stop()?;
    match status.code() {
        Some(0) => Ok(()),
        Some(NOT_INSTALLED) => bail!("the example needs what is not installed"),
        _ => bail!("the example failed ({status})"),
    }
}
