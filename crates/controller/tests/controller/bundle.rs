//! What is in `deploy/operator`: permissions that suffice and no more, definitions and samples, and
//! the bundle for catalogues of operators.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use serde_json::Value;
use signet_controller::{
    lint,
    operator::{
        api::{AgentSpec, CsiSpec, ManagerSpec, OidcSpec, ServerSpec},
        render::{self, Declared, Wanted},
        settings::{Images, Platform, Settings},
    },
};

const NAMESPACE: &str = "zero-trust-workload-identity-manager";

fn deploy() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/operator"))
}

fn documents(file: &str) -> Vec<Value> {
    let path = deploy().join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    lint::parse(file, &text).unwrap().into_iter().map(|document| document.object).collect()
}

fn csv() -> Value {
    documents("bundle/manifests/signet-operator.clusterserviceversion.yaml").remove(0)
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn texts(value: &Value, key: &str) -> Vec<String> {
    list(value, &format!("/{key}")).iter().map(|one| one.as_str().unwrap().to_owned()).collect()
}

/// The samples, rendered for a platform.
fn rendered(platform: Platform) -> Vec<Wanted> {
    let settings = Settings {
        namespace: NAMESPACE.to_owned(),
        images: Images::from_env(&|_| None),
        platform,
        create_only: false,
        operator_condition: None,
    };
    let mut all = Vec::new();
    for sample in ["samples/cluster.yaml", "samples/everything.yaml"] {
        let documents = documents(sample);
        let spec = |kind: &str| {
            let one = documents.iter().find(|one| one["kind"] == kind).unwrap();
            one["spec"].clone()
        };
        macro_rules! read {
            ($kind:expr, $as:ty) => {
                serde_json::from_value::<$as>(spec($kind)).unwrap()
            };
        }
        let top = read!("ZeroTrustWorkloadIdentityManager", ManagerSpec);
        let server = read!("SpireServer", ServerSpec);
        all.extend(render::server(&settings, &top, &server, &Declared::new()));
        all.extend(render::agent(&settings, &top, &read!("SpireAgent", AgentSpec)));
        all.extend(render::csi(&settings, &top, &read!("SpiffeCSIDriver", CsiSpec)));
        all.extend(render::oidc(&settings, &top, &read!("SpireOIDCDiscoveryProvider", OidcSpec)));
    }
    all
}

/// Group, resource, verb, and the name where one is named.
type Permission = (String, String, String, Option<String>);

fn permissions<'a>(rules: impl IntoIterator<Item = &'a Value>) -> BTreeSet<Permission> {
    let mut all = BTreeSet::new();
    for rule in rules {
        let mut names: Vec<_> = texts(rule, "resourceNames").into_iter().map(Some).collect();
        if names.is_empty() {
            names.push(None);
        }
        for group in texts(rule, "apiGroups") {
            for resource in texts(rule, "resources") {
                for verb in texts(rule, "verbs") {
                    for name in &names {
                        all.insert((group.clone(), resource.clone(), verb.clone(), name.clone()));
                    }
                }
            }
        }
    }
    all
}

fn covers(held: &BTreeSet<Permission>, (group, resource, verb, name): &Permission) -> bool {
    let of = |name: Option<String>| (group.clone(), resource.clone(), verb.clone(), name);
    held.contains(&of(None)) || name.is_some() && held.contains(&of(name.clone()))
}

fn rules(manifest: &[Value], kind: &str) -> Vec<Value> {
    let of_kind = manifest.iter().filter(|one| one["kind"] == kind);
    of_kind.flat_map(|one| list(one, "/rules").to_vec()).collect()
}

