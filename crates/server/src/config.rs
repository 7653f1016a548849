//! The server's configuration: a file in SPIRE's form (HCL 1 or JSON), then flags, then defaults.
//!
//! A [`Config`] is fully checked: nothing is bound, opened or created while it is made, and no
//! I/O happens besides reading the files it names as configuration.

mod audit;
mod console;
mod federation;
mod flags;
mod load;
mod oidc;
mod policy;
mod second_jwt;

use std::{path::PathBuf, time::Duration};

use signet_authority::SecondJwtOptions;
use signet_config::{Cidr, HealthSettings, LogSettings, TelemetrySettings};
use signet_identity::{SpiffeId, TrustDomain};
use signet_oidc::config::Serving;
use signet_pki::KeyType;

pub use audit::{AuditSettings, OtlpTarget};
pub use console::ConsoleSettings;
pub use federation::{BundleEndpoint, EndpointProfile, Federation, ServingCertFile};
pub use flags::RunFlags;

use crate::{
    plugins::{Plugins, data_store::StoreRules},
    policy::PolicySettings,
};

/// Everything `signet-server run` was told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that was read.
    pub file: PathBuf,
    /// `trust_domain`, required.
    pub trust_domain: TrustDomain,
    /// `data_dir`, required: where the server keeps its files.
    pub data_dir: PathBuf,
    /// `bind_address`, default `0.0.0.0`: an address without brackets, or a host name.
    pub bind_address: String,
    /// `bind_port`, default 8081.
    pub bind_port: u16,
    /// `socket_path`: the local API socket, as an absolute path.
    pub socket_path: PathBuf,
    /// The `ca_*` keys, `jwt_key_type` included.
    pub ca: CaSettings,
    /// The default lifetimes.
    pub ttl: TtlSettings,
    /// `jwt_issuer`: the `iss` claim of JWT-SVIDs; none unless set.
    pub jwt_issuer: Option<String>,
    /// `disable_jwt_svids`, default false.
    pub disable_jwt_svids: bool,
    /// `admin_ids`: callers that are administrators without an entry; may be foreign.
    pub admin_ids: Vec<SpiffeId>,
    /// `tenancy`, `tenant_path_template` and `policy_file` (our own keys).
    pub policy: PolicySettings,
    /// `audit` (our own block).
    pub audit: AuditSettings,
    /// `audit_log_enabled`, default false.
    pub audit_log_enabled: bool,
    /// `ratelimit`.
    pub ratelimit: RateLimits,
    /// `prune_attested_nodes_*` and `prune_tofu_nodes`; none leaves expired agents in the store.
    pub prune_nodes: Option<PruneNodes>,
    /// `max_store_staleness` (our own key), default 15 minutes: how long the server goes on
    /// answering from memory when its store cannot be reached.
    pub max_store_staleness: Duration,
    /// `proxy_protocol_trusted_cidrs`: load balancers whose PROXY header is believed.
    pub proxy_protocol_trusted_cidrs: Vec<Cidr>,
    /// The `log_*` keys.
    pub log: LogSettings,
    /// `federation`.
    pub federation: Federation,
    /// `oidc_discovery_provider` (our own block): serves the documents by which others verify
    /// JWT-SVIDs.
    pub oidc: Option<Serving>,
    /// `console {}`: the web console, off unless it is there.
    pub console: Option<ConsoleSettings>,
    /// `experimental`.
    pub experimental: Experimental,
    /// `plugins`.
    pub plugins: Plugins,
    /// `telemetry`.
    pub telemetry: TelemetrySettings,
    /// `health_checks`, when its listener is enabled.
    pub health_checks: Option<HealthSettings>,
    /// Sentences that are logged at start: settings that work, but not as one may think.
    pub warnings: Vec<String>,
}

