//! What goes wrong on either side takes nothing away, and is made good.

use serde_json::{Value, json};
use tonic::Code;

use crate::{
    fake_kube::Fault,
    fixture::{Fixture, TEMPLATE, eventually},
};

const EXPIRED: &str = include_str!("../data/recorded/watch_pods_410.jsonl");
const UNAUTHORIZED: &str = include_str!("../data/recorded/pods_list_401.json");
const FORBIDDEN: &str = include_str!("../data/recorded/pods_list_403.json");

async fn settled() -> (Fixture, crate::fixture::Running) {
    let f = Fixture::new(true).await;
    f.rule("r", json!({"spiffeIDTemplate": TEMPLATE}));
    for name in ["p", "q"] {
        f.pod("a", name, json!({}));
    }
    let running = f.controller("gcInterval: 200ms").await;
    f.entries(&["/a/p", "/a/q"]).await;
    (f, running)
}

#[tokio::test]
async fn nothing_is_written_before_everything_was_listed() {
    let kinds = ["/pods?limit", "/namespaces?limit", "/nodes?limit", "/clusterspiffeids?limit"];
    for kind in kinds {
        let f = Fixture::new(true).await;
        f.rule("r", json!({"spiffeIDTemplate": TEMPLATE}));
        f.pod("a", "p", json!({}));
        // What an earlier controller left behind, and is still right.
        let running = f.controller("").await;
        f.entries(&["/a/p"]).await;
        running.stop().await;
        let writes = f.server.calls("BatchDeleteEntry");
        f.kube.fail(kind, Fault::Answer(500, "broken".to_owned()), 3);
        let tries = f.kube.requests(kind);
        let running = f.controller("").await;
        eventually(|| f.kube.requests(kind) > tries + 3, || format!("{kind}: no retry")).await;
        f.pod("a", "q", json!({}));
        f.entries(&["/a/p", "/a/q"]).await;
        assert_eq!(f.server.calls("BatchDeleteEntry"), writes, "{kind}");
        running.stop().await;
    }
}

