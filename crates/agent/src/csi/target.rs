//! The place of a volume: found without following a link, and held while it is worked on.

use std::{
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, mkdirat, open, openat, statat, unlinkat},
    io::Errno,
};

use super::error::VolumeError;

/// The longest path, bytes, with the zero at its end (PATH_MAX).
const MAX_PATH: usize = 4096;
/// A directory that is only pointed at.
const HANDLE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// A name in a directory that is held open. Nothing above it can be exchanged any more.
#[derive(Debug)]
pub(super) struct Target {
    parent: OwnedFd,
    name: PathBuf,
    path: PathBuf,
}

/// What was found under the name.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// A directory of the file system that its parent is in.
    Directory(OwnedFd),
    /// The top of something that is mounted there.
    Mount(OwnedFd),
    /// Something else, in words.
    Other(&'static str),
}

impl Target {
    /// Finds the directory that `path` names something in; none when it is not there.
    ///
    /// `path` is absolute, below `bound` if there is one, and no part of it (below `bound`) is a
    /// link: who could make one there could have anything mounted over or unmounted.
    ///
    /// # Errors
    /// [`VolumeError::Path`] when it is not such a path.
    pub(super) fn open(path: &str, bound: Option<&Path>) -> Result<Option<Self>, VolumeError> {
        let wrong = |sentence: String| VolumeError::Path(format!("{path:?} {sentence}"));
        if !path.starts_with('/') {
            return Err(wrong("is not an absolute path".to_owned()));
        }
        if path.len() >= MAX_PATH || path.contains('\0') {
            return Err(wrong(format!("is not a path of less than {MAX_PATH} bytes")));
        }
        if path.split('/').any(|part| part == ".." || part == ".") {
            return Err(wrong("has . or .. in it".to_owned()));
        }
        let whole = Path::new(path);
        let base = bound.unwrap_or(Path::new("/"));
        let Ok(below) = whole.strip_prefix(base) else {
            let base = base.display();
            return Err(wrong(format!("does not lie below the kubelet's directory {base}")));
        };
        let Some(name) = below.file_name() else {
            return Err(wrong("has no name".to_owned()));
        };
        let failed = |at: &Path, error: Errno| VolumeError::Io {
            doing: "opening",
            path: at.to_owned(),
            source: error.into(),
        };
        // The kubelet's directory itself is configured, and may be reached by links.
        let mut parent = open(base, HANDLE | OFlags::DIRECTORY, Mode::empty())
            .map_err(|error| failed(base, error))?;
        let mut at = base.to_owned();
        for part in below.parent().into_iter().flat_map(Path::iter) {
            at.push(part);
            let flags = HANDLE | OFlags::NOFOLLOW | OFlags::DIRECTORY;
            parent = match openat(&parent, part, flags, Mode::empty()) {
                Ok(dir) => dir,
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let what = what_is(&parent, part);
                    let at = at.display();
                    return Err(wrong(format!("leads over {at}, which is {what}")));
                }
                Err(error) => return Err(failed(&at, error)),
            };
        }
        Ok(Some(Self { parent, name: name.into(), path: whole.to_owned() }))
    }

    /// The whole path, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at what is there, without touching the file system that is mounted there.
    ///
    /// # Errors
    /// [`VolumeError::Io`].
    pub(super) fn look(&self) -> Result<Found, VolumeError> {
        let failed = |source: io::Error| self.failed("looking at", source);
        let there = match openat(&self.parent, &self.name, HANDLE | OFlags::NOFOLLOW, Mode::empty())
        {
            Ok(there) => there,
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            Err(error) => return Err(failed(error.into())),
        };
        let above = mount_id(&self.parent).map_err(failed)?;
        if mount_id(&there).map_err(failed)? != above {
            return Ok(Found::Mount(there));
        }
        match what_is(&self.parent, self.name.as_os_str()) {
            "a directory" => Ok(Found::Directory(there)),
            other => Ok(Found::Other(other)),
        }
    }

    /// Makes the directory (mode 0750); `false` when there is something already.
    ///
    /// # Errors
    /// [`VolumeError::Io`].
    pub(super) fn make(&self) -> Result<bool, VolumeError> {
        match mkdirat(&self.parent, &self.name, Mode::from_raw_mode(0o750)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(self.failed("creating", error.into())),
        }
    }

    /// Removes the directory, which must be empty; fine when there is none.
    ///
    /// # Errors
    /// [`VolumeError::Io`].
    pub(super) fn remove(&self) -> Result<(), VolumeError> {
        match unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(self.failed("removing", error.into())),
        }
    }

    /// A path to the name through the directory that is held, for calls that take paths only. What
    /// is held by a descriptor of its own cannot be unmounted.
    pub(super) fn through_parent(&self) -> PathBuf {
        proc_path(&self.parent).join(&self.name)
    }

    /// An error of the system's at this place.
    pub(super) fn failed(&self, doing: &'static str, source: io::Error) -> VolumeError {
        VolumeError::Io { doing, path: self.path.clone(), source }
    }
}

