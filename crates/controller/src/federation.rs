//! Keeps the server's federation relationships in step with ClusterFederatedTrustDomains.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde_json::json;
use signet_base::SharedClock;
use signet_identity::{Bundle, FederationRelationship, TrustDomain};
use signet_k8s::{ApiServer, Write};
use time::OffsetDateTime;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    cluster::{Class, Kind, condition},
    error_throttle::ApiErrorThrottle,
    leader::Lead,
    reflector::{Event, Object},
    resources::{API_VERSION, FederationSpec, Resource, parse_federation},
    server::{Notice, Refusal, Server, ServerError},
};

/// How many relationships go into one call, as in spire-controller-manager.
const WRITE_BATCH: usize = 50;
/// How many go into one call that deletes.
const DELETE_BATCH: usize = 200;
/// What is said of a relationship that is of no use yet.
const BUNDLE_MISSING: &str = "the relationship is on the server, but the server has no bundle of \
    this trust domain yet: entries that federate with it are refused";
/// How soon after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What the task works with.
#[derive(Debug)]
pub struct Federation {
    /// The server.
    pub server: Server,
    /// Which resources are ours.
    pub class: Class,
    /// How often the server is looked at when it does not push.
    pub interval: Duration,
    /// What the cluster tells.
    pub events: mpsc::Receiver<Event>,
    /// What the server tells.
    pub notices: watch::Receiver<Option<Notice>>,
    /// Whether this process may write.
    pub lead: watch::Receiver<Lead>,
    /// Counts what was written: entries that were refused for want of it are tried again.
    pub changed: watch::Sender<u64>,
    /// Where statuses are written; none in static mode.
    pub statuses: Option<Arc<ApiServer>>,
    /// Wall-clock time.
    pub clock: SharedClock,
    /// Which errors are worth a line of the log.
    pub error_throttle: ApiErrorThrottle,
}

#[derive(Debug)]
struct Known {
    resource: Resource<FederationSpec>,
    seen: u32,
}

type Wanted = (FederationRelationship, Option<Bundle>);

/// What resources ask for.
#[derive(Debug, Default)]
struct Declared {
    wanted: BTreeMap<TrustDomain, Wanted>,
    /// Named by a resource that is otherwise wrong: what is there stays.
    kept: BTreeSet<TrustDomain>,
    /// What is to be said about each resource of ours.
    verdicts: Vec<Verdict>,
}

/// What is to be said about a resource.
#[derive(Debug)]
struct Verdict {
    name: String,
    /// Of a resource that is in force, until the server says otherwise.
    trust_domain: Option<TrustDomain>,
    reason: &'static str,
    message: String,
}

/// What the server refused.
type Refused = BTreeMap<TrustDomain, String>;

/// What came of bringing the server in step.
#[derive(Debug, Default)]
struct Reconciled {
    refused: Refused,
    /// Trust domains of which the server has no bundle yet.
    without_bundle: BTreeSet<TrustDomain>,
}

/// The bundles that resources give, as they were last brought to the server.
type Given = BTreeMap<TrustDomain, Option<Bundle>>;

