//! Calls in which both sides stream, made for thousands that are open and silent.
//!
//! Nothing of a request outlives its reading: xDS clients send tens of kilobytes first, of which a
//! few fields matter, and a reader that kept its buffer would keep that much for each stream. What
//! is sent is put together from parts that streams share, so that a secret is in memory once however
//! many get it.

use std::{
    collections::VecDeque,
    convert::Infallible,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BufMut as _, Bytes};
use http::HeaderValue;
use hyper::body::{Body as _, Frame};
use prost::Message;
use tonic::{Status, body::Body, codegen::tokio_stream::Stream};

use crate::encoded::{HEADER_LEN, trailers};

/// The messages of a request, read one by one.
pub struct Requests<M> {
    body: Body,
    max: usize,
    /// What has come of the present message, its frame header included.
    begun: Vec<u8>,
    /// What has come after that.
    ahead: Bytes,
    message: PhantomData<fn() -> M>,
}

impl<M> std::fmt::Debug for Requests<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Requests({} bytes ahead)", self.ahead.len())
    }
}

impl<M: Message + Default> Requests<M> {
    /// The messages of `body`, each of up to `max` bytes.
    pub fn new(body: Body, max: usize) -> Self {
        let (begun, ahead) = (Vec::new(), Bytes::new());
        Self { body, max, begun, ahead, message: PhantomData }
    }

    /// The next message; none when the peer has no more. A wait that is given up loses nothing.
    ///
    /// # Errors
    /// A status when a message is malformed or too long, and what reading it failed with.
    pub async fn next(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            let frame = std::future::poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await;
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.ahead = data,
                    Err(_trailers) => {}
                },
                Some(Err(status)) => return Err(status),
                None if self.begun.is_empty() => return Ok(None),
                None => return Err(Status::internal("the request ended within a message")),
            }
        }
    }

    /// The present message, once it is there as a whole.
    fn take(&mut self) -> Result<Option<M>, Status> {
        if self.begun.len() < HEADER_LEN {
            self.move_up_to(HEADER_LEN);
        }
        let [compressed, length @ ..] = match self.begun.get(..HEADER_LEN) {
            Some(&[a, b, c, d, e]) => [a, b, c, d, e],
            _ => return Ok(None),
        };
        if compressed != 0 {
            return Err(Status::unimplemented("compressed requests are not read"));
        }
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > self.max {
            return Err(Status::resource_exhausted(format!(
                "grpc: received message larger than max ({length} vs. {})",
                self.max
            )));
        }
        let whole = HEADER_LEN + length;
        self.move_up_to(whole);
        let Some(bytes) = self.begun.get(HEADER_LEN..whole) else { return Ok(None) };
        let message = M::decode(bytes);
        self.begun = Vec::new();
        let malformed = |error| Status::internal(format!("malformed request: {error}"));
        Ok(Some(message.map_err(malformed)?))
    }

    fn move_up_to(&mut self, length: usize) {
        let part = length.saturating_sub(self.begun.len()).min(self.ahead.len());
        self.begun.reserve_exact(part);
        self.begun.put((&mut self.ahead).take(part));
        if self.ahead.is_empty() {
            // It would keep alive what it was cut from.
            self.ahead = Bytes::new();
        }
    }
}

/// One message of an answer, encoded in parts.
#[derive(Debug, Default)]
pub struct Parts(VecDeque<Bytes>);

impl Parts {
    /// The message whose fields are `own`, encoded, and after them those of `shared`.
    ///
    /// # Errors
    /// `ResourceExhausted` when the message is over 4 GiB, the limit of the frame.
    pub fn new(own: &[u8], shared: impl IntoIterator<Item = Bytes>) -> Result<Self, Status> {
        let mut parts: VecDeque<Bytes> = shared.into_iter().collect();
        let length = own.len() + parts.iter().map(Bytes::len).sum::<usize>();
        let prefix = u32::try_from(length)
            .map_err(|_| Status::resource_exhausted("message is longer than a frame can be"))?;
        let mut head = Vec::with_capacity(HEADER_LEN + own.len());
        head.put_u8(0);
        head.put_u32(prefix);
        head.put_slice(own);
        parts.push_front(head.into());
        Ok(Self(parts))
    }

