//! Mounting and unmounting the directory with the Workload API's socket.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Dir, Mode, OFlags, fstat, openat},
    io::Errno,
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_bind,
        mount_change, mount_remount, move_mount, open_tree, unmount,
    },
};

use super::{
    error::VolumeError,
    mountinfo::{self, MountEntry},
    target::{Found, Target, mount_id, open_configured, proc_path},
};

/// How many mounts on top of one another are taken away from a target.
const MAX_STACKED: usize = 16;

/// What publishing found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Published {
    /// It was mounted already.
    Already,
    /// It is mounted now.
    Now,
    /// Something else was mounted there, and it took its place.
    Replaced,
}

/// How a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// It shows the directory.
    Good,
    /// It does not; the sentence says what is wrong.
    Bad(String),
}

/// The volumes of a driver. Every call blocks.
#[derive(Clone, Debug)]
pub(super) struct Volumes {
    source: PathBuf,
    bound: Option<PathBuf>,
    /// Whether a mount gets its flags before it is seen (Linux 5.2); tests try both ways.
    detached: bool,
}

impl Volumes {
    /// Mounts `source` on targets below `bound`.
    pub(super) fn new(source: &Path, bound: Option<&Path>) -> Self {
        Self { source: source.to_owned(), bound: bound.map(Path::to_owned), detached: true }
    }

    /// Whether the directory is there.
    pub(super) fn is_ready(&self) -> bool {
        open_configured(&self.source).is_ok()
    }

    /// Mounts the directory at `target`, whose own directory is made; does nothing when it is
    /// mounted already. What else is mounted there (the directory as it was before it was made
    /// anew, or another one from before a change of settings) is replaced.
    pub(super) fn publish(&self, target: &str) -> Result<Published, VolumeError> {
        let source = self.open_source()?;
        let Some(target) = Target::open(target, self.bound.as_deref())? else {
            return Err(VolumeError::Io {
                doing: "creating",
                path: target.into(),
                source: io::ErrorKind::NotFound.into(),
            });
        };
        let made = target.make()?;
        let published = self.mount_on(&source, &target);
        if made && published.is_err() {
            // The first error is the one to tell.
            let _ = target.remove();
        }
        published
    }

    /// Unmounts what is mounted at `target` and removes its directory; `false` when there was
    /// nothing to do.
    pub(super) fn unpublish(&self, target: &str) -> Result<bool, VolumeError> {
        let Some(target) = Target::open(target, self.bound.as_deref())? else { return Ok(false) };
        match self.clear(&target, true)? {
            Found::Nothing => Ok(false),
            Found::Directory(_) => target.remove().map(|()| true),
            Found::Mount(_) => Err(target.failed("unmounting", Errno::BUSY.into())),
            Found::Other(what) => {
                Err(VolumeError::Occupied { path: target.path().to_owned(), what })
            }
        }
    }

