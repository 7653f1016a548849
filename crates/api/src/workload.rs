//! The Workload API server, whose streams send messages encoded once for all.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use prost::Message;
use tonic::{
    Request, Status, Streaming,
    codegen::{
        Body, BoxFuture, Service, StdError,
        tokio_stream::{self, Stream},
    },
    metadata::{MetadataMap, MetadataValue},
    server::NamedService,
};
use tonic_prost::ProstDecoder;

use crate::{
    MAX_MESSAGE_SIZE,
    encoded::{Framed, respond},
    pb::workload as pb,
};

/// The header that every call but health and SDS must carry, with the value `true`: it proves
/// that no browser or proxy was tricked into calling (Workload API standard, section 3).
pub const SECURITY_HEADER: &str = "workload.spiffe.io";

/// A request with that header.
pub fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(SECURITY_HEADER, MetadataValue::from_static("true"));
    request
}

/// How long the one message of a request may take to arrive.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// The full name of the gRPC service.
pub const SERVICE_NAME: &str = "SpiffeWorkloadAPI";

/// What a Workload API server does.
#[tonic::async_trait]
pub trait WorkloadApi: Send + Sync + 'static {
    /// The messages of a streaming call, encoded.
    type Frames: Stream<Item = Result<Framed, Status>> + Send + 'static;

    /// `FetchX509SVID`: the caller's X.509-SVIDs, and again at each change.
    async fn fetch_x509_svid(
        &self,
        request: Request<pb::X509svidRequest>,
    ) -> Result<Self::Frames, Status>;

    /// `FetchX509Bundles`: the caller's X.509 bundles, and again at each change.
    async fn fetch_x509_bundles(
        &self,
        request: Request<pb::X509BundlesRequest>,
    ) -> Result<Self::Frames, Status>;

    /// `FetchJWTSVID`.
    async fn fetch_jwt_svid(
        &self,
        request: Request<pb::JwtsvidRequest>,
    ) -> Result<pb::JwtsvidResponse, Status>;

    /// `FetchJWTBundles`: the caller's JWT bundles, and again at each change.
    async fn fetch_jwt_bundles(
        &self,
        request: Request<pb::JwtBundlesRequest>,
    ) -> Result<Self::Frames, Status>;

    /// `ValidateJWTSVID`.
    async fn validate_jwt_svid(
        &self,
        request: Request<pb::ValidateJwtsvidRequest>,
    ) -> Result<pb::ValidateJwtsvidResponse, Status>;

    /// `FetchWITSVID`; not implemented unless overridden.
    async fn fetch_wit_svid(
        &self,
        _request: Request<pb::WitsvidRequest>,
    ) -> Result<Self::Frames, Status> {
        Err(Status::unimplemented("WIT-SVID functionality is not implemented"))
    }

    /// `FetchWITBundles`; not implemented unless overridden.
    async fn fetch_wit_bundles(
        &self,
        _request: Request<pb::WitBundlesRequest>,
    ) -> Result<Self::Frames, Status> {
        Err(Status::unimplemented("WIT-SVID functionality is not implemented"))
    }
}

/// Serves a [`WorkloadApi`] as a tower service, to be added to a tonic router.
///
/// Extensions of the HTTP request (the pinned peer, say) are those of the [`Request`].
#[derive(Debug)]
pub struct WorkloadApiServer<T> {
    inner: Arc<T>,
    max_request_size: usize,
}

impl<T> WorkloadApiServer<T> {
    /// Serves `inner`, taking requests of up to [`MAX_MESSAGE_SIZE`] bytes.
    pub fn new(inner: Arc<T>) -> Self {
        Self { inner, max_request_size: MAX_MESSAGE_SIZE }
    }

    /// Takes requests of up to `bytes` bytes.
    #[must_use]
    pub fn max_request_size(mut self, bytes: usize) -> Self {
        self.max_request_size = bytes;
        self
    }
}

impl<T> Clone for WorkloadApiServer<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), max_request_size: self.max_request_size }
    }
}

impl<T> NamedService for WorkloadApiServer<T> {
    const NAME: &'static str = SERVICE_NAME;
}

