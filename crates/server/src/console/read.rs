//! The pages.

use std::{fmt::Display, str::FromStr};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use signet_config::parse_duration;
use signet_console::{
    Page,
    page::{
        Activity, Agent, AgentRow, Agents, Entries, EntryDetail, EntryForm, EntryRow, Explain,
        Server,
    },
};
use signet_identity::{
    AttestedNode, AuthorizedIndex, Entry, EntryId, MatchBehavior, Selector, SelectorSet, SpiffeId,
    explain::AgentExplanation, tenant::Judge,
};
use signet_store::{NodeFilter, PageRequest};
use signet_time::UnixTime;

use super::{Answer, Answered, Console, Query, caller::Caller, lookup};
use crate::usecase::{
    authorization::Action,
    error::{Error, ErrorKind},
    search::EntrySearch,
};

/// How many rows a page has.
const ROWS: u32 = 100;
/// How many agents of an entry, and entries of an agent, are listed.
const FEW: usize = 50;
/// How many audit records a page has.
const RECORDS: usize = 200;

impl Console {
    /// The page of a path.
    pub(super) async fn read(&self, caller: &Caller, path: &str, query: &Query) -> Answered {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let page = match *parts.as_slice() {
            [] | ["index"] => Page::Problems(self.problems(caller).await?),
            ["authorities"] => Page::Authorities(self.authorities(caller).await?),
            ["authorities", kind, verb] => {
                Page::Confirm(self.confirm_authority(caller, kind, verb, query.get("id")).await?)
            }
            ["agents"] => Page::Agents(self.agents(caller, query).await?),
            ["agents", "one"] => Page::Agent(self.agent(caller, query.get("id")).await?),
            ["agents", verb @ ("ban" | "evict")] => {
                Page::Confirm(self.confirm_agent(caller, verb, query.get("id")).await?)
            }
            ["entries"] => Page::Entries(self.entries(caller, query).await?),
            ["entries", "new"] => Page::EntryForm(EntryForm::default()),
            ["entries", id] => Page::Entry(self.entry(caller, &decoded(id)).await?),
            ["entries", id, "edit"] => Page::EntryForm(self.edit_form(caller, &decoded(id)).await?),
            ["entries", id, "delete"] => {
                Page::Confirm(self.confirm_delete(caller, &decoded(id)).await?)
            }
            ["explain"] => Page::Explain(self.explain(caller, query).await?),
            ["federation"] => Page::Federation(self.federation(caller).await?),
            ["federation", trust_domain, "refresh"] => {
                let trust_domain = parsed("trust domain", &decoded(trust_domain))?;
                Page::Confirm(Self::confirm_refresh(&trust_domain))
            }
            ["activity"] => Page::Activity(self.activity(caller, query).await?),
            ["server"] => Page::Server(self.server(caller).await?),
            _ => return Err(Error::not_found("there is no such page")),
        };
        Ok(Answer::Page(page))
    }

    async fn agents(&self, caller: &Caller, query: &Query) -> Result<Agents, Error> {
        let mut filter = NodeFilter {
            attestation_type: query.text("attestation_type").map(str::to_owned),
            banned: boolean(query, "banned")?,
            selectors: selectors(query, "selector")?,
            ..NodeFilter::default()
        };
        if let Some(text) = query.text("expires_within") {
            let within = parse_duration(text).map_err(|error| wrong("expires_within", error))?;
            filter.expires_before = Some(self.0.context.parts.clock.unix() + within);
        }
        let agents = &self.0.use_cases.agents;
        let names = ["id", "selector", "attestation_type", "expires_within", "banned", "after"];
        let shown = query.only(&names);
        if let Some(id) = query.text("id") {
            let id: SpiffeId = parsed("id", id)?;
            let node = self
                .with(caller, Action::ReadAgents, "GetAgent", async |call| {
                    agents.get(call, &id).await
                })
                .await?;
            return Ok(Agents {
                filter: shown,
                total: 1,
                agents: vec![agent_row(&node)],
                next: None,
            });
        }
        let page = page(query)?;
        let (total, listed) = self
            .with(caller, Action::ReadAgents, "ListAgents", async |call| {
                Ok((agents.count(call, &filter).await?, agents.list(call, &filter, page).await?))
            })
            .await?;
        Ok(Agents {
            filter: shown,
            total,
            agents: listed.items.iter().map(agent_row).collect(),
            next: listed.next.map(|next| next.to_string()),
        })
    }

