//! Keeping the server's own keys alive, and removing what dead servers and cut-off calls left
//! behind.
//!
//! A SPIRE server of the trust domain schedules the deletion of any key whose alias (or, where it
//! goes by tags, whose tag) was not refreshed for two weeks, and so do these. Before a key of
//! another server is deleted, both its aliases and its tag must be that old.

use std::time::Duration;

use signet_base::{chain, periodically};

use super::{Described, Kms, api, names};
use crate::AwsError;

/// How often own keys are refreshed: SPIRE's number.
const REFRESH_EVERY: Duration = Duration::from_secs(6 * 3600);
/// How often keys of dead servers are looked for: SPIRE's numbers, by aliases and by tags.
const DISPOSE_EVERY: Duration = Duration::from_secs(24 * 3600);
const DISPOSE_TAGGED_EVERY: Duration = Duration::from_secs(48 * 3600);
/// How often keys without an alias are looked for: SPIRE's number.
const SWEEP_EVERY: Duration = Duration::from_secs(48 * 3600);
/// How long after the start that is done for the first time.
const FIRST_DISPOSE: Duration = Duration::from_secs(15 * 60);
const FIRST_SWEEP: Duration = Duration::from_secs(70 * 60);
/// How soon what failed is tried again.
const AGAIN: Duration = Duration::from_secs(10 * 60);

/// After how long without a refresh a key counts as abandoned, seconds: SPIRE's number.
const ABANDONED_AFTER: f64 = 14.0 * 24.0 * 3600.0;
/// After how long a key of the trust domain without an alias counts as left behind: SPIRE's number.
const LEFT_AFTER: f64 = 48.0 * 3600.0;
/// The same for keys that this server has begun itself: longer than any call takes, for a replica
/// with the same key identifier may be at it.
const OWN_LEFT_AFTER: f64 = 3600.0;

impl Kms {
    /// Does all that, for ever, once the keys are known.
    pub(super) async fn keep_up(&self) {
        self.0.is_loaded.notified().await;
        let dispose_every =
            if self.0.settings.by_tags { DISPOSE_TAGGED_EVERY } else { DISPOSE_EVERY };
        let refresh = || async { is_done("Keys could not be kept alive", self.refresh().await) };
        let dispose = || async {
            let what = "Keys of servers that are gone could not be removed";
            is_done(what, self.dispose().await)
        };
        let sweep =
            || async { is_done("Keys without an alias could not be removed", self.sweep().await) };
        tokio::join!(
            periodically(Duration::ZERO, REFRESH_EVERY, AGAIN, refresh),
            periodically(FIRST_DISPOSE, dispose_every, AGAIN, dispose),
            periodically(FIRST_SWEEP, SWEEP_EVERY, AGAIN, sweep),
        );
    }

    /// Says of every key in use that its server is there: to those who go by aliases, and to those
    /// who go by tags.
    ///
    /// # Errors
    /// The last [`AwsError`]; the other keys are refreshed all the same.
    pub async fn refresh(&self) -> Result<(), AwsError> {
        let own: Vec<_> = self.state().own.clone().into_iter().collect();
        let mut outcome = Ok(());
        for (id, arn) in own {
            if let Err(error) = self.refresh_one(&id, &arn).await {
                tracing::debug!(key = arn, error = chain(&error), "A key could not be refreshed");
                outcome = Err(error);
            }
        }
        outcome
    }

    async fn refresh_one(&self, id: &str, arn: &str) -> Result<(), AwsError> {
        let (api, alias) = (&self.0.api, self.0.names.alias(id)?);
        let aliases = self.0.aliases.lock().await;
        // It may have been rotated meanwhile.
        if self.state().own.get(id).is_none_or(|own| own != arn) {
            return Ok(());
        }
        match api.describe(&alias).await {
            // A key that is about to be deleted is no rotation, but what one that was given up left.
            Ok(target) if target.arn == arn || !target.enabled => {
                api.set_alias(&alias, arn, true).await?;
            }
            Ok(target) => tracing::warn!(
                alias,
                key = arn,
                other = target.arn,
                "The alias of a key leads to another key by now, which a replica may have made; it \
                 is left as it is"
            ),
            Err(error) if error.is_not_found() => api.set_alias(&alias, arn, false).await?,
            Err(error) => return Err(error),
        }
        drop(aliases);
        if self.0.settings.by_tags {
            return api.tag_key(arn, &self.own_tags(id)).await;
        }
        // A server that went by tags once may have left some: others would take the key for
        // abandoned. Without the right to tag there are none.
        if self.state().tags_are_refused {
            return Ok(());
        }
        let now = api.kms.unix().to_string();
        if let Err(error) = api.tag_key(arn, &[api::tag(names::TAG_UPDATED, &now)]).await {
            tracing::debug!(key = arn, error = chain(&error), "A key is not tagged");
            self.state().tags_are_refused = error.is_denied();
        }
        Ok(())
    }

    /// Schedules the deletion of keys whose servers are gone.
    ///
    /// # Errors
    /// [`AwsError`]; of single keys the last one, after all others were looked at.
    pub async fn dispose(&self) -> Result<(), AwsError> {
        match self.0.settings.by_tags {
            true => self.dispose_tagged().await,
            false => self.dispose_aliases().await,
        }
    }

