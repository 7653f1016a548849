//! What is done for keys while they are in use: updated, which marks them as alive, and those of
//! servers that are gone deleted.

use std::time::Duration;

use signet_base::{chain, periodically};
use signet_http::rest::RestError;

use super::{Inner, TAG_SERVER, TAG_TD, id_of};

/// How often keys are marked as alive; SPIRE's number.
const KEEP_ALIVE: Duration = Duration::from_secs(6 * 3600);
/// What was updated later than that before is not updated again, so that servers that start often do
/// not ask for more.
const FRESH: Duration = Duration::from_secs(5 * 3600);
/// How often the keys of others are looked at; SPIRE's number.
const DISPOSAL: Duration = Duration::from_secs(48 * 3600);
/// When they are first looked at.
const FIRST_DISPOSAL: Duration = Duration::from_secs(3600);
/// For how long a key is kept that nobody updates; SPIRE's number.
const STALE: Duration = Duration::from_secs(14 * 24 * 3600);
/// When what failed is tried again.
const RETRY: Duration = Duration::from_secs(10 * 60);

impl Inner {
    pub(super) async fn upkeep(&self) {
        let keep = || async {
            let done = self.keep_alive().await;
            if let Err(error) = &done {
                let error = chain(error);
                tracing::warn!(error, "Keys in Key Vault could not be marked as alive");
            }
            done.is_ok()
        };
        let dispose = || async {
            let done = self.dispose().await;
            if let Err(error) = &done {
                let error = chain(error);
                tracing::warn!(error, "Old keys in Key Vault could not be removed");
            }
            done.is_ok()
        };
        tokio::join!(
            periodically(Duration::ZERO, KEEP_ALIVE, RETRY, keep),
            periodically(FIRST_DISPOSAL, DISPOSAL, RETRY, dispose),
        );
    }

    pub(super) async fn keep_alive(&self) -> Result<(), RestError> {
        if self.versions().is_empty() {
            return Ok(());
        }
        let fresh = (self.clock.unix() - FRESH).seconds();
        let mut first = Ok(());
        for item in self.own().await? {
            let version = self.versions().get(&item.name).cloned();
            let Some(version) = version.filter(|_| item.updated <= fresh) else { continue };
            if let Err(error) = self.calls.touch(&item.name, &version).await {
                tracing::warn!(key = item.name, error = %chain(&error), "Not marked as alive");
                first = first.and(Err(error));
            }
        }
        first
    }

    pub(super) async fn dispose(&self) -> Result<(), RestError> {
        let limit = (self.clock.unix() - STALE).seconds();
        for item in self.calls.list().await? {
            let is_stale = item.tag(TAG_TD) == Some(&self.trust_domain)
                && item.tag(TAG_SERVER).is_some_and(|id| *id != self.server_id)
                && id_of(&item.name).is_some()
                && item.updated < limit;
            if !is_stale {
                continue;
            }
            match self.calls.delete(&item.name).await {
                Ok(()) => {
                    let key = item.name;
                    tracing::info!(key, "A key of a server that is gone was deleted");
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