    pub(super) async fn agent(&self, caller: &Caller, id: &str) -> Result<Agent, Error> {
        let id: SpiffeId = parsed("id", id)?;
        let agents = &self.0.use_cases.agents;
        let node = self
            .with(caller, Action::ReadAgents, "GetAgent", async |call| agents.get(call, &id).await)
            .await?;
        let cache = &self.0.context.parts.cache;
        let mut entries = match self.may(caller, Action::ReadEntries).await {
            false => Vec::new(),
            true => {
                self.with(caller, Action::ReadEntries, "ListEntries", async |call| {
                    cache.fresh().await?;
                    let mut entries = cache.authorized(&id).await?;
                    entries.retain(|entry| call.sees(entry));
                    Ok(entries)
                })
                .await?
            }
        };
        entries.sort_by(|a, b| a.spiffe_id.cmp(&b.spiffe_id).then_with(|| a.id.cmp(&b.id)));
        Ok(Agent {
            row: agent_row(&node),
            serial_number: node.serial_number,
            selectors: texts(&node.selectors),
            entry_count: entries.len() as u64,
            entries: entries.iter().take(FEW).map(|entry| entry_row(entry)).collect(),
            may_ban: self.may(caller, Action::BanAgent).await,
            may_evict: self.may(caller, Action::DeleteAgent).await,
        })
    }

    async fn entries(&self, caller: &Caller, query: &Query) -> Result<Entries, Error> {
        let id = |name| query.text(name).map(|text| parsed(name, text)).transpose();
        let search = EntrySearch {
            spiffe_id: id("spiffe_id")?,
            parent_id: id("parent_id")?,
            selector: query.text("selector").map(|text| parsed("selector", text)).transpose()?,
            hint: query.text("hint").map(str::to_owned),
            tenant: query.text("tenant").map(|text| parsed("tenant", text)).transpose()?,
        };
        let after = query.text("after").map(|text| parsed("after", text)).transpose()?;
        let entries = &self.0.use_cases.entries;
        let found = self
            .with(caller, Action::ReadEntries, "ListEntries", async |call| {
                entries.search(call, search, after, ROWS as usize).await
            })
            .await?;
        Ok(Entries {
            filter: query.only(&["spiffe_id", "parent_id", "selector", "hint", "tenant", "after"]),
            total: found.total,
            is_more: found.is_more,
            entries: found.entries.iter().map(|entry| entry_row(entry)).collect(),
            next: found.next.map(|next| next.to_string()),
            may_write: self.may(caller, Action::CreateEntries).await,
        })
    }

    /// One entry, as the store has it.
    pub(super) async fn stored(&self, caller: &Caller, id: &str) -> Result<Entry, Error> {
        let entries = &self.0.use_cases.entries;
        self.with(caller, Action::ReadEntries, "GetEntry", async |call| entries.get(call, id).await)
            .await
    }

    async fn entry(&self, caller: &Caller, id: &str) -> Result<EntryDetail, Error> {
        let entry = self.stored(caller, id).await?;
        let (agents, agent_count) = self.agents_of(caller, &entry.parent_id, FEW).await;
        let yes = |value: bool| if value { "yes" } else { "no" }.to_owned();
        let ttl =
            |value: i32| if value == 0 { "the server's".to_owned() } else { format!("{value} s") };
        let federates: Vec<String> = entry.federates_with.iter().map(ToString::to_string).collect();
        let facts = [
            ("X.509-SVID TTL", ttl(entry.x509_svid_ttl)),
            ("JWT-SVID TTL", ttl(entry.jwt_svid_ttl)),
            ("DNS names", entry.dns_names.join(", ")),
            ("Federates with", federates.join(", ")),
            ("Admin", yes(entry.admin)),
            ("Downstream", yes(entry.downstream)),
            ("For an SVID store", yes(entry.store_svid)),
            ("Tenant", entry.tenant.as_ref().map_or("none".to_owned(), ToString::to_string)),
            ("Revision", entry.revision_number.to_string()),
        ];
        let may = async |action| {
            let scope = self.scope(caller, action).await;
            let verb = action.verb().unwrap_or_default();
            scope.is_some_and(|scope| scope.is_none_or(|it| it.allows_entry(verb, &entry)))
        };
        let (may_write, may_delete) =
            (may(Action::UpdateEntries).await, may(Action::DeleteEntries).await);
        Ok(EntryDetail {
            row: entry_row(&entry),
            facts: facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            created_at: entry.created_at,
            agents,
            agent_count,
            may_write,
            may_delete,
        })
    }

