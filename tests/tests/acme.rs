//! Certificates by ACME, from a real authority: Pebble.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command, sync::Arc};

use e2e::{
    Pebble, Process, Server, ServerOptions, TestDir, bins, cli,
    clients::go_binary,
    eventually, free_port, http,
    https::{self, Answer},
    pebble::REFUSED,
    skip,
};
use serde_json::{Value, json};
use signet_testkit::Bao;

/// Ninety days, as Let's Encrypt has it.
const LONG: u64 = 90 * 86_400;

/// `federation` with a bundle endpoint whose certificate is an authority's.
fn federation(port: u16, directory: &str, domain: &str) -> String {
    format!(
        "federation {{ bundle_endpoint {{ address = \"127.0.0.1\" port = {port} profile \
         \"https_web\" {{ acme {{ directory_url = \"{directory}\" domain_name = \"{domain}\" email = \
         \"admin@example.org\" tos_accepted = true }} }} }} }}"
    )
}

fn options(port: u16, pebble: &Pebble, domain: &str) -> ServerOptions {
    ServerOptions {
        env: vec![pebble.ca()],
        ..ServerOptions::with(&federation(port, &pebble.directory(), domain))
    }
}

/// What `localhost` answers there, once it has a certificate by one of these roots.
fn served(port: u16, path: &str, root: &Path) -> Answer {
    eventually("an answer by a certificate of the authority", || {
        https::get(port, path, Some(root)).ok().filter(|answer| answer.status == 200)
    })
}

