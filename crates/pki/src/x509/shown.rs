//! Texts of foreign certificates, as errors show them.

use super::Certificate;

/// The subject as an error shows it: whoever presents the certificate chooses it.
pub(super) fn subject(certificate: &Certificate) -> String {
    shown(&certificate.subject().to_string())
}

/// A text of a foreign certificate, for an error.
pub(super) fn shown(text: &str) -> String {
    const MAX_SHOWN: usize = 200;
    text.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect()
}
