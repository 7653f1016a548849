//! The server's `plugins {}`: one typed value for each plugin that this build has.

use std::path::PathBuf;

pub use super::kubernetes::{
    K8sBundle, K8sBundleCluster, K8sCluster, K8sConfigMap, K8sConfigMapCluster, K8sPsat,
};
pub use signet_daemon::config::{Configured, PluginSource};

/// The server's plugins, each kind with as many as it allows.
#[derive(Clone, Debug)]
pub struct Plugins {
    /// `DataStore`: exactly one.
    pub data_store: DataStore,
    /// `KeyManager`: exactly one.
    pub key_manager: Configured<KeyManager>,
    /// `NodeAttestor`: any number, no two of one name.
    pub node_attestors: Vec<Configured<NodeAttestor>>,
    /// `UpstreamAuthority`: at most one.
    pub upstream_authority: Option<Configured<UpstreamAuthority>>,
    /// `CredentialComposer`: any number, in the order of the file.
    pub credential_composers: Vec<Configured<CredentialComposer>>,
    /// `Notifier`: any number.
    pub notifiers: Vec<Configured<Notifier>>,
    /// `BundlePublisher`: any number.
    pub bundle_publishers: Vec<Configured<BundlePublisher>>,
}

/// The registration store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataStore {
    /// `sql` with `database_type = "sqlite3"`.
    Sqlite(SqliteStore),
}

/// An SQLite database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteStore {
    /// The database file that `connection_string` names; none is a database in memory.
    pub path: Option<PathBuf>,
    /// `max_open_conns`, default 100: the most connections to the file; one of them writes. The
    /// store opens a few at most.
    pub max_open_conns: u32,
    /// `disable_migration`, default false: refuse to start rather than change the schema.
    pub disable_migration: bool,
}

/// Where the server's private keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyManager {
    /// In a file.
    Disk(DiskKeyManager),
    /// In memory: new authorities at each start.
    Memory,
}

/// `KeyManager "disk"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskKeyManager {
    /// `keys_path`, required.
    pub keys_path: PathBuf,
    /// What the file is sealed with (our own keys); none leaves it readable, as SPIRE writes it.
    pub seal: Option<SealKey>,
}

/// What a key file is sealed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SealKey {
    /// `seal_key_file`: a file of 32 random bytes.
    KeyFile(PathBuf),
    /// `seal_passphrase_file`: a file whose first line is a passphrase.
    PassphraseFile(PathBuf),
}

/// How nodes prove what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeAttestor {
    /// `http_challenge`.
    HttpChallenge(HttpChallenge),
    /// `join_token`.
    JoinToken,
    /// `k8s_psat`.
    K8sPsat(K8sPsat),
    /// `x509pop`.
    X509Pop(X509Pop),
}

impl NodeAttestor {
    /// The plugin's name, which is also the attestation type.
    pub fn name(&self) -> &'static str {
        match self {
            Self::HttpChallenge(_) => "http_challenge",
            Self::JoinToken => "join_token",
            Self::K8sPsat(_) => "k8s_psat",
            Self::X509Pop(_) => "x509pop",
        }
    }
}

/// `NodeAttestor "http_challenge"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpChallenge {
    /// `allowed_dns_patterns`: regular expressions, one of which a host name must match; empty
    /// allows every name.
    pub allowed_dns_patterns: Vec<String>,
    /// `required_port`: the only port that is asked.
    pub required_port: Option<u16>,
    /// `allow_non_root_ports`, default true: whether ports of 1024 and above are asked.
    pub allow_non_root_ports: bool,
    /// `tofu`, default true: whether a host attests once only.
    pub tofu: bool,
}

/// `NodeAttestor "x509pop"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X509Pop {
    /// `mode` and what belongs to it.
    pub mode: X509PopMode,
    /// `agent_path_template`: none is the mode's own form of agent IDs.
    pub agent_path_template: Option<String>,
    /// `max_intermediates`, default 4.
    pub max_intermediates: u32,
    /// `max_rsa_key_size` in bits, default 8192.
    pub max_rsa_key_size: u32,
    /// `verify_client_ip`, default false: whether the certificate must name the caller's address.
    pub verify_client_ip: bool,
}

/// Whose certificates x509pop accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum X509PopMode {
    /// `external_pki`, the default: those of another PKI.
    ExternalPki {
        /// `ca_bundle_path` or `ca_bundle_paths`: PEM files of its authorities, at least one.
        ca_bundle_paths: Vec<PathBuf>,
    },
    /// `spiffe`: X.509-SVIDs of the server's own trust domain.
    Spiffe {
        /// `spiffe_prefix` (or `svid_prefix`), default `/spire-exchange/`: what an SVID's path
        /// starts with; ends with a slash.
        svid_prefix: String,
    },
}

/// Who signs the server's X.509 authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamAuthority {
    /// `disk`.
    Disk(DiskUpstream),
}

/// `UpstreamAuthority "disk"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskUpstream {
    /// `cert_file_path`, required: the authority's certificate, then the chain to its root.
    pub cert_file_path: PathBuf,
    /// `key_file_path`, required: the authority's private key.
    pub key_file_path: PathBuf,
    /// `bundle_file_path`: the root certificates, unless the authority is its own root.
    pub bundle_file_path: Option<PathBuf>,
}

/// What changes the content of SVIDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialComposer {
    /// `uniqueid`: adds an x509UniqueIdentifier to the subject of workload X.509-SVIDs.
    UniqueId,
}

/// Who is told of each new bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notifier {
    /// `k8sbundle`.
    K8sBundle(K8sBundle),
}

/// Who publishes the bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundlePublisher {
    /// `k8s_configmap`.
    K8sConfigMap(K8sConfigMap),
}
