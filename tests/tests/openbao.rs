//! What `signet-broker bootstrap` sets up in a real OpenBao: who gets in by each method, and who
//! does not.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use e2e::{
    Bao, Node, ServerOptions, TestDir, bins, cli, eventually,
    secrets::{ISSUER, http, jwt, x509},
    skip,
};
use rustls::{ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::{PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use signet_base::SystemClock;
use signet_pki::{
    KeyType, PrivateKey, SignatureAlgorithm, Signer as _, pem,
    tls::{SwappableIdentity, WebCheck, web_client_config},
};

const POLICY: &str = r#"
tenant "blue" { namespace = "blue" path = "/tenants/blue/" }
tenant "red" { namespace = "red" path = "/tenants/red/" }
credential "key" { engine = "kv" path = "key" }
rule "orders" {
    tenant = "blue" ids = ["/tenants/blue/orders"] credentials = ["key"]
    service_accounts = ["shop/orders", "shop/orders-jobs", "batch/nightly"]
}
rule "reports" { tenant = "red" ids = ["/tenants/red/**"] credentials = ["key"] }
rule "single" { tenant = "red" ids = ["/tenants/red/*"] credentials = ["key"] }
"#;

struct World {
    dir: TestDir,
    bao: Bao,
}

impl World {
    fn new() -> Option<Self> {
        let bao = Bao::start(true)?;
        let dir = TestDir::new();
        dir.write("policy.hcl", POLICY);
        let config = format!(
            r#"broker {{
    trust_domain = "example.org"
    data_dir = "{dir}/data"
    policy_file = "{dir}/policy.hcl"
    workload_api_socket_path = "{dir}/none.sock"
    bind_port = 1
}}
server {{ socket_path = "{dir}/none.sock" }}
openbao {{ address = "{address}" ca_file = "{ca}" }}
"#,
            dir = dir.path().display(),
            address = bao.address(),
            ca = bao.ca().display(),
        );
        dir.write("broker.conf", config);
        Some(Self { dir, bao })
    }

    fn bootstrap(&self, more: &[&str]) -> cli::Output {
        let mut command = Command::new(bins::find("signet-broker"));
        command
            .args(["bootstrap", "-config"])
            .arg(self.dir.join("broker.conf"))
            .args(["-brokerID", "spiffe://example.org/signet-broker", "-issuer", ISSUER])
            .args(more)
            .env("BAO_TOKEN", Bao::ROOT);
        cli::run(&mut command, "")
    }

    /// Logs in, with a client certificate if there is one.
    fn login(
        &self,
        identity: Option<&Arc<SwappableIdentity>>,
        namespace: &str,
        method: &str,
        body: &Value,
    ) -> (u16, Value) {
        let ca = fs::read_to_string(self.bao.ca()).expect("the CA");
        let roots = pem::decode_certificates(&ca).expect("certificates");
        let config = web_client_config(
            WebCheck::ChainAndName,
            &roots,
            identity.cloned(),
            SystemClock::shared(),
        );
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        let connection = ClientConnection::new(config.expect("a configuration"), name);
        let address = self.bao.address();
        let address = address.strip_prefix("https://").expect("TLS");
        let stream = TcpStream::connect(address).expect("OpenBao");
        let stream = StreamOwned::new(connection.expect("a connection"), stream);
        let path = format!("/v1/auth/{method}/login");
        http(stream, "POST", &path, &[("x-vault-namespace", namespace)], body)
    }
}

/// A token of these claims by a key.
pub(crate) fn token(key: &PrivateKey, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({ "alg": "ES256", "typ": "JWT" });
    let signed = format!("{}.{}", part(&header), part(claims));
    let signer = key.signer().expect("a signer");
    let der = signer.sign(SignatureAlgorithm::EcdsaP256Sha256, signed.as_bytes()).expect("signed");
    let mut rest = &der[2..];
    let mut numbers = Vec::new();
    for _ in 0..2 {
        let length = usize::from(rest[1]);
        let number: Vec<u8> =
            rest[2..2 + length].iter().skip_while(|byte| **byte == 0).copied().collect();
        numbers.extend(std::iter::repeat_n(0, 32 - number.len()));
        numbers.extend(number);
        rest = &rest[2 + length..];
    }
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(numbers))
}

fn public_pem(key: &PrivateKey) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(key.public_key().spki_der());
    format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
}