/// What the operator may do by the manifests, and by the bundle: everywhere, and in its namespace.
fn held() -> [(&'static str, Platform, BTreeSet<Permission>, BTreeSet<Permission>); 2] {
    let plain = documents("11-rbac.yaml");
    let csv = csv();
    let bundled = |part: &str| {
        let given = list(&csv, &format!("/spec/install/spec/{part}"));
        assert!(given.iter().all(|one| one["serviceAccountName"] == "signet-operator"));
        permissions(given.iter().flat_map(|one| list(one, "/rules")))
    };
    let everywhere = permissions(&rules(&plain, "ClusterRole"));
    let here = permissions(&rules(&plain, "Role"));
    let openshift = Platform { openshift: true, narrow_kubelet: false };
    [
        ("manifests", Platform::KUBERNETES, everywhere, here),
        ("bundle", openshift, bundled("clusterPermissions"), bundled("permissions")),
    ]
}

fn group(version: &str) -> String {
    version.rsplit_once('/').map_or("", |(group, _)| group).to_owned()
}

#[test]
fn the_operator_may_write_each_object_and_grant_each_permission_of_the_parts() {
    for (what, platform, everywhere, here) in held() {
        let both: BTreeSet<_> = everywhere.union(&here).cloned().collect();
        for wanted in rendered(platform) {
            let kind = wanted.kind;
            let may = if kind.is_namespaced() { &both } else { &everywhere };
            let named = |verb: &str, name: Option<String>| -> Permission {
                (group(kind.version()), kind.resource().to_owned(), verb.to_owned(), name)
            };
            let name = wanted.name();
            // The name of a sample's own is that of the driver or the bundle, which are not known.
            for verb in ["list", "watch", "create"] {
                let need = named(verb, None);
                assert!(covers(may, &need), "{what}: {need:?}");
            }
            for verb in ["patch", "update", "delete"] {
                let need = named(verb, Some(name.to_owned()));
                assert!(covers(may, &need), "{what}: {need:?}");
            }
            let grants = permissions(list(&wanted.object, "/rules"));
            let held = if kind.name() == "ClusterRole" { &everywhere } else { &both };
            for grant in &grants {
                assert!(covers(held, grant), "{what}: {} {name} grants {grant:?}", kind.name());
            }
        }
    }
}

#[test]
fn the_operator_may_do_nothing_with_everything() {
    let unnamed = [
        // Names that the specifications decide.
        ("storage.k8s.io", "csidrivers"),
        ("spire.spiffe.io", "clusterfederatedtrustdomains"),
        ("", "configmaps"),
        // What the parts are granted.
        ("authentication.k8s.io", "tokenreviews"),
        ("", "nodes"),
        ("", "nodes/pods"),
        ("", "nodes/proxy"),
        ("", "pods"),
        ("", "secrets"),
        ("spire.spiffe.io", "clusterspiffeids/status"),
        ("spire.spiffe.io", "clusterstaticentries/status"),
        ("spire.spiffe.io", "clusterfederatedtrustdomains/status"),
        ("route.openshift.io", "routes/custom-host"),
    ];
    for (what, _, everywhere, here) in held() {
        for (group, resource, verb, name) in everywhere.iter().chain(&here) {
            let permission = format!("{what}: {verb} {resource}.{group}");
            assert!(![group, resource, verb].iter().any(|one| *one == "*"), "{permission}");
            assert!(!["escalate", "bind", "impersonate"].contains(&verb.as_str()), "{permission}");
            let any = ["list", "watch", "create"].contains(&verb.as_str());
            let known = unnamed.contains(&(group.as_str(), resource.as_str()));
            assert!(any || known || name.is_some(), "{permission}");
        }
        // Secrets are read in the operator's namespace alone, and there only on OpenShift.
        assert!(!everywhere.iter().any(|(_, resource, ..)| resource == "secrets"), "{what}");
    }
    let [(_, _, everywhere, here), _] = held();
    let secret =
        |(_, resource, ..): &Permission| resource == "secrets" || resource == "nodes/proxy";
    assert!(!everywhere.iter().chain(&here).any(secret));
}

#[test]
fn the_bundle_has_what_a_catalogue_asks_for() {
    let csv = csv();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(csv["kind"], "ClusterServiceVersion");
    assert_eq!(csv["metadata"]["name"], format!("signet-operator.v{version}"));
    assert_eq!(csv["spec"]["version"], version);
    for field in [
        "displayName",
        "description",
        "keywords",
        "maintainers",
        "provider",
        "links",
        "icon",
        "maturity",
        "minKubeVersion",
        "installModes",
        "install",
        "customresourcedefinitions",
        "relatedImages",
    ] {
        let empty = match &csv["spec"][field] {
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            other => !other.is_object(),
        };
        assert!(!empty, "{field}");
    }
    // One deployment, which is that of the manifests.
    let deployments = list(&csv, "/spec/install/spec/deployments");
    let plain = documents("20-operator.yaml").remove(0);
    assert_eq!(deployments.len(), 1);
    assert_eq!(deployments[0]["spec"], plain["spec"]);
    let account = documents("10-service-account.yaml").remove(0);
    assert_eq!(
        plain["spec"]["template"]["spec"]["serviceAccountName"],
        account["metadata"]["name"]
    );
    // Every image that runs is named, so that a mirror has all of them.
    let images: BTreeSet<_> = list(&csv, "/spec/relatedImages")
        .iter()
        .map(|one| one["image"].clone().to_string())
        .collect();
    let container = &plain["spec"]["template"]["spec"]["containers"][0];
    let mut used: BTreeSet<_> = list(container, "/env")
        .iter()
        .filter(|one| one["name"].as_str().unwrap().starts_with("RELATED_IMAGE_"))
        .map(|one| one["value"].to_string())
        .collect();
    used.insert(container["image"].to_string());
    assert_eq!(used, images);
    // Those images are the ones that the program would take by itself.
    let ours = Images::from_env(&|_| None);
    for image in [&ours.server, &ours.controller, &ours.agent, &ours.oidc, &ours.registrar] {
        assert!(used.contains(&format!("{image:?}")), "{image}");
    }
}

#[test]
fn the_bundle_has_every_definition_and_an_example_of_each() {
    let csv = csv();
    let owned: BTreeMap<_, _> = list(&csv, "/spec/customresourcedefinitions/owned")
        .iter()
        .map(|one| (one["name"].as_str().unwrap().to_owned(), one.clone()))
        .collect();
    let mut kinds = BTreeSet::new();
    for (directory, suffix) in
        [("crds", "operator.openshift.io"), ("../kubernetes/crds", "spire.spiffe.io")]
    {
        for entry in fs::read_dir(deploy().join(directory)).unwrap() {
            let path = entry.unwrap().path();
            // A kustomization stands beside them.
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(&path).unwrap();
            let copy = deploy().join(format!("bundle/manifests/{stem}.{suffix}.yaml"));
            assert_eq!(text, fs::read_to_string(&copy).unwrap(), "{}", copy.display());
            let definition = lint::parse(&stem, &text).unwrap().remove(0).object;
            let one = &owned[definition["metadata"]["name"].as_str().unwrap()];
            assert_eq!(one["kind"], definition["spec"]["names"]["kind"]);
            assert_eq!(one["version"], definition["spec"]["versions"][0]["name"]);
            // Conditions are written to a subresource, and a schema is what examples fit.
            let served = &definition["spec"]["versions"][0];
            assert!(served["subresources"]["status"].is_object(), "{stem}");
            for descriptor in list(one, "/specDescriptors") {
                let mut schema = &served["schema"]["openAPIV3Schema"]["properties"]["spec"];
                for part in descriptor["path"].as_str().unwrap().split('.') {
                    schema = &schema["properties"][part];
                }
                assert!(schema["type"].is_string(), "{stem}: {descriptor}");
            }
            kinds.insert(one["kind"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(kinds.len(), owned.len());
    let examples = csv["metadata"]["annotations"]["alm-examples"].as_str().unwrap();
    let examples: Vec<Value> = serde_json::from_str(examples).unwrap();
    let shown: BTreeSet<_> =
        examples.iter().map(|one| one["kind"].as_str().unwrap().to_owned()).collect();
    assert_eq!(shown, kinds);
    let sample = documents("samples/cluster.yaml");
    assert!(sample.iter().all(|one| examples.contains(one)));
}

#[test]
fn the_bundles_image_has_the_labels_of_its_annotations() {
    let annotations = documents("bundle/metadata/annotations.yaml").remove(0);
    let annotations = annotations["annotations"].as_object().unwrap().clone();
    let text = fs::read_to_string(deploy().join("bundle/Dockerfile")).unwrap();
    let labels: BTreeMap<_, _> = text
        .lines()
        .filter_map(|line| line.strip_prefix("LABEL ")?.split_once('='))
        .map(|(key, value)| (key.to_owned(), Value::from(value)))
        .collect();
    assert_eq!(labels, annotations.into_iter().collect());
    for key in ["mediatype.v1", "manifests.v1", "metadata.v1", "package.v1", "channels.v1"] {
        assert!(
            labels.contains_key(&format!("operators.operatorframework.io.bundle.{key}")),
            "{key}"
        );
    }
    for place in ["manifests", "metadata", "tests/scorecard"] {
        assert!(text.contains(&format!("COPY {place} /{place}/")), "{place}");
    }
    let scorecard = documents("bundle/tests/scorecard/config.yaml").remove(0);
    assert_eq!(scorecard["kind"], "Configuration");
    assert_eq!(list(&scorecard, "/stages/0/tests").len(), 6);
}

/// What is on every node cannot keep the restricted profile, for the reasons that
/// `deploy/kubernetes/42-agent.yaml` gives.
#[test]
fn what_is_rendered_breaks_no_rule_of_lint_but_the_profile_of_what_is_on_every_node() {
    for platform in [Platform::KUBERNETES, Platform { openshift: true, narrow_kubelet: false }] {
        let mut documents: Vec<_> = rendered(platform).into_iter().map(|one| one.object).collect();
        documents.extend(self::documents("10-service-account.yaml"));
        documents.extend(self::documents("20-operator.yaml"));
        let documents: Vec<_> = documents
            .into_iter()
            .map(|object| lint::Document { file: "rendered".to_owned(), line: 1, object })
            .collect();
        let errors: Vec<_> = lint::check(&documents)
            .into_iter()
            .filter(|finding| finding.rule.level == lint::Level::Error)
            .map(|finding| format!("{}: {} {}", finding.rule.id, finding.object, finding.message))
            .filter(|text| !text.starts_with("pod-security: DaemonSet "))
            .collect();
        assert!(errors.is_empty(), "{errors:#?}");
    }
}
