//! A client of Amazon Web Services, and what a server keeps there.
//!
//! Requests are signed in one place (Signature Version 4), with credentials that are found as
//! AWS's SDKs find them ([`Credentials`]). Every request has a deadline, every answer a largest
//! size, and only what may be repeated is.

mod client;
mod credentials;
mod endpoint;
mod environment;
mod error;
mod kms;
mod pca;
mod roles_anywhere;
mod s3;
mod secret_authority;
mod secrets;
mod sign;

pub use client::Client;
pub use credentials::{Access, CallerIdentity, Credentials, Keys, Place};
pub use endpoint::Service;
pub use environment::Environment;
pub use error::AwsError;
pub use kms::{Kms, KmsSettings};
pub use pca::{Pca, PcaSettings};
pub use roles_anywhere::RolesAnywhere;
pub use s3::{S3, S3Settings};
pub use secret_authority::{SecretAuthority, SecretSettings};
