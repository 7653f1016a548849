//! Leader election by a Lease, so that of several controllers one writes.
//!
//! The record is Kubernetes' own (`coordination.k8s.io/v1`), with the meaning that client-go gives
//! it: a controller of ours and spire-controller-manager with the same lease take turns.
//!
//! **Clocks.** Nobody compares clocks across machines. A candidate waits for `lease_duration`,
//! by its own monotonic clock, from when it *saw* the record change. A leader stops writing
//! `renew_deadline` after it *began* its last successful renewal, by its own monotonic clock. As
//! `renew_deadline < lease_duration`, two leaders never write at once as long as the clocks of two
//! machines run at speeds that differ by less than the ratio of the two (15 s to 10 s).
//!
//! **A controller that was killed** leaves its lease behind. The one that takes its place in the same
//! pod need not wait for it to run out: see [`HostLock`].

mod host_lock;

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use signet_base::{CancellationToken, Jitter, SharedClock, Tasks};
use signet_daemon::process;
use signet_k8s::{ApiError, ApiServer, Write};
use signet_pki::random::{RandomError, uuid_v4};
use time::{OffsetDateTime, macros::format_description};
use tokio::{sync::watch, time::Instant};

use crate::{config::ElectionSettings, error_throttle::ApiErrorThrottle};

pub use self::host_lock::HostLock;

/// How the election goes.
#[derive(Clone, Debug)]
pub struct Election {
    /// The namespace of the lease.
    pub namespace: String,
    /// The name of the lease.
    pub name: String,
    /// Who this is: unique to the process.
    pub identity: String,
    /// Where it runs; without it every lease of another process is respected.
    pub host_lock: Option<Arc<HostLock>>,
    /// How long a lease that nobody renews is respected.
    pub lease_duration: Duration,
    /// How long a leader goes on without a renewal.
    pub renew_deadline: Duration,
    /// How often to try.
    pub retry_period: Duration,
}

impl Election {
    /// An election as this process takes part in it; the namespace of the settings does not count.
    ///
    /// # Errors
    /// [`RandomError`] when no identity can be made.
    pub fn new(settings: &ElectionSettings, namespace: String) -> Result<Self, RandomError> {
        let host_lock = HostLock::take(&namespace, &settings.name).map(Arc::new);
        Ok(Self {
            namespace,
            name: settings.name.clone(),
            identity: format!(
                "{}_{}{}",
                process::hostname(),
                host_lock.as_ref().map(|host_lock| host_lock.mark()).unwrap_or_default(),
                uuid_v4()?
            ),
            host_lock,
            lease_duration: settings.lease_duration,
            renew_deadline: settings.renew_deadline,
            retry_period: settings.retry_period,
        })
    }
}

/// Whether this process leads, and until when at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lead {
    /// It does not.
    Follows,
    /// It may write until then.
    Leads {
        /// By this process's clock.
        until: Instant,
    },
}

impl Lead {
    /// There is no election: it leads for ever.
    pub fn always() -> Self {
        Self::Leads { until: Instant::now() + Duration::from_secs(100 * 365 * 24 * 3600) }
    }

    /// How long it may still write; `None` when it may not.
    pub fn left(self, now: Instant) -> Option<Duration> {
        match self {
            Self::Leads { until } if until > now => Some(until - now),
            _ => None,
        }
    }
}

/// What is known of the lease.
#[derive(Debug, Default)]
struct Observed {
    /// Holder, renewal time and version, as they were last seen to change.
    record: Option<(String, String)>,
    /// When that was.
    at: Option<Instant>,
}

