//! The calls of Cloud KMS (REST, v1) and their shapes.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use crc::{CRC_32_ISCSI, Crc};
use http::Method;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Value, json};
use signet_base::chain;
use signet_http::rest::{Call, RestError};
use signet_pki::{KeyType, PublicKey, SignatureAlgorithm, pem};
use tokio::time::Instant;

use crate::Gcp;

/// What Google checks answers by.
const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
/// How many items a page has.
const PAGE: u32 = 1000;
/// How long the making of a key may take: RSA keys take some seconds.
const GENERATION: Duration = Duration::from_secs(60);
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LAST_LOOK: Duration = Duration::from_secs(2);

/// The calls.
#[derive(Clone)]
pub(super) struct Calls {
    gcp: Gcp,
    /// Up to and with `/v1`.
    base: String,
}

/// A CryptoKey.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CryptoKey {
    pub name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    version_template: Template,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Template {
    #[serde(default)]
    algorithm: String,
}

/// A CryptoKeyVersion.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Version {
    pub name: String,
    #[serde(default)]
    pub state: State,
    #[serde(default)]
    pub algorithm: String,
}

/// What is with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum State {
    Destroyed,
    DestroyScheduled,
    Enabled,
    PendingGeneration,
    #[default]
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PublicKeyAnswer {
    #[serde(default)]
    name: String,
    pem: String,
    #[serde(deserialize_with = "whole")]
    pem_crc32c: i64,
    #[serde(default)]
    algorithm: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Signed {
    #[serde(default)]
    name: String,
    signature: String,
    #[serde(deserialize_with = "whole")]
    signature_crc32c: i64,
    #[serde(default)]
    verified_digest_crc32c: bool,
}

/// A 64-bit number, which JSON of Google has as text.
fn whole<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    let value = Value::deserialize(from)?;
    let number = value.as_i64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
    number.ok_or_else(|| serde::de::Error::custom("expected a number"))
}

impl CryptoKey {
    /// A label; empty where it has none of that name.
    pub(super) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// The algorithm of its next version.
    pub(super) fn algorithm(&self) -> String {
        self.version_template.algorithm.clone()
    }
}

/// What Cloud KMS calls a kind of key.
pub(super) fn algorithm(key_type: KeyType) -> &'static str {
    match key_type {
        KeyType::EcP256 => "EC_SIGN_P256_SHA256",
        KeyType::EcP384 => "EC_SIGN_P384_SHA384",
        KeyType::Rsa2048 => "RSA_SIGN_PKCS1_2048_SHA256",
        KeyType::Rsa4096 => "RSA_SIGN_PKCS1_4096_SHA256",
    }
}

/// The kind of key that Cloud KMS calls so.
pub(super) fn key_type(name: &str) -> Option<KeyType> {
    [KeyType::EcP256, KeyType::EcP384, KeyType::Rsa2048, KeyType::Rsa4096]
        .into_iter()
        .find(|key_type| algorithm(*key_type) == name)
}

impl Calls {
    pub(super) fn new(gcp: Gcp, endpoint: &str) -> Self {
        Self { gcp, base: format!("{}/v1", endpoint.trim_end_matches('/')) }
    }

    fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.base)
    }

    async fn ask<T: DeserializeOwned>(&self, call: Call) -> Result<T, RestError> {
        let answer = self.gcp.json(call.clone()).await?;
        serde_json::from_value(answer)
            .map_err(|_| RestError::nonsense(&call, "it has other fields than expected"))
    }

    pub(super) async fn crypto_keys(
        &self,
        key_ring: &str,
        filter: &str,
    ) -> Result<Vec<CryptoKey>, RestError> {
        let url = self.url(&format!("{key_ring}/cryptoKeys"));
        let keys: Vec<CryptoKey> = self.gcp.pages(&url, "cryptoKeys", PAGE, Some(filter)).await?;
        let inside = format!("{key_ring}/cryptoKeys/");
        Ok(keys.into_iter().filter(|key| key.name.starts_with(&inside)).collect())
    }

    pub(super) async fn versions(
        &self,
        crypto_key: &str,
        filter: Option<&str>,
    ) -> Result<Vec<Version>, RestError> {
        let url = self.url(&format!("{crypto_key}/cryptoKeyVersions"));
        let versions: Vec<Version> =
            self.gcp.pages(&url, "cryptoKeyVersions", PAGE, filter).await?;
        let inside = format!("{crypto_key}/cryptoKeyVersions/");
        Ok(versions.into_iter().filter(|version| version.name.starts_with(&inside)).collect())
    }

    pub(super) async fn version(&self, name: &str) -> Result<Version, RestError> {
        self.ask(Call::get(self.url(name))).await
    }

    /// Makes a CryptoKey, and its first version with it.
    pub(super) async fn create_crypto_key(
        &self,
        key_ring: &str,
        id: &str,
        algorithm: &str,
        labels: &Value,
    ) -> Result<(), RestError> {
        let url = self.url(&format!("{key_ring}/cryptoKeys?cryptoKeyId={id}"));
        let body = json!({
            "purpose": "ASYMMETRIC_SIGN",
            "versionTemplate": { "algorithm": algorithm },
            "labels": labels,
        });
        let call = Call::post(url).json(&body);
        let made: CryptoKey = self.ask(call.clone()).await?;
        match made.name == format!("{key_ring}/cryptoKeys/{id}") {
            true => Ok(()),
            false => Err(RestError::nonsense(&call, "it is of another CryptoKey")),
        }
    }

    /// Makes a version, and gives its name.
    pub(super) async fn create_version(&self, crypto_key: &str) -> Result<String, RestError> {
        let call = Call::post(self.url(&format!("{crypto_key}/cryptoKeyVersions")));
        let call = call.json(&json!({ "state": "ENABLED" }));
        let made: Version = self.ask(call.clone()).await?;
        match made.name.starts_with(&format!("{crypto_key}/cryptoKeyVersions/")) {
            true => Ok(made.name),
            false => Err(RestError::nonsense(&call, "it is of another CryptoKey")),
        }
    }

    pub(super) async fn set_algorithm(&self, name: &str, to: &str) -> Result<(), RestError> {
        let url = self.url(&format!("{name}?updateMask=versionTemplate.algorithm"));
        let body = json!({ "versionTemplate": { "algorithm": to } });
        self.gcp.json(Call::new(Method::PATCH, url).json(&body)).await.map(drop)
    }

    /// Sets some labels and keeps the others.
    pub(super) async fn set_labels<const N: usize>(
        &self,
        key: &CryptoKey,
        set: [(&str, String); N],
    ) -> Result<(), RestError> {
        let mut labels = key.labels.clone();
        labels.extend(set.into_iter().map(|(name, value)| (name.to_owned(), value)));
        let url = self.url(&format!("{}?updateMask=labels", key.name));
        let call = Call::new(Method::PATCH, url).json(&json!({ "labels": labels }));
        self.gcp.json(call).await.map(drop)
    }

    pub(super) async fn policy(&self, name: &str) -> Result<Value, RestError> {
        let version = super::POLICY_VERSION;
        let query = format!("{name}:getIamPolicy?options.requestedPolicyVersion={version}");
        self.gcp.json(Call::get(self.url(&query))).await
    }

    pub(super) async fn set_policy(
        &self,
        name: &str,
        policy: &Value,
        etag: Option<&Value>,
    ) -> Result<(), RestError> {
        let mut policy = policy.clone();
        if let (Some(policy), Some(etag)) = (policy.as_object_mut(), etag) {
            policy.insert("etag".to_owned(), etag.clone());
        }
        let call = Call::post(self.url(&format!("{name}:setIamPolicy")));
        let call = call.json(&json!({ "policy": policy })).repeatable();
        self.gcp.json(call).await.map(drop)
    }

    /// The public key of a version, which may be in the making.
    pub(super) async fn public_key(&self, version: &str) -> Result<PublicKey, RestError> {
        let call = Call::get(self.url(&format!("{version}/publicKey")));
        let end = Instant::now() + GENERATION;
        let mut pause = FIRST_LOOK;
        let answer: PublicKeyAnswer = loop {
            let error = match self.ask(call.clone()).await {
                Ok(answer) => break answer,
                Err(error) => error,
            };
            // FAILED_PRECONDITION, and nothing else, is what a version answers that is not ready.
            if error.status() != Some(400) || Instant::now() >= end {
                return Err(error);
            }
            match self.version(version).await?.state {
                State::PendingGeneration | State::Enabled => {}
                _ => return Err(error),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_LOOK);
        };
        let wrong = |why: &str| RestError::nonsense(&call, why);
        if answer.pem_crc32c != i64::from(CRC32C.checksum(answer.pem.as_bytes())) {
            return Err(wrong("its checksum is wrong: it was damaged on its way"));
        }
        if answer.name != version {
            return Err(wrong("it is of another version"));
        }
        let blocks = pem::decode(&answer.pem).map_err(|error| wrong(&chain(&error)))?;
        let der = blocks.iter().find(|block| block.label == "PUBLIC KEY");
        let der = der.ok_or_else(|| wrong("its public key is not PEM"))?;
        let key = PublicKey::from_spki(&der.der).map_err(|error| wrong(&chain(&error)))?;
        match key_type(&answer.algorithm).map(KeyType::algorithm) == Some(key.algorithm()) {
            true => Ok(key),
            false => Err(wrong("its key is of another kind than its algorithm")),
        }
    }

    /// Hashes and signs.
    pub(super) async fn sign(
        &self,
        version: &str,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, RestError> {
        let field = match algorithm {
            SignatureAlgorithm::EcdsaP256Sha256 | SignatureAlgorithm::RsaPkcs1Sha256 => "sha256",
            SignatureAlgorithm::EcdsaP384Sha384 => "sha384",
            // A key of Cloud KMS signs in one way, which was chosen when it was made.
            _ => {
                return Err(RestError::Setting(format!(
                    "keys in Cloud KMS are made for ECDSA with the digest of their curve and for RSA \
                     PKCS#1 v1.5 with SHA-256, not for {algorithm:?}"
                )));
            }
        };
        let digest = algorithm.digest(message);
        let body = json!({
            "digest": { field: STANDARD.encode(&digest) },
            "digestCrc32c": CRC32C.checksum(&digest).to_string(),
        });
        let call = Call::post(self.url(&format!("{version}:asymmetricSign")));
        let call = call.json(&body).repeatable();
        let signed: Signed = self.ask(call.clone()).await?;
        let wrong = |why: &str| RestError::nonsense(&call, why);
        let signature = STANDARD.decode(&signed.signature);
        let signature = signature.map_err(|_| wrong("its signature is not base64"))?;
        if !signed.verified_digest_crc32c {
            return Err(wrong("what was signed was damaged on its way there"));
        }
        if signed.signature_crc32c != i64::from(CRC32C.checksum(&signature)) {
            return Err(wrong("its checksum is wrong: it was damaged on its way"));
        }
        match signed.name == version {
            true => Ok(signature),
            false => Err(wrong("it is of another version")),
        }
    }

    /// Schedules a version for its destruction; whether it was there.
    pub(super) async fn destroy(&self, version: &str) -> Result<bool, RestError> {
        let call = Call::post(self.url(&format!("{version}:destroy"))).json(&json!({}));
        let error = match self.gcp.json(call.repeatable()).await {
            Ok(_) => return Ok(true),
            Err(error) if error.is_not_found() => return Ok(false),
            Err(error) => error,
        };
        // It was scheduled already: by an earlier attempt, or by somebody else.
        if error.status() == Some(400) {
            match self.version(version).await {
                Ok(Version { state: State::Destroyed | State::DestroyScheduled, .. }) => {
                    return Ok(true);
                }
                Err(gone) if gone.is_not_found() => return Ok(false),
                _ => {}
            }
        }
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_published_example() {
        assert_eq!(CRC32C.checksum(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn numbers_are_read_from_text_and_states_by_name() {
        let signed: Signed = serde_json::from_str(
            r#"{"signature":"AA==","signatureCrc32c":"4294967295","verifiedDigestCrc32c":true}"#,
        )
        .unwrap();
        assert_eq!(signed.signature_crc32c, 0xffff_ffff);
        for (text, want) in [
            ("ENABLED", State::Enabled),
            ("DESTROY_SCHEDULED", State::DestroyScheduled),
            ("PENDING_GENERATION", State::PendingGeneration),
            ("IMPORT_FAILED", State::Other),
        ] {
            let text = format!(r#"{{"name":"n","state":"{text}"}}"#);
            assert_eq!(serde_json::from_str::<Version>(&text).unwrap().state, want);
        }
        assert_eq!(key_type("EC_SIGN_ED25519"), None);
    }
}
