//! By what a server finds its keys again among those of others in one back end.

use std::path::{Path, PathBuf};

use super::KeyManagerError;
use crate::{files, random};

/// The longest file that is read, bytes.
const MAX_FILE: u64 = 1024;

/// `key_identifier_file` and `key_identifier_value` of the remote key managers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyIdentifier {
    /// A file with a random UUID, mode 0600, made when it is missing. Whoever loses it loses the
    /// way to his keys.
    File(PathBuf),
    /// Chosen by the operator, one for each server.
    Value(String),
}

impl KeyIdentifier {
    /// What is to be used; a missing file is made.
    ///
    /// # Errors
    /// [`KeyManagerError`] when the file cannot be read or made, or holds something else.
    pub fn resolve(&self) -> Result<String, KeyManagerError> {
        match self {
            Self::Value(value) => Ok(value.clone()),
            Self::File(path) => match kept(path)? {
                Some(id) => Ok(id),
                None => {
                    let id = random::uuid_v4().map_err(|_| KeyManagerError::Stopped)?;
                    files::write_atomic(path, id.as_bytes(), 0o600)?;
                    Ok(id)
                }
            },
        }
    }

    /// As [`KeyIdentifier::resolve`], without making anything.
    ///
    /// # Errors
    /// As there.
    pub fn check(&self) -> Result<(), KeyManagerError> {
        match self {
            Self::Value(_) => Ok(()),
            Self::File(path) => kept(path).map(drop),
        }
    }
}

fn kept(path: &Path) -> Result<Option<String>, KeyManagerError> {
    let Some(bytes) = files::read_bounded(path, MAX_FILE)? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes).trim().to_ascii_lowercase();
    if is_uuid(&text) {
        return Ok(Some(text));
    }
    Err(KeyManagerError::Identifier { path: path.to_owned() })
}

/// Whether a text is a UUID in its usual form, lower or upper case.
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_file_is_made_once_and_read_ever_after() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("id");
        let identifier = KeyIdentifier::File(path.clone());
        identifier.check().unwrap();
        assert!(!path.exists(), "a check makes nothing");
        let id = identifier.resolve().unwrap();
        assert!(is_uuid(&id));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(identifier.resolve().unwrap(), id);
        fs::write(&path, format!("{}\n", id.to_uppercase())).unwrap();
        assert_eq!(identifier.resolve().unwrap(), id);
        for bad in ["", "server-1", "0000000-0000-0000-0000-000000000000x"] {
            fs::write(&path, bad).unwrap();
            let error = identifier.resolve().unwrap_err().to_string();
            assert!(error.contains("holds no UUID"), "{error}");
        }
    }
}
