//! Google Cloud Secret Manager, as SPIRE's plugin uses it.

#![allow(
    clippy::indexing_slicing,
    reason = "a JSON value may be asked for any key: what is missing is null"
)]

use async_trait::async_trait;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use http::{Method, Request, header::CONTENT_TYPE};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use signet_base::{SharedClock, files::read_regular};
use signet_http::{HttpClient, HttpError};
use signet_identity::TrustDomain;
use signet_pki::{PrivateKey, digest::sha1_hex};
use signet_time::UnixTime;
use zeroize::Zeroizing;

use super::{Place, Secret, Store, StoreError, needed};
use crate::plugins::svid_store::Gcp as Settings;

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const METADATA: &str = "http://metadata.google.internal";
/// The label by which secrets of ours (and SPIRE's) are known from others; its value is a digest of
/// the trust domain.
const LABEL: &str = "spire-svid";
/// How long an access token is used, seconds.
const TOKEN_LIFE: i64 = 3600;
/// It is replaced before it expires.
const TOKEN_MARGIN: i64 = 300;
/// The largest service account file, bytes.
const MAX_ACCOUNT: u64 = 64 * 1024;

/// The store.
#[derive(Debug)]
pub(super) struct Gcp {
    settings: Settings,
    label: String,
    client: HttpClient,
    clock: SharedClock,
    token: tokio::sync::Mutex<Option<Token>>,
}

struct Token {
    text: Zeroizing<String>,
    expires_at: UnixTime,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token(.., {})", self.expires_at.seconds())
    }
}

impl Gcp {
    pub(super) fn new(
        settings: Settings,
        trust_domain: &TrustDomain,
        clock: SharedClock,
    ) -> Result<Self, HttpError> {
        let label = sha1_hex(trust_domain.as_str().as_bytes());
        let client = HttpClient::builder().build()?;
        Ok(Self { settings, label, client, clock, token: tokio::sync::Mutex::default() })
    }

    async fn token(&self) -> Result<Zeroizing<String>, StoreError> {
        let mut token = self.token.lock().await;
        let now = self.clock.unix();
        if let Some(token) = &*token
            && token.expires_at - TOKEN_MARGIN > now
        {
            return Ok(token.text.clone());
        }
        let answer = match &self.settings.service_account_file {
            Some(path) => {
                let failed = |error: &dyn std::fmt::Display| {
                    StoreError::Failed(format!("{}: {error}", path.display()))
                };
                let bytes = read_regular(path, MAX_ACCOUNT).map_err(|error| failed(&error))?;
                let bytes = Zeroizing::new(bytes);
                let account: Value =
                    serde_json::from_slice(&bytes).map_err(|error| failed(&error))?;
                let text = |name: &str| {
                    let value = account[name].as_str().filter(|value| !value.is_empty());
                    value.ok_or_else(|| failed(&format!("there is no {name}")))
                };
                let token_uri = text("token_uri")?;
                let claims = json!({
                    "iss": text("client_email")?,
                    "scope": SCOPE,
                    "aud": token_uri,
                    "iat": now,
                    "exp": now + TOKEN_LIFE,
                });
                let key = PrivateKey::from_pem(text("private_key")?);
                let key = key.map_err(|error| failed(&error))?;
                let signer = key.signer().map_err(|error| failed(&error))?;
                let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","typ":"JWT"}"#);
                let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
                let signature = signet_pki::Signer::sign(
                    &*signer,
                    signet_pki::SignatureAlgorithm::RsaPkcs1Sha256,
                    signed.as_bytes(),
                );
                let signature = signature.map_err(|error| failed(&error))?;
                let body = format!(
                    "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=\
                     {signed}.{}",
                    URL_SAFE_NO_PAD.encode(signature)
                );
                let form = "application/x-www-form-urlencoded";
                self.client.post(token_uri, form, body).await?
            }
            None => {
                let path = "computeMetadata/v1/instance/service-accounts/default/token";
                let request = Request::get(format!("{METADATA}/{path}"))
                    .header("metadata-flavor", "Google")
                    .body(Bytes::new())
                    .map_err(|error| StoreError::Failed(error.to_string()))?;
                self.client.send(request).await?
            }
        };
        let json: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        let (text, life) = (json["access_token"].as_str(), json["expires_in"].as_i64());
        let text = text.filter(|_| answer.status().is_success()).ok_or_else(|| {
            StoreError::Failed(format!("no access token: {} {}", answer.status(), json["error"]))
        })?;
        let text = Zeroizing::new(text.to_owned());
        *token = Some(Token { text: text.clone(), expires_at: now + life.unwrap_or(TOKEN_LIFE) });
        Ok(text)
    }

