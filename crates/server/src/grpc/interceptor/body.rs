//! Learns how a call ended: from the headers, or from the trailers of the body.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use signet_daemon::metrics::{CallTimer, status_name};
use tonic::{Code, Status, body::Body};

use crate::audit::Audit;

/// A body that reports the status of its call once.
pub(super) struct Watched {
    inner: Body,
    end: Option<End>,
}

struct End {
    timer: Option<CallTimer>,
    audit: Audit,
}

impl Watched {
    /// Reports at once when the headers carry the status, else when the trailers come or the
    /// caller goes away.
    pub(super) fn watch(
        response: http::Response<Body>,
        timer: Option<CallTimer>,
        audit: Audit,
    ) -> http::Response<Body> {
        let end = End { timer, audit };
        if let Some(status) = Status::from_header_map(response.headers()) {
            end.report(status.code(), status.message());
            return response;
        }
        response.map(|inner| Body::new(Self { inner, end: Some(end) }))
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(trailers) = frame.trailers_ref()
            && let Some(end) = self.end.take()
        {
            match Status::from_header_map(trailers) {
                Some(status) => end.report(status.code(), status.message()),
                None => end.report(Code::Unknown, "no status"),
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

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            end.report(Code::Cancelled, "the caller went away");
        }
    }
}

impl End {
    fn report(self, code: Code, message: &str) {
        let code = status_name(code.into());
        if let Some(timer) = self.timer {
            timer.done(code);
        }
        self.audit.finish(code, message);
    }
}
