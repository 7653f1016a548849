//! Connections on which nothing is ever asked.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// How long the first words of HTTP/2 may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long they are, bytes (RFC 9113, section 3.4).
const LENGTH: usize = 24;

/// A stream whose reads fail when the first words of HTTP/2 do not come in time. Later on it is for
/// keepalive to find out whether anybody is there.
#[derive(Debug)]
pub(super) struct FirstWords<S> {
    stream: S,
    /// What is still to come, and until when; none when all of it has come.
    awaited: Option<(usize, Pin<Box<Sleep>>)>,
}

impl<S> FirstWords<S> {
    /// The deadline begins now.
    pub(super) fn new(stream: S) -> Self {
        Self { stream, awaited: Some((LENGTH, Box::pin(tokio::time::sleep(DEADLINE)))) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FirstWords<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some((left, deadline)) = &mut this.awaited else {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        };
        if deadline.as_mut().poll(cx).is_ready() {
            let why = "the first words of HTTP/2 did not come in time";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        *left = left.saturating_sub(buf.filled().len() - before);
        if *left == 0 {
            this.awaited = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FirstWords<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn few_words_or_none_end_in_an_error_and_enough_do_not() {
        for (count, ends) in [(0, true), (LENGTH - 1, true), (LENGTH, false)] {
            let (mut client, server) = duplex(64);
            let mut server = FirstWords::new(server);
            client.write_all(&vec![b'x'; count]).await.unwrap();
            server.read_exact(&mut vec![0; count]).await.unwrap();
            let next = tokio::time::timeout(DEADLINE * 2, server.read_u8()).await;
            assert_eq!(next.is_ok_and(|read| read.is_err()), ends, "{count} bytes");
        }
    }
}