    /// Looks at a volume.
    pub(super) fn condition(&self, path: &str) -> Result<Condition, VolumeError> {
        let nothing = || VolumeError::Nothing(path.to_owned());
        let target = Target::open(path, self.bound.as_deref())?.ok_or_else(nothing)?;
        let mounted = match target.look()? {
            Found::Mount(mounted) => mounted,
            Found::Nothing => return Err(nothing()),
            Found::Directory(_) | Found::Other(_) => {
                return Ok(Condition::Bad("nothing is mounted here".to_owned()));
            }
        };
        if mount_entry(&target, &mounted)?.deleted {
            let sentence = "the directory that is mounted was removed; a new pod gets the new one";
            return Ok(Condition::Bad(sentence.to_owned()));
        }
        let source = match self.open_source() {
            Ok(source) => source,
            Err(error) => return Ok(Condition::Bad(error.to_string())),
        };
        if !same(&source, &mounted).map_err(|error| target.failed("looking at", error))? {
            let source = self.source.display();
            return Ok(Condition::Bad(format!("another directory than {source} is mounted")));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listed = openat(&mounted, c".", flags, Mode::empty())
            .and_then(Dir::new)
            .and_then(|mut dir| dir.next().transpose());
        Ok(match listed {
            Ok(_) => Condition::Good,
            Err(error) => Condition::Bad(format!("the directory cannot be read: {error}")),
        })
    }

    fn open_source(&self) -> Result<OwnedFd, VolumeError> {
        open_configured(&self.source)
            .map_err(|source| VolumeError::Source { path: self.source.clone(), source })
    }

    fn mount_on(&self, source: &OwnedFd, target: &Target) -> Result<Published, VolumeError> {
        let failed = |error: io::Error| target.failed("mounting", error);
        let flags = self.flags(source)?;
        let mut published = Published::Now;
        let mut found = target.look()?;
        if let Found::Mount(mounted) = &found {
            if same(source, mounted).map_err(failed)? {
                // A driver that was killed between the two steps of mounting leaves it like this.
                if lacks(mount_entry(target, mounted)?, flags) {
                    mount_remount(proc_path(mounted), MountFlags::BIND | flags, c"")
                        .map_err(|error| failed(error.into()))?;
                }
                return Ok(Published::Already);
            }
            published = Published::Replaced;
            drop(found);
            found = self.clear(target, false)?;
        }
        match found {
            Found::Directory(directory) => self.attach(source, &directory, target, flags)?,
            Found::Other(what) => {
                return Err(VolumeError::Occupied { path: target.path().to_owned(), what });
            }
            Found::Nothing => return Err(failed(io::ErrorKind::NotFound.into())),
            Found::Mount(_) => return Err(failed(Errno::BUSY.into())),
        }
        match target.look()? {
            Found::Mount(mounted) if same(source, &mounted).map_err(failed)? => Ok(published),
            _ => Err(VolumeError::Unstable(target.path().to_owned())),
        }
    }

    /// Read-only, no devices, no programs. Where files carry SELinux labels, container runtimes
    /// must be able to change them: there it is as writable as the directory is for the driver, and
    /// the kubelet makes it read-only for the pod.
    fn flags(&self, source: &OwnedFd) -> Result<MountFlags, VolumeError> {
        let failed = |source| VolumeError::Source { path: self.source.clone(), source };
        let entry = mountinfo::find(mount_id(source).map_err(failed)?)?;
        let confined = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let writable = entry.labelled && !entry.read_only;
        Ok(if writable { confined } else { confined | MountFlags::RDONLY })
    }

    /// Mounts `source` on `directory`, which is what `target` names.
    ///
    /// The flags of a mount are not handed on to its copies in other namespaces, those of the
    /// moment it is made are: so it must have them before it is put in its place.
    fn attach(
        &self,
        source: &OwnedFd,
        directory: &OwnedFd,
        target: &Target,
        flags: MountFlags,
    ) -> Result<(), VolumeError> {
        let failed = |error: io::Error| target.failed("mounting", error);
        if self.detached {
            match detached_mount(&self.source, flags) {
                Ok(mount) => {
                    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH
                        | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
                    return move_mount(mount.as_fd(), c"", directory.as_fd(), c"", empty)
                        .map_err(|error| failed(error.into()));
                }
                Err(error) if error.raw_os_error() == Some(Errno::NOSYS.raw_os_error()) => {
                    tracing::debug!("Linux is older than 5.2: the flags follow the mount");
                }
                Err(error) => return Err(failed(error)),
            }
        }
        mount_bind(proc_path(source), proc_path(directory)).map_err(|e| failed(e.into()))?;
        let Found::Mount(mounted) = target.look()? else {
            return Err(VolumeError::Unstable(target.path().to_owned()));
        };
        mount_remount(proc_path(&mounted), MountFlags::BIND | flags, c"")
            .map_err(|error| failed(error.into()))
    }

    /// Takes away what is mounted at the target and says what is left. `force`: even what is in
    /// use, which its users keep.
    fn clear(&self, target: &Target, force: bool) -> Result<Found, VolumeError> {
        for _ in 0..MAX_STACKED {
            match target.look()? {
                // The descriptor must be closed first, or it would be in use.
                Found::Mount(mounted) => drop(mounted),
                left => return Ok(left),
            }
            let path = target.through_parent();
            let mut result = unmount(&path, UnmountFlags::NOFOLLOW);
            if result == Err(Errno::BUSY) && force {
                tracing::warn!(
                    target_path = %target.path().display(),
                    "Volume is in use; it is unmounted as soon as it no longer is"
                );
                result = unmount(&path, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH);
            }
            match result {
                // Somebody else was faster.
                Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
                Err(error) => return Err(target.failed("unmounting", error.into())),
            }
        }
        target.look()
    }
}

fn mount_entry(target: &Target, mounted: &OwnedFd) -> Result<MountEntry, VolumeError> {
    let id = mount_id(mounted).map_err(|error| target.failed("looking at", error))?;
    Ok(mountinfo::find(id)?)
}

fn lacks(entry: MountEntry, flags: MountFlags) -> bool {
    !entry.confined || (flags.contains(MountFlags::RDONLY) && !entry.read_only)
}

/// Whether both are the same directory.
fn same(a: &OwnedFd, b: &OwnedFd) -> io::Result<bool> {
    let (a, b) = (fstat(a)?, fstat(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// A mount of `source` with these flags that is nowhere yet.
///
/// It is made in a mount namespace of a thread's own, where nobody sees it without them.
fn detached_mount(source: &Path, flags: MountFlags) -> io::Result<OwnedFd> {
    let source = source.to_owned();
    let work = move || -> io::Result<OwnedFd> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change(c"/", private)?;
        mount_bind(&source, &source)?;
        mount_remount(&source, MountFlags::BIND | flags, c"")?;
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        Ok(open_tree(CWD, &source, clone)?)
    };
    let thread = std::thread::Builder::new().name("csi-mount".to_owned()).spawn(work)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that mounts has panicked")))
}

#[cfg(test)]
mod tests;
