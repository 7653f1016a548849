//! What the authorities of all kinds share: ports, journal, and the deadlines of every call to
//! the outside.

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use signet_identity::{Bundle, JwtAuthority};
use signet_pki::{
    KeyType, ManagedKey, SignError, digest,
    ports::{PortError, UpstreamAuthority},
};
use signet_time::UnixTime;
use tokio::time::Instant;

use crate::{
    AuthorityError, AuthorityPorts, LostKeys, TrustRoot,
    journal::Journal,
    kind::{KeyEdit, KeyKind},
    ports::BundleEdit,
    shared::Shared,
    timing,
};

/// How long the key manager may take for a key: a small HSM makes an RSA key in a minute.
const KEY_DEADLINE: Duration = Duration::from_secs(90);
/// How long a write of journal or bundle may take.
const STORE_DEADLINE: Duration = Duration::from_secs(30);
/// How long the upstream authority may take to sign or publish.
pub(crate) const UPSTREAM_DEADLINE: Duration = Duration::from_secs(60);
/// How long an upstream authority that takes no keys of a kind is not asked to again.
const REFUSED_FOR: Duration = Duration::from_secs(600);
/// How long a credential composer may take.
const COMPOSER_DEADLINE: Duration = Duration::from_secs(10);

/// What is remembered of the keys of one kind in view of an upstream authority.
#[derive(Debug, Default)]
pub(crate) struct KeysUpstream {
    /// When upstream said last that it takes none, of which the log has a line.
    refused_at: Option<Instant>,
    /// Key IDs that an operator revoked here while upstream names them still: not added again.
    pub revoked: HashSet<Arc<str>>,
}

impl KeysUpstream {
    /// Whether upstream said a moment ago that it takes none.
    pub(crate) fn is_refused(&self) -> bool {
        self.refused_at.is_some_and(|at| at.elapsed() < REFUSED_FOR)
    }
}

pub(crate) struct Context {
    pub shared: Arc<Shared>,
    pub ports: AuthorityPorts,
    pub journal: Journal,
    /// The stored journal is behind the one here (a write failed when it could not be waited for).
    journal_is_behind: bool,
    /// Whether the upstream's roots are asked for at the next look, whatever the time.
    pub upstream_check_is_due: bool,
    /// Roots that an operator revoked and the upstream still names: not added again.
    pub revoked_roots: HashSet<Arc<[u8]>>,
    /// JWT keys and WIT keys as they are upstream.
    pub jwt_upstream: KeysUpstream,
    pub wit_upstream: KeysUpstream,
    /// The subject key ID of the active X.509 CA, when that may sign no local intermediate.
    pub no_intermediate_under: Option<String>,
}

impl Context {
    pub(crate) fn new(shared: Arc<Shared>, ports: AuthorityPorts) -> Self {
        Self {
            shared,
            ports,
            journal: Journal::default(),
            journal_is_behind: false,
            upstream_check_is_due: true,
            revoked_roots: HashSet::new(),
            jwt_upstream: KeysUpstream::default(),
            wit_upstream: KeysUpstream::default(),
            no_intermediate_under: None,
        }
    }

    pub(crate) fn now(&self) -> UnixTime {
        self.shared.clock.unix()
    }

    pub(crate) fn upstream(&self) -> Option<Arc<dyn UpstreamAuthority>> {
        match &self.ports.trust_root {
            TrustRoot::SelfSigned => None,
            TrustRoot::Upstream(upstream) => Some(Arc::clone(upstream)),
        }
    }

    pub(crate) fn has_upstream(&self) -> bool {
        self.shared.has_upstream
    }

    /// Has the next look ask the upstream whatever the time.
    pub(crate) fn check_upstream_soon(&mut self) {
        self.upstream_check_is_due = true;
    }

    /// Whether a server whose key was lost goes on with a new authority.
    pub(crate) fn goes_on_without_key(&self) -> bool {
        self.shared.options.lost_keys == LostKeys::Replace || !self.ports.keys.outlives_process()
    }

