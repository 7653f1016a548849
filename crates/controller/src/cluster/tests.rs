use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::*;
use crate::{
    objects::Namespace,
    reconciler::Work,
    resources::{StaticEntrySpec, resource},
};

/// Every entry has an ID of its own.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

fn cluster() -> ClusterState {
    ClusterState::new(ClusterSettings {
        trust_domain: "td".parse().unwrap(),
        name: "c".to_owned(),
        domain: "cluster.local".to_owned(),
        parent_id: Template::parse("spiffe://{{ .TrustDomain }}/node/{{ .NodeMeta.Name }}")
            .unwrap(),
        ignored: vec![Regex::new("^kube-").unwrap()],
        class: Class::default(),
    })
}

fn pod(cluster: &ClusterState, namespace: &str, name: &str, labels: Json) -> Pod {
    let json = json!({
        "metadata": {"namespace": namespace, "name": name, "uid": format!("u-{name}"), "labels": labels},
        "spec": {"nodeName": "n", "serviceAccountName": "sa"},
    });
    Pod::read(&json.to_string(), &cluster.names).unwrap()
}

fn rule(name: &str, created: u32, spec: Json) -> Resource<SpiffeIdSpec> {
    resource(json!({
        "metadata": {
            "name": name, "uid": format!("r-{name}"), "generation": 1,
            "creationTimestamp": format!("2026-01-01T00:00:{created:02}Z"),
        },
        "spec": spec,
    }))
    .unwrap()
}

/// A cluster with a node and a namespace, and pods read with what the rules look at.
fn filled(rules: Vec<Resource<SpiffeIdSpec>>) -> ClusterState {
    let mut cluster = cluster();
    let node = json!({"metadata": {"name": "n", "uid": "node-uid"}, "spec": {}});
    cluster.apply_node(Node::read(&node.to_string()).unwrap());
    let namespace = json!({"metadata": {"name": "a", "labels": {"team": "x"}}});
    cluster.apply_namespace(Namespace::read(&namespace.to_string()).unwrap());
    for rule in rules {
        cluster.apply_rule(rule);
    }
    let names = cluster.wanted_names().clone();
    cluster.set_names(names);
    cluster
}

fn settle(cluster: &mut ClusterState) {
    while cluster.work(8) {}
}

/// The paths of the entries to create, and how many are to be deleted and updated.
fn work(cluster: &mut ClusterState) -> (Vec<String>, usize, usize) {
    settle(cluster);
    let (mut created, mut deleted, mut updated) = (Vec::new(), 0, 0);
    while let Some(work) = cluster.reconciler.take(Instant::now()) {
        match work {
            Work::Create(batch) => {
                for (key, declared) in batch {
                    let draft = cluster.draft(key, &declared).unwrap();
                    created.push(draft.spiffe_id.path().to_owned());
                    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
                    let current = crate::reconciler::Current {
                        id: format!("id-{id}").parse().unwrap(),
                        body: declared.body,
                        join_token: false,
                    };
                    cluster.reconciler.saw(key, current);
                }
            }
            Work::Delete(batch) => {
                deleted += batch.len();
                batch.iter().for_each(|(_, id)| cluster.reconciler.gone(id));
            }
            Work::Update(batch) => {
                updated += batch.len();
                for (key, id, declared) in batch {
                    let body = declared.body;
                    cluster
                        .reconciler
                        .saw(key, crate::reconciler::Current { id, body, join_token: false });
                }
            }
        }
    }
    created.sort();
    (created, deleted, updated)
}

const TEMPLATE: &str = "spiffe://td/{{ .PodMeta.Namespace }}/{{ .PodMeta.Name }}";

