//! The upstream authority `vault` against a real OpenBao server.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test ends where it fails")]

mod support;

use std::time::Duration;

use serde_json::json;
use signet_identity::SpiffeId;
use signet_pki::{
    KeyType, PrivateKey, UpstreamAuthority,
    x509::{Certificate, CsrParams, Name, create_csr_with, verify_ca},
};
use signet_testkit::{Bao, skip};
use signet_time::UnixTime;
use signet_vault::{Auth, Client, Pki};
use support::{admin, root};
use zeroize::Zeroizing;

const POLICY: &str = r#"path "deep/pki/root/sign-intermediate" { capabilities = ["update"] }"#;

async fn mount(admin: &Client, at: &str) {
    let tune = json!({ "type": "pki", "config": { "max_lease_ttl": "87600h" } });
    admin.write(format!("sys/mounts/{at}"), &tune).await.unwrap();
}

async fn csr() -> Vec<u8> {
    let key = PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap();
    let params = CsrParams {
        subject: Name::spiffe_ca(),
        uri: Some(SpiffeId::of_trust_domain("example.org".parse().unwrap())),
        dns_names: Vec::new(),
        extensions: Vec::new(),
    };
    create_csr_with(&params, &key.into()).await.unwrap()
}

fn now() -> UnixTime {
    support::clock().unix()
}

#[tokio::test]
async fn a_root_signs_the_ca_and_a_new_root_is_followed() {
    let Some(bao) = Bao::start(false) else { skip!("there is no bao") };
    let admin = admin(&bao);
    mount(&admin, "deep/pki").await;
    let root_params = json!({ "common_name": "root one", "ttl": "87600h" });
    admin.write("deep/pki/root/generate/internal", &root_params).await.unwrap();
    admin.write("sys/policies/acl/spire", &json!({ "policy": POLICY })).await.unwrap();
    let token = admin.write("auth/token/create", &json!({ "policies": ["spire"] })).await.unwrap();
    let token = Zeroizing::new(token.token.unwrap().token.to_string());
    let pki = Pki::new(support::client(&bao, Auth::Token(token)), "/deep/pki/");

    let minted = pki.mint_x509_ca(&csr().await, Duration::from_secs(3600)).await.unwrap();
    assert_eq!((minted.chain.len(), minted.upstream_roots.len()), (1, 1));
    let ca = Certificate::from_der(&minted.chain[0]).unwrap();
    assert!(ca.is_ca());
    assert_eq!(ca.spiffe_id().unwrap().to_string(), "spiffe://example.org");
    let life = ca.not_after() - now();
    assert!((3500..=3600).contains(&life), "{life}");
    let roots = vec![minted.upstream_roots[0].der.clone()];
    verify_ca(&minted.chain, &roots, now()).unwrap();
    assert_eq!(pki.upstream_bundle().await.unwrap().unwrap().roots[0].der, roots[0]);

    let second = json!({ "common_name": "root two", "ttl": "87600h", "issuer_name": "two" });
    admin.write("deep/pki/root/rotate/internal", &second).await.unwrap();
    admin.write("deep/pki/root/replace", &json!({ "default": "two" })).await.unwrap();
    let followed = pki.upstream_bundle().await.unwrap().unwrap().roots;
    assert_ne!(followed[0].der, roots[0]);
    let minted = pki.mint_x509_ca(&csr().await, Duration::ZERO).await.unwrap();
    assert_eq!(minted.upstream_roots[0].der, followed[0].der);
}

#[tokio::test]
async fn an_intermediate_signs_the_ca_and_hands_out_the_chain_to_its_root() {
    let Some(bao) = Bao::start(false) else { skip!("there is no bao") };
    let admin = admin(&bao);
    mount(&admin, "pki-root").await;
    mount(&admin, "pki").await;
    let root_params = json!({ "common_name": "root", "ttl": "87600h" });
    let made = admin.write("pki-root/root/generate/internal", &root_params).await.unwrap();
    let root_pem = made.data["certificate"].as_str().unwrap().to_owned();
    let request = json!({ "common_name": "between" });
    let request = admin.write("pki/intermediate/generate/internal", &request).await.unwrap();
    let request = json!({ "csr": request.data["csr"], "ttl": "43800h", "common_name": "between" });
    let signed = admin.write("pki-root/root/sign-intermediate", &request).await.unwrap();
    let between = signed.data["certificate"].as_str().unwrap();
    let chain = json!({ "certificate": format!("{between}\n{root_pem}") });
    admin.write("pki/intermediate/set-signed", &chain).await.unwrap();

    let pki = Pki::new(support::client(&bao, root()), "pki");
    let minted = pki.mint_x509_ca(&csr().await, Duration::from_secs(600)).await.unwrap();
    assert_eq!(minted.chain.len(), 2, "the new CA and what is between it and the root");
    let top = signet_pki::pem::decode_certificates(&root_pem).unwrap();
    assert_eq!(*minted.upstream_roots[0].der, top[0][..]);
    verify_ca(&minted.chain, &[minted.upstream_roots[0].der.clone()], now()).unwrap();
    assert_eq!(*pki.upstream_bundle().await.unwrap().unwrap().roots[0].der, top[0][..]);

    let wrong = Pki::new(support::client(&bao, root()), "nowhere");
    let error = wrong.mint_x509_ca(&csr().await, Duration::ZERO).await.unwrap_err().to_string();
    assert!(error.starts_with("vault: nothing is found at nowhere/root/sign-int"), "{error}");
    assert!(wrong.upstream_bundle().await.unwrap().is_none());
}
