//! The OIDC discovery provider, and the identities that come with it.

use serde_json::{Value, json};

use super::{Part, SERVICE_CERTIFICATE, Wanted, base, configuration, set};
use crate::operator::{
    CLASS,
    api::{ManagerSpec, OidcSpec, is_true, or},
    check,
    kinds::Kind,
    settings::Settings,
};

const NAME: &str = "spire-spiffe-oidc-discovery-provider";
const CONFIGURATION: &str = "/run/spire/oidc/config";
const FILE: &str = "oidc-discovery-provider.conf";
const SOCKETS: &str = "/spiffe-workload-api";
const CERTIFICATE: &str = "/etc/oidc/tls";
/// The Secret into which OpenShift puts a certificate for the provider's service.
const SERVICE_SECRET: &str = "oidc-serving-cert";
const TEMPLATE: &str =
    "spiffe://{{ .TrustDomain }}/ns/{{ .PodMeta.Namespace }}/sa/{{ .PodSpec.ServiceAccountName }}";

/// Everything of the OIDC discovery provider.
pub fn oidc(settings: &Settings, manager: &ManagerSpec, spec: &OidcSpec) -> Vec<Wanted> {
    let part = Part {
        settings,
        manager,
        common: &spec.common,
        app: "spiffe-oidc-discovery-provider",
        component: "discovery",
    };
    let secret = certificate(&part, spec);
    let conf = configuration(&oidc_conf(&part, spec, secret.is_some()));
    let mut all = vec![part.service_account(NAME)];
    let data = json!({ "data": { FILE: conf } });
    all.push(part.object(Kind::ConfigMap, "ConfigMapAvailable", NAME, data));
    all.extend(identities(&part));
    all.push(service(&part, secret.is_some()));
    if let Some(route) = route(&part, spec) {
        all.push(route);
        if !spec.external_secret_ref.is_empty() {
            let secret = &spec.external_secret_ref;
            all.extend(part.certificate_reader("spire-oidc-external-cert-reader", secret));
        }
    }
    all.push(deployment(&part, spec, secret.as_deref(), &conf));
    all
}

/// The Secret with the certificate; without one the provider speaks HTTP, behind something that
/// does TLS.
fn certificate(part: &Part<'_>, spec: &OidcSpec) -> Option<String> {
    // On OpenShift the router shows the user's certificate to the outside.
    if part.platform().openshift {
        return Some(SERVICE_SECRET.to_owned());
    }
    Some(spec.external_secret_ref.clone()).filter(|secret| !secret.is_empty())
}

fn oidc_conf(part: &Part<'_>, spec: &OidcSpec, tls: bool) -> Value {
    let namespace = &part.settings.namespace;
    let mut domains =
        vec![NAME.to_owned(), format!("{NAME}.{namespace}"), format!("{NAME}.{namespace}.svc")];
    domains.push(format!("{NAME}.{namespace}.svc.cluster.local"));
    if let Ok(host) = check::issuer(&spec.jwt_issuer) {
        domains.push(host.to_owned());
    }
    let mut conf = json!({
        "domains": domains,
        "health_checks": { "bind_port": "8008", "live_path": "/live", "ready_path": "/ready" },
        "jwt_issuer": spec.jwt_issuer,
        "log_format": or(&spec.log_format, "text"),
        "log_level": or(&spec.log_level, "info"),
        "workload_api": {
            "socket_path": format!("{SOCKETS}/spire-agent.sock"),
            "trust_domain": part.manager.trust_domain,
        },
    });
    if tls {
        set(
            &mut conf,
            "serving_cert_file",
            json!({
                "addr": ":8443",
                "cert_file_path": format!("{CERTIFICATE}/tls.crt"),
                "key_file_path": format!("{CERTIFICATE}/tls.key"),
            }),
        );
    } else {
        set(&mut conf, "insecure_addr", json!(":8080"));
    }
    conf
}

/// The provider's own identity, and one for every pod that no other ClusterSPIFFEID selects.
fn identities(part: &Part<'_>) -> [Wanted; 2] {
    let kind = Kind::ClusterSpiffeId;
    let place = |operator: &str| {
        json!({ "matchExpressions": [{
            "key": "kubernetes.io/metadata.name",
            "operator": operator,
            "values": [part.settings.namespace],
        }] })
    };
    let own = json!({
        "className": CLASS,
        "hint": "oidc-discovery-provider",
        "spiffeIDTemplate": TEMPLATE,
        "dnsNameTemplates": ["oidc-discovery.{{ .TrustDomain }}"],
        "autoPopulateDNSNames": true,
        "podSelector": { "matchLabels": part.selector() },
        "namespaceSelector": place("In"),
    });
    let default = json!({
        "className": CLASS,
        "hint": "default",
        "spiffeIDTemplate": TEMPLATE,
        "fallback": true,
        "namespaceSelector": place("NotIn"),
    });
    [("oidc-discovery-provider", own), ("default", default)].map(|(name, spec)| {
        let name = format!("zero-trust-workload-identity-manager-spire-{name}");
        part.object(kind, "ClusterSPIFFEIDAvailable", &name, json!({ "spec": spec }))
    })
}

