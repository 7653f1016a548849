//! Notices of change, pushed by the server: our own extension. A SPIRE server does not know it
//! and is polled.

use std::{sync::Arc, time::Duration};

use signet_base::Backoff;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::Shared;
use crate::client::Notice;

/// How long to wait before asking a server again that has no push: it may have been replaced.
const UNSUPPORTED_PAUSE: Duration = Duration::from_secs(600);

/// Whether notices come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum PushState {
    /// They do.
    Connected,
    /// They did or may come again.
    #[default]
    Down,
    /// The server has no push.
    Unsupported,
}

#[derive(Clone, Debug, Default)]
struct Latest {
    state: PushState,
    notice: Option<Notice>,
}

/// Listens for notices; ends when dropped.
#[derive(Debug)]
pub(super) struct PushWatcher {
    latest: watch::Receiver<Latest>,
    _task: AbortOnDropHandle<()>,
}

impl PushWatcher {
    /// Subscribes, saying where this agent stands.
    pub(super) fn start(shared: &Arc<Shared>, synced: Option<Notice>) -> Self {
        let (tx, latest) = watch::channel(Latest::default());
        // A task of its own, so that a slow server never holds up the manager; it ends with the
        // session, which ends with the program.
        let task = tokio::spawn(listen(Arc::clone(shared), synced, tx));
        Self { latest, _task: AbortOnDropHandle::new(task) }
    }

    /// Waits for a notice or a change of state.
    pub(super) async fn changed(&mut self) {
        if self.latest.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// The newest notice while connected.
    pub(super) fn notice(&self) -> Option<Notice> {
        let latest = self.latest.borrow();
        latest.notice.clone().filter(|_| latest.state == PushState::Connected)
    }

    pub(super) fn state(&self) -> PushState {
        self.latest.borrow().state
    }

    pub(super) fn is_connected(&self) -> bool {
        self.state() == PushState::Connected
    }
}

async fn listen(shared: Arc<Shared>, synced: Option<Notice>, tx: watch::Sender<Latest>) {
    let mut last = synced;
    let mut backoff =
        Backoff::new(Duration::from_millis(500), Duration::from_secs(30)).with_jitter(0.3);
    loop {
        match shared.server.client.subscribe(last.as_ref()).await {
            Ok(mut stream) => loop {
                match stream.next().await {
                    Ok(Some(notice)) => {
                        backoff.reset();
                        last = Some(notice.clone());
                        tx.send_replace(Latest {
                            state: PushState::Connected,
                            notice: Some(notice),
                        });
                    }
                    Ok(None) => break,
                    Err(error) if error.is_unimplemented() => {
                        unsupported(&tx).await;
                        break;
                    }
                    Err(error) => {
                        tracing::debug!(error = %error, "The stream of notices ended");
                        break;
                    }
                }
            },
            Err(error) if error.is_unimplemented() => unsupported(&tx).await,
            Err(error) => tracing::debug!(error = %error, "Could not subscribe to notices"),
        }
        tx.send_if_modified(|latest| {
            let was = latest.state;
            latest.state = PushState::Down;
            was == PushState::Connected
        });
        backoff.wait().await;
    }
}

async fn unsupported(tx: &watch::Sender<Latest>) {
    tracing::debug!("The server does not push notices; polling it");
    tx.send_modify(|latest| latest.state = PushState::Unsupported);
    tokio::time::sleep(UNSUPPORTED_PAUSE).await;
}
