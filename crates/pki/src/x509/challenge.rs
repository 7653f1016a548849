//! The certificate that answers an ACME challenge of the kind `tls-alpn-01` (RFC 8737).

use std::borrow::Cow;

use signet_time::UnixTime;

use super::{
    Extension, IssueError, Issued, NOT_BEFORE_CUSHION, Name, Oid, Serial,
    issue::{Tbs, signature_algorithm, svid_usage},
};
use crate::{
    Signer,
    der::{Writer, oid, tag},
};

/// For how long it is valid, seconds: an authority that takes longer to look has given up.
const LIFETIME: i64 = 3600;

/// A self-signed certificate for `domain` that shows `digest`, the SHA-256 of the challenge's key
/// authorization (RFC 8737, section 3). `signer` has a key for this one certificate.
///
/// # Errors
/// [`IssueError`] when there is no randomness or the key does not sign.
pub fn challenge_certificate(
    domain: &str,
    digest: &[u8; 32],
    signer: &dyn Signer,
    now: UnixTime,
) -> Result<Issued, IssueError> {
    let mut value = Writer::default();
    value.primitive(tag::OCTET_STRING, digest);
    let shown = Extension {
        oid: Oid::from_content(oid::ACME_IDENTIFIER),
        critical: true,
        value: value.into_bytes(),
    };
    let name = Name { common_name: "ACME challenge".to_owned(), ..Name::default() }.to_der();
    let key = signer.public_key();
    let tbs = Tbs {
        subject: &name,
        key,
        not_before: now - NOT_BEFORE_CUSHION,
        not_after: now + LIFETIME,
        usage: &svid_usage(),
        authority_key_id: &[],
        dns_names: &[domain.to_owned()],
        uri: None,
        extensions: &[shown],
    };
    let algorithm = Cow::Owned(signature_algorithm(key.algorithm()));
    tbs.encode(Serial::random()?, &name, algorithm)?.sign(signer)
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;
    use crate::{KeyType, PrivateKey, x509::Certificate};

    #[test]
    fn a_challenge_certificate_names_the_domain_alone_and_shows_the_digest() {
        let signer = PrivateKey::generate(KeyType::EcP256).unwrap().signer().unwrap();
        let now = UnixTime::from_seconds(1_767_225_600);
        let issued = challenge_certificate("web.test", &[7; 32], &*signer, now).unwrap();
        let read = Certificate::from_der(&issued.der).unwrap();
        assert_eq!((read.dns_names(), read.uris()), (&["web.test".to_owned()][..], &[][..]));
        assert!(read.is_self_signed() && !read.is_ca());
        assert!(read.is_signed_by(signer.public_key()));

        let (_, parsed) = X509Certificate::from_der(&issued.der).unwrap();
        let shown = parsed.iter_extensions().find(|e| e.oid.to_id_string() == "1.3.6.1.5.5.7.1.31");
        let shown = shown.expect("the extension");
        assert!(shown.critical);
        assert_eq!(shown.value, [&[4, 32][..], &[7; 32]].concat());
    }
}
