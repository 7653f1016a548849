//! Making a [`Config`] from a file and flags.

use std::{path::PathBuf, time::Duration};

use signet_authority::timing;
use signet_config::{
    Block, ConfigError, Context, Document, decode_document, format_duration, health_checks,
    log_settings, path_over, socket_path, telemetry, text_over,
};
use signet_daemon::{
    flags::Environment,
    program::Program,
    settings::{self, check_spiffe_id},
};
use signet_identity::SpiffeId;
use signet_pki::KeyType;

use super::{
    CaSettings, CaSubject, Config, Experimental, PruneNodes, RateLimits, RunFlags, TtlSettings,
    WitSettings, console, federation, oidc, second_jwt,
};
use crate::plugins::Plugins;

const NO_PROFILER: &str = "there is no profiler to switch on; use perf or another system profiler";
const FEED: &str = "it has no effect: every change reaches the server's memory and its agents at \
                    once, nothing is reloaded at intervals";
const NEVER_STALE: &str = "it has no effect: what the server knows of its agents is never stale";

impl Config {
    /// Reads the file that the flags name, puts the flags over it, and checks everything.
    ///
    /// `env` looks up environment variables for `-expandEnv`.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong, by file, line and column.
    pub fn load(
        program: Program,
        flags: &RunFlags,
        env: &Environment<'_>,
    ) -> Result<Self, ConfigError> {
        let document = flags.common.read(&flags.config, env)?;
        Self::from_document(program, flags, &document)
    }

    /// Checks a file that has been read already.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_document(
        program: Program,
        flags: &RunFlags,
        document: &Document,
    ) -> Result<Self, ConfigError> {
        let decoded = decode_document(document, |context, document| {
            decode(program, flags, context, document)
        });
        let (mut config, warnings) = decoded?;
        config.warnings.extend(warnings);
        Ok(config)
    }
}

fn decode(
    program: Program,
    flags: &RunFlags,
    context: &Context,
    document: &Document,
) -> Option<Config> {
    let root = Block::root(context, document);
    let telemetry = telemetry(&root, check_spiffe_id);
    let health_checks = health_checks(&root);
    let plugins = Plugins::read(&root);
    let Some(server) = root.block("server") else {
        root.missing("server");
        root.finish();
        return None;
    };
    root.finish();

    let trust_domain = text_over(flags.common.trust_domain.as_ref(), &server, "trust_domain");
    let trust_domain = settings::trust_domain(&server, trust_domain);
    let data_dir = path_over(flags.common.data_dir.as_ref(), &server, "data_dir");
    let data_dir = server.required("data_dir", data_dir);
    let bind_address = text_over(flags.bind_address.as_ref(), &server, "bind_address");
    let bind_port = server.integer::<u16>("bind_port");
    let socket = path_over(flags.common.socket_path.as_ref(), &server, "socket_path");
    let socket = socket.unwrap_or_else(|| program.server_socket().into());
    let socket_path = socket_path(&server, "socket_path", &socket);
    let ca = ca(&server, flags);
    let ttl = ttl(&server, ca.ttl);
    let log = log_settings(&server, &flags.common.log());
    let federation = federation::federation(&server, trust_domain.as_ref());
    let console = console::console(&server);
    let experimental = experimental(&server, ca.key_type);
    let prune_nodes = prune_nodes(&server);
    let ratelimit = rate_limits(&server);
    if server.duration("max_attested_node_info_staleness").is_some_and(|age| !age.is_zero()) {
        server.warn("max_attested_node_info_staleness", NEVER_STALE);
    }
    let store_staleness =
        server.duration("max_store_staleness").unwrap_or(Duration::from_secs(15 * 60));
    for key in ["profiling_enabled", "profiling_port", "profiling_freq", "profiling_names"] {
        server.refuse(key, NO_PROFILER);
    }
    let jwt_issuer = server.text("jwt_issuer");
    let oidc = oidc::provider(&server, jwt_issuer.as_deref());
    let disable_jwt_svids = server.flag("disable_jwt_svids");
    if disable_jwt_svids && ca.second_jwt.is_some() {
        server.warn("second_jwt_key", "it has no effect with disable_jwt_svids = true");
    }
    let admin_ids = server.parsed_list::<SpiffeId>("admin_ids");
    let policy = super::policy::policy(&server);
    let audit = super::audit::audit(&server);
    let audit_log_enabled = server.flag("audit_log_enabled");
    let proxy_protocol_trusted_cidrs = server.parsed_list("proxy_protocol_trusted_cidrs");
    server.finish();

    Some(Config {
        file: PathBuf::from(&*document.file),
        trust_domain: trust_domain?,
        data_dir: data_dir?,
        bind_address: bind_address
            .map_or_else(|| "0.0.0.0".to_owned(), |text| text.trim_matches(['[', ']']).to_owned()),
        bind_port: flags.server_port.or(bind_port).unwrap_or(8081),
        socket_path: socket_path?,
        ca,
        ttl,
        jwt_issuer,
        disable_jwt_svids,
        admin_ids,
        policy,
        audit,
        audit_log_enabled,
        ratelimit,
        prune_nodes,
        max_store_staleness: store_staleness,
        proxy_protocol_trusted_cidrs,
        log,
        federation,
        oidc,
        console,
        experimental,
        plugins: plugins?,
        telemetry,
        health_checks,
        warnings: Vec::new(),
    })
}

