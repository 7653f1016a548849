//! Digests, fingerprints, and comparison in constant time.

use aws_lc_rs::{constant_time, digest, hmac};

/// SHA-1 over `data`. For key identifiers and SPIRE's fingerprints only, never for signatures.
pub fn sha1(data: &[u8]) -> [u8; 20] {
    copy(&digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, data))
}

/// SHA-256 over `data`.
pub fn sha256(data: &[u8]) -> [u8; 32] {
    copy(&digest::digest(&digest::SHA256, data))
}

/// HMAC with SHA-256.
pub fn hmac_sha256(key: &[u8], data: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data);
    let mut out = [0; 32];
    for (to, from) in out.iter_mut().zip(tag.as_ref()) {
        *to = *from;
    }
    out
}

/// Lower-case hex of SHA-1.
pub fn sha1_hex(data: &[u8]) -> String {
    hex::encode(sha1(data))
}

/// Lower-case hex of SHA-256.
pub fn sha256_hex(data: &[u8]) -> String {
    hex::encode(sha256(data))
}

/// SHA-256 in pieces, for data that is not in memory as a whole.
pub struct Sha256(digest::Context);

impl Sha256 {
    /// Starts.
    #[allow(clippy::new_without_default, reason = "a digest of nothing is never wanted")]
    pub fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    /// Adds a piece.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The digest of all pieces.
    pub fn finish(self) -> [u8; 32] {
        copy(&self.0.finish())
    }
}

impl std::fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sha256(..)")
    }
}

/// Whether two byte strings are equal, in a time that depends on their lengths only.
pub fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

fn copy<const N: usize>(digest: &digest::Digest) -> [u8; N] {
    let mut out = [0; N];
    for (to, from) in out.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_match_published_vectors() {
        assert_eq!(sha1_hex(b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_hex(b"abc"), abc);
        let mut pieces = Sha256::new();
        pieces.update(b"a");
        pieces.update(b"bc");
        assert_eq!(hex::encode(pieces.finish()), abc);
    }

    #[test]
    fn compares_whole_strings() {
        assert!(constant_time_eq(b"abc", b"abc"));
        assert!(!constant_time_eq(b"abc", b"abd") && !constant_time_eq(b"abc", b"ab"));
    }
}
