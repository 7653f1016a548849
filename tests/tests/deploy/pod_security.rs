//! Pod Security: each workload fails the checks that are argued for, and no others.

use std::collections::BTreeSet;

use e2e::{TestDir, kubernetes};
use serde_json::Value;

use super::{everything, list, needs_judge, pods, text};

/// Baseline checks that the agent's pod fails. `deploy/kubernetes/42-agent.yaml` argues for each.
const AGENT_BASELINE: &[&str] = &[
    // The CSI driver's CAP_SYS_ADMIN.
    "capabilities_baseline",
    // hostPID, hostNetwork.
    "hostNamespaces",
    // The sockets, and what is the kubelet's.
    "hostPathVolumes",
    // The agent's probes are on the node's loopback interface.
    "hostProbesAndHostLifecycle",
    // The CSI driver.
    "privileged",
];
/// Restricted checks that it fails.
const AGENT_RESTRICTED: &[&str] = &[
    // The CSI driver is privileged.
    "allowPrivilegeEscalation",
    "capabilities_restricted",
    "restrictedVolumes",
    "runAsNonRoot",
    "runAsUser",
];
/// Without CSI driver and on the pods' network.
const LONE_AGENT_BASELINE: &[&str] = &["hostNamespaces", "hostPathVolumes"];
const LONE_AGENT_RESTRICTED: &[&str] = &["restrictedVolumes", "runAsNonRoot", "runAsUser"];

fn failed(verdict: &Value, level: &str) -> BTreeSet<String> {
    verdict[level].as_object().expect("checks").keys().cloned().collect()
}

fn set(checks: &[&str]) -> BTreeSet<String> {
    checks.iter().map(|&check| check.to_owned()).collect()
}

#[test]
fn pods_fail_no_check_of_pod_security_but_those_argued_for() {
    needs_judge!();
    let dir = TestDir::new();
    for (name, files) in everything(&dir) {
        let verdicts = kubernetes::judge("podsecurity", &[], &files).json();
        let verdicts = verdicts.as_array().expect("verdicts");
        let mut seen = BTreeSet::new();
        for verdict in verdicts {
            let what = text(verdict, "/kind");
            seen.insert(what);
            let (baseline, restricted): (&[&str], &[&str]) = match (what, name.as_str()) {
                ("DaemonSet", "pod-network") => (LONE_AGENT_BASELINE, LONE_AGENT_RESTRICTED),
                ("DaemonSet", _) => (AGENT_BASELINE, AGENT_RESTRICTED),
                // Server, controller, and the pod of `helm test`: the restricted profile.
                _ => (&[], &[]),
            };
            assert_eq!(failed(verdict, "baseline"), set(baseline), "{name}: {verdict:#}");
            assert_eq!(failed(verdict, "restricted"), set(restricted), "{name}: {verdict:#}");
        }
        assert!(seen.is_superset(&["DaemonSet", "StatefulSet"].into()), "{name}: {seen:?}");
    }
}

#[test]
fn namespaces_enforce_what_their_pods_keep() {
    needs_judge!();
    let objects = kubernetes::documents(&kubernetes::plain_files());
    let enforced = |name: &str| {
        let namespace = objects
            .iter()
            .find(|o| text(o, "/kind") == "Namespace" && text(o, "/metadata/name") == name)
            .expect("the namespace");
        text(namespace, "/metadata/labels/pod-security.kubernetes.io~1enforce").to_owned()
    };
    assert_eq!(enforced("signet-server"), "restricted");
    assert_eq!(enforced("signet-agent"), "privileged");
}

/// What Pod Security does not ask for.
#[test]
fn containers_are_hardened_beyond_pod_security() {
    needs_judge!();
    let dir = TestDir::new();
    for (name, files) in everything(&dir) {
        let objects = kubernetes::documents(&files);
        for (pod, spec) in pods(&objects) {
            let what = format!("{name}: {pod}");
            assert_eq!(spec["automountServiceAccountToken"], false, "{what}");
            assert_eq!(spec["enableServiceLinks"], false, "{what}");
            let profile = text(spec, "/securityContext/seccompProfile/type");
            assert_eq!(profile, "RuntimeDefault", "{what}");
            for container in list(spec, "/containers") {
                let what = format!("{what}: {}", text(container, "/name"));
                check_container(&what, container);
                if pod.starts_with("Pod ") {
                    continue;
                }
                assert!(container["resources"]["limits"]["memory"].is_string(), "{what}");
                for resource in ["cpu", "memory"] {
                    assert!(container["resources"]["requests"][resource].is_string(), "{what}");
                }
                // The registrar answers no probe without a port on the node.
                if text(container, "/name") != "csi-registrar" {
                    assert!(container["livenessProbe"].is_object(), "{what}");
                }
            }
        }
    }
}

fn check_container(what: &str, container: &Value) {
    let context = &container["securityContext"];
    assert_eq!(context["readOnlyRootFilesystem"], true, "{what}");
    assert_eq!(list(context, "/capabilities/drop"), ["ALL"], "{what}");
    let added: Vec<_> = list(context, "/capabilities/add").iter().map(|c| c.as_str()).collect();
    let allowed: &[Option<&str>] = match text(container, "/name") {
        "csi-driver" => &[Some("SYS_ADMIN")],
        // Only where it was asked to look at executables.
        "agent" if what.starts_with("rich:") => &[Some("SYS_PTRACE")],
        _ => &[],
    };
    assert_eq!(added, allowed, "{what}");
    let privileged = context["privileged"] == true;
    assert_eq!(privileged, text(container, "/name") == "csi-driver", "{what}");
    assert_eq!(context["allowPrivilegeEscalation"] == false, !privileged, "{what}");
    // What is written to a disk of the node is named in the pod, not in the image.
    assert!(container["command"].is_array() || what.ends_with("csi-registrar"), "{what}");
}

/// A token is where it is needed: with the server, the controller and the agent.
#[test]
fn tokens_are_mounted_only_where_they_are_used() {
    needs_judge!();
    let objects = kubernetes::documents(&kubernetes::plain_files());
    let mut holders = BTreeSet::new();
    for (_, spec) in pods(&objects) {
        let tokens: BTreeSet<&str> = list(spec, "/volumes")
            .iter()
            .filter(|volume| {
                let sources = list(volume, "/projected/sources");
                sources.iter().any(|source| source["serviceAccountToken"].is_object())
            })
            .map(|volume| text(volume, "/name"))
            .collect();
        for container in list(spec, "/containers") {
            for mount in list(container, "/volumeMounts") {
                if tokens.contains(text(mount, "/name")) {
                    assert_eq!(mount["readOnly"], true, "{mount}");
                    holders.insert((text(container, "/name"), text(mount, "/name")));
                }
            }
        }
        for volume in list(spec, "/volumes").iter().filter(|v| text(v, "/name") == "server-token") {
            let token = &volume["projected"]["sources"][0]["serviceAccountToken"];
            assert_eq!(token["audience"], "spire-server", "{token}");
        }
    }
    let expected = [
        ("agent", "api-token"),
        ("agent", "server-token"),
        ("controller", "api-token"),
        ("server", "api-token"),
    ];
    assert_eq!(holders, expected.into());
}
