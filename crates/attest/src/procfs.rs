//! The few files of `/proc` that attestation reads, each with a bound.

pub(crate) mod tcp;

use std::{
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The most bytes read of one `/proc` text file.
const MAX_PROC_FILE: usize = 256 * 1024;
/// The most bytes read of `/proc/<pid>/status`: [`MAX_GROUPS`] fit in, and what goes before them.
const MAX_STATUS: usize = 32 * 1024;

/// The most supplementary groups of a process that is attested: with their names they are about as
/// many selectors as one attestation may find.
pub const MAX_GROUPS: usize = 2000;

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
    /// The process has more supplementary groups than [`MAX_GROUPS`].
    #[error("the process has more than {MAX_GROUPS} supplementary groups")]
    TooManyGroups,
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

    /// Where it is.
    pub(crate) fn as_path(&self) -> &Path {
        &self.0
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

/// Effective user and group of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Effective user ID: the second column of `Uid:` in `/proc/<pid>/status`.
    pub uid: u32,
    /// Effective group ID: the second column of `Gid:`.
    pub gid: u32,
}

impl Credentials {
    /// Reads the user and group of process `pid`.
    ///
    /// # Errors
    /// [`ProcError`] when the file cannot be read or parsed.
    pub fn read(root: &ProcRoot, pid: i32) -> Result<Self, ProcError> {
        let path = root.path(pid, "status");
        // They stand near the beginning; the groups, which may be many, follow them.
        let text = std::fs::File::open(&path)
            .and_then(|file| read_up_to(file, 4096))
            .map_err(|e| ProcError::Read(path.clone(), e))?;
        Self::parse(&text).ok_or(ProcError::Malformed(path, "no Uid: or Gid: line"))
    }

    fn parse(status: &[u8]) -> Option<Self> {
        let second = |key| line(status, key)?.split_ascii_whitespace().nth(1)?.parse().ok();
        Some(Self { uid: second("Uid:")?, gid: second("Gid:")? })
    }
}

/// What `/proc/<pid>/status` says, as far as needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Effective user and group.
    pub credentials: Credentials,
    /// Supplementary group IDs: the `Groups:` line.
    pub groups: Vec<u32>,
}

impl Status {
    /// Reads users and groups of process `pid`.
    ///
    /// # Errors
    /// [`ProcError`] when the file cannot be read or parsed, or there are more groups than
    /// [`MAX_GROUPS`].
    pub fn read(root: &ProcRoot, pid: i32) -> Result<Self, ProcError> {
        let path = root.path(pid, "status");
        let text = std::fs::File::open(&path)
            .and_then(|file| read_up_to(file, MAX_STATUS))
            .map_err(|e| ProcError::Read(path.clone(), e))?;
        Self::parse(&text, &path)
    }

    fn parse(text: &[u8], path: &Path) -> Result<Self, ProcError> {
        let malformed = || ProcError::Malformed(path.to_owned(), "no Uid:, Gid: or Groups: line");
        let credentials = Credentials::parse(text).ok_or_else(malformed)?;
        let groups = line(text, "Groups:").ok_or_else(malformed)?;
        // What is longer was not read to its end.
        let is_cut = text.len() >= MAX_STATUS;
        if is_cut || groups.split_ascii_whitespace().nth(MAX_GROUPS).is_some() {
            return Err(ProcError::TooManyGroups);
        }
        let groups = groups.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>();
        Ok(Self { credentials, groups: groups.map_err(|_| malformed())? })
    }
}

/// What follows `key` on the line that begins with it.
fn line<'t>(text: &'t [u8], key: &str) -> Option<&'t str> {
    let mut lines = text.split(|b| *b == b'\n');
    std::str::from_utf8(lines.find_map(|line| line.strip_prefix(key.as_bytes()))?).ok()
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
    let text = read_up_to(file, MAX_PROC_FILE + 1)?;
    if text.len() > MAX_PROC_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "longer than 256 KiB"));
    }
    Ok(text)
}

fn read_up_to(file: std::fs::File, most: usize) -> io::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(most.min(2048));
    file.take(most as u64).read_to_end(&mut text)?;
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
        let parse = |text: &[u8]| Status::parse(text, Path::new("status"));
        let text = b"Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nFDSize:\t64\nGroups:\t4 24 \nx";
        let status = parse(text).unwrap();
        assert_eq!(status.credentials, Credentials { uid: 2, gid: 6 });
        assert_eq!(status.groups, [4, 24]);
        assert!(parse(b"Uid:\t1\n").is_err());
        // A name is escaped by the kernel, and no line of its own.
        let text = b"Name:\tUid:\\nUid:\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t\n";
        assert_eq!(parse(text).unwrap().credentials, Credentials { uid: 2, gid: 6 });
    }

    #[test]
    fn more_groups_than_may_be_are_refused() {
        let status = |count: usize| {
            let groups: String = (0..count).map(|group| format!("{group} ")).collect();
            format!("Uid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t{groups}\n")
        };
        let parse = |count| Status::parse(status(count).as_bytes(), Path::new("status"));
        assert_eq!(parse(MAX_GROUPS).unwrap().groups.len(), MAX_GROUPS);
        for count in [MAX_GROUPS + 1, 10 * MAX_GROUPS] {
            let cut = status(count).into_bytes();
            let cut = cut.get(..MAX_STATUS).unwrap_or(&cut);
            let refused = Status::parse(cut, Path::new("status"));
            assert!(matches!(refused, Err(ProcError::TooManyGroups)), "{count}");
        }
        // Numbers of ten digits, and as long a status before them as the kernel writes.
        let longest = format!(
            "{}\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t{}\n{}\n",
            "x".repeat(256),
            "4294967294 ".repeat(MAX_GROUPS),
            "y".repeat(4096),
        );
        assert!(longest.len() < MAX_STATUS);
        assert_eq!(
            Status::parse(longest.as_bytes(), Path::new("status")).unwrap().groups.len(),
            MAX_GROUPS
        );
    }

    #[test]
    fn this_process_started_before_now() {
        let root = ProcRoot::default();
        let pid = std::process::id() as i32;
        assert!(ProcStat::read(&root, pid).unwrap().start_time <= now_ticks(&root).unwrap());
    }
}
