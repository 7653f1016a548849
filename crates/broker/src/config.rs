//! The configuration: one file, HCL or JSON, checked whole before anything is opened.

use std::{path::PathBuf, time::Duration};

use signet_config::{
    Block, ConfigError, Context, Document, HealthSettings, LogFlags, LogSettings,
    TelemetrySettings, health_checks, log_settings, telemetry,
};
use signet_daemon::settings::check_spiffe_id;
use signet_identity::{SpiffeId, TrustDomain};

use crate::issue::Limits;

/// Where the configuration is unless said otherwise.
pub const DEFAULT_FILE: &str = "/etc/signet/broker.conf";

/// A configuration that is whole.
#[derive(Clone, Debug)]
pub struct Config {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Where the journal is.
    pub data_dir: PathBuf,
    /// The policy.
    pub policy_file: PathBuf,
    /// The Workload API that the broker has its own identity from.
    pub workload_api: PathBuf,
    /// The agent's admin socket, for callers on [`Config::socket`].
    pub agent_admin: Option<PathBuf>,
    /// The Unix socket to serve on.
    pub socket: Option<PathBuf>,
    /// The address to serve mTLS on.
    pub bind: Option<(String, u16)>,
    /// The provider of the Secrets Store CSI driver.
    pub csi: Option<Csi>,
    /// What tokens must say.
    pub tokens: Tokens,
    /// How long what the server said is believed.
    pub max_staleness: Duration,
    /// The server of identities.
    pub server: ServerAt,
    /// OpenBao.
    pub openbao: OpenBao,
    /// What one identity may ask for.
    pub limits: Limits,
    /// The log.
    pub log: LogSettings,
    /// Metrics.
    pub telemetry: TelemetrySettings,
    /// Health checks.
    pub health: Option<HealthSettings>,
    /// What works, but not as one may think.
    pub warnings: Vec<String>,
}

/// The provider of the Secrets Store CSI driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Csi {
    /// Its socket, among those of the driver's providers.
    pub socket: PathBuf,
    /// The audience of the pods' tokens.
    pub audience: String,
    /// The path of a service account's identity, with `{namespace}` and `{name}`.
    pub path_template: String,
    /// The namespaces that are served; all when there are none.
    pub namespaces: Vec<String>,
    /// The cluster, if it is not the one that the broker runs in.
    pub kubeconfig: Option<PathBuf>,
}

/// What tokens must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// `iss`.
    pub issuer: Option<String>,
    /// The one audience.
    pub audience: String,
    /// The longest life.
    pub max_lifetime: Duration,
    /// Whether `jti` is needed.
    pub require_jti: bool,
    /// How often one may be used.
    pub uses: u32,
    /// The URIs, without a path, that this broker is called at and that proofs of WIT-SVIDs must
    /// be for. With none, WIT-SVIDs are not taken.
    pub proof_uris: Vec<String>,
}

/// Where the server of identities is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAt {
    /// At its local socket.
    Socket(PathBuf),
    /// Over mTLS, where the broker's SPIFFE ID is an administrator's.
    Tls {
        /// `host:port`.
        address: String,
        /// Who it must be.
        id: SpiffeId,
    },
}

/// Where OpenBao is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenBao {
    /// URLs: of one cluster.
    pub addresses: Vec<String>,
    /// The roots to trust, PEM; the machine's when there is none.
    pub ca_file: Option<PathBuf>,
    /// How long a call may take.
    pub timeout: Duration,
    /// The prefix of the audiences of the broker's own tokens: `<audience>/<tenant>`.
    pub audience: String,
    /// Keep the roles of certificate authentication in step with the trust bundle.
    pub cert_roles: bool,
    /// It is Vault: versions count otherwise.
    pub vault: bool,
}

/// Flags of `run` and `validate`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RunFlags {
    /// The configuration file
    #[arg(long = "config", value_name = "FILE", default_value = DEFAULT_FILE)]
    pub config: PathBuf,
    /// Replace ${VARIABLES} in the file by the environment's
    #[arg(long = "expandEnv")]
    pub expand_env: bool,
    /// Where to log to, in place of the file's log_file
    #[arg(long = "logFile", value_name = "FILE")]
    pub log_file: Option<String>,
    /// What to log, in place of the file's log_level
    #[arg(long = "logLevel", value_name = "LEVEL")]
    pub log_level: Option<signet_config::LogLevel>,
}

impl Config {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong.
    pub fn load(flags: &RunFlags) -> Result<Self, ConfigError> {
        let lookup = |name: &str| std::env::var(name).ok();
        let document = match flags.expand_env {
            true => signet_config::read(&flags.config, Some(&lookup))?,
            false => signet_config::read(&flags.config, None)?,
        };
        Self::decode(&document, flags)
    }

