//! One part: its resource is checked, what it needs is rendered and applied, and what came of it
//! becomes conditions.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use signet_k8s::ApiError;

use super::{Operator, is_going};
use crate::{
    objects::text,
    operator::{
        API_VERSION, FIXED, SINGLETON,
        api::{AgentSpec, CsiSpec, ManagerSpec, OidcSpec, ServerSpec, spec},
        check::{self, Problem},
        compare::{Comparison, compare},
        conditions::{self, CONFIGURATION, Condition, FAILED, IS_READY},
        health,
        kinds::{Kind, is_ours},
        render::{self, Wanted},
    },
};

/// What came of a part.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Every condition of its status, without times.
    pub(super) conditions: Vec<Condition>,
    /// Whether there is nothing to be tried again.
    pub(super) complete: bool,
}

/// What a part needs, or why it cannot be.
struct Plan {
    wanted: Vec<Wanted>,
    /// What stands in the way, and what else is to be said.
    conditions: Vec<Condition>,
}

impl Operator {
    pub(super) async fn operand(&mut self, kind: Kind, resource: &Value) -> Outcome {
        let plan = match self.plan(kind, resource).await {
            Ok(plan) => plan,
            Err(error) => {
                self.complain("operand", &error);
                let failed = Condition::new(CONFIGURATION, false, FAILED, error.to_string());
                return outcome(vec![failed], false);
            }
        };
        let Plan { wanted, mut conditions } = plan;
        let refused = conditions.iter().any(|one| one.status == "False");
        let mut complete = true;
        if !refused {
            complete = self.apply(kind, resource, &wanted, &mut conditions).await;
        }
        outcome(conditions, complete)
    }

    /// Checks and renders; reads what the cache does not have.
    async fn plan(&mut self, kind: Kind, resource: &Value) -> Result<Plan, ApiError> {
        let refuse = |reason: &str, message: String| Plan {
            wanted: Vec::new(),
            conditions: vec![Condition::new(CONFIGURATION, false, reason, message)],
        };
        let Some(top) = self.cache.get(Kind::Manager, SINGLETON).filter(|top| !is_going(top))
        else {
            return Ok(refuse(
                "ZeroTrustWorkloadIdentityManagerNotFound",
                "There is no ZeroTrustWorkloadIdentityManager named cluster".to_owned(),
            ));
        };
        let top = top.clone();
        let manager: ManagerSpec = match spec(&top) {
            Ok(manager) => manager,
            Err(why) => return Ok(refuse("InvalidSpecification", why)),
        };
        self.adopt(kind, resource, &top).await?;
        let mut problems = check::manager(&manager);
        let mut notes = Vec::new();
        let read =
            match kind {
                Kind::Server => spec::<ServerSpec>(resource).map(|spec| {
                    problems.extend(check::server(&self.settings, &manager, &spec));
                    notes.extend(times(&spec));
                    let all = self.cache.all(Kind::FederatedTrustDomain).map(|(_, one)| one);
                    let declared = render::declared(all);
                    render::server(&self.settings, &manager, &spec, &declared)
                }),
                Kind::Agent => spec::<AgentSpec>(resource).map(|spec| {
                    problems.extend(check::agent(&spec));
                    render::agent(&self.settings, &manager, &spec)
                }),
                Kind::Csi => spec::<CsiSpec>(resource).map(|spec| {
                    problems.extend(check::csi(&spec, self.other(Kind::Agent).as_ref()));
                    render::csi(&self.settings, &manager, &spec)
                }),
                _ => spec::<OidcSpec>(resource).map(|spec| {
                    problems.extend(check::oidc(&spec, self.other(Kind::Csi).as_ref()));
                    let note = check::issuers_differ(&spec, self.other(Kind::Server).as_ref());
                    notes.extend(note.map(|note| {
                        Condition::new("JWTIssuerValid", true, note.reason, note.message)
                    }));
                    render::oidc(&self.settings, &manager, &spec)
                }),
            };
        let mut wanted = match read {
            Ok(wanted) => wanted,
            Err(why) => return Ok(refuse("InvalidSpecification", why)),
        };
        let volume = wanted.iter().find(|one| one.kind == Kind::StatefulSet);
        problems.extend(self.fixed(&manager, volume.map(|one| &one.object)).await?);
        for one in &mut wanted {
            own(&mut one.object, kind, resource);
        }
        notes.push(validity(&problems));
        Ok(Plan { wanted, conditions: notes })
    }

    /// The specification of another resource of the operator, if there is one that can be read.
    fn other<T: DeserializeOwned>(&self, kind: Kind) -> Option<T> {
        self.cache.get(kind, SINGLETON).and_then(|other| spec(other).ok())
    }

    /// Makes the resource of all the owner of an operand's, as the other operator does: it goes
    /// with it.
    async fn adopt(&mut self, kind: Kind, resource: &Value, top: &Value) -> Result<(), ApiError> {
        let owner = reference(Kind::Manager, top);
        if !is_of(resource, owner.get("uid")) && !self.settings.create_only && self.leads() {
            let now = self.writer.own(kind, SINGLETON, &owner).await?;
            self.cache.put(kind, now);
        }
        Ok(())
    }