impl Federation {
    /// Goes on until the events end.
    pub async fn run(mut self) {
        let mut known: BTreeMap<String, Known> = BTreeMap::new();
        let (mut list, mut synced) = (0_u32, false);
        let mut due: Option<Instant> = None;
        let mut seen_notice: Option<(String, u64, u64)> = None;
        let mut given = Given::new();
        let mut told = BTreeMap::new();
        loop {
            let leads = self.lead.borrow().left(Instant::now()).is_some();
            tokio::select! {
                event = self.events.recv() => {
                    let Some(event) = event else { return };
                    match event {
                        Event::Begin(_) => list = list.wrapping_add(1),
                        Event::There(objects) => for object in objects {
                            if let Object::Federation(resource) = object {
                                let name = resource.meta.name.clone();
                                known.insert(name, Known { resource: *resource, seen: list });
                            }
                        },
                        Event::Gone(_, name) => {
                            known.remove(&name);
                        }
                        Event::Done(Kind::ClusterFederatedTrustDomain, _) => {
                            known.retain(|_, one| one.seen == list);
                            synced = true;
                        }
                        Event::Done(..) => {}
                    }
                    due = Some(Instant::now());
                    // What came together is done together.
                    if !self.events.is_empty() {
                        continue;
                    }
                }
                changed = self.notices.changed() => {
                    if changed.is_err() { return }
                    let now = self.notices.borrow_and_update().clone();
                    let now = now.map(|now| (now.feed_id, now.relationships, now.bundles));
                    if now.is_some() && now != seen_notice {
                        due = Some(Instant::now());
                    }
                    seen_notice = now;
                }
                changed = self.lead.changed() => {
                    if changed.is_err() { return }
                    let leads_now = self.lead.borrow_and_update().left(Instant::now()).is_some();
                    if leads_now && !leads {
                        due = Some(Instant::now());
                    }
                    continue;
                }
                () = at(due) => {}
            }
            if due.is_none_or(|at| at > Instant::now()) || !synced {
                continue;
            }
            let Some(left) = self.lead.borrow().left(Instant::now()) else {
                due = None;
                continue;
            };
            let declared = self.declared(&known);
            declared.tell(&mut told);
            // Pushed changes are heard of; others are looked for.
            let pushed = self.notices.borrow().is_some();
            let usual = (!pushed).then(|| Instant::now() + self.interval);
            due = match self.reconcile(&declared, &mut given, left).await {
                Ok(reconciled) => {
                    let written = self.write_statuses(&mut known, &declared, &reconciled).await;
                    if written && reconciled.refused.is_empty() {
                        usual
                    } else {
                        Some(Instant::now() + RETRY.max(self.interval))
                    }
                }
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "Cannot bring federation relationships in step"
                    );
                    Some(Instant::now() + RETRY)
                }
            };
        }
    }

    fn declared(&self, known: &BTreeMap<String, Known>) -> Declared {
        let mut all: Vec<&Resource<FederationSpec>> =
            known.values().map(|one| &one.resource).collect();
        all.sort_by(|a, b| (a.meta.created, &a.meta.uid).cmp(&(b.meta.created, &b.meta.uid)));
        let mut declared = Declared::default();
        for resource in all {
            let name = &resource.meta.name;
            let spec = match &resource.spec {
                Ok(spec) if self.class.is_ours(&spec.class_name) => spec,
                Ok(_) => continue,
                Err(error) => {
                    declared.verdict(name, None, "InvalidSpec", error.clone());
                    continue;
                }
            };
            match parse_federation(spec) {
                Ok(wanted) => {
                    let trust_domain = wanted.0.trust_domain.clone();
                    if declared.wanted.contains_key(&trust_domain) {
                        let why = "an older resource has the same trust domain".to_owned();
                        declared.verdict(name, None, "Masked", why);
                        continue;
                    }
                    let why = "the relationship is on the server".to_owned();
                    declared.verdict(name, Some(trust_domain.clone()), "InSync", why);
                    declared.wanted.insert(trust_domain, wanted);
                }
                Err(error) => {
                    declared.verdict(name, None, "InvalidSpec", error);
                    declared.kept.extend(TrustDomain::from_name_or_id(&spec.trust_domain));
                }
            }
        }
        declared
    }

    /// Brings the server in step.
    async fn reconcile(
        &self,
        declared: &Declared,
        given: &mut Given,
        left: Duration,
    ) -> Result<Reconciled, ServerError> {
        let until = Instant::now() + left;
        let left = || until.saturating_duration_since(Instant::now());
        let there = self.server.list_relationships().await?;
        let there: BTreeMap<TrustDomain, FederationRelationship> =
            there.into_iter().map(|one| (one.trust_domain.clone(), one)).collect();
        let mut bundles = self.server.list_federated_bundles().await?;
        let delete: Vec<TrustDomain> = there
            .keys()
            .filter(|one| !(declared.wanted.contains_key(*one) || declared.kept.contains(*one)))
            .cloned()
            .collect();
        let mut create = Vec::new();
        let mut update = Vec::new();
        for (trust_domain, wanted) in &declared.wanted {
            match there.get(trust_domain) {
                None => create.push(wanted.clone()),
                Some(now) if *now != wanted.0 => update.push(wanted.clone()),
                // The server may have fetched a newer bundle than the resource gives: that one
                // counts until somebody gives another.
                Some(_) if wanted.1.is_some() => {
                    let missing = bundles.as_ref().is_some_and(|all| !all.contains(trust_domain));
                    if given.get(trust_domain).map_or(missing, |old| *old != wanted.1) {
                        update.push(wanted.clone());
                    }
                }
                Some(_) => {}
            }
        }
        let mut refused = Refused::new();
        for batch in delete.chunks(DELETE_BATCH) {
            let results = self.server.delete_relationships(batch, left()).await?;
            report("Deleted", batch.iter().zip(&results), &mut refused);
        }
        for batch in create.chunks(WRITE_BATCH) {
            let results = self.server.create_relationships(batch, left()).await?;
            report(
                "Created",
                batch.iter().map(|one| &one.0.trust_domain).zip(&results),
                &mut refused,
            );
        }
        for batch in update.chunks(WRITE_BATCH) {
            let results = self.server.update_relationships(batch, left()).await?;
            report(
                "Updated",
                batch.iter().map(|one| &one.0.trust_domain).zip(&results),
                &mut refused,
            );
        }
        given.retain(|trust_domain, _| declared.wanted.contains_key(trust_domain));
        for (trust_domain, (_, bundle)) in &declared.wanted {
            if !refused.contains_key(trust_domain) {
                given.insert(trust_domain.clone(), bundle.clone());
            }
        }
        if !(create.is_empty() && update.is_empty() && delete.is_empty()) {
            bundles = self.server.list_federated_bundles().await?;
            self.changed.send_modify(|count| *count = count.wrapping_add(1));
        }
        let without_bundle = declared.wanted.keys().filter(|trust_domain| {
            bundles.as_ref().is_some_and(|all| !all.contains(*trust_domain))
        });
        Ok(Reconciled { without_bundle: without_bundle.cloned().collect(), refused })
    }

    /// Whether every status that had to be written was.
    async fn write_statuses(
        &self,
        known: &mut BTreeMap<String, Known>,
        declared: &Declared,
        reconciled: &Reconciled,
    ) -> bool {
        let Some(api) = &self.statuses else { return true };
        let now = OffsetDateTime::from(self.clock.now());
        let mut good = true;
        for verdict in &declared.verdicts {
            let Some(one) = known.get_mut(&verdict.name) else { continue };
            let trust_domain = verdict.trust_domain.as_ref();
            let refusal = trust_domain.and_then(|name| reconciled.refused.get(name));
            let without = trust_domain.is_some_and(|one| reconciled.without_bundle.contains(one));
            let (reason, message) = match refusal {
                Some(why) => ("Refused", why.as_str()),
                None if without => ("BundleMissing", BUNDLE_MISSING),
                None => (verdict.reason, verdict.message.as_str()),
            };
            let ready = Some(reason == "InSync");
            let shown = &one.resource.status;
            let generation = one.resource.meta.generation;
            let next =
                json!({"conditions": [condition(shown, generation, ready, reason, message, now)]});
            if *shown == next {
                continue;
            }
            let path =
                format!("/apis/{API_VERSION}/clusterfederatedtrustdomains/{}/status", verdict.name);
            let body = json!({ "status": next });
            match api.write(Write::MergePatch, &path, &body).await {
                Ok(_) => one.resource.status = next,
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    good = false;
                    if let Some(untold) = self.error_throttle.tell("federation status", &error) {
                        tracing::error!(
                            cluster_federated_trust_domain = verdict.name,
                            error = &error as &dyn std::error::Error,
                            untold,
                            "Failed to update a status"
                        );
                    }
                }
            }
        }
        good
    }
}

