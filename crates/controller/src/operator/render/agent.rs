//! The agents.

use serde_json::{Value, json};

use super::{
    Part, Wanted, api_token, api_token_mount, base, configuration, csi::constraints, directory,
    log_level, set,
};
use crate::operator::{
    api::{AgentSpec, ManagerSpec, Verification, is_true, or},
    kinds::Kind,
    settings::Settings,
};

const NAME: &str = "spire-agent";
const CONFIGURATION: &str = "/opt/spire/conf/agent";
const BUNDLE: &str = "/run/spire/bundle";
/// The agent's keys and sealed cache: on the node, in memory, so that the next pod serves at once.
const STATE: &str = "/run/spire/agent-state";
const STATE_MOUNT: &str = "/run/signet-agent";
/// Where OpenShift's nodes have the authority of their kubelets.
const KUBELET_CA: (&str, &str) = ("/etc/kubernetes", "kubelet-ca.crt");
const PORT: u16 = 9982;

/// How the kubelet is asked for its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kubelet {
    /// Over the node's loopback interface, where nobody else can answer.
    Loopback,
    /// By the node's name, and proven by an authority: a directory of the node, and a file in it.
    Verified(String, String),
}

impl Kubelet {
    fn of(verification: &Verification, openshift: bool) -> Self {
        let (base, file) = (&verification.host_cert_base_path, &verification.host_cert_file_name);
        let named = !base.is_empty() && !file.is_empty();
        match or(&verification.r#type, "skip") {
            "hostCert" | "auto" if named => Self::Verified(base.clone(), file.clone()),
            "auto" if openshift => Self::Verified(KUBELET_CA.0.to_owned(), KUBELET_CA.1.to_owned()),
            _ => Self::Loopback,
        }
    }
}

/// Everything of the agents.
pub fn agent(settings: &Settings, manager: &ManagerSpec, spec: &AgentSpec) -> Vec<Wanted> {
    let part = Part { settings, manager, common: &spec.common, app: NAME, component: "node-agent" };
    let attestors = spec.workload_attestors.clone().unwrap_or_default();
    let verification = attestors.workload_attestors_verification.clone().unwrap_or_default();
    let kubelet = Kubelet::of(&verification, settings.platform.openshift);
    let no_containers = is_true(&attestors.disable_container_selectors, false);
    let conf = configuration(&agent_conf(&part, spec, &kubelet, no_containers));

    let permission = if settings.platform.narrow_kubelet { "nodes/pods" } else { "nodes/proxy" };
    let rules = json!([{ "apiGroups": [""], "resources": [permission], "verbs": ["get"] }]);
    let mut all = vec![part.service_account(NAME)];
    all.extend(part.cluster_role(NAME, rules, NAME));
    let data = json!({ "data": { "agent.conf": conf } });
    all.push(part.object(Kind::ConfigMap, "ConfigMapAvailable", NAME, data));
    if kubelet != Kubelet::Loopback {
        let port =
            json!({ "name": "metrics", "port": 9402, "targetPort": 9402, "protocol": "TCP" });
        all.push(part.service(NAME, &[port]));
    }
    if settings.platform.openshift {
        let network = kubelet == Kubelet::Loopback;
        all.push(constraints(
            &part,
            NAME,
            json!({
                "allowHostPID": true,
                "allowHostNetwork": network,
                "allowHostPorts": network,
                "allowPrivilegedContainer": false,
                "allowPrivilegeEscalation": false,
                "volumes": ["configMap", "hostPath", "projected"],
            }),
        ));
    }
    all.push(daemon_set(&part, spec, &kubelet, &conf));
    all
}

fn agent_conf(part: &Part<'_>, spec: &AgentSpec, kubelet: &Kubelet, no_containers: bool) -> Value {
    let data = format!("{STATE_MOUNT}/data");
    let mut k8s = match kubelet {
        Kubelet::Loopback => json!({ "skip_kubelet_verification": true }),
        Kubelet::Verified(directory, file) => json!({
            "skip_kubelet_verification": false,
            "kubelet_ca_path": format!("{directory}/{file}"),
            "node_name_env": "MY_NODE_NAME",
        }),
    };
    if no_containers {
        set(&mut k8s, "disable_container_selectors", json!(true));
    }
    let address = if *kubelet == Kubelet::Loopback { "127.0.0.1" } else { "0.0.0.0" };
    let mut conf = json!({
        "agent": {
            "admin_socket_path": format!("{STATE_MOUNT}/private/admin.sock"),
            "data_dir": data,
            "log_format": or(&spec.log_format, "text"),
            "log_level": log_level(&spec.log_level),
            "rebootstrap_delay": "30s",
            "rebootstrap_mode": "auto",
            "server_address": format!("spire-server.{}.svc", part.settings.namespace),
            "server_port": 443,
            "socket_path": format!("{}/spire-agent.sock", spec.sockets()),
            "trust_bundle_path": format!("{BUNDLE}/bundle.crt"),
            "trust_domain": part.manager.trust_domain,
        },
        "health_checks": {
            "bind_address": address,
            "bind_port": PORT,
            "listener_enabled": true,
        },
        "plugins": {
            "KeyManager": { "disk": { "plugin_data": { "directory": data } } },
            "NodeAttestor": { "k8s_psat": { "plugin_data": {
                "cluster": part.manager.cluster_name,
            } } },
            "WorkloadAttestor": { "k8s": { "plugin_data": k8s } },
        },
    });
    // On the nodes' network a port for metrics would be open to whoever reaches the node.
    if *kubelet != Kubelet::Loopback {
        set(&mut conf, "telemetry", json!({ "Prometheus": { "host": "0.0.0.0", "port": 9402 } }));
    }
    conf
}

