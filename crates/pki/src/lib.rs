//! Keys, CSRs, X.509 and JWT issue and verify, JWKS, TLS, sealing, and the ports that back ends
//! fill (`KeyManager`, `UpstreamAuthority`, `Notifier`, `BundlePublisher`, `CredentialComposer`).
//!
//! The only crate that calls a crypto library. Times are seconds since the Unix epoch given by the
//! caller; everything an outsider sends is bounded before it is parsed.

pub mod composer;
pub mod der;
pub mod digest;
pub mod files;
pub mod jwks;
pub mod jws;
pub mod jwt;
pub mod key;
pub mod key_manager;
pub mod pem;
pub mod pkcs12;
pub mod pop;
pub mod ports;
pub mod published;
pub mod random;
pub mod seal;
pub mod signer;
pub mod text_file;
pub mod tls;
pub mod upstream_ca;
pub mod upstream_disk;
pub mod wit;
pub mod x509;

pub use key::{KeyAlgorithm, KeyError, KeyType, PrivateKey, PublicKey};
pub use key_manager::{DiskKeyManager, KeyManager, KeyManagerError, ManagedKey, MemoryKeyManager};
pub use ports::{BundlePublisher, CredentialComposer, Notifier, UpstreamAuthority};
pub use signer::{LocalSigner, SignError, SignatureAlgorithm, Signer};
