//! The engines that the broker draws from, and an OpenBao that is slow or a standby.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use e2e::{
    DEADLINE, Signal, TestDir, eventually, eventually_within, free_port, on_path,
    secrets::{POLICY, Secrets, Setup, Way},
    skip,
};
use serde_json::{Value, json};

const ORDERS: &str = "/tenants/blue/orders";
const REPORTS: &str = "/tenants/red/reports";

fn code(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["error"]["code"].as_str().unwrap_or("ok"))
}

/// A policy with a certificate and keys besides.
fn with_engines() -> String {
    let engines = r#"
credential "cert" { engine = "pki" role = "web" ttl = "2m" }
credential "plain-cert" { engine = "pki" role = "plain" ttl = "2m" }
credential "sign" { engine = "transit" key = "signing" operations = ["sign", "verify"] ttl = "1m" }
rule "engines" { tenant = "blue" ids = ["/tenants/blue/orders"] credentials = ["cert", "plain-cert", "sign"] }
"#;
    format!("{POLICY}{engines}")
}

/// The policy with the engines is in force, and OpenBao has what it speaks of.
fn with_policy(secrets: &mut Secrets) {
    let before = secrets.log().matches("The policy was read again").count();
    secrets.set_policy(&with_engines());
    secrets.bootstrap(&[]).ok();
    secrets.broker().signal(Signal::SIGHUP);
    eventually("the policy is read", || {
        (secrets.log().matches("The policy was read again").count() > before).then_some(())
    });
    let root = json!({ "common_name": "blue", "key_type": "ec", "key_bits": 256, "ttl": "24h" });
    // A new mount is not ready at once.
    eventually_within("the CA is made", DEADLINE, || {
        let path = "pki/root/generate/internal";
        (secrets.bao_call("blue", e2e::Bao::ROOT, "POST", path, &root).0 < 300).then_some(())
    });
    for (role, leases) in [("web", true), ("plain", false)] {
        let role_of_spiffe_ids = json!({
            "allow_any_name": true, "require_cn": false, "key_type": "any", "max_ttl": "5m",
            "allowed_uri_sans": "spiffe://example.org/tenants/blue/*", "generate_lease": leases,
        });
        secrets.bao_root("blue", "POST", &format!("pki/roles/{role}"), &role_of_spiffe_ids);
    }
}

/// A request for a certificate with this SPIFFE ID; `None` where there is no `openssl`.
fn request(dir: &TestDir, name: &str, uri: &str) -> Option<String> {
    let csr = dir.join(format!("{name}.csr"));
    let mut command = std::process::Command::new(on_path("openssl")?);
    command
        .args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName=URI:{uri}")])
        .arg("-keyout")
        .arg(dir.join(format!("{name}.key")))
        .arg("-out")
        .arg(&csr);
    e2e::cli::run(&mut command, "").ok();
    Some(std::fs::read_to_string(csr).expect("a CSR"))
}

#[test]
fn a_certificate_is_signed_by_policy_and_revoked_with_its_lease() {
    let mut secrets = match Secrets::start("") {
        Ok(secrets) => secrets,
        Err(why) => skip!("{why}"),
    };
    let dir = TestDir::new();
    let Some(own) = request(&dir, "orders", &secrets.node.id(ORDERS)) else {
        skip!("openssl is not installed")
    };
    let foreign = request(&dir, "reports", &secrets.node.id(REPORTS)).expect("openssl");
    let entry = secrets.workload(ORDERS, "");
    secrets.workload(REPORTS, "");
    with_policy(&mut secrets);
    let ask = |path: &str, name: &str, parameters: Value| {
        let body = json!({ "parameters": parameters });
        secrets.ask(path, "POST", &format!("/v1/credentials/{name}"), &body)
    };
    let revoked_at = |drawn: &Value| {
        let serial = drawn["data"]["serial_number"].as_str().expect("a serial number");
        let found = secrets.bao_root("blue", "GET", &format!("pki/cert/{serial}"), &Value::Null);
        found["data"]["revocation_time"].as_i64().expect("a time")
    };
    let drawn = ask(ORDERS, "cert", json!({ "csr": own }));
    assert_eq!(code(&drawn), (200, "ok"), "{}", drawn.1);
    let drawn = drawn.1;
    assert!(drawn["data"]["certificate"].as_str().expect("PEM").contains("BEGIN CERTIFICATE"));
    assert!(drawn["data"]["private_key"].is_null(), "the key stays with the workload");
    assert!(drawn["ttl"].as_i64().expect("a life") <= 120, "{drawn}");
    assert_eq!(revoked_at(&drawn), 0);

    // Another identity than the role allows, nothing to sign, what only an operator may say, and a
    // tenant without the rule.
    let other = ask(ORDERS, "cert", json!({ "csr": foreign }));
    assert_eq!(code(&other), (502, "openbao_refused"), "{}", other.1);
    assert_eq!(code(&ask(ORDERS, "cert", json!({}))), (400, "parameter_refused"));
    let longer = ask(ORDERS, "cert", json!({ "csr": own, "ttl": "99h" }));
    assert_eq!(code(&longer), (400, "parameter_refused"));
    assert_eq!(code(&ask(REPORTS, "cert", json!({ "csr": foreign }))), (403, "no_rule"));

    let lease = drawn["lease_id"].as_str().expect("a lease");
    let back = secrets.ask(ORDERS, "DELETE", &format!("/v1/leases/{lease}"), &Value::Null);
    assert_eq!(code(&back), (200, "ok"), "{back:?}");
    eventually("the certificate is revoked", || (revoked_at(&drawn) > 0).then_some(()));

    // A role without leases: the certificate ends by itself.
    let plain = ask(ORDERS, "plain-cert", json!({ "csr": own }));
    assert_eq!(code(&plain), (200, "ok"), "{}", plain.1);
    // One with a lease ends with the entry.
    let last = ask(ORDERS, "cert", json!({ "csr": own })).1;
    secrets.node.server.delete(&entry);
    eventually("the certificate is revoked", || (revoked_at(&last) > 0).then_some(()));
    assert_eq!(revoked_at(&plain.1), 0);
}

