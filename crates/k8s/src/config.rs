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
    PrivateKey, pem, text_file,
    tls::{SwappableIdentity, TlsIdentity, WebCheck, web_client_config},
};
use zeroize::Zeroizing;

use super::{ApiError, objects::null_as_default};
use super::{
    error::ConfigError,
    exec::{ExecCredentials, ExecSpec},
};
use signet_http::{HttpClient, Proxies, Trust, system_roots};

/// Where Kubernetes puts a pod's token and the cluster's CA.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Set in every pod.
const SERVICE_HOST: &str = "KUBERNETES_SERVICE_HOST";
/// The namespace of who is given none.
const DEFAULT_NAMESPACE: &str = "default";
/// How long one request may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// The largest answer, bytes; lists of large objects are read in pages.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// How requests authenticate, beside a client certificate.
#[derive(Clone)]
pub(super) enum Credentials {
    /// User name and password.
    Basic {
        /// The user name.
        username: String,
        /// The password.
        password: Zeroizing<String>,
    },
    /// A bearer token that a program prints.
    Exec(Arc<ExecCredentials>),
    /// Not at all.
    None,
    /// A bearer token.
    Token(Zeroizing<String>),
    /// A bearer token in a file, read for each request.
    TokenFile(PathBuf),
}

/// An API server and how to authenticate to it.
pub(super) struct KubeConfig {
    pub(super) server: String,
    pub(super) credentials: Credentials,
    /// Headers of every request, for those who act in another's name.
    pub(super) impersonate: Vec<(&'static str, String)>,
    pub(super) namespace: String,
    /// CA certificates, DER; unset for those that the machine trusts.
    roots: Option<Vec<Vec<u8>>>,
    skip_verify: bool,
    /// The name that the server's certificate must have, where it is not that of its URL.
    server_name: Option<String>,
    proxy: Option<String>,
    identity: Option<Arc<SwappableIdentity>>,
    clock: SharedClock,
    source: KubeSource,
}

/// Where a configuration is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KubeSource {
    /// Nowhere: it is the URL of a server that asks for no credentials (`kubectl proxy`).
    Fixed(String),
    /// Kubeconfig files, of which the first to define something counts.
    Files(Vec<PathBuf>),
    /// What a pod is given.
    InCluster,
}

impl KubeSource {
    /// The files that `KUBECONFIG` lists where it is set, else what a pod is given.
    pub fn from_env() -> Self {
        Self::listed().unwrap_or(Self::InCluster)
    }

    /// As Kubernetes' own controllers look for it: the files that `KUBECONFIG` lists, else what a
    /// pod is given, else `~/.kube/config`.
    pub fn infer() -> Self {
        let outside = std::env::var_os(SERVICE_HOST).is_none_or(|host| host.is_empty());
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
        match (Self::listed(), outside, home) {
            (Some(listed), _, _) => listed,
            (None, true, Some(home)) => Self::Files(vec![PathBuf::from(home).join(".kube/config")]),
            (None, _, _) => Self::InCluster,
        }
    }

    /// The kubeconfig file that somebody has named, else as [`KubeSource::infer`].
    pub fn named_or_inferred(file: Option<&Path>) -> Self {
        file.map_or_else(Self::infer, |file| Self::Files(vec![file.to_owned()]))
    }

    fn listed() -> Option<Self> {
        let listed = std::env::var_os("KUBECONFIG").unwrap_or_default();
        let files: Vec<PathBuf> =
            std::env::split_paths(&listed).filter(|path| !path.as_os_str().is_empty()).collect();
        (!files.is_empty()).then_some(Self::Files(files))
    }

    /// Reads it and keeps nothing: whether it can be used now.
    ///
    /// # Errors
    /// [`ApiError`] that names what cannot be read, is missing or not supported.
    pub fn check(&self, clock: SharedClock) -> Result<(), ApiError> {
        self.read(clock)?.client().map(drop)
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`ConfigError`] that names what cannot be read, is missing or not supported.
    pub(super) fn read(&self, clock: SharedClock) -> Result<KubeConfig, ConfigError> {
        match self {
            Self::Fixed(url) => Ok(KubeConfig {
                server: url.trim_end_matches('/').to_owned(),
                ..KubeConfig::empty(clock, self.clone())
            }),
            Self::Files(paths) => KubeConfig::from_files(paths, clock),
            Self::InCluster => KubeConfig::in_cluster(clock),
        }
    }
}

