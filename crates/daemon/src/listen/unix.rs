//! Unix sockets with modes, and what may be removed before binding one.

use std::{
    ffi::OsStr,
    fmt, fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{Access, AtFlags, CWD, accessat},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
};
use signet_base::LockedFile;
use tokio::net::{UnixListener, UnixStream};

use super::{
    ListenError,
    directory::{check_directory, make_directories, with_mode},
};

/// The longest path of a Unix socket on Linux in bytes (108 with the zero at the end).
pub const MAX_SOCKET_PATH: usize = 107;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1_024;
/// How long a socket that exists may take to answer before it counts as in use.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How often, and after which pause, the directory is tried to be locked.
const HOLD_TRIES: usize = 20;
const HOLD_PAUSE: Duration = Duration::from_millis(10);

/// The modes of a socket and of the directories made for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixOptions {
    /// The mode of each directory that has to be made, whatever the umask; `None` makes none.
    pub dir_mode: Option<u32>,
    /// The mode of the socket, whatever the umask.
    pub socket_mode: u32,
    /// What happens to a socket that another process listens on: the new one takes its place in
    /// one step, so that there is always one to connect to; else that is an error.
    pub take_over: bool,
}

/// A bound Unix socket, removed when dropped unless another one has taken its place.
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    id: (u64, u64),
}

impl UnixSocket {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// What the system answers.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl UnixSocket {
    /// Where this very socket is, for whoever looks later whether it is still there.
    pub fn place(&self) -> SocketPlace {
        SocketPlace { path: self.path.clone(), id: self.id }
    }
}

/// Where a socket was bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketPlace {
    path: PathBuf,
    id: (u64, u64),
}

impl SocketPlace {
    /// Whether the socket is there no more: it was removed, or another one took its place.
    pub fn is_lost(&self) -> bool {
        match fs::symlink_metadata(&self.path) {
            Ok(now) => (now.dev(), now.ino()) != self.id,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // Between looking and removing, another process must not put its socket there. If it is
        // doing so right now, it replaces this one by itself.
        let Some(_held) = hold(&self.path) else { return };
        if fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.id)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "Socket was not removed");
        }
    }
}

impl fmt::Debug for UnixSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnixSocket({})", self.path.display())
    }
}

/// Binds a Unix socket, which has its mode from the beginning.
///
/// A socket that nobody listens on any more is removed first; one that somebody listens on is
/// replaced if that is wanted. Nothing else is ever removed, and the directory stays the same one:
/// where it is mounted, the new socket is seen.
///
/// # Errors
/// [`ListenError`], naming the path.
pub async fn bind_unix(path: &Path, options: UnixOptions) -> Result<UnixSocket, ListenError> {
    let length = path.as_os_str().as_bytes().len();
    if length > MAX_SOCKET_PATH {
        return Err(ListenError::PathTooLong { path: path.to_owned(), length });
    }
    match (options.dir_mode, directory_of(path)) {
        (Some(mode), dir) => make_directories(dir, mode)?,
        (None, dir) => check_directory(dir)?,
    }
    match remove_stale(path).await {
        Ok(()) => listen_at(path, options.socket_mode),
        Err(ListenError::InUse(_)) if options.take_over => take_over(path, options).await,
        Err(error) => Err(error),
    }
}

/// Listens beside the socket that is in use, then moves the new one over it.
async fn take_over(path: &Path, options: UnixOptions) -> Result<UnixSocket, ListenError> {
    let failed = |source: io::Error| ListenError::Unix { path: path.to_owned(), source };
    let beside = beside(path);
    remove_stale(&beside).await?;
    let mut socket = listen_at(&beside, options.socket_mode)?;
    let mut held = None;
    for _ in 0..HOLD_TRIES {
        held = hold(path);
        if held.is_some() {
            break;
        }
        tokio::time::sleep(HOLD_PAUSE).await;
    }
    // Whoever can read the directory can keep it locked: that must not keep us from starting. The
    // process that listened before does not remove what it cannot lock.
    fs::rename(&beside, path).map_err(failed)?;
    drop(held);
    socket.path = path.to_owned();
    tracing::info!(path = %path.display(), "Took the socket over from another process");
    Ok(socket)
}

