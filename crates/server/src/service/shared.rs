//! What the services share: texts of errors, statuses of batch items, paging.

use signet_api::{pb::spire::api::types, status};
pub(crate) use signet_base::chain;
use signet_identity::{Bundle, TrustDomain};
use signet_pki::{PublicKey, x509::Certificate};
use signet_store::{PageRequest, StoreError};
use tonic::{Code, Status};

use crate::context::Context;

/// The status of a call whose store access failed: `<what>: <why>`.
pub(crate) fn store_failed(what: &str, error: &StoreError) -> Status {
    tracing::error!(error = chain(error), "{what}");
    status::wrap(store_code(error), what, chain(error))
}

/// The status of a batch item whose store access failed.
pub(crate) fn item_store_failed(what: &str, error: &StoreError) -> types::Status {
    let status = store_failed(what, error);
    status::item(status.code(), status.message())
}

/// A missing outcome of a batch: the store broke its promise of one outcome for each item.
pub(crate) fn item_lost(what: &str) -> types::Status {
    status::item(Code::Internal, format!("{what}: no outcome"))
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
    if let Err(status) = context.cache.fresh().await {
        tracing::warn!(status = status.message(), "A change is not visible in memory yet");
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
