//! How the agent first learns whom to trust.
//!
//! A bundle that was cached by an earlier run wins over every source.

use std::{os::unix::fs::MetadataExt as _, path::Path, time::Duration};

use percent_encoding::utf8_percent_encode;
use signet_api::{
    connect, convert,
    pb::workload::{X509BundlesRequest, spiffe_workload_api_client::SpiffeWorkloadApiClient},
    workload,
};
use signet_base::chain;
use signet_http::{HttpClient, HttpError, UNRESERVED, expect_success};
use signet_identity::TrustDomain;
use signet_pki::{files, jwks, x509};
use signet_time::UnixTime;

use crate::config::{Bootstrap, BundleFormat};

/// The longest bundle read, bytes.
const MAX_BUNDLE: u64 = 4 * 1024 * 1024;
/// How long fetching the bundle may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a bundle file is looked at that is awaited.
const FILE_LOOK: Duration = Duration::from_millis(250);

/// Why there is no bundle to begin with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// The bundle is there and is none.
    #[error("trust bundle {from}: {reason}")]
    Content {
        /// The file or URL.
        from: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The URL could not be fetched.
    #[error("trust_bundle_url: {0}")]
    Fetch(String),
    /// The Workload API could not be asked.
    #[error("trust_bundle_spiffe_workload_api: {0}")]
    WorkloadApi(String),
    /// The file could not be read.
    #[error("trust_bundle_path: {0}")]
    File(String),
}

/// What to put into the query of a bundle URL behind a Unix socket, as SPIRE does: the socket's
/// server may choose by it.
#[derive(Clone, Debug)]
pub struct BundleQuery {
    /// Whether the agent was bootstrapped before.
    pub rebootstrap: bool,
    /// How often the source was asked, this time included.
    pub attempts: i64,
    /// Since when, Unix seconds.
    pub since: UnixTime,
    /// The server's host.
    pub server_address: String,
    /// The server's port.
    pub server_port: u16,
    /// The trust domain.
    pub trust_domain: TrustDomain,
}

/// Asks the configured source: X.509 authorities, DER. `None` for `insecure_bootstrap`.
///
/// # Errors
/// [`BootstrapError`] when the source cannot be read or reached, or holds no X.509 authority.
pub async fn fetch_bundle(
    source: &Bootstrap,
    query: &BundleQuery,
) -> Result<Option<Vec<Vec<u8>>>, BootstrapError> {
    match source {
        Bootstrap::Insecure => Ok(None),
        Bootstrap::Path { path, format } => {
            let file = path.clone();
            let bytes = tokio::task::spawn_blocking(move || read(&file))
                .await
                .map_err(|error| BootstrapError::File(error.to_string()))??;
            parse(&bytes, *format, &query.trust_domain, &path.display().to_string()).map(Some)
        }
        Bootstrap::WorkloadApi { socket } => {
            let asked = tokio::time::timeout(FETCH_TIMEOUT, ask(socket, &query.trust_domain)).await;
            asked
                .unwrap_or_else(|_| {
                    Err(BootstrapError::WorkloadApi(format!("no answer within {FETCH_TIMEOUT:?}")))
                })
                .map(Some)
        }
        Bootstrap::Url { url, unix_socket, format } => {
            let mut builder = HttpClient::builder()
                .timeout(FETCH_TIMEOUT)
                .max_body(usize::try_from(MAX_BUNDLE).unwrap_or(usize::MAX));
            let mut address = url.clone();
            if let Some(socket) = unix_socket {
                builder = builder.socket(socket);
                address = with_query(url, query);
            }
            let fetched = |error: HttpError| BootstrapError::Fetch(chain(&error));
            let client = builder.build().map_err(fetched)?;
            let answer = client.get(&address).await.map_err(fetched)?;
            let body = expect_success(answer, url).map_err(fetched)?;
            parse(&body, *format, &query.trust_domain, url).map(Some)
        }
    }
}

/// The bundle that another agent's Workload API has of this trust domain.
async fn ask(socket: &Path, trust_domain: &TrustDomain) -> Result<Vec<Vec<u8>>, BootstrapError> {
    let failed = |error: String| BootstrapError::WorkloadApi(error);
    let channel = connect::unix(socket).await.map_err(|error| failed(chain(&error)))?;
    let request = workload::request(X509BundlesRequest {});
    let answers = SpiffeWorkloadApiClient::new(channel).fetch_x509_bundles(request).await;
    let mut answers = answers.map_err(|status| failed(status.message().to_owned()))?.into_inner();
    let answer = answers.message().await.map_err(|status| failed(status.message().to_owned()))?;
    let mut bundles = answer.map(|answer| answer.bundles).unwrap_or_default();
    // The standard names a trust domain by its ID; some write the name alone.
    let bundle = bundles
        .remove(&trust_domain.id_string())
        .or_else(|| bundles.remove(trust_domain.as_str()))
        .ok_or_else(|| failed(format!("it has no bundle of {trust_domain}")))?;
    let from = socket.display().to_string();
    let bad = |reason: String| BootstrapError::Content { from: from.clone(), reason };
    let ders: Vec<Vec<u8>> = convert::split_der(&bundle)
        .map_err(|error| bad(error.to_string()))?
        .into_iter()
        .map(<[u8]>::to_vec)
        .collect();
    if ders.is_empty() {
        return Err(bad("no certificates found in trust bundle".to_owned()));
    }
    x509::parse_chain(&ders).map_err(|error| bad(error.to_string()))?;
    Ok(ders)
}

