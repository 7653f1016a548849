//! What the server makes of its configuration.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

use std::{fs, path::PathBuf, time::Duration};

use signet_config::{LogFormat, LogLevel, PluginSource, parse};
use signet_daemon::{flags::CommonFlags, program::Program};
use signet_identity::BundleEndpointProfile;
use signet_pki::KeyType;
use signet_server::{
    config::{Config, EndpointProfile, RunFlags},
    plugins::{
        Plugins,
        data_store::DataStore,
        key_manager::{KeyManager, SealKey},
        node_attestor::{NodeAttestor, X509PopMode},
        upstream_authority::UpstreamAuthority,
    },
};

const PLUGINS: &str = r#"
plugins {
    DataStore "sql" { plugin_data { database_type = "sqlite3" connection_string = "d.sqlite3" } }
    KeyManager "memory" { plugin_data {} }
}"#;

fn load(text: &str, flags: &RunFlags) -> Result<Config, String> {
    let document = parse("s.conf", text).unwrap();
    Config::from_document(Program::Signet, flags, &document).map_err(|error| error.to_string())
}

/// A file with `server` between the braces of `server {}` after what is required.
fn server(server: &str) -> String {
    format!("server {{\n trust_domain = \"td\"\n data_dir = \"/d\"\n{server}\n}}{PLUGINS}")
}

fn good(text: &str) -> Config {
    load(&server(text), &RunFlags::default()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn bad(text: &str) -> String {
    match load(&server(text), &RunFlags::default()) {
        Ok(_) => panic!("{text} was accepted"),
        Err(error) => error,
    }
}

#[test]
fn every_sample_is_accepted() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/samples");
    let mut read = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("server") {
            let flags = RunFlags { config: path.clone(), ..RunFlags::default() };
            let config = Config::load(Program::Signet, &flags, &|_| None);
            assert!(config.is_ok(), "{}", config.unwrap_err());
            read += 1;
        }
    }
    assert!(read >= 3);
}

