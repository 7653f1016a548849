//! What pages show, as values. Times are Unix seconds, 0 for none; texts are as they are, and escaped
//! where they are shown.

use std::collections::BTreeMap;

use serde::Serialize;
use signet_time::UnixTime;

/// A page of the console.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Page {
    /// What is wrong, and how things stand.
    Problems(Problems),
    /// The authorities and their rotation.
    Authorities(Authorities),
    /// Agents, by page.
    Agents(Agents),
    /// One agent.
    Agent(Agent),
    /// Entries, by page.
    Entries(Entries),
    /// One entry.
    Entry(EntryDetail),
    /// A form that makes an entry or changes one.
    EntryForm(EntryForm),
    /// Why an agent's workload gets an identity, or none.
    Explain(Explain),
    /// Federation relationships.
    Federation(Federation),
    /// Audit records.
    Activity(Activity),
    /// The server itself.
    Server(Server),
    /// What a change would do, before it is done.
    Confirm(Confirm),
    /// Something did not work.
    Message(Message),
    /// The form that takes a one-time code.
    Login(Login),
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Identities are lost or soon will be.
    Error,
    /// Somebody should look.
    Warning,
    /// Good to know.
    Note,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// What it is.
    pub what: String,
    /// What comes of it.
    pub effect: String,
    /// What to do.
    pub next: String,
    /// Where in the console to look.
    pub link: String,
}

/// Something that expires.
#[derive(Clone, Debug, Serialize)]
pub struct Expiring {
    /// What kind of thing it is.
    pub what: String,
    /// Which one.
    pub name: String,
    /// When it expires.
    pub at: UnixTime,
    /// Where in the console it is.
    pub link: String,
}

/// The first page. What the one who looks may not see is `None`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Problems {
    /// The worst first.
    pub problems: Vec<Problem>,
    /// Entries.
    pub entries: Option<u64>,
    /// Attested agents.
    pub agents: Option<u64>,
    /// Agents whose X.509-SVID is valid now.
    pub live_agents: Option<u64>,
    /// Foreign trust domains whose bundle is here.
    pub foreign_bundles: Option<u64>,
    /// What expires next, the soonest first.
    pub expiring: Vec<Expiring>,
    /// How many changes there were in the last hour, as far as the server remembers.
    pub changes: Option<u64>,
    /// How long the server has been running, seconds.
    pub uptime: Option<u64>,
}

/// An authority of the trust bundle.
#[derive(Clone, Debug, Serialize)]
pub struct Authority {
    /// Subject key ID or key ID.
    pub id: String,
    /// `prepared`, `active`, `old`, `tainted`, or `in bundle`.
    pub status: String,
    /// When it was made; 0 if that is not known here.
    pub issued_at: UnixTime,
    /// When it expires; 0 if never.
    pub expires_at: UnixTime,
    /// The upstream authority that signed it; empty without.
    pub upstream: String,
}

/// The authorities of one kind.
#[derive(Clone, Debug, Serialize)]
pub struct AuthorityKind {
    /// `x509`, `jwt`.
    pub kind: String,
    /// Newest first.
    pub authorities: Vec<Authority>,
}

/// All authorities.
#[derive(Clone, Debug, Serialize)]
pub struct Authorities {
    /// By kind.
    pub kinds: Vec<AuthorityKind>,
    /// Rotations that failed in a row.
    pub failed_rotations: u32,
    /// Whether the one who looks may change them.
    pub may_write: bool,
}

/// A row of the agents.
#[derive(Clone, Debug, Serialize)]
pub struct AgentRow {
    /// Its SPIFFE ID.
    pub id: String,
    /// How it attested.
    pub attestation_type: String,
    /// When its X.509-SVID expires.
    pub expires_at: UnixTime,
    /// Its version; empty if it has not said.
    pub version: String,
    /// Whether it is banned.
    pub banned: bool,
    /// Whether it may attest again.
    pub can_reattest: bool,
}

/// A page of agents.
#[derive(Clone, Debug, Serialize)]
pub struct Agents {
    /// What was asked for.
    pub filter: BTreeMap<String, String>,
    /// How many there are in all with this filter.
    pub total: u64,
    /// This page of them.
    pub agents: Vec<AgentRow>,
    /// Where the next page begins.
    pub next: Option<String>,
}

/// One agent.
#[derive(Clone, Debug, Serialize)]
pub struct Agent {
    /// As in lists.
    pub row: AgentRow,
    /// The serial number of its X.509-SVID, decimal.
    pub serial_number: String,
    /// What its node attestor found.
    pub selectors: Vec<String>,
    /// Entries that it is authorised for; the first of them.
    pub entries: Vec<EntryRow>,
    /// How many in all.
    pub entry_count: u64,
    /// Whether the one who looks may ban agents.
    pub may_ban: bool,
    /// Whether the one who looks may evict agents.
    pub may_evict: bool,
}