fn listen_at(path: &Path, mode: u32) -> Result<UnixSocket, ListenError> {
    let failed = |source: io::Error| ListenError::Unix { path: path.to_owned(), source };
    let address = SocketAddrUnix::new(path).map_err(|e| failed(e.into()))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|e| failed(e.into()))?;
    with_mode(mode, || bind(&socket, &address)).map_err(|error| match error {
        rustix::io::Errno::ADDRINUSE => ListenError::InUse(path.to_owned()),
        error => failed(error.into()),
    })?;
    let metadata = fs::symlink_metadata(path).map_err(failed)?;
    listen(&socket, BACKLOG).map_err(|e| failed(e.into()))?;
    let listener = UnixListener::from_std(socket.into()).map_err(failed)?;
    Ok(UnixSocket { listener, path: path.to_owned(), id: (metadata.dev(), metadata.ino()) })
}

/// The directory that a socket is in.
fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A name in the same directory that is no longer, so that it fits where the socket's does.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().as_bytes().to_vec();
    if let Some(last) = name.last_mut() {
        *last = if *last == b'~' { b'#' } else { b'~' };
    }
    path.with_file_name(OsStr::from_bytes(&name))
}

/// Keeps other processes of ours from exchanging sockets in the directory of `path`; none when one
/// is doing so.
fn hold(path: &Path) -> Option<LockedFile> {
    LockedFile::take(fs::File::open(directory_of(path)).ok()?).ok()
}

/// Looks whether [`bind_unix`] could bind `path`, as far as that can be told without making,
/// removing or connecting to anything: for programs that bind late.
///
/// # Errors
/// [`ListenError`]: the path is too long, something that is no socket is there, or its directory
/// is none, cannot be made, cannot be written to, or can be written to by others.
pub fn check_unix_path(path: &Path, options: UnixOptions) -> Result<(), ListenError> {
    let length = path.as_os_str().as_bytes().len();
    if length > MAX_SOCKET_PATH {
        return Err(ListenError::PathTooLong { path: path.to_owned(), length });
    }
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
        return socket_at(path).map(drop);
    };
    let failed = |source| ListenError::Directory { path: parent.to_owned(), source };
    // What is to be made is made below the nearest directory that is there.
    let makes = options.dir_mode.is_some();
    let there = parent.ancestors().find(|dir| !makes || dir.symlink_metadata().is_ok());
    let there = there.filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !fs::metadata(there).map_err(failed)?.is_dir() {
        let not_dir = format!("{} is not a directory", there.display());
        return Err(failed(io::Error::new(io::ErrorKind::NotADirectory, not_dir)));
    }
    let wanted = Access::WRITE_OK | Access::EXEC_OK;
    accessat(CWD, there, wanted, AtFlags::EACCESS).map_err(|error| failed(error.into()))?;
    check_directory(parent)?;
    socket_at(path).map(drop)
}

/// Looks whether another program listens at `path`, without removing anything.
///
/// # Errors
/// [`ListenError`] when what is there is no socket, is in use, or cannot be examined.
pub async fn check_unix_unused(path: &Path) -> Result<(), ListenError> {
    is_stale(path).await.map(drop)
}

