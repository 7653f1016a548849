//! Which pod a cgroup path names, as seen from the agent.
//!
//! Anybody who may make cgroups somewhere can name them like a pod's: a container below its own, a
//! user's session below `user@1000.service`. What they cannot do is to make them where this
//! node's kubelet makes its own. So where the agent itself runs in a pod of this kubelet, which is
//! the usual case, a pod must be exactly where the agent's pod is. That also finds the right pod
//! in nested clusters (kind, a kubelet within a pod): the agent is in the same one.
//!
//! An agent on the host has no pod to compare with. There, a pod must be right below the root of
//! the kubelet's pods, and that root where kubelets have it: outermost, or outermost in the
//! container that the agent itself is in (the node of kind).

use super::{Candidate, CgroupError, Chain, container_id_of, merged, paths, pod_uid_of};
use crate::procfs::ProcRoot;

/// Where the agent is in the cgroup hierarchies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Viewpoint {
    /// The paths below which the kubelet has its pods, by the agent's own path.
    bases: Vec<Vec<String>>,
    /// The containers without a pod that the agent is in, by their paths.
    nodes: Vec<Vec<String>>,
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
            // The agent makes no cgroups: the innermost pod, or container, is its own.
            let innermost = |is: fn(&str) -> bool| segments.iter().rposition(|segment| is(segment));
            let (places, place) = match innermost(|segment| pod_uid_of(segment).is_some()) {
                Some(pod) => {
                    let above = segments.get(..pod).unwrap_or_default();
                    let base = match above.split_last() {
                        Some((class, rest)) if is_class(class) => rest,
                        _ => above,
                    };
                    (&mut viewpoint.bases, base)
                }
                None => {
                    let Some(node) = innermost(|segment| container_id_of(segment).is_some()) else {
                        continue;
                    };
                    (&mut viewpoint.nodes, segments.get(..=node).unwrap_or_default())
                }
            };
            let place: Vec<String> = place.iter().map(|segment| (*segment).to_owned()).collect();
            if !places.contains(&place) {
                places.push(place);
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
        let node = from.nodes.iter().find_map(|node| below(rest, node));
        on_host(node.unwrap_or(rest))
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

/// The container where a node's kubelet and runtime have it, seen from that node's root.
fn on_host(segments: &[&str]) -> Chain {
    let rest = match segments.split_first() {
        // What kind, and kubelets with `--cgroup-root` as usually given, put above.
        Some((&("kubelet" | "kubelet.slice"), rest)) => rest,
        _ => segments,
    };
    match rest {
        [root, below @ ..] if is_root(root) => strict(below),
        // Runtime and kubelet with different drivers: pod and container in one segment.
        ["system.slice", service, pod, ..]
            if service.ends_with(".service") && pod.contains(':') =>
        {
            strict(std::slice::from_ref(pod))
        }
        // A kubelet that makes no cgroups for pods (`--cgroups-per-qos=false`).
        ["docker" | "k8s.io" | "crio" | "system.slice", container, ..] => {
            let candidate = |container_id| Candidate { pod_uid: None, container_id };
            Chain(container_id_of(container).map(candidate).into_iter().collect())
        }
        _ => Chain::default(),
    }
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
