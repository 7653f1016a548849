//! Kubernetes' API: requests with deadlines and bounds, and lists that are followed by watches.
//!
//! The `kube` crate finds the cluster, authenticates and does TLS; what is asked and how answers
//! are read is here, so that a page of pods is cut down while it is read and nothing is concluded
//! from half a list.

mod reflector;
mod request;

pub(crate) use reflector::encode;
pub use reflector::{Event, Object, Reflector, Scope};
pub use request::{Api, ApiError, Lines};
