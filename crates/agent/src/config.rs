//! The agent's configuration: a file in SPIRE's form (HCL 1 or JSON), then flags, then defaults.
//!
//! A [`Config`] is fully checked: nothing is bound, opened or created while it is made, and no
//! I/O happens besides reading the files it names as configuration.

mod bootstrap;
pub(crate) mod broker;
mod csi;
mod flags;
mod load;
mod server_set;

use std::{fmt, path::PathBuf, time::Duration};

use signet_config::{HealthSettings, LogSettings, TelemetrySettings};
use signet_identity::{SpiffeId, TrustDomain};
use signet_pki::KeyType;
use zeroize::Zeroizing;

use crate::{csi::settings::CsiSettings, plugins::Plugins};

pub use broker::{BrokerRights, BrokerSettings, KUBERNETES_REFERENCE, PID_REFERENCE, Transports};
pub use flags::{CsiFlags, RunFlags};
pub use server_set::ServerSet;

/// Everything `signet-agent run` was told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that was read.
    pub file: PathBuf,
    /// `trust_domain`, required.
    pub trust_domain: TrustDomain,
    /// Where the servers are: the one set of `server_address` and `server_port`, or each
    /// `server_set` (our own blocks). Never empty.
    pub servers: Vec<ServerSet>,
    /// `data_dir`, default `.`: where the agent keeps its files.
    pub data_dir: PathBuf,
    /// `socket_path` as an absolute path; none when both APIs behind it are disabled.
    pub socket_path: Option<PathBuf>,
    /// `admin_socket_path` as an absolute path; none unless configured.
    pub admin_socket_path: Option<PathBuf>,
    /// `disable_workload_api`, default false.
    pub disable_workload_api: bool,
    /// `disable_sds_api`, default false.
    pub disable_sds_api: bool,
    /// `rebootstrap_mode`, default never.
    pub rebootstrap_mode: RebootstrapMode,
    /// `rebootstrap_delay`, default 10 minutes.
    pub rebootstrap_delay: Duration,
    /// `workload_x509_svid_key_type`, default P-256.
    pub workload_key_type: KeyType,
    /// `availability_target`: how long an SVID must outlast an outage; at least 24 hours.
    pub availability_target: Option<Duration>,
    /// `x509_svid_cache_max_size`, default 1000: a soft limit.
    pub x509_svid_cache_max_size: usize,
    /// `jwt_svid_cache_max_size`, default 1000: a hard limit.
    pub jwt_svid_cache_max_size: usize,
    /// `allow_unauthenticated_verifiers`, default false.
    pub allow_unauthenticated_verifiers: bool,
    /// `allowed_foreign_jwt_claims`, default none.
    pub allowed_foreign_jwt_claims: Vec<String>,
    /// `authorized_delegates`: members of the trust domain that may use the Delegated Identity API.
    pub authorized_delegates: Vec<SpiffeId>,
    /// `sds`.
    pub sds: SdsSettings,
    /// `csi` (our own block): the CSI driver, when it is on.
    pub csi: Option<CsiSettings>,
    /// The `log_*` keys.
    pub log: LogSettings,
    /// `take_over_sockets` (our own key), default false: whether sockets that another agent listens
    /// on are taken over; else the agent does not start.
    pub take_over_sockets: bool,
    /// `audit_log_enabled` (our own key), default false: a record for each answer with SVIDs and
    /// for each refusal.
    pub audit_log_enabled: bool,
    /// `log_selectors`: prefixes of workload selectors that may be written to the log.
    pub log_selectors: Vec<String>,
    /// `experimental { broker {} }`: the SPIFFE Broker Endpoint; off without.
    pub broker: Option<BrokerSettings>,
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

/// How the agent first learns the trust bundle of its server; exactly one is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bootstrap {
    /// `insecure_bootstrap`: the first server that answers is believed.
    Insecure,
    /// `trust_bundle_path`.
    Path {
        /// The file.
        path: PathBuf,
        /// `trust_bundle_format`.
        format: BundleFormat,
    },
    /// `trust_bundle_url`.
    Url {
        /// An `https://` URL, checked with the system's roots, or an `http://` URL together with
        /// `unix_socket`.
        url: String,
        /// `trust_bundle_unix_socket`: the socket that the request is made on.
        unix_socket: Option<PathBuf>,
        /// `trust_bundle_format`.
        format: BundleFormat,
    },
    /// `trust_bundle_spiffe_workload_api`: the Workload API of another agent.
    WorkloadApi {
        /// Its socket.
        socket: PathBuf,
    },
}

