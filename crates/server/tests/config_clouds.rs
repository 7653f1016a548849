//! The settings of keys, roots and bundles in Google Cloud, in Azure and with cert-manager.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

use std::path::Path;

use signet_azure::{BlobAccess, Credentials as AzureCredentials};
use signet_base::SystemClock;
use signet_daemon::program::Program;
use signet_gcp::Credentials as GcpCredentials;
use signet_pki::{key_manager::KeyIdentifier, published::BundleFormat};
use signet_server::{
    config::{Config, RunFlags},
    plugins::{
        bundle_publisher::BundlePublisher, key_manager::KeyManager,
        upstream_authority::UpstreamAuthority,
    },
};

fn load(plugins: &str) -> Result<Config, String> {
    let store =
        "DataStore sql { plugin_data { database_type = \"sqlite3\" connection_string = \"d\" } }";
    let text = format!(
        "server {{ trust_domain = \"td\" data_dir = \"/d\" }}\nplugins {{ {store} {plugins} }}"
    );
    let document = signet_config::parse("s.conf", &text).unwrap();
    Config::from_document(Program::Signet, &RunFlags::default(), &document)
        .map_err(|error| error.to_string())
}

/// With one plugin of that kind, and a key manager in any case.
fn with(kind: &str, name: &str, plugin_data: &str) -> Result<Config, String> {
    let memory = if kind == "KeyManager" { "" } else { "KeyManager memory {}" };
    load(&format!("{memory} {kind} \"{name}\" {{ plugin_data {{ {plugin_data} }} }}"))
}

/// What `validate` finds beside the configuration itself.
fn problems(config: &Config) -> Vec<String> {
    let found = config.plugins.check(&config.trust_domain, &SystemClock::shared());
    found.iter().map(ToString::to_string).collect()
}

const RING: &str = "key_ring = \"projects/p-1/locations/global/keyRings/r_1\"";

#[test]
fn keys_in_google_cloud_have_the_settings_of_spire() {
    let all = format!(
        "{RING} key_identifier_value = \"srv-1\" key_policy_file = \"/p.json\"
         service_account_file = \"/a.json\" endpoint = \"https://kms.example.org\""
    );
    let config = with("KeyManager", "gcp_kms", &all).unwrap();
    let found = problems(&config);
    assert!(found.len() == 1 && found.concat().contains("/a.json: no such file"), "{found:?}");
    let KeyManager::Gcp(keys) = config.plugins.key_manager.settings else { panic!() };
    assert_eq!(keys.key_ring, "projects/p-1/locations/global/keyRings/r_1");
    assert_eq!(keys.key_identifier, KeyIdentifier::Value("srv-1".to_owned()));
    assert_eq!(keys.key_policy_file.as_deref(), Some(Path::new("/p.json")));
    assert_eq!(keys.credentials, GcpCredentials::ServiceAccount("/a.json".into()));
    assert_eq!(keys.endpoint, "https://kms.example.org");

    for (plugin_data, wanted) in [
        ("key_identifier_value = \"s\"", "key_ring must be configured"),
        ("key_ring = \"projects/p/keyRings/r\" key_identifier_value = \"s\"", "projects/*/locat"),
        (RING, "one of key_identifier_file and key_identifier_value must be configured"),
        (&format!("{RING} key_identifier_value = \"Srv\""), "lower-case letters"),
        (&format!("{RING} key_identifier_value = \"{}\"", "a".repeat(41)), "at most 40"),
        (
            &format!("{RING} key_identifier_value = \"s\" endpoint = \"http://kms\""),
            "expected an https:// URL",
        ),
    ] {
        let error = with("KeyManager", "gcp_kms", plugin_data).unwrap_err();
        assert!(error.contains(wanted), "{plugin_data}: {error}");
    }
}

const VAULT: &str = "key_vault_uri = \"https://v.vault.usgovcloudapi.net/\"";

#[test]
fn keys_in_azure_have_the_settings_of_spire() {
    let all = format!(
        "{VAULT} key_identifier_value = \"srv\" tenant_id = \"t\" subscription_id = \"s\"
         app_id = \"a\" app_secret = \"hush\""
    );
    let config = with("KeyManager", "azure_key_vault", &all).unwrap();
    assert_eq!(problems(&config), [""; 0]);
    assert!(!format!("{:?}", config.plugins).contains("hush"));
    let KeyManager::Azure(keys) = config.plugins.key_manager.settings else { panic!() };
    assert_eq!(keys.key_vault_uri, "https://v.vault.usgovcloudapi.net/");
    assert_eq!(keys.key_identifier, KeyIdentifier::Value("srv".to_owned()));
    let secret = AzureCredentials::Secret {
        authority: "https://login.microsoftonline.us".to_owned(),
        tenant_id: "t".to_owned(),
        client_id: "a".to_owned(),
        secret: "hush".to_owned().into(),
    };
    assert_eq!(keys.credentials, secret);

    for (plugin_data, wanted) in [
        ("key_identifier_value = \"s\"", "key_vault_uri must be configured"),
        ("key_vault_uri = \"v\" key_identifier_value = \"s\"", "expected a URL such as"),
        (VAULT, "one of key_identifier_file and key_identifier_value must be configured"),
        (
            &format!("{VAULT} key_identifier_value = \"s\" tenant_id = \"t\" app_id = \"a\""),
            "app_secret: must be configured together",
        ),
        (
            &format!("{VAULT} key_identifier_value = \"s\" subscription_id = \"t\""),
            "tenant_id: must be configured together",
        ),
        (&format!("{VAULT} key_identifier_value = \"{}\"", "é".repeat(257)), "at most 256"),
    ] {
        let error = with("KeyManager", "azure_key_vault", plugin_data).unwrap_err();
        assert!(error.contains(wanted), "{plugin_data}: {error}");
    }
}

