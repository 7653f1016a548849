//! Keeps registration entries in step with a Kubernetes cluster.