    /// The agents that hand out entries of a parent, of those that the caller may see: the first
    /// `most`, and how many in all.
    pub(super) async fn agents_of(
        &self,
        caller: &Caller,
        parent: &SpiffeId,
        most: usize,
    ) -> (Vec<String>, u64) {
        let cache = &self.0.context.parts.cache;
        let texts = |agents: &[SpiffeId]| agents.iter().map(ToString::to_string).collect();
        let narrowed = match self.scope(caller, Action::ReadAgents).await {
            None => return (Vec::new(), 0),
            Some(scope) => scope.is_some(),
        };
        self.current().await;
        let looked = if narrowed { usize::MAX } else { most };
        let found = cache.with_index(|index| lookup::agents_under(index, parent, looked));
        let (mut agents, mut count) = found.unwrap_or_default();
        if narrowed {
            let visible = self.with(caller, Action::ReadAgents, "ListAgents", async |call| {
                agents.retain(|id| self.0.use_cases.agents.sees_agent(call, id));
                Ok(agents)
            });
            agents = visible.await.unwrap_or_default();
            count = agents.len() as u64;
            agents.truncate(most);
        }
        (texts(&agents), count)
    }

    async fn edit_form(&self, caller: &Caller, id: &str) -> Result<EntryForm, Error> {
        let entry = self.stored(caller, id).await?;
        let lines = |all: Vec<String>| all.join("\n");
        let flag = |on: bool| if on { "on" } else { "" }.to_owned();
        let fields = [
            ("spiffe_id", entry.spiffe_id.to_string()),
            ("parent_id", entry.parent_id.to_string()),
            ("selectors", lines(texts(&entry.selectors))),
            ("x509_svid_ttl", entry.x509_svid_ttl.to_string()),
            ("jwt_svid_ttl", entry.jwt_svid_ttl.to_string()),
            ("dns_names", lines(entry.dns_names.clone())),
            (
                "federates_with",
                lines(entry.federates_with.iter().map(ToString::to_string).collect()),
            ),
            ("hint", entry.hint.clone()),
            ("tenant", entry.tenant.as_ref().map(ToString::to_string).unwrap_or_default()),
            ("admin", flag(entry.admin)),
            ("downstream", flag(entry.downstream)),
        ];
        Ok(EntryForm {
            id: Some(id.to_owned()),
            fields: fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            error: String::new(),
        })
    }

