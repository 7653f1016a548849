//! Where the server's own bundle goes: notifiers and bundle publishers.
//!
//! A task for each of them passes on the newest bundle: at once when it changes, and again with
//! growing pauses when that failed. A notifier has the first bundle before the server serves; a
//! new authority signs much later than it is in the bundle. Publishers are asked every 30 s in
//! any case, as in SPIRE.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::join_all;
use signet_base::{Backoff, CancellationToken, Tasks};
use signet_identity::Bundle;
use signet_pki::{BundlePublisher, Notifier, ports::PortError};
use tokio::{sync::watch, time::Instant};

use crate::{
    cache::{Cache, CachedBundle},
    metrics::ServerMetrics,
    plugins::{PluginError, Plugins, Scope, bundle_publisher, notifier},
};

/// How long passing on one bundle may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// Pauses after a failure.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// How often publishers are asked without a change.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(30);

/// Why the server does not start: a notifier could not take the bundle.
#[derive(Debug, thiserror::Error)]
#[error("notifying of the loaded bundle: {0}")]
pub struct LoadError(String);

/// Takes the bundle.
#[derive(Clone, Debug)]
enum BundleSink {
    Notifier(Arc<dyn Notifier>),
    Publisher(Arc<dyn BundlePublisher>),
}

/// All notifiers and bundle publishers, in the order of the configuration.
pub struct BundleEvents {
    all: Vec<watch::Sender<BundleSink>>,
}

impl BundleSink {
    fn of(plugins: &Plugins, scope: &Scope<'_>) -> Result<Vec<Self>, PluginError> {
        let notifiers = plugins.notifiers.iter();
        let notifiers = notifiers.map(|p| notifier::open(&p.settings, scope).map(Self::Notifier));
        let publishers = plugins.bundle_publishers.iter();
        let publishers =
            publishers.map(|p| bundle_publisher::open(&p.settings, scope).map(Self::Publisher));
        notifiers.chain(publishers).collect()
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Notifier(notifier) => notifier.name(),
            Self::Publisher(publisher) => publisher.name(),
        }
    }

    fn task(&self) -> &'static str {
        match self {
            Self::Notifier(_) => "bundle_notifier",
            Self::Publisher(_) => "bundle_publisher",
        }
    }

    async fn pass_on(&self, bundle: &Bundle) -> Result<(), PortError> {
        let passing = async {
            match self {
                Self::Notifier(notifier) => notifier.bundle_updated(bundle).await,
                Self::Publisher(publisher) => publisher.publish(bundle).await,
            }
        };
        self.within_deadline(passing).await
    }

    async fn within_deadline(
        &self,
        passing: impl Future<Output = Result<(), PortError>>,
    ) -> Result<(), PortError> {
        tokio::time::timeout(DEADLINE, passing).await.unwrap_or_else(|_| {
            let message = format!("not done within {} s", DEADLINE.as_secs());
            Err(PortError::Failed { name: self.name(), message })
        })
    }

    async fn run(&self) {
        match self {
            Self::Notifier(notifier) => notifier.run().await,
            Self::Publisher(_) => std::future::pending().await,
        }
    }
}

impl BundleEvents {
    /// The notifiers and publishers that `plugins` names.
    ///
    /// # Errors
    /// [`PluginError`] when one cannot be made.
    pub fn new(plugins: &Plugins, scope: &Scope<'_>) -> Result<Self, PluginError> {
        let all = BundleSink::of(plugins, scope)?.into_iter().map(watch::Sender::new).collect();
        Ok(Self { all })
    }

    /// Gives every notifier the bundle that the server starts with.
    ///
    /// # Errors
    /// [`LoadError`] when one fails: what it feeds could not trust the server.
    pub async fn load(&self, bundle: Option<&CachedBundle>) -> Result<(), LoadError> {
        let Some(bundle) = bundle else { return Ok(()) };
        let all = self.all.iter().map(|sink| sink.borrow().clone());
        let loaded = join_all(all.map(|sink| async move {
            let BundleSink::Notifier(notifier) = &sink else { return Ok(()) };
            sink.within_deadline(notifier.bundle_loaded(&bundle.bundle)).await
        }));
        let failures: Vec<String> = loaded
            .await
            .into_iter()
            .filter_map(|result| result.err().map(|error| error.to_string()))
            .collect();
        if failures.is_empty() { Ok(()) } else { Err(LoadError(failures.join("; "))) }
    }

