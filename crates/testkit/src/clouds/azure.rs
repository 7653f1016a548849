//! Microsoft Azure: tokens of Entra ID and of the instance metadata service, Key Vault (REST, 7.4).
//!
//! Written after the reference of Key Vault 7.4, of the client credentials flow of the Microsoft
//! identity platform and of the instance metadata service: paths, required parameters, numbers of
//! JWKs, failures.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::hmac;
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

use super::{Fault, Faults, Key, form, lock, query, random};
use crate::{Asked, FakeHttp, Reply};

const TENANT: &str = "11111111-2222-3333-4444-555555555555";
const CLIENT: &str = "66666666-7777-8888-9999-000000000000";
const STORAGE_KEY: &[u8] = b"a key of the storage account, 64 bytes long or nearly so, perhaps";
const SECRET: &str = "application-secret";
const RESOURCES: [&str; 2] = ["https://vault.azure.net", "https://storage.azure.com"];
/// How many items a page has at most: few, so that there are pages.
const PAGE: usize = 2;

/// Azure in this process.
pub struct FakeAzure {
    /// Where it is.
    pub port: u16,
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    port: Mutex<u16>,
    faults: Faults,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// With the service that each is for.
    tokens: BTreeSet<(String, String)>,
    asked: Vec<String>,
    keys: BTreeMap<String, Held>,
    /// Seconds since 1970; unset, those of the machine.
    now: Option<i64>,
    /// By container and name, with the media type.
    blobs: BTreeMap<String, (String, String)>,
}

struct Held {
    tags: BTreeMap<String, String>,
    enabled: bool,
    updated: i64,
    versions: Vec<Version>,
}

struct Version {
    id: String,
    key: Key,
    kind: Value,
    created: i64,
}

impl FakeAzure {
    /// Starts it, without keys.
    pub fn start() -> Self {
        let inner = Arc::new(Inner::default());
        let shared = Arc::clone(&inner);
        let http = FakeHttp::replying(move |asked| {
            lock(&shared.state).asked.push(format!("{} {}", asked.method, asked.target));
            shared.faults.answer(asked, |damaged| shared.reply(asked, damaged))
        });
        *lock(&inner.port) = http.port;
        Self { port: http.port, inner }
    }

    /// Its URL: that of the vault, of who gives tokens, and of the metadata service.
    pub fn url(&self) -> String {
        self.inner.url()
    }

    /// The tenant's ID, the application's and its secret.
    pub fn application(&self) -> (&'static str, &'static str, &'static str) {
        (TENANT, CLIENT, SECRET)
    }

    /// Writes the file with the token of workload identity.
    pub fn token_file(&self, dir: &Path) -> PathBuf {
        let path = dir.join("token");
        std::fs::write(&path, "federated-token\n").expect("a file");
        path
    }

    /// After `skip` requests whose method and target contain `part`, `count` more go wrong.
    pub fn fault(&self, part: &str, skip: usize, count: usize, fault: Fault) {
        self.inner.faults.add(part, skip, count, fault);
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        self.inner.faults.clear();
    }

    /// All tokens that were given are refused from now on.
    pub fn revoke_tokens(&self) {
        lock(&self.inner.state).tokens.clear();
    }

    /// Sets the service's clock, seconds since 1970.
    pub fn set_now(&self, now: i64) {
        lock(&self.inner.state).now = Some(now);
    }

    /// Method and target of everything that was asked.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.inner.state).asked.clone()
    }

    /// The names of all keys, and how many versions each has.
    pub fn keys(&self) -> BTreeMap<String, usize> {
        let state = lock(&self.inner.state);
        state.keys.iter().map(|(name, key)| (name.clone(), key.versions.len())).collect()
    }

    /// The tags of a key.
    pub fn tags(&self, name: &str) -> BTreeMap<String, String> {
        lock(&self.inner.state).keys.get(name).map(|key| key.tags.clone()).unwrap_or_default()
    }

    /// When a key was last updated, seconds since 1970.
    pub fn updated(&self, name: &str) -> i64 {
        lock(&self.inner.state).keys.get(name).map(|key| key.updated).unwrap_or_default()
    }

    /// Puts an EC P-256 key there that was last updated then, as another server does.
    pub fn put_key(&self, name: &str, tags: &[(&str, &str)], updated: i64) {
        let tags = tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let version = Version::new(json!({ "kty": "EC", "crv": "P-256" }), updated);
        let held = Held { tags: tags.collect(), enabled: true, updated, versions: vec![version] };
        lock(&self.inner.state).keys.insert(name.to_owned(), held);
    }

    /// A key of the storage account `account1`.
    pub fn storage_key(&self) -> String {
        STANDARD.encode(STORAGE_KEY)
    }

    /// A blob, `container/name`: its media type and its content.
    pub fn blob(&self, name: &str) -> Option<(String, String)> {
        lock(&self.inner.state).blobs.get(name).cloned()
    }

    /// Disables a key, or enables it.
    pub fn enable(&self, name: &str, enabled: bool) {
        lock(&self.inner.state).keys.get_mut(name).expect("a key").enabled = enabled;
    }
}

