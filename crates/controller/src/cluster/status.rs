//! What the resources' statuses should say.

use std::collections::HashSet;

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{ClusterState, Kind, RuleState, StaticState};
use crate::reconciler::{EntryCounts, SourceId};

/// A status to write.
#[derive(Clone, Debug, PartialEq)]
pub struct ResourceStatus {
    /// Of which kind of resource.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// The status.
    pub status: Value,
}

/// What a condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Whether the resource is in force as it is written; `None` while that is not known.
    pub(super) ready: Option<bool>,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// The `Ready` condition of a resource. Its time is kept from `before` while its status stays.
pub fn condition(
    before: &Value,
    generation: i64,
    ready: Option<bool>,
    reason: &str,
    message: &str,
    now: OffsetDateTime,
) -> Value {
    let status = match ready {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let old = before
        .get("conditions")
        .and_then(Value::as_array)
        .and_then(|all| all.iter().find(|one| one.get("type") == Some(&json!("Ready"))));
    let since = old
        .filter(|old| old.get("status") == Some(&json!(status)))
        .and_then(|old| old.get("lastTransitionTime"))
        .cloned()
        .unwrap_or_else(|| {
            let now = now.replace_nanosecond(0).unwrap_or(now);
            json!(now.format(&Rfc3339).unwrap_or_default())
        });
    json!({
        "type": "Ready",
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
        "lastTransitionTime": since,
    })
}

impl ClusterState {
    /// The resources whose own numbers or entries have changed since this was last asked.
    pub fn touched(&mut self) -> HashSet<SourceId> {
        let mut touched = std::mem::take(&mut self.touched);
        touched.extend(self.reconciler.touched());
        touched
    }

    /// Whether [`ClusterState::touched`] would name any.
    pub fn has_touched(&self) -> bool {
        !self.touched.is_empty() || self.reconciler.has_touched()
    }

    /// The status that a resource should have, when the API server does not show it.
    pub fn status(&mut self, source: SourceId, now: OffsetDateTime) -> Option<ResourceStatus> {
        let counts = self.reconciler.counts(source);
        let refusal = self.reconciler.refusal(source).map(|(key, why)| match self.pod_name(key) {
            Some(pod) => format!("{pod}: {why}"),
            None => why.to_owned(),
        });
        let refusal = refusal.as_deref().unwrap_or_default();
        let (kind, name, shown, next) = if let Some(rule) = self.rules.get(&source) {
            let next = rule_status(rule, counts, refusal, now);
            (Kind::ClusterSpiffeId, &rule.meta.name, &rule.status, next)
        } else {
            let one = self.statics.get(&source)?;
            let next = static_status(one, counts, refusal, now);
            (Kind::ClusterStaticEntry, &one.meta.name, &one.status, next)
        };
        (*shown != next).then(|| ResourceStatus { kind, name: name.clone(), status: next })
    }

    /// Which resource a status is of, if it is still there.
    pub fn source_of(&self, status: &ResourceStatus) -> Option<SourceId> {
        self.sources.get(&(status.kind, status.name.clone())).copied()
    }

    /// The API server took this status.
    pub fn wrote_status(&mut self, written: &ResourceStatus) {
        let Some(id) = self.sources.get(&(written.kind, written.name.clone())) else { return };
        if let Some(rule) = self.rules.get_mut(id) {
            rule.status = written.status.clone();
        } else if let Some(one) = self.statics.get_mut(id) {
            one.status = written.status.clone();
        }
    }
}

fn rule_status(rule: &RuleState, counts: EntryCounts, refusal: &str, now: OffsetDateTime) -> Value {
    let verdict = rule_verdict(rule, counts, refusal);
    let Verdict { ready, reason, message } = verdict;
    json!({
        "stats": {
            "namespacesSelected": rule.namespaces_selected,
            "namespacesIgnored": rule.namespaces_ignored,
            "podsSelected": rule.pods_selected,
            "podEntryRenderFailures": rule.failures.len(),
            "entriesMasked": counts.masked,
            "entriesToSet": counts.to_set,
            "entryFailures": counts.failures,
        },
        "conditions":
            [condition(&rule.status, rule.meta.generation, ready, reason, &message, now)],
    })
}

fn rule_verdict(rule: &RuleState, counts: EntryCounts, refusal: &str) -> Verdict {
    if let Err(error) = &rule.rule {
        return Verdict { ready: Some(false), reason: "InvalidSpec", message: error.clone() };
    }
    if let Some(first) = rule.failures.values().next() {
        let failed = rule.failures.len();
        let message = format!("{failed} pods get no entry from this; one of them: {first}");
        return Verdict { ready: Some(false), reason: "RenderFailed", message };
    }
    let all_ignored = rule.namespaces_selected == rule.namespaces_ignored;
    let nothing = match (rule.namespaces_selected, rule.pods_selected) {
        (0, _) => Some("namespaceSelector selects no namespace".to_owned()),
        (_, 0) if all_ignored => {
            Some("every namespace that namespaceSelector selects is one to ignore".to_owned())
        }
        (some, 0) => Some(format!("podSelector selects no pod of the {some} namespaces")),
        _ => None,
    };
    if let Some(message) = nothing {
        return Verdict { ready: None, reason: "NothingSelected", message };
    }
    entries_verdict(counts, refusal)
}

fn static_status(
    one: &StaticState,
    counts: EntryCounts,
    refusal: &str,
    now: OffsetDateTime,
) -> Value {
    let Verdict { ready, reason, message } = match &one.entry {
        Err(error) => Verdict { ready: Some(false), reason: "InvalidSpec", message: error.clone() },
        Ok(_) if counts.masked > 0 => Verdict {
            ready: Some(false),
            reason: "Masked",
            message: "an older resource declares the same entry".to_owned(),
        },
        Ok(_) => entries_verdict(counts, refusal),
    };
    json!({
        "rendered": one.entry.is_ok(),
        "masked": counts.masked > 0,
        "set": counts.set > 0,
        "conditions": [condition(&one.status, one.meta.generation, ready, reason, &message, now)],
    })
}

fn entries_verdict(counts: EntryCounts, refusal: &str) -> Verdict {
    let EntryCounts { to_set, failures, set, .. } = counts;
    if failures > 0 {
        let message =
            format!("the server refused {failures} of {to_set} entries; one of them: {refusal}");
        return Verdict { ready: Some(false), reason: "EntriesRefused", message };
    }
    if set < to_set {
        let message = "entries are being written".to_owned();
        return Verdict { ready: None, reason: "Writing", message };
    }
    let message = "every entry is on the server".to_owned();
    Verdict { ready: Some(true), reason: "InSync", message }
}
