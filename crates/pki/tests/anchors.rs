//! One table of trust anchors for every verifier: an anchor is believed no more than Go believes
//! it, wherever certificates are checked.

#![allow(clippy::unwrap_used, reason = "helpers of tests, which may panic")]

use std::{sync::Arc, time::SystemTime};

use rustls_pki_types::ServerName;
use signet_base::Clock;
use signet_identity::{SpiffeId, TrustDomain};
use signet_pki::{
    KeyType, PrivateKey,
    tls::{
        BundleSource, ClientPolicy, ServerCheck, StaticBundles, SwappableIdentity, TlsIdentity,
        TlsOptions, WebCheck, client_config, is_unknown_authority, no_server_name, server_config,
        web_client_config,
    },
    upstream_disk::{DiskUpstream, DiskUpstreamConfig},
    x509::{
        Certificate, TrustBundle,
        path::{Purpose, verify_path},
        verify_ca, verify_svid,
    },
};
use signet_testkit::{AnchorCase, HOST, TRUST_DOMAIN, anchor_cases};
use signet_time::UnixTime;
use tokio_rustls::{TlsAcceptor, TlsConnector, rustls};

const NOW: UnixTime = UnixTime::from_seconds(1_800_000_000);

#[derive(Debug)]
struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> SystemTime {
        NOW.into()
    }
}

fn cases() -> Vec<AnchorCase> {
    anchor_cases(NOW, "/spire/server")
}

fn td() -> TrustDomain {
    TRUST_DOMAIN.parse().unwrap()
}

/// A case as this crate's types.
struct Prepared {
    chain: Vec<Arc<[u8]>>,
    bundles: Arc<dyn BundleSource>,
    trust: Arc<TrustBundle>,
    identity: TlsIdentity,
}

impl Prepared {
    fn new(case: &AnchorCase) -> Self {
        let chain: Vec<Arc<[u8]>> = vec![case.leaf.clone().into(), case.ca.clone().into()];
        let trust = Arc::new(TrustBundle::new(td(), &case.roots).unwrap());
        let signer = PrivateKey::from_der(&case.leaf_key).unwrap().signer().unwrap();
        Self {
            identity: TlsIdentity::new(&chain, signer).unwrap(),
            bundles: Arc::new(StaticBundles(vec![Arc::clone(&trust)])),
            chain,
            trust,
        }
    }

    fn identity(&self) -> Arc<SwappableIdentity> {
        Arc::new(SwappableIdentity::new(self.identity.clone()))
    }
}

/// A root whose empty constraints are malformed is no certificate, for us and for Go.
fn readable(case: &AnchorCase) -> bool {
    case.roots.iter().all(|root| Certificate::from_der(root).is_ok())
}

/// What the client and then the server say of a handshake.
async fn handshake(
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
    name: ServerName<'static>,
) -> (std::io::Result<()>, std::io::Result<()>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::join!(async { TlsConnector::from(client).connect(name, near).await.map(drop) }, async {
        TlsAcceptor::from(server).accept(far).await.map(drop)
    },)
}

#[test]
fn svids_and_paths_are_accepted_as_go_accepts_them() {
    let mut unreadable = 0;
    for case in cases() {
        if !readable(&case) {
            assert!(!case.any && !case.server && !case.ca_alone, "{}", case.name);
            assert!(TrustBundle::new(td(), &case.roots).is_err());
            unreadable += 1;
            continue;
        }
        let Prepared { chain, trust, .. } = Prepared::new(&case);
        let found = verify_svid(&chain, &trust, NOW);
        assert_eq!(found.is_ok(), case.any, "{}: {:?}", case.name, found.err());
        let [leaf, ca] = [&chain[0], &chain[1]].map(|der| Certificate::from_der(der).unwrap());
        for (purpose, wanted) in [(Purpose::Any, case.any), (Purpose::Server, case.server)] {
            let path =
                verify_path(&leaf, std::slice::from_ref(&ca), trust.authorities(), purpose, NOW);
            assert_eq!(path.is_ok(), wanted, "{} {purpose:?}: {:?}", case.name, path.err());
        }
        let ca = verify_ca(&[&case.ca], &case.roots.iter().collect::<Vec<_>>(), NOW);
        // A CA that may not sign is of no use: ours is refused at once, SPIRE's when it has signed.
        let may_sign =
            !["the CA is no CA", "the CA may not sign certificates"].contains(&case.name);
        assert_eq!(ca.is_ok(), case.ca_alone && may_sign, "{}: {:?}", case.name, ca.err());
    }
    assert_eq!(unreadable, 1);
}

