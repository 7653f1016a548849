//! Workload attestor `unix`: users, groups, path and hash of the calling process.

use std::{fs::File, io::Read, os::unix::fs::MetadataExt};

use nix::unistd::{Gid, Group, Uid, User};
use signet_identity::Selector;
use signet_pki::digest::Sha256;

use super::{WorkloadAttestError, WorkloadAttestor};
use crate::{
    peer::PinnedPeer,
    procfs::{ProcError, Status},
};

/// The attestor's name and the type of its selectors.
pub const NAME: &str = "unix";

/// Settings of the attestor, with SPIRE's names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnixConfig {
    /// Whether `path` and `sha256` are found at all.
    pub discover_workload_path: bool,
    /// Largest executable that is hashed, bytes: 0 for no limit, negative for never hashing;
    /// over the limit is an error.
    pub workload_size_limit: i64,
}

/// The `unix` workload attestor.
#[derive(Debug)]
pub struct UnixAttestor {
    config: UnixConfig,
}

impl UnixAttestor {
    /// An attestor with the given settings.
    pub fn new(config: UnixConfig) -> Self {
        Self { config }
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
        if !peer.has_credentials_of(&status) {
            return Err(WorkloadAttestError::Failed(
                "the process changed its user or group after it connected".to_owned(),
            ));
        }
        let mut found = ids_of(&status)?;
        if self.config.discover_workload_path {
            let target = peer.proc_root().exe_target(peer.pid())?;
            let text = target.to_str().ok_or_else(|| {
                WorkloadAttestError::Failed("path of the executable is not UTF-8".to_owned())
            })?;
            found.push(selector("path", text)?);
            if self.config.workload_size_limit >= 0 {
                found.push(selector("sha256", &self.hash_executable(peer).await?)?);
            }
        }
        Ok(found)
    }
}

impl UnixAttestor {
    /// Hashes the running executable through `/proc/<pid>/exe`, so that the file that was
    /// executed is read, whatever its path names by now, in whatever mount namespace.
    async fn hash_executable(&self, peer: &PinnedPeer) -> Result<String, WorkloadAttestError> {
        let path = peer.proc_root().path(peer.pid(), "exe");
        let limit = self.config.workload_size_limit;
        let hashing = tokio::task::spawn_blocking(move || {
            let read = |e| WorkloadAttestError::Proc(ProcError::Read(path.clone(), e));
            let mut file = File::open(&path).map_err(read)?;
            let size = file.metadata().map_err(read)?.size();
            if limit > 0 && size > limit as u64 {
                return Err(WorkloadAttestError::Failed(format!(
                    "workload {} exceeds size limit ({size} > {limit})",
                    path.display()
                )));
            }
            let mut hash = Sha256::new();
            let mut chunk = vec![0u8; 64 * 1024];
            let mut total = 0u64;
            loop {
                let read_now = file.read(&mut chunk).map_err(read)?;
                let Some(bytes) = chunk.get(..read_now).filter(|bytes| !bytes.is_empty()) else {
                    break;
                };
                hash.update(bytes);
                // A file that grows while it is read must not be read for ever.
                total = total.saturating_add(read_now as u64);
                if total > size {
                    return Err(WorkloadAttestError::Failed(format!(
                        "workload {} grew while it was hashed",
                        path.display()
                    )));
                }
            }
            Ok(hex::encode(hash.finish()))
        });
        hashing
            .await
            .map_err(|_| WorkloadAttestError::Failed("hashing was cancelled".to_owned()))?
    }
}

fn ids_of(status: &Status) -> Result<Vec<Selector>, WorkloadAttestError> {
    let mut found = Vec::with_capacity(4 + 2 * status.groups.len());
    found.push(selector("uid", &status.effective_uid.to_string())?);
    if let Some(user) = user_name(status.effective_uid) {
        found.push(selector("user", &user)?);
    }
    found.push(selector("gid", &status.effective_gid.to_string())?);
    if let Some(group) = group_name(status.effective_gid) {
        found.push(selector("group", &group)?);
    }
    for gid in &status.groups {
        found.push(selector("supplementary_gid", &gid.to_string())?);
        if let Some(group) = group_name(*gid) {
            found.push(selector("supplementary_group", &group)?);
        }
    }
    Ok(found)
}

fn user_name(uid: u32) -> Option<String> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
}

fn group_name(gid: u32) -> Option<String> {
    Group::from_gid(Gid::from_raw(gid)).ok().flatten().map(|group| group.name)
}

fn selector(key: &str, value: &str) -> Result<Selector, WorkloadAttestError> {
    Selector::new(NAME, &format!("{key}:{value}"))
        .map_err(|error| WorkloadAttestError::Failed(format!("selector {key}: {error}")))
}
