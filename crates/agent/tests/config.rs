//! What the agent makes of its configuration.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use signet_agent::{
    config::{
        Bootstrap, BundleFormat, Config, CsiFlags, RebootstrapMode, RunFlags, ServerSet, SvidCache,
    },
    plugins::{
        key_manager::KeyManager,
        node_attestor::{NodeAttestor, X509PopSource},
        workload_attestor::WorkloadAttestor,
    },
};
use signet_config::parse;
use signet_daemon::program::Program;
use signet_pki::KeyType;

const PLUGINS: &str = r#"
plugins {
    KeyManager "disk" { plugin_data { directory = "/k" } }
    NodeAttestor "join_token" { plugin_data {} }
    WorkloadAttestor "unix" { plugin_data {} }
}"#;

fn load(text: &str, flags: &RunFlags) -> Result<Config, String> {
    let document = parse("a.conf", text).unwrap();
    let env = |name: &str| (name == "MY_NODE_NAME").then(|| "node-1".to_owned());
    Config::from_document(Program::Signet, flags, &env, &document)
        .map_err(|error| error.to_string())
}

/// A file with `agent` between the braces of `agent {}` after what is required.
fn agent(agent: &str) -> String {
    format!(
        "agent {{ trust_domain = \"td\" server_address = \"s\" server_port = \"8081\"\n\
         {agent}\n}}{PLUGINS}"
    )
}