#[tokio::test]
async fn a_pod_event_touches_that_pod_alone() {
    let mut cluster = filled(vec![rule("r", 1, json!({"spiffeIDTemplate": TEMPLATE}))]);
    for n in 0..20 {
        let pod = pod(&cluster, "a", &format!("p{n:02}"), json!({}));
        cluster.apply_pod(pod);
    }
    assert_eq!(work(&mut cluster).0.len(), 20);
    let again = pod(&cluster, "a", "p00", json!({}));
    cluster.apply_pod(again);
    assert!(cluster.stale.is_empty(), "nothing has changed");
    let relabelled = pod(&cluster, "a", "p00", json!({"x": "y"}));
    cluster.apply_pod(relabelled);
    assert_eq!(cluster.stale.len(), 1);
    assert_eq!(work(&mut cluster), (vec![], 0, 0));
    cluster.remove_pod("a/p00");
    assert_eq!(work(&mut cluster), (vec![], 1, 0));
}

#[tokio::test]
async fn relabelling_pods_and_namespaces_moves_entries() {
    let spec = json!({
        "spiffeIDTemplate": TEMPLATE,
        "namespaceSelector": {"matchLabels": {"team": "x"}},
        "podSelector": {"matchLabels": {"id": "yes"}},
    });
    let mut cluster = filled(vec![rule("r", 1, spec)]);
    let plain = pod(&cluster, "a", "p", json!({}));
    cluster.apply_pod(plain);
    assert_eq!(work(&mut cluster), (vec![], 0, 0));
    let labelled = pod(&cluster, "a", "p", json!({"id": "yes"}));
    cluster.apply_pod(labelled);
    assert_eq!(work(&mut cluster), (vec!["/a/p".to_owned()], 0, 0));
    let other = json!({"metadata": {"name": "a", "labels": {"team": "y"}}});
    cluster.apply_namespace(Namespace::read(&other.to_string()).unwrap());
    assert_eq!(work(&mut cluster), (vec![], 1, 0));
    let back = json!({"metadata": {"name": "a", "labels": {"team": "x"}}});
    cluster.apply_namespace(Namespace::read(&back.to_string()).unwrap());
    assert_eq!(work(&mut cluster).0.len(), 1);
    cluster.remove_namespace("a");
    assert_eq!(work(&mut cluster), (vec![], 1, 0));
}

#[tokio::test]
async fn a_tenant_comes_from_the_namespace_or_the_resource_and_never_from_the_pod() {
    let namespace = |labels: Json| {
        let json = json!({"metadata": {"name": "a", "labels": labels}});
        Namespace::read(&json.to_string()).unwrap()
    };
    let tenants = |cluster: &mut ClusterState| {
        settle(cluster);
        let mut tenants = Vec::new();
        while let Some(work) = cluster.reconciler.take(Instant::now()) {
            let declared: Vec<_> = match work {
                Work::Create(batch) => batch.into_iter().map(|(key, it)| (key, None, it)).collect(),
                Work::Update(batch) => {
                    batch.into_iter().map(|(key, id, it)| (key, Some(id), it)).collect()
                }
                Work::Delete(batch) => {
                    tenants.extend(batch.iter().map(|_| "deleted".to_owned()));
                    batch.iter().for_each(|(_, id)| cluster.reconciler.gone(id));
                    continue;
                }
            };
            for (key, id, declared) in declared {
                let draft = cluster.draft(key, &declared).unwrap();
                assert!(draft.jwt_svid_tenant_claim);
                tenants.extend(draft.tenant.map(|tenant| tenant.to_string()));
                let fresh = || format!("id-{}", NEXT_ID.fetch_add(1, Ordering::Relaxed));
                let id = id.unwrap_or_else(|| fresh().parse().unwrap());
                let body = declared.body;
                cluster
                    .reconciler
                    .saw(key, crate::reconciler::Current { id, body, join_token: false });
            }
        }
        tenants
    };
    let by_label = json!({
        "spiffeIDTemplate": TEMPLATE, "tenantNamespaceLabel": "example.org/tenant",
        "jwtSVIDTenantClaim": true,
    });
    let mut cluster = filled(vec![rule("r", 1, by_label)]);
    let claims_to_be = json!({"example.org/tenant": "red", "tenant": "red"});
    let pod = pod(&cluster, "a", "p", claims_to_be);
    cluster.apply_pod(pod);
    assert_eq!(tenants(&mut cluster), [""; 0], "the namespace says nothing: no identity");
    cluster.apply_namespace(namespace(json!({"example.org/tenant": "blue"})));
    assert_eq!(tenants(&mut cluster), ["blue"]);
    cluster.apply_namespace(namespace(json!({"example.org/tenant": "green"})));
    assert_eq!(tenants(&mut cluster), ["green"], "in place");
    cluster.apply_namespace(namespace(json!({"example.org/tenant": "Not A Tenant"})));
    assert_eq!(tenants(&mut cluster), ["deleted"]);
    let fixed = json!({"spiffeIDTemplate": TEMPLATE, "tenant": "grey", "jwtSVIDTenantClaim": true});
    cluster.apply_rule(rule("r", 1, fixed));
    assert_eq!(tenants(&mut cluster), ["grey"]);
}

