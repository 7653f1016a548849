//! JWT-SVIDs already signed, by SPIFFE ID and audience.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use signet_identity::SpiffeId;
use signet_time::UnixTime;

/// The most bytes of tokens and audiences that are put away over a restart.
pub const MAX_STORED_BYTES: usize = 8 * 1024 * 1024;

/// A signed JWT-SVID. The token is a bearer secret and is not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct JwtSvid {
    /// The compact JWS.
    pub token: Arc<str>,
    /// Whose it is.
    pub spiffe_id: SpiffeId,
    /// When it was issued, Unix seconds.
    pub issued_at: UnixTime,
    /// When it expires, Unix seconds.
    pub expires_at: UnixTime,
    /// The key that signed it.
    pub key_id: Box<str>,
}

impl fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwtSvid({}, expires_at: {}, ..)", self.spiffe_id, self.expires_at.seconds())
    }
}

/// What a cached JWT-SVID is found by: the SPIFFE ID and the sorted audiences, as in SPIRE.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct JwtKey(Box<str>);

impl JwtKey {
    /// The key for `id` and `audience`, whose order does not matter.
    pub fn new(id: &SpiffeId, audience: &[String]) -> Self {
        let mut sorted: Vec<&str> = audience.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        let mut key = id.to_string();
        for one in sorted {
            // Each part is led by its length: no two lists of audiences read the same.
            key.push('\0');
            key.push_str(&one.len().to_string());
            key.push(':');
            key.push_str(one);
        }
        Self(key.into())
    }

    /// The key as text, to be put away.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key that [`Self::as_str`] gave.
    pub fn from_stored(text: String) -> Self {
        Self(text.into())
    }
}

/// A bounded cache of JWT-SVIDs. When it is full, a token of the SPIFFE ID that has most of them
/// leaves, the one used longest ago: whoever asks for many audiences pushes out its own.
#[derive(Debug)]
pub struct JwtCache {
    max: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    svids: HashMap<JwtKey, (JwtSvid, u64)>,
    tick: u64,
}

impl Inner {
    /// The token that leaves a full cache.
    fn spared(&self) -> Option<JwtKey> {
        let mut counts: HashMap<&SpiffeId, usize> = HashMap::new();
        for (svid, _) in self.svids.values() {
            *counts.entry(&svid.spiffe_id).or_default() += 1;
        }
        let most = counts.values().copied().max()?;
        let of_one_with_most =
            self.svids.iter().filter(|(_, (svid, _))| counts.get(&svid.spiffe_id) == Some(&most));
        of_one_with_most.min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone())
    }
}

impl JwtCache {
    /// A cache of at most `max` tokens (at least one).
    pub fn new(max: usize) -> Self {
        Self { max: max.max(1), inner: Mutex::default() }
    }

    /// The cached token, expired or not.
    pub fn get(&self, key: &JwtKey) -> Option<JwtSvid> {
        let mut inner = self.lock();
        inner.tick += 1;
        let tick = inner.tick;
        let (svid, used) = inner.svids.get_mut(key)?;
        *used = tick;
        Some(svid.clone())
    }

    /// Stores a token.
    pub fn put(&self, key: JwtKey, svid: JwtSvid) {
        let mut inner = self.lock();
        inner.tick += 1;
        let tick = inner.tick;
        if inner.svids.len() >= self.max
            && !inner.svids.contains_key(&key)
            && let Some(spared) = inner.spared()
        {
            inner.svids.remove(&spared);
        }
        inner.svids.insert(key, (svid, tick));
    }

    /// Tokens that are valid at `now`, to be put away: those used last first, of at most
    /// [`MAX_STORED_BYTES`] in all.
    pub fn most_recent(&self, now: UnixTime) -> Vec<(JwtKey, JwtSvid)> {
        let inner = self.lock();
        let mut all: Vec<_> =
            inner.svids.iter().filter(|(_, (svid, _))| svid.expires_at > now).collect();
        all.sort_unstable_by_key(|(_, (_, used))| std::cmp::Reverse(*used));
        let mut room = MAX_STORED_BYTES;
        let fits = all.into_iter().map_while(|(key, (svid, _))| {
            room = room.checked_sub(key.0.len() + svid.token.len())?;
            Some((key.clone(), svid.clone()))
        });
        fits.collect()
    }

    /// Drops what keys other than these signed; returns how many tokens went.
    pub fn keep_signed_by(&self, key_ids: &HashSet<Box<str>>) -> usize {
        let mut inner = self.lock();
        let before = inner.svids.len();
        inner.svids.retain(|_, (svid, _)| key_ids.contains(&svid.key_id));
        before - inner.svids.len()
    }

    /// Drops what tainted keys signed; returns how many tokens went.
    pub fn taint(&self, key_ids: &HashSet<Box<str>>) -> usize {
        let mut inner = self.lock();
        let before = inner.svids.len();
        inner.svids.retain(|_, (svid, _)| !key_ids.contains(&svid.key_id));
        before - inner.svids.len()
    }

