//! What the operator is told at start, and what it finds out about the cluster.

use serde::Deserialize;
use signet_k8s::{ApiError, ApiServer};

use super::kinds::Kind;

/// What the operator goes by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The namespace of the operator, and of everything it makes that is in one.
    pub namespace: String,
    /// The images of containers.
    pub images: Images,
    /// What the cluster is like.
    pub platform: Platform,
    /// Objects that are there are left as they are (`CREATE_ONLY_MODE`).
    pub create_only: bool,
    /// The OperatorCondition that the Operator Lifecycle Manager reads (`OPERATOR_CONDITION_NAME`).
    pub operator_condition: Option<String>,
}

/// What the cluster is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    /// OpenShift: there are Routes and SecurityContextConstraints, certificates for services, and
    /// ranges of users for each namespace.
    pub openshift: bool,
    /// Kubelets know the permission `nodes/pods` (Kubernetes 1.33 and later); older ones ask for
    /// `nodes/proxy`.
    pub narrow_kubelet: bool,
}

/// The images of containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// `RELATED_IMAGE_SIGNET_SERVER`.
    pub server: String,
    /// `RELATED_IMAGE_SIGNET_CONTROLLER`.
    pub controller: String,
    /// `RELATED_IMAGE_SIGNET_AGENT`; it is the CSI driver too.
    pub agent: String,
    /// `RELATED_IMAGE_SIGNET_OIDC`.
    pub oidc: String,
    /// `RELATED_IMAGE_NODE_DRIVER_REGISTRAR`.
    pub registrar: String,
    /// `RELATED_IMAGE_SPIFFE_CSI_INIT_CONTAINER`: an image with `chcon`, for nodes with SELinux.
    pub selinux: Option<String>,
}

#[derive(Deserialize)]
struct Version {
    #[serde(default)]
    major: String,
    #[serde(default)]
    minor: String,
}

impl Images {
    /// The images that environment variables name, or those of this version.
    pub fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| env(&format!("RELATED_IMAGE_{name}")).filter(|v| !v.is_empty());
        let ours = |name: &str, image: &str| {
            set(name).unwrap_or_else(|| format!("{image}:{}", env!("CARGO_PKG_VERSION")))
        };
        Self {
            server: ours("SIGNET_SERVER", "signet-server"),
            controller: ours("SIGNET_CONTROLLER", "signet-controller"),
            agent: ours("SIGNET_AGENT", "signet-agent"),
            oidc: ours("SIGNET_OIDC", "signet-oidc"),
            registrar: set("NODE_DRIVER_REGISTRAR").unwrap_or_else(super::render::base::registrar),
            selinux: set("SPIFFE_CSI_INIT_CONTAINER"),
        }
    }
}

impl Platform {
    /// Kubernetes as it is now.
    pub const KUBERNETES: Self = Self { openshift: false, narrow_kubelet: true };

    /// Asks the API server.
    ///
    /// # Errors
    /// [`ApiError`] when it does not say.
    pub async fn find(api: &ApiServer) -> Result<Self, ApiError> {
        let version: Version = api.get_object("/version").await?;
        let mut openshift = true;
        for kind in Kind::ALL.into_iter().filter(|kind| kind.is_of_openshift()) {
            match api.get(&format!("/apis/{}", kind.version())).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => openshift = false,
                Err(error) => return Err(error),
            }
        }
        Ok(Self { openshift, narrow_kubelet: is_narrow(&version.major, &version.minor) })
    }
}

/// Whether a version is 1.33 or later. Some providers write `33+`.
fn is_narrow(major: &str, minor: &str) -> bool {
    let number = |text: &str| text.trim_end_matches('+').parse::<u32>().unwrap_or(0);
    (number(major), number(minor)) >= (1, 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrow_permission_is_used_where_kubelets_know_it() {
        for (major, minor, narrow) in
            [("1", "33", true), ("1", "37+", true), ("1", "32", false), ("", "", false)]
        {
            assert_eq!(is_narrow(major, minor), narrow, "{major}.{minor}");
        }
    }

    #[test]
    fn images_are_those_that_the_catalogue_names() {
        let env = |name: &str| match name {
            "RELATED_IMAGE_SIGNET_SERVER" => Some("mirror/server@sha256:1".to_owned()),
            "RELATED_IMAGE_SIGNET_AGENT" => Some(String::new()),
            _ => None,
        };
        let images = Images::from_env(&env);
        assert_eq!(images.server, "mirror/server@sha256:1");
        assert_eq!(images.agent, format!("signet-agent:{}", env!("CARGO_PKG_VERSION")));
        assert!(images.registrar.contains("csi-node-driver-registrar:"), "{}", images.registrar);
        assert_eq!(images.selinux, None);
    }
}
