//! The few requests that node attestation makes to a Kubernetes API server.

mod config;

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, header};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};

pub use self::config::{ConfigError, Credentials, KubeConfig};
use crate::http::{HttpClient, HttpError, expect_success};

/// An API server and how to authenticate to it.
#[derive(Debug)]
pub struct ApiServer {
    client: HttpClient,
    base: String,
    credentials: Credentials,
}

/// Why an API server gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// The answer is not what was asked for.
    #[error("the answer of {url} cannot be read: {source}")]
    Answer {
        /// What was asked.
        url: String,
        /// Why it cannot be read.
        source: serde_json::Error,
    },
    /// The credentials cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The exchange failed, or the status is not a success.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A name that cannot stand in a path.
    #[error("{0:?} is not the name of a Kubernetes object")]
    Name(String),
}

/// A pod, as far as needed.
#[derive(Debug, Default, Deserialize)]
pub struct Pod {
    /// UID and labels.
    pub metadata: Metadata,
    /// The node.
    #[serde(default)]
    pub spec: PodSpec,
    /// Its address.
    #[serde(default)]
    pub status: PodStatus,
}

/// A node, as far as needed.
#[derive(Debug, Default, Deserialize)]
pub struct Node {
    /// UID and labels.
    pub metadata: Metadata,
}

/// Metadata of an object, as far as needed.
#[derive(Debug, Default, Deserialize)]
pub struct Metadata {
    /// The UID.
    #[serde(default)]
    pub uid: String,
    /// The labels.
    #[serde(default, deserialize_with = "null_as_default")]
    pub labels: BTreeMap<String, String>,
}

/// Where a pod runs.
#[derive(Debug, Default, Deserialize)]
pub struct PodSpec {
    /// The node's name.
    #[serde(default, rename = "nodeName")]
    pub node_name: String,
}

/// What is known of a pod.
#[derive(Debug, Default, Deserialize)]
pub struct PodStatus {
    /// The node's address.
    #[serde(default, rename = "hostIP")]
    pub host_ip: String,
}

/// The answer to a token review.
#[derive(Debug, Default, Deserialize)]
pub struct TokenReviewStatus {
    /// Whether the token is valid for one of the audiences asked for.
    #[serde(default)]
    pub authenticated: bool,
    /// Which of them.
    #[serde(default, deserialize_with = "null_as_default")]
    pub audiences: Vec<String>,
    /// Whose it is.
    #[serde(default)]
    pub user: UserInfo,
}

/// Whose a token is.
#[derive(Debug, Default, Deserialize)]
pub struct UserInfo {
    /// For a service account `system:serviceaccount:<namespace>:<name>`.
    #[serde(default)]
    pub username: String,
    /// What else the token says.
    #[serde(default, deserialize_with = "null_as_default")]
    pub extra: BTreeMap<String, Vec<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenReview<'a> {
    api_version: &'a str,
    kind: &'a str,
    spec: TokenReviewSpec<'a>,
}

#[derive(Serialize)]
struct TokenReviewSpec<'a> {
    token: &'a str,
    audiences: &'a [String],
}

#[derive(Deserialize)]
struct TokenReviewAnswer {
    #[serde(default)]
    status: TokenReviewStatus,
}

impl ApiServer {
    /// Reaches the API server that `config` names.
    ///
    /// # Errors
    /// [`ApiError`] when the configuration cannot be used.
    pub fn new(config: KubeConfig) -> Result<Self, ApiError> {
        let client = config.client()?;
        Ok(Self { client, base: config.server, credentials: config.credentials })
    }

    /// Has `token` reviewed for `audiences`.
    ///
    /// # Errors
    /// [`ApiError`]; a token that is not valid is an answer, not an error.
    pub async fn review_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<TokenReviewStatus, ApiError> {
        let review = TokenReview {
            api_version: "authentication.k8s.io/v1",
            kind: "TokenReview",
            spec: TokenReviewSpec { token, audiences },
        };
        let url = format!("{}/apis/authentication.k8s.io/v1/tokenreviews", self.base);
        let body = serde_json::to_vec(&review)
            .map_err(|source| ApiError::Answer { url: url.clone(), source })?;
        let answer: TokenReviewAnswer = self.send("POST", &url, body.into()).await?;
        Ok(answer.status)
    }

    /// Reads a pod.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn get_pod(&self, namespace: &str, name: &str) -> Result<Pod, ApiError> {
        let (namespace, name) = (object_name(namespace)?, object_name(name)?);
        let url = format!("{}/api/v1/namespaces/{namespace}/pods/{name}", self.base);
        self.send("GET", &url, Bytes::new()).await
    }

    /// Reads a node.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn get_node(&self, name: &str) -> Result<Node, ApiError> {
        let url = format!("{}/api/v1/nodes/{}", self.base, object_name(name)?);
        self.send("GET", &url, Bytes::new()).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: &str,
        url: &str,
        body: Bytes,
    ) -> Result<T, ApiError> {
        let mut request = Request::builder()
            .method(method)
            .uri(url)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(value) = self.authorization()? {
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(body).map_err(|_| ApiError::Name(url.to_owned()))?;
        let answer = expect_success(self.client.send(request).await?, url)?;
        serde_json::from_slice(&answer)
            .map_err(|source| ApiError::Answer { url: url.to_owned(), source })
    }

    fn authorization(&self) -> Result<Option<http::HeaderValue>, ApiError> {
        let text = match &self.credentials {
            Credentials::Basic { username, password } => {
                let pair = zeroize::Zeroizing::new(format!("{username}:{}", password.as_str()));
                zeroize::Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())))
            }
            Credentials::None => return Ok(None),
            Credentials::Token(token) => {
                zeroize::Zeroizing::new(format!("Bearer {}", token.as_str()))
            }
            // Kubernetes rotates projected tokens: the file is read each time.
            Credentials::TokenFile(path) => {
                let token = config::read_text(path)?;
                zeroize::Zeroizing::new(format!("Bearer {}", token.trim()))
            }
        };
        let mut value = http::HeaderValue::from_str(&text)
            .map_err(|_| ConfigError::Invalid("the token holds characters no header can".into()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// A name that is safe in a path: what Kubernetes allows in names and namespaces.
fn object_name(name: &str) -> Result<&str, ApiError> {
    let good = !name.is_empty()
        && name.len() <= 253
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b));
    if good { Ok(name) } else { Err(ApiError::Name(name.to_owned())) }
}

fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    d: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(d).map(Option::unwrap_or_default)
}
