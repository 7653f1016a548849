//! Programs that only read files get identities from the helper.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use e2e::{
    AgentOptions, Node, Process, ServerOptions, TestDir, cli, eventually, free_port,
    helper::{Helper, User, as_user, once, selector, subdir},
    on_path, skip,
};
use signet_pki::{PrivateKey, digest::sha256_hex, x509::Certificate};

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path.as_ref()).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

fn leaf(pem: &str) -> Certificate {
    let blocks = signet_pki::pem::decode(pem).expect("PEM");
    let leaf = blocks.iter().find(|block| block.label == "CERTIFICATE").expect("a certificate");
    Certificate::from_der(&leaf.der).expect("a certificate")
}

/// Waits until the agent serves that many identities.
fn served(node: &Node, count: usize) {
    eventually("the agent serves the identities", || {
        let fetched = node.agent.cli().line("api fetch x509 -output json");
        (fetched.stdout.matches("x509_svid_key").count() == count).then_some(())
    });
}

/// Has an SVID replaced, as its renewal does.
fn rotate(node: &Node, entry: &str, path: &str, selector: &str, more: &str, ttl: u32) {
    let line = format!(
        "entry update -entryID {entry} -parentID spiffe://example.org/node -spiffeID {} -selector \
         {selector} -x509SVIDTTL {ttl} {more}",
        node.id(path)
    );
    node.server.cli().line(&line).ok();
}

#[test]
fn every_file_of_spiffe_helper_is_written_and_all_of_a_rotation_change_as_one() {
    let node = Node::start();
    let caller = e2e::node::caller();
    let first = node.register_caller("/a", "");
    node.register_caller("/b", "-hint second");
    served(&node, 2);
    let dir = TestDir::new();
    let (certs, folder) = (dir.subdir("certs"), dir.subdir("folder"));
    let (marks, port) = (dir.join("marks"), free_port());
    let config = format!(
        r#"
        cert_dir = {certs:?}
        svid_file_name = "svid.pem"
        svid_key_file_name = "svid_key.pem"
        svid_bundle_file_name = "svid_bundle.pem"
        jwt_svids = [{{jwt_audience="aud", jwt_extra_audiences=["more"], jwt_svid_file_name="jwt.token"}}]
        jwt_bundle_file_name = "bundle.json"
        cert_file_mode = 0444
        key_file_mode = 0640
        credential_folder = {folder:?}
        bundle_map_file_name = "map.json"
        pkcs12_file_name = "store.p12"
        trust_store_file_name = "trust.p12"
        store_password = "changeit"
        identities = [{{hint = "second", svid_file_name = "b/svid.pem", svid_key_file_name = "b/key.pem", svid_bundle_file_name = "b/bundle.pem"}}]
        cmd = "/bin/sh"
        cmd_args = "-c \"echo x >> {marks}\""
        renew_signal = "SIGUSR1"
        health_checks {{
            listener_enabled = true
            bind_port = {port}
        }}
        "#,
        marks = marks.display(),
    );
    let mut helper = Helper::start(&dir, None, &node.agent.socket(), &config);
    for name in ["svid.pem", "jwt.token", "bundle.json", "map.json", "b/key.pem"] {
        helper.wrote(&certs.join(name));
    }
    let (chain, key) = (read(certs.join("svid.pem")), read(certs.join("svid_key.pem")));
    assert_eq!(leaf(&chain).spiffe_id().unwrap().to_string(), node.id("/a"));
    assert_eq!(
        leaf(&chain).public_key().unwrap(),
        PrivateKey::from_pem(&key).unwrap().public_key()
    );
    let other = read(certs.join("b/svid.pem"));
    assert_eq!(leaf(&other).spiffe_id().unwrap().to_string(), node.id("/b"));
    assert_eq!((mode(&certs.join("svid.pem")), mode(&certs.join("svid_key.pem"))), (0o444, 0o640));
    assert_eq!(mode(&certs.join("jwt.token")), 0o600);
    let credential = read(folder.join("credential-bundle.private-key.x509.pem"));
    assert!(credential.starts_with("-----BEGIN PRIVATE KEY-----"), "{credential}");
    assert_eq!(leaf(&credential).spiffe_id().unwrap().to_string(), node.id("/a"));
    let trust = read(folder.join("example.org.spiffe-trust-bundle.x509.pem"));
    assert_eq!(trust, read(certs.join("svid_bundle.pem")));
    let map: serde_json::Value = serde_json::from_str(&read(certs.join("map.json"))).unwrap();
    assert_eq!(map["trust_domains"]["example.org"]["keys"][0]["use"], "x509-svid");
    let token = read(certs.join("jwt.token"));
    node.agent.cli().line(&format!("api validate jwt -audience more -svid {token}")).ok();
    for (path, wanted) in [("/live", 200), ("/ready", 200), ("/none", 404)] {
        let status = eventually("health", || {
            e2e::http::get(port, path).ok().map(|(status, _)| status).filter(|s| *s == wanted)
        });
        assert_eq!(status, wanted, "{path}");
    }

    // The command has ended each time, so it is run again; a key never stands beside the
    // certificate of another one, and nothing is done where nothing has changed.
    eventually("the command has run", || marks.exists().then_some(()));
    for round in 0..5 {
        let before = read(certs.join("svid.pem"));
        rotate(&node, &first, "/a", &caller, "", 700 + round);
        eventually("a new certificate is there", || {
            let generation = fs::canonicalize(certs.join("..data")).expect("a link");
            let (chain, key) =
                (read(generation.join("svid.pem")), read(generation.join("svid_key.pem")));
            let key = PrivateKey::from_pem(&key).expect("a key");
            assert_eq!(leaf(&chain).public_key().unwrap(), key.public_key());
            (chain != before).then_some(())
        });
    }
    eventually("the command has run each time", || {
        (read(&marks).lines().count() == 6).then_some(())
    });
}

