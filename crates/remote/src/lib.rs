//! Back ends of others: a bounded HTTP client with proxies and deadlines, and the few requests that
//! node attestation makes to a Kubernetes API server.

pub mod http;
pub mod k8s;
