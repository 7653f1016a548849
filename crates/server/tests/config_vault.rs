//! The settings of the plugins that speak to Vault.

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

    let upstream = format!(
        "KeyManager memory {{}} UpstreamAuthority \"vault\" {{ plugin_data {{
         vault_addr = \"https://v\" pki_mount_point = \"p\"
         k8s_auth {{ k8s_auth_role_name = \"r\" token_path = \"/t\" }} }} }}"
    );
    let upstream = load(&upstream).unwrap().plugins.upstream_authority.unwrap();
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
