//! Which tokens of OpenBao and which leases exist, whose they are, and which are to be taken back.
//!
//! One lock guards everything, and events enter the journal under it: what is on the disk has the
//! order of what happened. Secrets (the tokens themselves) are in memory only; after a restart the
//! accessors are enough to take everything back.

mod state;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;
use signet_identity::SpiffeId;
use signet_time::UnixTime;

use self::state::State;
use crate::{
    bao::Secret,
    journal::{Event, Journal, JournalError, Written},
};

/// After how many events the journal is written anew.
const REWRITE_AFTER: usize = 20_000;

/// Whose things they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Holder {
    /// The tenant.
    pub tenant: Arc<str>,
    /// The identity.
    pub id: SpiffeId,
}

/// A token of OpenBao that was made for a holder.
#[derive(Clone)]
pub struct Token {
    /// Whose it is.
    pub holder: Holder,
    /// Its accessor.
    pub accessor: Arc<str>,
    /// Itself; `None` when it was made before a restart.
    pub secret: Option<Arc<Secret>>,
    /// Its policies.
    pub policies: BTreeSet<String>,
    /// When it was made, Unix seconds.
    pub issued: UnixTime,
    /// Until when it is valid, Unix seconds.
    pub expires: UnixTime,
    /// Why it is to be taken back, if it is.
    pub ending: Option<String>,
}

/// Something that was handed out.
#[derive(Clone, Debug, Serialize)]
pub struct Lease {
    /// The name that its holder knows.
    pub lease_id: String,
    /// Which credential.
    pub credential: String,
    /// When, Unix seconds.
    pub issued_at: UnixTime,
    /// Until when, Unix seconds.
    pub expires_at: UnixTime,
    /// The ID of the request that it was handed out for.
    pub correlation_id: String,
    /// OpenBao's name of it.
    #[serde(skip)]
    pub bao_lease: Option<String>,
    /// The token it belongs to.
    #[serde(skip)]
    pub accessor: Arc<str>,
    /// Why it is to be taken back, if it is.
    #[serde(skip)]
    pub ending: Option<String>,
}

/// What is marked to be taken back, which [`Revoker`](crate::revoke::Revoker) then does.
#[derive(Debug)]
#[must_use]
pub struct Ended {
    /// Tokens, with all that was handed out by them.
    pub tokens: Vec<Token>,
    /// Single leases, with their holders.
    pub leases: Vec<(Lease, Holder)>,
}

/// The tokens of OpenBao and the leases that exist. Clones share them.
#[derive(Clone)]
pub struct LeaseStore(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    journal: Journal,
}

/// A use that counts before it has happened; what is handed out by then counts by itself.
#[derive(Debug)]
pub struct Reserved {
    store: LeaseStore,
    holder: Holder,
    credential: String,
}

impl LeaseStore {
    /// Opens the store of a journal.
    ///
    /// # Errors
    /// [`JournalError`] when the journal cannot be read or written, or is damaged.
    pub fn open(path: &Path, now: UnixTime) -> Result<Self, JournalError> {
        let (journal, events) = Journal::open(path)?;
        let mut state = State::default();
        for event in events {
            state.apply(event);
        }
        state.drop_expired(now);
        journal.rewrite(state.snapshot())?;
        Ok(Self(Arc::new(Shared { state: Mutex::new(state), journal })))
    }

    /// Held while a token is made for a holder: two calls make one.
    pub fn making(&self, holder: &Holder) -> Arc<tokio::sync::Mutex<()>> {
        let mut state = self.lock();
        Arc::clone(&state.of.entry(holder.clone()).or_default().making)
    }

    /// A token of the holder that allows `wanted`, allows nothing beyond `granted`, and lasts until
    /// `until`.
    pub fn usable(
        &self,
        holder: &Holder,
        wanted: &str,
        granted: &BTreeSet<String>,
    ) -> Option<Token> {
        let state = self.lock();
        let owned = state.of.get(holder)?;
        let tokens = owned.tokens.iter().filter_map(|accessor| state.tokens.get(accessor));
        tokens
            .filter(|token| {
                token.ending.is_none()
                    && token.secret.is_some()
                    && token.policies.contains(wanted)
                    && token.policies.is_subset(granted)
            })
            .max_by_key(|token| token.expires)
            .cloned()
    }

    /// A token by its accessor.
    pub fn token(&self, accessor: &str) -> Option<Token> {
        self.lock().tokens.get(accessor).cloned()
    }

    /// Notes a token that was made; once this returns it will be found after a crash.
    ///
    /// # Errors
    /// [`JournalError`]: it has to be taken back by the caller.
    pub async fn add_token(&self, token: Token) -> Result<(), JournalError> {
        let event = token.event();
        let written = self.note(event, |state| state.insert_token(token))?;
        written.done().await
    }

