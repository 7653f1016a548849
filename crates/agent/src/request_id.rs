//! The request ID of the call that is being answered: what the server is asked meanwhile carries it,
//! so that the logs and audit events of both ends name the call alike.

use std::sync::Arc;

use signet_daemon::spans;
use tonic::Request;

use crate::trace;

tokio::task_local! {
    /// Of the call that is being answered.
    static REQUEST_ID: Arc<str>;
}

/// Does `work` for the call with this ID.
pub async fn scope<F: Future>(id: Arc<str>, work: F) -> F::Output {
    REQUEST_ID.scope(id, work).await
}

/// Does `work`, which talks to the server, for the call that is being answered, or under an ID of
/// its own; also gives the ID.
pub async fn under_its_id<F: Future>(work: F) -> (Arc<str>, F::Output) {
    let id = REQUEST_ID.try_with(Arc::clone).ok().or_else(trace::current_request_id);
    let id = id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string().into());
    let output = REQUEST_ID.scope(Arc::clone(&id), work).await;
    (id, output)
}

/// A request to the server under the ID that [`under_its_id`] gives it: the logs and events of both
/// ends then name it alike. To a SPIRE server that is a key it ignores.
pub fn named<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let id = REQUEST_ID.try_with(|id| id.parse().ok()).ok().flatten();
    if let Some(id) = id {
        request.metadata_mut().insert(signet_api::REQUEST_ID, id);
    }
    if let Some(traceparent) = spans::traceparent().and_then(|it| it.parse().ok()) {
        request.metadata_mut().insert(spans::TRACEPARENT, traceparent);
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_asked_for_a_call_carries_its_name_and_nothing_else_does() {
        let id: Arc<str> = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff".into();
        let asked = scope(Arc::clone(&id), async { named(()) }).await;
        assert_eq!(asked.metadata().get(signet_api::REQUEST_ID).unwrap(), &*id);
        assert!(named(()).metadata().is_empty());
    }
}
