//! Conditions of statuses (`metav1.Condition`): what becomes of a resource.

use serde::Deserialize;
use serde_json::{Value, json};

/// Whether a part works.
pub const READY: &str = "Ready";
/// Whether a part has failed and does not come right by itself.
pub const DEGRADED: &str = "Degraded";
/// Whether what a part runs on is there.
pub const AVAILABLE: &str = "Available";
/// Whether the operator may be replaced by another version.
pub const UPGRADEABLE: &str = "Upgradeable";
/// Whether a specification can be done.
pub const CONFIGURATION: &str = "ConfigurationValid";
/// Whether objects that are there are left as they are.
pub const CREATE_ONLY: &str = "CreateOnlyMode";
/// Whether every part works.
pub const OPERANDS: &str = "OperandsAvailable";

/// The reason of what works.
pub const IS_READY: &str = "Ready";
/// The reason of what needs time.
pub const PROGRESSING: &str = "Progressing";
/// The reason of what has failed.
pub const FAILED: &str = "Failed";

/// The longest message.
const MAX_MESSAGE: usize = 4096;

/// One condition, without its times.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Condition {
    /// What it is about.
    pub r#type: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, for programs.
    pub reason: String,
    /// Why, for people.
    pub message: String,
}

impl Condition {
    /// A condition that is true or false.
    pub fn new(kind: &str, is: bool, reason: &str, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        if message.len() > MAX_MESSAGE {
            let end = (0..=MAX_MESSAGE).rev().find(|at| message.is_char_boundary(*at));
            message.truncate(end.unwrap_or_default());
        }
        Self {
            r#type: kind.to_owned(),
            status: if is { "True" } else { "False" }.to_owned(),
            reason: reason.to_owned(),
            message,
        }
    }

    /// Whether it is true.
    pub fn is_true(&self) -> bool {
        self.status == "True"
    }
}

/// The conditions that a resource's status has.
pub fn of(resource: &Value) -> Vec<Condition> {
    let list = resource.pointer("/status/conditions").cloned().unwrap_or_default();
    serde_json::from_value(list).unwrap_or_default()
}

/// What a part's conditions come to: `Ready`, `Degraded` and `Available`, from those that say
/// something is not there (`False`), of which `Progressing` alone is no failure.
pub fn sum(conditions: &[Condition]) -> [Condition; 3] {
    let lacking = |failed: bool| {
        conditions.iter().find(|one| one.status == "False" && (one.reason != PROGRESSING) == failed)
    };
    let text = |one: &Condition| format!("{}: {}", one.r#type, one.message);
    match (lacking(true), lacking(false)) {
        (Some(failed), _) => [
            Condition::new(READY, false, FAILED, text(failed)),
            Condition::new(DEGRADED, true, FAILED, text(failed)),
            Condition::new(AVAILABLE, false, FAILED, text(failed)),
        ],
        (None, Some(waits)) => [
            Condition::new(READY, false, PROGRESSING, text(waits)),
            Condition::new(DEGRADED, false, PROGRESSING, "Nothing has failed"),
            Condition::new(AVAILABLE, false, PROGRESSING, text(waits)),
        ],
        (None, None) => [
            Condition::new(READY, true, IS_READY, "Everything is there and works"),
            Condition::new(DEGRADED, false, IS_READY, "Nothing has failed"),
            Condition::new(AVAILABLE, true, IS_READY, "Everything is there and works"),
        ],
    }
}

/// The list for a status: with the times of transitions, which only another status of a condition
/// changes, and the generation that was looked at.
pub fn list(resource: &Value, conditions: &[Condition], now: &str) -> Value {
    let before = resource.pointer("/status/conditions").and_then(Value::as_array);
    let generation = resource.pointer("/metadata/generation").cloned();
    let mut all: Vec<Value> = conditions
        .iter()
        .map(|one| {
            let same = before.into_iter().flatten().find(|old| {
                old.get("type").and_then(Value::as_str) == Some(&one.r#type)
                    && old.get("status").and_then(Value::as_str) == Some(&one.status)
            });
            let since = same.and_then(|old| old.get("lastTransitionTime")).cloned();
            let mut value = json!({
                "type": one.r#type,
                "status": one.status,
                "reason": one.reason,
                "message": one.message,
                "lastTransitionTime": since.unwrap_or_else(|| json!(now)),
            });
            if let (Some(object), Some(generation)) = (value.as_object_mut(), &generation) {
                object.insert("observedGeneration".to_owned(), generation.clone());
            }
            value
        })
        .collect();
    all.sort_by(|a, b| a["type"].as_str().cmp(&b["type"].as_str()));
    Value::Array(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_ready_when_nothing_is_lacking_and_degraded_only_by_a_failure() {
        let good = Condition::new("ServiceAvailable", true, IS_READY, "");
        let waits = Condition::new("StatefulSetAvailable", false, PROGRESSING, "0/1");
        let failed = Condition::new(CONFIGURATION, false, "UnsupportedDatabase", "mysql");
        let summed = |all: &[Condition]| {
            sum(all).map(|one| format!("{}={} {}", one.r#type, one.status, one.reason))
        };
        assert_eq!(
            summed(std::slice::from_ref(&good)),
            ["Ready=True Ready", "Degraded=False Ready", "Available=True Ready"]
        );
        assert_eq!(
            summed(&[good.clone(), waits.clone()]),
            [
                "Ready=False Progressing",
                "Degraded=False Progressing",
                "Available=False Progressing"
            ]
        );
        assert_eq!(
            summed(&[good, waits, failed]),
            ["Ready=False Failed", "Degraded=True Failed", "Available=False Failed"]
        );
    }

    #[test]
    fn the_time_of_a_transition_stays_while_the_status_does() {
        let resource = json!({"metadata": {"generation": 3}, "status": {"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "then"},
            {"type": "Degraded", "status": "True", "lastTransitionTime": "then"}]}});
        let now = [
            Condition::new(READY, true, IS_READY, "other words"),
            Condition::new(DEGRADED, false, IS_READY, ""),
        ];
        let listed = list(&resource, &now, "now");
        assert_eq!(listed[0]["type"], DEGRADED);
        assert_eq!(listed[0]["lastTransitionTime"], "now");
        assert_eq!(listed[1]["lastTransitionTime"], "then");
        assert_eq!(listed[1]["observedGeneration"], 3);
        assert_eq!(of(&json!({"status": {"conditions": listed}})).len(), 2);
    }
}
