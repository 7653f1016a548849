//! Keys, roots and bundles in Google Cloud and in Azure, against fakes of both.

use std::{collections::BTreeMap, sync::Arc};

use e2e::{AgentOptions, Node, Server, ServerOptions, TestDir, eventually};
use signet_testkit::clouds::{FakeAzure, FakeGcp, Fault, KEY_RING};

use crate::keys::{active, chain_of, killed_at_any_call, rotate, rotates_and_restarts};

const AUTHORITIES: (&str, &str) = ("signet", "upstream");

fn gcp_kms(endpoint: &str) -> String {
    format!(
        "KeyManager \"gcp_kms\" {{ plugin_data {{ key_ring = \"{KEY_RING}\" key_identifier_value = \
         \"srv1\" endpoint = \"{endpoint}\" }} }}"
    )
}

fn gcp_env(fake: &FakeGcp, dir: &TestDir) -> Vec<(String, String)> {
    let account = fake.service_account_file(&dir.join(""));
    vec![("GOOGLE_APPLICATION_CREDENTIALS".to_owned(), account.display().to_string())]
}

/// How many versions of each CryptoKey are in use.
fn gcp_keys(fake: &FakeGcp) -> BTreeMap<String, usize> {
    let alive = |states: Vec<&str>| states.iter().filter(|s| !s.starts_with("DESTROY")).count();
    fake.versions().into_iter().map(|(id, states)| (id, alive(states))).collect()
}

fn azure_key_vault(uri: &str) -> String {
    format!(
        "KeyManager \"azure_key_vault\" {{ plugin_data {{ key_vault_uri = \"{uri}\" \
         key_identifier_file = \"DIR/key_id\" }} }}"
    )
}

fn azure_env(fake: &FakeAzure) -> Vec<(String, String)> {
    let (tenant, client, secret) = fake.application();
    let set = [
        ("AZURE_AUTHORITY_HOST", fake.url()),
        ("AZURE_TENANT_ID", tenant.to_owned()),
        ("AZURE_CLIENT_ID", client.to_owned()),
        ("AZURE_CLIENT_SECRET", secret.to_owned()),
    ];
    set.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

/// How many keys of each name there are.
fn azure_keys(fake: &FakeAzure) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    for name in fake.keys().keys() {
        // spire-key-<uuid>-<key>
        *count.entry(name[47..].to_owned()).or_default() += 1;
    }
    count
}

#[test]
fn a_server_lives_with_keys_root_and_bundle_in_google_cloud() {
    let (fake, dir) = (FakeGcp::start(), TestDir::new());
    fake.put_authority("pool", "ca", AUTHORITIES, "ENABLED", 10, false);
    let url = fake.url();
    let (key, value) = AUTHORITIES;
    let plugins = format!(
        "UpstreamAuthority \"gcp_cas\" {{ plugin_data {{ endpoint = \"{url}\" root_cert_spec {{ \
         project_name = \"p-1\" region_name = \"europe-west1\" ca_pool = \"pool\" label_key = \
         \"{key}\" label_value = \"{value}\" }} }} }} BundlePublisher \"gcp_cloudstorage\" {{ \
         plugin_data {{ endpoint = \"{url}\" bucket_name = \"bucket-1\" object_name = \"bundle\" \
         format = \"spiffe\" }} }}"
    );
    let options = ServerOptions {
        key_manager: gcp_kms(&url),
        plugins,
        env: gcp_env(&fake, &dir),
        ..ServerOptions::default()
    };
    let mut node = Node::with(options, AgentOptions::default());
    node.register_caller("/workload", "");
    assert_eq!(chain_of(&node), 2, "the leaf, and the authority that the service signed");
    assert!(!node.server.data().join("keys.json").exists());
    let published = |what: &str| {
        let object = fake.object("bucket-1/bundle");
        object.filter(|(_, text)| text.contains(what)).map(drop)
    };
    eventually("a published bundle", || published("x509-svid"));

    let x509 = rotate(&node.server, "x509");
    let jwt = rotate(&node.server, "jwt");
    eventually("the new JWT key in the published bundle", || published(&jwt));
    node.server.restart();
    assert_eq!((active(&node.server, "x509"), active(&node.server, "jwt")), (x509, jwt));
    eventually("no key is left behind", || {
        gcp_keys(&fake).values().all(|count| *count == 1).then_some(())
    });
    // Keys in use are marked as alive.
    eventually("marks", || {
        let mut ids = gcp_keys(&fake).into_keys();
        let marked = |id: String| fake.labels(&id).contains_key("spire-last-update");
        ids.all(marked).then_some(())
    });

    // A new authority gets the label: its root is trusted before anything is signed by it.
    let before = node.server.cli().line("bundle show").stdout.matches("BEGIN CERT").count();
    fake.put_authority("pool", "next", AUTHORITIES, "ENABLED", 20, false);
    node.server.restart();
    eventually("another root", || {
        let shown = node.server.cli().line("bundle show").stdout;
        (shown.matches("BEGIN CERT").count() > before).then_some(())
    });

    // The service fails: whoever needs it is told, and served when it is back.
    fake.fault(":asymmetricSign", 0, usize::MAX, Fault::Status(503));
    let failed = node.server.cli().line("x509 mint -spiffeID spiffe://example.org/w");
    assert_ne!(failed.code, 0, "{}", failed.stdout);
    fake.heal();
    node.server.cli().line("x509 mint -spiffeID spiffe://example.org/w").ok();
}