fn ca(server: &Block<'_>, flags: &RunFlags) -> CaSettings {
    let key_type = server.parsed::<KeyType>("ca_key_type").unwrap_or(KeyType::EcP256);
    let subject = server.block("ca_subject").and_then(|block| {
        let subject = CaSubject {
            country: block.texts("country"),
            organization: block.texts("organization"),
            common_name: block.text("common_name"),
        };
        let empty = subject.country.is_empty()
            && subject.organization.is_empty()
            && subject.common_name.is_none();
        block.finish();
        if empty {
            server.warn("ca_subject", "it is empty, so the default C=US, O=SPIFFE is used");
        }
        (!empty).then_some(subject)
    });
    let jwt_key_type = server.parsed("jwt_key_type").unwrap_or(key_type);
    CaSettings {
        key_type,
        jwt_key_type,
        second_jwt: second_jwt::second_jwt_key(server, jwt_key_type),
        subject: subject.unwrap_or_default(),
        ttl: lifetime(server, "ca_ttl").unwrap_or(Duration::from_secs(24 * 3600)),
        local_intermediate: local_intermediate(server),
        replace_lost_keys: flags.replace_lost_keys,
    }
}

/// `local_intermediate` and how long it lives.
fn local_intermediate(server: &Block<'_>) -> Option<Duration> {
    const SHORTEST: Duration = Duration::from_secs(5 * 60);
    const LONGEST: Duration = Duration::from_secs(24 * 3600);
    let is_wanted = server.flag("local_intermediate");
    let ttl = lifetime(server, "local_intermediate_ttl");
    if let Some(ttl) = ttl.filter(|ttl| !(SHORTEST..=LONGEST).contains(ttl)) {
        let found = signet_config::format_duration(ttl);
        server.error("local_intermediate_ttl", format_args!("found {found}, expected 5m to 24h"));
    }
    if ttl.is_some() && !is_wanted {
        server.warn("local_intermediate_ttl", "is of no use without local_intermediate = true");
    }
    is_wanted.then(|| ttl.unwrap_or(Duration::from_secs(3600)))
}

/// A duration of which 0 counts as not set.
fn lifetime(server: &Block<'_>, key: &'static str) -> Option<Duration> {
    server.duration(key).filter(|duration| !duration.is_zero())
}

fn ttl(server: &Block<'_>, ca_ttl: Duration) -> TtlSettings {
    let x509_svid = lifetime(server, "default_x509_svid_ttl").unwrap_or(Duration::from_secs(3600));
    let jwt_svid = lifetime(server, "default_jwt_svid_ttl").unwrap_or(Duration::from_secs(300));
    let agent = lifetime(server, "agent_ttl");
    warn_of_short_svids(server, "default_x509_svid_ttl", x509_svid, ca_ttl);
    warn_of_short_svids(server, "default_jwt_svid_ttl", jwt_svid, ca_ttl);
    if let Some(agent) = agent {
        warn_of_short_svids(server, "agent_ttl", agent, ca_ttl);
    }
    TtlSettings { x509_svid, jwt_svid, agent: agent.unwrap_or(x509_svid) }
}

