//! Path validation outside SPIFFE: what `x509pop` needs for certificates of any PKI.

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, anchor_from_trusted_cert};

use super::verify::AnyUsage;

/// Why no path was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// A certificate of the chain cannot be used.
    #[error("{0}")]
    Refused(webpki::Error),
    /// A trusted root cannot be used.
    #[error("trusted certificate {0} (counted from 0) cannot be used: {1}")]
    Root(usize, webpki::Error),
}

/// Verifies a path from `leaf` over `intermediates` to one of `roots` (all DER) at `now` (Unix
/// seconds), whatever the leaf's extended key usage, and returns it: leaf first, root last.
///
/// # Errors
/// [`PathError`] when there is no valid path.
pub fn verify_path(
    leaf: &[u8],
    intermediates: &[&[u8]],
    roots: &[Vec<u8>],
    now: i64,
) -> Result<Vec<Vec<u8>>, PathError> {
    let root_certs: Vec<CertificateDer<'_>> =
        roots.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let mut anchors = Vec::with_capacity(roots.len());
    for (at, root) in root_certs.iter().enumerate() {
        anchors.push(anchor_from_trusted_cert(root).map_err(|e| PathError::Root(at, e))?);
    }
    let leaf_der = CertificateDer::from(leaf);
    let leaf_cert = EndEntityCert::try_from(&leaf_der).map_err(PathError::Refused)?;
    let intermediates: Vec<CertificateDer<'_>> =
        intermediates.iter().map(|der| CertificateDer::from(*der)).collect();
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.max(0) as u64));
    let path = leaf_cert
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &intermediates,
            now,
            AnyUsage,
            None,
            None,
        )
        .map_err(PathError::Refused)?;
    let mut chain = vec![leaf.to_vec()];
    chain.extend(path.intermediate_certificates().map(|cert| cert.der().to_vec()));
    let root = anchors.iter().position(|anchor| std::ptr::eq(anchor, path.anchor()));
    chain.extend(root.and_then(|at| roots.get(at)).cloned());
    Ok(chain)
}