    /// How many bytes go on the wire.
    pub fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An HTTP response that sends the messages of `stream` and ends with its status.
pub fn respond<S>(stream: S) -> http::Response<Body>
where
    S: Stream<Item = Result<Parts, Status>> + Send + 'static,
{
    let body = PartsBody { stream: Box::pin(stream), present: Parts::default(), done: false };
    let mut response = http::Response::new(Body::new(body));
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

struct PartsBody<S> {
    stream: Pin<Box<S>>,
    present: Parts,
    done: bool,
}

impl<S> hyper::body::Body for PartsBody<S>
where
    S: Stream<Item = Result<Parts, Status>>,
{
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        loop {
            if let Some(part) = this.present.0.pop_front() {
                if this.present.0.is_empty() {
                    this.present = Parts::default();
                }
                return Poll::Ready(Some(Ok(Frame::data(part))));
            }
            if this.done {
                return Poll::Ready(None);
            }
            let status = match ready!(this.stream.as_mut().poll_next(cx)) {
                Some(Ok(parts)) => {
                    this.present = parts;
                    continue;
                }
                Some(Err(status)) => status,
                None => Status::ok(""),
            };
            this.done = true;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers(&status)))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        encoded::Framed,
        pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse},
    };

    fn requests(sent: &[u8], chunk: usize) -> Requests<DiscoveryRequest> {
        let chunks: Vec<_> = sent.chunks(chunk).map(Bytes::copy_from_slice).collect();
        Requests::new(Body::new(Chunks(chunks.into())), 1000)
    }

    struct Chunks(VecDeque<Bytes>);

    impl hyper::body::Body for Chunks {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|chunk| Ok(Frame::data(chunk))))
        }
    }

    fn frame(message: &impl Message) -> Vec<u8> {
        let mut frame = vec![0];
        frame.extend(u32::try_from(message.encoded_len()).unwrap().to_be_bytes());
        frame.extend(message.encode_to_vec());
        frame
    }

    #[tokio::test]
    async fn messages_are_read_however_they_are_cut_and_nothing_of_them_is_kept() {
        let named = |name: &str| DiscoveryRequest {
            resource_names: vec![name.to_owned()],
            ..Default::default()
        };
        let all = [named("a"), DiscoveryRequest::default(), named(&"b".repeat(900))];
        let sent: Vec<u8> = all.iter().flat_map(frame).collect();
        for chunk in [1, 4, 7, 5000] {
            let mut requests = requests(&sent, chunk);
            for wanted in &all {
                assert_eq!(requests.next().await.unwrap().as_ref(), Some(wanted));
                assert_eq!(requests.begun.capacity(), 0);
            }
            assert_eq!(requests.next().await.unwrap(), None);
        }
        let cut = requests(&sent[..3], 9).next().await.unwrap_err();
        assert_eq!(cut.message(), "the request ended within a message");
        let long = requests(&[0, 0, 1, 0, 0], 9).next().await.unwrap_err();
        assert!(long.message().contains("65536 vs. 1000"), "{long}");
        assert!(requests(&[1, 0, 0, 0, 0], 9).next().await.is_err(), "compressed");
    }

    #[test]
    fn a_message_in_parts_is_the_message() {
        let own = DiscoveryResponse { nonce: "n".into(), ..Default::default() };
        let shared = DiscoveryResponse { version_info: "v".into(), ..Default::default() };
        let parts = Parts::new(&own.encode_to_vec(), [shared.encode_to_vec().into()]).unwrap();
        let sent = parts.0.iter().flatten().copied().collect::<Vec<u8>>();
        let both =
            DiscoveryResponse { version_info: "v".into(), nonce: "n".into(), ..Default::default() };
        assert_eq!(sent.len(), parts.len());
        assert_eq!(DiscoveryResponse::decode(&sent[HEADER_LEN..]).unwrap(), both);
        assert_eq!(sent.len(), HEADER_LEN + Framed::new(&both).unwrap().len());
    }
}
