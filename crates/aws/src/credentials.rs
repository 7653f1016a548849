//! The credentials that requests are signed with, found as AWS's SDKs find them, and renewed
//! before they expire.
//!
//! In this order: keys of the configuration; of the environment; a web identity token
//! (`AWS_WEB_IDENTITY_TOKEN_FILE`, as EKS sets it); the shared files' profile; the container's
//! (ECS, EKS Pod Identity); the EC2 instance's (IMDSv2 only). The first of them that is there is
//! used: when it fails, no other is tried in its place.

mod metadata;
mod profile;
mod sts;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use signet_base::{SharedClock, chain};
use signet_http::HttpClient;
use signet_time::UnixTime;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::{AwsError, Environment, Service, sign};

pub use sts::CallerIdentity;

/// How long before their end credentials are renewed, seconds.
const EARLY: i64 = 300;
/// How long after a failure nobody is asked again.
const REST: Duration = Duration::from_secs(10);
/// How deep a role may be built upon another.
const MAX_DEPTH: u8 = 5;

/// What requests are signed with.
#[derive(Clone)]
pub struct Keys {
    /// The access key's ID.
    pub id: String,
    /// Its secret.
    pub secret: Zeroizing<String>,
    /// Of temporary keys.
    pub session_token: Option<Zeroizing<String>>,
    /// When they end; none for keys of a user.
    pub expires: Option<UnixTime>,
}

/// Where services are and how one proves who one is there.
#[derive(Clone, Debug)]
pub struct Place {
    /// `us-east-1`.
    pub region: String,
    /// Where variables are looked up.
    pub environment: Environment,
    /// The wall clock.
    pub clock: SharedClock,
    /// Made when it is first needed: it reads the machine's roots.
    http: Arc<OnceLock<HttpClient>>,
}

/// What the configuration says of credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Keys in the configuration; else they are looked for.
    pub keys: Option<Keys>,
    /// The role that is assumed with them.
    pub assume_role_arn: Option<String>,
}

/// Credentials that are renewed before they expire. Clones share them.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

struct Inner {
    place: Place,
    source: Source,
    /// Held while they are got, so that it is done once.
    getting: tokio::sync::Mutex<()>,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    keys: Option<Arc<Keys>>,
    failed: Option<(Instant, String)>,
}

/// Where keys come from.
#[derive(Clone)]
enum Source {
    /// Looked for at each renewal.
    Search,
    Fixed(Keys),
    /// A role, assumed with other credentials.
    Role(Credentials, String),
    /// A role, assumed with a token in a file.
    WebIdentity(PathBuf, String),
    Container,
    Instance,
}

impl Place {
    /// In a region, by what the environment says.
    pub fn new(region: impl Into<String>, environment: Environment, clock: SharedClock) -> Self {
        Self { region: region.into(), environment, clock, http: Arc::default() }
    }

    /// The client that all share who are here.
    pub(crate) fn http(&self) -> Result<HttpClient, AwsError> {
        if let Some(http) = self.http.get() {
            return Ok(http.clone());
        }
        let http = crate::client::http_client(&self.environment)?;
        Ok(self.http.get_or_init(|| http).clone())
    }
}

impl Keys {
    /// Keys that do not end.
    pub fn new(id: &str, secret: &str, session_token: Option<&str>) -> Self {
        Self {
            id: id.to_owned(),
            secret: Zeroizing::new(secret.to_owned()),
            session_token: session_token.map(|token| Zeroizing::new(token.to_owned())),
            expires: None,
        }
    }
}

impl Credentials {
    /// What the configuration says, or else what is found. Nothing is sent.
    pub fn new(place: Place, access: &Access) -> Self {
        let source = access.keys.clone().map_or(Source::Search, Source::Fixed);
        let found = Self::of(place.clone(), source);
        match &access.assume_role_arn {
            Some(arn) => Self::of(place, Source::Role(found, arn.clone())),
            None => found,
        }
    }

    fn of(place: Place, source: Source) -> Self {
        Self(Arc::new(Inner {
            place,
            source,
            getting: tokio::sync::Mutex::default(),
            current: Mutex::default(),
        }))
    }

    /// Where they are for.
    pub fn place(&self) -> &Place {
        &self.0.place
    }

    /// Keys that are good now.
    ///
    /// # Errors
    /// [`AwsError::Credentials`] when there are none, with all that was tried; other errors of the
    /// service that was asked for them.
    pub async fn keys(&self) -> Result<Arc<Keys>, AwsError> {
        if let Some(known) = self.known() {
            return known;
        }
        let _getting = self.0.getting.lock().await;
        if let Some(known) = self.known() {
            return known;
        }
        let got = self.get(self.0.source.clone(), 0).await;
        let mut current = self.current();
        match got {
            Ok(keys) => {
                let keys = Arc::new(keys);
                *current = Current { keys: Some(Arc::clone(&keys)), failed: None };
                Ok(keys)
            }
            Err(error) => {
                current.failed = Some((Instant::now(), chain(&error)));
                match current.keys.clone().filter(|keys| self.left(keys) > 0) {
                    Some(keys) => {
                        tracing::warn!(
                            error = chain(&error),
                            "AWS credentials could not be renewed; those there are are used on"
                        );
                        Ok(keys)
                    }
                    None => Err(error),
                }
            }
        }
    }

