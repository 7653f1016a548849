//! Checks that both programs make.

use std::{
    fs, io,
    net::{TcpStream, ToSocketAddrs},
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::Duration,
};

use nix::{
    sys::{
        resource::{Resource, getrlimit},
        statvfs::statvfs,
    },
    unistd::{AccessFlags, access, geteuid},
};
use signet_time::UnixTime;

use super::Finding;

/// Less than this deserves attention, bytes.
const LITTLE_SPACE: u64 = 256 * 1024 * 1024;
/// Less than this is too little to write anything, bytes.
const NO_SPACE: u64 = 4 * 1024 * 1024;
/// Fewer descriptors than this run out early.
const FEW_DESCRIPTORS: u64 = 4_096;
/// Where systemd says that the clock was set by the network.
const SYNCHRONIZED: &str = "/run/systemd/timesync/synchronized";
/// There with systemd-timesyncd alone.
const TIMESYNC: &str = "/run/systemd/timesync";
/// No program of ours was built before: 2025, Unix seconds.
const EARLIEST: UnixTime = UnixTime::from_seconds(1_735_689_600);
/// How long a port may take to answer.
const CONNECT: Duration = Duration::from_secs(3);

/// What must be possible with a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read it.
    Read,
    /// To read and change it.
    Write,
}

/// Whether the clock can be right.
pub fn clock(now: UnixTime) -> Finding {
    if now < EARLIEST {
        let next = "set the clock: certificates are not valid yet by it";
        return Finding::failed("clock", format!("it says {} s after 1970", now.seconds()), next);
    }
    if Path::new(TIMESYNC).is_dir() && !Path::new(SYNCHRONIZED).exists() {
        let next = "`timedatectl timesync-status` says which time server does not answer";
        return Finding::warning("clock", "systemd-timesyncd has not set it since the start", next);
    }
    Finding::ok("clock", format!("{} s after 1970", now.seconds()))
}

/// Whether this process may open enough files.
pub fn descriptors() -> Finding {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if hard < FEW_DESCRIPTORS => Finding::warning(
            "descriptors",
            format!("at most {hard} may be open"),
            "raise LimitNOFILE in the unit, or `ulimit -Hn` for this shell",
        ),
        Ok((_, hard)) => Finding::ok("descriptors", format!("up to {hard} may be open")),
        Err(error) => Finding::warning("descriptors", error.to_string(), ""),
    }
}

/// Whether a directory is there, ours, and takes files.
pub fn directory(check: &'static str, path: &Path, wanted: Access) -> Finding {
    let shown = path.display();
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound && wanted == Access::Write => {
            let next = format!("`mkdir -p {shown}`, owned by the user that the program runs as");
            return Finding::warning(check, format!("{shown} is not there yet"), next);
        }
        Err(error) => {
            return Finding::failed(check, format!("{shown}: {error}"), "check path and rights");
        }
    };
    if !metadata.is_dir() {
        return Finding::failed(check, format!("{shown} is no directory"), "name a directory");
    }
    if metadata.mode() & 0o002 != 0 && metadata.mode() & 0o1000 == 0 {
        let next = format!("`chmod o-w {shown}`");
        return Finding::failed(check, format!("everybody may write to {shown}"), next);
    }
    may(check, path, wanted, &metadata)
}

/// Whether a file is there and may be used.
pub fn file(check: &'static str, path: &Path, wanted: Access) -> Finding {
    match fs::metadata(path) {
        Ok(metadata) => may(check, path, wanted, &metadata),
        Err(error) => {
            let found = format!("{}: {error}", path.display());
            Finding::failed(check, found, "check path and rights")
        }
    }
}

/// Whether a file with a secret is there, and for its owner alone.
pub fn secret_file(check: &'static str, path: &Path) -> Finding {
    let found = file(check, path, Access::Read);
    let Ok(metadata) = fs::metadata(path) else { return found };
    if metadata.mode() & 0o077 != 0 {
        let shown = path.display();
        return Finding::failed(
            check,
            format!("others may read {shown} (mode {:04o})", metadata.mode() & 0o7777),
            format!("`chmod 0600 {shown}`; if others could read it, replace what it holds"),
        );
    }
    found
}

