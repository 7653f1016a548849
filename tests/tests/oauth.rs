//! Authenticating as an OAuth client with an SVID, against an authorization server that checks
//! everything draft-ietf-oauth-spiffe-client-auth asks of it.

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    process::Command,
    sync::Arc,
};

use e2e::{Node, TestDir, WebCertificate, cli::run, eventually, on_path};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned, server::WebPkiClientVerifier,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use signet_base::{Clock as _, SystemClock};
use signet_identity::TrustDomain;
use signet_pki::{
    jwks,
    jwt::{self, JwtBundle},
    x509::Certificate,
};
use signet_testkit::skip;

const ISSUER: &str = "https://as.example.org";
const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";

/// The parameters of a form.
fn form(body: &str) -> HashMap<String, String> {
    let decoded = |text: &str| text.replace("%3A", ":").replace("%2F", "/");
    let pairs = body.trim().split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

/// The client that a token request authenticates, by the JWT authorities of its trust domain's bundle
/// document (`spiffe_jwt`).
fn authenticated(body: &str, bundle: &str, registered: &str) -> Result<String, String> {
    let form = form(body);
    if form.get("client_assertion_type").map(String::as_str) != Some(TYPE) {
        return Err("another type of assertion".to_owned());
    }
    let trust_domain: TrustDomain = "example.org".parse().unwrap();
    let keys = jwks::decode_spiffe(trust_domain.clone(), bundle.as_bytes()).unwrap();
    let keys = JwtBundle::from_bundle(&keys);
    let token = form.get("client_assertion").ok_or("no assertion")?;
    let checked = jwt::validate(token, &[ISSUER.to_owned()], SystemClock.unix(), |domain| {
        (*domain == trust_domain).then_some(&keys)
    });
    let checked = checked.map_err(|error| error.to_string())?;
    if checked.audience != [ISSUER] {
        return Err("for others too".to_owned());
    }
    let id = checked.id.to_string();
    if id == registered { Ok(id) } else { Err("not this client".to_owned()) }
}

fn node() -> Node {
    let node = Node::start();
    node.register_caller("/client", "");
    eventually("the identity is served", || {
        (node.agent.cli().line("api fetch x509").code == 0).then_some(())
    });
    node
}

#[test]
fn a_jwt_svid_authenticates_a_client_to_one_authorization_server() {
    let node = node();
    let bundle = node.server.cli().line("bundle show -format spiffe").ok().stdout;
    let id = node.id("/client");
    let fetch = |more: &str| node.agent.cli().line(&format!("api fetch jwt {more}"));
    let body = fetch(&format!("-audience {ISSUER} -clientAssertion")).ok().stdout;
    assert_eq!(authenticated(&body, &bundle, &id), Ok(id.clone()));
    authenticated(&body, &bundle, &node.id("/other")).unwrap_err();

    // What a plain fetch for two gives is refused, and cannot be asked for here.
    let two = node.agent.cli().json(&format!("api fetch jwt -audience {ISSUER},other"));
    let two = two[0]["svids"][0]["svid"].as_str().unwrap();
    let two = format!("client_assertion_type={TYPE}&client_assertion={two}");
    assert_eq!(authenticated(&two, &bundle, &id), Err("for others too".to_owned()));
    fetch(&format!("-audience {ISSUER},other -clientAssertion")).exits(64).says("audience");
    let other = fetch("-audience https://b.test -clientAssertion").ok().stdout;
    authenticated(&other, &bundle, &id).unwrap_err();

    let printed =
        node.agent.cli().json(&format!("api fetch jwt -audience {ISSUER} -clientAssertion"));
    assert_eq!(printed["client_assertion_type"], TYPE);

    // With several identities one is named.
    node.register_caller("/second", "");
    eventually("the second identity is served", || {
        let asked = fetch(&format!("-audience {ISSUER} -clientAssertion"));
        (asked.code == 1).then(|| asked.says("-spiffeID"))
    });
    let second = node.id("/second");
    let named = fetch(&format!("-audience {ISSUER} -clientAssertion -spiffeID {second}"));
    assert_eq!(authenticated(&named.ok().stdout, &bundle, &second), Ok(second));
}

/// A token endpoint that asks for certificates of the bundle; answers with the client that a request
/// is of, if its `client_id` is the SPIFFE ID of the certificate (`spiffe_x509`).
fn token_endpoint(web: &WebCertificate, bundle: &Path) -> u16 {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(bundle).unwrap() {
        roots.add(root.unwrap()).unwrap();
    }
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(&web.cert).unwrap().map(Result::unwrap).collect();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(&web.key).unwrap())
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            let mut tls = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), tcp);
            let (mut request, mut buffer) = (String::new(), [0; 4096]);
            while !request.ends_with("#end") {
                match tls.read(&mut buffer) {
                    Ok(n) if n > 0 => request.push_str(&String::from_utf8_lossy(&buffer[..n])),
                    _ => break,
                }
            }
            let certificates = tls.conn.peer_certificates().unwrap_or_default();
            let leaf = certificates.first().map(|der| Certificate::from_der(der).unwrap());
            let id = leaf.and_then(|leaf| leaf.spiffe_id().ok()).map(|id| id.to_string());
            let body = request.split("\r\n\r\n").nth(1).unwrap_or_default();
            let asked = form(body.trim_end_matches("&#end")).remove("client_id");
            let (status, answer) = match (asked, id) {
                (Some(asked), Some(id)) if asked == id => ("200 OK", id),
                _ => ("401 Unauthorized", String::new()),
            };
            let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length:");
            let _ = write!(tls, "{head} {}\r\n\r\n{answer}", answer.len());
            tls.conn.send_close_notify();
            let _ = tls.flush();
        }
    });
    port
}

#[test]
fn an_x509_svid_authenticates_the_client_that_the_request_names() {
    let Some(curl) = on_path("curl") else {
        skip!("curl is not installed");
    };
    let node = node();
    let dir = TestDir::new();
    let web = WebCertificate::make(&dir, "as");
    let path = dir.path();
    node.agent.cli().line(&format!("api fetch x509 -write {}", path.display())).ok();
    let port = token_endpoint(&web, &path.join("bundle.0.pem"));
    let ask = |client: &str, with_svid: bool| {
        let mut command = Command::new(&curl);
        command.args(["-sS", "-w", " %{http_code}", "--cacert"]).arg(&web.ca);
        if with_svid {
            command.arg("--cert").arg(path.join("svid.0.pem"));
            command.arg("--key").arg(path.join("svid.0.key"));
        }
        let client = format!("client_id={client}");
        command.args(["--data-urlencode", &client, "-d", "#end"]);
        command.arg(format!("https://localhost:{port}/token"));
        run(&mut command, "")
    };
    let id = node.id("/client");
    assert_eq!(ask(&id, true).ok().stdout, format!("{id} 200"));
    assert_eq!(ask(&node.id("/other"), true).ok().stdout, " 401");
    assert_ne!(ask(&id, false).code, 0, "without a certificate there is no connection");
}