impl KubeConfig {
    fn empty(clock: SharedClock, source: KubeSource) -> Self {
        Self {
            server: String::new(),
            credentials: Credentials::None,
            impersonate: Vec::new(),
            namespace: DEFAULT_NAMESPACE.to_owned(),
            roots: None,
            skip_verify: false,
            server_name: None,
            proxy: None,
            identity: None,
            clock,
            source,
        }
    }

    /// The API server of the cluster this process runs in.
    ///
    /// # Errors
    /// [`ConfigError`] outside a cluster.
    fn in_cluster(clock: SharedClock) -> Result<Self, ConfigError> {
        let variable = |name: &str| {
            std::env::var(name).ok().filter(|value| !value.is_empty()).ok_or_else(|| {
                ConfigError::Invalid(format!(
                    "not in a cluster ({name} is not set): set kube_config_file"
                ))
            })
        };
        let host = variable(SERVICE_HOST)?;
        let port = variable("KUBERNETES_SERVICE_PORT")?;
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let dir = Path::new(SERVICE_ACCOUNT);
        let namespace = text_file::text(&dir.join("namespace")).ok();
        let namespace = namespace.map(|text| text.trim().to_owned());
        Ok(Self {
            server: format!("https://{host}:{port}"),
            credentials: Credentials::TokenFile(dir.join("token")),
            namespace: namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
            roots: Some(text_file::certificates(&dir.join("ca.crt"))?),
            ..Self::empty(clock, KubeSource::InCluster)
        })
    }

    /// The current context of kubeconfig files; what several define counts as the first of them
    /// has it. Relative paths in a file are relative to its folder.
    fn from_files(paths: &[PathBuf], clock: SharedClock) -> Result<Self, ConfigError> {
        let mut whole = File::default();
        for path in paths {
            let text = match text_file::text(path) {
                // As kubectl has it: a list may name files that are not there yet.
                Err(_) if paths.len() > 1 && !path.exists() => continue,
                text => text?,
            };
            let file: File = serde_saphyr::from_str(&text).map_err(|error| ConfigError::Yaml {
                path: path.to_owned(),
                reason: error.to_string(),
            })?;
            whole.add(file, path.parent().unwrap_or(Path::new(".")));
        }
        let source = KubeSource::Files(paths.to_owned());
        whole.resolve(source, clock).map_err(|error| match error {
            ConfigError::Invalid(why) => {
                let names: Vec<String> =
                    paths.iter().map(|path| path.display().to_string()).collect();
                ConfigError::Invalid(format!("{}: {why}", names.join(", ")))
            }
            other => other,
        })
    }

    /// What the same files say now. A program's token is kept where it is the same program.
    ///
    /// # Errors
    /// [`ConfigError`] when they cannot be used now.
    pub(super) fn reload(&self) -> Result<Self, ConfigError> {
        let mut fresh = self.source.read(Arc::clone(&self.clock))?;
        if let (Credentials::Exec(new), Credentials::Exec(old)) =
            (&fresh.credentials, &self.credentials)
            && new.is_same(old)
        {
            fresh.credentials = self.credentials.clone();
        }
        Ok(fresh)
    }