/// A bundle file as it was at one moment, to notice that it is another one.
#[derive(Debug)]
pub struct BundleFile<'s> {
    /// `None` for other sources, which have to be asked.
    path: Option<&'s Path>,
    before: Option<FileState>,
}

/// Device, inode, change time in seconds and nanoseconds, and length in bytes: a file that is moved
/// into place, written in place or reached by other links is another one.
type FileState = (u64, u64, i64, i64, u64);

impl<'s> BundleFile<'s> {
    /// Looks at the file, if `source` is one. What is written after this is called is a change.
    pub async fn of(source: &'s Bootstrap) -> Self {
        let path = match source {
            Bootstrap::Path { path, .. } => Some(&**path),
            _ => None,
        };
        Self { path, before: Self::look(path).await }
    }

    async fn look(path: Option<&Path>) -> Option<FileState> {
        let file = tokio::fs::metadata(path?).await.ok()?;
        Some((file.dev(), file.ino(), file.ctime(), file.ctime_nsec(), file.len()))
    }

    /// Completes when the file is there and is another one than before; never for other sources.
    pub async fn changed(&self) {
        if self.path.is_none() {
            return std::future::pending().await;
        }
        loop {
            let now = Self::look(self.path).await;
            if now.is_some() && now != self.before {
                return;
            }
            tokio::time::sleep(FILE_LOOK).await;
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, BootstrapError> {
    match files::read_bounded(path, MAX_BUNDLE) {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(BootstrapError::File(format!("{}: no such file", path.display()))),
        Err(error) => Err(BootstrapError::File(chain(&error))),
    }
}

fn parse(
    bytes: &[u8],
    format: BundleFormat,
    trust_domain: &TrustDomain,
    from: &str,
) -> Result<Vec<Vec<u8>>, BootstrapError> {
    let fail = |reason: String| BootstrapError::Content { from: from.to_owned(), reason };
    let bundle = match format {
        BundleFormat::Pem => jwks::decode_pem(trust_domain.clone(), bytes),
        BundleFormat::Spiffe => jwks::decode_spiffe(trust_domain.clone(), bytes),
    };
    let bundle = bundle.map_err(|error| fail(chain(&error)))?;
    if bundle.x509_authorities.is_empty() {
        return Err(fail("no certificates found in trust bundle".to_owned()));
    }
    let ders: Vec<Vec<u8>> = bundle.x509_authorities.iter().map(|a| a.der.to_vec()).collect();
    x509::parse_chain(&ders).map_err(|error| fail(error.to_string()))?;
    Ok(ders)
}

fn with_query(url: &str, query: &BundleQuery) -> String {
    let since = query.since.rfc3339().unwrap_or_default();
    let mode = if query.rebootstrap { "rebootstrap" } else { "bootstrap" };
    let pairs = [
        ("spiffe-trust-domain", query.trust_domain.to_string()),
        ("spire-attest-mode", mode.to_owned()),
        ("spire-attest-start-time", since),
        ("spire-connection-attempts", query.attempts.to_string()),
        ("spire-server-address", query.server_address.clone()),
        ("spire-server-port", query.server_port.to_string()),
    ];
    let mut address = url.to_owned();
    for (at, (name, value)) in pairs.iter().enumerate() {
        address.push(if at == 0 && !url.contains('?') { '?' } else { '&' });
        address.push_str(name);
        address.push('=');
        address.extend(utf8_percent_encode(value, UNRESERVED));
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query() -> BundleQuery {
        BundleQuery {
            rebootstrap: false,
            attempts: 3,
            since: UnixTime::from_seconds(1_700_000_000),
            server_address: "srv".into(),
            server_port: 8081,
            trust_domain: "td".parse().unwrap(),
        }
    }

    #[test]
    fn sockets_are_told_what_the_agent_wants() {
        assert_eq!(
            with_query("http://x/bundle", &query()),
            "http://x/bundle?spiffe-trust-domain=td&spire-attest-mode=bootstrap\
             &spire-attest-start-time=2023-11-14T22%3A13%3A20Z&spire-connection-attempts=3\
             &spire-server-address=srv&spire-server-port=8081"
        );
        assert!(with_query("http://x/?a=b", &query()).starts_with("http://x/?a=b&spiffe-"));
    }

    #[tokio::test]
    async fn a_bundle_file_that_comes_or_changes_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle.pem");
        let source = Bootstrap::Path { path: path.clone(), format: BundleFormat::Pem };
        for text in ["a", "bc"] {
            let file = BundleFile::of(&source).await;
            let unchanged = tokio::time::timeout(FILE_LOOK * 3, file.changed()).await;
            assert!(unchanged.is_err());
            // Before anybody waits for it.
            std::fs::write(&path, text).unwrap();
            tokio::time::timeout(Duration::from_secs(60), file.changed()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn missing_and_empty_bundles_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle.pem");
        let source = Bootstrap::Path { path: path.clone(), format: BundleFormat::Pem };
        let error = fetch_bundle(&source, &query()).await.unwrap_err().to_string();
        assert!(error.contains("bundle.pem: no such file"), "{error}");
        std::fs::write(&path, "").unwrap();
        let error = fetch_bundle(&source, &query()).await.unwrap_err().to_string();
        assert!(error.contains("bundle.pem"), "{error}");
        assert!(fetch_bundle(&Bootstrap::Insecure, &query()).await.unwrap().is_none());
    }
}