    /// Notes that a token lives longer.
    ///
    /// # Errors
    /// [`JournalError`] when it is not on the disk.
    pub async fn renew_token(&self, accessor: &str, expires: UnixTime) -> Result<(), JournalError> {
        let event = Event::TokenRenewed { accessor: accessor.to_owned(), expires };
        self.apply(event)?.done().await
    }

    /// Counts a use of `credential` if there have been fewer than `max` that count yet.
    pub fn reserve(
        &self,
        holder: &Holder,
        credential: &str,
        max: Option<u32>,
        now: UnixTime,
    ) -> Option<Reserved> {
        let mut state = self.lock();
        let owned = state.of.entry(holder.clone()).or_default();
        owned.uses.retain(|(_, until)| *until > now);
        let used = owned.uses.iter().filter(|(name, ..)| name == credential).count();
        let reserved = owned.reserved.entry(credential.to_owned()).or_default();
        let used = u32::try_from(used).unwrap_or(u32::MAX).saturating_add(*reserved);
        if max.is_some_and(|max| used >= max) {
            return None;
        }
        *reserved += 1;
        Some(Reserved {
            store: self.clone(),
            holder: holder.clone(),
            credential: credential.to_owned(),
        })
    }

    /// Notes what is about to be handed out. `false` when its token is to be taken back meanwhile:
    /// it must not be handed out.
    ///
    /// # Errors
    /// [`JournalError`] when it is not on the disk.
    pub async fn add_lease(&self, lease: Lease) -> Result<bool, JournalError> {
        let written = {
            let mut state = self.lock();
            let token = state.tokens.get(&lease.accessor);
            if token.is_none_or(|token| token.ending.is_some()) {
                return Ok(false);
            }
            self.append(&mut state, lease.event(), |state| state.insert_lease(lease))?
        };
        written.done().await?;
        Ok(true)
    }

    /// The leases of a holder that have not ended, oldest first.
    pub fn leases(&self, holder: &Holder, now: UnixTime) -> Vec<Lease> {
        let state = self.lock();
        let Some(owned) = state.of.get(holder) else { return Vec::new() };
        let leases = owned.leases.iter().filter_map(|id| state.leases.get(id));
        leases
            .filter(|lease| lease.expires_at > now && lease.ending.is_none())
            .filter(|lease| state.tokens.get(&lease.accessor).is_some_and(|t| t.ending.is_none()))
            .cloned()
            .collect()
    }

    /// Notes that a lease lives longer.
    ///
    /// # Errors
    /// [`JournalError`] when it is not on the disk.
    pub async fn renew_lease(&self, lease: &str, expires: UnixTime) -> Result<(), JournalError> {
        self.apply(Event::LeaseRenewed { lease: lease.to_owned(), expires })?.done().await
    }

    /// Marks a lease to be taken back; `None` if it is already.
    pub fn end_lease(&self, lease: &str, why: &str) -> Option<(Lease, Holder)> {
        let mut state = self.lock();
        let found = state.leases.get(lease).filter(|found| found.ending.is_none())?.clone();
        let holder = state.tokens.get(&found.accessor)?.holder.clone();
        let event = Event::LeaseEnding { lease: lease.to_owned(), why: why.to_owned() };
        self.apply_locked(&mut state, event);
        Some((found, holder))
    }

    /// Notes that a lease was taken back.
    pub fn lease_ended(&self, lease: &str) {
        let mut state = self.lock();
        self.apply_locked(&mut state, Event::LeaseEnded { lease: lease.to_owned() });
    }

    /// Marks the tokens of every holder that `gone` gives a reason for; returns those that were not
    /// marked before.
    pub fn end_holders(&self, gone: impl Fn(&Holder) -> Option<String>) -> Vec<Token> {
        let mut state = self.lock();
        let marked: Vec<(Token, String)> = state
            .of
            .iter()
            .filter(|(_, owned)| !owned.tokens.is_empty())
            .filter_map(|(holder, owned)| Some((owned, gone(holder)?)))
            .flat_map(|(owned, why)| owned.tokens.iter().map(move |token| (token, why.clone())))
            .filter_map(|(accessor, why)| Some((state.tokens.get(accessor)?.clone(), why)))
            .filter(|(token, _)| token.ending.is_none())
            .collect();
        for (token, why) in &marked {
            let event = Event::Ending { accessor: token.accessor.to_string(), why: why.clone() };
            self.apply_locked(&mut state, event);
        }
        marked.into_iter().map(|(token, why)| Token { ending: Some(why), ..token }).collect()
    }

