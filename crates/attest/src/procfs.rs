//! The few files of `/proc` that attestation reads, each with a bound.

use std::{
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The most bytes read of one `/proc` text file.
const MAX_PROC_FILE: usize = 256 * 1024;

/// Where `/proc` is mounted: `HOST_PROC` where set (as SPIRE), else `/proc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcRoot(Arc<Path>);

/// Why something in `/proc` could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcError {
    /// The file has another form than the kernel documents.
    #[error("{0} has an unexpected form: {1}")]
    Malformed(PathBuf, &'static str),
    /// The file cannot be read.
    #[error("reading {0}")]
    Read(PathBuf, #[source] io::Error),
}

impl Default for ProcRoot {
    fn default() -> Self {
        Self::new(Path::new("/proc"))
    }
}

impl ProcRoot {
    /// A `/proc` at `path`.
    pub fn new(path: &Path) -> Self {
        Self(path.into())
    }

    /// The root given by the environment variable `HOST_PROC`, else `/proc`.
    pub fn from_env() -> Self {
        match std::env::var_os("HOST_PROC") {
            Some(path) if !path.is_empty() => Self::new(Path::new(&path)),
            _ => Self::default(),
        }
    }

    /// The path of `name` of process `pid`.
    pub fn path(&self, pid: i32, name: &str) -> PathBuf {
        self.0.join(format!("{pid}/{name}"))
    }

    /// Opens the directory of a process.
    ///
    /// # Errors
    /// [`ProcError::Read`] when it is not there.
    pub fn open_dir(&self, pid: i32) -> Result<OwnedFd, ProcError> {
        let path = self.0.join(pid.to_string());
        std::fs::File::open(&path).map(OwnedFd::from).map_err(|e| ProcError::Read(path, e))
    }

    /// Reads `name` of process `pid`, bounded.
    ///
    /// # Errors
    /// [`ProcError`] when it cannot be read or is too long.
    pub fn read(&self, pid: i32, name: &str) -> Result<Vec<u8>, ProcError> {
        read_file(&self.path(pid, name))
    }

    /// The target of `/proc/<pid>/exe`, as the process sees its own path.
    ///
    /// # Errors
    /// [`ProcError::Read`] when the link cannot be read.
    pub fn exe_target(&self, pid: i32) -> Result<PathBuf, ProcError> {
        let path = self.path(pid, "exe");
        std::fs::read_link(&path).map_err(|e| ProcError::Read(path, e))
    }
}

/// What `/proc/<pid>/stat` says, as far as needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcStat {
    /// Start time in clock ticks since boot.
    pub start_time: u64,
}

impl ProcStat {
    /// Reads the start time of process `pid`.
    ///
    /// # Errors
    /// [`ProcError`] when the file cannot be read or parsed.
    pub fn read(root: &ProcRoot, pid: i32) -> Result<Self, ProcError> {
        let path = root.path(pid, "stat");
        Self::parse(&read_file(&path)?).ok_or(ProcError::Malformed(path, "no start time"))
    }

    /// Reads the start time through an open directory of the process.
    ///
    /// # Errors
    /// [`ProcError`] when the file cannot be read or parsed.
    pub fn read_at(dir: impl AsFd, pid: i32) -> Result<Self, ProcError> {
        let path = PathBuf::from(format!("/proc/{pid}/stat"));
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, "stat", flags, rustix::fs::Mode::empty())
            .map_err(|e| ProcError::Read(path.clone(), e.into()))?;
        let text = read_bounded(std::fs::File::from(file))
            .map_err(|e| ProcError::Read(path.clone(), e))?;
        Self::parse(&text).ok_or(ProcError::Malformed(path, "no start time"))
    }

    fn parse(stat: &[u8]) -> Option<Self> {
        // The command name may hold anything, ')' included: fields start after the last one.
        let after = stat.iter().rposition(|b| *b == b')')?;
        let rest = std::str::from_utf8(stat.get(after + 1..)?).ok()?;
        let start_time = rest.split_ascii_whitespace().nth(19)?.parse().ok()?;
        Some(Self { start_time })
    }
}