#[test]
fn a_server_lives_with_its_keys_in_azure() {
    let fake = FakeAzure::start();
    let options = ServerOptions {
        key_manager: azure_key_vault(&fake.url()),
        env: azure_env(&fake),
        ..ServerOptions::default()
    };
    let mut node = Node::with(options, AgentOptions::default());
    node.register_caller("/workload", "");
    rotates_and_restarts(&mut node);
    eventually("no key is left behind", || {
        azure_keys(&fake).values().all(|count| *count == 1).then_some(())
    });
    let (.., secret) = fake.application();
    assert!(!node.server.log().contains(secret), "the secret is not logged");

    fake.fault("/sign", 0, usize::MAX, Fault::Garbage);
    let failed = node.server.cli().line("x509 mint -spiffeID spiffe://example.org/w");
    assert_ne!(failed.code, 0, "{}", failed.stdout);
    fake.heal();
    node.server.cli().line("x509 mint -spiffeID spiffe://example.org/w").ok();
}

#[test]
fn a_server_killed_at_any_call_to_google_loses_no_active_key_and_leaves_none_behind() {
    let (fake, dir) = (FakeGcp::start(), TestDir::new());
    let env = gcp_env(&fake, &dir);
    let options = |url: &str| ServerOptions {
        key_manager: gcp_kms(url),
        env: env.clone(),
        ..ServerOptions::default()
    };
    killed_at_any_call(&fake.url(), options, || gcp_keys(&fake));
}

#[test]
fn a_server_killed_at_any_call_to_azure_loses_no_active_key_and_leaves_none_behind() {
    let fake = FakeAzure::start();
    let options = |url: &str| ServerOptions {
        key_manager: azure_key_vault(url),
        env: azure_env(&fake),
        ..ServerOptions::default()
    };
    killed_at_any_call(&fake.url(), options, || azure_keys(&fake));
}

#[test]
fn a_server_that_starts_again_and_again_while_its_upstream_is_away_leaves_two_keys_at_most() {
    let (fake, dir) = (FakeGcp::start(), Arc::new(TestDir::new()));
    // No authority has the label.
    let plugins = format!(
        "UpstreamAuthority \"gcp_cas\" {{ plugin_data {{ endpoint = \"{}\" root_cert_spec {{ \
         project_name = \"p-1\" region_name = \"europe-west1\" ca_pool = \"pool\" label_key = \"a\" \
         label_value = \"b\" }} }} }}",
        fake.url()
    );
    let options = ServerOptions {
        key_manager: gcp_kms(&fake.url()),
        plugins,
        env: gcp_env(&fake, &dir),
        ..ServerOptions::default()
    };
    let mut server = Server::prepare_in(&dir, "server", options);
    for _ in 0..6 {
        server.launch();
        assert_eq!(server.process().wait(e2e::DEADLINE), 1);
        assert!(server.log().contains("there is no authority with the label a=b"));
    }
    assert!(fake.alive() <= 2, "{:?}", fake.versions());
}
