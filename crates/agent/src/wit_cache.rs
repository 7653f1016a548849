//! WIT-SVIDs already signed, with their keys, by entry.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use signet_base::BoundedLru;
use signet_identity::{Bundle, EntryId, SpiffeId};
use signet_time::UnixTime;
use zeroize::Zeroizing;

use crate::entry::AgentEntry;

/// The most WIT-SVIDs that are kept.
const MAX_SVIDS: usize = 1000;
/// The most bytes of tokens and keys that are put away over a restart.
const MAX_STORED_BYTES: usize = 8 * 1024 * 1024;

/// A WIT-SVID with the key that proofs are signed with, which is not shown by `Debug`.
#[derive(PartialEq, Eq)]
pub struct WitSvid {
    /// The compact JWS.
    pub token: String,
    /// The private key, a JSON Web Key.
    pub key: Zeroizing<String>,
    /// Whose it is.
    pub spiffe_id: SpiffeId,
    /// When it is to be renewed; not after it expires.
    pub due_at: UnixTime,
    /// When it expires.
    pub expires_at: UnixTime,
    /// The authority that signed it.
    pub key_id: Box<str>,
    /// The revision of the entry that it was signed for.
    pub revision: i64,
}

impl fmt::Debug for WitSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WitSvid({}, expires_at: {}, ..)", self.spiffe_id, self.expires_at)
    }
}

impl WitSvid {
    /// Whether it was signed for the entry as that is now.
    pub fn is_of(&self, entry: &AgentEntry) -> bool {
        self.spiffe_id == entry.spiffe_id && self.revision == entry.revision_number
    }

    /// Whether an authority of `own` signed it: a tainted one, or one that is not.
    pub fn is_signed_by(&self, own: &Bundle, tainted: bool) -> bool {
        let mut authorities = own.wit_authorities.iter();
        authorities.any(|one| one.tainted == tainted && *one.key_id == *self.key_id)
    }
}

/// A bounded cache of WIT-SVIDs: the one used longest ago leaves first.
pub struct WitCache(Mutex<BoundedLru<EntryId, Arc<WitSvid>>>);

impl Default for WitCache {
    fn default() -> Self {
        Self(Mutex::new(BoundedLru::new(MAX_SVIDS)))
    }
}

impl WitCache {
    /// What is kept for an entry, expired or not.
    pub fn get(&self, entry: &EntryId) -> Option<Arc<WitSvid>> {
        self.lock().get(entry).map(|svid| Arc::clone(svid))
    }

    /// Keeps a WIT-SVID for an entry.
    pub fn put(&self, entry: EntryId, svid: Arc<WitSvid>) {
        self.lock().insert(entry, svid);
    }

    /// What is valid at `now`, to be put away: those used last first, of at most
    /// [`MAX_STORED_BYTES`] in all.
    pub fn most_recent(&self, now: UnixTime) -> Vec<(EntryId, Arc<WitSvid>)> {
        let kept = self.lock();
        let mut valid: Vec<_> = kept.iter().filter(|(_, svid)| svid.expires_at > now).collect();
        valid.reverse();
        let mut room = MAX_STORED_BYTES;
        let fits = valid.into_iter().map_while(|(entry, svid)| {
            room = room.checked_sub(svid.token.len() + svid.key.len())?;
            Some((entry.clone(), Arc::clone(svid)))
        });
        fits.collect()
    }

    /// Drops what has expired.
    pub fn prune(&self, now: UnixTime) {
        self.lock().retain(|_, svid| svid.expires_at > now);
    }

    /// Drops everything.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, BoundedLru<EntryId, Arc<WitSvid>>> {
        // Every critical section leaves the map whole, so a poisoned lock is still good.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for WitCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WitCache({} kept)", self.len())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Of `spiffe://td/w`, signed for revision 0 by the authority `k`.
    pub(crate) fn svid(token: &str, expires_at: i64) -> WitSvid {
        WitSvid {
            token: token.to_owned(),
            key: Zeroizing::new(r#"{"d":"secret"}"#.to_owned()),
            spiffe_id: "spiffe://td/w".parse().unwrap(),
            due_at: UnixTime::from_seconds(expires_at / 2),
            expires_at: UnixTime::from_seconds(expires_at),
            key_id: "k".into(),
            revision: 0,
        }
    }

    #[test]
    fn what_is_put_away_is_valid_bounded_and_used_last() {
        let cache = WitCache::default();
        let id = |text: &str| text.parse::<EntryId>().unwrap();
        for (entry, expires_at) in [("expired", 10), ("old", 20), ("new", 20)] {
            cache.put(id(entry), Arc::new(svid(entry, expires_at)));
        }
        let put_away = cache.most_recent(UnixTime::from_seconds(10));
        let ids: Vec<_> = put_away.iter().map(|(entry, _)| entry.clone()).collect();
        assert_eq!(ids, [id("new"), id("old")]);
        cache.prune(UnixTime::from_seconds(10));
        assert_eq!(cache.len(), 2);
        cache.put(id("huge"), Arc::new(svid(&"x".repeat(MAX_STORED_BYTES), 20)));
        assert!(cache.most_recent(UnixTime::from_seconds(10)).is_empty(), "it is too much");
        cache.clear();
        assert!(cache.is_empty());
        assert!(!format!("{:?}", svid("a.b.c", 1)).contains("secret"));
    }
}