    /// Starts a task for each sink.
    pub fn spawn(&self, tasks: &Tasks, cache: &Arc<Cache>, metrics: &ServerMetrics) {
        for sink in &self.all {
            let task = sink.borrow().task();
            let work =
                serve(sink.subscribe(), Arc::clone(cache), metrics.clone(), tasks.token().clone());
            tasks.spawn(task, work);
        }
    }

    /// Makes sinks of new settings. What comes back takes them over: every sink is given the
    /// bundle again.
    ///
    /// # Errors
    /// [`PluginError`] when one cannot be made.
    pub fn prepare(
        &self,
        plugins: &Plugins,
        scope: &Scope<'_>,
    ) -> Result<impl FnOnce() + Send + use<'_>, PluginError> {
        let made = BundleSink::of(plugins, scope)?;
        Ok(move || {
            for (old, new) in self.all.iter().zip(made) {
                old.send_replace(new);
            }
        })
    }
}

impl fmt::Debug for BundleEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.iter().map(|sink| sink.borrow().name())).finish()
    }
}

/// Serves one sink, with whatever settings are in force, until the token is cancelled.
async fn serve(
    mut sink: watch::Receiver<BundleSink>,
    cache: Arc<Cache>,
    metrics: ServerMetrics,
    token: CancellationToken,
) {
    loop {
        let current = sink.borrow_and_update().clone();
        tokio::select! {
            () = token.cancelled() => return,
            changed = sink.changed() => if changed.is_err() { return },
            () = current.run() => return,
            () = pass_on_all(&current, &cache, &metrics) => return,
        }
    }
}

/// Passes on the newest bundle for ever.
async fn pass_on_all(sink: &BundleSink, cache: &Cache, metrics: &ServerMetrics) {
    let mut changes = cache.subscribe(None);
    let mut backoff = Backoff::new(MIN_PAUSE, MAX_PAUSE);
    let mut passed_on: Option<Bundle> = None;
    loop {
        changes.borrow_and_update();
        let bundle = cache.own_bundle();
        let due = |held: &&Arc<CachedBundle>| passed_on.as_ref() != Some(&held.bundle);
        let mut next = Instant::now() + PUBLISH_INTERVAL;
        if let Some(newest) = bundle.as_ref().filter(due) {
            match sink.pass_on(&newest.bundle).await {
                Ok(()) => {
                    tracing::debug!(
                        plugin = sink.name(),
                        sequence_number = newest.bundle.sequence_number,
                        "Bundle passed on"
                    );
                    metrics.bundle_undelivered.set(&[sink.name()], 0.0);
                    passed_on = Some(newest.bundle.clone());
                    backoff.reset();
                }
                Err(error) => {
                    let pause = backoff.next_delay();
                    next = Instant::now() + pause;
                    metrics.bundle_undelivered.set(&[sink.name()], 1.0);
                    tracing::error!(
                        plugin = sink.name(),
                        %error,
                        retry_ms = pause.as_millis() as u64,
                        "Failed to pass on the bundle"
                    );
                }
            }
        }
        // A change of something else in the store wakes as well, and finds nothing to do; after a
        // failure it does not make the pause shorter, unless the bundle itself has changed.
        let tried = bundle.map(|held| held.bundle.clone());
        let newer = async {
            while changes.changed().await.is_ok() {
                changes.borrow_and_update();
                let now = cache.own_bundle();
                if now.as_ref().map(|held| &held.bundle) != tried.as_ref() {
                    return;
                }
            }
            std::future::pending().await
        };
        tokio::select! {
            () = newer => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}
