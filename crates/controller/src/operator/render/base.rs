//! What the manifests of `deploy/kubernetes` say, which are compiled into the program: a test holds
//! that all of it is found.

use std::sync::LazyLock;

use serde_json::Value;

type Manifest = LazyLock<Vec<Value>>;

/// The socket.
pub(super) const SOCKET: &str = "/tmp/spire-server/private/api.sock";

static SERVER: Manifest =
    LazyLock::new(|| read(include_str!("../../../../../deploy/kubernetes/34-server.yaml")));
static AGENT: Manifest =
    LazyLock::new(|| read(include_str!("../../../../../deploy/kubernetes/42-agent.yaml")));
static SERVER_ROLES: Manifest =
    LazyLock::new(|| read(include_str!("../../../../../deploy/kubernetes/11-rbac-server.yaml")));
static CONTROLLER_ROLES: Manifest = LazyLock::new(|| {
    read(include_str!("../../../../../deploy/kubernetes/12-rbac-controller.yaml"))
});
static WEBHOOK: Manifest =
    LazyLock::new(|| read(include_str!("../../../../../deploy/kubernetes/36-webhook.yaml")));
static CSI: Manifest =
    LazyLock::new(|| read(include_str!("../../../../../deploy/kubernetes/41-csi-driver.yaml")));

fn read(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple_with_options(text, crate::config::yaml()).unwrap_or_default()
}

/// The container of a workload's pod.
fn container(manifest: &Manifest, name: &str) -> Value {
    let containers = manifest
        .iter()
        .filter_map(|one| one.pointer("/spec/template/spec/containers").and_then(Value::as_array));
    let mut containers = containers.flatten();
    containers
        .find(|one| one.get("name").and_then(Value::as_str) == Some(name))
        .cloned()
        .unwrap_or_default()
}

/// A container of the server's pod: `server` or `controller`.
pub(super) fn server(name: &str) -> Value {
    container(&SERVER, name)
}

/// A container of the agent's pod: `agent`, `csi-driver` or `csi-registrar`.
pub(super) fn agent(name: &str) -> Value {
    container(&AGENT, name)
}

/// The security context of the server's pod: that of the restricted profile.
pub(super) fn restricted() -> Value {
    at(&SERVER, "StatefulSet", "/spec/template/spec/securityContext")
}

/// The security context of the agent's pod.
pub(super) fn privileged() -> Value {
    at(&AGENT, "DaemonSet", "/spec/template/spec/securityContext")
}

/// What the server may do: in the cluster (`ClusterRole`) and in the agents' namespace (`Role`).
pub(super) fn server_rules(kind: &str) -> Value {
    at(&SERVER_ROLES, kind, "/rules")
}

/// What the controller may do: in the cluster (`ClusterRole`) and in its namespace (`Role`).
pub(super) fn controller_rules(kind: &str) -> Value {
    at(&CONTROLLER_ROLES, kind, "/rules")
}

/// The webhooks.
pub(super) fn webhooks() -> Value {
    at(&WEBHOOK, "ValidatingWebhookConfiguration", "/webhooks")
}

/// The specification of the CSIDriver.
pub(super) fn csi_driver() -> Value {
    at(&CSI, "CSIDriver", "/spec")
}

fn at(manifest: &Manifest, kind: &str, pointer: &str) -> Value {
    let of_kind = manifest.iter().find(|one| one.get("kind").and_then(Value::as_str) == Some(kind));
    of_kind.and_then(|one| one.pointer(pointer)).cloned().unwrap_or_default()
}

/// The registrar of `deploy/kubernetes`.
pub(in crate::operator) fn registrar() -> String {
    let container = agent("csi-registrar");
    container.get("image").and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_taken_from_the_manifests_is_there() {
        for (what, value) in [
            ("server", server("server")),
            ("controller", server("controller")),
            ("agent", agent("agent")),
            ("csi-driver", agent("csi-driver")),
            ("csi-registrar", agent("csi-registrar")),
        ] {
            assert!(
                value["securityContext"].is_object() && value["resources"].is_object(),
                "{what}"
            );
        }
        for (what, value) in
            [("restricted", restricted()), ("privileged", privileged()), ("csi", csi_driver())]
        {
            assert!(value.is_object(), "{what}");
        }
        assert_eq!(restricted()["runAsNonRoot"], true);
        for (what, value) in [
            ("server everywhere", server_rules("ClusterRole")),
            ("server", server_rules("Role")),
            ("controller everywhere", controller_rules("ClusterRole")),
            ("controller", controller_rules("Role")),
            ("webhooks", webhooks()),
        ] {
            assert!(value.as_array().is_some_and(|list| list.len() >= 2), "{what}");
        }
    }
}
