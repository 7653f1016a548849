//! RBAC: each program may do what is listed here, which `docs/kubernetes.md` explains. A new
//! permission is argued for by a line in the table.

use std::collections::BTreeSet;

use e2e::{
    TestDir,
    kubernetes::{self, VERSION},
};
use serde_json::Value;

use super::{list, needs_judge, text};

/// Role, where it counts, verb, resource (and the one name).
const EXPECTED: &[&str] = &[
    "signet-server everywhere: create authentication.k8s.io/tokenreviews",
    "signet-server everywhere: get nodes",
    "signet-server in signet-agent: get pods",
    "signet-server in signet-agent: get configmaps signet-bundle",
    "signet-server in signet-agent: patch configmaps signet-bundle",
    "signet-controller everywhere: list pods",
    "signet-controller everywhere: watch pods",
    "signet-controller everywhere: list nodes",
    "signet-controller everywhere: watch nodes",
    "signet-controller everywhere: list namespaces",
    "signet-controller everywhere: watch namespaces",
    "signet-controller everywhere: list endpoints",
    "signet-controller everywhere: watch endpoints",
    "signet-controller everywhere: list spire.spiffe.io/clusterspiffeids",
    "signet-controller everywhere: watch spire.spiffe.io/clusterspiffeids",
    "signet-controller everywhere: list spire.spiffe.io/clusterstaticentries",
    "signet-controller everywhere: watch spire.spiffe.io/clusterstaticentries",
    "signet-controller everywhere: list spire.spiffe.io/clusterfederatedtrustdomains",
    "signet-controller everywhere: watch spire.spiffe.io/clusterfederatedtrustdomains",
    "signet-controller everywhere: patch spire.spiffe.io/clusterspiffeids/status",
    "signet-controller everywhere: patch spire.spiffe.io/clusterstaticentries/status",
    "signet-controller everywhere: patch spire.spiffe.io/clusterfederatedtrustdomains/status",
    "signet-controller everywhere: get \
     admissionregistration.k8s.io/validatingwebhookconfigurations signet-controller",
    "signet-controller everywhere: patch \
     admissionregistration.k8s.io/validatingwebhookconfigurations signet-controller",
    "signet-controller in signet-server: create coordination.k8s.io/leases",
    "signet-controller in signet-server: get coordination.k8s.io/leases signet-controller",
    "signet-controller in signet-server: update coordination.k8s.io/leases signet-controller",
    "signet-agent everywhere: get nodes/pods",
];

/// Who is given which role.
const BOUND: &[&str] = &[
    "ClusterRole signet-agent to signet-agent:signet-agent",
    "ClusterRole signet-controller to signet-server:signet-server",
    "ClusterRole signet-server to signet-server:signet-server",
    "Role signet-controller to signet-server:signet-server",
    "Role signet-server to signet-server:signet-server",
];

fn permissions(objects: &[Value]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for role in objects {
        let place = match text(role, "/kind") {
            "ClusterRole" => "everywhere".to_owned(),
            "Role" => format!("in {}", text(role, "/metadata/namespace")),
            _ => continue,
        };
        assert!(role["aggregationRule"].is_null(), "{role}");
        for rule in list(role, "/rules") {
            let words = |key: &str| -> Vec<&str> {
                let words = list(rule, key).iter();
                words.map(|word| word.as_str().expect("a word")).collect()
            };
            assert!(rule["nonResourceURLs"].is_null(), "{rule}");
            let names = match words("/resourceNames") {
                names if names.is_empty() => vec![""],
                names => names,
            };
            for (verb, group) in words("/verbs")
                .into_iter()
                .flat_map(|verb| words("/apiGroups").into_iter().map(move |group| (verb, group)))
            {
                for resource in words("/resources") {
                    for name in &names {
                        let slash = if group.is_empty() { "" } else { "/" };
                        let line = format!(
                            "{} {place}: {verb} {group}{slash}{resource} {name}",
                            text(role, "/metadata/name")
                        );
                        found.insert(line.trim_end().to_owned());
                    }
                }
            }
        }
    }
    found
}

fn bindings(objects: &[Value]) -> BTreeSet<String> {
    let bindings = objects.iter().filter(|o| text(o, "/kind").ends_with("RoleBinding"));
    let lines = bindings.flat_map(|binding| {
        let role = format!("{} {}", text(binding, "/roleRef/kind"), text(binding, "/roleRef/name"));
        list(binding, "/subjects").iter().map(move |subject| {
            assert_eq!(text(subject, "/kind"), "ServiceAccount", "{subject}");
            format!("{role} to {}:{}", text(subject, "/namespace"), text(subject, "/name"))
        })
    });
    lines.collect()
}

#[test]
fn programs_may_do_what_is_listed_and_nothing_else() {
    needs_judge!();
    let dir = TestDir::new();
    let expected: BTreeSet<String> = EXPECTED.iter().map(|&line| line.to_owned()).collect();
    let bound: BTreeSet<String> = BOUND.iter().map(|&line| line.to_owned()).collect();
    let chart = kubernetes::rendered(&dir, VERSION, &kubernetes::values("minimal"));
    for files in [kubernetes::plain_files(), vec![chart]] {
        let objects = kubernetes::documents(&files);
        assert_eq!(permissions(&objects), expected);
        assert_eq!(bindings(&objects), bound);
    }
}

#[test]
fn every_permission_is_explained_in_the_documentation() {
    let page = kubernetes::deploy().parent().unwrap().join("docs/kubernetes.md");
    let page = std::fs::read_to_string(page).expect("docs/kubernetes.md");
    for line in EXPECTED {
        let resource = line.split_once(": ").unwrap().1.split(' ').nth(1).unwrap();
        let resource = resource.split_once(".io/").map_or(resource, |(_, name)| name);
        assert!(page.contains(&format!("`{resource}`")), "{resource}: {line}");
    }
}

#[test]
fn without_the_controller_nobody_may_do_what_only_it_does() {
    needs_judge!();
    let dir = TestDir::new();
    let bare = kubernetes::rendered(&dir, VERSION, &kubernetes::values("bare"));
    let found = permissions(&kubernetes::documents(&[bare]));
    let expected =
        EXPECTED.iter().filter(|l| !l.starts_with("signet-controller")).map(|&l| l.to_owned());
    assert_eq!(found, expected.collect());
}

/// Kubelets before Kubernetes 1.33 ask for nodes/proxy.
#[test]
fn the_chart_asks_for_what_the_kubelets_of_the_cluster_understand() {
    needs_judge!();
    let dir = TestDir::new();
    for (version, expected) in [("1.32.9", "get nodes/proxy"), ("1.33.0", "get nodes/pods")] {
        let file = kubernetes::rendered(&dir, version, &kubernetes::values("minimal"));
        let found = permissions(&kubernetes::documents(&[file]));
        let agent: Vec<_> = found.iter().filter(|l| l.starts_with("signet-agent")).collect();
        assert_eq!(agent, [&format!("signet-agent everywhere: {expected}")], "{version}");
    }
}
