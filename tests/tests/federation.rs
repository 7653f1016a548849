//! Federation between programs: Signet's with each other, and with go-spiffe's client and server.

use std::{path::PathBuf, process::Command, sync::Arc, time::Instant};

use e2e::{
    AgentOptions, DEADLINE, Lines, Node, Postgres, Server, ServerOptions, TestDir, WebCertificate,
    cli, clients::go_binary, eventually, eventually_within, free_port, skip,
};
use serde_json::{Value, json};

/// A server of `b.test` that proves its endpoint by its SVID.
fn with_endpoint() -> (Server, String) {
    let port = free_port();
    let federation = format!(
        "federation {{ bundle_endpoint {{ address = \"127.0.0.1\" port = {port} \
         profile \"https_spiffe\" {{}} }} }}"
    );
    let server = Server::start(ServerOptions {
        trust_domain: "b.test".to_owned(),
        ..ServerOptions::with(&federation)
    });
    (server, format!("https://127.0.0.1:{port}/"))
}

/// The bundle of a server in the SPIFFE format, in a file.
fn spiffe_bundle(server: &Server) -> PathBuf {
    let document = server.cli().line("bundle show -format spiffe").ok().stdout;
    server.dir().write(format!("bundle-{}.json", server.port()), document)
}

/// Federates with `b.test` at `url`, whose endpoint is `id`.
fn federate(server: &Server, url: &str, id: &str, bundle: &std::path::Path) {
    let create = format!(
        "federation create -trustDomain b.test -bundleEndpointURL {url} -bundleEndpointProfile \
         https_spiffe -endpointSpiffeID {id} -trustDomainBundleFormat spiffe \
         -trustDomainBundlePath {}",
        bundle.display()
    );
    server.cli().line(&create).ok();
}

fn status(server: &Server) -> Value {
    server.cli().json("federation status -id b.test")["relationships"][0].clone()
}

#[test]
fn a_new_key_reaches_a_peer_within_thirty_seconds_and_its_workloads() {
    let (b, url) = with_endpoint();
    let bundle = spiffe_bundle(&b);
    let node = Node::with(ServerOptions::default(), AgentOptions::default());
    node.register_caller("/w", "-federatesWith b.test");
    node.server.cli().line("entry show").ok().says("b.test (pending: no bundle yet)");
    let fetched = || node.agent.cli().json("api fetch x509")["federated_bundles"].clone();
    // The workload has its own identity meanwhile.
    eventually("an identity without the bundle", || {
        let fetched = node.agent.cli().line("api fetch x509 -output json");
        (fetched.code == 0).then_some(())
    });
    assert_eq!(fetched(), json!({}));
    federate(&node.server, &url, "spiffe://b.test/spire/server", &bundle);
    eventually("the bundle of b.test", || {
        fetched().as_object().is_some_and(|all| all.len() == 1).then_some(())
    });
    let shown = node.server.cli().line("entry show").ok();
    assert!(!shown.stdout.contains("pending"), "{shown}");

    eventually("the first poll", || {
        status(&node.server)["last_success"].as_str().is_some_and(|at| at != "0").then_some(())
    });
    let began = Instant::now();
    b.cli().line("localauthority jwt prepare").ok();
    eventually_within("the new key", DEADLINE, || {
        (status(&node.server)["bundle"]["jwt_authorities"] == 2).then_some(())
    });
    assert!(began.elapsed().as_secs() < 30, "{:?}", began.elapsed());
    let status = status(&node.server);
    assert_eq!((&status["origin"], &status["last_error"]), (&json!("ORIGIN_DYNAMIC"), &json!("")));

    // Ending it leaves the bundle, unless told otherwise.
    node.server.cli().line("federation delete -id b.test -withBundle restrict").exits(1);
    node.server.cli().line("federation show -trustDomain b.test").ok();
    node.server.cli().line("federation delete -id b.test -withBundle dissociate").ok();
    eventually("a workload without it", || (fetched() == json!({})).then_some(()));
}

#[test]
fn of_servers_that_share_a_store_one_polls_and_when_it_dies_the_other() {
    let Some(postgres) = Postgres::shared() else { skip!("PostgreSQL is not installed") };
    let (b, url) = with_endpoint();
    let bundle = spiffe_bundle(&b);
    let options = ServerOptions::on_postgres(&postgres.dsn(&postgres.database()));
    let dir = Arc::new(TestDir::new());
    let one = Server::start_in(&dir, "one", options.clone());
    let other = Server::start_in(&dir, "other", options);
    federate(&one, &url, "spiffe://b.test/spire/server", &bundle);
    let has_polled = |server: &Server| status(server)["last_success"].as_str() != Some("0");
    let is_one = eventually("one of them polls", || match (has_polled(&one), has_polled(&other)) {
        (false, false) => None,
        (is_one, _) => Some(is_one),
    });
    let (mut poller, spare) = if is_one { (one, other) } else { (other, one) };
    eventually("the other knows that it does not", || {
        (status(&spare)["polled_elsewhere"] == true).then_some(())
    });

    // What one fetched, the other has without asking.
    b.cli().line("localauthority jwt prepare").ok();
    poller.cli().line("federation refresh -id b.test").ok();
    eventually("the new key on the other server", || {
        (status(&spare)["bundle"]["jwt_authorities"] == 2).then_some(())
    });
    assert!(!has_polled(&spare), "{}", status(&spare));
    // Unless it is told to.
    spare.cli().line("federation refresh -id b.test").ok();
    assert!(has_polled(&spare));

    poller.process().kill();
    b.cli().line("localauthority x509 prepare").ok();
    eventually_within("the other polls once the lease has ended", DEADLINE, || {
        let status = status(&spare);
        (status["polled_elsewhere"] != true && status["bundle"]["x509_authorities"] == 2)
            .then_some(())
    });
}

