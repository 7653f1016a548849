//! The bundle endpoint, and fetching the bundles of others.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

mod support;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use signet_api::pb::{
    signet::api::server::federation::v1::{
        self as own_pb, federation_client::FederationClient, relationship::Origin,
    },
    spire::api::{
        server::{
            bundle::v1::{self as bundle_pb, bundle_client::BundleClient},
            localauthority::v1::{
                self as authority_pb, local_authority_client::LocalAuthorityClient,
            },
            svid::v1::{self as svid_pb, svid_client::SvidClient},
            trustdomain::v1::{self as pb, trust_domain_client::TrustDomainClient},
        },
        types::{self, federation_relationship::BundleEndpointProfile},
    },
};
use signet_base::{SharedClock, TestClock};
use signet_http::{HttpClient, Trust};
use signet_identity::TrustDomain;
use signet_pki::tls::{
    ServerCheck, StaticBundles, SwappableIdentity, TlsIdentity, TlsOptions,
    spiffe_web_client_config, web_server_config_with,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;
use tonic::{Code, transport::Channel};

use support::{Options, TestServer, new_key};

const ENDPOINT: &str = r#"federation { bundle_endpoint {
    address = "127.0.0.1"
    port = 1
    profile "https_spiffe" {}
} }"#;

/// A server of the trust domain `b.test` with a bundle endpoint.
async fn with_endpoint() -> TestServer {
    let options =
        Options { server: ENDPOINT.to_owned(), trust_domain: Some("b.test"), ..Options::default() };
    TestServer::with(options).await
}

fn b_test() -> TrustDomain {
    "b.test".parse().unwrap()
}

impl TestServer {
    fn federation(&self) -> TrustDomainClient<Channel> {
        TrustDomainClient::new(self.local.clone())
    }

    /// A client that expects `id` of endpoints, by this server's bundle.
    fn https(&self, id: &str) -> HttpClient {
        let check = ServerCheck::Id {
            id: id.parse().unwrap(),
            bundles: Arc::new(StaticBundles(vec![self.trust()])),
        };
        let clock: SharedClock = Arc::new(self.clock.clone());
        let tls = spiffe_web_client_config(check, clock, TlsOptions::default()).unwrap();
        HttpClient::builder().trust(Trust::Config(tls)).build().unwrap()
    }

    async fn own_bundle(&self) -> types::Bundle {
        let request = bundle_pb::GetBundleRequest::default();
        BundleClient::new(self.local.clone()).get_bundle(request).await.unwrap().into_inner()
    }

    /// Federates with `domain` at `address`, whose endpoint is `id`, knowing `bundle`.
    async fn federate(
        &self,
        domain: &str,
        url: String,
        id: &str,
        bundle: Option<types::Bundle>,
    ) -> types::FederationRelationship {
        let relationship = types::FederationRelationship {
            trust_domain: domain.into(),
            bundle_endpoint_url: url,
            bundle_endpoint_profile: Some(BundleEndpointProfile::HttpsSpiffe(
                types::HttpsspiffeProfile { endpoint_spiffe_id: id.into() },
            )),
            trust_domain_bundle: bundle,
        };
        let request = pb::BatchCreateFederationRelationshipRequest {
            federation_relationships: vec![relationship],
            output_mask: None,
        };
        let mut answer = self
            .federation()
            .batch_create_federation_relationship(request)
            .await
            .unwrap()
            .into_inner();
        let result = answer.results.remove(0);
        assert_eq!(result.status.unwrap().code, 0);
        result.federation_relationship.unwrap()
    }

    async fn set_bundle(&self, bundle: types::Bundle) {
        let request = bundle_pb::BatchSetFederatedBundleRequest {
            bundle: vec![bundle],
            ..Default::default()
        };
        BundleClient::new(self.local.clone()).batch_set_federated_bundle(request).await.unwrap();
    }

    async fn refresh(&self, domain: &str) -> Result<(), tonic::Status> {
        let request = pb::RefreshBundleRequest { trust_domain: domain.into() };
        self.federation().refresh_bundle(request).await.map(drop)
    }

    async fn statuses(&self) -> Vec<own_pb::Relationship> {
        let mut client = FederationClient::new(self.local.clone());
        let request = own_pb::ListRelationshipsRequest::default();
        client.list_relationships(request).await.unwrap().into_inner().relationships
    }