/// The numbers of a metric, by the domain in its labels.
fn metric(port: u16, name: &str) -> Option<f64> {
    let (_, text) = http::get(port, "/metrics").ok()?;
    let line = text.lines().find(|line| line.contains(name) && line.contains("localhost"))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn a_bundle_endpoint_gets_its_certificate_keeps_it_and_renews_it_when_the_authority_asks() {
    let dir = Arc::new(TestDir::new());
    let port = free_port();
    let pebble = match Pebble::start(&dir, port, LONG) {
        Ok(pebble) => pebble,
        Err(why) => skip!("{why}"),
    };
    let mut server = Server::start_in(&dir, "server", options(port, &pebble, "localhost"));
    let first = served(port, "/", pebble.root());
    let document: Value = serde_json::from_str(&first.body).expect("a bundle");
    assert_eq!(document["spiffe_refresh_hint"], 300);
    assert_eq!(first.leaf.dns_names(), ["localhost"]);

    // go-spiffe believes it too.
    let go = go_binary().expect("Go is here, it built Pebble");
    let url = format!("https://localhost:{port}/");
    let root = pebble.root().display().to_string();
    let mut fetch = Command::new(go);
    fetch.args(["federation-fetch", "example.org", &url, "web", &root]);
    assert_eq!(cli::run(&mut fetch, "").ok().json()["x509"], 1);

    // Keys are where SPIRE has them, and nowhere else.
    let keys = fs::read_to_string(server.data().join("keys.json")).expect("keys");
    let keys: Value = serde_json::from_str(&keys).expect("JSON");
    for name in ["bundle-acme-acme_account+key", "bundle-acme-localhost"] {
        assert!(keys["keys"][name].is_string(), "{name}");
    }
    let kept = fs::read_to_string(server.data().join("bundle-acme/localhost")).expect("a chain");
    assert!(kept.starts_with("-----BEGIN CERTIFICATE") && !kept.contains("PRIVATE"), "{kept}");

    // A restart orders nothing, whether or not the authority is there.
    server.restart();
    assert_eq!(served(port, "/", pebble.root()).leaf.serial(), first.leaf.serial());
    assert_eq!(pebble.orders(), 1);

    // The authority wants it renewed; the server asks when it starts, and four times a day.
    pebble.wants_renewed(first.leaf.der());
    server.restart();
    eventually("another certificate", || {
        let now = https::get(port, "/", Some(pebble.root())).ok()?;
        (now.leaf.serial() != first.leaf.serial()).then_some(())
    });
    assert_eq!(pebble.orders(), 2);
    assert!(server.log().contains("wants the certificate renewed sooner"));
}

#[test]
fn a_short_lived_certificate_is_renewed_and_an_authority_that_is_gone_is_complained_of() {
    let dir = Arc::new(TestDir::new());
    let [port, health, metrics] = [free_port(), free_port(), free_port()];
    let mut pebble = match Pebble::start(&dir, port, 30) {
        Ok(pebble) => pebble,
        Err(why) => skip!("{why}"),
    };
    let top = format!(
        "health_checks {{ listener_enabled = true bind_address = \"127.0.0.1\" bind_port = \
         \"{health}\" }}\n\
         telemetry {{ Prometheus {{ host = \"127.0.0.1\" port = {metrics} }} }}"
    );
    let options = ServerOptions { top, ..options(port, &pebble, "localhost") };
    let mut server = Server::start_in(&dir, "server", options);
    let first = served(port, "/", pebble.root());
    let days = metric(metrics, "acme_certificate_days_left").expect("a metric");
    assert!(days > 0.0 && days < 1.0, "{days}");
    let second = eventually("a renewed certificate", || {
        let now = https::get(port, "/", None).ok()?;
        (now.leaf.serial() != first.leaf.serial()).then_some(now)
    });
    assert_eq!(second.status, 200);

    pebble.stop();
    let message = || {
        let (status, text) = http::get(health, "/ready").ok()?;
        assert_eq!(status, 200, "{text}");
        let text: Value = serde_json::from_str(&text).ok()?;
        text["server.acme"]["message"].as_str().map(ToOwned::to_owned)
    };
    let message = eventually("a complaint of the renewal", || {
        message().filter(|text| text.contains("orders failed in a row"))
    });
    assert!(message.contains("certificate for localhost"), "{message}");
    assert!(metric(metrics, "acme_failed_orders").expect("a metric") >= 1.0);
    assert!(server.log().contains("Failed to obtain a certificate"));
    // What there is goes on being served.
    assert_eq!(https::get(port, "/", None).expect("an answer").status, 200);
    assert_eq!(server.process().terminate(), 0);
}

#[test]
fn a_domain_that_is_refused_is_named_and_tried_again_ever_more_rarely() {
    let dir = Arc::new(TestDir::new());
    let port = free_port();
    let pebble = match Pebble::start(&dir, port, LONG) {
        Ok(pebble) => pebble,
        Err(why) => skip!("{why}"),
    };
    // It is ready at once: agents do not wait for the web.
    let server = Server::start_in(&dir, "server", options(port, &pebble, REFUSED));
    let failures = || server.log().matches("Failed to obtain a certificate").count();
    eventually("two refusals", || (failures() >= 2).then_some(()));
    let log = server.log();
    let line = log.lines().find(|line| line.contains("Failed to obtain")).expect("a line");
    for part in [REFUSED, "rejectedIdentifier", "retry_seconds", &pebble.directory()] {
        assert!(line.contains(part), "{part}: {line}");
    }
    // The second came a quarter of a minute after the first, the third comes half a minute later.
    assert!(failures() <= 3, "{}", failures());
    assert!(https::get(port, "/", None).is_err());

    // One that is not confirmed: nobody answers for it.
    let elsewhere = free_port();
    let name = "elsewhere";
    let other = Server::start_in(&dir, name, options(elsewhere, &pebble, "other.example.org"));
    eventually("a refusal that says why", || {
        let log = other.log();
        let line = log.lines().find(|line| line.contains("Failed to obtain"))?;
        assert!(line.contains("does not confirm the domain"), "{line}");
        Some(())
    });
}

#[test]
fn keys_that_never_leave_the_key_manager_sign_orders_and_handshakes() {
    let Some(bao) = Bao::start(false) else { skip!("there is no bao") };
    let dir = Arc::new(TestDir::new());
    let port = free_port();
    let pebble = match Pebble::start(&dir, port, LONG) {
        Ok(pebble) => pebble,
        Err(why) => skip!("{why}"),
    };
    let mut mount = Command::new("bao");
    mount.args(["secrets", "enable", "transit"]).env("BAO_ADDR", bao.address());
    cli::run(mount.env("BAO_TOKEN", Bao::ROOT), "").ok();
    let key_manager = format!(
        "KeyManager \"hashicorp_vault\" {{ plugin_data {{ vault_addr = \"{}\" key_identifier_value = \
         \"srv1\" token_auth {{ token = \"{}\" }} }} }}",
        bao.address(),
        Bao::ROOT
    );
    let options = ServerOptions { key_manager, ..options(port, &pebble, "localhost") };
    let mut server = Server::start_in(&dir, "server", options);
    let first = served(port, "/", pebble.root());
    assert!(!server.data().join("keys.json").exists());
    server.restart();
    assert_eq!(served(port, "/", pebble.root()).leaf.serial(), first.leaf.serial());
    assert_eq!(pebble.orders(), 1);
}

#[test]
fn the_oidc_provider_gets_its_certificate_and_keeps_it_over_restarts() {
    let dir = Arc::new(TestDir::new());
    let port = free_port();
    let pebble = match Pebble::start(&dir, port, LONG) {
        Ok(pebble) => pebble,
        Err(why) => skip!("{why}"),
    };
    let server = Server::start_in(&dir, "server", ServerOptions::default());
    let health = free_port();
    let config = format!(
        "domains = [\"localhost\", \"oidc.other.example.org\"]\n\
         acme {{\n addr = \"127.0.0.1:{port}\"\n cache_dir = \"{cache}\"\n directory_url = \
         \"{directory}\"\n email = \"admin@example.org\"\n tos_accepted = true\n domains = \
         [\"localhost\"]\n}}\n\
         server_api {{ address = \"unix://{socket}\" }}\n\
         health_checks {{ bind_port = \"{health}\" }}\n",
        cache = dir.join("cache").display(),
        directory = pebble.directory(),
        socket = server.socket().display(),
    );
    let config = dir.write("oidc.conf", config);
    let start = || {
        let mut command = Command::new(bins::oidc());
        let (name, value) = pebble.ca();
        command.arg("-config").arg(&config).env(name, value);
        Process::start("signet-oidc", &mut command, &dir.join("oidc.log"))
    };
    let mut provider = start();
    let keys = served(port, "/keys", pebble.root());
    let found: Value = serde_json::from_str(&keys.body).expect("keys");
    assert!(found["keys"].as_array().is_some_and(|keys| keys.len() == 1), "{found}");
    let discovery = served(port, "/.well-known/openid-configuration", pebble.root());
    let discovery: Value = serde_json::from_str(&discovery.body).expect("a document");
    assert_eq!(discovery["jwks_uri"], "https://localhost/keys");
    let ready = http::get(health, "/ready").expect("health").1;
    assert_eq!(serde_json::from_str::<Value>(&ready).unwrap()["certificate"], json!({}));
    for name in ["localhost", "acme_account+key"] {
        let path = dir.join("cache").join(name);
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
        assert!(fs::read_to_string(&path).expect("text").contains("PRIVATE KEY"), "{name}");
    }
    assert_eq!(provider.terminate(), 0);
    drop(provider);
    let _provider = start();
    let again = served(port, "/keys", pebble.root());
    assert_eq!(again.leaf.serial(), keys.leaf.serial());
    assert_eq!(pebble.orders(), 1);
}
