//! Where a process stands: the containers that its cgroup paths name, and whose they are.

use crate::workload::container::{self, Candidate};

/// Which engine runs a container, by the path that names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Docker: any path that is not Podman's.
    Docker,
    /// Podman, run by root.
    Podman,
    /// Podman, run by this user: the path goes through the user's slice.
    UserOfPodman(u32),
}

/// A container that the cgroup paths name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The container ID, 64 lower-case hex digits.
    pub container_id: String,
    /// Which engine to ask.
    pub owner: Owner,
    /// Hierarchy (number and controllers) and path of the container's cgroup, or of one around
    /// its processes that names it.
    cgroups: Vec<(String, String)>,
}

impl Place {
    /// Whether a process with these cgroups stands in the container's cgroup, or below it, in
    /// every hierarchy in which the caller does.
    pub fn holds(&self, cgroup: &str) -> bool {
        let is_within = |(hierarchy, root): &(String, String)| {
            lines(cgroup).any(|(key, path)| {
                let below = path.strip_prefix(root.as_str());
                key == hierarchy
                    && below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
        };
        !self.cgroups.is_empty() && self.cgroups.iter().all(is_within)
    }
}

/// The places of `candidates`, which are those that `cgroup` names, outermost first.
pub fn places(cgroup: &str, candidates: &[Candidate]) -> Vec<Place> {
    let mut places: Vec<Place> = candidates
        .iter()
        .map(|candidate| Place {
            container_id: candidate.container_id.clone(),
            owner: Owner::Docker,
            cgroups: Vec::new(),
        })
        .collect();
    for (hierarchy, path) in lines(cgroup) {
        let mut walked = String::new();
        let mut owner = Owner::Docker;
        let mut user = None;
        let mut found = places.iter_mut();
        for segment in path.split('/').skip(1) {
            walked.push('/');
            walked.push_str(segment);
            // The outermost slice is the one that the system made.
            user = user.or_else(|| user_slice(segment));
            if segment == "libpod" || segment.contains("libpod-") {
                owner = user.map_or(Owner::Podman, Owner::UserOfPodman);
            }
            if !names_container(segment) {
                continue;
            }
            let Some(place) = found.next() else { break };
            // A user's engine in one hierarchy is enough for the container to be the user's.
            place.owner = match (place.owner, owner) {
                (Owner::UserOfPodman(uid), _) => Owner::UserOfPodman(uid),
                (Owner::Podman, Owner::Docker) => Owner::Podman,
                (_, owner) => owner,
            };
            place.cgroups.push((hierarchy.to_owned(), walked.clone()));
        }
    }
    places
}

/// Hierarchy and path of each line.
fn lines(cgroup: &str) -> impl Iterator<Item = (&str, &str)> {
    cgroup.lines().filter_map(|line| {
        let path_at = line.match_indices(':').nth(1)?.0;
        Some((line.get(..path_at)?, line.get(path_at + 1..)?))
    })
}

fn names_container(segment: &str) -> bool {
    container::containers(&format!("0::/{segment}")).is_ok_and(|(chain, _)| !chain.is_empty())
}

/// The user of `user-<uid>.slice`.
fn user_slice(segment: &str) -> Option<u32> {
    segment.strip_prefix("user-")?.strip_suffix(".slice")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    fn found(cgroup: &str) -> Vec<(String, Owner)> {
        let (chain, _) = container::containers(cgroup).unwrap();
        places(cgroup, chain.candidates()).into_iter().map(|p| (p.container_id, p.owner)).collect()
    }

    #[test]
    fn the_path_says_whose_a_container_is() {
        let a = id('a');
        let user = "/user.slice/user-1000.slice/user@1000.service";
        for (path, owner) in [
            (format!("/docker/{a}"), Owner::Docker),
            (format!("/system.slice/docker-{a}.scope"), Owner::Docker),
            (format!("/../docker-{a}.scope"), Owner::Docker),
            (format!("{user}/app.slice/docker-{a}.scope"), Owner::Docker),
            (format!("/machine.slice/libpod-{a}.scope/container"), Owner::Podman),
            (format!("/libpod_parent/libpod-{a}"), Owner::Podman),
            (format!("/machine.slice/libpod/{a}"), Owner::Podman),
            (format!("{user}/user.slice/libpod-{a}.scope"), Owner::UserOfPodman(1000)),
            (format!("{user}/user-7.slice/libpod-{a}.scope"), Owner::UserOfPodman(1000)),
        ] {
            assert_eq!(found(&format!("0::{path}\n")), [(a.clone(), owner)], "{path}");
            let v1 = format!("5:memory:{path}\n1:name=systemd:{path}\n0::/\n");
            assert_eq!(found(&v1), [(a.clone(), owner)], "{path}");
        }
        assert!(found("0::/user.slice/user-1000.slice/session-1.scope").is_empty());
    }

    #[test]
    fn what_stands_inside_does_not_change_whose_the_outside_is() {
        let (a, b) = (id('a'), id('b'));
        let nested = format!("0::/docker/{a}/user-7.slice/libpod-{b}");
        assert_eq!(found(&nested), [(a, Owner::Docker), (b, Owner::UserOfPodman(7))]);
    }

    #[test]
    fn a_process_is_in_a_container_when_its_path_starts_with_the_containers() {
        let a = id('a');
        let place = |cgroup: &str| {
            let (chain, _) = container::containers(cgroup).unwrap();
            places(cgroup, chain.candidates()).remove(0)
        };
        let v2 = place(&format!("0::/docker/{a}/init.scope\n"));
        assert!(v2.holds(&format!("0::/docker/{a}\n")));
        assert!(v2.holds(&format!("0::/docker/{a}/other\n")));
        for elsewhere in [
            format!("0::/system.slice/docker-{a}.scope\n"),
            format!("0::/docker/{a}x\n"),
            format!("0::/x/docker/{a}\n"),
            format!("1:memory:/docker/{a}\n"),
            String::new(),
        ] {
            assert!(!v2.holds(&elsewhere), "{elsewhere}");
        }
        let v1 = place(&format!("5:cpu,cpuacct:/docker/{a}\n4:memory:/docker/{a}\n0::/\n"));
        assert!(v1.holds(&format!("4:memory:/docker/{a}\n5:cpu,cpuacct:/docker/{a}\n0::/\n")));
        assert!(!v1.holds(&format!("4:memory:/docker/{a}\n5:cpu,cpuacct:/\n")));
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config {
            failure_persistence: None,
            ..Default::default()
        })]

        #[test]
        fn nothing_below_a_container_changes_what_and_whose_it_is(
            below in proptest::collection::vec(
                proptest::sample::select(vec![
                    "docker", "libpod", "user-7.slice", "x", "", "..", ":", "\u{e9}",
                    "libpod-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb.scope",
                    "docker-cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc.scope",
                    "pod2c48913c-b29f-11e7-9350-020968147796",
                ]),
                0..6,
            ),
            any in "\\PC{0,40}",
        ) {
            let a = id('a');
            let outer = format!("0::/system.slice/docker-{a}.scope");
            let path = format!("{outer}/{}/{any}", below.join("/"));
            let (chain, _) = container::containers(&path).unwrap();
            let found = places(&path, chain.candidates());
            proptest::prop_assert_eq!(&found[0].container_id, &a);
            proptest::prop_assert_eq!(found[0].owner, Owner::Docker);
            proptest::prop_assert!(found[0].holds(&outer));
            proptest::prop_assert!(found.iter().skip(1).all(|inner| !inner.holds(&outer)));
        }

        #[test]
        fn any_cgroup_file_is_read_or_refused(text in "[0-9a-f:/\\PC\n]{0,300}") {
            if let Ok((chain, _)) = container::containers(&text) {
                places(&text, chain.candidates());
            }
        }
    }
}
