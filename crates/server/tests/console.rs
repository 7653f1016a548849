//! The web console: who is let in, what is shown, and that nothing is done by accident.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends where it fails"
)]

mod support;

use std::{
    sync::{Arc, PoisonError},
    time::Instant,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, Response, StatusCode},
};
use signet_api::pb::signet::api::server::tenancy::v1::{self as pb, tenancy_client::TenancyClient};
use signet_server::{
    attestors::Attestors,
    audit::Auditor,
    console::{Console, Recent},
    usecase::{
        UseCases,
        authorization::Authorizer,
        principal::{LocalPeer, Peer, PeerSvid, RemotePeer},
    },
};
use signet_time::UnixTime;
use support::{Options, TestServer, new_key, pb_id};
use tower::ServiceExt as _;

struct Browser {
    server: TestServer,
    router: Router,
    cookie: String,
}

/// Someone with a certificate of this SPIFFE ID.
fn as_peer(id: &str) -> Peer {
    let svid = PeerSvid {
        spiffe_id: id.parse().unwrap(),
        serial_number: "1".to_owned(),
        not_after: UnixTime::MAX,
    };
    Peer::Remote(RemotePeer { addr: "127.0.0.1:1".parse().unwrap(), svid: Some(Arc::new(svid)) })
}

impl Browser {
    /// Of someone who has not logged in.
    async fn new(lines: &str) -> Self {
        let lines = format!("ratelimit {{ attestation = false }} {lines}");
        let server = TestServer::with(Options { server: lines, ..Options::default() }).await;
        let context = &server.context;
        let recent = Arc::new(Recent::new(Arc::clone(&context.parts.clock)));
        let console = Console::new(
            context,
            UseCases::new(&context.parts, &Attestors::new(Vec::new())),
            Authorizer::new(&context.parts),
            Auditor::with_sink(Some(Arc::clone(&recent) as _)),
            recent,
            vec!["localhost".to_owned()],
        );
        Self { router: console.router(), server, cookie: String::new() }
    }

    /// A code, as `console login` gets it.
    fn code(&self) -> String {
        let peer = Peer::Local(LocalPeer { pid: None, uid: 0, gid: 0 });
        let mut logins = self.server.context.logins.lock().unwrap_or_else(PoisonError::into_inner);
        logins.code(peer, Instant::now()).unwrap().reveal().to_owned()
    }

    /// Of someone who has.
    async fn logged_in() -> Self {
        let mut browser = Self::new("").await;
        let form = format!("code={}", browser.code());
        let answer = browser.post("/login", &form).await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        let cookie = answer.headers()["set-cookie"].to_str().unwrap().to_owned();
        for word in ["__Host-signet=", "; Secure", "; HttpOnly", "; SameSite=Strict"] {
            assert!(cookie.contains(word), "{cookie}");
        }
        browser.cookie = cookie.split(';').next().unwrap().to_owned();
        browser
    }

