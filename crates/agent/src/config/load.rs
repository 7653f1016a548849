//! Making a [`Config`] from a file and flags.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use signet_config::{
    Block, ConfigError, Context, Document, absolute_path, decode_document, health_checks,
    log_settings, path_over, socket_path, telemetry, text_over,
};
use signet_daemon::{
    flags::Environment,
    program::Program,
    settings::{self, check_spiffe_id},
};
use signet_identity::{SpiffeId, TrustDomain};
use signet_pki::KeyType;

use super::{
    BrokerSettings, Config, Experimental, RunFlags, SdsSettings, SvidCache, UnknownNames,
    WorkloadRateLimits, bootstrap, broker, csi, server_set,
};
use crate::plugins::{Plugins, key_manager::KeyManager};

/// The least that `availability_target` may be.
const MIN_AVAILABILITY: Duration = Duration::from_secs(24 * 3600);
/// Where the sealed cache's key is unless configured: gone after a reboot.
const DEFAULT_KEY_DIR: &str = "/run/signet-agent";
const DEFAULT_CACHE_SIZE: usize = 1000;

const NO_PROFILER: &str = "there is no profiler to switch on; use perf or another system profiler";

impl Config {
    /// Reads the file that the flags name, puts the flags over it, and checks everything.
    ///
    /// `env` looks up environment variables: all for `-expandEnv`, and the node's name for `csi`. A `join_token_file` is read as well.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong, by file, line and column.
    pub fn load(
        program: Program,
        flags: &RunFlags,
        env: &Environment<'_>,
    ) -> Result<Self, ConfigError> {
        let document = flags.common.read(&flags.config, env)?;
        Self::from_document(program, flags, env, &document)
    }

    /// Checks a file that has been read already; `env` looks up the variable with the node's name.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_document(
        program: Program,
        flags: &RunFlags,
        env: &Environment<'_>,
        document: &Document,
    ) -> Result<Self, ConfigError> {
        let decoded = decode_document(document, |context, document| {
            decode(program, flags, env, context, document)
        });
        let (mut config, warnings) = decoded?;
        config.warnings.extend(warnings);
        Ok(config)
    }
}

fn decode(
    program: Program,
    flags: &RunFlags,
    env: &dyn Fn(&str) -> Option<String>,
    context: &Context,
    document: &Document,
) -> Option<Config> {
    let root = Block::root(context, document);
    let telemetry = telemetry(&root, check_spiffe_id);
    let health_checks = health_checks(&root);
    let Some(agent) = root.block("agent") else {
        root.missing("agent");
        Plugins::read(&root, false);
        root.finish();
        return None;
    };
    let sets = server_set::blocks(&agent, flags);
    let mut join_tokens = match sets.is_empty() {
        true => vec![bootstrap::join_token(&agent, flags)],
        false => {
            let none = RunFlags::default();
            sets.iter().map(|(_, set)| bootstrap::join_token(set, &none)).collect()
        }
    };
    let plugins = Plugins::read(&root, join_tokens.iter().all(Option::is_some));
    root.finish();

    let trust_domain = text_over(flags.common.trust_domain.as_ref(), &agent, "trust_domain");
    let trust_domain = settings::trust_domain(&agent, trust_domain);
    let servers = match sets.is_empty() {
        true => server_set::only(&agent, flags, join_tokens.pop().flatten()),
        false => server_set::all(&agent, flags, sets, join_tokens),
    };
    let data_dir = path_over(flags.common.data_dir.as_ref(), &agent, "data_dir");
    let data_dir = data_dir.unwrap_or_else(|| ".".into());
    let (rebootstrap_mode, rebootstrap_delay) = bootstrap::rebootstrap(&agent, flags);
    server_set::check(&agent, servers.as_deref().unwrap_or_default(), rebootstrap_mode);
    let disable_workload_api = flags.disable_workload_api | agent.flag("disable_workload_api");
    let disable_sds_api = flags.disable_sds_api | agent.flag("disable_sds_api");
    let sockets = sockets(program, flags, &agent, !(disable_workload_api && disable_sds_api));
    let log = log_settings(&agent, &flags.common.log());
    let key_manager = plugins.as_ref().map(|plugins| &plugins.key_manager.settings);
    let (svid_cache, key_file) = svid_cache(&agent, key_manager, &data_dir);
    let authorized_delegates = delegates(&agent, trust_domain.as_ref());
    let sds = sds(&agent);
    for key in ["profiling_enabled", "profiling_port", "profiling_freq", "profiling_names"] {
        agent.refuse(key, NO_PROFILER);
    }
    let workload_key_type = workload_key_type(&agent);
    let availability_target = agent.duration("availability_target");
    if availability_target.is_some_and(|target| target < MIN_AVAILABILITY) {
        agent.error("availability_target", "it must be at least 24h");
    }
    let x509_svid_cache_max_size = cache_size(&agent, "x509_svid_cache_max_size");
    let jwt_svid_cache_max_size = cache_size(&agent, "jwt_svid_cache_max_size");
    let verifiers = agent.flag("allow_unauthenticated_verifiers");
    let allowed_foreign_jwt_claims = agent.texts("allowed_foreign_jwt_claims");
    let log_selectors = agent.texts("log_selectors");
    let audit_log_enabled = agent.flag("audit_log_enabled");
    let take_over_sockets = agent.flag("take_over_sockets");
    let (socket_path, admin_socket_path) = sockets.unwrap_or_default();
    let (experimental, broker) = experimental(&agent, socket_path.as_deref());
    let private = csi::Private {
        socket_path: socket_path.as_deref(),
        admin_socket_path: admin_socket_path.as_deref(),
        data_dir: &data_dir,
        key_manager,
        svid_cache: &svid_cache,
    };
    let csi = csi::csi(&agent, &flags.csi, env, &private);
    agent.finish();

    let plugins = plugins?;
    let sealed = |set: Option<&str>, data_dir: &Path| match (&svid_cache, set) {
        (SvidCache::Off, _) => SvidCache::Off,
        (SvidCache::Sealed { .. }, None) => svid_cache.clone(),
        (SvidCache::Sealed { .. }, Some(name)) => SvidCache::Sealed {
            key_file: match &key_file {
                Some(path) => {
                    let mut path = path.clone().into_os_string();
                    path.push(format!("-{name}"));
                    path.into()
                }
                None => default_key_file(data_dir),
            },
        },
    };
    let servers = servers?.into_iter().map(|set| {
        let name = set.name().map(str::to_owned);
        set.placed(&data_dir, &plugins.key_manager.settings, |dir| sealed(name.as_deref(), dir))
    });
    let servers = servers.collect();
    Some(Config {
        file: PathBuf::from(&*document.file),
        trust_domain: trust_domain?,
        servers,
        data_dir,
        socket_path,
        admin_socket_path,
        disable_workload_api,
        disable_sds_api,
        rebootstrap_mode,
        rebootstrap_delay,
        workload_key_type,
        availability_target,
        x509_svid_cache_max_size,
        jwt_svid_cache_max_size,
        allow_unauthenticated_verifiers: flags.allow_unauthenticated_verifiers | verifiers,
        allowed_foreign_jwt_claims,
        authorized_delegates,
        sds,
        csi,
        log,
        log_selectors,
        audit_log_enabled,
        take_over_sockets,
        broker,
        experimental,
        plugins,
        telemetry,
        health_checks,
        warnings: Vec::new(),
    })
}

