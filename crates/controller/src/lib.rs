//! The Kubernetes controller: pods and custom resources become registration entries.
//!
//! A drop-in for spire-controller-manager 0.6: the same custom resources, the same entries, the
//! same configuration file, against a Signet or a SPIRE server. One task, the [`engine`], owns
//! what is known of cluster and server; [`reflector`] tells it what happens in the cluster,
//! [`notices`] what happens on the server, and it writes one batch of entries at a time.
//!
//! | module | what |
//! |---|---|
//! | [`cluster`], [`reconciler`] | pure: from objects to entries wanted, from entries wanted to work |
//! | [`resources`], [`objects`], [`data`], [`template`] | what objects say, and what templates see |
//! | [`engine`], [`federation`] | the tasks that write |
//! | [`reflector`], [`manifests`] | where objects come from |
//! | [`server`], [`notices`] | the registration server |
//! | [`leader`], [`webhook`] | taking turns, checking resources |
//! | [`lint`] | what in manifests breaks the baseline |
//! | [`operator`] | custom resources become a server, agents, a CSI driver, an OIDC provider |
//! | [`config`], [`cli`], [`explain`], [`app`], [`run`], [`metrics`] | the program |

pub mod app;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod data;
pub mod engine;
pub mod error_throttle;
pub mod explain;
pub mod federation;
pub mod fingerprint;
pub mod leader;
pub mod lint;
pub mod manifests;
pub mod metrics;
pub mod notices;
pub mod objects;
pub mod operator;
pub mod ownership;
pub mod reconciler;
pub mod reflector;
pub mod resources;
pub mod run;
pub mod server;
mod slices;
pub mod template;
pub mod webhook;
