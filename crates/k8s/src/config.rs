//! Where an API server is and how to authenticate to it: from inside a cluster, or from a
//! kubeconfig file.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer};
use signet_base::SharedClock;
use signet_pki::{
    PrivateKey, pem,
    text_file::{self, TextFileError},
    tls::{SwappableIdentity, TlsIdentity, WebCheck, web_client_config},
};
use zeroize::Zeroizing;

use super::ApiError;
use signet_http::{HttpClient, Trust};

/// Where Kubernetes puts a pod's token and the cluster's CA.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How long one request may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// The largest answer, bytes; lists of large objects are read in pages.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// How requests authenticate, beside a client certificate.
#[derive(Clone)]
pub enum Credentials {
    /// User name and password.
    Basic {
        /// The user name.
        username: String,
        /// The password.
        password: Zeroizing<String>,
    },
    /// Not at all.
    None,
    /// A bearer token.
    Token(Zeroizing<String>),
    /// A bearer token in a file, read for each request.
    TokenFile(PathBuf),
}

/// An API server and how to authenticate to it.
pub struct KubeConfig {
    pub(super) server: String,
    pub(super) credentials: Credentials,
    /// CA certificates, DER; unset for those that the machine trusts.
    roots: Option<Vec<Vec<u8>>>,
    skip_verify: bool,
    identity: Option<Arc<SwappableIdentity>>,
    clock: SharedClock,
    source: Source,
}

