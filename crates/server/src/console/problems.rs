//! What is wrong, the worst first.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use signet_authority::{AuthorityKind, KindView};
use signet_base::Tasks;
use signet_console::page::{Problem, Problems, Severity};
use signet_identity::SpiffeId;
use signet_store::NodeFilter;

use super::{Console, caller::Caller, lookup};
use crate::usecase::{authorization::Action, error::Error};

/// How often entries without an agent are looked for: that looks at every entry.
const LOOK: Duration = Duration::from_secs(60);
/// Above so many entries that is left out: the index is not to be held for long.
const MOST_ENTRIES: usize = 300_000;
/// A store that was not heard of for so long is a problem.
const STALE: Duration = Duration::from_secs(15);

/// Parents that nobody has, and how many entries wait for each: as of the last look.
#[derive(Clone, Debug, Default)]
pub(super) struct Unserved(Arc<Mutex<HashMap<SpiffeId, u64>>>);

/// Looks for entries that no agent can serve, again and again until the tasks end.
pub(super) fn spawn(tasks: &Tasks, console: &Console) {
    let token = tasks.token().clone();
    let console = console.clone();
    tasks.spawn("console", async move {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while token.run_until_cancelled(ticks.tick()).await.is_some() {
            let cache = Arc::clone(&console.0.context.cache);
            let looked = tokio::task::spawn_blocking(move || {
                cache.with_index(|index| {
                    let mut unserved: HashMap<SpiffeId, u64> = HashMap::new();
                    if index.len() <= MOST_ENTRIES {
                        for entry in index.entries() {
                            if !lookup::is_known(index, &entry.parent_id) {
                                *unserved.entry(entry.parent_id.clone()).or_default() += 1;
                            }
                        }
                    }
                    unserved
                })
            });
            if let Ok(Some(unserved)) = looked.await {
                *console.0.unserved.0.lock().unwrap_or_else(PoisonError::into_inner) = unserved;
            }
        }
    });
}

impl Console {
    pub(super) async fn problems(&self, caller: &Caller) -> Result<Problems, Error> {
        let context = &self.0.context;
        let now = context.clock.unix();
        let mut problems = Vec::new();
        self.health(&mut problems).await;
        let next_expiry = self.authority_problems(caller, now, &mut problems).await?;
        let (agents, expired) = self.agent_problems(caller, now, &mut problems).await?;
        self.federation_problems(caller, &mut problems).await?;
        self.entry_problems(&mut problems);
        problems.sort_by_key(|problem| problem.severity);
        let foreign = context.cache.bundle_count().saturating_sub(1);
        Ok(Problems {
            problems,
            entries: context.cache.entry_count() as u64,
            agents,
            live_agents: agents.saturating_sub(expired),
            foreign_bundles: foreign as u64,
            next_expiry,
            uptime: context.started.elapsed().as_secs(),
        })
    }

    async fn health(&self, problems: &mut Vec<Problem>) {
        let report = self.0.context.health.report().await;
        if !(report.live && report.ready) {
            for (part, details) in &report.ready_details {
                let details = details.get("message").and_then(|text| text.as_str());
                let Some(details) = details else { continue };
                problems.push(Problem {
                    severity: Severity::Error,
                    what: format!("{part} is not healthy: {details}"),
                    effect: "Health checks fail; an orchestrator may restart the server."
                        .to_owned(),
                    next: "The log of the server says more.".to_owned(),
                    link: "/server".to_owned(),
                });
            }
        }
        let staleness = self.0.context.cache.staleness();
        if staleness > STALE {
            problems.push(Problem {
                severity: Severity::Error,
                what: format!("The store has not answered for {} s", staleness.as_secs()),
                effect: "Agents are served from memory; nothing can be registered.".to_owned(),
                next: "Look at the database and the way to it.".to_owned(),
                link: "/server".to_owned(),
            });
        }
    }

