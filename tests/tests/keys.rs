//! Keys and roots that are elsewhere: Vault (a real OpenBao server) and a PKCS#11 token (SoftHSM).

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::Duration,
};

use e2e::{
    AgentOptions, Node, Server, ServerOptions, Signal, TestDir, eventually, node::caller, skip,
};
use nix::{sys::signal::kill, unistd::Pid};
use serde_json::{Value, json};
use signet_aws::{Access, Credentials, Environment, Keys, Place, Service};
use signet_base::SystemClock;
use signet_testkit::{Bao, LocalKms, Suspended};
use signet_vault::{Auth, Client, Settings, VaultError};

/// What an operator does with Vault.
struct Admin {
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Admin {
    fn new(bao: &Bao) -> Self {
        let token = Auth::Token(Bao::ROOT.to_owned().into());
        let settings = Settings::new(bao.address(), token);
        let client = Client::open(&settings, Arc::new(SystemClock)).expect("a client");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        Self { client, runtime }
    }

    fn write(&self, path: &str, body: &Value) -> Result<(), VaultError> {
        self.runtime.block_on(self.client.write(path, body)).map(drop)
    }

    /// The engines that the tests use, with a root.
    fn set_up(&self) {
        self.write("sys/mounts/transit", &json!({ "type": "transit" })).expect("an engine");
        let pki = json!({ "type": "pki", "config": { "max_lease_ttl": "8760h" } });
        self.write("sys/mounts/pki", &pki).expect("an engine");
        let root = json!({ "common_name": "root", "ttl": "8760h" });
        self.write("pki/root/generate/internal", &root).expect("a root");
    }

    /// How many keys there are of each name.
    fn keys(&self) -> BTreeMap<String, usize> {
        let names = self.runtime.block_on(self.client.list("transit/keys")).expect("a list");
        let mut count = BTreeMap::new();
        for name in names {
            // srv1-<uuid>-<key>
            *count.entry(name[42..].to_owned()).or_default() += 1;
        }
        count
    }
}

fn key_manager(address: &str) -> String {
    format!(
        "KeyManager \"hashicorp_vault\" {{ plugin_data {{ vault_addr = \"{address}\" \
         key_identifier_value = \"srv1\" token_auth {{ token = \"{}\" }} }} }}",
        Bao::ROOT
    )
}

pub(crate) fn active(server: &Server, kind: &str) -> String {
    let shown = server.cli().json(&format!("localauthority {kind} show"));
    shown["active"]["authority_id"].as_str().unwrap_or_default().to_owned()
}

pub(crate) fn rotate(server: &Server, kind: &str) -> String {
    let cli = server.cli();
    let prepared = cli.json(&format!("localauthority {kind} prepare"));
    let next = prepared["prepared_authority"]["authority_id"].as_str().expect("an ID").to_owned();
    cli.json(&format!("localauthority {kind} activate -authorityID {next}"));
    next
}

/// Whether a workload gets an X.509-SVID; its chain's length.
pub(crate) fn chain_of(node: &Node) -> usize {
    let dir = node.agent.socket().parent().expect("a directory").to_owned();
    let write = format!("api fetch x509 -write {}", dir.display());
    eventually("an identity", || (node.agent.cli().line(&write).code == 0).then_some(()));
    let chain = std::fs::read_to_string(dir.join("svid.0.pem")).expect("a chain");
    chain.matches("BEGIN CERTIFICATE").count()
}

/// Both authorities rotate, are those of before after a restart, and sign: the server is its own root.
#[track_caller]
pub(crate) fn rotates_and_restarts(node: &mut Node) {
    assert_eq!(chain_of(node), 1);
    let x509 = rotate(&node.server, "x509");
    let jwt = rotate(&node.server, "jwt");
    node.server.restart();
    assert_eq!((active(&node.server, "x509"), active(&node.server, "jwt")), (x509, jwt));
    assert_eq!(chain_of(node), 1);
    node.agent.cli().line("api fetch jwt -audience a").ok();
}

#[test]
fn a_server_lives_with_its_keys_and_its_root_in_vault() {
    let Some(bao) = Bao::start(false) else { skip!("there is no bao") };
    let admin = Admin::new(&bao);
    admin.set_up();
    let upstream = format!(
        "UpstreamAuthority \"vault\" {{ plugin_data {{ vault_addr = \"{}\" token_auth {{ token = \
         \"{}\" }} }} }}",
        bao.address(),
        Bao::ROOT
    );
    let options = ServerOptions {
        key_manager: key_manager(&bao.address()),
        plugins: upstream,
        server: "local_intermediate = true".to_owned(),
        ..ServerOptions::default()
    };
    let mut node = Node::with(options, AgentOptions::default());
    node.register_caller("/workload", "");
    // The leaf, the local intermediate, and the authority that Vault signed.
    assert_eq!(chain_of(&node), 3);
    assert!(!node.server.data().join("keys.json").exists());

    let x509 = rotate(&node.server, "x509");
    let jwt = rotate(&node.server, "jwt");
    node.server.restart();
    assert_eq!((active(&node.server, "x509"), active(&node.server, "jwt")), (x509, jwt));
    assert!(admin.keys().values().all(|count| *count == 1), "{:?}", admin.keys());

    // Vault does not answer: X.509-SVIDs are signed all the same, and nothing else pretends to be.
    eventually("a local intermediate", || {
        node.server.log().matches("Local intermediate made").nth(1).map(drop)
    });
    let suspended = Suspended::process(bao.pid());
    node.register("/later", &[&caller()], "");
    eventually("an identity that was signed meanwhile", || {
        let shown = node.agent.cli().line("api fetch x509 -output json");
        shown.stdout.contains("/later").then_some(())
    });
    drop(suspended);
    eventually("JWT-SVIDs again", || {
        (node.agent.cli().line("api fetch jwt -audience a").code == 0).then_some(())
    });
}

/// A way to a back end that ends the server at a chosen request.
struct Trap {
    port: u16,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Default)]
