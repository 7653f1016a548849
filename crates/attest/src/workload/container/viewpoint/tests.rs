use super::*;

const POD: &str = "2c48913c-b29f-11e7-9350-020968147796";
const VICTIM: &str = "9bca8d63-d5fa-11e6-b2c4-0242ac110002";
const AGENT: &str = "a17d7dee-1117-4bca-a413-8f251985aea7";
const STATIC: &str = "0123456789abcdef0123456789abcdef";

fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn slice(uid: &str) -> String {
    uid.replace('-', "_")
}

/// Pod and container that `path` names for an agent at `own`.
fn seen(own: &str, path: &str) -> Vec<(Option<String>, String)> {
    let viewpoint = Viewpoint::of(&format!("0::{own}\n"));
    let chain = pod_containers(&format!("0::{path}\n"), &viewpoint).unwrap();
    chain.candidates().iter().map(|c| (c.pod_uid.clone(), c.container_id.clone())).collect()
}

fn pod(uid: &str, digit: char) -> Vec<(Option<String>, String)> {
    vec![(Some(uid.to_owned()), id(digit))]
}

/// Runtime, driver, hierarchy: the agent's own path, and the path of container `b` of `POD`.
fn table() -> Vec<(&'static str, String, String)> {
    let (a, b) = (id('a'), id('b'));
    let (agent, under) = (slice(AGENT), slice(POD));
    let kubepods = |class: &str, uid: &str, scope: &str, id: &str| {
        let dash = if class.is_empty() { String::new() } else { format!("-{class}") };
        let between =
            if class.is_empty() { String::new() } else { format!("kubepods-{class}.slice/") };
        format!("/kubepods.slice/{between}kubepods{dash}-pod{uid}.slice/{scope}{id}.scope")
    };
    let mut rows = Vec::new();
    let mut row = |what, own: String, path: String| rows.push((what, own, path));
    let own = format!("/kubepods/besteffort/pod{AGENT}/{a}");
    for class in ["burstable/", "besteffort/", ""] {
        row("cgroupfs, host namespace", own.clone(), format!("/kubepods/{class}pod{POD}/{b}"));
    }
    for scope in ["cri-containerd-", "crio-", "docker-"] {
        let own = kubepods("besteffort", &agent, scope, &a);
        for class in ["burstable", "besteffort", ""] {
            row("systemd, host namespace", own.clone(), kubepods(class, &under, scope, &b));
        }
    }
    let crio = format!("{}/container", kubepods("burstable", &under, "crio-", &b));
    row("CRI-O on cgroup v2", kubepods("besteffort", &agent, "crio-", &a), crio);
    for path in [
        format!("/../../pod{POD}/{b}"),
        format!("/../../../burstable/pod{POD}/{b}"),
        format!("/../../../pod{POD}/{b}"),
        format!("/../../kubepods-besteffort-pod{under}.slice/cri-containerd-{b}.scope"),
        format!(
            "/../../../kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/crio-{b}.scope"
        ),
        format!("/../../../kubepods-pod{under}.slice/docker-{b}.scope"),
    ] {
        row("private namespace of the agent", "/".to_owned(), path);
    }
    row(
        "agent in a container outside Kubernetes",
        "/".to_owned(),
        format!("/../../kubepods/burstable/pod{POD}/{b}"),
    );
    row(
        "runtime and kubelet with different drivers",
        format!("/system.slice/containerd.service/kubepods-pod{agent}.slice:cri-containerd:{a}"),
        format!(
            "/system.slice/containerd.service/kubepods-burstable-pod{under}.slice:cri-containerd:{b}"
        ),
    );
    let node = id('0');
    for kubelet in ["", "/kubelet"] {
        row(
            "kind, seen from outside its node",
            format!("/docker/{node}{kubelet}/kubepods/besteffort/pod{AGENT}/{a}"),
            format!("/docker/{node}{kubelet}/kubepods/burstable/pod{POD}/{b}"),
        );
    }
    row(
        "kind with systemd",
        format!(
            "/system.slice/docker-{node}.scope/kubelet.slice/kubelet-kubepods.slice/\
             kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{agent}.slice/\
             cri-containerd-{a}.scope"
        ),
        format!(
            "/system.slice/docker-{node}.scope/kubelet.slice/kubelet-kubepods.slice/\
             kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{under}.slice/\
             cri-containerd-{b}.scope"
        ),
    );
    row(
        "a cluster within a pod of another cluster",
        format!("/kubepods/pod{VICTIM}/{node}/kubelet/kubepods/besteffort/pod{AGENT}/{a}"),
        format!("/kubepods/pod{VICTIM}/{node}/kubelet/kubepods/burstable/pod{POD}/{b}"),
    );
    row(
        "rootless k3s",
        format!(
            "/user.slice/user-1000.slice/user@1000.service/k3s.scope/kubepods/besteffort/\
             pod{AGENT}/{a}"
        ),
        format!("/user.slice/user-1000.slice/user@1000.service/k3s.scope/kubepods/pod{POD}/{b}"),
    );
    for own in ["/system.slice/signet-agent.service", "/", ""] {
        for path in [
            format!("/kubepods/burstable/pod{POD}/{b}"),
            kubepods("burstable", &under, "cri-containerd-", &b),
            format!(
                "/system.slice/containerd.service/kubepods-pod{under}.slice:cri-containerd:{b}"
            ),
        ] {
            row("an agent on the host", own.to_owned(), path);
        }
    }
    rows
}

