//! What the services share: texts of errors, statuses of batch items, paging.

use signet_api::{pb::spire::api::types, status};
use signet_base::chain;
use signet_identity::{Bundle, TrustDomain};
use signet_pki::{PublicKey, x509::Certificate};
use signet_store::{PageRequest, StoreError};
use tonic::{Code, Status};

use crate::{cache::NotFresh, context::Context};

impl From<NotFresh> for Status {
    fn from(error: NotFresh) -> Self {
        if let NotFresh::Store(why) = &error {
            tracing::error!(error = chain(why), "{error}");
        }
        Self::unavailable(error.to_string())
    }
}

/// The status of a call whose store access failed: `<what>: <why>`.
pub(crate) fn store_failed(what: &str, error: &StoreError) -> Status {
    tracing::error!(error = chain(error), "{what}");
    status::wrap(store_code(error), what, chain(error))
}

/// The status of a batch item whose store access failed.
fn item_store_failed(what: &str, error: &StoreError) -> types::Status {
    let status = store_failed(what, error);
    status::item(status.code(), status.message())
}

/// A missing outcome of a batch: the store broke its promise of one outcome for each item.
fn item_lost(what: &str) -> types::Status {
    status::item(Code::Internal, format!("{what}: no outcome"))
}

/// The items of a batch call: each is read on its own, what is good goes to the store in one call,
/// and each gets its own answer, in order.
pub(crate) struct Batch<'a, I, T> {
    items: &'a [I],
    read: Vec<Result<(), types::Status>>,
    good: Vec<T>,
}

/// What came of one item: its status and, where there is something to show, a value.
pub(crate) type Answer<V> = (types::Status, Option<V>);

impl<'a, I, T> Batch<'a, I, T> {
    /// Reads every item; `read` gives the status of one that is refused.
    pub(crate) fn read(items: &'a [I], read: impl Fn(&'a I) -> Result<T, types::Status>) -> Self {
        let mut good = Vec::with_capacity(items.len());
        let read = items.iter().map(|item| read(item).map(|item| good.push(item))).collect();
        Self { items, read, good }
    }

    /// Hands the good ones to `store`, waits until the change is visible, and asks `answer` about
    /// each outcome. `what` names the work in the statuses of failures.
    ///
    /// The answers come with the items they are for.
    pub(crate) async fn run<O, V, F>(
        self,
        context: &Context,
        what: &'static str,
        store: impl FnOnce(Vec<T>) -> F,
        answer: impl Fn(&I, O) -> Answer<V>,
    ) -> impl Iterator<Item = (&'a I, Answer<V>)>
    where
        F: Future<Output = Result<Vec<O>, StoreError>>,
    {
        let outcomes = store(self.good).await;
        settle(context).await;
        let mut outcomes = outcomes.map(Vec::into_iter);
        self.items.iter().zip(self.read).map(move |(item, read)| {
            let answer = match (read, &mut outcomes) {
                (Err(status), _) => (status, None),
                (Ok(()), Err(error)) => (item_store_failed(what, error), None),
                (Ok(()), Ok(outcomes)) => match outcomes.next() {
                    Some(outcome) => answer(item, outcome),
                    None => (item_lost(what), None),
                },
            };
            (item, answer)
        })
    }
}

/// The page that a request asks for. Without a size everything is meant, whatever the token, as
/// in SPIRE.
///
/// # Errors
/// `Internal`, as in SPIRE, when the token is not one that a page was answered with.
pub(crate) fn page(size: i32, token: &str, what: &str) -> Result<PageRequest, Status> {
    let Ok(size @ 1..) = u32::try_from(size) else {
        return Ok(PageRequest::all());
    };
    let mut request = PageRequest::first(size);
    if !token.is_empty() {
        let after = token.parse().ok().filter(|row: &i64| *row >= 0);
        request.after = Some(after.ok_or_else(|| {
            status::wrap(Code::Internal, what, format_args!("could not parse token '{token}'"))
        })?);
    }
    Ok(request)
}

/// The token of the next page; empty on the last one.
pub(crate) fn next_token(next: Option<i64>) -> String {
    next.map(|row| row.to_string()).unwrap_or_default()
}

/// A count as the API has it.
pub(crate) fn count(n: u64) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// Waits until a write is visible in memory, so that the caller's next call sees it. What was
/// written stays written: when memory lags, the answer is none the worse.
pub(crate) async fn settle(context: &Context) {
    if let Err(error) = context.cache.fresh().await {
        tracing::warn!(error = chain(&error), "A change is not visible in memory yet");
    }
}

/// Refuses the server's own `trust_domain`, for which the foreign-bundle calls are closed.
///
/// # Errors
/// `InvalidArgument` with `why`.
pub(crate) fn refuse_own(
    own: &TrustDomain,
    trust_domain: &TrustDomain,
    why: &str,
) -> Result<(), types::Status> {
    if own == trust_domain { Err(status::item(Code::InvalidArgument, why)) } else { Ok(()) }
}

/// Checks that the authorities of a bundle from outside are certificates and keys.
///
/// # Errors
/// What is wrong, in one line.
pub(crate) fn check_authorities(bundle: &Bundle) -> Result<(), String> {
    for authority in &bundle.x509_authorities {
        Certificate::from_der(&authority.der)
            .map_err(|error| format!("unable to parse X.509 authority: {}", chain(&error)))?;
    }
    for authority in &bundle.jwt_authorities {
        PublicKey::from_spki(&authority.public_key)
            .map_err(|error| format!("unable to parse JWT authority: {}", chain(&error)))?;
    }
    Ok(())
}

fn store_code(error: &StoreError) -> Code {
    match error {
        StoreError::Busy { .. } | StoreError::Closed { .. } => Code::Unavailable,
        _ => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_counts_only_with_a_size_and_must_be_ours() {
        assert_eq!(page(0, "junk", "x").unwrap(), PageRequest::all());
        assert_eq!(page(-1, "", "x").unwrap(), PageRequest::all());
        let second = page(2, "17", "x").unwrap();
        assert_eq!((second.after, second.size), (Some(17), Some(2)));
        for bad in ["junk", "-1", "1.5", "99999999999999999999"] {
            let refused = page(2, bad, "failed to list entries").unwrap_err();
            assert_eq!(refused.code(), Code::Internal);
            assert_eq!(
                refused.message(),
                format!("failed to list entries: could not parse token '{bad}'")
            );
        }
    }
}