/// What `/proc/<pid>/status` says, as far as needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Effective user ID: the second column of `Uid:`.
    pub effective_uid: u32,
    /// Effective group ID: the second column of `Gid:`.
    pub effective_gid: u32,
    /// Supplementary group IDs: the `Groups:` line.
    pub groups: Vec<u32>,
}

impl Status {
    /// Reads users and groups of process `pid`.
    ///
    /// # Errors
    /// [`ProcError`] when the file cannot be read or parsed.
    pub fn read(root: &ProcRoot, pid: i32) -> Result<Self, ProcError> {
        let path = root.path(pid, "status");
        let text = read_file(&path)?;
        Self::parse(&text).ok_or(ProcError::Malformed(path, "no Uid:, Gid: or Groups: line"))
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let (mut uid, mut gid, mut groups) = (None, None, None);
        for line in text.split(|b| *b == b'\n') {
            let Some(at) = line.iter().position(|b| *b == b':') else { continue };
            let (key, value) = line.split_at(at);
            if !matches!(key, b"Uid" | b"Gid" | b"Groups") {
                continue;
            }
            let value = std::str::from_utf8(value.get(1..)?).ok()?;
            let mut numbers = value.split_ascii_whitespace().map(str::parse::<u32>);
            match key {
                b"Uid" => uid = Some(numbers.nth(1)?.ok()?),
                b"Gid" => gid = Some(numbers.nth(1)?.ok()?),
                _ => {
                    groups = Some(numbers.collect::<Result<Vec<_>, _>>().ok()?);
                    break;
                }
            }
        }
        Some(Self { effective_uid: uid?, effective_gid: gid?, groups: groups? })
    }
}

/// Now, in clock ticks since boot: comparable with [`ProcStat::start_time`].
///
/// # Errors
/// [`ProcError`] when the clock cannot be read.
pub fn now_ticks(root: &ProcRoot) -> Result<u64, ProcError> {
    use nix::unistd::{SysconfVar, sysconf};
    let failed = |e: nix::Error| ProcError::Read(root.0.join("uptime"), e.into());
    let hertz = sysconf(SysconfVar::CLK_TCK).map_err(failed)?.unwrap_or(100).max(1);
    let clock = nix::time::ClockId::CLOCK_BOOTTIME;
    let now = nix::time::clock_gettime(clock).map_err(failed)?;
    let (seconds, nanos) = (now.tv_sec().max(0) as u64, now.tv_nsec().max(0) as u64);
    let hertz = hertz as u64;
    Ok(seconds * hertz + nanos * hertz / 1_000_000_000)
}

fn read_file(path: &Path) -> Result<Vec<u8>, ProcError> {
    std::fs::File::open(path)
        .and_then(read_bounded)
        .map_err(|e| ProcError::Read(path.to_owned(), e))
}

fn read_bounded(file: std::fs::File) -> io::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(2048);
    file.take(MAX_PROC_FILE as u64 + 1).read_to_end(&mut text)?;
    if text.len() > MAX_PROC_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "longer than 256 KiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_parentheses_does_not_shift_the_fields() {
        let mut stat = b"42 (a) R b) (c) S".to_vec();
        for field in 4..=52 {
            stat.extend_from_slice(format!(" {field}").as_bytes());
        }
        assert_eq!(ProcStat::parse(&stat).unwrap().start_time, 22);
        assert!(ProcStat::parse(b"42 (x) S 1").is_none());
    }

    #[test]
    fn reads_effective_ids_and_groups() {
        let text = b"Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nFDSize:\t64\nGroups:\t4 24 \nx";
        let status = Status::parse(text).unwrap();
        assert_eq!((status.effective_uid, status.effective_gid), (2, 6));
        assert_eq!(status.groups, [4, 24]);
        assert!(Status::parse(b"Uid:\t1\n").is_none());
    }

    #[test]
    fn this_process_started_before_now() {
        let root = ProcRoot::default();
        let pid = std::process::id() as i32;
        assert!(ProcStat::read(&root, pid).unwrap().start_time <= now_ticks(&root).unwrap());
    }
}
