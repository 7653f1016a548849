//! Learns how a call ended: from the headers of its answer, or from the trailers of the body.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tonic::{Code, Status, body::Body};

/// Calls `report` once, with the status and its text: at once when the headers carry it, else when
/// the trailers come. When the caller goes away before that, it is [`Code::Cancelled`].
pub fn watch<F>(response: Response<Body>, report: F) -> Response<Body>
where
    F: FnOnce(Code, &str) + Send + Unpin + 'static,
{
    if let Some(status) = Status::from_header_map(response.headers()) {
        report(status.code(), status.message());
        return response;
    }
    response.map(|inner| Body::new(Watched { inner, report: Some(report) }))
}

struct Watched<F: FnOnce(Code, &str)> {
    inner: Body,
    report: Option<F>,
}

impl<F: FnOnce(Code, &str) + Send + Unpin> HttpBody for Watched<F> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(trailers) = frame.trailers_ref()
            && let Some(report) = self.report.take()
        {
            match Status::from_header_map(trailers) {
                Some(status) => report(status.code(), status.message()),
                None => report(Code::Unknown, "no status"),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<F: FnOnce(Code, &str)> Drop for Watched<F> {
    fn drop(&mut self) {
        if let Some(report) = self.report.take() {
            report(Code::Cancelled, "the caller went away");
        }
    }
}