impl Declared {
    /// Says which resources are ignored, once for each reason.
    fn tell(&self, told: &mut BTreeMap<String, String>) {
        told.retain(|name, _| self.verdicts.iter().any(|verdict| verdict.name == *name));
        for verdict in &self.verdicts {
            let new = told.get(&verdict.name) != Some(&verdict.message);
            if new && verdict.trust_domain.is_none() {
                tracing::error!(
                    cluster_federated_trust_domain = verdict.name,
                    reason = verdict.reason,
                    error = verdict.message,
                    "Ignoring a ClusterFederatedTrustDomain; a relationship that is there stays"
                );
            }
            told.insert(verdict.name.clone(), verdict.message.clone());
        }
    }

    fn verdict(
        &mut self,
        name: &str,
        trust_domain: Option<TrustDomain>,
        reason: &'static str,
        message: String,
    ) {
        let name = name.to_owned();
        self.verdicts.push(Verdict { name, trust_domain, reason, message });
    }
}

fn report<'a>(
    done: &str,
    results: impl Iterator<Item = (&'a TrustDomain, &'a Result<(), Refusal>)>,
    refused: &mut Refused,
) {
    for (trust_domain, result) in results {
        match result {
            Ok(()) => tracing::info!(%trust_domain, "{done} a federation relationship"),
            Err(refusal) => {
                refused.insert(trust_domain.clone(), refusal.message.clone());
                tracing::error!(
                    %trust_domain,
                    code = ?refusal.code,
                    error = refusal.message,
                    "The server refused a federation relationship"
                );
            }
        }
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