#[test]
fn every_runtime_driver_and_namespace_is_known() {
    for (what, own, path) in table() {
        assert_eq!(seen(&own, &path), pod(POD, 'b'), "{what}: {own} sees {path}");
        // A process that made a cgroup below its container's is still in it.
        let deeper = format!("{path}/init");
        assert_eq!(seen(&own, &deeper), pod(POD, 'b'), "{what}: {own} sees {deeper}");
    }
    let static_pod = format!("/kubepods/burstable/pod{STATIC}/{}", id('b'));
    let own = format!("/kubepods/pod{AGENT}/{}", id('a'));
    assert_eq!(seen(&own, &static_pod), pod(STATIC, 'b'));
    let by_systemd =
        format!("/kubepods.slice/kubepods-pod{STATIC}.slice/cri-containerd-{}.scope", id('b'));
    assert_eq!(seen("/", &by_systemd), pod(STATIC, 'b'));
}

#[test]
fn a_forged_path_below_the_own_container_names_the_own_container() {
    for (what, own, path) in table() {
        for forged in [
            format!("{path}/pod{VICTIM}/{}", id('c')),
            format!("{path}/kubepods/burstable/pod{VICTIM}/{}", id('c')),
            format!("{path}/kubepods-pod{}.slice/cri-containerd-{}.scope", slice(VICTIM), id('c')),
            format!("{path}/kubepods-pod{}.slice:cri-containerd:{}", slice(VICTIM), id('c')),
            format!("{path}/docker/{}", id('c')),
        ] {
            assert_eq!(seen(&own, &forged), pod(POD, 'b'), "{what}: {own} sees {forged}");
        }
    }
}

#[test]
fn a_pod_where_the_kubelet_does_not_make_pods_is_none() {
    let (victim, under) = (format!("pod{VICTIM}/{}", id('c')), slice(VICTIM));
    let user = "/user.slice/user-1000.slice/user@1000.service/app.slice";
    let docker = format!("/docker/{}", id('0'));
    let forged = |place: &str| {
        vec![
            format!("{place}/{victim}"),
            format!("{place}/kubepods/{victim}"),
            format!("{place}/kubepods/burstable/{victim}"),
            format!(
                "{place}/kubepods.slice/kubepods-pod{under}.slice/cri-containerd-{}.scope",
                id('c')
            ),
        ]
    };
    // Seen by an agent in a pod, whatever the driver: from outside of a container, of a user's
    // session, of a service that may make cgroups.
    let owns = [
        format!("/kubepods/besteffort/pod{AGENT}/{}", id('a')),
        format!(
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{}.slice/crio-{}.scope",
            slice(AGENT),
            id('a')
        ),
    ];
    for place in [user, &docker, "/system.slice/podman.service", "/user.slice"] {
        for path in forged(place) {
            for own in &owns {
                assert!(seen(own, &path).is_empty(), "{own} sees {path}");
            }
            let relative = format!("/../../../..{path}");
            assert!(seen("/", &relative).is_empty(), "{relative}");
        }
    }
    // An agent on the host knows where a kubelet has its pods, and whose those places are not.
    let lxc = "/lxc.payload.guest";
    let nspawn = "/machine.slice/machine-guest.scope/payload";
    for place in [user, "/system.slice/podman.service", "/user.slice", lxc, nspawn, "/init"] {
        for path in forged(place) {
            for own in ["/system.slice/x.service", "/", &format!("/docker/{}", id('1'))] {
                assert!(seen(own, &path).is_empty(), "{own} sees {path}");
            }
        }
    }
    // Below another container it is that container, which the kubelet does not list.
    for place in [docker.clone(), format!("/system.slice/docker-{}.scope", id('0'))] {
        for path in forged(&place) {
            let found = seen("/system.slice/x.service", &path);
            assert_eq!(found, [(None, id('0'))], "{path}");
        }
    }
}