    /// The leases, with their holders, that `gone` gives a reason for; marked.
    pub fn end_leases(
        &self,
        gone: impl Fn(&Holder, &Lease) -> Option<String>,
    ) -> Vec<(Lease, Holder)> {
        let mut state = self.lock();
        let marked: Vec<(Lease, Holder, String)> = state
            .leases
            .values()
            .filter(|lease| lease.ending.is_none())
            .filter_map(|lease| {
                let token = state.tokens.get(&lease.accessor)?;
                let why = gone(&token.holder, lease)?;
                token.ending.is_none().then(|| (lease.clone(), token.holder.clone(), why))
            })
            .collect();
        for (lease, _, why) in &marked {
            let event = Event::LeaseEnding { lease: lease.lease_id.clone(), why: why.clone() };
            self.apply_locked(&mut state, event);
        }
        marked.into_iter().map(|(lease, holder, _)| (lease, holder)).collect()
    }

    /// What was marked and has not been taken back yet: after a restart, all that a crash left.
    pub fn unfinished(&self) -> (Vec<Token>, Vec<(Lease, Holder)>) {
        let state = self.lock();
        let tokens = state.tokens.values().filter(|token| token.ending.is_some()).cloned();
        let leases = state.leases.values().filter(|lease| lease.ending.is_some());
        let leases = leases.filter_map(|lease| {
            let token = state.tokens.get(&lease.accessor)?;
            token.ending.is_none().then(|| (lease.clone(), token.holder.clone()))
        });
        (tokens.collect(), leases.collect())
    }

    /// Notes that a token was taken back, or had ended by itself; its leases end with it.
    pub fn token_ended(&self, accessor: &str) {
        let mut state = self.lock();
        self.apply_locked(&mut state, Event::Ended { accessor: accessor.to_owned() });
    }

    /// Takes note of the agents that are banned now; returns those that were not before.
    pub fn banned(&self, banned: &BTreeSet<String>, now: UnixTime) -> Vec<String> {
        let mut state = self.lock();
        let new: Vec<_> =
            banned.iter().filter(|agent| !state.bans.contains_key(*agent)).cloned().collect();
        let over: Vec<_> =
            state.bans.keys().filter(|agent| !banned.contains(*agent)).cloned().collect();
        for agent in &new {
            self.apply_locked(&mut state, Event::Ban { agent: agent.clone(), at: now });
        }
        for agent in over {
            self.apply_locked(&mut state, Event::Unban { agent });
        }
        new
    }

    /// When an agent was found to be banned, Unix seconds.
    pub fn bans(&self) -> BTreeMap<String, UnixTime> {
        self.lock().bans.clone()
    }

    /// Forgets what has expired, and shortens the journal when it has grown long.
    pub fn tidy(&self, now: UnixTime) {
        let mut state = self.lock();
        state.drop_expired(now);
        if state.events > REWRITE_AFTER {
            state.events = 0;
            if let Err(error) = self.0.journal.rewrite(state.snapshot()) {
                tracing::warn!(%error, "The journal was not shortened");
            }
        }
    }

    /// How many tokens, leases, and of both those that are to be taken back.
    pub fn counts(&self) -> (usize, usize, usize) {
        let state = self.lock();
        let ending = state.tokens.values().filter(|token| token.ending.is_some()).count()
            + state.leases.values().filter(|lease| lease.ending.is_some()).count();
        (state.tokens.len(), state.leases.len(), ending)
    }

    fn apply(&self, event: Event) -> Result<Written, JournalError> {
        self.note(event.clone(), |state| state.apply(event))
    }

    /// Applies an event that holds whether or not the disk takes it.
    fn apply_locked(&self, state: &mut State, event: Event) {
        state.events += 1;
        if let Err(error) = self.0.journal.append(event.clone()) {
            tracing::error!(%error, "What is taken back is not in the journal");
        }
        state.apply(event);
    }

    fn note(&self, event: Event, change: impl FnOnce(&mut State)) -> Result<Written, JournalError> {
        let mut state = self.lock();
        self.append(&mut state, event, change)
    }

    fn append(
        &self,
        state: &mut State,
        event: Event,
        change: impl FnOnce(&mut State),
    ) -> Result<Written, JournalError> {
        let written = self.0.journal.append(event)?;
        state.events += 1;
        change(state);
        Ok(written)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut state = self.store.lock();
        if let Some(owned) = state.of.get_mut(&self.holder)
            && let Some(reserved) = owned.reserved.get_mut(&self.credential)
        {
            *reserved = reserved.saturating_sub(1);
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(.., of {} until {})", self.holder.id, self.expires.seconds())
    }
}

impl fmt::Debug for LeaseStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tokens, leases, ending) = self.counts();
        write!(f, "LeaseStore({tokens} tokens, {leases} leases, {ending} ending)")
    }
}

#[cfg(test)]
mod tests;
