//! Directories for sockets: made with the right mode, and refused where somebody else could put
//! things into them.
//!
//! Whoever may write to the directory of a socket, or to one above it, can put another socket in
//! its place and answer for the program. So every directory on the way, and every symbolic link,
//! must belong to root or to the user of this process, and nobody else may write to it. A sticky
//! directory such as `/tmp` passes, because what is in it belongs to its owner; so does a volume
//! that was mounted for the purpose (an `emptyDir` of Kubernetes has mode 0777).

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Component, Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::stat::{Mode, umask},
};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

use super::ListenError;

/// How many symbolic links a path may lead over, as for the kernel (`path_resolution(7)`).
const MAX_LINKS: usize = 40;
/// The permission bits.
const PERMISSIONS: u32 = 0o777;
const WRITABLE_BY_OTHERS: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// The umask belongs to the whole process, so only one change of it may be under way.
static UMASK: Mutex<()> = Mutex::new(());

/// Runs `make` so that what it makes with all permissions has exactly those of `mode`.
///
/// Unlike a change of mode by path afterwards, this cannot hit what somebody else put there
/// meanwhile. It runs in a thread with a umask of its own, so that no file of another thread is
/// made with it; only where the system forbids that (a container without `unshare(2)`) the umask
/// of the process is changed for that moment.
pub(super) fn with_mode<T: Send>(mode: u32, make: impl FnOnce() -> T + Send) -> T {
    let wanted = Mode::from_bits_truncate(!mode & PERMISSIONS);
    let apart = || {
        if unshare(CloneFlags::CLONE_FS).is_ok() {
            umask(wanted);
            return make();
        }
        let _one = UMASK.lock().unwrap_or_else(PoisonError::into_inner);
        let before = umask(wanted);
        let made = make();
        umask(before);
        made
    };
    let joined = std::thread::scope(|scope| scope.spawn(apart).join());
    joined.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))
}

/// Makes a directory and those above it with this mode, whatever the umask; what is there stays as
/// it is.
///
/// # Errors
/// [`ListenError::Directory`] when one cannot be made, [`ListenError::Untrusted`] when others may
/// write to one that is there.
pub fn make_directories(dir: &Path, mode: u32) -> Result<(), ListenError> {
    if dir.as_os_str() != OsStr::new("") && !dir.is_dir() {
        // Nothing is made in a directory of others.
        check_directory(dir)?;
        make(dir, mode)?;
    }
    check_directory(dir)
}

fn make(dir: &Path, mode: u32) -> Result<(), ListenError> {
    if dir.as_os_str() == OsStr::new("") || dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        make(parent, mode)?;
    }
    match with_mode(mode, || fs::DirBuilder::new().mode(PERMISSIONS).create(dir)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        made => made.map_err(|source| ListenError::Directory { path: dir.to_owned(), source }),
    }
}

/// Checks the directories on the way to `dir` and `dir` itself, as far as they are there.
///
/// # Errors
/// [`ListenError::Untrusted`], naming the directory or link; [`ListenError::Directory`] when one
/// cannot be looked at.
pub(super) fn check_directory(dir: &Path) -> Result<(), ListenError> {
    let failed = |path: &Path, source| ListenError::Directory { path: path.to_owned(), source };
    let absolute =
        std::path::absolute(if dir.as_os_str().is_empty() { Path::new(".") } else { dir })
            .map_err(|source| failed(dir, source))?;
    let mut left: VecDeque<OsString> = parts(&absolute).collect();
    let mut at = PathBuf::from("/");
    let mut links = 0;
    check_one(&at, None)?;
    while let Some(part) = left.pop_front() {
        if part == ".." {
            at.pop();
            continue;
        }
        let parent = at.clone();
        at.push(&part);
        let metadata = match fs::symlink_metadata(&at) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // What is in the way is named by whoever makes the directory.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(()),
            Err(source) => return Err(failed(&at, source)),
        };
        if metadata.is_symlink() {
            check_owner(&at, metadata.uid())?;
            links += 1;
            if links > MAX_LINKS {
                return Err(failed(dir, rustix::io::Errno::LOOP.into()));
            }
            let target = fs::read_link(&at).map_err(|source| failed(&at, source))?;
            at = if target.is_absolute() { PathBuf::from("/") } else { parent };
            for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                left.push_front(part);
            }
        } else if metadata.is_dir() {
            check_one(&at, Some(&parent))?;
        } else {
            return Ok(());
        }
    }
    Ok(())
}

