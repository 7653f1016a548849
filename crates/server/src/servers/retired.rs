//! Authorities of servers that are gone for good.

use std::{sync::Arc, time::Duration};

use signet_authority::{AuthorityKind, WitOptions, journal::Journal, ports::BundleEdit};
use signet_store::ServerRecord;
use signet_time::UnixTime;

use crate::context::Context;

/// How long after its last word a server may have gone on signing, in heartbeats, beyond the
/// lifetimes it is known to give.
const UNSEEN: u32 = 2;

/// Takes what a retired server had in the bundle out of it, once the last SVID that it signed has
/// expired; then forgets the server.
pub(super) async fn clean(context: &Context) {
    let servers = match context.parts.store.servers().await {
        Ok(servers) => servers,
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "Cannot read the servers");
            return;
        }
    };
    let now = context.parts.clock.unix();
    for server in servers.iter().filter(|server| server.retired_at != UnixTime::EPOCH) {
        if needed_until(context, server) >= now {
            continue;
        }
        if let Err(error) = forget(context, server, now).await {
            tracing::error!(
                server_id = server.id,
                "Cannot clean up after a retired server: {error}"
            );
        }
    }
}

/// Until when something signed by a server may be valid.
pub(super) fn needed_until(context: &Context, server: &ServerRecord) -> UnixTime {
    let ttl = &context.config.ttl;
    let has_wit = context.parts.authority.has(AuthorityKind::Wit);
    let wit = if has_wit { WitOptions::default().svid_ttl } else { Duration::ZERO };
    let longest = ttl.x509_svid.max(ttl.jwt_svid).max(ttl.agent).max(wit);
    let unseen = super::HEARTBEAT * UNSEEN;
    let bound = i64::try_from((longest + unseen).as_secs()).unwrap_or(i64::MAX);
    server.issued_until.max(server.seen_at + bound)
}

async fn forget(context: &Context, server: &ServerRecord, now: UnixTime) -> Result<(), String> {
    let read = context.parts.store.journal(&server.id).await.map_err(|error| error.to_string())?;
    let edit = match &read {
        Some(data) => edit(&Journal::decode(data).map_err(|error| error.to_string())?),
        None => BundleEdit::default(),
    };
    if !edit.is_empty() {
        let changed = context
            .parts
            .store
            .change_bundle(&context.parts.trust_domain, now, move |bundle| {
                edit.apply(bundle);
                Ok::<_, std::convert::Infallible>(())
            })
            .await;
        changed.map_err(|error| error.to_string())?.map(drop).unwrap_or_default();
    }
    let forgotten = context.parts.store.forget_server(&server.id).await;
    if forgotten.map_err(|error| error.to_string())? {
        tracing::info!(
            server_id = server.id,
            host = server.host,
            "The authorities of a retired server have left the bundle"
        );
    }
    Ok(())
}

/// What takes everything out of a bundle that a journal names. With an upstream authority the roots
/// are everybody's, and stay.
fn edit(journal: &Journal) -> BundleEdit {
    let own = journal.x509.iter().filter(|it| it.upstream_authority_id.is_empty());
    let jwt = journal.jwt.iter().chain(&journal.second_jwt);
    BundleEdit {
        remove_x509: own.map(|it| it.certificate.as_slice().into()).collect(),
        remove_jwt: jwt.map(|it| Arc::from(it.key_id.as_str())).collect(),
        remove_wit: journal.wit.iter().map(|it| Arc::from(it.key_id.as_str())).collect(),
        ..BundleEdit::default()
    }
}
