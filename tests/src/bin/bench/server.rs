//! Measures of the server.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::json;
use signet_api::pb::spire::api::server::{
    entry::v1::entry_client::EntryClient,
    svid::v1::{
        BatchNewX509svidRequest, NewJwtsvidRequest, NewX509svidParams, svid_client::SvidClient,
    },
};
use signet_pki::{
    KeyType, PrivateKey,
    x509::{CsrParams, create_csr},
};
use tonic::{Code, transport::Channel};

use crate::{
    Sizes,
    client::{admin, cheapest, create, entry, join},
    goals::{self, Goal, Report},
    programs::{Programs, TRUST_DOMAIN},
    usage,
};

/// The alias of the agent that asks for signatures.
const SIGNER: &str = "/signer";
/// X.509-SVIDs in one call.
const BATCH: usize = 50;

/// Runs all of them.
pub async fn measure(
    programs: &mut Programs,
    sizes: Sizes,
    report: &mut Report,
) -> anyhow::Result<()> {
    let pid = programs.server_pid()?;
    if report.wants("sign") {
        signatures(programs, pid, sizes, report).await?;
    }
    if report.wants("attest") {
        attestations(programs, pid, sizes.attested, report).await?;
    }
    if report.wants("scale") {
        scale(programs, pid, sizes, report).await?;
    }
    Ok(())
}

async fn signatures(
    programs: &Programs,
    pid: u32,
    sizes: Sizes,
    report: &mut Report,
) -> anyhow::Result<()> {
    let admin = admin(programs).await?;
    let agent = join((&admin, programs.port()), SIGNER).await?;
    let wanted = (0..20).map(|at| entry(SIGNER, &format!("{SIGNER}/w{at}"), "unix:uid:4242"));
    let ids: Arc<[String]> = create(&mut EntryClient::new(admin), wanted.collect()).await?.into();
    authorized(&agent, &ids).await?;

    // Each has its own key and is made before the clock starts, so none can be remembered.
    let params = CsrParams::workload(format!("spiffe://{TRUST_DOMAIN}{SIGNER}/w").parse()?);
    let csrs = tokio::task::spawn_blocking(move || {
        let csr = |_| {
            let signer = PrivateKey::generate(KeyType::EcP256)?.signer()?;
            anyhow::Ok(create_csr(&params, &*signer)?)
        };
        (0..sizes.signed).map(csr).collect::<anyhow::Result<Vec<_>>>()
    })
    .await??;
    let batches: Vec<BatchNewX509svidRequest> = csrs
        .chunks(BATCH)
        .map(|chunk| BatchNewX509svidRequest {
            params: chunk
                .iter()
                .zip(ids.iter().cycle())
                .map(|(csr, id)| NewX509svidParams {
                    entry_id: id.clone(),
                    csr: csr.clone().into(),
                })
                .collect(),
        })
        .collect();
    let batches = Arc::new(batches);
    let channel = agent.clone();
    let cost = cheapest(pid, batches.len(), move |at| {
        let (channel, batch) = (channel.clone(), batches.get(at).cloned());
        async move { sign(channel, batch.context("a batch")?).await }
    })
    .await?;
    let more = json!({ "svids": sizes.signed, "rate": cost.rate * BATCH as f64 });
    report.add(goals::SERVER_X509, cost.cpu_ms / BATCH as f64, &more)?;

    let cost = cheapest(pid, sizes.signed_tokens, move |at| {
        let (channel, id) = (agent.clone(), ids.get(at % ids.len()).cloned());
        async move {
            let entry_id = id.context("an entry")?;
            let request = NewJwtsvidRequest { entry_id, audience: vec![format!("a{at}")] };
            SvidClient::new(channel).new_jwtsvid(request).await?;
            Ok(())
        }
    })
    .await?;
    let more = json!({ "svids": sizes.signed_tokens, "rate": cost.rate });
    report.add(goals::SERVER_JWT, cost.cpu_ms, &more)?;
    Ok(())
}

