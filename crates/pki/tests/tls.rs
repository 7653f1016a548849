//! Handshakes between our two sides, in memory.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests, which may panic"
)]

use std::{sync::Arc, time::SystemTime};

use rustls_pki_types::{CertificateDer, ServerName};
use signet_base::Clock;
use signet_identity::{SpiffeId, TrustDomain};
use signet_pki::{
    KeyType, PrivateKey, Signer,
    tls::{
        BundleSource, ClientPolicy, ServerCheck, StaticBundles, SwappableIdentity, TlsIdentity,
        TlsOptions, client_config, is_unknown_authority, no_server_name, peer_of, server_config,
    },
    x509::{CaIssuer, CaParams, Certificate, Name, SvidParams, TrustBundle, self_sign_ca},
};
use signet_time::UnixTime;
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, NamedGroup, ProtocolVersion, ServerConfig,
        SignatureScheme, SupportedProtocolVersion,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{
            CryptoProvider, SupportedKxGroup,
            aws_lc_rs::{default_provider, kx_group},
        },
        version::{TLS12, TLS13},
    },
};

const NOW: UnixTime = UnixTime::from_seconds(1_800_000_000);

#[derive(Debug)]
struct Fixed(UnixTime);

impl Clock for Fixed {
    fn now(&self) -> SystemTime {
        self.0.into()
    }
}

struct Domain {
    name: TrustDomain,
    ca: CaIssuer,
}

impl Domain {
    fn new(name: &str) -> Self {
        let name: TrustDomain = name.parse().unwrap();
        let signer = PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap();
        let params = CaParams {
            trust_domain: name.clone(),
            subject: Name::spiffe_ca(),
            extensions: vec![],
            now: NOW,
            not_after: NOW + 86_400,
        };
        let ca = self_sign_ca(&*signer, &params).unwrap();
        let ca = CaIssuer::new(Certificate::from_der(&ca.der).unwrap(), vec![], signer).unwrap();
        Self { name, ca }
    }

    fn bundle(&self) -> Arc<TrustBundle> {
        let roots = [self.ca.certificate().der().clone()];
        Arc::new(TrustBundle::new(self.name.clone(), &roots).unwrap())
    }

    fn id(&self, path: &str) -> SpiffeId {
        SpiffeId::new(self.name.clone(), path).unwrap()
    }

    fn identity(&self, path: &str, kind: KeyType) -> TlsIdentity {
        let signer = PrivateKey::generate(kind).unwrap().signer().unwrap();
        let issued = self
            .ca
            .issue_svid(&SvidParams {
                spiffe_id: &self.id(path),
                public_key: signer.public_key(),
                dns_names: &[],
                subject: None,
                extensions: &[],
                now: NOW,
                not_after: NOW + 3600,
            })
            .unwrap();
        TlsIdentity::new(&[issued.der.into()], signer).unwrap()
    }
}

struct Setup {
    server: Arc<SwappableIdentity>,
    bundles: Vec<Arc<TrustBundle>>,
    admins: Vec<SpiffeId>,
    options: TlsOptions,
    now: UnixTime,
}

type Outcome = Result<Option<SpiffeId>, std::io::Error>;

impl Setup {
    fn new(own: &Domain) -> Self {
        let server = own.identity("/spire/server", KeyType::EcP256);
        Self {
            server: Arc::new(SwappableIdentity::new(server)),
            bundles: vec![own.bundle()],
            admins: vec![],
            options: TlsOptions::default(),
            now: NOW,
        }
    }

    /// What the server and the client say of the handshake: the server also names its peer.
    async fn connect(
        &self,
        own: &Domain,
        check: ServerCheck,
        client: Option<TlsIdentity>,
    ) -> (Outcome, Result<(), std::io::Error>) {
        let clock = Arc::new(Fixed(self.now));
        let bundles: Arc<dyn BundleSource> = Arc::new(StaticBundles(self.bundles.clone()));
        let policy =
            ClientPolicy { trust_domain: own.name.clone(), admin_ids: self.admins.clone().into() };
        let server =
            server_config(self.server.clone(), bundles, policy, clock.clone(), self.options)
                .unwrap();
        let identity = client.map(|identity| Arc::new(SwappableIdentity::new(identity)));
        let client = client_config(check, identity, clock, TlsOptions::default()).unwrap();
        let (near, far) = tokio::io::duplex(64 * 1024);
        let accept = async {
            let stream = TlsAcceptor::from(server).accept(far).await?;
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            let peer = peer_of(stream.get_ref().1.peer_certificates()).unwrap();
            Ok(peer.map(|peer| peer.id))
        };
        let connect = async {
            let connector = TlsConnector::from(client);
            connector.connect(no_server_name(), near).await.map(drop)
        };
        tokio::join!(accept, connect)
    }
}

