//! By what Google Cloud knows who asks: the kinds of "Application Default Credentials" that a
//! server has.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderName;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use signet_base::{SharedClock, chain};
use signet_http::{
    HttpClient,
    rest::{Call, Rest, RestError, Token, TokenSource},
};
use signet_pki::{PrivateKey, SignatureAlgorithm, Signer, text_file};
use zeroize::Zeroizing;

use crate::{
    federation::External,
    token::{SCOPE, TOKEN_LIFE, read_token, safe_url},
};

/// The metadata server, which every machine of Google Cloud has.
const METADATA: &str = "metadata.google.internal";
/// Its variable in the environment, as Google's libraries read it: host and port.
const METADATA_VARIABLE: &str = "GCE_METADATA_HOST";
const FLAVOR: HeaderName = HeaderName::from_static("metadata-flavor");
const ACCOUNT: &str = "computeMetadata/v1/instance/service-accounts/default";
/// How long the metadata server may take.
const METADATA_TIMEOUT: Duration = Duration::from_secs(5);
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// Where the credentials are. Files are read for each new token, so they can be replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// A file of any kind that is understood: the key of a service account, workload identity
    /// federation (`external_account`), or what `gcloud auth application-default login` writes
    /// (`authorized_user`).
    File(PathBuf),
    /// The service account of the machine or pod, from its metadata server.
    Instance {
        /// Host, and port where it is not 80.
        host: String,
    },
    /// A file with the key of a service account, and nothing else.
    ServiceAccount(PathBuf),
}

/// What a file of credentials holds.
pub(crate) enum Account {
    AuthorizedUser(User),
    External(External),
    Service(Service),
}

/// A service account's key.
#[derive(Deserialize)]
pub(crate) struct Service {
    client_email: String,
    #[serde(deserialize_with = "secret")]
    private_key: Zeroizing<String>,
    #[serde(default)]
    private_key_id: String,
    #[serde(default = "default_token_uri")]
    token_uri: String,
}

/// A user's refresh token.
#[derive(Deserialize)]
pub(crate) struct User {
    client_id: String,
    #[serde(deserialize_with = "secret")]
    client_secret: Zeroizing<String>,
    #[serde(deserialize_with = "secret")]
    refresh_token: Zeroizing<String>,
    #[serde(default = "default_token_uri")]
    token_uri: String,
}

/// Gets access tokens.
pub(crate) struct Source {
    credentials: Credentials,
    rest: Rest,
    /// For the metadata server.
    direct: HttpClient,
    clock: SharedClock,
}

fn secret<'de, D: Deserializer<'de>>(from: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(from).map(Zeroizing::new)
}

fn default_token_uri() -> String {
    "https://oauth2.googleapis.com/token".to_owned()
}

impl Credentials {
    /// As Google's libraries choose: the file that was configured, else that of
    /// `GOOGLE_APPLICATION_CREDENTIALS`, else the machine's own account.
    pub fn choose(service_account_file: Option<PathBuf>) -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        match service_account_file {
            Some(path) => Self::ServiceAccount(path),
            None => match variable("GOOGLE_APPLICATION_CREDENTIALS") {
                Some(path) => Self::File(path.into()),
                None => Self::Instance {
                    host: variable(METADATA_VARIABLE).unwrap_or_else(|| METADATA.to_owned()),
                },
            },
        }
    }

    /// Reads the file, if there is one; nothing is sent.
    ///
    /// # Errors
    /// What is wrong with it, beginning with its name.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Instance { .. } => Ok(()),
            Self::File(path) | Self::ServiceAccount(path) => {
                let account = self.read(path)?;
                match &account {
                    Account::Service(service) => {
                        safe_url(path, &service.token_uri)?;
                        service.signer(path).map(drop)
                    }
                    Account::External(external) => external.check(path),
                    Account::AuthorizedUser(user) => safe_url(path, &user.token_uri),
                }
            }
        }
    }

    fn read(&self, path: &Path) -> Result<Account, String> {
        let at = |what: &str| format!("{}: {what}", path.display());
        let text = text_file::text(path).map_err(|error| error.to_string())?;
        let json: Value =
            serde_json::from_str(&text).map_err(|_| at("it is no JSON, expected credentials"))?;
        let kind = json.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let missing = |error: serde_json::Error| {
            // Only the names of fields are in it.
            let why = error.to_string();
            at(&format!("{kind}: {}", why.split(" at line").next().unwrap_or_default()))
        };
        match (kind.as_str(), self) {
            ("service_account", _) => {
                serde_json::from_value(json).map(Account::Service).map_err(missing)
            }
            ("external_account", Self::File(_)) => {
                serde_json::from_value(json).map(Account::External).map_err(missing)
            }
            ("authorized_user", Self::File(_)) => {
                serde_json::from_value(json).map(Account::AuthorizedUser).map_err(missing)
            }
            (_, Self::File(_)) => Err(at(&format!(
                "its type is {kind:?}, expected service_account, external_account or \
                 authorized_user"
            ))),
            _ => Err(at(&format!("its type is {kind:?}, expected service_account"))),
        }
    }
}

