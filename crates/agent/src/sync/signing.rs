//! Having X.509-SVIDs signed: in batches, a few at a time, with a pause for each entry that fails.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use signet_base::Backoff;
use signet_identity::{EntryId, SpiffeId};
use signet_pki::{
    KeyType, PrivateKey,
    x509::{Certificate, CsrParams, create_csr},
};
use signet_time::UnixTime;
use tokio::time::Instant;
use tonic::Code;
use zeroize::Zeroizing;

use super::{Shared, shared::status_of};
use crate::{
    cache::Wanted,
    client::{ClientError, NewSvid, SignRequest},
    svid::X509Svid,
    workload_keys,
};

/// The most requests in one batch (SPIRE's limit).
const MAX_BATCH: usize = 500;
/// How many batches run at once.
const MAX_BATCHES: usize = 2;
/// The pauses of an entry that fails.
const MIN_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(240);

/// The batches that run and the entries that wait.
#[derive(Debug)]
pub(super) struct Signing {
    running: FuturesUnordered<BoxFuture<'static, BatchResult>>,
    in_flight: HashSet<EntryId>,
    paused: HashMap<EntryId, (Backoff, Instant)>,
    limit: usize,
}

/// What came of a batch.
pub(super) struct BatchResult {
    wanted: Vec<Wanted>,
    result: Result<Vec<Signed>, ClientError>,
}

type Signed = (Arc<PrivateKey>, NewSvid);

/// What [`Signing::finish`] found.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// How many SVIDs came.
    pub(super) signed: usize,
    /// Why the batch as a whole failed.
    pub(super) error: Option<ClientError>,
    /// The server does not know some entry (any more) in this form.
    pub(super) unknown_entry: bool,
}

impl Signing {
    pub(super) fn new() -> Self {
        Self {
            running: FuturesUnordered::new(),
            in_flight: HashSet::new(),
            paused: HashMap::new(),
            limit: MAX_BATCH,
        }
    }

    /// The next batch to end; waits for ever while none runs.
    pub(super) async fn next(&mut self) -> BatchResult {
        match self.running.next().await {
            Some(result) => result,
            None => std::future::pending().await,
        }
    }

    /// Whether no batch runs.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// When the next pause ends.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.paused
            .iter()
            .filter(|(id, _)| !self.in_flight.contains(*id))
            .map(|(_, (_, until))| *until)
            .filter(|until| *until > Instant::now())
            .min()
    }

    /// Starts batches for what the cache wants.
    pub(super) fn start(&mut self, shared: &Arc<Shared>) {
        if self.running.len() >= MAX_BATCHES {
            return;
        }
        let now = Instant::now();
        let wanted = shared.cache.wanted(shared.settings.rule);
        if !self.paused.is_empty() {
            let alive: HashSet<&EntryId> = wanted.iter().map(|w| &w.entry.id).collect();
            self.paused.retain(|id, _| alive.contains(id));
        }
        let mut ready = wanted.into_iter().filter(|want| {
            !self.in_flight.contains(&want.entry.id)
                && self.paused.get(&want.entry.id).is_none_or(|(_, until)| *until <= now)
        });
        let mut batches = Vec::new();
        while self.running.len() + batches.len() < MAX_BATCHES {
            let batch: Vec<Wanted> = ready.by_ref().take(self.limit).collect();
            if batch.is_empty() {
                break;
            }
            batches.push(batch);
        }
        for batch in batches {
            let renewed = batch.iter().filter(|want| want.expires_at.is_some()).count();
            if renewed > 0 {
                shared.metrics.expiring_svids.observe_len(&[], renewed);
            }
            for want in &batch {
                self.in_flight.insert(want.entry.id.clone());
                tracing::info!(
                    entry_id = %want.entry.id,
                    spiffe_id = %want.entry.spiffe_id,
                    expires_at = want.expires_at.map(UnixTime::seconds),
                    "{}",
                    if want.expires_at.is_some() { "Renewing X509-SVID" } else { "Creating X509-SVID" }
                );
            }
            self.running.push(Box::pin(sign(Arc::clone(shared), batch)));
        }
    }

    /// Puts what came of a batch into the cache.
    pub(super) fn finish(&mut self, shared: &Shared, batch: BatchResult) -> Outcome {
        let mut outcome = Outcome::default();
        for want in &batch.wanted {
            self.in_flight.remove(&want.entry.id);
        }
        let results = match batch.result {
            Ok(results) => {
                self.limit = (self.limit * 2).min(MAX_BATCH);
                results
            }
            Err(error) => {
                self.limit = (self.limit / 2).max(1);
                tracing::error!(
                    error = %error,
                    count = batch.wanted.len(),
                    "Could not have X509-SVIDs signed"
                );
                let failed = batch.wanted.iter().map(|want| {
                    self.pause(&want.entry.id);
                    (want.entry.id.clone(), None)
                });
                let failed = failed.collect();
                shared.cache.put(failed);
                outcome.error = Some(error);
                return outcome;
            }
        };
        let mut put = Vec::with_capacity(results.len());
        for (want, (key, new)) in batch.wanted.iter().zip(results) {
            let id = want.entry.id.clone();
            let svid = match new {
                Ok(chain) => accept(chain, &key, &want.entry.spiffe_id, shared.clock.unix()),
                Err(status) => {
                    outcome.unknown_entry |= status.code() == Code::NotFound;
                    Err(format!("{} ({:?})", status.message(), status.code()))
                }
            };
            match svid {
                Ok(svid) => {
                    self.paused.remove(&id);
                    outcome.signed += 1;
                    self.warn_short(shared, &svid);
                    put.push((id, Some(svid)));
                }
                Err(reason) => {
                    tracing::warn!(
                        entry_id = %id,
                        spiffe_id = %want.entry.spiffe_id,
                        reason,
                        "Failed to mint X509-SVID"
                    );
                    self.pause(&id);
                    put.push((id, None));
                }
            }
        }
        shared.cache.put(put);
        outcome
    }

    fn pause(&mut self, id: &EntryId) {
        let (backoff, until) = self.paused.entry(id.clone()).or_insert_with(|| {
            (Backoff::new(MIN_PAUSE, MAX_PAUSE).with_jitter(0.2), Instant::now())
        });
        *until = Instant::now() + backoff.next_delay();
    }

    fn warn_short(&self, shared: &Shared, svid: &X509Svid) {
        if shared.settings.rule.falls_back(svid.not_after - svid.not_before) {
            tracing::warn!(
                spiffe_id = %svid.spiffe_id,
                "X509-SVID does not live long enough for availability_target; renewing it at half \
                 its life"
            );
        }
    }
}

