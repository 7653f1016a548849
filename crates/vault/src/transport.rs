//! The connection to a Vault server: TLS from files that may be replaced at any time, retries, and
//! the one redirect that a standby node answers with.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, header::LOCATION};
use rustls::ClientConfig;
use signet_base::{Jitter, SharedClock, chain};
use signet_http::{HttpClient, Trust, shown, system_roots};
use signet_pki::{
    text_file,
    tls::{SwappableIdentity, TlsIdentity, WebCheck, web_client_config},
};
use tokio::time::Instant;

use crate::{Answer, Auth, Request, Settings, VaultError};

/// The largest answer that is read, bytes.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// How often the files are looked at, at most.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often a request is sent, at most.
const ATTEMPTS: u32 = 3;
/// How long to wait before the second attempt; twice as long before the third.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest wait that a server may ask for between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");

/// The connection to a Vault server.
#[derive(Debug)]
pub(crate) struct Transport {
    /// The URL up to `/v1`, without a slash at its end.
    base: String,
    namespace: Option<String>,
    timeout: Duration,
    files: Files,
    clock: SharedClock,
    current: Mutex<Current>,
    random: Mutex<Jitter>,
}

/// Where TLS comes from.
#[derive(Clone, Debug)]
struct Files {
    socket: Option<PathBuf>,
    ca: Option<PathBuf>,
    insecure: bool,
    identity: Option<(PathBuf, PathBuf)>,
}

#[derive(Debug)]
struct Current {
    http: HttpClient,
    /// Grows with each replacement of the client certificate.
    epoch: u64,
    seen: Vec<Stamp>,
    /// What was found and could not be used, and was complained of.
    refused: Option<Vec<Stamp>>,
    looked: Instant,
}

/// By what a replaced file is known; `None` when it is not there.
type Stamp = Option<(i64, i64, u64, u64)>;

impl Transport {
    /// Reads the files of the settings; nothing is sent.
    pub(crate) fn open(settings: &Settings, clock: SharedClock) -> Result<Self, VaultError> {
        let (base, socket) = base_url(&settings.address)?;
        let identity = match &settings.auth {
            Auth::Certificate { cert_path, key_path, .. } => {
                Some((cert_path.clone(), key_path.clone()))
            }
            _ => None,
        };
        let files = Files {
            socket,
            ca: settings.ca_cert_path.clone(),
            insecure: settings.insecure_skip_verify,
            identity,
        };
        let seen = files.stamps();
        let http = files.client(&clock)?;
        let looked = Instant::now();
        Ok(Self {
            base,
            namespace: settings.namespace.clone(),
            timeout: settings.timeout,
            files,
            clock,
            current: Mutex::new(Current { http, epoch: 0, seen, refused: None, looked }),
            random: Mutex::new(Jitter::new()),
        })
    }

    /// Takes up files that were replaced, and says how often the client certificate was. Files
    /// that cannot be used (somebody is in the middle of replacing them) change nothing yet.
    pub(crate) async fn refresh(&self) -> u64 {
        {
            let mut current = self.current();
            if current.looked.elapsed() < LOOK_INTERVAL {
                return current.epoch;
            }
            current.looked = Instant::now();
        }
        let (files, clock) = (self.files.clone(), Arc::clone(&self.clock));
        let seen = self.current().seen.clone();
        let look = tokio::task::spawn_blocking(move || {
            let stamps = files.stamps();
            (stamps != seen).then(|| (files.client(&clock), stamps))
        });
        let found = look.await.ok().flatten();
        let mut current = self.current();
        match found {
            None => {}
            Some((Ok(http), stamps)) => {
                tracing::info!("Certificates of the connection to Vault were read again");
                let identity = |stamps: &[Stamp]| stamps.get(1..).map(<[_]>::to_vec);
                if identity(&stamps) != identity(&current.seen) {
                    current.epoch = current.epoch.saturating_add(1);
                }
                current.http = http;
                current.seen = stamps;
                current.refused = None;
            }
            Some((Err(error), stamps)) => {
                if current.refused.as_ref() != Some(&stamps) {
                    tracing::warn!(
                        error = %chain(&error),
                        "Replaced certificates of the connection to Vault cannot be used yet"
                    );
                }
                current.refused = Some(stamps);
            }
        }
        current.epoch
    }

    /// Sends a request, again where that can help, and reads the answer.
    pub(crate) async fn ask(
        &self,
        request: &Request,
        token: Option<&str>,
    ) -> Result<Answer, VaultError> {
        request.check()?;
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        loop {
            let outcome = self.once(request, token).await;
            let outcome = outcome.and_then(|response| Answer::of(&request.path, &response));
            let Err(error) = outcome else { return outcome };
            let again = error.had_no_effect() || (request.is_repeatable && error.is_passing());
            if !again || attempt >= ATTEMPTS {
                return Err(error);
            }
            let wished = match &error {
                VaultError::Throttled { retry_after } => *retry_after,
                _ => None,
            };
            let wait = wished.unwrap_or(pause).min(LONGEST_PAUSE);
            let wait = self.random.lock().unwrap_or_else(PoisonError::into_inner).spread(wait, 0.2);
            tokio::time::sleep(wait).await;
            pause = pause.saturating_mul(2);
            attempt += 1;
        }
    }