/// The form of the first trust bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BundleFormat {
    /// Concatenated PEM certificates; the default.
    #[default]
    Pem,
    /// A SPIFFE bundle document.
    Spiffe,
}

/// What the agent does when its server presents an unknown authority for long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RebootstrapMode {
    /// It goes on trying with the bundle it has; the default.
    #[default]
    Never,
    /// It bootstraps again if its attestor can attest again.
    Auto,
    /// It bootstraps again; its attestor must be able to attest again.
    Always,
}

/// The text of a join token; cleared from memory when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinTokenText(Zeroizing<String>);

impl JoinTokenText {
    /// Wraps a token.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The token itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for JoinTokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinTokenText(..)")
    }
}

/// The names under which Envoy's SDS asks for defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SdsSettings {
    /// `default_svid_name`, default `default`.
    pub default_svid_name: String,
    /// `default_bundle_name`, default `ROOTCA`.
    pub default_bundle_name: String,
    /// `default_all_bundles_name`, default `ALL`.
    pub default_all_bundles_name: String,
    /// `disable_spiffe_cert_validation`, default false.
    pub disable_spiffe_cert_validation: bool,
    /// `unknown_names` (our own key), default `refuse`.
    pub unknown_names: UnknownNames,
}

/// What becomes of a stream that asks for a name that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UnknownNames {
    /// `refuse`: it ends, as with SPIRE.
    #[default]
    Refuse,
    /// `wait`: it is answered once the name is there.
    Wait,
}

impl Default for SdsSettings {
    fn default() -> Self {
        Self {
            default_svid_name: "default".to_owned(),
            default_bundle_name: "ROOTCA".to_owned(),
            default_all_bundles_name: "ALL".to_owned(),
            disable_spiffe_cert_validation: false,
            unknown_names: UnknownNames::default(),
        }
    }
}

/// What an agent that starts without its server may serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SvidCache {
    /// `svid_cache = "off"`: nothing; the default with `KeyManager "memory"`.
    Off,
    /// `svid_cache = "sealed"`: what a sealed file in the data directory holds; the default with
    /// `KeyManager "disk"`.
    Sealed {
        /// `svid_cache_key_file`: 32 random bytes, made on first use, mode 0600. The default lies
        /// under `/run`, so it does not outlive a reboot.
        key_file: PathBuf,
    },
}

/// `experimental`, where SPIRE's own knobs still mean something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experimental {
    /// `sync_interval`, default 5 seconds: how often a server without push is asked.
    pub sync_interval: Duration,
    /// `use_sync_authorized_entries`, default true.
    pub use_sync_authorized_entries: bool,
    /// `jwt_svid_cache_hit_timeout`, at least 5 and below 30 seconds, default 30 seconds: how long
    /// a renewal may take while a JWT-SVID in memory is still valid.
    pub jwt_svid_cache_hit_timeout: Duration,
    /// `require_pq_kem`, default false: TLS 1.3 with hybrid post-quantum key exchange only.
    pub require_pq_kem: bool,
    /// `feature_flags` with `wit-svid`: whether WIT-SVIDs and WIT bundles are served.
    pub wit_svids: bool,
    /// `ratelimit`: calls a second and attested selector set; 0 is unlimited.
    pub ratelimit: WorkloadRateLimits,
}

impl Default for Experimental {
    fn default() -> Self {
        Self {
            sync_interval: Duration::from_secs(5),
            use_sync_authorized_entries: true,
            jwt_svid_cache_hit_timeout: Duration::from_secs(30),
            require_pq_kem: false,
            wit_svids: false,
            ratelimit: WorkloadRateLimits::default(),
        }
    }
}

/// Limits of the Workload API and SDS, in calls a second for each attested selector set; 0 is no
/// limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct WorkloadRateLimits {
    /// `fetch_x509_svid`: streams opened.
    pub fetch_x509_svid: u32,
    /// `fetch_jwt_svid`.
    pub fetch_jwt_svid: u32,
    /// `fetch_x509_bundles`: streams opened.
    pub fetch_x509_bundles: u32,
    /// `fetch_jwt_bundles`: streams opened.
    pub fetch_jwt_bundles: u32,
    /// `stream_secrets`: streams opened.
    pub stream_secrets: u32,
    /// `fetch_secrets`.
    pub fetch_secrets: u32,
}