    async fn send(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    fn request(&self, method: &str, path: &str) -> axum::http::request::Builder {
        let request = Request::builder().method(method).uri(path).header("host", "localhost:8444");
        request.header("cookie", &self.cookie)
    }

    /// What somebody with a certificate gets.
    async fn as_peer(&self, id: &str, path: &str) -> (StatusCode, String) {
        let mut request = self.request("GET", path).body(Body::empty()).unwrap();
        request.extensions_mut().insert(as_peer(id));
        let answer = self.send(request).await;
        (answer.status(), text(answer).await)
    }

    /// What comes of a form that somebody with a certificate sends, with its proof.
    async fn post_as(&self, id: &str, path: &str, form: &str) -> (StatusCode, String) {
        let (_, page) = self.as_peer(id, "/entries/new").await;
        let (_, rest) = page.split_once("name=\"csrf\" value=\"").unwrap();
        let csrf = rest.split_once('"').unwrap().0;
        let request = self.request("POST", path).header("origin", "https://localhost:8444");
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let mut request = request.body(Body::from(format!("csrf={csrf}&{form}"))).unwrap();
        request.extensions_mut().insert(as_peer(id));
        let answer = self.send(request).await;
        (answer.status(), text(answer).await)
    }

    async fn post(&self, path: &str, form: &str) -> Response<Body> {
        let request = self.request("POST", path).header("origin", "https://localhost:8444");
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        self.send(request.body(Body::from(form.to_owned())).unwrap()).await
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let answer = self.send(self.request("GET", path).body(Body::empty()).unwrap()).await;
        let status = answer.status();
        (status, text(answer).await)
    }

    async fn page(&self, path: &str) -> String {
        let (status, text) = self.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {text}");
        text
    }

    /// What forms of this session send along.
    async fn csrf(&self) -> String {
        let page = self.page("/entries/new").await;
        let (_, rest) = page.split_once("name=\"csrf\" value=\"").unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    }
}

async fn text(answer: Response<Body>) -> String {
    let bytes = to_bytes(answer.into_body(), 1 << 24).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn nobody_sees_anything_without_a_session_and_a_code_opens_one_only_once() {
    let browser = Browser::new("").await;
    for path in ["/", "/entries", "/agents", "/authorities", "/entries.json", "/nothing"] {
        let (status, text) = browser.get(path).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
        assert!(text.contains("One-time code") && !text.contains("/entries/new"), "{text}");
    }
    let form = format!("code={}", browser.code());
    assert_eq!(browser.post("/login", &form).await.status(), StatusCode::SEE_OTHER);
    assert_eq!(browser.post("/login", &form).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(browser.post("/login", "code=guess").await.status(), StatusCode::UNAUTHORIZED);
    let answer = browser.send(
        Request::builder().uri("/").header("host", "evil.example").body(Body::empty()).unwrap(),
    );
    assert_eq!(answer.await.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn every_answer_forbids_what_pages_do_not_need_and_no_page_needs_more() {
    let browser = Browser::logged_in().await;
    let all = [
        "/",
        "/entries",
        "/entries/new",
        "/agents",
        "/explain",
        "/authorities",
        "/federation",
        "/activity",
        "/server",
        "/nothing",
    ];
    for path in all {
        let request = browser.request("GET", path).body(Body::empty()).unwrap();
        let answer = browser.send(request).await;
        let policy = answer.headers()["content-security-policy"].to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        assert_eq!(answer.headers()["cache-control"], "no-store");
        let page = text(answer).await;
        assert!(!page.contains(" style=") && !page.contains("onclick"), "{path}: {page}");
        assert_eq!(page.matches("<script").count(), page.matches("<script src=\"/assets/").count());
        assert!(page.contains("<title>") && page.contains("lang=\"en\""), "{path}");
    }
}

#[tokio::test]
async fn an_entry_is_made_changed_and_deleted_after_its_effect_was_shown() {
    let browser = Browser::logged_in().await;
    let csrf = browser.csrf().await;
    let agent = browser.server.agent().await;
    let fields = format!(
        "csrf={csrf}&spiffe_id=spiffe://example.org/web&parent_id={}&selectors=unix:uid:1%0Aunix:gid:2",
        agent.id
    );
    let shown = text(browser.post("/entries/new", &fields).await).await;
    assert!(shown.contains("Create this entry?") && shown.contains("at 1 agents"), "{shown}");
    assert!(agent.entries(&browser.server).await.unwrap().is_empty(), "nothing was done yet");

    let done = browser.post("/entries/new", &format!("{fields}&confirmed=yes")).await;
    assert_eq!(done.status(), StatusCode::SEE_OTHER);
    let place = done.headers()["location"].to_str().unwrap().to_owned();
    assert_eq!(agent.entries(&browser.server).await.unwrap().len(), 1);
    let page = browser.page(&place).await;
    assert!(page.contains("spiffe://example.org/web") && page.contains("unix:gid:2"), "{page}");
    assert!(page.contains(&agent.id.to_string()), "who gets it: {page}");

    let change = format!("{fields}&hint=front");
    let shown = text(browser.post(&format!("{place}/edit"), &change).await).await;
    assert!(shown.contains("Hint: \u{201c}\u{201d} becomes \u{201c}front\u{201d}"), "{shown}");
    let done = browser.post(&format!("{place}/edit"), &format!("{change}&confirmed=yes")).await;
    assert_eq!(done.status(), StatusCode::SEE_OTHER);
    assert!(browser.page("/entries?hint=front").await.contains("1 shown of 1"));

    let explained = format!("/explain?agent={}&selectors=unix:uid:1%0Aunix:gid:2", agent.id);
    assert!(browser.page(&explained).await.contains("spiffe://example.org/web"));
    let missed = format!("/explain?agent={}&selectors=unix:uid:1", agent.id);
    assert!(browser.page(&missed).await.contains("wants unix:gid:2"));

    let shown = browser.page(&format!("{place}/delete")).await;
    assert!(shown.contains("1 agents drop it"), "{shown}");
    let done = browser.post(&format!("{place}/delete"), &format!("csrf={csrf}")).await;
    assert_eq!(done.status(), StatusCode::SEE_OTHER);
    assert!(agent.entries(&browser.server).await.unwrap().is_empty());
    let activity = browser.page("/activity").await;
    assert!(activity.contains("console/DeleteEntry") && activity.contains("local user 0"));

    let wrong = fields.replace("spiffe://example.org/web", "spiffe://other.org/web");
    let shown = text(browser.post("/entries/new", &wrong).await).await;
    assert!(
        shown.contains("role=\"alert\"") && shown.contains("spiffe://other.org/web"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_form_of_another_site_or_session_changes_nothing() {
    let browser = Browser::logged_in().await;
    let agent = browser.server.agent().await;
    let form = |csrf: &str| format!("csrf={csrf}&id={}", agent.id);
    for csrf in ["", "guess"] {
        let answer = browser.post("/agents/ban", &form(csrf)).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    }
    let csrf = browser.csrf().await;
    let foreign = browser.request("POST", "/agents/ban").header("origin", "https://evil.example");
    let foreign = browser.send(foreign.body(Body::from(form(&csrf))).unwrap()).await;
    assert_eq!(foreign.status(), StatusCode::FORBIDDEN);
    assert!(agent.entries(&browser.server).await.is_ok(), "it is not banned");

    let shown = browser.page(&format!("/agents/ban?id={}", agent.id)).await;
    assert!(shown.contains("cannot attest again"), "{shown}");
    assert_eq!(browser.post("/agents/ban", &form(&csrf)).await.status(), StatusCode::SEE_OTHER);
    assert!(agent.entries(&browser.server).await.is_err(), "it is banned");
    assert!(browser.page("/agents?banned=true").await.contains(&agent.id.to_string()));
}

#[tokio::test]
async fn a_certificate_lets_administrators_in_and_nobody_else() {
    let browser = Browser::new("admin_ids = [\"spiffe://example.org/admin\"]").await;
    for (id, expected) in [
        ("spiffe://example.org/admin", StatusCode::OK),
        ("spiffe://example.org/workload", StatusCode::FORBIDDEN),
    ] {
        for path in ["/", "/entries", "/agents", "/authorities", "/activity", "/server"] {
            let mut request = browser.request("GET", path).body(Body::empty()).unwrap();
            request.extensions_mut().insert(as_peer(id));
            assert_eq!(browser.send(request).await.status(), expected, "{id} {path}");
        }
    }
}

#[tokio::test]
async fn a_page_has_a_twin_for_programs_and_text_of_others_stays_text() {
    let browser = Browser::logged_in().await;
    let agent = browser.server.agent().await;
    browser
        .server
        .create_entry("spiffe://example.org/evil", &agent.id, "unix:path:<img src=x>\u{202e}")
        .await;
    let page = browser.page("/entries").await;
    assert!(page.contains("unix:path:&lt;img src=x&gt;\\u{202e}"), "{page}");
    let json = browser.page("/entries.json").await;
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["total"], 1);
    let problems: serde_json::Value =
        serde_json::from_str(&browser.page("/index.json").await).unwrap();
    assert_eq!(problems["entries"], 1);
}

#[tokio::test]
async fn authorities_are_shown_with_their_lives_and_rotated_after_asking() {
    let browser = Browser::logged_in().await;
    let csrf = browser.csrf().await;
    let page = browser.page("/authorities").await;
    assert!(page.contains("<svg") && page.contains("active"), "{page}");
    let shown = browser.page("/authorities/x509/prepare").await;
    assert!(shown.contains("Prepare a new authority?"), "{shown}");
    let done = browser.post("/authorities/x509/prepare", &format!("csrf={csrf}")).await;
    assert_eq!(done.status(), StatusCode::SEE_OTHER);
    assert!(browser.page("/authorities").await.contains("/authorities/x509/activate?id="));
    assert_eq!(browser.get("/authorities/x509/explode").await.0, StatusCode::NOT_FOUND);
}

const NARROWED: &str = r#"
admin "spiffe://example.org/ops/blue" {
    tenants = ["blue"] paths = ["/tenants/blue"] verbs = ["entry.*", "agent.*"]
}
admin "spiffe://example.org/ops/reader" { tenants = ["blue"] verbs = ["entry.read"] }
"#;

#[tokio::test]
async fn a_narrowed_administrator_sees_and_changes_its_part_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("policy.conf");
    std::fs::write(&policy, NARROWED).unwrap();
    let browser = Browser::new(&format!(
        "tenancy = \"required\"\n tenant_path_template = \"/tenants/{{tenant}}\"\n \
         policy_file = \"{}\"",
        policy.display()
    ))
    .await;
    let server = &browser.server;
    let mut tenancy = TenancyClient::new(server.local.clone());
    for name in ["blue", "red"] {
        tenancy.set_tenant(pb::SetTenantRequest { name: name.into(), state: 0 }).await.unwrap();
    }
    let mut agents = Vec::new();
    for tenants in [&["blue"][..], &["red"], &["blue", "red"]] {
        let tenants = tenants.iter().map(|name| (*name).to_owned()).collect();
        let request = pb::CreateJoinTokenRequest { ttl: 600, agent_id: None, tenants };
        let token = tenancy.create_join_token(request).await.unwrap().into_inner().value;
        agents.push(server.attest(&token, &new_key()).await.unwrap());
    }
    let [own, theirs, both] = agents.try_into().unwrap_or_else(|_| panic!("three agents"));
    let mut entries = Vec::new();
    for tenant in ["blue", "red"] {
        let selector = signet_api::pb::spire::api::types::Selector {
            r#type: "unix".into(),
            value: "uid:1".into(),
        };
        let id = format!("spiffe://example.org/tenants/{tenant}/web");
        let entry = signet_api::pb::spire::api::types::Entry {
            spiffe_id: Some(pb_id(&id.parse().unwrap())),
            parent_id: Some(pb_id(&both.id)),
            selectors: vec![selector],
            ..Default::default()
        };
        let tenant = pb::EntryTenant { tenant: tenant.into(), jwt_svid_tenant_claim: false };
        let new = pb::TenantEntry { entry: Some(entry), tenant: Some(tenant) };
        let made = tenancy.batch_create_entry(pb::BatchCreateEntryRequest { entries: vec![new] });
        let made = made.await.unwrap().into_inner().results.remove(0);
        entries.push(made.entry.unwrap().entry.unwrap().id);
    }
    let (blue, red) = (&entries[0], &entries[1]);

    let ops = "spiffe://example.org/ops/blue";
    let page = async |path: &str| {
        let (status, page) = browser.as_peer(ops, path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {page}");
        page
    };
    let refused = async |path: &str| browser.as_peer(ops, path).await.0;
    let first = page("/").await;
    assert!(first.contains("href=\"/entries\"") && !first.contains("href=\"/server\""), "{first}");
    assert!(!first.contains("href=\"/authorities\""), "{first}");
    let first: serde_json::Value = serde_json::from_str(&page("/index.json").await).unwrap();
    assert_eq!((&first["entries"], &first["agents"]), (&1.into(), &2.into()), "{first}");
    assert!(!first.to_string().contains(&theirs.id.to_string()), "{first}");
    let listed = page("/entries").await;
    assert!(listed.contains("/tenants/blue/web") && !listed.contains("/tenants/red/web"));
    assert!(listed.contains("1 shown of 1"), "{listed}");
    for nothing in
        ["spiffe_id=red/web", "tenant=red", "spiffe_id=spiffe://example.org/tenants/red/*"]
    {
        assert!(page(&format!("/entries?{nothing}")).await.contains("0 shown of 0"), "{nothing}");
    }
    let shown = page(&format!("/entries/{blue}")).await;
    assert!(shown.contains(&both.id.to_string()) && shown.contains("/delete\""), "{shown}");
    for path in ["", "/edit", "/delete"] {
        let path = format!("/entries/{red}{path}");
        assert_eq!(refused(&path).await, StatusCode::NOT_FOUND, "{path}");
    }
    let listed = page("/agents").await;
    assert!(listed.contains(&own.id.to_string()) && listed.contains(&both.id.to_string()));
    assert!(!listed.contains(&theirs.id.to_string()), "{listed}");
    let one = |agent: &support::TestAgent| format!("/agents/one?id={}", agent.id);
    assert_eq!(refused(&one(&theirs)).await, StatusCode::NOT_FOUND);
    let shown = page(&one(&both)).await;
    assert!(shown.contains("/tenants/blue/web") && !shown.contains("/tenants/red/web"), "{shown}");
    let explained = page(&format!("/explain?agent={}&selectors=unix:uid:1", both.id)).await;
    assert!(explained.contains("/tenants/blue/web"), "{explained}");
    assert!(!explained.contains("/tenants/red/web"), "{explained}");
    let explained = page(&format!("/explain?agent={}&selectors=unix:uid:1", theirs.id)).await;
    assert!(explained.contains("No agent of this ID is attested."), "{explained}");
    for path in ["/server", "/authorities", "/federation", "/authorities/x509/prepare"] {
        assert_eq!(refused(path).await, StatusCode::FORBIDDEN, "{path}");
    }

    // It writes within its part, through the same rules.
    let form = |tenant: &str| {
        format!(
            "spiffe_id=spiffe://example.org/tenants/{tenant}/api&parent_id={}&tenant={tenant}&\
             selectors=unix:uid:2&confirmed=yes",
            both.id
        )
    };
    let made = browser.post_as(ops, "/entries/new", &form("blue")).await;
    assert_eq!(made.0, StatusCode::SEE_OTHER, "{}", made.1);
    let made = browser.post_as(ops, "/entries/new", &form("red")).await.1;
    assert!(made.contains("role=\"alert\"") && made.contains("tenant_caller_mismatch"), "{made}");
    let given = form("red").replace("uid:2", "uid:3");
    let given = browser.post_as(ops, &format!("/entries/{blue}/edit"), &given).await.1;
    assert!(given.contains("policy_scope"), "nor does it give one of its own away: {given}");
    let deleted = browser.post_as(ops, &format!("/entries/{red}/delete"), "").await;
    assert_eq!(deleted.0, StatusCode::NOT_FOUND, "{}", deleted.1);
    let deleted = browser.post_as(ops, &format!("/entries/{blue}/delete"), "").await;
    assert_eq!(deleted.0, StatusCode::SEE_OTHER, "{}", deleted.1);
    let ban = async |agent: &support::TestAgent| {
        browser.post_as(ops, "/agents/ban", &format!("id={}", agent.id)).await.0
    };
    assert_eq!(ban(&theirs).await, StatusCode::NOT_FOUND);
    assert_eq!(ban(&both).await, StatusCode::FORBIDDEN, "it serves red too");
    assert_eq!(ban(&own).await, StatusCode::SEE_OTHER);
    let activity = page("/activity?within=1h").await;
    assert!(activity.contains("console/DeleteEntry") && activity.contains(ops), "{activity}");
    assert!(!activity.contains("/tenants/red/web"), "{activity}");

    // Who may only read has no buttons, and is refused behind them.
    let reader = "spiffe://example.org/ops/reader";
    let (_, listed) = browser.as_peer(reader, "/entries").await;
    assert!(listed.contains("/tenants/blue/api") && !listed.contains("New entry"), "{listed}");
    let made = browser.post_as(reader, "/entries/new", &form("blue")).await;
    assert_eq!(made.0, StatusCode::FORBIDDEN, "{}", made.1);
    assert_eq!(browser.as_peer(reader, "/agents").await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn entries_come_a_page_at_a_time_and_are_found_by_any_part_of_their_ids() {
    let browser = Browser::logged_in().await;
    let agent = browser.server.agent().await;
    for n in 0..230 {
        let id = format!("spiffe://example.org/ns/{}/app-{n}", n % 2);
        browser.server.create_entry(&id, &agent.id, &format!("unix:uid:{n}")).await;
    }
    // By their links, page after page, each once.
    let mut seen = std::collections::BTreeSet::new();
    let mut path = "/entries".to_owned();
    let mut pages = 0;
    loop {
        let page = browser.page(&path).await;
        pages += 1;
        for part in page.split("/app-").skip(1) {
            seen.insert(part.chars().take_while(char::is_ascii_digit).collect::<String>());
        }
        let Some((before, _)) = page.split_once("\">Next page") else { break };
        path = before.rsplit_once("href=\"").unwrap().1.replace("&amp;", "&");
    }
    assert_eq!((seen.len(), pages), (230, 3));
    for (search, found) in [
        ("spiffe_id=spiffe://example.org/ns/1/*", "100 shown of 115"),
        ("spiffe_id=app-22", "11 shown of 11"),
        ("spiffe_id=spiffe://example.org/ns/0/app-22", "1 shown of 1"),
        ("spiffe_id=app-1&selector=unix:uid:1", "1 shown of 1"),
        ("hint=none", "0 shown of 0"),
    ] {
        let page = browser.page(&format!("/entries?{search}")).await;
        assert!(page.contains(found), "{search}: {page}");
    }
    let first: serde_json::Value =
        serde_json::from_str(&browser.page("/index.json").await).unwrap();
    assert_eq!(first["entries"], 230);
    assert!(first["changes"].is_u64(), "{first}");
    let expiring = first["expiring"].to_string();
    assert!(expiring.contains("X.509 authority") && expiring.contains(&agent.id.to_string()));
}
