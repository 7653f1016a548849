//! Google Cloud Secret Manager, as SPIRE's plugin uses it.

#![allow(
    clippy::indexing_slicing,
    reason = "a JSON value may be asked for any key: what is missing is null"
)]

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use signet_base::{SharedClock, chain};
use signet_http::{HttpError, rest::Call};
use signet_identity::TrustDomain;
use signet_pki::digest::sha1_hex;
use zeroize::Zeroizing;

use super::{Place, Secret, Store, StoreError, needed};
use crate::plugins::svid_store::Gcp as Settings;

/// The label by which secrets of ours (and SPIRE's) are known from others; its value is a digest of
/// the trust domain.
const LABEL: &str = "spire-svid";

/// The store.
#[derive(Debug)]
pub(super) struct Gcp {
    client: signet_gcp::Gcp,
    endpoint: String,
    label: String,
}

impl Gcp {
    pub(super) fn new(
        settings: Settings,
        trust_domain: &TrustDomain,
        clock: SharedClock,
    ) -> Result<Self, HttpError> {
        let label = sha1_hex(trust_domain.as_str().as_bytes());
        let client = signet_gcp::Gcp::new(settings.credentials, clock)?;
        Ok(Self { client, endpoint: settings.endpoint, label })
    }

    /// Calls a method; none when what it is about is not there.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Option<Value>, StoreError> {
        let mut call = Call::new(method, format!("{}/v1/{path}", self.endpoint));
        if let Some(body) = body {
            call = call.json(body);
        }
        match self.client.json(call).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(StoreError::Failed(chain(&error))),
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