    /// Reads the stored journal; says whether there is one.
    pub(crate) async fn load_journal(&mut self) -> Result<bool, AuthorityError> {
        let data = within(STORE_DEADLINE, "the CA journal", self.ports.journal.load())
            .await?
            .map_err(AuthorityError::JournalStore)?;
        let Some(data) = data else { return Ok(false) };
        self.journal = Journal::decode(&data)?;
        Ok(true)
    }

    /// Makes `journal` the stored one and ours; on failure both stay as they were.
    pub(crate) async fn save_journal(
        &mut self,
        mut journal: Journal,
    ) -> Result<(), AuthorityError> {
        let forgotten = self.now() - timing::JOURNAL_PRUNE_AGE;
        journal.x509.retain(|record| record.not_after > forgotten);
        journal.jwt.retain(|record| record.not_after > forgotten);
        match self.shared.options.second_jwt {
            Some(_) => journal.second_jwt.retain(|record| record.not_after > forgotten),
            // A program without second JWT keys reads the journal again, too.
            None => journal.second_jwt.clear(),
        }
        match self.shared.options.wit {
            Some(_) => journal.wit.retain(|record| record.not_after > forgotten),
            // A program without WIT-SVIDs reads the journal again, too.
            None => journal.wit.clear(),
        }
        let data = journal.encode()?;
        within(STORE_DEADLINE, "the CA journal", self.ports.journal.save(data))
            .await?
            .map_err(AuthorityError::JournalStore)?;
        self.journal = journal;
        self.journal_is_behind = false;
        Ok(())
    }

    /// Writes the journal if an earlier write was postponed.
    pub(crate) async fn catch_up(&mut self) -> Result<(), AuthorityError> {
        if self.journal_is_behind {
            self.save_journal(self.journal.clone()).await?;
        }
        Ok(())
    }

