//! Pods and resources become entries, and go with them.

use serde_json::json;
use signet_api::pb::spire::api::types;

use crate::fixture::{Fixture, TEMPLATE, eventually};

fn foreign(id: &str) -> types::Entry {
    let member =
        |path: &str| Some(types::Spiffeid { trust_domain: "td".into(), path: path.into() });
    types::Entry {
        id: id.to_owned(),
        spiffe_id: member(&format!("/foreign/{id}")),
        parent_id: member("/node"),
        selectors: vec![types::Selector { r#type: "unix".into(), value: "uid:0".into() }],
        ..Default::default()
    }
}

/// What both kinds of server have to make of a cluster's life.
async fn life(push: bool) {
    let f = Fixture::new(push).await;
    f.rule("r", json!({
        "spiffeIDTemplate": TEMPLATE, "podSelector": {"matchLabels": {"id": "yes"}}, "ttl": "10m",
        "workloadSelectorTemplates": ["k8s:ns:{{ .PodMeta.Namespace }}"],
    }));
    for (namespace, name, labels) in [
        ("a", "one", json!({"id": "yes"})),
        ("a", "two", json!({})),
        ("kube-system", "three", json!({"id": "yes"})),
    ] {
        f.pod(namespace, name, labels);
    }
    let running = f.controller("gcInterval: 200ms").await;
    f.entries(&["/a/one"]).await;
    let entry = f.server.entries().remove(0);
    assert_eq!(entry.x509_svid_ttl, 600);
    assert_eq!(entry.parent_id.unwrap().path, "/spire/agent/k8s_psat/c/node-1");
    let uid = f.kube.get("pods", "a/one").unwrap()["metadata"]["uid"].clone();
    let selectors: Vec<String> = entry.selectors.iter().map(|one| one.value.clone()).collect();
    assert_eq!(selectors, ["ns:a".to_owned(), format!("pod-uid:{}", uid.as_str().unwrap())]);
    f.reason("clusterspiffeids", "r", "InSync").await;

    // Relabelled, created, deleted.
    f.pod("a", "two", json!({"id": "yes"}));
    f.pod("b", "four", json!({"id": "yes"}));
    f.entries(&["/a/one", "/a/two", "/b/four"]).await;
    f.kube.delete("pods", "a/one");
    f.pod("a", "two", json!({}));
    f.entries(&["/b/four"]).await;
    // Somebody deletes what is ours, and adds what is not declared.
    let id = f.server.entries().remove(0).id;
    f.server.insert(foreign("x"));
    f.server.remove(&id);
    f.entries(&["/b/four"]).await;
    // The resource changes, and goes.
    f.rule("r", json!({
        "spiffeIDTemplate": TEMPLATE, "podSelector": {"matchLabels": {"id": "yes"}}, "hint": "h",
    }));
    eventually(
        || f.server.entries().iter().all(|entry| entry.hint == "h"),
        || format!("{:?}", f.server.entries()),
    )
    .await;
    f.kube.delete("clusterspiffeids", "r");
    f.entries(&[]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_signet_server_is_kept_in_step() {
    life(true).await;
}

#[tokio::test]
async fn a_spire_server_is_kept_in_step() {
    life(false).await;
}

#[tokio::test]
async fn a_server_with_push_is_listed_once() {
    let f = Fixture::new(true).await;
    f.rule("r", json!({"spiffeIDTemplate": TEMPLATE}));
    let running = f.controller("gcInterval: 100ms").await;
    for n in 0..30 {
        f.pod("a", &format!("p{n:02}"), json!({}));
    }
    eventually(|| f.server.paths().len() == 30, || format!("{:?}", f.server.paths())).await;
    f.reason("clusterspiffeids", "r", "InSync").await;
    assert_eq!(f.server.calls("ListEntries"), 1);
    assert_eq!(f.kube.requests("GET /api/v1/pods?limit"), 1);
    running.stop().await;
}

#[tokio::test]
async fn entries_of_others_are_left_alone_and_former_ones_cleaned_up() {
    let f = Fixture::new(true).await;
    f.server.insert(foreign("other.1"));
    f.server.insert(foreign("former.1"));
    f.server.insert(foreign("mine.1"));
    f.pod("a", "p", json!({}));
    f.rule("r", json!({"spiffeIDTemplate": TEMPLATE}));
    let running = f.controller("entryIDPrefix: mine\nentryIDPrefixCleanup: former").await;
    f.entries(&["/a/p", "/foreign/other.1"]).await;
    let ids: Vec<String> = f.server.entries().into_iter().map(|entry| entry.id).collect();
    assert!(ids.iter().any(|id| id.starts_with("mine.")) && ids.contains(&"other.1".to_owned()));
    running.stop().await;
}

#[tokio::test]
async fn services_give_dns_names_and_are_watched_only_then() {
    let f = Fixture::new(true).await;
    f.pod("a", "p", json!({}));
    let uid = f.kube.get("pods", "a/p").unwrap()["metadata"]["uid"].clone();
    f.kube.put("endpoints", json!({
        "metadata": {"namespace": "a", "name": "web"},
        "subsets": [{"addresses": [{"ip": "10.0.0.1", "targetRef": {"kind": "Pod", "uid": uid}}]}],
    }));
    f.rule("r", json!({"spiffeIDTemplate": TEMPLATE}));
    let running = f.controller("").await;
    f.entries(&["/a/p"]).await;
    assert_eq!(f.kube.requests("endpoints"), 0);
    f.rule("r", json!({"spiffeIDTemplate": TEMPLATE, "autoPopulateDNSNames": true}));
    eventually(
        || {
            f.server.entries()[0].dns_names
                == ["web", "web.a", "web.a.svc", "web.a.svc.cluster.local"]
        },
        || format!("{:?}", f.server.entries()),
    )
    .await;
    running.stop().await;
}

#[tokio::test]
async fn a_template_that_looks_at_another_field_has_pods_read_anew() {
    let f = Fixture::new(true).await;
    f.pod("a", "p", json!({}));
    f.rule("r", json!({"spiffeIDTemplate": TEMPLATE}));
    let running = f.controller("").await;
    f.entries(&["/a/p"]).await;
    f.rule(
        "s",
        json!({
            "spiffeIDTemplate": "spiffe://td/image/{{ (index .PodSpec.Containers 0).Image }}",
        }),
    );
    f.entries(&["/a/p", "/image/img"]).await;
    running.stop().await;
}

#[tokio::test]
async fn static_entries_are_set_with_their_status() {
    let f = Fixture::new(true).await;
    f.kube.put("clusterstaticentries", json!({
        "metadata": {"name": "good"},
        "spec": {"spiffeID": "spiffe://td/s", "parentID": "spiffe://td/p", "selectors": ["a:b"]},
    }));
    f.kube.put(
        "clusterstaticentries",
        json!({
            "metadata": {"name": "bad"}, "spec": {"spiffeID": "x"},
        }),
    );
    let running = f.controller("").await;
    f.entries(&["/s"]).await;
    f.reason("clusterstaticentries", "good", "InSync").await;
    f.reason("clusterstaticentries", "bad", "InvalidSpec").await;
    let status = f.status("clusterstaticentries", "good");
    assert_eq!(
        (&status["rendered"], &status["set"], &status["masked"]),
        (&json!(true), &json!(true), &json!(false))
    );
    assert_eq!(f.status("clusterstaticentries", "bad")["rendered"], json!(false));
    running.stop().await;
}

#[tokio::test]
async fn manifests_take_the_place_of_kubernetes() {
    let f = Fixture::new(true).await;
    let manifests = f.dir.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    let entry = |path: &str| {
        format!(
            "apiVersion: spire.spiffe.io/v1alpha1\nkind: ClusterStaticEntry\nmetadata:\n  name: x\n\
             spec:\n  spiffeID: spiffe://td/{path}\n  parentID: spiffe://td/p\n  dnsNames:\n\
             \x20 selectors: [\"a:b\"]\n"
        )
    };
    std::fs::write(manifests.join("a.yaml"), format!("{}---\n{}", entry("one"), entry("two")))
        .unwrap();
    std::fs::write(manifests.join("b.yaml"), "kind: ConfigMap\napiVersion: v1\n").unwrap();
    std::fs::write(manifests.join("notes.txt"), "{").unwrap();
    let lines = format!("staticManifestPath: {}\ngcInterval: 100ms", manifests.display());
    let running = f.controller(&lines).await;
    f.entries(&["/one", "/two"]).await;
    // A file that is broken takes nothing away, not even what another file lacks now.
    std::fs::write(manifests.join("c.yaml"), "a: [").unwrap();
    std::fs::write(manifests.join("a.yaml"), entry("one")).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    f.entries(&["/one", "/two"]).await;
    std::fs::write(manifests.join("c.yaml"), entry("three")).unwrap();
    f.entries(&["/one", "/three"]).await;
    // Of a key that stands twice the last counts.
    let twice = entry("first").replace("  spiffeID", "  spiffeID: spiffe://td/zero\n  spiffeID");
    std::fs::write(manifests.join("c.yaml"), twice).unwrap();
    f.entries(&["/first", "/one"]).await;
    running.stop().await;
}

/// Whether each of these pods had an identity after every write, once all had one.
fn never_without(f: &Fixture, pods: &[&str]) {
    let history = f.server.history();
    let has = |paths: &[String], pod: &str| paths.iter().any(|path| path.ends_with(pod));
    let complete = history.iter().position(|paths| pods.iter().all(|pod| has(paths, pod)));
    for paths in &history[complete.unwrap()..] {
        for pod in pods {
            assert!(has(paths, pod), "{pod} had none: {history:#?}");
        }
    }
}

async fn replaced(push: bool) {
    let f = Fixture::new(push).await;
    let rule = |name: &str, role: &str, template: &str| {
        let spec = json!({
            "spiffeIDTemplate": format!("spiffe://td/{template}/{{{{ .PodMeta.Name }}}}"),
            "podSelector": {"matchLabels": {"role": role}},
        });
        f.rule(name, spec);
    };
    rule("one", "one", "a");
    rule("two", "two", "b");
    let pods = ["/p0", "/p1", "/p2"];
    let label = |role: &str| {
        pods.iter().for_each(|pod| f.pod("a", &pod[1..], json!({ "role": role })));
    };
    label("one");
    let running = f.controller("gcInterval: 200ms").await;
    f.entries(&["/a/p0", "/a/p1", "/a/p2"]).await;
    // Relabelled: another resource selects them.
    label("two");
    f.entries(&["/b/p0", "/b/p1", "/b/p2"]).await;
    // The template is edited.
    rule("two", "two", "c");
    f.entries(&["/c/p0", "/c/p1", "/c/p2"]).await;
    // Only what does not say which entry it is: written over it.
    let deletions = f.server.calls("BatchDeleteEntry");
    f.rule(
        "two",
        json!({
            "spiffeIDTemplate": "spiffe://td/c/{{ .PodMeta.Name }}", "hint": "h",
            "podSelector": {"matchLabels": {"role": "two"}},
        }),
    );
    eventually(
        || f.server.entries().iter().all(|entry| entry.hint == "h"),
        || format!("{:?}", f.server.entries()),
    )
    .await;
    assert_eq!(f.server.calls("BatchDeleteEntry"), deletions);
    running.stop().await;
    // And edited while no controller was there.
    rule("two", "two", "d");
    let running = f.controller("gcInterval: 200ms").await;
    f.entries(&["/d/p0", "/d/p1", "/d/p2"]).await;
    never_without(&f, &pods);
    running.stop().await;
}

#[tokio::test]
async fn a_relabel_or_a_template_edit_leaves_no_pod_without_an_entry_on_a_signet_server() {
    replaced(true).await;
}

#[tokio::test]
async fn a_relabel_or_a_template_edit_leaves_no_pod_without_an_entry_on_a_spire_server() {
    replaced(false).await;
}

#[tokio::test]
async fn a_resource_that_selects_nothing_says_so() {
    let f = Fixture::new(true).await;
    f.pod("a", "p", json!({"app": "web"}));
    let none = json!({"matchLabels": {"app": "none"}});
    f.rule("pods", json!({"spiffeIDTemplate": TEMPLATE, "podSelector": none}));
    f.rule("namespaces", json!({"spiffeIDTemplate": TEMPLATE, "namespaceSelector": none}));
    let running = f.controller("").await;
    for name in ["pods", "namespaces"] {
        f.reason("clusterspiffeids", name, "NothingSelected").await;
        assert_eq!(f.status("clusterspiffeids", name)["conditions"][0]["status"], "Unknown");
    }
    f.pod("a", "q", json!({"app": "none"}));
    f.reason("clusterspiffeids", "pods", "InSync").await;
    running.stop().await;
}

#[tokio::test]
async fn explain_says_what_each_resource_makes_of_a_pod() {
    let f = Fixture::new(true).await;
    f.pod("a", "p", json!({"app": "web"}));
    f.pod("kube-system", "s", json!({}));
    let web = json!({"matchLabels": {"app": "web"}});
    let other = json!({"matchLabels": {"app": "other"}});
    f.rule("good", json!({"spiffeIDTemplate": TEMPLATE, "podSelector": web}));
    f.rule("fallback", json!({"spiffeIDTemplate": TEMPLATE, "fallback": true}));
    f.rule("other-pod", json!({"spiffeIDTemplate": TEMPLATE, "podSelector": other}));
    f.rule("other-namespace", json!({"spiffeIDTemplate": TEMPLATE, "namespaceSelector": other}));
    f.rule("broken", json!({"spiffeIDTemplate": "{{ .X"}));
    f.rule("no-label", json!({"spiffeIDTemplate": "spiffe://td/{{ .PodMeta.Labels.team }}"}));
    f.rule("foreign", json!({"spiffeIDTemplate": TEMPLATE, "className": "else"}));
    let lines = "watchClassless: true\nclassName: mine";
    let running = f.controller(lines).await;
    f.entries(&["/a/p"]).await;
    let text = f.explain(lines, "a", "p").await.unwrap();
    for said in [
        "Pod a/p, UID ",
        "node n1",
        "ClusterSPIFFEID good: gives it spiffe://td/a/p; entry id-",
        "is on the server",
        "ClusterSPIFFEID fallback: is a fallback, and another one",
        "ClusterSPIFFEID other-pod: podSelector does not select it: its labels are app=web",
        "ClusterSPIFFEID other-namespace: namespaceSelector does not select its namespace",
        "ClusterSPIFFEID broken: is invalid: ",
        "\"spiffe://td/<no value>\"",
        "ClusterSPIFFEID foreign: is of a class",
    ] {
        assert!(text.contains(said), "{said}:\n{text}");
    }
    let text = f.explain(lines, "kube-system", "s").await.unwrap();
    assert!(text.contains("ignoreNamespaces"), "{text}");
    let error = f.explain(lines, "a", "absent").await.unwrap_err().to_string();
    assert!(error.contains("no pod a/absent"), "{error}");
    running.stop().await;
}
