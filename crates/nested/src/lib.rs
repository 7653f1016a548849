//! The upstream authority `spire`: a server whose X.509 authority is signed by another server of
//! its trust domain, and whose JWT and WIT keys are published there.
//!
//! The server proves who it is with an X.509-SVID of an agent of the upstream server, taken from
//! its Workload API; its entry there has `downstream`. Upstream and downstream may each be this
//! program or SPIRE's.

mod client;
mod source;
mod upstream;

pub use upstream::{Settings, SpireUpstream};
