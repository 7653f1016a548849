//! A client of Google Cloud, and what a server keeps there.
//!
//! [`Gcp`] sends requests with access tokens of [`Credentials`]: a service account's key, the
//! account of the machine, or a token of another provider (workload identity federation). Every
//! request has a deadline, every answer a largest size, and one token is asked for at a time.

mod cas;
mod client;
mod credentials;
mod federation;
mod kms;
mod storage;
mod token;

pub use cas::{Cas, CasSettings};
pub use client::Gcp;
pub use credentials::Credentials;
pub use kms::{CloudKms, KmsSettings, POLICY_VERSION, read_policy};
pub use storage::{CloudStorage, StorageSettings};
