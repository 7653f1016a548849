//! The calls of Key Vault (REST, 7.4) and their shapes.

use std::collections::HashMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Method;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use signet_http::rest::{Call, RestError};
use signet_pki::{KeyAlgorithm, KeyType, PublicKey, SignatureAlgorithm, der};

use crate::Azure;

const VERSION: &str = "api-version=7.4";
/// How many pages of a list are read at most; a page has 25 keys.
const MAX_PAGES: usize = 4_000;

/// The calls.
#[derive(Clone)]
pub(super) struct Calls {
    azure: Azure,
    /// The vault's URL, without a slash at its end.
    vault: String,
}

/// A key in a list.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub name: String,
    /// Seconds since 1970; never where the service does not say.
    pub updated: i64,
    tags: HashMap<String, String>,
}

/// A version of a key.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub version: String,
    pub enabled: bool,
    /// Seconds since 1970.
    pub created: i64,
    pub tags: HashMap<String, String>,
    /// None where it is of a kind that servers do not make.
    pub public_key: Option<PublicKey>,
}

#[derive(Deserialize)]
struct Listed {
    kid: String,
    #[serde(default)]
    attributes: Attributes,
    #[serde(default)]
    tags: Option<HashMap<String, String>>,
}

#[derive(Default, Deserialize)]
struct Attributes {
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    created: Option<i64>,
    #[serde(default)]
    updated: Option<i64>,
}

#[derive(Deserialize)]
struct Bundle {
    key: Jwk,
    #[serde(default)]
    attributes: Attributes,
    #[serde(default)]
    tags: Option<HashMap<String, String>>,
}

#[derive(Deserialize)]
struct Jwk {
    kid: String,
    kty: String,
    #[serde(default)]
    crv: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
}

#[derive(Deserialize)]
struct Signed {
    kid: String,
    value: String,
}

impl Item {
    pub(super) fn tag(&self, name: &str) -> Option<&String> {
        self.tags.get(name)
    }
}

impl Jwk {
    fn public_key(&self) -> Option<PublicKey> {
        let number = |text: &str| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok();
        let key = match (&*self.kty, &*self.crv) {
            ("EC" | "EC-HSM", "P-256") => {
                PublicKey::from_ec_point(KeyAlgorithm::EcP256, &number(&self.x)?, &number(&self.y)?)
            }
            ("EC" | "EC-HSM", "P-384") => {
                PublicKey::from_ec_point(KeyAlgorithm::EcP384, &number(&self.x)?, &number(&self.y)?)
            }
            ("RSA" | "RSA-HSM", _) => {
                PublicKey::from_rsa_numbers(&number(&self.n)?, &number(&self.e)?)
            }
            _ => return None,
        };
        key.ok().filter(|key| key.algorithm().key_type().is_some())
    }
}

/// Name and version of a key's ID, `https://name.vault.azure.net/keys/<name>/<version>`; the version
/// is empty in lists.
fn split(kid: &str) -> Option<(&str, &str)> {
    let (_, rest) = kid.split_once("://")?;
    let (_, rest) = rest.split_once("/keys/")?;
    let (name, version) = rest.split_once('/').unwrap_or((rest, ""));
    let allowed = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    (!name.is_empty() && allowed(name) && allowed(version)).then_some((name, version))
}

impl Calls {
    pub(super) fn new(azure: Azure, vault: &str) -> Self {
        Self { azure, vault: vault.trim_end_matches('/').to_owned() }
    }

    fn url(&self, path: &str) -> String {
        format!("{}/keys{path}?{VERSION}", self.vault)
    }

    async fn ask<T: DeserializeOwned>(&self, call: Call) -> Result<T, RestError> {
        let answer = self.azure.json(call.clone()).await?;
        serde_json::from_value(answer)
            .map_err(|_| RestError::nonsense(&call, "it has other fields than expected"))
    }

    async fn key(&self, name: &str, call: Call) -> Result<Key, RestError> {
        let bundle: Bundle = self.ask(call.clone()).await?;
        let found = split(&bundle.key.kid).filter(|(found, _)| *found == name);
        let Some((_, version)) = found.filter(|(_, version)| !version.is_empty()) else {
            return Err(RestError::nonsense(&call, "it is of another key"));
        };
        Ok(Key {
            version: version.to_owned(),
            enabled: bundle.attributes.enabled.unwrap_or(true),
            created: bundle.attributes.created.unwrap_or_default(),
            tags: bundle.tags.unwrap_or_default(),
            public_key: bundle.key.public_key(),
        })
    }

