//! gRPC calls of plain bytes, for requests that no generated client would make.

use std::path::Path;

use bytes::{Buf, BufMut};
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    metadata::MetadataValue,
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
    let answer = grpc.server_streaming(request, path, Plain).await?;
    answer.into_inner().message().await?.ok_or_else(|| Status::ok("an empty stream"))
}

/// Bytes as they are.
#[derive(Clone, Copy, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; src.remaining()];
        src.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}