    /// Gives what expires next.
    async fn authority_problems(
        &self,
        caller: &Caller,
        now: i64,
        problems: &mut Vec<Problem>,
    ) -> Result<Option<(String, i64)>, Error> {
        let authorities = &self.0.use_cases.authorities;
        let kinds = [(AuthorityKind::X509, "X.509"), (AuthorityKind::Jwt, "JWT")];
        let mut next: Option<(String, i64)> = None;
        for (kind, name) in kinds {
            let view = self
                .with(caller, Action::ReadAuthorities, "Authorities", async |call| {
                    authorities.state(call, kind)
                })
                .await;
            let Ok(KindView { active: Some(active), next: other }) = view else { continue };
            let life = active.expires_at.saturating_sub(active.issued_at);
            let left = active.expires_at.saturating_sub(now);
            if left < life / 6 && other.is_none_or(|other| other.issued_at < active.issued_at) {
                problems.push(Problem {
                    severity: Severity::Error,
                    what: format!("The {name} authority expires and none follows it"),
                    effect: "When it has expired, nothing can be issued.".to_owned(),
                    next: "Find out why none was prepared: key manager, upstream authority, store."
                        .to_owned(),
                    link: "/authorities".to_owned(),
                });
            }
            if next.as_ref().is_none_or(|(_, at)| active.expires_at < *at) {
                next = Some((format!("{name} authority"), active.expires_at));
            }
        }
        let failed = self.0.context.authority.view().borrow().failed_rotations;
        if failed > 0 {
            problems.push(Problem {
                severity: Severity::Error,
                what: format!("The last {failed} attempts at a rotation failed"),
                effect: "The authority that signs gets older and is not replaced.".to_owned(),
                next: "The log of the server says why.".to_owned(),
                link: "/authorities".to_owned(),
            });
        }
        Ok(next)
    }

    /// Gives how many agents there are, and how many of them have no valid SVID.
    async fn agent_problems(
        &self,
        caller: &Caller,
        now: i64,
        problems: &mut Vec<Problem>,
    ) -> Result<(u64, u64), Error> {
        let agents = &self.0.use_cases.agents;
        let ttl = i64::try_from(self.0.context.config.ttl.agent.as_secs()).unwrap_or(i64::MAX);
        let before = |time| NodeFilter { expires_before: Some(time), ..NodeFilter::default() };
        let (all, expired, soon) = self
            .with(caller, Action::ReadAgents, "Agents", async |call| {
                Ok((
                    agents.count(call, &NodeFilter::default()).await?,
                    agents.count(call, &before(now)).await?,
                    agents.count(call, &before(now.saturating_add(ttl / 4))).await?,
                ))
            })
            .await?;
        if expired > 0 {
            problems.push(Problem {
                severity: Severity::Warning,
                what: format!("{expired} agents have no valid SVID any more"),
                effect: "Their nodes are gone, or their workloads lose their identities."
                    .to_owned(),
                next: "Evict those that are gone; look at the logs of the others.".to_owned(),
                link: "/agents?expires_within=0s".to_owned(),
            });
        }
        let soon = soon.saturating_sub(expired);
        if soon > 0 {
            problems.push(Problem {
                severity: Severity::Warning,
                what: format!("{soon} agents should have renewed their SVID by now"),
                effect: "They cannot renew, or cannot reach a server.".to_owned(),
                next: "`signet-agent doctor` and the agent's log on one of them.".to_owned(),
                link: format!("/agents?expires_within={}s", ttl / 4),
            });
        }
        Ok((all, expired))
    }

    async fn federation_problems(
        &self,
        caller: &Caller,
        problems: &mut Vec<Problem>,
    ) -> Result<(), Error> {
        let federation = self.federation(caller).await?;
        for related in federation.relationships {
            let name = &related.trust_domain;
            let (what, effect) = match (related.authorities, related.error.is_empty()) {
                (Some(_), true) => continue,
                (None, _) => (
                    format!("The bundle of {name} is not here"),
                    "Workloads do not get it; connections to that domain fail.",
                ),
                (Some(_), false) => (
                    format!("The bundle of {name} cannot be fetched: {}", related.error),
                    "When that domain changes its keys, connections to it fail.",
                ),
            };
            problems.push(Problem {
                severity: Severity::Warning,
                what,
                effect: effect.to_owned(),
                next: "Look whether its endpoint answers, or set the bundle by hand.".to_owned(),
                link: "/federation".to_owned(),
            });
        }
        Ok(())
    }

    fn entry_problems(&self, problems: &mut Vec<Problem>) {
        let unserved = self.0.unserved.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut unserved: Vec<_> = unserved.into_iter().collect();
        unserved.sort_by(|(a, x), (b, y)| y.cmp(x).then_with(|| a.to_string().cmp(&b.to_string())));
        let more = unserved.len().saturating_sub(5);
        for (parent, count) in unserved.into_iter().take(5) {
            problems.push(Problem {
                severity: Severity::Warning,
                what: match count {
                    1 => format!("No agent can serve the entry of {parent}"),
                    _ => format!("No agent can serve the {count} entries of {parent}"),
                },
                effect: "Their workloads get no identity.".to_owned(),
                next: "No agent and no alias has the ID of their parent: attest it, or correct it."
                    .to_owned(),
                link: format!("/entries?parent_id={}", super::read::encode(&parent.to_string())),
            });
        }
        if more > 0 {
            problems.push(Problem {
                severity: Severity::Note,
                what: format!("{more} more parents of entries are unknown"),
                effect: String::new(),
                next: "`signet-server entry show` lists all entries.".to_owned(),
                link: String::new(),
            });
        }
    }
}
