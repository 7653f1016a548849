//! The server, and the controller beside it.

use serde_json::{Value, json};

use super::{
    DATABASE_CERTIFICATES, Part, SERVICE_CERTIFICATE, Wanted, api_token, api_token_mount,
    base::{self, SOCKET},
    configuration, controller, federation, log_level, set, with_texts,
};
use crate::operator::{
    FIXED,
    api::{DataStore, ManagerSpec, ServerSpec, is_true, or},
    kinds::Kind,
    settings::Settings,
};

const NAME: &str = "spire-server";
/// Where the volume is, as in the other operator: `connectionString` names files in it.
const DATA: &str = "/run/spire/data";
/// The directory of the server's own socket, which the controller shares.
const SOCKETS: &str = "/tmp/spire-server";
const CONFIGURATION: &str = "/run/spire/config";
const CERTIFICATE: &str = "/run/spire/server-tls";
/// The Secret into which OpenShift puts a certificate for the server's service.
const SERVICE_SECRET: &str = "spire-server-serving-cert";
const AUDIENCE: &str = "spire-server";

/// Everything of a server; `declared` are the relationships that somebody else declares.
pub fn server(
    settings: &Settings,
    manager: &ManagerSpec,
    spec: &ServerSpec,
    declared: &federation::Declared,
) -> Vec<Wanted> {
    let part =
        Part { settings, manager, common: &spec.common, app: NAME, component: "control-plane" };
    let mut all = vec![part.service_account(NAME)];
    all.extend(part.cluster_role(NAME, base::server_rules("ClusterRole"), NAME));
    let mut rules = base::server_rules("Role");
    super::controller::rename(&mut rules, "signet-bundle", manager.bundle());
    all.extend(part.role("spire-bundle", rules, NAME));
    // Without data: what the server has put there stays.
    let bundle = part.object(Kind::ConfigMap, "BundleConfigAvailable", manager.bundle(), json!({}));
    all.push(bundle);

    let server_conf = configuration(&server_conf(&part, spec));
    all.push(part.object(
        Kind::ConfigMap,
        "ServerConfigMapAvailable",
        NAME,
        json!({ "data": { "server.conf": server_conf } }),
    ));
    let controller_conf = controller::configuration(&part);
    all.extend(controller::objects(&part, &controller_conf));
    all.push(service(&part, spec));
    all.extend(federation::relationships(&part, spec, declared));
    all.extend(federation::route(&part, spec));
    all.push(stateful_set(&part, spec, &[&server_conf, &controller_conf]));
    all
}

/// The volume claims of a server: they can never change.
fn volume_claims(spec: &ServerSpec) -> Value {
    let volume = &spec.persistence;
    let mut claim = json!({
        "accessModes": [or(&volume.access_mode, "ReadWriteOnce")],
        "resources": { "requests": { "storage": or(&volume.size, "1Gi") } },
    });
    if !volume.storage_class.is_empty() {
        set(&mut claim, "storageClassName", json!(volume.storage_class));
    }
    json!([{ "metadata": { "name": "spire-data" }, "spec": claim }])
}

fn server_conf(part: &Part<'_>, spec: &ServerSpec) -> Value {
    let namespace = &part.settings.namespace;
    let manager = part.manager;
    let mut server = json!({
        "bind_address": "0.0.0.0",
        "bind_port": 8081,
        "ca_key_type": or(&spec.ca_key_type, "rsa-2048"),
        "ca_ttl": or(&spec.ca_validity, "24h"),
        "data_dir": DATA,
        "default_jwt_svid_ttl": or(&spec.jwt_validity, "5m"),
        "default_x509_svid_ttl": or(&spec.x509_validity, "1h"),
        "jwt_issuer": spec.jwt_issuer,
        "log_format": or(&spec.log_format, "text"),
        "log_level": log_level(&spec.log_level),
        "socket_path": SOCKET,
        "trust_domain": manager.trust_domain,
    });
    if !spec.jwt_key_type.is_empty() {
        set(&mut server, "jwt_key_type", json!(spec.jwt_key_type));
    }
    let subject = &spec.ca_subject;
    let mut given = with_texts(&[("common_name", &subject.common_name)]);
    for (key, text) in [("country", &subject.country), ("organization", &subject.organization)] {
        if !text.is_empty() {
            given.insert(key.to_owned(), json!([text]));
        }
    }
    if !given.is_empty() {
        set(&mut server, "ca_subject", Value::Object(given));
    }
    if let Some(given) = &spec.federation {
        set(&mut server, "federation", federation::endpoint(given, CERTIFICATE));
    }
    let in_memory =
        spec.key_manager.as_ref().is_some_and(|keys| is_true(&keys.memory_enabled, false));
    let key_manager = if in_memory {
        json!({ "memory": { "plugin_data": {} } })
    } else {
        json!({ "disk": { "plugin_data": { "keys_path": format!("{DATA}/keys.json") } } })
    };
    json!({
        "health_checks": {
            "bind_address": "0.0.0.0",
            "bind_port": 8080,
            "listener_enabled": true,
        },
        "plugins": {
            "DataStore": { "sql": { "plugin_data": data_store(&spec.datastore) } },
            "KeyManager": key_manager,
            "NodeAttestor": { "k8s_psat": { "plugin_data": { "clusters": {
                &manager.cluster_name: {
                    "audience": [AUDIENCE],
                    "service_account_allow_list": [format!("{namespace}:spire-agent")],
                },
            } } } },
            "Notifier": { "k8sbundle": { "plugin_data": {
                "config_map": manager.bundle(),
                "config_map_key": "bundle.crt",
                "namespace": namespace,
            } } },
        },
        "server": server,
        "telemetry": { "Prometheus": { "host": "0.0.0.0", "port": 9402 } },
    })
}