    fn held(&self, domain: &str) -> Option<signet_identity::Bundle> {
        let domain: TrustDomain = domain.parse().unwrap();
        self.context.parts.cache.bundle(&domain).map(|held| held.bundle.clone())
    }

    /// A TLS identity of this trust domain.
    async fn minted(&self, id: &str) -> TlsIdentity {
        let key = new_key();
        let params = signet_pki::x509::CsrParams::workload(id.parse().unwrap());
        let csr = signet_pki::x509::create_csr(&params, &*key.signer().unwrap()).unwrap();
        let request = svid_pb::MintX509svidRequest { csr: csr.into(), ttl: 600 };
        let mut client = SvidClient::new(self.local.clone());
        let svid = client.mint_x509svid(request).await.unwrap().into_inner().svid.unwrap();
        let chain: Vec<Arc<[u8]>> = svid.cert_chain.iter().map(|der| der.as_ref().into()).collect();
        TlsIdentity::new(&chain, key.signer().unwrap()).unwrap()
    }
}

async fn eventually(what: &str, check: impl Fn() -> bool) {
    let waiting = async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.expect(what);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_wit_svids_are_published_where_that_is_asked_for_and_followed_by_others() {
    const FLAG: &str = "experimental { feature_flags = [\"wit-svid\"] }";
    for publish in [false, true] {
        let endpoint = ENDPOINT.replace("port", &format!("publish_wit_keys = {publish}\nport"));
        let server = TestServer::with(Options {
            server: format!("{FLAG}\n{endpoint}"),
            trust_domain: Some("b.test"),
            ..Options::default()
        })
        .await;
        let url = format!("https://{}/", server.bundle_endpoint.unwrap());
        let client = server.https("spiffe://b.test/spire/server");
        let document = client.get(&url).await.unwrap();
        let document: serde_json::Value = serde_json::from_slice(document.body()).unwrap();
        let uses: Vec<_> =
            document["keys"].as_array().unwrap().iter().map(|key| key["use"].clone()).collect();
        let all = ["x509-svid", "jwt-svid", "wit-svid"];
        assert_eq!(uses, all[..if publish { 3 } else { 2 }]);

        let a = TestServer::start().await;
        let known = server.own_bundle().await;
        a.federate("b.test", url, "spiffe://b.test/spire/server", Some(known)).await;
        let refresh = pb::RefreshBundleRequest { trust_domain: "b.test".to_owned() };
        a.federation().refresh_bundle(refresh).await.unwrap();
        let request = bundle_pb::GetFederatedBundleRequest {
            trust_domain: "b.test".to_owned(),
            output_mask: None,
        };
        let held = BundleClient::new(a.local.clone()).get_federated_bundle(request).await.unwrap();
        let held = held.into_inner().wit_authorities;
        assert_eq!(held.len(), usize::from(publish), "as the endpoint says");
        a.stop().await;
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_endpoint_serves_the_newest_bundle_once_to_each_who_asks_with_its_tag() {
    let server = with_endpoint().await;
    let url = format!("https://{}/", server.bundle_endpoint.unwrap());
    let client = server.https("spiffe://b.test/spire/server");
    let first = client.get(&url).await.unwrap();
    assert_eq!(first.status(), 200);
    assert_eq!(first.headers()["content-type"], "application/json");
    assert_eq!(first.headers()["cache-control"], "public, max-age=15");
    let document: serde_json::Value = serde_json::from_slice(first.body()).unwrap();
    assert_eq!(document["spiffe_refresh_hint"], 300);
    assert!(document["spiffe_sequence"].as_u64().unwrap() > 0);
    let uses: Vec<_> =
        document["keys"].as_array().unwrap().iter().map(|key| key["use"].clone()).collect();
    assert_eq!(uses, ["x509-svid", "jwt-svid"]);

    let ask = async |method: &str, path: &str, tag: Option<&str>| {
        let mut request = Request::builder().method(method).uri(format!("{url}{path}"));
        if let Some(tag) = tag {
            request = request.header("if-none-match", tag);
        }
        client.send(request.body(Bytes::new()).unwrap()).await.unwrap()
    };
    let tag = first.headers()["etag"].to_str().unwrap().to_owned();
    assert!(tag.starts_with('"'), "{tag}");
    let again = ask("GET", "", Some(&tag)).await;
    assert_eq!((again.status().as_u16(), again.body().len()), (304, 0));
    assert_eq!(again.headers()["etag"], tag.as_str());
    let head = ask("HEAD", "", None).await;
    assert_eq!((head.status().as_u16(), head.body().len()), (200, 0));
    assert_eq!(head.headers()["content-length"], first.body().len().to_string().as_str());
    assert_eq!(ask("GET", "bundle", None).await.status(), 404);
    for verb in ["POST", "PUT", "DELETE"] {
        assert_eq!(ask(verb, "", None).await.status(), 405, "{verb}");
    }

    let mut authorities = LocalAuthorityClient::new(server.local.clone());
    authorities.prepare_jwt_authority(authority_pb::PrepareJwtAuthorityRequest {}).await.unwrap();
    let renewed = ask("GET", "", Some(&tag)).await;
    assert_eq!(renewed.status(), 200);
    let document: serde_json::Value = serde_json::from_slice(renewed.body()).unwrap();
    assert_eq!(document["keys"].as_array().unwrap().len(), 3);
    // Who asks for another identity is not served.
    assert!(server.https("spiffe://b.test/other").get(&url).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bundles_are_fetched_at_once_and_a_new_key_comes_with_the_next_poll() {
    let b = with_endpoint().await;
    let a = TestServer::start().await;
    let url = format!("https://{}/", b.bundle_endpoint.unwrap());
    let id = "spiffe://b.test/spire/server";
    // Not yet: nobody said whom to believe.
    a.federate("b.test", url, id, None).await;
    let error = a.refresh("b.test").await.unwrap_err();
    assert_eq!(error.code(), Code::Internal);
    assert_eq!(
        error.message(),
        "failed to refresh bundle: can't perform SPIFFE Authentication: local copy of bundle not \
         found"
    );
    let bare = types::Bundle {
        x509_authorities: b.own_bundle().await.x509_authorities,
        trust_domain: "b.test".into(),
        ..Default::default()
    };
    a.set_bundle(bare).await;
    a.refresh("b.test").await.unwrap();
    let held = a.held("b.test").unwrap();
    assert_eq!((held.refresh_hint, held.jwt_authorities.len()), (300, 1));

    let status = a.statuses().await.remove(0);
    assert_eq!((status.origin(), status.failures), (Origin::Dynamic, 0));
    assert!(status.last_error.is_empty() && status.last_success > 0 && status.last_change > 0);
    // The endpoint says that its answers are fresh for 15 s, and that is believed.
    let pause = status.next_poll - status.last_success;
    assert!((13..=17).contains(&pause), "{pause}");
    assert_eq!(status.bundle.unwrap().jwt_authorities, 1);

    let mut authorities = LocalAuthorityClient::new(b.local.clone());
    authorities.prepare_jwt_authority(authority_pb::PrepareJwtAuthorityRequest {}).await.unwrap();
    // An unknown key has it fetched before its time.
    a.context.parts.federator.demand(&b_test());
    eventually("the new key", || a.held("b.test").unwrap().jwt_authorities.len() == 2).await;
    assert_eq!(a.refresh("nobody.test").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relationships_of_the_file_win_and_are_shown_beside_those_of_the_api() {
    let b = with_endpoint().await;
    let address = b.bundle_endpoint.unwrap();
    let options = Options {
        server: format!(
            r#"federation {{ federates_with "b.test" {{
                bundle_endpoint_url = "https://{address}/"
                bundle_endpoint_profile "https_spiffe" {{
                    endpoint_spiffe_id = "spiffe://b.test/spire/server"
                }}
            }} }}"#
        ),
        ..Options::default()
    };
    let a = TestServer::with(options).await;
    a.set_bundle(types::Bundle { sequence_number: 0, ..b.own_bundle().await }).await;
    // At once, and not only with the next poll: it was what the endpoint waited for.
    eventually("the first poll", || a.held("b.test").unwrap().sequence_number > 0).await;
    // One of the API with the same trust domain changes nothing.
    let other = "https://127.0.0.1:9/".to_owned();
    a.federate("b.test", other.clone(), "spiffe://b.test/x", None).await;
    a.federate("c.test", other, "spiffe://c.test/x", None).await;
    let shown = a.statuses().await;
    let shown: Vec<_> = shown
        .iter()
        .map(|one| {
            let relationship = one.relationship.clone().unwrap();
            (relationship.trust_domain, one.origin(), relationship.bundle_endpoint_url)
        })
        .collect();
    let own = format!("https://{address}/");
    assert_eq!(shown[0], ("b.test".into(), Origin::Static, own.clone()));
    assert_eq!(shown[1].1, Origin::Dynamic);
    let request =
        pb::GetFederationRelationshipRequest { trust_domain: "b.test".into(), output_mask: None };
    let got = a.federation().get_federation_relationship(request).await.unwrap().into_inner();
    assert_eq!(got.bundle_endpoint_url, own);
}

/// An endpoint that answers whatever it was told; it proves itself by an SVID of `b.test`.
struct Scripted {
    address: SocketAddr,
    answer: Arc<Mutex<Vec<u8>>>,
    asked: Arc<AtomicUsize>,
}

impl Scripted {
    async fn start(identity: TlsIdentity, clock: TestClock, answer: Vec<u8>) -> Self {
        let identity = Arc::new(SwappableIdentity::new(identity));
        let tls = web_server_config_with(identity, Arc::new(clock), TlsOptions::default()).unwrap();
        let acceptor = TlsAcceptor::from(tls);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, asked) = (Arc::new(Mutex::new(answer)), Arc::new(AtomicUsize::new(0)));
        let (shared, count) = (Arc::clone(&answer), Arc::clone(&asked));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, answer) = (acceptor.clone(), shared.lock().unwrap().clone());
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut head = [0; 4096];
                    let _ = stream.read(&mut head).await;
                    count.fetch_add(1, Ordering::SeqCst);
                    if answer.is_empty() {
                        // Says nothing, and keeps the connection.
                        let _ = stream.read(&mut head).await;
                        return;
                    }
                    let _ = stream.write_all(&answer).await;
                    if answer.ends_with(b"FOREVER") {
                        let block = vec![b'x'; 1 << 16];
                        while stream.write_all(&block).await.is_ok() {}
                    }
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self { address, answer, asked }
    }

    fn say(&self, answer: Vec<u8>) {
        *self.answer.lock().unwrap() = answer;
    }

    fn url(&self) -> String {
        format!("https://{}/", self.address)
    }
}

fn json(document: &serde_json::Value) -> Vec<u8> {
    let body = document.to_string();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn redirect(to: &str) -> Vec<u8> {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_endpoint_costs_nothing_but_itself() {
    let b = with_endpoint().await;
    let a = TestServer::start().await;
    a.set_bundle(b.own_bundle().await).await;
    let good = b.https("spiffe://b.test/spire/server");
    let good = good.get(&format!("https://{}/", b.bundle_endpoint.unwrap())).await.unwrap();
    let document: serde_json::Value = serde_json::from_slice(good.body()).unwrap();
    let (x509, jwt) = (document["keys"][0].clone(), document["keys"][1].clone());
    let many: Vec<_> = (0..10_000)
        .map(|n| {
            let mut key = jwt.clone();
            key["kid"] = n.to_string().into();
            key
        })
        .collect();
    let huge = b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\nFOREVER".to_vec();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("slow.test", Vec::new(), "did not answer within"),
        ("huge.test", huge, "larger than 4194304 bytes"),
        ("many.test", json(&serde_json::json!({ "keys": many })), "more than 4096 keys"),
        ("html.test", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>".to_vec(), "not a JWKS"),
        ("plain.test", redirect("http://127.0.0.1:9/"), "expected an https URL"),
        ("file.test", redirect("file:///etc/passwd"), "expected an https URL"),
        ("loop.test", redirect("/again"), "redirects more than 5 times"),
        (
            "gone.test",
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
            "status 404",
        ),
        ("same.test", b"HTTP/1.1 304 Not Modified\r\n\r\n".to_vec(), "without an entity tag"),
    ];
    let evil = "spiffe://b.test/evil";
    let mut endpoints = Vec::new();
    for (domain, answer, _) in &cases {
        let identity = b.minted(evil).await;
        let endpoint = Scripted::start(identity, b.clock.clone(), answer.clone()).await;
        a.federate(domain, endpoint.url(), evil, None).await;
        endpoints.push(endpoint);
    }
    // One whose endpoint is somebody else.
    let identity = b.minted("spiffe://b.test/other").await;
    let wrong = Scripted::start(identity, b.clock.clone(), json(&document)).await;
    a.federate("wrong.test", wrong.url(), evil, None).await;
    // And one that is good: it does not wait for the others.
    let url = format!("https://{}/", b.bundle_endpoint.unwrap());
    let began = Instant::now();
    a.federate("b.test", url, "spiffe://b.test/spire/server", None).await;
    a.refresh("b.test").await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());

    for (domain, _, why) in cases.iter().chain([&("wrong.test", Vec::new(), "unexpected peer ID")])
    {
        let trust_domain: TrustDomain = domain.parse().unwrap();
        let status = || a.context.parts.federator.status(&trust_domain).unwrap();
        eventually(domain, || status().last_error.is_some()).await;
        let error = status().last_error.unwrap();
        assert!(error.contains(why), "{domain}: {error}");
        assert_eq!(a.held(domain), None, "{domain}");
    }
    assert_eq!(wrong.asked.load(Ordering::SeqCst), 0, "nothing is asked of somebody else");

    // What a document may hold beside good keys: strange ones, and one kid twice.
    let strange = serde_json::json!({ "keys": [
        x509, jwt, jwt,
        { "use": "future", "kty": "XYZ" },
        { "kty": "EC", "kid": "none" },
        { "use": "jwt-svid", "kty": "AKP", "kid": "post-quantum" },
    ], "spiffe_sequence": 7, "other": [1] });
    endpoints[0].say(json(&strange));
    a.refresh("slow.test").await.unwrap();
    let held = a.held("slow.test").unwrap();
    assert_eq!((held.x509_authorities.len(), held.jwt_authorities.len()), (1, 1));

    // The same keys in another order, as SPIRE's endpoint gives them, are nothing new.
    let mut client = FederationClient::new(a.local.clone());
    let mut refresh = async |keys: [&serde_json::Value; 3]| {
        endpoints[0].say(json(&serde_json::json!({ "keys": keys, "spiffe_sequence": 8 })));
        let trust_domain = "slow.test".into();
        let request = own_pb::RefreshBundleRequest { trust_domain, accept_older: false };
        client.refresh_bundle(request).await.unwrap().into_inner().changed
    };
    let mut second = jwt.clone();
    second["kid"] = "second".into();
    assert!(refresh([&x509, &jwt, &second]).await);
    assert!(!refresh([&second, &jwt, &x509]).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequence_numbers_never_go_back_unless_the_operator_says_so() {
    let b = with_endpoint().await;
    let a = TestServer::start().await;
    a.set_bundle(b.own_bundle().await).await;
    let identity = b.minted("spiffe://b.test/scripted").await;
    let with =
        |sequence: u64| json(&serde_json::json!({ "keys": [], "spiffe_sequence": sequence }));
    let endpoint = Scripted::start(identity, b.clock.clone(), with(7)).await;
    a.federate("x.test", endpoint.url(), "spiffe://b.test/scripted", None).await;
    eventually("the first", || a.held("x.test").is_some_and(|held| held.sequence_number == 7))
        .await;
    endpoint.say(with(6));
    let error = a.refresh("x.test").await.unwrap_err();
    assert!(error.message().contains("sequence number 6, older than the 7"), "{error}");
    assert_eq!(a.held("x.test").unwrap().sequence_number, 7);
    let request =
        own_pb::RefreshBundleRequest { trust_domain: "x.test".into(), accept_older: true };
    let mut client = FederationClient::new(a.local.clone());
    assert!(client.refresh_bundle(request).await.unwrap().into_inner().changed);
    assert_eq!(a.held("x.test").unwrap().sequence_number, 6);
    // A redirect holds for once.
    let elsewhere =
        Scripted::start(b.minted("spiffe://b.test/scripted").await, b.clock.clone(), with(8)).await;
    endpoint.say(redirect(&elsewhere.url()));
    a.refresh("x.test").await.unwrap();
    assert_eq!(a.held("x.test").unwrap().sequence_number, 8);
    endpoint.say(with(9));
    a.refresh("x.test").await.unwrap();
    assert_eq!(elsewhere.asked.load(Ordering::SeqCst), 1);
    assert_eq!(a.held("x.test").unwrap().sequence_number, 9);
}
