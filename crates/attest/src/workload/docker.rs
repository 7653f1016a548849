//! Workload attestor `docker`: the container of the calling process, confirmed by Docker or Podman.
//!
//! The cgroup path says which containers the process may be in, and which engine runs them
//! ([`place`]); the engine says which of them is real, outermost first. A name in a path proves
//! nothing by itself: a container can make directories below its own, and a user's service manager
//! below that user's. So the engine is also asked for the container's first process, and the
//! caller must stand in the cgroup of that process, or below it. A container that is known, with a
//! caller that is elsewhere, is refused.

pub mod engine;
pub mod place;

use std::time::Duration;

use signet_identity::Selector;
use tokio::sync::Semaphore;

use self::{
    engine::{Container, Engine, EngineError},
    place::{Owner, Place},
};
use super::{WorkloadAttestError, WorkloadAttestor, container};
use crate::peer::PinnedPeer;

pub use self::engine::{Address, AddressError, RootlessAddress};

/// The attestor's name and the type of its selectors.
pub const NAME: &str = "docker";

/// How often a container is asked for, as SPIRE does: it may not be known yet.
const ATTEMPTS: u32 = 4;
/// The most callers examined at once; others wait.
const MAX_CONCURRENT: usize = 32;

/// Settings of the attestor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerConfig {
    /// Docker's API.
    pub docker: Address,
    /// The version of Docker's API that is asked for, such as `1.44`; unset for the engine's own.
    pub version: Option<String>,
    /// The API of Podman run by root.
    pub podman: Address,
    /// The API of a user's own Podman. Unset to refuse its containers: the engine then belongs to
    /// the user, who can make it say anything.
    pub rootless_podman: Option<RootlessAddress>,
    /// How long one answer of an engine may take.
    pub deadline: Duration,
    /// How long is waited before asking again; doubled each time.
    pub backoff: Duration,
}

impl Default for DockerConfig {
    fn default() -> Self {
        Self {
            docker: Address::Unix("/var/run/docker.sock".into()),
            version: None,
            podman: Address::Unix("/run/podman/podman.sock".into()),
            rootless_podman: None,
            deadline: Duration::from_secs(10),
            backoff: Duration::from_millis(100),
        }
    }
}

/// The `docker` workload attestor.
#[derive(Debug)]
pub struct DockerAttestor {
    config: DockerConfig,
    permits: Semaphore,
}

/// Why no container is found in one round of questions.
enum NotFound {
    /// It may be known a moment later.
    Yet(String),
    /// Asking again is of no use.
    AtAll(WorkloadAttestError),
}

impl From<EngineError> for NotFound {
    fn from(error: EngineError) -> Self {
        Self::Yet(error.to_string())
    }
}

impl DockerAttestor {
    /// An attestor with the given settings. No engine is asked yet.
    pub fn new(config: DockerConfig) -> Self {
        Self { config, permits: Semaphore::new(MAX_CONCURRENT) }
    }

    fn engine(&self, owner: Owner) -> Result<Engine, NotFound> {
        let (name, address, version) = match owner {
            Owner::Docker => ("Docker", self.config.docker.clone(), self.config.version.as_deref()),
            Owner::Podman => ("Podman", self.config.podman.clone(), None),
            Owner::UserOfPodman(uid) => match &self.config.rootless_podman {
                Some(address) => ("Podman", address.of(uid), None),
                None => {
                    return Err(NotFound::AtAll(failed(format!(
                        "the process is in a container of the rootless Podman of user {uid}, who \
                         can make it claim any label or image; to accept that, set \
                         podman_socket_path_template, and use these selectors only together with \
                         unix:uid:{uid}"
                    ))));
                }
            },
        };
        Ok(Engine::new(name, &address, version, self.config.deadline)?)
    }

