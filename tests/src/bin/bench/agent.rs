//! Measures of the agent.

use std::time::{Duration, Instant};

use anyhow::Context;
use e2e::node::caller;
use serde_json::json;
use signet_api::{
    connect,
    pb::{
        spire::api::server::entry::v1::{BatchDeleteEntryRequest, entry_client::EntryClient},
        workload::{
            JwtsvidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient,
        },
    },
};
use tonic::Streaming;

use crate::{
    Sizes,
    client::{CONCURRENCY, admin, cheapest, create, entry, open_stream, parallel, workload},
    goals::{self, Report},
    programs::{NODE, Programs, TRUST_DOMAIN},
    usage,
};

/// How long an update of a stream may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs all of them.
pub async fn measure(
    programs: &mut Programs,
    sizes: Sizes,
    report: &mut Report,
) -> anyhow::Result<()> {
    let pid = programs.agent_pid()?;
    if report.wants("idle") {
        report.add(goals::AGENT_RSS_IDLE, usage::rss(pid)?, &json!({ "entries": 2 }))?;
        let server = programs.server_pid()?;
        report.add(goals::SERVER_RSS_IDLE, usage::rss(server)?, &json!({ "entries": 2 }))?;
    }
    if report.wants("fetch") {
        fetches(programs, pid, sizes.fetches, report).await?;
    }
    if report.wants("jwt") {
        tokens(programs, pid, sizes.tokens, report).await?;
    }
    if report.wants("propagate") {
        changes(programs, sizes.changes, report).await?;
    }
    if report.wants("streams") {
        streams(programs, pid, sizes.streams, report).await?;
    }
    Ok(())
}

async fn fetches(
    programs: &Programs,
    pid: u32,
    count: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let socket = programs.agent_socket();
    let fetch = move |_| {
        let socket = socket.clone();
        async move { open_stream(&socket).await.map(drop) }
    };
    parallel(count / 10, fetch.clone()).await?;
    let cost = cheapest(pid, count, fetch).await?;
    let more = json!({ "operations": count, "rate": cost.rate });
    report.add(goals::AGENT_FETCH, cost.cpu_ms, &more)?;
    Ok(())
}

async fn tokens(
    programs: &Programs,
    pid: u32,
    count: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut channels = Vec::new();
    for _ in 0..CONCURRENCY {
        channels.push(connect::unix(programs.agent_socket()).await?);
    }
    let fetch = move |at: usize| {
        let channel = channels.get(at % CONCURRENCY).cloned();
        async move {
            let audience = vec![format!("audience{}", at % 10)];
            let request = workload(JwtsvidRequest { audience, spiffe_id: String::new() });
            let channel = channel.context("a channel")?;
            let answer = SpiffeWorkloadApiClient::new(channel).fetch_jwtsvid(request).await?;
            anyhow::ensure!(!answer.into_inner().svids.is_empty(), "no JWT-SVID");
            Ok(())
        }
    };
    parallel(100, fetch.clone()).await?;
    let cost = cheapest(pid, count, fetch).await?;
    let more = json!({ "operations": count, "rate": cost.rate });
    report.add(goals::AGENT_JWT, cost.cpu_ms, &more)?;
    Ok(())
}

async fn streams(
    programs: &Programs,
    pid: u32,
    count: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        held.push(open_stream(&programs.agent_socket()).await?.0);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    report.add(goals::AGENT_RSS_STREAMS, usage::rss(pid)?, &json!({ "streams": held.len() }))?;
    Ok(())
}

async fn changes(programs: &Programs, count: usize, report: &mut Report) -> anyhow::Result<()> {
    let mut entries = EntryClient::new(admin(programs).await?);
    let (mut stream, _) = open_stream(&programs.agent_socket()).await?;
    let (mut created, mut deleted) = (Vec::new(), Vec::new());
    for at in 0..count {
        let path = format!("/changed/{at}");
        let wanted = format!("spiffe://{TRUST_DOMAIN}{path}");
        let start = Instant::now();
        let ids = create(&mut entries, vec![entry(NODE, &path, &caller())]).await?;
        until(&mut stream, &wanted, true).await?;
        created.push(start.elapsed());
        let start = Instant::now();
        entries.batch_delete_entry(BatchDeleteEntryRequest { ids }).await?;
        until(&mut stream, &wanted, false).await?;
        deleted.push(start.elapsed());
    }
    for (goal, mut times) in
        [(goals::PROPAGATE_CREATE, created), (goals::PROPAGATE_DELETE, deleted)]
    {
        times.sort();
        let at = |part: f64| {
            let index = ((times.len() - 1) as f64 * part) as usize;
            times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        let more = json!({ "changes": times.len(), "p50": at(0.5), "max": at(1.0) });
        report.add(goal, at(0.99), &more)?;
    }
    Ok(())
}

async fn until(
    stream: &mut Streaming<X509svidResponse>,
    id: &str,
    present: bool,
) -> anyhow::Result<()> {
    let wait = async {
        loop {
            let update = stream.message().await?.context("the stream ended")?;
            if update.svids.iter().any(|svid| svid.spiffe_id == id) == present {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.context("no update of an open stream")?
}
