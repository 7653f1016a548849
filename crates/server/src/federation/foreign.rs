//! Bundles from outside: what they may hold, and what of it counts here.

use signet_base::chain;
use signet_identity::{Bundle, JwtAuthority};
use signet_pki::{
    PublicKey,
    jwks::{MAX_KEY_ID_LEN, MAX_KEYS},
    x509::{Certificate, MAX_AUTHORITIES},
};

/// Checks a bundle from outside, and takes what a foreign bundle may say. Taints are not taken over,
/// as in SPIRE: only the trust domain's own server says what is tainted.
///
/// # Errors
/// What is wrong, in one line.
pub(crate) fn accept(mut bundle: Bundle) -> Result<Bundle, String> {
    check_authorities(&bundle)?;
    untaint(&mut bundle);
    Ok(bundle)
}

/// Checks that the authorities of a bundle from outside are certificates and keys, and not too
/// many. Keys of kinds that verify nothing here are stored and passed on, as SPIRE does.
///
/// # Errors
/// What is wrong, in one line.
pub(crate) fn check_authorities(bundle: &Bundle) -> Result<(), String> {
    if bundle.x509_authorities.len() > MAX_AUTHORITIES
        || bundle.jwt_authorities.len() + bundle.wit_authorities.len() > MAX_KEYS
    {
        return Err(format!(
            "more than {MAX_AUTHORITIES} X.509 authorities or {MAX_KEYS} JWT authorities"
        ));
    }
    let keys = [(&bundle.jwt_authorities, "JWT"), (&bundle.wit_authorities, "WIT")];
    for (authorities, kind) in keys {
        authorities.iter().try_for_each(|authority| check_key(authority, kind))?;
    }
    for authority in &bundle.x509_authorities {
        Certificate::from_der(&authority.der)
            .map_err(|error| format!("unable to parse X.509 authority: {}", chain(&error)))?;
    }
    Ok(())
}

/// Checks a JWT or WIT authority from outside.
///
/// # Errors
/// What is wrong, in one line.
pub(crate) fn check_key(key: &JwtAuthority, kind: &str) -> Result<(), String> {
    if key.key_id.len() > MAX_KEY_ID_LEN {
        return Err(format!("a {kind} authority's key ID is longer than {MAX_KEY_ID_LEN} bytes"));
    }
    PublicKey::check_spki(&key.public_key)
        .map_err(|error| format!("unable to parse {kind} authority: {}", chain(&error)))
}

/// Takes the taints away.
pub(crate) fn untaint(bundle: &mut Bundle) {
    bundle.x509_authorities.iter_mut().for_each(|authority| authority.tainted = false);
    let keys = bundle.jwt_authorities.iter_mut().chain(&mut bundle.wit_authorities);
    keys.for_each(|authority| authority.tainted = false);
}