    /// Checks a document.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong.
    pub fn decode(document: &Document, flags: &RunFlags) -> Result<Self, ConfigError> {
        let decoded = signet_config::decode_document(document, |context, document| {
            decode(context, document, flags)
        });
        decoded.map(|(config, warnings)| Self { warnings, ..config })
    }
}

fn decode(context: &Context, document: &Document, flags: &RunFlags) -> Option<Config> {
    let root = Block::root(context, document);
    let Some(block) = root.block("broker") else {
        root.missing("broker");
        return None;
    };
    let trust_domain = block.required("trust_domain", block.parsed::<TrustDomain>("trust_domain"));
    let log_flags =
        LogFlags { file: flags.log_file.clone(), level: flags.log_level, ..LogFlags::default() };
    let log = log_settings(&block, &log_flags);
    let socket = block.path("socket_path");
    let agent_admin = block.path("agent_admin_socket_path");
    if socket.is_some() && agent_admin.is_none() {
        block.error(
            "socket_path",
            "agent_admin_socket_path is needed as well: the agent says who a process is",
        );
    }
    let port = block.port("bind_port");
    let address = block.text("bind_address");
    let bind = match (port, address) {
        (Some(port), address) => Some((address.unwrap_or_else(|| "0.0.0.0".to_owned()), port)),
        (None, Some(_)) => {
            block.missing("bind_port");
            None
        }
        (None, None) => None,
    };
    if socket.is_none() && port.is_none() && root.pos_of("csi_provider").is_none() {
        block.error("bind_port", "nothing to serve on: set bind_port, socket_path or both");
    }
    let max_lifetime = block.duration("max_token_lifetime").unwrap_or(Duration::from_secs(600));
    let tokens = Tokens {
        issuer: block.text("jwt_issuer"),
        audience: block.text("audience").unwrap_or_else(|| "signet-broker".to_owned()),
        max_lifetime,
        require_jti: block.boolean("require_jti").unwrap_or(true),
        uses: block.integer::<u32>("token_uses").unwrap_or(1).max(1),
        proof_uris: proof_uris(&block),
    };
    let data_dir = block.required("data_dir", block.path("data_dir"));
    let policy_file = block.required("policy_file", block.path("policy_file"));
    let workload_api =
        block.required("workload_api_socket_path", block.path("workload_api_socket_path"));
    let max_staleness = block.duration("max_staleness").unwrap_or(Duration::from_secs(60));
    block.finish();
    let server = server(&root, trust_domain.as_ref());
    let openbao = openbao(&root);
    let limits = limits(&root);
    let csi = csi(&root);
    let telemetry = telemetry(&root, check_spiffe_id);
    let health = health_checks(&root);
    root.finish();
    Some(Config {
        trust_domain: trust_domain?,
        data_dir: data_dir?,
        policy_file: policy_file?,
        workload_api: workload_api.map(without_scheme)?,
        agent_admin: agent_admin.map(without_scheme),
        socket: socket.map(without_scheme),
        bind,
        csi,
        tokens,
        max_staleness,
        server: server?,
        openbao: openbao?,
        limits,
        log,
        telemetry,
        health,
        warnings: Vec::new(),
    })
}

/// `proof_uris`: a scheme, a host, and a port where it is not the scheme's.
fn proof_uris(block: &Block<'_>) -> Vec<String> {
    let uris = block.texts("proof_uris");
    for uri in &uris {
        let host = uri.strip_prefix("https://").or_else(|| uri.strip_prefix("http://"));
        if !host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '@', '?', '#', ' '])) {
            let message = format_args!("found {uri:?}, expected https://host:port without a path");
            block.error("proof_uris", message);
        }
    }
    uris
}

/// `unix:///x` is `/x`.
fn without_scheme(path: PathBuf) -> PathBuf {
    match path.to_str().and_then(|text| text.strip_prefix("unix://")) {
        Some(rest) => PathBuf::from(rest),
        None => path,
    }
}

fn server(root: &Block<'_>, trust_domain: Option<&TrustDomain>) -> Option<ServerAt> {
    let Some(block) = root.block("server") else {
        root.missing("server");
        return None;
    };
    let socket = block.path("socket_path").map(without_scheme);
    let address = block.text("address");
    let port = block.port("port").unwrap_or(8081);
    let at = match (socket, address) {
        (Some(socket), None) => Some(ServerAt::Socket(socket)),
        (None, Some(address)) => trust_domain.map(|trust_domain| ServerAt::Tls {
            address: if address.contains(':') && !address.starts_with('[') {
                format!("[{address}]:{port}")
            } else {
                format!("{address}:{port}")
            },
            id: SpiffeId::server(trust_domain.clone()),
        }),
        (Some(_), Some(_)) => {
            block.error("address", "either address or socket_path, not both");
            None
        }
        (None, None) => {
            block.missing("socket_path");
            None
        }
    };
    block.finish();
    at
}