async fn sign(channel: Channel, batch: BatchNewX509svidRequest) -> anyhow::Result<()> {
    let answer = SvidClient::new(channel).batch_new_x509svid(batch).await?.into_inner();
    let status = |at: Option<signet_api::pb::spire::api::types::Status>| at.unwrap_or_default();
    for result in answer.results {
        let status = status(result.status);
        anyhow::ensure!(status.code == 0, "signing: {status:?}");
    }
    Ok(())
}

/// Waits until the server knows that the agent may have the entries.
async fn authorized(agent: &Channel, ids: &[String]) -> anyhow::Result<()> {
    let entry_id = ids.last().context("an entry")?.clone();
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let (entry_id, audience) = (entry_id.clone(), vec!["a".to_owned()]);
        let request = NewJwtsvidRequest { entry_id, audience };
        match SvidClient::new(agent.clone()).new_jwtsvid(request).await {
            Err(status) if status.code() == Code::NotFound && Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            other => return other.map(drop).context("a new agent asks for a JWT-SVID"),
        }
    }
}

async fn attestations(
    programs: &Programs,
    pid: u32,
    count: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let (admin, port) = (admin(programs).await?, programs.port());
    // The first ones find everything cold.
    for at in 0..10 {
        join((&admin, port), &format!("/warm/{at}")).await?;
    }
    let cost = cheapest(pid, count, move |at| {
        let admin = admin.clone();
        async move { join((&admin, port), &format!("/attested/{at}")).await.map(drop) }
    })
    .await?;
    let more = json!({ "operations": count, "rate": cost.rate });
    report.add(goals::SERVER_ATTEST, cost.cpu_ms, &more)?;
    Ok(())
}

async fn scale(
    programs: &Programs,
    pid: u32,
    sizes: Sizes,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut entries = EntryClient::new(admin(programs).await?);
    fill(&mut entries, "/seeded", sizes.entries, 500).await?;
    let mut total = sizes.entries;
    for (goal, batch) in [(goals::CREATE_50, 50), (goals::CREATE_500, 500)] {
        total += timed(&mut entries, goal, batch, sizes, total, report).await?;
    }
    // The index takes up what was created; then nothing is left to do.
    tokio::time::sleep(Duration::from_secs(5)).await;
    report.add(goals::SERVER_RSS_ENTRIES, usage::rss(pid)?, &json!({ "entries": total }))?;
    let cpu = usage::cpu(pid)?;
    tokio::time::sleep(Duration::from_secs(sizes.idle)).await;
    let used = (usage::cpu(pid)? - cpu).as_secs_f64();
    let more = json!({ "entries": total, "seconds": sizes.idle });
    report.add(goals::SERVER_IDLE, used / sizes.idle as f64 * 100.0, &more)?;
    Ok(())
}

async fn timed(
    entries: &mut EntryClient<Channel>,
    goal: Goal,
    batch: usize,
    sizes: Sizes,
    before: usize,
    report: &mut Report,
) -> anyhow::Result<usize> {
    let start = Instant::now();
    fill(entries, &format!("/created/{batch}"), sizes.created, batch).await?;
    let more = json!({ "created": sizes.created, "entries_before": before });
    let rate = sizes.created as f64 / start.elapsed().as_secs_f64();
    report.add(goal, rate.round(), &more)?;
    Ok(sizes.created)
}

async fn fill(
    entries: &mut EntryClient<Channel>,
    prefix: &str,
    count: usize,
    batch: usize,
) -> anyhow::Result<()> {
    for from in (0..count).step_by(batch) {
        let wanted = (from..count.min(from + batch))
            .map(|at| entry("/elsewhere", &format!("{prefix}/{at}"), "unix:uid:0"))
            .collect();
        create(entries, wanted).await?;
    }
    Ok(())
}
