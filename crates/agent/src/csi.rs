//! The CSI driver: gives pods the directory of the Workload API's socket as a volume.
//!
//! Compatible with spiffe-csi-driver: ephemeral inline volumes only, mounted read-only at the place
//! that the kubelet names. It runs inside the agent ([`serve`], `csi {}`) or as a program of its
//! own ([`run`], `signet-agent csi`), so that the agent need not be privileged.

mod error;
mod mountinfo;
pub mod run;
mod service;
pub mod settings;
mod target;
mod volume;

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use http::Request;
use signet_attest::procfs::ProcRoot;
use signet_base::Tasks;
use signet_daemon::listen::{ListenError, UnixOptions, bind_unix};
use tonic::{body::Body, service::Routes};
use tower::Service as _;

use self::settings::CsiSettings;
use crate::serve::endpoint::{self, Answer, MAX_REQUEST};

// For fuzz/.
#[doc(hidden)]
pub use mountinfo::mounted;

/// Who may connect: root, which the kubelet and its sidecars run as, or the driver's own user.
const SOCKET_MODE: u32 = 0o600;

/// Why the driver cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CsiError {
    /// The directory of the socket cannot be used.
    #[error("directory {} of the CSI socket {reason}", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it, and what is expected.
        reason: String,
    },
    /// The socket cannot be bound.
    #[error("CSI: {0}")]
    Listen(#[from] ListenError),
}

/// Binds the CSI socket and serves it until the tasks end. A driver that listens there already is
/// replaced without a moment in which nobody does.
///
/// # Errors
/// [`CsiError`] when the socket cannot be bound.
pub async fn serve(
    settings: &CsiSettings,
    proc_root: ProcRoot,
    tasks: &Tasks,
) -> Result<(), CsiError> {
    let path = settings.socket_path();
    check_directory(path.parent().unwrap_or(Path::new("/")))?;
    let options = UnixOptions { dir_mode: None, socket_mode: SOCKET_MODE, take_over: true };
    let socket = bind_unix(path, options).await?;
    tracing::info!(
        address = %path.display(),
        plugin_name = settings.plugin_name(),
        node_id = settings.node_id(),
        workload_api_socket_dir = %settings.workload_api_socket_dir().display(),
        "Serving CSI driver"
    );
    if settings.kubelet_dir().is_none() {
        tracing::warn!("Volumes are mounted anywhere: -kubelet-dir bounds them");
    }
    let api = CsiApi(service::Driver::new(settings).routes().prepare());
    let accept = tasks.token().clone();
    endpoint::serve("csi", (socket, accept), api, proc_root, None, tasks);
    Ok(())
}

/// The services of the CSI socket.
#[derive(Clone)]
struct CsiApi(Routes);

impl Answer for CsiApi {
    async fn answer(&self, request: Request<Body>) -> http::Response<Body> {
        match self.0.clone().call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    fn max_message(&self, _: &str) -> usize {
        MAX_REQUEST
    }
}

/// Who can write to the directory can put another socket in the place of ours, and would be told
/// by the kubelet where pods want their volumes.
fn check_directory(path: &Path) -> Result<(), CsiError> {
    let wrong = |reason: String| CsiError::Directory { path: path.to_owned(), reason };
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => wrong(
            "does not exist; it is the plugin directory of the kubelet, mounted into the \
             container"
                .to_owned(),
        ),
        _ => wrong(format!("cannot be used: {error}")),
    })?;
    if !metadata.is_dir() {
        return Err(wrong("is no directory".to_owned()));
    }
    if metadata.mode() & 0o002 != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(wrong(format!(
            "is writable by everyone (mode {mode:04o}); expected at most 0775"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_that_everyone_can_write_to_is_no_place_for_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        check_directory(dir.path()).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        let error = check_directory(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("is writable by everyone (mode 1777); expected at most 0775"));
        let error = check_directory(&dir.path().join("no")).unwrap_err().to_string();
        assert!(error.contains("/no of the CSI socket does not exist; it is the plugin directory"));
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(check_directory(&file).unwrap_err().to_string().ends_with("is no directory"));
    }
}
