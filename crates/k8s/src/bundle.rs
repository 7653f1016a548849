//! The server's trust bundle in Kubernetes: the notifier `k8sbundle` writes it into a ConfigMap,
//! webhooks and APIServices; the bundle publisher `k8s_configmap` into ConfigMaps.

mod inject;
mod notifier;
mod publisher;

use std::time::Duration;

use super::ApiError;

pub use self::{
    notifier::{BundleTarget, K8sBundle},
    publisher::{K8sConfigMap, PublishTarget},
};

/// How often a write is tried that others get ahead of, and the first pause between two tries.
const CONFLICT_TRIES: u32 = 5;
const CONFLICT_PAUSE: Duration = Duration::from_millis(20);

/// An error with its causes.
fn chain(error: &ApiError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        // Some causes are part of the text already.
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
