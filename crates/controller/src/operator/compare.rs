//! Whether an object is as it should be.
//!
//! The API server fills in defaults and other programs add fields of theirs (`caBundle` of a
//! webhook, `restartedAt` of a rollout), so an object is right when everything that is wanted is
//! there. Only in lists nothing else may be: a container or a mount that somebody added is drift,
//! which server-side apply alone would leave, for it belongs to somebody else.

use serde_json::Value;

/// How an object compares to what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Everything wanted is there, and lists hold nothing else.
    Same,
    /// Everything wanted is there, and lists hold more.
    More,
    /// Something is missing or different.
    Differs,
}

/// Compares what there is to what is wanted.
pub fn compare(there: &Value, wanted: &Value) -> Comparison {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => {
            let mut worst = Comparison::Same;
            for (key, wanted) in wanted {
                worst = worse(worst, compare(there.get(key).unwrap_or(&Value::Null), wanted));
            }
            worst
        }
        (Value::Array(there), Value::Array(wanted)) => lists(there, wanted),
        // What is empty is left out by API servers.
        (Value::Null, Value::Object(wanted)) if wanted.is_empty() => Comparison::Same,
        (Value::Null, Value::Array(wanted)) if wanted.is_empty() => Comparison::Same,
        (Value::Null, Value::String(wanted)) if wanted.is_empty() => Comparison::Same,
        (Value::Null, Value::Bool(false)) => Comparison::Same,
        _ if there == wanted => Comparison::Same,
        _ => Comparison::Differs,
    }
}

fn lists(there: &[Value], wanted: &[Value]) -> Comparison {
    let mut worst = Comparison::Same;
    let keyed = wanted.iter().all(|item| key(item).is_some());
    if keyed && !wanted.is_empty() {
        for item in wanted {
            let same = there.iter().find(|other| key(other) == key(item));
            worst = worse(worst, same.map_or(Comparison::Differs, |other| compare(other, item)));
        }
    } else {
        for (at, item) in wanted.iter().enumerate() {
            let same = there.get(at).unwrap_or(&Value::Null);
            worst = worse(worst, compare(same, item));
        }
    }
    if there.len() > wanted.len() { worse(worst, Comparison::More) } else { worst }
}

/// What an item of a list is known by: what server-side apply merges the lists of our objects by.
fn key(item: &Value) -> Option<&Value> {
    ["name", "mountPath", "uid", "containerPort", "port"].iter().find_map(|key| item.get(*key))
}

fn worse(a: Comparison, b: Comparison) -> Comparison {
    use Comparison::{Differs, More, Same};
    match (a, b) {
        (Differs, _) | (_, Differs) => Differs,
        (More, _) | (_, More) => More,
        (Same, Same) => Same,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_add_to_an_object_is_no_drift_and_what_they_add_to_a_list_is() {
        let wanted = json!({"spec": {"containers": [{"name": "a", "image": "x", "args": ["b"]}]}});
        for (there, expected) in [
            (wanted.clone(), Comparison::Same),
            (
                json!({"status": {}, "spec": {"dnsPolicy": "ClusterFirst", "containers": [
                    {"name": "a", "image": "x", "args": ["b"], "imagePullPolicy": "Always"}]}}),
                Comparison::Same,
            ),
            (
                json!({"spec": {"containers": [
                    {"name": "z"}, {"name": "a", "image": "x", "args": ["b"]}]}}),
                Comparison::More,
            ),
            (
                json!({"spec": {"containers": [{"name": "a", "image": "y", "args": ["b"]}]}}),
                Comparison::Differs,
            ),
            (
                json!({"spec": {"containers": [{"name": "a", "image": "x", "args": ["c"]}]}}),
                Comparison::Differs,
            ),
            (json!({"spec": {}}), Comparison::Differs),
            (json!({}), Comparison::Differs),
        ] {
            assert_eq!(compare(&there, &wanted), expected, "{there}");
        }
    }

    #[test]
    fn an_empty_value_that_the_api_server_leaves_out_is_no_difference() {
        let wanted = json!({"data": {}, "list": [], "text": "", "flag": false, "map": {"a": ""}});
        assert_eq!(compare(&json!({"map": {}}), &wanted), Comparison::Same);
        assert_eq!(compare(&json!({"flag": true}), &wanted), Comparison::Differs);
    }
}
