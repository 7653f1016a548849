//! What each ClusterSPIFFEID makes of one pod, and why, for people.

use std::fmt;

use signet_identity::SpiffeId;

use super::{ClusterState, Pair};
use crate::fingerprint::{EntryBody, EntryKey};

/// What a ClusterSPIFFEID makes of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nothing: an entry cannot be rendered.
    Fails(String),
    /// An identity.
    Gives {
        /// Which.
        spiffe_id: SpiffeId,
        /// The entry.
        key: EntryKey,
        /// What it says.
        body: EntryBody,
    },
    /// Nothing: its specification cannot be used.
    Invalid(String),
    /// Nothing: its namespaceSelector does not select the pod's namespace.
    OtherNamespace,
    /// Nothing: its podSelector does not select the pod, which has these labels.
    OtherPod(String),
    /// Nothing: it is a fallback, and another one gives the pod an identity.
    Skipped,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fails(why) => write!(f, "selects it, but fails: {why}"),
            Self::Gives { spiffe_id, .. } => write!(f, "gives it {spiffe_id}"),
            Self::Invalid(why) => write!(f, "is invalid: {why}"),
            Self::OtherNamespace => f.write_str("namespaceSelector does not select its namespace"),
            Self::OtherPod(labels) if labels.is_empty() => {
                f.write_str("podSelector does not select it: it has no labels")
            }
            Self::OtherPod(labels) => {
                write!(f, "podSelector does not select it: its labels are {labels}")
            }
            Self::Skipped => {
                f.write_str("is a fallback, and another one gives the pod an identity")
            }
        }
    }
}

impl ClusterState {
    /// What each ClusterSPIFFEID of ours makes of the pod `namespace/name`, by the names of the
    /// resources.
    pub fn explain(&self, pod: &str) -> Vec<(String, Finding)> {
        let state = self.pod_names.get(pod).and_then(|id| Some((id, self.pods.get(id)?)));
        let Some((id, state)) = state else { return Vec::new() };
        let namespace = self.namespaces.get(&state.pod.namespace);
        let labels = namespace.and_then(|namespace| namespace.labels.as_ref());
        let mut findings: Vec<(String, Finding)> = self
            .rules
            .iter()
            .map(|(source, rule)| {
                let pair = state.pairs.iter().find(|(one, _)| one == source).map(|(_, pair)| *pair);
                let finding = match (&rule.rule, pair) {
                    (Err(why), _) => Finding::Invalid(why.clone()),
                    (Ok(parsed), Some(Pair::Declared(key, body))) => {
                        let draft = self
                            .view(&state.pod)
                            .and_then(|seen| self.render(parsed, &state.pod, &seen));
                        match draft {
                            Ok(draft) => Finding::Gives { spiffe_id: draft.spiffe_id, key, body },
                            Err(why) => Finding::Fails(why),
                        }
                    }
                    (Ok(_), Some(Pair::Failed)) => {
                        Finding::Fails(rule.failures.get(id).cloned().unwrap_or_default())
                    }
                    (Ok(_), Some(Pair::Skipped)) => Finding::Skipped,
                    (Ok(parsed), None) => {
                        if labels.is_some_and(|labels| parsed.namespaces.matches(labels)) {
                            let labels = state.pod.labels.iter();
                            let labels: Vec<String> =
                                labels.map(|(key, value)| format!("{key}={value}")).collect();
                            Finding::OtherPod(labels.join(", "))
                        } else {
                            Finding::OtherNamespace
                        }
                    }
                };
                (rule.meta.name.clone(), finding)
            })
            .collect();
        findings.sort_by(|(a, _), (b, _)| a.cmp(b));
        findings
    }
}
