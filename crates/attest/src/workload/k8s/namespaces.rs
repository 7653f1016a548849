//! The labels of namespaces, for `enable_namespace_labels`: short reads of the API server, each
//! shared by everybody who waits for the same namespace.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::Duration,
};

use signet_base::SharedClock;
use signet_k8s::ApiServer;
use tokio::{sync::Mutex, time::Instant};

use super::cluster::Cluster;

/// How old an answer may be: a label that is taken away counts no longer than this.
const FRESH: Duration = Duration::from_secs(5);
/// How long a failure is the answer for everybody.
const FAILED: Duration = Duration::from_secs(1);
/// How long one read may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// How many namespaces are remembered.
const MAX_NAMESPACES: usize = 1024;

/// Labels of one namespace.
pub type Labels = Arc<BTreeMap<String, String>>;

/// Where labels of namespaces are read.
#[async_trait::async_trait]
pub trait NamespaceSource: Send + Sync + fmt::Debug {
    /// The labels of a namespace as they are now, or were a few seconds ago.
    ///
    /// # Errors
    /// What went wrong, as text.
    async fn labels(&self, namespace: &str) -> Result<Labels, String>;
}

type Held = Arc<Mutex<Option<(Instant, Result<Labels, String>)>>>;

/// Reads from the cluster's API server.
pub struct ApiNamespaces {
    cluster: Arc<Cluster>,
    held: StdMutex<HashMap<String, Held>>,
}

impl ApiNamespaces {
    /// A source. Nothing is read yet.
    pub fn new(cluster: Arc<Cluster>) -> Self {
        Self { cluster, held: StdMutex::default() }
    }

    /// A source that reads from this server.
    pub fn with_api(api: ApiServer, clock: SharedClock) -> Self {
        Self::new(Arc::new(Cluster::with_api(api, clock)))
    }

    async fn read(&self, namespace: &str) -> Result<Labels, String> {
        let api = self.cluster.api().await?;
        let read = tokio::time::timeout(DEADLINE, api.get_namespace(namespace)).await;
        let failed = |why: String| format!("unable to get namespace {namespace:?}: {why}");
        match read {
            Ok(Ok(found)) => Ok(Arc::new(found.metadata.labels)),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("no answer within {} s", DEADLINE.as_secs()))),
        }
    }

    fn held(&self, namespace: &str) -> Held {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= MAX_NAMESPACES && !held.contains_key(namespace) {
            // Those that somebody waits for stay.
            held.retain(|_, held| Arc::strong_count(held) > 1);
        }
        Arc::clone(held.entry(namespace.to_owned()).or_default())
    }
}

#[async_trait::async_trait]
impl NamespaceSource for ApiNamespaces {
    async fn labels(&self, namespace: &str) -> Result<Labels, String> {
        let held = self.held(namespace);
        let mut held = held.lock().await;
        if let Some((at, answer)) = &*held {
            let lasts = if answer.is_ok() { FRESH } else { FAILED };
            if at.elapsed() < lasts {
                return answer.clone();
            }
        }
        let began = Instant::now();
        let answer = self.read(namespace).await;
        // A failure counts from now: it may have taken longer than it lasts.
        let at = if answer.is_ok() { began } else { Instant::now() };
        *held = Some((at, answer.clone()));
        answer
    }
}

impl fmt::Debug for ApiNamespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiNamespaces")
    }
}