#[test]
fn a_key_that_stays_in_openbao_signs_what_the_policy_allows() {
    let mut secrets = match Secrets::start("") {
        Ok(secrets) => secrets,
        Err(why) => skip!("{why}"),
    };
    secrets.workload(ORDERS, "");
    secrets.workload("/tenants/blue/other", "");
    with_policy(&mut secrets);
    let ask = |path: &str, parameters: Value| {
        let body = json!({ "parameters": parameters });
        secrets.ask(path, "POST", "/v1/credentials/sign", &body)
    };
    let input = STANDARD.encode("pay 3");
    let signed = ask(ORDERS, json!({ "operation": "sign", "input": input }));
    assert_eq!(code(&signed), (200, "ok"), "{}", signed.1);
    let signature = signed.1["data"]["signature"].as_str().expect("a signature");
    let verify = |input: &str| {
        let parameters = json!({ "operation": "verify", "input": input, "signature": signature });
        ask(ORDERS, parameters).1["data"]["valid"].clone()
    };
    assert_eq!(verify(&input), true);
    assert_eq!(verify(&STANDARD.encode("pay 4")), false);
    let export = ask(ORDERS, json!({ "operation": "export" }));
    assert_eq!(code(&export), (400, "parameter_refused"));
    let other = ask("/tenants/blue/other", json!({ "operation": "sign", "input": input }));
    assert_eq!(code(&other), (403, "no_rule"));
}

/// Stands between the broker and OpenBao, and keeps every answer back for a while.
#[derive(Clone, Default)]
struct Slow {
    delay: Arc<AtomicU64>,
}

impl Slow {
    /// Listens for what is meant for `to`; answers with its own address.
    fn before(&self, to: &str) -> String {
        let to = to.strip_prefix("http://").expect("plain HTTP").to_owned();
        let listener = TcpListener::bind(("127.0.0.1", free_port())).expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let delay = Arc::clone(&self.delay);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let Ok(there) = TcpStream::connect(&to) else { continue };
                let delay = Arc::clone(&delay);
                let (from, into) = (copy_of(&stream), copy_of(&there));
                thread::spawn(move || pass(from, into, &AtomicU64::new(0)));
                thread::spawn(move || pass(there, stream, &delay));
            }
        });
        address
    }

    fn set(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).expect("a short delay");
        self.delay.store(millis, Ordering::SeqCst);
    }
}

fn copy_of(stream: &TcpStream) -> TcpStream {
    stream.try_clone().expect("a second handle")
}

fn pass(mut from: TcpStream, mut into: TcpStream, delay: &AtomicU64) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        thread::sleep(Duration::from_millis(delay.load(Ordering::SeqCst)));
        if into.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = into.shutdown(std::net::Shutdown::Both);
}

