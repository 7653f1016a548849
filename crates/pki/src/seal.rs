//! Sealing of files: AES-256-GCM under a key from a key file or a passphrase.
//!
//! A sealed blob is `"SGNS"`, format version (1 byte, now 1), key source (1 byte: 1 key file,
//! 2 passphrase), for a passphrase a 16-byte salt and the iteration count (4 bytes big endian),
//! then a random 96-bit nonce, then ciphertext and 16-byte tag. The header up to the nonce is
//! authenticated together with the caller's context, so a blob opens only for what it was made.

use std::{
    num::NonZeroU32,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    pbkdf2,
};
use zeroize::Zeroizing;

use crate::{files, random};

/// Iterations of PBKDF2-HMAC-SHA256 for new blobs.
pub const PBKDF2_ITERATIONS: u32 = 600_000;

/// The most iterations that opening is willing to spend.
const MAX_ITERATIONS: u32 = 10_000_000;
const MAGIC: &[u8; 5] = b"SGNS\x01";
const NONCE_LEN: usize = 12;
const SALT_LEN: usize = 16;

/// What a blob is sealed with.
#[derive(Clone)]
pub struct SealKey(Source);

#[derive(Clone)]
enum Source {
    Key(Zeroizing<[u8; 32]>),
    Passphrase(Arc<Passphrase>),
}

struct Passphrase {
    text: Zeroizing<Vec<u8>>,
    /// The last key derived, so that a file that is written often is stretched once.
    derived: Mutex<Option<Derived>>,
}

#[derive(Clone)]
struct Derived {
    salt: [u8; SALT_LEN],
    iterations: u32,
    key: Zeroizing<[u8; 32]>,
}

