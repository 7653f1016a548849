//! The task that acts: looks at everything there is whenever something has changed, and makes it
//! what it should be.

mod parts;

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use signet_base::{Backoff, ReadyGuard, SharedClock};
use signet_k8s::{ApiError, ApiServer};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use self::parts::Outcome;
use super::{
    SINGLETON,
    apply::Writer,
    cache::{Cache, Event},
    conditions::{
        self, AVAILABLE, CREATE_ONLY, Condition, DEGRADED, FAILED, IS_READY, OPERANDS, PROGRESSING,
        READY, UPGRADEABLE,
    },
    kinds::Kind,
    settings::Settings,
};
use crate::{error_throttle::ApiErrorThrottle, leader::Lead};

/// How long to wait for what comes together with a change.
const SETTLE: Duration = Duration::from_millis(200);
/// How long to wait after a failure, at least and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// What keeps the parts as their resources say.
#[derive(Debug)]
pub struct Operator {
    settings: Settings,
    events: mpsc::Receiver<Event>,
    lead: watch::Receiver<Lead>,
    clock: SharedClock,
    error_throttle: ApiErrorThrottle,
    cache: Cache,
    writer: Writer,
    /// What was told to the Operator Lifecycle Manager.
    told: Option<Condition>,
}

impl Operator {
    /// An operator that is told by `events` what happens, and writes while it leads.
    pub fn new(
        api: Arc<ApiServer>,
        settings: Settings,
        events: mpsc::Receiver<Event>,
        lead: watch::Receiver<Lead>,
        clock: SharedClock,
        error_throttle: ApiErrorThrottle,
    ) -> Self {
        let writer = Writer::new(api, &settings);
        let cache = Cache::default();
        Self { settings, events, lead, clock, error_throttle, cache, writer, told: None }
    }

    /// Goes on until nobody sends events. It is ready once everything was listed.
    pub async fn run(mut self, ready: ReadyGuard) {
        let mut ready = Some(ready);
        let mut backoff = Backoff::new(RETRY.0, RETRY.1).with_jitter(0.2);
        let mut due: Option<Instant> = None;
        let mut led = false;
        loop {
            let wake = due.unwrap_or_else(|| Instant::now() + RETRY.1);
            tokio::select! {
                event = self.events.recv() => {
                    let Some(event) = event else { return };
                    self.cache.take(event);
                    // A retry that is far away is no reason to leave a change waiting.
                    let soon = Instant::now() + SETTLE;
                    due = Some(due.map_or(soon, |due| due.min(soon)));
                }
                changed = self.lead.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // Each renewal of the lease is a change too, and says nothing new.
                    let leads = self.leads();
                    if leads && !led {
                        due.get_or_insert_with(Instant::now);
                    }
                    led = leads;
                }
                () = tokio::time::sleep_until(wake), if due.is_some() => {
                    due = None;
                    if !self.cache.is_complete(&self.settings) {
                        continue;
                    }
                    drop(ready.take());
                    led = self.leads();
                    if !led {
                        continue;
                    }
                    if self.pass().await {
                        backoff.reset();
                    } else {
                        due = Some(Instant::now() + backoff.next_delay());
                    }
                }
            }
        }
    }

    fn leads(&self) -> bool {
        self.lead.borrow().left(Instant::now()).is_some()
    }

    /// Looks at everything once; whether all of it could be done.
    async fn pass(&mut self) -> bool {
        let mut good = true;
        let mut operands = Vec::new();
        for kind in Kind::OPERANDS {
            let outcome = match self.cache.get(kind, SINGLETON).cloned() {
                Some(resource) if !is_going(&resource) => {
                    let outcome = self.operand(kind, &resource).await;
                    good &= outcome.complete;
                    good &= self.show(kind, &resource, &outcome).await;
                    Some(outcome)
                }
                _ => None,
            };
            operands.push((kind, outcome));
        }
        good & self.manager(&operands).await
    }

    /// Writes an operand's status where it says something else.
    async fn show(&mut self, kind: Kind, resource: &Value, outcome: &Outcome) -> bool {
        let status = json!({
            "conditions": conditions::list(resource, &outcome.conditions, &self.now()),
        });
        self.write_status(kind, resource, &status).await
    }

    async fn write_status(&mut self, kind: Kind, resource: &Value, status: &Value) -> bool {
        if resource.get("status") == Some(status) || !self.leads() {
            return true;
        }
        match self.writer.status(&mut self.cache, kind, SINGLETON, status).await {
            Ok(()) => true,
            Err(error) => self.complain("status", &error),
        }
    }

    /// Says in the resource of all what became of the parts.
    async fn manager(&mut self, operands: &[(Kind, Option<Outcome>)]) -> bool {
        let upgradeable = upgradeable(operands, self.settings.create_only);
        let mut good = self.tell_lifecycle_manager(&upgradeable).await;
        let Some(resource) = self.cache.get(Kind::Manager, SINGLETON).cloned() else {
            return good;
        };
        if is_going(&resource) {
            return good;
        }
        let before = resource.pointer("/status/operands").and_then(Value::as_array).cloned();
        let list: Vec<Value> = operands
            .iter()
            .map(|(kind, outcome)| {
                let old = before
                    .iter()
                    .flatten()
                    .find(|old| old.get("kind").and_then(Value::as_str) == Some(kind.name()));
                summary(*kind, outcome.as_ref(), old, &self.now())
            })
            .collect();
        let mut all = aggregate(operands);
        all.push(upgradeable);
        if self.settings.create_only {
            all.push(Condition::new(
                CREATE_ONLY,
                true,
                "CreateOnlyModeEnabled",
                "Objects that are there are left as they are",
            ));
        } else if conditions::of(&resource).iter().any(|one| one.r#type == CREATE_ONLY) {
            let text = "Objects are made what they should be";
            all.push(Condition::new(CREATE_ONLY, false, "CreateOnlyModeDisabled", text));
        }
        let status = json!({
            "conditions": conditions::list(&resource, &all, &self.now()),
            "operands": list,
        });
        good &= self.write_status(Kind::Manager, &resource, &status).await;
        good
    }

    /// Best effort: a cluster without the Operator Lifecycle Manager needs none of it.
    async fn tell_lifecycle_manager(&mut self, condition: &Condition) -> bool {
        let Some(name) = &self.settings.operator_condition else { return true };
        if self.told.as_ref() == Some(condition) {
            return true;
        }
        let body = json!({
            "type": condition.r#type,
            "status": condition.status,
            "reason": condition.reason,
            "message": condition.message,
            "lastTransitionTime": self.now(),
        });
        match self.writer.upgradeable(name, &body).await {
            Ok(()) => {
                self.told = Some(condition.clone());
                true
            }
            Err(error) => self.complain("operatorcondition", &error),
        }
    }

    fn now(&self) -> String {
        self.clock.unix().rfc3339().unwrap_or_default()
    }

    /// Reports what could not be done; never good.
    fn complain(&self, what: &'static str, error: &ApiError) -> bool {
        if let Some(untold) = self.error_throttle.tell(what, error) {
            tracing::error!(
                what,
                error = error as &dyn std::error::Error,
                untold,
                "The API server does not do what the operator asks for"
            );
        }
        false
    }
}

