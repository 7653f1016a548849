//! Who is asking? Peer pinning, `/proc`, workload attestors, and both halves of node attestors.
//!
//! Only this crate reads `/proc`. A caller's identity is fixed when its connection is accepted
//! ([`peer`]); what it *is* is read anew for every attestation ([`workload`]).

pub mod node;
pub mod peer;
pub mod procfs;
pub mod workload;
