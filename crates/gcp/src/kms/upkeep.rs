//! What is done for keys while they are in use: marked as alive, and those of servers that are gone
//! destroyed.

use std::time::Duration;

use signet_base::{chain, periodically};
use signet_http::rest::RestError;

use super::{Inner, LABEL_ACTIVE, LABEL_SERVER, LABEL_TD, LABEL_UPDATED, calls::State, split};

/// How often keys are marked as alive; SPIRE's number.
const KEEP_ALIVE: Duration = Duration::from_secs(6 * 3600);
/// What was marked later than that before is not marked again, so that servers that start often do
/// not ask for more.
const FRESH: Duration = Duration::from_secs(5 * 3600);
/// How often the keys of others are looked at; SPIRE's number.
const DISPOSAL: Duration = Duration::from_secs(48 * 3600);
/// When they are first looked at.
const FIRST_DISPOSAL: Duration = Duration::from_secs(3600);
/// For how long a key is kept that nobody marks as alive; SPIRE's number.
const STALE: Duration = Duration::from_secs(14 * 24 * 3600);
/// When what failed is tried again.
const RETRY: Duration = Duration::from_secs(10 * 60);

impl Inner {
    pub(super) async fn upkeep(&self) {
        let keep = || async {
            let done = self.keep_alive().await;
            if let Err(error) = &done {
                let error = chain(error);
                tracing::warn!(error, "Keys in Cloud KMS could not be marked as alive");
            }
            done.is_ok()
        };
        let dispose = || async {
            let done = self.dispose().await;
            if let Err(error) = &done {
                let error = chain(error);
                tracing::warn!(error, "Old keys in Cloud KMS could not be removed");
            }
            done.is_ok()
        };
        tokio::join!(
            periodically(Duration::ZERO, KEEP_ALIVE, RETRY, keep),
            periodically(FIRST_DISPOSAL, DISPOSAL, RETRY, dispose),
        );
    }

    pub(super) async fn keep_alive(&self) -> Result<(), RestError> {
        if !self.known().values().any(|known| !known.live.is_empty()) {
            return Ok(());
        }
        let fresh = self.clock.unix() - FRESH;
        let mut first = Ok(());
        for (_, key) in self.own().await? {
            let in_use = self.known().get(&key.name).is_some_and(|known| !known.live.is_empty());
            let marked = key.label(LABEL_UPDATED).parse::<i64>();
            if !in_use || marked.is_ok_and(|marked| marked > fresh.seconds()) {
                continue;
            }
            let set = [(LABEL_UPDATED, self.now())];
            if let Err(error) = self.calls.set_labels(&key, set).await {
                tracing::warn!(key = key.name, error = %chain(&error), "Not marked as alive");
                first = first.and(Err(error));
            }
        }
        first
    }

    pub(super) async fn dispose(&self) -> Result<(), RestError> {
        let limit = (self.clock.unix() - STALE).seconds();
        let filter = format!(
            "labels.{LABEL_TD} = {} AND labels.{LABEL_SERVER} != {} AND labels.{LABEL_ACTIVE} = true \
             AND labels.{LABEL_UPDATED} < {limit}",
            self.td_hash, self.server_id
        );
        for key in self.calls.crypto_keys(&self.key_ring, &filter).await? {
            // Whatever the filter found: nothing else is touched.
            let marked = key.label(LABEL_UPDATED).parse::<i64>();
            let is_stale = key.label(LABEL_TD) == self.td_hash
                && key.label(LABEL_SERVER) != self.server_id
                && !key.label(LABEL_SERVER).is_empty()
                && key.label(LABEL_ACTIVE) == "true"
                && marked.is_ok_and(|marked| marked < limit);
            if !is_stale {
                continue;
            }
            let versions = self.calls.versions(&key.name, Some("state = ENABLED")).await?;
            let enabled: Vec<_> = versions
                .into_iter()
                .filter(|version| version.state == State::Enabled && split(&version.name).is_some())
                .collect();
            if enabled.is_empty() {
                self.calls.set_labels(&key, [(LABEL_ACTIVE, "false".to_owned())]).await?;
            }
            for version in enabled {
                self.calls.destroy(&version.name).await?;
                tracing::info!(key = version.name, "A key of a server that is gone was destroyed");
            }
        }
        Ok(())
    }
}
