//! The settings of what is kept at AWS.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

use std::{fs, path::Path};

use signet_aws::{Keys, PcaSettings, S3Settings, SecretSettings};
use signet_base::SystemClock;
use signet_daemon::program::Program;
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
        "server {{ trust_domain = \"example.org\" data_dir = \"/d\" }}\n\
         plugins {{ {store} {plugins} }}"
    );
    let document = signet_config::parse("s.conf", &text).unwrap();
    Config::from_document(Program::Signet, &RunFlags::default(), &document)
        .map_err(|error| error.to_string())
}

fn with_kms(plugin_data: &str) -> Result<Config, String> {
    load(&format!("KeyManager \"aws_kms\" {{ plugin_data {{ {plugin_data} }} }}"))
}

fn with(plugin: &str) -> Result<Config, String> {
    load(&format!("KeyManager memory {{}} {plugin}"))
}

/// What a check of the files and settings finds, as `validate` does.
fn problems(config: &Config) -> String {
    let clock = SystemClock::shared();
    let found = config.plugins.check(&config.trust_domain, &clock);
    found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[test]
fn keys_in_kms_are_configured_as_in_spire() {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.json");
    let all = format!(
        "region = \"us-east-2\" access_key_id = \"AK\" secret_access_key = \"hush\"
         key_identifier_value = \"eu/server_1\" key_policy_file = {policy:?}
         enable_tag_based_key_discovery = true
         key_tags = {{ Environment = \"production\" \"a:b\" = \"1 + 1 = 2\" }}"
    );
    let config = with_kms(&all).unwrap();
    let KeyManager::AwsKms(kms) = &config.plugins.key_manager.settings else { panic!() };
    assert!(!format!("{kms:?}").contains("hush"), "{kms:?}");
    assert_eq!(kms.region, "us-east-2");
    assert_eq!(kms.access.keys, Some(Keys::new("AK", "hush", None)));
    assert_eq!(kms.key_identifier, KeyIdentifier::Value("eu/server_1".to_owned()));
    assert_eq!(kms.key_policy_file.as_deref(), Some(&*policy));
    assert!(kms.by_tags);
    let tags: Vec<_> = kms.key_tags.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(tags, [("Environment", "production"), ("a:b", "1 + 1 = 2")]);

    assert!(problems(&config).contains("does not exist"), "{}", problems(&config));
    fs::write(&policy, "[1]").unwrap();
    assert!(problems(&config).contains("is no JSON object"), "{}", problems(&config));
    fs::write(&policy, "{\"Version\":\"2012-10-17\"}").unwrap();
    assert_eq!(problems(&config), "");
    let elsewhere = with_kms("region = \"us east\" key_identifier_value = \"s\"").unwrap();
    assert!(problems(&elsewhere).contains("is not a region of AWS"), "{}", problems(&elsewhere));
}

#[test]
fn what_is_wrong_with_keys_in_kms_is_named() {
    let base = "region = \"r\" key_identifier_value = \"s\"";
    for (plugin_data, wanted) in [
        ("key_identifier_value = \"s\"", "region must be configured"),
        ("region = \"r\"", "one of key_identifier_file and key_identifier_value must be"),
        ("region = \"r\" key_identifier_value = \"a b\"", "cannot be part of an alias"),
        ("region = \"r\" key_identifier_value = \"alias/aws/x\"", "not beginning with alias/aws/"),
        (&format!("{base} access_key_id = \"a\""), "it needs secret_access_key beside it"),
        (&format!("{base} secret_access_key = \"a\""), "it needs access_key_id beside it"),
        (&format!("{base} key_tags {{ \"aws:x\" = \"1\" }}"), "kept for AWS and SPIRE"),
        (&format!("{base} key_tags {{ SPIRE-x = \"1\" }}"), "kept for AWS and SPIRE"),
        (&format!("{base} key_tags {{ x = \"a;b\" }}"), "expected letters, digits, spaces"),
        (&format!("{base} key_tags {{ x = [1] }}"), "key_tags"),
        (&format!("{base} endpoint = \"http://x\""), "unknown key \"endpoint\""),
    ] {
        let error = with_kms(plugin_data).unwrap_err();
        assert!(error.contains(wanted), "{plugin_data}: {error}");
    }
}

#[test]
fn bundles_are_published_as_spire_publishes_them() {
    let config = with(
        "BundlePublisher \"aws_s3\" { plugin_data { region = \"us-east-1\" bucket = \"bundles\"
         object_key = \"example.org\" format = \"spiffe\" refresh_hint = \"10m\"
         endpoint = \"https://minio.example.org\" access_key_id = \"a\" secret_access_key = \"b\" } }
         BundlePublisher \"aws_rolesanywhere_trustanchor\" { plugin_data { region = \"us-east-1\"
         trust_anchor_id = \"153d3e58\" } }",
    )
    .unwrap();
    assert_eq!(problems(&config), "");
    let publishers: Vec<_> =
        config.plugins.bundle_publishers.iter().map(|plugin| &plugin.settings).collect();
    let [BundlePublisher::AwsS3(s3), BundlePublisher::AwsRolesAnywhere(anchor)] = publishers[..]
    else {
        panic!("{publishers:?}")
    };
    let settings = S3Settings {
        bucket: "bundles".to_owned(),
        object_key: "example.org".to_owned(),
        format: BundleFormat::Spiffe,
        refresh_hint: Some(600),
        endpoint: Some("https://minio.example.org".to_owned()),
    };
    assert_eq!(s3.settings, settings);
    assert_eq!((&*anchor.trust_anchor_id, &anchor.access.keys), ("153d3e58", &None));
    for (plugin, wanted) in [
        (
            "aws_s3\" { plugin_data { region = \"r\" object_key = \"k\" format = \"pem\" } }",
            "bucket",
        ),
        (
            "aws_s3\" { plugin_data { region = \"r\" bucket = \"b\" format = \"pem\" } }",
            "object_key",
        ),
        (
            "aws_s3\" { plugin_data { region = \"r\" bucket = \"b\" object_key = \"k\" } }",
            "format must be configured",
        ),
        (
            "aws_s3\" { plugin_data { region = \"r\" bucket = \"b\" object_key = \"k\"
             format = \"der\" } }",
            "unknown bundle format \"der\"",
        ),
        (
            "aws_rolesanywhere_trustanchor\" { plugin_data { region = \"r\" } }",
            "trust_anchor_id must be configured",
        ),
    ] {
        let error = with(&format!("BundlePublisher \"{plugin}")).unwrap_err();
        assert!(error.contains(wanted), "{plugin}: {error}");
    }
    let wrong = with(
        "BundlePublisher \"aws_s3\" { plugin_data { region = \"r\" bucket = \"a/b\"
         object_key = \"k\" format = \"pem\" } }",
    );
    let found = problems(&wrong.unwrap());
    assert!(found.contains("BundlePublisher \"aws_s3\": \"a/b\" is not the name"), "{found}");
}

#[test]
fn roots_are_configured_as_in_spire() {
    let upstream = |plugin: &str| {
        with(&format!("UpstreamAuthority {plugin}"))
            .map(|config| config.plugins.upstream_authority.unwrap().settings)
    };
    let pca = "\"aws_pca\" { plugin_data { region = \"us-west-2\"
        certificate_authority_arn = \"arn:ca\" ca_signing_template_arn = \"arn:template\"
        signing_algorithm = \"SHA256WITHECDSA\" assume_role_arn = \"arn:role\"
        endpoint = \"vpce.example.org\" supplemental_bundle_path = \"/more.pem\" } }";
    let UpstreamAuthority::AwsPca(pca) = upstream(pca).unwrap() else { panic!() };
    let settings = PcaSettings {
        certificate_authority_arn: "arn:ca".to_owned(),
        signing_algorithm: Some("SHA256WITHECDSA".to_owned()),
        ca_signing_template_arn: Some("arn:template".to_owned()),
        supplemental_bundle_path: Some(Path::new("/more.pem").to_owned()),
        endpoint: Some("vpce.example.org".to_owned()),
    };
    assert_eq!(pca.settings, settings);
    assert_eq!(pca.access.assume_role_arn.as_deref(), Some("arn:role"));

    let secret = "\"awssecret\" { plugin_data { region = \"us-west-2\", cert_file_arn = \"cert\",
        key_file_arn = \"key\", bundle_file_arn = \"bundle\", access_key_id = \"AK\",
        secret_access_key = \"hush\", secret_token = \"quiet\" assume_role_arn = \"arn:role\" } }";
    let UpstreamAuthority::AwsSecret(secret) = upstream(secret).unwrap() else { panic!() };
    let shown = format!("{secret:?}");
    assert!(!shown.contains("hush") && !shown.contains("quiet"), "{shown}");
    let settings = SecretSettings {
        cert_file_arn: "cert".to_owned(),
        key_file_arn: "key".to_owned(),
        bundle_file_arn: Some("bundle".to_owned()),
    };
    assert_eq!(secret.settings, settings);
    assert_eq!(secret.access.keys, Some(Keys::new("AK", "hush", Some("quiet"))));
    for (plugin, wanted) in [
        ("\"aws_pca\" { plugin_data { region = \"r\" } }", "certificate_authority_arn must be"),
        ("\"aws_pca\" { plugin_data { certificate_authority_arn = \"a\" } }", "region must be"),
        ("\"awssecret\" { plugin_data { region = \"r\" key_file_arn = \"k\" } }", "cert_file_arn"),
        ("\"awssecret\" { plugin_data { region = \"r\" cert_file_arn = \"k\" } }", "key_file_arn"),
    ] {
        let error = upstream(plugin).unwrap_err();
        assert!(error.contains(wanted), "{plugin}: {error}");
    }
    let missing = with(
        "UpstreamAuthority \"aws_pca\" { plugin_data { region = \"r\"
         certificate_authority_arn = \"a\" supplemental_bundle_path = \"/no/such.pem\" } }",
    );
    let found = problems(&missing.unwrap());
    assert!(found.contains("/no/such.pem"), "{found}");
}