type Response = http::Response<tonic::body::Body>;

impl<T, B> Service<http::Request<B>> for WorkloadApiServer<T>
where
    T: WorkloadApi,
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<Response, Infallible>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let (api, max) = (Arc::clone(&self.inner), self.max_request_size);
        match request.uri().path() {
            "/SpiffeWorkloadAPI/FetchX509SVID" => Box::pin(async move {
                Ok(streaming(request, max, async |r| api.fetch_x509_svid(r).await).await)
            }),
            "/SpiffeWorkloadAPI/FetchX509Bundles" => Box::pin(async move {
                Ok(streaming(request, max, async |r| api.fetch_x509_bundles(r).await).await)
            }),
            "/SpiffeWorkloadAPI/FetchJWTBundles" => Box::pin(async move {
                Ok(streaming(request, max, async |r| api.fetch_jwt_bundles(r).await).await)
            }),
            "/SpiffeWorkloadAPI/FetchWITSVID" => Box::pin(async move {
                Ok(streaming(request, max, async |r| api.fetch_wit_svid(r).await).await)
            }),
            "/SpiffeWorkloadAPI/FetchWITBundles" => Box::pin(async move {
                Ok(streaming(request, max, async |r| api.fetch_wit_bundles(r).await).await)
            }),
            "/SpiffeWorkloadAPI/FetchJWTSVID" => Box::pin(async move {
                Ok(unary(request, max, async |r| api.fetch_jwt_svid(r).await).await)
            }),
            "/SpiffeWorkloadAPI/ValidateJWTSVID" => Box::pin(async move {
                Ok(unary(request, max, async |r| api.validate_jwt_svid(r).await).await)
            }),
            _ => Box::pin(async { Ok(Status::unimplemented("unknown method").into_http()) }),
        }
    }
}

/// Reads the one request message, asks `call` and streams its frames.
async fn streaming<M, B, S>(
    request: http::Request<B>,
    max: usize,
    call: impl AsyncFnOnce(Request<M>) -> Result<S, Status>,
) -> Response
where
    M: Message + Default + 'static,
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
    S: Stream<Item = Result<Framed, Status>> + Send + 'static,
{
    let answer = async { call(read(request, max).await?).await };
    match answer.await {
        Ok(frames) => respond(frames),
        Err(status) => status.into_http(),
    }
}

/// Reads the one request message, asks `call` and sends its one answer.
async fn unary<M, B, A>(
    request: http::Request<B>,
    max: usize,
    call: impl AsyncFnOnce(Request<M>) -> Result<A, Status>,
) -> Response
where
    M: Message + Default + 'static,
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
    A: Message,
{
    let answer = async { Framed::new(&call(read(request, max).await?).await?) };
    match answer.await {
        Ok(frame) => respond(tokio_stream::once(Ok(frame))),
        Err(status) => status.into_http(),
    }
}

/// Reads the one message of a request.
///
/// # Errors
/// A status when it is malformed, too long, absent, or does not come in time.
async fn read<M, B>(request: http::Request<B>, max: usize) -> Result<Request<M>, Status>
where
    M: Message + Default + 'static,
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    let (parts, body) = request.into_parts();
    let mut messages = Streaming::new_request(ProstDecoder::<M>::default(), body, None, Some(max));
    let message = tokio::time::timeout(REQUEST_DEADLINE, messages.message())
        .await
        .map_err(|_| Status::deadline_exceeded("the request did not arrive in time"))??
        .ok_or_else(|| Status::internal("missing request message"))?;
    let metadata = MetadataMap::from_headers(parts.headers);
    Ok(Request::from_parts(metadata, parts.extensions, message))
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use bytes::Bytes;
    use hyper::body::Frame;

    use super::*;

    /// A body of which nothing ever comes.
    struct Silence;

    impl Body for Silence {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_never_comes_is_given_up() {
        let refused = read::<pb::X509svidRequest, _>(http::Request::new(Silence), 10).await;
        assert_eq!(refused.unwrap_err().code(), tonic::Code::DeadlineExceeded);
    }
}
