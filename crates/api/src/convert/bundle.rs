//! Trust bundles.

use std::sync::Arc;

use bytes::Bytes;
use signet_identity::{Bundle, JwtAuthority, X509Authority};
use signet_time::UnixTime;

use super::{ConvertError, trust_domain_from_pb};
use crate::pb::spire::api::types;

/// A bundle as a message, with the fields of `mask` (`None` for all); the trust domain is always
/// there.
pub fn bundle_to_pb(bundle: &Bundle, mask: Option<&types::BundleMask>) -> types::Bundle {
    let mask = mask.copied().unwrap_or_else(bundle_mask_all);
    let mut out = types::Bundle {
        trust_domain: bundle.trust_domain.as_str().to_owned(),
        ..Default::default()
    };
    if mask.x509_authorities {
        out.x509_authorities = bundle.x509_authorities.iter().map(x509_authority_to_pb).collect();
    }
    if mask.jwt_authorities {
        out.jwt_authorities = bundle.jwt_authorities.iter().map(jwt_authority_to_pb).collect();
    }
    if mask.refresh_hint {
        out.refresh_hint = bundle.refresh_hint;
    }
    if mask.sequence_number {
        out.sequence_number = bundle.sequence_number;
    }
    if mask.wit_authorities {
        out.wit_authorities = bundle.wit_authorities.iter().map(wit_authority_to_pb).collect();
    }
    out
}

/// Reads a bundle with everything in it. Certificates that came several to a field are taken
/// apart. Whether certificates and keys are well-formed inside is for `signet_pki` to tell.
///
/// # Errors
/// [`ConvertError`] when the trust domain is not one, bytes are not DER, or a key has no ID.
pub fn bundle_from_pb(bundle: &types::Bundle) -> Result<Bundle, ConvertError> {
    let trust_domain = trust_domain_from_pb(&bundle.trust_domain)
        .map_err(|error| error.within("invalid trust domain"))?;
    let jwt_authorities = bundle
        .jwt_authorities
        .iter()
        .map(jwt_authority_from_pb)
        .collect::<Result<_, _>>()
        .map_err(|error| error.within("unable to parse JWT authority"))?;
    let wit_authorities = bundle
        .wit_authorities
        .iter()
        .map(wit_authority_from_pb)
        .collect::<Result<_, _>>()
        .map_err(|error| error.within("unable to parse WIT authority"))?;
    Ok(Bundle {
        trust_domain,
        x509_authorities: x509_authorities_from_pb(&bundle.x509_authorities)
            .map_err(|error| error.within("unable to parse X.509 authority"))?,
        jwt_authorities,
        wit_authorities,
        refresh_hint: bundle.refresh_hint,
        sequence_number: bundle.sequence_number,
    })
}

/// Reads X.509 authorities, taking apart certificates that came several to a field.
///
/// # Errors
/// [`ConvertError::Der`] when bytes are not DER values in a row.
pub fn x509_authorities_from_pb(
    certificates: &[types::X509Certificate],
) -> Result<Vec<X509Authority>, ConvertError> {
    let mut out = Vec::with_capacity(certificates.len());
    for certificate in certificates {
        for der in split_der(&certificate.asn1)? {
            out.push(X509Authority { der: Arc::from(der), tainted: certificate.tainted });
        }
    }
    Ok(out)
}

/// An X.509 authority as a message.
pub fn x509_authority_to_pb(authority: &X509Authority) -> types::X509Certificate {
    types::X509Certificate {
        asn1: Bytes::copy_from_slice(&authority.der),
        tainted: authority.tainted,
    }
}

/// A JWT authority as a message.
pub fn jwt_authority_to_pb(authority: &JwtAuthority) -> types::JwtKey {
    types::JwtKey {
        public_key: Bytes::copy_from_slice(&authority.public_key),
        key_id: authority.key_id.to_string(),
        expires_at: authority.expires_at.seconds(),
        tainted: authority.tainted,
    }
}

/// Reads a JWT authority.
///
/// # Errors
/// [`ConvertError::Missing`] when the key or its ID is absent.
pub fn jwt_authority_from_pb(key: &types::JwtKey) -> Result<JwtAuthority, ConvertError> {
    authority(&key.public_key, &key.key_id, UnixTime::from_seconds(key.expires_at), key.tainted)
}