    /// What has changed that never may, by the server's StatefulSet that is there: what all parts
    /// have in common, and with `wanted`, which is the server's, its volume.
    async fn fixed(
        &mut self,
        manager: &ManagerSpec,
        wanted: Option<&Value>,
    ) -> Result<Vec<Problem>, ApiError> {
        const NAME: &str = "spire-server";
        let there = match self.cache.get(Kind::StatefulSet, NAME) {
            Some(there) => Some(there.clone()),
            // That of the other operator, which is about to become ours.
            None => self.writer.find(Kind::StatefulSet, NAME).await?,
        };
        let Some(there) = there else { return Ok(Vec::new()) };
        let mut problems = Vec::new();
        let annotations = there.pointer("/metadata/annotations");
        let before = annotations.and_then(|all| all.get(FIXED)).and_then(Value::as_str);
        let now = render::fixed(manager);
        if let Some(before) = before.filter(|before| *before != now) {
            problems.push(Problem {
                reason: "ImmutableFieldChanged",
                message: format!(
                    "trustDomain, clusterName and bundleConfigMap of the \
                     ZeroTrustWorkloadIdentityManager cannot be changed: they were {before}, and \
                     are {now}"
                ),
            });
        }
        const CLAIMS: &str = "/spec/volumeClaimTemplates";
        let claims = |object: &Value| object.pointer(CLAIMS).cloned().unwrap_or_default();
        if let Some(wanted) = wanted
            && compare(&claims(&there), &claims(wanted)) != Comparison::Same
        {
            let volume = |object: &Value| {
                let text = |pointer: &str| {
                    let value = object.pointer(&format!("{CLAIMS}/0/spec{pointer}"));
                    value.and_then(Value::as_str).unwrap_or("none").to_owned()
                };
                format!(
                    "size {}, accessMode {}, storageClass {}",
                    text("/resources/requests/storage"),
                    text("/accessModes/0"),
                    text("/storageClassName")
                )
            };
            problems.push(Problem {
                reason: "ImmutableFieldChanged",
                message: format!(
                    "spec.persistence cannot be changed: the volume has {}, and asked for is {}",
                    volume(&there),
                    volume(wanted)
                ),
            });
        }
        Ok(problems)
    }

    /// Applies what is wanted and deletes what is not any more; whether all of it could be done.
    async fn apply(
        &mut self,
        kind: Kind,
        resource: &Value,
        wanted: &[Wanted],
        conditions: &mut Vec<Condition>,
    ) -> bool {
        let mut complete = true;
        for one in wanted {
            if !self.leads() {
                return false;
            }
            let condition = match self.writer.apply(&mut self.cache, one).await {
                Ok(()) => {
                    let there = self.cache.get(one.kind, one.name());
                    there
                        .and_then(|there| health::workload(one.kind, one.part, there))
                        .unwrap_or_else(|| {
                            Condition::new(one.part, true, IS_READY, "As it should be")
                        })
                }
                Err(error) => {
                    complete = self.complain(kind.name(), &error);
                    Condition::new(one.part, false, FAILED, error.to_string())
                }
            };
            join(conditions, condition);
        }
        for (kind, name) in self.unwanted(resource, wanted) {
            if !self.leads() {
                return false;
            }
            if let Err(error) = self.writer.delete(&mut self.cache, kind, &name).await {
                complete = self.complain(kind.name(), &error);
            }
        }
        complete
    }

    /// Objects of ours that a resource owns and does not ask for any more.
    fn unwanted(&self, resource: &Value, wanted: &[Wanted]) -> Vec<(Kind, String)> {
        let uid = resource.pointer("/metadata/uid");
        let mut found = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| !kind.is_resource()) {
            for (name, object) in self.cache.all(kind) {
                let asked = wanted.iter().any(|one| one.kind == kind && one.name() == name);
                if is_of(object, uid) && is_ours(object) && !asked {
                    found.push((kind, name.clone()));
                }
            }
        }
        found
    }
}

fn outcome(mut conditions: Vec<Condition>, complete: bool) -> Outcome {
    conditions.extend(conditions::sum(&conditions));
    Outcome { conditions, complete }
}

/// `ConfigurationValid`: all problems in one message, by the first one's reason.
fn validity(problems: &[Problem]) -> Condition {
    match problems.first() {
        None => Condition::new(CONFIGURATION, true, CONFIGURATION, "It can be done"),
        Some(first) => {
            let messages: Vec<&str> = problems.iter().map(|one| one.message.as_str()).collect();
            Condition::new(CONFIGURATION, false, first.reason, messages.join("; "))
        }
    }
}

fn times(spec: &ServerSpec) -> Option<Condition> {
    const TIMES: &str = "TTLConfigurationValid";
    Some(match check::times(spec) {
        Ok(warnings) if warnings.is_empty() => {
            Condition::new(TIMES, true, "TTLValidationSucceeded", "The times fit")
        }
        Ok(warnings) => Condition::new(TIMES, true, "TTLValidationWarning", warnings.join("; ")),
        Err(why) => Condition::new(TIMES, false, "TTLValidationFailed", why),
    })
}

/// Adds a condition; of two of one type the one that lacks something counts.
fn join(conditions: &mut Vec<Condition>, new: Condition) {
    match conditions.iter_mut().find(|one| one.r#type == new.r#type) {
        Some(old) if old.is_true() => *old = new,
        Some(_) => {}
        None => conditions.push(new),
    }
}

/// What refers to an owner. It does not block the owner's deletion: that takes another permission.
fn reference(kind: Kind, owner: &Value) -> Value {
    json!({
        "apiVersion": API_VERSION,
        "kind": kind.name(),
        "name": text(owner, "/metadata/name"),
        "uid": text(owner, "/metadata/uid"),
        "controller": true,
    })
}

/// Whether who has this UID is among an object's owners.
fn is_of(object: &Value, uid: Option<&Value>) -> bool {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    owners.into_iter().flatten().any(|one| one.get("uid") == uid)
}

fn own(object: &mut Value, kind: Kind, owner: &Value) {
    if let Some(metadata) = object.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.insert("ownerReferences".to_owned(), json!([reference(kind, owner)]));
    }
}