/// Whether a resource is being deleted: then what it owns goes as well.
fn is_going(resource: &Value) -> bool {
    resource.pointer("/metadata/deletionTimestamp").is_some()
}

fn ready(outcome: Option<&Outcome>) -> Option<&Condition> {
    outcome?.conditions.iter().find(|one| one.r#type == READY)
}

/// One entry of `status.operands`.
fn summary(kind: Kind, outcome: Option<&Outcome>, old: Option<&Value>, now: &str) -> Value {
    let condition = ready(outcome);
    let is_ready = condition.is_some_and(Condition::is_true);
    let message = match condition {
        None => "There is no such resource".to_owned(),
        Some(condition) => condition.message.clone(),
    };
    // What was there before has the times of transitions.
    let before = json!({ "status": old.cloned().unwrap_or_default() });
    let shown: Vec<Condition> = outcome
        .into_iter()
        .flat_map(|outcome| &outcome.conditions)
        .filter(|one| [READY, DEGRADED, AVAILABLE].contains(&one.r#type.as_str()))
        .cloned()
        .collect();
    json!({
        "name": SINGLETON,
        "kind": kind.name(),
        "ready": if is_ready { "true" } else { "false" },
        "message": message,
        "conditions": conditions::list(&before, &shown, now),
    })
}

/// What the parts come to.
fn aggregate(operands: &[(Kind, Option<Outcome>)]) -> Vec<Condition> {
    let mut failed = Vec::new();
    let mut waits = Vec::new();
    for (kind, outcome) in operands {
        match ready(outcome.as_ref()) {
            None => waits.push(format!("{} (not created)", kind.name())),
            Some(one) if one.is_true() => {}
            Some(one) if one.reason == PROGRESSING => waits.push(kind.name().to_owned()),
            Some(one) => failed.push(format!("{} ({})", kind.name(), one.message)),
        }
    }
    let (is, reason, message) = if !failed.is_empty() {
        (false, FAILED, format!("Failed: {}", failed.join(", ")))
    } else if !waits.is_empty() {
        (false, PROGRESSING, format!("Waiting for {}", waits.join(", ")))
    } else {
        (true, IS_READY, "All operands are ready".to_owned())
    };
    let degraded = if failed.is_empty() {
        Condition::new(DEGRADED, false, reason, "Nothing has failed")
    } else {
        Condition::new(DEGRADED, true, FAILED, message.clone())
    };
    vec![
        Condition::new(READY, is, reason, message.clone()),
        Condition::new(AVAILABLE, is, reason, message.clone()),
        Condition::new(OPERANDS, is, reason, message),
        degraded,
    ]
}

/// Whether the operator may be replaced by another version: not while a part is on its way, which
/// the next version would have to understand. What does not exist is in nobody's way.
fn upgradeable(operands: &[(Kind, Option<Outcome>)], create_only: bool) -> Condition {
    if create_only {
        let message = "Objects are left as they are (create-only mode)";
        return Condition::new(UPGRADEABLE, false, "OperandsNotReady", message);
    }
    let busy: Vec<&str> = operands
        .iter()
        .filter(|(_, outcome)| ready(outcome.as_ref()).is_some_and(|one| !one.is_true()))
        .map(|(kind, _)| kind.name())
        .collect();
    if busy.is_empty() {
        Condition::new(UPGRADEABLE, true, IS_READY, "Every operand that exists is ready")
    } else {
        let message = format!("Not ready: {}", busy.join(", "));
        Condition::new(UPGRADEABLE, false, "OperandsNotReady", message)
    }
}