/// Where a configuration came from.
#[derive(Clone)]
enum Source {
    File(PathBuf),
    InCluster,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] TextFileError),
    /// Something is missing, malformed or not supported.
    #[error("{0}")]
    Invalid(String),
    /// The file is no kubeconfig.
    #[error("{path} is not a kubeconfig file: {reason}")]
    Yaml {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl KubeConfig {
    /// The API server of the cluster this process runs in.
    ///
    /// # Errors
    /// [`ConfigError`] outside a cluster.
    pub fn in_cluster(clock: SharedClock) -> Result<Self, ConfigError> {
        let variable = |name: &str| {
            std::env::var(name).ok().filter(|value| !value.is_empty()).ok_or_else(|| {
                ConfigError::Invalid(format!(
                    "not in a cluster ({name} is not set): set kube_config_file"
                ))
            })
        };
        let host = variable("KUBERNETES_SERVICE_HOST")?;
        let port = variable("KUBERNETES_SERVICE_PORT")?;
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let dir = Path::new(SERVICE_ACCOUNT);
        Ok(Self {
            server: format!("https://{host}:{port}"),
            credentials: Credentials::TokenFile(dir.join("token")),
            roots: Some(text_file::certificates(&dir.join("ca.crt"))?),
            skip_verify: false,
            identity: None,
            clock,
            source: Source::InCluster,
        })
    }

    /// As [`KubeConfig::in_cluster`], or the current context of the first file that `KUBECONFIG`
    /// lists where that is set.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn from_env(clock: SharedClock) -> Result<Self, ConfigError> {
        let listed = std::env::var_os("KUBECONFIG").unwrap_or_default();
        match std::env::split_paths(&listed).find(|path| !path.as_os_str().is_empty()) {
            Some(path) => Self::from_file(&path, clock),
            None => Self::in_cluster(clock),
        }
    }

    /// What the same files say now.
    ///
    /// # Errors
    /// [`ConfigError`] when they cannot be used now.
    pub(super) fn reload(&self) -> Result<Self, ConfigError> {
        let clock = Arc::clone(&self.clock);
        match &self.source {
            Source::File(path) => Self::from_file(path, clock),
            Source::InCluster => Self::in_cluster(clock),
        }
    }

    /// The current context of a kubeconfig file. Relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// [`ConfigError`] that names what is missing or not supported.
    pub fn from_file(path: &Path, clock: SharedClock) -> Result<Self, ConfigError> {
        let text = text_file::text(path)?;
        let file: File = serde_saphyr::from_str(&text).map_err(|error| ConfigError::Yaml {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        file.resolve(path, clock).map_err(|error| match error {
            ConfigError::Invalid(why) => ConfigError::Invalid(format!("{}: {why}", path.display())),
            other => other,
        })
    }

    pub(super) fn client(&self) -> Result<HttpClient, ApiError> {
        let tls = |error: signet_pki::tls::TlsError| {
            ConfigError::Invalid(format!("TLS to the API server: {error}"))
        };
        let trust = match (&self.roots, self.skip_verify) {
            (_, true) => Trust::Config(
                web_client_config(
                    WebCheck::Nothing,
                    &[],
                    self.identity.clone(),
                    Arc::clone(&self.clock),
                )
                .map_err(tls)?,
            ),
            (Some(roots), false) => Trust::Config(
                web_client_config(
                    WebCheck::ChainAndName,
                    roots,
                    self.identity.clone(),
                    Arc::clone(&self.clock),
                )
                .map_err(tls)?,
            ),
            (None, false) => Trust::System,
        };
        Ok(HttpClient::builder().trust(trust).timeout(DEADLINE).max_body(MAX_ANSWER).build()?)
    }
}

impl std::fmt::Debug for KubeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KubeConfig({}, ..)", self.server)
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(..)")
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    current_context: String,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    #[serde(default)]
    user: String,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: User,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    #[serde(default, deserialize_with = "secret")]
    client_key_data: Option<Zeroizing<String>>,
    #[serde(default, deserialize_with = "secret")]
    token: Option<Zeroizing<String>>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    username: Option<String>,
    #[serde(default, deserialize_with = "secret")]
    password: Option<Zeroizing<String>>,
    exec: Option<serde_json::Value>,
    auth_provider: Option<serde_json::Value>,
}

fn secret<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Zeroizing<String>>, D::Error> {
    Ok(Option::<String>::deserialize(d)?.map(Zeroizing::new))
}

impl File {
    fn resolve(self, file: &Path, clock: SharedClock) -> Result<KubeConfig, ConfigError> {
        let dir = file.parent().unwrap_or(Path::new("."));
        let missing = |what: &str, name: &str| {
            ConfigError::Invalid(format!("{what} {name:?} is not defined"))
        };
        let wanted = &self.current_context;
        if wanted.is_empty() {
            return Err(ConfigError::Invalid("current-context is not set".to_owned()));
        }
        let context = self.contexts.into_iter().find(|c| c.name == *wanted);
        let context = context.ok_or_else(|| missing("context", wanted))?.context;
        let cluster = self.clusters.into_iter().find(|c| c.name == context.cluster);
        let cluster = cluster.ok_or_else(|| missing("cluster", &context.cluster))?.cluster;
        let user = self.users.into_iter().find(|u| u.name == context.user);
        let user = match user {
            Some(user) => user.user,
            None if context.user.is_empty() => User::default(),
            None => return Err(missing("user", &context.user)),
        };
        if user.exec.is_some() || user.auth_provider.is_some() {
            return Err(ConfigError::Invalid(
                "exec and auth-provider users are not supported: use a token, tokenFile or client \
                 certificate"
                    .to_owned(),
            ));
        }
        let roots = pem_of(
            dir,
            cluster.certificate_authority.as_deref(),
            cluster.certificate_authority_data.as_deref(),
        )?
        .map(|text| decode_certificates(&text, "certificate-authority"))
        .transpose()?;
        let identity = identity_of(dir, &user)?;
        let credentials = match (user.token, user.token_file, user.username) {
            (Some(token), _, _) => Credentials::Token(token),
            (None, Some(path), _) => Credentials::TokenFile(dir.join(path)),
            (None, None, Some(username)) => {
                Credentials::Basic { username, password: user.password.unwrap_or_default() }
            }
            (None, None, None) => Credentials::None,
        };
        Ok(KubeConfig {
            server: cluster.server.trim_end_matches('/').to_owned(),
            credentials,
            roots,
            skip_verify: cluster.insecure_skip_tls_verify,
            identity,
            clock,
            source: Source::File(file.to_owned()),
        })
    }
}

fn identity_of(dir: &Path, user: &User) -> Result<Option<Arc<SwappableIdentity>>, ConfigError> {
    let certificate =
        pem_of(dir, user.client_certificate.as_deref(), user.client_certificate_data.as_deref())?;
    let key = pem_of(
        dir,
        user.client_key.as_deref(),
        user.client_key_data.as_ref().map(|data| data.as_str()),
    )?;
    let (Some(certificate), Some(key)) = (certificate, key) else { return Ok(None) };
    let chain: Vec<Arc<[u8]>> = decode_certificates(&certificate, "client-certificate")?
        .into_iter()
        .map(Arc::from)
        .collect();
    let bad = |what: String| ConfigError::Invalid(format!("client-key: {what}"));
    let key = PrivateKey::from_pem(&key).map_err(|e| bad(e.to_string()))?;
    let signer = key.signer().map_err(|e| bad(e.to_string()))?;
    let identity = TlsIdentity::new(&chain, signer).map_err(|e| bad(e.to_string()))?;
    Ok(Some(Arc::new(SwappableIdentity::new(identity))))
}

/// PEM text from inline base64 or, without it, from a file.
fn pem_of(
    dir: &Path,
    path: Option<&Path>,
    data: Option<&str>,
) -> Result<Option<Zeroizing<String>>, ConfigError> {
    match (data.filter(|data| !data.is_empty()), path) {
        (Some(data), _) => {
            let bytes = STANDARD
                .decode(data.trim())
                .map_err(|e| ConfigError::Invalid(format!("inline data is not base64: {e}")))?;
            String::from_utf8(bytes)
                .map(|text| Some(Zeroizing::new(text)))
                .map_err(|_| ConfigError::Invalid("inline data is not PEM".to_owned()))
        }
        (None, Some(path)) => Ok(Some(text_file::text(&dir.join(path))?)),
        (None, None) => Ok(None),
    }
}

fn decode_certificates(text: &str, what: &str) -> Result<Vec<Vec<u8>>, ConfigError> {
    pem::decode_certificates(text).map_err(|e| ConfigError::Invalid(format!("{what}: {e}")))
}
