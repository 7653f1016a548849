//! `k8sbundle` and `k8s_configmap` against a server that speaks the Kubernetes API.
#![cfg(feature = "k8s-bundle")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

mod fake;

use std::{path::Path, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use fake::{Fake, Fault};
use serde_json::{Value, json};
use signet_base::SystemClock;
use signet_identity::{Bundle, JwtAuthority, X509Authority};
use signet_k8s::{
    ApiServer,
    bundle::{BundleTarget, K8sBundle, K8sConfigMap, PublishTarget},
};
use signet_pki::{BundlePublisher as _, Notifier as _, jwks, published::BundleFormat};
use signet_time::UnixTime;

const CONFIG_MAP: &str = "/api/v1/namespaces/spire/configmaps/spire-bundle";
const VALIDATING: &str =
    "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/hooks";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/hooks";
const API_SERVICE: &str = "/apis/apiregistration.k8s.io/v1/apiservices/v1.example.org";

fn bundle(generation: u64) -> Bundle {
    let mut bundle = Bundle::empty("example.org".parse().unwrap());
    for n in 0..generation {
        let params = rcgen::CertificateParams::new(vec![format!("ca-{n}")]).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let der: Arc<[u8]> = params.self_signed(&key).unwrap().der().to_vec().into();
        bundle.x509_authorities.push(X509Authority { der, tainted: false });
        bundle.jwt_authorities.push(JwtAuthority {
            public_key: rcgen::PublicKeyData::subject_public_key_info(&key).into(),
            key_id: format!("key-{n}").into(),
            expires_at: UnixTime::EPOCH,
            tainted: false,
        });
    }
    bundle.sequence_number = generation;
    bundle
}

fn api(fake: &Fake, dir: &Path) -> ApiServer {
    let path = fake.kubeconfig(dir, "first");
    ApiServer::from_file(&path, Arc::new(SystemClock)).unwrap()
}

fn target(fake: &Fake, dir: &Path) -> BundleTarget {
    BundleTarget {
        api: api(fake, dir),
        cluster: "own".to_owned(),
        namespace: "spire".to_owned(),
        config_map: "spire-bundle".to_owned(),
        config_map_key: "bundle.crt".to_owned(),
        webhook_label: None,
        api_service_label: None,
    }
}

fn labelled(fake: &Fake, dir: &Path) -> BundleTarget {
    BundleTarget {
        webhook_label: Some("spiffe.io/webhook".to_owned()),
        api_service_label: Some("spiffe.io/api_service".to_owned()),
        ..target(fake, dir)
    }
}

fn hooks(label: &str) -> Value {
    json!({
        "metadata": { "labels": { "spiffe.io/webhook": label } },
        "webhooks": [
            { "name": "a.example.org", "sideEffects": "None", "failurePolicy": "Fail",
              "clientConfig": { "service": { "name": "s", "namespace": "n" } } },
            { "name": "b.example.org", "clientConfig": { "caBundle": "b2xk" } },
        ],
    })
}

fn api_service() -> Value {
    json!({
        "metadata": { "labels": { "spiffe.io/api_service": "true" } },
        "spec": { "group": "example.org", "groupPriorityMinimum": 1000 },
    })
}

fn ca_bundle(bundle: &Bundle) -> Value {
    json!(STANDARD.encode(jwks::encode_pem(bundle)))
}

fn has_hooks(fake: &Fake, path: &str, wanted: &Value) -> bool {
    fake.get(path).is_some_and(|object| {
        object["webhooks"]
            .as_array()
            .unwrap()
            .iter()
            .all(|hook| hook["clientConfig"]["caBundle"] == *wanted)
    })
}

#[tokio::test]
async fn the_config_map_gets_the_certificates_and_keeps_what_else_it_holds() {
    let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    fake.put(CONFIG_MAP, json!({ "data": { "other": "x" } }));
    let notifier = K8sBundle::new(vec![target(&fake, dir.path())]);
    let first = bundle(1);
    notifier.bundle_loaded(&first).await.unwrap();
    let map = fake.get(CONFIG_MAP).unwrap();
    assert_eq!(map["data"], json!({ "other": "x", "bundle.crt": jwks::encode_pem(&first) }));
    let patches = fake.requests("PATCH");
    assert_eq!(patches[0].content_type, "application/strategic-merge-patch+json");
    assert_eq!(patches[0].body["metadata"]["resourceVersion"], "1");
    // The same again writes nothing.
    notifier.bundle_updated(&first).await.unwrap();
    assert_eq!(fake.requests("PATCH").len(), 1);
    notifier.bundle_updated(&bundle(2)).await.unwrap();
    assert_eq!(fake.requests("PATCH").len(), 2);
}

#[tokio::test]
async fn a_write_that_another_server_got_ahead_of_is_repeated_with_the_new_version() {
    let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    fake.put(CONFIG_MAP, json!({}));
    let notifier = K8sBundle::new(vec![target(&fake, dir.path())]);
    fake.fault("PATCH", CONFIG_MAP, Fault::Overtaken);
    fake.fault("PATCH", CONFIG_MAP, Fault::Overtaken);
    notifier.bundle_loaded(&bundle(1)).await.unwrap();
    assert_eq!(fake.requests("PATCH").len(), 3);
    for _ in 0..9 {
        fake.fault("PATCH", CONFIG_MAP, Fault::Overtaken);
    }
    let error = notifier.bundle_updated(&bundle(2)).await.unwrap_err().to_string();
    assert!(error.contains("409") && error.contains("has been modified"), "{error}");
}

#[tokio::test]
async fn what_is_wrong_is_said_with_the_cluster_the_object_and_the_permission() {
    let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    let notifier = K8sBundle::new(vec![labelled(&fake, dir.path())]);
    // SPIRE does not make the ConfigMap either.
    let error = notifier.bundle_loaded(&bundle(1)).await.unwrap_err().to_string();
    for wanted in [
        "k8sbundle: unable to update: cluster own",
        "cannot get configmaps/spire-bundle in namespace spire",
        "configmaps \"spire-bundle\" not found",
    ] {
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
    fake.put(CONFIG_MAP, json!({}));
    let words = "configmaps \"spire-bundle\" is forbidden: User \"system:serviceaccount:spire:x\" \
                 cannot patch resource \"configmaps\" in API group \"\" in the namespace \"spire\"";
    fake.fault("PATCH", CONFIG_MAP, Fault::Refuse(403, words));
    fake.fault("GET", "/apis/apiregistration.k8s.io/v1/apiservices", Fault::Refuse(403, "no"));
    let error = notifier.bundle_updated(&bundle(1)).await.unwrap_err().to_string();
    for wanted in [
        words,
        "needs the permission to patch configmaps",
        "needs the permission to list apiservices.apiregistration.k8s.io",
    ] {
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
    for (fault, wanted) in [
        (Fault::Refuse(500, "etcd is away"), "500 etcd is away"),
        (Fault::Truncated, "asking 127.0.0.1"),
        (Fault::Huge, "is larger than"),
        (Fault::Refuse(401, "Unauthorized"), ""),
    ] {
        fake.fault("GET", CONFIG_MAP, fault);
        let outcome = notifier.bundle_updated(&bundle(1)).await;
        match outcome {
            Err(error) => assert!(error.to_string().contains(wanted), "{wanted}: {error}"),
            // A 401 once: asked again with what the file says now.
            Ok(()) => assert!(wanted.is_empty()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_server_is_left_alone_for_as_long_as_it_says() {
    let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    fake.put(CONFIG_MAP, json!({}));
    let notifier = K8sBundle::new(vec![target(&fake, dir.path())]);
    fake.fault("GET", CONFIG_MAP, Fault::Busy(3));
    let began = tokio::time::Instant::now();
    notifier.bundle_loaded(&bundle(1)).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(3), "{:?}", began.elapsed());
    for _ in 0..4 {
        fake.fault("GET", CONFIG_MAP, Fault::Busy(3600));
    }
    let began = tokio::time::Instant::now();
    let error = notifier.bundle_updated(&bundle(2)).await.unwrap_err().to_string();
    assert!(error.contains("429"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    fake.fault("GET", CONFIG_MAP, Fault::Silent);
    let error = notifier.bundle_updated(&bundle(2)).await.unwrap_err().to_string();
    assert!(error.contains("did not answer within 30000 ms"), "{error}");
}

#[tokio::test]
async fn a_token_that_was_replaced_is_read_again_at_once() {
    let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    fake.put(CONFIG_MAP, json!({}));
    let notifier = K8sBundle::new(vec![target(&fake, dir.path())]);
    fake.set_token("second");
    let error = notifier.bundle_loaded(&bundle(1)).await.unwrap_err().to_string();
    assert!(error.contains("401") && error.contains("not accepted"), "{error}");
    fake.kubeconfig(dir.path(), "second");
    notifier.bundle_loaded(&bundle(1)).await.unwrap();
}

#[tokio::test]
async fn labelled_webhooks_and_api_services_get_the_authorities_and_nothing_else() {
    let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    fake.put(CONFIG_MAP, json!({}));
    fake.put(VALIDATING, hooks("true"));
    fake.put(MUTATING, hooks("false"));
    fake.put(API_SERVICE, api_service());
    let notifier = K8sBundle::new(vec![labelled(&fake, dir.path())]);
    let first = bundle(1);
    notifier.bundle_loaded(&first).await.unwrap();
    let wanted = ca_bundle(&first);
    assert!(has_hooks(&fake, VALIDATING, &wanted));
    let object = fake.get(VALIDATING).unwrap();
    assert_eq!(object["webhooks"][0]["clientConfig"]["service"]["name"], "s");
    assert_eq!(object["webhooks"][0]["failurePolicy"], "Fail");
    assert_eq!(fake.get(MUTATING).unwrap()["webhooks"][1]["clientConfig"]["caBundle"], "b2xk");
    assert_eq!(fake.get(API_SERVICE).unwrap()["spec"]["caBundle"], wanted);
    assert_eq!(fake.get(API_SERVICE).unwrap()["spec"]["groupPriorityMinimum"], 1000);
    let patches = fake.requests("PATCH").len();
    notifier.bundle_updated(&first).await.unwrap();
    assert_eq!(fake.requests("PATCH").len(), patches, "what is right is not written again");
}

#[tokio::test]
async fn objects_that_come_or_are_reset_get_the_authorities_at_once() {
    let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    fake.put(CONFIG_MAP, json!({}));
    let notifier = K8sBundle::new(vec![labelled(&fake, dir.path())]);
    let first = bundle(1);
    let wanted = ca_bundle(&first);
    let scenario = async {
        notifier.bundle_loaded(&first).await.unwrap();
        fake.until("three watches", |fake| fake.watches() >= 3).await;
        fake.put(VALIDATING, hooks("true"));
        fake.put(API_SERVICE, api_service());
        fake.until("new objects are given the bundle", |fake| {
            has_hooks(fake, VALIDATING, &wanted)
                && fake.get(API_SERVICE).unwrap()["spec"]["caBundle"] == wanted
        })
        .await;
        fake.put(VALIDATING, hooks("true"));
        fake.until("a reset object is given the bundle", |fake| {
            has_hooks(fake, VALIDATING, &wanted)
        })
        .await;
        fake.delete(VALIDATING);
        // 410 Gone: everything is listed anew.
        let watches = fake.watches();
        fake.compact();
        fake.put(MUTATING, hooks("true"));
        fake.until("after the watch expired", |fake| {
            has_hooks(fake, MUTATING, &wanted) && fake.watches() > watches
        })
        .await;
    };
    tokio::select! {
        () = scenario => {}
        () = notifier.run() => panic!("it never ends by itself"),
    }
}

fn publish_target(fake: &Fake, dir: &Path, format: BundleFormat) -> PublishTarget {
    PublishTarget {
        api: api(fake, dir),
        cluster: "example".to_owned(),
        namespace: "spire".to_owned(),
        config_map: "spire-bundle".to_owned(),
        config_map_key: "bundle".to_owned(),
        format,
        refresh_hint: None,
    }
}

#[tokio::test]
async fn the_publisher_applies_every_format_and_makes_the_config_map() {
    let published = bundle(2);
    for format in [BundleFormat::Spiffe, BundleFormat::Jwks, BundleFormat::Pem] {
        let (fake, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
        let target =
            PublishTarget { refresh_hint: Some(600), ..publish_target(&fake, dir.path(), format) };
        let publisher = K8sConfigMap::new(vec![target]);
        publisher.publish(&published).await.unwrap();
        let patch = fake.requests("PATCH").remove(0);
        assert_eq!(patch.content_type, "application/apply-patch+yaml");
        assert!(
            patch.target.ends_with("?fieldManager=spire-bundlepublisher-k8s_configmap"),
            "{}",
            patch.target
        );
        assert_eq!(patch.body["kind"], "ConfigMap");
        let map = fake.get(CONFIG_MAP).unwrap();
        let text = map["data"]["bundle"].as_str().unwrap().to_owned();
        match format {
            BundleFormat::Pem => assert_eq!(text, jwks::encode_pem(&published)),
            BundleFormat::Jwks => {
                let document: Value = serde_json::from_str(&text).unwrap();
                let keys = document["keys"].as_array().unwrap();
                assert_eq!(keys.len(), 4);
                assert!(keys.iter().all(|key| key.get("use").is_none()), "{text}");
                assert!(document.get("spiffe_sequence").is_none());
                assert_eq!(keys.iter().filter(|key| key.get("x5c").is_some()).count(), 2);
            }
            BundleFormat::Spiffe => {
                let td = published.trust_domain.clone();
                let mut read = jwks::decode_spiffe(td, text.as_bytes()).unwrap();
                assert_eq!(read.refresh_hint, 600);
                read.refresh_hint = 0;
                assert_eq!(read, published);
            }
        }
        // Unchanged: nothing is sent. Changed: it is.
        publisher.publish(&published).await.unwrap();
        assert_eq!(fake.requests("PATCH").len(), 1);
        publisher.publish(&bundle(1)).await.unwrap();
        assert_eq!(fake.requests("PATCH").len(), 2);
    }
}

#[tokio::test]
async fn a_cluster_that_fails_is_tried_again_and_the_others_are_not() {
    let (good, bad) = (Fake::start().await, Fake::start().await);
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let publisher = K8sConfigMap::new(vec![
        publish_target(&good, dirs[0].path(), BundleFormat::Pem),
        publish_target(&bad, dirs[1].path(), BundleFormat::Pem),
    ]);
    let words = "Apply failed with 1 conflict: conflict with \"kubectl\": .data.bundle";
    bad.fault("PATCH", CONFIG_MAP, Fault::Refuse(409, words));
    let published = bundle(1);
    let error = publisher.publish(&published).await.unwrap_err().to_string();
    assert!(error.contains(words) && error.contains("cluster \"example\""), "{error}");
    publisher.publish(&published).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((good.requests("PATCH").len(), bad.requests("PATCH").len()), (1, 2));
}

#[tokio::test]
async fn an_answer_that_stalls_or_a_server_that_is_away_is_an_error_with_its_address() {
    let dir = tempfile::tempdir().unwrap();
    let mut fake = Fake::start().await;
    // Nothing listens there.
    let free = signet_testkit::free_port();
    fake.port = free;
    let publisher = K8sConfigMap::new(vec![publish_target(&fake, dir.path(), BundleFormat::Pem)]);
    let error = publisher.publish(&bundle(1)).await.unwrap_err().to_string();
    assert!(error.contains(&format!("connecting to 127.0.0.1:{free}")), "{error}");
}
