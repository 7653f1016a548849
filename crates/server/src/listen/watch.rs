//! When a connection ends although its client has not ended it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use signet_base::CancellationToken;
use tokio::{
    io::{AsyncRead, ReadBuf},
    time::{Instant, Sleep},
};
use tokio_util::sync::WaitForCancellationFutureOwned;

/// How long the connection preface of HTTP/2 may take.
const PREFACE_DEADLINE: Duration = Duration::from_secs(30);
/// How long it is, bytes (RFC 9113, section 3.4).
const PREFACE: usize = 24;

/// Makes the reads of a stream fail when the connection preface does not come in time, when no call
/// has been open for too long, or when the connection has to make room for another one. Whether
/// anybody is there at all is for keepalive to find out.
#[derive(Debug)]
pub(super) struct Watch {
    /// How many bytes of the preface are still to come.
    preface: usize,
    /// How long there may be no open call.
    idle: Option<Duration>,
    next_look: Option<Pin<Box<Sleep>>>,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Watch {
    /// The deadline of the preface begins now.
    pub(super) fn begin(idle: Option<Duration>, closed: CancellationToken) -> Self {
        Self {
            preface: PREFACE,
            idle,
            next_look: Some(Box::pin(tokio::time::sleep(PREFACE_DEADLINE))),
            closed: Box::pin(closed.cancelled_owned()),
        }
    }

    /// Reads from `stream`, unless the connection is over. `idle_since` says since when no call has
    /// been open.
    pub(super) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        idle_since: impl Fn() -> Option<Instant>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.closed.as_mut().poll(cx).is_ready() {
            let why = "the connection made room for another one";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, why)));
        }
        while let Some(look) = &mut self.next_look
            && look.as_mut().poll(cx).is_ready()
        {
            let timed_out = |why| Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
            if self.preface > 0 {
                return timed_out("the connection preface of HTTP/2 did not come in time");
            }
            let Some(idle) = self.idle else {
                self.next_look = None;
                break;
            };
            let now = Instant::now();
            let end = idle_since().map_or(now + idle, |since| since + idle);
            if end <= now {
                return timed_out("no call was open for too long");
            }
            look.as_mut().reset(end);
        }
        let before = buf.filled().len();
        ready!(Pin::new(stream).poll_read(cx, buf))?;
        if self.preface > 0 {
            self.preface = self.preface.saturating_sub(buf.filled().len() - before);
            if self.preface == 0 {
                self.next_look = self.idle.map(|idle| Box::pin(tokio::time::sleep(idle)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const IDLE: Duration = Duration::from_secs(15);

    /// As a connection reads.
    struct Reader(DuplexStream, Watch, Arc<Mutex<Option<Instant>>>);

    impl AsyncRead for Reader {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let Self(stream, watch, idle) = &mut *self;
            watch.poll_read(stream, || *idle.lock().unwrap(), cx, buf)
        }
    }

    /// A connection on which so many bytes have been read.
    async fn after(
        count: usize,
        idle: Option<Duration>,
        closed: &CancellationToken,
    ) -> (DuplexStream, Reader) {
        let (mut client, server) = duplex(64);
        let idle_since = Arc::new(Mutex::new(Some(Instant::now())));
        let mut server = Reader(server, Watch::begin(idle, closed.clone()), idle_since);
        client.write_all(&vec![b'x'; count]).await.unwrap();
        server.read_exact(&mut vec![0; count]).await.unwrap();
        (client, server)
    }

    /// After which time a read fails, if within an hour.
    async fn ends(server: &mut Reader) -> Option<Duration> {
        let begun = Instant::now();
        let read = tokio::time::timeout(Duration::from_secs(3600), server.read_u8()).await;
        read.ok().map(|read| {
            read.unwrap_err();
            begun.elapsed()
        })
    }

    fn is_about(ended: Option<Duration>, expected: Duration) -> bool {
        ended.is_some_and(|ended| ended.abs_diff(expected) < Duration::from_millis(10))
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_preface_ends_in_an_error_and_a_whole_one_does_not() {
        let closed = CancellationToken::new();
        for count in [0, PREFACE - 1] {
            let (_client, mut server) = after(count, None, &closed).await;
            assert!(is_about(ends(&mut server).await, PREFACE_DEADLINE), "{count} bytes");
        }
        let (_client, mut server) = after(PREFACE, None, &closed).await;
        assert_eq!(ends(&mut server).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_calls_ends_and_one_with_a_call_does_not() {
        let closed = CancellationToken::new();
        let (_client, mut server) = after(PREFACE, Some(IDLE), &closed).await;
        assert!(is_about(ends(&mut server).await, IDLE));

        let (_client, mut server) = after(PREFACE, Some(IDLE), &closed).await;
        let idle_since = server.2.clone();
        *idle_since.lock().unwrap() = None;
        assert_eq!(ends(&mut server).await, None);
        *idle_since.lock().unwrap() = Some(Instant::now());
        let ended = ends(&mut server).await.unwrap();
        assert!(ended <= IDLE + Duration::from_millis(10), "{ended:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_makes_room_ends_at_once() {
        let closed = CancellationToken::new();
        let (_client, mut server) = after(PREFACE, None, &closed).await;
        let (ended, ()) = tokio::join!(ends(&mut server), async {
            tokio::time::sleep(IDLE).await;
            closed.cancel();
        });
        assert!(is_about(ended, IDLE));
    }
}