async fn sign(shared: Arc<Shared>, wanted: Vec<Wanted>) -> BatchResult {
    let timer = shared.metrics.fetch_svids.start(&[]);
    let result = sign_all(&shared, &wanted).await;
    timer.done(status_of(&result));
    BatchResult { wanted, result }
}

async fn sign_all(shared: &Shared, wanted: &[Wanted]) -> Result<Vec<Signed>, ClientError> {
    let key_type = shared.settings.workload_key_type;
    let subjects: Vec<(EntryId, SpiffeId)> =
        wanted.iter().map(|w| (w.entry.id.clone(), w.entry.spiffe_id.clone())).collect();
    let count = subjects.len();
    let made = workload_keys::make(key_type, count, move || prepare(key_type, subjects)).await?;
    let (keys, requests): (Vec<_>, Vec<_>) = made.into_iter().unzip();
    let results = shared.server.client.sign_x509(&requests).await?;
    Ok(keys.into_iter().zip(results).collect())
}

fn prepare(
    key_type: KeyType,
    subjects: Vec<(EntryId, SpiffeId)>,
) -> Result<Vec<(Arc<PrivateKey>, SignRequest)>, ClientError> {
    let local =
        |error: &dyn std::fmt::Display| ClientError::Local(format!("making a key: {error}"));
    subjects
        .into_iter()
        .map(|(entry_id, spiffe_id)| {
            let key = PrivateKey::generate(key_type).map_err(|e| local(&e))?;
            let signer = key.signer().map_err(|e| local(&e))?;
            let csr =
                create_csr(&CsrParams::workload(spiffe_id), &*signer).map_err(|e| local(&e))?;
            Ok((Arc::new(key), SignRequest { entry_id, csr }))
        })
        .collect()
}

/// Checks that the leaf is for our key and the entry's SPIFFE ID.
fn accept(
    chain: Vec<Box<[u8]>>,
    key: &PrivateKey,
    expected: &SpiffeId,
    now: UnixTime,
) -> Result<Arc<X509Svid>, String> {
    let leaf = chain.first().ok_or("no certificate")?;
    let leaf = Certificate::from_der(leaf).map_err(|error| error.to_string())?;
    let id = leaf.spiffe_id().map_err(|error| error.to_string())?;
    if id != *expected {
        return Err(format!("the server signed for {id}"));
    }
    if leaf.public_key().is_ok_and(|p| p.spki_der() != key.public_key().spki_der()) {
        return Err("the server signed for another key".to_owned());
    }
    if leaf.not_after() <= now {
        return Err("it has expired by this machine's clock: check the clock".to_owned());
    }
    let validity = (leaf.not_before(), leaf.not_after());
    let key = Zeroizing::new(key.pkcs8_der().to_vec());
    Ok(X509Svid::received(id, chain, key, validity, now))
}
