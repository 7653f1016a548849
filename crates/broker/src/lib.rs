//! The secret broker: a workload proves its identity and gets a short-lived credential that its
//! tenant's policy grants it; the credential ends when the identity does.
//!
//! | module | what |
//! |---|---|
//! | [`policy`] | pure: who may have what, and why not |
//! | [`caller`] | evidence (X.509-SVID, JWT-SVID, WIT-SVID) becomes a caller, or a reason code |
//! | [`bao`] | a bounded client of OpenBao and Vault, and the broker's own session per tenant |
//! | [`journal`], [`lease_store`] | which tokens and leases exist, kept across a crash; no secret |
//! | [`issue`], [`revoke`] | handing out, taking back |
//! | [`identity`] | the broker's own SVIDs and bundles, from the Workload API |
//! | [`watch`] | what the server says: which identities are alive |
//! | [`serve`] | the HTTP interface over mTLS and on a Unix socket |
//! | [`csi`] | the provider of the Secrets Store CSI driver |
//! | [`bootstrap`] | setting up OpenBao for all this |
//! | [`certs`] | OpenBao's certificate authentication, in step with the trust bundle |
//! | [`config`], [`cli`], [`run`] | the program |

pub mod bao;
pub mod bootstrap;
pub mod caller;
pub mod certs;
pub mod cli;
pub mod config;
pub mod csi;
pub mod identity;
pub mod issue;
pub mod journal;
pub mod lease_store;
pub mod metrics;
pub mod policy;
pub mod reason;
mod report;
pub mod revoke;
mod run;
pub mod serve;
pub mod watch;