    /// Drops expired tokens.
    pub fn prune(&self, now: UnixTime) {
        self.lock().svids.retain(|_, (svid, _)| svid.expires_at > now);
    }

    /// Drops everything.
    pub fn clear(&self) {
        self.lock().svids.clear();
    }

    /// How many tokens are cached.
    pub fn len(&self) -> usize {
        self.lock().svids.len()
    }

    /// Whether none is cached.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every critical section leaves the map whole, so a poisoned lock is still good.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> SpiffeId {
        "spiffe://td/w".parse().unwrap()
    }

    fn key(audience: &[&str]) -> JwtKey {
        JwtKey::new(&id(), &audience.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    fn svid(key_id: &str, expires_at: UnixTime) -> JwtSvid {
        JwtSvid {
            token: "a.b.c".into(),
            spiffe_id: id(),
            issued_at: UnixTime::EPOCH,
            expires_at,
            key_id: key_id.into(),
        }
    }

    #[test]
    fn audiences_in_another_order_are_the_same_and_none_can_be_confused() {
        assert_eq!(key(&["a", "b"]), key(&["b", "a"]));
        assert_ne!(key(&["a", "b"]), key(&["b", "a", "a"]), "the token has them as asked");
        assert_ne!(key(&["a", "b"]), key(&["a\u{0}1:b"]));
        assert_ne!(key(&["ab"]), key(&["a", "b"]));
    }

    #[test]
    fn the_one_used_longest_ago_leaves_first() {
        let cache = JwtCache::new(2);
        cache.put(key(&["a"]), svid("k", UnixTime::from_seconds(10)));
        cache.put(key(&["b"]), svid("k", UnixTime::from_seconds(10)));
        assert!(cache.get(&key(&["a"])).is_some());
        cache.put(key(&["c"]), svid("k", UnixTime::from_seconds(10)));
        assert!(cache.get(&key(&["a"])).is_some() && cache.get(&key(&["b"])).is_none());
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn whoever_asks_for_many_audiences_pushes_out_its_own_tokens() {
        let cache = JwtCache::new(10);
        let other: SpiffeId = "spiffe://td/other".parse().unwrap();
        let others = JwtKey::new(&other, &["a".to_owned()]);
        cache.put(
            others.clone(),
            JwtSvid { spiffe_id: other, ..svid("k", UnixTime::from_seconds(10)) },
        );
        for n in 0..100 {
            cache.put(key(&[&n.to_string()]), svid("k", UnixTime::from_seconds(10)));
        }
        assert_eq!(cache.len(), 10);
        assert!(cache.get(&others).is_some());
        assert!(cache.get(&key(&["99"])).is_some() && cache.get(&key(&["1"])).is_none());
    }

    #[test]
    fn what_is_put_away_is_valid_bounded_and_used_last() {
        let cache = JwtCache::new(9);
        cache.put(key(&["expired"]), svid("k", UnixTime::from_seconds(10)));
        cache.put(key(&["old"]), svid("k", UnixTime::from_seconds(20)));
        cache.put(key(&["new"]), svid("k", UnixTime::from_seconds(20)));
        let put_away = cache.most_recent(UnixTime::from_seconds(10));
        let keys: Vec<_> = put_away.iter().map(|(key, _)| key.clone()).collect();
        assert_eq!(keys, [key(&["new"]), key(&["old"])]);
        assert_eq!(JwtKey::from_stored(keys[0].as_str().to_owned()), keys[0]);

        let huge = JwtSvid {
            token: "x".repeat(MAX_STORED_BYTES / 2).into(),
            ..svid("k", UnixTime::from_seconds(20))
        };
        for audience in ["a", "b"] {
            cache.put(key(&[audience]), huge.clone());
        }
        assert_eq!(
            cache.most_recent(UnixTime::from_seconds(10)).len(),
            1,
            "two halves and their keys are too much"
        );
    }

    #[test]
    fn tokens_of_unknown_keys_go() {
        let cache = JwtCache::new(9);
        cache.put(key(&["a"]), svid("gone", UnixTime::from_seconds(10)));
        cache.put(key(&["b"]), svid("here", UnixTime::from_seconds(10)));
        assert_eq!(cache.keep_signed_by(&HashSet::from(["here".into(), "next".into()])), 1);
        assert!(cache.get(&key(&["b"])).is_some());
    }

    #[test]
    fn tainted_and_expired_tokens_go() {
        let cache = JwtCache::new(9);
        cache.put(key(&["a"]), svid("bad", UnixTime::from_seconds(10)));
        cache.put(key(&["b"]), svid("good", UnixTime::from_seconds(10)));
        cache.put(key(&["c"]), svid("good", UnixTime::from_seconds(20)));
        assert_eq!(cache.taint(&HashSet::from(["bad".into()])), 1);
        cache.prune(UnixTime::from_seconds(10));
        assert_eq!(cache.len(), 1);
        assert!(!format!("{:?}", svid("k", UnixTime::from_seconds(1))).contains("a.b.c"));
    }
}
