//! The services of the server's API, one module each.
//!
//! Every method finds its caller, already authorised, in the request's extensions
//! ([`crate::caller::Caller`]), answers with SPIRE's codes and texts, and reports to the call's
//! [`crate::audit::Audit`].

pub mod agent;
pub mod bundle;
pub mod debug;
pub mod entry;
pub mod explain;
pub mod health;
pub mod localauthority;
pub mod logger;
pub mod push;
mod shared;
pub mod svid;
pub mod trustdomain;