#[test]
fn java_reads_the_stores_that_the_helper_writes() {
    let Some(keytool) = on_path("keytool") else { skip!("keytool is not installed") };
    let node = Node::start();
    node.register_caller("/java", "");
    served(&node, 1);
    let dir = TestDir::new();
    let certs = dir.subdir("certs");
    let config = format!(
        "cert_dir = {certs:?}\n pkcs12_file_name = \"store.p12\"\n \
         trust_store_file_name = \"trust.p12\"\n store_password = \"secret sauce\""
    );
    once(&dir, &node.agent.socket(), &config).ok();
    let list = |store: &str, password: &str| {
        let mut command = Command::new(&keytool);
        command.args(["-list", "-v", "-storetype", "PKCS12", "-storepass", password, "-keystore"]);
        cli::run(command.arg(certs.join(store)), "")
    };
    let keys = list("store.p12", "secret sauce").ok().stdout;
    assert!(keys.contains("Entry type: PrivateKeyEntry"), "{keys}");
    assert!(keys.contains(&node.id("/java")), "{keys}");
    let roots = list("trust.p12", "secret sauce").ok().stdout;
    assert!(roots.contains("Entry type: trustedCertEntry"), "{roots}");
    assert!(list("store.p12", "wrong").code != 0);
    if let Some(openssl) = on_path("openssl") {
        let mut command = Command::new(openssl);
        command.args(["pkcs12", "-nodes", "-passin", "pass:secret sauce", "-in"]);
        let shown = cli::run(command.arg(certs.join("store.p12")), "").ok().stdout;
        let key = shown.split("-----BEGIN PRIVATE KEY-----").nth(1).expect("a key");
        let key = key.split("-----END").next().unwrap_or_default();
        let pem = format!("-----BEGIN PRIVATE KEY-----{key}-----END PRIVATE KEY-----\n");
        let key = PrivateKey::from_pem(&pem).expect("a key");
        assert_eq!(leaf(&shown).public_key().unwrap(), key.public_key());
    }
}

#[test]
fn a_wrong_configuration_is_refused_by_line_and_a_missing_identity_fails() {
    let node = Node::start();
    let dir = TestDir::new();
    let certs = dir.subdir("certs");
    let socket = node.agent.socket();
    for (config, wanted) in [
        ("", "nothing is to be written"),
        ("cert_dir = \"c\"\nsvid_file_name = \"a\"", "svid_key_file_name must be configured"),
        ("jwt_bundle_file_name = \"b\"\nnosuch = 1", "unknown key \"nosuch\""),
        ("jwt_bundle_file_name = \"../b\"", "it must name a file in or below the directory"),
        ("jwt_bundle_file_name = \"b\"\nrenew_signal = \"NONE\"", "\"NONE\" is no signal"),
        ("jwt_bundle_file_name = \"b\"\npid_file_name = \"p\"", "it is only for daemon_mode"),
        ("jwt_svids = [{jwt_audience = \"a\"}]", "jwt_svid_file_name must be configured"),
        ("pkcs12_file_name = \"a\"", "store_password or store_password_file must be set"),
    ] {
        let refused = once(&dir, &socket, config).exits(64);
        assert!(refused.stderr.contains(wanted), "{config}: {}", refused.stderr);
        assert!(refused.stderr.contains("once.conf:"), "{}", refused.stderr);
    }
    node.register_caller("/a", "");
    served(&node, 1);
    let config = format!(
        "cert_dir = {certs:?}\nhint = \"none\"\nsvid_file_name = \"a\"\nsvid_key_file_name = \
         \"b\"\nsvid_bundle_file_name = \"c\""
    );
    let failed = once(&dir, &socket, &config).exits(1);
    assert!(failed.stderr.contains("no X.509-SVID with the hint \"none\""), "{}", failed.stderr);
    assert_eq!(fs::read_dir(&certs).unwrap().count(), 0);
}

