//! Sealing of files: AES-256-GCM under a key from a key file or a passphrase.
//!
//! A sealed blob is `"SGNS"`, format version (1 byte, now 1), key source (1 byte: 1 key file,
//! 2 passphrase), for a passphrase a 16-byte salt and the iteration count (4 bytes big endian),
//! then a random 96-bit nonce, then ciphertext and 16-byte tag. The header up to the nonce is
//! authenticated together with the caller's context, so a blob opens only for what it was made.

use std::path::Path;

use zeroize::Zeroizing;

/// What a blob is sealed with.
#[derive(Clone)]
pub struct SealKey(Source);

#[derive(Clone)]
enum Source {
    Key(Zeroizing<[u8; 32]>),
    Passphrase(Zeroizing<Vec<u8>>),
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
        let _ = path;
        todo!()
    }

    /// Reads the key file, or makes one of 32 random bytes (0600) where there is none.
    ///
    /// # Errors
    /// As [`SealKey::from_file`], and when it cannot be written.
    pub fn from_file_or_create(path: &Path) -> Result<Self, SealError> {
        let _ = path;
        todo!()
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
        Ok(Self(Source::Passphrase(passphrase)))
    }

    /// Seals `plain` for `context` (what it is and whom it belongs to).
    ///
    /// # Errors
    /// [`SealError`] when the crypto library fails.
    pub fn seal(&self, context: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let _ = (context, plain, &self.0);
        todo!()
    }

    /// Opens a blob that was sealed for the same `context`.
    ///
    /// # Errors
    /// [`SealError`]; nothing of the content is revealed.
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let _ = (context, sealed);
        match &self.0 {
            Source::Key(key) => drop(key.len()),
            Source::Passphrase(text) => drop(text.len()),
        }
        todo!()
    }
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