#[tokio::test]
async fn a_fallback_applies_where_nothing_else_does_and_comes_back_when_that_goes() {
    let mut cluster = filled(vec![
        rule(
            "fallback",
            1,
            json!({"spiffeIDTemplate": "spiffe://td/fb/{{ .PodMeta.Name }}", "fallback": true}),
        ),
        rule(
            "r",
            2,
            json!({"spiffeIDTemplate": TEMPLATE, "podSelector": {"matchLabels": {"id": "yes"}}}),
        ),
    ]);
    for (name, labels) in [("p", json!({"id": "yes"})), ("q", json!({}))] {
        let pod = pod(&cluster, "a", name, labels);
        cluster.apply_pod(pod);
    }
    assert_eq!(work(&mut cluster).0, ["/a/p", "/fb/q"]);
    cluster.remove_rule("r");
    assert_eq!(work(&mut cluster), (vec!["/fb/p".to_owned()], 1, 0));
    cluster.apply_rule(rule("r", 2, json!({"spiffeIDTemplate": TEMPLATE})));
    let (created, deleted, _) = work(&mut cluster);
    assert_eq!((created, deleted), (vec!["/a/p".to_owned(), "/a/q".to_owned()], 2));
}

#[tokio::test]
async fn a_changed_resource_updates_its_entries_in_place() {
    let mut cluster = filled(vec![rule("r", 1, json!({"spiffeIDTemplate": TEMPLATE}))]);
    let pod = pod(&cluster, "a", "p", json!({}));
    cluster.apply_pod(pod);
    work(&mut cluster);
    let mut changed = rule("r", 1, json!({"spiffeIDTemplate": TEMPLATE, "ttl": "5m", "hint": "h"}));
    changed.meta.generation = 2;
    cluster.apply_rule(changed.clone());
    assert_eq!(work(&mut cluster), (vec![], 0, 1));
    // Its own status changing is no change.
    changed.status = json!({"stats": {}});
    cluster.apply_rule(changed);
    assert!(cluster.stale.is_empty());
    assert_eq!(work(&mut cluster), (vec![], 0, 0));
}

