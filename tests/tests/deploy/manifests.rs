//! Manifests fit the schemas of Kubernetes, and the chart makes the same ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use e2e::{
    TestDir,
    kubernetes::{self, VERSION},
};
use serde_json::Value;

use super::{everything, needs_judge, pods, text};

/// The oldest version that the chart takes, the first with nodes/pods, and the newest.
const VERSIONS: [&str; 3] = ["1.29", "1.33", "1.37"];

#[test]
fn manifests_fit_the_schemas_of_kubernetes() {
    needs_judge!();
    let dir = TestDir::new();
    let all = everything(&dir);
    let files: Vec<_> = all.iter().flat_map(|(_, files)| files.clone()).collect();
    for version in VERSIONS {
        let said = kubernetes::schemas(version, &files);
        assert_eq!(said["wrong"], serde_json::json!([]), "{version}: {said:#}");
        // Resources of our own have their own test.
        for kind in said["unknown"].as_array().expect("kinds") {
            assert!(kind.as_str().is_some_and(|k| k.starts_with("spire.spiffe.io/")), "{kind}");
        }
        assert!(said["checked"].as_u64().is_some_and(|n| n > 150), "{version}: {said}");
    }
}

#[test]
fn a_manifest_with_a_field_that_kubernetes_does_not_know_is_found() {
    needs_judge!();
    let dir = TestDir::new();
    let good = kubernetes::deploy().join("kubernetes/42-agent.yaml");
    let text = std::fs::read_to_string(&good).expect("the agent");
    let bad = dir.write("bad.yaml", text.replace("hostPID: true", "hostPid: true"));
    let said = kubernetes::schemas("1.37", &[bad]);
    assert!(said["wrong"].to_string().contains("hostPid"), "{said}");
}

type Key = (String, String, String);

fn by_key(objects: Vec<Value>) -> BTreeMap<Key, Value> {
    let key = |object: &Value| {
        let part = |pointer| text(object, pointer).to_owned();
        (part("/kind"), part("/metadata/namespace"), part("/metadata/name"))
    };
    objects.into_iter().map(|object| (key(&object), object)).collect()
}

/// Takes out what only a chart says, and reads configurations that are in ConfigMaps.
fn essence(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|name, _| {
                let chart = ["helm.sh/chart", "app.kubernetes.io/managed-by", "imagePullPolicy"];
                !chart.contains(&name.as_str())
                    && name != "app.kubernetes.io/version"
                    && !name.starts_with("checksum/")
            });
            for (name, value) in map.iter_mut() {
                if name.ends_with(".conf") {
                    let config = value.as_str().expect("a configuration");
                    *value = serde_json::from_str(config).expect("JSON");
                }
                essence(value);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(essence),
        _ => {}
    }
}

#[test]
fn the_chart_says_what_the_manifests_say() {
    needs_judge!();
    let dir = TestDir::new();
    let rendered = kubernetes::rendered(&dir, VERSION, &kubernetes::values("plain"));
    let mut plain = by_key(kubernetes::documents(&kubernetes::plain_files()));
    let mut chart = by_key(kubernetes::documents(&[rendered]));
    let definition = |key: &Key| key.0 == "CustomResourceDefinition";
    plain.retain(|key, _| !definition(key));
    let keys = |map: &BTreeMap<Key, Value>| map.keys().cloned().collect::<BTreeSet<_>>();
    let key = |kind: &str, namespace: &str, name: &str| -> Key {
        (kind.to_owned(), namespace.to_owned(), name.to_owned())
    };
    // Helm makes the namespace of the release itself.
    let only_plain = [key("Namespace", "", "signet-server")];
    let only_chart = [key("Pod", "signet-server", "signet-test")];
    assert_eq!(&keys(&plain) - &keys(&chart), only_plain.into());
    assert_eq!(&keys(&chart) - &keys(&plain), only_chart.into());
    for (key, mut expected) in plain {
        let Some(mut found) = chart.remove(&key) else { continue };
        essence(&mut expected);
        essence(&mut found);
        assert_eq!(found, expected, "{key:?}");
    }
}

#[test]
fn the_kustomization_lists_every_manifest() {
    let dir = kubernetes::deploy().join("kubernetes");
    let text = std::fs::read_to_string(dir.join("Kustomization")).expect("the kustomization");
    let listed: BTreeSet<&str> =
        text.lines().filter_map(|line| line.trim().strip_prefix("- ")).collect();
    let there = kubernetes::files(&dir, "yaml");
    let there: BTreeSet<_> =
        there.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(listed, there);
}

/// kustomize takes no file from outside of a kustomization's directory, but another kustomization.
#[test]
fn kustomizations_name_files_of_their_own_or_other_kustomizations() {
    let is_one = |dir: &Path| {
        ["Kustomization", "kustomization.yaml"].iter().find_map(|name| {
            let path = dir.join(name);
            path.is_file().then_some(path)
        })
    };
    let mut dirs = vec![kubernetes::deploy()];
    let mut seen = 0;
    while let Some(dir) = dirs.pop() {
        let entries = std::fs::read_dir(&dir).expect("a directory");
        let entries = entries.map(|entry| entry.expect("an entry").path());
        dirs.extend(entries.filter(|path| path.is_dir()));
        let Some(kustomization) = is_one(&dir) else { continue };
        seen += 1;
        let text = std::fs::read_to_string(&kustomization).expect("a kustomization");
        for named in text.lines().filter_map(|line| line.trim().strip_prefix("- ")) {
            let path = dir.join(named);
            let is_own = path.is_file() && !Path::new(named).starts_with("..");
            let is_other = path.is_dir() && is_one(&path).is_some();
            assert!(is_own || is_other, "{}: {named}", kustomization.display());
        }
    }
    assert!(seen >= 5, "{seen} kustomizations");
}

/// Where images come from is for whoever installs to say.
#[test]
fn images_are_named_without_a_registry() {
    needs_judge!();
    let objects = kubernetes::documents(&kubernetes::plain_files());
    let mut images = BTreeSet::new();
    for (_, spec) in pods(&objects) {
        for container in super::list(spec, "/containers") {
            images.insert(text(container, "/image").to_owned());
        }
    }
    assert_eq!(images.len(), 4, "{images:?}");
    for image in images {
        let (name, tag) = image.split_once(':').expect("a tag");
        assert!(!name.contains('.') && tag != "latest", "{image}");
    }
}

#[test]
fn a_registry_is_put_before_every_image() {
    needs_judge!();
    let dir = TestDir::new();
    let (_, files) =
        everything(&dir).into_iter().find(|(name, _)| name == "rich").expect("rich values");
    for (_, spec) in pods(&kubernetes::documents(&files)) {
        for container in super::list(spec, "/containers") {
            let image = text(container, "/image");
            assert!(image.starts_with("mirror.rich.example/signet/"), "{image}");
        }
    }
}