#[test]
fn an_agent_in_a_node_container_sees_the_pods_of_that_node_only() {
    let place = |node: char, kubelet: &str| {
        format!("/docker/{}{kubelet}/kubepods/pod{POD}/{}", id(node), id('b'))
    };
    let own = format!("/docker/{}/system.slice/signet-agent.service", id('0'));
    for kubelet in ["", "/kubelet"] {
        let path = place('0', kubelet);
        assert_eq!(seen(&own, &path), pod(POD, 'b'), "{path}");
        let forged = format!("{path}/pod{VICTIM}/{}", id('c'));
        assert_eq!(seen(&own, &forged), pod(POD, 'b'), "{forged}");
        // Another node's pods may have the same names.
        assert_eq!(seen(&own, &place('1', kubelet)), [(None, id('1'))]);
        // In a namespace of its own, it sees the rest as its siblings.
        let sibling = format!("/..{}", place('1', kubelet).trim_start_matches("/docker"));
        assert_eq!(seen("/", &sibling), [(None, id('1'))]);
    }
}

#[test]
fn a_kubelet_without_cgroups_for_pods_has_its_containers_where_the_runtime_puts_them() {
    for path in [
        format!("/docker/{}", id('b')),
        format!("/k8s.io/{}", id('b')),
        format!("/system.slice/crio-{}.scope", id('b')),
    ] {
        for below in ["", &format!("/docker/{}", id('c')), &format!("/pod{VICTIM}/{}", id('c'))] {
            let path = format!("{path}{below}");
            assert_eq!(seen("/system.slice/x.service", &path), [(None, id('b'))], "{path}");
        }
    }
    let forged = format!("/lxc.payload.guest/{}", id('b'));
    assert!(seen("/system.slice/x.service", &forged).is_empty());
}

#[test]
fn containers_of_the_agents_own_pod_are_known_by_their_id() {
    assert_eq!(seen("/", &format!("/../{}", id('b'))), [(None, id('b'))]);
    let scope = format!("/../cri-containerd-{}.scope", id('b'));
    assert_eq!(seen("/", &scope), [(None, id('b'))]);
    // Two levels up is no longer the agent's pod.
    assert!(seen("/", &format!("/../../{}", id('b'))).is_empty());
    let own = format!("/kubepods/pod{AGENT}/{}", id('a'));
    assert_eq!(seen(&own, &format!("/kubepods/pod{AGENT}/{}", id('b'))), pod(AGENT, 'b'));
}

#[test]
fn a_process_that_is_in_no_container_has_none() {
    let own = format!("/kubepods/pod{AGENT}/{}", id('a'));
    for path in [
        "/".to_owned(),
        "/..".to_owned(),
        "/../..".to_owned(),
        format!("/kubepods/pod{POD}"),
        "/kubepods/burstable".to_owned(),
        format!("/kubepods/pod{POD}/not-a-container"),
        format!("/kubepods/pod{POD}/x/{}", id('b')),
        format!("/kubepods.slice/kubepods-pod{}.slice/crio-conmon-{}.scope", slice(POD), id('b')),
        "/system.slice/sshd.service".to_owned(),
    ] {
        assert!(seen(&own, &path).is_empty(), "{path}");
    }
}

#[test]
fn hierarchies_of_version_1_must_agree() {
    let own = Viewpoint::of(&format!("4:memory:/kubepods/pod{AGENT}/{}\n", id('a')));
    let line = |digit| format!("/kubepods/pod{POD}/{}", id(digit));
    let left_one = format!("4:memory:{}\n1:name=systemd:/\n0::{}\n", line('b'), line('b'));
    assert_eq!(pod_containers(&left_one, &own).unwrap().candidates().len(), 1);
    let differ = format!("4:memory:{}\n0::{}\n", line('b'), line('c'));
    assert!(matches!(pod_containers(&differ, &own), Err(CgroupError::Disagree(..))));
    assert!(matches!(pod_containers("4:memory", &own), Err(CgroupError::Malformed(1))));
    let long = format!("0::/{}", "x".repeat(5000));
    assert_eq!(pod_containers(&long, &own), Err(CgroupError::TooLong));
}
