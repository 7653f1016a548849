//! `wit mint` against a server that has the feature, and against ours.

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
    server::svid::v1::{self as pb, svid_server},
    types,
};
use signet_daemon::{cli::try_parse, program::Program};
use signet_pki::{PublicKey, jwks::decode_jwt_jwks};
use signet_server::cli::{AllCommands, Cli, client, env::Env};
use signet_testkit::Captured;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

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
