//! A server certificate in files that somebody else renews.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{SwappableIdentity, TlsError, TlsIdentity};
use crate::{SignError, text_file, text_file::TextFileError};

/// A certificate chain (PEM, leaf first) and its key (PEM), read again when the files change. A new
/// pair that cannot be used leaves the one before in force.
#[derive(Debug)]
pub struct CertFiles {
    certificates: PathBuf,
    key: PathBuf,
    identity: Arc<SwappableIdentity>,
    seen: Option<[Stamp; 2]>,
}

/// Why a pair of files cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertFilesError {
    /// One of them cannot be read, or holds something else.
    #[error(transparent)]
    File(#[from] TextFileError),
    /// The crypto library refuses the key.
    #[error("{}", .path.display())]
    Key {
        /// The key's file.
        path: PathBuf,
        /// Why.
        source: SignError,
    },
    /// They cannot be used together.
    #[error("{} with the key {}", .certificates.display(), .key.display())]
    Pair {
        /// The file of the chain.
        certificates: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// Why.
        source: TlsError,
    },
}

/// What changes with a file: when it was written, how long it is, and which file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    length: u64,
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        let modified = (found.mtime(), found.mtime_nsec());
        Ok(Self { modified, length: found.len(), inode: found.ino() })
    }
}

impl CertFiles {
    /// Reads both files.
    ///
    /// # Errors
    /// [`CertFilesError`] when a file cannot be read, or certificate and key do not fit together.
    pub fn load(
        certificates: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Result<Self, CertFilesError> {
        let identity = Arc::new(SwappableIdentity::empty());
        let (certificates, key) = (certificates.into(), key.into());
        let mut files = Self { certificates, key, identity, seen: None };
        files.refresh()?;
        Ok(files)
    }

    /// What TLS presents: always the newest pair that could be used.
    pub fn identity(&self) -> Arc<SwappableIdentity> {
        Arc::clone(&self.identity)
    }

    /// Reads the files again if they have changed since they were last read; says whether there is
    /// a new certificate.
    ///
    /// # Errors
    /// [`CertFilesError`]; then the one before stays, and the next call tries again.
    pub fn refresh(&mut self) -> Result<bool, CertFilesError> {
        // Looked at before they are read: what changes meanwhile is read with the next call.
        let stamps = [&self.certificates, &self.key].map(|path| Stamp::of(path).ok());
        let stamps = match stamps {
            [Some(certificates), Some(key)] => Some([certificates, key]),
            _ => None,
        };
        if stamps.is_some() && stamps == self.seen {
            return Ok(false);
        }
        let chain = text_file::certificates(&self.certificates)?;
        let chain: Vec<Arc<[u8]>> = chain.into_iter().map(Arc::from).collect();
        let key = text_file::private_key(&self.key)?;
        let signer = key
            .signer()
            .map_err(|source| CertFilesError::Key { path: self.key.clone(), source })?;
        let identity = TlsIdentity::new(&chain, signer).map_err(|source| CertFilesError::Pair {
            certificates: self.certificates.clone(),
            key: self.key.clone(),
            source,
        })?;
        self.identity.set(identity);
        self.seen = stamps;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(dir: &Path, name: &str) -> String {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        fs::write(dir.join("c.pem"), made.cert.pem()).unwrap();
        fs::write(dir.join("k.pem"), made.signing_key.serialize_pem()).unwrap();
        crate::digest::sha256_hex(made.cert.der())
    }

    fn presented(files: &CertFiles) -> String {
        let identity = files.identity().get().unwrap();
        crate::digest::sha256_hex(identity.leaf().der())
    }

    #[test]
    fn a_new_pair_is_taken_and_a_broken_one_leaves_the_old_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let first = pair(dir.path(), "one.test");
        let mut files =
            CertFiles::load(dir.path().join("c.pem"), dir.path().join("k.pem")).unwrap();
        assert_eq!(presented(&files), first);
        assert!(!files.refresh().unwrap());
        let second = pair(dir.path(), "two.test");
        assert!(files.refresh().unwrap());
        assert_eq!(presented(&files), second);
        fs::write(dir.path().join("k.pem"), "no key").unwrap();
        let error = files.refresh().unwrap_err().to_string();
        assert!(error.contains("k.pem"), "{error}");
        assert_eq!(presented(&files), second);
        let other = rcgen::KeyPair::generate().unwrap();
        fs::write(dir.path().join("k.pem"), other.serialize_pem()).unwrap();
        let error = files.refresh().unwrap_err().to_string();
        assert!(error.contains("c.pem") && error.contains("k.pem"), "{error}");
        let third = pair(dir.path(), "three.test");
        assert!(files.refresh().unwrap());
        assert_eq!(presented(&files), third);
    }
}
