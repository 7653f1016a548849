//! The CSI driver, which gives pods the agent's socket: the agent's own program.

use serde_json::{Value, json};

use super::{Part, Wanted, base, directory, set, set_all};
use crate::operator::{
    api::{CsiSpec, ManagerSpec},
    kinds::Kind,
    settings::Settings,
};

const NAME: &str = "spire-spiffe-csi-driver";
const KUBELET: &str = "/var/lib/kubelet";
const SOCKET: &str = "/spiffe-csi/csi.sock";

/// Everything of the CSI driver.
pub fn csi(settings: &Settings, manager: &ManagerSpec, spec: &CsiSpec) -> Vec<Wanted> {
    let part = Part {
        settings,
        manager,
        common: &spec.common,
        app: "spiffe-csi-driver",
        component: "csi",
    };
    let mut driver = part.object(
        Kind::CsiDriver,
        "CSIDriverAvailable",
        spec.driver(),
        json!({ "spec": base::csi_driver() }),
    );
    if let Some(labels) = driver.object.pointer_mut("/metadata/labels") {
        // For OpenShift: pods of the profile "restricted" may use it, for it only shows a socket.
        set(labels, "security.openshift.io/csi-ephemeral-volume-profile", json!("restricted"));
    }
    let mut all = vec![part.service_account(NAME), driver];
    if settings.platform.openshift {
        all.push(constraints(
            &part,
            NAME,
            json!({
                "allowHostPID": false,
                "allowHostNetwork": false,
                "allowHostPorts": false,
                "allowPrivilegedContainer": true,
                "allowPrivilegeEscalation": true,
                "allowedCapabilities": ["SYS_ADMIN"],
                "volumes": ["hostPath"],
            }),
        ));
    }
    all.push(daemon_set(&part, spec));
    all
}

fn daemon_set(part: &Part<'_>, spec: &CsiSpec) -> Wanted {
    let name = spec.driver();
    let plugin = format!("{KUBELET}/plugins/{name}");
    let driver = part.container(
        &base::agent("csi-driver"),
        json!({
            "name": "spiffe-csi-driver",
            "image": part.settings.images.agent,
            "command": ["/usr/bin/signet-agent"],
            "args": [
                "csi",
                "-csi-socket-path", SOCKET,
                "-plugin-name", name,
                "-workload-api-socket-dir", spec.sockets(),
                "-kubelet-dir", KUBELET,
            ],
            "env": [{
                "name": "MY_NODE_NAME",
                "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } },
            }],
            "volumeMounts": [
                {
                    "name": "spire-agent-socket-dir",
                    "mountPath": spec.sockets(),
                    "readOnly": true,
                },
                { "name": "spiffe-csi-socket-dir", "mountPath": "/spiffe-csi" },
                {
                    "name": "mountpoint-dir",
                    "mountPath": format!("{KUBELET}/pods"),
                    "mountPropagation": "Bidirectional",
                },
            ],
        }),
    );
    let registrar = part.container(
        &base::agent("csi-registrar"),
        json!({
            "name": "node-driver-registrar",
            "image": part.settings.images.registrar,
            "args": [
                format!("--csi-address={SOCKET}"),
                format!("--kubelet-registration-path={plugin}/csi.sock"),
            ],
            "volumeMounts": [
                { "name": "spiffe-csi-socket-dir", "mountPath": "/spiffe-csi" },
                { "name": "plugin-registration-dir", "mountPath": "/registration" },
            ],
        }),
    );
    let mut pod = part.pod(NAME, base::privileged());
    if let Some(image) = &part.settings.images.selinux {
        set(&mut pod, "initContainers", json!([labels(image)]));
    }
    set(&mut pod, "containers", json!([driver, registrar]));
    set(
        &mut pod,
        "volumes",
        json!([
            directory("spire-agent-socket-dir", spec.sockets(), "DirectoryOrCreate"),
            directory("spiffe-csi-socket-dir", &plugin, "DirectoryOrCreate"),
            directory("mountpoint-dir", &format!("{KUBELET}/pods"), "Directory"),
            directory(
                "plugin-registration-dir",
                &format!("{KUBELET}/plugins_registry"),
                "Directory"
            ),
        ]),
    );
    part.daemon_set(NAME, part.template("spiffe-csi-driver", &[]), pod)
}

/// Gives the sockets' directory the label that containers may use, on nodes with SELinux.
fn labels(image: &str) -> Value {
    json!({
        "name": "set-context",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["chcon", "-Rt", "container_file_t", "/spire-agent-socket"],
        "securityContext": {
            "privileged": true,
            "runAsUser": 0,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
        "resources": {
            "requests": { "cpu": "5m", "memory": "16Mi" },
            "limits": { "memory": "64Mi" },
        },
        "volumeMounts": [
            { "name": "spire-agent-socket-dir", "mountPath": "/spire-agent-socket" },
        ],
    })
}

/// What OpenShift lets the pods of an account do, beside what nobody may.
pub(super) fn constraints(part: &Part<'_>, account: &str, allowed: Value) -> Wanted {
    let mut members = json!({
        "allowHostDirVolumePlugin": true,
        "allowHostIPC": false,
        "allowHostPID": false,
        "allowHostNetwork": false,
        "allowHostPorts": false,
        "readOnlyRootFilesystem": true,
        "requiredDropCapabilities": ["ALL"],
        "runAsUser": { "type": "RunAsAny" },
        "seLinuxContext": { "type": "RunAsAny" },
        "fsGroup": { "type": "RunAsAny" },
        "supplementalGroups": { "type": "RunAsAny" },
        "seccompProfiles": ["runtime/default"],
        "users": [format!("system:serviceaccount:{}:{account}", part.settings.namespace)],
    });
    set_all(&mut members, allowed);
    let part_of = "SecurityContextConstraintsAvailable";
    part.object(Kind::Constraints, part_of, account, members)
}
