//! Listening for notices of change, from a server that has push.

use std::time::Duration;

use signet_base::Backoff;
use tokio::sync::watch;
use tonic::Code;

use crate::{
    metrics::ControllerMetrics,
    server::{Notice, Server},
};

/// How long to wait before asking a server again that has no push: it may have been replaced.
const UNSUPPORTED_PAUSE: Duration = Duration::from_secs(600);

/// Listens for ever; `latest` is the newest notice while there is a connection, and `None` while
/// there is none: then the server has to be asked.
pub async fn listen(
    server: Server,
    latest: watch::Sender<Option<Notice>>,
    metrics: ControllerMetrics,
) {
    let mut backoff =
        Backoff::new(Duration::from_millis(500), Duration::from_secs(30)).with_jitter(0.3);
    let mut said = false;
    loop {
        let mut unsupported = false;
        match server.subscribe().await {
            Ok(mut notices) => loop {
                match notices.next().await {
                    Ok(Some(notice)) => {
                        backoff.reset();
                        metrics.push_connected.set(&[], 1.0);
                        latest.send_replace(Some(notice));
                    }
                    Ok(None) => break,
                    Err(error) => {
                        unsupported = error.code() == Some(Code::Unimplemented);
                        tracing::debug!(%error, "The stream of notices ended");
                        break;
                    }
                }
            },
            Err(error) => {
                unsupported = error.code() == Some(Code::Unimplemented);
                tracing::debug!(%error, "Could not subscribe to notices");
            }
        }
        metrics.push_connected.set(&[], 0.0);
        latest.send_if_modified(|latest| latest.take().is_some());
        if unsupported {
            if !std::mem::replace(&mut said, true) {
                tracing::info!("The server does not push changes; it is listed periodically");
            }
            tokio::time::sleep(UNSUPPORTED_PAUSE).await;
        } else {
            backoff.wait().await;
        }
    }
}
