//! `cargo xtask demo`: one machine, one server, one agent, one workload: this very program's child.

pub(crate) mod programs;
mod zero_trust;

use std::{
    os::unix::fs::MetadataExt,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::run::{bin_dir, cargo};
use programs::Programs;

pub(crate) use zero_trust::run as zero_trust;

pub(crate) const TRUST_DOMAIN: &str = "demo.test";
/// The `iss` of the demo's JWT-SVIDs.
const ISSUER: &str = "https://oidc.demo.test";
/// Seconds; short, so that the rotation comes soon.
const LIFETIME: u32 = 20;

/// Runs the demo from start to end and removes everything it made.
pub(crate) fn run() -> anyhow::Result<()> {
    step("Building signet-server and signet-agent");
    let args = ["build", "--locked", "-p", "signet-server", "-p", "signet-agent", "--bins"];
    crate::run::run(&mut cargo(&args))?;
    let mut programs = Programs::new(bin_dir()?)?;

    step("Starting the server with an embedded store");
    programs.start_server()?;
    say(&format!("trust domain {TRUST_DOMAIN}, all state in {}", programs.dir().display()));

    step("Starting the agent, which joins with a one-time token");
    programs.start_agent()?;

    step("Registering you as a workload");
    let uid = std::fs::metadata("/proc/self").context("reading /proc/self")?.uid();
    let entry = register(&programs, "/you", &format!("unix:uid:{uid}"))?;

    step("Fetching an X.509-SVID over the Workload API");
    let first = eventually("an X.509-SVID", || fetch(&programs))?;
    print!("{}", programs.agent_says(&["api", "fetch", "x509"])?);

    step("Fetching a JWT-SVID for the audience \"demo\"");
    print!("{}", programs.agent_says(&["api", "fetch", "jwt", "-audience", "demo"])?);

    step(&format!("Waiting for a rotation (this SVID lives {LIFETIME} seconds)"));
    eventually("a new X.509-SVID", || Ok(fetch(&programs)?.filter(|svid| svid != &first)))?;
    print!("{}", programs.agent_says(&["api", "fetch", "x509"])?);

    step("Deleting the registration: the next request is refused");
    programs.server_says(&["entry", "delete", "-entryID", &entry])?;
    register(&programs, "/somebody-else", &format!("unix:uid:{}", uid.wrapping_add(1)))?;
    let refusal = eventually("a refusal", || programs.refusal(&["api", "fetch", "x509"]))?;
    say(refusal.trim());

    step("Asking the agent why");
    let pid = std::process::id().to_string();
    print!("{}", programs.agent_admin_says(&["explain", "-pid", &pid])?);

    step("Cleaning up");
    programs.stop()?;
    say("nothing is left running, nothing is left on disk");
    Ok(())
}

fn step(text: &str) {
    println!("\n== {text}");
}

fn say(text: &str) {
    println!("   {text}");
}

/// Creates an entry behind the agent and returns its ID.
fn register(programs: &Programs, path: &str, selector: &str) -> anyhow::Result<String> {
    let ttl = LIFETIME.to_string();
    let id = format!("spiffe://{TRUST_DOMAIN}{path}");
    let parent = format!("spiffe://{TRUST_DOMAIN}{}", programs::NODE);
    let args = ["entry", "create", "-parentID", &parent, "-spiffeID", &id, "-selector", selector];
    say(&format!("signet-server {} -x509SVIDTTL {ttl}", args.join(" ")));
    let more = ["-x509SVIDTTL", &ttl, "-output", "json"];
    let made = programs.server_says(&[&args[..], &more[..]].concat())?;
    let made: Value = serde_json::from_str(&made)?;
    let id = made.pointer("/results/0/entry/id").and_then(Value::as_str).context("no entry ID")?;
    Ok(id.to_owned())
}

/// The X.509-SVID that this user gets now (base64), if any.
fn fetch(programs: &Programs) -> anyhow::Result<Option<String>> {
    let Ok(answer) = programs.agent_says(&["api", "fetch", "x509", "-output", "json"]) else {
        return Ok(None);
    };
    let answer: Value = serde_json::from_str(&answer)?;
    Ok(answer.pointer("/svids/0/x509_svid").and_then(Value::as_str).map(str::to_owned))
}

/// Asks until there is an answer, for at most a minute.
fn eventually<T>(
    what: &str,
    mut ask: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("no {what} within a minute");
}
