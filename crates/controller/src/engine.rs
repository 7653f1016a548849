//! The one task that owns the state of the cluster: it takes in what happens in the cluster and on
//! the server, and has one thing written at a time.

mod statuses;
mod sync;
mod write;

use std::time::Duration;

use signet_base::{Backoff, SharedClock};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

pub use self::statuses::{StatusWriter, Written};
use self::{statuses::Statuses, sync::Position, write::InFlight};
use crate::{
    cluster::{ClusterState, Kind, ResourceStatus},
    data::Names,
    leader::Lead,
    metrics::ControllerMetrics,
    ownership::Ownership,
    reflector::{Event, Object},
    server::{Notice, Server},
};

/// How many events are taken in before anything else.
const EVENTS: usize = 1024;
/// How many pods are worked out before others get their turn.
const PODS: usize = 128;
/// How often statuses are looked at.
const STATUS_PAUSE: Duration = Duration::from_secs(1);

/// What the engine is made of.
#[derive(Debug)]
pub struct Engine {
    /// The cluster.
    pub cluster: ClusterState,
    /// The kinds that have to be listed before anything is written.
    pub kinds: Vec<Kind>,
    /// Where entries go.
    pub server: Server,
    /// Which of them are ours.
    pub ownership: Ownership,
    /// How often a server without push is listed.
    pub interval: Duration,
    /// What happens in the cluster.
    pub events: mpsc::Receiver<Event>,
    /// What happens on the server.
    pub notices: watch::Receiver<Option<Notice>>,
    /// Changes when this process has written relationships.
    pub federation: watch::Receiver<u64>,
    /// Whether this process may write.
    pub lead: watch::Receiver<Lead>,
    /// The fields that pods are to be read with; the first value starts the reading.
    pub names: watch::Sender<Option<Names>>,
    /// Whether services are to be read.
    pub services: watch::Sender<bool>,
    /// Statuses to write; none in static mode.
    pub statuses: Option<mpsc::Sender<ResourceStatus>>,
    /// Statuses that were written.
    pub written: mpsc::Receiver<Written>,
    /// Wall-clock time.
    pub clock: SharedClock,
    /// What is measured.
    pub metrics: ControllerMetrics,
}

/// What changes while the engine runs.
#[derive(Debug)]
struct Running {
    position: Position,
    /// When the server may be asked again after a failure.
    not_before: Instant,
    backoff: Backoff,
    in_flight: Option<InFlight>,
    status_due: Instant,
    statuses: Statuses,
    in_sync: bool,
    /// Whether the next time that everything is in step is worth a line for the operator: the
    /// first time, and after a failure.
    tell_in_sync: bool,
    /// What the server said last of relationships and bundles, on which entries depend.
    federation: Option<(String, u64, u64)>,
    started: Instant,
}