#[test]
fn jwt_svids_open_only_their_own_role_in_their_own_namespace() {
    let Some(world) = World::new() else { skip!("bao is not installed") };
    let node = Node::with(
        ServerOptions::with(&format!("jwt_issuer = \"{ISSUER}\"")),
        e2e::AgentOptions::default(),
    );
    let own = fs::read_link("/proc/self/exe").expect("/proc").display().to_string();
    for path in ["/tenants/blue/orders", "/tenants/red/reports"] {
        node.register(path, &[&format!("unix:path:{own}")], "");
    }
    let bundle = node.server.cli().line("bundle show -format spiffe").ok().stdout;
    let bundle = world.dir.write("bundle.json", bundle).display().to_string();
    let done = world.bootstrap(&["-keysFile", &bundle, "-jwtRoles"]).ok();
    done.says("steps are in force");
    let again = world.bootstrap(&["-keysFile", &bundle, "-jwtRoles"]).ok();
    assert!(again.stderr.contains("rule single"), "what a glob cannot say is said: {again}");
    assert!(again.stderr.contains("no audit device"), "{again}");
    let svid = |path: &str, audience: &[&str]| {
        eventually("a JWT-SVID", || jwt(&node.agent, &node.id(path), audience))
    };
    let try_it = |namespace: &str, role: &str, jwt: &str| {
        world.login(None, namespace, "jwt", &json!({ "role": role, "jwt": jwt }))
    };
    let blue = svid("/tenants/blue/orders", &["openbao/blue"]);
    let (status, answer) = try_it("blue", "signet-orders", &blue);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["auth"]["policies"], json!(["signet-credential-key"]), "{answer}");
    let red = svid("/tenants/red/reports", &["openbao/red"]);
    assert_eq!(try_it("red", "signet-reports", &red).0, 200);
    for (what, namespace, role, jwt) in [
        ("another tenant's namespace", "red", "signet-reports", &blue),
        ("another tenant", "blue", "signet-orders", &red),
        ("the root namespace", "", "signet-orders", &blue),
        ("the broker's role", "blue", "signet-broker", &blue),
        ("no such role", "blue", "signet-single", &blue),
        ("another audience", "blue", "signet-orders", &svid("/tenants/blue/orders", &["x"])),
        (
            "another tenant for this audience",
            "blue",
            "signet-orders",
            &svid("/tenants/red/reports", &["openbao/blue"]),
        ),
    ] {
        let (status, answer) = try_it(namespace, role, jwt);
        assert!((400..500).contains(&status), "{what}: {status} {answer}");
        assert!(answer["auth"].is_null(), "{what}");
    }

    // With a key of this test's own, what no server of ours signs.
    let key = PrivateKey::generate(KeyType::EcP256).expect("a key");
    let keys = world.dir.write("keys.pem", public_pem(&key)).display().to_string();
    world.bootstrap(&["-keysFile", &keys, "-jwtRoles"]).ok();
    let now = signet_base::Clock::unix(&SystemClock);
    let with = |changes: Value| {
        let mut claims = json!({
            "sub": "spiffe://example.org/tenants/blue/orders", "aud": ["openbao/blue"],
            "iss": ISSUER, "iat": now - 60, "exp": now + 60,
        });
        for (name, value) in changes.as_object().expect("an object") {
            match value {
                Value::Null => drop(claims.as_object_mut().expect("claims").remove(name)),
                value => claims[name] = value.clone(),
            }
        }
        token(&key, &claims)
    };
    assert_eq!(try_it("blue", "signet-orders", &with(json!({}))).0, 200);
    for changes in [
        json!({ "iss": null }),
        json!({ "iss": "https://other.example.org" }),
        json!({ "iss": format!("{ISSUER}/") }),
        json!({ "exp": null }),
        json!({ "exp": now - 10 }),
        json!({ "aud": null }),
        json!({ "aud": "openbao/red" }),
        json!({ "nbf": now + 60 }),
        json!({ "sub": "spiffe://example.org/tenants/blue/orders2" }),
        json!({ "sub": "spiffe://other.org/tenants/blue/orders" }),
        json!({ "sub": "spiffe://example.org/tenants/blue/orders/x" }),
    ] {
        let (status, answer) = try_it("blue", "signet-orders", &with(changes.clone()));
        assert!((400..500).contains(&status), "{changes}: {status} {answer}");
    }
    assert!(try_it("blue", "signet-orders", &blue).0 >= 400, "the server's key is not known now");
}