/// A path to what a descriptor points at, for calls that take paths only.
pub(super) fn proc_path(fd: &OwnedFd) -> PathBuf {
    format!("/proc/thread-self/fd/{}", fd.as_raw_fd()).into()
}

/// Opens a directory that is configured.
pub(super) fn open_configured(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, HANDLE | OFlags::DIRECTORY, Mode::empty())?)
}

/// The number of the mount that a descriptor is in.
pub(super) fn mount_id(fd: &OwnedFd) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", fd.as_raw_fd()))?;
    text.lines()
        .find_map(|line| line.strip_prefix("mnt_id:"))
        .and_then(|number| number.trim().parse().ok())
        .ok_or_else(|| io::Error::other("no mnt_id in /proc/thread-self/fdinfo"))
}

fn what_is(parent: impl AsFd, name: &OsStr) -> &'static str {
    match statat(parent, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => "a directory",
            FileType::Symlink => "a symbolic link",
            FileType::RegularFile => "a file",
            FileType::Socket => "a socket",
            _ => "no directory",
        },
        Err(_) => "no directory",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn refused(path: &str, bound: Option<&Path>) -> String {
        Target::open(path, bound).unwrap_err().to_string()
    }

    #[test]
    fn only_plain_absolute_paths_below_the_bound_are_targets() {
        let bound = tempfile::tempdir().unwrap();
        let dir = bound.path();
        let at = |rest: &str| format!("{}{rest}", dir.display());
        for (path, wanted) in [
            ("relative/x".to_owned(), "is not an absolute path"),
            (String::new(), "is not an absolute path"),
            (at("/a/../../x"), "has . or .. in it"),
            (at("/./x"), "has . or .. in it"),
            ("/etc/x".to_owned(), "does not lie below the kubelet's directory"),
            (format!("{}-other/x", dir.display()), "does not lie below"),
            (at(""), "has no name"),
            (at("/a\0b"), "is not a path of less than 4096 bytes"),
            (at(&"/x".repeat(2100)), "is not a path of less than 4096 bytes"),
        ] {
            let error = refused(&path, Some(dir));
            assert!(error.contains(wanted), "{path:?}: {error}");
        }
        assert!(Target::open(&at("/mount"), Some(dir)).unwrap().is_some());
        assert!(Target::open(&at("//mount/"), Some(dir)).unwrap().is_some());
        assert!(Target::open(&at("/no/such/mount"), Some(dir)).unwrap().is_none());
    }

    #[test]
    fn links_and_files_on_the_way_are_refused_and_the_bound_may_be_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        fs::create_dir_all(real.join("pod")).unwrap();
        fs::write(real.join("file"), "").unwrap();
        symlink("/etc", real.join("link")).unwrap();
        symlink(&real, dir.path().join("kubelet")).unwrap();
        let bound = dir.path().join("kubelet");
        let at = |rest: &str| format!("{}/{rest}", bound.display());
        assert!(refused(&at("link/x"), Some(&bound)).contains("which is a symbolic link"));
        assert!(refused(&at("file/x"), Some(&bound)).contains("which is a file"));
        let target = Target::open(&at("pod/mount"), Some(&bound)).unwrap().unwrap();
        assert!(matches!(target.look().unwrap(), Found::Nothing));
        assert!(target.make().unwrap());
        assert!(!target.make().unwrap());
        assert!(matches!(target.look().unwrap(), Found::Directory(_)));
        target.remove().unwrap();
        target.remove().unwrap();
        assert!(!real.join("pod/mount").exists());
        symlink("/etc", real.join("pod/mount")).unwrap();
        assert!(matches!(target.look().unwrap(), Found::Other("a symbolic link")));
        // Without a bound, from the root: a link is refused there as well.
        assert!(refused(&at("pod/mount"), None).contains("which is a symbolic link"));
    }
}
