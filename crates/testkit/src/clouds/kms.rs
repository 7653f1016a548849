//! Cloud KMS (REST, v1), after its reference: CryptoKeys, their versions, policies and signatures.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use crc::{CRC_32_ISCSI, Crc};
use serde_json::{Value, json};

use super::{
    Key,
    answers::{failure, invalid, not_found, paged},
    pem,
};
use crate::Reply;

/// The key ring that is there.
pub const KEY_RING: &str = "projects/p-1/locations/europe-west1/keyRings/signet";
const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// What is there.
#[derive(Default)]
pub(super) struct Kms {
    pub keys: BTreeMap<String, CryptoKey>,
    /// How often a new version is looked at before it is there.
    pub generation: u32,
}

/// A CryptoKey.
pub(super) struct CryptoKey {
    pub labels: BTreeMap<String, String>,
    pub algorithm: String,
    pub policy: Value,
    pub versions: Vec<Version>,
}

/// A CryptoKeyVersion.
pub(super) struct Version {
    pub key: Key,
    pub algorithm: String,
    pub state: &'static str,
    pub looks: u32,
}

impl Version {
    pub(super) fn new(algorithm: &str, looks: u32) -> Self {
        let key = Key::generate(match algorithm {
            "EC_SIGN_P256_SHA256" => "ec-p256",
            "EC_SIGN_P384_SHA384" => "ec-p384",
            "RSA_SIGN_PKCS1_4096_SHA256" => "4096",
            _ => "2048",
        });
        let state = if looks == 0 { "ENABLED" } else { "PENDING_GENERATION" };
        Self { key, algorithm: algorithm.to_owned(), state, looks }
    }
}

pub(super) fn reply(
    state: &mut Kms,
    method: &str,
    resource: &str,
    query: &BTreeMap<String, String>,
    body: &Value,
    damaged: bool,
) -> Reply {
    let Some(rest) =
        resource.strip_prefix(KEY_RING).and_then(|rest| rest.strip_prefix("/cryptoKeys"))
    else {
        return failure(403, "PERMISSION_DENIED", "denied, or it does not exist");
    };
    let generation = state.generation;
    let Some(rest) = rest.strip_prefix('/') else {
        return match method {
            "GET" => list_keys(state, query),
            "POST" => create_key(state, query, body, generation),
            _ => not_found(),
        };
    };
    let (id, rest) = rest.split_once(['/', ':']).unwrap_or((rest, ""));
    let is_verb = resource.contains(&format!("{id}:"));
    let Some(key) = state.keys.get_mut(id) else { return not_found() };
    match (method, rest, is_verb) {
        ("PATCH", "", false) => {
            let mask = query.get("updateMask").map_or("", String::as_str);
            match (mask, &body["labels"], body["versionTemplate"]["algorithm"].as_str()) {
                ("labels", Value::Object(labels), None) => {
                    let text = |value: &Value| value.as_str().map(str::to_owned);
                    key.labels = labels
                        .iter()
                        .map(|(name, value)| (name.clone(), text(value).expect("text")))
                        .collect();
                }
                ("versionTemplate.algorithm", Value::Null, Some(algorithm)) => {
                    key.algorithm = algorithm.to_owned();
                }
                _ => return invalid("updateMask and body do not fit"),
            }
            Reply::new(200, shown_key(id, key))
        }
        ("GET", "getIamPolicy", true)
            if query.get("options.requestedPolicyVersion").is_some_and(|v| v == "3") =>
        {
            Reply::new(200, key.policy.clone())
        }
        ("POST", "setIamPolicy", true) => {
            key.policy = body["policy"].clone();
            key.policy["etag"] = "BwWWja0YfJA=".into();
            Reply::new(200, key.policy.clone())
        }
        ("GET", "cryptoKeyVersions", false) => {
            let only_enabled = match query.get("filter").map(String::as_str) {
                None => false,
                Some("state = ENABLED") => true,
                Some(_) => return invalid("the filter is not understood"),
            };
            let all = key.versions.iter().enumerate();
            let found = all.filter(|(_, version)| !only_enabled || version.state == "ENABLED");
            let items: Vec<_> = found.map(|(at, v)| shown_version(id, at, v)).collect();
            paged("cryptoKeyVersions", items, query)
        }
        ("POST", "cryptoKeyVersions", false) => {
            let version = Version::new(&key.algorithm, generation);
            let shown = shown_version(id, key.versions.len(), &version);
            key.versions.push(version);
            Reply::new(200, shown)
        }
        _ => match rest.strip_prefix("cryptoKeyVersions/") {
            Some(rest) => on_version(method, id, key, rest, body, damaged),
            None => not_found(),
        },
    }
}

