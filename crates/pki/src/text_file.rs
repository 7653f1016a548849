//! Text, certificates and keys in files that others write: read up to a bound, and each complaint
//! names its file.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::{
    PrivateKey,
    files::{self, FileError},
    pem,
};

/// The longest file that is read, bytes.
pub const MAX_LEN: u64 = 1024 * 1024;

/// What is wrong with a file, on one line that begins with its name: `/etc/a.pem: no such file`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {what}", .path.display())]
pub struct TextFileError {
    path: PathBuf,
    what: String,
}

/// The text of a file; it may be a secret, and is wiped when dropped.
///
/// # Errors
/// [`TextFileError`]: it is not there, cannot be read, is no regular file, too long or not text.
pub fn text(path: &Path) -> Result<Zeroizing<String>, TextFileError> {
    let bytes = files::read_bounded(path, MAX_LEN).map_err(|error| match error {
        FileError::Read { source, .. } => wrong(path, source),
        FileError::TooLong { max, .. } => wrong(path, format_args!("longer than {max} bytes")),
        other => wrong(path, other),
    })?;
    let bytes = bytes.ok_or_else(|| wrong(path, "no such file"))?;
    String::from_utf8(bytes).map(Zeroizing::new).map_err(|error| {
        drop(Zeroizing::new(error.into_bytes()));
        wrong(path, "not text")
    })
}

/// The certificates (DER) of a PEM file, in order; at least one.
///
/// # Errors
/// [`TextFileError`], as [`text`], and when it holds none or something else.
pub fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, TextFileError> {
    pem::decode_certificates(&text(path)?).map_err(|error| wrong(path, error))
}

/// The private key of a PEM file.
///
/// # Errors
/// [`TextFileError`], as [`text`], and when it holds no key that is accepted.
pub fn private_key(path: &Path) -> Result<PrivateKey, TextFileError> {
    PrivateKey::from_pem(&text(path)?).map_err(|error| wrong(path, error))
}

fn wrong(path: &Path, what: impl fmt::Display) -> TextFileError {
    TextFileError { path: path.to_owned(), what: what.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyType;

    #[test]
    fn what_is_wrong_is_said_with_the_name_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pem");
        let complaint = |error: TextFileError| {
            let text = error.to_string();
            let rest = text.strip_prefix(&format!("{}: ", path.display())).expect("the name");
            rest.to_owned()
        };
        assert_eq!(complaint(text(&path).unwrap_err()), "no such file");
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert_eq!(complaint(text(&path).unwrap_err()), "not text");
        std::fs::write(&path, "hello").unwrap();
        assert_eq!(&**text(&path).unwrap(), "hello");
        assert!(complaint(certificates(&path).unwrap_err()).contains("no CERTIFICATE"));
        assert!(complaint(private_key(&path).unwrap_err()).contains("no private key"));
        std::fs::File::create(&path).unwrap().set_len(MAX_LEN + 1).unwrap();
        assert_eq!(complaint(text(&path).unwrap_err()), "longer than 1048576 bytes");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(complaint(text(&path).unwrap_err()), "not a regular file");
    }

    #[test]
    fn certificates_and_keys_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pem");
        let key = PrivateKey::generate(KeyType::EcP256).unwrap();
        std::fs::write(&path, &**key.to_pem()).unwrap();
        assert_eq!(private_key(&path).unwrap().public_key(), key.public_key());
        std::fs::write(&path, pem::encode_certificates([&[1_u8, 2][..], &[3]])).unwrap();
        assert_eq!(certificates(&path).unwrap(), [vec![1, 2], vec![3]]);
    }
}