#[test]
fn bundles_go_to_both_clouds_with_the_settings_of_spire() {
    let object = "bucket_name = \"b\" object_name = \"o/x\" format = \"spiffe\"
                  refresh_hint = \"10m\" service_account_file = \"/a.json\"";
    let config = with("BundlePublisher", "gcp_cloudstorage", object).unwrap();
    assert!(problems(&config).concat().contains("/a.json: no such file"));
    let [publisher] = &config.plugins.bundle_publishers[..] else { panic!() };
    let BundlePublisher::GcpCloudStorage(found) = &publisher.settings else { panic!() };
    assert_eq!((&*found.bucket_name, &*found.object_name), ("b", "o/x"));
    assert_eq!((found.format, found.refresh_hint), (BundleFormat::Spiffe, Some(600)));

    let blob = "storage_account_name = \"acc1\" container_name = \"c\" blob_name = \"b\"
                format = \"PEM\"";
    let key = format!("{blob} storage_account_key = \"aHVzaA==\" service_endpoint = \"b.x\"");
    let config = with("BundlePublisher", "azure_blob", &key).unwrap();
    assert_eq!(problems(&config), [""; 0]);
    assert!(!format!("{:?}", config.plugins).contains("aHVzaA=="));
    let [publisher] = &config.plugins.bundle_publishers[..] else { panic!() };
    let BundlePublisher::AzureBlob(found) = &publisher.settings else { panic!() };
    assert_eq!((&*found.storage_account_name, &*found.service_endpoint), ("acc1", "b.x"));
    assert_eq!(found.access, BlobAccess::Key("aHVzaA==".to_owned().into()));
    let key = format!("{blob} storage_account_key = \"*\"");
    let config = with("BundlePublisher", "azure_blob", &key).unwrap();
    assert!(problems(&config).concat().contains("the storage account key is not base64"));

    for (name, plugin_data, wanted) in [
        ("gcp_cloudstorage", "object_name = \"o\" format = \"pem\"", "bucket_name must be"),
        ("gcp_cloudstorage", "bucket_name = \"b\" format = \"pem\"", "object_name must be"),
        ("gcp_cloudstorage", "bucket_name = \"b\" object_name = \"o\"", "format must be"),
        (
            "gcp_cloudstorage",
            "bucket_name = \"b\" object_name = \"o\" format = \"x\"",
            "expected spiffe, jwks or pem",
        ),
        ("azure_blob", "container_name = \"c\" blob_name = \"b\" format = \"pem\"", "account_name"),
        (
            "azure_blob",
            &format!("{blob} storage_account_key = \"a\" app_id = \"a\""),
            "cannot be used together with storage_account_key",
        ),
        ("azure_blob", &format!("{blob} tenant_id = \"t\""), "must be configured together"),
    ] {
        let error = with("BundlePublisher", name, plugin_data).unwrap_err();
        assert!(error.contains(wanted), "{name} {plugin_data}: {error}");
    }
}

#[test]
fn roots_are_with_google_and_with_cert_manager() {
    let spec = "project_name = \"p\" region_name = \"r\" label_key = \"k\" label_value = \"v\"";
    let pool = format!("root_cert_spec {{ {spec} ca_pool = \"pool\" }}");
    let config = with("UpstreamAuthority", "gcp_cas", &pool).unwrap();
    let upstream = &config.plugins.upstream_authority.unwrap().settings;
    let UpstreamAuthority::GcpCas(found) = upstream else { panic!() };
    let authorities = &found.authorities;
    assert_eq!((&*authorities.project, &*authorities.location), ("p", "r"));
    assert_eq!((&*authorities.label_key, &*authorities.label_value), ("k", "v"));
    assert_eq!(authorities.ca_pool.as_deref(), Some("pool"));
    with("UpstreamAuthority", "gcp_cas", &format!("root_cert_spec {{ {spec} }}")).unwrap();

    let issuer = "namespace = \"sandbox\" issuer_name = \"spire-ca\"";
    let config = with("UpstreamAuthority", "cert-manager", issuer).unwrap();
    assert_eq!(problems(&config), [""; 0], "the cluster it will run in is not looked at");
    let upstream = &config.plugins.upstream_authority.unwrap().settings;
    let UpstreamAuthority::CertManager(found) = upstream else { panic!() };
    let issuer_of = &found.issuer;
    assert_eq!((&*issuer_of.namespace, &*issuer_of.issuer_name), ("sandbox", "spire-ca"));
    assert_eq!((&*issuer_of.issuer_kind, &*issuer_of.issuer_group), ("Issuer", "cert-manager.io"));
    let file = format!("{issuer} kube_config_file = \"/none\" issuer_kind = \"ClusterIssuer\"");
    let config = with("UpstreamAuthority", "cert-manager", &file).unwrap();
    assert!(problems(&config).concat().contains("/none"), "{:?}", problems(&config));

    for (name, plugin_data, wanted) in [
        ("gcp_cas", "", "root_cert_spec: must be configured"),
        ("gcp_cas", "root_cert_spec { project_name = \"p\" }", "region_name must be configured"),
        ("gcp_cas", "root_cert_spec { project_name = \"a/b\" }", "is no name of a resource"),
        ("cert-manager", "namespace = \"n\"", "issuer_name must be configured"),
        ("cert-manager", "issuer_name = \"i\"", "namespace must be configured"),
        ("cert-manager", "namespace = \"N\" issuer_name = \"i\"", "Kubernetes object"),
    ] {
        let error = with("UpstreamAuthority", name, plugin_data).unwrap_err();
        assert!(error.contains(wanted), "{name} {plugin_data}: {error}");
    }
}
