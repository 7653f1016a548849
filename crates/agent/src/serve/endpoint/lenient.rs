//! Lets in clients whose `:authority` is no authority.
//!
//! On a Unix socket nobody needs that header, but some clients send the path of the socket in it:
//! java-spiffe as it is (through grpc-java), py-spiffe with percents (through gRPC's C core). SPIRE
//! does not look; the HTTP/2 library here refuses the whole request. So a value that is no plain
//! name is replaced before the library sees it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes before the first frame.
const PREFACE: usize = 24;
/// Bytes before a frame's payload.
const FRAME_HEAD: usize = 9;
/// The largest frame the HTTP/2 library takes unless told otherwise.
const MAX_FRAME: usize = 16 * 1024;
/// A longer value is left alone: with its place in the client's header table, ours could differ.
const MAX_VALUE: usize = 1024;
/// How much is read at a time, bytes. The first request of a client with its preface is shorter.
const PART: usize = 1024;
/// What stands in place of a wrong value; never longer than that (the client's table of headers,
/// which counts lengths, then forgets no later than ours).
const NAME: &[u8] = b"localhost";
/// For values shorter than [`NAME`].
const SHORT_NAME: &[u8] = b"x";

const HEADERS: u8 = 1;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// A stream whose reader sees corrected request heads.
#[derive(Debug)]
pub struct Lenient<S> {
    inner: S,
    /// Bytes that pass as they are before the next frame's head.
    passing: usize,
    /// The beginning of a frame.
    held: Vec<u8>,
    /// Corrected bytes, and how many of them are read.
    ready: Vec<u8>,
    taken: usize,
    /// Whether the reader has had its part.
    paused: bool,
}

impl<S> Lenient<S> {
    /// Wraps the server's side of a fresh HTTP/2 connection.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            passing: PREFACE,
            held: Vec::new(),
            ready: Vec::new(),
            taken: 0,
            paused: false,
        }
    }

    /// Takes in bytes of the client; they are ready once their frame is known.
    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let wanted = if self.passing > 0 { self.passing } else { self.missing() };
            let (now, later) = bytes.split_at(wanted.min(bytes.len()));
            bytes = later;
            if self.passing > 0 {
                self.ready.extend_from_slice(now);
                self.passing -= now.len();
                continue;
            }
            self.held.extend_from_slice(now);
            if self.missing() == 0 {
                self.release();
            }
        }
    }

    /// How many bytes are missing before the held frame can go on.
    fn missing(&self) -> usize {
        let whole = match self.head() {
            Some((length, HEADERS, _)) if length <= MAX_FRAME => FRAME_HEAD + length,
            _ => FRAME_HEAD,
        };
        whole - self.held.len().min(whole)
    }

    /// Length, type and flags of the held frame.
    fn head(&self) -> Option<(usize, u8, u8)> {
        match self.held.as_slice() {
            [a, b, c, kind, flags, _, _, _, _, ..] => {
                let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
                Some((length, *kind, *flags))
            }
            _ => None,
        }
    }

    fn release(&mut self) {
        let Some((length, kind, flags)) = self.head() else { return };
        let held = std::mem::take(&mut self.held);
        if kind != HEADERS || length > MAX_FRAME {
            self.passing = length;
            self.ready.extend_from_slice(&held);
            return;
        }
        let corrected = wrong_authority(&held, flags).and_then(|place| correct(&held, place));
        self.ready.extend_from_slice(corrected.as_deref().unwrap_or(&held));
    }
}

/// Where a wrong value is: from its length to its last byte.
struct Place {
    start: usize,
    value: usize,
    end: usize,
}

/// The frame with another value in that place.
fn correct(frame: &[u8], place: Place) -> Option<Vec<u8>> {
    let new = if place.end - place.value < NAME.len() { SHORT_NAME } else { NAME };
    let mut out = Vec::with_capacity(frame.len());
    out.extend_from_slice(frame.get(..place.start)?);
    out.push(u8::try_from(new.len()).ok()?);
    out.extend_from_slice(new);
    out.extend_from_slice(frame.get(place.end..)?);
    let length = u32::try_from(out.len().checked_sub(FRAME_HEAD)?).ok()?.to_be_bytes();
    out.get_mut(..3)?.copy_from_slice(&length[1..]);
    Some(out)
}

/// Finds the `:authority` that was sent in full, if it cannot be one. What is malformed is left to
/// the library to refuse.
fn wrong_authority(frame: &[u8], flags: u8) -> Option<Place> {
    let mut at = FRAME_HEAD;
    let mut end = frame.len();
    if flags & PADDED != 0 {
        end = end.checked_sub(usize::from(*frame.get(at)?))?;
        at += 1;
    }
    if flags & PRIORITY != 0 {
        at += 5;
    }
    let block = frame.get(..end)?;
    while at < end {
        let first = *block.get(at)?;
        // Indexed, a table size, or a literal with one of three prefixes (RFC 7541, section 6).
        let (bits, literal) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let (index, next) = integer(block, at, bits)?;
        at = next;
        if !literal {
            continue;
        }
        // 1 is `:authority` in the table that everybody has; others spell it out.
        let mut named = index == 1;
        if index == 0 {
            let (length, start) = integer(block, at, 7)?;
            at = start.checked_add(length)?;
            named = block.get(start..at)? == b":authority";
        }
        let start = at;
        let huffman = *block.get(at)? & 0x80 != 0;
        let (length, value) = integer(block, at, 7)?;
        at = value.checked_add(length)?;
        let text = block.get(value..at)?;
        if named && !huffman {
            let wrong = length <= MAX_VALUE && text.iter().any(|byte| !in_authority(*byte));
            return wrong.then_some(Place { start, value, end: at });
        }
    }
    None
}