fn service(part: &Part<'_>, tls: bool) -> Wanted {
    let port = if tls {
        json!({ "name": "https", "port": 443, "targetPort": "https", "protocol": "TCP" })
    } else {
        json!({ "name": "http", "port": 80, "targetPort": "http", "protocol": "TCP" })
    };
    let mut wanted = part.service(NAME, &[port]);
    if part.platform().openshift {
        wanted.annotate(SERVICE_CERTIFICATE, SERVICE_SECRET);
    }
    wanted
}

fn route(part: &Part<'_>, spec: &OidcSpec) -> Option<Wanted> {
    if !part.platform().openshift || !is_true(&spec.managed_route, true) {
        return None;
    }
    let host = check::issuer(&spec.jwt_issuer).ok()?;
    let mut tls =
        json!({ "termination": "reencrypt", "insecureEdgeTerminationPolicy": "Redirect" });
    if !spec.external_secret_ref.is_empty() {
        set(&mut tls, "externalCertificate", json!({ "name": spec.external_secret_ref }));
    }
    Some(part.object(
        Kind::Route,
        "RouteAvailable",
        "spire-oidc-discovery-provider",
        json!({ "spec": {
            "host": host,
            "to": { "kind": "Service", "name": NAME, "weight": 100 },
            "port": { "targetPort": "https" },
            "tls": tls,
            "wildcardPolicy": "None",
        } }),
    ))
}

fn deployment(part: &Part<'_>, spec: &OidcSpec, secret: Option<&str>, conf: &str) -> Wanted {
    let mut mounts = vec![
        json!({ "name": "spiffe-workload-api", "mountPath": SOCKETS, "readOnly": true }),
        json!({ "name": "spire-oidc-config", "mountPath": CONFIGURATION, "readOnly": true }),
    ];
    let mut volumes = vec![
        json!({
            "name": "spiffe-workload-api",
            "csi": { "driver": spec.driver(), "readOnly": true },
        }),
        json!({ "name": "spire-oidc-config", "configMap": { "name": NAME } }),
    ];
    let mut port = json!({ "name": "http", "containerPort": 8080, "protocol": "TCP" });
    if let Some(secret) = secret {
        mounts.push(json!({ "name": "tls-certs", "mountPath": CERTIFICATE, "readOnly": true }));
        let source = json!({ "secretName": secret, "defaultMode": 0o440 });
        volumes.push(json!({ "name": "tls-certs", "secret": source }));
        port = json!({ "name": "https", "containerPort": 8443, "protocol": "TCP" });
    }
    let probe = |path: &str, period: u32| {
        json!({
            "httpGet": { "path": path, "port": "healthz" },
            "periodSeconds": period,
            "timeoutSeconds": 5,
        })
    };
    // The server's limits are more than the provider needs; its probes are its own.
    let container = part.container(
        &base::server("controller"),
        json!({
            "name": "spiffe-oidc-discovery-provider",
            "image": part.settings.images.oidc,
            "command": ["/usr/bin/signet-oidc"],
            "args": ["-config", format!("{CONFIGURATION}/{FILE}")],
            "ports": [
                { "name": "healthz", "containerPort": 8008, "protocol": "TCP" },
                port,
            ],
            "livenessProbe": probe("/live", 30),
            "readinessProbe": probe("/ready", 5),
            "volumeMounts": mounts,
        }),
    );
    let mut pod = part.pod(NAME, base::restricted());
    set(&mut pod, "containers", json!([container]));
    set(&mut pod, "volumes", json!(volumes));
    part.object(
        Kind::Deployment,
        "DeploymentAvailable",
        NAME,
        json!({ "spec": {
            "replicas": spec.replica_count.clamp(1, 5),
            "selector": { "matchLabels": part.selector() },
            "template": {
                "metadata": part.template("spiffe-oidc-discovery-provider", &[conf]),
                "spec": pod,
            },
        } }),
    )
}