fn trusting(domain: &Domain) -> ServerCheck {
    ServerCheck::Id {
        id: domain.id("/spire/server"),
        bundles: Arc::new(StaticBundles(vec![domain.bundle()])),
    }
}

#[tokio::test]
async fn an_agent_connects_with_and_without_its_svid() {
    let own = Domain::new("example.org");
    let setup = Setup::new(&own);
    let (server, client) = setup.connect(&own, trusting(&own), None).await;
    assert_eq!(server.unwrap(), None);
    client.unwrap();
    for kind in [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048] {
        let agent = own.identity("/spire/agent/a", kind);
        let (server, client) = setup.connect(&own, trusting(&own), Some(agent)).await;
        assert_eq!(server.unwrap(), Some(own.id("/spire/agent/a")));
        client.unwrap();
    }
}

#[tokio::test]
async fn foreign_clients_are_refused_unless_they_are_admins_of_a_known_domain() {
    let (own, other) = (Domain::new("example.org"), Domain::new("other.org"));
    let mut setup = Setup::new(&own);
    let admin = || Some(other.identity("/admin", KeyType::EcP256));
    let (server, _) = setup.connect(&own, trusting(&own), admin()).await;
    assert!(is_unknown_authority(&server.unwrap_err()), "no bundle of that domain");
    setup.bundles.push(other.bundle());
    let (server, _) = setup.connect(&own, trusting(&own), admin()).await;
    assert!(
        server.unwrap_err().to_string().contains("unexpected peer ID spiffe://other.org/admin")
    );
    setup.admins.push(other.id("/admin"));
    let (server, client) = setup.connect(&own, trusting(&own), admin()).await;
    assert_eq!(server.unwrap(), Some(other.id("/admin")));
    client.unwrap();
}

#[tokio::test]
async fn a_certificate_of_another_ca_under_our_name_is_refused() {
    let (own, fake) = (Domain::new("example.org"), Domain::new("example.org"));
    let setup = Setup::new(&own);
    let agent = fake.identity("/spire/agent/a", KeyType::EcP256);
    let (server, _) = setup.connect(&own, trusting(&own), Some(agent)).await;
    assert!(server.is_err());
}

#[tokio::test]
async fn the_server_must_be_the_one_expected() {
    let (own, fake) = (Domain::new("example.org"), Domain::new("example.org"));
    let mut setup = Setup::new(&own);
    let (_, client) = setup.connect(&own, trusting(&fake), None).await;
    assert!(is_unknown_authority(&client.unwrap_err()));

    let elsewhere = Domain::new("elsewhere.org");
    let (_, client) = setup.connect(&own, trusting(&elsewhere), None).await;
    let error = client.unwrap_err();
    let wanted = "unexpected peer ID spiffe://example.org/spire/server, expected \
                  spiffe://elsewhere.org/spire/server";
    assert!(error.to_string().contains(wanted), "{error}");
    assert!(!is_unknown_authority(&error), "no other bundle would help");

    setup.server.set(own.identity("/workload", KeyType::EcP256));
    let (_, client) = setup.connect(&own, trusting(&own), None).await;
    let error = client.unwrap_err();
    assert!(error.to_string().contains("unexpected peer ID spiffe://example.org/workload"));
    assert!(!is_unknown_authority(&error));
    let member = ServerCheck::Member {
        trust_domain: own.name.clone(),
        bundles: Arc::new(StaticBundles(vec![own.bundle()])),
    };
    setup.connect(&own, member, None).await.1.unwrap();

    setup.server.set(own.identity("/spire/server", KeyType::EcP384));
    setup.connect(&own, trusting(&own), None).await.1.unwrap();
    setup.now = NOW + 4000;
    assert!(setup.connect(&own, trusting(&own), None).await.1.is_err(), "expired");
    setup.now = NOW;
    setup.server.clear();
    assert!(setup.connect(&own, trusting(&own), None).await.1.is_err(), "no identity yet");
}

