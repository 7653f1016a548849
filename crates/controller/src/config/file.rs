//! The file as it is written: every key of spire-controller-manager 0.6.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct File {
    pub(super) api_version: Option<String>,
    pub(super) kind: Option<String>,
    /// Name and labels; of no meaning here.
    pub(super) metadata: Option<serde_json::Value>,
    pub(super) sync_period: Option<GoDuration>,
    pub(super) leader_election: Option<LeaderElection>,
    pub(super) cache_namespace: Option<String>,
    pub(super) cache_namespaces: Option<BTreeMap<String, Option<NamespaceConfig>>>,
    pub(super) graceful_shut_down: Option<GoDuration>,
    pub(super) controller: Option<Controller>,
    pub(super) metrics: Option<Metrics>,
    pub(super) health: Option<Health>,
    /// In older samples; spire-controller-manager does not look at it.
    pub(super) health_probe: Option<serde_json::Value>,
    pub(super) webhook: Option<Webhook>,
    pub(super) class_name: Option<String>,
    pub(super) watch_classless: Option<bool>,
    /// Written by the hardened Helm chart; spire-controller-manager 0.6 does not know it.
    pub(super) filter_by_class_name: Option<bool>,
    #[serde(rename = "parentIDTemplate")]
    pub(super) parent_id_template: Option<String>,
    pub(super) reconcile: Option<Reconcile>,
    #[serde(rename = "entryIDPrefix")]
    pub(super) entry_id_prefix: Option<String>,
    #[serde(rename = "entryIDPrefixCleanup")]
    pub(super) entry_id_prefix_cleanup: Option<String>,
    pub(super) static_manifest_path: Option<String>,
    pub(super) expand_env_static_manifests: Option<bool>,
    pub(super) enable_entry_render_cache: Option<bool>,
    pub(super) entry_render_cache_size: Option<i64>,
    pub(super) cluster_name: Option<String>,
    pub(super) cluster_domain: Option<String>,
    pub(super) trust_domain: Option<String>,
    pub(super) ignore_namespaces: Option<Vec<String>>,
    pub(super) validating_webhook_configuration_name: Option<String>,
    pub(super) gc_interval: Option<GoDuration>,
    #[serde(rename = "spireServerSocketPath")]
    pub(super) server_socket: Option<String>,
    pub(super) log_level: Option<String>,
    pub(super) log_encoding: Option<String>,
    pub(super) grpc: Option<Grpc>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct LeaderElection {
    pub(super) leader_elect: Option<bool>,
    pub(super) lease_duration: Option<GoDuration>,
    pub(super) renew_deadline: Option<GoDuration>,
    pub(super) retry_period: Option<GoDuration>,
    pub(super) resource_lock: Option<String>,
    pub(super) resource_name: Option<String>,
    pub(super) resource_namespace: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct NamespaceConfig {
    pub(super) label_selectors: BTreeMap<String, String>,
    pub(super) field_selectors: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Controller {
    pub(super) group_kind_concurrency: Option<BTreeMap<String, i64>>,
    pub(super) cache_sync_timeout: Option<GoDuration>,
    pub(super) recover_panic: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Metrics {
    pub(super) bind_address: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Health {
    pub(super) health_probe_bind_address: Option<String>,
    pub(super) readiness_endpoint_name: Option<String>,
    pub(super) liveness_endpoint_name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Webhook {
    pub(super) port: Option<i64>,
    pub(super) host: Option<String>,
    pub(super) cert_dir: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Reconcile {
    #[serde(rename = "clusterSPIFFEIDs")]
    pub(super) spiffe_ids: Option<bool>,
    #[serde(rename = "clusterFederatedTrustDomains")]
    pub(super) federated_trust_domains: Option<bool>,
    #[serde(rename = "clusterStaticEntries")]
    pub(super) static_entries: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Grpc {
    pub(super) max_call_recv_msg_size: Option<i64>,
}

/// A duration as Go has it: a text such as `10s`, or a number of nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GoDuration {
    /// May be negative.
    pub(super) nanos: i128,
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = GoDuration;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a duration such as 10s, or a number of nanoseconds")
            }

            fn visit_i64<E: de::Error>(self, nanos: i64) -> Result<GoDuration, E> {
                Ok(GoDuration { nanos: nanos.into() })
            }

            fn visit_u64<E: de::Error>(self, nanos: u64) -> Result<GoDuration, E> {
                Ok(GoDuration { nanos: nanos.into() })
            }

            fn visit_f64<E: de::Error>(self, nanos: f64) -> Result<GoDuration, E> {
                // Helm writes large numbers so: 1e+10. Up to 2^53 they are exact.
                if nanos.fract() != 0.0 || nanos.abs() > 9_007_199_254_740_992.0 {
                    return Err(E::invalid_value(de::Unexpected::Float(nanos), &self));
                }
                Ok(GoDuration { nanos: nanos as i128 })
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<GoDuration, E> {
                let (sign, rest) = match text.strip_prefix('-') {
                    Some(rest) => (-1, rest),
                    None => (1, text),
                };
                let duration = signet_config::parse_duration(rest)
                    .map_err(|error| E::custom(format!("{text:?}: {error}")))?;
                let nanos = i128::try_from(duration.as_nanos())
                    .map_err(|_| E::custom(format!("{text:?} is too long")))?;
                Ok(GoDuration { nanos: sign * nanos })
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}