struct Plan {
    /// The server's process.
    victim: Option<u32>,
    /// How many more requests go through before it is ended.
    left: usize,
    /// Whether the fatal request still reaches the back end.
    after: bool,
}

impl Trap {
    fn new(address: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its number").port();
        let plan: Arc<Mutex<Plan>> = Arc::default();
        let (target, shared) = (address.replace("http://", ""), Arc::clone(&plan));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (target, plan) = (target.clone(), Arc::clone(&shared));
                thread::spawn(move || pass(client, &target, &plan));
            }
        });
        Self { port, plan }
    }

    fn arm(&self, victim: u32, left: usize, after: bool) {
        *self.plan.lock().unwrap() = Plan { victim: Some(victim), left, after };
    }

    /// Whether it did not spring.
    fn disarm(&self) -> bool {
        self.plan.lock().unwrap().victim.take().is_some()
    }
}

/// Our client makes a connection for each request.
fn pass(mut client: TcpStream, target: &str, plan: &Mutex<Plan>) {
    let request = read_request(&mut client);
    let fatal = {
        let mut plan = plan.lock().unwrap();
        let fatal = plan.victim.is_some() && plan.left == 0;
        plan.left = plan.left.saturating_sub(1);
        fatal.then(|| (plan.victim.take().expect("a victim"), plan.after))
    };
    let end = |victim: u32| kill(Pid::from_raw(victim.try_into().expect("a pid")), Signal::SIGKILL);
    if let Some((victim, false)) = fatal {
        let _ = end(victim);
        return;
    }
    let mut server = TcpStream::connect(target).expect("the back end");
    server.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    server.write_all(&request).expect("a request");
    let mut answer = vec![0; 64 * 1024];
    let read = server.read(&mut answer).unwrap_or_default();
    if let Some((victim, true)) = fatal {
        let _ = end(victim);
        return;
    }
    let _ = client.write_all(&answer[..read]);
    let _ = std::io::copy(&mut server, &mut client);
    let _ = client.shutdown(Shutdown::Both);
}