#[test]
fn x509_svids_open_only_their_own_role_and_need_a_common_name() {
    let Some(world) = World::new() else { skip!("bao is not installed") };
    let node = Node::start();
    let own = fs::read_link("/proc/self/exe").expect("/proc").display().to_string();
    let own = format!("unix:path:{own}");
    node.register("/tenants/blue/orders", &[&own], "-dns orders.blue.example.org");
    node.register("/tenants/blue/nameless", &[&own], "");
    node.register("/tenants/red/reports", &[&own], "-dns reports.red.example.org");
    let key = PrivateKey::generate(KeyType::EcP256).expect("a key");
    let keys = world.dir.write("keys.pem", public_pem(&key)).display().to_string();
    let bundle = node.server.bundle_file().display().to_string();
    world.bootstrap(&["-keysFile", &keys, "-certBundle", &bundle]).ok();
    let svid = |path: &str| {
        let id = node.id(path);
        let svid = eventually("an X.509-SVID", || x509(&node.agent, &id));
        Arc::new(SwappableIdentity::new(svid.identity))
    };
    let orders = svid("/tenants/blue/orders");
    let body = json!({ "name": "signet-orders" });
    let (status, answer) = world.login(Some(&orders), "blue", "cert", &body);
    assert_eq!(status, 200, "{answer}");
    let reports = svid("/tenants/red/reports");
    let role = json!({ "name": "signet-reports" });
    assert_eq!(world.login(Some(&reports), "red", "cert", &role).0, 200);
    let nameless = svid("/tenants/blue/nameless");
    for (what, who, namespace, body) in [
        ("another tenant's namespace", Some(&orders), "red", &role),
        ("another tenant", Some(&reports), "blue", &body),
        ("no common name, and another ID", Some(&nameless), "blue", &body),
        ("no certificate", None, "blue", &body),
        ("the root namespace", Some(&orders), "", &body),
    ] {
        let (status, answer) = world.login(who, namespace, "cert", body);
        assert!((400..500).contains(&status), "{what}: {status} {answer}");
    }
    let foreign = Node::start();
    foreign.register("/tenants/blue/orders", &[&own], "-dns orders.blue.example.org");
    let id = foreign.id("/tenants/blue/orders");
    let svid = eventually("an X.509-SVID", || x509(&foreign.agent, &id));
    let foreign = Arc::new(SwappableIdentity::new(svid.identity));
    let (status, answer) = world.login(Some(&foreign), "blue", "cert", &body);
    assert!((400..500).contains(&status), "another CA of the same name: {status} {answer}");
}

/// A Kubernetes API server that knows how to review tokens: whose they are is in the claim `who`,
/// `namespace/name`, and in `pod` and `uid`. Returns its port and the file with its CA.
pub(crate) fn reviewer(dir: &TestDir) -> (u16, String) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate");
    let ca = dir.write("kubernetes.pem", certificate.pem()).display().to_string();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a configuration");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let connection = ServerConnection::new(config.clone()).expect("a connection");
            let mut stream = StreamOwned::new(connection, stream);
            let _ = review(&mut stream);
        }
    });
    (port, ca)
}

fn review(stream: &mut (impl Read + Write)) -> std::io::Result<()> {
    let mut text = String::new();
    let body = loop {
        let mut bytes = [0; 4096];
        let length = stream.read(&mut bytes)?;
        text.push_str(&String::from_utf8_lossy(&bytes[..length]));
        if let Some((_, body)) = text.split_once("\r\n\r\n")
            && let Ok(body) = serde_json::from_str::<Value>(body)
        {
            break body;
        }
        if length == 0 {
            return Ok(());
        }
    };
    let token = body["spec"]["token"].as_str().unwrap_or_default();
    let claims = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let claims: Value =
        claims.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let (namespace, name) =
        claims["who"].as_str().and_then(|w| w.split_once('/')).unwrap_or_default();
    let wanted = body["spec"]["audiences"].as_array().cloned().unwrap_or_default();
    let good = wanted.contains(&claims["aud"][0]);
    let text = |key: &str| claims[key].as_str().unwrap_or_default().to_owned();
    let status = if good {
        json!({
            "authenticated": true,
            "user": {
                "username": format!("system:serviceaccount:{namespace}:{name}"),
                "uid": "u-1",
                "groups": ["system:serviceaccounts"],
                "extra": {
                    "authentication.kubernetes.io/pod-name": [text("pod")],
                    "authentication.kubernetes.io/pod-uid": [text("uid")],
                },
            },
            "audiences": [claims["aud"][0]],
        })
    } else {
        json!({ "authenticated": false, "error": "audience" })
    };
    let answer = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status,
    })
    .to_string();
    write!(
        stream,
        "HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{answer}",
        answer.len()
    )?;
    stream.flush()
}

