//! The configuration: a file in the form of SPIRE's `oidc-discovery-provider` (HCL 1 or JSON).
//!
//! A [`Config`] is fully checked; nothing is bound or read while it is made.

use std::{path::PathBuf, time::Duration};

use signet_config::{
    Block, ConfigError, Context, Document, HealthSettings, LogLevel, LogSettings, decode_document,
    log_format, read,
};
use signet_daemon::{flags::Environment, settings};

use crate::{
    keys::Publishing,
    listener::{Address, Listener},
    provider::Settings,
    source::Source,
};

/// How often a source is asked, unless configured.
const POLL_INTERVAL: Duration = Duration::from_secs(10);
/// How often certificate files are looked at, unless configured.
const FILE_SYNC_INTERVAL: Duration = Duration::from_secs(60);

const ACME: &str = "this release fetches no certificates by ACME; have a client such as certbot or \
                    cert-manager write them, and use serving_cert_file";
const PIPE: &str = "named pipes belong to Windows; use a Unix socket";

/// The flags of `run` and `validate`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RunFlags {
    /// Configuration file
    #[arg(long = "config", value_name = "FILE", default_value = "oidc-discovery-provider.conf")]
    pub config: PathBuf,
    /// Replace $NAME and ${NAME} in the configuration file by environment variables
    #[arg(long = "expandEnv")]
    pub expand_env: bool,
}

/// Everything the provider was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What it says of itself.
    pub settings: Settings,
    /// How the documents are published.
    pub publishing: Publishing,
    /// Where it listens.
    pub listener: Listener,
    /// Where the keys come from.
    pub source: Source,
    /// `health_checks`.
    pub health_checks: Option<HealthSettings>,
    /// The `log_*` keys.
    pub log: LogSettings,
    /// Sentences that are logged at start: settings that work, but not as one may think.
    pub warnings: Vec<String>,
}

/// What a provider serves and where, without its source: what a server's configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    /// What it says of itself.
    pub settings: Settings,
    /// How the documents are published.
    pub publishing: Publishing,
    /// Where it listens.
    pub listener: Listener,
}

impl Config {
    /// Reads the file that the flags name, and checks everything.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong, by file, line and column.
    pub fn load(flags: &RunFlags, env: &Environment<'_>) -> Result<Self, ConfigError> {
        let document = read(&flags.config, flags.expand_env.then_some(env))?;
        Self::from_document(&document)
    }

    /// Checks a file that has been read already.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_document(document: &Document) -> Result<Self, ConfigError> {
        let (mut config, warnings) = decode_document(document, decode)?;
        config.warnings.extend(warnings);
        Ok(config)
    }
}

fn decode(context: &Context, document: &Document) -> Option<Config> {
    let root = Block::root(context, document).named("the file");
    let log = log(&root);
    let health_checks = health_checks(&root);
    let sources = [server_api(&root), workload_api(&root), file(&root)];
    let sources: Vec<_> = sources.into_iter().flatten().collect();
    let serving = serving(&root);
    if let Some(block) = root.block("experimental") {
        block.refuse("listen_named_pipe_name", PIPE);
        block.finish();
    }
    if sources.len() != 1 {
        let pos = root.pos();
        let message = match sources.is_empty() {
            true => "exactly one of server_api, workload_api and file must be configured",
            false => "server_api, workload_api and file are mutually exclusive",
        };
        context.error(pos, message);
    }
    root.finish();
    let Serving { settings, publishing, listener } = serving?;
    let source = sources.into_iter().next()??;
    let warnings = Vec::new();
    Some(Config { settings, publishing, listener, source, health_checks, log, warnings })
}

/// Reads what a provider serves and where.
pub fn serving(block: &Block<'_>) -> Option<Serving> {
    let domains = block.parsed_list("domains");
    if block.pos_of("domains").is_none()
        || (domains.is_empty() && block.texts("domains").is_empty())
    {
        block.missing("domains");
    }
    let jwt_issuer = block.parsed("jwt_issuer");
    let jwks_uri = block.parsed("jwks_uri");
    if jwt_issuer.is_some() && jwks_uri.is_none() {
        block.warn("jwt_issuer", "the keys are announced below it; jwks_uri names another place");
    }
    let allow_insecure_scheme = block.flag("allow_insecure_scheme");
    if allow_insecure_scheme {
        block.warn(
            "allow_insecure_scheme",
            "keys may be fetched by plain HTTP: only where the whole way to here is trusted",
        );
    }
    let settings = Settings {
        domains: domains.into_iter().collect(),
        jwt_issuer,
        jwks_uri,
        path_prefix: block.parsed("server_path_prefix").unwrap_or_default(),
        allow_insecure_scheme,
        log_requests: block.flag("log_requests"),
    };
    let max_age = block.duration("cache_max_age").filter(|age| !age.is_zero());
    let publishing = Publishing { key_use: block.flag("set_key_use"), max_age };
    let listener = listener(block);
    Some(Serving { settings, publishing, listener: listener? })
}

