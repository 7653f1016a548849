//! A small web server: fixed answers by path, over TLS or on a Unix socket.

use std::{
    io::{Read, Write},
    net::TcpListener,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use e2e::TestDir;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::PrivateKeyDer;

/// Path, status and body.
type Answer = (String, u16, Vec<u8>);

/// Answers until the test program ends.
#[derive(Clone, Default)]
pub struct Web {
    answers: Arc<Mutex<Vec<Answer>>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Web {
    /// Serves on a port of 127.0.0.1, as `localhost`; returns the port and the root to trust.
    pub fn https(&self, dir: &TestDir) -> (u16, PathBuf) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let cert = params.self_signed(&key).expect("a certificate");
        let root = dir.write("web.pem", cert.pem());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![cert.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
            )
            .expect("a certificate");
        let (web, config) = (self.clone(), Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("a port").port();
        std::thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                let connection = ServerConnection::new(config.clone()).expect("a connection");
                web.clone().answer(StreamOwned::new(connection, tcp));
            }
        });
        (port, root)
    }

    /// Serves on a Unix socket.
    pub fn unix(&self, path: &Path) {
        let listener = UnixListener::bind(path).expect("a socket");
        let web = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                web.clone().answer(stream);
            }
        });
    }

    /// What a path answers from now on; others answer 404.
    pub fn put(&self, path: &str, status: u16, body: impl Into<Vec<u8>>) {
        let mut answers = self.answers.lock().expect("the answers");
        answers.retain(|(known, ..)| known != path);
        answers.push((path.to_owned(), status, body.into()));
    }

    /// The targets of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("the requests").clone()
    }

    fn answer(self, mut stream: impl Read + Write + Send + 'static) {
        std::thread::spawn(move || {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read(&mut byte) {
                    Ok(1) => head.push(byte[0]),
                    _ => return,
                }
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let path = target.split('?').next().unwrap_or_default();
            let answers = self.answers.lock().expect("the answers").clone();
            let known = answers.into_iter().find(|(known, ..)| known == path);
            let (_, status, body) = known.unwrap_or_else(|| (String::new(), 404, Vec::new()));
            self.requests.lock().expect("the requests").push(target);
            let length = body.len();
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n");
            // The client may leave when it has seen enough.
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
            let _ = stream.flush();
        });
    }
}
