//! Bytes on a socket that no decent client would send.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::{Buf, BufMut};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// A socket to be rude to.
#[derive(Clone, Debug)]
pub enum Door {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port on 127.0.0.1.
    Tcp(u16),
}

trait Stream: Read + Write + Send {}
impl Stream for UnixStream {}
impl Stream for TcpStream {}

/// An open connection.
pub struct Rude(Box<dyn Stream>);

impl Door {
    /// Connects.
    pub fn open(&self) -> io::Result<Rude> {
        let timeout = Some(Duration::from_secs(10));
        Ok(Rude(match self {
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)?;
                Box::new(stream)
            }
            Self::Tcp(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port))?;
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)?;
                Box::new(stream)
            }
        }))
    }

    /// Sends bytes and reads what comes until the other side closes, for at most ten seconds or a
    /// megabyte.
    pub fn send(&self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut rude = self.open()?;
        // The other side may close at any byte.
        let _ = rude.0.write_all(bytes);
        Ok(rude.rest())
    }
}

impl Rude {
    /// Sends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    /// Whether the other side closes, with or without more words, before a read of ten seconds
    /// brings nothing.
    pub fn is_closed(&mut self) -> bool {
        let mut part = [0; 4096];
        loop {
            match self.0.read(&mut part) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }

    /// What comes until the other side closes.
    pub fn rest(&mut self) -> Vec<u8> {
        let (mut all, mut part) = (Vec::new(), [0; 4096]);
        while let Ok(n) = self.0.read(&mut part) {
            if n == 0 || all.len() > 1 << 20 {
                break;
            }
            all.extend_from_slice(&part[..n]);
        }
        all
    }
}

/// What opens an HTTP/2 connection.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// An HTTP/2 frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Connections full of nonsense, each with a name.
pub fn nonsense() -> Vec<(&'static str, Vec<u8>)> {
    let with_preface = |frames: &[Vec<u8>]| {
        let mut bytes = PREFACE.to_vec();
        frames.iter().for_each(|frame| bytes.extend(frame));
        bytes
    };
    let settings = frame(4, 0, 0, &[]);
    vec![
        ("nothing", Vec::new()),
        ("zeros", vec![0; 65536]),
        ("text", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("an endless header", [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'a'; 1 << 20]].concat()),
        ("a TLS hello cut short", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]),
        ("half a preface", PREFACE[..10].to_vec()),
        ("a frame cut short", with_preface(&[settings.clone(), vec![0, 0, 9, 1]])),
        (
            "a frame of 16 MB",
            with_preface(&[settings.clone(), vec![255, 255, 255, 0, 0, 0, 0, 0, 1]]),
        ),
        ("data before headers", with_preface(&[settings.clone(), frame(0, 1, 1, b"x")])),
        (
            "headers that are no headers",
            with_preface(&[settings.clone(), frame(1, 5, 1, &[0xff; 200])]),
        ),
        ("an even stream", with_preface(&[settings.clone(), frame(1, 5, 2, &[0x82])])),
        ("settings of the wrong size", with_preface(&[frame(4, 0, 0, &[1, 2, 3])])),
        (
            "headers without end",
            with_preface(&[
                settings.clone(),
                [
                    frame(1, 0, 1, &[0x82]),
                    (0..5000).flat_map(|_| frame(9, 0, 1, &[0x82; 100])).collect(),
                ]
                .concat(),
            ]),
        ),
        (
            "resets at speed",
            with_preface(&[
                settings,
                (0..20_000u32)
                    .flat_map(|n| {
                        [
                            frame(1, 5, 2 * n + 1, &[0x82, 0x86, 0x84]),
                            frame(3, 0, 2 * n + 1, &[0, 0, 0, 8]),
                        ]
                        .concat()
                    })
                    .collect(),
            ]),
        ),
    ]
}

/// Whether something still accepts connections there.
pub fn answers(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

/// gRPC messages as the bytes that they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainBytes;

impl Codec for PlainBytes {
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

impl Encoder for PlainBytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.put_slice(&item);
        Ok(())
    }
}

impl Decoder for PlainBytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; src.remaining()];
        src.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}