#[tokio::test]
async fn a_resource_waits_until_pods_are_read_with_the_fields_it_looks_at() {
    let mut cluster = filled(vec![rule("r", 1, json!({"spiffeIDTemplate": TEMPLATE}))]);
    for kind in [Kind::ClusterSpiffeId, Kind::Pod] {
        cluster.begin(kind);
    }
    cluster.apply_rule(rule("r", 1, json!({"spiffeIDTemplate": TEMPLATE})));
    let first = pod(&cluster, "a", "p", json!({}));
    cluster.apply_pod(first);
    for kind in [Kind::ClusterSpiffeId, Kind::Pod] {
        cluster.finish(kind);
    }
    settle(&mut cluster);
    let kinds = [Kind::ClusterSpiffeId, Kind::Pod];
    assert!(cluster.is_complete(&kinds));
    cluster.apply_rule(rule(
        "s",
        2,
        json!({
            "spiffeIDTemplate": "spiffe://td/sa/{{ .PodSpec.ServiceAccountName }}",
        }),
    ));
    assert!(cluster.is_waiting() && !cluster.is_complete(&kinds));
    assert_eq!(work(&mut cluster).0, ["/a/p"], "nothing is rendered from fields that are missing");
    cluster.begin(Kind::Pod);
    let names = cluster.wanted_names().clone();
    cluster.names = names.clone();
    let read_again = pod(&cluster, "a", "p", json!({}));
    cluster.apply_pod(read_again);
    cluster.finish(Kind::Pod);
    cluster.names = Names::default();
    cluster.set_names(names);
    assert!(!cluster.is_waiting());
    assert_eq!(work(&mut cluster).0, ["/sa/sa"]);
}

#[tokio::test]
async fn a_bad_resource_declares_nothing_and_stops_nobody() {
    let mut cluster = filled(vec![
        rule("bad", 1, json!({"spiffeIDTemplate": "{{ .A"})),
        rule("worse", 2, json!({"spiffeIDTemplate": 7})),
        rule("good", 3, json!({"spiffeIDTemplate": TEMPLATE})),
    ]);
    let pod = pod(&cluster, "a", "p", json!({}));
    cluster.apply_pod(pod);
    assert_eq!(work(&mut cluster).0, ["/a/p"]);
    assert_eq!(cluster.invalid_count(), 2);
    let now = time::OffsetDateTime::UNIX_EPOCH;
    let statuses: Vec<_> =
        cluster.touched().into_iter().filter_map(|one| cluster.status(one, now)).collect();
    let bad = statuses.iter().find(|one| one.name == "bad").unwrap();
    assert_eq!(bad.status["conditions"][0]["reason"], "InvalidSpec");
    assert_eq!(bad.status["conditions"][0]["status"], "False");
}

#[tokio::test]
async fn only_resources_of_the_class_are_acted_upon() {
    let named = |class: &str| json!({"spiffeIDTemplate": TEMPLATE, "className": class});
    for (class, classless, expected) in
        [("", false, ["none"].as_slice()), ("x", false, &["x"]), ("x", true, &["none", "x"])]
    {
        let class = Class { name: class.to_owned(), classless };
        let ours: Vec<&str> = [("none", ""), ("x", "x"), ("y", "y")]
            .into_iter()
            .filter(|(_, named)| class.is_ours(named))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(ours, expected);
    }
    let mut cluster = filled(vec![rule("other", 1, named("y"))]);
    let first = pod(&cluster, "a", "p", json!({}));
    cluster.apply_pod(first);
    assert_eq!(work(&mut cluster).0, [""; 0]);
    // It changes hands, and pods are read with what it looks at.
    cluster.apply_rule(rule("other", 1, named("")));
    let names = cluster.wanted_names().clone();
    cluster.set_names(names);
    let again = pod(&cluster, "a", "p", json!({}));
    cluster.apply_pod(again);
    assert_eq!(work(&mut cluster).0, ["/a/p"]);
    cluster.apply_rule(rule("other", 1, named("y")));
    assert_eq!(work(&mut cluster), (vec![], 1, 0));
}