    pub(super) fn client(&self) -> Result<HttpClient, ApiError> {
        let tls = |error: signet_pki::tls::TlsError| {
            ConfigError::Invalid(format!("TLS to the API server: {error}"))
        };
        let trust = |check, roots: &[Vec<u8>]| {
            let identity = self.identity.clone();
            web_client_config(check, roots, identity, Arc::clone(&self.clock)).map(Trust::Config)
        };
        let trust = match &self.roots {
            _ if self.skip_verify => trust(WebCheck::Nothing, &[]),
            Some(roots) => trust(WebCheck::ChainAndName, roots),
            None if self.identity.is_some() => trust(WebCheck::ChainAndName, &system_roots()),
            // A machine without roots can still ask over plain HTTP.
            None => Ok(Trust::System),
        };
        let mut client =
            HttpClient::builder().trust(trust.map_err(tls)?).timeout(DEADLINE).max_body(MAX_ANSWER);
        if let Some(name) = &self.server_name {
            client = client.server_name(name);
        }
        if let Some(proxy) = &self.proxy {
            let proxies = Proxies::new(proxy, proxy, "");
            client = client.proxies(proxies.map_err(signet_http::HttpError::from)?);
        }
        Ok(client.build()?)
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

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct File {
    current_context: String,
    #[serde(deserialize_with = "null_as_default")]
    clusters: Vec<NamedCluster>,
    #[serde(deserialize_with = "null_as_default")]
    contexts: Vec<NamedContext>,
    #[serde(deserialize_with = "null_as_default")]
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
    tls_server_name: Option<String>,
    proxy_url: Option<String>,
    /// Where relative paths begin: the file's folder.
    #[serde(skip)]
    dir: PathBuf,
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
    namespace: Option<String>,
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
    exec: Option<ExecSpec>,
    auth_provider: Option<serde_json::Value>,
    #[serde(rename = "as")]
    act_as: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    as_groups: Vec<String>,
    as_uid: Option<String>,
    as_user_extra: Option<serde_json::Value>,
    /// Where relative paths begin: the file's folder.
    #[serde(skip)]
    dir: PathBuf,
}

fn secret<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Zeroizing<String>>, D::Error> {
    Ok(Option::<String>::deserialize(d)?.map(Zeroizing::new))
}

impl File {
    /// Adds what another file, in the folder `dir`, defines and this one does not.
    fn add(&mut self, mut other: Self, dir: &Path) {
        other.clusters.iter_mut().for_each(|one| one.cluster.dir = dir.to_owned());
        other.users.iter_mut().for_each(|one| one.user.dir = dir.to_owned());
        if self.current_context.is_empty() {
            self.current_context = other.current_context;
        }
        // Looked up by name, the first counts.
        self.clusters.extend(other.clusters);
        self.contexts.extend(other.contexts);
        self.users.extend(other.users);
    }

    fn resolve(self, source: KubeSource, clock: SharedClock) -> Result<KubeConfig, ConfigError> {
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
        if user.auth_provider.is_some() || user.as_user_extra.is_some() {
            return Err(ConfigError::Invalid(
                "auth-provider and as-user-extra of users are not supported: use a token, \
                 tokenFile, exec or client certificate"
                    .to_owned(),
            ));
        }
        let roots = pem_of(
            &cluster.dir,
            cluster.certificate_authority.as_deref(),
            cluster.certificate_authority_data.as_deref(),
        )?
        .map(|text| decode_certificates(&text, "certificate-authority"))
        .transpose()?;
        let identity = identity_of(&user.dir, &user)?;
        let name = user.act_as.iter().map(|name| ("impersonate-user", name.clone()));
        let uid = user.as_uid.iter().map(|uid| ("impersonate-uid", uid.clone()));
        let groups = user.as_groups.iter().map(|group| ("impersonate-group", group.clone()));
        let impersonate = name.chain(uid).chain(groups).collect();
        let credentials = match (user.token, user.token_file, user.username, user.exec) {
            (Some(token), _, _, _) => Credentials::Token(token),
            (None, Some(path), _, _) => Credentials::TokenFile(user.dir.join(path)),
            (None, None, Some(username), _) => {
                Credentials::Basic { username, password: user.password.unwrap_or_default() }
            }
            (None, None, None, Some(exec)) => {
                let exec = exec.resolve(&user.dir)?;
                Credentials::Exec(Arc::new(ExecCredentials::new(exec, Arc::clone(&clock))))
            }
            (None, None, None, None) => Credentials::None,
        };
        let namespace = context.namespace.filter(|namespace| !namespace.is_empty());
        Ok(KubeConfig {
            server: cluster.server.trim_end_matches('/').to_owned(),
            credentials,
            impersonate,
            namespace: namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
            roots,
            skip_verify: cluster.insecure_skip_tls_verify,
            server_name: cluster.tls_server_name.filter(|name| !name.is_empty()),
            proxy: cluster.proxy_url.filter(|url| !url.is_empty()),
            identity,
            ..KubeConfig::empty(clock, source)
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
