//! Connections on which nothing is ever asked.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    time::Sleep,
};

/// How long the first words of HTTP/2 may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long they are, bytes (RFC 9113, section 3.4).
const LENGTH: usize = 24;

/// Makes the reads of a stream fail when the first words of HTTP/2 do not come in time. Later on it
/// is for keepalive to find out whether anybody is there.
#[derive(Debug)]
pub(super) struct FirstWords {
    /// What is still to come, and until when; none when all of it has come.
    awaited: Option<(usize, Pin<Box<Sleep>>)>,
}

impl FirstWords {
    /// The deadline begins now.
    pub(super) fn awaited() -> Self {
        Self { awaited: Some((LENGTH, Box::pin(tokio::time::sleep(DEADLINE)))) }
    }

    /// Reads from `stream`, and counts what comes.
    pub(super) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some((left, deadline)) = &mut self.awaited else {
            return Pin::new(stream).poll_read(cx, buf);
        };
        if deadline.as_mut().poll(cx).is_ready() {
            let why = "the first words of HTTP/2 did not come in time";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
        }
        let before = buf.filled().len();
        ready!(Pin::new(stream).poll_read(cx, buf))?;
        *left = left.saturating_sub(buf.filled().len() - before);
        if *left == 0 {
            self.awaited = None;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// As a connection reads.
    struct Reader(DuplexStream, FirstWords);

    impl AsyncRead for Reader {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let Self(stream, first_words) = &mut *self;
            first_words.poll_read(stream, cx, buf)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn few_words_or_none_end_in_an_error_and_enough_do_not() {
        for (count, ends) in [(0, true), (LENGTH - 1, true), (LENGTH, false)] {
            let (mut client, server) = duplex(64);
            let mut server = Reader(server, FirstWords::awaited());
            client.write_all(&vec![b'x'; count]).await.unwrap();
            server.read_exact(&mut vec![0; count]).await.unwrap();
            let next = tokio::time::timeout(DEADLINE * 2, server.read_u8()).await;
            assert_eq!(next.is_ok_and(|read| read.is_err()), ends, "{count} bytes");
        }
    }
}
