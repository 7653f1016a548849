//! The wire: generated protobuf code, conversions to and from identity, connecting to server and
//! agent sockets.
//!
//! | module | what |
//! |---|---|
//! | [`pb`] | generated types, clients and servers |
//! | [`convert`] | every conversion to and from `signet_identity` |
//! | [`status`] | gRPC statuses with SPIRE's details, statuses of batch items |
//! | [`connect`] | channels over Unix sockets and over any byte stream |
//! | [`json`] | messages as JSON for people and scripts |
//! | [`encoded`] | responses encoded once for many streams |
//! | [`duplex`] | calls in which both sides stream |
//! | [`intake`] | what a caller may send |
//! | [`outcome`] | how a call ended |
//! | [`reflection`] | the services of a socket, described |
//! | [`workload`] | the Workload API server that serves them |

pub mod connect;
pub mod convert;
pub mod duplex;
pub mod encoded;
pub mod intake;
pub mod json;
pub mod outcome;
pub mod pb;
mod redacted;
pub mod reflection;
pub mod status;
pub mod workload;

/// The longest message a receiver takes, bytes: gRPC's default, and so the limit of every SPIRE
/// peer. What is sent must be paged to fit.
pub const MAX_MESSAGE_SIZE: usize = 4 * 1024 * 1024;

/// The metadata key of what names a request in the logs and audit events of both ends, a UUID. A
/// peer of ours may name its request by it, and finds it in every answer; SPIRE's programs neither
/// send nor read it.
pub const REQUEST_ID: &str = "x-request-id";
