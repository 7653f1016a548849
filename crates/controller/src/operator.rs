//! The operator: custom resources become a server, agents, a CSI driver and an OIDC provider.
//!
//! It reads the resources of OpenShift's Zero Trust Workload Identity Manager
//! (`operator.openshift.io/v1alpha1`, all named `cluster`) and keeps, for each, the objects that run
//! the part. One task, the [`reconcile::Operator`], knows what there is; [`cache`] tells it what
//! changes; [`render`] says, purely, what there should be; [`apply`] writes the difference by
//! server-side apply. Names of objects, labels that select pods, paths of the volume and the class
//! of resources are those of that operator, so that ours takes the place of it.
//!
//! | module | what |
//! |---|---|
//! | [`api`] | the specifications of the resources |
//! | [`check`] | what in them cannot be done, said before anything is written |
//! | [`render`] | pure: from specifications to objects |
//! | [`compare`], [`apply`] | what differs, and writing it |
//! | [`conditions`], [`health`] | what the statuses say |
//! | [`cache`], [`reconcile`] | what there is, and the task that acts |
//! | [`settings`], [`program`] | what it is told at start, and the command |

pub mod api;
pub mod apply;
pub mod cache;
pub mod check;
pub mod compare;
pub mod conditions;
pub mod health;
pub mod kinds;
pub mod program;
pub mod reconcile;
pub mod render;
pub mod settings;

/// The group and version of the operator's resources.
pub const API_VERSION: &str = "operator.openshift.io/v1alpha1";
/// The only name that a resource of the operator has.
pub const SINGLETON: &str = "cluster";
/// Who owns what the operator applies (`fieldManager`), and the value of the label
/// `app.kubernetes.io/managed-by`.
pub const MANAGER: &str = "signet-operator";
/// Who manages an object.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of `app.kubernetes.io/instance` and `part-of`, by which pods are selected.
pub const INSTANCE: &str = "cluster-zero-trust-workload-identity-manager";
/// The class of ClusterSPIFFEIDs and ClusterFederatedTrustDomains that the controller acts upon.
pub const CLASS: &str = "zero-trust-workload-identity-manager-spire";
/// The digest of a pod's configuration: another one makes new pods.
pub const CONFIG_HASH: &str = "signet/config-hash";
/// What cannot be changed later, kept on the StatefulSet: trust domain, cluster's name and the
/// name of the bundle's ConfigMap.
pub const FIXED: &str = "signet/fixed";
