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

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use e2e::{
    AgentOptions, Keycloak, Node, ServerOptions, TestDir, WebCertificate, cli::run, eventually,
    free_port, keycloak::federated_client, on_path,
};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned, server::WebPkiClientVerifier,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::json;
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

#[test]
fn keycloak_takes_assertions_by_the_bundle_endpoint_and_by_the_oidc_provider_and_no_others() {
    let dir = TestDir::new();
    let web = WebCertificate::make(&dir, "web");
    let mut keycloak = match Keycloak::launch(&dir, &web.ca) {
        Ok(keycloak) => keycloak,
        Err(why) => skip!("{why}"),
    };
    let (bundles, oidc) = (free_port(), free_port());
    let files = format!(
        "cert_file_path = \"{}\" key_file_path = \"{}\"",
        web.cert.display(),
        web.key.display()
    );
    let issuer = format!("https://localhost:{oidc}");
    // With keys of WIT-SVIDs in the bundle, too: Keycloak has no use for them.
    let server = format!(
        "jwt_issuer = \"{issuer}\"\n\
         experimental {{ feature_flags = [\"wit-svid\"] }}\n\
         federation {{ bundle_endpoint {{ address = \"127.0.0.1\" port = {bundles} \
         publish_wit_keys = true profile \"https_web\" {{ serving_cert_file {{ {files} }} }} }} }}\n\
         oidc_discovery_provider {{ domains = [\"localhost\"] \
         serving_cert_file {{ {files} addr = \"127.0.0.1:{oidc}\" }} }}"
    );
    let node = Node::with(ServerOptions::with(&server), AgentOptions::default());
    // Each assertion is taken once by an OIDC provider's clients, so each is to be another.
    for path in ["/client", "/other", "/service"] {
        node.register_caller(path, "-jwtSVIDIncludeJTI");
    }
    keycloak.ready();
    keycloak.make_realm(
        "demo",
        &[
            json!({"alias": "bundle", "providerId": "spiffe", "config": {
                "trustDomain": "spiffe://example.org",
                "bundleEndpoint": format!("https://localhost:{bundles}/"),
            }}),
            json!({"alias": "oidc", "providerId": "oidc", "config": {
                "issuer": issuer, "jwksUrl": format!("{issuer}/keys"), "useJwksUrl": "true",
                "validateSignature": "true", "supportsClientAssertions": "true",
                // It has to have these, and asks nobody there.
                "authorizationUrl": issuer, "tokenUrl": issuer, "clientId": "-", "clientSecret": "-",
            }}),
        ],
        &[
            federated_client("by-bundle", "bundle", &node.id("/client")),
            federated_client("by-oidc", "oidc", &node.id("/service")),
        ],
    );
    let realm = keycloak.issuer("demo");
    let assertion = |path: &str, audience: &str| {
        let id = node.id(path);
        let fetch = format!("api fetch jwt -clientAssertion -audience {audience} -spiffeID {id}");
        eventually("an assertion", || {
            let fetched = node.agent.cli().line(&fetch);
            (fetched.code == 0).then(|| fetched.stdout.trim().to_owned())
        })
    };
    let jwt_bearer = |assertion: &str| {
        let (_, token) = assertion.split_once("client_assertion=").expect("an assertion");
        let token = token.split('&').next().unwrap_or_default();
        let kind = "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer";
        format!("client_assertion_type={kind}&client_assertion={token}")
    };
    let ask = |assertion: &str| {
        keycloak.token("demo", &format!("grant_type=client_credentials&{assertion}"))
    };
    let taken = |assertion: &str, client: &str| {
        let (status, answer) = ask(assertion);
        assert_eq!(status, 200, "{answer}");
        let token = answer["access_token"].as_str().expect("a token");
        let claims = token.split('.').nth(1).map(|claims| URL_SAFE_NO_PAD.decode(claims));
        let claims = claims.expect("claims").expect("base64");
        let claims: serde_json::Value = serde_json::from_slice(&claims).expect("JSON");
        assert_eq!(claims["client_id"], client, "{claims}");
    };
    let refused = |assertion: &str, why: &str| {
        let (status, answer) = ask(assertion);
        assert_ne!(status, 200, "{answer}");
        assert_eq!(answer["error"], "invalid_client", "{answer}");
        let described = answer["error_description"].as_str().unwrap_or_default();
        assert!(described.contains(why), "{answer}");
    };

    // By the bundle, as the SPIFFE document has it.
    let good = assertion("/client", &realm);
    taken(&good, "by-bundle");
    refused(&assertion("/other", &realm), "Invalid client");
    refused(&assertion("/client", "https://other.test"), "Invalid token audience");
    let two = node.agent.cli().json(&format!("api fetch jwt -audience {realm},other"));
    let tokens = two[0]["svids"].as_array().expect("tokens");
    let is_client = |token: &&serde_json::Value| token["spiffe_id"] == node.id("/client").as_str();
    let two = tokens.iter().find(is_client).expect("that of the client");
    let two = two["svid"].as_str().expect("a token");
    let kind = TYPE.replace(':', "%3A");
    refused(
        &format!("client_assertion_type={kind}&client_assertion={two}"),
        "Multiple audiences not allowed",
    );
    let forged = format!("{}AAAA", &good[..good.len() - 4]);
    refused(&forged, "");

    // By the OIDC provider.
    let good = jwt_bearer(&assertion("/service", &realm));
    taken(&good, "by-oidc");
    refused(&good, "");
    refused(&jwt_bearer(&assertion("/other", &realm)), "Invalid client");
    refused(&jwt_bearer(&assertion("/service", "https://other.test")), "Invalid token audience");

    // A new authority is taken up by both; Keycloak asks for keys every 10 seconds at most.
    let cli = node.server.cli();
    let prepared = cli.json("localauthority jwt prepare");
    let next = prepared["prepared_authority"]["authority_id"].as_str().expect("an ID");
    cli.line(&format!("localauthority jwt activate -authorityID {next}")).ok();
    eventually("the new key is known from the bundle", || {
        (ask(&assertion("/client", &realm)).0 == 200).then_some(())
    });
    eventually("the new key is known from the OIDC provider", || {
        (ask(&jwt_bearer(&assertion("/service", &realm))).0 == 200).then_some(())
    });
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
