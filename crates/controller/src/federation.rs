//! Keeps the server's federation relationships in step with ClusterFederatedTrustDomains.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use http::Method;
use serde_json::json;
use signet_base::SharedClock;
use signet_identity::{Bundle, FederationRelationship, TrustDomain};
use time::OffsetDateTime;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    kube_api::{Api, Event, Object},
    leader::Lead,
    resources::{API_VERSION, FederationSpec, Resource, parse_federation},
    server::{Notice, Refusal, Server, ServerError},
    world::{Class, Kind, condition},
};

/// How many relationships go into one call, as in spire-controller-manager.
const WRITE_BATCH: usize = 50;
/// How many go into one call that deletes.
const DELETE_BATCH: usize = 200;
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
    /// Where statuses are written; none in static mode.
    pub statuses: Option<Api>,
    /// Wall-clock time.
    pub clock: SharedClock,
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

impl Federation {
    /// Goes on until the events end.
    pub async fn run(mut self) {
        let mut known: BTreeMap<String, Known> = BTreeMap::new();
        let (mut list, mut synced) = (0_u32, false);
        let mut due: Option<Instant> = None;
        let mut seen_notice: Option<(String, u64)> = None;
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
                    let now = now.map(|notice| (notice.feed_id, notice.relationships));
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
            // Pushed changes are heard of; others are looked for.
            let pushed = self.notices.borrow().is_some();
            let usual = (!pushed).then(|| Instant::now() + self.interval);
            due = match self.reconcile(&declared, left).await {
                Ok(refused) => {
                    let written = self.write_statuses(&mut known, &declared, &refused).await;
                    if written && refused.is_empty() {
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
                    tracing::error!(
                        cluster_federated_trust_domain = name,
                        error,
                        "Ignoring an invalid ClusterFederatedTrustDomain"
                    );
                    declared.verdict(name, None, "InvalidSpec", error.clone());
                    continue;
                }
            };
            match parse_federation(spec) {
                Ok(wanted) => {
                    let trust_domain = wanted.0.trust_domain.clone();
                    if declared.wanted.contains_key(&trust_domain) {
                        tracing::warn!(
                            cluster_federated_trust_domain = name, %trust_domain,
                            "Ignoring a ClusterFederatedTrustDomain: an older one has the same \
                             trust domain"
                        );
                        let why = "an older resource has the same trust domain".to_owned();
                        declared.verdict(name, None, "Masked", why);
                        continue;
                    }
                    let why = "the relationship is on the server".to_owned();
                    declared.verdict(name, Some(trust_domain.clone()), "InSync", why);
                    declared.wanted.insert(trust_domain, wanted);
                }
                Err(error) => {
                    tracing::error!(
                        cluster_federated_trust_domain = name,
                        error,
                        "Ignoring an invalid ClusterFederatedTrustDomain; its relationship stays \
                         as it is"
                    );
                    declared.verdict(name, None, "InvalidSpec", error);
                    declared.kept.extend(TrustDomain::from_name_or_id(&spec.trust_domain));
                }
            }
        }
        declared
    }

    /// What the server refused.
    async fn reconcile(&self, declared: &Declared, left: Duration) -> Result<Refused, ServerError> {
        let until = Instant::now() + left;
        let left = || until.saturating_duration_since(Instant::now());
        let there = self.server.list_relationships().await?;
        let there: BTreeMap<TrustDomain, FederationRelationship> =
            there.into_iter().map(|one| (one.trust_domain.clone(), one)).collect();
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
        Ok(refused)
    }

    /// Whether every status that had to be written was.
    async fn write_statuses(
        &self,
        known: &mut BTreeMap<String, Known>,
        declared: &Declared,
        refused: &Refused,
    ) -> bool {
        let Some(api) = &self.statuses else { return true };
        let now = OffsetDateTime::from(self.clock.now());
        let mut good = true;
        for verdict in &declared.verdicts {
            let Some(one) = known.get_mut(&verdict.name) else { continue };
            let refusal = verdict.trust_domain.as_ref().and_then(|name| refused.get(name));
            let (reason, message) = match refusal {
                Some(why) => ("Refused", why.as_str()),
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
            let written =
                api.write(Method::PATCH, &path, "application/merge-patch+json", &body).await;
            match written {
                Ok(_) => one.resource.status = next,
                Err(error) if error.code() == Some(404) => {}
                Err(error) => {
                    good = false;
                    tracing::error!(
                        cluster_federated_trust_domain = verdict.name,
                        error = &error as &dyn std::error::Error,
                        "Failed to update a status"
                    );
                }
            }
        }
        good
    }
}

impl Declared {
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