#[tokio::test]
async fn services_give_dns_names_and_take_them_away() {
    let spec = json!({"spiffeIDTemplate": TEMPLATE, "autoPopulateDNSNames": true,
        "dnsNameTemplates": ["{{ .PodMeta.Name }}", "{{ .PodMeta.Name }}"]});
    let mut cluster = filled(vec![rule("r", 1, spec)]);
    assert!(cluster.needs_services());
    let pod = pod(&cluster, "a", "p", json!({}));
    cluster.apply_pod(pod);
    work(&mut cluster);
    let endpoints = |ready: bool| {
        let addresses = json!([{"ip": "10.0.0.1", "targetRef": {"kind": "Pod", "uid": "u-p"}}]);
        let subset = if ready { "addresses" } else { "notReadyAddresses" };
        let json = json!({"metadata": {"namespace": "a", "name": "web"}, "subsets": [{subset: addresses}]});
        Endpoints::read(&json.to_string()).unwrap()
    };
    cluster.apply_endpoints(endpoints(true));
    settle(&mut cluster);
    let Some(Work::Update(batch)) = cluster.reconciler.take(Instant::now()) else { panic!() };
    let (key, _, declared) = batch.first().unwrap();
    let draft = cluster.draft(*key, declared).unwrap();
    assert_eq!(draft.dns_names, ["p", "web", "web.a", "web.a.svc", "web.a.svc.cluster.local"]);
    cluster.reconciler.done(*key);
    assert_eq!(work(&mut cluster), (vec![], 0, 1));
    // Not ready is behind the service all the same.
    cluster.apply_endpoints(endpoints(false));
    assert_eq!(work(&mut cluster), (vec![], 0, 0));
    cluster.remove_endpoints("a/web");
    assert_eq!(work(&mut cluster), (vec![], 0, 1));
}

#[tokio::test]
async fn what_a_complete_list_lacks_is_gone_and_half_a_list_takes_nothing_away() {
    let mut cluster = filled(vec![rule("r", 1, json!({"spiffeIDTemplate": TEMPLATE}))]);
    let pods = [pod(&cluster, "a", "p", json!({})), pod(&cluster, "a", "q", json!({}))];
    pods.iter().cloned().for_each(|pod| cluster.apply_pod(pod));
    work(&mut cluster);
    // A list that breaks off, and another.
    cluster.begin(Kind::Pod);
    cluster.apply_pod(pods[0].clone());
    cluster.begin(Kind::Pod);
    assert_eq!(work(&mut cluster), (vec![], 0, 0));
    cluster.apply_pod(pods[1].clone());
    cluster.finish(Kind::Pod);
    assert_eq!(work(&mut cluster), (vec![], 1, 0));
    assert_eq!(cluster.pod_count(), 1);
}

#[tokio::test]
async fn ignored_namespaces_and_unknown_ones_get_nothing() {
    let mut cluster = filled(vec![rule("r", 1, json!({"spiffeIDTemplate": TEMPLATE}))]);
    for namespace in ["kube-system", "unknown"] {
        let pod = pod(&cluster, namespace, "p", json!({}));
        cluster.apply_pod(pod);
    }
    assert_eq!(cluster.pod_count(), 1, "pods of ignored namespaces are not even kept");
    assert_eq!(work(&mut cluster).0, [""; 0]);
    let namespace = json!({"metadata": {"name": "unknown"}});
    cluster.apply_namespace(Namespace::read(&namespace.to_string()).unwrap());
    assert_eq!(work(&mut cluster).0, ["/unknown/p"]);
}

#[tokio::test]
async fn a_pod_of_the_same_name_and_another_uid_is_another_pod() {
    let mut cluster = filled(vec![rule("r", 1, json!({"spiffeIDTemplate": TEMPLATE}))]);
    let first = pod(&cluster, "a", "p", json!({}));
    cluster.apply_pod(first.clone());
    work(&mut cluster);
    cluster.apply_pod(Pod { uid: "u-other".into(), ..first });
    let (created, deleted, updated) = work(&mut cluster);
    assert_eq!((created.len(), deleted, updated), (1, 1, 0));
}

