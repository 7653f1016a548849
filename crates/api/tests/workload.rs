//! The Workload API server and the generated client, over a real socket.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test may panic"
)]

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use signet_api::{
    encoded::Framed,
    pb::workload::{self as pb, spiffe_workload_api_client::SpiffeWorkloadApiClient},
    status::{self, Reason},
    workload::{SECURITY_HEADER, WorkloadApi, WorkloadApiServer},
};
use tokio::net::UnixListener;
use tokio_stream::{Stream, StreamExt as _, wrappers::UnixListenerStream};
use tonic::{Code, Request, Status};

struct Fake {
    shared: Framed,
}

type Frames = Pin<Box<dyn Stream<Item = Result<Framed, Status>> + Send>>;

#[tonic::async_trait]
impl WorkloadApi for Fake {
    type Frames = Frames;

    async fn fetch_x509_svid(&self, r: Request<pb::X509svidRequest>) -> Result<Frames, Status> {
        if r.metadata().get(SECURITY_HEADER).is_none() {
            return Err(Status::invalid_argument("security header missing from request"));
        }
        let frames = vec![
            Ok(self.shared.clone()),
            Ok(self.shared.clone()),
            Err(status::permission_denied("no identity issued", Reason::AgentBanned)),
        ];
        Ok(Box::pin(tokio_stream::iter(frames)))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<pb::X509BundlesRequest>,
    ) -> Result<Frames, Status> {
        Ok(Box::pin(tokio_stream::empty()))
    }

    async fn fetch_jwt_svid(
        &self,
        request: Request<pb::JwtsvidRequest>,
    ) -> Result<pb::JwtsvidResponse, Status> {
        let svid = pb::Jwtsvid {
            spiffe_id: request.into_inner().spiffe_id,
            svid: "token".into(),
            hint: String::new(),
        };
        Ok(pb::JwtsvidResponse { svids: vec![svid] })
    }

    async fn fetch_jwt_bundles(&self, _: Request<pb::JwtBundlesRequest>) -> Result<Frames, Status> {
        Err(Status::unavailable("later"))
    }

    async fn validate_jwt_svid(
        &self,
        _: Request<pb::ValidateJwtsvidRequest>,
    ) -> Result<pb::ValidateJwtsvidResponse, Status> {
        Err(Status::invalid_argument("bad token"))
    }
}

fn response() -> pb::X509svidResponse {
    pb::X509svidResponse {
        svids: vec![pb::X509svid {
            spiffe_id: "spiffe://td/w".into(),
            x509_svid: Bytes::from(vec![1; 100_000]),
            x509_svid_key: Bytes::from_static(b"key"),
            bundle: Bytes::from_static(b"bundle"),
            hint: "h".into(),
        }],
        crl: Vec::new(),
        federated_bundles: [("spiffe://b".to_owned(), Bytes::from_static(b"x"))].into(),
    }
}

async fn client(
    dir: &tempfile::TempDir,
    max: usize,
) -> SpiffeWorkloadApiClient<tonic::transport::Channel> {
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let fake = Arc::new(Fake { shared: Framed::new(&response()).unwrap() });
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(WorkloadApiServer::new(fake).max_request_size(max))
            .serve_with_incoming(UnixListenerStream::new(listener)),
    );
    SpiffeWorkloadApiClient::new(signet_api::connect::unix(&path).await.unwrap())
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(SECURITY_HEADER, "true".parse().unwrap());
    request
}

#[tokio::test]
async fn a_generated_client_reads_shared_frames_and_the_final_status() {
    let dir = tempfile::tempdir().unwrap();
    let mut client = client(&dir, 1024).await;
    let mut stream =
        client.fetch_x509svid(with_header(pb::X509svidRequest {})).await.unwrap().into_inner();
    assert_eq!(stream.next().await.unwrap().unwrap(), response());
    assert_eq!(stream.next().await.unwrap().unwrap(), response());
    let end = stream.next().await.unwrap().unwrap_err();
    assert_eq!(end.message(), "no identity issued");
    assert_eq!(status::denied_reason(&end), Some(Reason::AgentBanned));

    let mut empty =
        client.fetch_x509_bundles(pb::X509BundlesRequest {}).await.unwrap().into_inner();
    assert!(empty.next().await.is_none());
}

#[tokio::test]
async fn refusals_and_unary_calls_work_as_usual() {
    let dir = tempfile::tempdir().unwrap();
    let mut client = client(&dir, 1024).await;
    let code = |status: Status| status.code();
    let refused = client.fetch_x509svid(pb::X509svidRequest {}).await.unwrap_err();
    assert_eq!(refused.message(), "security header missing from request");
    assert_eq!(
        client.fetch_jwt_bundles(pb::JwtBundlesRequest {}).await.map(drop).map_err(code),
        Err(Code::Unavailable)
    );
    let request = pb::JwtsvidRequest { audience: vec!["a".into()], spiffe_id: "x".into() };
    let jwt = client.fetch_jwtsvid(request).await.unwrap().into_inner();
    assert_eq!(jwt.svids[0].svid, "token");
    let bad = pb::ValidateJwtsvidRequest::default();
    assert_eq!(
        client.validate_jwtsvid(bad).await.map(drop).map_err(code),
        Err(Code::InvalidArgument)
    );
    let wit = pb::WitBundlesRequest {};
    assert_eq!(
        client.fetch_wit_bundles(wit).await.map(drop).map_err(code),
        Err(Code::Unimplemented)
    );
}

#[tokio::test]
async fn an_oversized_request_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut client = client(&dir, 1024).await;
    let big = pb::JwtsvidRequest { audience: vec!["a".repeat(2000)], spiffe_id: String::new() };
    assert_eq!(client.fetch_jwtsvid(big).await.unwrap_err().code(), Code::OutOfRange);
    let wit = pb::WitsvidRequest { spiffe_id: "a".repeat(2000) };
    assert_eq!(client.fetch_witsvid(wit).await.unwrap_err().code(), Code::OutOfRange);
}
