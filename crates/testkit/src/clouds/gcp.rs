//! Google Cloud: tokens, the metadata server, Cloud KMS (REST, v1).
//!
//! Written after the reference of Cloud KMS v1, of service accounts' JWTs (RFC 7523), of token
//! exchange (RFC 8693) and of the metadata server: paths, required parameters, names of states and
//! failures, numbers as text.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use crc::{CRC_32_ISCSI, Crc};
use serde_json::{Value, json};

use super::{
    Fault, Faults, Key,
    cas::{self, Cas},
    form, lock, pem, query, random,
};
use crate::{Asked, FakeHttp, Reply};

/// The key ring that is there.
pub const KEY_RING: &str = "projects/p-1/locations/europe-west1/keyRings/signet";
const EMAIL: &str = "signet@p-1.iam.gserviceaccount.com";
const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
/// How many items a page has at most: few, so that there are pages.
const PAGE: usize = 3;

/// Google Cloud in this process.
pub struct FakeGcp {
    /// Where it is.
    pub port: u16,
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    port: Mutex<u16>,
    faults: Faults,
    state: Mutex<State>,
    account: Mutex<Option<Arc<Key>>>,
}

#[derive(Default)]
struct State {
    tokens: BTreeSet<String>,
    asked: Vec<String>,
    keys: BTreeMap<String, CryptoKey>,
    /// How often a new version is looked at before it is there.
    generation: u32,
    /// By bucket and name, with the media type.
    objects: BTreeMap<String, (String, String)>,
    cas: Cas,
}

struct CryptoKey {
    labels: BTreeMap<String, String>,
    algorithm: String,
    policy: Value,
    versions: Vec<Version>,
}

struct Version {
    key: Key,
    algorithm: String,
    state: &'static str,
    looks: u32,
}

impl FakeGcp {
    /// Starts it, without keys.
    pub fn start() -> Self {
        static ACCOUNT: LazyLock<Arc<Key>> = LazyLock::new(|| Arc::new(Key::generate("2048")));
        Self::with_account(Arc::clone(&ACCOUNT))
    }

    /// Starts another one, whose service account has another key.
    pub fn strange() -> Self {
        Self::with_account(Arc::new(Key::generate("2048")))
    }

    fn with_account(account: Arc<Key>) -> Self {
        let inner = Arc::new(Inner::default());
        *lock(&inner.account) = Some(account);
        let shared = Arc::clone(&inner);
        let http = FakeHttp::replying(move |asked| {
            lock(&shared.state).asked.push(format!("{} {}", asked.method, asked.target));
            shared.faults.answer(asked, |damaged| shared.reply(asked, damaged))
        });
        *lock(&inner.port) = http.port;
        Self { port: http.port, inner }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        self.inner.url()
    }

    /// Writes the file of a service account's key.
    pub fn service_account_file(&self, dir: &Path) -> PathBuf {
        let key = lock(&self.inner.account).as_ref().map(|key| key.pem()).expect("a key");
        let path = dir.join("account.json");
        let json = json!({
            "type": "service_account",
            "client_email": EMAIL,
            "private_key_id": "key-1",
            "private_key": key,
            "token_uri": format!("{}/token", self.url()),
        });
        std::fs::write(&path, json.to_string()).expect("a file");
        path
    }

    /// Writes the files of workload identity federation: the subject token `subject` in one of them,
    /// and on request for a service account.
    pub fn external_account_file(&self, dir: &Path, impersonate: bool) -> PathBuf {
        let (path, subject) = (dir.join("external.json"), dir.join("subject.json"));
        std::fs::write(&subject, r#"{"id_token":"subject"}"#).expect("a file");
        let mut json = json!({
            "type": "external_account",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": format!("{}/exchange", self.url()),
            "credential_source": {
                "file": subject,
                "format": { "type": "json", "subject_token_field_name": "id_token" },
            },
        });
        if impersonate {
            let url =
                format!("{}/v1/projects/-/serviceAccounts/{EMAIL}:generateAccessToken", self.url());
            json["service_account_impersonation_url"] = url.into();
        }
        std::fs::write(&path, json.to_string()).expect("a file");
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

    /// New versions are looked at that often before they are there.
    pub fn generate_slowly(&self, looks: u32) {
        lock(&self.inner.state).generation = looks;
    }

    /// Method and target of everything that was asked.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.inner.state).asked.clone()
    }

    /// The states of all versions, by the ID of their CryptoKey.
    pub fn versions(&self) -> BTreeMap<String, Vec<&'static str>> {
        let state = lock(&self.inner.state);
        let states = |key: &CryptoKey| key.versions.iter().map(|version| version.state).collect();
        state.keys.iter().map(|(id, key)| (id.clone(), states(key))).collect()
    }

    /// How many versions are enabled or in the making.
    pub fn alive(&self) -> usize {
        let all = self.versions();
        all.values().flatten().filter(|state| !state.starts_with("DESTROY")).count()
    }

    /// The labels of a CryptoKey.
    pub fn labels(&self, id: &str) -> BTreeMap<String, String> {
        lock(&self.inner.state).keys.get(id).map(|key| key.labels.clone()).unwrap_or_default()
    }

