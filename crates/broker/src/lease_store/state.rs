//! The tokens, leases and bans that are known, and how events change it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use signet_time::UnixTime;

use super::{Holder, Lease, Token};
use crate::journal::Event;

/// How long what is over is kept for the counting of uses, seconds after it ended.
const KEEP: i64 = 60;

#[derive(Default)]
pub(super) struct State {
    pub(super) tokens: BTreeMap<Arc<str>, Token>,
    pub(super) leases: HashMap<String, Lease>,
    /// By holder, so that neither a flood of one nor a search concerns the others.
    pub(super) of: HashMap<Holder, Owned>,
    pub(super) bans: BTreeMap<String, UnixTime>,
    pub(super) events: usize,
}

#[derive(Default)]
pub(super) struct Owned {
    pub(super) tokens: Vec<Arc<str>>,
    pub(super) leases: Vec<String>,
    /// Which credential was drawn, and until when that counts.
    pub(super) uses: Vec<(String, UnixTime)>,
    pub(super) reserved: HashMap<String, u32>,
    pub(super) making: Arc<tokio::sync::Mutex<()>>,
}

impl Token {
    pub(super) fn event(&self) -> Event {
        Event::Token {
            tenant: self.holder.tenant.to_string(),
            id: self.holder.id.to_string(),
            accessor: self.accessor.to_string(),
            policies: self.policies.iter().cloned().collect(),
            issued: self.issued,
            expires: self.expires,
        }
    }
}

impl Lease {
    pub(super) fn event(&self) -> Event {
        Event::Lease {
            lease: self.lease_id.clone(),
            accessor: self.accessor.to_string(),
            credential: self.credential.clone(),
            bao_lease: self.bao_lease.clone(),
            issued: self.issued_at,
            expires: self.expires_at,
            correlation: self.correlation_id.clone(),
        }
    }
}

impl State {
    pub(super) fn apply(&mut self, event: Event) {
        match event {
            Event::Token { tenant, id, accessor, policies, issued, expires } => {
                let Ok(id) = id.parse() else { return };
                let holder = Holder { tenant: tenant.into(), id };
                self.insert_token(Token {
                    holder,
                    accessor: accessor.into(),
                    secret: None,
                    policies: policies.into_iter().collect(),
                    issued,
                    expires,
                    ending: None,
                });
            }
            Event::TokenRenewed { accessor, expires } => {
                if let Some(token) = self.tokens.get_mut(accessor.as_str()) {
                    token.expires = expires;
                }
            }
            Event::Ending { accessor, why } => {
                if let Some(token) = self.tokens.get_mut(accessor.as_str()) {
                    token.ending = Some(why);
                    token.secret = None;
                }
            }
            Event::Ended { accessor } => self.remove_token(&accessor),
            Event::Lease {
                lease,
                accessor,
                credential,
                bao_lease,
                issued,
                expires,
                correlation,
            } => self.insert_lease(Lease {
                lease_id: lease,
                credential,
                issued_at: issued,
                expires_at: expires,
                correlation_id: correlation,
                bao_lease,
                accessor: accessor.into(),
                ending: None,
            }),
            Event::LeaseRenewed { lease, expires } => {
                if let Some(lease) = self.leases.get_mut(&lease) {
                    lease.expires_at = expires;
                }
            }
            Event::LeaseEnding { lease, why } => {
                if let Some(lease) = self.leases.get_mut(&lease) {
                    lease.ending = Some(why);
                }
            }
            Event::LeaseEnded { lease } => self.remove_lease(&lease),
            Event::Ban { agent, at } => drop(self.bans.insert(agent, at)),
            Event::Unban { agent } => drop(self.bans.remove(&agent)),
        }
    }

    pub(super) fn insert_token(&mut self, token: Token) {
        let owned = self.of.entry(token.holder.clone()).or_default();
        owned.tokens.push(Arc::clone(&token.accessor));
        self.tokens.insert(Arc::clone(&token.accessor), token);
    }

    pub(super) fn insert_lease(&mut self, lease: Lease) {
        let Some(token) = self.tokens.get(&lease.accessor) else { return };
        let owned = self.of.entry(token.holder.clone()).or_default();
        owned.leases.push(lease.lease_id.clone());
        owned.uses.push((lease.credential.clone(), lease.expires_at));
        self.leases.insert(lease.lease_id.clone(), lease);
    }

    fn remove_lease(&mut self, id: &str) {
        let Some(lease) = self.leases.remove(id) else { return };
        if let Some(token) = self.tokens.get(&lease.accessor)
            && let Some(owned) = self.of.get_mut(&token.holder)
        {
            owned.leases.retain(|other| other != id);
        }
    }

    fn remove_token(&mut self, accessor: &str) {
        let Some(token) = self.tokens.remove(accessor) else { return };
        if let Some(owned) = self.of.get_mut(&token.holder) {
            owned.tokens.retain(|other| &**other != accessor);
            let leases = &mut self.leases;
            owned.leases.retain(|id| {
                let gone = leases.get(id).is_none_or(|lease| &*lease.accessor == accessor);
                if gone {
                    leases.remove(id);
                }
                !gone
            });
        }
    }

    pub(super) fn drop_expired(&mut self, now: UnixTime) {
        let over = |expires: UnixTime| expires + KEEP < now;
        let tokens: Vec<_> = self
            .tokens
            .values()
            .filter(|token| token.ending.is_none() && over(token.expires))
            .map(|token| Arc::clone(&token.accessor))
            .collect();
        for accessor in tokens {
            self.remove_token(&accessor);
        }
        let leases: Vec<_> = self
            .leases
            .values()
            .filter(|lease| lease.ending.is_none() && over(lease.expires_at))
            .map(|lease| lease.lease_id.clone())
            .collect();
        for lease in leases {
            self.remove_lease(&lease);
        }
        self.of.retain(|_, owned| {
            owned.uses.retain(|(_, until)| *until > now);
            owned.reserved.retain(|_, count| *count > 0);
            !(owned.tokens.is_empty()
                && owned.uses.is_empty()
                && owned.reserved.is_empty()
                && Arc::strong_count(&owned.making) == 1)
        });
    }

    /// The shortest events that lead here.
    pub(super) fn snapshot(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for token in self.tokens.values() {
            events.push(token.event());
        }
        let mut leases: Vec<_> = self.leases.values().collect();
        leases.sort_by_key(|lease| lease.issued_at);
        for lease in leases {
            events.push(lease.event());
            if let Some(why) = &lease.ending {
                let lease = lease.lease_id.clone();
                events.push(Event::LeaseEnding { lease, why: why.clone() });
            }
        }
        for token in self.tokens.values() {
            if let Some(why) = &token.ending {
                let accessor = token.accessor.to_string();
                events.push(Event::Ending { accessor, why: why.clone() });
            }
        }
        let bans = self.bans.iter();
        events.extend(bans.map(|(agent, at)| Event::Ban { agent: agent.clone(), at: *at }));
        events
    }
}
