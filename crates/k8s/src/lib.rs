//! A small client of Kubernetes API servers: token reviews, single objects, patches, watches.
//!
//! It is made of a kubeconfig file or of what a pod is given. Both are read again every minute,
//! and at once when the server's certificate or the own credentials are not accepted: authorities
//! and tokens rotate.

mod api;
#[cfg(feature = "k8s-bundle")]
pub mod bundle;
mod config;
mod error;
mod objects;
mod watch;

pub use self::{
    api::ApiServer,
    config::{ConfigError, Credentials, KubeConfig},
    error::ApiError,
    objects::{
        Metadata, Namespace, Node, Object, Pod, PodSpec, PodStatus, TokenReviewStatus, UserInfo,
    },
    watch::{Collection, Seen},
};