    async fn dispose_aliases(&self) -> Result<(), AwsError> {
        let mut outcome = Ok(());
        for alias in self.0.api.aliases(None).await? {
            let is_old = alias.last_updated_date.is_some_and(|at| self.age(at) > ABANDONED_AFTER);
            if is_old && self.0.names.is_of_another(&alias.alias_name) {
                outcome = self.dispose_alias(&alias.alias_name).await.and(outcome);
            }
        }
        outcome
    }

    async fn dispose_alias(&self, alias: &str) -> Result<(), AwsError> {
        let key = match self.0.api.describe(alias).await {
            Err(error) if error.is_not_found() => return Ok(()),
            key => key?,
        };
        // Read once more: its server may be back since the list was made.
        if !key.enabled || self.is_own(&key.arn) || self.has_fresh_alias(&key.arn).await? {
            return Ok(());
        }
        tracing::info!(alias, key = key.arn, "The server of a key is gone; the key is deleted");
        self.0.api.delete_alias(alias).await?;
        self.0.api.schedule_deletion(&key.arn).await
    }

    async fn dispose_tagged(&self) -> Result<(), AwsError> {
        let settings = &self.0.settings;
        let tags =
            [(names::TAG_DOMAIN, settings.trust_domain.as_str()), (names::TAG_ACTIVE, "true")];
        let mut outcome = Ok(());
        for key in self.0.api.tagged(&tags).await? {
            if key.tag(names::TAG_SERVER) == Some(&*settings.server_id) {
                continue;
            }
            // Without the tag its creation has to be that long ago.
            let updated = match key.tag(names::TAG_UPDATED).map(str::parse::<i64>) {
                None => 0.0,
                Some(Ok(at)) => at as f64,
                Some(Err(_)) => {
                    tracing::warn!(key = key.arn, "The tag {} is no time", names::TAG_UPDATED);
                    continue;
                }
            };
            if self.age(updated) > ABANDONED_AFTER {
                outcome = self.dispose_key(&key.arn).await.and(outcome);
            }
        }
        outcome
    }

    async fn dispose_key(&self, arn: &str) -> Result<(), AwsError> {
        let key = match self.0.api.describe(arn).await {
            Err(error) if error.is_not_found() => return Ok(()),
            key => key?,
        };
        if self.age(key.creation_date) < ABANDONED_AFTER
            || self.is_own(arn)
            || (key.enabled && self.has_fresh_alias(arn).await?)
        {
            return Ok(());
        }
        if key.enabled {
            tracing::info!(key = arn, "The server of a key is gone; the key is deleted");
            self.0.api.schedule_deletion(arn).await?;
        }
        // Last, for this hides it from the next look.
        match self.0.api.tag_key(arn, &[api::tag(names::TAG_ACTIVE, "false")]).await {
            Err(error) if error.code() == "KMSInvalidStateException" => Ok(()),
            done => done,
        }
    }

    /// Schedules the deletion of keys that never got their alias.
    ///
    /// # Errors
    /// [`AwsError`]; of single keys the last one, after all others were looked at.
    pub async fn sweep(&self) -> Result<(), AwsError> {
        let arns = match self.0.settings.by_tags {
            true => self.own_tagged().await?.into_iter().map(|key| key.arn).collect(),
            false => self.0.api.keys().await?,
        };
        let mut outcome = Ok(());
        for arn in arns {
            match self.sweep_key(&arn).await {
                Ok(()) => {}
                // Keys of others may be closed to this server.
                Err(error) if error.is_denied() || error.is_not_found() => {}
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    async fn sweep_key(&self, arn: &str) -> Result<(), AwsError> {
        let key = self.0.api.describe(arn).await?;
        if !key.enabled
            || !self.is_left_behind(&key)
            || !self.0.api.aliases(Some(arn)).await?.is_empty()
        {
            return Ok(());
        }
        tracing::info!(key = arn, "A key was left behind without an alias; it is deleted");
        self.0.api.schedule_deletion(arn).await
    }

    /// Whether a key that has no alias will not get one any more.
    fn is_left_behind(&self, key: &Described) -> bool {
        let names = &self.0.names;
        if !names.is_described(&key.description) || self.is_own(&key.arn) {
            return false;
        }
        let is_own = names.handle_of(&key.description).is_some();
        self.age(key.creation_date) > if is_own { OWN_LEFT_AFTER } else { LEFT_AFTER }
    }

    /// Whether a key is in use here, or is just being made.
    fn is_own(&self, arn: &str) -> bool {
        let state = self.state();
        state.own.values().any(|own| own == arn)
            || state.begun.values().any(|begun| begun.arn.as_deref() == Some(arn))
    }

    /// Whether somebody has refreshed an alias of a key.
    async fn has_fresh_alias(&self, arn: &str) -> Result<bool, AwsError> {
        let aliases = self.0.api.aliases(Some(arn)).await?;
        let mut dates = aliases.iter().filter_map(|alias| alias.last_updated_date);
        Ok(dates.any(|at| self.age(at) <= ABANDONED_AFTER))
    }

    /// How long ago a time is, seconds.
    fn age(&self, at: f64) -> f64 {
        self.0.api.kms.unix() as f64 - at
    }
}

/// Whether it went well; logs what did not.
fn is_done(what: &'static str, outcome: Result<(), AwsError>) -> bool {
    if let Err(error) = &outcome {
        tracing::warn!(error = chain(error), "{what}; it is tried again in ten minutes");
    }
    outcome.is_ok()
}
