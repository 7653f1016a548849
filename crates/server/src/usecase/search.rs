//! Looking for entries in memory, page by page: by parts of SPIFFE IDs too, which no index of the
//! store answers.

use std::{str::FromStr, sync::Arc};

use signet_identity::{Entry, Selector, SpiffeId, SpiffeIdError, Tenant};

use super::{Call, authorization::Action, entries::Entries, error::Error};

/// Up to here what is found is counted; beyond it, only whether there is more matters.
const COUNTED: u64 = 10_000;

/// Which SPIFFE IDs are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdPattern {
    /// This one.
    Is(SpiffeId),
    /// Those of this trust domain whose path begins so.
    Begins(String, String),
    /// Those whose path has this in it.
    Contains(String),
}

impl IdPattern {
    /// Whether an ID is looked for.
    pub fn accepts(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Is(wanted) => wanted == id,
            Self::Begins(trust_domain, path) => {
                id.trust_domain().as_str() == trust_domain && id.path().starts_with(path.as_str())
            }
            Self::Contains(text) => id.path().contains(text.as_str()),
        }
    }
}

impl FromStr for IdPattern {
    type Err = SpiffeIdError;

    /// A SPIFFE ID, the beginning of one with `*` at its end, or any part of a path.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(rest) = text.strip_prefix("spiffe://") else {
            return Ok(Self::Contains(text.to_owned()));
        };
        match rest.strip_suffix('*') {
            None => text.parse().map(Self::Is),
            Some(rest) => {
                let (trust_domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                Ok(Self::Begins(trust_domain.to_owned(), path.to_owned()))
            }
        }
    }
}

/// Which entries are looked for: those for which all of it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntrySearch {
    /// The SPIFFE ID.
    pub spiffe_id: Option<IdPattern>,
    /// The parent.
    pub parent_id: Option<IdPattern>,
    /// A selector, among others.
    pub selector: Option<Selector>,
    /// The hint.
    pub hint: Option<String>,
    /// The tenant.
    pub tenant: Option<Tenant>,
}

impl EntrySearch {
    /// Whether an entry is looked for.
    pub fn accepts(&self, entry: &Entry) -> bool {
        self.spiffe_id.as_ref().is_none_or(|wanted| wanted.accepts(&entry.spiffe_id))
            && self.parent_id.as_ref().is_none_or(|wanted| wanted.accepts(&entry.parent_id))
            && self.selector.as_ref().is_none_or(|wanted| entry.selectors.contains(wanted))
            && self.hint.as_ref().is_none_or(|wanted| *wanted == entry.hint)
            && self.tenant.as_ref().is_none_or(|wanted| entry.tenant.as_ref() == Some(wanted))
    }
}

/// A page of what was found.
#[derive(Clone, Debug, Default)]
pub struct Searched {
    /// In the order in which memory has them.
    pub entries: Vec<Arc<Entry>>,
    /// How many there are in all.
    pub total: u64,
    /// Whether there are more than that.
    pub is_more: bool,
    /// After which place the next page begins.
    pub next: Option<usize>,
}

impl Entries {
    /// The entries that are looked for and that the caller may see: at most `most` of those after a
    /// place that [`Searched::next`] named. Nothing is held up meanwhile, however many there are.
    ///
    /// # Errors
    /// `Unavailable` while the entries are still being read, or when memory lags.
    pub async fn search(
        &self,
        call: &Call,
        search: EntrySearch,
        after: Option<usize>,
        most: usize,
    ) -> Result<Searched, Error> {
        call.may(Action::ReadEntries)?;
        let cache = Arc::clone(self.cache());
        cache.current().await?;
        let all = call.scope().is_none() && search == EntrySearch::default();
        let call = call.clone();
        let found = tokio::task::spawn_blocking(move || {
            let mut found = Searched::default();
            let first = after.map_or(0, |after| after.saturating_add(1));
            let mut last = None;
            cache.walk(if all { first } else { 0 }, |place, entry, _| {
                if !(all || search.accepts(entry) && call.sees(entry)) {
                    return true;
                }
                found.total += 1;
                if place >= first {
                    if found.entries.len() < most {
                        found.entries.push(Arc::clone(entry));
                        last = Some(place);
                    } else {
                        found.next = last;
                    }
                }
                // Enough to show, and to count.
                found.is_more = found.next.is_some() && (all || found.total > COUNTED);
                !found.is_more
            })?;
            if all {
                (found.total, found.is_more) = (cache.entry_count() as u64, false);
            }
            found.total = if found.is_more { COUNTED } else { found.total };
            Some(found)
        });
        let found = found.await.map_err(|_| Error::unavailable("the server is stopping"))?;
        found.ok_or_else(|| Error::unavailable("the registration entries are still being read"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_looked_for_whole_by_their_beginning_and_by_any_part() {
        let id = |text: &str| text.parse::<SpiffeId>().unwrap();
        let accepts =
            |pattern: &str, text: &str| pattern.parse::<IdPattern>().unwrap().accepts(&id(text));
        assert!(accepts("spiffe://td/a", "spiffe://td/a"));
        assert!(!accepts("spiffe://td/a", "spiffe://td/ab"));
        assert!(accepts("spiffe://td/a*", "spiffe://td/ab"));
        assert!(!accepts("spiffe://td/a*", "spiffe://other/ab"));
        assert!(!accepts("spiffe://td/a*", "spiffe://td/x/a"));
        assert!(accepts("spiffe://td*", "spiffe://td/x"));
        assert!(accepts("b/c", "spiffe://td/a/b/c/d"));
        assert!(!accepts("td", "spiffe://td/a"));
        assert!("spiffe://td/a b".parse::<IdPattern>().is_err());
    }
}
