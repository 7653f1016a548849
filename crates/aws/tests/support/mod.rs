//! A small AWS for the tests of this crate. It believes no signature that it has not computed
//! itself, and takes no field that the published models do not name.

#![allow(dead_code, reason = "each test file uses some of it")]
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test ends where it fails"
)]

pub mod kms;
pub mod signature;

use std::{
    collections::HashMap,
    sync::{
        Arc, Condvar, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use signet_aws::{Access, Credentials, Environment, Keys, Place};
use signet_base::{Clock, SharedClock};
use signet_testkit::{Asked, FakeHttp};

pub const REGION: &str = "eu-test-1";
pub const ID: &str = "AKIDTEST";
pub const SECRET: &str = "not-so-secret";
pub const ACCOUNT: &str = "123456789012";

/// What becomes of a call.
pub enum Fault {
    /// It is not done; this is answered.
    Instead(u16, String),
    /// It is done, but this is answered.
    Despite(u16, String),
    /// It is not done, and nothing is answered until [`Aws::release`].
    Silence,
    /// It is done, and nothing is answered until [`Aws::release`].
    SilenceAfter,
}

type Service = Box<dyn FnMut(&str, &Asked) -> (u16, String) + Send>;
type Judge = Box<dyn FnMut(&str) -> Option<Fault> + Send>;

/// A clock that stands still unless it is told to go on.
#[derive(Debug)]
struct StandingClock(AtomicU64);

impl Clock for StandingClock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

/// The services of an account.
#[derive(Clone)]
pub struct Aws(Arc<Shared>);

struct Shared {
    clock: Arc<StandingClock>,
    port: Mutex<u16>,
    services: Mutex<HashMap<&'static str, Service>>,
    judge: Mutex<Option<Judge>>,
    calls: Mutex<Vec<String>>,
    silent: Mutex<usize>,
    released: Condvar,
    silence_began: tokio::sync::Notify,
    /// Made once, for that reads the machine's roots.
    credentials: OnceLock<Credentials>,
    /// Keys that are believed: ID, secret, session token.
    pub keys: Mutex<Vec<(String, String, Option<String>)>>,
}

impl Aws {
    pub fn start() -> Self {
        let clock = Arc::new(StandingClock(AtomicU64::new(1_790_000_000)));
        let aws = Self(Arc::new(Shared {
            clock,
            port: Mutex::default(),
            services: Mutex::default(),
            judge: Mutex::default(),
            calls: Mutex::default(),
            silent: Mutex::default(),
            released: Condvar::new(),
            silence_began: tokio::sync::Notify::new(),
            credentials: OnceLock::new(),
            keys: Mutex::new(vec![(ID.to_owned(), SECRET.to_owned(), None)]),
        }));
        let served = aws.clone();
        let http = FakeHttp::start(move |asked| served.answer(asked));
        *aws.0.port.lock().unwrap() = http.port;
        aws
    }

    /// Adds a service: what it answers to an action.
    pub fn serve(
        &self,
        name: &'static str,
        service: impl FnMut(&str, &Asked) -> (u16, String) + Send + 'static,
    ) {
        self.0.services.lock().unwrap().insert(name, Box::new(service));
    }

    /// Has every call judged from now on.
    pub fn judge(&self, judge: impl FnMut(&str) -> Option<Fault> + Send + 'static) {
        *self.0.judge.lock().unwrap() = Some(Box::new(judge));
    }

    /// All goes well from now on, and who waits is answered.
    pub fn release(&self) {
        *self.0.judge.lock().unwrap() = None;
        *self.0.silent.lock().unwrap() = 0;
        self.0.released.notify_all();
    }

    /// Until a call is met with silence.
    pub async fn silence(&self) {
        self.0.silence_began.notified().await;
    }

    pub fn believe(&self, id: &str, secret: &str, token: Option<&str>) {
        let key = (id.to_owned(), secret.to_owned(), token.map(str::to_owned));
        *self.0.keys.lock().unwrap() = vec![key];
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.0.port.lock().unwrap())
    }

    pub fn clock(&self) -> SharedClock {
        Arc::clone(&self.0.clock) as _
    }

    pub fn pass(&self, seconds: u64) {
        self.0.clock.0.fetch_add(seconds, Ordering::SeqCst);
    }

    pub fn unix(&self) -> i64 {
        self.0.clock.unix().seconds()
    }

    /// The actions that were called so far.
    pub fn calls(&self) -> Vec<String> {
        self.0.calls.lock().unwrap().clone()
    }

    pub fn count(&self, action: &str) -> usize {
        self.calls().iter().filter(|call| *call == action).count()
    }

    /// A place where every service is this one, with more variables.
    pub fn place(&self, variables: &[(&str, &str)]) -> Place {
        let mut all: HashMap<String, String> =
            variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        all.insert("AWS_ENDPOINT_URL".to_owned(), self.url());
        let environment = Environment::from_fn(move |name| all.get(name).cloned());
        Place::new(REGION, environment, self.clock())
    }

    /// The account's own keys.
    pub fn credentials(&self) -> Credentials {
        let made = || {
            let access = Access { keys: Some(Keys::new(ID, SECRET, None)), assume_role_arn: None };
            Credentials::new(self.place(&[]), &access)
        };
        self.0.credentials.get_or_init(made).clone()
    }

    fn answer(&self, asked: &Asked) -> (u16, String) {
        let shared = &*self.0;
        let (service, action) = match named(asked) {
            Ok(named) => named,
            Err(why) => return (400, failure("UnknownOperationException", &why)),
        };
        shared.calls.lock().unwrap().push(action.clone());
        let is_signed = action != "AssumeRoleWithWebIdentity" && service != "metadata";
        if is_signed {
            let keys = shared.keys.lock().unwrap().clone();
            let checked = signature::check(asked, &keys, (REGION, service), self.unix());
            if let Err((code, why)) = checked {
                return (403, failure(code, &why));
            }
        }
        let fault = shared.judge.lock().unwrap().as_mut().and_then(|judge| judge(&action));
        match fault {
            Some(Fault::Instead(status, body)) => return (status, body),
            Some(Fault::Silence) => {
                self.be_silent();
                return (500, String::new());
            }
            _ => {}
        }
        let answer = match shared.services.lock().unwrap().get_mut(service) {
            Some(service) => service(&action, asked),
            None => (400, failure("UnknownOperationException", service)),
        };
        match fault {
            Some(Fault::Despite(status, body)) => return (status, body),
            Some(Fault::SilenceAfter) => self.be_silent(),
            _ => {}
        }
        answer
    }

    fn be_silent(&self) {
        let mut silent = self.0.silent.lock().unwrap();
        *silent += 1;
        self.0.silence_began.notify_one();
        while *silent > 0 {
            silent = self.0.released.wait(silent).unwrap();
        }
    }
}

/// Which service is asked for which action, as the published models say.
fn named(asked: &Asked) -> Result<(&'static str, String), String> {
    if let Some(target) = asked.header("x-amz-target") {
        if asked.method != "POST" || asked.target != "/" {
            return Err(format!("{} {}", asked.method, asked.target));
        }
        if asked.header("content-type") != Some("application/x-amz-json-1.1") {
            return Err("the content type".to_owned());
        }
        let (prefix, action) = target.split_once('.').ok_or("the target")?;
        let service = match prefix {
            "TrentService" => "kms",
            "ResourceGroupsTaggingAPI_20170126" => "tagging",
            "ACMPrivateCA" => "acm-pca",
            "secretsmanager" => "secretsmanager",
            other => return Err(other.to_owned()),
        };
        return Ok((service, action.to_owned()));
    }
    if asked.header("content-type") == Some("application/x-www-form-urlencoded") {
        let action = form(asked).remove("Action").ok_or("no Action")?;
        return Ok(("sts", action));
    }
    match &*asked.method {
        "PATCH" if asked.target.starts_with("/trustanchor/") => {
            Ok(("rolesanywhere", "UpdateTrustAnchor".to_owned()))
        }
        "PUT" if asked.header("x-amz-content-sha256").is_some() => {
            Ok(("s3", "PutObject".to_owned()))
        }
        _ => Ok(("metadata", format!("{} {}", asked.method, asked.target))),
    }
}

pub fn form(asked: &Asked) -> HashMap<String, String> {
    form_urlencoded::parse(&asked.body).into_owned().collect()
}

pub fn failure(code: &str, message: &str) -> String {
    json!({ "__type": code, "message": message }).to_string()
}

/// The fields of a call's body; any other than `known` is refused.
pub fn fields(asked: &Asked, known: &[&str]) -> Result<Value, (u16, String)> {
    let body: Value = serde_json::from_slice(&asked.body)
        .map_err(|error| (400, failure("SerializationException", &error.to_string())))?;
    for name in body.as_object().unwrap().keys() {
        if !known.contains(&name.as_str()) {
            return Err((400, failure("ValidationException", &format!("unknown field {name}"))));
        }
    }
    Ok(body)
}

/// What STS answers with temporary keys.
pub fn temporary(action: &str, id: &str, expiration: &str) -> String {
    format!(
        "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result>\
         <Credentials><AccessKeyId>{id}</AccessKeyId><SecretAccessKey>{SECRET}</SecretAccessKey>\
         <SessionToken>token-{id}</SessionToken><Expiration>{expiration}</Expiration>\
         </Credentials></{action}Result></{action}Response>"
    )
}

pub fn identity(arn: &str) -> String {
    format!(
        "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <GetCallerIdentityResult><Arn>{arn}</Arn><UserId>U</UserId><Account>{ACCOUNT}</Account>\
         </GetCallerIdentityResult></GetCallerIdentityResponse>"
    )
}
