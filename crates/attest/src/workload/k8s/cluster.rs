//! The cluster's API server, reached when it is first needed.

use std::{fmt, sync::Arc};

use signet_base::SharedClock;
use signet_k8s::{ApiServer, KubeSource};
use tokio::sync::Mutex;

/// The API server that `KUBECONFIG` names, or else that of the agent's own cluster.
pub struct Cluster {
    api: Mutex<Option<Arc<ApiServer>>>,
    clock: SharedClock,
}

impl Cluster {
    /// Nothing is read yet.
    pub fn new(clock: SharedClock) -> Self {
        Self { api: Mutex::default(), clock }
    }

    /// This server.
    pub fn with_api(api: ApiServer, clock: SharedClock) -> Self {
        Self { api: Mutex::new(Some(Arc::new(api))), clock }
    }

    /// The server.
    ///
    /// # Errors
    /// Why it cannot be used yet, as text.
    pub async fn api(&self) -> Result<Arc<ApiServer>, String> {
        let mut api = self.api.lock().await;
        if let Some(api) = &*api {
            return Ok(Arc::clone(api));
        }
        let made = ApiServer::new(KubeSource::from_env(), Arc::clone(&self.clock));
        let made =
            Arc::new(made.map_err(|error| format!("unable to set up kube client: {error}"))?);
        *api = Some(Arc::clone(&made));
        Ok(made)
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cluster")
    }
}