#[test]
fn the_defaults_are_those_of_spire() {
    let config = good("");
    assert_eq!((config.bind_address.as_str(), config.bind_port), ("0.0.0.0", 8081));
    assert_eq!(config.socket_path, PathBuf::from("/run/signet-server/private/api.sock"));
    assert_eq!(config.ca.key_type, KeyType::EcP256);
    assert_eq!(config.ca.jwt_key_type, KeyType::EcP256);
    assert_eq!(config.ca.ttl, Duration::from_secs(24 * 3600));
    assert_eq!(config.ca.subject.country, ["US"]);
    assert_eq!(config.ca.subject.organization, ["SPIFFE"]);
    assert_eq!(config.ttl.x509_svid, Duration::from_secs(3600));
    assert_eq!(config.ttl.jwt_svid, Duration::from_secs(300));
    assert_eq!(config.ttl.agent, Duration::from_secs(3600));
    assert!(config.ratelimit.attestation && config.ratelimit.signing);
    assert!(config.prune_nodes.is_none() && config.health_checks.is_none());
    assert_eq!((config.log.level, config.log.format), (LogLevel::Info, LogFormat::Text));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn spire_names_bring_spire_paths() {
    let document = parse("s.conf", &server("")).unwrap();
    let config = Config::from_document(Program::Spire, &RunFlags::default(), &document).unwrap();
    assert_eq!(config.socket_path, PathBuf::from("/tmp/spire-server/private/api.sock"));
}

#[test]
fn flags_win_over_the_file() {
    let flags = RunFlags {
        bind_address: Some("127.0.0.1".to_owned()),
        server_port: Some(0),
        common: CommonFlags {
            data_dir: Some("/flag".into()),
            log_level: Some(LogLevel::Debug),
            socket_path: Some("/flag.sock".into()),
            trust_domain: Some("spiffe://flag.example".to_owned()),
            ..CommonFlags::default()
        },
        ..RunFlags::default()
    };
    let text = server("bind_port = 1 bind_address = \"[::1]\" log_level = \"WARN\"");
    let config = load(&text, &flags).unwrap();
    assert_eq!((config.bind_address.as_str(), config.bind_port), ("127.0.0.1", 0));
    assert_eq!(config.data_dir, PathBuf::from("/flag"));
    assert_eq!(config.log.level, LogLevel::Debug);
    assert_eq!(config.socket_path, PathBuf::from("/flag.sock"));
    assert_eq!(config.trust_domain.as_str(), "flag.example");
    assert_eq!(load(&text, &RunFlags::default()).unwrap().bind_address, "::1");
}

#[test]
fn what_is_missing_is_named() {
    let error = load("", &RunFlags::default()).unwrap_err();
    assert!(error.contains("plugins must be configured in the file"), "{error}");
    assert!(error.contains("server must be configured in the file"), "{error}");
    let error = load("server {} plugins {}", &RunFlags::default()).unwrap_err();
    for wanted in [
        "trust_domain must be configured in server {}",
        "data_dir must be configured in server {}",
        "exactly one DataStore is expected, found 0",
        "exactly one KeyManager is expected, found 0",
    ] {
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn wrong_values_are_refused_with_their_place() {
    for (text, wanted) in [
        ("trust_domain = \"Not/One\"", "s.conf:4:1: trust_domain: \"Not/One\":"),
        ("bind_port = 70000", "s.conf:4:1: bind_port: 70000 is out of range"),
        ("ca_key_type = \"dsa\"", "s.conf:4:1: ca_key_type:"),
        ("ca_ttl = \"1d\"", "s.conf:4:1: ca_ttl: not a duration"),
        ("ca_ttl = \"-1h\"", "s.conf:4:1: ca_ttl: a duration cannot be negative"),
        ("log_level = \"LOUD\"", "s.conf:4:1: log_level: not a log level"),
        ("log_format = \"xml\"", "s.conf:4:1: log_format: found \"xml\""),
        ("admin_ids = [\"x\"]", "s.conf:4:1: admin_ids: \"x\":"),
        ("proxy_protocol_trusted_cidrs = [\"10.0.0.0\"]", "proxy_protocol_trusted_cidrs"),
        ("unheard_of = 1", "s.conf:4:1: unknown key \"unheard_of\" in server {}"),
        ("ratelimit { singing = true }", "unknown key \"singing\" in ratelimit {}; did you mean"),
        ("experimental { x = 1 }", "unknown key \"x\" in experimental {}"),
        ("ca_subject { x = 1 }", "unknown key \"x\" in ca_subject {}"),
        ("profiling_enabled = true", "profiling_enabled: there is no profiler"),
        ("experimental { wit_key_type = \"dsa\" }", "s.conf:4:"),
        ("experimental { feature_flags = [\"x\"] }", "unknown feature flag \"x\""),
        ("experimental { named_pipe_name = \"x\" }", "named pipes belong to Windows"),
        (
            "experimental { auth_opa_policy_engine { local { rego_path = \"x\" } } }",
            "auth_opa_policy_engine: Rego policies are not run here",
        ),
        ("federation { bundle_endpoint {} }", "port must be configured in bundle_endpoint {}"),
        (
            "federation { bundle_endpoint { port = 1 profile \"https_web\" {} } }",
            "either acme or serving_cert_file must be configured",
        ),
        (
            "federation { bundle_endpoint { port = 1 profile \"ftp\" {} } }",
            "expected https_spiffe or https_web",
        ),
        (
            "federation { bundle_endpoint { port = 1 profile \"https_spiffe\" {} \
             profile \"https_web\" { serving_cert_file { cert_file_path = \"c\" \
             key_file_path = \"k\" } } } }",
            "exactly one bundle endpoint profile is expected",
        ),
        (
            "federation { federates_with \"td\" { bundle_endpoint_url = \"https://x\" \
             bundle_endpoint_profile \"https_web\" {} } }",
            "does not federate with its own trust domain",
        ),
        ("federation { federates_with \"a\" {} }", "bundle_endpoint_url must be configured"),
        (
            "federation { federates_with \"a\" { bundle_endpoint_url = \"http://x\" } }",
            "expected an https:// URL",
        ),
        (
            "federation { federates_with \"a\" { bundle_endpoint_url = \"https://x\" \
             bundle_endpoint_profile \"https_spiffe\" {} } }",
            "endpoint_spiffe_id must be configured",
        ),
        (&format!("socket_path = \"/{}\"", "x".repeat(107)), "longer than a socket's path may be"),
    ] {
        let error = bad(text);
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

#[test]
fn a_second_jwt_key_is_of_another_algorithm_and_for_named_audiences() {
    let config = good(
        "jwt_key_type = \"ec-p256\"\nsecond_jwt_key {\nkey_type = \"rsa-2048\"\n\
         audiences = [\"api://AzureADTokenExchange\", \"https://x/*\"] }",
    );
    let second = config.ca.second_jwt.unwrap();
    assert_eq!(second.key_type, KeyType::Rsa2048);
    assert!(second.audiences[1].matches("https://x/y") && !second.audiences[0].matches("api://"));
    assert!(good("").ca.second_jwt.is_none());
    let off = good(
        "disable_jwt_svids = true\nsecond_jwt_key { key_type = \"ec-p384\" audiences = [\"a\"] }",
    );
    assert!(off.warnings.iter().any(|it| it.contains("second_jwt_key")), "{:?}", off.warnings);
    for (block, wanted) in [
        ("", "key_type must be configured in second_jwt_key {}"),
        ("key_type = \"rsa-2048\"", "audiences must be configured in second_jwt_key {}"),
        ("key_type = \"rsa\" audiences = [\"a\"]", "s.conf:4:18: key_type:"),
        ("key_type = \"ec-p256\" audiences = [\"a\"]", "does not sign by ES256"),
        ("key_type = \"rsa-2048\" audiences = [\"*\"]", "\"*\": * alone would be every audience"),
        ("key_type = \"rsa-2048\" audiences = [\"a*b\"]", "a * stands at the end only"),
        ("key_type = \"rsa-2048\" audiences = [\"a\"] x = 1", "unknown key \"x\""),
    ] {
        let error = bad(&format!("second_jwt_key {{ {block} }}"));
        assert!(error.contains(wanted), "{block}: {error}");
    }
    let rsa = "jwt_key_type = \"rsa-4096\"\n";
    let error =
        bad(&format!("{rsa}second_jwt_key {{ key_type = \"rsa-2048\" audiences = [\"a\"] }}"));
    assert!(error.contains("does not sign by RS256"), "{error}");
}

#[test]
fn federation_is_read_as_typed_relationships() {
    let config = good(
        "federation { federates_with \"a.example\" { bundle_endpoint_url = \"HTTPS://a\" \
         bundle_endpoint_profile \"https_web\" {} } federates_with { \"b.example\" { \
         bundle_endpoint_url = \"https://b\" bundle_endpoint_profile \"https_spiffe\" { \
         endpoint_spiffe_id = \"spiffe://b.example/x\" } } } }",
    );
    let federation = &config.federation;
    let [a, b] = federation.federates_with.as_slice() else { panic!("{federation:?}") };
    assert_eq!(a.profile, BundleEndpointProfile::HttpsWeb);
    assert_eq!(b.trust_domain.as_str(), "b.example");
    assert!(matches!(&b.profile, BundleEndpointProfile::HttpsSpiffe { endpoint_spiffe_id }
        if endpoint_spiffe_id.path() == "/x"));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn the_bundle_endpoint_has_the_defaults_of_spire_and_its_warnings() {
    let endpoint = |text: &str| {
        let config = good(&format!("federation {{ bundle_endpoint {{ {text} }} }}"));
        (config.federation.bundle_endpoint.unwrap(), config.warnings)
    };
    let (web, warnings) = endpoint(
        "address = \"[::1]\" port = 8443 profile \"https_web\" { serving_cert_file { \
         cert_file_path = \"c.pem\" key_file_path = \"k.pem\" } }",
    );
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!((web.address.as_str(), web.port), ("::1", 8443));
    assert_eq!(web.refresh_hint, Duration::from_secs(300));
    let EndpointProfile::HttpsWeb(files) = web.profile else { panic!("{web:?}") };
    assert_eq!(files.sync_interval, Duration::from_secs(3600));
    let (bare, warnings) = endpoint("port = 8443");
    assert_eq!((bare.profile, bare.address.as_str()), (EndpointProfile::HttpsSpiffe, "0.0.0.0"));
    assert!(warnings[0].contains("profile: none is set"), "{warnings:?}");
    for (text, wanted) in [
        ("refresh_hint = \"24h\"", "a day or more is long"),
        ("refresh_hint = \"59s\"", "every minute"),
        ("address = \"bundle.example.org\"", "is no IP address"),
    ] {
        let (_, warnings) = endpoint(&format!("port = 1 profile \"https_spiffe\" {{}} {text}"));
        assert!(warnings.len() == 1 && warnings[0].contains(wanted), "{warnings:?}");
    }
}

#[test]
fn a_bundle_endpoint_by_acme_is_read_where_spire_has_it() {
    const GOOD: &str = "domain_name = \"Bundle.example.org\" tos_accepted = true";
    let read = |endpoint: &str| {
        let config = good(&format!("federation {{ bundle_endpoint {{ port = 443 {endpoint} }} }}"));
        let profile = config.federation.bundle_endpoint.unwrap().profile;
        let EndpointProfile::HttpsWebAcme(acme) = profile else { panic!("{profile:?}") };
        (acme, config.warnings)
    };
    let (acme, warnings) = read(&format!("profile \"https_web\" {{ acme {{ {GOOD} }} }}"));
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(acme.directory_url, "https://acme-v02.api.letsencrypt.org/directory");
    assert_eq!((acme.email, acme.domains), (None, vec!["bundle.example.org".to_owned()]));
    let given = "email = \"a@example.org\" directory_url = \"https://ca.example.org/dir\"";
    let (acme, warnings) = read(&format!("acme {{ {GOOD} {given} }}"));
    assert!(warnings.len() == 1 && warnings[0].contains("https_web"), "{warnings:?}");
    assert_eq!(acme.directory_url, "https://ca.example.org/dir");
    assert_eq!(acme.email.as_deref(), Some("a@example.org"));

    let web = |inside: &str| format!("profile \"https_web\" {{ acme {{ {inside} }} }}");
    for (endpoint, wanted) in [
        (web("domain_name = \"a.test\""), "tos_accepted: it must be true"),
        (web("tos_accepted = true"), "domain_name must be configured"),
        (web("domain_name = \"https://a.test\" tos_accepted = true"), "expected a domain name"),
        (web("domain_name = \"127.0.0.1\" tos_accepted = true"), "expected a domain name"),
        (web(&format!("{GOOD} directory_url = \"http://a\"")), "expected an https:// URL"),
        (web(&format!("{GOOD} email = \"a\"")), "expected one address"),
        (format!("acme {{ {GOOD} }}"), "email must be configured"),
        (format!("acme {{ {GOOD} {given} }} {}", web(GOOD)), "but not both"),
        ("profile \"https_web\" {}".to_owned(), "either acme or serving_cert_file"),
    ] {
        let text = format!("federation {{ bundle_endpoint {{ port = 443 {endpoint} }} }}");
        let error = bad(&text);
        assert!(error.contains(wanted), "{endpoint}: {error}");
    }
}

#[test]
fn svids_that_may_be_cut_short_are_warned_about() {
    for (text, advice) in [
        ("default_x509_svid_ttl = \"6h\"", "set it to 4h or less, or ca_ttl to 36h or more"),
        ("agent_ttl = \"200h\"", "set it to 168h or less, and ca_ttl to 1008h or more"),
        ("ca_ttl = \"2000h\" default_jwt_svid_ttl = \"200h\"", "set it to 168h or less"),
    ] {
        let warnings = good(text).warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].ends_with(advice), "{warnings:?}");
    }
    assert!(good("default_x509_svid_ttl = \"4h\"").warnings.is_empty());
}

#[test]
fn knobs_of_machinery_that_is_not_there_are_warned_about() {
    for text in [
        "max_attested_node_info_staleness = \"5s\"",
        "experimental { cache_reload_interval = \"5s\" }",
        "experimental { full_cache_reload_interval = \"24h\" }",
        "experimental { events_based_cache = true }",
        "experimental { event_timeout = \"15m\" }",
        "prune_tofu_nodes = true",
    ] {
        let warnings = good(text).warnings;
        assert_eq!(warnings.len(), 1, "{text}: {warnings:?}");
        assert!(warnings[0].contains("it has no effect"), "{warnings:?}");
    }
    assert!(good("max_attested_node_info_staleness = \"0s\"").warnings.is_empty());
}

fn with_plugins(plugins: &str) -> Result<Config, String> {
    let text =
        format!("server {{ trust_domain = \"td\" data_dir = \"/d\" }}\nplugins {{ {plugins} }}");
    load(&text, &RunFlags::default())
}

const STORE: &str =
    "DataStore sql { plugin_data { database_type = \"sqlite3\" connection_string = \"d\" } }";

#[test]
fn plugins_become_typed_values() {
    let config = with_plugins(&format!(
        "{STORE} KeyManager \"disk\" {{ plugin_data {{ keys_path = \"k\" seal_key_file = \"s\" }} }}
         NodeAttestor \"x509pop\" {{ plugin_data {{ mode = \"spiffe\" spiffe_prefix = \"/p\" }} }}
         NodeAttestor {{ join_token {{}} }}
         UpstreamAuthority disk {{ plugin_data {{ cert_file_path = \"c\" key_file_path = \"y\" }} }}
         KeyManager \"aws_kms\" {{ enabled = false plugin_data {{ region = \"x\" }} }}
         CredentialComposer uniqueid {{}}"
    ))
    .unwrap();
    let DataStore::Sqlite(store) = &config.plugins.data_store.settings else { panic!() };
    assert_eq!(store.path.as_deref(), Some("d".as_ref()));
    let KeyManager::Disk(disk) = &config.plugins.key_manager.settings else { panic!() };
    assert_eq!(disk.seal, Some(SealKey::KeyFile("s".into())));
    let names: Vec<_> = config.plugins.node_attestors.iter().map(|plugin| plugin.name).collect();
    assert_eq!(names, ["x509pop", "join_token"]);
    let NodeAttestor::X509Pop(pop) = &config.plugins.node_attestors[0].settings else { panic!() };
    assert_eq!(pop.mode, X509PopMode::Spiffe { svid_prefix: "/p/".to_owned() });
    let Some(upstream) = &config.plugins.upstream_authority else { panic!() };
    let UpstreamAuthority::Disk(upstream) = &upstream.settings else { panic!() };
    assert_eq!(upstream.bundle_file_path, None);
    assert_eq!(config.plugins.credential_composers.len(), 1);
}

#[test]
fn plugins_that_do_not_exist_here_are_refused_with_what_to_use() {
    for (plugin, wanted) in [
        ("KeyManager \"x\" {}", "unknown key manager"),
        (
            "NodeAttestor \"k8s_psat\" { plugin_data { clusters = { \"c\" = {} } } }",
            "service_account_allow_list must be configured",
        ),
        ("NodeAttestor \"aws_iid\" {}", "use k8s_psat, x509pop, http_challenge or join_token"),
        (
            "UpstreamAuthority \"ejbca\" {}",
            "is not in this release; use UpstreamAuthority \"disk\"",
        ),
        ("Notifier \"gcs_bundle\" {}", "use Notifier \"k8sbundle\""),
        ("Notifier \"x\" {}", "unknown notifier; this build has k8sbundle"),
        (
            "Notifier \"k8sbundle\" { plugin_data { clusters = [{ namespace = \"n\" }] } }",
            "kube_config_file_path must be configured",
        ),
        (
            "Notifier \"k8sbundle\" { plugin_data { webhook_label = \"a b\" } }",
            "expected a label such as spiffe.io/webhook",
        ),
        (
            "Notifier \"k8sbundle\" { plugin_data { namespace = \"../x\" } }",
            "is not the name of a Kubernetes object",
        ),
        ("BundlePublisher \"x\" {}", "unknown bundle publisher"),
        (
            "BundlePublisher \"k8s_configmap\" { plugin_data { clusters = { c = {} } } }",
            "configmap_name must be configured",
        ),
        (
            "BundlePublisher \"k8s_configmap\" { plugin_data { clusters = { c = { format = \"der\" \
             namespace = \"n\" configmap_name = \"m\" configmap_key = \"k\" } } } }",
            "unknown bundle format \"der\", expected spiffe, jwks or pem",
        ),
        ("WorkloadAttestor \"unix\" {}", "unknown kind of plugin"),
        ("NodeAttestor \"join_token\" { plugin_cmd = \"/x\" }", "external plugins are not"),
        (
            "NodeAttestor \"join_token\" { plugin_data { a = 1 } }",
            "unknown key \"a\" in NodeAttestor",
        ),
        ("NodeAttestor \"join_token\" { data {} }", "unknown key \"data\" in NodeAttestor"),
        ("NodeAttestor \"x509pop\" {}", "ca_bundle_path or ca_bundle_paths must be configured"),
        ("NodeAttestor \"http_challenge\" { plugin_data { tofu = false } }", "tofu: it cannot"),
        ("NodeAttestor a {} NodeAttestor a {}", "plugin NodeAttestor \"a\" is declared more than"),
        (
            "DataStore sql { plugin_data { database_type = \"postgres\" connection_string = \"\" } }",
            "connection_string must be configured",
        ),
        (
            "DataStore sql { plugin_data { database_type \"aws_mysql\" { region = \"x\" } } }",
            "MySQL is not supported",
        ),
    ] {
        let error = with_plugins(plugin).unwrap_err();
        assert!(error.contains(wanted), "{plugin}: {error}");
    }
}

#[test]
fn a_plugin_data_file_is_read_and_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("upstream.conf");
    fs::write(&file, "cert_file_path = \"c1\"\nkey_file_path = \"k\"").unwrap();
    let config = with_plugins(&format!(
        "{STORE} KeyManager memory {{}} UpstreamAuthority \"disk\" {{ plugin_data_file = {file:?} }}"
    ))
    .unwrap();
    let cert = |plugins: &Plugins| {
        let upstream = plugins.upstream_authority.as_ref().unwrap();
        assert_eq!(upstream.source, PluginSource::File(file.clone()));
        let UpstreamAuthority::Disk(disk) = &upstream.settings else { panic!() };
        disk.cert_file_path.clone()
    };
    assert_eq!(cert(&config.plugins), PathBuf::from("c1"));
    fs::write(&file, "{\"cert_file_path\": \"c2\", \"key_file_path\": \"k\"}").unwrap();
    assert_eq!(cert(&config.plugins.reload().unwrap()), PathBuf::from("c2"));
    fs::write(&file, "cert_file_path = \"c3\"\nkey = \"k\"").unwrap();
    let error = config.plugins.reload().unwrap_err().to_string();
    assert!(error.contains("upstream.conf:2:1: unknown key \"key\""), "{error}");
    assert!(error.contains("key_file_path must be configured"), "{error}");
}

#[test]
fn the_environment_is_expanded_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("server.conf");
    fs::write(&file, server("jwt_issuer = \"https://$HOST_NAME\"")).unwrap();
    let issuer = |expand_env| {
        let common = CommonFlags { expand_env, ..CommonFlags::default() };
        let flags = RunFlags { config: file.clone(), common, ..RunFlags::default() };
        let env = |name: &str| (name == "HOST_NAME").then(|| "oidc.example".to_owned());
        Config::load(Program::Signet, &flags, &env).unwrap().jwt_issuer.unwrap()
    };
    assert_eq!(issuer(true), "https://oidc.example");
    assert_eq!(issuer(false), "https://$HOST_NAME");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let flags = RunFlags { config: "/no/such/file.conf".into(), ..RunFlags::default() };
    let error = Config::load(Program::Signet, &flags, &|_| None).unwrap_err().to_string();
    assert_eq!(error, "/no/such/file.conf: there is no such file; name it with -config");
}