/// A PostgreSQL with SVIDs on both sides.
struct Postgres {
    user: Option<User>,
    server: Process,
    data: PathBuf,
    port: u16,
}

impl Postgres {
    fn start(dir: &TestDir, user: Option<User>, certs: &Path, map: &str) -> Self {
        let data = subdir(dir, "pgdata", user);
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).expect("a mode");
        let tool = |name: &str| as_user(user, on_path(name).expect("PostgreSQL"));
        let mut init = tool("initdb");
        init.args(["-U", "admin", "--auth=trust", "--no-sync", "-D"]).arg(&data);
        cli::run(init.current_dir("/"), "").ok();
        let hba =
            "local all admin trust\nhostssl all all 127.0.0.1/32 cert clientname=DN map=spiffe\n";
        fs::write(data.join("pg_hba.conf"), hba).expect("a file");
        fs::write(data.join("pg_ident.conf"), map).expect("a file");
        let port = free_port();
        let mut command = tool("postgres");
        command.arg("-D").arg(&data);
        let file = |name: &str| certs.join(name).display().to_string();
        for setting in [
            format!("port={port}"),
            "listen_addresses=127.0.0.1".to_owned(),
            format!("unix_socket_directories={}", data.display()),
            "fsync=off".to_owned(),
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", file("svid.pem")),
            format!("ssl_key_file={}", file("key.pem")),
            format!("ssl_ca_file={}", file("bundle.pem")),
        ] {
            command.args(["-c", &setting]);
        }
        let log = dir.join("postgres.log");
        let server = Process::start("postgres", command.current_dir("/"), &log);
        Self { user, server, data, port }
    }

    /// A client, as one of its users.
    fn client(&self, certs: &Path, user: &str) -> Command {
        let file = |name: &str| certs.join(name).display().to_string();
        // The key of a client has to be its user's own.
        let mut command = as_user(self.user, on_path("psql").expect("psql"));
        command.current_dir("/").args(["-X", "-A", "-t"]).arg(format!(
            "host=localhost port={} dbname=postgres user={user} sslmode=verify-full sslcert={} \
             sslkey={} sslrootcert={} gssencmode=disable",
            self.port,
            file("svid.pem"),
            file("key.pem"),
            file("bundle.pem"),
        ));
        command
    }
}

