//! How those who serve wake the manager.

use tokio::sync::Notify;

use crate::client::ClientError;

/// Wakes the manager, which waits on it.
#[derive(Debug, Default)]
pub struct Wake {
    sync: Notify,
    token: Notify,
}

impl Wake {
    /// The server is to be asked at once.
    pub fn sync(&self) {
        self.sync.notify_one();
    }

    /// The same where the server refused the agent: the manager is to hear of it from the server
    /// itself.
    pub fn sync_if_refused<T>(&self, result: &Result<T, ClientError>) {
        if result.as_ref().is_err_and(|error| error.refusal().is_some()) {
            self.sync();
        }
    }

    /// A JWT-SVID or a WIT-SVID came and is to be put away.
    pub fn token_came(&self) {
        self.token.notify_one();
    }

    pub(crate) async fn to_sync(&self) {
        self.sync.notified().await;
    }

    pub(crate) async fn by_token(&self) {
        self.token.notified().await;
    }
}
