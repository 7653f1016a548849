//! Measures of the agent on a Kubernetes node: real processes in cgroups named like pods', and a
//! kubelet that lists them.

mod kubelet;
mod pods;
mod worker;

use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;
use signet_api::pb::spire::api::server::entry::v1::entry_client::EntryClient;

pub use worker::run as work;

use self::{kubelet::Kubelet, pods::Pod, worker::Worker};
use crate::{
    Sizes,
    client::{admin, create, entry},
    goals::{self, Report},
    programs::{NODE, Programs},
    usage,
};

/// How many pods the kubelet lists: with what else it says of each, about a megabyte.
const PODS: usize = 200;
/// How many start at once, and how many hold a stream on a node at rest.
const BURST: usize = 200;
const IDLE: usize = 110;
/// How long kubelets take from the start of a container until they list it, about.
const LAG: Duration = Duration::from_millis(1000);
/// How long anything may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs all of them, each with an agent of its own.
pub async fn measure(
    programs: &mut Programs,
    sizes: Sizes,
    report: &mut Report,
) -> anyhow::Result<()> {
    if report.wants("k8s_first_svid") {
        first(programs, sizes.pods, report).await?;
    }
    if report.wants("k8s_burst_200") {
        burst(programs, report).await?;
    }
    if report.wants("k8s_idle_110") {
        idle(programs, sizes.idle, report).await?;
    }
    Ok(())
}

/// A node with an agent and pods that have an entry each, none of them running.
struct NodeOfPods {
    kubelet: Kubelet,
    pods: Vec<Pod>,
    /// As where a DaemonSet runs it.
    _agent: Pod,
}

impl NodeOfPods {
    async fn start(programs: &mut Programs, label: &str) -> anyhow::Result<Self> {
        let mut pods: Vec<Pod> = (0..PODS).map(|at| Pod::new(label, at)).collect();
        let kubelet = Kubelet::start(&pods).await?;
        let token = programs.file("kubelet-token", "token");
        let block = format!(
            "WorkloadAttestor \"k8s\" {{ plugin_data {{ kubelet_secure_port = {} token_path = \"{}\" \
             skip_kubelet_verification = true }} }}",
            kubelet.port(),
            token.display()
        );
        let mut agent = Pod::new("agent", 0);
        let all = pods.iter_mut().chain(std::iter::once(&mut agent));
        let environment = pods::place(all, programs)?;
        programs.restart_agent(&block, environment).await?;
        agent.take_in(programs.agent_pid()?)?;
        Ok(Self { kubelet, pods, _agent: agent })
    }

    async fn register(&self, programs: &Programs, count: usize) -> anyhow::Result<()> {
        let mut client = EntryClient::new(admin(programs).await?);
        let entries: Vec<_> = self
            .pods
            .iter()
            .take(count)
            .map(|pod| entry(NODE, &pod.path(), &format!("k8s:pod-name:{}", pod.name())))
            .collect();
        create(&mut client, entries).await?;
        Ok(())
    }

    async fn workers(&self, programs: &Programs, count: usize) -> anyhow::Result<Vec<Worker>> {
        let mut workers = Vec::with_capacity(count);
        for pod in self.pods.iter().take(count) {
            workers.push(Worker::start(pod, &programs.agent_socket()).await?);
        }
        Ok(workers)
    }
}

/// From the moment a container is in the kubelet's answer to the first SVID of its process.
async fn first(programs: &mut Programs, count: usize, report: &mut Report) -> anyhow::Result<()> {
    let node = NodeOfPods::start(programs, "first").await?;
    node.register(programs, count).await?;
    let mut workers = node.workers(programs, count).await?;
    let mut times = Vec::new();
    for (at, worker) in workers.iter_mut().enumerate() {
        worker.go().await?;
        // At another point between two questions each time.
        tokio::time::sleep(LAG + Duration::from_millis((at as u64 * 37) % 100)).await;
        let visible = worker::now();
        node.kubelet.show(at);
        let got = worker.svid(PATIENCE).await?;
        times.push(got.saturating_sub(visible).as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times.get(((times.len() - 1) as f64 * part) as usize).copied();
    let max = at(1.0).context("no pod was measured")?;
    let more = json!({ "pods": times.len(), "p50": at(0.5), "list_bytes": node.kubelet.size(), "answer_ms": node.kubelet.answer_ms() });
    report.add(goals::K8S_FIRST_SVID, max, &more)?;
    Ok(())
}

/// Two hundred pods that start together, their entries too.
async fn burst(programs: &mut Programs, report: &mut Report) -> anyhow::Result<()> {
    let node = NodeOfPods::start(programs, "burst").await?;
    let mut workers = node.workers(programs, BURST).await?;
    let pid = programs.agent_pid()?;
    let (cpu, asked, start) = (usage::cpu(pid)?, node.kubelet.asked(), worker::now());
    for worker in &mut workers {
        worker.go().await?;
    }
    node.register(programs, BURST).await?;
    tokio::time::sleep(LAG.saturating_sub(worker::now().saturating_sub(start))).await;
    for at in 0..BURST {
        node.kubelet.show(at);
    }
    let mut last = Duration::ZERO;
    for worker in &mut workers {
        last = last.max(worker.svid(PATIENCE).await?.saturating_sub(start));
    }
    let (cpu, rss) = (usage::cpu(pid)? - cpu, usage::rss(pid)?);
    let more = json!({
        "pods": BURST,
        "listed_after_ms": LAG.as_millis() as u64,
        "kubelet_requests": node.kubelet.asked() - asked,
        "list_bytes": node.kubelet.size(),
        "answer_ms": node.kubelet.answer_ms(),
    });
    report.add(goals::K8S_BURST_TIME, last.as_secs_f64(), &more)?;
    report.add(goals::K8S_BURST_CPU, cpu.as_secs_f64(), &more)?;
    report.add(goals::K8S_BURST_RSS, rss, &more)?;
    Ok(())
}

/// A node at rest.
async fn idle(programs: &mut Programs, seconds: u64, report: &mut Report) -> anyhow::Result<()> {
    let node = NodeOfPods::start(programs, "idle").await?;
    node.register(programs, IDLE).await?;
    let mut workers = node.workers(programs, IDLE).await?;
    for at in 0..IDLE {
        node.kubelet.show(at);
    }
    for worker in &mut workers {
        worker.go().await?;
        worker.svid(PATIENCE).await?;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let pid = programs.agent_pid()?;
    let (cpu, asked, start) = (usage::cpu(pid)?, node.kubelet.asked(), Instant::now());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let used = usage::cpu(pid)? - cpu;
    let percent = used.as_secs_f64() / start.elapsed().as_secs_f64() * 100.0;
    let more = json!({
        "streams": workers.len(),
        "seconds": seconds,
        "kubelet_requests": node.kubelet.asked() - asked,
    });
    report.add(goals::K8S_IDLE_RSS, usage::rss(pid)?, &more)?;
    report.add(goals::K8S_IDLE_CPU, percent, &more)?;
    Ok(())
}
