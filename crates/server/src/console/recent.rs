//! The latest audit events, kept in memory for the page that shows them.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use signet_audit::{AuditEvent, Outcome, Sink, Value};
use signet_base::SharedClock;
use signet_console::page::Record;

/// How many events are kept.
const MOST: usize = 2_000;
/// The longest value that is kept of a field, bytes: all of them together stay below some MB.
const LONGEST: usize = 512;

/// Keeps the latest audit events.
pub struct Recent {
    clock: SharedClock,
    kept: Mutex<VecDeque<Record>>,
}

impl Recent {
    /// Nothing yet.
    pub fn new(clock: SharedClock) -> Self {
        Self { clock, kept: Mutex::default() }
    }

    /// The newest events that `accept` takes, at most `limit`, the newest first.
    pub(super) fn newest(&self, limit: usize, accept: impl Fn(&Record) -> bool) -> Vec<Record> {
        self.kept().iter().rev().filter(|record| accept(record)).take(limit).cloned().collect()
    }

    /// When the oldest one was that is still there.
    pub(super) fn since(&self) -> Option<i64> {
        self.kept().front().map(|record| record.at)
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Record>> {
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
        let mut kept = self.kept();
        if kept.len() >= MOST {
            kept.pop_front();
        }
        kept.push_back(record);
    }
}

impl std::fmt::Debug for Recent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recent({} events)", self.kept().len())
    }
}

fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(LONGEST)).unwrap_or(text)
}
