//! The kubelet's pod list, read over its secure or read-only port.

use std::{
    io::{self, Read},
    net::Ipv6Addr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex as StdMutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use signet_base::SharedClock;
use signet_pki::{
    PrivateKey, files, pem,
    tls::{SwappableIdentity, TlsIdentity, WebCheck, web_client_config},
};
use signet_remote::http::{HttpClient, Proxies, Trust};
use tokio::{sync::mpsc, time::Instant};

use super::{PodSource, pods::PodIndex};

/// The largest pod list that is read, bytes.
const MAX_POD_LIST: usize = 256 * 1024 * 1024;
/// The longest CA, token, certificate or key file.
const MAX_FILE: u64 = 1024 * 1024;
/// How long one answer may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// The least time between two requests; callers in between share the next answer.
const SPACING: Duration = Duration::from_millis(100);
/// Pieces of the answer that wait to be parsed.
const PIECES: usize = 4;

/// How the agent authenticates to the kubelet's secure port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KubeletAuth {
    /// Not at all.
    Anonymous,
    /// By a client certificate.
    Certificate {
        /// PEM, leaf first.
        certificate_path: PathBuf,
        /// PEM.
        private_key_path: PathBuf,
    },
    /// By a bearer token, read again after each reload interval.
    Token(PathBuf),
}

/// Where the kubelet is and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KubeletConfig {
    /// The read-only port: plain HTTP on 127.0.0.1.
    ReadOnly {
        /// The port.
        port: u16,
    },
    /// The secure port.
    Secure {
        /// The port, 10250 by default.
        port: u16,
        /// The node's name; unset for 127.0.0.1, where the certificate's chain is checked, but
        /// not its name.
        node_name: Option<String>,
        /// CA certificates, PEM; unset to skip verification.
        ca_path: Option<PathBuf>,
        /// How the agent authenticates.
        auth: KubeletAuth,
        /// How often files are read again.
        reload_interval: Duration,
    },
}

/// Reads pod lists, one request at a time, shared between those who wait.
#[derive(Debug)]
pub struct Kubelet {
    config: KubeletConfig,
    clock: SharedClock,
    loaded: StdMutex<Option<Loaded>>,
    turn: tokio::sync::Mutex<Turn>,
    waiting: AtomicUsize,
}

/// A client and token made of the files, and when they were read.
#[derive(Clone)]
struct Loaded {
    client: HttpClient,
    token: Option<Arc<zeroize::Zeroizing<String>>>,
    at: Instant,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Loaded(..)")
    }
}

/// The answer to the last request, while somebody may still want it.
#[derive(Debug, Default)]
struct Turn {
    started: Option<Instant>,
    answer: Option<Result<Arc<PodIndex>, String>>,
}

impl Kubelet {
    /// A source of pods. Nothing is read yet.
    pub fn new(config: KubeletConfig, clock: SharedClock) -> Self {
        Self {
            config,
            clock,
            loaded: StdMutex::new(None),
            turn: tokio::sync::Mutex::default(),
            waiting: AtomicUsize::new(0),
        }
    }

    fn url(&self) -> String {
        match &self.config {
            KubeletConfig::ReadOnly { port } => format!("http://127.0.0.1:{port}/pods"),
            KubeletConfig::Secure { port, node_name, .. } => {
                let host = node_name.as_deref().unwrap_or("127.0.0.1");
                // The node may be named by its address.
                match host.parse::<Ipv6Addr>() {
                    Ok(address) => format!("https://[{address}]:{port}/pods"),
                    Err(_) => format!("https://{host}:{port}/pods"),
                }
            }
        }
    }

    fn client(&self) -> Result<Loaded, String> {
        let now = Instant::now();
        let mut loaded = match self.loaded.lock() {
            Ok(loaded) => loaded,
            Err(poisoned) => poisoned.into_inner(),
        };
        let interval = match &self.config {
            KubeletConfig::ReadOnly { .. } => Duration::MAX,
            KubeletConfig::Secure { reload_interval, .. } => *reload_interval,
        };
        if let Some(current) = loaded.as_ref().filter(|l| now.duration_since(l.at) < interval) {
            return Ok(current.clone());
        }
        let fresh = self.load(now)?;
        *loaded = Some(fresh.clone());
        Ok(fresh)
    }

    fn load(&self, now: Instant) -> Result<Loaded, String> {
        let (trust, token) = match &self.config {
            KubeletConfig::ReadOnly { .. } => (Trust::Roots(Vec::new()), None),
            KubeletConfig::Secure { node_name, ca_path, auth, .. } => {
                let (check, roots) = match (ca_path, node_name) {
                    (None, _) => (WebCheck::Nothing, Vec::new()),
                    (Some(path), None) => (WebCheck::Chain, certificates(path)?),
                    (Some(path), Some(_)) => (WebCheck::ChainAndName, certificates(path)?),
                };
                let (identity, token) = credentials(auth)?;
                let config = web_client_config(check, &roots, identity, Arc::clone(&self.clock))
                    .map_err(|e| format!("TLS to the kubelet: {e}"))?;
                (Trust::Config(config), token)
            }
        };
        let client = HttpClient::builder()
            .trust(trust)
            .proxies(Proxies::none())
            .timeout(DEADLINE)
            .max_body(MAX_POD_LIST)
            .build()
            .map_err(|e| format!("kubelet client: {e}"))?;
        Ok(Loaded { client, token: token.map(Arc::new), at: now })
    }

