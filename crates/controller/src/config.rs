//! The configuration: spire-controller-manager's `ControllerManagerConfig`.
//!
//! Read once, checked whole, before anything is bound, opened or asked.

mod check;
mod file;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use signet_base::files::read_regular_text;
use signet_config::{HealthSettings, LogSettings, PrometheusSettings};
use signet_identity::TrustDomain;

pub use self::file::File;
use crate::ownership::Ownership;

/// A configuration that is whole.
#[derive(Debug)]
pub struct Config {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The name of the cluster.
    pub cluster_name: String,
    /// Its DNS domain; `None` to find it out.
    pub cluster_domain: Option<String>,
    /// Namespaces to leave alone.
    pub ignore_namespaces: Vec<regex::Regex>,
    /// The class of resources that are ours, and whether those without one are.
    pub class: crate::cluster::Class,
    /// Makes the parent ID of a node's pods.
    pub parent_id: crate::template::Template,
    /// Which entries are ours.
    pub ownership: Ownership,
    /// Which resources are acted upon.
    pub reconcile: Reconcile,
    /// The registration server's local socket.
    pub server_socket: PathBuf,
    /// The longest answer of the server, bytes.
    pub max_message: Option<usize>,
    /// How often a server without push is listed.
    pub interval: Duration,
    /// Resources from files, in place of Kubernetes.
    pub manifests: Option<ManifestSettings>,
    /// Namespaces to which pods and services are confined; all when empty.
    pub namespaces: Vec<NamespaceScope>,
    /// Leader election, if there is one.
    pub election: Option<ElectionSettings>,
    /// The webhook, if it is offered.
    pub webhook: Option<WebhookSettings>,
    /// The metrics endpoint.
    pub metrics: Option<PrometheusSettings>,
    /// The health endpoint.
    pub health: Option<HealthSettings>,
    /// Logs.
    pub log: LogSettings,
    /// How long open calls may take to end.
    pub grace: Duration,
    /// What is accepted and has no effect, and the like.
    pub warnings: Vec<String>,
}

/// Which resources are acted upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconcile {
    /// ClusterSPIFFEIDs.
    pub spiffe_ids: bool,
    /// ClusterStaticEntries.
    pub static_entries: bool,
    /// ClusterFederatedTrustDomains.
    pub federated_trust_domains: bool,
}

/// `staticManifestPath`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestSettings {
    /// The directory.
    pub directory: PathBuf,
    /// Whether `$VAR` in files is replaced.
    pub expand_env: bool,
}

/// One of `cacheNamespaces`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceScope {
    /// The namespace.
    pub name: String,
    /// A label selector, `a=b,c=d`; may be empty.
    pub labels: String,
    /// A field selector, `a=b,c=d`; may be empty.
    pub fields: String,
}

/// `leaderElection`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElectionSettings {
    /// The lease.
    pub name: String,
    /// Its namespace; `None` for the program's own.
    pub namespace: Option<String>,
    /// How long a lease that nobody renews is respected.
    pub lease_duration: Duration,
    /// How long a leader goes on without a renewal.
    pub renew_deadline: Duration,
    /// How often to try.
    pub retry_period: Duration,
}

impl ElectionSettings {
    /// The lease `name`, with the times that client-go has.
    pub fn of(name: String) -> Self {
        let [lease_duration, renew_deadline, retry_period] = [15, 10, 2].map(Duration::from_secs);
        Self { name, namespace: None, lease_duration, renew_deadline, retry_period }
    }
}

/// The webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookSettings {
    /// Where it listens; empty for everywhere.
    pub host: String,
    /// On which port.
    pub port: u16,
    /// The ValidatingWebhookConfiguration that is kept up to date.
    pub configuration: String,
}

/// What the command line says.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RunFlags {
    /// The configuration file (YAML, ControllerManagerConfig)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Replace $VAR and ${VAR} in the configuration file by environment variables
    #[arg(long = "expandEnv", alias = "expand-env")]
    pub expand_env: bool,
    /// The kubeconfig file to use in place of $KUBECONFIG, the pod's own account or ~/.kube/config
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The server's socket, where the file does not name one (deprecated)
    #[arg(long = "spire-api-socket", value_name = "PATH", hide = true)]
    pub server_socket: Option<PathBuf>,
    /// The log level in place of the file's: debug, info, warn or error
    #[arg(long = "zap-log-level", value_name = "LEVEL", hide = true)]
    pub log_level: Option<String>,
    /// The log encoding in place of the file's: console or json
    #[arg(long = "zap-encoder", value_name = "ENCODING", hide = true)]
    pub log_encoding: Option<String>,
    /// No effect
    #[arg(long = "zap-devel", hide = true)]
    pub zap_devel: bool,
    /// No effect
    #[arg(long = "zap-stacktrace-level", hide = true)]
    pub zap_stacktrace_level: Option<String>,
    /// No effect
    #[arg(long = "zap-time-encoding", hide = true)]
    pub zap_time_encoding: Option<String>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Values are wrong: everything that is, a line each.
    #[error("{file}: {}", .problems.join(&format!("\n{file}: ")))]
    Invalid {
        /// The file.
        file: String,
        /// What is wrong.
        problems: Vec<String>,
    },
    /// The file cannot be read.
    #[error("{file}: {source}")]
    Read {
        /// The file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not such a configuration; says the line.
    #[error("{file}: {why}")]
    Syntax {
        /// The file.
        file: String,
        /// What is wrong, with line and column.
        why: String,
    },
}

/// The longest file that is read, bytes.
const MAX_FILE: u64 = 1024 * 1024;

impl Config {
    /// Reads and checks the configuration; `env` reads environment variables.
    ///
    /// # Errors
    /// [`ConfigError`] when it cannot be read, or names what is unknown, missing or out of range.
    pub fn load(
        flags: &RunFlags,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let Some(path) = &flags.config else {
            return Self::parse("(no file)", "", flags, env);
        };
        let file = path.display().to_string();
        let read = |source| ConfigError::Read { file: file.clone(), source };
        let mut text = read_regular_text(path, MAX_FILE).map_err(read)?;
        if flags.expand_env {
            text = signet_config::expand_env(&text, env);
        }
        Self::parse(&file, &text, flags, env)
    }

    /// As [`Config::load`], from the text of a file; an empty text is an empty configuration.
    ///
    /// # Errors
    /// [`ConfigError`] when it cannot be read, or names what is unknown, missing or out of range.
    pub fn parse(
        file: &str,
        text: &str,
        flags: &RunFlags,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let read = if text.trim().is_empty() {
            File::default()
        } else {
            serde_saphyr::from_str_with_options(text, yaml()).map_err(|error| {
                ConfigError::Syntax { file: file.to_owned(), why: error.to_string() }
            })?
        };
        check::check(read, flags, env)
            .map_err(|problems| ConfigError::Invalid { file: file.to_owned(), problems })
    }
}

/// How YAML is read, here and in manifests: of a key that stands twice the last counts, as in the
/// reader of spire-controller-manager.
pub(crate) fn yaml() -> serde_saphyr::Options {
    serde_saphyr::options! {
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::LastWins,
    }
}

/// Splits `host:port`, `:port` and `[v6]:port`; an empty host is every address.
pub(crate) fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let wrong = || format!("{text:?} is no address; expected host:port or :port");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.contains(':') && host.parse::<IpAddr>().is_err() {
        return Err(wrong());
    }
    Ok((if host.is_empty() { "::".to_owned() } else { host.to_owned() }, port))
}
