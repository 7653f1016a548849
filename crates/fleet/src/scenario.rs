//! What happens to the fleet.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde::Serialize;
use signet_api::pb::spire::api::{
    server::entry::v1::{
        BatchCreateEntryRequest, BatchDeleteEntryRequest, entry_client::EntryClient,
    },
    types::{Entry, Selector, Spiffeid},
};
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::MissedTickBehavior,
};
use tonic::transport::Channel;

use crate::{
    Options,
    agent::{Agent, Orders, Progress, locked},
    measure::Delays,
    report::{Report, Row},
    servers::{Servers, TRUST_DOMAIN},
};

/// Agents that attest at a time.
const ATTESTING: usize = 16;
/// Entries in one call.
const BATCH: usize = 500;
/// How long the whole fleet may take to be in sync.
const PATIENCE: Duration = Duration::from_secs(300);

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Scenario {
    /// Nothing: what connected agents cost
    Steady,
    /// Every server is ended as by a power cut and started again
    Restart,
    /// All agents renew their SVIDs and those of their workloads at once
    Expiry,
    /// Entries are created and deleted all the time
    Churn,
    /// The servers are killed one after the other while entries are created and deleted
    Loss,
}

const ALL: [Scenario; 5] =
    [Scenario::Steady, Scenario::Restart, Scenario::Expiry, Scenario::Churn, Scenario::Loss];

struct Fleet<'o> {
    options: &'o Options,
    servers: Servers,
    admin: Channel,
    progress: Arc<Progress>,
    renew: watch::Sender<u64>,
    agents: Vec<AbortHandle>,
    report: Report,
    /// Serial number of entries that were made in a churn.
    made: usize,
}

/// Runs the scenarios one after the other on one fleet.
pub async fn run(options: &Options) -> anyhow::Result<Report> {
    let servers = Servers::start(options).await?;
    let admin = servers.all.first().context("a server")?.admin().await?;
    let mut fleet = Fleet {
        options,
        servers,
        admin,
        progress: Arc::default(),
        renew: watch::Sender::new(0),
        agents: Vec::new(),
        report: Report::new(options),
        made: 0,
    };
    fleet.gather().await?;
    let wanted = match options.scenario.as_slice() {
        [] => ALL.to_vec(),
        some => some.to_vec(),
    };
    for scenario in wanted {
        eprintln!("scenario {scenario:?}");
        match scenario {
            Scenario::Steady => fleet.steady().await?,
            Scenario::Restart => fleet.restart().await?,
            Scenario::Expiry => fleet.expiry().await?,
            Scenario::Churn => fleet.churn("churn", false).await?,
            Scenario::Loss => fleet.churn("loss", true).await?,
        }
    }
    for agent in &fleet.agents {
        agent.abort();
    }
    Ok(fleet.report)
}

