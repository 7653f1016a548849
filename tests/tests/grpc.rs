//! gRPC calls of plain bytes, for requests that no generated client would make.

use std::path::Path;

use e2e::raw::PlainBytes;
use tonic::{
    Request, Status, client::Grpc, codegen::http::uri::PathAndQuery, metadata::MetadataValue,
};

/// A runtime for one test.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Calls a method with a message of these bytes; returns the first message of the answer.
pub async fn call(
    socket: &Path,
    path: &str,
    headers: &[(&str, &str)],
    message: &[u8],
) -> Result<Vec<u8>, Status> {
    let channel =
        signet_api::connect::unix(socket).await.map_err(|e| Status::unavailable(e.to_string()))?;
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let mut request = Request::new(message.to_vec());
    for (name, value) in headers {
        let name =
            tonic::metadata::MetadataKey::from_bytes(name.as_bytes()).expect("a header name");
        request
            .metadata_mut()
            .append(name, MetadataValue::try_from(*value).expect("a header value"));
    }
    let path: PathAndQuery = path.parse().expect("a path");
    let answer = grpc.server_streaming(request, path, PlainBytes).await?;
    answer.into_inner().message().await?.ok_or_else(|| Status::ok("an empty stream"))
}
