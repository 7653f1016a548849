//! The specifications of the operator's resources, as they are written. Their definitions
//! (`deploy/operator/crds`) put in the defaults and check the forms; what is missing here all the
//! same counts as its default.

use std::collections::BTreeMap;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// `ZeroTrustWorkloadIdentityManager`: what all parts have in common.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ManagerSpec {
    /// The trust domain.
    pub trust_domain: String,
    /// The name of this cluster.
    pub cluster_name: String,
    /// The ConfigMap of the trust bundle; `spire-bundle` unless set.
    pub bundle_config_map: String,
}

impl ManagerSpec {
    /// The ConfigMap of the trust bundle.
    pub fn bundle(&self) -> &str {
        or(&self.bundle_config_map, "spire-bundle")
    }
}

/// What every part has.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Common {
    /// Labels of every object of the part.
    pub labels: BTreeMap<String, String>,
    /// Requests and limits of the part's containers; the measured ones unless set.
    pub resources: Option<Value>,
    /// Which nodes are preferred.
    pub affinity: Option<Value>,
    /// Which taints are tolerated.
    pub tolerations: Vec<Value>,
    /// Labels that the node has to have.
    pub node_selector: BTreeMap<String, String>,
}

/// `SpireServer`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerSpec {
    /// `debug`, `info`, `warn` or `error`.
    pub log_level: String,
    /// `text` or `json`.
    pub log_format: String,
    /// What JWT-SVIDs say of their issuer.
    pub jwt_issuer: String,
    /// How long a CA certificate is valid.
    #[serde(rename = "caValidity")]
    pub ca_validity: String,
    /// How long an X.509-SVID is valid whose entry does not say.
    #[serde(rename = "defaultX509Validity")]
    pub x509_validity: String,
    /// How long a JWT-SVID is valid whose entry does not say.
    #[serde(rename = "defaultJWTValidity")]
    pub jwt_validity: String,
    /// `rsa-2048`, `rsa-4096`, `ec-p256` or `ec-p384`.
    pub ca_key_type: String,
    /// The same for JWT keys; the CA's unless set.
    pub jwt_key_type: String,
    /// Where keys are.
    pub key_manager: Option<KeyManager>,
    /// The subject of CA certificates.
    pub ca_subject: Subject,
    /// The server's volume.
    pub persistence: Persistence,
    /// The server's database.
    pub datastore: DataStore,
    /// The bundle endpoint, and other trust domains.
    pub federation: Option<Federation>,
    /// What every part has.
    #[serde(flatten)]
    pub common: Common,
}

/// Where the server's keys are: exactly one is `"true"`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KeyManager {
    /// On the volume.
    pub disk_enabled: String,
    /// In memory: each start makes new authorities.
    pub memory_enabled: String,
}

/// The subject of CA certificates.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subject {
    /// C.
    pub country: String,
    /// O.
    pub organization: String,
    /// CN.
    pub common_name: String,
}

/// The server's volume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Persistence {
    /// For example `1Gi`.
    pub size: String,
    /// For example `ReadWriteOnce`.
    pub access_mode: String,
    /// The cluster's default unless set.
    pub storage_class: String,
}

/// The server's database.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataStore {
    /// `sqlite3` or `postgres`; others are refused.
    pub database_type: String,
    /// A file, or PostgreSQL's connection string.
    pub connection_string: String,
    /// A Secret with certificates, mounted at [`DATABASE_CERTIFICATES`](super::render::DATABASE_CERTIFICATES).
    pub tls_secret_name: String,
    /// The most connections; 0 for the server's own limit.
    pub max_open_conns: u64,
    /// The most connections without work.
    pub max_idle_conns: u64,
    /// Seconds until a connection is replaced; 0 for never.
    pub conn_max_lifetime: u64,
    /// `"true"` to refuse a database of another version.
    pub disable_migration: String,
}

/// Federation with other trust domains.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Federation {
    /// How others fetch the own bundle.
    pub bundle_endpoint: BundleEndpoint,
    /// Whose bundles are fetched.
    pub federates_with: Vec<FederatesWith>,
    /// `"false"` for no Route.
    pub managed_route: String,
}

/// How others fetch the own bundle.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BundleEndpoint {
    /// `https_spiffe` or `https_web`.
    pub profile: String,
    /// Seconds; 300 unless set.
    pub refresh_hint: u64,
    /// The certificate, for `https_web`.
    pub https_web: Option<HttpsWeb>,
}

/// The certificate of an endpoint `https_web`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpsWeb {
    /// By ACME.
    pub acme: Option<Acme>,
    /// From a Secret.
    pub serving_cert: Option<ServingCert>,
}