/// Of several, SPIRE's first.
fn listener(block: &Block<'_>) -> Option<Listener> {
    let has_acme = block.holds_block("acme");
    if let Some(acme) = block.block("acme") {
        for key in ["directory_url", "email", "cache_dir"] {
            let _ = acme.text(key);
        }
        let _ = acme.flag("tos_accepted");
        acme.finish();
    }
    let insecure = block.parsed::<Address>("insecure_addr").map(Listener::Insecure);
    let socket = block.path("listen_socket_path").map(Listener::Socket);
    let files = block.block("serving_cert_file").map(serving_cert_file);
    let is_set = files.is_some() || has_acme || block.pos_of("insecure_addr").is_some();
    if has_acme && insecure.is_none() && socket.is_none() && files.is_none() {
        block.error("acme", ACME);
    } else if !is_set && socket.is_none() {
        let message = "one of serving_cert_file, listen_socket_path and insecure_addr must be \
                       configured";
        block.context().error(block.pos(), message);
    }
    insecure.or(socket).or(files.flatten())
}

fn serving_cert_file(block: Block<'_>) -> Option<Listener> {
    let cert = block.path("cert_file_path");
    let cert = block.required("cert_file_path", cert);
    let key = block.path("key_file_path");
    let key = block.required("key_file_path", key);
    let address = block.parsed("addr").unwrap_or_else(|| Address::any(443));
    let interval = block.duration("file_sync_interval").filter(|pause| !pause.is_zero());
    block.finish();
    let sync_interval = interval.unwrap_or(FILE_SYNC_INTERVAL);
    Some(Listener::CertFiles { address, cert: cert?, key: key?, sync_interval })
}

fn server_api(root: &Block<'_>) -> Option<Option<Source>> {
    let block = root.block("server_api")?;
    let address = block.text("address");
    let address = block.required("address", address);
    let socket = address.and_then(|address| match address.strip_prefix("unix:") {
        Some(path) if !path.trim_start_matches('/').is_empty() => {
            Some(PathBuf::from(path.strip_prefix("//").unwrap_or(path)))
        }
        _ => {
            block.error("address", format_args!("found {address:?}, expected unix:///PATH"));
            None
        }
    });
    let poll_interval = poll_interval(&block);
    refuse_pipe(&block);
    block.finish();
    Some(socket.map(|socket| Source::ServerApi { socket, poll_interval }))
}

fn workload_api(root: &Block<'_>) -> Option<Option<Source>> {
    let block = root.block("workload_api")?;
    let socket = block.text("socket_path");
    let socket = block.required("socket_path", socket);
    let trust_domain = block.text("trust_domain");
    let trust_domain = settings::trust_domain(&block, trust_domain);
    let poll_interval = poll_interval(&block);
    refuse_pipe(&block);
    block.finish();
    Some(socket.zip(trust_domain).map(|(socket, trust_domain)| {
        let socket = PathBuf::from(socket.strip_prefix("unix://").unwrap_or(&socket));
        Source::WorkloadApi { socket, trust_domain, poll_interval }
    }))
}

fn file(root: &Block<'_>) -> Option<Option<Source>> {
    let block = root.block("file")?;
    let path = block.path("path");
    let path = block.required("path", path);
    let poll_interval = poll_interval(&block);
    block.finish();
    Some(path.map(|path| Source::File { path, poll_interval }))
}

fn poll_interval(block: &Block<'_>) -> Duration {
    block.duration("poll_interval").filter(|pause| !pause.is_zero()).unwrap_or(POLL_INTERVAL)
}

fn refuse_pipe(block: &Block<'_>) {
    if let Some(experimental) = block.block("experimental") {
        experimental.refuse("named_pipe_name", PIPE);
        experimental.finish();
    }
}