/// Starts to take part in an election; without one this process leads for ever.
pub fn spawn(
    tasks: &Tasks,
    election: Option<(Arc<ApiServer>, Election)>,
    clock: &SharedClock,
    error_throttle: &ApiErrorThrottle,
) -> watch::Receiver<Lead> {
    let (lead_tx, lead) = watch::channel(Lead::Follows);
    let token = tasks.token().clone();
    match election {
        Some((api, election)) => {
            let running =
                run(api, election, Arc::clone(clock), lead_tx, token, error_throttle.clone());
            tasks.spawn("leader_election", running);
        }
        None => {
            lead_tx.send_replace(Lead::always());
            tasks.spawn("leader", async move {
                // Kept, so that those who wait for a change do not take its end for one.
                let _kept = lead_tx;
                token.cancelled().await;
            });
        }
    }
    lead
}

/// Takes part in an election until the token is cancelled, and then gives the lease back.
async fn run(
    api: Arc<ApiServer>,
    election: Election,
    clock: SharedClock,
    lead: watch::Sender<Lead>,
    token: CancellationToken,
    error_throttle: ApiErrorThrottle,
) {
    let mut observed = Observed::default();
    let mut random = Jitter::new();
    loop {
        let begun = Instant::now();
        // Never longer than the time in which the answer still counts.
        let trying = tokio::time::timeout(
            election.renew_deadline,
            acquire_or_renew(&api, &election, &clock, &mut observed),
        );
        let got = tokio::select! {
            () = token.cancelled() => break,
            got = trying => got,
            () = runs_out(&lead) => {
                lose(&lead, &election, "it could not be renewed in time");
                continue;
            }
        };
        match got {
            Ok(Ok(true)) => {
                let until = begun + election.renew_deadline;
                let new = *lead.borrow() == Lead::Follows;
                lead.send_replace(Lead::Leads { until });
                if new {
                    tracing::info!(lease = election.name, "Became leader");
                }
            }
            Ok(Ok(false)) => lose(&lead, &election, "another process holds the lease"),
            Ok(Err(error)) => {
                if let Some(untold) = error_throttle.tell("lease", &error) {
                    tracing::warn!(
                        lease = election.name,
                        error = &error as &dyn std::error::Error,
                        untold,
                        "Cannot renew the lease"
                    );
                }
            }
            Err(_) => tracing::warn!(lease = election.name, "No answer about the lease in time"),
        }
        let pause = random.spread(election.retry_period, 0.2);
        tokio::select! {
            () = token.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
            // A lease that runs out while we wait ends the lead at that moment.
            () = runs_out(&lead) => lose(&lead, &election, "it could not be renewed in time"),
        }
    }
    let led = matches!(*lead.borrow(), Lead::Leads { .. });
    lead.send_replace(Lead::Follows);
    if led {
        release(&api, &election, &clock).await;
    }
}

/// Waits until a lead that was not renewed has run out; for ever where there is none.
async fn runs_out(lead: &watch::Sender<Lead>) {
    // The borrow ends here: to change the value, nobody may hold it.
    let now = *lead.borrow();
    match now {
        Lead::Leads { until } => tokio::time::sleep_until(until).await,
        Lead::Follows => std::future::pending().await,
    }
}

fn lose(lead: &watch::Sender<Lead>, election: &Election, why: &str) {
    if lead.send_replace(Lead::Follows) != Lead::Follows {
        tracing::warn!(lease = election.name, why, "Lost the lead; nothing is written any more");
    }
}

