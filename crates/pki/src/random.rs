//! Randomness from the operating system, by way of the crypto library.

use zeroize::Zeroizing;

/// The random generator failed: nothing that needs it may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the random generator failed")]
pub struct RandomError;

/// Fills `out`.
///
/// # Errors
/// [`RandomError`] when the crypto library's generator fails.
pub fn fill(out: &mut [u8]) -> Result<(), RandomError> {
    aws_lc_rs::rand::fill(out).map_err(|_| RandomError)
}

/// `N` random bytes.
///
/// # Errors
/// As [`fill`].
pub fn bytes<const N: usize>() -> Result<[u8; N], RandomError> {
    let mut out = [0; N];
    fill(&mut out)?;
    Ok(out)
}

/// A key ID as SPIRE makes them: 32 characters of `[a-zA-Z0-9]`.
///
/// # Errors
/// As [`fill`].
pub fn key_id() -> Result<String, RandomError> {
    const ALPHABET: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    let mut id = String::with_capacity(32);
    while id.len() < 32 {
        for byte in bytes::<48>()? {
            // Bytes from 248 on would favour the first characters: drawn again.
            if byte < 248 && id.len() < 32 {
                id.extend(ALPHABET.get(usize::from(byte % 62)).map(|&c| char::from(c)));
            }
        }
    }
    Ok(id)
}

/// A random UUID (version 4) in its usual text form.
///
/// # Errors
/// As [`fill`].
pub fn uuid_v4() -> Result<String, RandomError> {
    let raw = uuid_v4_bytes()?;
    let text = hex::encode(raw);
    let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)];
    Ok(parts.map(|(from, to)| text.get(from..to).unwrap_or_default()).join("-"))
}

/// The 16 bytes of a random UUID (version 4).
///
/// # Errors
/// As [`fill`].
pub fn uuid_v4_bytes() -> Result<[u8; 16], RandomError> {
    let mut raw = bytes::<16>()?;
    raw[6] = (raw[6] & 0x0f) | 0x40;
    raw[8] = (raw[8] & 0x3f) | 0x80;
    Ok(raw)
}

/// 32 random bytes for a key, wiped when dropped.
///
/// # Errors
/// As [`fill`].
pub fn secret_32() -> Result<Zeroizing<[u8; 32]>, RandomError> {
    let mut out = Zeroizing::new([0; 32]);
    fill(out.as_mut_slice())?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_ids_have_the_form_of_spire() {
        let id = key_id().unwrap();
        assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_alphanumeric()), "{id}");
        assert_ne!(id, key_id().unwrap());
    }

    #[test]
    fn uuids_are_version_4() {
        let id = uuid_v4().unwrap();
        assert_eq!(id.len(), 36);
        assert_eq!(&id[14..15], "4");
        assert!("89ab".contains(&id[19..20]));
    }
}