fn may(check: &'static str, path: &Path, wanted: Access, metadata: &fs::Metadata) -> Finding {
    let shown = path.display();
    let flags = match wanted {
        Access::Read => AccessFlags::R_OK,
        Access::Write => AccessFlags::R_OK | AccessFlags::W_OK,
    };
    let (uid, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if let Err(error) = access(path, flags) {
        return Finding::failed(
            check,
            format!(
                "user {} may not use {shown} (user {uid}, mode {mode:04o}): {error}",
                geteuid()
            ),
            "run this as the user that the program runs as, or change the owner",
        );
    }
    Finding::ok(check, format!("{shown} (user {uid}, mode {mode:04o})"))
}

/// Whether there is room on the disk of `path`.
pub fn disk_space(check: &'static str, path: &Path) -> Finding {
    let shown = path.display();
    let stat = match statvfs(path) {
        Ok(stat) => stat,
        Err(error) => return Finding::warning(check, format!("{shown}: {error}"), ""),
    };
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    let found = format!("{} MB are free below {shown}", free / (1024 * 1024));
    let next = "make room: nothing new is stored on a full disk";
    match (free, stat.files_available()) {
        (..NO_SPACE, _) => Finding::failed(check, found, next),
        (_, 0) if stat.files() > 0 => {
            Finding::failed(check, format!("no inodes are free below {shown}"), next)
        }
        (..LITTLE_SPACE, _) => Finding::warning(check, found, next),
        _ => Finding::ok(check, found),
    }
}

/// Whether somebody listens on a port.
pub fn port(check: &'static str, host: &str, port: u16, next: &str) -> Finding {
    let shown = format!("{host} port {port}");
    let addresses: Vec<_> = match (host, port).to_socket_addrs() {
        Ok(addresses) => addresses.collect(),
        Err(error) => {
            let next = "check the name, and /etc/resolv.conf of this machine";
            return Finding::failed(check, format!("{host}: {error}"), next);
        }
    };
    let mut last = "it has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(_) => return Finding::ok(check, format!("{shown} ({address}) answers")),
            Err(error) => last = format!("{address}: {error}"),
        }
    }
    Finding::failed(check, format!("{shown}: {last}"), next)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::unix::fs::PermissionsExt as _};

    use super::*;
    use crate::doctor::Level;

    #[test]
    fn a_clock_before_the_program_is_wrong() {
        assert_eq!(clock(UnixTime::EPOCH).level, Level::Failed);
        assert_ne!(clock(EARLIEST + 1).level, Level::Failed);
    }

    #[test]
    fn secrets_that_others_can_read_and_directories_that_they_can_write_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        assert_eq!(secret_file("keys", &path).level, Level::Failed);
        fs::write(&path, "{}").unwrap();
        for (mode, level) in [(0o644, Level::Failed), (0o600, Level::Ok)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(secret_file("keys", &path).level, level, "{mode:o}");
        }
        for (mode, level) in [(0o777, Level::Failed), (0o750, Level::Ok)] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(directory("data_dir", dir.path(), Access::Write).level, level, "{mode:o}");
        }
        let missing = directory("data_dir", &dir.path().join("no"), Access::Write);
        assert_eq!(missing.level, Level::Warning, "it is made at the start");
        assert_ne!(disk_space("disk", dir.path()).level, Level::Failed);
    }

    #[test]
    fn a_port_that_nobody_listens_on_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = listener.local_addr().unwrap().port();
        assert_eq!(port("port", "127.0.0.1", number, "start it").level, Level::Ok);
        drop(listener);
        let found = port("port", "127.0.0.1", number, "start it");
        assert_eq!((found.level, found.next.as_str()), (Level::Failed, "start it"));
    }
}
