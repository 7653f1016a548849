//! Writing the resources' statuses: apart, so that a slow API server holds up no entry.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use signet_k8s::{ApiServer, Write};
use time::OffsetDateTime;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{Engine, Running, STATUS_PAUSE};
use crate::{
    cluster::{Kind, ResourceStatus},
    error_throttle::ApiErrorThrottle,
    leader::Lead,
    metrics::ControllerMetrics,
    reconciler::SourceId,
    resources::API_VERSION,
};

/// How long to wait after the API server refused a status.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);
/// How long to wait before a status is written again that somebody else has undone.
const UNDONE_PAUSE: Duration = Duration::from_secs(10);

/// A status, and whether it was written.
#[derive(Debug)]
pub struct Written {
    /// The status.
    pub status: ResourceStatus,
    /// Whether it is on the API server now, or its resource is not there any more.
    pub done: bool,
}

/// Writes statuses one after the other.
#[derive(Debug)]
pub struct StatusWriter {
    /// Where.
    pub api: Arc<ApiServer>,
    /// What.
    pub statuses: mpsc::Receiver<ResourceStatus>,
    /// Where to say so.
    pub written: mpsc::Sender<Written>,
    /// Whether this process may write.
    pub lead: watch::Receiver<Lead>,
    /// What is measured.
    pub metrics: ControllerMetrics,
    /// Which errors are worth a line of the log.
    pub error_throttle: ApiErrorThrottle,
}

impl StatusWriter {
    /// Goes on until nobody sends.
    pub async fn run(mut self) {
        while let Some(status) = self.statuses.recv().await {
            let may = self.lead.borrow().left(Instant::now()).is_some();
            let done = may && self.write(&status).await;
            self.metrics.status_writes.inc(&[if done { "done" } else { "failed" }]);
            if !done && may {
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
            if self.written.send(Written { status, done }).await.is_err() {
                return;
            }
        }
    }

    async fn write(&self, status: &ResourceStatus) -> bool {
        let plural = match status.kind {
            Kind::ClusterStaticEntry => "clusterstaticentries",
            _ => "clusterspiffeids",
        };
        let path = format!("/apis/{API_VERSION}/{plural}/{}/status", status.name);
        let body = json!({ "status": status.status });
        match self.api.write(Write::MergePatch, &path, &body).await {
            Ok(_) => true,
            Err(error) if error.is_not_found() => true,
            Err(error) => {
                if let Some(untold) = self.error_throttle.tell("status", &error) {
                    tracing::error!(
                        resource = status.name,
                        error = &error as &dyn std::error::Error,
                        untold,
                        "Failed to update a status"
                    );
                }
                false
            }
        }
    }
}

/// Which statuses are to be looked at, and which are on their way.
///
/// A status is written whenever the API server shows another one than there should be, and looked
/// at again after each write: what changes while one is on its way, or is undone by somebody else,
/// is not lost.
#[derive(Debug, Default)]
pub(super) struct Statuses {
    /// Resources to look at.
    queue: VecDeque<SourceId>,
    /// What has been sent to be written and is not written yet.
    under_way: HashSet<(Kind, String)>,
    /// What was written last, and when.
    last: HashMap<(Kind, String), (Value, Instant)>,
}

impl Statuses {
    /// Whether a resource waits to be looked at.
    pub(super) fn are_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    fn look_at(&mut self, source: SourceId) {
        if !self.queue.contains(&source) {
            self.queue.push_back(source);
        }
    }

    /// Whether this may be written now: what somebody else undoes is not written in a loop.
    fn may_write(&self, status: &ResourceStatus, now: Instant) -> bool {
        let last = self.last.get(&key(status));
        last.is_none_or(|(value, at)| *value != status.status || now >= *at + UNDONE_PAUSE)
    }
}

fn key(status: &ResourceStatus) -> (Kind, String) {
    (status.kind, status.name.clone())
}

impl Engine {
    /// Sends the statuses that differ to be written, as far as there is room.
    pub(super) fn write_statuses(&mut self, running: &mut Running) {
        let now = Instant::now();
        running.status_due = now + STATUS_PAUSE;
        let Some(out) = &self.statuses else {
            self.cluster.touched();
            return;
        };
        // Half a start would show numbers that nobody needs.
        if !running.position.is_known() || !self.is_complete() {
            return;
        }
        let statuses = &mut running.statuses;
        for source in self.cluster.touched() {
            statuses.look_at(source);
        }
        let time = OffsetDateTime::from(self.clock.now());
        for _ in 0..statuses.queue.len() {
            let Ok(room) = out.try_reserve() else { return };
            let Some(source) = statuses.queue.pop_front() else { return };
            let Some(status) = self.cluster.status(source, time) else { continue };
            if statuses.under_way.contains(&key(&status)) {
                // Looked at again when it was written.
                continue;
            }
            if !statuses.may_write(&status, now) {
                statuses.queue.push_back(source);
                continue;
            }
            statuses.under_way.insert(key(&status));
            room.send(status);
        }
    }

    pub(super) fn status_written(&mut self, written: Written, running: &mut Running) {
        let statuses = &mut running.statuses;
        let Written { status, done } = written;
        statuses.under_way.remove(&key(&status));
        let source = self.cluster.source_of(&status);
        match source {
            Some(source) => statuses.look_at(source),
            None => {
                statuses.last.remove(&key(&status));
                return;
            }
        }
        if done {
            self.cluster.wrote_status(&status);
            statuses.last.insert(key(&status), (status.status, Instant::now()));
        }
    }
}
