//! The loops that delete what has expired.

use std::time::Duration;

use signet_audit::{Field, Kind, with_fields};
use signet_base::{CancellationToken, Jitter, Tasks};

use crate::{context::Context, servers};

/// How often expired entries are looked for.
const ENTRIES: Duration = Duration::from_secs(5 * 60);
/// How often expired agents are looked for, give or take a quarter.
const NODES: Duration = Duration::from_secs(60 * 60);
/// How often expired join tokens and old changes are looked for.
const TOKENS: Duration = Duration::from_secs(60 * 60);
/// How many entries are deleted in one transaction.
const BATCH: u32 = 1000;
/// How long an expired join token is kept: until then its user is told that it expired.
const TOKEN_GRACE: i64 = 24 * 3600;

/// Starts the loops.
pub(super) fn spawn(tasks: &Tasks, context: &Context) {
    let token = tasks.token();
    tasks.spawn("prune_entries", {
        let (context, token) = (context.clone(), token.clone());
        async move {
            while wait(&token, ENTRIES, 0.0).await {
                if servers::holds(&context, "prune_entries", ENTRIES).await {
                    let timer = context.parts.counted.prune_entries.start(&[]);
                    timer.done(if entries(&context).await { "OK" } else { "Unknown" });
                }
            }
        }
    });
    if context.config.prune_nodes.is_some() {
        tasks.spawn("prune_nodes", {
            let (context, token) = (context.clone(), token.clone());
            async move {
                while wait(&token, NODES, 0.25).await {
                    if servers::holds(&context, "prune_nodes", NODES).await {
                        let timer = context.parts.counted.prune_nodes.start(&[]);
                        timer.done(if nodes(&context, &token).await { "OK" } else { "Unknown" });
                    }
                }
            }
        });
    }
    tasks.spawn("prune_tokens", {
        let (context, token) = (context.clone(), token.clone());
        async move {
            while wait(&token, TOKENS, 0.25).await {
                if servers::holds(&context, "prune_tokens", TOKENS).await {
                    tokens(&context).await;
                }
            }
        }
    });
}

/// Sleeps; `false` once the token is cancelled.
async fn wait(token: &CancellationToken, interval: Duration, spread: f64) -> bool {
    let interval = Jitter::new().spread(interval, spread);
    token.run_until_cancelled(tokio::time::sleep(interval)).await.is_some()
}

/// Nobody asked, but something was deleted: an audit event, and in any case a line of the log.
fn pruned(context: &Context, kind: Kind, message: &'static str, fields: Vec<Field>) {
    if !context.config.audit_log_enabled {
        with_fields(&fields, || tracing::info!("{message}"));
    }
    context.auditor.happened(kind, message, fields);
}

/// Whether that went well.
async fn entries(context: &Context) -> bool {
    loop {
        let now = context.parts.clock.unix();
        match context.parts.store.prune_entries(now, BATCH, now).await {
            Ok(gone) => {
                let is_last = gone.len() < BATCH as usize;
                for entry in gone {
                    let fields = vec![
                        Field::EntryId(entry.id.to_string()),
                        Field::SpiffeId(entry.spec.spiffe_id),
                        Field::ParentId(entry.spec.parent_id),
                        Field::ExpiresAt(entry.spec.expires_at),
                    ];
                    let message = "Pruned an expired registration";
                    pruned(context, Kind::Registration, message, fields);
                }
                if is_last {
                    return true;
                }
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "Failed pruning registration entries"
                );
                return false;
            }
        }
    }
}

/// Whether that went well.
async fn nodes(context: &Context, token: &CancellationToken) -> bool {
    let Some(settings) = context.config.prune_nodes else { return true };
    while !token.is_cancelled() {
        let now = context.parts.clock.unix();
        let limit = now - settings.expired_for;
        match context.parts.store.prune_nodes(limit, settings.tofu, settings.batch_size, now).await
        {
            Ok(gone) => {
                let count = u32::try_from(gone.len());
                for id in gone {
                    let fields = vec![Field::SpiffeId(id)];
                    pruned(context, Kind::Attestation, "Pruned an expired agent", fields);
                }
                if count.is_ok_and(|count| count < settings.batch_size) {
                    return true;
                }
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "Failed pruning attested nodes"
                );
                return false;
            }
        }
    }
    true
}

async fn tokens(context: &Context) {
    let now = context.parts.clock.unix();
    let pruned = context.parts.store.prune_join_tokens(now - TOKEN_GRACE).await;
    match pruned {
        Ok(0) => {}
        Ok(count) => tracing::debug!(count, "Pruned expired join tokens"),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "Failed pruning join tokens")
        }
    }
    if let Err(error) = context.parts.store.prune_changes(now).await {
        tracing::error!(error = &error as &dyn std::error::Error, "Failed pruning the change feed");
    }
}