/// The public and the admin socket.
///
/// The admin socket may not lie below the directory of the public one: that directory is handed
/// to workloads, often as a whole.
fn sockets(
    program: Program,
    flags: &RunFlags,
    agent: &Block<'_>,
    public: bool,
) -> Option<(Option<PathBuf>, Option<PathBuf>)> {
    let socket = path_over(flags.common.socket_path.as_ref(), agent, "socket_path");
    let socket = socket.unwrap_or_else(|| program.agent_socket().into());
    let socket = if public { Some(socket_path(agent, "socket_path", &socket)?) } else { None };
    let admin = match agent.path("admin_socket_path") {
        Some(path) => Some(socket_path(agent, "admin_socket_path", &path)?),
        None => None,
    };
    let shared = socket.as_deref().and_then(Path::parent);
    if let (Some(admin), Some(shared)) = (&admin, shared)
        && admin.starts_with(shared)
    {
        let message = format!(
            "it cannot lie in or below {}, the directory of the Workload API's socket, which \
             workloads are given",
            shared.display()
        );
        agent.error("admin_socket_path", message);
    }
    Some((socket, admin))
}

fn delegates(agent: &Block<'_>, trust_domain: Option<&TrustDomain>) -> Vec<SpiffeId> {
    let delegates = agent.parsed_list::<SpiffeId>("authorized_delegates");
    for id in &delegates {
        if let Some(trust_domain) = trust_domain
            && (!id.is_member_of(trust_domain) || id.path().is_empty())
        {
            let message = format!("{id} is not an identity of {trust_domain}");
            agent.error("authorized_delegates", message);
        }
    }
    delegates
}

fn workload_key_type(agent: &Block<'_>) -> KeyType {
    let key_type = agent.parsed::<KeyType>("workload_x509_svid_key_type");
    if key_type == Some(KeyType::Rsa4096) {
        let message = "rsa-4096 is not for workloads; use rsa-2048, ec-p256 or ec-p384";
        agent.error("workload_x509_svid_key_type", message);
    }
    key_type.unwrap_or(KeyType::EcP256)
}

fn cache_size(agent: &Block<'_>, key: &'static str) -> usize {
    agent.integer::<usize>(key).filter(|size| *size > 0).unwrap_or(DEFAULT_CACHE_SIZE)
}