    /// Writes the journal of an activation. When nothing valid signs any more (`must_go_on`), a
    /// failure to write only postpones the write: after a crash the stored journal still has the
    /// authority as prepared, which recovers it just as well.
    pub(crate) async fn commit_activation(
        &mut self,
        journal: Journal,
        must_go_on: bool,
    ) -> Result<(), AuthorityError> {
        match self.save_journal(journal.clone()).await {
            Ok(()) => Ok(()),
            Err(error) if must_go_on => {
                tracing::error!(error = %Chain(&error), "The CA journal will be written later");
                self.journal = journal;
                self.journal_is_behind = true;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn edit_bundle(
        &self,
        edit: BundleEdit,
    ) -> Result<(Bundle, bool), AuthorityError> {
        within(STORE_DEADLINE, "the trust bundle", self.ports.bundle.edit(edit))
            .await?
            .map_err(AuthorityError::Bundle)
    }

    /// The bundle; an empty one before anything was ever added.
    pub(crate) async fn read_bundle(&self) -> Result<Bundle, AuthorityError> {
        let bundle = within(STORE_DEADLINE, "the trust bundle", self.ports.bundle.bundle())
            .await?
            .map_err(AuthorityError::Bundle)?;
        Ok(bundle.unwrap_or_else(|| Bundle::empty(self.shared.options.trust_domain.clone())))
    }

    pub(crate) async fn find_key(&self, id: &str) -> Result<Option<ManagedKey>, AuthorityError> {
        within(KEY_DEADLINE, "the key manager", self.ports.keys.get_key(id))
            .await?
            .map_err(AuthorityError::KeyManager)
    }

    /// A key under that name of which nobody was told yet, and which showed that it signs.
    ///
    /// A key that was made and then never published (the upstream authority was away, the server
    /// crashed) is taken again: a server that fails at each start does not leave a key in the KMS
    /// each time.
    pub(crate) async fn unpublished_key(
        &mut self,
        id: &str,
        key_type: KeyType,
    ) -> Result<ManagedKey, AuthorityError> {
        if let Some(known) = self.journal.unpublished_keys.get(id).cloned()
            && let Some(key) = self.find_key(id).await?
            && fingerprint(&key) == known
        {
            match key.prove(key_type).await {
                Ok(()) => return Ok(key),
                // It is of no use: made anew.
                Err(SignError::Mismatch { .. }) => {}
                Err(_) if key.public_key().algorithm() != key_type.algorithm() => {}
                Err(error) => return Err(AuthorityError::NewKey(error)),
            }
        }
        let key =
            within(KEY_DEADLINE, "the key manager", self.ports.keys.generate_key(id, key_type))
                .await?
                .map_err(AuthorityError::KeyManager)?;
        let mut journal = self.journal.clone();
        journal.unpublished_keys.insert(id.to_owned(), fingerprint(&key));
        self.save_journal(journal).await?;
        key.prove(key_type).await.map_err(AuthorityError::NewKey)?;
        Ok(key)
    }

    /// The key of that name is published: it is never taken for a new one again. Stored with the
    /// next write.
    pub(crate) fn key_is_published(&mut self, id: &str) {
        self.journal.unpublished_keys.remove(id);
    }

    /// Publishes a key: upstream when that can, and in the bundle in any case. Answers with all keys
    /// of its kind.
    pub(crate) async fn publish_key<K: KeyKind>(
        &mut self,
        key: JwtAuthority,
    ) -> Result<Vec<JwtAuthority>, AuthorityError> {
        let known_above = self.publish_key_upstream::<K>(&key).await?;
        let mut append = known_above.unwrap_or_else(|| vec![key]);
        append.retain(|key| !K::upstream_of(self).revoked.contains(&key.key_id));
        let edit = K::edit(KeyEdit { append, ..KeyEdit::default() });
        Ok(K::keys(&self.edit_bundle(edit).await?.0).to_vec())
    }

    /// Publishes a key upstream: all that are known there then, or nothing where upstream takes none.
    pub(crate) async fn publish_key_upstream<K: KeyKind>(
        &mut self,
        key: &JwtAuthority,
    ) -> Result<Option<Vec<JwtAuthority>>, AuthorityError> {
        let Some(upstream) = self.upstream() else { return Ok(None) };
        let publishing = K::publish_upstream(&*upstream, key);
        match within(UPSTREAM_DEADLINE, "the upstream authority", publishing).await? {
            Ok(keys) => {
                K::upstream_of(self).refused_at = None;
                Ok(Some(keys))
            }
            Err(PortError::Unsupported { name, .. }) => {
                if K::upstream_of(self).refused_at.replace(Instant::now()).is_none() {
                    let kind = K::NAMES.api;
                    tracing::warn!(
                        plugin = name,
                        "The upstream authority does not publish {kind} keys: {kind}-SVIDs of this \
                         server verify only with its own bundle"
                    );
                }
                Ok(None)
            }
            Err(error) => Err(AuthorityError::Upstream(error)),
        }
    }

    /// Tells those concerned that a tainted authority's SVIDs are to be replaced.
    pub(crate) fn announce_taint(&self) {
        self.shared.taints.send_modify(|count| *count = count.saturating_add(1));
    }
}

/// By what the journal knows a key: SHA-256 of its SubjectPublicKeyInfo, lower-case hex.
fn fingerprint(key: &ManagedKey) -> String {
    digest::sha256_hex(key.public_key().spki_der())
}

/// Awaits something outside, but not for ever.
pub(crate) async fn within<T>(
    deadline: Duration,
    what: &'static str,
    future: impl Future<Output = T>,
) -> Result<T, AuthorityError> {
    tokio::time::timeout(deadline, future).await.map_err(|_| AuthorityError::TimedOut(what))
}

/// Awaits a credential composer, but not for ever.
pub(crate) async fn composing<T>(
    name: &'static str,
    composer: impl Future<Output = Result<T, PortError>>,
) -> Result<T, PortError> {
    let composed = tokio::time::timeout(COMPOSER_DEADLINE, composer).await;
    composed.unwrap_or_else(|_| {
        Err(PortError::Failed { name, message: "it did not answer in time".to_owned() })
    })
}

/// An error with its causes, for logs.
pub(crate) struct Chain<'a>(pub &'a (dyn std::error::Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
