//! What CSRs and certificates have in common, as DER.

use crate::{
    KeyAlgorithm,
    der::{Writer, oid, tag},
};

/// DNS names first, then the URI.
pub(super) fn write_subject_alt_name(
    w: &mut Writer,
    critical: bool,
    dns_names: &[String],
    uri: Option<&str>,
) {
    w.extension(oid::SUBJECT_ALT_NAME, critical, |w| {
        w.sequence(|w| {
            for name in dns_names {
                w.primitive(tag::context(2), name.as_bytes());
            }
            if let Some(uri) = uri {
                w.primitive(tag::context(6), uri.as_bytes());
            }
        });
    });
}

/// The AlgorithmIdentifier of what a key of this kind signs certificates with.
pub(super) fn write_signature_algorithm(w: &mut Writer, key: KeyAlgorithm) {
    w.sequence(|w| match key {
        KeyAlgorithm::EcP256 => w.oid(oid::ECDSA_SHA256),
        KeyAlgorithm::EcP384 => w.oid(oid::ECDSA_SHA384),
        KeyAlgorithm::EcP521 => w.oid(oid::ECDSA_SHA512),
        KeyAlgorithm::Rsa { .. } => {
            w.oid(oid::RSA_SHA256);
            w.primitive(tag::NULL, &[]);
        }
    });
}