    async fn explain(&self, caller: &Caller, query: &Query) -> Result<Explain, Error> {
        let mut page = Explain {
            agent: query.get("agent").trim().to_owned(),
            selectors: query.get("selectors").to_owned(),
            asked: query.text("agent").is_some() && query.text("selectors").is_some(),
            ..Explain::default()
        };
        if !page.asked {
            return Ok(page);
        }
        let agent: Result<SpiffeId, _> = parsed("agent", &page.agent);
        let found: Result<SelectorSet, _> =
            query.lines("selectors").map(|line| parsed::<Selector>("selectors", line)).collect();
        let (agent, found) = match (agent, found) {
            (Ok(agent), Ok(found)) => (agent, found),
            (Err(error), _) | (_, Err(error)) => {
                page.error = error.to_string();
                return Ok(page);
            }
        };
        let explain = &self.0.use_cases.explain;
        let whom = agent.clone();
        let explained = self
            .with(caller, Action::ExplainEntries, "Explain", async |call| {
                explain
                    .explain(call, &agent, &found, move |index, told, judge| {
                        in_words(index, &whom, told, judge)
                    })
                    .await
            })
            .await;
        match explained {
            Ok((matched, missed, true)) => (page.matched, page.missed) = (matched, missed),
            Ok((.., false)) => page.error = "No agent of this ID is attested.".to_owned(),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                page.error = "No agent of this ID is attested.".to_owned();
            }
            Err(error) => return Err(error),
        }
        Ok(page)
    }

    async fn activity(&self, caller: &Caller, query: &Query) -> Result<Activity, Error> {
        let scope = self
            .with(caller, Action::FollowEntries, "Activity", async |call| {
                Ok(call.principal.scope.clone())
            })
            .await?;
        let name = caller.name();
        let wanted = query.get("text").trim().to_lowercase();
        let failed_only = query.get("outcome").trim() == "failed";
        let kind = query.get("kind").trim().to_owned();
        let since = match query.text("within") {
            None => UnixTime::MIN,
            Some(text) => {
                let within = parse_duration(text).map_err(|error| wrong("within", error))?;
                self.0.context.parts.clock.unix() - within
            }
        };
        let (records, more) = self.0.recent.newest(RECORDS, |event| {
            let record = &event.record;
            let has = |text: &str| text.to_lowercase().contains(&wanted);
            record.at >= since
                // Who has less than everything sees what is about its part, and what it did itself.
                && scope.as_deref().is_none_or(|it| event.is_in(it) || record.who == name)
                && match kind.as_str() {
                    "" | "changes" => event.is_change() || record.failed,
                    "all" => true,
                    kind => event.kind.name() == kind,
                }
                && (!failed_only || record.failed)
                && (wanted.is_empty()
                    || has(&record.who)
                    || has(&record.what)
                    || has(&record.outcome)
                    || record.fields.iter().any(|(_, value)| has(value)))
        });
        let now = self.0.context.parts.clock.unix();
        let since = self.0.recent.since();
        let note = match since {
            Some((at, true)) => format!(
                "Changes on this server since {}: the latest only; the audit log has all of them.",
                signet_console::ago(at, now)
            ),
            _ => "Changes on this server since it started; the audit log has those before."
                .to_owned(),
        };
        let filter = query.only(&["text", "outcome", "kind", "within"]);
        Ok(Activity { filter, records, more: more as u64, note })
    }

    async fn server(&self, caller: &Caller) -> Result<Server, Error> {
        self.with(caller, Action::ReadAuthorities, "Server", async |call| match call.scope() {
            None => Ok(()),
            Some(_) => Err(Error::new(
                ErrorKind::Denied,
                "what the server as a whole is like is for those who may see everything",
            )
            .coded("policy_scope")),
        })
        .await?;
        let context = &self.0.context;
        let config = &context.config;
        let cache = &context.parts.cache;
        let own = |name: &str, value: &dyn Display| (name.to_owned(), value.to_string());
        let seconds = |duration: std::time::Duration| format!("{} s", duration.as_secs());
        let report = context.health.report().await;
        let plugins = &config.plugins;
        let mut names = vec![
            own("DataStore", &plugins.data_store.name),
            own("KeyManager", &plugins.key_manager.name),
        ];
        names.extend(plugins.node_attestors.iter().map(|it| own("NodeAttestor", &it.name)));
        names
            .extend(plugins.upstream_authority.iter().map(|it| own("UpstreamAuthority", &it.name)));
        names.extend(
            plugins.credential_composers.iter().map(|it| own("CredentialComposer", &it.name)),
        );
        names.extend(plugins.notifiers.iter().map(|it| own("Notifier", &it.name)));
        names.extend(plugins.bundle_publishers.iter().map(|it| own("BundlePublisher", &it.name)));
        Ok(Server {
            facts: vec![
                (
                    "Server".to_owned(),
                    vec![
                        own("Version", &env!("CARGO_PKG_VERSION")),
                        own("Trust domain", &context.parts.trust_domain),
                        own("Running for", &seconds(context.started.elapsed())),
                        own("Live", &report.live),
                        own("Ready", &report.ready),
                    ],
                ),
                (
                    "Store".to_owned(),
                    vec![
                        own("Revision", &cache.revision()),
                        own("History", &cache.feed_id()),
                        own("Last heard of", &format!("{} ago", seconds(cache.staleness()))),
                        own("Entries in memory", &cache.entry_count()),
                        own("Agents in memory", &cache.node_count()),
                        own("Bundles in memory", &cache.bundle_count()),
                    ],
                ),
                ("Plugins".to_owned(), names),
                (
                    "Configuration".to_owned(),
                    vec![
                        own("File", &config.file.display()),
                        own("API", &format!("{}:{}", config.bind_address, config.bind_port)),
                        own("Local socket", &config.socket_path.display()),
                        own("Data directory", &config.data_dir.display()),
                        own("CA TTL", &seconds(config.ca.ttl)),
                        own("X.509-SVID TTL", &seconds(config.ttl.x509_svid)),
                        own("JWT-SVID TTL", &seconds(config.ttl.jwt_svid)),
                        own("Agent TTL", &seconds(config.ttl.agent)),
                        own("JWT issuer", &config.jwt_issuer.as_deref().unwrap_or("none")),
                        own("Audit log", &config.audit_log_enabled),
                    ],
                ),
            ],
        })
    }
}