    /// Sends a request once and gives the answer as it came.
    pub(crate) async fn once(
        &self,
        request: &Request,
        token: Option<&str>,
    ) -> Result<Response<Bytes>, VaultError> {
        let timeout = request.timeout.unwrap_or(self.timeout);
        let http = self.current().http.with_limits(timeout, MAX_BODY);
        let url = format!("{}/v1/{}", self.base, request.path);
        let response = http.send(self.message(&url, request, token)?).await?;
        if !matches!(response.status().as_u16(), 307 | 308) {
            return Ok(response);
        }
        // A standby node that does not forward names the active one.
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let scheme = self.base.split("://").next().unwrap_or_default();
        let Some(location) = location.filter(|at| at.split("://").next() == Some(scheme)) else {
            return Err(VaultError::Nonsense {
                path: request.path.clone(),
                why: format!(
                    "it redirects to {:?}, expected a URL with {scheme}://",
                    shown(location.unwrap_or_default())
                ),
            });
        };
        Ok(http.send(self.message(location, request, token)?).await?)
    }

    fn message(
        &self,
        url: &str,
        request: &Request,
        token: Option<&str>,
    ) -> Result<http::Request<Bytes>, VaultError> {
        let bad = |what: &str| VaultError::Setting(format!("{what} cannot be sent in a request"));
        let mut message = http::Request::builder()
            .method(request.method.clone())
            .uri(url)
            .body(request.body.clone())
            .map_err(|_| bad(url))?;
        let headers = message.headers_mut();
        headers.insert(REQUEST, HeaderValue::from_static("true"));
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token).map_err(|_| bad("the token"))?;
            value.set_sensitive(true);
            headers.insert(TOKEN, value);
        }
        let namespace = request.namespace.as_ref().or(self.namespace.as_ref());
        if let Some(namespace) = namespace.filter(|namespace| !namespace.is_empty()) {
            let value = HeaderValue::from_str(namespace).map_err(|_| bad("the namespace"))?;
            headers.insert(NAMESPACE, value);
        }
        for (name, value) in &request.headers {
            headers.insert(name.clone(), value.clone());
        }
        Ok(message)
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files {
    /// The roots' file first.
    fn stamps(&self) -> Vec<Stamp> {
        let identity = self.identity.iter().flat_map(|(cert, key)| [cert, key]);
        let mut stamps = vec![self.ca.as_deref().and_then(stamp)];
        stamps.extend(identity.map(|path| stamp(path)));
        stamps
    }

    fn client(&self, clock: &SharedClock) -> Result<HttpClient, VaultError> {
        let file = |error: &dyn std::error::Error| VaultError::File(chain(error));
        let roots = match (&self.ca, self.insecure) {
            (_, true) => Vec::new(),
            (Some(path), false) => text_file::certificates(path).map_err(|error| file(&error))?,
            (None, false) => system_roots(),
        };
        let check = if self.insecure { WebCheck::Nothing } else { WebCheck::ChainAndName };
        let identity = match &self.identity {
            None => None,
            Some((cert, key)) => {
                let chain = text_file::certificates(cert).map_err(|error| file(&error))?;
                let chain: Vec<Arc<[u8]>> = chain.into_iter().map(Into::into).collect();
                let key = text_file::private_key(key).map_err(|error| file(&error))?;
                let signer = key.signer().map_err(|error| file(&error))?;
                let identity = TlsIdentity::new(&chain, signer).map_err(|error| {
                    VaultError::File(format!("{}: {}", cert.display(), signet_base::chain(&error)))
                })?;
                Some(Arc::new(SwappableIdentity::new(identity)))
            }
        };
        let tls: Arc<ClientConfig> = web_client_config(check, &roots, identity, Arc::clone(clock))
            .map_err(|error| match &self.ca {
                Some(path) => VaultError::File(format!("{}: {}", path.display(), chain(&error))),
                None => file(&error),
            })?;
        let mut builder =
            HttpClient::builder().trust(Trust::Config(tls)).max_body(MAX_BODY).keep_alive();
        if let Some(socket) = &self.socket {
            builder = builder.socket(socket);
        }
        Ok(builder.build()?)
    }
}

fn stamp(path: &Path) -> Stamp {
    let found = fs::metadata(path).ok()?;
    Some((found.mtime(), found.mtime_nsec(), found.ino(), found.len()))
}

/// The URL without a slash at its end, and the socket that is spoken to in place of its host.
fn base_url(address: &str) -> Result<(String, Option<PathBuf>), VaultError> {
    let address = address.trim();
    if let Some(path) = address.strip_prefix("unix://") {
        return Ok(("http://localhost".to_owned(), Some(PathBuf::from(path))));
    }
    let base = address.trim_end_matches('/');
    let wrong = || {
        VaultError::Setting(format!(
            "{:?} is not a URL of a Vault server, expected one such as https://vault.example.org:8200",
            shown(address)
        ))
    };
    let uri: http::Uri = base.parse().map_err(|_| wrong())?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    if !is_http || has_user || uri.query().is_some() || uri.host().is_none_or(str::is_empty) {
        return Err(wrong());
    }
    Ok((base.to_owned(), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        assert_eq!(base_url("https://v:8200/").unwrap().0, "https://v:8200");
        assert_eq!(base_url(" http://v/sub/ ").unwrap().0, "http://v/sub");
        assert_eq!(base_url("unix:///run/v.sock").unwrap().1.unwrap(), Path::new("/run/v.sock"));
        for wrong in ["", "vault:8200", "ftp://v", "https://", "https://a:b@v", "https://v?x=y"] {
            let error = base_url(wrong).unwrap_err().to_string();
            assert!(error.contains("expected one such as"), "{wrong}: {error}");
        }
    }
}