impl Fleet<'_> {
    /// Registers the entries, attests the agents, and waits until all are in sync.
    async fn gather(&mut self) -> anyhow::Result<()> {
        let Options { agents, entries, .. } = *self.options;
        let (cpu, start) = (self.servers.cpu()?, Instant::now());
        let all: Vec<Entry> = (0..agents)
            .flat_map(|agent| (0..entries).map(move |number| entry(agent, &format!("w{number}"))))
            .collect();
        for batch in all.chunks(BATCH) {
            create(&self.admin, batch.to_vec()).await?;
        }
        let wall = start.elapsed().as_secs_f64();
        self.row(
            "register",
            "entries created per second",
            all.len() as f64 / wall.max(1e-9),
            "1/s",
        );
        self.row(
            "register",
            "server CPU per entry",
            per(self.servers.cpu()? - cpu, all.len()),
            "ms",
        );

        let (cpu, start) = (self.servers.cpu()?, Instant::now());
        let ports: Arc<[u16]> = self.servers.all.iter().map(|server| server.port).collect();
        let mut attesting = JoinSet::new();
        let mut next = 0;
        while next < agents || !attesting.is_empty() {
            while next < agents && attesting.len() < ATTESTING {
                let orders = Orders {
                    ports: Arc::clone(&ports),
                    expected: entries,
                    poll: self.options.poll,
                    renew: self.renew.subscribe(),
                };
                let (admin, progress) = (self.admin.clone(), Arc::clone(&self.progress));
                attesting.spawn(Agent::attest(next, admin, orders, progress));
                next += 1;
            }
            if let Some(attested) = attesting.join_next().await {
                let agent = attested.context("an agent panicked")?.context("attesting")?;
                self.agents.push(tokio::spawn(agent.run()).abort_handle());
            }
        }
        self.row("attest", "server CPU per agent", per(self.servers.cpu()? - cpu, agents), "ms");
        self.in_sync(start, "attest").await
    }

    /// Waits until every agent has its entries, and says how long that took.
    async fn in_sync(&mut self, start: Instant, scenario: &str) -> anyhow::Result<()> {
        let agents = self.options.agents;
        let reached = || self.progress.in_sync.load(Ordering::Relaxed) >= agents;
        let mut series = Vec::new();
        while !reached() && start.elapsed() < PATIENCE {
            let now = self.progress.in_sync.load(Ordering::Relaxed);
            series.push((start.elapsed().as_secs_f64(), now as f64));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let done = self.progress.in_sync.load(Ordering::Relaxed);
        series.push((start.elapsed().as_secs_f64(), done as f64));
        let wall = start.elapsed().as_secs_f64();
        self.row(scenario, "all agents in sync after", wall, "s");
        self.report.plot(format!("{scenario}: agents in sync"), "s", series);
        if done < agents {
            let why = locked(&self.progress.last_failure).clone();
            self.report.fail(format!("{scenario}: {done} of {agents} agents in sync ({why})"));
        }
        Ok(())
    }

    async fn steady(&mut self) -> anyhow::Result<()> {
        let (cpu, start) = (self.servers.cpu()?, Instant::now());
        let mut series = Vec::new();
        while start.elapsed() < self.options.watched() {
            series.push((start.elapsed().as_secs_f64(), self.servers.rss()?));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let share = (self.servers.cpu()? - cpu).as_secs_f64() / start.elapsed().as_secs_f64();
        let rss = self.servers.rss()?;
        self.row("steady", "servers' CPU, of one core", share * 100.0, "%");
        self.row("steady", "servers' resident memory", rss, "MB");
        self.report.plot("steady: servers' resident memory, MB".to_owned(), "s", series);
        Ok(())
    }

    async fn restart(&mut self) -> anyhow::Result<()> {
        self.progress.in_sync.store(0, Ordering::Relaxed);
        let start = Instant::now();
        let before = self.progress.failures.load(Ordering::Relaxed);
        for server in &mut self.servers.all {
            server.crash_and_restart().await?;
        }
        self.row("restart", "servers ready after", start.elapsed().as_secs_f64(), "s");
        self.admin = self.servers.all.first().context("a server")?.admin().await?;
        // An entry for everyone shows who follows again.
        self.everyone_gets("after-restart", start, "restart").await?;
        let failed = self.progress.failures.load(Ordering::Relaxed) - before;
        self.row("restart", "connections made anew", failed as f64, "");
        Ok(())
    }

    async fn expiry(&mut self) -> anyhow::Result<()> {
        self.progress.in_sync.store(0, Ordering::Relaxed);
        let (cpu, start) = (self.servers.cpu()?, Instant::now());
        let before = self.progress.signed.load(Ordering::Relaxed);
        self.renew.send_modify(|round| *round += 1);
        self.in_sync(start, "expiry").await?;
        let signed = self.progress.signed.load(Ordering::Relaxed) - before;
        let signed = usize::try_from(signed).unwrap_or(usize::MAX);
        self.row("expiry", "SVIDs signed", signed as f64, "");
        self.row("expiry", "server CPU per SVID", per(self.servers.cpu()? - cpu, signed), "ms");
        Ok(())
    }

    /// Creates an entry for each agent and waits until all have theirs.
    async fn everyone_gets(
        &mut self,
        name: &str,
        start: Instant,
        scenario: &str,
    ) -> anyhow::Result<()> {
        let agents = self.options.agents;
        let all: Vec<Entry> = (0..agents).map(|agent| entry(agent, name)).collect();
        locked(&self.progress.appeared).clear();
        let mut ids = Vec::with_capacity(agents);
        for batch in all.chunks(BATCH) {
            self.note(&self.progress.created, batch.iter().map(|entry| entry.id.clone()));
            ids.extend(create(&self.admin, batch.to_vec()).await?);
        }
        let mut series = Vec::new();
        while !locked(&self.progress.created).is_empty() && start.elapsed() < PATIENCE {
            let seen = locked(&self.progress.appeared).len();
            series.push((start.elapsed().as_secs_f64(), seen as f64));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let missing = std::mem::take(&mut *locked(&self.progress.created)).len();
        series.push((start.elapsed().as_secs_f64(), (agents - missing.min(agents)) as f64));
        self.row(scenario, "all agents in sync after", start.elapsed().as_secs_f64(), "s");
        self.report.plot(format!("{scenario}: agents with a new entry"), "s", series);
        if missing > 0 {
            let why = locked(&self.progress.last_failure).clone();
            self.report.fail(format!("{scenario}: {missing} agents did not get an entry ({why})"));
        }
        delete(&self.admin, ids).await
    }

    /// Creates and deletes entries at a steady rate; with `killing`, kills a server now and then.
    async fn churn(&mut self, name: &'static str, killing: bool) -> anyhow::Result<()> {
        let rate = self.options.churn.max(1);
        for list in [&self.progress.appeared, &self.progress.vanished] {
            locked(list).clear();
        }
        locked(&self.progress.created).clear();
        locked(&self.progress.deleted).clear();
        let (cpu, start) = (self.servers.cpu()?, Instant::now());
        // Ten batches a second; the whole rate of creations and deletions together.
        let batch = (rate / 20).max(1);
        let mut ticks =
            tokio::time::interval(Duration::from_secs_f64(batch as f64 * 2.0 / rate as f64));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut alive, mut changes, mut victim) = (Vec::new(), 0_usize, 0_usize);
        let mut next_kill = Duration::from_secs(5);
        while start.elapsed() < self.options.watched() {
            ticks.tick().await;
            if killing && start.elapsed() >= next_kill {
                let count = self.servers.all.len();
                if let Some(server) = self.servers.all.get_mut(victim % count) {
                    server.crash_and_restart().await?;
                }
                victim += 1;
                self.admin = self.servers.all.first().context("a server")?.admin().await?;
                next_kill = start.elapsed() + Duration::from_secs(10);
            }
            let new: Vec<Entry> = (0..batch)
                .map(|_| {
                    self.made += 1;
                    entry(self.made % self.options.agents, &format!("c{}", self.made))
                })
                .collect();
            // Before the call: an agent may have it before this task has the answer.
            self.note(&self.progress.created, new.iter().map(|entry| entry.id.clone()));
            let made = create(&self.admin, new).await?;
            changes += made.len();
            alive.push(made);
            // What is deleted has been there for a second at least.
            if alive.len() > 10 {
                let gone = alive.remove(0);
                changes += gone.len();
                // One that nobody has yet is made and deleted unseen.
                let seen: Vec<String> = {
                    let mut created = locked(&self.progress.created);
                    gone.iter().filter(|id| created.remove(*id).is_none()).cloned().collect()
                };
                self.note(&self.progress.deleted, seen.into_iter());
                delete(&self.admin, gone).await?;
            }
        }
        let cpu = self.servers.cpu().map(|now| now.saturating_sub(cpu))?;
        let wall = start.elapsed().as_secs_f64();
        // The last ones are on their way.
        let settle = Instant::now();
        let waiting =
            |progress: &Progress| locked(&progress.created).len() + locked(&progress.deleted).len();
        while waiting(&self.progress) > 0 && settle.elapsed() < Duration::from_secs(30) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let lost = waiting(&self.progress);
        let appeared = Delays::of(std::mem::take(&mut *locked(&self.progress.appeared)));
        let vanished = Delays::of(std::mem::take(&mut *locked(&self.progress.vanished)));
        self.row(name, "changes per second", changes as f64 / wall, "1/s");
        if !killing {
            self.row(name, "server CPU per change", per(cpu, changes), "ms");
        }
        self.delays(name, "created → SVID at the agent", &appeared);
        self.delays(name, "deleted → dropped by the agent", &vanished);
        if lost > 0 {
            let why = locked(&self.progress.last_failure).clone();
            self.report.fail(format!("{name}: {lost} changes never reached their agent ({why})"));
        }
        for batch in alive {
            delete(&self.admin, batch).await?;
        }
        Ok(())
    }

    /// Notes the time of what happens to entries.
    fn note(
        &self,
        list: &std::sync::Mutex<HashMap<String, Instant>>,
        ids: impl Iterator<Item = String>,
    ) {
        let now = Instant::now();
        locked(list).extend(ids.map(|id| (id, now)));
    }

    fn delays(&mut self, scenario: &str, what: &str, delays: &Delays) {
        self.row(scenario, &format!("{what}, p50"), delays.p50_ms, "ms");
        self.row(scenario, &format!("{what}, p99"), delays.p99_ms, "ms");
        self.row(scenario, &format!("{what}, slowest of {}", delays.count), delays.max_ms, "ms");
        let shape = delays.shape_ms.iter().enumerate();
        let series = shape.map(|(at, ms)| (at as f64 + 1.0, *ms)).collect();
        self.report.plot(format!("{scenario}: {what}, ms"), "percent of changes", series);
    }

    fn row(&mut self, scenario: &str, measure: &str, value: f64, unit: &'static str) {
        let row = Row { scenario: scenario.to_owned(), measure: measure.to_owned(), value, unit };
        eprintln!("  {:<10} {:<48} {:>12.2} {}", row.scenario, row.measure, row.value, row.unit);
        self.report.rows.push(row);
    }
}

/// Milliseconds of CPU for each.
fn per(cpu: Duration, count: usize) -> f64 {
    cpu.as_secs_f64() * 1e3 / count.max(1) as f64
}

fn entry(agent: usize, name: &str) -> Entry {
    let id = |path: String| Some(Spiffeid { trust_domain: TRUST_DOMAIN.to_owned(), path });
    let alias = Agent::alias(agent);
    Entry {
        id: format!("{agent}-{name}"),
        spiffe_id: id(format!("{alias}/{name}")),
        parent_id: id(alias),
        selectors: vec![Selector { r#type: "unix".to_owned(), value: format!("path:/{name}") }],
        ..Entry::default()
    }
}

async fn create(admin: &Channel, entries: Vec<Entry>) -> anyhow::Result<Vec<String>> {
    let request = BatchCreateEntryRequest { entries, output_mask: None };
    let answer = EntryClient::new(admin.clone()).batch_create_entry(request).await?.into_inner();
    let mut ids = Vec::with_capacity(answer.results.len());
    for result in answer.results {
        let status = result.status.unwrap_or_default();
        anyhow::ensure!(status.code == 0, "creating an entry: {}", status.message);
        ids.push(result.entry.context("no entry")?.id);
    }
    Ok(ids)
}

async fn delete(admin: &Channel, ids: Vec<String>) -> anyhow::Result<()> {
    for batch in ids.chunks(BATCH) {
        let request = BatchDeleteEntryRequest { ids: batch.to_vec() };
        EntryClient::new(admin.clone()).batch_delete_entry(request).await?;
    }
    Ok(())
}