/// Agents with a `data_dir` each never share a key: the one that forgets its own (it was banned or
/// evicted, or an entry went) would take the other's cache with it.
fn default_key_file(data_dir: &Path) -> PathBuf {
    let data_dir = absolute_path(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let hash = signet_pki::digest::sha256_hex(data_dir.as_os_str().as_encoded_bytes());
    let short = hash.get(..16).unwrap_or(&hash);
    PathBuf::from(DEFAULT_KEY_DIR).join(format!("svid_cache-{short}.key"))
}

/// What outlasts a restart, and the key file that the configuration names.
fn svid_cache(
    agent: &Block<'_>,
    key_manager: Option<&KeyManager>,
    data_dir: &Path,
) -> (SvidCache, Option<PathBuf>) {
    let key_file = agent.path("svid_cache_key_file");
    let key_file = key_file.map(|path| absolute_path(&path).unwrap_or(path));
    let sealed = || SvidCache::Sealed {
        key_file: key_file.clone().unwrap_or_else(|| default_key_file(data_dir)),
    };
    let mode = agent.text("svid_cache");
    if mode.as_deref() == Some("off") && key_file.is_some() {
        agent.error("svid_cache_key_file", "it has no use with svid_cache = \"off\"");
    }
    let svid_cache = match mode.as_deref() {
        Some("sealed") => sealed(),
        Some("off") => SvidCache::Off,
        None if key_file.is_some() => sealed(),
        None => match key_manager {
            Some(KeyManager::Disk { .. }) => sealed(),
            _ => SvidCache::Off,
        },
        Some(other) => {
            agent.error("svid_cache", format_args!("found {other:?}, expected sealed or off"));
            SvidCache::Off
        }
    };
    (svid_cache, key_file)
}

fn sds(agent: &Block<'_>) -> SdsSettings {
    let mut settings = SdsSettings::default();
    let Some(block) = agent.block("sds") else {
        return settings;
    };
    for (key, into) in [
        ("default_svid_name", &mut settings.default_svid_name),
        ("default_bundle_name", &mut settings.default_bundle_name),
        ("default_all_bundles_name", &mut settings.default_all_bundles_name),
    ] {
        if let Some(name) = block.text(key) {
            *into = name;
        }
    }
    settings.disable_spiffe_cert_validation = block.flag("disable_spiffe_cert_validation");
    match block.text("unknown_names").as_deref() {
        None | Some("refuse") => {}
        Some("wait") => settings.unknown_names = UnknownNames::Wait,
        Some(other) => {
            block.error("unknown_names", format_args!("found {other:?}, expected refuse or wait"));
        }
    }
    if settings.default_all_bundles_name == settings.default_bundle_name {
        block.warn(
            "default_all_bundles_name",
            "it is the same as default_bundle_name, which wins; choose distinct names",
        );
    }
    block.finish();
    settings
}

fn experimental(
    agent: &Block<'_>,
    public: Option<&Path>,
) -> (Experimental, Option<BrokerSettings>) {
    let mut settings = Experimental::default();
    let Some(block) = agent.block("experimental") else {
        return (settings, None);
    };
    let broker = broker::broker(&block, public);
    if let Some(interval) = block.duration("sync_interval").filter(|time| !time.is_zero()) {
        settings.sync_interval = interval;
    }
    if let Some(timeout) = block.duration("jwt_svid_cache_hit_timeout") {
        if !(5..30).contains(&timeout.as_secs()) {
            block.error("jwt_svid_cache_hit_timeout", "it must be at least 5s and less than 30s");
        }
        settings.jwt_svid_cache_hit_timeout = timeout;
    }
    settings.use_sync_authorized_entries =
        block.boolean("use_sync_authorized_entries").unwrap_or(true);
    settings.require_pq_kem = block.flag("require_pq_kem");
    if let Some(limits) = block.block("ratelimit") {
        settings.ratelimit = rate_limits(&limits);
        limits.finish();
    }
    for flag in block.texts("feature_flags") {
        match flag.as_str() {
            "wit-svid" => settings.wit_svids = true,
            _ => block.error("feature_flags", format_args!("unknown feature flag {flag:?}")),
        }
    }
    const PIPES: &str = "named pipes belong to Windows; use socket_path or admin_socket_path";
    for key in ["named_pipe_name", "admin_named_pipe_name"] {
        block.refuse(key, PIPES);
    }
    block.finish();
    (settings, broker)
}

fn rate_limits(block: &Block<'_>) -> WorkloadRateLimits {
    let limit = |key| block.integer::<u32>(key).unwrap_or(0);
    WorkloadRateLimits {
        fetch_x509_svid: limit("fetch_x509_svid"),
        fetch_jwt_svid: limit("fetch_jwt_svid"),
        fetch_x509_bundles: limit("fetch_x509_bundles"),
        fetch_jwt_bundles: limit("fetch_jwt_bundles"),
        stream_secrets: limit("stream_secrets"),
        fetch_secrets: limit("fetch_secrets"),
    }
}