/// What matches, what nearly does or is not given out, and whether the agent is there.
fn in_words(
    index: &AuthorizedIndex,
    agent: &SpiffeId,
    told: &AgentExplanation,
    judge: Option<&Judge<'_>>,
) -> (Vec<EntryRow>, Vec<(EntryRow, String)>, bool) {
    let row = |id: &EntryId| index.entry(id).map(|entry| entry_row(entry));
    let refused = |id: &EntryId| judge.and_then(|judge| judge.entry_for_agent(agent, id).err());
    let (mut matched, mut missed) = (Vec::new(), Vec::new());
    for it in &told.authorized.matching {
        let Some(row) = row(&it.entry_id) else { continue };
        match refused(&it.entry_id) {
            None => matched.push(row),
            Some(denial) => {
                missed.push((row, format!("matches, but [{}] {denial}", denial.code())));
            }
        }
    }
    missed.extend(
        told.withheld.iter().filter_map(|it| {
            Some((row(&it.entry.entry_id)?, format!("matches, but {}", it.reason)))
        }),
    );
    missed.extend(told.authorized.near_misses.iter().filter_map(|it| {
        let missing: Vec<_> = it.missing.iter().map(ToString::to_string).collect();
        Some((row(&it.entry.entry_id)?, missing.join("; ")))
    }));
    (matched, missed, told.agent_known)
}

fn agent_row(node: &AttestedNode) -> AgentRow {
    AgentRow {
        id: node.spiffe_id.to_string(),
        attestation_type: node.attestation_type.clone(),
        expires_at: node.expires_at,
        version: node.agent_version.clone(),
        banned: node.is_banned(),
        can_reattest: node.can_reattest,
    }
}

fn entry_row(entry: &Entry) -> EntryRow {
    EntryRow {
        id: entry.id.to_string(),
        spiffe_id: entry.spiffe_id.to_string(),
        parent_id: entry.parent_id.to_string(),
        selectors: texts(&entry.selectors),
        hint: entry.hint.clone(),
        expires_at: entry.expires_at,
    }
}

fn texts(selectors: &SelectorSet) -> Vec<String> {
    selectors.iter().map(ToString::to_string).collect()
}

/// The selectors of an entry in a sentence.
pub(super) fn joined(entry: &Entry) -> String {
    texts(&entry.selectors).join(" and ")
}

/// Part of an address.
pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn wrong(field: &str, error: impl Display) -> Error {
    Error::invalid(format!("{field}: {error}"))
}

/// A value of a field.
pub(super) fn parsed<T: FromStr<Err: Display>>(field: &str, text: &str) -> Result<T, Error> {
    text.trim().parse().map_err(|error| wrong(field, error))
}

fn boolean(query: &Query, field: &str) -> Result<Option<bool>, Error> {
    match query.text(field) {
        None => Ok(None),
        Some("true" | "yes") => Ok(Some(true)),
        Some("false" | "no") => Ok(Some(false)),
        Some(_) => Err(wrong(field, "expected true or false")),
    }
}

/// What has this selector, among others.
fn selectors(query: &Query, field: &str) -> Result<Option<(SelectorSet, MatchBehavior)>, Error> {
    let Some(text) = query.text(field) else { return Ok(None) };
    let selector: Selector = parsed(field, text)?;
    Ok(Some((SelectorSet::from_iter([selector]), MatchBehavior::Superset)))
}

fn page(query: &Query) -> Result<PageRequest, Error> {
    let after = query.text("after").map(|text| parsed("after", text)).transpose()?;
    Ok(PageRequest { after, size: Some(ROWS) })
}