#[test]
fn go_spiffe_and_signet_fetch_from_each_other() {
    let go = match go_binary() {
        Ok(go) => go,
        Err(why) => skip!("{why}"),
    };
    let (b, url) = with_endpoint();
    let bundle = spiffe_bundle(&b);
    let run = |args: &[&str]| cli::run(Command::new(&go).args(args), "").ok().json();
    let shown = bundle.display().to_string();
    let id = "spiffe://b.test/spire/server";
    let fetched = run(&["federation-fetch", "b.test", &url, "spiffe", id, &shown]);
    assert_eq!(
        (&fetched["x509"], &fetched["jwt"], &fetched["hint"]),
        (&json!(1), &json!(1), &json!(300))
    );
    assert!(fetched["sequence"].as_u64().unwrap() > 0, "{fetched}");
    let other = "spiffe://b.test/other";
    let refused = run(&["federation-fetch", "b.test", &url, "spiffe", other, &shown]);
    assert!(refused["error"].as_str().unwrap().contains("unexpected ID"), "{refused}");

    // The other way: go-spiffe serves, and proves itself by an SVID of b.test.
    let write = b.data().display().to_string();
    b.cli().line(&format!("x509 mint -spiffeID spiffe://b.test/go -write {write}")).ok();
    let (cert, key) = (format!("{write}/svid.pem"), format!("{write}/key.pem"));
    let mut server =
        Lines::start(Command::new(&go).args(["federation-serve", "b.test", &shown, &cert, &key]));
    let url = server.read()["url"].as_str().unwrap().to_owned();
    let node = Node::start();
    let a = &node.server;
    node.register_caller("/w", "-federatesWith b.test");
    federate(a, &url, "spiffe://b.test/go", &bundle);
    a.cli().line("federation refresh -id b.test").ok().says("Bundle refreshed");
    assert_eq!(status(a)["bundle"]["jwt_authorities"], 1);
    let prepared = b.cli().json("localauthority jwt prepare");
    spiffe_bundle(&b);
    a.cli().line("federation refresh -id b.test").ok();
    assert_eq!(status(a)["bundle"]["jwt_authorities"], 2);

    // A token by a key that is not here: the agent says so, and the bundle is fetched a minute
    // before its time.
    let activate = |prepared: &Value| {
        let id = prepared["prepared_authority"]["authority_id"].as_str().expect("an ID");
        b.cli().line(&format!("localauthority jwt activate -authorityID {id}")).ok();
    };
    activate(&prepared);
    activate(&b.cli().json("localauthority jwt prepare"));
    spiffe_bundle(&b);
    let mint = "jwt mint -spiffeID spiffe://b.test/x -audience aud";
    let token = b.cli().line(mint).ok().stdout;
    let validate = format!("api validate jwt -audience aud -svid {}", token.trim());
    eventually("the token is valid", || (node.agent.cli().line(&validate).code == 0).then_some(()));
}

#[test]
fn an_endpoint_with_a_certificate_of_the_web_renews_it_and_is_believed_by_the_machine_s_roots() {
    let dir = std::sync::Arc::new(e2e::TestDir::new());
    let web = WebCertificate::make(&dir, "web");
    let port = free_port();
    let federation = format!(
        "federation {{ bundle_endpoint {{ address = \"127.0.0.1\" port = {port} \
         profile \"https_web\" {{ serving_cert_file {{ cert_file_path = \"{}\" \
         key_file_path = \"{}\" file_sync_interval = \"200ms\" }} }} }} }}",
        web.cert.display(),
        web.key.display()
    );
    let options =
        ServerOptions { trust_domain: "b.test".to_owned(), ..ServerOptions::with(&federation) };
    let b = Server::start_in(&dir, "b", options);
    let roots = |ca: &std::path::Path| vec![("SSL_CERT_FILE".to_owned(), ca.display().to_string())];
    let federates = format!(
        "federation {{ federates_with \"b.test\" {{ bundle_endpoint_url = \
         \"https://localhost:{port}/\" bundle_endpoint_profile \"https_web\" {{}} }} }}"
    );
    let options = ServerOptions { env: roots(&web.ca), ..ServerOptions::with(&federates) };
    let mut a = Server::start_in(&dir, "a", options);
    eventually("the bundle", || status(&a)["bundle"].is_object().then_some(()));
    assert_eq!(status(&a)["origin"], "ORIGIN_STATIC");
    a.cli().line("federation list").ok().says("configuration file");
    a.cli().line("federation show -trustDomain b.test").ok().says("https_web");

    // Another authority: whoever does not know it is not fooled, and says why.
    let renewed = WebCertificate::make(&dir, "web");
    eventually("the new certificate", || {
        b.log().contains("Serving certificate read again").then_some(())
    });
    // The client keeps no connection: the next handshake meets the new certificate, which this
    // machine's roots (read at the start of the program) do not vouch for.
    let refused = a.cli().line("federation refresh -id b.test");
    assert_ne!(refused.code, 0, "{refused}");
    assert!(status(&a)["last_error"].as_str().unwrap().contains("UnknownIssuer"), "{}", status(&a));
    a.reconfigure(|options| options.env = roots(&renewed.ca));
    a.restart();
    a.cli().line("federation refresh -id b.test").ok();
}