#[test]
fn postgresql_knows_users_by_spiffe_id_and_renewals_drop_no_connection() {
    if on_path("postgres").is_none() || on_path("psql").is_none() {
        skip!("PostgreSQL is not installed");
    }
    let user = User::unprivileged();
    let options = ServerOptions {
        plugins: "CredentialComposer \"uniqueid\" { plugin_data {} }".to_owned(),
        ..ServerOptions::default()
    };
    let node = Node::with(options, AgentOptions::default());
    let of = selector(user);
    let server = node.register("/db", &[&of], "-dns localhost -hint db");
    node.register("/app", &[&of], "-hint app");
    node.register("/stranger", &[&of], "-hint stranger");
    let dir = TestDir::new();
    let [db, app, stranger] = ["db", "app", "stranger"].map(|name| subdir(&dir, name, user));
    let names = "svid_file_name = \"svid.pem\", svid_key_file_name = \"key.pem\", \
                 svid_bundle_file_name = \"bundle.pem\"";
    let config = format!(
        "identities = [{{hint = \"db\", cert_dir = {db:?}, {names}}}, {{hint = \"app\", cert_dir \
         = {app:?}, {names}}}, {{hint = \"stranger\", cert_dir = {stranger:?}, {names}}}]\n\
         pid_file_name = \"{}/postmaster.pid\"\nrenew_signal = \"SIGHUP\"",
        dir.join("pgdata").display()
    );
    let mut helper = Helper::start(&dir, user, &node.agent.socket(), &config);
    helper.wrote(&stranger.join("svid.pem"));
    // PostgreSQL sees the subject, in which the composer puts a digest of the SPIFFE ID.
    let unique = sha256_hex(node.id("/app").as_bytes())[..32].to_owned();
    let map = format!("spiffe \"/^.*x500UniqueIdentifier={unique}.*$\" app\n");
    let mut postgres = Postgres::start(&dir, user, &db, &map);
    let admin = |sql: &str| {
        let mut command = Command::new(on_path("psql").expect("psql"));
        command.args(["-X", "-U", "admin", "-d", "postgres", "-c", sql]);
        command.arg("-h").arg(&postgres.data).arg("-p").arg(postgres.port.to_string());
        cli::run(&mut command, "")
    };
    eventually("PostgreSQL is ready", || (admin("create role app login").code == 0).then_some(()));
    postgres.server.assert_running();

    let query = |certs: &Path, user: &str| {
        let mut command = postgres.client(certs, user);
        command
            .args(["-c", "select current_user, ssl from pg_stat_ssl where pid = pg_backend_pid()"]);
        cli::run(&mut command, "")
    };
    let first = eventually("a first connection", || {
        let output = query(&app, "app");
        (output.code == 0).then_some(output)
    });
    assert_eq!(first.stdout.trim(), "app|t");
    let refused = query(&stranger, "app");
    assert!(refused.code != 0 && refused.stderr.contains("authentication failed"), "{refused:?}");

    // A session that stays open, and new ones meanwhile.
    let (marks, input) = (dir.join("session"), dir.join("input"));
    nix::unistd::mkfifo(&input, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("a pipe");
    let mut command = Command::new("/bin/sh");
    let client = postgres.client(&app, "app");
    command
        .args(["-c", "exec \"$@\" < \"$0\" >> \"$MARKS\" 2>&1"])
        .arg(&input)
        .arg(client.get_program())
        .args(client.get_args())
        .env("MARKS", &marks);
    let mut session = Process::start("psql", &mut command, &dir.join("psql.log"));
    let mut typed = fs::OpenOptions::new().write(true).open(&input).expect("the pipe");
    let mut ask = |round: u32| {
        use std::io::Write as _;
        writeln!(typed, "select 'round {round}';").expect("the session is open");
        eventually("the session answers", || {
            let answers = fs::read_to_string(&marks).unwrap_or_default();
            answers.contains(&format!("round {round}")).then_some(())
        });
    };
    ask(0);
    for round in 1..=3 {
        let before = read(db.join("svid.pem"));
        rotate(&node, &server, "/db", &of, "-dns localhost -hint db", 800 + round);
        eventually("the server's certificate is a new one", || {
            (read(db.join("svid.pem")) != before).then_some(())
        });
        for _ in 0..5 {
            query(&app, "app").ok();
        }
        ask(round);
    }
    session.assert_running();
    assert!(helper.log().contains("X.509-SVIDs updated"), "{}", helper.log());
}

#[test]
fn nginx_serves_mtls_and_takes_new_certificates_on_a_signal() {
    let (Some(nginx), Some(curl)) = (on_path("nginx"), on_path("curl")) else {
        skip!("nginx or curl is not installed");
    };
    let node = Node::start();
    let caller = e2e::node::caller();
    let server = node.register_caller("/web", "-dns localhost -hint web");
    node.register_caller("/client", "-hint client");
    served(&node, 2);
    let dir = TestDir::new();
    let [web, client] = ["web", "client"].map(|name| dir.subdir(name));
    let pid = dir.join("nginx.pid");
    let names = "svid_file_name = \"svid.pem\", svid_key_file_name = \"key.pem\", \
                 svid_bundle_file_name = \"bundle.pem\"";
    let config = format!(
        "identities = [{{hint = \"web\", cert_dir = {web:?}, {names}}}, {{hint = \"client\", \
         cert_dir = {client:?}, {names}}}]\npid_file_name = {pid:?}\nrenew_signal = \"SIGHUP\""
    );
    let mut helper = Helper::start(&dir, None, &node.agent.socket(), &config);
    helper.wrote(&client.join("svid.pem"));
    let port = free_port();
    let (web_dir, base) = (web.display(), dir.path().display());
    let conf = dir.write(
        "nginx.conf",
        format!(
            "daemon off; pid {pid}; error_log stderr; events {{}}\nhttp {{ access_log off; \
             client_body_temp_path {base}/t1; proxy_temp_path {base}/t2; fastcgi_temp_path \
             {base}/t3; uwsgi_temp_path {base}/t4; scgi_temp_path {base}/t5;\n server {{ listen \
             127.0.0.1:{port} ssl; ssl_certificate {web_dir}/svid.pem; ssl_certificate_key \
             {web_dir}/key.pem; ssl_client_certificate {web_dir}/bundle.pem; ssl_verify_client \
             on; location / {{ return 200 \"hello\"; }} }} }}\n",
            pid = pid.display(),
        ),
    );
    let mut command = Command::new(nginx);
    command.args(["-p", &base.to_string(), "-c"]).arg(conf);
    let mut server_process = Process::start("nginx", &mut command, &dir.join("nginx.log"));
    let get = |with: bool| {
        let file = |name: &str| client.join(name).display().to_string();
        let mut command = Command::new(&curl);
        command.args(["-sS", "--max-time", "20", "--cacert", &file("bundle.pem")]);
        if with {
            command.args(["--cert", &file("svid.pem"), "--key", &file("key.pem")]);
        }
        command.args(["-w", "%{http_code} %{certs}", &format!("https://localhost:{port}/")]);
        cli::run(&mut command, "")
    };
    eventually("nginx is ready", || {
        server_process.assert_running();
        get(true).stdout.starts_with("hello200").then_some(())
    });
    assert!(get(false).stdout.contains("400"), "without a certificate: {:?}", get(false));
    for round in 0..2 {
        let before = read(web.join("svid.pem"));
        let old = before.lines().nth(1).expect("a certificate").to_owned();
        rotate(&node, &server, "/web", &caller, "-dns localhost -hint web", 900 + round);
        eventually("nginx presents another certificate, and no request fails", || {
            let answer = get(true).ok();
            assert!(answer.stdout.starts_with("hello200"), "{answer:?}");
            (!answer.stdout.contains(&old)).then_some(())
        });
    }
}

#[test]
fn redis_takes_new_certificates_from_a_command() {
    let (Some(redis), Some(cli_program)) = (on_path("redis-server"), on_path("redis-cli")) else {
        skip!("redis is not installed");
    };
    let node = Node::start();
    let caller = e2e::node::caller();
    let server = node.register_caller("/redis", "-dns localhost");
    served(&node, 1);
    let dir = TestDir::new();
    let certs = dir.subdir("certs");
    let (port, socket) = (free_port(), dir.join("redis.sock"));
    let file = |name: &str| certs.join(name).display().to_string();
    let config = format!(
        "cert_dir = {certs:?}\nsvid_file_name = \"svid.pem\"\nsvid_key_file_name = \
         \"key.pem\"\nsvid_bundle_file_name = \"bundle.pem\"\ncmd = {cli_program:?}\ncmd_args = \
         \"-s {} config set tls-cert-file {} tls-key-file {} tls-ca-cert-file {}\"",
        socket.display(),
        file("svid.pem"),
        file("key.pem"),
        file("bundle.pem"),
    );
    let mut helper = Helper::start(&dir, None, &node.agent.socket(), &config);
    helper.wrote(&certs.join("svid.pem"));
    let mut command = Command::new(redis);
    command.args(["--port", "0", "--tls-port", &port.to_string(), "--save", ""]);
    command.args(["--bind", "127.0.0.1", "--unixsocket"]).arg(&socket);
    command.args(["--tls-cert-file", &file("svid.pem"), "--tls-key-file", &file("key.pem")]);
    command.args(["--tls-ca-cert-file", &file("bundle.pem"), "--dir"]).arg(dir.path());
    let mut redis = Process::start("redis", &mut command, &dir.join("redis.log"));
    let ping = |with: bool| {
        let mut command = Command::new(&cli_program);
        command.args(["-h", "localhost", "-p", &port.to_string(), "--tls"]);
        command.args(["--cacert", &file("bundle.pem")]);
        if with {
            command.args(["--cert", &file("svid.pem"), "--key", &file("key.pem")]);
        }
        cli::run(command.arg("ping"), "")
    };
    eventually("redis is ready", || {
        redis.assert_running();
        ping(true).stdout.contains("PONG").then_some(())
    });
    assert!(!ping(false).stdout.contains("PONG"));
    let openssl = on_path("openssl");
    let presented = || {
        let openssl = openssl.as_ref()?;
        let mut command = Command::new(openssl);
        command.args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-showcerts"]);
        let shown = cli::run(&mut command, "");
        shown.stdout.contains("BEGIN CERTIFICATE").then(|| leaf(&shown.stdout).serial().to_string())
    };
    let before = presented();
    rotate(&node, &server, "/redis", &caller, "-dns localhost", 900);
    eventually("redis presents another certificate, and no request fails", || {
        assert!(ping(true).ok().stdout.contains("PONG"));
        (before.is_none() || presented() != before).then_some(())
    });
}
