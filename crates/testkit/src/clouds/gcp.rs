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

use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use crc::{CRC_32_ISCSI, Crc};
use serde_json::{Value, json};

use super::{
    Fault, Faults, Key,
    answers::{failure, not_found},
    cas::{self, Cas},
    form,
    kms::{self, CryptoKey, Kms, Version},
    lock, query, random,
};
use crate::{Asked, FakeHttp, Reply};

const EMAIL: &str = "signet@p-1.iam.gserviceaccount.com";
const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

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
    kms: Kms,
    /// By bucket and name, with the media type.
    objects: BTreeMap<String, (String, String)>,
    cas: Cas,
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
        lock(&self.inner.state).kms.generation = looks;
    }

    /// Method and target of everything that was asked.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.inner.state).asked.clone()
    }

    /// The states of all versions, by the ID of their CryptoKey.
    pub fn versions(&self) -> BTreeMap<String, Vec<&'static str>> {
        let state = lock(&self.inner.state);
        let states = |key: &CryptoKey| key.versions.iter().map(|version| version.state).collect();
        state.kms.keys.iter().map(|(id, key)| (id.clone(), states(key))).collect()
    }

    /// How many versions are enabled or in the making.
    pub fn alive(&self) -> usize {
        let all = self.versions();
        all.values().flatten().filter(|state| !state.starts_with("DESTROY")).count()
    }

    /// The labels of a CryptoKey.
    pub fn labels(&self, id: &str) -> BTreeMap<String, String> {
        lock(&self.inner.state).kms.keys.get(id).map(|key| key.labels.clone()).unwrap_or_default()
    }

    /// Sets a label, as an operator or another server does.
    pub fn set_label(&self, id: &str, name: &str, value: &str) {
        let mut state = lock(&self.inner.state);
        let key = state.kms.keys.get_mut(id).expect("a CryptoKey");
        key.labels.insert(name.to_owned(), value.to_owned());
    }

    /// The IAM policy of a CryptoKey.
    pub fn policy(&self, id: &str) -> Value {
        lock(&self.inner.state).kms.keys.get(id).map(|key| key.policy.clone()).unwrap_or_default()
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
        lock(&self.inner.state).kms.keys.insert(id.to_owned(), key);
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
        let key = state.kms.keys.get_mut(id).expect("a CryptoKey");
        let version = Version::new(&key.algorithm, 0);
        key.versions.push(version);
    }
}

impl std::fmt::Debug for FakeGcp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FakeGcp({})", self.port)
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
        kms::reply(&mut lock(&self.state).kms, &asked.method, resource, &query, &body, damaged)
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
