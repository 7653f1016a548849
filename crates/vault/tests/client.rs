//! The client against a real OpenBao server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test ends where it fails"
)]

mod support;

use std::{fs, sync::Arc, time::Duration};

use serde_json::{Value, json};
use signet_pki::{KeyType, PrivateKey};
use signet_testkit::{Bao, skip};
use signet_vault::{Auth, Client, JwtSource, Request, VaultError};
use support::{Ca, admin, client, jwt, settings};
use zeroize::Zeroizing;

const POLICY: &str = r#"path "secret/data/*" { capabilities = ["create", "read", "update"] }"#;

async fn with_policy(admin: &Client) {
    admin.write("sys/policies/acl/reader", &json!({ "policy": POLICY })).await.unwrap();
    admin.write("secret/data/a", &json!({ "data": { "k": "v" } })).await.unwrap();
}

async fn reads(client: &Client) -> Value {
    client.read("secret/data/a").await.unwrap().data["data"]["k"].clone()
}

#[tokio::test]
async fn a_token_reads_writes_lists_and_is_told_what_it_may_not() {
    let Some(bao) = Bao::start(false) else { skip!("there is no bao") };
    let admin = admin(&bao);
    with_policy(&admin).await;
    assert_eq!(reads(&admin).await, "v");
    assert_eq!(admin.list("secret/metadata").await.unwrap(), ["a"]);
    assert!(admin.list("secret/metadata/none").await.unwrap().is_empty());
    assert!(admin.read("secret/data/none").await.unwrap_err().is_not_found());
    let health = admin.health().await.unwrap();
    assert!(health.initialized && !health.sealed && health.version.starts_with("2."));

    // A token without rights is no reason to log in anew, and stays in use.
    let made = admin.write("auth/token/create", &json!({ "policies": ["reader"] })).await.unwrap();
    let token = made.token.unwrap().token;
    let reader = client(&bao, Auth::Token(token));
    assert_eq!(reads(&reader).await, "v");
    let denied = reader.read("sys/mounts").await.unwrap_err();
    assert!(matches!(denied, VaultError::Denied { .. }), "{denied}");
    assert_eq!(reads(&reader).await, "v");

    // One that was revoked cannot be replaced, and says so.
    let accessor = json!({ "accessor": made_accessor(&admin, &reader).await });
    admin.write("auth/token/revoke-accessor", &accessor).await.unwrap();
    let gone = reader.read("secret/data/a").await.unwrap_err();
    assert!(gone.to_string().contains("expired or was revoked"), "{gone}");

    let wrong = client(&bao, Auth::Token(Zeroizing::new("s.wrong".to_owned())));
    let refused = signet_base::chain(&wrong.log_in().await.unwrap_err());
    assert!(refused.starts_with("logging in at auth/token/lookup-self: permission"), "{refused}");
    assert!(!refused.contains("s.wrong"));
}

