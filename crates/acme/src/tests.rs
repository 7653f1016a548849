//! What a listener shows, and how often an authority that is not there is asked.

use std::{sync::Arc, time::Duration};

use rustls::pki_types::ServerName;
use signet_base::{SystemClock, TestClock};
use signet_pki::{
    PrivateKey,
    tls::{TlsIdentity, WebCheck, web_client_config},
};

use super::*;

fn settings(domains: &[&str]) -> Settings {
    Settings {
        // Nobody listens there.
        directory_url: "https://127.0.0.1:1/dir".to_owned(),
        email: None,
        domains: domains.iter().map(|&name| name.to_owned()).collect(),
    }
}

/// A certificate by nobody, valid for centuries, and its key.
fn certificate(name: &str) -> (Arc<[u8]>, PrivateKey) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKey::from_pem(&made.signing_key.serialize_pem()).unwrap();
    (made.cert.der().to_vec().into(), key)
}

fn identity(name: &str) -> (Arc<[u8]>, TlsIdentity) {
    let (der, key) = certificate(name);
    let identity = TlsIdentity::new(&[Arc::clone(&der)], key.signer().unwrap()).unwrap();
    (der, identity)
}

/// What is presented to a client that asks for a name and offers protocols, and whether the connection
/// is a challenge's.
async fn presented(acme: &Acme, name: &str, offered: &[&[u8]]) -> Option<(Arc<[u8]>, bool)> {
    let server = acme.server_config(TlsOptions::default()).unwrap();
    let client = web_client_config(WebCheck::Nothing, &[], None, SystemClock::shared()).unwrap();
    let mut client = Arc::unwrap_or_clone(client);
    client.alpn_protocols = offered.iter().map(|protocol| protocol.to_vec()).collect();
    let (near, far) = tokio::io::duplex(16 * 1024);
    let accepting = tokio_rustls::TlsAcceptor::from(server).accept(far);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connecting = tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, near);
    let (accepted, connected) = tokio::join!(accepting, connecting);
    let (accepted, connected) = (accepted.ok()?, connected.ok()?);
    let leaf = connected.get_ref().1.peer_certificates()?.first()?.to_vec();
    Some((leaf.into(), refuse_challenge(accepted.get_ref().1).is_err()))
}

#[tokio::test]
async fn each_domain_has_its_certificate_and_a_challenge_only_its_own_protocol() {
    let store = Arc::new(CacheDir::new(None));
    let acme = Acme::new(settings(&["a.test", "b.test"]), store, SystemClock::shared());
    assert_eq!(presented(&acme, "a.test", &[]).await, None, "there is none yet");
    let ((a, of_a), (b, of_b)) = (identity("a.test"), identity("b.test"));
    acme.certificates.set("a.test", of_a);
    acme.certificates.set("b.test", of_b);
    assert_eq!(presented(&acme, "a.test", &[]).await, Some((a.clone(), false)));
    assert_eq!(presented(&acme, "B.test", &[b"http/1.1"]).await, Some((b, false)));
    assert_eq!(presented(&acme, "c.test", &[]).await, None);
    // A name is sent by none who asks for an address.
    assert_eq!(presented(&acme, "127.0.0.1", &[]).await, Some((a.clone(), false)));

    let protocol: &[&[u8]] = &[b"acme-tls/1"];
    assert_eq!(presented(&acme, "a.test", protocol).await, None, "there is no challenge");
    let (answer, of_answer) = identity("a.test");
    let answering = acme.certificates.answer("a.test", of_answer);
    assert_eq!(presented(&acme, "a.test", protocol).await, Some((answer, true)));
    assert_eq!(presented(&acme, "b.test", protocol).await, None);
    let both: &[&[u8]] = &[b"acme-tls/1", b"http/1.1"];
    assert_eq!(presented(&acme, "a.test", both).await, Some((a, false)));
    drop(answering);
    assert_eq!(presented(&acme, "a.test", protocol).await, None);
}

#[tokio::test]
async fn a_certificate_that_is_kept_is_served_although_the_authority_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (der, key) = certificate("a.test");
    let chain = signet_pki::pem::encode_certificates([&*der]);
    let text = [key.to_pem().as_str(), &chain].concat();
    signet_pki::files::write_atomic(&dir.path().join("a.test"), text.as_bytes(), 0o600).unwrap();
    let store = Arc::new(CacheDir::new(Some(dir.path().to_owned())));
    let acme = Acme::new(settings(&["a.test"]), store, SystemClock::shared());
    let status = acme.status();
    let certificates = Arc::clone(&acme.certificates);
    let tasks = Tasks::new();
    let twin = Acme {
        certificates,
        ..Acme::new(settings(&["a.test"]), Arc::new(CacheDir::new(None)), SystemClock::shared())
    };
    acme.spawn(&tasks);
    while status.domains()[0].1.not_after.is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(presented(&twin, "a.test", &[]).await, Some((der, false)));
    assert_eq!(status.domains()[0].1.failures, 0);
    tasks.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_is_not_there_is_asked_ever_more_rarely() {
    let clock = Arc::new(TestClock::new());
    let acme = Acme::new(settings(&["a.test"]), Arc::new(CacheDir::new(None)), clock.clone());
    let status = acme.status();
    let tasks = Tasks::new();
    acme.spawn(&tasks);
    let mut pauses = Vec::new();
    for failures in 1..=12 {
        let failed = loop {
            let now = status.domains().remove(0).1;
            if now.failures >= failures {
                break now;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        assert_eq!(failed.failures, failures);
        let error = failed.last_error.unwrap();
        assert!(error.starts_with("the certificate authority: "), "{error}");
        let now = signet_base::Clock::unix(&*clock);
        pauses.push(failed.next_order.unwrap() - now);
    }
    assert!((12..=17).contains(&pauses[0]), "{pauses:?}");
    assert!(pauses.iter().all(|pause| *pause <= 3600), "{pauses:?}");
    assert!(pauses[11] >= 3000, "{pauses:?}");
    tasks.shutdown(Duration::from_secs(10)).await.unwrap();
}
