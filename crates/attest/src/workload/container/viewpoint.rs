//! Which pod a cgroup path names, as seen from the agent.
//!
//! Anybody who may make cgroups somewhere can name them like a pod's: a container below its own, a
//! user's session below `user@1000.service`. What they cannot do is to make them where this
//! node's kubelet makes its own. So where the agent itself runs in a pod of this kubelet, which is
//! the usual case, a pod must be exactly where the agent's pod is. That also finds the right pod
//! in nested clusters (kind, a kubelet within a pod): the agent is in the same one.
//!
//! An agent on the host has no pod to compare with. There, places that are delegated to users are
//! not believed, and of the pods on a path only the outermost.

use super::{Candidate, CgroupError, Chain, container_id_of, merged, paths, pod_uid_of};
use crate::procfs::ProcRoot;

/// Where the agent is in the cgroup hierarchies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Viewpoint {
    /// The paths below which the kubelet has its pods, by the agent's own path.
    bases: Vec<Vec<String>>,
}

impl Viewpoint {
    /// The agent's own place.
    pub fn own(root: &ProcRoot) -> Self {
        let Ok(pid) = i32::try_from(std::process::id()) else { return Self::default() };
        Self::of(&String::from_utf8_lossy(&root.read(pid, "cgroup").unwrap_or_default()))
    }

    /// The place of an agent whose cgroup file says `cgroup`.
    pub fn of(cgroup: &str) -> Self {
        let mut viewpoint = Self::default();
        for path in paths(cgroup).flatten() {
            let segments: Vec<&str> = segments(path).collect();
            // The agent makes no cgroups: the innermost pod is its own.
            let Some(pod) = segments.iter().rposition(|segment| pod_uid_of(segment).is_some())
            else {
                continue;
            };
            let base = segments.get(..pod).unwrap_or_default();
            let base = match base.split_last() {
                Some((class, rest)) if is_class(class) => rest,
                _ => base,
            };
            let base: Vec<String> = base.iter().map(|segment| (*segment).to_owned()).collect();
            if !viewpoint.bases.contains(&base) {
                viewpoint.bases.push(base);
            }
        }
        viewpoint
    }
}

/// The containers that a process may be in by its cgroup file: for an agent in a pod at most one.
///
/// # Errors
/// [`CgroupError`] when the file is malformed or its hierarchies disagree.
pub fn pod_containers(cgroup: &str, from: &Viewpoint) -> Result<Chain, CgroupError> {
    merged(cgroup, |path| {
        let segments: Vec<&str> = segments(path).collect();
        let ups = segments.iter().take_while(|segment| **segment == "..").count();
        let rest = segments.get(ups..).unwrap_or_default();
        if ups > 0 {
            return beside(ups, rest);
        }
        if !from.bases.is_empty() {
            let below = from.bases.iter().find_map(|base| below(rest, base));
            return below.map(strict).unwrap_or_default();
        }
        outermost(rest)
    })
}

/// What follows `base`, if `path` begins with it.
fn below<'a, 'b>(path: &'a [&'b str], base: &[String]) -> Option<&'a [&'b str]> {
    let (start, rest) = path.split_at_checked(base.len())?;
    start.iter().eq(base.iter()).then_some(rest)
}

/// A path relative to the agent's own cgroup.
fn beside(ups: usize, rest: &[&str]) -> Chain {
    let Some(first) = rest.first() else { return Chain::default() };
    // Another container of the agent's own pod.
    if ups == 1 && pod_uid_of(first).is_none() {
        let container = container_id_of(first);
        let candidate = |container_id| Candidate { pod_uid: None, container_id };
        return Chain(container.map(candidate).into_iter().collect());
    }
    // An agent in a container outside Kubernetes sees the kubelet's own root.
    match rest.split_first() {
        Some((root, below)) if is_root(root) => strict(below),
        _ => strict(rest),
    }
}

/// The container right below the kubelet's root: class of service, pod, container.
fn strict(below: &[&str]) -> Chain {
    let below = match below.split_first() {
        Some((class, rest)) if is_class(class) => rest,
        _ => below,
    };
    let Some(uid) = below.first().and_then(|segment| pod_uid_of(segment)) else {
        return Chain::default();
    };
    // Pod and container in one segment, where kubelet and runtime use different drivers.
    let places = below.iter().take(2);
    let container = places.filter_map(|segment| container_id_of(segment)).next();
    let candidate = |container_id| Candidate { pod_uid: Some(uid), container_id };
    Chain(container.map(candidate).into_iter().collect())
}

/// The containers down to the outermost that is in a pod, unless the place is a user's.
fn outermost(segments: &[&str]) -> Chain {
    let mut chain = Vec::new();
    let mut pod_uid = None;
    for (at, segment) in segments.iter().enumerate() {
        if pod_uid.is_none() {
            pod_uid = pod_uid_of(segment);
            if pod_uid.is_some() && is_delegated(segments.get(..at).unwrap_or_default(), segment) {
                return Chain::default();
            }
        }
        if let Some(container_id) = container_id_of(segment) {
            chain.push(Candidate { pod_uid: pod_uid.clone(), container_id });
            if pod_uid.is_some() {
                break;
            }
        }
    }
    Chain(chain)
}

/// Whether the place of a pod is one where users make their own cgroups.
fn is_delegated(above: &[&str], pod: &str) -> bool {
    let user = |segment: &&str| {
        *segment == "user.slice" || (segment.starts_with("user-") && segment.ends_with(".slice"))
    };
    let services = above.iter().filter(|segment| segment.ends_with(".service")).count();
    // A runtime that does not use systemd names containers like this below its own service.
    let of_runtime = services == 1
        && pod.contains(':')
        && above.last().is_some_and(|segment| segment.ends_with(".service"));
    above.iter().any(user) || (services > 0 && !of_runtime)
}

/// A directory of one class of service.
fn is_class(segment: &str) -> bool {
    matches!(segment, "burstable" | "besteffort")
        || segment.ends_with("kubepods-burstable.slice")
        || segment.ends_with("kubepods-besteffort.slice")
}

/// The directory of all of a kubelet's pods.
fn is_root(segment: &str) -> bool {
    segment == "kubepods" || segment == "kubepods.slice" || segment.ends_with("-kubepods.slice")
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

#[cfg(test)]
mod tests;
