//! Why a workload behind an agent gets what it gets.

use std::sync::Arc;

use signet_audit::Field;
use signet_base::SharedClock;
use signet_identity::{
    AuthorizedIndex, EntryId, SelectorSet, SpiffeId,
    explain::{self, AgentExplanation},
    tenant::Judge,
};

use super::{Call, authorization::Action, error::Error, parts::Parts};
use crate::{
    cache::{Cache, NotFresh},
    policy::Policy,
};

/// How many matching entries are gone into: those of other agents, of which some are named.
const MATCHING: usize = 10_000;

/// Explanations. Cheap to clone.
#[derive(Clone)]
pub struct Explain {
    cache: Arc<Cache>,
    clock: SharedClock,
    policy: Policy,
}

impl Explain {
    /// Those of a server with these parts.
    pub fn new(parts: &Parts) -> Self {
        Self {
            cache: Arc::clone(&parts.cache),
            clock: Arc::clone(&parts.clock),
            policy: parts.policy.clone(),
        }
    }

    /// Finds out what a workload with the selectors `found` gets at `agent`, of what the caller may
    /// see, and lets `tell` put it into words while memory stands still. The judge is there where
    /// tenants are required: what it refuses the agent is not given either.
    ///
    /// # Errors
    /// `NotFound` when the agent is not one that the caller may see; `Unavailable` while the entries
    /// are still being read, or when memory lags.
    pub async fn explain<T: Send + 'static>(
        &self,
        call: &Call,
        agent: &SpiffeId,
        found: &SelectorSet,
        tell: impl FnOnce(&AuthorizedIndex, &AgentExplanation, Option<&Judge<'_>>) -> T + Send + 'static,
    ) -> Result<T, Error> {
        call.may(Action::ExplainEntries)?;
        call.about(Field::SpiffeId(agent.clone()));
        self.cache.current().await?;
        if let Some(scope) = call.scope() {
            let selectors = self.cache.node_selectors(agent);
            let tenants = self.policy.tenants_of(&self.cache, agent, &selectors);
            if !scope.allows_shared("entry.explain", &tenants, false) {
                return Err(Error::not_found("agent not found"));
            }
        }
        let now = self.clock.unix();
        let (cache, policy) = (Arc::clone(&self.cache), self.policy.clone());
        let (call, agent, found) = (call.clone(), agent.clone(), found.clone());
        // Every entry is looked at: off the threads that answer calls.
        let told = tokio::task::spawn_blocking(move || {
            let mut matching = Vec::new();
            cache.walk(0, |_, entry, _| {
                if entry.selectors.is_subset_of(&found) {
                    matching.push(Arc::clone(entry));
                }
                matching.len() < MATCHING
            })?;
            cache.with_tenants(|index, directory| {
                let mut told = explain::for_agent(index, &agent, &found, matching, now);
                if call.scope().is_some() {
                    let sees = |id: &EntryId| index.entry(id).is_some_and(|entry| call.sees(entry));
                    told.authorized.matching.retain(|it| sees(&it.entry_id));
                    told.authorized.near_misses.retain(|it| sees(&it.entry.entry_id));
                    told.expired.retain(|it| sees(&it.entry_id));
                    told.withheld.retain(|it| sees(&it.entry.entry_id));
                    (told.authorized.others, told.more_withheld) = (0, 0);
                }
                policy.judge_with(index, directory, |judge| tell(index, &told, judge))
            })
        });
        let told = told.await.map_err(|_| Error::unavailable("the server is stopping"))?;
        Ok(told.ok_or(NotFresh::Loading)?)
    }
}

impl std::fmt::Debug for Explain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Explain(..)")
    }
}
