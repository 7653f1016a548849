//! Where the kubelet is, how it is spoken to, and the files that say so.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, header};
use signet_base::SharedClock;
use signet_http::{HttpClient, Proxies, Trust};
use signet_pki::{
    PrivateKey, pem, text_file,
    tls::{SwappableIdentity, TlsIdentity, WebCheck, web_client_config},
};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{DEADLINE, MAX_POD_LIST, owner::OwnersOnly};

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
    /// By a bearer token.
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
        /// The node's name or address; unset for 127.0.0.1, where the certificate's chain is
        /// checked, but not its name.
        node_name: Option<String>,
        /// CA certificates, PEM; unset to skip verification.
        ca_path: Option<PathBuf>,
        /// How the agent authenticates.
        auth: KubeletAuth,
        /// How often files are read again, whether or not they seem to have changed.
        reload_interval: Duration,
    },
}

/// A client and token made of the files.
#[derive(Clone)]
pub(super) struct Loaded {
    pub(super) client: HttpClient,
    token: Option<Arc<Zeroizing<String>>>,
    content: Arc<Content>,
    stamps: Vec<Option<Stamp>>,
    pub(super) read_at: Instant,
}

/// What the files hold; a client is made anew only if it differs.
#[derive(PartialEq, Eq)]
struct Content {
    ca: Option<Zeroizing<String>>,
    certificate: Option<Zeroizing<String>>,
    key: Option<Zeroizing<String>>,
    token: Option<Zeroizing<String>>,
}

/// Tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl KubeletConfig {
    /// The kubelet's host and port.
    pub fn address(&self) -> (&str, u16) {
        match self {
            Self::ReadOnly { port } => ("127.0.0.1", *port),
            Self::Secure { port, node_name, .. } => {
                (node_name.as_deref().unwrap_or("127.0.0.1"), *port)
            }
        }
    }

    /// Where the pods are.
    pub(super) fn url(&self) -> String {
        let scheme = match self {
            Self::ReadOnly { .. } => "http",
            Self::Secure { .. } => "https",
        };
        let (host, port) = self.address();
        if host.contains(':') && !host.starts_with('[') {
            format!("{scheme}://[{host}]:{port}/pods")
        } else {
            format!("{scheme}://{host}:{port}/pods")
        }
    }

    /// Whether the certificate says that it is this node's kubelet that answers.
    fn checks_the_name(&self) -> bool {
        matches!(self, Self::Secure { node_name: Some(_), ca_path: Some(_), .. })
    }

    fn paths(&self) -> Vec<&Path> {
        let Self::Secure { ca_path, auth, .. } = self else { return Vec::new() };
        let mut paths: Vec<&Path> = ca_path.iter().map(PathBuf::as_path).collect();
        match auth {
            KubeletAuth::Anonymous => {}
            KubeletAuth::Certificate { certificate_path, private_key_path } => {
                paths.extend([certificate_path.as_path(), private_key_path]);
            }
            KubeletAuth::Token(path) => paths.push(path),
        }
        paths
    }

    fn stamps(&self) -> Vec<Option<Stamp>> {
        self.paths().into_iter().map(Stamp::of).collect()
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        Some(Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
        })
    }
}

impl Loaded {
    /// Reads all files; the client of `old` is kept where they say the same.
    pub(super) fn read(
        config: &KubeletConfig,
        clock: &SharedClock,
        old: Option<&Self>,
    ) -> Result<Self, String> {
        // Before the content: what changes in between is read again.
        let stamps = config.stamps();
        let content = Content::read(config)?;
        let read_at = Instant::now();
        if let Some(old) = old.filter(|old| *old.content == content) {
            return Ok(Self { stamps, read_at, ..old.clone() });
        }
        let mut client = HttpClient::builder()
            .trust(content.trust(config, clock)?)
            .proxies(Proxies::none())
            .timeout(DEADLINE)
            .max_body(MAX_POD_LIST);
        if !config.checks_the_name() {
            client = client.peers(OwnersOnly::new());
        }
        let client = client.build().map_err(|e| format!("kubelet client: {e}"))?;
        let token = content.token.clone().map(Arc::new);
        Ok(Self { client, token, content: Arc::new(content), stamps, read_at })
    }