/// Removes the socket at `path` if nobody listens on it; does nothing when nothing is there.
///
/// # Errors
/// [`ListenError`] when what is there is no socket, is in use, or cannot be examined or removed.
pub async fn remove_stale(path: &Path) -> Result<(), ListenError> {
    if !is_stale(path).await? {
        return Ok(());
    }
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(ListenError::Unix { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Whether a socket that nobody listens on is at `path`.
async fn is_stale(path: &Path) -> Result<bool, ListenError> {
    if !socket_at(path)? {
        return Ok(false);
    }
    match tokio::time::timeout(ANSWER_TIMEOUT, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        // A full queue (EAGAIN) means a busy listener.
        Ok(Err(source)) if source.kind() != io::ErrorKind::WouldBlock => {
            Err(ListenError::Unix { path: path.to_owned(), source })
        }
        Ok(_) | Err(_) => Err(ListenError::InUse(path.to_owned())),
    }
}

/// Whether there is a socket at `path`; anything else there is refused.
fn socket_at(path: &Path) -> Result<bool, ListenError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(ListenError::Unix { path: path.to_owned(), source }),
    };
    if metadata.is_dir() {
        return Err(ListenError::IsDirectory(path.to_owned()));
    }
    if !metadata.file_type().is_socket() {
        return Err(ListenError::NotASocket(path.to_owned()));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const OPEN: UnixOptions =
        UnixOptions { dir_mode: Some(0o755), socket_mode: 0o777, take_over: false };
    const TAKE: UnixOptions = UnixOptions { take_over: true, ..OPEN };

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    /// A directory of this test's own, whatever the umask is while another one binds.
    fn private_dir() -> tempfile::TempDir {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        tempfile::Builder::new().permissions(mode).tempdir().unwrap()
    }

    #[tokio::test]
    async fn socket_and_new_directories_get_their_modes_and_the_socket_goes_with_its_owner() {
        let dir = private_dir();
        let path = dir.path().join("a/b/api.sock");
        let socket = bind_unix(
            &path,
            UnixOptions { dir_mode: Some(0o751), socket_mode: 0o770, take_over: false },
        )
        .await
        .unwrap();
        assert_eq!(mode(&path), 0o770);
        assert_eq!(mode(&dir.path().join("a/b")), 0o751);
        assert_eq!(mode(&dir.path().join("a")), 0o751);
        let (client, served) = tokio::join!(UnixStream::connect(&path), socket.accept());
        assert!(client.is_ok() && served.is_ok());
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_directory_that_another_user_made_first_is_refused() {
        let dir = private_dir();
        let open = dir.path().join("public");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        for options in [OPEN, UnixOptions { dir_mode: None, ..OPEN }] {
            let error = bind_unix(&open.join("api.sock"), options).await.unwrap_err();
            assert!(matches!(error, ListenError::Untrusted { .. }), "{error}");
            let error = check_unix_path(&open.join("api.sock"), options).unwrap_err();
            assert!(matches!(error, ListenError::Untrusted { .. }), "{error}");
        }
        assert_eq!(fs::read_dir(&open).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_socket_that_is_removed_or_replaced_is_lost() {
        let dir = private_dir();
        let path = dir.path().join("api.sock");
        let socket = bind_unix(&path, OPEN).await.unwrap();
        let place = socket.place();
        assert!(!place.is_lost());
        fs::remove_file(&path).unwrap();
        assert!(place.is_lost());
        let other = bind_unix(&path, OPEN).await.unwrap();
        assert!(place.is_lost() && !other.place().is_lost());
        drop(socket);
        assert!(path.exists(), "it is the other one's");
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = private_dir();
        let path = dir.path().join("api.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let socket = bind_unix(&path, OPEN).await.unwrap();
        let error = bind_unix(&path, OPEN).await.unwrap_err();
        assert!(matches!(error, ListenError::InUse(_)), "{error}");
        assert!(path.exists(), "the refused one must not remove the other's socket");
        drop(socket);
    }

    #[tokio::test]
    async fn a_live_socket_is_taken_over_without_a_moment_in_which_nobody_can_connect() {
        let dir = private_dir();
        let path = dir.path().join("api.sock");
        let directory = fs::metadata(dir.path()).unwrap().ino();
        let mut now = bind_unix(&path, OPEN).await.unwrap();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let clients = std::thread::spawn({
            let (path, stop) = (path.clone(), stop.clone());
            move || {
                let mut connected = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) || connected == 0 {
                    match std::os::unix::net::UnixStream::connect(&path) {
                        Ok(_) => connected += 1,
                        // The queue is full: somebody listens.
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => panic!("after {connected} connections: {error}"),
                    }
                }
            }
        });
        for _ in 0..50 {
            let next = bind_unix(&path, TAKE).await.unwrap();
            assert_eq!(mode(&path), 0o777);
            // The old one ends after it was replaced, and leaves the new one alone.
            now = next;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        clients.join().unwrap();
        assert_eq!(fs::metadata(dir.path()).unwrap().ino(), directory);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
        drop(now);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_a_killed_process_left_beside_the_socket_is_no_hindrance() {
        let dir = private_dir();
        let path = dir.path().join("api.sock");
        let _first = bind_unix(&path, OPEN).await.unwrap();
        drop(std::os::unix::net::UnixListener::bind(dir.path().join("api.soc~")).unwrap());
        let second = bind_unix(&path, TAKE).await.unwrap();
        let (client, served) = tokio::join!(UnixStream::connect(&path), second.accept());
        assert!(client.is_ok() && served.is_ok());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_directory_that_a_workload_keeps_locked_stops_nobody() {
        let dir = private_dir();
        let path = dir.path().join("api.sock");
        let first = bind_unix(&path, OPEN).await.unwrap();
        let locked = hold(&path).unwrap();
        let second = bind_unix(&path, TAKE).await.unwrap();
        drop(first);
        assert!(UnixStream::connect(&path).await.is_ok());
        // It cannot look and remove in one step, so it leaves the dead socket to the next one.
        drop(second);
        assert!(path.exists());
        drop(locked);
        bind_unix(&path, OPEN).await.unwrap();
    }

    #[tokio::test]
    async fn a_socket_that_was_replaced_is_left_to_its_new_owner() {
        let dir = private_dir();
        let path = dir.path().join("api.sock");
        let first = bind_unix(&path, OPEN).await.unwrap();
        fs::remove_file(&path).unwrap();
        let second = bind_unix(&path, OPEN).await.unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
    }

    #[tokio::test]
    async fn files_directories_and_links_are_refused_and_left_alone() {
        let dir = private_dir();
        let file = dir.path().join("file");
        fs::write(&file, "precious").unwrap();
        let error = bind_unix(&file, OPEN).await.unwrap_err();
        assert!(matches!(error, ListenError::NotASocket(_)), "{error}");
        assert_eq!(fs::read(&file).unwrap(), b"precious");

        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let error = bind_unix(&link, OPEN).await.unwrap_err();
        assert!(matches!(error, ListenError::NotASocket(_)), "{error}");

        let error = bind_unix(dir.path(), OPEN).await.unwrap_err();
        assert!(matches!(error, ListenError::IsDirectory(_)), "{error}");

        let error = bind_unix(&file.join("api.sock"), OPEN).await.unwrap_err();
        assert!(matches!(error, ListenError::Directory { .. }), "{error}");
    }

    #[tokio::test]
    async fn what_cannot_be_bound_is_found_without_touching_anything() {
        let dir = private_dir();
        let at = |path: &str| dir.path().join(path);
        fs::write(at("file"), "precious").unwrap();
        for (path, expected) in [
            ("", "is a directory"),
            ("file", "exists and is not a socket"),
            ("file/api.sock", "creating directory"),
            ("file/below/api.sock", "creating directory"),
        ] {
            let error = check_unix_path(&at(path), OPEN).unwrap_err();
            assert!(error.to_string().contains(expected), "{path}: {error}");
        }
        check_unix_path(&at("a/b/api.sock"), OPEN).unwrap();
        check_unix_path(&at("api.sock"), OPEN).unwrap();
        let as_is = UnixOptions { dir_mode: None, ..OPEN };
        assert!(check_unix_path(&at("a/b/api.sock"), as_is).is_err(), "nobody makes it");
        if rustix::process::geteuid().is_root() {
            println!("not tried: root may write to every directory");
        } else {
            fs::create_dir(at("closed")).unwrap();
            fs::set_permissions(at("closed"), fs::Permissions::from_mode(0o555)).unwrap();
            let error = check_unix_path(&at("closed/a/api.sock"), OPEN).unwrap_err();
            assert!(matches!(error, ListenError::Directory { .. }), "{error}");
            fs::remove_dir(at("closed")).unwrap();
        }

        let socket = bind_unix(&at("live.sock"), OPEN).await.unwrap();
        check_unix_path(socket.path(), OPEN).unwrap();
        drop(std::os::unix::net::UnixListener::bind(at("stale.sock")).unwrap());
        check_unix_path(&at("stale.sock"), OPEN).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["file", "live.sock", "stale.sock"]);
    }

    #[tokio::test]
    async fn a_path_of_107_bytes_works_and_a_longer_one_is_refused_by_its_length() {
        let dir = private_dir();
        let room = MAX_SOCKET_PATH - dir.path().as_os_str().len() - 1;
        let longest = dir.path().join("x".repeat(room));
        let _first = bind_unix(&longest, OPEN).await.unwrap();
        bind_unix(&longest, TAKE).await.unwrap();
        let error = bind_unix(&dir.path().join("x".repeat(room + 1)), OPEN).await.unwrap_err();
        assert!(error.to_string().ends_with("is 108 bytes long; the system allows at most 107"));
    }
}