#[test]
fn service_accounts_open_only_the_role_of_their_namespace_and_only_for_the_audience() {
    let Some(world) = World::new() else { skip!("bao is not installed") };
    let (port, ca) = reviewer(&world.dir);
    let key = PrivateKey::generate(KeyType::EcP256).expect("a key");
    let keys = world.dir.write("keys.pem", public_pem(&key)).display().to_string();
    let reviewer = world.dir.write("reviewer", "a.b.c").display().to_string();
    let host = format!("https://localhost:{port}");
    let flags = ["-keysFile", &keys, "-kubernetesHost", &host, "-kubernetesCA", &ca];
    let flags = [&flags[..], &["-kubernetesReviewer", &reviewer]].concat();
    let shown = world.bootstrap(&[&flags[..], &["-dry-run"]].concat()).ok();
    assert!(shown.stdout.contains("(not shown)") && !shown.stdout.contains("a.b.c"), "{shown}");
    world.bootstrap(&flags).ok();
    let account = |who: &str, audience: &str| {
        let (namespace, name) = who.split_once('/').expect("a pair");
        token(
            &key,
            &json!({
                "who": who, "aud": [audience], "iss": "https://kubernetes.default.svc",
                "sub": format!("system:serviceaccount:{namespace}:{name}"),
                "iat": 1_700_000_000, "exp": 4_000_000_000_i64,
                "kubernetes.io": {
                    "namespace": namespace, "serviceaccount": { "name": name, "uid": "u-1" },
                },
            }),
        )
    };
    let try_it = |role: &str, who: &str, audience: &str| {
        let body = json!({ "role": role, "jwt": account(who, audience) });
        world.login(None, "blue", "kubernetes", &body)
    };
    for (role, who) in [
        ("signet-orders-shop", "shop/orders"),
        ("signet-orders-shop", "shop/orders-jobs"),
        ("signet-orders-batch", "batch/nightly"),
    ] {
        let (status, answer) = try_it(role, who, "openbao/blue");
        assert_eq!(status, 200, "{who}: {answer}");
    }
    for (role, who, audience) in [
        ("signet-orders-shop", "shop/default", "openbao/blue"),
        ("signet-orders-shop", "other/orders", "openbao/blue"),
        ("signet-orders-shop", "batch/nightly", "openbao/blue"),
        ("signet-orders-shop", "shop/nightly", "openbao/blue"),
        ("signet-orders-batch", "batch/orders", "openbao/blue"),
        ("signet-orders-shop", "shop/orders", "https://kubernetes.default.svc"),
        ("signet-orders-shop", "shop/orders", "openbao/red"),
    ] {
        let (status, answer) = try_it(role, who, audience);
        assert!((400..500).contains(&status), "{role} {who} {audience}: {status} {answer}");
    }
}

#[test]
fn openbao_sets_itself_up_by_what_is_printed() {
    let dir = TestDir::new();
    dir.write("policy.hcl", POLICY);
    let key = PrivateKey::generate(KeyType::EcP256).expect("a key");
    dir.write("keys.pem", public_pem(&key));
    let own = dir.path().display();
    dir.write(
        "broker.conf",
        format!(
            "broker {{ trust_domain = \"example.org\" data_dir = \"{own}/d\" policy_file = \
             \"{own}/policy.hcl\" workload_api_socket_path = \"/x\" bind_port = 1 }}\n\
             server {{ socket_path = \"/x\" }}\nopenbao {{ address = \"http://127.0.0.1:1\" }}\n"
        ),
    );
    let mut command = Command::new(bins::find("signet-broker"));
    command
        .args(["bootstrap", "-dry-run", "-format", "selfinit", "-jwtRoles", "-config"])
        .arg(dir.join("broker.conf"))
        .args(["-brokerID", "spiffe://example.org/signet-broker", "-issuer", ISSUER, "-keysFile"])
        .arg(dir.join("keys.pem"));
    let printed = cli::run(&mut command, "").ok().stdout;
    let printed = printed.replace("/var/log/openbao/audit.log", &format!("{own}/audit.log"));
    let Some(bao) = Bao::start_itself(&printed) else { skip!("bao is not installed") };
    let now = signet_base::Clock::unix(&SystemClock);
    let claims = json!({
        "sub": "spiffe://example.org/tenants/blue/orders", "aud": ["openbao/blue"],
        "iss": ISSUER, "iat": now - 60, "exp": now + 60,
    });
    let body = json!({ "role": "signet-orders", "jwt": token(&key, &claims) });
    let address = bao.address();
    let stream =
        || TcpStream::connect(address.strip_prefix("http://").expect("HTTP")).expect("bao");
    let place = "/v1/auth/jwt/login";
    let (status, answer) = http(stream(), "POST", place, &[("x-vault-namespace", "blue")], &body);
    assert_eq!(status, 200, "{answer}");
    let (status, _) = http(stream(), "POST", place, &[("x-vault-namespace", "red")], &body);
    assert!(status >= 400, "another tenant's namespace");
}
