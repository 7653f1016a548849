//! The servers of the trust domain: what each says of itself, which jobs one does for all, and how
//! one that is gone for good takes its authorities along.

mod command;
mod retired;

use std::time::Duration;

use signet_base::{Jitter, Tasks};
use signet_daemon::process::hostname;
use signet_store::ServerRecord;
use signet_time::UnixTime;

pub use command::{Command, run};

use crate::context::Context;

/// How often a server says that it is there, give or take a tenth.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(60);
/// How often it is looked for authorities that nobody needs any more, give or take a quarter.
const RETIRED: Duration = Duration::from_secs(5 * 60);

/// Starts telling of this server, and looking after those that are gone.
pub(crate) fn spawn(tasks: &Tasks, context: &Context) {
    if !context.parts.store.is_shared() {
        // Nobody else is there to be told of it.
        return;
    }
    let token = tasks.token();
    let started_at = context.parts.clock.unix();
    let host = hostname();
    tasks.spawn("servers", {
        let (context, host, token) = (context.clone(), host, token.clone());
        async move {
            let mut random = Jitter::new();
            loop {
                tell(&context, &host, started_at).await;
                let pause = random.spread(HEARTBEAT, 0.1);
                if token.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                    // What was signed since is known to the next that ask.
                    tell(&context, &host, started_at).await;
                    return;
                }
            }
        }
    });
    tasks.spawn("retired_servers", {
        let (context, token) = (context.clone(), token.clone());
        async move {
            let mut random = Jitter::new();
            loop {
                let pause = random.spread(RETIRED, 0.25);
                if token.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                    return;
                }
                if holds(&context, "retired_servers", RETIRED).await {
                    retired::clean(&context).await;
                }
            }
        }
    });
}

async fn tell(context: &Context, host: &str, started_at: UnixTime) {
    let record = ServerRecord {
        id: context.server_id.to_string(),
        host: host.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at,
        seen_at: context.parts.clock.unix(),
        issued_until: context.parts.authority.issued_until(),
        retired_at: UnixTime::EPOCH,
    };
    if let Err(error) = context.parts.store.put_server(&record).await {
        tracing::debug!(error = &error as &dyn std::error::Error, "Cannot tell of this server");
    }
}

/// Whether this server is the one that does `job` for all, for the time until it is next due. A
/// store that nobody shares is this server's own.
pub(crate) async fn holds(context: &Context, job: &str, every: Duration) -> bool {
    if !context.parts.store.is_shared() {
        return true;
    }
    // Longer than the time between two turns, so that the holder comes first when it is there.
    let seconds = u32::try_from(every.as_secs().saturating_mul(2)).unwrap_or(u32::MAX);
    let taken = context.parts.store.take_lease(
        job,
        &context.server_id,
        seconds,
        context.parts.clock.unix(),
    );
    match taken.await {
        Ok(held) => held,
        Err(error) => {
            tracing::debug!(job, error = &error as &dyn std::error::Error, "No lease");
            false
        }
    }
}