async fn made_accessor(admin: &Client, reader: &Client) -> String {
    let looked = reader.read("auth/token/lookup-self").await.unwrap();
    assert!(admin.list("auth/token/accessors").await.unwrap().len() > 1);
    looked.data["accessor"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_approle_logs_in_again_when_its_token_was_revoked() {
    let Some(bao) = Bao::start(false) else { skip!("there is no bao") };
    let admin = admin(&bao);
    with_policy(&admin).await;
    admin.write("sys/auth/my/roles", &json!({ "type": "approle" })).await.unwrap();
    let role = json!({ "token_policies": "reader", "token_ttl": "2s", "token_max_ttl": "1h" });
    admin.write("auth/my/roles/role/r", &role).await.unwrap();
    let role_id = admin.read("auth/my/roles/role/r/role-id").await.unwrap().data["role_id"].clone();
    let secret = admin.write("auth/my/roles/role/r/secret-id", &json!({})).await.unwrap();
    let auth = |secret: &str| Auth::AppRole {
        mount: "/my/roles/".to_owned(),
        role_id: role_id.as_str().unwrap().to_owned(),
        secret_id: Zeroizing::new(secret.to_owned()),
    };
    let held = client(&bao, auth(secret.data["secret_id"].as_str().unwrap()));
    assert_eq!(reads(&held).await, "v");
    let first = held.read("auth/token/lookup-self").await.unwrap().data["id"].clone();

    // It outlives its two seconds by being renewed, not by another login.
    let until = tokio::time::Instant::now() + Duration::from_secs(3);
    tokio::select! {
        () = held.keep_alive() => {}
        () = tokio::time::sleep_until(until) => {}
    }
    let later = held.read("auth/token/lookup-self").await.unwrap().data["id"].clone();
    assert_eq!(first, later);

    admin.write("auth/token/revoke", &json!({ "token": first })).await.unwrap();
    assert_eq!(reads(&held).await, "v", "a revoked token is replaced");

    let wrong = client(&bao, auth("not-a-secret"));
    let refused = signet_base::chain(&wrong.log_in().await.unwrap_err());
    assert!(refused.starts_with("logging in at auth/my/roles/login: "), "{refused}");
    let again = wrong.log_in().await.unwrap_err();
    assert!(matches!(again, VaultError::Waiting(_)), "no storm of logins: {again}");
}

#[tokio::test]
async fn a_replaced_client_certificate_is_taken_up() {
    let Some(bao) = Bao::start(true) else { skip!("there is no bao") };
    let admin = admin(&bao);
    with_policy(&admin).await;
    admin.write("sys/auth/cert", &json!({ "type": "cert" })).await.unwrap();
    let ca = Ca::new();
    let role = json!({ "certificate": ca.pem(), "allowed_common_names": "server-*", "token_policies": "reader" });
    admin.write("auth/cert/certs/servers", &role).await.unwrap();
    let (cert, key) = (bao.dir().join("c.pem"), bao.dir().join("k.pem"));
    let issue = |name: &str| {
        let (c, k) = ca.client(name);
        fs::write(&cert, c).unwrap();
        fs::write(&key, k).unwrap();
    };
    issue("server-one");
    let auth = Auth::Certificate {
        mount: "cert".to_owned(),
        role: Some("servers".to_owned()),
        cert_path: cert.clone(),
        key_path: key.clone(),
    };
    let held = client(&bao, auth);
    let name = async || {
        let looked = held.read("auth/token/lookup-self").await.unwrap();
        looked.data["meta"]["common_name"].as_str().unwrap().to_owned()
    };
    assert_eq!(name().await, "server-one");
    assert_eq!(reads(&held).await, "v");

    // Half a replacement changes nothing.
    fs::write(&key, &**PrivateKey::generate(KeyType::EcP256).unwrap().to_pem()).unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(name().await, "server-one");
    issue("server-two");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(name().await, "server-two");
    assert_eq!(reads(&held).await, "v");
}

#[derive(Debug)]
struct Fixed(String);

#[async_trait::async_trait]
impl JwtSource for Fixed {
    async fn jwt(&self) -> Result<Zeroizing<String>, String> {
        Ok(Zeroizing::new(self.0.clone()))
    }
}

#[tokio::test]
async fn a_jwt_logs_in_and_answers_can_be_wrapped() {
    let Some(bao) = Bao::start(false) else { skip!("there is no bao") };
    let admin = admin(&bao);
    with_policy(&admin).await;
    admin.write("sys/auth/jwt", &json!({ "type": "jwt" })).await.unwrap();
    let (public, token) = jwt("spiffe://example.org/app", "bao");
    let config = json!({ "jwt_validation_pubkeys": public });
    admin.write("auth/jwt/config", &config).await.unwrap();
    let role = json!({
        "role_type": "jwt", "user_claim": "sub", "bound_audiences": "bao",
        "bound_subject": "spiffe://example.org/app", "token_policies": "reader", "token_ttl": "1m",
    });
    admin.write("auth/jwt/role/app", &role).await.unwrap();
    let auth = Auth::Jwt {
        mount: "jwt".to_owned(),
        role: Some("app".to_owned()),
        source: Arc::new(Fixed(token)),
    };
    let app = admin.with_auth(auth);
    assert_eq!(reads(&app).await, "v");

    let wrapped = app.send(Request::get("secret/data/a").wrapped(Duration::from_secs(60))).await;
    let wrapping = wrapped.unwrap().wrapping_token.unwrap();
    let unwrap = json!({ "token": &*wrapping });
    let inside = app.write("sys/wrapping/unwrap", &unwrap).await.unwrap();
    assert_eq!(inside.data["data"]["k"], "v");
    app.write("sys/wrapping/unwrap", &unwrap).await.unwrap_err();
}

#[tokio::test]
async fn namespaces_are_kept_apart() {
    let Some(bao) = Bao::start(false) else { skip!("there is no bao") };
    let admin = admin(&bao);
    admin.write("sys/namespaces/team", &json!({})).await.unwrap();
    let mut inside = settings(&bao, Auth::Token(Zeroizing::new(Bao::ROOT.to_owned())));
    inside.namespace = Some("team".to_owned());
    let inside = Client::open(&inside, support::clock()).unwrap();
    inside.write("sys/mounts/kv", &json!({ "type": "kv" })).await.unwrap();
    inside.write("kv/a", &json!({ "x": 1 })).await.unwrap();
    assert_eq!(inside.list("kv").await.unwrap(), ["a"]);
    assert!(inside.health().await.unwrap().initialized);
    assert!(admin.read("kv/a").await.unwrap_err().is_not_found());
    let there = admin.send(Request::get("kv/a").in_namespace("team")).await.unwrap();
    assert_eq!(there.data["x"], 1);
}

#[tokio::test]
async fn a_sealed_server_is_called_sealed_and_used_again_when_unsealed() {
    let Some(bao) = Bao::start(false) else { skip!("there is no bao") };
    let admin = admin(&bao);
    with_policy(&admin).await;
    admin.send(Request::new(http::Method::PUT, "sys/seal")).await.unwrap();
    let sealed = admin.read("secret/data/a").await.unwrap_err();
    assert!(matches!(sealed, VaultError::Sealed), "{sealed}");
    assert!(admin.health().await.unwrap().sealed);
    let unseal = Request::new(http::Method::PUT, "sys/unseal").without_token();
    admin.send(unseal.json(&json!({ "key": bao.unseal_key() }))).await.unwrap();
    assert_eq!(support::eventually(|| admin.read("secret/data/a")).await.data["data"]["k"], "v");
}