/// The block alone switches them on; they listen on all addresses, as SPIRE's do.
fn health_checks(root: &Block<'_>) -> Option<HealthSettings> {
    let block = root.block("health_checks")?;
    let settings = HealthSettings {
        bind_address: "0.0.0.0".to_owned(),
        bind_port: block.port("bind_port").unwrap_or(8008),
        live_path: block.text("live_path").unwrap_or_else(|| "/live".to_owned()),
        ready_path: block.text("ready_path").unwrap_or_else(|| "/ready".to_owned()),
    };
    block.finish();
    Some(settings)
}

fn log(root: &Block<'_>) -> LogSettings {
    let format = root.text("log_format").and_then(|text| {
        let format = log_format(&text);
        if format.is_none() {
            root.error("log_format", format_args!("found {text:?}, expected text or json"));
        }
        format
    });
    LogSettings {
        file: root.path("log_path"),
        level: root.parsed::<LogLevel>("log_level").unwrap_or_default(),
        format: format.unwrap_or_default(),
        ..LogSettings::default()
    }
}

#[cfg(test)]
mod tests {
    use signet_config::parse;

    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let document = parse("o.conf", text).unwrap();
        Config::from_document(&document).map_err(|error| error.to_string())
    }

    const SERVER: &str = "server_api { address = \"unix:///run/api.sock\" }";

    #[test]
    fn files_of_spire_are_read_with_its_defaults() {
        let config = load(&format!(
            "log_level = \"debug\" log_path = \"/l\" domains = [\"a.test\", \"a.test\", \"b.test\"] \
             serving_cert_file {{ cert_file_path = \"c\" key_file_path = \"k\" }} {SERVER} \
             health_checks {{}}"
        ))
        .unwrap();
        assert_eq!(config.settings.domains.len(), 2);
        assert_eq!(config.log.level, LogLevel::Debug);
        let Listener::CertFiles { address, sync_interval, .. } = &config.listener else {
            panic!("{config:?}")
        };
        assert_eq!((address.to_string().as_str(), sync_interval.as_secs()), (":443", 60));
        let Source::ServerApi { socket, poll_interval } = &config.source else {
            panic!("{config:?}")
        };
        assert_eq!((socket.to_str(), poll_interval.as_secs()), (Some("/run/api.sock"), 10));
        let health = config.health_checks.unwrap();
        assert_eq!((health.bind_port, health.ready_path.as_str()), (8008, "/ready"));
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);

        let config = load(
            "{\"domains\": [\"a.test\"], \"insecure_addr\": \":8080\", \"jwt_issuer\": \
             \"https://issuer.test/\", \"workload_api\": {\"socket_path\": \"/w.sock\", \
             \"trust_domain\": \"td.test\", \"poll_interval\": \"3s\"}, \"allow_insecure_scheme\": \
             true}",
        )
        .unwrap();
        assert_eq!(config.settings.jwt_issuer.unwrap().as_str(), "https://issuer.test/");
        assert!(matches!(config.source, Source::WorkloadApi { .. }));
        assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
    }

    #[test]
    fn what_is_wrong_is_said_by_key_and_line() {
        let listen = "domains = [\"a.test\"]\ninsecure_addr = \":80\"\n";
        for (text, wanted) in [
            (format!("insecure_addr = \":80\" {SERVER}"), "domains must be configured"),
            (
                format!("domains = [\"a b\"] insecure_addr = \":80\" {SERVER}"),
                "expected a host name",
            ),
            (format!("domains = [\"a.test\"] {SERVER}"), "one of serving_cert_file,"),
            (format!("domains = [\"a.test\"] acme {{ email = \"x\" }} {SERVER}"), "ACME"),
            (listen.to_owned(), "exactly one of server_api, workload_api and file"),
            (format!("{listen}{SERVER} file {{ path = \"/f\" }}"), "mutually exclusive"),
            (format!("{listen}server_api {{}}"), "address must be configured in server_api {}"),
            (format!("{listen}server_api {{ address = \"tcp://x\" }}"), "expected unix:///PATH"),
            (format!("{listen}workload_api {{ socket_path = \"/w\" }}"), "trust_domain must be"),
            (format!("{listen}{SERVER}\njwt_issuer = \"issuer\""), "o.conf:4:1: jwt_issuer: "),
            (format!("{listen}{SERVER}\nserver_path_prefix = \"a b\""), "expected a path"),
            (format!("{listen}{SERVER}\njwt_isuer = \"x\""), "did you mean \"jwt_issuer\"?"),
            (
                format!("domains = [\"a.test\"] serving_cert_file {{}} {SERVER}"),
                "cert_file_path must be configured",
            ),
        ] {
            let error = load(&text).unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