/// Whether this process holds the lease now.
async fn acquire_or_renew(
    api: &ApiServer,
    election: &Election,
    clock: &SharedClock,
    observed: &mut Observed,
) -> Result<bool, ApiError> {
    let path = path(election);
    let lease = match api.get_object::<Value>(&path).await {
        Ok(lease) => lease,
        Err(error) if error.is_not_found() => {
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": { "name": election.name, "namespace": election.namespace },
                "spec": spec(election, clock, None),
            });
            let all = collection(election);
            return match api.write(Write::Create, &all, &lease).await {
                Ok(_) => Ok(true),
                // Another one was faster.
                Err(error) if error.is_conflict() => Ok(false),
                Err(error) => Err(error),
            };
        }
        Err(error) => return Err(error),
    };
    let text = |key: &str| {
        let value = lease.get("spec").and_then(|spec| spec.get(key));
        value.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let holder = text("holderIdentity");
    let version = lease.pointer("/metadata/resourceVersion").and_then(Value::as_str);
    let record = (holder.clone(), version.unwrap_or_default().to_owned());
    if observed.record.as_ref() != Some(&record) {
        *observed = Observed { record: Some(record), at: Some(Instant::now()) };
    }
    let ours = holder == election.identity;
    let left_behind =
        election.host_lock.as_ref().is_some_and(|host_lock| host_lock.was_of(&holder));
    if left_behind && !ours {
        tracing::info!(
            lease = election.name,
            holder,
            "An earlier process of this pod holds the lease and has ended"
        );
    }
    if !ours && !left_behind && !holder.is_empty() {
        let seconds = lease.pointer("/spec/leaseDurationSeconds").and_then(Value::as_u64);
        let respected = seconds.map_or(election.lease_duration, Duration::from_secs);
        let seen = observed.at.unwrap_or_else(Instant::now);
        if seen.elapsed() < respected {
            return Ok(false);
        }
    }
    let mut next = lease.clone();
    if let Some(object) = next.as_object_mut() {
        // With its resourceVersion: of two that write at once, one fails.
        object.insert("spec".to_owned(), spec(election, clock, Some((&lease, ours))));
    }
    match api.write(Write::Replace, &path, &next).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_conflict() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives the lease back, so that nobody has to wait for it to run out. Best effort.
async fn release(api: &ApiServer, election: &Election, clock: &SharedClock) {
    let path = path(election);
    let giving = async {
        let mut lease = api.get_object::<Value>(&path).await?;
        let holder = lease.pointer("/spec/holderIdentity").and_then(Value::as_str);
        if holder != Some(&election.identity) {
            return Ok(());
        }
        if let Some(spec) = lease.get_mut("spec").and_then(Value::as_object_mut) {
            spec.insert("holderIdentity".to_owned(), json!(""));
            spec.insert("leaseDurationSeconds".to_owned(), json!(1));
            spec.insert("renewTime".to_owned(), json!(micro_time(clock)));
        }
        api.write(Write::Replace, &path, &lease).await.map(|_| ())
    };
    match tokio::time::timeout(election.retry_period, giving).await {
        Ok(Ok(())) => tracing::info!(lease = election.name, "Gave the lease back"),
        Ok(Err(error)) => tracing::warn!(
            lease = election.name,
            error = &error as &dyn std::error::Error,
            "Could not give the lease back; it runs out by itself"
        ),
        Err(_) => tracing::warn!(lease = election.name, "Could not give the lease back in time"),
    }
}

fn spec(election: &Election, clock: &SharedClock, before: Option<(&Value, bool)>) -> Value {
    let now = micro_time(clock);
    let part = |key: &str| before.and_then(|(lease, _)| lease.get("spec")?.get(key).cloned());
    let ours = before.is_some_and(|(_, ours)| ours);
    let turns = part("leaseTransitions").and_then(|turns| turns.as_i64()).unwrap_or_default();
    let acquired = if ours { part("acquireTime") } else { None };
    json!({
        "holderIdentity": election.identity,
        "leaseDurationSeconds": election.lease_duration.as_secs(),
        "acquireTime": acquired.unwrap_or_else(|| json!(now)),
        "renewTime": now,
        "leaseTransitions": if ours || before.is_none() { turns } else { turns.saturating_add(1) },
    })
}

fn collection(election: &Election) -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", election.namespace)
}

fn path(election: &Election) -> String {
    format!("{}/{}", collection(election), election.name)
}

fn micro_time(clock: &SharedClock) -> String {
    let format =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    OffsetDateTime::from(clock.now()).format(format).unwrap_or_default()
}