#[tokio::test]
async fn every_answer_of_the_api_server_but_a_list_takes_nothing_away() {
    let (f, running) = settled().await;
    let pod_list = "/api/v1/pods?limit";
    for fault in [
        Fault::Answer(401, UNAUTHORIZED.to_owned()),
        Fault::Answer(403, FORBIDDEN.to_owned()),
        Fault::Answer(404, "404 page not found".to_owned()),
        Fault::Answer(410, EXPIRED.to_owned()),
        Fault::Answer(429, "slow down".to_owned()),
        Fault::Answer(500, String::new()),
        Fault::Answer(200, "{\"items\": []}".to_owned()),
        Fault::Answer(200, "<html>".to_owned()),
        Fault::Truncated,
    ] {
        let lists = f.kube.requests(pod_list);
        f.kube.fail(pod_list, fault.clone(), 1);
        f.kube.compact();
        eventually(|| f.kube.requests(pod_list) > lists + 1, || format!("{fault:?}")).await;
        assert_eq!(f.server.paths(), ["/a/p", "/a/q"], "{fault:?}");
    }
    assert_eq!(f.server.calls("BatchDeleteEntry"), 0);
    // And all the same it goes on.
    f.kube.delete("pods", "a/q");
    f.entries(&["/a/p"]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_watch_that_ends_breaks_or_is_too_late_goes_on() {
    let (f, running) = settled().await;
    f.kube.cut_watches();
    f.pod("b", "one", json!({}));
    f.entries(&["/a/p", "/a/q", "/b/one"]).await;
    for fault in [
        Fault::Answer(500, String::new()),
        Fault::Answer(200, "{\"type\":\"ADDED\",\"object\":\n".to_owned()),
        Fault::Answer(200, "{\"type\":\"NEW\",\"object\":{}}\n".to_owned()),
        Fault::Answer(200, EXPIRED.to_owned()),
        Fault::Answer(410, "gone".to_owned()),
    ] {
        f.kube.fail("pods?watch", fault, 1);
        f.kube.cut_watches();
    }
    // Deleted while nobody watched.
    f.kube.delete("pods", "a/p");
    f.entries(&["/a/q", "/b/one"]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_bad_resource_stops_no_other() {
    let f = Fixture::new(true).await;
    f.pod("a", "p", json!({"app": "web"}));
    f.rule("broken", json!({"spiffeIDTemplate": "{{ .X"}));
    f.rule("malformed", json!({"spiffeIDTemplate": ["x"], "ttl": 5}));
    f.rule("empty", json!(null));
    f.rule("foreign", json!({"spiffeIDTemplate": "spiffe://other/x"}));
    f.rule("failing", json!({"spiffeIDTemplate": "spiffe://td/{{ .PodMeta.NoSuch }}"}));
    f.rule("huge", json!({"spiffeIDTemplate": "x".repeat(100_000)}));
    f.rule(
        "selector",
        json!({
            "spiffeIDTemplate": "spiffe://td/s", "workloadSelectorTemplates": ["no-colon"],
        }),
    );
    f.rule("good", json!({"spiffeIDTemplate": TEMPLATE}));
    let running = f.controller("").await;
    f.entries(&["/a/p"]).await;
    for (name, reason) in [
        ("broken", "InvalidSpec"),
        ("malformed", "InvalidSpec"),
        ("empty", "InvalidSpec"),
        ("foreign", "RenderFailed"),
        ("failing", "RenderFailed"),
        ("huge", "InvalidSpec"),
        ("selector", "RenderFailed"),
        ("good", "InSync"),
    ] {
        f.reason("clusterspiffeids", name, reason).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn an_entry_that_the_server_refuses_holds_up_no_other_and_is_tried_again() {
    let f = Fixture::new(true).await;
    f.server.refuse("/a/bad");
    f.rule("r", json!({"spiffeIDTemplate": TEMPLATE}));
    for name in ["bad", "good"] {
        f.pod("a", name, json!({}));
    }
    let running = f.controller("").await;
    f.entries(&["/a/good"]).await;
    f.reason("clusterspiffeids", "r", "EntriesRefused").await;
    assert_eq!(f.status("clusterspiffeids", "r")["stats"]["entryFailures"], json!(1));
    f.server.accept();
    f.entries(&["/a/bad", "/a/good"]).await;
    f.reason("clusterspiffeids", "r", "InSync").await;
    running.stop().await;
}

#[tokio::test]
async fn a_server_that_fails_or_lists_half_loses_nothing() {
    for push in [true, false] {
        let f = Fixture::new(push).await;
        f.rule("r", json!({"spiffeIDTemplate": TEMPLATE}));
        for n in 0..250 {
            f.pod("a", &format!("p{n:03}"), json!({}));
        }
        let running = f.controller("gcInterval: 200ms").await;
        eventually(|| f.server.paths().len() == 250, || format!("{}", f.server.paths().len()))
            .await;
        running.stop().await;
        // The second page fails: the first one is not all there is.
        f.server.fail("BatchCreateEntry", Code::Unavailable);
        let running = f.controller("gcInterval: 200ms").await;
        let lists = f.server.calls("ListEntries");
        f.server.fail("ListEntries", Code::Unavailable);
        f.pod("b", "one", json!({}));
        eventually(|| f.server.paths().len() == 251, || format!("{}", f.server.paths().len()))
            .await;
        assert!(f.server.calls("ListEntries") >= lists);
        assert_eq!(f.server.calls("BatchDeleteEntry"), 0);
        running.stop().await;
    }
}

#[tokio::test]
async fn a_batch_that_fails_as_a_whole_is_taken_apart() {
    let f = Fixture::new(true).await;
    f.rule("r", json!({"spiffeIDTemplate": TEMPLATE}));
    for n in 0..5 {
        f.pod("a", &format!("p{n}"), json!({}));
    }
    f.server.fail("BatchCreateEntry", Code::ResourceExhausted);
    let running = f.controller("").await;
    f.entries(&["/a/p0", "/a/p1", "/a/p2", "/a/p3", "/a/p4"]).await;
    assert!(f.server.calls("BatchCreateEntry") >= 6);
    running.stop().await;
}

#[tokio::test]
async fn a_status_that_cannot_be_written_is_tried_again_and_holds_up_no_entry() {
    let f = Fixture::new(true).await;
    f.kube.fail("/status", Fault::Answer(500, String::new()), 1);
    f.rule("r", json!({"spiffeIDTemplate": TEMPLATE}));
    f.pod("a", "p", json!({}));
    let running = f.controller("").await;
    f.entries(&["/a/p"]).await;
    f.reason("clusterspiffeids", "r", "InSync").await;
    let status = f.status("clusterspiffeids", "r");
    assert_eq!(status["stats"]["entriesToSet"], json!(1));
    assert_ne!(status["conditions"][0]["lastTransitionTime"], Value::Null);
    running.stop().await;
}

#[tokio::test]
async fn a_refused_entry_is_said_to_be_refused_with_the_reason_until_it_is_taken() {
    let f = Fixture::new(true).await;
    f.server.refuse("/a/bad");
    f.kube.without_generations();
    f.rule("r", json!({"spiffeIDTemplate": TEMPLATE}));
    f.pod("a", "bad", json!({}));
    let running = f.controller("").await;
    f.reason("clusterspiffeids", "r", "EntriesRefused").await;
    // Refused again and again, and read again with every change of something else.
    let tries = f.server.calls("BatchCreateEntry");
    eventually(|| f.server.calls("BatchCreateEntry") > tries + 1, || "no retry".to_owned()).await;
    for n in 0..5 {
        f.pod("a", &format!("good{n}"), json!({}));
        f.kube.compact();
        eventually(
            || f.status("clusterspiffeids", "r")["stats"]["entriesToSet"] == n + 2,
            || f.status("clusterspiffeids", "r").to_string(),
        )
        .await;
    }
    let status = f.status("clusterspiffeids", "r");
    let message = status["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("a/bad: as the test wishes"), "{message}");
    assert_eq!(status["stats"]["entryFailures"], json!(1));
    let reasons = f.kube.history("clusterspiffeids", "r");
    let reasons = reasons.iter().map(|one| one["status"]["conditions"][0]["reason"].clone());
    let mut reasons: Vec<Value> = reasons.filter(|reason| !reason.is_null()).collect();
    reasons.dedup();
    assert!(reasons.len() <= 2 && reasons.last() == Some(&json!("EntriesRefused")), "{reasons:?}");
    running.stop().await;
}

#[tokio::test]
async fn a_status_that_somebody_else_overwrites_is_written_again() {
    let f = Fixture::new(true).await;
    f.rule("r", json!({"spiffeIDTemplate": TEMPLATE}));
    f.pod("a", "p", json!({}));
    let running = f.controller("").await;
    f.reason("clusterspiffeids", "r", "InSync").await;
    let mut object = f.kube.get("clusterspiffeids", "r").unwrap();
    object["status"] = json!({"conditions": [{"type": "Ready", "status": "False"}]});
    f.kube.put("clusterspiffeids", object);
    f.reason("clusterspiffeids", "r", "InSync").await;
    running.stop().await;
}