/// What names, addresses and ports are made of.
fn in_authority(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._:".contains(&byte)
}

/// An integer of HPACK whose first byte has `bits` bits of it, and what comes after it.
fn integer(bytes: &[u8], at: usize, bits: u8) -> Option<(usize, usize)> {
    let mask = (1u8 << bits) - 1;
    let first = bytes.get(at)? & mask;
    if first < mask {
        return Some((usize::from(first), at + 1));
    }
    let mut number = usize::from(mask);
    // Three more bytes are beyond any frame.
    for (n, byte) in bytes.get(at + 1..)?.iter().take(3).enumerate() {
        number += usize::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            return Some((number, at + 2 + n));
        }
    }
    None
}

impl<S: AsyncRead + Unpin> AsyncRead for Lenient<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.taken == this.ready.len() {
            // Idle connections hold no memory.
            this.ready = Vec::new();
            this.taken = 0;
            // The reader goes on for as long as there is something to read. After each part others
            // have their turn: one can hold dozens of requests.
            if std::mem::take(&mut this.paused) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut bytes = [0; PART];
            let mut part = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut part))?;
            if part.filled().is_empty() {
                // The end; what is held is no whole frame.
                return Poll::Ready(Ok(()));
            }
            this.paused = part.filled().len() == PART;
            this.feed(part.filled());
        }
        let rest = this.ready.get(this.taken..).unwrap_or_default();
        let now = rest.get(..rest.len().min(buf.remaining())).unwrap_or_default();
        buf.put_slice(now);
        this.taken += now.len();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lenient<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// A POST whose `:authority` (literal, kept by the table) is this.
    fn head(authority: &str) -> Vec<u8> {
        let mut block = vec![0x83, 0x86, 0x41, u8::try_from(authority.len()).unwrap()];
        block.extend(authority.bytes());
        // A literal with a new name, after it.
        block.extend([0x40, 1, b'a', 1, b'b']);
        block
    }

    /// The same with the name spelled out.
    fn spelled(authority: &str) -> Vec<u8> {
        let name = b":authority";
        let mut block = vec![0x83, 0x40, u8::try_from(name.len()).unwrap()];
        block.extend(name);
        block.push(u8::try_from(authority.len()).unwrap());
        block.extend(authority.bytes());
        block
    }

    async fn through(chunks: usize, bytes: &[u8]) -> Vec<u8> {
        let all = [&[b'p'; PREFACE][..], bytes].concat();
        let mut mock = tokio_test_reader(all, chunks);
        let mut out = Vec::new();
        Lenient::new(&mut mock).read_to_end(&mut out).await.unwrap();
        assert_eq!(&out[..PREFACE], &[b'p'; PREFACE]);
        out.split_off(PREFACE)
    }

    /// Gives at most `chunk` bytes at a time.
    fn tokio_test_reader(bytes: Vec<u8>, chunk: usize) -> impl AsyncRead + Unpin {
        struct Slow(Vec<u8>, usize, usize);
        impl AsyncRead for Slow {
            fn poll_read(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                let n = self.1.min(buf.remaining()).min(self.0.len() - self.2);
                buf.put_slice(&self.0[self.2..self.2 + n]);
                self.2 += n;
                Poll::Ready(Ok(()))
            }
        }
        Slow(bytes, chunk, 0)
    }

    #[tokio::test]
    async fn a_path_becomes_a_name_and_all_else_passes() {
        let data = frame(0, 1, &[7; 5000]);
        let sent = [
            frame(4, 0, &[0; 6]),
            frame(1, 4, &head("/tmp/agent/api.sock")),
            frame(1, 4, &spelled("tmp%2Fapi.sock")),
            data.clone(),
            frame(1, 4, &head("/a")),
        ]
        .concat();
        let wanted = [
            frame(4, 0, &[0; 6]),
            frame(1, 4, &head("localhost")),
            frame(1, 4, &spelled("localhost")),
            data,
            frame(1, 4, &head("x")),
        ]
        .concat();
        for chunks in [1, 7, 4096] {
            assert_eq!(through(chunks, &sent).await, wanted, "in chunks of {chunks}");
        }
    }

    #[tokio::test]
    async fn padding_and_priority_are_stepped_over() {
        let padded = |authority: &str| {
            frame(
                1,
                4 | PADDED | PRIORITY,
                &[&[3, 0, 0, 0, 0, 9], &head(authority)[..], &[0; 3]].concat(),
            )
        };
        assert_eq!(through(64, &padded("/tmp/agent/api.sock")).await, padded("localhost"));
    }

    #[tokio::test]
    async fn good_and_malformed_heads_are_left_alone() {
        let cut = head("/tmp/agent/api.sock");
        for sent in [
            frame(1, 4, &head("localhost:80")),
            frame(1, 4, &cut[..9]),
            frame(1, 4 | PADDED, &[200]),
            frame(1, 4, &[0xff; 40]),
            vec![0xff; 300],
        ] {
            assert!(sent.starts_with(&through(3, &sent).await));
        }
    }
}