    /// The outermost of `places` that its engine knows, if the caller is in it.
    async fn locate(
        &self,
        peer: &PinnedPeer,
        places: &[Place],
    ) -> Result<(Engine, Container), NotFound> {
        for place in places {
            let engine = self.engine(place.owner)?;
            let Some(container) = engine.container(&place.container_id).await? else { continue };
            self.confirm(peer, place, &engine, &container).await?;
            return Ok((engine, container));
        }
        let ids: Vec<&str> = places.iter().map(|place| place.container_id.as_str()).collect();
        Err(NotFound::Yet(format!(
            "the container engine knows none of the process's containers ({})",
            ids.join(" > ")
        )))
    }

    /// Checks that the caller stands in the cgroup of the container's first process.
    async fn confirm(
        &self,
        peer: &PinnedPeer,
        place: &Place,
        engine: &Engine,
        container: &Container,
    ) -> Result<(), NotFound> {
        let id = &place.container_id;
        let Some(pid) = container.pid() else {
            return Err(NotFound::Yet(format!("{engine} says that container {id} does not run")));
        };
        let cgroup = peer.proc_root().read(pid, "cgroup").map_err(|error| {
            NotFound::Yet(format!(
                "the first process of container {id} is {pid} for {engine}, and cannot be seen \
                 here ({error}): the agent must run in the engine's pid namespace"
            ))
        })?;
        if !place.holds(&String::from_utf8_lossy(&cgroup)) {
            return Err(NotFound::AtAll(failed(format!(
                "the process's cgroup names container {id}, which it is not in"
            ))));
        }
        // The number was still the container's when its cgroup was read.
        match engine.container(id).await? {
            Some(again) if again.pid() == Some(pid) => Ok(()),
            _ => Err(NotFound::Yet(format!("container {id} stopped while it was looked at"))),
        }
    }
}

fn failed(message: String) -> WorkloadAttestError {
    WorkloadAttestError::Failed(message)
}

#[async_trait::async_trait]
impl WorkloadAttestor for DockerAttestor {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn attest(&self, peer: &PinnedPeer) -> Result<Vec<Selector>, WorkloadAttestError> {
        let cgroup = peer.proc_root().read(peer.pid(), "cgroup")?;
        let cgroup = String::from_utf8_lossy(&cgroup);
        let (chain, _) =
            container::containers(&cgroup).map_err(|error| failed(error.to_string()))?;
        let places = place::places(&cgroup, chain.candidates());
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let closed = |_| failed("the attestor is shutting down".to_owned());
        let _permit = self.permits.acquire().await.map_err(closed)?;
        let mut backoff = self.config.backoff;
        for attempt in 1..=ATTEMPTS {
            let why = match self.locate(peer, &places).await {
                Ok((engine, container)) => return selectors(&engine, &container).await,
                Err(NotFound::AtAll(error)) => return Err(error),
                Err(NotFound::Yet(why)) => why,
            };
            if attempt == ATTEMPTS {
                return Err(failed(why));
            }
            if !peer.is_alive() {
                return Err(failed(format!("the process exited while it was waited for: {why}")));
            }
            tracing::debug!(pid = peer.pid(), attempt, "Container not found: {why}");
            tokio::time::sleep(backoff).await;
            backoff *= 2;
        }
        Ok(Vec::new())
    }
}

async fn selectors(
    engine: &Engine,
    container: &Container,
) -> Result<Vec<Selector>, WorkloadAttestError> {
    let config = &container.config;
    let mut values: Vec<String> =
        config.labels.iter().map(|(key, value)| format!("label:{key}:{value}")).collect();
    values.extend(config.env.iter().map(|variable| format!("env:{variable}")));
    if !config.image.is_empty() {
        values.push(format!("image_id:{}", config.image));
    }
    // The image that runs, not what its name means by now.
    let image = if container.image.is_empty() { &config.image } else { &container.image };
    match engine.image(image).await {
        Ok(Some(id)) if !id.is_empty() => values.push(format!("image_config_digest:{id}")),
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(image, %error, "No selector image_config_digest: no image found");
        }
    }
    let selector = |value: &String| {
        Selector::new(NAME, value).map_err(|error| failed(format!("selector {value:?}: {error}")))
    };
    values.iter().map(selector).collect()
}

#[cfg(test)]
mod tests;