#[tokio::test]
async fn a_listener_and_a_client_refuse_what_leads_to_an_anchor_that_go_refuses() {
    let good = cases().remove(0);
    for case in cases().into_iter().filter(readable) {
        let (good, own) = (Prepared::new(&good), Prepared::new(&case));
        let clock = Arc::new(Fixed);
        let policy = ClientPolicy { trust_domain: td(), admin_ids: Arc::new([]) };
        let options = TlsOptions::default();
        let server_id = SpiffeId::server(td());

        // The server's listener: the client presents the case.
        let server = server_config(
            good.identity(),
            Arc::clone(&own.bundles),
            policy.clone(),
            clock.clone(),
            options,
        );
        let check = ServerCheck::Id { id: server_id.clone(), bundles: Arc::clone(&good.bundles) };
        let client = client_config(check, Some(own.identity()), clock.clone(), options);
        let (_, server) = handshake(server.unwrap(), client.unwrap(), no_server_name()).await;
        assert_eq!(server.is_ok(), case.any, "listener, {}: {:?}", case.name, server.err());

        // The agent's client, and those that accept any member: the server presents the case.
        let member = ServerCheck::Member { trust_domain: td(), bundles: Arc::clone(&own.bundles) };
        let id = ServerCheck::Id { id: server_id, bundles: Arc::clone(&own.bundles) };
        for check in [id, member] {
            let server = server_config(
                own.identity(),
                Arc::clone(&good.bundles),
                policy.clone(),
                clock.clone(),
                options,
            );
            let client = client_config(check, None, clock.clone(), options);
            let (client, _) = handshake(server.unwrap(), client.unwrap(), no_server_name()).await;
            assert_eq!(client.is_ok(), case.any, "client, {}: {:?}", case.name, client.err());
        }
    }
}

#[tokio::test]
async fn clients_of_web_servers_refuse_what_leads_to_an_anchor_that_go_refuses() {
    for case in cases().into_iter().filter(readable) {
        let own = Prepared::new(&case);
        for (check, name) in [
            (WebCheck::ChainAndName, ServerName::try_from(HOST).unwrap()),
            (WebCheck::Chain, no_server_name()),
        ] {
            let server = signet_pki::tls::web_server_config(own.identity(), Arc::new(Fixed));
            let client = web_client_config(check, &case.roots, None, Arc::new(Fixed));
            let (client, _) = handshake(server.unwrap(), client.unwrap(), name).await;
            assert_eq!(client.is_ok(), case.server, "{check:?}, {}: {client:?}", case.name);
        }
        let other = ServerName::try_from("other.test").unwrap();
        let server = signet_pki::tls::web_server_config(own.identity(), Arc::new(Fixed));
        let client = web_client_config(WebCheck::ChainAndName, &case.roots, None, Arc::new(Fixed));
        let (client, _) = handshake(server.unwrap(), client.unwrap(), other).await;
        assert!(client.is_err(), "the name still counts: {}", case.name);
    }
}

#[test]
fn an_upstream_ca_on_disk_needs_a_root_that_go_accepts() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for case in cases() {
        let pem =
            |ders: &[Vec<u8>]| signet_pki::pem::encode_certificates(ders.iter().map(Vec::as_slice));
        std::fs::write(path("ca.pem"), pem(std::slice::from_ref(&case.ca))).unwrap();
        std::fs::write(path("roots.pem"), pem(&case.roots)).unwrap();
        let key = signet_pki::pem::encode("PRIVATE KEY", &case.ca_key);
        signet_pki::files::write_atomic(&path("ca.key"), key.as_bytes(), 0o600).unwrap();
        let config = DiskUpstreamConfig {
            cert_file_path: path("ca.pem"),
            key_file_path: path("ca.key"),
            bundle_file_path: Some(path("roots.pem")),
        };
        let opened = DiskUpstream::open(config, td(), Arc::new(Fixed));
        let may_sign =
            !["the CA is no CA", "the CA may not sign certificates"].contains(&case.name);
        assert_eq!(opened.is_ok(), case.ca_alone && may_sign, "{}: {:?}", case.name, opened.err());
    }
}

#[tokio::test]
async fn an_anchor_that_cannot_be_used_counts_as_unknown_and_is_named() {
    for (name, text) in [
        ("the root has expired", "X.509 authority \"CN=root\" expired at 2027-01-14T09:00:00Z"),
        ("the root is not valid yet", "X.509 authority \"CN=root\" is not valid before"),
        ("the root says that it is no CA", "X.509 authority \"CN=root\" is not a CA certificate"),
        ("the CA has expired", "intermediate certificate \"CN=CA\" expired at"),
    ] {
        let case = cases().into_iter().find(|case| case.name == name).unwrap();
        let own = Prepared::new(&case);
        let policy = ClientPolicy { trust_domain: td(), admin_ids: Arc::new([]) };
        let options = TlsOptions::default();
        let server = server_config(
            own.identity(),
            Arc::clone(&own.bundles),
            policy,
            Arc::new(Fixed),
            options,
        );
        let check = ServerCheck::Id { id: SpiffeId::server(td()), bundles: own.bundles.clone() };
        let client = client_config(check, None, Arc::new(Fixed), options);
        let (client, _) = handshake(server.unwrap(), client.unwrap(), no_server_name()).await;
        let error = client.unwrap_err();
        assert!(is_unknown_authority(&error), "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn an_authority_of_any_age_can_be_ours() {
    let signer = PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap();
    let params = signet_pki::x509::CaParams {
        trust_domain: td(),
        subject: signet_pki::x509::Name::spiffe_ca(),
        extensions: vec![],
        now: UnixTime::from_seconds(-62_135_596_790),
        not_after: NOW + 60,
    };
    let issued = signet_pki::x509::self_sign_ca(&*signer, &params).unwrap();
    let read = Certificate::from_der(&issued.der).unwrap();
    assert_eq!(read.not_before(), UnixTime::from_seconds(-62_135_596_800));
}
