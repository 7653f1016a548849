//! The key manager `pkcs11`: keys in a hardware security module, a TPM or anything else with a
//! PKCS#11 module.
//!
//! A module is a foreign library that blocks, and may block for ever: it is called on a fixed
//! number of threads, each with a session of its own, and whoever waits has a deadline. A session
//! that broke (the token was taken out, its daemon was restarted) is opened and logged in anew.

mod der;
mod error;
mod pool;
mod session;
mod settings;
mod store;

pub use error::TokenError;
pub use settings::{Pin, Settings, TokenName};
pub use store::TokenKeys;