/// Why sealing or opening failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The key file could not be used.
    #[error(transparent)]
    File(#[from] crate::files::FileError),
    /// The key file does not hold exactly 32 bytes.
    #[error("key file {path} holds {len} bytes, expected exactly 32")]
    KeyFileLength {
        /// The file.
        path: std::path::PathBuf,
        /// How many it holds.
        len: usize,
    },
    /// The key file is not there.
    #[error("key file {path} does not exist")]
    KeyFileMissing {
        /// The file.
        path: std::path::PathBuf,
    },
    /// Not a sealed blob, or of a later format.
    #[error("not a sealed file of a known format")]
    Malformed,
    /// A passphrase without bytes.
    #[error("the passphrase is empty")]
    EmptyPassphrase,
    /// Wrong key, changed bytes, or sealed for another purpose: these cannot be told apart.
    #[error("wrong key or passphrase, or the file was changed")]
    Open,
    /// Sealed with a key file and opened with a passphrase, or the other way round.
    #[error("sealed with a {sealed_with}, not with a {given}")]
    OtherSource {
        /// How it was sealed.
        sealed_with: &'static str,
        /// What was given.
        given: &'static str,
    },
    /// No randomness.
    #[error(transparent)]
    Random(#[from] crate::random::RandomError),
    /// The crypto library failed.
    #[error("sealing failed")]
    Seal,
}

impl SealKey {
    /// A key of 32 bytes, already random.
    pub fn from_bytes(key: Zeroizing<[u8; 32]>) -> Self {
        Self(Source::Key(key))
    }

    /// Reads a key file of exactly 32 bytes, mode 0600 or stricter.
    ///
    /// # Errors
    /// [`SealError`] when it is absent, accessible by others, or of another length.
    pub fn from_file(path: &Path) -> Result<Self, SealError> {
        let missing = || SealError::KeyFileMissing { path: path.to_owned() };
        let bytes = files::read_secret(path, 4096)?.ok_or_else(missing)?;
        let key: [u8; 32] = bytes
            .as_slice()
            .try_into()
            .map_err(|_| SealError::KeyFileLength { path: path.to_owned(), len: bytes.len() })?;
        Ok(Self::from_bytes(Zeroizing::new(key)))
    }

    /// Reads the key file, or makes one of 32 random bytes (0600) where there is none.
    ///
    /// # Errors
    /// As [`SealKey::from_file`], and when it cannot be written.
    pub fn from_file_or_create(path: &Path) -> Result<Self, SealError> {
        match Self::from_file(path) {
            Err(SealError::KeyFileMissing { .. }) => {
                let key = random::secret_32()?;
                files::write_atomic(path, key.as_slice(), 0o600)?;
                Ok(Self::from_bytes(key))
            }
            other => other,
        }
    }

    /// A passphrase, stretched with PBKDF2-HMAC-SHA256 (600,000 iterations) under a salt of its
    /// own in each blob.
    ///
    /// # Errors
    /// [`SealError::EmptyPassphrase`].
    pub fn from_passphrase(passphrase: Zeroizing<Vec<u8>>) -> Result<Self, SealError> {
        if passphrase.is_empty() {
            return Err(SealError::EmptyPassphrase);
        }
        let derived = Mutex::default();
        Ok(Self(Source::Passphrase(Arc::new(Passphrase { text: passphrase, derived }))))
    }

    /// Seals `plain` for `context` (what it is and whom it belongs to).
    ///
    /// # Errors
    /// [`SealError`] when the crypto library fails.
    pub fn seal(&self, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut blob = MAGIC.to_vec();
        let key = match &self.0 {
            Source::Key(key) => {
                blob.push(1);
                key.clone()
            }
            Source::Passphrase(passphrase) => {
                let derived = passphrase.for_sealing()?;
                blob.push(2);
                blob.extend_from_slice(&derived.salt);
                blob.extend_from_slice(&derived.iterations.to_be_bytes());
                derived.key
            }
        };
        let aad = associated_data(&blob, context);
        let nonce = random::bytes::<NONCE_LEN>()?;
        let mut text = Zeroizing::new(plain.to_vec());
        let tag = cipher(&key)?
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad),
                &mut text,
            )
            .map_err(|_| SealError::Seal)?;
        blob.extend_from_slice(&nonce);
        blob.extend_from_slice(&text);
        blob.extend_from_slice(tag.as_ref());
        Ok(blob)
    }

    /// Opens a blob that was sealed for the same `context`.
    ///
    /// # Errors
    /// [`SealError`]; nothing of the content is revealed.
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let rest = sealed.strip_prefix(MAGIC).ok_or(SealError::Malformed)?;
        let (&source, rest) = rest.split_first().ok_or(SealError::Malformed)?;
        let other = |sealed_with, given| Err(SealError::OtherSource { sealed_with, given });
        let (key, rest) = match (source, &self.0) {
            (1, Source::Key(key)) => (key.clone(), rest),
            (2, Source::Passphrase(passphrase)) => {
                let (salt, rest) = rest.split_first_chunk().ok_or(SealError::Malformed)?;
                let (iterations, rest) = rest.split_first_chunk().ok_or(SealError::Malformed)?;
                let iterations = u32::from_be_bytes(*iterations);
                (passphrase.derive(*salt, iterations)?.key, rest)
            }
            (1, Source::Passphrase(_)) => return other("key file", "passphrase"),
            (2, Source::Key(_)) => return other("passphrase", "key file"),
            _ => return Err(SealError::Malformed),
        };
        let header = sealed.get(..sealed.len() - rest.len()).ok_or(SealError::Malformed)?;
        let (nonce, text) = rest.split_first_chunk().ok_or(SealError::Malformed)?;
        let mut text = Zeroizing::new(text.to_vec());
        let plain_len = cipher(&key)?
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(associated_data(header, context)),
                &mut text,
            )
            .map(|plain| plain.len())
            .map_err(|_| SealError::Open)?;
        text.truncate(plain_len);
        Ok(text)
    }
}

impl Passphrase {
    fn for_sealing(&self) -> Result<Derived, SealError> {
        let last = self.derived.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match last {
            Some(derived) if derived.iterations >= PBKDF2_ITERATIONS => Ok(derived),
            _ => self.derive(random::bytes()?, PBKDF2_ITERATIONS),
        }
    }

    fn derive(&self, salt: [u8; SALT_LEN], iterations: u32) -> Result<Derived, SealError> {
        let count = NonZeroU32::new(iterations).filter(|n| n.get() <= MAX_ITERATIONS);
        let count = count.ok_or(SealError::Malformed)?;
        let mut last = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*last
            && (known.salt, known.iterations) == (salt, iterations)
        {
            return Ok(known.clone());
        }
        let mut key = Zeroizing::new([0; 32]);
        let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
        pbkdf2::derive(algorithm, count, &salt, &self.text, key.as_mut_slice());
        let derived = Derived { salt, iterations, key };
        *last = Some(derived.clone());
        Ok(derived)
    }
}

