//! Unix sockets with modes, and what may be removed before binding one.

use std::{
    ffi::OsStr,
    fmt, fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use tokio::net::{UnixListener, UnixStream};

use super::ListenError;

/// The longest path of a Unix socket on Linux in bytes (108 with the zero at the end).
pub const MAX_SOCKET_PATH: usize = 107;

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 1_024;
/// How long a socket that exists may take to answer before it counts as in use.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The modes of a socket and of the directories made for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixOptions {
    /// The mode of each directory that has to be made, whatever the umask; `None` makes none.
    pub dir_mode: Option<u32>,
    /// The mode of the socket, whatever the umask.
    pub socket_mode: u32,
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

impl Drop for UnixSocket {
    fn drop(&mut self) {
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

/// Binds a Unix socket and gives it its mode before it can be connected to.
///
/// A socket that nobody listens on any more is removed first. Nothing else is ever removed.
///
/// # Errors
/// [`ListenError`], naming the path.
pub async fn bind_unix(path: &Path, options: UnixOptions) -> Result<UnixSocket, ListenError> {
    let length = path.as_os_str().as_bytes().len();
    if length > MAX_SOCKET_PATH {
        return Err(ListenError::PathTooLong { path: path.to_owned(), length });
    }
    if let (Some(mode), Some(parent)) = (options.dir_mode, path.parent()) {
        make_directories(parent, mode)?;
    }
    remove_stale(path).await?;
    let failed = |source: io::Error| ListenError::Unix { path: path.to_owned(), source };
    let address = SocketAddrUnix::new(path).map_err(|e| failed(e.into()))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|e| failed(e.into()))?;
    bind(&socket, &address).map_err(|error| match error {
        rustix::io::Errno::ADDRINUSE => ListenError::InUse(path.to_owned()),
        error => failed(error.into()),
    })?;
    // Until it listens, connections are refused: nobody slips in before the mode is set.
    fs::set_permissions(path, fs::Permissions::from_mode(options.socket_mode)).map_err(failed)?;
    let metadata = fs::symlink_metadata(path).map_err(failed)?;
    listen(&socket, BACKLOG).map_err(|e| failed(e.into()))?;
    let listener = UnixListener::from_std(socket.into()).map_err(failed)?;
    Ok(UnixSocket { listener, path: path.to_owned(), id: (metadata.dev(), metadata.ino()) })
}

/// Removes the socket at `path` if nobody listens on it; does nothing when nothing is there.
///
/// # Errors
/// [`ListenError`] when what is there is no socket, is in use, or cannot be examined or removed.
pub async fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let failed = |source: io::Error| ListenError::Unix { path: path.to_owned(), source };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if metadata.is_dir() {
        return Err(ListenError::IsDirectory(path.to_owned()));
    }
    if !metadata.file_type().is_socket() {
        return Err(ListenError::NotASocket(path.to_owned()));
    }
    match tokio::time::timeout(ANSWER_TIMEOUT, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
                _ => Ok(()),
            }
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A full queue (EAGAIN) means a busy listener.
        Ok(Err(error)) if error.kind() != io::ErrorKind::WouldBlock => Err(failed(error)),
        Ok(_) | Err(_) => Err(ListenError::InUse(path.to_owned())),
    }
}

fn make_directories(dir: &Path, mode: u32) -> Result<(), ListenError> {
    if dir.as_os_str() == OsStr::new("") || dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        make_directories(parent, mode)?;
    }
    let failed = |source| ListenError::Directory { path: dir.to_owned(), source };
    match fs::DirBuilder::new().mode(mode).create(dir) {
        // The umask may have taken bits that clients need.
        Ok(()) => fs::set_permissions(dir, fs::Permissions::from_mode(mode)).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: UnixOptions = UnixOptions { dir_mode: Some(0o755), socket_mode: 0o777 };

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[tokio::test]
    async fn socket_and_new_directories_get_their_modes_and_the_socket_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/api.sock");
        let socket = bind_unix(&path, UnixOptions { dir_mode: Some(0o751), socket_mode: 0o770 })
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
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
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
    async fn a_socket_that_was_replaced_is_left_to_its_new_owner() {
        let dir = tempfile::tempdir().unwrap();
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
        let dir = tempfile::tempdir().unwrap();
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
    async fn a_path_of_107_bytes_works_and_a_longer_one_is_refused_by_its_length() {
        let dir = tempfile::tempdir().unwrap();
        let room = MAX_SOCKET_PATH - dir.path().as_os_str().len() - 1;
        bind_unix(&dir.path().join("x".repeat(room)), OPEN).await.unwrap();
        let error = bind_unix(&dir.path().join("x".repeat(room + 1)), OPEN).await.unwrap_err();
        assert!(error.to_string().ends_with("is 108 bytes long; the system allows at most 107"));
    }
}
