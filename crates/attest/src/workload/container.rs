//! Which containers a process's cgroup paths name, outermost first.
//!
//! A container with a writable cgroup file system can make directories *below* its own, with any
//! name: `…/pod<own>/<own id>/pod<victim>/<victim id>`. So the pairs of a path are returned in the
//! order from the root, and a caller takes the outermost pair that the kubelet (or the container
//! engine) confirms; what stands below that one is never consulted. Container managers that nest
//! (kind, Docker in Docker) put the engine's own containers outside: those are pairs as well, and
//! the kubelet does not confirm them.
//!
//! `mountinfo` is not read: a workload can forge it.

mod viewpoint;

use std::fmt;

pub use viewpoint::{Viewpoint, pod_containers};

/// The most cgroup lines and the longest path that are read.
const MAX_LINES: usize = 64;
const MAX_PATH: usize = 4096;

/// A container that a cgroup path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The pod's UID, with dashes where it has them; unset outside Kubernetes.
    pub pod_uid: Option<String>,
    /// The container ID, 64 lower-case hex digits.
    pub container_id: String,
}

/// The container engine that a path names itself after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Docker, containerd, CRI-O or unknown.
    Other,
    /// Podman: the path holds `libpod-` or `/libpod/`.
    Podman,
}

/// Why a cgroup file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// Two hierarchies name different containers.
    #[error("cgroup hierarchies disagree about the container: {0} and {1}")]
    Disagree(Chain, Chain),
    /// A line is not `id:controllers:path`.
    #[error("malformed line {0} in the cgroup file")]
    Malformed(usize),
    /// More lines, or a longer path, than the kernel writes.
    #[error("the cgroup file is too long")]
    TooLong,
}

/// The containers of one path, outermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain(Vec<Candidate>);

impl Chain {
    /// The containers, outermost first.
    pub fn candidates(&self) -> &[Candidate] {
        &self.0
    }

    /// Whether no container is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, candidate) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { " > " };
            write!(f, "{separator}{}", candidate.container_id)?;
        }
        Ok(())
    }
}

/// Reads `/proc/<pid>/cgroup` and returns the containers it names, outermost first.
///
/// All hierarchies (cgroup v1 has several) that name a container must name the same ones; a
/// hierarchy that names none, or just the outer ones, does not count against the others.
///
/// # Errors
/// [`CgroupError`] when the file is malformed or its hierarchies disagree.
pub fn containers(cgroup: &str) -> Result<(Chain, Engine), CgroupError> {
    let mut engine = Engine::Other;
    let found = merged(cgroup, |path| {
        if path.contains("libpod-") || path.contains("/libpod/") {
            engine = Engine::Podman;
        }
        chain_of(path)
    })?;
    Ok((found, engine))
}

/// What the hierarchies name together.
pub(super) fn merged(
    cgroup: &str,
    mut chain_of: impl FnMut(&str) -> Chain,
) -> Result<Chain, CgroupError> {
    let mut found = Chain::default();
    for path in paths(cgroup) {
        let chain = chain_of(path?);
        let shared = found.0.len().min(chain.0.len());
        if found.0.get(..shared) != chain.0.get(..shared) {
            return Err(CgroupError::Disagree(found, chain));
        }
        if chain.0.len() > found.0.len() {
            found = chain;
        }
    }
    Ok(found)
}

/// The path of each hierarchy.
fn paths(cgroup: &str) -> impl Iterator<Item = Result<&str, CgroupError>> {
    cgroup.lines().enumerate().map(|(at, line)| {
        if at >= MAX_LINES || line.len() > MAX_PATH {
            return Err(CgroupError::TooLong);
        }
        let mut parts = line.splitn(3, ':');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(_), Some(_), Some(path)) => Ok(path),
            _ => Err(CgroupError::Malformed(at + 1)),
        }
    })
}

fn chain_of(path: &str) -> Chain {
    let mut chain = Vec::new();
    let mut pod_uid = None;
    for segment in path.split('/') {
        if let Some(uid) = pod_uid_of(segment) {
            pod_uid = Some(uid);
        }
        if let Some(container_id) = container_id_of(segment) {
            chain.push(Candidate { pod_uid: pod_uid.clone(), container_id });
        }
    }
    Chain(chain)
}

/// A run of exactly 64 hex digits that stands alone between other characters.
fn container_id_of(segment: &str) -> Option<String> {
    // CRI-O's monitor of a container is not in it.
    if segment.contains("conmon") {
        return None;
    }
    segment
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .find(|word| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit()))
        .map(str::to_ascii_lowercase)
}