#[test]
fn a_slow_openbao_is_said_to_be_and_leaves_nothing_behind() {
    let slow = Slow::default();
    let way = |bao: &str| vec![slow.before(bao)];
    let setup = Setup { openbao: Some(Way(&way)), ..Setup::default() };
    let secrets = match Secrets::with(&setup) {
        Ok(secrets) => secrets,
        Err(why) => skip!("{why}"),
    };
    let entry = secrets.workload(ORDERS, "");
    let draw = || secrets.ask(ORDERS, "POST", "/v1/credentials/orders-db", &Value::Null);
    let drawn = draw();
    assert_eq!(code(&drawn), (200, "ok"), "{}", drawn.1);
    let logins = || {
        let user = drawn.1["data"]["username"].as_str().expect("a user");
        let (whose, _) = user.rsplit_once('-').expect("a time");
        let (whose, _) = whose.rsplit_once('-').expect("a random part");
        let sql = format!("SELECT count(*) FROM pg_roles WHERE rolname LIKE '{whose}-%'");
        secrets.postgres.sql("postgres", &sql).parse::<u32>().expect("a number")
    };
    assert_eq!(logins(), 1);

    // Slow, and in time: it works.
    slow.set(Duration::from_millis(300));
    assert_eq!(code(&draw()), (200, "ok"));
    // Slower than the broker waits (2 s): a clear error, after the deadline and not much later. The
    // slack is for slow machines; a broker that waits for the answer would need a minute.
    slow.set(Duration::from_secs(60));
    let began = Instant::now();
    let refused = draw();
    let took = began.elapsed();
    assert_eq!(code(&refused), (503, "openbao_unavailable"), "{}", refused.1);
    let message = refused.1["error"]["message"].as_str().expect("a message");
    assert!(message.contains("did not answer within 2000 ms"), "{message}");
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(40), "{took:?}");
    eventually("OpenBao made the login that nobody heard of", || (logins() == 3).then_some(()));

    // What ends meanwhile is taken back when OpenBao answers again: also what it made and could not
    // tell in time.
    secrets.node.server.delete(&entry);
    eventually("it is tried", || secrets.log().contains("Cannot take back yet").then_some(()));
    slow.set(Duration::ZERO);
    eventually_within("every login is gone", DEADLINE, || (logins() == 0).then_some(()));
}

/// A server that says of itself that it is a standby, and sends everything to `to`.
struct Standby {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Standby {
    fn start(to: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let (seen, to) = (Arc::clone(&asked), to.to_owned());
        thread::spawn(move || {
            for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                let line = answer_as_standby(stream, &to, number);
                seen.lock().expect("no panic").push(line);
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }
}

/// One request of a connection; its first line.
fn answer_as_standby(mut stream: TcpStream, to: &str, number: usize) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let line = head.lines().next().unwrap_or_default().to_owned();
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let answer = if path.starts_with("/v1/sys/health") {
        // Standby, and Vault's performance standby, whatever was asked for.
        let status = if number.is_multiple_of(2) { "429 Standby" } else { "473 Standby" };
        let body = r#"{"initialized":true,"sealed":false,"standby":true,"version":"2.7.2"}"#;
        let length = body.len();
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
    } else {
        format!(
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: {to}{path}\r\ncontent-length: \
             0\r\nconnection: close\r\n\r\n"
        )
    };
    let _ = stream.write_all(answer.as_bytes());
    line
}

#[test]
fn a_standby_is_passed_over_for_a_configured_server_and_nobody_else_gets_a_token() {
    // Where the standby sends: a server that answers, and that the broker was not told of.
    let elsewhere = TcpListener::bind("127.0.0.1:0").expect("a port");
    let stranger = format!("http://{}", elsewhere.local_addr().expect("an address"));
    let visits = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&visits);
    thread::spawn(move || {
        for _ in elsewhere.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let standby = Standby::start(&stranger);
    let way = |bao: &str| vec![standby.address.clone(), bao.to_owned()];
    let setup = Setup { openbao: Some(Way(&way)), ..Setup::default() };
    let secrets = match Secrets::with(&setup) {
        Ok(secrets) => secrets,
        Err(why) => skip!("{why}"),
    };
    let entry = secrets.workload(ORDERS, "");
    let drawn = secrets.ask(ORDERS, "POST", "/v1/credentials/orders-db", &Value::Null);
    assert_eq!(code(&drawn), (200, "ok"), "{}", drawn.1);
    let asked = standby.asked();
    assert!(asked.iter().any(|line| line.contains("/v1/sys/health")), "{asked:?}");
    assert!(asked.iter().any(|line| !line.contains("/v1/sys/health")), "{asked:?}");
    secrets.node.server.delete(&entry);
    eventually("the login is gone", || (!secrets.has_login(&drawn.1["data"])).then_some(()));
    assert_eq!(visits.load(Ordering::SeqCst), 0, "nobody went where the standby sends");
}
