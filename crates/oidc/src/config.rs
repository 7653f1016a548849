//! The configuration: a file in the form of SPIRE's `oidc-discovery-provider` (HCL 1 or JSON).
//!
//! A [`Config`] is fully checked; nothing is bound or read while it is made.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use signet_acme::DomainName;
use signet_config::{
    Block, ConfigError, Context, Document, HealthSettings, LogLevel, LogSettings, decode_document,
    log_format, read,
};
use signet_daemon::{flags::Environment, settings};

use crate::{
    keys::Publishing,
    listener::{Address, Listener},
    provider::{Domain, Settings},
    source::Source,
};

/// How often a source is asked, unless configured.
const POLL_INTERVAL: Duration = Duration::from_secs(10);
/// How often certificate files are looked at, unless configured.
const FILE_SYNC_INTERVAL: Duration = Duration::from_secs(60);

/// Where certificates by ACME are kept, unless configured.
const CACHE_DIR: &str = "./.acme-cache";
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
    let listener = listener(block, &settings.domains);
    Some(Serving { settings, publishing, listener: listener? })
}

/// Of several, SPIRE's first.
fn listener(block: &Block<'_>, domains: &BTreeSet<Domain>) -> Option<Listener> {
    let insecure = block.parsed::<Address>("insecure_addr").map(Listener::Insecure);
    let socket = block.path("listen_socket_path").map(Listener::Socket);
    let files = block.block("serving_cert_file").map(serving_cert_file);
    let has_acme = block.holds_block("acme");
    let acme = block.block("acme").map(|block| acme(block, domains));
    let is_insecure = block.pos_of("insecure_addr").is_some();
    if has_acme && is_insecure {
        block.error("insecure_addr", "insecure_addr and acme are mutually exclusive");
    } else if files.is_none() && !has_acme && !is_insecure && socket.is_none() {
        let message = "one of acme, serving_cert_file, listen_socket_path and insecure_addr must be \
                       configured";
        block.context().error(block.pos(), message);
    }
    insecure.or(socket).or(files.flatten()).or(acme.flatten())
}

/// `acme`. Certificates are for its own `domains`, else for those of the provider that the world can
/// know: SPIRE waits for somebody to ask for a domain before it orders, and orders for no others.
fn acme(block: Block<'_>, all: &BTreeSet<Domain>) -> Option<Listener> {
    let own = block.parsed_list::<DomainName>("domains");
    if let Some(other) = own.iter().find(|name| !all.iter().any(|it| it.as_str() == name.as_str()))
    {
        block.error("domains", format_args!("{other} is not among the provider's domains"));
    }
    let domains: Vec<DomainName> = match block.pos_of("domains") {
        Some(_) => own,
        None => {
            let names = all.iter().filter_map(|domain| domain.as_str().parse().ok());
            names.filter(DomainName::has_parent).collect()
        }
    };
    if domains.is_empty() {
        let message = "there is none that a certificate could be for: expected a name such as \
                       oidc.example.org";
        block.error("domains", message);
    }
    let email = block.text("email");
    let email = block.required("email", email);
    let settings = signet_acme::settings(&block, domains);
    let address = block.parsed("addr").unwrap_or_else(|| Address::any(443));
    // An empty text is no directory, on purpose.
    let cache_dir = match block.pos_of("cache_dir") {
        Some(_) => block.path("cache_dir"),
        None => Some(PathBuf::from(CACHE_DIR)),
    };
    if cache_dir.is_none() {
        block.warn(
            "cache_dir",
            "nothing is kept, so that each start orders certificates: authorities allow few",
        );
    }
    block.finish();
    email?;
    Some(Listener::Acme { address, settings: settings?, cache_dir })
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

    const GOOD: &str = "email = \"a@b.test\" tos_accepted = true";

    fn acme(outside: &str, inside: &str) -> String {
        format!("domains = [\"a.test\", \"localhost\"] {outside} acme {{ {inside} }} {SERVER}")
    }

    #[test]
    fn acme_has_spire_s_defaults() {
        let listener = |text: &str| load(text).unwrap().listener;
        let Listener::Acme { address, settings, cache_dir } = listener(&acme("", GOOD)) else {
            panic!()
        };
        assert_eq!(address.to_string(), ":443");
        assert_eq!(cache_dir, Some("./.acme-cache".into()));
        assert_eq!(settings.directory_url, "https://acme-v02.api.letsencrypt.org/directory");
        assert_eq!(settings.email.as_deref(), Some("a@b.test"));
        assert_eq!(settings.domains, ["a.test"]);

        let inside = format!(
            "{GOOD} cache_dir = \"\" addr = \"127.0.0.1:8443\" domains = [\"localhost\"] \
             directory_url = \"https://ca.test/dir\""
        );
        let Listener::Acme { address, settings, cache_dir } = listener(&acme("", &inside)) else {
            panic!()
        };
        assert_eq!((address.to_string().as_str(), cache_dir), ("127.0.0.1:8443", None));
        assert_eq!(settings.directory_url, "https://ca.test/dir");
        assert_eq!(settings.domains, ["localhost"]);
        let socket = acme("listen_socket_path = \"/s.sock\"", GOOD);
        assert_eq!(listener(&socket), Listener::Socket("/s.sock".into()));
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
            (format!("domains = [\"a.test\"] {SERVER}"), "one of acme, serving_cert_file,"),
            (acme("", "email = \"a@b.test\""), "tos_accepted: it must be true"),
            (acme("", "email = \"a@b.test\" tos_accepted = false"), "tos_accepted: it must be"),
            (acme("", "tos_accepted = true"), "email must be configured in acme {}"),
            (acme("", &format!("{GOOD} directory_url = \"http://ca.test\"")), "expected an https"),
            (acme("", &format!("{GOOD} domains = [\"b.test\"]")), "b.test is not among"),
            (acme("", &format!("{GOOD} domains = []")), "none that a certificate could be for"),
            (acme("insecure_addr = \":80\"", GOOD), "mutually exclusive"),
            (acme("", &format!("{GOOD} tos = true")), "unknown key \"tos\""),
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