fn read_request(client: &mut TcpStream) -> Vec<u8> {
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
            if body.len() >= length {
                // So that the answer ends with the connection.
                let text = String::from_utf8(request).expect("text");
                return text.replacen("\r\n", "\r\nconnection: close\r\n", 1).into_bytes();
            }
        }
        match client.read(&mut piece) {
            Ok(read) if read > 0 => request.extend_from_slice(&piece[..read]),
            _ => return request,
        }
    }
}

#[test]
fn a_server_killed_at_any_call_to_vault_loses_no_active_key_and_leaves_none_behind() {
    let Some(bao) = Bao::start(false) else { skip!("there is no bao") };
    let admin = Admin::new(&bao);
    admin.set_up();
    let options =
        |url: &str| ServerOptions { key_manager: key_manager(url), ..ServerOptions::default() };
    killed_at_any_call(&bao.address(), options, || admin.keys());
}

/// Rotates with a server that is killed at each request to the back end at `address` in turn, before
/// and after it was answered. `keys` says how many keys of each name there are.
pub(crate) fn killed_at_any_call(
    address: &str,
    options: impl Fn(&str) -> ServerOptions,
    keys: impl Fn() -> BTreeMap<String, usize>,
) {
    let trap = Trap::new(address);
    let options = options(&format!("http://127.0.0.1:{}", trap.port));
    let mut server = Server::start_in(&Arc::new(TestDir::new()), "server", options);
    let mut sprung = 0;
    // From the first request of a rotation to where it makes no more of them.
    'requests: for left in 0.. {
        for after in [false, true] {
            let before = active(&server, "x509");
            trap.arm(server.process().pid(), left, after);
            let cli = server.cli();
            let prepared = cli.line("localauthority x509 prepare -output json");
            let next: Option<String> = (prepared.code == 0).then(|| {
                let shown: Value = serde_json::from_str(&prepared.stdout).expect("JSON");
                shown["prepared_authority"]["authority_id"].as_str().expect("an ID").to_owned()
            });
            let activated = next.as_ref().is_some_and(|next| {
                cli.line(&format!("localauthority x509 activate -authorityID {next}")).code == 0
            });
            if trap.disarm() {
                break 'requests;
            }
            sprung += 1;
            server.process().wait(e2e::DEADLINE);
            server.launch();
            server.ready();
            let now = active(&server, "x509");
            match next {
                Some(next) if activated => assert_eq!(now, next),
                Some(next) => assert!(now == before || now == next, "{left} {after}"),
                None => assert_eq!(now, before, "the authority that signed signs on"),
            }
            server.cli().line("x509 mint -spiffeID spiffe://example.org/w").ok();
            eventually("no key is left behind", || {
                keys().values().all(|count| *count == 1).then_some(())
            });
            // A key that was made and not published would be taken again, with fewer calls.
            rotate(&server, "x509");
            eventually("no key is left behind", || {
                keys().values().all(|count| *count == 1).then_some(())
            });
        }
    }
    assert!(sprung >= 8, "it was ended {sprung} times");
    assert!(!server.log().contains("The key of the active"), "no key was lost");
}

/// How many keys a KMS has that are not deleted.
fn kms_keys(kms: &LocalKms) -> usize {
    let url = kms.url();
    let environment =
        Environment::from_fn(move |name| (name == "AWS_ENDPOINT_URL_KMS").then(|| url.clone()));
    let place = Place::new(LocalKms::REGION, environment, Arc::new(SystemClock));
    let keys = Some(Keys::new("AK", "SK", None));
    let credentials = Credentials::new(place, &Access { keys, assume_role_arn: None });
    let client = signet_aws::Client::new(Service::KMS, None, &credentials).expect("a client");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let call = |action, body: Value| {
        runtime.block_on(client.call::<Value>(action, &body)).expect("an answer")
    };
    let listed = call("ListKeys", json!({ "Limit": 1000 }));
    let arns = listed["Keys"].as_array().expect("a list");
    let describe = |key: &Value| call("DescribeKey", json!({ "KeyId": key["KeyArn"] }));
    arns.iter().filter(|key| describe(key)["KeyMetadata"]["Enabled"] == true).count()
}