impl std::fmt::Debug for FakeAzure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FakeAzure({})", self.port)
    }
}

impl State {
    fn now(&self) -> i64 {
        let machine = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
        self.now.unwrap_or_else(|| machine() as i64)
    }
}

impl Version {
    fn new(kind: Value, created: i64) -> Self {
        let key = Key::generate(match (&kind["crv"], &kind["key_size"]) {
            (Value::String(curve), _) if curve == "P-384" => "ec-p384",
            (Value::String(_), _) => "ec-p256",
            (_, size) if size == 4096 => "4096",
            _ => "2048",
        });
        let id = random().iter().map(|byte| format!("{byte:02x}")).collect();
        Self { id, key, kind, created }
    }
}

impl Inner {
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", lock(&self.port))
    }

    fn reply(&self, asked: &Asked, damaged: bool) -> Reply {
        let (path, query) = query(&asked.target);
        match (&*asked.method, &*path) {
            ("POST", path) if path == format!("/{TENANT}/oauth2/v2.0/token") => {
                return self.token(asked);
            }
            ("GET", "/metadata/identity/oauth2/token") => return self.metadata(asked, &query),
            _ => {}
        }
        if asked.method == "PUT" {
            return self.put_blob(asked, &path);
        }
        let bearer = asked.header("authorization").and_then(|text| text.strip_prefix("Bearer "));
        let is_known = bearer.is_some_and(|token| {
            lock(&self.state).tokens.contains(&(token.to_owned(), RESOURCES[0].to_owned()))
        });
        if !is_known {
            return failure(401, "Unauthorized", "AKV10000: Request is missing a Bearer token.")
                .header(
                    "WWW-Authenticate",
                    format!(
                        "Bearer authorization=\"{}/{TENANT}\", resource=\"{}\"",
                        self.url(),
                        RESOURCES[0]
                    ),
                );
        }
        if query.get("api-version").is_none_or(|version| version != "7.4") {
            return failure(400, "BadParameter", "api-version must be specified");
        }
        let body = match (asked.body.is_empty(), serde_json::from_slice(&asked.body)) {
            (true, _) => Value::Null,
            (false, Ok(json)) if asked.header("content-type") == Some("application/json") => json,
            _ => return failure(400, "BadParameter", "the body is no JSON"),
        };
        let parts: Vec<_> = path.trim_start_matches('/').split('/').collect();
        let mut state = lock(&self.state);
        match (&*asked.method, &parts[..]) {
            ("GET", ["keys"]) => list(asked, &state, &query),
            ("POST", ["keys", name, "create"]) => self.create(&mut state, name, &body),
            ("GET", ["keys", name]) => match state.keys.get(*name) {
                Some(held) => self.shown(name, held, held.versions.last()),
                None => not_found(name),
            },
            ("DELETE", ["keys", name]) => match state.keys.remove(*name) {
                Some(held) => self.shown(name, &held, held.versions.last()),
                None => not_found(name),
            },
            ("PATCH", ["keys", name, version]) => {
                let now = state.now();
                match state.keys.get_mut(*name) {
                    Some(held) if held.versions.iter().any(|v| v.id == *version) => {
                        held.updated = now;
                        self.shown(name, held, held.versions.last())
                    }
                    _ => not_found(name),
                }
            }
            ("POST", ["keys", name, version, "sign"]) => {
                let held = state.keys.get(*name);
                let found = held.and_then(|h| h.versions.iter().find(|v| v.id == *version));
                match found {
                    Some(found) => self.sign(name, found, &body, damaged),
                    None => not_found(name),
                }
            }
            _ => failure(404, "NotFound", "no such path"),
        }
    }

    fn new_token(&self, resource: &str) -> String {
        let token = format!("eyJ.{}", URL_SAFE_NO_PAD.encode(random()));
        lock(&self.state).tokens.insert((token.clone(), resource.to_owned()));
        token
    }

    fn token(&self, asked: &Asked) -> Reply {
        let form = form(&String::from_utf8_lossy(&asked.body));
        let field = |name: &str| form.get(name).map_or("", String::as_str);
        let refused = |code: &str, why: &str| {
            Reply::new(401, json!({ "error": code, "error_description": why }))
        };
        let assertion = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        let proven = field("client_secret") == SECRET
            || (field("client_assertion_type") == assertion
                && field("client_assertion") == "federated-token");
        if field("grant_type") != "client_credentials" || field("client_id") != CLIENT || !proven {
            return refused("invalid_client", "AADSTS7000215: Invalid client secret provided.");
        }
        let scope = field("scope").strip_suffix("/.default").unwrap_or_default().to_owned();
        if !RESOURCES.contains(&&*scope) {
            return refused("invalid_scope", "AADSTS70011: The provided scope is not valid.");
        }
        let token = self.new_token(&scope);
        Reply::new(
            200,
            json!({ "token_type": "Bearer", "expires_in": 3599, "access_token": token }),
        )
    }

    fn metadata(&self, asked: &Asked, query: &BTreeMap<String, String>) -> Reply {
        let resource = query.get("resource").map_or("", String::as_str);
        let good = asked.header("metadata") == Some("true")
            && query.get("api-version").is_some_and(|version| version == "2018-02-01")
            && query.get("client_id").is_none_or(|id| id == CLIENT)
            && RESOURCES.contains(&resource);
        if !good {
            return Reply::new(400, json!({ "error": "invalid_request" }));
        }
        // Its numbers are text.
        let token = self.new_token(resource);
        Reply::new(
            200,
            json!({
                "access_token": token,
                "expires_in": "3599",
                "expires_on": "4070908800",
                "resource": resource,
                "token_type": "Bearer",
            }),
        )
    }

    /// By a token for storage, or "Shared Key".
    fn put_blob(&self, asked: &Asked, path: &str) -> Reply {
        let header = |name: &str| asked.header(name).unwrap_or_default().to_owned();
        let authorization = header("authorization");
        let known = match authorization.split_once(' ') {
            Some(("Bearer", token)) => {
                let token = (token.to_owned(), RESOURCES[1].to_owned());
                lock(&self.state).tokens.contains(&token)
            }
            Some(("SharedKey", given)) => {
                // Headers that are not there are empty lines.
                let names = [
                    "content-encoding",
                    "content-language",
                    "content-length",
                    "content-md5",
                    "content-type",
                    "date",
                    "if-modified-since",
                    "if-match",
                    "if-none-match",
                    "if-unmodified-since",
                    "range",
                ];
                let mut text = "PUT\n".to_owned();
                for name in names {
                    let value = header(name);
                    // Nothing stands for a length of 0.
                    let value = if name == "content-length" && value == "0" { "" } else { &value };
                    text.push_str(&format!("{value}\n"));
                }
                let mut special: Vec<_> = asked
                    .headers
                    .iter()
                    .filter_map(|line| line.split_once(':'))
                    .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
                    .filter(|(name, _)| name.starts_with("x-ms-"))
                    .collect();
                special.sort();
                for (name, value) in special {
                    text.push_str(&format!("{name}:{value}\n"));
                }
                text.push_str(&format!("/account1{}", asked.target));
                let key = hmac::Key::new(hmac::HMAC_SHA256, STORAGE_KEY);
                let sum = hmac::sign(&key, text.as_bytes());
                given == format!("account1:{}", STANDARD.encode(sum.as_ref()))
            }
            _ => false,
        };
        let xml = |code: &str| {
            format!(
                "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>"
            )
        };
        if !known {
            return Reply::new(403, xml("AuthenticationFailed"));
        }
        let date = header("x-ms-date");
        if header("x-ms-blob-type") != "BlockBlob"
            || header("x-ms-version").len() != 10
            || !date.ends_with(" GMT")
            || date.len() != 29
        {
            return Reply::new(400, xml("MissingRequiredHeader"));
        }
        let name = path.trim_start_matches('/');
        if !name.starts_with("container1/") {
            return Reply::new(404, xml("ContainerNotFound"));
        }
        let text = String::from_utf8_lossy(&asked.body).into_owned();
        let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned();
        lock(&self.state).blobs.insert(name, (header("content-type"), text));
        Reply::new(201, "")
    }

    fn create(&self, state: &mut State, name: &str, body: &Value) -> Reply {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        let operations = json!(["sign", "verify"]);
        let known = match body["kty"].as_str() {
            Some("EC") => matches!(body["crv"].as_str(), Some("P-256" | "P-384")),
            Some("RSA") => matches!(body["key_size"].as_u64(), Some(2048 | 4096)),
            _ => false,
        };
        let fits = !name.is_empty() && name.len() <= 127 && name.bytes().all(allowed);
        if !fits || !known || body["key_ops"] != operations {
            return failure(400, "BadParameter", "Property has invalid value");
        }
        let tags = body["tags"].as_object().cloned().unwrap_or_default();
        let tags = tags.into_iter().map(|(k, v)| (k, v.as_str().unwrap_or_default().to_owned()));
        let now = state.now();
        let held = state.keys.entry(name.to_owned()).or_insert_with(|| Held {
            tags: BTreeMap::new(),
            enabled: true,
            updated: now,
            versions: Vec::new(),
        });
        held.tags = tags.collect();
        held.updated = now;
        held.versions.push(Version::new(body.clone(), now));
        self.shown(name, held, held.versions.last())
    }

    fn sign(&self, name: &str, version: &Version, body: &Value, damaged: bool) -> Reply {
        let alg = body["alg"].as_str().unwrap_or_default();
        let value = body["value"].as_str().unwrap_or_default();
        let digest = URL_SAFE_NO_PAD.decode(value).unwrap_or_default();
        let is_ec = version.kind["kty"] == "EC";
        let fits = match (alg, is_ec) {
            ("ES256", true) => version.kind["crv"] == "P-256",
            ("ES384", true) => version.kind["crv"] == "P-384",
            ("RS256" | "RS384" | "RS512" | "PS256" | "PS384" | "PS512", false) => true,
            _ => false,
        };
        let bits = alg.get(2..).and_then(|bits| bits.parse::<usize>().ok()).unwrap_or(0);
        if !fits || digest.len() * 8 != bits {
            return failure(400, "BadParameter", "the algorithm does not fit key and value");
        }
        let mut signature = version.key.sign(&digest, true, alg.starts_with("PS"));
        if damaged && let Some(last) = signature.last_mut() {
            *last ^= 1;
        }
        let kid = format!("{}/keys/{name}/{}", self.url(), version.id);
        Reply::new(200, json!({ "kid": kid, "value": URL_SAFE_NO_PAD.encode(signature) }))
    }

    fn shown(&self, name: &str, held: &Held, version: Option<&Version>) -> Reply {
        let Some(version) = version else { return not_found(name) };
        let (first, second) = version.key.numbers();
        let (first, second) = (URL_SAFE_NO_PAD.encode(first), URL_SAFE_NO_PAD.encode(second));
        let mut key = json!({
            "kid": format!("{}/keys/{name}/{}", self.url(), version.id),
            "kty": version.kind["kty"],
            "key_ops": ["sign", "verify"],
        });
        match version.kind["crv"].as_str() {
            Some(curve) => {
                key["crv"] = curve.into();
                key["x"] = first.into();
                key["y"] = second.into();
            }
            None => {
                key["n"] = first.into();
                key["e"] = second.into();
            }
        }
        let attributes = attributes(held, Some(version));
        Reply::new(200, json!({ "key": key, "attributes": attributes, "tags": held.tags }))
    }
}

