//! X.509: CSRs, SVIDs and CA certificates, verification to a trust bundle.

mod cert;
mod csr;
mod issue;
mod name;
pub mod path;
mod verify;

pub use cert::{CertError, Certificate, MAX_CERT_LEN, parse_chain, split_der_chain};
pub use csr::{Csr, CsrError, CsrParams, MAX_CSR_LEN, create_csr};
pub use issue::{
    CaIssuer, CaParams, Extension, IssueError, Issued, NOT_BEFORE_CUSHION, Serial, SvidParams,
    self_sign_ca,
};
pub use name::{Name, Oid};
pub use verify::{TrustBundle, VerifiedSvid, VerifyError, verify_svid};