/// `pod` and a UID: a UUID with `-` or (systemd driver) `_`, or the 32 hex digits of a static pod.
fn pod_uid_of(segment: &str) -> Option<String> {
    for (at, _) in segment.match_indices("pod") {
        let before = segment.get(..at)?.bytes().next_back();
        if before.is_some_and(|b| b.is_ascii_alphanumeric()) {
            continue;
        }
        let rest = segment.get(at + 3..)?;
        let end = rest
            .find(|c: char| !(c.is_ascii_hexdigit() || matches!(c, '-' | '_')))
            .unwrap_or(rest.len());
        let uid = rest.get(..end)?.replace('_', "-").to_ascii_lowercase();
        if is_uuid(&uid) || (uid.len() == 32 && uid.bytes().all(|b| b.is_ascii_hexdigit())) {
            return Some(uid);
        }
    }
    None
}

fn is_uuid(text: &str) -> bool {
    let lengths = text.split('-').map(str::len);
    lengths.eq([8, 4, 4, 4, 12])
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "2c48913c-b29f-11e7-9350-020968147796";
    const OTHER: &str = "9bca8d63-d5fa-11e6-b2c4-0242ac110002";

    fn id(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    fn pairs(cgroup: &str) -> Vec<(Option<String>, String)> {
        let (chain, _) = containers(cgroup).unwrap();
        chain.candidates().iter().map(|c| (c.pod_uid.clone(), c.container_id.clone())).collect()
    }

    #[test]
    fn reads_the_path_of_every_runtime_and_driver() {
        let (a, under) = (id('a'), POD.replace('-', "_"));
        let kube = |path: String| {
            assert_eq!(pairs(&format!("0::{path}\n")), [(Some(POD.to_owned()), id('a'))], "{path}");
        };
        kube(format!("/kubepods/burstable/pod{POD}/{a}"));
        kube(format!("/kubepods/pod{POD}/{a}"));
        kube(format!("/../../../burstable/pod{POD}/{a}"));
        kube(format!("/../../pod{POD}/{a}"));
        let slice = format!("kubepods-besteffort-pod{under}.slice");
        for scope in ["cri-containerd-", "crio-", "docker-"] {
            kube(format!("/kubepods.slice/kubepods-besteffort.slice/{slice}/{scope}{a}.scope"));
        }
        kube(format!("/kubepods.slice/{slice}/crio-{a}.scope/container"));
        kube(format!("/system.slice/x.service/{slice}:cri-containerd:{a}"));
        for path in [
            format!("/docker/{a}"),
            format!("/system.slice/docker-{a}.scope"),
            format!("/machine.slice/libpod-{a}.scope/container"),
        ] {
            assert_eq!(pairs(&format!("0::{path}")), [(None, id('a'))], "{path}");
        }
        let uid = "0123456789abcdef0123456789abcdef";
        assert_eq!(
            pairs(&format!("0::/kubepods/burstable/pod{uid}/{a}")),
            [(Some(uid.to_owned()), id('a'))]
        );
        assert!(pairs("0::/user.slice/user-1000.slice\n").is_empty());
        assert!(pairs("0::/\n").is_empty());
        assert!(pairs("").is_empty());
    }

    #[test]
    fn a_forged_inner_path_stands_behind_the_real_one() {
        let (own, victim) = (id('a'), id('b'));
        let forged = format!("0::/kubepods/pod{POD}/{own}/pod{OTHER}/{victim}");
        assert_eq!(pairs(&forged), [(Some(POD.to_owned()), own), (Some(OTHER.to_owned()), victim)]);
    }

    #[test]
    fn a_nested_cluster_gives_the_node_container_first() {
        let (node, inner) = (id('a'), id('b'));
        let kind = format!("0::/docker/{node}/kubelet/kubepods/burstable/pod{POD}/{inner}");
        assert_eq!(pairs(&kind), [(None, node), (Some(POD.to_owned()), inner)]);
    }

    #[test]
    fn hierarchies_of_cgroup_v1_must_agree() {
        let (a, b) = (id('a'), id('b'));
        let same = format!(
            "4:memory:/kubepods/pod{POD}/{a}\n1:name=systemd:/\n0::/kubepods/pod{POD}/{a}\n"
        );
        assert_eq!(pairs(&same), [(Some(POD.to_owned()), a.clone())]);
        let differ = format!("4:memory:/kubepods/pod{POD}/{a}\n0::/kubepods/pod{POD}/{b}\n");
        assert!(matches!(containers(&differ), Err(CgroupError::Disagree(..))));
        assert_eq!(containers("4:memory"), Err(CgroupError::Malformed(1)));
        assert_eq!(containers(&format!("0::/{}", "x".repeat(5000))), Err(CgroupError::TooLong));
    }

    #[test]
    fn tells_podman() {
        let (_, engine) = containers(&format!("0::/libpod_parent/libpod-{}", id('a'))).unwrap();
        assert_eq!(engine, Engine::Podman);
    }
}
