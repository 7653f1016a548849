//! What the services share: from a request to a use case and back, batches, paging.

use signet_api::{
    pb::spire::api::types,
    status::{self, Reason},
};
use signet_audit::Field;
use signet_store::PageRequest;
use tonic::{Code, Request, Response, Status};

use crate::usecase::{
    Call,
    error::{Denial, Error, ErrorKind},
};

/// When a client is to ask again, milliseconds: as gRPC's retries have it (proposal A6).
const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Lets `work` answer a request: the one place where refusals and failures of use cases become
/// statuses and lines of the log.
///
/// # Errors
/// The status of `work`'s error; `Internal` when the request did not come through the interceptor.
pub(crate) async fn serve<Q, A, F>(
    request: Request<Q>,
    work: impl FnOnce(Call, Q) -> F,
) -> Result<Response<A>, Status>
where
    F: Future<Output = Result<A, Error>>,
{
    let call = request.extensions().get::<Call>().cloned();
    let call = call.ok_or_else(|| Status::internal("caller missing from request context"))?;
    let audit = call.audit.clone();
    let answer = work(call, request.into_inner()).await;
    answer.map(Response::new).map_err(|error| {
        audit.failed(&error);
        status(&error)
    })
}

/// An error as the status of a call.
pub(crate) fn status(error: &Error) -> Status {
    let text = status::bounded(error.to_string());
    match error.denial() {
        Some(denial) => status::permission_denied(text, reason(denial)),
        None => {
            let mut status = Status::new(code(error.kind()), text);
            if let Some(pause) = error.retry() {
                status.metadata_mut().insert(
                    RETRY_PUSHBACK,
                    u64::try_from(pause.as_millis()).unwrap_or(u64::MAX).into(),
                );
            }
            status
        }
    }
}

/// What came of a batch item as its status.
pub(crate) fn item<T>(result: &Result<T, Error>) -> Option<types::Status> {
    Some(match result {
        Ok(_) => status::item_ok(),
        Err(error) => status::item(code(error.kind()), error.to_string()),
    })
}

/// The detail by which SPIRE's agents decide.
pub(crate) fn reason(denial: Denial) -> Reason {
    match denial {
        Denial::AgentBanned => Reason::AgentBanned,
        Denial::AgentExpired => Reason::AgentExpired,
        Denial::AgentMustReattest => Reason::AgentMustReattest,
        Denial::AgentNotActive => Reason::AgentNotActive,
        Denial::AgentNotAttested => Reason::AgentNotAttested,
    }
}

fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Denied => Code::PermissionDenied,
        ErrorKind::Exhausted => Code::ResourceExhausted,
        ErrorKind::Exists => Code::AlreadyExists,
        ErrorKind::Internal => Code::Internal,
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Precondition => Code::FailedPrecondition,
        ErrorKind::TimedOut => Code::DeadlineExceeded,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Unsupported => Code::Unimplemented,
    }
}

/// The items of a batch call: each is read on its own, what is good goes to the use case in one
/// call, and each gets its own answer, in order.
pub(crate) struct Batch<T> {
    read: Vec<Result<(), Error>>,
    good: Vec<T>,
}

impl<T> Batch<T> {
    /// Reads every item, and records those that are refused; `about` says what such a record is
    /// about.
    pub(crate) fn read<'a, I>(
        call: &Call,
        items: &'a [I],
        read: impl Fn(&'a I) -> Result<T, Error>,
        about: impl Fn(&I) -> Field,
    ) -> Self {
        let mut good = Vec::with_capacity(items.len());
        let read = items.iter().map(|item| {
            let result = read(item).map(|item| good.push(item));
            if result.is_err() {
                call.audit.item(&result, || vec![about(item)]);
            }
            result
        });
        let read = read.collect();
        Self { read, good }
    }

    /// Those that could be read.
    pub(crate) fn take(&mut self) -> Vec<T> {
        std::mem::take(&mut self.good)
    }

    /// The answers to all items, of which `results` are those to what could be read.
    pub(crate) fn answers<V>(
        self,
        results: Vec<Result<V, Error>>,
    ) -> impl Iterator<Item = Result<V, Error>> {
        let mut results = results.into_iter();
        self.read.into_iter().map(move |read| {
            read.and_then(|()| results.next().unwrap_or_else(|| Err(Error::internal("no outcome"))))
        })
    }
}

/// The page that a request asks for. Without a size everything is meant, whatever the token, as
/// in SPIRE.
///
/// # Errors
/// `Internal`, as in SPIRE, when the token is not one that a page was answered with.
pub(crate) fn page(size: i32, token: &str, what: &'static str) -> Result<PageRequest, Error> {
    let Ok(size @ 1..) = u32::try_from(size) else {
        return Ok(PageRequest::all());
    };
    let mut request = PageRequest::first(size);
    if !token.is_empty() {
        let after = token.parse().ok().filter(|row: &i64| *row >= 0);
        request.after = Some(after.ok_or_else(|| {
            Error::internal(what).because(format_args!("could not parse token '{token}'"))
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

#[cfg(test)]
mod tests {
    use signet_daemon::metrics::status_name;

    use super::*;

    #[test]
    fn a_token_counts_only_with_a_size_and_must_be_ours() {
        assert_eq!(page(0, "junk", "x").unwrap(), PageRequest::all());
        assert_eq!(page(-1, "", "x").unwrap(), PageRequest::all());
        let second = page(2, "17", "x").unwrap();
        assert_eq!((second.after, second.size), (Some(17), Some(2)));
        for bad in ["junk", "-1", "1.5", "99999999999999999999"] {
            let refused = status(&page(2, bad, "failed to list entries").unwrap_err());
            assert_eq!(refused.code(), Code::Internal);
            assert_eq!(
                refused.message(),
                format!("failed to list entries: could not parse token '{bad}'")
            );
        }
    }

    #[test]
    fn events_and_statuses_name_the_same_code() {
        for kind in ErrorKind::ALL {
            assert_eq!(kind.name(), status_name(code(kind).into()));
        }
    }

    #[test]
    fn a_denial_carries_the_detail_that_agents_act_on() {
        let denied = status(&Error::denied("agent is banned", Denial::AgentBanned));
        assert_eq!(denied.message(), "agent is banned");
        assert_eq!(status::denied_reason(&denied), Some(Reason::AgentBanned));
    }
}