fn parts(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}

fn check_one(dir: &Path, parent: Option<&Path>) -> Result<(), ListenError> {
    let failed = |source| ListenError::Directory { path: dir.to_owned(), source };
    let metadata = fs::metadata(dir).map_err(failed)?;
    check_owner(dir, metadata.uid())?;
    let writable = metadata.mode() & WRITABLE_BY_OTHERS != 0 && metadata.mode() & STICKY == 0;
    if writable && !is_mounted(dir, parent, metadata.dev()) {
        return Err(untrusted(dir, "every user may write to it"));
    }
    Ok(())
}

fn check_owner(path: &Path, owner: u32) -> Result<(), ListenError> {
    let own = rustix::process::geteuid().as_raw();
    if owner == 0 || owner == own {
        return Ok(());
    }
    Err(untrusted(path, &format!("it belongs to user {owner}, not to root or to user {own}")))
}

fn untrusted(path: &Path, reason: &str) -> ListenError {
    ListenError::Untrusted { path: path.to_owned(), reason: reason.to_owned() }
}

/// Whether a file system is mounted at `dir`.
fn is_mounted(dir: &Path, parent: Option<&Path>, dev: u64) -> bool {
    let Some(parent) = parent else { return false };
    let told = statx(CWD, dir, AtFlags::empty(), StatxFlags::BASIC_STATS).is_ok_and(|found| {
        found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
            && found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
    });
    told || fs::metadata(parent).is_ok_and(|parent| parent.dev() != dev)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn directories_that_others_may_write_to_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        chmod(&open, 0o777);
        for below in ["", "a", "a/b"] {
            let error = make_directories(&open.join(below), 0o755).unwrap_err();
            let expected = format!("directory {} of a socket: every user may", open.display());
            assert!(error.to_string().contains(&expected), "{error}");
        }
        assert_eq!(fs::read_dir(&open).unwrap().count(), 0, "nothing was made in it");
        // As /tmp is: what is in it belongs to who made it.
        chmod(&open, 0o1777);
        make_directories(&open.join("a/b"), 0o751).unwrap();
        assert_eq!(fs::metadata(open.join("a/b")).unwrap().mode() & 0o7777, 0o751);
        chmod(&open, 0o775);
        make_directories(&open, 0o755).unwrap();
    }

    #[test]
    fn directories_and_links_of_another_user_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        chmod(dir.path(), 0o1777);
        let theirs = dir.path().join("theirs");
        let (good, link) = (dir.path().join("good"), dir.path().join("link"));
        for path in [&theirs, &good] {
            fs::create_dir(path).unwrap();
        }
        symlink(&good, &link).unwrap();
        make_directories(&link, 0o755).unwrap();
        if !rustix::process::geteuid().is_root() {
            println!("the rest was not tried: only root can give files away");
            return;
        }
        chown(&theirs, Some(4711), None).unwrap();
        std::os::unix::fs::lchown(&link, Some(4711), None).unwrap();
        for (path, what) in [(theirs.join("a"), &theirs), (link.join("a"), &link)] {
            let error = make_directories(&path, 0o755).unwrap_err().to_string();
            assert!(error.contains(&format!("directory {} of", what.display())), "{error}");
            assert!(error.contains("belongs to user 4711"), "{error}");
        }
        assert_eq!(fs::read_dir(&theirs).unwrap().count(), 0);
        // A link of ours into a directory of theirs leads there too.
        let into = dir.path().join("into");
        symlink("theirs", &into).unwrap();
        assert!(make_directories(&into, 0o755).is_err());
        symlink("loop", dir.path().join("loop")).unwrap();
        let error = make_directories(&dir.path().join("loop/a"), 0o755).unwrap_err();
        assert!(matches!(error, ListenError::Directory { .. }), "{error}");
    }

    #[test]
    fn the_mask_of_the_process_is_as_before() {
        let before = with_mode(0o777, || umask(Mode::empty()));
        assert_eq!(before, Mode::empty());
        let dir = tempfile::tempdir().unwrap();
        with_mode(0o700, || fs::create_dir(dir.path().join("narrow"))).unwrap();
        assert_eq!(fs::metadata(dir.path().join("narrow")).unwrap().mode() & 0o777, 0o700);
    }
}
