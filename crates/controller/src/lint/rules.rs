//! The rules.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    Document, Finding,
    workload::{Workload, namespace},
};
use crate::objects::text;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// It breaks the baseline.
    Error,
    /// It may be meant.
    Warning,
}

/// A rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name in reports.
    pub id: &'static str,
    /// How bad breaking it is.
    pub level: Level,
    /// What it asks for.
    pub text: &'static str,
}

macro_rules! rules {
    ($($name:ident = $id:literal, $level:ident, $text:literal;)+) => {
        $(static $name: Rule = Rule { id: $id, level: Level::$level, text: $text };)+
        /// Every rule.
        pub static RULES: &[&Rule] = &[$(&$name,)+];
    };
}

rules! {
    NAMESPACE_PROFILE = "namespace-pod-security", Error,
        "A namespace enforces the restricted Pod Security profile.";
    NAMESPACE_POLICY = "namespace-default-deny", Error,
        "A namespace has a NetworkPolicy that denies all traffic of all pods by default.";
    ACCOUNT_DEFAULT = "default-service-account", Error,
        "A workload names a service account of its own.";
    ACCOUNT_SHARED = "shared-service-account", Error,
        "A service account belongs to one application.";
    TOKEN_MOUNTED = "automounted-token", Error,
        "No token of a service account is mounted that nobody asked for.";
    POD_RESTRICTED = "pod-security", Error,
        "A pod keeps to the restricted profile.";
    SECRET_MANIFEST = "secret-in-manifest", Error,
        "A manifest holds no secret.";
    SECRET_ENV = "secret-in-environment", Error,
        "No secret stands in a container's environment as a text.";
    SECRET_REFERENCE = "kubernetes-secret", Warning,
        "A workload gets secrets by its identity, not from a Kubernetes Secret.";
    STORE_CLUSTER = "cluster-wide-store", Error,
        "A ClusterSecretStore is bound to namespaces by conditions.";
    STORE_VERSION = "store-version", Error,
        "Resources of External Secrets Operator are external-secrets.io/v1: older ones are served no more.";
    STORE_STATIC = "store-static-credential", Error,
        "A store proves itself by an identity, not by a kept token, password or AppRole.";
    STORE_AUDIENCE = "store-audience", Error,
        "A store's service account token is for one audience.";
    STORE_ACCOUNT = "store-default-account", Error,
        "A store uses a service account of its own.";
    BINDING_DEFAULT = "role-for-everybody", Error,
        "No role is bound to a default service account, or to all service accounts.";
}

/// Names of variables that hold secrets.
const SECRET_NAMES: &[&str] =
    &["PASSWORD", "PASSWD", "SECRET", "TOKEN", "APIKEY", "API_KEY", "PRIVATE_KEY", "CREDENTIAL"];
/// And of those among them that hold names, places or settings of secrets.
const HARMLESS_ENDS: &[&str] = &[
    "_FILE",
    "_PATH",
    "_NAME",
    "_URL",
    "_URI",
    "_TTL",
    "_DIR",
    "_AUDIENCE",
    "_ISSUER",
    "_ENDPOINT",
];

struct Findings<'a>(Vec<Finding>, &'a [Document]);

impl Findings<'_> {
    fn add(&mut self, rule: &'static Rule, document: &Document, message: impl Into<String>) {
        let kind = text(&document.object, "/kind");
        let name = text(&document.object, "/metadata/name");
        let (within, name) = match text(&document.object, "/metadata/namespace") {
            "" if kind == "Namespace" => (name, name.to_owned()),
            "" => ("", name.to_owned()),
            within => (within, format!("{within}/{name}")),
        };
        self.0.push(Finding {
            rule,
            file: document.file.clone(),
            line: document.line,
            object: format!("{kind} {name}"),
            namespace: within.to_owned(),
            message: message.into(),
        });
    }
}

pub(super) fn check(documents: &[Document]) -> Vec<Finding> {
    let mut findings = Findings(Vec::new(), documents);
    for document in documents {
        match text(&document.object, "/kind") {
            "Namespace" => check_namespace(&mut findings, document),
            "Secret" => check_secret(&mut findings, document),
            "ServiceAccount" if text(&document.object, "/metadata/name") == "default" => {
                if document.object.pointer("/automountServiceAccountToken") != Some(&false.into()) {
                    let message = "automountServiceAccountToken: expected false for default";
                    findings.add(&TOKEN_MOUNTED, document, message);
                }
            }
            "SecretStore"
            | "ClusterSecretStore"
            | "ExternalSecret"
            | "ClusterExternalSecret"
            | "PushSecret" => check_store(&mut findings, document),
            "RoleBinding" | "ClusterRoleBinding" => check_binding(&mut findings, document),
            _ => {
                if let Some(workload) = Workload::of(document) {
                    check_workload(&mut findings, &workload);
                }
            }
        }
    }
    check_shared(&mut findings);
    findings.0
}