    /// Calls a method; none when what it is about is not there.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Option<Value>, StoreError> {
        let failed = |what: String| StoreError::Failed(format!("{method} {path}: {what}"));
        let token = self.token().await?;
        let mut request = Request::builder()
            .method(method.clone())
            .uri(format!("{}/v1/{path}", self.settings.endpoint))
            .header("authorization", format!("Bearer {}", *token));
        let body = match body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Bytes::from_owner(Zeroizing::new(body.to_string()))
            }
            None => Bytes::new(),
        };
        let request = request.body(body).map_err(|error| failed(error.to_string()))?;
        let answer = self.client.send(request).await?;
        let json: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        match answer.status() {
            status if status.is_success() => Ok(Some(json)),
            http::StatusCode::NOT_FOUND => Ok(None),
            status => {
                let why = json["error"]["message"].as_str().unwrap_or_default();
                Err(failed(format!("{} {why}", status.as_u16())))
            }
        }
    }

    /// What is known of a secret, if it is there and ours.
    async fn known(&self, secret: &str) -> Result<Option<Value>, StoreError> {
        let Some(known) = self.call(Method::GET, secret, None).await? else { return Ok(None) };
        match known["labels"][LABEL] == self.label.as_str() {
            true => Ok(Some(known)),
            false => Err(StoreError::Selectors(
                "the secret is not managed by this SPIFFE deployment".to_owned(),
            )),
        }
    }

    /// Whether the policy of a secret is another than the entry's selectors say.
    async fn needs_policy(&self, path: &str, policy: &Value) -> Result<bool, StoreError> {
        let present = self.call(Method::GET, &format!("{path}:getIamPolicy"), None).await?;
        Ok(present.is_none_or(|present| present["bindings"] != policy["bindings"]))
    }
}

/// The path of a secret, and of its project.
fn paths(place: &Place) -> Result<(String, String, &str), StoreError> {
    let (name, project) = (needed(place, "name")?, needed(place, "projectid")?);
    for part in [name, project] {
        if !part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte)) {
            return Err(StoreError::Selectors(format!(
                "{part:?} is no name of a secret or project"
            )));
        }
    }
    let project = format!("projects/{project}");
    Ok((format!("{project}/secrets/{name}"), project, name))
}

/// The policy that the selectors want, if any.
fn policy(place: &Place) -> Result<Option<Value>, StoreError> {
    match (place.get("role"), place.get("serviceaccount")) {
        (None, None) => Ok(None),
        (Some(role), Some(account)) => Ok(Some(json!({
            "bindings": [{ "role": role, "members": [format!("serviceAccount:{account}")] }],
        }))),
        _ => Err(StoreError::Selectors("role and serviceaccount go together".to_owned())),
    }
}

#[async_trait]
impl Store for Gcp {
    async fn put(&self, place: &Place, secret: &Secret) -> Result<(), StoreError> {
        let (path, project, name) = paths(place)?;
        let policy = policy(place)?;
        let known = self.known(&path).await?;
        if known.is_none() {
            let replicas = place.get("regions").map(|regions| {
                let regions = regions.split(',').filter(|region| !region.is_empty());
                regions.map(|region| json!({ "location": region })).collect::<Vec<_>>()
            });
            let replication = match replicas {
                Some(replicas) => json!({ "userManaged": { "replicas": replicas } }),
                None => json!({ "automatic": {} }),
            };
            let create = json!({ "replication": replication, "labels": { LABEL: self.label } });
            let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
            let to = format!("{project}/secrets?secretId={name}");
            let created = self.call(Method::POST, &to, Some(&create)).await?;
            created.ok_or_else(|| StoreError::Failed("the project was not found".to_owned()))?;
        }
        if let Some(policy) = policy
            && (known.is_none() || self.needs_policy(&path, &policy).await?)
        {
            let set = json!({ "policy": policy });
            self.call(Method::POST, &format!("{path}:setIamPolicy"), Some(&set)).await?;
        }
        let data = Zeroizing::new(STANDARD.encode(secret.json().as_bytes()));
        let add = json!({ "payload": { "data": *data } });
        let added = self.call(Method::POST, &format!("{path}:addVersion"), Some(&add)).await?;
        added
            .map(drop)
            .ok_or_else(|| StoreError::Failed("the secret has gone meanwhile".to_owned()))
    }

    async fn delete(&self, place: &Place) -> Result<(), StoreError> {
        let (path, ..) = paths(place)?;
        let Some(known) = self.known(&path).await? else { return Ok(()) };
        let etag = known["etag"].as_str().map_or_else(String::new, |etag| {
            format!("?etag={}", utf8_percent_encode(etag, NON_ALPHANUMERIC))
        });
        self.call(Method::DELETE, &format!("{path}{etag}"), None).await.map(drop)
    }
}