    async fn fetch(&self) -> Result<Arc<PodIndex>, String> {
        let loaded = self.client()?;
        let url = self.url();
        let mut request = http::Request::get(&url);
        if let Some(token) = &loaded.token {
            let mut value = http::HeaderValue::from_str(&format!("Bearer {}", token.as_str()))
                .map_err(|_| "the kubelet token holds characters that no header can".to_owned())?;
            value.set_sensitive(true);
            request = request.header(http::header::AUTHORIZATION, value);
        }
        let request = request.body(Bytes::new()).map_err(|e| format!("{url}: {e}"))?;
        let (sender, receiver) = mpsc::channel(PIECES);
        let parsing = tokio::task::spawn_blocking(move || PodIndex::read(Pieces::new(receiver)));
        let answer = loaded.client.stream(request, sender).await;
        let parsed = parsing.await.map_err(|_| "reading the pod list was cancelled".to_owned())?;
        let answer = answer.map_err(|e| format!("unable to perform request: {e}"))?;
        if !answer.status().is_success() {
            // A refused token may have been replaced on disk: read it again next time.
            if let Ok(mut loaded) = self.loaded.lock() {
                *loaded = None;
            }
            let body = String::from_utf8_lossy(answer.body());
            let body: String = body.trim().chars().filter(|c| !c.is_control()).take(200).collect();
            return Err(format!(
                "unexpected status code on pods response: {} {body}",
                answer.status().as_u16()
            ));
        }
        parsed.map(Arc::new).map_err(|e| format!("unable to decode kubelet response: {e}"))
    }
}

#[async_trait::async_trait]
impl PodSource for Kubelet {
    async fn pods(&self) -> Result<Arc<PodIndex>, String> {
        let asked = Instant::now();
        let _waiting = Waiting::new(&self.waiting);
        let mut turn = self.turn.lock().await;
        if turn.answer.is_none() || turn.started.is_none_or(|started| started < asked) {
            if let Some(started) = turn.started {
                tokio::time::sleep_until(started + SPACING).await;
            }
            turn.started = Some(Instant::now());
            turn.answer = None;
            turn.answer = Some(self.fetch().await);
        }
        let answer = turn.answer.clone();
        if self.waiting.load(Ordering::Relaxed) <= 1 {
            // Nobody else wants it: a megabyte of pods is not kept for nobody.
            turn.answer = None;
        }
        answer.unwrap_or_else(|| Err("the kubelet's answer was not kept".to_owned()))
    }
}

/// Counts a caller for as long as it waits, also when it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The pieces of a body as something to read from, on a blocking thread.
struct Pieces {
    receiver: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Pieces {
    fn new(receiver: mpsc::Receiver<Bytes>) -> io::BufReader<Self> {
        io::BufReader::with_capacity(16 * 1024, Self { receiver, current: Bytes::new() })
    }
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.current = piece,
                None => return Ok(0),
            }
        }
        let length = out.len().min(self.current.len());
        let piece = self.current.split_to(length);
        for (to, from) in out.iter_mut().zip(piece.iter()) {
            *to = *from;
        }
        Ok(length)
    }
}

type Credentials = (Option<Arc<SwappableIdentity>>, Option<zeroize::Zeroizing<String>>);

fn credentials(auth: &KubeletAuth) -> Result<Credentials, String> {
    match auth {
        KubeletAuth::Anonymous => Ok((None, None)),
        KubeletAuth::Certificate { certificate_path, private_key_path } => {
            let chain: Vec<Arc<[u8]>> =
                certificates(certificate_path)?.into_iter().map(Arc::from).collect();
            let key = PrivateKey::from_pem(&text(private_key_path)?)
                .map_err(|e| format!("{}: {e}", private_key_path.display()))?;
            let signer = key.signer().map_err(|e| format!("kubelet client key: {e}"))?;
            let identity = TlsIdentity::new(&chain, signer)
                .map_err(|e| format!("kubelet client certificate: {e}"))?;
            Ok((Some(Arc::new(SwappableIdentity::new(identity))), None))
        }
        KubeletAuth::Token(path) => {
            let token = zeroize::Zeroizing::new(text(path)?.trim().to_owned());
            if token.is_empty() {
                return Err(format!("{}: the token is empty", path.display()));
            }
            Ok((None, Some(token)))
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    pem::decode_certificates(&text(path)?).map_err(|e| format!("{}: {e}", path.display()))
}

fn text(path: &Path) -> Result<zeroize::Zeroizing<String>, String> {
    let bytes = files::read_bounded(path, MAX_FILE)
        .map_err(|e| e.to_string())?
        .ok_or_else(|| format!("{}: no such file", path.display()))?;
    String::from_utf8(bytes)
        .map(zeroize::Zeroizing::new)
        .map_err(|_| format!("{}: not text", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_by_names_and_by_addresses_of_both_kinds() {
        for (node_name, url) in [
            (None, "https://127.0.0.1:10250/pods"),
            (Some("node-1"), "https://node-1:10250/pods"),
            (Some("192.0.2.7"), "https://192.0.2.7:10250/pods"),
            (Some("2001:db8::7"), "https://[2001:db8::7]:10250/pods"),
        ] {
            let config = KubeletConfig::Secure {
                port: 10250,
                node_name: node_name.map(str::to_owned),
                ca_path: None,
                auth: KubeletAuth::Anonymous,
                reload_interval: Duration::from_secs(60),
            };
            assert_eq!(Kubelet::new(config, Arc::new(signet_base::SystemClock)).url(), url);
        }
    }
}