fn openbao(root: &Block<'_>) -> Option<OpenBao> {
    let Some(block) = root.block("openbao") else {
        root.missing("openbao");
        return None;
    };
    let mut addresses = block.texts("addresses");
    addresses.extend(block.text("address"));
    for address in &addresses {
        let fine = address
            .strip_prefix("https://")
            .or_else(|| address.strip_prefix("http://"))
            .is_some_and(|rest| !rest.is_empty() && !rest.contains(['@', '?', '#']));
        if !fine {
            block.error("addresses", format_args!("found {address:?}, expected https://host:port"));
        }
        let host = address.strip_prefix("http://").map(|rest| rest.split([':', '/']).next());
        if let Some(host) = host.flatten()
            && !matches!(host, "127.0.0.1" | "localhost" | "[")
        {
            block.error(
                "addresses",
                format_args!("{address} would send secrets in the clear; use https"),
            );
        }
    }
    if addresses.is_empty() {
        block.missing("addresses");
    }
    let openbao = OpenBao {
        addresses,
        ca_file: block.path("ca_file"),
        timeout: block.duration("timeout").unwrap_or(Duration::from_secs(5)),
        audience: block.text("audience").unwrap_or_else(|| "openbao".to_owned()),
        cert_roles: block.flag("cert_roles"),
        vault: block.flag("vault"),
    };
    block.finish();
    Some(openbao)
}

fn csi(root: &Block<'_>) -> Option<Csi> {
    let block = root.block("csi_provider")?;
    let template =
        block.text("path_template").unwrap_or_else(|| "/ns/{namespace}/sa/{name}".into());
    let namespaces = block.texts("namespaces");
    if !(template.starts_with('/') && template.contains("{name}")) {
        let message = format_args!("found {template:?}, expected a path with {{name}}");
        block.error("path_template", message);
    } else if !template.contains("{namespace}") && namespaces.len() != 1 {
        // Else service accounts of one name in two namespaces would be one identity.
        let message = "without {namespace} it is for one namespace: name it in namespaces";
        block.error("path_template", message);
    }
    let csi = Csi {
        socket: block.path("socket_path").map_or_else(
            || PathBuf::from("/var/run/secrets-store-csi-providers/signet.sock"),
            without_scheme,
        ),
        audience: block.text("audience").unwrap_or_else(|| "signet-broker".to_owned()),
        path_template: template,
        namespaces,
        kubeconfig: block.path("kubeconfig"),
    };
    block.finish();
    Some(csi)
}

fn limits(root: &Block<'_>) -> Limits {
    let mut limits = Limits::default();
    let Some(block) = root.block("limits") else { return limits };
    if let Some(per_second) = block.integer::<u32>("requests_per_second") {
        limits.per_second = per_second.max(1);
    }
    if let Some(each) = block.integer::<u32>("concurrent_per_identity") {
        limits.each = usize::try_from(each.max(1)).unwrap_or(usize::MAX);
    }
    if let Some(total) = block.integer::<u32>("concurrent") {
        limits.total = usize::try_from(total.max(1)).unwrap_or(usize::MAX);
    }
    if let Some(waiting) = block.integer::<u32>("waiting_per_identity") {
        limits.waiting = usize::try_from(waiting).unwrap_or(usize::MAX);
    }
    block.finish();
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("../../../docs/samples/broker.conf");

    fn read(text: &str) -> Result<Config, String> {
        let document = signet_config::parse("broker.conf", text).map_err(|e| e.to_string())?;
        Config::decode(&document, &RunFlags::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_sample_is_whole() {
        let config = read(SAMPLE).unwrap();
        assert!(config.socket.is_some() && config.bind.is_some());
        assert!(config.tokens.require_jti && config.tokens.uses == 1);
    }

    #[test]
    fn what_is_missing_or_dangerous_is_refused_by_name() {
        for (from, to, says) in [
            ("trust_domain", "# trust_domain", "trust_domain must be configured"),
            ("agent_admin_socket_path", "# x", "agent_admin_socket_path is needed"),
            ("https://openbao", "http://openbao", "in the clear"),
            ("data_dir", "data_dirr", "did you mean \"data_dir\""),
            ("openbao {", "openbaoo {", "openbao must be configured"),
            (
                "server {",
                "csi_provider { path_template = \"/t/{name}\" }\nserver {",
                "one namespace",
            ),
            ("server {", "csi_provider { path_template = \"/t/{namespace}\" }\nserver {", "{name}"),
            ("data_dir", "proof_uris = [\"https://broker/v1\"]\ndata_dir", "without a path"),
        ] {
            let error = read(&SAMPLE.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(says), "{says}: {error}");
        }
    }

    #[test]
    fn the_sample_policy_is_whole() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/samples/broker-policy.hcl");
        let (policy, warnings) = crate::policy::Policy::load(path.as_ref()).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        assert!(policy.credentials().count() >= 5);
    }
}