fn on_version(
    method: &str,
    id: &str,
    key: &mut CryptoKey,
    rest: &str,
    body: &Value,
    damaged: bool,
) -> Reply {
    let (number, verb) = rest.split_once(['/', ':']).unwrap_or((rest, ""));
    let at = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    let Some((at, version)) = at.and_then(|at| Some((at, key.versions.get_mut(at)?))) else {
        return not_found();
    };
    let name = format!("{KEY_RING}/cryptoKeys/{id}/cryptoKeyVersions/{}", at + 1);
    match (method, verb) {
        ("GET", "") => {
            version.looks = version.looks.saturating_sub(1);
            if version.looks == 0 && version.state == "PENDING_GENERATION" {
                version.state = "ENABLED";
            }
            Reply::new(200, shown_version(id, at, version))
        }
        _ if version.state != "ENABLED" => failure(
            400,
            "FAILED_PRECONDITION",
            &format!("{name} is not enabled, current state is: {}.", version.state),
        ),
        ("GET", "publicKey") => {
            let pem = pem("PUBLIC KEY", &version.key.spki());
            let crc = CRC32C.checksum(pem.as_bytes());
            let pem = if damaged { pem.replacen('E', "F", 1) } else { pem };
            Reply::new(
                200,
                json!({
                    "pem": pem,
                    "algorithm": version.algorithm,
                    "pemCrc32c": crc.to_string(),
                    "name": name,
                    "protectionLevel": "SOFTWARE",
                }),
            )
        }
        ("POST", "asymmetricSign") => {
            let wanted = match &*version.algorithm {
                "EC_SIGN_P384_SHA384" => "sha384",
                _ => "sha256",
            };
            let given = body["digest"][wanted].as_str().unwrap_or_default();
            let bytes = STANDARD.decode(given).unwrap_or_default();
            let length = if wanted == "sha384" { 48 } else { 32 };
            let crc = body["digestCrc32c"].as_str().and_then(|text| text.parse::<u32>().ok());
            if bytes.len() != length || crc.is_some_and(|crc| crc != CRC32C.checksum(&bytes)) {
                return invalid("the digest does not fit the key or its checksum");
            }
            let mut signature = version.key.sign(&bytes, false, false);
            let signed_crc = CRC32C.checksum(&signature);
            if damaged && let Some(last) = signature.last_mut() {
                *last ^= 1;
            }
            Reply::new(
                200,
                json!({
                    "signature": STANDARD.encode(&signature),
                    "signatureCrc32c": signed_crc.to_string(),
                    "verifiedDigestCrc32c": crc.is_some(),
                    "name": name,
                    "protectionLevel": "SOFTWARE",
                }),
            )
        }
        ("POST", "destroy") => {
            version.state = "DESTROY_SCHEDULED";
            Reply::new(200, shown_version(id, at, version))
        }
        _ => not_found(),
    }
}

fn create_key(
    state: &mut Kms,
    query: &BTreeMap<String, String>,
    body: &Value,
    generation: u32,
) -> Reply {
    let id = query.get("cryptoKeyId").cloned().unwrap_or_default();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    if id.is_empty() || id.len() > 63 || !id.bytes().all(allowed) {
        return invalid("cryptoKeyId must match [a-zA-Z0-9_-]{1,63}");
    }
    if state.keys.contains_key(&id) {
        return failure(409, "ALREADY_EXISTS", &format!("CryptoKey {id} already exists."));
    }
    let algorithm = body["versionTemplate"]["algorithm"].as_str().unwrap_or_default();
    let (Some(labels), "ASYMMETRIC_SIGN") =
        (body["labels"].as_object(), body["purpose"].as_str().unwrap_or_default())
    else {
        return invalid("a purpose is missing");
    };
    let value = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
    let labels: BTreeMap<_, _> = labels
        .iter()
        .map(|(name, text)| (name.clone(), text.as_str().unwrap_or_default().to_owned()))
        .collect();
    if labels.values().any(|text| text.len() > 63 || !text.bytes().all(value)) {
        return invalid("a label has a value that no label can have");
    }
    let mut key = CryptoKey {
        labels,
        algorithm: algorithm.to_owned(),
        policy: json!({ "etag": "ACAB" }),
        versions: Vec::new(),
    };
    key.versions.push(Version::new(algorithm, generation));
    let shown = shown_key(&id, &key);
    state.keys.insert(id, key);
    Reply::new(200, shown)
}

fn list_keys(state: &Kms, query: &BTreeMap<String, String>) -> Reply {
    let filter = query.get("filter").map_or("", String::as_str);
    let mut conditions = Vec::new();
    for condition in filter.split(" AND ").filter(|text| !text.is_empty()) {
        let words: Vec<_> = condition.split(' ').collect();
        let [label, operator, value] = words[..] else { return invalid("the filter is no filter") };
        let Some(label) = label.strip_prefix("labels.") else { return invalid("no label") };
        conditions.push((label, operator, value));
    }
    let fits = |key: &CryptoKey| {
        conditions.iter().all(|(label, operator, value)| {
            let found = key.labels.get(*label);
            match *operator {
                "=" => found.is_some_and(|found| found == value),
                "!=" => found.is_none_or(|found| found != value),
                "<" => found.is_some_and(|found| found.as_str() < *value),
                _ => false,
            }
        })
    };
    let found = state.keys.iter().filter(|(_, key)| fits(key));
    paged("cryptoKeys", found.map(|(id, key)| shown_key(id, key)).collect(), query)
}

fn shown_key(id: &str, key: &CryptoKey) -> Value {
    json!({
        "name": format!("{KEY_RING}/cryptoKeys/{id}"),
        "purpose": "ASYMMETRIC_SIGN",
        "createTime": "2026-01-01T00:00:00Z",
        "versionTemplate": { "protectionLevel": "SOFTWARE", "algorithm": key.algorithm },
        "labels": key.labels,
    })
}

fn shown_version(id: &str, at: usize, version: &Version) -> Value {
    json!({
        "name": format!("{KEY_RING}/cryptoKeys/{id}/cryptoKeyVersions/{}", at + 1),
        "state": version.state,
        "protectionLevel": "SOFTWARE",
        "algorithm": version.algorithm,
        "createTime": "2026-01-01T00:00:00Z",
        "digest": STANDARD.encode(digest(&SHA256, &version.key.spki())),
    })
}
