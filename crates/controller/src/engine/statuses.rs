//! Writing the resources' statuses: apart, so that a slow API server holds up no entry.

use std::time::Duration;

use http::Method;
use serde_json::json;
use time::OffsetDateTime;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{Engine, Running, STATUS_PAUSE};
use crate::{
    kube_api::Api,
    leader::Lead,
    metrics::ControllerMetrics,
    resources::API_VERSION,
    world::{Kind, ResourceStatus},
};

/// How long to wait after the API server refused a status.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

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
    pub api: Api,
    /// What.
    pub statuses: mpsc::Receiver<ResourceStatus>,
    /// Where to say so.
    pub written: mpsc::Sender<Written>,
    /// Whether this process may write.
    pub lead: watch::Receiver<Lead>,
    /// What is measured.
    pub metrics: ControllerMetrics,
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
        match self.api.write(Method::PATCH, &path, "application/merge-patch+json", &body).await {
            Ok(_) => true,
            Err(error) if error.code() == Some(404) => true,
            Err(error) => {
                tracing::error!(
                    resource = status.name,
                    error = &error as &dyn std::error::Error,
                    "Failed to update a status"
                );
                false
            }
        }
    }
}

impl Engine {
    /// Sends the statuses that have changed to be written, as far as there is room.
    pub(super) fn write_statuses(&mut self, running: &mut Running) {
        running.status_due = Instant::now() + STATUS_PAUSE;
        let Some(out) = &self.statuses else {
            self.world.touched();
            return;
        };
        // Half a start would show numbers that nobody needs.
        if !running.position.is_known() || !self.is_complete() {
            return;
        }
        for source in self.world.touched() {
            if !running.status_queue.contains(&source) {
                running.status_queue.push_back(source);
            }
        }
        let now = OffsetDateTime::from(self.clock.now());
        while let Some(source) = running.status_queue.front().copied() {
            let Ok(room) = out.try_reserve() else { return };
            running.status_queue.pop_front();
            if let Some(status) = self.world.status(source, now) {
                room.send(status);
            }
        }
    }

    pub(super) fn status_written(&mut self, written: Written, running: &mut Running) {
        if written.done {
            self.world.wrote_status(&written.status);
        } else if let Some(source) = self.world.source_of(&written.status) {
            running.status_queue.push_back(source);
        }
    }
}
