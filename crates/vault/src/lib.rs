//! A client of HashiCorp Vault and OpenBao, and what a server keeps there.
//!
//! [`Client`] logs in by token, AppRole, client certificate, Kubernetes service account or JWT,
//! keeps its token alive, and takes up certificates and tokens that are replaced in their files.
//! Every request has a deadline, every answer a largest size, and no more than one login is under
//! way at a time.

mod answer;
mod auth;
mod client;
mod error;
mod request;
mod session;
mod settings;
mod transit;
mod transport;
mod upstream;

pub use answer::{Answer, Health, Lease, NewToken};
pub use auth::{Auth, JwtSource};
pub use client::Client;
pub use error::VaultError;
pub use request::{Request, path};
pub use settings::{DEFAULT_TIMEOUT, Settings};
pub use transit::Transit;
pub use upstream::Pki;