impl Service {
    fn signer(&self, path: &Path) -> Result<Arc<dyn Signer>, String> {
        let at = |error: &dyn std::error::Error| {
            format!("{}: private_key: {}", path.display(), chain(error))
        };
        let key = PrivateKey::from_pem(&self.private_key).map_err(|error| at(&error))?;
        Ok(key.signer().map_err(|error| at(&error))?)
    }

    /// The request that turns a JWT of this key into an access token (RFC 7523).
    fn call(&self, path: &Path, clock: &SharedClock) -> Result<Call, String> {
        safe_url(path, &self.token_uri)?;
        let now = clock.unix().seconds();
        let head = json!({ "alg": "RS256", "typ": "JWT", "kid": self.private_key_id });
        let claims = json!({
            "iss": self.client_email,
            "scope": SCOPE,
            "aud": self.token_uri,
            "iat": now,
            "exp": now + TOKEN_LIFE,
        });
        let encode = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", encode(head), encode(claims));
        let signature = self
            .signer(path)?
            .sign(SignatureAlgorithm::RsaPkcs1Sha256, signed.as_bytes())
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let assertion = Zeroizing::new(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)));
        let fields = [("grant_type", JWT_BEARER), ("assertion", assertion.as_str())];
        Ok(Call::post(&*self.token_uri).form(&fields).repeatable())
    }
}

impl Source {
    pub(crate) fn new(
        credentials: Credentials,
        rest: Rest,
        direct: HttpClient,
        clock: SharedClock,
    ) -> Self {
        Self { credentials, rest, direct, clock }
    }

    /// What the file holds; none for the machine's account.
    async fn account(&self) -> Result<Option<(PathBuf, Account)>, RestError> {
        let (Credentials::File(path) | Credentials::ServiceAccount(path)) = &self.credentials
        else {
            return Ok(None);
        };
        let (path, credentials) = (path.clone(), self.credentials.clone());
        let read = tokio::task::spawn_blocking(move || {
            credentials.read(&path).map(|account| (path, account))
        });
        let read = read.await.map_err(|error| RestError::Credentials(error.to_string()))?;
        read.map(Some).map_err(RestError::Credentials)
    }

    /// The account's email address; none where there is none.
    pub(crate) async fn email(&self) -> Result<Option<String>, RestError> {
        match self.account().await? {
            None => {
                let email = self.metadata("email").await?;
                Ok(Some(String::from_utf8_lossy(&email).trim().to_owned()))
            }
            Some((_, Account::Service(service))) => Ok(Some(service.client_email)),
            Some((_, Account::External(external))) => Ok(external.email()),
            Some((_, Account::AuthorizedUser(_))) => Ok(None),
        }
    }

    async fn metadata(&self, what: &str) -> Result<bytes::Bytes, RestError> {
        let Credentials::Instance { host } = &self.credentials else {
            return Err(RestError::Credentials("there is no metadata server".to_owned()));
        };
        let call = Call::get(format!("http://{host}/{ACCOUNT}/{what}"));
        let call = call.header(FLAVOR, "Google").within(METADATA_TIMEOUT);
        let answer = Rest::new(self.direct.clone(), None).send(&call).await?;
        // Whoever else answers at that address does not say so.
        if answer.headers().get(FLAVOR).is_none_or(|flavor| flavor != "Google") {
            return Err(RestError::nonsense(&call, "it does not come from a metadata server"));
        }
        Ok(answer.into_body())
    }
}

#[async_trait]
impl TokenSource for Source {
    async fn fetch(&self) -> Result<Token, RestError> {
        match self.account().await? {
            None => {
                let answer = self.metadata("token").await?;
                read_token(&serde_json::from_slice(&answer).unwrap_or_default())
            }
            Some((path, Account::Service(service))) => {
                let call = service.call(&path, &self.clock).map_err(RestError::Credentials)?;
                read_token(&self.rest.json(call).await?)
            }
            Some((path, Account::AuthorizedUser(user))) => {
                safe_url(&path, &user.token_uri).map_err(RestError::Credentials)?;
                let fields = [
                    ("grant_type", "refresh_token"),
                    ("client_id", user.client_id.as_str()),
                    ("client_secret", user.client_secret.as_str()),
                    ("refresh_token", user.refresh_token.as_str()),
                ];
                let call = Call::post(&*user.token_uri).form(&fields).repeatable();
                read_token(&self.rest.json(call).await?)
            }
            Some((_, Account::External(external))) => {
                external.token(&self.rest, &self.direct, &self.clock).await
            }
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.credentials.fmt(f)
    }
}
