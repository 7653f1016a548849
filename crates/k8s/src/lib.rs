//! The one client of Kubernetes API servers: token reviews, objects, lists, writes, watches; and
//! the trust bundle in Kubernetes ([`bundle`]).
//!
//! It is made of a kubeconfig file or of what a pod is given. Both are read again every minute,
//! and at once when the server's certificate or the own credentials are not accepted: authorities
//! and tokens rotate.

mod api;
#[cfg(feature = "k8s-bundle")]
pub mod bundle;
#[cfg(feature = "k8s-bundle")]
mod cert_manager;
mod config;
mod error;
mod exec;
mod objects;
mod resources;
mod watch;

#[cfg(feature = "k8s-bundle")]
pub use self::cert_manager::{CertManager, CertManagerSettings};
pub use self::{
    api::{ApiServer, Write},
    config::KubeSource,
    error::{ApiError, ConfigError},
    objects::{
        Metadata, Namespace, Node, Object, Pod, PodSpec, PodStatus, TokenReviewStatus, UserInfo,
    },
    resources::{AccessReview, ObjectMetadata, Owner, Resource},
    watch::{Collection, Lines, Seen, WATCH, query_value},
};