#[tokio::test]
async fn insecure_bootstrap_still_wants_the_servers_id() {
    let (own, other) = (Domain::new("example.org"), Domain::new("other.org"));
    let insecure = |id| ServerCheck::InsecureId { id };
    let setup = Setup::new(&own);
    setup.connect(&own, insecure(own.id("/spire/server")), None).await.1.unwrap();
    let wrong = setup.connect(&own, insecure(other.id("/spire/server")), None).await;
    assert!(wrong.1.is_err());
}

/// What a handshake with `client` agrees on, or the client's error.
async fn agreed(
    server: Arc<ServerConfig>,
    client: ClientConfig,
) -> std::io::Result<(ProtocolVersion, NamedGroup)> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let accept = TlsAcceptor::from(server).accept(far);
    let connector = TlsConnector::from(Arc::new(client));
    let connect = async {
        let stream = connector.connect(no_server_name(), near).await?;
        let session = stream.get_ref().1;
        let group = session.negotiated_key_exchange_group().unwrap().name();
        Ok((session.protocol_version().unwrap(), group))
    };
    let (accepted, connected) = tokio::join!(accept, connect);
    accepted.and(connected)
}

fn listener(own: &Domain, options: TlsOptions) -> Arc<ServerConfig> {
    let identity = own.identity("/spire/server", KeyType::EcP256);
    let policy = ClientPolicy { trust_domain: own.name.clone(), admin_ids: Arc::new([]) };
    server_config(
        Arc::new(SwappableIdentity::new(identity)),
        Arc::new(StaticBundles(vec![own.bundle()])),
        policy,
        Arc::new(Fixed(NOW)),
        options,
    )
    .unwrap()
}

fn client(own: &Domain, options: TlsOptions) -> ClientConfig {
    let config = client_config(trusting(own), None, Arc::new(Fixed(NOW)), options).unwrap();
    Arc::unwrap_or_clone(config)
}

/// A client that offers these groups in these versions of TLS.
fn client_with(
    groups: &[&'static dyn SupportedKxGroup],
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let provider = CryptoProvider { kx_groups: groups.to_vec(), ..default_provider() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// Believes every server: what counts here is the key exchange.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn post_quantum_key_exchange_comes_first_wherever_tls_1_3_is_spoken() {
    let own = Domain::new("example.org");
    let pq = (ProtocolVersion::TLSv1_3, NamedGroup::X25519MLKEM768);
    for (ours, theirs) in [(false, false), (true, false), (false, true), (true, true)] {
        let options = |require_pq_kem| TlsOptions { require_pq_kem };
        let found = agreed(listener(&own, options(ours)), client(&own, options(theirs))).await;
        assert_eq!(found.unwrap(), pq, "required by the server: {ours}, by the client: {theirs}");
    }

    let plain = TlsOptions::default();
    // As Go's clients offer it: with shares for both.
    let groups = [kx_group::X25519MLKEM768, kx_group::X25519];
    let found = agreed(listener(&own, plain), client_with(&groups, &[&TLS13])).await;
    assert_eq!(found.unwrap(), pq);
    // Those that do not know it are still served.
    for (version, name) in [(&TLS13, ProtocolVersion::TLSv1_3), (&TLS12, ProtocolVersion::TLSv1_2)]
    {
        let old = client_with(&[kx_group::X25519], &[version]);
        assert_eq!(agreed(listener(&own, plain), old).await.unwrap(), (name, NamedGroup::X25519));
    }
}

#[tokio::test]
async fn those_without_post_quantum_key_exchange_are_refused_where_it_is_required() {
    let own = Domain::new("example.org");
    let required = TlsOptions { require_pq_kem: true };
    for version in [&TLS13, &TLS12] {
        let old = client_with(&[kx_group::X25519, kx_group::SECP256R1], &[version]);
        agreed(listener(&own, required), old).await.unwrap_err();
    }
    for group in [kx_group::X25519, kx_group::SECP256R1] {
        let provider = CryptoProvider { kx_groups: vec![group], ..default_provider() };
        let identity = own.identity("/spire/server", KeyType::EcP256);
        let server = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SwappableIdentity::new(identity)));
        agreed(Arc::new(server), client(&own, required)).await.unwrap_err();
    }
}

#[test]
fn an_identity_needs_its_own_key() {
    let own = Domain::new("example.org");
    let other = PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap();
    let identity = own.identity("/a", KeyType::EcP256);
    let chain = [identity.leaf().der().clone()];
    assert!(TlsIdentity::new(&chain, other).is_err());
    let signer = PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap();
    assert!(TlsIdentity::new(&[], signer).is_err());
}
