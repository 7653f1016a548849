//! What can go wrong with a volume.

use std::{io, path::PathBuf};

use super::mountinfo::MountInfoError;

/// Why something could not be done to a volume.
#[derive(Debug, thiserror::Error)]
pub(super) enum VolumeError {
    /// The system refused.
    #[error("{doing} {}: {source}", .path.display())]
    Io {
        /// Such as `mounting`.
        doing: &'static str,
        /// What.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The mount table could not be read.
    #[error(transparent)]
    MountInfo(#[from] MountInfoError),
    /// There is nothing at the path.
    #[error("{0:?} does not exist")]
    Nothing(String),
    /// Something is in the place of the volume.
    #[error("target path {} is {what}; a directory is expected", .path.display())]
    Occupied {
        /// The target.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The path is not one that is worked on.
    #[error("path {0}")]
    Path(String),
    /// The directory to mount cannot be used.
    #[error(
        "directory {} of the Workload API's socket: {source}; the agent creates it, and it must \
         be mounted into the container of the CSI driver", .path.display()
    )]
    Source {
        /// The directory.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The target shows something else than what was mounted.
    #[error("mounting {}: something else was mounted at the same time", .0.display())]
    Unstable(PathBuf),
}