/// A certificate that an authority issues to the server itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Acme {
    /// The authority's directory, `https://…`.
    pub directory_url: String,
    /// The endpoint's name.
    pub domain_name: String,
    /// Whom the authority may write to.
    pub email: String,
    /// `true` when the authority's terms of service are accepted.
    pub tos_accepted: String,
}

/// A certificate in a Secret.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServingCert {
    /// Seconds between looks at the files.
    pub file_sync_interval: u64,
    /// The Secret, with `tls.crt` and `tls.key`.
    pub external_secret_ref: String,
}

/// Another trust domain.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FederatesWith {
    /// Its name.
    pub trust_domain: String,
    /// Where its bundle is.
    pub bundle_endpoint_url: String,
    /// `https_spiffe` or `https_web`.
    pub bundle_endpoint_profile: String,
    /// Who serves it, for `https_spiffe`.
    pub endpoint_spiffe_id: String,
    /// Its bundle to begin with, a SPIFFE bundle document. Only Signet's operator has this field.
    pub trust_domain_bundle: String,
}

/// `SpireAgent`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentSpec {
    /// The nodes' directory of the Workload API's socket.
    pub socket_path: String,
    /// `debug`, `info`, `warn` or `error`.
    pub log_level: String,
    /// `text` or `json`.
    pub log_format: String,
    /// How the agent proves which node it is on.
    pub node_attestor: Option<NodeAttestor>,
    /// How callers are identified.
    pub workload_attestors: Option<WorkloadAttestors>,
    /// What every part has.
    #[serde(flatten)]
    pub common: Common,
}

/// How the agent proves which node it is on.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeAttestor {
    /// `"false"` is refused: there is no other way.
    #[serde(rename = "k8sPSATEnabled")]
    pub k8s_psat: String,
}

/// How callers are identified.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadAttestors {
    /// `"false"` is refused: there is no other way.
    #[serde(rename = "k8sEnabled")]
    pub k8s: String,
    /// How the kubelet is verified.
    pub workload_attestors_verification: Option<Verification>,
    /// `"true"` for no selectors of containers.
    pub disable_container_selectors: String,
    /// No effect: there is one way to find a container here.
    pub use_new_container_locator: String,
}

/// How the kubelet is verified.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Verification {
    /// `auto`, `hostCert` or `skip`.
    pub r#type: String,
    /// The nodes' directory of the certificate.
    pub host_cert_base_path: String,
    /// The certificate's file.
    pub host_cert_file_name: String,
}

/// `SpiffeCSIDriver`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CsiSpec {
    /// The nodes' directory of the Workload API's socket.
    pub agent_socket_path: String,
    /// The driver's name.
    pub plugin_name: String,
    /// What every part has.
    #[serde(flatten)]
    pub common: Common,
}

/// `SpireOIDCDiscoveryProvider`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OidcSpec {
    /// `debug`, `info`, `warn` or `error`.
    pub log_level: String,
    /// `text` or `json`.
    pub log_format: String,
    /// The CSI driver that gives the provider its socket.
    #[serde(rename = "csiDriverName")]
    pub csi_driver: String,
    /// The issuer.
    pub jwt_issuer: String,
    /// How many there are.
    pub replica_count: u64,
    /// `"false"` for no Route.
    pub managed_route: String,
    /// A Secret with the certificate.
    pub external_secret_ref: String,
    /// What every part has.
    #[serde(flatten)]
    pub common: Common,
}

impl AgentSpec {
    /// The nodes' directory of the Workload API's socket.
    pub fn sockets(&self) -> &str {
        or(&self.socket_path, SOCKETS)
    }
}

impl CsiSpec {
    /// The nodes' directory of the Workload API's socket.
    pub fn sockets(&self) -> &str {
        or(&self.agent_socket_path, SOCKETS)
    }

    /// The driver's name.
    pub fn driver(&self) -> &str {
        or(&self.plugin_name, DRIVER)
    }
}

impl OidcSpec {
    /// The CSI driver that gives the provider its socket.
    pub fn driver(&self) -> &str {
        or(&self.csi_driver, DRIVER)
    }
}

const SOCKETS: &str = "/run/spire/agent-sockets";
const DRIVER: &str = "csi.spiffe.io";

/// The specification of a resource; one that is not there is empty.
///
/// # Errors
/// What in it cannot be read.
pub(super) fn spec<T: DeserializeOwned>(resource: &Value) -> Result<T, String> {
    let spec = resource.get("spec").filter(|spec| !spec.is_null()).cloned();
    serde_json::from_value(spec.unwrap_or_else(|| json!({})))
        .map_err(|error| format!("spec: {error}"))
}

/// `text` unless it is empty.
pub(super) fn or<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}

/// What `"true"` and `"false"` mean, in fields that have both as texts.
pub(super) fn is_true(text: &str, default: bool) -> bool {
    match text {
        "true" => true,
        "false" => false,
        _ => default,
    }
}