    /// Sets a label, as an operator or another server does.
    pub fn set_label(&self, id: &str, name: &str, value: &str) {
        let mut state = lock(&self.inner.state);
        let key = state.keys.get_mut(id).expect("a CryptoKey");
        key.labels.insert(name.to_owned(), value.to_owned());
    }

    /// The IAM policy of a CryptoKey.
    pub fn policy(&self, id: &str) -> Value {
        lock(&self.inner.state).keys.get(id).map(|key| key.policy.clone()).unwrap_or_default()
    }

    /// Puts a CryptoKey with one enabled version there, as another server does.
    pub fn put_key(&self, id: &str, labels: &[(&str, &str)], algorithm: &str) {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut key = CryptoKey {
            labels: labels.collect(),
            algorithm: algorithm.to_owned(),
            policy: json!({}),
            versions: Vec::new(),
        };
        key.versions.push(Version::new(algorithm, 0));
        lock(&self.inner.state).keys.insert(id.to_owned(), key);
    }

    /// An object of Cloud Storage, `bucket/name`: its media type and its content.
    pub fn object(&self, name: &str) -> Option<(String, String)> {
        lock(&self.inner.state).objects.get(name).cloned()
    }

    /// Makes an authority of Certificate Authority Service in a pool, below a root of its own on
    /// request; its root, DER.
    pub fn put_authority(
        &self,
        pool: &str,
        id: &str,
        label: (&str, &str),
        state: &str,
        years: u32,
        below_root: bool,
    ) -> Vec<u8> {
        lock(&self.inner.state).cas.put(pool, id, label, state, years, below_root)
    }

    /// Adds an enabled version, as a server does that is stopped after that.
    pub fn put_version(&self, id: &str) {
        let mut state = lock(&self.inner.state);
        let key = state.keys.get_mut(id).expect("a CryptoKey");
        let version = Version::new(&key.algorithm, 0);
        key.versions.push(version);
    }
}

impl std::fmt::Debug for FakeGcp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FakeGcp({})", self.port)
    }
}