/// A row of the entries.
#[derive(Clone, Debug, Serialize)]
pub struct EntryRow {
    /// The entry ID.
    pub id: String,
    /// The SPIFFE ID.
    pub spiffe_id: String,
    /// The parent.
    pub parent_id: String,
    /// The selectors.
    pub selectors: Vec<String>,
    /// The hint.
    pub hint: String,
    /// When the entry expires; 0 for never.
    pub expires_at: UnixTime,
}

/// A page of entries.
#[derive(Clone, Debug, Serialize)]
pub struct Entries {
    /// What was asked for.
    pub filter: BTreeMap<String, String>,
    /// How many there are in all with this filter.
    pub total: u64,
    /// Whether there are more than that: nobody counts on and on.
    pub is_more: bool,
    /// This page of them.
    pub entries: Vec<EntryRow>,
    /// Where the next page begins.
    pub next: Option<String>,
    /// Whether the one who looks may make some.
    pub may_write: bool,
}

/// One entry.
#[derive(Clone, Debug, Serialize)]
pub struct EntryDetail {
    /// As in lists.
    pub row: EntryRow,
    /// Everything else that was decided, by name.
    pub facts: Vec<(String, String)>,
    /// When it was created.
    pub created_at: UnixTime,
    /// Agents that hand it out; the first of them.
    pub agents: Vec<String>,
    /// How many in all.
    pub agent_count: u64,
    /// Whether the one who looks may change it.
    pub may_write: bool,
    /// Whether the one who looks may delete it.
    pub may_delete: bool,
}

/// What an entry form holds, and what is wrong with it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct EntryForm {
    /// The entry to change; `None` to make one.
    pub id: Option<String>,
    /// The fields as they were filled in, by name.
    pub fields: BTreeMap<String, String>,
    /// What is wrong; empty at first.
    pub error: String,
}

/// A question and its answer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Explain {
    /// The agent that was asked about; empty at first.
    pub agent: String,
    /// The workload's selectors, one a line.
    pub selectors: String,
    /// What is wrong with the question.
    pub error: String,
    /// Entries that match.
    pub matched: Vec<EntryRow>,
    /// Entries that nearly do, with what they lack.
    pub missed: Vec<(EntryRow, String)>,
    /// Whether there was a question.
    pub asked: bool,
}

/// A federation relationship.
#[derive(Clone, Debug, Serialize)]
pub struct Relationship {
    /// The other trust domain.
    pub trust_domain: String,
    /// Its endpoint.
    pub endpoint: String,
    /// How the endpoint is verified.
    pub profile: String,
    /// How many X.509 and JWT authorities are here; `None` when no bundle is.
    pub authorities: Option<(usize, usize)>,
    /// The refresh hint of the bundle, seconds; 0 without.
    pub refresh_hint: u64,
    /// The last success, the next poll and so on, by name.
    pub times: Vec<(String, UnixTime)>,
    /// Why the last poll failed; empty when it did not.
    pub error: String,
    /// Everything else, by name.
    pub facts: Vec<(String, String)>,
    /// Where it is fetched now, if the one who looks may.
    pub refresh: Option<String>,
}

/// All relationships.
#[derive(Clone, Debug, Serialize)]
pub struct Federation {
    /// By trust domain.
    pub relationships: Vec<Relationship>,
}

/// An audit record.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// When.
    pub at: UnixTime,
    /// Who.
    pub who: String,
    /// What was asked for.
    pub what: String,
    /// What came of it: `success`, or a reason.
    pub outcome: String,
    /// Whether it was refused or failed.
    pub failed: bool,
    /// Everything else, by name.
    pub fields: Vec<(String, String)>,
}

/// The latest audit records.
#[derive(Clone, Debug, Serialize)]
pub struct Activity {
    /// What was asked for.
    pub filter: BTreeMap<String, String>,
    /// The newest first.
    pub records: Vec<Record>,
    /// How many more there are.
    pub more: u64,
    /// How far back they go, and whether their chain holds, in words.
    pub note: String,
}

/// The server itself.
#[derive(Clone, Debug, Serialize)]
pub struct Server {
    /// By heading: names and values.
    pub facts: Vec<(String, Vec<(String, String)>)>,
}

/// What a change would do, before it is done.
#[derive(Clone, Debug, Serialize)]
pub struct Confirm {
    /// What is asked.
    pub question: String,
    /// What comes of it, a line each.
    pub effects: Vec<String>,
    /// Where the form is sent.
    pub action: String,
    /// What it sends along.
    pub fields: BTreeMap<String, String>,
    /// The label of the button.
    pub button: String,
    /// Where to go instead.
    pub back: String,
    /// Whether something is lost by it.
    pub danger: bool,
}

/// Something did not work.
#[derive(Clone, Debug, Serialize)]
pub struct Message {
    /// The HTTP status.
    pub status: u16,
    /// What it is.
    pub title: String,
    /// For the reader.
    pub text: String,
}

/// The form that takes a one-time code.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Login {
    /// What was wrong with the code that was sent.
    pub error: String,
}