    /// Whether it is time to read the files again.
    pub(super) fn is_due(&self, config: &KubeletConfig) -> bool {
        match config {
            KubeletConfig::ReadOnly { .. } => false,
            KubeletConfig::Secure { reload_interval, .. } => {
                self.read_at.elapsed() >= *reload_interval || self.stamps != config.stamps()
            }
        }
    }

    /// Whether the files said the same for both.
    pub(super) fn same_content(&self, other: &Self) -> bool {
        self.content == other.content
    }

    /// A request for the pods.
    pub(super) fn request(&self, url: &str) -> Result<Request<Bytes>, String> {
        let mut request = Request::get(url);
        if let Some(token) = &self.token {
            let text = Zeroizing::new(format!("Bearer {}", token.as_str()));
            let mut value = HeaderValue::from_str(&text)
                .map_err(|_| "the kubelet token holds characters that no header can".to_owned())?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        request.body(Bytes::new()).map_err(|e| format!("{url}: {e}"))
    }
}

impl Content {
    fn read(config: &KubeletConfig) -> Result<Self, String> {
        let mut content = Self { ca: None, certificate: None, key: None, token: None };
        let KubeletConfig::Secure { ca_path, auth, .. } = config else { return Ok(content) };
        if let Some(path) = ca_path {
            content.ca = Some(read(path, "kubelet CA")?);
        }
        match auth {
            KubeletAuth::Anonymous => {}
            KubeletAuth::Certificate { certificate_path, private_key_path } => {
                content.certificate = Some(read(certificate_path, "certificate")?);
                content.key = Some(read(private_key_path, "private key")?);
            }
            KubeletAuth::Token(path) => {
                let text = read(path, "token")?;
                let token = text.trim();
                if token.is_empty() {
                    return Err(format!("unable to load token: {}: it is empty", path.display()));
                }
                content.token = Some(Zeroizing::new(token.to_owned()));
            }
        }
        Ok(content)
    }

    fn trust(&self, config: &KubeletConfig, clock: &SharedClock) -> Result<Trust, String> {
        let KubeletConfig::Secure { node_name, ca_path, auth, .. } = config else {
            return Ok(Trust::Roots(Vec::new()));
        };
        let (check, roots) = match (&self.ca, ca_path) {
            (Some(ca), Some(path)) => {
                let roots = certificates(path, ca)?;
                (if node_name.is_some() { WebCheck::ChainAndName } else { WebCheck::Chain }, roots)
            }
            _ => (WebCheck::Nothing, Vec::new()),
        };
        let identity = self.identity(auth)?.map(|it| Arc::new(SwappableIdentity::new(it)));
        let config = web_client_config(check, &roots, identity, Arc::clone(clock))
            .map_err(|e| format!("TLS to the kubelet: {e}"))?;
        Ok(Trust::Config(config))
    }

    fn identity(&self, auth: &KubeletAuth) -> Result<Option<TlsIdentity>, String> {
        let KubeletAuth::Certificate { certificate_path, private_key_path } = auth else {
            return Ok(None);
        };
        let (Some(certificate), Some(key)) = (&self.certificate, &self.key) else {
            return Ok(None);
        };
        let chain: Vec<Arc<[u8]>> =
            certificates(certificate_path, certificate)?.into_iter().map(Arc::from).collect();
        let bad_key =
            |why: &dyn std::fmt::Display| format!("{}: {why}", private_key_path.display());
        let key = PrivateKey::from_pem(key).map_err(|e| bad_key(&e))?;
        let signer = key.signer().map_err(|e| bad_key(&e))?;
        let identity = TlsIdentity::new(&chain, signer)
            .map_err(|e| format!("{}: {e}", certificate_path.display()))?;
        Ok(Some(identity))
    }
}

fn read(path: &Path, what: &str) -> Result<Zeroizing<String>, String> {
    text_file::text(path).map_err(|error| format!("unable to load {what}: {error}"))
}

fn certificates(path: &Path, text: &str) -> Result<Vec<Vec<u8>>, String> {
    pem::decode_certificates(text).map_err(|e| format!("{}: {e}", path.display()))
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
            assert_eq!(config.url(), url);
        }
    }
}
