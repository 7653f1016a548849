//! The kinds of objects that the operator reads and writes, and where they are.

use serde_json::Value;

use super::{API_VERSION, MANAGED_BY, MANAGER};

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `ZeroTrustWorkloadIdentityManager`.
    Manager,
    /// `SpireServer`.
    Server,
    /// `SpireAgent`.
    Agent,
    /// `SpiffeCSIDriver`.
    Csi,
    /// `SpireOIDCDiscoveryProvider`.
    Oidc,
    /// `ServiceAccount`.
    ServiceAccount,
    /// `ConfigMap`.
    ConfigMap,
    /// `Service`.
    Service,
    /// `ClusterRole`.
    ClusterRole,
    /// `ClusterRoleBinding`.
    ClusterRoleBinding,
    /// `Role`.
    Role,
    /// `RoleBinding`.
    RoleBinding,
    /// `StatefulSet`.
    StatefulSet,
    /// `DaemonSet`.
    DaemonSet,
    /// `Deployment`.
    Deployment,
    /// `CSIDriver`.
    CsiDriver,
    /// `ValidatingWebhookConfiguration`.
    Webhook,
    /// `ClusterSPIFFEID`.
    ClusterSpiffeId,
    /// `ClusterFederatedTrustDomain`.
    FederatedTrustDomain,
    /// `Route`, of OpenShift.
    Route,
    /// `SecurityContextConstraints`, of OpenShift.
    Constraints,
}

const RBAC: &str = "rbac.authorization.k8s.io/v1";
const SPIRE: &str = "spire.spiffe.io/v1alpha1";

/// Whether an object is one of the operator's own, by its label.
pub fn is_ours(object: &Value) -> bool {
    let labels = object.pointer("/metadata/labels");
    labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == MANAGER)
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::Manager,
        Self::Server,
        Self::Agent,
        Self::Csi,
        Self::Oidc,
        Self::ServiceAccount,
        Self::ConfigMap,
        Self::Service,
        Self::ClusterRole,
        Self::ClusterRoleBinding,
        Self::Role,
        Self::RoleBinding,
        Self::StatefulSet,
        Self::DaemonSet,
        Self::Deployment,
        Self::CsiDriver,
        Self::Webhook,
        Self::ClusterSpiffeId,
        Self::FederatedTrustDomain,
        Self::Route,
        Self::Constraints,
    ];
    /// The resources that the parts are made of, in the order in which they come up.
    pub const OPERANDS: [Self; 4] = [Self::Server, Self::Agent, Self::Csi, Self::Oidc];

    /// Version, kind, and the resource's name in paths.
    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Manager => (
                API_VERSION,
                "ZeroTrustWorkloadIdentityManager",
                "zerotrustworkloadidentitymanagers",
            ),
            Self::Server => (API_VERSION, "SpireServer", "spireservers"),
            Self::Agent => (API_VERSION, "SpireAgent", "spireagents"),
            Self::Csi => (API_VERSION, "SpiffeCSIDriver", "spiffecsidrivers"),
            Self::Oidc => {
                (API_VERSION, "SpireOIDCDiscoveryProvider", "spireoidcdiscoveryproviders")
            }
            Self::ServiceAccount => ("v1", "ServiceAccount", "serviceaccounts"),
            Self::ConfigMap => ("v1", "ConfigMap", "configmaps"),
            Self::Service => ("v1", "Service", "services"),
            Self::ClusterRole => (RBAC, "ClusterRole", "clusterroles"),
            Self::ClusterRoleBinding => (RBAC, "ClusterRoleBinding", "clusterrolebindings"),
            Self::Role => (RBAC, "Role", "roles"),
            Self::RoleBinding => (RBAC, "RoleBinding", "rolebindings"),
            Self::StatefulSet => ("apps/v1", "StatefulSet", "statefulsets"),
            Self::DaemonSet => ("apps/v1", "DaemonSet", "daemonsets"),
            Self::Deployment => ("apps/v1", "Deployment", "deployments"),
            Self::CsiDriver => ("storage.k8s.io/v1", "CSIDriver", "csidrivers"),
            Self::Webhook => (
                "admissionregistration.k8s.io/v1",
                "ValidatingWebhookConfiguration",
                "validatingwebhookconfigurations",
            ),
            Self::ClusterSpiffeId => (SPIRE, "ClusterSPIFFEID", "clusterspiffeids"),
            Self::FederatedTrustDomain => {
                (SPIRE, "ClusterFederatedTrustDomain", "clusterfederatedtrustdomains")
            }
            Self::Route => ("route.openshift.io/v1", "Route", "routes"),
            Self::Constraints => (
                "security.openshift.io/v1",
                "SecurityContextConstraints",
                "securitycontextconstraints",
            ),
        }
    }

    /// `apiVersion`.
    pub fn version(self) -> &'static str {
        self.names().0
    }

    /// `kind`.
    pub fn name(self) -> &'static str {
        self.names().1
    }

    /// The resource, as permissions name it.
    pub fn resource(self) -> &'static str {
        self.names().2
    }

    /// Whether it is one of the operator's own resources.
    pub fn is_resource(self) -> bool {
        self.version() == API_VERSION
    }

    /// Whether objects are in namespaces.
    pub fn is_namespaced(self) -> bool {
        matches!(
            self,
            Self::ServiceAccount
                | Self::ConfigMap
                | Self::Service
                | Self::Role
                | Self::RoleBinding
                | Self::StatefulSet
                | Self::DaemonSet
                | Self::Deployment
                | Self::Route
        )
    }

    /// Whether only OpenShift has it.
    pub fn is_of_openshift(self) -> bool {
        matches!(self, Self::Route | Self::Constraints)
    }

    /// Where objects are listed; `namespace` counts for those that are in one.
    pub fn collection(self, namespace: &str) -> String {
        let (version, _, resource) = self.names();
        let root = if version == "v1" { "/api".to_owned() } else { "/apis".to_owned() };
        if self.is_namespaced() {
            format!("{root}/{version}/namespaces/{namespace}/{resource}")
        } else {
            format!("{root}/{version}/{resource}")
        }
    }

    /// Where an object is.
    pub fn path(self, namespace: &str, name: &str) -> String {
        format!("{}/{name}", self.collection(namespace))
    }

    /// Which objects are followed: our own, but all resources and relationships of federation,
    /// for a relationship that somebody else declares is not declared twice.
    pub fn selector(self) -> String {
        if self.is_resource() || self == Self::FederatedTrustDomain {
            String::new()
        } else {
            format!("{MANAGED_BY}={MANAGER}")
        }
    }
}
