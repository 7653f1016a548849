//! Paths in a configuration.

use std::path::{Component, Path, PathBuf};

use crate::decode::Block;

/// The most bytes that the path of a Unix socket may have on Linux.
const MAX_SOCKET_PATH: usize = 107;

/// `path` from the root, without `.` and `..`, whether it exists or not. Links are not followed.
///
/// # Errors
/// A sentence when the path is empty or the working directory cannot be told.
pub fn absolute_path(path: &Path) -> Result<PathBuf, String> {
    let absolute = std::path::absolute(path)
        .map_err(|error| format!("no absolute path of {}: {error}", path.display()))?;
    let mut clean = PathBuf::new();
    for part in absolute.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    Ok(clean)
}

/// The absolute form of a socket's path; one that is too long for a socket is reported.
pub fn socket_path(block: &Block<'_>, key: &'static str, path: &Path) -> Option<PathBuf> {
    match absolute_path(path) {
        Ok(path) if path.as_os_str().len() > MAX_SOCKET_PATH => {
            let path = path.display();
            block.error(
                key,
                format_args!(
                    "{path} is longer than a socket's path may be, {MAX_SOCKET_PATH} bytes"
                ),
            );
            None
        }
        Ok(path) => Some(path),
        Err(sentence) => {
            block.error(key, sentence);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_without_looking_at_the_disk() {
        let clean = |path: &str| absolute_path(Path::new(path)).unwrap();
        assert_eq!(clean("/a/./b/../c//d/"), Path::new("/a/c/d"));
        assert_eq!(clean("/../x"), Path::new("/x"));
        assert_eq!(clean("x"), std::env::current_dir().unwrap().join("x"));
        assert!(absolute_path(Path::new("")).is_err());
    }
}
