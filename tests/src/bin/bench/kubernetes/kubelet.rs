//! A kubelet's secure port with nothing behind it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use anyhow::Context;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::pods::Pod;

/// Lists pods; each is running once it is shown.
pub struct Kubelet {
    shared: Arc<Shared>,
    port: u16,
    serving: tokio::task::JoinHandle<()>,
}

struct Shared {
    /// What is said of a pod before and after its container runs.
    pods: Vec<(String, String, AtomicBool)>,
    asked: AtomicUsize,
    /// How long all answers took together, microseconds.
    took: AtomicU64,
}

impl Kubelet {
    /// Starts one for these pods.
    ///
    /// # Errors
    /// When it has no certificate or no port.
    pub async fn start(pods: &[Pod]) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(["node".to_owned()])?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.context("a port for the kubelet")?;
        let port = listener.local_addr()?.port();
        let both = |pod: &Pod| (pod.json(false), pod.json(true), AtomicBool::new(false));
        let shared = Arc::new(Shared {
            pods: pods.iter().map(both).collect(),
            asked: AtomicUsize::new(0),
            took: AtomicU64::new(0),
        });
        let serving = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (shared, acceptor) = (Arc::clone(&shared), acceptor.clone());
                    // The agent may go away at any time.
                    tokio::spawn(async move { drop(serve(&shared, &acceptor, stream).await) });
                }
            }
        });
        Ok(Self { shared, port, serving })
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on this pod's container runs.
    pub fn show(&self, at: usize) {
        if let Some((.., running)) = self.shared.pods.get(at) {
            running.store(true, Ordering::SeqCst);
        }
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::SeqCst)
    }

    /// How long an answer took on average, until it was taken whole; milliseconds.
    pub fn answer_ms(&self) -> f64 {
        let took = self.shared.took.load(Ordering::SeqCst) as f64 / 1e3;
        took / self.asked().max(1) as f64
    }

    /// How long its answer is, bytes.
    pub fn size(&self) -> usize {
        self.shared.list().len()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Shared {
    fn list(&self) -> String {
        let items: Vec<&str> = self
            .pods
            .iter()
            .map(
                |(before, after, running)| {
                    if running.load(Ordering::SeqCst) { after.as_str() } else { before.as_str() }
                },
            )
            .collect();
        format!(
            r#"{{"kind":"PodList","apiVersion":"v1","metadata":{{}},"items":[{}]}}"#,
            items.join(",")
        )
    }
}

async fn serve(shared: &Shared, acceptor: &TlsAcceptor, stream: TcpStream) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut stream = acceptor.accept(stream).await?;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    shared.asked.fetch_add(1, Ordering::SeqCst);
    let list = shared.list();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        list.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(list.as_bytes()).await?;
    stream.shutdown().await?;
    let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    shared.took.fetch_add(took, Ordering::SeqCst);
    Ok(())
}