    /// Says that a service does not take these keys any longer; whether others may be found.
    pub fn forget(&self, keys: &Arc<Keys>) -> bool {
        if matches!(self.0.source, Source::Fixed(_)) {
            return false;
        }
        let mut current = self.current();
        if current.keys.as_ref().is_some_and(|held| Arc::ptr_eq(held, keys)) {
            *current = Current::default();
        }
        true
    }

    /// A password of RDS for `user` at `host:port`: a URL of the action `rds-db:connect`, signed,
    /// valid for a quarter of an hour.
    ///
    /// # Errors
    /// [`AwsError`] when there are no credentials.
    pub async fn rds_token(
        &self,
        endpoint: &str,
        user: &str,
    ) -> Result<Zeroizing<String>, AwsError> {
        /// Seconds: what RDS allows at most.
        const VALID: u32 = 900;
        let keys = self.keys().await?;
        let Place { region, clock, .. } = self.place();
        let date = sign::amz_date(clock.unix().seconds());
        let date = date.ok_or_else(|| AwsError::Setting("the clock is wrong".to_owned()))?;
        let user = percent_encoding::utf8_percent_encode(user, signet_http::UNRESERVED);
        let query = format!("Action=connect&DBUser={user}");
        let scope = sign::Scope { region, service: "rds-db" };
        Ok(Zeroizing::new(sign::presigned(&keys, scope, endpoint, &query, (&date, VALID))))
    }

    /// Who one is with these credentials.
    ///
    /// # Errors
    /// [`AwsError`].
    pub async fn caller_identity(&self) -> Result<CallerIdentity, AwsError> {
        sts::caller_identity(&self.0.place, &*self.keys().await?).await
    }

    /// What can be said without asking anybody: keys that need no renewal, and for a moment after a
    /// failure what there is.
    fn known(&self) -> Option<Result<Arc<Keys>, AwsError>> {
        let current = self.current();
        let failure = current.failed.as_ref().filter(|(at, _)| at.elapsed() < REST);
        let left = current.keys.as_ref().map_or(0, |keys| self.left(keys));
        match (&current.keys, failure) {
            (Some(keys), _) if left > EARLY => Some(Ok(Arc::clone(keys))),
            (Some(keys), Some(_)) if left > 0 => Some(Ok(Arc::clone(keys))),
            (_, Some((_, why))) => {
                Some(Err(AwsError::Credentials(format!("{why} (tried again soon)"))))
            }
            _ => None,
        }
    }

    /// How long keys are good, seconds.
    fn left(&self, keys: &Keys) -> i64 {
        let now = self.0.place.clock.unix();
        keys.expires.map_or(i64::MAX, |end| end.seconds().saturating_sub(now.seconds()))
    }

    async fn get(&self, source: Source, depth: u8) -> Result<Keys, AwsError> {
        let place = &self.0.place;
        match source {
            Source::Fixed(keys) => Ok(keys),
            Source::Role(base, arn) => {
                let base = Box::pin(base.keys()).await?;
                sts::assume_role(place, &base, &arn).await
            }
            Source::WebIdentity(file, arn) => sts::web_identity(place, &file, &arn).await,
            Source::Container => metadata::container(place).await,
            Source::Instance => metadata::instance(place).await,
            Source::Search if depth < MAX_DEPTH => {
                let found = self.search()?;
                Box::pin(self.get(found, depth + 1)).await
            }
            Source::Search => Err(AwsError::Credentials("profiles lead to one another".to_owned())),
        }
    }

    /// Where there are credentials, by what environment and files say.
    fn search(&self) -> Result<Source, AwsError> {
        let environment = &self.0.place.environment;
        if let Some(keys) = of_environment(environment) {
            return Ok(Source::Fixed(keys));
        }
        if let Some(file) = environment.get("AWS_WEB_IDENTITY_TOKEN_FILE") {
            let arn = environment.get("AWS_ROLE_ARN").ok_or_else(|| {
                let why = "AWS_WEB_IDENTITY_TOKEN_FILE is set, but not AWS_ROLE_ARN";
                AwsError::Credentials(why.to_owned())
            })?;
            return Ok(Source::WebIdentity(file.into(), arn));
        }
        if let Some(source) = profile::source(&self.0.place)? {
            return Ok(source);
        }
        Ok(match metadata::names_container(environment) {
            true => Source::Container,
            false => Source::Instance,
        })
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn of_environment(environment: &Environment) -> Option<Keys> {
    let get = |name: &str, older: &str| environment.get(name).or_else(|| environment.get(older));
    let id = get("AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY")?;
    let secret = get("AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY")?;
    let token = environment.get("AWS_SESSION_TOKEN");
    Some(Keys::new(&id, &secret, token.as_deref()))
}

/// A time as services write it: RFC 3339.
fn time(text: &str) -> Option<UnixTime> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Some(UnixTime::from_seconds(time.unix_timestamp()))
}

/// A small text file, without white space at its ends.
async fn file(path: &Path) -> Result<Zeroizing<String>, AwsError> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || signet_pki::text_file::text(&path)).await;
    let text = read
        .map_err(|error| AwsError::File(error.to_string()))?
        .map_err(|error| AwsError::File(chain(&error)))?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

fn sts_endpoint(place: &Place) -> Result<String, AwsError> {
    crate::endpoint::Endpoint::of(Service::STS, &place.region, None, &place.environment)
        .map(|endpoint| endpoint.url)
}

impl PartialEq for Keys {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
            && self.secret == other.secret
            && self.session_token == other.session_token
    }
}

impl Eq for Keys {}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({}, ..)", self.id)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("region", &self.0.place.region).finish_non_exhaustive()
    }
}