fn good(text: &str) -> Config {
    let text = agent(&format!("trust_bundle_path = \"b\" {text}"));
    load(&text, &RunFlags::default()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn bad(text: &str) -> String {
    match load(&agent(text), &RunFlags::default()) {
        Ok(_) => panic!("{text} was accepted"),
        Err(error) => error,
    }
}

fn with(plugins: &str) -> Result<Config, String> {
    let text = format!(
        "agent {{ trust_domain = \"td\" server_address = \"s\" server_port = 1 \
         insecure_bootstrap = true }} plugins {{ KeyManager memory {{}} {plugins} }}"
    );
    load(&text, &RunFlags::default())
}

#[test]
fn every_sample_is_accepted() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/samples");
    let mut read = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("agent") {
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
    assert_eq!(config.data_dir, PathBuf::from("."));
    assert_eq!(config.socket_path, Some("/run/signet-agent/public/api.sock".into()));
    assert_eq!(config.admin_socket_path, None);
    assert_eq!(config.workload_key_type, KeyType::EcP256);
    assert_eq!(config.rebootstrap_mode, RebootstrapMode::Never);
    assert_eq!(config.rebootstrap_delay, Duration::from_secs(600));
    assert_eq!((config.x509_svid_cache_max_size, config.jwt_svid_cache_max_size), (1000, 1000));
    assert_eq!(config.sds.default_bundle_name, "ROOTCA");
    assert_eq!(config.experimental.sync_interval, Duration::from_secs(5));
    assert!(config.experimental.use_sync_authorized_entries);
    assert!(matches!(
        config.servers[0].bootstrap,
        Bootstrap::Path { format: BundleFormat::Pem, .. }
    ));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn spire_names_bring_spire_paths() {
    let document = parse("a.conf", &agent("insecure_bootstrap = true")).unwrap();
    let config =
        Config::from_document(Program::Spire, &RunFlags::default(), &|_| None, &document).unwrap();
    assert_eq!(config.socket_path, Some("/tmp/spire-agent/public/api.sock".into()));
}

#[test]
fn exactly_one_source_of_the_first_bundle_is_configured() {
    assert!(matches!(
        load(&agent("insecure_bootstrap = true"), &RunFlags::default()).unwrap().servers[0]
            .bootstrap,
        Bootstrap::Insecure
    ));
    let url = agent("trust_bundle_url = \"https://x\" trust_bundle_format = \"spiffe\"");
    assert!(matches!(
        load(&url, &RunFlags::default()).unwrap().servers[0].bootstrap,
        Bootstrap::Url { format: BundleFormat::Spiffe, unix_socket: None, .. }
    ));
    for (text, wanted) in [
        ("", "or insecure_bootstrap must be configured"),
        ("insecure_bootstrap = true trust_bundle_path = \"b\"", "only one of"),
        ("insecure_bootstrap = true trust_bundle_url = \"https://b\"", "only one of"),
        ("trust_bundle_path = \"b\" trust_bundle_url = \"https://b\"", "only one of"),
        ("trust_bundle_spiffe_workload_api = \"tcp://1.2.3.4:5\"", "expected unix:///path"),
        ("trust_bundle_spiffe_workload_api = \"unix:x\"", "expected unix:///path"),
        (
            "trust_bundle_spiffe_workload_api = \"unix:///x\" trust_bundle_path = \"b\"",
            "only one of",
        ),
        ("trust_bundle_url = \"http://b\"", "starts with https://"),
        (
            "trust_bundle_url = \"https://b\" trust_bundle_unix_socket = \"/s\"",
            "starts with http:// together with trust_bundle_unix_socket",
        ),
        (
            "trust_bundle_url = \"http://b?a=1&spire-x=1\" trust_bundle_unix_socket = \"/s\"",
            "the query parameter \"spire-x\" is reserved",
        ),
        (
            "trust_bundle_path = \"b\" trust_bundle_unix_socket = \"/s\"",
            "it needs a trust_bundle_url",
        ),
        ("trust_bundle_path = \"b\" trust_bundle_format = \"der\"", "expected pem or spiffe"),
        ("insecure_bootstrap = true rebootstrap_mode = \"auto\"", "cannot bootstrap again"),
    ] {
        let error = bad(text);
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

#[test]
fn wrong_values_are_refused_with_their_place() {
    for (text, wanted) in [
        ("x = 1", "a.conf:2:25: unknown key \"x\" in agent {}"),
        ("rebootstrap_mode = \"often\"", "expected never, auto or always"),
        ("availability_target = \"23h\"", "it must be at least 24h"),
        ("x509_svid_cache_max_size = -1", "-1 is out of range"),
        ("workload_x509_svid_key_type = \"rsa-4096\"", "rsa-4096 is not for workloads"),
        ("authorized_delegates = [\"spiffe://other/x\"]", "is not an identity of td"),
        ("svid_cache = \"open\"", "expected sealed or off"),
        ("svid_cache = \"off\" svid_cache_key_file = \"k\"", "no use with svid_cache"),
        ("admin_socket_path = \"/run/signet-agent/public/a.sock\"", "it cannot lie in or below"),
        ("admin_socket_path = \"/run/signet-agent/x/../public/d/a.sock\"", "it cannot lie in"),
        ("experimental { jwt_svid_cache_hit_timeout = \"30s\" }", "at least 5s and less than 30s"),
        ("experimental { broker { socket_path = \"/b/s\" } }", "at least one broker is expected"),
        ("experimental { broker { } }", "socket_path, bind_address or both are expected"),
        ("experimental { broker { bind_address = \"::1:1\" } }", "expected HOST:PORT"),
        ("experimental { broker { socket_path = \"/run/signet-agent/public/b/s\" } }", "nor below"),
        (
            "experimental { broker { socket_path = \"/b/s\" brokers = [ {
                 id = \"spiffe://td/b\" allowed_reference_types = [ { type_url = \"x\" } ] } ] } }",
            "unknown reference type \"x\"",
        ),
        (
            "experimental { broker { socket_path = \"/b/s\" brokers = [ { id = \"x\" } ] } }",
            "at least one reference type is expected",
        ),
        ("experimental { named_pipe_name = \"x\" }", "named pipes belong to Windows"),
        ("experimental { ratelimit { fetch_secrets = -1 } }", "-1 is out of range"),
        ("sds { x = 1 }", "unknown key \"x\" in sds {}"),
        ("join_token = \"a\" join_token_file = \"b\"", "only one of join_token and"),
        ("join_token_file = \"/no/such/token\"", "/no/such/token"),
    ] {
        let error = bad(&format!("trust_bundle_path = \"b\" {text}"));
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

#[test]
fn the_csi_driver_is_off_until_it_is_configured_or_asked_for() {
    assert_eq!(good("").csi, None);
    let csi = good("csi {}").csi.unwrap();
    assert_eq!(csi.socket_path(), Path::new("/spiffe-csi/csi.sock"));
    assert_eq!(csi.workload_api_socket_dir(), Path::new("/run/signet-agent/public"));
    assert_eq!(csi.kubelet_dir(), Some(Path::new("/var/lib/kubelet")));
    assert_eq!((csi.node_id(), csi.plugin_name()), ("node-1", "csi.spiffe.io"));
    let csi = good(
        "socket_path = \"/s/api.sock\"\ncsi { socket_path = \"/c/c.sock\" node_id = \"n\" \
         plugin_name = \"csi.example.org\" kubelet_dir = \"/k\" workload_api_socket_dir = \"/w\" }",
    );
    let csi = csi.csi.unwrap();
    assert_eq!(csi.socket_path(), Path::new("/c/c.sock"));
    assert_eq!(csi.workload_api_socket_dir(), Path::new("/w"));
    assert_eq!(csi.kubelet_dir(), Some(Path::new("/k")));
    assert_eq!((csi.node_id(), csi.plugin_name()), ("n", "csi.example.org"));

    let csi = CsiFlags { csi_socket_path: Some("/f.sock".into()), ..CsiFlags::default() };
    let flags = RunFlags { csi, ..RunFlags::default() };
    let csi = load(&agent("trust_bundle_path = \"b\""), &flags).unwrap().csi.unwrap();
    assert_eq!(csi.socket_path(), Path::new("/f.sock"));
}

#[test]
fn pods_are_not_given_what_the_agent_keeps_to_itself() {
    for (text, wanted) in [
        ("csi { node_id_env = \"NOPE\" }", "a.conf:2:25: node_id: it must be set"),
        ("csi { x = 1 }", "unknown key \"x\" in csi {}"),
        (
            "data_dir = \"/w/data\" csi { workload_api_socket_dir = \"/w\" }",
            "data_dir (/w/data) cannot lie in or below /w, which pods are given as a whole",
        ),
        (
            "csi { workload_api_socket_dir = \"/k\" }",
            "the directory of KeyManager \"disk\" (/k) cannot lie in or below /k",
        ),
        (
            "svid_cache_key_file = \"/w/key\" csi { workload_api_socket_dir = \"/w\" }",
            "svid_cache_key_file (/w/key) cannot lie",
        ),
        (
            "admin_socket_path = \"/w/a/a.sock\" csi { workload_api_socket_dir = \"/w\" }",
            "admin_socket_path (/w/a/a.sock) cannot lie",
        ),
        (
            "csi { socket_path = \"/run/signet-agent/public/csi.sock\" }",
            "socket_path: /run/signet-agent/public/csi.sock lies in or below",
        ),
        (
            "disable_workload_api = true disable_sds_api = true csi {}",
            "workload_api_socket_dir: it must be set",
        ),
    ] {
        let error = bad(&format!("trust_bundle_path = \"b\" {text}"));
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

#[test]
fn the_sealed_cache_is_on_by_default_only_with_keys_on_disk() {
    let key_file = |extra: &str| match good(extra).servers[0].svid_cache.clone() {
        SvidCache::Sealed { key_file } => key_file,
        SvidCache::Off => panic!("{extra}: no sealed cache"),
    };
    let own = key_file("");
    assert_eq!(own.parent(), Some(Path::new("/run/signet-agent")));
    assert_ne!(own, key_file("data_dir = \"/elsewhere\""), "two agents have two keys");
    assert_eq!(good("svid_cache = \"off\"").servers[0].svid_cache, SvidCache::Off);
    let memory = agent("trust_bundle_path = \"b\"")
        .replace("\"disk\" { plugin_data { directory = \"/k\" } }", "memory {}");
    let config = load(&memory, &RunFlags::default()).unwrap();
    assert_eq!(config.plugins.key_manager.settings, KeyManager::Memory);
    assert_eq!(config.servers[0].svid_cache, SvidCache::Off);
}

#[test]
fn a_join_token_comes_from_flag_key_or_file_and_is_never_printed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    fs::write(&file, " secret-token\n").unwrap();
    let config = good(&format!("join_token_file = {file:?}"));
    assert_eq!(config.servers[0].join_token.as_ref().unwrap().expose(), "secret-token");
    assert!(!format!("{config:?}").contains("secret-token"));
    fs::write(&file, "\n").unwrap();
    let error = bad(&format!("trust_bundle_path = \"b\" join_token_file = {file:?}"));
    assert!(error.contains("holds no join token"), "{error}");
}

#[test]
fn an_agent_with_both_apis_disabled_has_no_public_socket() {
    let config = good("disable_workload_api = true disable_sds_api = true");
    assert_eq!(config.socket_path, None);
    assert!(good("disable_workload_api = true").socket_path.is_some());
}

#[test]
fn plugins_become_typed_values_or_are_refused() {
    let config = with(
        "NodeAttestor x509pop { plugin_data { private_key_path = \"k\" certificate_path = \"c\" } }
         WorkloadAttestor unix { plugin_data { discover_workload_path = true \
         workload_size_limit = -1 } }",
    )
    .unwrap();
    let node = config.plugins.node_attestor.unwrap();
    let NodeAttestor::X509Pop(pop) = node.settings else { panic!() };
    assert!(matches!(pop.source, X509PopSource::Files { intermediates_path: None, .. }));
    let WorkloadAttestor::Unix(unix) = &config.plugins.workload_attestors[0].settings else {
        panic!()
    };
    assert_eq!((unix.discover_workload_path, unix.workload_size_limit), (true, Some(-1)));
    for (plugins, wanted) in [
        ("", "exactly one NodeAttestor is expected, found 0"),
        ("", "at least one WorkloadAttestor is expected"),
        ("NodeAttestor x509pop {}", "private_key_path must be configured"),
        ("NodeAttestor k8s_psat {}", "cluster must be configured"),
        ("NodeAttestor sshpop {}", "is not in this release"),
        ("WorkloadAttestor windows {}", "belongs to Windows"),
        ("WorkloadAttestor x {}", "unknown workload attestor"),
        ("SVIDStore aws_secretsmanager {}", "region must be configured"),
        ("SVIDStore disk {}", "directory must be configured"),
        ("SVIDStore vault {}", "unknown SVID store"),
        (
            "SVIDStore gcp_secretmanager { plugin_data { endpoint = \"ftp://x\" } }",
            "it must be an https:// URL",
        ),
        ("Notifier x {}", "unknown kind of plugin"),
    ] {
        let error = with(plugins).unwrap_err();
        assert!(error.contains(wanted), "{plugins}: {error}");
    }
}

fn workload(attestor: &str) -> Result<WorkloadAttestor, String> {
    let text = format!(
        "agent {{ trust_domain = \"td\" server_address = \"s\" server_port = 1 \
         insecure_bootstrap = true }} plugins {{ KeyManager memory {{}} NodeAttestor join_token {{}} \
         WorkloadAttestor {attestor} }}"
    );
    let config = load(&text, &RunFlags::default())?;
    Ok(config.plugins.workload_attestors[0].settings.clone())
}

#[test]
fn docker_is_configured_as_for_spire() {
    let docker = |keys: &str| workload(&format!("docker {{ plugin_data {{ {keys} }} }}"));
    let WorkloadAttestor::Docker(defaults) = docker("").unwrap() else { panic!() };
    assert_eq!(defaults.docker.to_string(), "/var/run/docker.sock");
    assert_eq!(defaults.podman.to_string(), "/run/podman/podman.sock");
    assert_eq!((defaults.version, defaults.rootless_podman), (None, None));
    let WorkloadAttestor::Docker(config) = docker(
        "docker_socket_path = \"tcp://127.0.0.1:2375\" docker_version = \"v1.44\" \
         podman_socket_path = \"unix:///p.sock\" \
         podman_socket_path_template = \"unix:///run/user/%d/podman/podman.sock\" \
         use_new_container_locator = true verbose_container_locator_logs = true \
         container_id_cgroup_matchers = []",
    )
    .unwrap() else {
        panic!()
    };
    assert_eq!(config.docker.to_string(), "127.0.0.1:2375");
    assert_eq!(config.podman.to_string(), "/p.sock");
    assert_eq!(config.version.as_deref(), Some("1.44"));
    let rootless = config.rootless_podman.unwrap().of(1000).to_string();
    assert_eq!(rootless, "/run/user/1000/podman/podman.sock");
    for (keys, wanted) in [
        ("docker_socket_path = \"/var/run/docker.sock\"", "expected unix:///path"),
        ("docker_socket_path = \"tcp://docker.example:2375\"", "is not on this machine"),
        ("docker_version = \"latest\"", "expected a version such as"),
        ("docker_version = \"1.44/../x\"", "expected a version such as"),
        ("podman_socket_path = \"ssh://h\"", "expected unix:///path"),
        ("podman_socket_path_template = \"unix:///p.sock\"", "exactly one %d"),
        ("use_new_container_locator = false", "the legacy container locator is not in Signet"),
        ("container_id_cgroup_matchers = [\"/docker/<id>\"]", "the legacy container locator"),
        ("docker_host = \"npipe://x\"", "named pipes belong to Windows"),
        ("sigstore { ignore_tlog = true }", "use the selectors of the image's digest"),
        ("experimental { x = 1 }", "unknown key \"experimental\""),
    ] {
        let error = docker(keys).unwrap_err();
        assert!(error.contains(wanted), "{keys}: {error}");
    }
}

#[test]
fn systemd_takes_no_keys() {
    for text in ["systemd {}", "systemd { plugin_data {} }"] {
        assert_eq!(workload(text).unwrap(), WorkloadAttestor::Systemd);
    }
    let error = workload("systemd { plugin_data { x = 1 } }").unwrap_err();
    assert!(error.contains("unknown key \"x\""), "{error}");
}

#[test]
fn the_kubernetes_attestor_has_the_keys_and_defaults_of_spire() {
    let read = |data: &str| {
        with(&format!(
            "NodeAttestor join_token {{}} WorkloadAttestor k8s {{ plugin_data {{ {data} }} }}"
        ))
    };
    let k8s = |data: &str| {
        let config = read(data).unwrap_or_else(|error| panic!("{data}: {error}"));
        let WorkloadAttestor::K8s(k8s) = config.plugins.workload_attestors[0].settings.clone()
        else {
            panic!()
        };
        (k8s, config.warnings)
    };
    let (defaults, _) = k8s("");
    assert_eq!(defaults.max_poll_attempts, 60);
    assert_eq!(defaults.poll_retry_interval, None);
    assert!(!defaults.enable_namespace_labels && !defaults.disable_container_selectors);
    assert_eq!(defaults.node_name_env, "MY_NODE_NAME");
    // As the hardened Helm chart writes it.
    let (chart, warnings) =
        k8s("kubelet_ca_path = \"/hostCert/kubelet.crt\" skip_kubelet_verification = false \
         disable_container_selectors = true use_new_container_locator = true \
         verbose_container_locator_logs = false node_name_env = \"KUBELET_ADDR\"");
    assert!(chart.disable_container_selectors && warnings.is_empty(), "{warnings:?}");
    assert_eq!(chart.node_name_env, "KUBELET_ADDR");
    let (set, warnings) =
        k8s("poll_retry_interval = \"1s\" max_poll_attempts = 5 enable_namespace_labels = true \
         experimental { api_server { cache { enabled = true } } }");
    assert_eq!(set.poll_retry_interval, Some(std::time::Duration::from_secs(1)));
    assert!(set.enable_namespace_labels);
    assert!(warnings.iter().any(|w| w.contains("it has no effect")), "{warnings:?}");
    let (brokers, warnings) = k8s("disable_kubelet_client = true experimental { broker {
         access_policy = \"enforced\" brokers = [ { id = \"spiffe://td/b\"
         pod_reference_scope = \"cluster\" } ] } }");
    assert!(brokers.kubelet().is_none() && warnings.is_empty(), "{warnings:?}");
    assert!(brokers.brokers.is_some_and(|policy| policy.enforced));
    for (data, wanted) in [
        ("use_new_container_locator = false", "the legacy container locator is not in Signet"),
        (
            "disable_kubelet_client = true node_name = \"n\"",
            "node_name: it cannot be used with disable_kubelet_client",
        ),
        (
            "disable_kubelet_client = true experimental { broker { access_policy = \"enforced\"
             brokers = [ { id = \"spiffe://td/b\" } ] } }",
            "the pod_reference_scope of broker spiffe://td/b must be \"cluster\"",
        ),
        ("kubelet_read_only_port = 1 kubelet_secure_port = 2", "both the read-only and secure"),
        ("certificate_path = \"/c\"", "the private key path is required"),
        ("experimental { broker { access_policy = \"enforced\" } }", "at least one broker"),
        (
            "experimental { broker { brokers = [ { id = \"spiffe://td/b\" } ] } }",
            "access_policy must be configured",
        ),
        (
            "experimental { broker { access_policy = \"lax\" brokers = [ { id = \"x\" } ] } }",
            "expected enforced or permissive",
        ),
        ("sigstore { }", "use the selectors of the image"),
        ("poll_retry_interval = \"x\"", "poll_retry_interval"),
    ] {
        let error = read(data).unwrap_err();
        assert!(error.contains(wanted), "{data}: {error}");
    }
}

/// A file with `sets` where a server's address would be.
fn sets(sets: &str) -> Result<Config, String> {
    let text = format!(
        "agent {{ trust_domain = \"td\" data_dir = \"/d\" trust_bundle_path = \"b\"\n{sets}\n}}
         plugins {{ KeyManager disk {{ plugin_data {{ directory = \"/k\" }} }}
         NodeAttestor \"join_token\" {{ plugin_data {{}} }}
         WorkloadAttestor unix {{ plugin_data {{}} }} }}"
    );
    load(&text, &RunFlags::default())
}

#[test]
fn each_server_set_has_its_own_address_trust_token_and_files() {
    let config = sets(
        "server_set \"east\" { server_address = \"[::1]\" server_port = 1 join_token = \"t\" }
         server_set \"west\" { server_address = \"w\" server_port = 2 trust_bundle_path = \"wb\" }",
    )
    .unwrap();
    let [east, west] = config.servers.as_slice() else { panic!("{:?}", config.servers) };
    assert_eq!((east.name.as_deref(), west.name.as_deref()), (Some("east"), Some("west")));
    assert_eq!((east.server_address.as_str(), east.server_port), ("::1", 1));
    assert_eq!(east.join_token.as_ref().unwrap().expose(), "t");
    assert!(west.join_token.is_none());
    let path = |set: &ServerSet| match &set.bootstrap {
        Bootstrap::Path { path, .. } => path.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!((path(east), path(west)), ("b".into(), "wb".into()), "or that of the agent");
    assert_eq!(east.data_dir, Path::new("/d/server_sets/east"));
    assert_eq!(west.key_manager, KeyManager::Disk { directory: "/k/server_sets/west".into() });
    let key_file = |set: &ServerSet| match &set.svid_cache {
        SvidCache::Sealed { key_file } => key_file.clone(),
        SvidCache::Off => panic!(),
    };
    assert_ne!(key_file(east), key_file(west));
    // Without sets everything is where it always was.
    let one = sets("server_address = \"s\" server_port = 1").unwrap();
    assert_eq!((one.servers.len(), &one.servers[0].name), (1, &None));
    assert_eq!(one.servers[0].data_dir, Path::new("/d"));
    assert_eq!(one.servers[0].key_manager, KeyManager::Disk { directory: "/k".into() });
}

#[test]
fn server_sets_that_cannot_be_meant_are_refused() {
    let east = "server_set \"east\" { server_address = \"e\" server_port = 1 }";
    for (text, wanted) in [
        (format!("{east} server_address = \"s\""), "it belongs into each of them"),
        (format!("{east} join_token = \"t\""), "it belongs into each of them"),
        (format!("{east} server_set \"a/b\" {{ }}"), "found the name \"a/b\", expected 1 to 32"),
        ("server_set \"x\" { server_port = 1 }".to_owned(), "server_address must be configured in"),
        (format!("{east} server_set x {{ server_adress = \"e\" }}"), "did you mean"),
        (
            (0..5).map(|n| east.replace("east", &format!("s{n}"))).collect(),
            "found 5 sets, expected at most 4",
        ),
        (
            "rebootstrap_mode = \"auto\" server_set \"x\" { server_address = \"e\" \
             server_port = 1 insecure_bootstrap = true }"
                .to_owned(),
            "a server_set with insecure_bootstrap cannot be bootstrapped again",
        ),
    ] {
        let error = sets(&text).expect_err(&text);
        assert!(error.contains(wanted), "{text}: {error}");
    }
    let flags = RunFlags { server_port: Some(1), ..RunFlags::default() };
    let text =
        format!("agent {{ trust_domain = \"td\" trust_bundle_path = \"b\" {east} }}{PLUGINS}");
    let error = load(&text, &flags).unwrap_err();
    assert!(error.contains("-serverPort cannot say for which of the sets"), "{error}");
}
