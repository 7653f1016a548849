//! What PKCS#11 has in forms of its own.

use signet_pki::{
    KeyAlgorithm, PublicKey, SignatureAlgorithm,
    der::{Writer, tag},
};

/// DER of `ECParameters`: the names of the curves.
pub(crate) const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
pub(crate) const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];

/// An ECDSA signature, r and s one after the other, as DER.
pub(crate) fn ecdsa_signature(raw: &[u8]) -> Option<Vec<u8>> {
    if raw.is_empty() || !raw.len().is_multiple_of(2) {
        return None;
    }
    let (r, s) = raw.split_at_checked(raw.len() / 2)?;
    let mut writer = Writer::with_capacity(raw.len() + 16);
    writer.sequence(|w| {
        w.unsigned(r);
        w.unsigned(s);
    });
    Some(writer.into_bytes())
}

/// `DigestInfo` of RFC 8017, section 9.2: what CKM_RSA_PKCS signs.
pub(crate) fn digest_info(algorithm: SignatureAlgorithm, digest: &[u8]) -> Vec<u8> {
    // 2.16.840.1.101.3.4.2.x
    let last = match algorithm.digest_bits() {
        256 => 1,
        384 => 2,
        _ => 3,
    };
    let mut writer = Writer::with_capacity(digest.len() + 24);
    writer.sequence(|w| {
        w.sequence(|w| {
            w.oid(&[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, last]);
            w.primitive(tag::NULL, &[]);
        });
        w.primitive(tag::OCTET_STRING, digest);
    });
    writer.into_bytes()
}

/// A public key from CKA_EC_PARAMS and CKA_EC_POINT. The point is an OCTET STRING, as the standard
/// says, or bare, as some modules give it.
pub(crate) fn ec_key(params: &[u8], point: &[u8]) -> Option<PublicKey> {
    let (algorithm, size) = match params {
        P256 => (KeyAlgorithm::EcP256, 65),
        P384 => (KeyAlgorithm::EcP384, 97),
        _ => return None,
    };
    let bare = match point {
        [tag::OCTET_STRING, length, bare @ ..]
            if usize::from(*length) == size && bare.len() == size =>
        {
            bare
        }
        bare => bare,
    };
    let [4, coordinates @ ..] = bare else { return None };
    if bare.len() != size {
        return None;
    }
    let (x, y) = coordinates.split_at_checked(coordinates.len() / 2)?;
    PublicKey::from_ec_point(algorithm, x, y).ok()
}

#[cfg(test)]
mod tests {
    use signet_pki::{KeyType, PrivateKey};

    use super::*;

    #[test]
    fn points_are_read_bare_and_wrapped() {
        let key = PrivateKey::generate(KeyType::EcP384).unwrap();
        let spki = key.public_key().spki_der();
        let bare = &spki[spki.len() - 97..];
        assert_eq!(ec_key(P384, bare).as_ref(), Some(key.public_key()));
        let mut wrapped = vec![4, 97];
        wrapped.extend_from_slice(bare);
        assert_eq!(ec_key(P384, &wrapped).as_ref(), Some(key.public_key()));
        for bad in [&bare[1..], &wrapped[..98], &[][..], &[4]] {
            assert_eq!(ec_key(P384, bad), None);
        }
        assert_eq!(ec_key(P256, bare), None);
    }

    #[test]
    fn signatures_become_der_with_short_numbers() {
        let der = ecdsa_signature(&[0, 0x80, 0, 1]).unwrap();
        assert_eq!(der, [0x30, 7, 2, 2, 0, 0x80, 2, 1, 1]);
        assert_eq!(ecdsa_signature(&[]), None);
        assert_eq!(ecdsa_signature(&[1, 2, 3]), None);
        let info = digest_info(SignatureAlgorithm::RsaPkcs1Sha256, &[7; 32]);
        assert_eq!(info[..4], [0x30, 0x31, 0x30, 0x0d]);
        assert_eq!(info.len(), 51);
    }
}