#[tokio::test]
async fn nodes_may_change_in_ways_that_nobody_sees() {
    let mut cluster = filled(vec![rule("r", 1, json!({"spiffeIDTemplate": TEMPLATE}))]);
    let pod = pod(&cluster, "a", "p", json!({}));
    cluster.apply_pod(pod);
    work(&mut cluster);
    let node = |uid: &str, note: &str| {
        let json = json!({"metadata": {"name": "n", "uid": uid, "annotations": {"beat": note}}, "spec": {}});
        Node::read(&json.to_string()).unwrap()
    };
    cluster.apply_node(node("node-uid", "1"));
    cluster.apply_node(node("node-uid", "2"));
    assert!(cluster.stale.is_empty());
    cluster.remove_node("n");
    assert_eq!(work(&mut cluster), (vec![], 1, 0), "no node, no parent, no entry");
    assert_eq!(cluster.render_failures(), 1);
    cluster.apply_node(node("node-uid", "3"));
    assert_eq!(work(&mut cluster).0, ["/a/p"]);
}

#[tokio::test]
async fn static_entries_are_declared_masked_and_withdrawn() {
    let mut cluster = filled(Vec::new());
    let entry = |name: &str, created: u32, hint: &str| {
        resource::<StaticEntrySpec>(json!({
            "metadata": {"name": name, "uid": name, "generation": 1,
                "creationTimestamp": format!("2026-01-01T00:00:{created:02}Z")},
            "spec": {"spiffeID": "spiffe://td/s", "parentID": "spiffe://td/p",
                "selectors": ["unix:uid:0"], "hint": hint},
        }))
        .unwrap()
    };
    cluster.apply_static(entry("young", 9, "young"));
    cluster.apply_static(entry("old", 1, "old"));
    assert_eq!(work(&mut cluster).0, ["/s"]);
    let now = time::OffsetDateTime::UNIX_EPOCH;
    let statuses: HashMap<String, Json> = cluster
        .touched()
        .into_iter()
        .filter_map(|one| cluster.status(one, now))
        .map(|one| (one.name, one.status))
        .collect();
    assert_eq!(
        (&statuses["old"]["set"], &statuses["old"]["masked"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(
        (&statuses["young"]["set"], &statuses["young"]["masked"]),
        (&json!(false), &json!(true))
    );
    cluster.remove_static("old");
    assert_eq!(work(&mut cluster), (vec![], 0, 1), "the younger one takes over");
    cluster.remove_static("young");
    assert_eq!(work(&mut cluster), (vec![], 1, 0));
}

#[tokio::test]
async fn a_failure_names_a_pod_that_has_no_entry_now() {
    let spec = json!({"spiffeIDTemplate": "spiffe://td/{{ .PodMeta.Labels.id }}"});
    let mut cluster = filled(vec![rule("r", 1, spec)]);
    let source = cluster.sources[&(Kind::ClusterSpiffeId, "r".to_owned())];
    let message = |cluster: &mut ClusterState| {
        settle(cluster);
        let status = cluster.status(source, time::OffsetDateTime::UNIX_EPOCH).unwrap().status;
        status["conditions"][0]["message"].as_str().unwrap().to_owned()
    };
    for name in ["p", "q"] {
        let pod = pod(&cluster, "a", name, json!({}));
        cluster.apply_pod(pod);
    }
    let said = message(&mut cluster);
    assert!(said.starts_with("2 pods") && said.contains("<no value>"), "{said}");
    let labelled = pod(&cluster, "a", "p", json!({"id": "x"}));
    cluster.apply_pod(labelled);
    let said = message(&mut cluster);
    assert!(said.starts_with("1 pods") && said.contains("a/q") && !said.contains("a/p"), "{said}");
    cluster.remove_pod("a/q");
    let said = message(&mut cluster);
    assert!(!said.contains("a/q"), "{said}");
}

#[tokio::test]
async fn pods_are_worked_out_when_their_nodes_are_known() {
    let mut cluster = cluster();
    let kinds = [Kind::ClusterSpiffeId, Kind::Namespace, Kind::Node, Kind::Pod];
    for (at, kind) in kinds.into_iter().enumerate() {
        assert!(!cluster.is_known(&kinds), "{at}");
        cluster.begin(kind);
        cluster.finish(kind);
    }
    assert!(cluster.is_known(&kinds));
}
