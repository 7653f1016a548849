//! The caller of a Unix socket, pinned when its connection is accepted.
//!
//! Order of means, best first: `SO_PEERPIDFD` (Linux 6.5 and later); else `SO_PEERCRED`, then
//! `pidfd_open`, then start time and uid from `/proc`, refused unless they agree with the peer's
//! credentials and the process did not start after the accept; else (before Linux 5.3) a
//! directory handle on `/proc/<pid>` and the start time, as SPIRE does it. A process that exits
//! and whose pid is reused never inherits an identity: every check asks the pinned handle, not
//! the number.

use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::sys::socket::{getsockopt, sockopt};
use tokio::io::{Interest, unix::AsyncFd};

use crate::procfs::{Credentials, ProcRoot, ProcStat};

/// How often a process without a handle is looked at.
const LIVENESS_CHECK: std::time::Duration = std::time::Duration::from_secs(1);

/// How a caller was pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinMode {
    /// By `SO_PEERPIDFD`: the kernel handed out the handle with the connection.
    PeerPidfd,
    /// By `pidfd_open` on the pid of `SO_PEERCRED`, cross-checked with `/proc`.
    PidfdOpen,
    /// By a directory handle on `/proc/<pid>`.
    ProcDir,
}

impl PinMode {
    /// A stable name for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PeerPidfd => "so_peerpidfd",
            Self::PidfdOpen => "pidfd_open",
            Self::ProcDir => "procfs",
        }
    }
}