fn check_namespace(findings: &mut Findings<'_>, document: &Document) {
    let labels = document.object.pointer("/metadata/labels");
    let enforced = labels
        .and_then(|labels| labels.get("pod-security.kubernetes.io/enforce"))
        .and_then(Value::as_str);
    if enforced != Some("restricted") {
        let found = enforced.unwrap_or("none");
        let message = format!(
            "metadata.labels: pod-security.kubernetes.io/enforce is {found}, expected restricted"
        );
        findings.add(&NAMESPACE_PROFILE, document, message);
    }
    let name = text(&document.object, "/metadata/name");
    let denied: BTreeSet<&str> = findings
        .1
        .iter()
        .filter(|other| text(&other.object, "/kind") == "NetworkPolicy")
        .filter(|other| namespace(other) == name)
        .filter(|other| {
            let spec = other.object.pointer("/spec");
            let all = spec.and_then(|spec| spec.get("podSelector")).is_some_and(|selector| {
                selector.as_object().is_some_and(serde_json::Map::is_empty)
            });
            let open = ["ingress", "egress"].iter().any(|way| {
                let rules = spec.and_then(|spec| spec.get(way)).and_then(Value::as_array);
                rules.is_some_and(|rules| !rules.is_empty())
            });
            all && !open
        })
        .filter_map(|other| other.object.pointer("/spec/policyTypes")?.as_array())
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for way in ["Ingress", "Egress"] {
        if !denied.contains(way) {
            let message = format!(
                "no NetworkPolicy with an empty podSelector and no rules has {way} among its \
                 policyTypes"
            );
            findings.add(&NAMESPACE_POLICY, document, message);
        }
    }
}

fn check_secret(findings: &mut Findings<'_>, document: &Document) {
    for key in ["data", "stringData"] {
        let held = document.object.get(key).and_then(Value::as_object);
        if let Some(name) = held.and_then(|held| held.keys().next()) {
            let message = format!("{key}.{name}: a manifest is in histories, caches and backups");
            findings.add(&SECRET_MANIFEST, document, message);
        }
    }
}

fn check_workload(findings: &mut Findings<'_>, workload: &Workload<'_>) {
    let (document, at, spec) = (workload.document, workload.path, workload.spec);
    if workload.account() == "default" {
        let message = format!("{at}.serviceAccountName: expected one of this application's own");
        findings.add(&ACCOUNT_DEFAULT, document, message);
    }
    let account = findings.1.iter().find(|other| {
        text(&other.object, "/kind") == "ServiceAccount"
            && namespace(other) == namespace(document)
            && text(&other.object, "/metadata/name") == workload.account()
    });
    let by_account = account.and_then(|a| a.object.pointer("/automountServiceAccountToken"));
    let by_pod = spec.get("automountServiceAccountToken");
    if by_pod.or(by_account) != Some(&false.into()) {
        let message = format!("{at}.automountServiceAccountToken: expected false");
        findings.add(&TOKEN_MOUNTED, document, message);
    }
    for key in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec.get(key) == Some(&true.into()) {
            findings.add(&POD_RESTRICTED, document, format!("{at}.{key}: expected false"));
        }
    }
    for volume in spec.get("volumes").and_then(Value::as_array).into_iter().flatten() {
        let name = text(volume, "/name");
        if volume.get("hostPath").is_some() {
            let message = format!("{at}.volumes: {name} is a hostPath");
            findings.add(&POD_RESTRICTED, document, message);
        }
        if volume.get("secret").is_some() {
            let message = format!("{at}.volumes: {name} is a Secret");
            findings.add(&SECRET_REFERENCE, document, message);
        }
    }
    let pod = spec.get("securityContext").cloned().unwrap_or_default();
    for container in workload.containers() {
        let own = container.spec.get("securityContext").cloned().unwrap_or_default();
        let either = |key: &str| own.get(key).or_else(|| pod.get(key)).cloned().unwrap_or_default();
        let name = container.name;
        let mut bad = Vec::new();
        if own.get("privileged") == Some(&true.into()) {
            bad.push("privileged: expected false");
        }
        if own.get("allowPrivilegeEscalation") != Some(&false.into()) {
            bad.push("allowPrivilegeEscalation: expected false");
        }
        if either("runAsNonRoot") != Value::Bool(true) {
            bad.push("runAsNonRoot: expected true");
        }
        let dropped = own.pointer("/capabilities/drop").and_then(Value::as_array);
        if !dropped.is_some_and(|all| all.iter().any(|one| one == "ALL")) {
            bad.push("capabilities.drop: expected ALL");
        }
        let profile = either("seccompProfile");
        if !matches!(text(&profile, "/type"), "RuntimeDefault" | "Localhost") {
            bad.push("seccompProfile.type: expected RuntimeDefault");
        }
        for what in bad {
            let message = format!("{at}: container {name}: securityContext.{what}");
            findings.add(&POD_RESTRICTED, document, message);
        }
        for variable in container.spec.get("env").and_then(Value::as_array).into_iter().flatten() {
            let key = text(variable, "/name");
            if !text(variable, "/value").is_empty() && is_secret(key) {
                let message = format!("{at}: container {name}: env {key} is set to a text");
                findings.add(&SECRET_ENV, document, message);
            }
            if variable.pointer("/valueFrom/secretKeyRef").is_some() {
                let message = format!("{at}: container {name}: env {key} is from a Secret");
                findings.add(&SECRET_REFERENCE, document, message);
            }
        }
        for from in container.spec.get("envFrom").and_then(Value::as_array).into_iter().flatten() {
            if from.get("secretRef").is_some() {
                let message = format!("{at}: container {name}: envFrom is a Secret");
                findings.add(&SECRET_REFERENCE, document, message);
            }
        }
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    SECRET_NAMES.iter().any(|part| name.contains(part))
        && !HARMLESS_ENDS.iter().any(|end| name.ends_with(end))
}

