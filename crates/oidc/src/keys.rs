//! The keys that are published, as the document that everybody gets.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use axum::http::{
    HeaderName, HeaderValue,
    header::{CACHE_CONTROL, EXPIRES, LAST_MODIFIED, PRAGMA},
};
use signet_base::{SharedClock, chain};
use signet_daemon::http::Document;
use signet_identity::JwtAuthority;
use signet_pki::{digest, jwks};
use signet_time::UnixTime;
use time::{OffsetDateTime, macros::format_description};
use tokio::time::Instant;

/// AWS takes at most 100 keys of a kind; to say so earlier leaves time to look why.
const MANY_KEYS: usize = 80;

/// How the document is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Publishing {
    /// `set_key_use`: every key says `"use": "sig"`.
    pub key_use: bool,
    /// `cache_max_age` (our own key): for how long others may keep the documents; none forbids it,
    /// as SPIRE does.
    pub max_age: Option<Duration>,
}

/// The keys of a trust domain. Clones share them: a source sets them, a provider serves them.
#[derive(Clone)]
pub struct Keys(Arc<Inner>);

struct Inner {
    publishing: Publishing,
    clock: SharedClock,
    published: ArcSwapOption<Published>,
    /// What was published last, and when the source was last seen.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    authorities: Vec<JwtAuthority>,
    seen: Option<Instant>,
    warned: bool,
}

/// What there is to publish.
#[derive(Debug)]
pub(crate) enum Published {
    /// Keys.
    Document(Document),
    /// The trust domain has none: JWT-SVIDs are switched off.
    Nothing,
}

impl Keys {
    /// None yet.
    pub fn new(publishing: Publishing, clock: SharedClock) -> Self {
        Self(Arc::new(Inner {
            publishing,
            clock,
            published: ArcSwapOption::empty(),
            state: Mutex::default(),
        }))
    }

    /// Publishes these keys from now on, but for those that have expired: nothing valid is signed
    /// by them. Says whether that is something new.
    pub fn set(&self, authorities: &[JwtAuthority]) -> bool {
        let now = self.0.clock.unix();
        let valid = authorities
            .iter()
            .filter(|key| key.expires_at == UnixTime::EPOCH || key.expires_at > now);
        let valid: Vec<JwtAuthority> = valid.cloned().collect();
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = state.seen.replace(Instant::now()).is_none();
        if !is_first && state.authorities == valid {
            return false;
        }
        match self.publish(&valid) {
            Ok(published) => {
                self.0.published.store(Some(Arc::new(published)));
                let is_many = valid.len() >= MANY_KEYS;
                if is_many && !state.warned {
                    tracing::warn!(
                        keys = valid.len(),
                        "So many keys are published that some relying parties may refuse them"
                    );
                }
                state.warned = is_many;
                tracing::info!(keys = valid.len(), "Keys are published");
                state.authorities = valid;
                true
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "The keys cannot be published");
                false
            }
        }
    }

    /// When the source last gave keys, in program time.
    pub fn seen(&self) -> Option<Instant> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).seen
    }

    pub(crate) fn published(&self) -> Option<Arc<Published>> {
        self.0.published.load_full()
    }

    pub(crate) fn publishing(&self) -> Publishing {
        self.0.publishing
    }

    fn publish(&self, valid: &[JwtAuthority]) -> Result<Published, jwks::BundleError> {
        if valid.is_empty() {
            return Ok(Published::Nothing);
        }
        let text = jwks::encode_oidc_jwks(valid, self.0.publishing.key_use)?;
        let tag = digest::sha256_hex(text.as_bytes());
        let document = Document::json(text, &tag);
        let modified = http_date(self.0.clock.now());
        Ok(Published::Document(match modified {
            Some(date) => cached(document, self.0.publishing).with(LAST_MODIFIED, date),
            None => cached(document, self.0.publishing),
        }))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// Says how long a document may be kept: as SPIRE does, not at all, unless configured.
pub(crate) fn cached(document: Document, publishing: Publishing) -> Document {
    let fixed: &[(HeaderName, &'static str)] = match publishing.max_age {
        Some(_) => &[],
        None => &[
            (CACHE_CONTROL, "no-cache, no-store, must-revalidate"),
            (PRAGMA, "no-cache"),
            (EXPIRES, "0"),
        ],
    };
    let document = fixed.iter().fold(document, |document, (name, value)| {
        document.with(name.clone(), HeaderValue::from_static(value))
    });
    let Some(age) = publishing.max_age else { return document };
    // A provider that is away for an hour is no reason to refuse everybody.
    let text = format!("public, max-age={}, stale-if-error=3600", age.as_secs());
    match HeaderValue::try_from(text) {
        Ok(value) => document.with(CACHE_CONTROL, value),
        Err(_) => document,
    }
}

fn http_date(at: SystemTime) -> Option<HeaderValue> {
    let format = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let text = OffsetDateTime::from(at).format(&format).ok()?;
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use signet_base::TestClock;
    use signet_pki::{KeyType, PrivateKey};

    use super::*;

    pub(crate) fn key(id: &str, kind: KeyType, expires_at: UnixTime) -> JwtAuthority {
        let key = PrivateKey::generate(kind).unwrap();
        JwtAuthority {
            public_key: key.public_key().spki_der().into(),
            key_id: id.into(),
            expires_at,
            tainted: false,
        }
    }

    fn text(keys: &Keys) -> Option<serde_json::Value> {
        match &*keys.published()? {
            Published::Document(document) => Some(serde_json::from_slice(document.body()).unwrap()),
            Published::Nothing => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_say_their_algorithm_and_leave_when_they_expire() {
        let clock = TestClock::at_unix(UnixTime::from_seconds(1_000));
        let publishing = Publishing { key_use: true, ..Publishing::default() };
        let keys = Keys::new(publishing, Arc::new(clock.clone()));
        assert!(keys.published().is_none() && keys.seen().is_none());
        let all = [
            key("a", KeyType::EcP256, UnixTime::from_seconds(1_100)),
            key("b", KeyType::Rsa2048, UnixTime::EPOCH),
            key("c", KeyType::EcP384, UnixTime::from_seconds(2_000)),
        ];
        assert!(keys.set(&all));
        let document = text(&keys).unwrap();
        let shown: Vec<_> = document["keys"]
            .as_array()
            .unwrap()
            .iter()
            .map(|key| (key["kid"].clone(), key["alg"].clone(), key["use"].clone()))
            .collect();
        let row = |kid: &str, alg: &str| (kid.into(), alg.into(), "sig".into());
        assert_eq!(shown, [row("a", "ES256"), row("b", "RS256"), row("c", "ES384")]);
        assert!(!keys.set(&all), "nothing new");
        clock.jump_forward(Duration::from_secs(200));
        assert!(keys.set(&all));
        assert_eq!(text(&keys).unwrap()["keys"].as_array().unwrap().len(), 2);
        assert!(keys.set(&[]));
        assert!(text(&keys).is_none() && keys.seen().is_some());
    }

    #[test]
    fn dates_are_as_http_writes_them() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(http_date(at).unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
