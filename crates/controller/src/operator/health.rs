//! Whether what runs a part is there: StatefulSets, DaemonSets, Deployments.

use serde_json::Value;

use super::{
    conditions::{Condition, IS_READY, PROGRESSING},
    kinds::Kind,
};
use crate::objects::text;

/// The condition of a workload, for kinds that are one.
pub fn workload(kind: Kind, part: &str, object: &Value) -> Option<Condition> {
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let (wanted, numbers): (i64, &[(&str, &str)]) = match kind {
        Kind::StatefulSet => (
            object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1),
            &[("updated", "updatedReplicas"), ("ready", "readyReplicas")],
        ),
        Kind::Deployment => (
            object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1),
            &[
                ("updated", "updatedReplicas"),
                ("ready", "readyReplicas"),
                ("available", "availableReplicas"),
            ],
        ),
        Kind::DaemonSet => (
            number("/status/desiredNumberScheduled"),
            &[
                ("updated", "updatedNumberScheduled"),
                ("ready", "numberReady"),
                ("available", "numberAvailable"),
            ],
        ),
        _ => return None,
    };
    let waits = |message: String| Some(Condition::new(part, false, PROGRESSING, message));
    let what = format!("{} {}", kind.name(), text(object, "/metadata/name"));
    if number("/status/observedGeneration") < number("/metadata/generation") {
        return waits(format!("{what} has just been changed"));
    }
    if kind == Kind::DaemonSet && wanted == 0 {
        return waits(format!("{what} has no node to run on"));
    }
    for (word, field) in numbers {
        let there = number(&format!("/status/{field}"));
        if there < wanted {
            return waits(format!("{what}: {there} of {wanted} {word}"));
        }
    }
    Some(Condition::new(part, true, IS_READY, format!("{what}: all {wanted} ready")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_workload_is_there_when_all_of_its_newest_pods_are_ready() {
        let message = |kind, object: Value| {
            let condition = workload(kind, "P", &object).unwrap();
            (condition.is_true(), condition.message)
        };
        let set = |ready: u64, observed: u64| {
            json!({"metadata": {"name": "s", "generation": 2}, "spec": {"replicas": 1}, "status": {
                "observedGeneration": observed, "updatedReplicas": 1, "readyReplicas": ready}})
        };
        assert_eq!(
            message(Kind::StatefulSet, set(1, 2)),
            (true, "StatefulSet s: all 1 ready".into())
        );
        assert!(!message(Kind::StatefulSet, set(1, 1)).0);
        assert_eq!(
            message(Kind::StatefulSet, set(0, 2)),
            (false, "StatefulSet s: 0 of 1 ready".into())
        );
        let daemons = |desired: u64| {
            json!({"metadata": {"name": "d"}, "status": {"desiredNumberScheduled": desired,
                "updatedNumberScheduled": 2, "numberReady": 2, "numberAvailable": 2}})
        };
        assert!(message(Kind::DaemonSet, daemons(2)).0);
        assert!(message(Kind::DaemonSet, daemons(3)).1.contains("2 of 3 updated"));
        assert!(message(Kind::DaemonSet, daemons(0)).1.contains("no node"));
        assert_eq!(workload(Kind::ConfigMap, "P", &json!({})), None);
    }
}
