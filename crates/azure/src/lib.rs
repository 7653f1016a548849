//! A client of Microsoft Azure, and what a server keeps there.
//!
//! [`Azure`] sends requests with access tokens of [`Credentials`]: an application's secret, workload
//! identity, or the managed identity of the machine. Every request has a deadline, every answer a
//! largest size, and one token is asked for at a time.

mod blob;
mod client;
mod credentials;
mod vault;

pub use blob::{Blob, BlobAccess, BlobSettings};
pub use client::Azure;
pub use credentials::{AUTHORITY, Credentials};
pub use vault::{KeyVault, VaultSettings};