#[test]
fn a_server_lives_with_its_keys_in_kms_and_makes_no_more_in_a_crash_loop() {
    let Some(kms) = LocalKms::start() else { skip!("there is no local-kms") };
    let dir = Arc::new(TestDir::new());
    std::fs::write(dir.join("policy.json"), "{\"Statement\":[]}").expect("a file");
    let key_manager = |file: &str| {
        let policy = dir.join("policy.json").display().to_string();
        format!(
            "KeyManager \"aws_kms\" {{ plugin_data {{ region = \"{}\" key_identifier_file = \
             \"DIR/{file}\" key_policy_file = \"{policy}\" access_key_id = \"AK\" \
             secret_access_key = \"SK-hush\" }} }}",
            LocalKms::REGION
        )
    };
    let env = vec![("AWS_ENDPOINT_URL_KMS".to_owned(), kms.url())];
    let options = ServerOptions {
        key_manager: key_manager("key_id"),
        env: env.clone(),
        ..ServerOptions::default()
    };
    let mut node = Node::with(options, AgentOptions::default());
    node.register_caller("/workload", "");
    rotates_and_restarts(&mut node);
    assert!(!node.server.log().contains("SK-hush"), "the secret is not logged");
    let before = kms_keys(&kms);
    assert!((2..=4).contains(&before), "{before} keys");

    // Another server, whose upstream authority is away, starts again and again.
    let upstream = "UpstreamAuthority \"vault\" { plugin_data { vault_addr = \
                    \"http://127.0.0.1:1\" token_auth { token = \"t\" } } }";
    let options = ServerOptions {
        key_manager: key_manager("other_key_id"),
        plugins: upstream.to_owned(),
        env,
        ..ServerOptions::default()
    };
    let mut server = Server::prepare_in(&dir, "crashing", options);
    for _ in 0..20 {
        server.launch();
        assert_eq!(server.process().wait(e2e::DEADLINE), 1, "{}", server.log());
    }
    let left = kms_keys(&kms) - before;
    assert!(left <= 2, "{left} keys");
}

static TOKENS: AtomicU16 = AtomicU16::new(0);

/// A SoftHSM token: its module, its configuration.
fn soft_hsm(dir: &Path) -> Option<(&'static str, String)> {
    const MODULES: &[&str] = &[
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    ];
    let module = MODULES.iter().find(|path| Path::new(path).is_file())?;
    let tokens = dir.join(format!("tokens-{}", TOKENS.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir_all(&tokens).expect("a directory");
    let config = dir.join("softhsm2.conf");
    let text = format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display());
    std::fs::write(&config, text).expect("a file");
    let made = Command::new("softhsm2-util")
        .env("SOFTHSM2_CONF", &config)
        .args(["--init-token", "--free", "--label", "signet", "--pin", "1234"])
        .args(["--so-pin", "00000000"])
        .output()
        .ok()?;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::write(dir.join("pin"), "1234\n").expect("a file");
    Some((module, config.display().to_string()))
}

#[test]
fn a_server_lives_with_its_keys_on_a_token() {
    let dir = Arc::new(TestDir::new());
    let Some((module, config)) = soft_hsm(&dir.join("")) else { skip!("there is no SoftHSM") };
    let pin = dir.join("pin").display().to_string();
    let options = ServerOptions {
        key_manager: format!(
            "KeyManager \"pkcs11\" {{ plugin_data {{ module_path = \"{module}\" token_label = \
             \"signet\" pin_file = \"{pin}\" key_identifier_file = \"DIR/key_id\" }} }}"
        ),
        env: vec![("SOFTHSM2_CONF".to_owned(), config)],
        ..ServerOptions::default()
    };
    let mut node = Node::with(options, AgentOptions::default());
    node.register_caller("/workload", "");
    rotates_and_restarts(&mut node);
    assert!(!node.server.log().contains("1234\""), "the PIN is not logged");

    // A wrong PIN is named, once.
    std::fs::write(dir.join("pin"), "4321\n").expect("a file");
    node.server.stop();
    node.server.launch();
    assert_eq!(node.server.process().wait(e2e::DEADLINE), 1);
    assert!(node.server.log().contains("refuses the PIN"));
}
