//! The settings of keys and roots that are elsewhere.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where it fails")]

use std::path::Path;

use signet_daemon::program::Program;
use signet_pki::key_manager::KeyIdentifier;
use signet_server::{
    config::{Config, RunFlags},
    plugins::{key_manager::KeyManager, upstream_authority::UpstreamAuthority},
};
use signet_vault::Auth;
use zeroize::Zeroizing;

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

fn keys(plugin_data: &str) -> Result<KeyManager, String> {
    let keys = format!("KeyManager \"hashicorp_vault\" {{ plugin_data {{ {plugin_data} }} }}");
    load(&keys).map(|config| config.plugins.key_manager.settings)
}

const ADDRESS: &str = "vault_addr = \"https://v:8200/\" key_identifier_value = \"srv\"";

#[test]
fn the_settings_of_spire_are_read_as_they_are() {
    let all = format!(
        "{ADDRESS} namespace = \"team\" transit_engine_path = \"t/e\" ca_cert_path = \"/ca\"
         insecure_skip_verify = true
         cert_auth {{ cert_auth_mount_point = \"c\" cert_auth_role_name = \"r\"
                     client_cert_path = \"/c.pem\" client_key_path = \"/k.pem\" }}"
    );
    let KeyManager::Vault(vault) = keys(&all).unwrap() else { panic!() };
    assert_eq!(vault.server.address, "https://v:8200/");
    assert_eq!(vault.server.namespace.as_deref(), Some("team"));
    assert_eq!(vault.server.ca_cert_path.as_deref(), Some(Path::new("/ca")));
    assert!(vault.server.insecure_skip_verify);
    assert_eq!(vault.transit_engine_path, "t/e");
    assert_eq!(vault.key_identifier, KeyIdentifier::Value("srv".to_owned()));
    let certificate = Auth::Certificate {
        mount: "c".to_owned(),
        role: Some("r".to_owned()),
        cert_path: "/c.pem".into(),
        key_path: "/k.pem".into(),
    };
    assert_eq!(vault.server.auth, certificate);

    let approle =
        format!("{ADDRESS} approle_auth {{ approle_id = \"i\" approle_secret_id = \"s\" }}");
    let KeyManager::Vault(vault) = keys(&approle).unwrap() else { panic!() };
    let expected = Auth::AppRole {
        mount: "approle".to_owned(),
        role_id: "i".to_owned(),
        secret_id: Zeroizing::new("s".to_owned()),
    };
    assert_eq!(vault.server.auth, expected);
    assert_eq!(vault.transit_engine_path, "transit");

    let upstream = "KeyManager memory {} UpstreamAuthority \"vault\" { plugin_data {
         vault_addr = \"https://v\" pki_mount_point = \"p\"
         k8s_auth { k8s_auth_role_name = \"r\" token_path = \"/t\" } } }";
    let upstream = load(upstream).unwrap().plugins.upstream_authority.unwrap();
    let UpstreamAuthority::Vault(vault) = &upstream.settings else { panic!() };
    assert_eq!(vault.pki_mount_point, "p");
    let kubernetes = Auth::Kubernetes {
        mount: "kubernetes".to_owned(),
        role: "r".to_owned(),
        token_path: "/t".into(),
    };
    assert_eq!(vault.server.auth, kubernetes);
}

#[test]
fn a_token_is_named_by_its_label_or_serial_number_and_its_pin_is_not_shown() {
    let pkcs11 = |plugin_data: &str| {
        let keys = format!("KeyManager \"pkcs11\" {{ plugin_data {{ {plugin_data} }} }}");
        load(&keys).map(|config| config.plugins.key_manager.settings)
    };
    let base = "module_path = \"/m.so\" token_label = \"t\" key_identifier_value = \"s\"";
    let found = pkcs11(&format!("{base} pin = \"hush\" max_sessions = 2")).unwrap();
    assert!(!format!("{found:?}").contains("hush"), "{found:?}");
    let KeyManager::Pkcs11(keys) = found else { panic!() };
    assert_eq!(keys.token.max_sessions, 2);
    assert_eq!(keys.operation_timeout.as_secs(), 10);
    for (plugin_data, wanted) in [
        (base.to_owned(), "one of pin, pin_file and pin_env must be configured"),
        (format!("{base} pin = \"p\" pin_file = \"f\""), "only one of pin, pin_file and pin_env"),
        (format!("{base} pin_env = \"SIGNET_NO_SUCH\""), "SIGNET_NO_SUCH is not set"),
        (format!("{base} pin = \"p\" token_serial = \"1\""), "only one of token_label and token_s"),
        (format!("{base} pin = \"p\" max_sessions = 0"), "expected 1 to 64"),
        (format!("{base} pin = \"p\" operation_timeout = \"1h\""), "expected 100ms to 60s"),
        ("module_path = \"m.so\" pin = \"p\"".to_owned(), "expected an absolute path"),
    ] {
        let error = pkcs11(&plugin_data).unwrap_err();
        assert!(error.contains(wanted), "{plugin_data}: {error}");
    }
}

#[test]
fn a_server_above_is_named_as_in_spire() {
    let spire = |plugin_data: &str| {
        let above = "UpstreamAuthority \"spire\"";
        load(&format!("KeyManager memory {{}} {above} {{ plugin_data {{ {plugin_data} }} }}"))
            .map(|config| config.plugins.upstream_authority.unwrap().settings)
    };
    let all = "server_address = \"up\", server_port = \"8081\",
               workload_api_socket = \"unix:///run/a.sock\" experimental { require_pq_kem = true }";
    let UpstreamAuthority::Spire(settings) = spire(all).unwrap() else { panic!() };
    assert_eq!((&*settings.server_address, settings.server_port), ("up", 8081));
    assert_eq!(settings.workload_api_socket, Path::new("/run/a.sock"));
    assert!(settings.require_pq_kem);
    for (plugin_data, wanted) in [
        ("server_port = \"1\" workload_api_socket = \"/s\"", "server_address must be configured"),
        ("server_address = \"a\" workload_api_socket = \"/s\"", "server_port must be configured"),
        ("server_address = \"a\" server_port = \"1\"", "workload_api_socket must be configured"),
    ] {
        let error = spire(plugin_data).unwrap_err();
        assert!(error.contains(wanted), "{plugin_data}: {error}");
    }
}

#[test]
fn what_is_missing_or_too_much_is_named() {
    for (plugin_data, wanted) in [
        ("token_auth { token = \"t\" } key_identifier_value = \"s\"", "vault_addr: must be"),
        (ADDRESS, "one of cert_auth, token_auth, approle_auth and k8s_auth must be configured"),
        (
            "vault_addr = \"https://v\" token_auth { token = \"t\" }",
            "one of key_identifier_file and key_identifier_value must be configured",
        ),
        (
            "vault_addr = \"https://v\" token_auth { token = \"t\" } key_identifier_file = \"f\"
             key_identifier_value = \"s\"",
            "only one of key_identifier_file and key_identifier_value can be used",
        ),
        (
            "vault_addr = \"https://v\" token_auth { token = \"t\" } key_identifier_value = \"a/b\"",
            "cannot begin the name of a transit key",
        ),
        (
            &format!("{ADDRESS} token_auth {{}}"),
            "token: must be configured, here or as VAULT_TOKEN",
        ),
        (
            &format!(
                "{ADDRESS} token_auth {{ token = \"t\" }} cert_auth {{ client_cert_path = \"c\" client_key_path = \"k\" }}"
            ),
            "only one way to log in can be used, and cert_auth is one",
        ),
        (
            &format!("{ADDRESS} k8s_auth {{ k8s_auth_role_name = \"r\" }}"),
            "token_path must be configured",
        ),
        (&format!("{ADDRESS} token_auth {{ tokn = \"t\" }}"), "tokn"),
    ] {
        let error = keys(plugin_data).unwrap_err();
        assert!(error.contains(wanted), "{plugin_data}: {error}");
    }
}