    /// All keys of the vault.
    pub(super) async fn list(&self) -> Result<Vec<Item>, RestError> {
        let mut call = Call::get(self.url(""));
        let mut items = Vec::new();
        for _ in 0..MAX_PAGES {
            let mut answer = self.azure.json(call.clone()).await?;
            let wrong = |why: &str| RestError::nonsense(&call, why);
            let page = answer.get_mut("value").map(Value::take).unwrap_or_else(|| json!([]));
            let page: Vec<Listed> = serde_json::from_value(page)
                .map_err(|_| wrong("it has other fields than expected"))?;
            items.extend(page.into_iter().filter_map(|listed| {
                let (name, _) = split(&listed.kid)?;
                Some(Item {
                    name: name.to_owned(),
                    updated: listed.attributes.updated.unwrap_or(i64::MAX),
                    tags: listed.tags.unwrap_or_default(),
                })
            }));
            match answer.get("nextLink").and_then(Value::as_str).unwrap_or_default() {
                "" => return Ok(items),
                // The token goes to no other place.
                next if next.strip_prefix(&*self.vault).is_some_and(|r| r.starts_with('/')) => {
                    call = Call::get(next);
                }
                _ => return Err(wrong("its next page is somewhere else")),
            }
        }
        Err(RestError::nonsense(&call, &format!("it has more than {MAX_PAGES} pages")))
    }

    /// The newest version of a key.
    pub(super) async fn get(&self, name: &str) -> Result<Key, RestError> {
        self.key(name, Call::get(self.url(&format!("/{name}")))).await
    }

    pub(super) async fn create(
        &self,
        name: &str,
        key_type: KeyType,
        tags: &Value,
    ) -> Result<Key, RestError> {
        let (kty, what, value) = match key_type {
            KeyType::EcP256 => ("EC", "crv", json!("P-256")),
            KeyType::EcP384 => ("EC", "crv", json!("P-384")),
            KeyType::Rsa2048 => ("RSA", "key_size", json!(2048)),
            KeyType::Rsa4096 => ("RSA", "key_size", json!(4096)),
        };
        let body = json!({ "kty": kty, what: value, "key_ops": ["sign", "verify"], "tags": tags });
        self.key(name, Call::post(self.url(&format!("/{name}/create"))).json(&body)).await
    }

    /// Updates a key without changing anything but the time of its update.
    pub(super) async fn touch(&self, name: &str, version: &str) -> Result<(), RestError> {
        let call = Call::new(Method::PATCH, self.url(&format!("/{name}/{version}")));
        self.azure.json(call.json(&json!({ "key_ops": ["sign", "verify"] }))).await.map(drop)
    }

    pub(super) async fn delete(&self, name: &str) -> Result<(), RestError> {
        self.azure.json(Call::new(Method::DELETE, self.url(&format!("/{name}")))).await.map(drop)
    }

    /// Hashes and signs.
    pub(super) async fn sign(
        &self,
        name: &str,
        version: &str,
        algorithm: SignatureAlgorithm,
        message: &[u8],
    ) -> Result<Vec<u8>, RestError> {
        let alg = match algorithm {
            SignatureAlgorithm::EcdsaP256Sha256 => "ES256",
            SignatureAlgorithm::EcdsaP384Sha384 => "ES384",
            SignatureAlgorithm::RsaPkcs1Sha256 => "RS256",
            SignatureAlgorithm::RsaPkcs1Sha384 => "RS384",
            SignatureAlgorithm::RsaPkcs1Sha512 => "RS512",
            SignatureAlgorithm::RsaPssSha256 => "PS256",
            SignatureAlgorithm::RsaPssSha384 => "PS384",
            SignatureAlgorithm::RsaPssSha512 => "PS512",
            _ => {
                let why = format!("Key Vault does not make {algorithm:?} signatures");
                return Err(RestError::Setting(why));
            }
        };
        let value = URL_SAFE_NO_PAD.encode(algorithm.digest(message));
        let call = Call::post(self.url(&format!("/{name}/{version}/sign")));
        let call = call.json(&json!({ "alg": alg, "value": value })).repeatable();
        let signed: Signed = self.ask(call.clone()).await?;
        let wrong = |why: &str| RestError::nonsense(&call, why);
        if split(&signed.kid) != Some((name, version)) {
            return Err(wrong("it is of another key"));
        }
        let signature = URL_SAFE_NO_PAD.decode(signed.value.trim_end_matches('='));
        let signature = signature.map_err(|_| wrong("its signature is not base64"))?;
        match (alg, signature.len()) {
            ("ES256", 64) | ("ES384", 96) => {
                let (r, s) = signature.split_at(signature.len() / 2);
                Ok(der::ecdsa_signature(r, s))
            }
            ("ES256" | "ES384", _) => Err(wrong("it is no signature")),
            _ => Ok(signature),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_keys_are_taken_apart() {
        assert_eq!(split("https://v.vault.azure.net/keys/a-b/c1"), Some(("a-b", "c1")));
        assert_eq!(split("https://v/keys/a"), Some(("a", "")));
        for other in ["https://v/secrets/a", "https://v/keys/", "https://v/keys/a/../b", "a"] {
            assert_eq!(split(other), None, "{other}");
        }
    }
}
