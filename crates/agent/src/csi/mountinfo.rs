//! One mount of this process's namespace, as `/proc/thread-self/mountinfo` tells it (proc(5)).

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
};

const FILE: &str = "/proc/thread-self/mountinfo";
/// The longest line that is read, bytes: two escaped paths and the options of an overlay fit.
const MAX_LINE: u64 = 64 * 1024;
/// The most lines that are read; the kernel's own limit is 100,000 mounts (`fs.mount-max`).
const MAX_LINES: usize = 200_000;

/// What matters of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MountEntry {
    /// Nothing can be changed through it.
    pub(super) read_only: bool,
    /// Set-user-ID bits have no effect, devices cannot be opened, programs cannot be run.
    pub(super) confined: bool,
    /// The directory it shows has been removed from its file system.
    pub(super) deleted: bool,
    /// Its files carry SELinux labels.
    pub(super) labelled: bool,
}

/// Why a mount could not be looked up.
#[derive(Debug, thiserror::Error)]
pub(super) enum MountInfoError {
    /// The file cannot be read.
    #[error("reading {FILE}: {0}")]
    Read(#[from] io::Error),
    /// A line is not what the kernel writes.
    #[error("{FILE} line {line}: {wanted} expected")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What should be there.
        wanted: &'static str,
    },
    /// The mount is not listed.
    #[error("mount {0} is not in {FILE}")]
    Missing(u64),
}

/// Looks up a mount by its ID.
pub(super) fn find(id: u64) -> Result<MountEntry, MountInfoError> {
    find_in(BufReader::new(File::open(FILE)?), id)
}

/// Whether a table has a mount of this ID, and is well formed up to it.
pub fn mounted(table: &[u8], id: u64) -> bool {
    find_in(table, id).is_ok()
}

fn find_in(mut reader: impl BufRead, id: u64) -> Result<MountEntry, MountInfoError> {
    let mut text = Vec::new();
    for line in 1..=MAX_LINES {
        text.clear();
        let length = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut text)?;
        if length == 0 {
            return Err(MountInfoError::Missing(id));
        }
        let wrong = |wanted| MountInfoError::Line { line, wanted };
        if text.pop() != Some(b'\n') {
            return Err(wrong("an end within 65536 bytes"));
        }
        let first = text.split(|byte| *byte == b' ').next().unwrap_or_default();
        if number(first).ok_or(wrong("a number"))? == id {
            return entry(&text).map_err(wrong);
        }
    }
    Err(MountInfoError::Line { line: MAX_LINES, wanted: "the end" })
}

/// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG…] - TYPE SOURCE SUPER_OPTIONS`
fn entry(line: &[u8]) -> Result<MountEntry, &'static str> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut next = |wanted| fields.next().filter(|field| !field.is_empty()).ok_or(wanted);
    next("a number")?;
    number(next("the parent's number")?).ok_or("the parent's number")?;
    let device = next("MAJOR:MINOR")?;
    let mut parts = device.splitn(2, |byte| *byte == b':').map(number);
    if !matches!((parts.next(), parts.next()), (Some(Some(_)), Some(Some(_)))) {
        return Err("MAJOR:MINOR");
    }
    // Of a file system without paths (nsfs) the root does not begin with a slash.
    let root = next("the root")?;
    if !next("the mount point")?.starts_with(b"/") {
        return Err("an absolute mount point");
    }
    let options = next("mount options")?;
    while next("a single dash")? != b"-" {}
    next("the type of the file system")?;
    // The source may be empty.
    fields.next().ok_or("the source")?;
    let super_options = fields.next().ok_or("options of the file system")?;
    if fields.next().is_some() {
        return Err("the end of the line after the options of the file system");
    }
    let has = |list: &[u8], name: &[u8]| list.split(|byte| *byte == b',').any(|one| one == name);
    let read_only = match (has(options, b"ro"), has(options, b"rw")) {
        (true, false) => true,
        (false, true) => false,
        _ => return Err("either ro or rw among the mount options"),
    };
    Ok(MountEntry {
        read_only,
        confined: [&b"nosuid"[..], b"nodev", b"noexec"].iter().all(|name| has(options, name)),
        deleted: root.ends_with(b"//deleted"),
        labelled: has(super_options, b"seclabel"),
    })
}

/// A decimal number without sign or spaces.
fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
        22 1 0:283 / / rw,relatime - overlay overlay rw,lowerdir=/a:/b\n\
        23 22 0:4 net:[4026531840] /run/netns/x rw shared:5 - nsfs nsfs rw\n\
        24 22 254:1 /sockets//deleted /k/a\\040b ro,nosuid,nodev,noexec,relatime shared:2 \
        master:1 - ext4 /dev/vda1 rw,seclabel,errors=continue\n\
        25 22 0:50 / /empty rw,nosuid,nodev - tmpfs  rw\n";

    fn of(table: &str, id: u64) -> Result<MountEntry, String> {
        find_in(table.as_bytes(), id).map_err(|error| error.to_string())
    }

    #[test]
    fn a_mount_is_found_by_its_number() {
        let plain =
            MountEntry { read_only: false, confined: false, deleted: false, labelled: false };
        assert_eq!(of(TABLE, 22), Ok(plain));
        assert_eq!(of(TABLE, 23), Ok(plain));
        let ours = MountEntry { read_only: true, confined: true, deleted: true, labelled: true };
        assert_eq!(of(TABLE, 24), Ok(ours));
        assert_eq!(of(TABLE, 25), Ok(plain), "two of the three options are not enough");
        assert_eq!(of(TABLE, 2), Err("mount 2 is not in /proc/thread-self/mountinfo".to_owned()));
    }

    #[test]
    fn what_the_kernel_does_not_write_is_refused() {
        for (line, wanted) in [
            ("x 1 0:1 / / rw - t s rw\n", "a number expected"),
            ("+7 1 0:1 / / rw - t s rw\n", "a number expected"),
            ("\n", "a number expected"),
            ("7 1 0 / / rw - t s rw\n", "MAJOR:MINOR"),
            ("7 1 0:x / / rw - t s rw\n", "MAJOR:MINOR"),
            ("7 y 0:1 / / rw - t s rw\n", "the parent's number"),
            ("7 1 0:1 / here rw - t s rw\n", "an absolute mount point"),
            ("7 1 0:1 / / relatime - t s rw\n", "either ro or rw"),
            ("7 1 0:1 / / ro,rw - t s rw\n", "either ro or rw"),
            ("7 1 0:1 / / rw shared:1\n", "a single dash"),
            ("7 1 0:1 / / rw - t s\n", "options of the file system"),
            ("7 1 0:1 / / rw - t s rw more\n", "the end of the line"),
            ("7 1 0:1 / / rw - t s rw", "an end within"),
            ("7 1\n", "MAJOR:MINOR"),
        ] {
            let error = of(line, 7).unwrap_err();
            assert!(error.contains("line 1: ") && error.contains(wanted), "{line:?}: {error}");
        }
        let long = format!("7 1 0:1 / /{} rw - t s rw\n", "x".repeat(70_000));
        assert!(of(&long, 7).unwrap_err().contains("an end within 65536 bytes"));
    }

    #[test]
    fn the_table_of_this_very_process_is_understood() {
        let table = std::fs::read_to_string(FILE).unwrap();
        for line in table.lines() {
            let id = line.split(' ').next().unwrap().parse().unwrap();
            assert!(of(&table, id).is_ok(), "{line}");
        }
    }
}
