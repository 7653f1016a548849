//! Responses encoded once for many streams.
//!
//! A thousand workloads with the same selectors get the same bytes. A [`Framed`] holds them as
//! they go on the wire; every stream sends a reference to the one buffer, and no stream keeps an
//! encoding buffer of its own.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{BufMut as _, Bytes};
use http::{HeaderMap, HeaderValue};
use hyper::body::{Body, Frame};
use prost::Message;
use tonic::{Code, Status, codegen::tokio_stream::Stream};
use zeroize::Zeroizing;

/// A message with its gRPC frame header, encoded once. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Framed(Bytes);

/// The length of a gRPC frame header: a compression flag and a length.
pub(crate) const HEADER_LEN: usize = 5;

impl Framed {
    /// Encodes `message`.
    ///
    /// # Errors
    /// `ResourceExhausted` when the message is over 4 GiB, the limit of the frame.
    pub fn new(message: &impl Message) -> Result<Self, Status> {
        let len = message.encoded_len();
        let prefix = u32::try_from(len)
            .map_err(|_| Status::resource_exhausted("message is longer than a frame can be"))?;
        // Answers carry private keys: the one copy that all streams share is wiped in the end. Its
        // size is known, so that it never grows and leaves a copy behind.
        let mut frame = Zeroizing::new(Vec::with_capacity(HEADER_LEN + len));
        frame.put_u8(0);
        frame.put_u32(prefix);
        message
            .encode(&mut *frame)
            .map_err(|error| Status::internal(format!("encoding a response: {error}")))?;
        Ok(Self(Bytes::from_owner(frame)))
    }

    /// The message without its frame header.
    pub fn message(&self) -> Bytes {
        self.0.slice(HEADER_LEN..)
    }

    /// How many bytes the message takes.
    pub fn len(&self) -> usize {
        self.0.len() - HEADER_LEN
    }

    /// Whether the message has no field set.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Debug for Framed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Framed({} bytes)", self.len())
    }
}

/// An HTTP response that sends the frames of `stream` and ends with its status.
pub fn respond<S>(stream: S) -> http::Response<tonic::body::Body>
where
    S: Stream<Item = Result<Framed, Status>> + Send + 'static,
{
    let body = FramesBody { stream: Box::pin(stream), done: false };
    let mut response = http::Response::new(tonic::body::Body::new(body));
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

struct FramesBody<S> {
    stream: Pin<Box<S>>,
    done: bool,
}

impl<S> Body for FramesBody<S>
where
    S: Stream<Item = Result<Framed, Status>>,
{
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.done {
            return Poll::Ready(None);
        }
        let status = match std::task::ready!(this.stream.as_mut().poll_next(cx)) {
            Some(Ok(framed)) => return Poll::Ready(Some(Ok(Frame::data(framed.0)))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        this.done = true;
        Poll::Ready(Some(Ok(Frame::trailers(trailers(&status)))))
    }

    fn is_end_stream(&self) -> bool {
        self.done
    }
}

pub(crate) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(3);
    if status.add_header(&mut trailers).is_err() {
        trailers.insert("grpc-status", HeaderValue::from(Code::Internal as i32));
    }
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::workload::X509BundlesResponse;

    #[test]
    fn a_framed_message_is_the_frame_header_and_the_message() {
        let message = X509BundlesResponse {
            bundles: [("spiffe://td".to_owned(), Bytes::from_static(b"der"))].into(),
            ..Default::default()
        };
        let framed = Framed::new(&message).unwrap();
        assert_eq!(framed.message(), message.encode_to_vec());
        assert_eq!(framed.0[0], 0);
        assert_eq!(framed.0[1..5], u32::try_from(framed.len()).unwrap().to_be_bytes());
        assert_eq!(framed.clone().0.as_ptr(), framed.0.as_ptr());
        assert!(Framed::new(&X509BundlesResponse::default()).unwrap().is_empty());
    }
}