impl Config {
    /// What a data store is opened by beside its own settings.
    pub(crate) fn store_rules(&self) -> StoreRules {
        StoreRules {
            changes_max_age: self.experimental.prune_events_older_than,
            unknown_bundles: !self.federation.require_bundle,
        }
    }
}

/// How the server's own authorities are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaSettings {
    /// `ca_key_type`, default P-256.
    pub key_type: KeyType,
    /// `jwt_key_type`, default `ca_key_type`.
    pub jwt_key_type: KeyType,
    /// `second_jwt_key` (our own block): a JWT key of another algorithm, and for which audiences it
    /// signs; none by default.
    pub second_jwt: Option<SecondJwtOptions>,
    /// `ca_subject`, default C=US, O=SPIFFE.
    pub subject: CaSubject,
    /// `ca_ttl`, default 24 hours: the lifetime of X.509 and JWT authorities.
    pub ttl: Duration,
    /// `local_intermediate` and `local_intermediate_ttl` (our own keys): how long a CA in memory
    /// lives that signs X.509-SVIDs in place of a key that is elsewhere; off by default.
    pub local_intermediate: Option<Duration>,
    /// The flag `-replaceLostKeys`: whether a new authority is made when the key of the one that
    /// signs was lost.
    pub replace_lost_keys: bool,
}

/// WIT-SVIDs, which `experimental { feature_flags = ["wit-svid"] }` switches on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitSettings {
    /// `wit_key_type`, default `ca_key_type`.
    pub key_type: KeyType,
    /// `wit_issuer`: the `iss` claim of WIT-SVIDs; none unless set.
    pub issuer: Option<String>,
}

/// The subject of X.509 authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaSubject {
    /// The C attributes.
    pub country: Vec<String>,
    /// The O attributes.
    pub organization: Vec<String>,
    /// The CN attribute.
    pub common_name: Option<String>,
}

impl Default for CaSubject {
    fn default() -> Self {
        Self {
            country: vec!["US".to_owned()],
            organization: vec!["SPIFFE".to_owned()],
            common_name: None,
        }
    }
}

/// Lifetimes of what the server signs, unless an entry says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TtlSettings {
    /// `default_x509_svid_ttl`, default 1 hour.
    pub x509_svid: Duration,
    /// `default_jwt_svid_ttl`, default 5 minutes.
    pub jwt_svid: Duration,
    /// `agent_ttl`, default `default_x509_svid_ttl`.
    pub agent: Duration,
}

/// Which calls are limited by the caller's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimits {
    /// `attestation`, default true.
    pub attestation: bool,
    /// `signing`, default true.
    pub signing: bool,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self { attestation: true, signing: true }
    }
}

/// When records of expired agents are deleted; banned ones never are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PruneNodes {
    /// `prune_attested_nodes_expired_for`: how long ago the agent's SVID must have expired.
    pub expired_for: Duration,
    /// `prune_attested_nodes_batch_size`, default 1000: how many are deleted at a time.
    pub batch_size: u32,
    /// `prune_tofu_nodes`, default false: whether agents that cannot attest again go too.
    pub tofu: bool,
}

/// `experimental`, where SPIRE's own knobs still mean something here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Experimental {
    /// `agent_spiffe_id_as_selector`, default false: agents also get a `spiffe_id:<ID>` selector.
    pub agent_spiffe_id_as_selector: bool,
    /// `prune_events_older_than`, default 12 hours: how long the store keeps its change feed.
    pub prune_events_older_than: Duration,
    /// `require_pq_kem`, default false: TLS 1.3 with hybrid post-quantum key exchange only.
    pub require_pq_kem: bool,
    /// `feature_flags` with `wit-svid`: WIT-SVIDs are issued; none by default.
    pub wit: Option<WitSettings>,
}

impl Default for Experimental {
    fn default() -> Self {
        Self {
            agent_spiffe_id_as_selector: false,
            prune_events_older_than: Duration::from_secs(12 * 3600),
            require_pq_kem: false,
            wit: None,
        }
    }
}