fn data_store(spec: &DataStore) -> Value {
    let kind = match spec.database_type.as_str() {
        // The other operator takes the plugin's name as well.
        "" | "sql" => "sqlite3",
        other => other,
    };
    let mut data = json!({
        "database_type": kind,
        "connection_string":
            or(&spec.connection_string, "/run/spire/data/datastore.sqlite3"),
    });
    if kind != "sqlite3" {
        for (key, number) in
            [("max_open_conns", spec.max_open_conns), ("max_idle_conns", spec.max_idle_conns)]
        {
            if number > 0 {
                set(&mut data, key, json!(number));
            }
        }
        if spec.conn_max_lifetime > 0 {
            set(&mut data, "conn_max_lifetime", json!(format!("{}s", spec.conn_max_lifetime)));
        }
    }
    if is_true(&spec.disable_migration, false) {
        set(&mut data, "disable_migration", json!(true));
    }
    data
}

fn service(part: &Part<'_>, spec: &ServerSpec) -> Wanted {
    let mut ports = vec![
        json!({ "name": "grpc", "port": 443, "targetPort": "grpc", "protocol": "TCP" }),
        json!({ "name": "metrics", "port": 9402, "targetPort": 9402, "protocol": "TCP" }),
    ];
    if spec.federation.is_some() {
        let port =
            json!({ "name": "federation", "port": 8443, "targetPort": 8443, "protocol": "TCP" });
        ports.push(port);
    }
    let mut wanted = part.service(NAME, &ports);
    if let Some(spec) = wanted.object.get_mut("spec") {
        // A controller that is not ready does not keep agents from the server in its pod.
        set(spec, "publishNotReadyAddresses", json!(true));
    }
    if part.platform().openshift && spec.federation.is_some() {
        wanted.annotate(SERVICE_CERTIFICATE, SERVICE_SECRET);
    }
    wanted
}

/// The Secret of the bundle endpoint's certificate, where it has one.
fn certificate(part: &Part<'_>, spec: &ServerSpec) -> Option<String> {
    let federation = spec.federation.as_ref()?;
    if federation.bundle_endpoint.profile != "https_web" {
        return None;
    }
    // On OpenShift the router shows the user's certificate to the outside.
    if part.platform().openshift {
        return Some(SERVICE_SECRET.to_owned());
    }
    let web = federation.bundle_endpoint.https_web.as_ref()?;
    web.serving_cert.as_ref().map(|cert| cert.external_secret_ref.clone())
}

fn stateful_set(part: &Part<'_>, spec: &ServerSpec, configurations: &[&str]) -> Wanted {
    let mut mounts = vec![
        json!({ "name": "spire-config", "mountPath": CONFIGURATION, "readOnly": true }),
        json!({ "name": "spire-data", "mountPath": DATA }),
        // SQLite's temporary files.
        json!({ "name": "server-tmp", "mountPath": "/tmp" }),
        json!({ "name": "spire-server-socket", "mountPath": SOCKETS }),
        api_token_mount(),
    ];
    let mut volumes = vec![
        json!({ "name": "spire-config", "configMap": { "name": NAME } }),
        json!({ "name": "controller-manager-config", "configMap": { "name": controller::NAME } }),
        json!({ "name": "server-tmp", "emptyDir": {} }),
        json!({ "name": "spire-server-socket", "emptyDir": {} }),
        api_token(0o440),
    ];
    let mut ports = vec![
        json!({ "name": "grpc", "containerPort": 8081, "protocol": "TCP" }),
        json!({ "name": "health", "containerPort": 8080, "protocol": "TCP" }),
    ];
    let secrets = [
        ("db-certs", DATABASE_CERTIFICATES, spec.datastore.tls_secret_name.clone()),
        ("spire-server-tls", CERTIFICATE, certificate(part, spec).unwrap_or_default()),
    ];
    for (name, path, secret) in secrets.into_iter().filter(|(.., secret)| !secret.is_empty()) {
        mounts.push(json!({ "name": name, "mountPath": path, "readOnly": true }));
        let source = json!({ "secretName": secret, "defaultMode": 0o440 });
        volumes.push(json!({ "name": name, "secret": source }));
    }
    if spec.federation.is_some() {
        ports.push(json!({ "name": "federation", "containerPort": 8443, "protocol": "TCP" }));
    }
    let server = part.container(
        &base::server("server"),
        json!({
            "name": NAME,
            "image": part.settings.images.server,
            "command": ["/usr/bin/signet-server"],
            "args": ["run", "-expandEnv", "-config", format!("{CONFIGURATION}/server.conf")],
            "ports": ports,
            "volumeMounts": mounts,
        }),
    );
    let mut pod = part.pod(NAME, base::restricted());
    set(&mut pod, "containers", json!([server, controller::container(part)]));
    set(&mut pod, "volumes", json!(volumes));
    let mut wanted = part.object(
        Kind::StatefulSet,
        "StatefulSetAvailable",
        NAME,
        json!({ "spec": {
            // One: the volume is one pod's.
            "replicas": 1,
            "serviceName": NAME,
            "selector": { "matchLabels": part.selector() },
            "template": { "metadata": part.template(NAME, configurations), "spec": pod },
            "volumeClaimTemplates": volume_claims(spec),
        } }),
    );
    wanted.annotate(FIXED, &fixed(part.manager));
    wanted
}

/// What can never change, in one text.
pub fn fixed(manager: &ManagerSpec) -> String {
    format!("{} {} {}", manager.trust_domain, manager.cluster_name, manager.bundle())
}