/// A WIT authority as a message.
pub fn wit_authority_to_pb(authority: &JwtAuthority) -> types::WitKey {
    types::WitKey {
        public_key: Bytes::copy_from_slice(&authority.public_key),
        key_id: authority.key_id.to_string(),
        expires_at: authority.expires_at.seconds(),
        tainted: authority.tainted,
    }
}

/// Reads a WIT authority.
///
/// # Errors
/// [`ConvertError::Missing`] when the key or its ID is absent.
pub fn wit_authority_from_pb(key: &types::WitKey) -> Result<JwtAuthority, ConvertError> {
    authority(&key.public_key, &key.key_id, UnixTime::from_seconds(key.expires_at), key.tainted)
}

/// The mask that selects every field.
pub fn bundle_mask_all() -> types::BundleMask {
    types::BundleMask {
        x509_authorities: true,
        jwt_authorities: true,
        refresh_hint: true,
        sequence_number: true,
        wit_authorities: true,
    }
}

/// Cuts DER SEQUENCEs in a row (certificates, say) apart by their outer lengths.
///
/// # Errors
/// [`ConvertError::Der`] when there is none, or a length does not fit.
pub fn split_der(mut bytes: &[u8]) -> Result<Vec<&[u8]>, ConvertError> {
    let mut out = Vec::new();
    while !bytes.is_empty() || out.is_empty() {
        let len = der_len(bytes).ok_or(ConvertError::Der)?;
        let (one, rest) = bytes.split_at_checked(len).ok_or(ConvertError::Der)?;
        out.push(one);
        bytes = rest;
    }
    Ok(out)
}

/// The length of the DER SEQUENCE that `bytes` starts with, header included.
fn der_len(bytes: &[u8]) -> Option<usize> {
    let (&tag, &first) = (bytes.first()?, bytes.get(1)?);
    if tag != 0x30 {
        return None;
    }
    if first < 0x80 {
        return Some(2 + usize::from(first));
    }
    let count = usize::from(first & 0x7f);
    if !(1..=4).contains(&count) {
        return None;
    }
    let len = bytes.get(2..2 + count)?.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
    len.checked_add(2 + count)
}

fn authority(
    public_key: &[u8],
    key_id: &str,
    expires_at: UnixTime,
    tainted: bool,
) -> Result<JwtAuthority, ConvertError> {
    if public_key.is_empty() {
        return Err(ConvertError::Missing("missing public key"));
    }
    if key_id.is_empty() {
        return Err(ConvertError::Missing("missing key ID"));
    }
    Ok(JwtAuthority { public_key: public_key.into(), key_id: key_id.into(), expires_at, tainted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn der_in_a_row_is_cut_and_broken_der_is_refused() {
        let long = [&[0x30, 0x81, 0x80][..], &[0; 0x80]].concat();
        let row = [&[0x30, 1, 7][..], &long, &[0x30, 0]].concat();
        let parts = split_der(&row).unwrap();
        assert_eq!(parts, [&[0x30, 1, 7][..], &long, &[0x30, 0]]);
        for bad in [&b""[..], b"x", b"\x30", b"\x30\x05a", b"\x30\x80", b"\x30\x00z"] {
            assert_eq!(split_der(bad), Err(ConvertError::Der), "{bad:?}");
        }
    }

    #[test]
    fn bundles_round_trip_and_masks_leave_out() {
        let key = JwtAuthority {
            public_key: Arc::from(*b"key"),
            key_id: "kid".into(),
            expires_at: UnixTime::from_seconds(9),
            tainted: true,
        };
        let bundle = Bundle {
            trust_domain: "td".parse().unwrap(),
            x509_authorities: vec![X509Authority { der: Arc::from([0x30, 1, 7]), tainted: true }],
            jwt_authorities: vec![key.clone()],
            wit_authorities: vec![key],
            refresh_hint: 5,
            sequence_number: 6,
        };
        assert_eq!(bundle_from_pb(&bundle_to_pb(&bundle, None)).unwrap(), bundle);
        let mask = types::BundleMask { refresh_hint: true, ..Default::default() };
        let masked = bundle_to_pb(&bundle, Some(&mask));
        assert_eq!((masked.trust_domain.as_str(), masked.refresh_hint), ("td", 5));
        assert!(masked.x509_authorities.is_empty() && masked.jwt_authorities.is_empty());
    }
}
