//! X.509: CSRs, SVIDs and CA certificates, verification to a trust bundle.

mod cert;
mod challenge;
mod constraints;
mod csr;
mod error;
mod extension;
mod issue;
mod limits;
mod name;
pub mod path;
mod serial;
mod shown;
mod verify;
mod write;

pub use cert::{Certificate, parse_chain, split_der_chain};
pub use challenge::challenge_certificate;
pub use csr::{Csr, CsrError, CsrParams, MAX_CSR_LEN, create_csr, create_csr_with};
pub use error::{CertError, MAX_AUTHORITIES, MAX_CERT_LEN, MAX_CHAIN};
pub use extension::Extension;
pub use issue::{
    Ca, CaIssuer, CaParams, IssueError, Issued, NOT_BEFORE_CUSHION, SvidParams,
    UnsignedCertificate, self_sign_ca, self_signed_ca,
};
pub use name::{Name, Oid};
pub use serial::Serial;
pub use verify::{TrustBundle, VerifiedSvid, VerifyError, verify_ca, verify_svid};
pub(crate) use verify::{check_leaf, verify_leaf};
