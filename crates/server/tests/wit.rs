//! WIT-SVIDs: `wit mint` against a server like SPIRE's, and ours with the feature on and off.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

mod support;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use signet_api::pb::spire::api::{
    server::{
        bundle::v1::{GetBundleRequest, PublishWitAuthorityRequest, bundle_client::BundleClient},
        localauthority::v1::{self as authority_pb, local_authority_client::LocalAuthorityClient},
        svid::v1::{self as pb, svid_client::SvidClient, svid_server},
    },
    types,
};
use signet_base::Clock as _;
use signet_daemon::{cli::try_parse, program::Program};
use signet_identity::JwtAuthority;
use signet_pki::{KeyType, PrivateKey, PublicKey, jwks::decode_jwt_jwks, wit};
use signet_server::cli::{AllCommands, Cli, client, env::Env};
use signet_testkit::Captured;
use support::{Options, TestServer};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Code, Request, Response, Status};

/// A server that mints WIT-SVIDs as SPIRE's does, and notes what it was asked.
#[derive(Clone, Default)]
struct FakeSpire(Arc<Mutex<Vec<pb::MintWitsvidRequest>>>);

macro_rules! not_asked {
    ($($method:ident($request:ty) -> $response:ty;)*) => {
        #[tonic::async_trait]
        impl svid_server::Svid for FakeSpire {
            async fn mint_witsvid(
                &self,
                request: Request<pb::MintWitsvidRequest>,
            ) -> Result<Response<pb::MintWitsvidResponse>, Status> {
                let request = request.into_inner();
                let id = request.id.clone();
                self.0.lock().unwrap().push(request);
                Ok(Response::new(pb::MintWitsvidResponse {
                    svid: Some(types::Witsvid {
                        token: "header.claims.signature".into(),
                        id,
                        expires_at: 4_000_000_000,
                        issued_at: 1_700_000_000,
                        hint: String::new(),
                    }),
                }))
            }
            $(
                async fn $method(
                    &self,
                    _: Request<$request>,
                ) -> Result<Response<$response>, Status> {
                    Err(Status::unimplemented("not asked for"))
                }
            )*
        }
    };
}

not_asked! {
    mint_x509svid(pb::MintX509svidRequest) -> pb::MintX509svidResponse;
    mint_jwtsvid(pb::MintJwtsvidRequest) -> pb::MintJwtsvidResponse;
    batch_new_x509svid(pb::BatchNewX509svidRequest) -> pb::BatchNewX509svidResponse;
    new_jwtsvid(pb::NewJwtsvidRequest) -> pb::NewJwtsvidResponse;
    batch_new_witsvid(pb::BatchNewWitsvidRequest) -> pb::BatchNewWitsvidResponse;
    new_downstream_x509ca(pb::NewDownstreamX509caRequest) -> pb::NewDownstreamX509caResponse;
}

/// Runs `wit mint`; gives exit code, output and complaints.
async fn mint(socket: &Path, line: &str) -> (u8, String, String) {
    let line = format!("signet-server wit mint {line} -socketPath {}", socket.display());
    let args = line.split_whitespace().map(std::ffi::OsString::from);
    let cli = try_parse::<Cli<AllCommands>>("signet-server", args).unwrap();
    let (out, err) = (Captured::default(), Captured::default());
    let (to_out, to_err) = (out.clone(), err.clone());
    let run = move || {
        let mut env = Env {
            program: Program::Signet,
            out: Box::new(to_out),
            err: Box::new(to_err),
            input: Box::new(std::io::empty()),
            variable: |_| None,
        };
        client(cli.command, &mut env)
    };
    let code = tokio::task::spawn_blocking(run).await.unwrap();
    (code, out.take(), err.take())
}

fn serve(dir: &Path) -> (FakeSpire, PathBuf) {
    let (fake, socket) = (FakeSpire::default(), dir.join("s"));
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let service = svid_server::SvidServer::new(fake.clone());
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
    (fake, socket)
}

#[tokio::test]
async fn a_key_is_made_and_its_public_half_minted() {
    let dir = tempfile::tempdir().unwrap();
    let (fake, socket) = serve(dir.path());
    let line = "-spiffeID spiffe://td/w -keyType ec-p384 -signingAlgorithm ES384 -ttl 1500ms";
    let (code, out, err) = mint(&socket, line).await;
    assert_eq!((code, err.as_str()), (0, ""));
    let (token, key) = out.trim_end().split_once('\n').unwrap();
    assert_eq!(token, "header.claims.signature");
    let asked = fake.0.lock().unwrap().pop().unwrap();
    assert_eq!((asked.signing_algorithm.as_str(), asked.ttl), ("ES384", 2));
    let id = asked.id.unwrap();
    assert_eq!((id.trust_domain.as_str(), id.path.as_str()), ("td", "/w"));
    // What is printed is the private half of what was minted.
    let mut jwk: serde_json::Value = serde_json::from_str(key).unwrap();
    assert!(jwk["d"].is_string());
    jwk["kid"] = "k".into();
    let jwks = serde_json::json!({"keys": [jwk]}).to_string();
    let read = decode_jwt_jwks(jwks.as_bytes()).unwrap();
    assert_eq!(&*read[0].public_key, &*asked.public_key);
    PublicKey::from_spki(&asked.public_key).unwrap();
}

