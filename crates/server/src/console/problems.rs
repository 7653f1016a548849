//! What is wrong, the worst first; how things stand, and what expires next.

use signet_authority::{AuthorityKind, KindView};
use signet_console::page::{Expiring, Problem, Problems, Severity};
use signet_store::NodeFilter;
use signet_time::UnixTime;

use super::{Console, caller::Caller, read::encode, scan::Scan};
use crate::usecase::{
    authorization::Action,
    error::{Error, ErrorKind},
    search::EntrySearch,
};

/// A store that was not heard of for so long is a problem.
const STALE: std::time::Duration = std::time::Duration::from_secs(15);
/// How many agents and entries are named that expire next, of each.
const EXPIRING: usize = 5;
/// An hour, seconds.
const HOUR: i64 = 3_600;

impl Console {
    /// Of what the caller may see: each part is left out to which it has no right.
    pub(super) async fn problems(&self, caller: &Caller) -> Result<Problems, Error> {
        let context = &self.0.context;
        let now = context.parts.clock.unix();
        let mut page = Problems::default();
        let mut rights = 0;
        self.current().await;
        if self.may(caller, Action::ReadAuthorities).await {
            rights += 1;
            self.authority_problems(caller, now, &mut page).await?;
        }
        if self.may_to_all(caller, Action::ReadAuthorities).await {
            self.health(&mut page.problems).await;
            page.uptime = Some(context.started.elapsed().as_secs());
        }
        if self.may(caller, Action::ReadAgents).await {
            rights += 1;
            let told = self.agent_problems(caller, now, &mut page).await;
            unless_away(told, "The agents", &mut page.problems)?;
        }
        if self.may(caller, Action::ReadFederation).await {
            rights += 1;
            let told = self.federation_problems(caller, now, &mut page).await;
            unless_away(told, "Federation relationships", &mut page.problems)?;
        }
        // The last one says that nothing of it is theirs.
        if self.may(caller, Action::ReadEntries).await || rights == 0 {
            let told = self.entry_problems(caller, now, &mut page).await;
            unless_away(told, "The entries", &mut page.problems)?;
        }
        if let Some(scope) = self.scope(caller, Action::FollowEntries).await {
            let mine = |event: &super::recent::Event| {
                scope.as_deref().is_none_or(|scope| event.is_in(scope))
            };
            page.changes = Some(self.0.recent.changes_since(now - HOUR, mine) as u64);
        }
        page.problems.sort_by_key(|problem| problem.severity);
        page.expiring.sort_by_key(|expiring| expiring.at);
        Ok(page)
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
        let staleness = self.0.context.parts.cache.staleness();
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

    async fn authority_problems(
        &self,
        caller: &Caller,
        now: UnixTime,
        page: &mut Problems,
    ) -> Result<(), Error> {
        let authorities = &self.0.use_cases.authorities;
        for kind in AuthorityKind::ALL {
            if !self.0.context.parts.authority.has(kind) {
                continue;
            }
            let name = kind.name();
            let view = self
                .with(caller, Action::ReadAuthorities, "Authorities", async |call| {
                    authorities.state(call, kind)
                })
                .await;
            let Ok(KindView { active: Some(active), next: other }) = view else { continue };
            let life = active.expires_at - active.issued_at;
            let left = active.expires_at - now;
            if left < life / 6 && other.is_none_or(|other| other.issued_at < active.issued_at) {
                page.problems.push(Problem {
                    severity: Severity::Error,
                    what: format!("The {name} authority expires and none follows it"),
                    effect: "When it has expired, nothing can be issued.".to_owned(),
                    next: "Find out why none was prepared: key manager, upstream authority, store."
                        .to_owned(),
                    link: "/authorities".to_owned(),
                });
            }
            page.expiring.push(Expiring {
                what: format!("{name} authority"),
                name: active.authority_id,
                at: active.expires_at,
                link: "/authorities".to_owned(),
            });
        }
        let failed = self.0.context.parts.authority.view().borrow().failed_rotations;
        if failed > 0 {
            page.problems.push(Problem {
                severity: Severity::Error,
                what: format!("The last {failed} attempts at a rotation failed"),
                effect: "The authority that signs gets older and is not replaced.".to_owned(),
                next: "The log of the server says why.".to_owned(),
                link: "/authorities".to_owned(),
            });
        }
        Ok(())
    }

    async fn agent_problems(
        &self,
        caller: &Caller,
        now: UnixTime,
        page: &mut Problems,
    ) -> Result<(), Error> {
        let agents = &self.0.use_cases.agents;
        let ttl = i64::try_from(self.0.context.config.ttl.agent.as_secs()).unwrap_or(i64::MAX);
        let before = |time| NodeFilter { expires_before: Some(time), ..NodeFilter::default() };
        let cache = &self.0.context.parts.cache;
        let ((all, expired, soon), next) = self
            .with(caller, Action::ReadAgents, "Agents", async |call| {
                let counts = (
                    agents.count(call, &NodeFilter::default()).await?,
                    agents.count(call, &before(now)).await?,
                    agents.count(call, &before(now + ttl / 4)).await?,
                );
                // Of the soonest of all, those that are the caller's.
                let next = cache.next_agents(now, EXPIRING);
                let mine = next.into_iter().filter(|(id, _)| agents.sees_agent(call, id));
                Ok((counts, mine.collect::<Vec<_>>()))
            })
            .await?;
        page.expiring.extend(next.into_iter().map(|(id, at)| Expiring {
            what: "SVID of an agent, which renews it at half of its life".to_owned(),
            link: format!("/agents/one?id={}", encode(&id.to_string())),
            name: id.to_string(),
            at,
        }));
        (page.agents, page.live_agents) = (Some(all), Some(all.saturating_sub(expired)));
        if expired > 0 {
            page.problems.push(Problem {
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
            page.problems.push(Problem {
                severity: Severity::Warning,
                what: format!("{soon} agents should have renewed their SVID by now"),
                effect: "They cannot renew, or cannot reach a server.".to_owned(),
                next: "`signet-agent doctor` and the agent's log on one of them.".to_owned(),
                link: format!("/agents?expires_within={}s", ttl / 4),
            });
        }
        Ok(())
    }

    async fn federation_problems(
        &self,
        caller: &Caller,
        now: UnixTime,
        page: &mut Problems,
    ) -> Result<(), Error> {
        let federation = self.federation(caller).await?;
        let here = |name: &str| {
            let related = &federation.relationships;
            related.iter().any(|it| it.trust_domain == name && it.authorities.is_some())
        };
        page.foreign_bundles =
            Some(federation.relationships.iter().filter(|it| it.authorities.is_some()).count()
                as u64);
        for (name, at) in self.0.context.parts.cache.foreign_expiries() {
            if here(name.as_str()) && at > now {
                page.expiring.push(Expiring {
                    what: "last known authority of another trust domain".to_owned(),
                    name: name.to_string(),
                    at,
                    link: "/federation".to_owned(),
                });
            }
        }
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
            page.problems.push(Problem {
                severity: Severity::Warning,
                what,
                effect: effect.to_owned(),
                next: "Look whether its endpoint answers, or set the bundle by hand.".to_owned(),
                link: "/federation".to_owned(),
            });
        }
        Ok(())
    }

    async fn entry_problems(
        &self,
        caller: &Caller,
        now: UnixTime,
        page: &mut Problems,
    ) -> Result<(), Error> {
        let entries = &self.0.use_cases.entries;
        let (scan, total) = self
            .with(caller, Action::ReadEntries, "Entries", async |call| {
                let scan = self.scan(call).await?;
                let total = match call.scope() {
                    None => self.0.context.parts.cache.entry_count() as u64,
                    Some(_) => entries.search(call, EntrySearch::default(), None, 1).await?.total,
                };
                Ok((scan, total))
            })
            .await?;
        page.entries = Some(total);
        let Scan { unserved, expiring, .. } = scan;
        page.expiring.extend(expiring.into_iter().filter(|(at, _)| *at > now).map(
            |(at, entry)| Expiring {
                what: "entry".to_owned(),
                name: entry.spiffe_id.to_string(),
                at,
                link: format!("/entries/{}", encode(entry.id.as_str())),
            },
        ));
        let problems = &mut page.problems;
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
                link: format!("/entries?parent_id={}", encode(&parent.to_string())),
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
        Ok(())
    }
}

/// A part that cannot be told because something is away is a problem of its own; the others are told.
fn unless_away(
    told: Result<(), Error>,
    what: &str,
    problems: &mut Vec<Problem>,
) -> Result<(), Error> {
    let error = match told {
        Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::TimedOut) => error,
        other => return other,
    };
    problems.push(Problem {
        severity: Severity::Error,
        what: format!("{what} cannot be read: {error}"),
        effect: "This page does not show what is wrong with them.".to_owned(),
        next: "Look at the database and the way to it.".to_owned(),
        link: "/server".to_owned(),
    });
    Ok(())
}
