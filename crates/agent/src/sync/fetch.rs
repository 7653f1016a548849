//! Fetching entries and bundles.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use signet_identity::TrustDomain;
use signet_time::UnixTime;

use super::Shared;
use crate::{
    cache::BundleMap,
    client::{ClientError, EntrySync, SyncMethod},
    entry::EntryMap,
};

/// How many foreign bundles are fetched at once.
const BUNDLES_AT_ONCE: usize = 10;

/// What to fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Entries and bundles.
    All,
    /// Entries, and bundles that became necessary.
    Entries,
}

impl Scope {
    /// Both in one.
    pub(super) fn and(self, other: Self) -> Self {
        if self == other { self } else { Self::All }
    }
}

/// What was fetched: complete sets.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) entries: EntrySync,
    pub(super) bundles: BundleMap,
    pub(super) method: SyncMethod,
}

/// Fetches what `scope` says.
pub(super) async fn fetch(
    shared: &Shared,
    method: SyncMethod,
    known: &EntryMap,
    scope: Scope,
) -> Result<Fetched, ClientError> {
    let have = shared.cache.watch_bundles().borrow().clone();
    let own = &shared.settings.trust_domain;
    let (entries, own_bundle) = tokio::join!(entries(shared, method, known), async {
        match (scope, have.get(own)) {
            // A bundle without authorities is a place-holder of the first moments.
            (Scope::Entries, Some(bundle))
                if shared.status.borrow().last_sync > UnixTime::EPOCH =>
            {
                Ok(Arc::clone(bundle))
            }
            _ => shared.server.client.bundle().await.map(Arc::new),
        }
    });
    let (method, entries) = entries?;
    let own_bundle = own_bundle?;
    if own_bundle.trust_domain != *own {
        return Err(ClientError::Malformed {
            method: "GetBundle",
            reason: format!("a bundle of {}, expected {own}", own_bundle.trust_domain),
        });
    }
    let mut bundles = BundleMap::from([(own.clone(), own_bundle)]);

    let mut foreign: Vec<&TrustDomain> = entries
        .entries
        .values()
        .flat_map(|entry| &entry.federates_with)
        .filter(|name| *name != own)
        .collect();
    foreign.sort_unstable();
    foreign.dedup();
    let mut wanted = Vec::new();
    for name in foreign {
        match have.get(name) {
            Some(bundle) if scope == Scope::Entries => {
                bundles.insert(name.clone(), Arc::clone(bundle));
            }
            _ => wanted.push(name.clone()),
        }
    }
    let mut answers = stream::iter(wanted)
        .map(|name| async move {
            let answer = shared.server.client.federated_bundle(&name).await;
            (name, answer)
        })
        .buffer_unordered(BUNDLES_AT_ONCE);
    while let Some((name, answer)) = answers.next().await {
        match answer {
            Ok(Some(bundle)) if bundle.trust_domain == name => {
                bundles.insert(name, Arc::new(bundle));
            }
            Ok(Some(bundle)) => {
                tracing::warn!(asked = %name, got = %bundle.trust_domain, "Received the wrong bundle");
            }
            Ok(None) => {
                tracing::debug!(trust_domain_id = %name, "The server has no bundle for this trust domain");
            }
            Err(error) if error.refusal().is_some() || error.is_unreachable() => return Err(error),
            Err(error) => {
                tracing::warn!(trust_domain_id = %name, error = %error, "Failed to fetch bundle");
                if let Some(bundle) = have.get(&name) {
                    bundles.insert(name, Arc::clone(bundle));
                }
            }
        }
    }
    Ok(Fetched { entries, bundles, method })
}

/// Fetches the entries; a server without `SyncAuthorizedEntries` is asked for all of them from
/// then on.
async fn entries(
    shared: &Shared,
    method: SyncMethod,
    known: &EntryMap,
) -> Result<(SyncMethod, EntrySync), ClientError> {
    match shared.server.client.entries(method, known).await {
        Ok(entries) => Ok((method, entries)),
        Err(error) if method == SyncMethod::Sync && error.is_unimplemented() => {
            tracing::info!("The server has no SyncAuthorizedEntries; using GetAuthorizedEntries");
            let entries = shared.server.client.entries(SyncMethod::Get, known).await?;
            Ok((SyncMethod::Get, entries))
        }
        Err(error) => Err(error),
    }
}