/// The next page is where the request came to, which may be a way to here.
fn list(asked: &Asked, state: &State, query: &BTreeMap<String, String>) -> Reply {
    let url = format!("http://{}", asked.header("host").unwrap_or_default());
    let begin = query.get("$skiptoken").and_then(|token| token.parse().ok()).unwrap_or(0);
    let page = state.keys.iter().skip(begin).take(PAGE).map(|(name, held)| {
        json!({
            "kid": format!("{url}/keys/{name}"),
            "attributes": attributes(held, held.versions.first()),
            "tags": held.tags,
        })
    });
    let next = (begin + PAGE < state.keys.len())
        .then(|| format!("{url}/keys?api-version=7.4&$skiptoken={}", begin + PAGE));
    Reply::new(200, json!({ "value": page.collect::<Vec<_>>(), "nextLink": next }))
}

fn attributes(held: &Held, version: Option<&Version>) -> Value {
    json!({
        "enabled": held.enabled,
        "created": version.map(|version| version.created),
        "updated": held.updated,
        "recoveryLevel": "Recoverable+Purgeable",
    })
}

fn failure(status: u16, code: &str, message: &str) -> Reply {
    Reply::new(status, json!({ "error": { "code": code, "message": message } }))
}

fn not_found(name: &str) -> Reply {
    failure(
        404,
        "KeyNotFound",
        &format!("A key with (name/id) {name} was not found in this key vault."),
    )
}