#[tokio::test]
async fn what_is_minted_is_printed_as_json_or_written() {
    let dir = tempfile::tempdir().unwrap();
    let (_fake, socket) = serve(dir.path());
    let (code, out, err) = mint(&socket, "-spiffeID spiffe://td/w -output json").await;
    assert_eq!((code, err.as_str()), (0, ""));
    let mut value: serde_json::Value = serde_json::from_str(&out).unwrap();
    let key = value["private_key"].take();
    let key: serde_json::Value = serde_json::from_str(key.as_str().unwrap()).unwrap();
    assert_eq!(key["crv"], "P-256");
    let svid = serde_json::json!({
        "token": "header.claims.signature",
        "id": {"trust_domain": "td", "path": "/w"},
        "expires_at": 4_000_000_000_i64,
        "issued_at": 1_700_000_000,
    });
    assert_eq!(value["svid"], svid);

    let line = format!("-spiffeID spiffe://td/w -write {}", dir.path().display());
    let (code, out, _) = mint(&socket, &line).await;
    let (token, key) = (dir.path().join("token"), dir.path().join("key"));
    let written = format!(
        "WIT-SVID written to {}\nPrivate key written to {}\n",
        token.display(),
        key.display()
    );
    assert_eq!((code, out), (0, written));
    assert_eq!(std::fs::read_to_string(token).unwrap(), "header.claims.signature");
    let mode = std::os::unix::fs::PermissionsExt::mode(&key.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn wrong_flags_exit_64_and_a_server_without_the_feature_says_so() {
    let server = support::TestServer::start().await;
    let socket = server.dir.path().join("api.sock");
    for line in [
        "-spiffeID td/w",
        "-spiffeID spiffe://td/w -keyType rsa-2048",
        "-spiffeID spiffe://td/w -signingAlgorithm EdDSA",
    ] {
        assert_eq!(mint(&socket, line).await.0, 64, "{line}");
    }
    let (code, out, err) = mint(&socket, "-spiffeID spiffe://example.org/w").await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert_eq!(err, "Error: unable to mint SVID: WIT functionality is disabled (Unimplemented)\n");
    server.stop().await;
}

const ON: &str = "experimental {
    feature_flags = [\"wit-svid\"]
    wit_key_type = \"ec-p384\"
    wit_issuer = \"urn:example\"
}";

async fn server_with_wit(more: &str) -> TestServer {
    let server = format!("{ON}\n{more}");
    TestServer::with(Options { server, ..Options::default() }).await
}

async fn authorities(server: &TestServer) -> Vec<JwtAuthority> {
    let mut client = BundleClient::new(server.local.clone());
    let bundle = client.get_bundle(GetBundleRequest::default()).await.unwrap().into_inner();
    signet_api::convert::bundle_from_pb(&bundle).unwrap().wit_authorities
}

#[tokio::test]
async fn wit_svids_are_minted_with_a_key_of_their_own_authority() {
    let server = server_with_wit("").await;
    let socket = server.dir.path().join("api.sock");
    // The command goes by the machine's clock, and warns: the server's is another one here.
    let (code, out, _) =
        mint(&socket, "-spiffeID spiffe://example.org/w -ttl 10m -output json").await;
    assert_eq!(code, 0);
    let minted: serde_json::Value = serde_json::from_str(&out).unwrap();
    let token = minted["svid"]["token"].as_str().unwrap();
    let keys = authorities(&server).await;
    assert_eq!(keys.len(), 1);
    assert_eq!(
        PublicKey::from_spki(&keys[0].public_key).unwrap().algorithm(),
        signet_pki::KeyAlgorithm::EcP384
    );
    let now = server.clock.unix();
    let checked = wit::verify(token, now, |_| Some(keys)).unwrap();
    assert_eq!(checked.subject().to_string(), "spiffe://example.org/w");
    assert_eq!(checked.claims()["iss"], "urn:example");
    assert_eq!(checked.expires_at(), now + 600);
    let key = PrivateKey::from_jwk(minted["private_key"].as_str().unwrap()).unwrap();
    assert_eq!(checked.key(), key.public_key());
    server.stop().await;
}

#[tokio::test]
async fn agents_get_wit_svids_of_their_entries_and_of_no_others() {
    let server = server_with_wit("").await;
    let agent = server.agent().await;
    let entry = server.create_entry("spiffe://example.org/w", &agent.id, "unix:uid:0").await;
    let other = "spiffe://example.org/other".parse().unwrap();
    let foreign = server.create_entry("spiffe://example.org/x", &other, "unix:uid:0").await;
    let key = PrivateKey::generate(KeyType::EcP256).unwrap();
    let spki = key.public_key().spki_der().to_vec();
    let param = |entry: &str, key: &[u8], algorithm: &str| pb::NewWitsvidParams {
        entry_id: entry.to_owned(),
        public_key: key.to_vec().into(),
        signing_algorithm: algorithm.to_owned(),
    };
    let request = pb::BatchNewWitsvidRequest {
        params: vec![
            param(&entry, &spki, "ES256"),
            param(&foreign, &spki, "ES256"),
            param(&entry, b"x", "ES256"),
            param(&entry, &spki, "ES384"),
            param(&entry, &spki, "none"),
            param("", &spki, "ES256"),
            param(&entry, b"", "ES256"),
        ],
    };
    let mut client = SvidClient::new(agent.channel(&server).await);
    let results = client.batch_new_witsvid(request).await.unwrap().into_inner().results;
    let codes: Vec<_> = results.iter().map(|it| it.status.as_ref().unwrap().code).collect();
    let [ok, invalid, not_found] =
        [Code::Ok, Code::InvalidArgument, Code::NotFound].map(|code| code as i32);
    assert_eq!(codes, [ok, not_found, invalid, invalid, invalid, invalid, invalid]);
    let svid = results[0].svid.clone().unwrap();
    let keys = authorities(&server).await;
    let checked = wit::verify(&svid.token, server.clock.unix(), |_| Some(keys)).unwrap();
    assert_eq!(checked.subject().to_string(), "spiffe://example.org/w");
    let hour_later = (server.clock.unix() + 3600).seconds();
    assert_eq!(svid.expires_at, hour_later, "an hour unless the entry says so");
    let empty = client.batch_new_witsvid(pb::BatchNewWitsvidRequest::default()).await;
    assert_eq!(empty.unwrap_err().code(), Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test]
async fn wit_authorities_are_prepared_activated_tainted_and_revoked_by_operators() {
    let server = server_with_wit("").await;
    let mut client = LocalAuthorityClient::new(server.local.clone());
    let state = client.get_wit_authority_state(authority_pb::GetWitAuthorityStateRequest {});
    let first = state.await.unwrap().into_inner().active.unwrap().authority_id;
    let prepared = client.prepare_wit_authority(authority_pb::PrepareWitAuthorityRequest {});
    let second = prepared.await.unwrap().into_inner().prepared_authority.unwrap().authority_id;
    assert_ne!(first, second);
    assert_eq!(authorities(&server).await.len(), 2);
    let id = |id: &str| authority_pb::ActivateWitAuthorityRequest { authority_id: id.to_owned() };
    client.activate_wit_authority(id(&second)).await.unwrap();
    let socket = server.dir.path().join("api.sock");
    let (_, out, _) = mint(&socket, "-spiffeID spiffe://example.org/w").await;
    let token = out.lines().next().unwrap();
    assert_eq!(signet_pki::jwt::peek_ids(token).unwrap().key_id.as_deref(), Some(&*second));

    let revoke = authority_pb::RevokeWitAuthorityRequest { authority_id: first.clone() };
    client.revoke_wit_authority(revoke.clone()).await.unwrap_err();
    let taint = authority_pb::TaintWitAuthorityRequest { authority_id: first.clone() };
    client.taint_wit_authority(taint).await.unwrap();
    let tainted = authorities(&server).await;
    assert!(tainted.iter().any(|key| key.tainted && *key.key_id == *first));
    client.revoke_wit_authority(revoke).await.unwrap();
    let left = authorities(&server).await;
    assert!(left.len() == 1 && *left[0].key_id == *second);
    server.stop().await;
}

#[tokio::test]
async fn a_restart_goes_on_with_the_authority_and_another_without_the_feature_lets_go_of_it() {
    let server = server_with_wit("").await;
    let before = authorities(&server).await;
    let (dir, clock) = server.stop().await;
    let options = || Options { server: ON.to_owned(), ..Options::default() };
    let server = TestServer::on(dir, options(), clock).await;
    assert_eq!(authorities(&server).await, before);
    let (dir, clock) = server.stop().await;
    let server = TestServer::on(dir, Options::default(), clock).await;
    let socket = server.dir.path().join("api.sock");
    let (code, _, err) = mint(&socket, "-spiffeID spiffe://example.org/w").await;
    assert!(code == 1 && err.contains("WIT functionality is disabled"), "{err}");
    assert_eq!(authorities(&server).await, before, "what was signed verifies until it expires");
    let key = types::WitKey::default();
    let publish = PublishWitAuthorityRequest { wit_authority: Some(key) };
    BundleClient::new(server.local.clone()).publish_wit_authority(publish).await.unwrap_err();
    server.stop().await;
}
