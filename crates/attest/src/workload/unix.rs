//! Workload attestor `unix`: users, groups, path and hash of the calling process.
//!
//! What a process can make slow (a large executable, a file system that does not answer, thousands
//! of groups) is done on threads of its own, shared fairly between users, and ends when the caller
//! has gone or its time is up.

mod executable;
mod names;

use std::sync::Arc;

use signet_identity::Selector;

use self::{
    executable::{Executables, Hashing},
    names::{Kind, Names},
};
use super::{WorkloadAttestError, WorkloadAttestor};
use crate::{peer::PinnedPeer, procfs::Status};

/// The attestor's name and the type of its selectors.
pub const NAME: &str = "unix";

/// The largest executable that is hashed where no limit is set, bytes.
pub const DEFAULT_SIZE_LIMIT: u64 = 512 * 1024 * 1024;

/// Settings of the attestor, with SPIRE's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnixConfig {
    /// Whether `path` and `sha256` are found at all.
    pub discover_workload_path: bool,
    /// Largest executable that is hashed, bytes: 0 for no limit, negative for never hashing; over
    /// the limit is an error. Unset, a file over [`DEFAULT_SIZE_LIMIT`] has no `sha256`.
    pub workload_size_limit: Option<i64>,
}

/// The `unix` workload attestor.
#[derive(Debug)]
pub struct UnixAttestor {
    discover_workload_path: bool,
    executables: Arc<Executables>,
    names: Names,
}

impl UnixAttestor {
    /// An attestor with the given settings.
    pub fn new(config: UnixConfig) -> Self {
        let hashing = match config.workload_size_limit {
            None => Hashing::Small(DEFAULT_SIZE_LIMIT),
            Some(0) => Hashing::All,
            Some(limit) => u64::try_from(limit).map_or(Hashing::Never, Hashing::UpTo),
        };
        Self {
            discover_workload_path: config.discover_workload_path,
            executables: Arc::new(Executables::new(hashing)),
            names: Names::new(),
        }
    }
}

#[async_trait::async_trait]
impl WorkloadAttestor for UnixAttestor {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn attest(&self, peer: &PinnedPeer) -> Result<Vec<Selector>, WorkloadAttestError> {
        let status = Status::read(peer.proc_root(), peer.pid())?;
        // A caller that became another user after it connected (by a setuid program, say) may
        // share the socket with a process that did not: its new user must not count.
        if !peer.has_credentials(status.credentials) {
            return Err(WorkloadAttestError::Failed(
                "the process changed its user or group after it connected".to_owned(),
            ));
        }
        let mut found = self.ids_of(&status).await?;
        if self.discover_workload_path {
            let executable = self.executables.examine(peer).await?;
            if let Some(path) = &executable.path {
                found.push(selector("path", path)?);
            }
            if let Some(hash) = &executable.sha256 {
                found.push(selector("sha256", hash)?);
            }
        }
        Ok(found)
    }
}

impl UnixAttestor {
    async fn ids_of(&self, status: &Status) -> Result<Vec<Selector>, WorkloadAttestError> {
        let (uid, gid) = (status.credentials.uid, status.credentials.gid);
        let mut wanted = vec![(Kind::User, uid), (Kind::Group, gid)];
        wanted.extend(status.groups.iter().map(|group| (Kind::Group, *group)));
        let names = self.names.of(uid, &wanted).await;
        let mut found = Vec::with_capacity(2 * wanted.len());
        let keys = [("uid", "user"), ("gid", "group")].into_iter();
        let keys = keys.chain(std::iter::repeat(("supplementary_gid", "supplementary_group")));
        for (((id_key, name_key), (_, id)), name) in keys.zip(&wanted).zip(&names) {
            found.push(selector(id_key, &id.to_string())?);
            if let Some(name) = name {
                found.push(selector(name_key, name)?);
            }
        }
        Ok(found)
    }
}

fn selector(key: &str, value: &str) -> Result<Selector, WorkloadAttestError> {
    Selector::new(NAME, &format!("{key}:{value}"))
        .map_err(|error| WorkloadAttestError::Failed(format!("selector {key}: {error}")))
}
