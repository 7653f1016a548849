//! The latest audit events, kept in memory for the page that shows them.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use signet_audit::{AuditEvent, Field, Kind, Outcome, Sink, Value};
use signet_base::SharedClock;
use signet_console::page::Record;
use signet_identity::{SpiffeId, Tenant};
use signet_time::UnixTime;

use crate::policy::Scope;

/// How many events that changed something are kept.
const MOST_CHANGES: usize = 2_000;
/// How many others are kept, which come with every request of every agent.
const MOST_OTHERS: usize = 1_000;
/// The longest value that is kept of a field, bytes: all of them together stay below some MB.
const LONGEST: usize = 512;

/// Keeps the latest audit events.
pub struct Recent {
    clock: SharedClock,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    changes: VecDeque<Event>,
    others: VecDeque<Event>,
    /// Numbers events, so that the two can be told in order.
    next: u64,
}

/// An event that is kept.
#[derive(Clone, Debug)]
pub(super) struct Event {
    number: u64,
    /// What is shown of it.
    pub(super) record: Record,
    /// What kind of event it is.
    pub(super) kind: Kind,
    tenant: Option<Tenant>,
    /// What it is about, as far as that has a SPIFFE ID.
    about: Vec<SpiffeId>,
}

impl Event {
    /// Whether something is other than before, or was to be.
    pub(super) fn is_change(&self) -> bool {
        is_change(self.kind)
    }

    /// Whether it is about something that the scope holds, and about nothing else.
    pub(super) fn is_in(&self, scope: &Scope) -> bool {
        let holds = |id| scope.allows("entry.follow", self.tenant.as_ref(), id);
        !self.about.is_empty() && self.about.iter().all(holds)
    }
}

fn is_change(kind: Kind) -> bool {
    !matches!(kind, Kind::Read | Kind::Issuance)
}

impl Recent {
    /// Nothing yet.
    pub fn new(clock: SharedClock) -> Self {
        Self { clock, kept: Mutex::default() }
    }

    /// The newest events that `accept` takes, at most `limit`, the newest first, and how many more
    /// there are.
    pub(super) fn newest(
        &self,
        limit: usize,
        accept: impl Fn(&Event) -> bool,
    ) -> (Vec<Record>, usize) {
        let kept = self.kept();
        let all = kept.changes.iter().chain(&kept.others);
        let mut found: Vec<&Event> = all.filter(|event| accept(event)).collect();
        found.sort_unstable_by_key(|event| Reverse(event.number));
        let more = found.len().saturating_sub(limit);
        (found.into_iter().take(limit).map(|event| event.record.clone()).collect(), more)
    }

    /// How many changes that `accept` takes there were since `since`, Unix seconds.
    pub(super) fn changes_since(&self, since: UnixTime, accept: impl Fn(&Event) -> bool) -> usize {
        let kept = self.kept();
        let late = kept.changes.iter().rev().take_while(|event| event.record.at >= since);
        late.filter(|event| !event.record.failed && accept(event)).count()
    }

    /// Since when changes are kept, and whether there were more before; `None` before the first.
    pub(super) fn since(&self) -> Option<(UnixTime, bool)> {
        let kept = self.kept();
        let first = kept.changes.front()?;
        Some((first.record.at, kept.changes.len() >= MOST_CHANGES))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Recent {
    fn record(&self, event: &AuditEvent) {
        let caller = &event.caller;
        let who = match (&caller.id, caller.uid, caller.addr) {
            (Some(id), _, _) => id.to_string(),
            (None, Some(uid), _) => format!("local user {uid}"),
            (None, None, Some(addr)) => addr.to_string(),
            (None, None, None) => "the server".to_owned(),
        };
        let (outcome, failed) = match &event.outcome {
            Outcome::Success => ("success".to_owned(), false),
            Outcome::Failure { code, reason } => (format!("{code}: {}", cut(reason)), true),
        };
        let what = match (event.service.is_empty(), event.method.is_empty()) {
            (false, false) => format!("{}/{}", event.service, event.method),
            _ => event.message.to_owned(),
        };
        let mut fields: Vec<_> = event
            .fields
            .iter()
            .map(|field| {
                let value = match field.value() {
                    Value::Bool(value) => value.to_string(),
                    Value::Int(value) => value.to_string(),
                    Value::Uint(value) => value.to_string(),
                    Value::Text(text) => cut(&text).to_owned(),
                };
                (field.name().to_owned(), value)
            })
            .collect();
        if let Some(tenant) = &event.tenant {
            fields.push(("tenant".to_owned(), tenant.to_string()));
        }
        if !event.request_id.is_empty() {
            fields.push(("request_id".to_owned(), event.request_id.to_string()));
        }
        let record = Record { at: self.clock.unix(), who, what, outcome, failed, fields };
        let about = event.fields.iter().filter_map(|field| match field {
            Field::SpiffeId(id) => Some(id.clone()),
            _ => None,
        });
        let about = about.collect();
        let tenant = event.tenant.as_deref().and_then(|tenant| tenant.parse().ok());
        let mut kept = self.kept();
        let number = kept.next;
        kept.next += 1;
        let (ring, most) = match is_change(event.kind) {
            true => (&mut kept.changes, MOST_CHANGES),
            false => (&mut kept.others, MOST_OTHERS),
        };
        if ring.len() >= most {
            ring.pop_front();
        }
        ring.push_back(Event { number, record, kind: event.kind, tenant, about });
    }
}

impl std::fmt::Debug for Recent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recent({} events)", self.kept().next)
    }
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(LONGEST)).unwrap_or(text)
}