impl Engine {
    /// Goes on until the events end.
    pub async fn run(mut self) {
        let now = Instant::now();
        let mut running = Running {
            position: Position::Unknown,
            not_before: now,
            backoff: Backoff::new(Duration::from_millis(250), Duration::from_secs(30))
                .with_jitter(0.3),
            in_flight: None,
            status_due: now + STATUS_PAUSE,
            statuses: Statuses::default(),
            in_sync: false,
            tell_in_sync: true,
            federation: None,
            started: now,
        };
        let mut led = false;
        loop {
            for _ in 0..EVENTS {
                let Ok(event) = self.events.try_recv() else { break };
                self.take_in(event);
            }
            // A pod is not worked out before its node, its namespace and the rules are known.
            let more = self.cluster.is_known(&self.kinds) && self.cluster.work(PODS);
            let leads = self.lead.borrow().left(Instant::now()).is_some();
            if leads != led {
                led = leads;
                self.metrics.leader.set(&[], if leads { 1.0 } else { 0.0 });
                // Whoever led meanwhile has written: what is known is old.
                running.position = Position::Unknown;
                if !leads && let Some(lost) = running.in_flight.take() {
                    // Dropping it ends the call; whether it took place is found out by listing.
                    lost.give_back(&mut self.cluster.reconciler);
                }
            }
            self.notice_federation(&mut running);
            if leads && running.in_flight.is_none() {
                running.in_flight = self.next_call(&mut running);
            }
            if leads && running.status_due <= Instant::now() {
                self.write_statuses(&mut running);
            }
            self.measure(&mut running);
            let wake = self.wake(&running);
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(event) => self.take_in(event),
                    None => return,
                },
                done = InFlight::done(&mut running.in_flight) => {
                    self.settle(done, &mut running);
                }
                changed = self.notices.changed() => if changed.is_err() { return },
                Ok(()) = self.federation.changed() => self.cluster.reconciler.retry_refused(),
                changed = self.lead.changed() => if changed.is_err() { return },
                Some(written) = self.written.recv() => self.status_written(written, &mut running),
                // Others get their turn, the call under way included.
                () = tokio::task::yield_now(), if more => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::Begin(kind) => self.cluster.begin(kind),
            Event::There(objects) => {
                for object in objects {
                    match object {
                        Object::Endpoints(endpoints) => self.cluster.apply_endpoints(endpoints),
                        Object::Federation(_) => {}
                        Object::Namespace(namespace) => self.cluster.apply_namespace(namespace),
                        Object::Node(node) => self.cluster.apply_node(node),
                        Object::Pod(pod) => self.cluster.apply_pod(pod),
                        Object::Rule(rule) => self.cluster.apply_rule(*rule),
                        Object::Static(entry) => self.cluster.apply_static(*entry),
                    }
                }
            }
            Event::Gone(kind, key) => match kind {
                Kind::ClusterFederatedTrustDomain => {}
                Kind::ClusterSpiffeId => self.cluster.remove_rule(&key),
                Kind::ClusterStaticEntry => self.cluster.remove_static(&key),
                Kind::Endpoints => self.cluster.remove_endpoints(&key),
                Kind::Namespace => self.cluster.remove_namespace(&key),
                Kind::Node => self.cluster.remove_node(&key),
                Kind::Pod => self.cluster.remove_pod(&key),
            },
            Event::Done(kind, names) => {
                self.cluster.finish(kind);
                if kind == Kind::Pod {
                    self.cluster.set_names(names);
                }
                tracing::debug!(kind = kind.name(), "Listed");
            }
        }
        // Pods are read once it is known which fields of them anybody looks at.
        if self.cluster.is_synced(Kind::ClusterSpiffeId) {
            let wanted = self.cluster.wanted_names();
            self.names.send_if_modified(|names| {
                let changed = names.as_ref() != Some(wanted);
                if changed {
                    *names = Some(wanted.clone());
                }
                changed
            });
            if self.cluster.needs_services() {
                self.services.send_if_modified(|needed| !std::mem::replace(needed, true));
            }
        }
    }

    /// Has refused entries tried again when relationships or bundles have changed: whether a server
    /// takes an entry depends on them.
    fn notice_federation(&mut self, running: &mut Running) {
        let Some(notice) = self.notices.borrow().clone() else { return };
        let now = (notice.feed_id, notice.relationships, notice.bundles);
        if running.federation.as_ref() != Some(&now) && running.federation.replace(now).is_some() {
            self.cluster.reconciler.retry_refused();
        }
    }

    /// Whether everything is known that entries follow from.
    fn is_complete(&self) -> bool {
        let services = !self.cluster.needs_services() || self.cluster.is_synced(Kind::Endpoints);
        services && self.cluster.is_complete(&self.kinds)
    }

    fn wake(&self, running: &Running) -> Instant {
        let now = Instant::now();
        let mut wake = now + Duration::from_secs(60);
        let lead = *self.lead.borrow();
        if let Some(left) = lead.left(now) {
            wake = wake.min(now + left);
            if running.not_before > now {
                wake = wake.min(running.not_before);
            }
            wake = wake.min(running.position.due());
            if let Some(retry) = self.cluster.reconciler.next_retry() {
                wake = wake.min(retry);
            }
            if self.cluster.has_touched() || running.statuses.are_waiting() {
                wake = wake.min(running.status_due.max(now + Duration::from_millis(10)));
            }
        }
        wake
    }

    fn measure(&self, running: &mut Running) {
        let m = &self.metrics;
        m.pods.set_len(&[], self.cluster.pod_count());
        m.held.set_len(&[], self.cluster.reconciler.held());
        m.waiting.set_len(&[], self.cluster.reconciler.backlog());
        m.invalid.set_len(&[], self.cluster.invalid_count());
        m.render_failures.set_len(&[], self.cluster.render_failures());
        m.static_entry_failures.set_len(&[], self.cluster.invalid_statics());
        let in_sync = !matches!(running.in_flight, Some(InFlight::Writing(..)))
            && running.position.is_known()
            && self.is_complete()
            && self.cluster.reconciler.is_settled();
        if in_sync && !running.in_sync {
            let (entries, pods) = (self.cluster.reconciler.held(), self.cluster.pod_count());
            let after_ms = running.started.elapsed().as_millis() as u64;
            if std::mem::take(&mut running.tell_in_sync) {
                tracing::info!(entries, pods, after_ms, "In sync with the server");
            } else {
                tracing::debug!(entries, pods, after_ms, "In sync with the server");
            }
        }
        running.in_sync = in_sync;
        m.in_sync.set(&[], if in_sync { 1.0 } else { 0.0 });
    }
}
