//! Hearing at once of what others commit. LISTEN needs a session of its own, which a pooler does
//! not give and some databases do not have: without it the feed is asked now and then.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use signet_base::Backoff;
use tokio::sync::Notify;

use super::{
    connect::{Connector, Heard},
    mark::CHANNEL,
    store::{Inner, PostgresStore},
};

/// How often it is tried out whether notifications still come through.
const PROBE: Duration = Duration::from_secs(30);
/// How long one may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Listening that failed is tried again, less and less often.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Listens until the store is gone.
pub(super) async fn run(store: Weak<Inner>, connector: Connector) {
    let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
    let mut told = false;
    loop {
        let why = listen(&store, &connector, &mut backoff).await;
        let Some(inner) = store.upgrade() else { return };
        let was = inner.listening.swap(false, Ordering::AcqRel);
        drop(inner);
        if was || !told {
            told = true;
            tracing::info!(why, "Not listening for what others commit: the feed is polled");
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}

/// Listens as long as it works; answers why it ended.
async fn listen(store: &Weak<Inner>, connector: &Connector, backoff: &mut Backoff) -> String {
    let heard = Arc::new(Notify::new());
    let probed = Arc::new(Notify::new());
    let probe = format!("{:016x}", signet_base::Jitter::new().next_u64());
    let tell: Heard = {
        let (heard, probed, probe) = (Arc::clone(&heard), Arc::clone(&probed), probe.clone());
        Arc::new(move |payload| match payload.is_empty() {
            true => heard.notify_one(),
            false if payload == probe => probed.notify_one(),
            // Somebody else tries it out.
            false => {}
        })
    };
    let live = match connector.connect(Some(tell)).await {
        Ok(live) => live,
        Err(why) => return why,
    };
    let text = format!("LISTEN {CHANNEL}");
    let asked = live.client.batch_execute(&text);
    match tokio::time::timeout(PROBE_TIMEOUT, asked).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return super::fault::describe(&error),
        Err(_) => return "no answer to LISTEN".to_owned(),
    }
    loop {
        // A pooler may take LISTEN and then forget it: only what was heard counts. The notification
        // is sent as the others are, by a connection of the pool.
        let Some(inner) = store.upgrade() else { return String::new() };
        let store_now = PostgresStore { inner };
        let deadline = tokio::time::Instant::now() + PROBE_TIMEOUT;
        let sent = async {
            let conn = store_now.connection(&store_now.inner.pool, deadline).await.ok()?;
            conn.batch_execute(&format!("NOTIFY {CHANNEL}, '{probe}'")).await.ok()
        };
        let sent = tokio::time::timeout_at(deadline, sent).await;
        if !matches!(sent, Ok(Some(()))) {
            return "NOTIFY failed".to_owned();
        }
        if tokio::time::timeout_at(deadline, probed.notified()).await.is_err() {
            return "notifications do not come through (a pooler?)".to_owned();
        }
        if !store_now.inner.listening.swap(true, Ordering::AcqRel) {
            tracing::debug!("Listening for what others commit");
            backoff.reset();
            _ = store_now.ask_position().await;
        }
        drop(store_now);
        let next_probe = tokio::time::Instant::now() + PROBE;
        loop {
            tokio::select! {
                () = heard.notified() => {}
                () = tokio::time::sleep_until(next_probe) => break,
            }
            if live.is_closed() {
                return "the connection broke".to_owned();
            }
            let Some(inner) = store.upgrade() else { return String::new() };
            // What went wrong is noticed by whoever polls.
            _ = PostgresStore { inner }.ask_position().await;
        }
        if live.is_closed() {
            return "the connection broke".to_owned();
        }
    }
}