fn cipher(key: &[u8; 32]) -> Result<LessSafeKey, SealError> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| SealError::Seal)
}

/// Header and context, each with its length, so that neither can pass for part of the other.
fn associated_data(header: &[u8], context: &[u8]) -> Vec<u8> {
    let mut aad = Vec::with_capacity(header.len() + context.len() + 16);
    for part in [header, context] {
        aad.extend_from_slice(&(part.len() as u64).to_be_bytes());
        aad.extend_from_slice(part);
    }
    aad
}

/// Whether the bytes start as a sealed blob does.
pub fn is_sealed(bytes: &[u8]) -> bool {
    bytes.starts_with(b"SGNS")
}

impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SealKey {
        SealKey::from_bytes(Zeroizing::new([byte; 32]))
    }

    fn passphrase(text: &str) -> SealKey {
        SealKey::from_passphrase(Zeroizing::new(text.as_bytes().to_vec())).unwrap()
    }

    #[test]
    fn opens_with_the_same_key_and_context_only() {
        for plain in [&b""[..], b"secret", &[7; 5000]] {
            let blob = key(1).seal(b"ctx", plain).unwrap();
            assert!(is_sealed(&blob));
            assert_eq!(*key(1).open(b"ctx", &blob).unwrap(), plain);
            assert!(matches!(key(2).open(b"ctx", &blob), Err(SealError::Open)));
            assert!(matches!(key(1).open(b"ctX", &blob), Err(SealError::Open)));
            assert_ne!(key(1).seal(b"ctx", plain).unwrap(), blob, "nonces are fresh");
        }
    }

    #[test]
    fn every_changed_or_missing_byte_is_noticed() {
        let blob = key(1).seal(b"ctx", b"secret").unwrap();
        for at in 0..blob.len() {
            let mut bad = blob.clone();
            bad[at] ^= 1;
            assert!(key(1).open(b"ctx", &bad).is_err(), "{at}");
            assert!(key(1).open(b"ctx", &blob[..at]).is_err(), "{at}");
        }
    }

    #[test]
    fn a_passphrase_opens_in_another_process_and_is_told_from_a_key_file() {
        let sealing = passphrase("correct horse");
        let blob = sealing.seal(b"ctx", b"secret").unwrap();
        let again = sealing.seal(b"ctx", b"other").unwrap();
        assert_eq!(*passphrase("correct horse").open(b"ctx", &blob).unwrap(), b"secret");
        assert_eq!(*sealing.open(b"ctx", &again).unwrap(), b"other");
        assert!(matches!(passphrase("wrong").open(b"ctx", &blob), Err(SealError::Open)));
        assert!(matches!(key(1).open(b"ctx", &blob), Err(SealError::OtherSource { .. })));
        let by_file = key(1).seal(b"ctx", b"secret").unwrap();
        let error = sealing.open(b"ctx", &by_file).unwrap_err();
        assert!(matches!(error, SealError::OtherSource { .. }));
        let mut endless = blob;
        endless[22..26].fill(0xff);
        assert!(matches!(sealing.open(b"ctx", &endless), Err(SealError::Malformed)));
        assert!(SealKey::from_passphrase(Zeroizing::default()).is_err());
    }

    #[test]
    fn key_files_are_made_once_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert!(matches!(SealKey::from_file(&path), Err(SealError::KeyFileMissing { .. })));
        let made = SealKey::from_file_or_create(&path).unwrap();
        let blob = made.seal(b"", b"x").unwrap();
        assert_eq!(*SealKey::from_file_or_create(&path).unwrap().open(b"", &blob).unwrap(), b"x");
        files::write_atomic(&path, &[1; 31], 0o600).unwrap();
        let error = SealKey::from_file(&path).unwrap_err().to_string();
        assert!(error.contains("31 bytes"), "{error}");
        files::write_atomic(&path, &[1; 32], 0o644).unwrap();
        assert!(matches!(SealKey::from_file(&path), Err(SealError::File(_))));
    }
}