/// One account of several applications, told apart by their label or else by their names.
fn check_shared(findings: &mut Findings<'_>) {
    let mut users: BTreeMap<(String, String), BTreeMap<String, Vec<usize>>> = BTreeMap::new();
    for (at, document) in findings.1.iter().enumerate() {
        let Some(workload) = Workload::of(document) else { continue };
        if workload.account() == "default" {
            continue;
        }
        let labels = document.object.pointer("/metadata/labels");
        let label = labels
            .and_then(|labels| labels.get("app.kubernetes.io/name").or_else(|| labels.get("app")))
            .and_then(Value::as_str);
        let application = label.unwrap_or_else(|| text(&document.object, "/metadata/name"));
        users
            .entry((namespace(document).to_owned(), workload.account().to_owned()))
            .or_default()
            .entry(application.to_owned())
            .or_default()
            .push(at);
    }
    for ((_, account), applications) in users {
        if applications.len() < 2 {
            continue;
        }
        let names: Vec<&str> = applications.keys().map(String::as_str).collect();
        let message = format!("serviceAccountName {account} is used by {}", names.join(", "));
        for at in applications.values().flatten() {
            if let Some(document) = findings.1.get(*at) {
                findings.add(&ACCOUNT_SHARED, document, message.clone());
            }
        }
    }
}

fn check_store(findings: &mut Findings<'_>, document: &Document) {
    let object = &document.object;
    let version = text(object, "/apiVersion");
    if !version.starts_with("external-secrets.io/") {
        return;
    }
    // PushSecret has no v1 yet.
    if version != "external-secrets.io/v1" && text(object, "/kind") != "PushSecret" {
        let message = format!("apiVersion: found {version}, expected external-secrets.io/v1");
        findings.add(&STORE_VERSION, document, message);
    }
    let is_cluster = text(object, "/kind") == "ClusterSecretStore";
    if is_cluster {
        let conditions = object.pointer("/spec/conditions").and_then(Value::as_array);
        if conditions.is_none_or(Vec::is_empty) {
            let message = "spec.conditions: every namespace of the cluster may use this store";
            findings.add(&STORE_CLUSTER, document, message);
        }
    }
    let Some(auth) = object.pointer("/spec/provider/vault/auth") else { return };
    for key in ["tokenSecretRef", "appRole", "userPass", "ldap"] {
        if auth.get(key).is_some() {
            let message = format!("spec.provider.vault.auth.{key}: a credential that is kept");
            findings.add(&STORE_STATIC, document, message);
        }
    }
    for pointer in
        ["/kubernetes/serviceAccountRef", "/jwt/kubernetesServiceAccountToken/serviceAccountRef"]
    {
        let Some(account) = auth.pointer(pointer) else { continue };
        let at = format!("spec.provider.vault.auth{}", pointer.replace('/', "."));
        if text(account, "/name") == "default" {
            findings.add(&STORE_ACCOUNT, document, format!("{at}.name: it is default"));
        }
        let has = |value: Option<&Value>| {
            value.and_then(Value::as_array).is_some_and(|all| all.len() == 1)
        };
        let beside = auth.pointer("/jwt/kubernetesServiceAccountToken/audiences");
        let beside = beside.filter(|_| pointer.starts_with("/jwt"));
        if !has(account.get("audiences")) && !has(beside) {
            findings.add(&STORE_AUDIENCE, document, format!("{at}: expected one of audiences"));
        }
    }
}

fn check_binding(findings: &mut Findings<'_>, document: &Document) {
    let subjects = document.object.get("subjects").and_then(Value::as_array);
    for subject in subjects.into_iter().flatten() {
        let (kind, name) = (text(subject, "/kind"), text(subject, "/name"));
        let everybody = match kind {
            "ServiceAccount" => name == "default",
            "Group" => {
                name.starts_with("system:serviceaccounts")
                    || matches!(name, "system:authenticated" | "system:unauthenticated")
            }
            _ => false,
        };
        // Kubernetes itself lets everybody read what an API is.
        let own = text(&document.object, "/roleRef/name").starts_with("system:");
        if everybody && !own {
            findings.add(&BINDING_DEFAULT, document, format!("subjects: {kind} {name}"));
        }
    }
}