fn daemon_set(part: &Part<'_>, spec: &AgentSpec, kubelet: &Kubelet, conf: &str) -> Wanted {
    let mut mounts = vec![
        json!({ "name": "spire-config", "mountPath": CONFIGURATION, "readOnly": true }),
        json!({ "name": "spire-bundle", "mountPath": BUNDLE, "readOnly": true }),
        json!({ "name": "spire-agent-persistence", "mountPath": STATE_MOUNT }),
        json!({ "name": "spire-agent-socket-dir", "mountPath": spec.sockets() }),
        // Shown to the server.
        json!({ "name": "spire-token", "mountPath": "/var/run/secrets/tokens", "readOnly": true }),
        // Shown to the kubelet.
        api_token_mount(),
    ];
    let token = json!({
        "path": "spire-agent",
        "audience": "spire-server",
        "expirationSeconds": 7200,
    });
    let mut volumes = vec![
        json!({ "name": "spire-config", "configMap": { "name": NAME } }),
        json!({ "name": "spire-bundle", "configMap": { "name": part.manager.bundle() } }),
        directory("spire-agent-persistence", STATE, "DirectoryOrCreate"),
        directory("spire-agent-socket-dir", spec.sockets(), "DirectoryOrCreate"),
        json!({
            "name": "spire-token",
            "projected": {
                "defaultMode": 0o400,
                "sources": [{ "serviceAccountToken": token }],
            },
        }),
        api_token(0o400),
    ];
    if let Kubelet::Verified(path, _) = kubelet {
        mounts.push(json!({ "name": "kubelet-ca", "mountPath": path, "readOnly": true }));
        volumes.push(directory("kubelet-ca", path, "Directory"));
    }
    let mut container = part.container(
        &base::agent("agent"),
        json!({
            "name": NAME,
            "image": part.settings.images.agent,
            "command": ["/usr/bin/signet-agent"],
            "args": ["run", "-config", format!("{CONFIGURATION}/agent.conf")],
            "env": [{
                "name": "MY_NODE_NAME",
                "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } },
            }],
            "volumeMounts": mounts,
        }),
    );
    for probe in ["livenessProbe", "readinessProbe"] {
        if let Some(get) = container.pointer_mut(&format!("/{probe}/httpGet")) {
            set(get, "port", json!(PORT));
            if *kubelet != Kubelet::Loopback
                && let Some(get) = get.as_object_mut()
            {
                // Where it listens: the pod's own address.
                get.remove("host");
            }
        }
    }
    let mut pod = part.pod(NAME, base::privileged());
    set(&mut pod, "hostPID", json!(true));
    if *kubelet == Kubelet::Loopback {
        set(&mut pod, "hostNetwork", json!(true));
        // The server's name is the cluster's.
        set(&mut pod, "dnsPolicy", json!("ClusterFirstWithHostNet"));
    } else {
        set(&mut pod, "hostNetwork", json!(false));
        set(&mut pod, "dnsPolicy", json!("ClusterFirst"));
    }
    set(&mut pod, "containers", json!([container]));
    set(&mut pod, "volumes", json!(volumes));
    part.daemon_set(NAME, part.template(NAME, &[conf]), pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_that_cannot_be_verified_is_only_asked_over_the_loopback_interface() {
        let of = |kind: &str, base: &str, file: &str, openshift| {
            let verification = Verification {
                r#type: kind.to_owned(),
                host_cert_base_path: base.to_owned(),
                host_cert_file_name: file.to_owned(),
            };
            Kubelet::of(&verification, openshift)
        };
        let verified = |a: &str, b: &str| Kubelet::Verified(a.to_owned(), b.to_owned());
        assert_eq!(of("skip", "/a", "b", true), Kubelet::Loopback);
        assert_eq!(of("", "", "", true), Kubelet::Loopback);
        assert_eq!(of("auto", "", "", false), Kubelet::Loopback);
        assert_eq!(of("auto", "", "", true), verified("/etc/kubernetes", "kubelet-ca.crt"));
        assert_eq!(of("auto", "/a", "b", false), verified("/a", "b"));
        assert_eq!(of("hostCert", "/a", "b", false), verified("/a", "b"));
    }
}
