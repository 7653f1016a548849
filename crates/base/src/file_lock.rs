//! Locks that processes keep others out with.

use std::{
    fs::{File, TryLockError},
    ops::{Deref, DerefMut},
};

/// An open file with a lock that one process has at a time (flock(2)): given back when this is
/// dropped, and by the kernel when the process ends, however it ends.
#[derive(Debug)]
pub struct LockedFile(File);

impl LockedFile {
    /// Takes the lock, without waiting for it.
    ///
    /// # Errors
    /// [`TryLockError::WouldBlock`] when another process has it, or another open file of this one.
    pub fn take(file: File) -> Result<Self, TryLockError> {
        file.try_lock()?;
        Ok(Self(file))
    }
}

impl Deref for LockedFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl DerefMut for LockedFile {
    fn deref_mut(&mut self) -> &mut File {
        &mut self.0
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        // Closing is not enough: a child that is just being started may hold a copy of the
        // descriptor, and the lock with it.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_has_one_holder_and_is_given_back_whoever_has_a_copy_of_the_descriptor() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::open(file.path()).unwrap();
        let first = open();
        let copy = first.try_clone().unwrap();
        let lock = LockedFile::take(first).unwrap();
        assert!(matches!(LockedFile::take(open()), Err(TryLockError::WouldBlock)));
        drop(lock);
        LockedFile::take(open()).unwrap();
        drop(copy);
    }
}
