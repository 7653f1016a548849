//! AWS Secrets Manager, as SPIRE's plugin uses it.

#![allow(
    clippy::indexing_slicing,
    reason = "a JSON value may be asked for any key: what is missing is null"
)]

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};
use signet_base::SharedClock;
use signet_http::{HttpClient, HttpError};
use signet_pki::digest::{hmac_sha256, sha256_hex};
use time::{OffsetDateTime, macros::format_description};
use zeroize::Zeroizing;

use super::{Place, Secret, Store, StoreError, needed};
use crate::plugins::svid_store::Aws as Settings;

const SERVICE: &str = "secretsmanager";
/// The tag by which secrets of ours (and SPIRE's) are known from others.
const TAG: &str = "spire-svid";
/// How long a deleted secret can be restored.
const RECOVERY_DAYS: u8 = 7;
const NOT_FOUND: &str = "ResourceNotFoundException";

/// The store.
#[derive(Debug)]
pub(super) struct Aws {
    settings: Settings,
    client: HttpClient,
    clock: SharedClock,
}

impl Aws {
    pub(super) fn new(settings: Settings, clock: SharedClock) -> Result<Self, HttpError> {
        Ok(Self { settings, client: HttpClient::builder().build()?, clock })
    }

    /// Calls an action; none when the secret is not there.
    async fn call(&self, action: &str, body: &Value) -> Result<Option<Value>, StoreError> {
        let body = Zeroizing::new(body.to_string());
        let Settings { endpoint, session_token, .. } = &self.settings;
        let failed = |what: &str| StoreError::Failed(format!("{action}: {what}"));
        let host = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, host)| host);
        let now = OffsetDateTime::from_unix_timestamp(self.clock.unix().seconds());
        let now = now.map_err(|_| failed("the clock is wrong"))?;
        let date = now.format(format_description!("[year][month][day]T[hour][minute][second]Z"));
        let date = date.map_err(|_| failed("the clock is wrong"))?;
        let target = format!("{SERVICE}.{action}");
        let mut headers = vec![
            ("content-type", "application/x-amz-json-1.1"),
            ("host", host),
            ("x-amz-date", date.as_str()),
        ];
        if let Some(token) = session_token {
            headers.push(("x-amz-security-token", token));
        }
        headers.push(("x-amz-target", &target));
        let authorization = authorization(&self.settings, SERVICE, &headers, body.as_bytes());
        let mut request = Request::post(format!("{endpoint}/"));
        for (name, value) in headers.iter().filter(|(name, _)| *name != "host") {
            request = request.header(*name, *value);
        }
        let request = request
            .header("authorization", authorization)
            .body(Bytes::from_owner(body))
            .map_err(|error| failed(&error.to_string()))?;
        let answer = self.client.send(request).await?;
        let json: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        if answer.status().is_success() {
            return Ok(Some(json));
        }
        let kind = json["__type"].as_str().unwrap_or_default();
        // Some answers have the name of a namespace before it.
        let kind = kind.rsplit_once('#').map_or(kind, |(_, kind)| kind);
        if kind == NOT_FOUND {
            return Ok(None);
        }
        let why = json["message"].as_str().or(json["Message"].as_str()).unwrap_or_default();
        Err(failed(&format!("{} {kind} {why}", answer.status().as_u16())))
    }

    /// What is known of a secret, if it is there and ours.
    async fn describe(&self, id: &str) -> Result<Option<Value>, StoreError> {
        let Some(known) = self.call("DescribeSecret", &json!({ "SecretId": id })).await? else {
            return Ok(None);
        };
        let tags = known["Tags"].as_array().cloned().unwrap_or_default();
        match tags.iter().any(|tag| tag["Key"] == TAG && tag["Value"] == "true") {
            true => Ok(Some(known)),
            false => {
                Err(StoreError::Selectors(format!("the secret does not contain the {TAG:?} tag")))
            }
        }
    }
}

fn id(place: &Place) -> Result<&str, StoreError> {
    let value = |name: &str| place.get(name).filter(|value| !value.is_empty());
    let found = value("arn").or_else(|| value("secretname"));
    found.map(String::as_str).ok_or_else(|| {
        StoreError::Selectors("either the secret name or ARN is required".to_owned())
    })
}

#[async_trait]
impl Store for Aws {
    async fn put(&self, place: &Place, secret: &Secret) -> Result<(), StoreError> {
        let id = id(place)?;
        let token = uuid::Uuid::new_v4().to_string();
        let binary = Zeroizing::new(STANDARD.encode(secret.json().as_bytes()));
        let Some(known) = self.describe(id).await? else {
            let mut create = json!({
                "Name": needed(place, "secretname")?,
                "ClientRequestToken": token,
                "SecretBinary": *binary,
                "Tags": [{ "Key": TAG, "Value": "true" }],
            });
            if let (Some(key), Some(members)) = (place.get("kmskeyid"), create.as_object_mut()) {
                members.insert("KmsKeyId".to_owned(), key.as_str().into());
            }
            let created = self.call("CreateSecret", &create).await?;
            return created
                .map(drop)
                .ok_or_else(|| StoreError::Failed("CreateSecret: nothing was found".to_owned()));
        };
        if !known["DeletedDate"].is_null() {
            self.call("RestoreSecret", &json!({ "SecretId": id })).await?;
        }
        let put = json!({
            "SecretId": known["ARN"],
            "ClientRequestToken": token,
            "SecretBinary": *binary,
        });
        let put = self.call("PutSecretValue", &put).await?;
        put.map(drop).ok_or_else(|| StoreError::Failed("the secret has gone meanwhile".to_owned()))
    }

    async fn delete(&self, place: &Place) -> Result<(), StoreError> {
        let Some(known) = self.describe(id(place)?).await? else { return Ok(()) };
        let delete = json!({ "SecretId": known["ARN"], "RecoveryWindowInDays": RECOVERY_DAYS });
        self.call("DeleteSecret", &delete).await.map(drop)
    }
}

/// The `Authorization` of a POST to `/` (AWS Signature Version 4); `headers` are sorted by name, with
/// `x-amz-date` among them.
fn authorization(
    settings: &Settings,
    service: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> String {
    let date = headers.iter().find(|(name, _)| *name == "x-amz-date").map_or("", |(_, date)| date);
    let day = date.get(..8).unwrap_or_default();
    let region = settings.region.as_str();
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let signed = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let canonical: String =
        headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
    let request = format!("POST\n/\n\n{canonical}\n{signed}\n{}", sha256_hex(body));
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256_hex(request.as_bytes()));
    let secret = Zeroizing::new(format!("AWS4{}", *settings.secret_access_key));
    let mut key = hmac_sha256(secret.as_bytes(), day.as_bytes());
    for part in [region, service, "aws4_request"] {
        key = hmac_sha256(&key, part.as_bytes());
    }
    let signature: String =
        hmac_sha256(&key, text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}",
        settings.access_key_id
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_signed_as_the_published_example_is() {
        let settings = Settings {
            region: "us-east-1".to_owned(),
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: Zeroizing::new(
                "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            ),
            session_token: None,
            endpoint: String::new(),
        };
        // "post-vanilla" of AWS's test suite for Signature Version 4.
        let headers = [("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z")];
        assert_eq!(
            authorization(&settings, "service", &headers, b""),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=host;x-amz-date, \
             Signature=5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"
        );
    }
}
