//! Where bundles go, and in which form.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use signet_identity::Bundle;
use signet_pki::jwks;

use super::super::api::ApiServer;

/// Where the bundle goes in one cluster.
#[derive(Debug)]
pub struct BundleTarget {
    /// The cluster.
    pub api: ApiServer,
    /// What the cluster is called in messages.
    pub cluster: String,
    /// The namespace of the ConfigMap.
    pub namespace: String,
    /// The name of the ConfigMap, which must be there.
    pub config_map: String,
    /// Its key that takes the certificates, PEM.
    pub config_map_key: String,
    /// Webhooks with this label set to `true` get the certificates, too.
    pub webhook_label: Option<String>,
    /// And APIServices with this one.
    pub api_service_label: Option<String>,
}

/// The X.509 authorities in the forms that objects take them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Authorities {
    pub(super) pem: Arc<str>,
    /// The PEM in base64, as `caBundle` takes it.
    pub(super) ca_bundle: Arc<str>,
}

impl Authorities {
    pub(super) fn of(bundle: &Bundle) -> Self {
        let pem = jwks::encode_pem(bundle);
        Self { ca_bundle: STANDARD.encode(&pem).into(), pem: pem.into() }
    }
}