/// Warns when an authority may be replaced too early for SVIDs to get their whole lifetime.
fn warn_of_short_svids(server: &Block<'_>, key: &'static str, ttl: Duration, ca_ttl: Duration) {
    let (most, cap) = (timing::max_svid_ttl(ca_ttl), timing::MAX_SVID_TTL);
    if ttl <= most {
        return;
    }
    let most_text = format_duration(most);
    let advice = if ttl <= cap {
        let enough = format_duration(timing::min_ca_ttl(ttl));
        format!("set it to {most_text} or less, or ca_ttl to {enough} or more")
    } else if ca_ttl < timing::min_ca_ttl(cap) {
        let (cap, enough) = (format_duration(cap), format_duration(timing::min_ca_ttl(cap)));
        format!("set it to {cap} or less, and ca_ttl to {enough} or more")
    } else {
        format!("set it to {most_text} or less")
    };
    let (ttl, ca_ttl) = (format_duration(ttl), format_duration(ca_ttl));
    server.warn(
        key,
        format_args!(
            "{ttl} is too long for a ca_ttl of {ca_ttl}, SVIDs may get a shorter life when the \
             authority is replaced; {advice}"
        ),
    );
}

fn rate_limits(server: &Block<'_>) -> RateLimits {
    let mut limits = RateLimits::default();
    if let Some(block) = server.block("ratelimit") {
        limits.attestation = block.boolean("attestation").unwrap_or(true);
        limits.signing = block.boolean("signing").unwrap_or(true);
        block.finish();
    }
    limits
}

fn prune_nodes(server: &Block<'_>) -> Option<PruneNodes> {
    let expired_for = server.duration("prune_attested_nodes_expired_for");
    let batch_size = server.integer::<u32>("prune_attested_nodes_batch_size");
    let tofu = server.flag("prune_tofu_nodes");
    if expired_for.is_none() {
        for key in ["prune_attested_nodes_batch_size", "prune_tofu_nodes"] {
            if server.pos_of(key).is_some() && (tofu || batch_size.is_some()) {
                server.warn(key, "it has no effect unless prune_attested_nodes_expired_for is set");
            }
        }
    }
    let batch_size = batch_size.filter(|size| *size > 0).unwrap_or(1000);
    Some(PruneNodes { expired_for: expired_for?, batch_size, tofu })
}

fn experimental(server: &Block<'_>, key_type: KeyType) -> Experimental {
    let mut settings = Experimental::default();
    let Some(block) = server.block("experimental") else {
        return settings;
    };
    settings.agent_spiffe_id_as_selector = block.flag("agent_spiffe_id_as_selector");
    settings.require_pq_kem = block.flag("require_pq_kem");
    if let Some(age) = lifetime(&block, "prune_events_older_than") {
        settings.prune_events_older_than = age;
    }
    for key in [
        "cache_reload_interval",
        "full_cache_reload_interval",
        "event_timeout",
        "sql_transaction_timeout",
    ] {
        if block.duration(key).is_some() {
            block.warn(key, FEED);
        }
    }
    if block.flag("events_based_cache") {
        block.warn("events_based_cache", FEED);
    }
    block.refuse(
        "auth_opa_policy_engine",
        "Rego policies are not run here: SPIRE's default policy is built in, and policy_file narrows \
         it by data: administrators and local groups, their tenants, paths and verbs (see \
         docs/configuration/policy.md; `policy check` and `policy explain` try it out)",
    );
    let wit = WitSettings {
        key_type: block.parsed("wit_key_type").unwrap_or(key_type),
        issuer: block.text("wit_issuer").filter(|issuer| !issuer.is_empty()),
    };
    if wit.issuer.as_ref().is_some_and(|issuer| issuer.starts_with("https://")) {
        block.warn(
            "wit_issuer",
            "an https URL invites others to take a WIT-SVID for an OpenID Connect token, without a \
             proof; leave it out, or let it be another URI",
        );
    }
    for flag in block.texts("feature_flags") {
        match flag.as_str() {
            "wit-svid" => settings.wit = Some(wit.clone()),
            _ => block.error("feature_flags", format_args!("unknown feature flag {flag:?}")),
        }
    }
    if settings.wit.is_none() {
        for key in ["wit_issuer", "wit_key_type"] {
            if block.pos_of(key).is_some() {
                block.warn(key, "it has no effect unless feature_flags holds \"wit-svid\"");
            }
        }
    }
    block.refuse("named_pipe_name", "named pipes belong to Windows; use server { socket_path }");
    block.finish();
    settings
}
