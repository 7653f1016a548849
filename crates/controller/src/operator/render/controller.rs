//! The controller, which makes entries of ClusterSPIFFEIDs: a container of the server's pod.

use serde_json::{Value, json};

use super::{
    Part, Wanted, api_token_mount,
    base::{self, SOCKET},
};
use crate::operator::{CLASS, kinds::Kind};

pub(super) const NAME: &str = "spire-controller-manager";
const WEBHOOK: &str = "spire-controller-manager-webhook";
const FILE: &str = "controller-manager-config.yaml";
const DIRECTORY: &str = "/etc/signet";

/// Its configuration file. JSON is YAML as well.
pub(super) fn configuration(part: &Part<'_>) -> String {
    let manager = part.manager;
    super::configuration(&json!({
        "apiVersion": "spire.spiffe.io/v1alpha1",
        "kind": "ControllerManagerConfig",
        "className": CLASS,
        "clusterName": manager.cluster_name,
        "entryIDPrefix": manager.cluster_name,
        "health": { "healthProbeBindAddress": "0.0.0.0:8083" },
        "ignoreNamespaces": ["kube-system", "kube-public", "local-path-storage", "openshift-*"],
        "leaderElection": {
            "leaderElect": true,
            "resourceName": NAME,
            "resourceNamespace": part.settings.namespace,
        },
        "metrics": { "bindAddress": "0.0.0.0:8082" },
        "parentIDTemplate":
            "spiffe://{{ .TrustDomain }}/spire/agent/k8s_psat/{{ .ClusterName }}/{{ .NodeMeta.UID }}",
        "spireServerSocketPath": SOCKET,
        "trustDomain": manager.trust_domain,
        "validatingWebhookConfigurationName": WEBHOOK,
        "watchClassless": false,
        "webhook": { "port": 9443 },
    }))
}

/// Everything of the controller but its container.
pub(super) fn objects(part: &Part<'_>, configuration: &str) -> Vec<Wanted> {
    let account = "spire-server";
    let mut everywhere = base::controller_rules("ClusterRole");
    rename(&mut everywhere, "signet-controller", WEBHOOK);
    let mut here = base::controller_rules("Role");
    rename(&mut here, "signet-controller", NAME);
    let mut all = Vec::from(part.cluster_role(NAME, everywhere, account));
    all.extend(part.role("spire-controller-manager-leader-election", here, account));
    all.push(part.object(
        Kind::ConfigMap,
        "ControllerManagerConfigAvailable",
        NAME,
        json!({ "data": { FILE: configuration } }),
    ));
    let port = json!({ "name": "https", "port": 443, "targetPort": "webhook", "protocol": "TCP" });
    all.push(part.service(WEBHOOK, &[port]));
    let mut webhooks = base::webhooks();
    for hook in webhooks.as_array_mut().into_iter().flatten() {
        if let Some(service) = hook.pointer_mut("/clientConfig/service") {
            super::set(service, "name", json!(WEBHOOK));
            super::set(service, "namespace", json!(part.settings.namespace));
        }
    }
    let members = json!({ "webhooks": webhooks });
    all.push(part.object(Kind::Webhook, "ValidatingWebhookAvailable", WEBHOOK, members));
    all
}

/// The container.
pub(super) fn container(part: &Part<'_>) -> Value {
    part.container(
        &base::server("controller"),
        json!({
            "name": NAME,
            "image": part.settings.images.controller,
            "command": ["/usr/bin/signet-controller"],
            "args": ["-config", format!("{DIRECTORY}/{FILE}")],
            "ports": [
                { "name": "webhook", "containerPort": 9443, "protocol": "TCP" },
                { "name": "probes", "containerPort": 8083, "protocol": "TCP" },
            ],
            "volumeMounts": [
                {
                    "name": "controller-manager-config",
                    "mountPath": DIRECTORY,
                    "readOnly": true,
                },
                { "name": "spire-server-socket", "mountPath": "/tmp/spire-server", "readOnly": true },
                api_token_mount(),
            ],
        }),
    )
}

/// Puts another name into the `resourceNames` of rules.
pub(super) fn rename(rules: &mut Value, from: &str, to: &str) {
    for rule in rules.as_array_mut().into_iter().flatten() {
        for name in
            rule.get_mut("resourceNames").and_then(Value::as_array_mut).into_iter().flatten()
        {
            if name.as_str() == Some(from) {
                *name = json!(to);
            }
        }
    }
}
