use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::*;
use crate::{
    book::Work,
    objects::Namespace,
    resources::{StaticEntrySpec, resource},
};

/// Every entry has an ID of its own.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

fn world() -> World {
    World::new(Cluster {
        trust_domain: "td".parse().unwrap(),
        name: "c".to_owned(),
        domain: "cluster.local".to_owned(),
        parent_id: Template::parse("spiffe://{{ .TrustDomain }}/node/{{ .NodeMeta.Name }}")
            .unwrap(),
        ignored: vec![Regex::new("^kube-").unwrap()],
        class: Class::default(),
    })
}

fn pod(world: &World, namespace: &str, name: &str, labels: Json) -> Pod {
    let json = json!({
        "metadata": {"namespace": namespace, "name": name, "uid": format!("u-{name}"), "labels": labels},
        "spec": {"nodeName": "n", "serviceAccountName": "sa"},
    });
    Pod::read(&json.to_string(), &world.names).unwrap()
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
fn filled(rules: Vec<Resource<SpiffeIdSpec>>) -> World {
    let mut world = world();
    let node = json!({"metadata": {"name": "n", "uid": "node-uid"}, "spec": {}});
    world.apply_node(Node::read(&node.to_string()).unwrap());
    let namespace = json!({"metadata": {"name": "a", "labels": {"team": "x"}}});
    world.apply_namespace(Namespace::read(&namespace.to_string()).unwrap());
    for rule in rules {
        world.apply_rule(rule);
    }
    let names = world.wanted_names().clone();
    world.set_names(names);
    world
}

fn settle(world: &mut World) {
    while world.work(8) {}
}

/// The paths of the entries to create, and how many are to be deleted and updated.
fn work(world: &mut World) -> (Vec<String>, usize, usize) {
    settle(world);
    let (mut created, mut deleted, mut updated) = (Vec::new(), 0, 0);
    while let Some(work) = world.book.take(Instant::now()) {
        match work {
            Work::Create(batch) => {
                for (key, declared) in batch {
                    let draft = world.draft(key, &declared).unwrap();
                    created.push(draft.spiffe_id.path().to_owned());
                    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
                    let current = crate::book::Current {
                        id: format!("id-{id}").parse().unwrap(),
                        body: declared.body,
                        join_token: false,
                    };
                    world.book.saw(key, current);
                }
            }
            Work::Delete(batch) => {
                deleted += batch.len();
                batch.iter().for_each(|(_, id)| world.book.gone(id));
            }
            Work::Update(batch) => {
                updated += batch.len();
                for (key, id, declared) in batch {
                    let body = declared.body;
                    world.book.saw(key, crate::book::Current { id, body, join_token: false });
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
    let mut world = filled(vec![rule("r", 1, json!({"spiffeIDTemplate": TEMPLATE}))]);
    for n in 0..20 {
        let pod = pod(&world, "a", &format!("p{n:02}"), json!({}));
        world.apply_pod(pod);
    }
    assert_eq!(work(&mut world).0.len(), 20);
    let again = pod(&world, "a", "p00", json!({}));
    world.apply_pod(again);
    assert!(world.stale.is_empty(), "nothing has changed");
    let relabelled = pod(&world, "a", "p00", json!({"x": "y"}));
    world.apply_pod(relabelled);
    assert_eq!(world.stale.len(), 1);
    assert_eq!(work(&mut world), (vec![], 0, 0));
    world.remove_pod("a/p00");
    assert_eq!(work(&mut world), (vec![], 1, 0));
}

#[tokio::test]
async fn relabelling_pods_and_namespaces_moves_entries() {
    let spec = json!({
        "spiffeIDTemplate": TEMPLATE,
        "namespaceSelector": {"matchLabels": {"team": "x"}},
        "podSelector": {"matchLabels": {"id": "yes"}},
    });
    let mut world = filled(vec![rule("r", 1, spec)]);
    let plain = pod(&world, "a", "p", json!({}));
    world.apply_pod(plain);
    assert_eq!(work(&mut world), (vec![], 0, 0));
    let labelled = pod(&world, "a", "p", json!({"id": "yes"}));
    world.apply_pod(labelled);
    assert_eq!(work(&mut world), (vec!["/a/p".to_owned()], 0, 0));
    let other = json!({"metadata": {"name": "a", "labels": {"team": "y"}}});
    world.apply_namespace(Namespace::read(&other.to_string()).unwrap());
    assert_eq!(work(&mut world), (vec![], 1, 0));
    let back = json!({"metadata": {"name": "a", "labels": {"team": "x"}}});
    world.apply_namespace(Namespace::read(&back.to_string()).unwrap());
    assert_eq!(work(&mut world).0.len(), 1);
    world.remove_namespace("a");
    assert_eq!(work(&mut world), (vec![], 1, 0));
}

#[tokio::test]
async fn a_tenant_comes_from_the_namespace_or_the_resource_and_never_from_the_pod() {
    let namespace = |labels: Json| {
        let json = json!({"metadata": {"name": "a", "labels": labels}});
        Namespace::read(&json.to_string()).unwrap()
    };
    let tenants = |world: &mut World| {
        settle(world);
        let mut tenants = Vec::new();
        while let Some(work) = world.book.take(Instant::now()) {
            let declared: Vec<_> = match work {
                Work::Create(batch) => batch.into_iter().map(|(key, it)| (key, None, it)).collect(),
                Work::Update(batch) => {
                    batch.into_iter().map(|(key, id, it)| (key, Some(id), it)).collect()
                }
                Work::Delete(batch) => {
                    tenants.extend(batch.iter().map(|_| "deleted".to_owned()));
                    batch.iter().for_each(|(_, id)| world.book.gone(id));
                    continue;
                }
            };
            for (key, id, declared) in declared {
                let draft = world.draft(key, &declared).unwrap();
                assert!(draft.jwt_svid_tenant_claim);
                tenants.extend(draft.tenant.map(|tenant| tenant.to_string()));
                let fresh = || format!("id-{}", NEXT_ID.fetch_add(1, Ordering::Relaxed));
                let id = id.unwrap_or_else(|| fresh().parse().unwrap());
                let body = declared.body;
                world.book.saw(key, crate::book::Current { id, body, join_token: false });
            }
        }
        tenants
    };
    let by_label = json!({
        "spiffeIDTemplate": TEMPLATE, "tenantNamespaceLabel": "example.org/tenant",
        "jwtSVIDTenantClaim": true,
    });
    let mut world = filled(vec![rule("r", 1, by_label)]);
    let claims_to_be = json!({"example.org/tenant": "red", "tenant": "red"});
    let pod = pod(&world, "a", "p", claims_to_be);
    world.apply_pod(pod);
    assert_eq!(tenants(&mut world), [""; 0], "the namespace says nothing: no identity");
    world.apply_namespace(namespace(json!({"example.org/tenant": "blue"})));
    assert_eq!(tenants(&mut world), ["blue"]);
    world.apply_namespace(namespace(json!({"example.org/tenant": "green"})));
    assert_eq!(tenants(&mut world), ["green"], "in place");
    world.apply_namespace(namespace(json!({"example.org/tenant": "Not A Tenant"})));
    assert_eq!(tenants(&mut world), ["deleted"]);
    let fixed = json!({"spiffeIDTemplate": TEMPLATE, "tenant": "grey", "jwtSVIDTenantClaim": true});
    world.apply_rule(rule("r", 1, fixed));
    assert_eq!(tenants(&mut world), ["grey"]);
}

#[tokio::test]
async fn a_fallback_applies_where_nothing_else_does_and_comes_back_when_that_goes() {
    let mut world = filled(vec![
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
        let pod = pod(&world, "a", name, labels);
        world.apply_pod(pod);
    }
    assert_eq!(work(&mut world).0, ["/a/p", "/fb/q"]);
    world.remove_rule("r");
    assert_eq!(work(&mut world), (vec!["/fb/p".to_owned()], 1, 0));
    world.apply_rule(rule("r", 2, json!({"spiffeIDTemplate": TEMPLATE})));
    let (created, deleted, _) = work(&mut world);
    assert_eq!((created, deleted), (vec!["/a/p".to_owned(), "/a/q".to_owned()], 2));
}

#[tokio::test]
async fn a_changed_resource_updates_its_entries_in_place() {
    let mut world = filled(vec![rule("r", 1, json!({"spiffeIDTemplate": TEMPLATE}))]);
    let pod = pod(&world, "a", "p", json!({}));
    world.apply_pod(pod);
    work(&mut world);
    let mut changed = rule("r", 1, json!({"spiffeIDTemplate": TEMPLATE, "ttl": "5m", "hint": "h"}));
    changed.meta.generation = 2;
    world.apply_rule(changed.clone());
    assert_eq!(work(&mut world), (vec![], 0, 1));
    // Its own status changing is no change.
    changed.status = json!({"stats": {}});
    world.apply_rule(changed);
    assert!(world.stale.is_empty());
    assert_eq!(work(&mut world), (vec![], 0, 0));
}

#[tokio::test]
async fn a_resource_waits_until_pods_are_read_with_the_fields_it_looks_at() {
    let mut world = filled(vec![rule("r", 1, json!({"spiffeIDTemplate": TEMPLATE}))]);
    for kind in [Kind::ClusterSpiffeId, Kind::Pod] {
        world.begin(kind);
    }
    world.apply_rule(rule("r", 1, json!({"spiffeIDTemplate": TEMPLATE})));
    let first = pod(&world, "a", "p", json!({}));
    world.apply_pod(first);
    for kind in [Kind::ClusterSpiffeId, Kind::Pod] {
        world.finish(kind);
    }
    settle(&mut world);
    let kinds = [Kind::ClusterSpiffeId, Kind::Pod];
    assert!(world.is_complete(&kinds));
    world.apply_rule(rule(
        "s",
        2,
        json!({
            "spiffeIDTemplate": "spiffe://td/sa/{{ .PodSpec.ServiceAccountName }}",
        }),
    ));
    assert!(world.is_waiting() && !world.is_complete(&kinds));
    assert_eq!(work(&mut world).0, ["/a/p"], "nothing is rendered from fields that are missing");
    world.begin(Kind::Pod);
    let names = world.wanted_names().clone();
    world.names = names.clone();
    let read_again = pod(&world, "a", "p", json!({}));
    world.apply_pod(read_again);
    world.finish(Kind::Pod);
    world.names = Names::default();
    world.set_names(names);
    assert!(!world.is_waiting());
    assert_eq!(work(&mut world).0, ["/sa/sa"]);
}

#[tokio::test]
async fn a_bad_resource_declares_nothing_and_stops_nobody() {
    let mut world = filled(vec![
        rule("bad", 1, json!({"spiffeIDTemplate": "{{ .A"})),
        rule("worse", 2, json!({"spiffeIDTemplate": 7})),
        rule("good", 3, json!({"spiffeIDTemplate": TEMPLATE})),
    ]);
    let pod = pod(&world, "a", "p", json!({}));
    world.apply_pod(pod);
    assert_eq!(work(&mut world).0, ["/a/p"]);
    assert_eq!(world.invalid_count(), 2);
    let now = time::OffsetDateTime::UNIX_EPOCH;
    let statuses: Vec<_> =
        world.touched().into_iter().filter_map(|one| world.status(one, now)).collect();
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
    let mut world = filled(vec![rule("other", 1, named("y"))]);
    let first = pod(&world, "a", "p", json!({}));
    world.apply_pod(first);
    assert_eq!(work(&mut world).0, [""; 0]);
    // It changes hands, and pods are read with what it looks at.
    world.apply_rule(rule("other", 1, named("")));
    let names = world.wanted_names().clone();
    world.set_names(names);
    let again = pod(&world, "a", "p", json!({}));
    world.apply_pod(again);
    assert_eq!(work(&mut world).0, ["/a/p"]);
    world.apply_rule(rule("other", 1, named("y")));
    assert_eq!(work(&mut world), (vec![], 1, 0));
}

#[tokio::test]
async fn services_give_dns_names_and_take_them_away() {
    let spec = json!({"spiffeIDTemplate": TEMPLATE, "autoPopulateDNSNames": true,
        "dnsNameTemplates": ["{{ .PodMeta.Name }}", "{{ .PodMeta.Name }}"]});
    let mut world = filled(vec![rule("r", 1, spec)]);
    assert!(world.needs_services());
    let pod = pod(&world, "a", "p", json!({}));
    world.apply_pod(pod);
    work(&mut world);
    let endpoints = |ready: bool| {
        let addresses = json!([{"ip": "10.0.0.1", "targetRef": {"kind": "Pod", "uid": "u-p"}}]);
        let subset = if ready { "addresses" } else { "notReadyAddresses" };
        let json = json!({"metadata": {"namespace": "a", "name": "web"}, "subsets": [{subset: addresses}]});
        Endpoints::read(&json.to_string()).unwrap()
    };
    world.apply_endpoints(endpoints(true));
    settle(&mut world);
    let Some(Work::Update(batch)) = world.book.take(Instant::now()) else { panic!() };
    let (key, _, declared) = batch.first().unwrap();
    let draft = world.draft(*key, declared).unwrap();
    assert_eq!(draft.dns_names, ["p", "web", "web.a", "web.a.svc", "web.a.svc.cluster.local"]);
    world.book.done(*key);
    assert_eq!(work(&mut world), (vec![], 0, 1));
    // Not ready is behind the service all the same.
    world.apply_endpoints(endpoints(false));
    assert_eq!(work(&mut world), (vec![], 0, 0));
    world.remove_endpoints("a/web");
    assert_eq!(work(&mut world), (vec![], 0, 1));
}

#[tokio::test]
async fn what_a_complete_list_lacks_is_gone_and_half_a_list_takes_nothing_away() {
    let mut world = filled(vec![rule("r", 1, json!({"spiffeIDTemplate": TEMPLATE}))]);
    let pods = [pod(&world, "a", "p", json!({})), pod(&world, "a", "q", json!({}))];
    pods.iter().cloned().for_each(|pod| world.apply_pod(pod));
    work(&mut world);
    // A list that breaks off, and another.
    world.begin(Kind::Pod);
    world.apply_pod(pods[0].clone());
    world.begin(Kind::Pod);
    assert_eq!(work(&mut world), (vec![], 0, 0));
    world.apply_pod(pods[1].clone());
    world.finish(Kind::Pod);
    assert_eq!(work(&mut world), (vec![], 1, 0));
    assert_eq!(world.pod_count(), 1);
}

#[tokio::test]
async fn ignored_namespaces_and_unknown_ones_get_nothing() {
    let mut world = filled(vec![rule("r", 1, json!({"spiffeIDTemplate": TEMPLATE}))]);
    for namespace in ["kube-system", "unknown"] {
        let pod = pod(&world, namespace, "p", json!({}));
        world.apply_pod(pod);
    }
    assert_eq!(world.pod_count(), 1, "pods of ignored namespaces are not even kept");
    assert_eq!(work(&mut world).0, [""; 0]);
    let namespace = json!({"metadata": {"name": "unknown"}});
    world.apply_namespace(Namespace::read(&namespace.to_string()).unwrap());
    assert_eq!(work(&mut world).0, ["/unknown/p"]);
}

#[tokio::test]
async fn a_pod_of_the_same_name_and_another_uid_is_another_pod() {
    let mut world = filled(vec![rule("r", 1, json!({"spiffeIDTemplate": TEMPLATE}))]);
    let first = pod(&world, "a", "p", json!({}));
    world.apply_pod(first.clone());
    work(&mut world);
    world.apply_pod(Pod { uid: "u-other".into(), ..first });
    let (created, deleted, updated) = work(&mut world);
    assert_eq!((created.len(), deleted, updated), (1, 1, 0));
}

#[tokio::test]
async fn nodes_may_change_in_ways_that_nobody_sees() {
    let mut world = filled(vec![rule("r", 1, json!({"spiffeIDTemplate": TEMPLATE}))]);
    let pod = pod(&world, "a", "p", json!({}));
    world.apply_pod(pod);
    work(&mut world);
    let node = |uid: &str, note: &str| {
        let json = json!({"metadata": {"name": "n", "uid": uid, "annotations": {"beat": note}}, "spec": {}});
        Node::read(&json.to_string()).unwrap()
    };
    world.apply_node(node("node-uid", "1"));
    world.apply_node(node("node-uid", "2"));
    assert!(world.stale.is_empty());
    world.remove_node("n");
    assert_eq!(work(&mut world), (vec![], 1, 0), "no node, no parent, no entry");
    assert_eq!(world.render_failures(), 1);
    world.apply_node(node("node-uid", "3"));
    assert_eq!(work(&mut world).0, ["/a/p"]);
}

#[tokio::test]
async fn static_entries_are_declared_masked_and_withdrawn() {
    let mut world = filled(Vec::new());
    let entry = |name: &str, created: u32, hint: &str| {
        resource::<StaticEntrySpec>(json!({
            "metadata": {"name": name, "uid": name, "generation": 1,
                "creationTimestamp": format!("2026-01-01T00:00:{created:02}Z")},
            "spec": {"spiffeID": "spiffe://td/s", "parentID": "spiffe://td/p",
                "selectors": ["unix:uid:0"], "hint": hint},
        }))
        .unwrap()
    };
    world.apply_static(entry("young", 9, "young"));
    world.apply_static(entry("old", 1, "old"));
    assert_eq!(work(&mut world).0, ["/s"]);
    let now = time::OffsetDateTime::UNIX_EPOCH;
    let statuses: HashMap<String, Json> = world
        .touched()
        .into_iter()
        .filter_map(|one| world.status(one, now))
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
    world.remove_static("old");
    assert_eq!(work(&mut world), (vec![], 0, 1), "the younger one takes over");
    world.remove_static("young");
    assert_eq!(work(&mut world), (vec![], 1, 0));
}

#[tokio::test]
async fn a_failure_names_a_pod_that_has_no_entry_now() {
    let spec = json!({"spiffeIDTemplate": "spiffe://td/{{ .PodMeta.Labels.id }}"});
    let mut world = filled(vec![rule("r", 1, spec)]);
    let source = world.sources[&(Kind::ClusterSpiffeId, "r".to_owned())];
    let message = |world: &mut World| {
        settle(world);
        let status = world.status(source, time::OffsetDateTime::UNIX_EPOCH).unwrap().status;
        status["conditions"][0]["message"].as_str().unwrap().to_owned()
    };
    for name in ["p", "q"] {
        let pod = pod(&world, "a", name, json!({}));
        world.apply_pod(pod);
    }
    let said = message(&mut world);
    assert!(said.starts_with("2 pods") && said.contains("<no value>"), "{said}");
    let labelled = pod(&world, "a", "p", json!({"id": "x"}));
    world.apply_pod(labelled);
    let said = message(&mut world);
    assert!(said.starts_with("1 pods") && said.contains("a/q") && !said.contains("a/p"), "{said}");
    world.remove_pod("a/q");
    let said = message(&mut world);
    assert!(!said.contains("a/q"), "{said}");
}

#[tokio::test]
async fn pods_are_worked_out_when_their_nodes_are_known() {
    let mut world = world();
    let kinds = [Kind::ClusterSpiffeId, Kind::Namespace, Kind::Node, Kind::Pod];
    for (at, kind) in kinds.into_iter().enumerate() {
        assert!(!world.is_known(&kinds), "{at}");
        world.begin(kind);
        world.finish(kind);
    }
    assert!(world.is_known(&kinds));
}