impl Version {
    fn new(algorithm: &str, looks: u32) -> Self {
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

impl Inner {
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", lock(&self.port))
    }

    fn reply(&self, asked: &Asked, damaged: bool) -> Reply {
        let (path, query) = query(&asked.target);
        match (&*asked.method, &*path) {
            ("POST", "/token") => return self.token(asked),
            ("POST", "/exchange") => return self.exchange(asked),
            ("GET", path) if path.starts_with("/computeMetadata/") => {
                return self.metadata(asked, path);
            }
            _ => {}
        }
        let bearer = asked.header("authorization").and_then(|text| text.strip_prefix("Bearer "));
        let Some(bearer) = bearer.filter(|token| lock(&self.state).tokens.contains(*token)) else {
            return failure(401, "UNAUTHENTICATED", "Request had invalid credentials.");
        };
        if let Some(bucket) = path.strip_prefix("/upload/storage/v1/b/") {
            return self.upload(asked, bucket.strip_suffix("/o").unwrap_or_default(), &query);
        }
        let Some(resource) = path.strip_prefix("/v1/") else { return not_found() };
        if let Some(account) = resource.strip_suffix(":generateAccessToken") {
            let body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
            let good = account.ends_with(EMAIL) && bearer.starts_with("federated");
            if !good || body["scope"][0] != "https://www.googleapis.com/auth/cloud-platform" {
                return failure(403, "PERMISSION_DENIED", "not that account");
            }
            let token = self.new_token("ya29");
            return Reply::new(
                200,
                json!({ "accessToken": token, "expireTime": "2099-01-01T00:00:00Z" }),
            );
        }
        let body = match (asked.body.is_empty(), serde_json::from_slice(&asked.body)) {
            (true, _) => Value::Null,
            (false, Ok(json)) if asked.header("content-type") == Some("application/json") => json,
            _ => return failure(400, "INVALID_ARGUMENT", "Invalid JSON payload received."),
        };
        if resource.contains("/caPools") {
            return cas::reply(&mut lock(&self.state).cas, &asked.method, resource, &query, &body);
        }
        kms(&mut lock(&self.state), &asked.method, resource, &query, &body, damaged)
    }

    fn new_token(&self, kind: &str) -> String {
        let token = format!("{kind}.{}", URL_SAFE_NO_PAD.encode(random()));
        lock(&self.state).tokens.insert(token.clone());
        token
    }

    /// A JWT of the service account for an access token.
    fn token(&self, asked: &Asked) -> Reply {
        let refused = |why: &str| {
            Reply::new(400, json!({ "error": "invalid_grant", "error_description": why }))
        };
        let form = form(&String::from_utf8_lossy(&asked.body));
        if form
            .get("grant_type")
            .is_none_or(|kind| kind != "urn:ietf:params:oauth:grant-type:jwt-bearer")
        {
            return refused("unsupported grant type");
        }
        let Some((signed, signature)) = form.get("assertion").and_then(|jwt| jwt.rsplit_once('.'))
        else {
            return refused("no assertion");
        };
        let account = lock(&self.account);
        let Some(Key::Rsa(key)) = account.as_deref() else { return refused("no account") };
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key().as_ref());
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap_or_default();
        if public.verify(signed.as_bytes(), &signature).is_err() {
            return refused("Invalid JWT Signature.");
        }
        let part = |text: &str| -> Value {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap_or_default())
                .unwrap_or_default()
        };
        let (head, claims) = signed.split_once('.').unwrap_or_default();
        let (head, claims) = (part(head), part(claims));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs() as i64;
        let (begin, end) =
            (claims["iat"].as_i64().unwrap_or(0), claims["exp"].as_i64().unwrap_or(0));
        let good = head["alg"] == "RS256"
            && head["kid"] == "key-1"
            && claims["iss"] == EMAIL
            && claims["aud"] == format!("{}/token", self.url())
            && claims["scope"] == "https://www.googleapis.com/auth/cloud-platform"
            && (now - 300..=now + 300).contains(&begin)
            && end > now
            && end - begin <= 3600;
        if !good {
            return refused("Invalid JWT");
        }
        let token = self.new_token("ya29");
        Reply::new(
            200,
            json!({ "access_token": token, "expires_in": 3599, "token_type": "Bearer" }),
        )
    }

    fn exchange(&self, asked: &Asked) -> Reply {
        let body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
        let good = body["grant_type"] == "urn:ietf:params:oauth:grant-type:token-exchange"
            && body["requested_token_type"] == "urn:ietf:params:oauth:token-type:access_token"
            && body["subject_token_type"] == "urn:ietf:params:oauth:token-type:jwt"
            && body["audience"].as_str().is_some_and(|a| a.starts_with("//iam.googleapis.com/"))
            && body["subject_token"] == "subject";
        if !good {
            return Reply::new(400, json!({ "error": "invalid_grant" }));
        }
        let token = self.new_token("federated");
        Reply::new(
            200,
            json!({
                "access_token": token,
                "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
                "expires_in": 3599,
                "token_type": "Bearer",
            }),
        )
    }

    fn upload(&self, asked: &Asked, bucket: &str, query: &BTreeMap<String, String>) -> Reply {
        let name = query.get("name").cloned().unwrap_or_default();
        if asked.method != "POST" || query.get("uploadType").is_none_or(|kind| kind != "media") {
            return not_found();
        }
        if bucket != "bucket-1" || name.is_empty() {
            return failure(404, "notFound", "The specified bucket does not exist.");
        }
        let sum = STANDARD.encode(CRC32C.checksum(&asked.body).to_be_bytes());
        let text = String::from_utf8_lossy(&asked.body).into_owned();
        let media = asked.header("content-type").unwrap_or_default().to_owned();
        lock(&self.state).objects.insert(format!("{bucket}/{name}"), (media.clone(), text));
        Reply::new(
            200,
            json!({
                "kind": "storage#object",
                "bucket": bucket,
                "name": name,
                "contentType": media,
                "size": asked.body.len().to_string(),
                "crc32c": sum,
            }),
        )
    }

    fn metadata(&self, asked: &Asked, path: &str) -> Reply {
        if asked.header("metadata-flavor") != Some("Google") {
            return Reply::new(403, "missing required header \"Metadata-Flavor\": \"Google\"");
        }
        let account = path.strip_prefix("/computeMetadata/v1/instance/service-accounts/default/");
        let reply = match account {
            Some("email") => Reply::new(200, EMAIL),
            Some("token") => {
                let token = self.new_token("ya29");
                let body =
                    json!({ "access_token": token, "expires_in": 3599, "token_type": "Bearer" });
                Reply::new(200, body)
            }
            _ => Reply::new(404, "not found"),
        };
        reply.header("Metadata-Flavor", "Google")
    }
}

pub(super) fn failure(status: u16, code: &str, message: &str) -> Reply {
    let error = json!({ "code": status, "message": message, "status": code });
    Reply::new(status, json!({ "error": error }))
}

pub(super) fn not_found() -> Reply {
    failure(404, "NOT_FOUND", "Requested entity was not found.")
}

pub(super) fn invalid(message: &str) -> Reply {
    failure(400, "INVALID_ARGUMENT", message)
}

fn kms(
    state: &mut State,
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
    state: &mut State,
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

fn list_keys(state: &State, query: &BTreeMap<String, String>) -> Reply {
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

pub(super) fn paged(member: &str, items: Vec<Value>, query: &BTreeMap<String, String>) -> Reply {
    let begin = query.get("pageToken").and_then(|token| token.parse().ok()).unwrap_or(0);
    let page: Vec<_> = items.iter().skip(begin).take(PAGE).cloned().collect();
    let mut answer = json!({ "totalSize": items.len() });
    // An empty list has no such member.
    if !page.is_empty() {
        answer[member] = page.into();
    }
    if begin + PAGE < items.len() {
        answer["nextPageToken"] = (begin + PAGE).to_string().into();
    }
    Reply::new(200, answer)
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