/// Why a caller could not be pinned, or is no longer who it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The socket gives no credentials.
    #[error("reading the caller's credentials from the socket")]
    Credentials(#[source] nix::Error),
    /// The process has exited.
    #[error("caller (pid {0}) has exited")]
    Exited(i32),
    /// The caller lives in a pid namespace that this process cannot see.
    #[error(
        "caller has no pid in this pid namespace: run the agent in the host's pid namespace (hostPID)"
    )]
    ForeignPidNamespace,
    /// The process behind the pid is not the one that connected.
    #[error("process {0} is not the one that connected ({1})")]
    Replaced(i32, &'static str),
    /// `/proc` could not be read.
    #[error(transparent)]
    Proc(#[from] crate::procfs::ProcError),
    /// The caller came over the network: there is no process to be seen.
    #[error("the caller is not on this machine")]
    Remote,
    /// The handle on the process could not be opened.
    #[error("opening a handle on process {0}")]
    Open(i32, #[source] std::io::Error),
}

/// A caller, pinned. Holds a handle on the process for as long as it lives.
pub struct PinnedPeer {
    pid: i32,
    uid: u32,
    gid: u32,
    mode: PinMode,
    pidfd: Option<OwnedFd>,
    dir: Option<OwnedFd>,
    start_time: u64,
    proc_root: ProcRoot,
}

impl PinnedPeer {
    /// Pins the caller at the other end of a connected Unix stream socket.
    ///
    /// # Errors
    /// [`PeerError`] when the caller cannot be pinned: it has exited, cannot be seen, or the pid
    /// no longer names the process that connected.
    pub fn from_socket(socket: impl AsFd, proc_root: &ProcRoot) -> Result<Self, PeerError> {
        let credentials =
            getsockopt(&socket, sockopt::PeerCredentials).map_err(PeerError::Credentials)?;
        let (pid, uid, gid) = (credentials.pid(), credentials.uid(), credentials.gid());
        if pid <= 0 {
            return Err(PeerError::ForeignPidNamespace);
        }
        match getsockopt(&socket, sockopt::PeerPidfd) {
            Ok(pidfd) => {
                let start_time = ProcStat::read(proc_root, pid)?.start_time;
                let peer = Self {
                    pid,
                    uid,
                    gid,
                    mode: PinMode::PeerPidfd,
                    pidfd: Some(pidfd),
                    dir: None,
                    start_time,
                    proc_root: proc_root.clone(),
                };
                // Alive after /proc was read: so what was read was this process's.
                if peer.is_alive() { Ok(peer) } else { Err(PeerError::Exited(pid)) }
            }
            Err(nix::Error::ESRCH | nix::Error::EINVAL) => Err(PeerError::Exited(pid)),
            Err(_) => Self::from_pid(pid, uid, gid, proc_root),
        }
    }

    /// Pins a process by number, where the kernel gives no handle with the connection, or where
    /// an authorised caller named the pid. `uid` is checked against `/proc`.
    ///
    /// # Errors
    /// As [`PinnedPeer::from_socket`].
    pub fn from_pid(pid: i32, uid: u32, gid: u32, proc_root: &ProcRoot) -> Result<Self, PeerError> {
        let now = crate::procfs::now_ticks(proc_root)?;
        let raw = rustix::process::Pid::from_raw(pid).ok_or(PeerError::ForeignPidNamespace)?;
        let (mode, pidfd, dir) =
            match rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty()) {
                Ok(fd) => (PinMode::PidfdOpen, Some(fd), None),
                Err(rustix::io::Errno::SRCH) => return Err(PeerError::Exited(pid)),
                Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
                    let dir = proc_root.open_dir(pid)?;
                    (PinMode::ProcDir, None, Some(dir))
                }
                Err(error) => return Err(PeerError::Open(pid, error.into())),
            };
        let stat = ProcStat::read(proc_root, pid)?;
        if stat.start_time > now {
            return Err(PeerError::Replaced(pid, "it started after the connection was accepted"));
        }
        if Credentials::read(proc_root, pid)?.uid != uid {
            return Err(PeerError::Replaced(pid, "its user differs from the caller's"));
        }
        let peer = Self {
            pid,
            uid,
            gid,
            mode,
            pidfd,
            dir,
            start_time: stat.start_time,
            proc_root: proc_root.clone(),
        };
        if peer.is_alive() { Ok(peer) } else { Err(PeerError::Exited(pid)) }
    }

    /// Pins a process that an authorised caller named by its pid alone (the Delegated Identity
    /// API, `explain`): its user is whatever `/proc` says now.
    ///
    /// # Errors
    /// As [`PinnedPeer::from_socket`].
    pub fn from_named_pid(pid: i32, proc_root: &ProcRoot) -> Result<Self, PeerError> {
        if pid <= 0 {
            return Err(PeerError::ForeignPidNamespace);
        }
        let Credentials { uid, gid } = Credentials::read(proc_root, pid)?;
        Self::from_pid(pid, uid, gid, proc_root)
    }

    /// The process ID in the agent's pid namespace. For `/proc` paths and logs; never a key.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The effective user ID at connect time.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The effective group ID at connect time.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// How the caller was pinned.
    pub fn mode(&self) -> PinMode {
        self.mode
    }

    /// The `/proc` this peer is read from.
    pub fn proc_root(&self) -> &ProcRoot {
        &self.proc_root
    }

    /// A handle that becomes readable when the process exits, where the kernel has one.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// Whether the pinned process is still there.
    pub fn is_alive(&self) -> bool {
        if let Some(pidfd) = &self.pidfd {
            let mut fds = [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            return matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(0));
        }
        let Some(dir) = &self.dir else { return false };
        ProcStat::read_at(dir, self.pid).is_ok_and(|stat| stat.start_time == self.start_time)
    }

    /// Completes when the pinned process has exited.
    pub async fn exited(&self) {
        if let Some(pidfd) = self.pidfd() {
            let mut watched = readable(pidfd).await;
            // Somebody watches this handle already: another handle can be watched beside it.
            if watched.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
                watched = match pidfd.try_clone_to_owned() {
                    Ok(another) => readable(another).await,
                    Err(error) => Err(error),
                };
            }
            match watched {
                Ok(()) => return,
                Err(error) => tracing::debug!(%error, "Cannot watch a pidfd"),
            }
        }
        while self.is_alive() {
            tokio::time::sleep(LIVENESS_CHECK).await;
        }
    }

    /// Whether these are the user and group the caller had when it connected.
    pub fn has_credentials(&self, credentials: Credentials) -> bool {
        credentials == Credentials { uid: self.uid, gid: self.gid }
    }

    /// Checks after attesting that what was read from `/proc/<pid>` was the pinned process's:
    /// it still lives, the pid still names it, and it is still the user that connected.
    ///
    /// # Errors
    /// [`PeerError`] when the process has exited or was replaced.
    pub fn verify(&self) -> Result<(), PeerError> {
        if !self.is_alive() {
            return Err(PeerError::Exited(self.pid));
        }
        // A live pidfd keeps its pid from being reused: only without one must the number be
        // checked again.
        if self.mode == PinMode::ProcDir
            && ProcStat::read(&self.proc_root, self.pid)?.start_time != self.start_time
        {
            return Err(PeerError::Replaced(self.pid, "its start time changed"));
        }
        if !self.has_credentials(Credentials::read(&self.proc_root, self.pid)?) {
            return Err(PeerError::Replaced(self.pid, "it changed its user or group"));
        }
        Ok(())
    }
}

/// Completes when a handle is readable.
async fn readable(handle: impl AsRawFd) -> io::Result<()> {
    #[allow(
        deprecated,
        reason = "its replacement is unsafe; the handle is owned or borrowed for as long as it is \
                  watched, so it stays open"
    )]
    let watched = AsyncFd::with_interest(handle, Interest::READABLE)?;
    watched.readable().await.map(drop)
}

impl fmt::Debug for PinnedPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedPeer")
            .field("pid", &self.pid)
            .field("uid", &self.uid)
            .field("gid", &self.gid)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}
