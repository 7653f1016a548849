//! `cargo xtask demo zero-trust`: a database connection without a stored password.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use signet_testkit::{Bao, Postgres};

use super::{TRUST_DOMAIN, eventually, programs::Programs, register, say, step};
use crate::run::{bin_dir, cargo, finished};

const BLUE: &str = "/tenants/blue/orders";
const RED: &str = "/tenants/red/reports";
const AUDIT: &str = "audit \"file\" \"main\" { options { file_path = \"DIR/audit.log\" } }";
const POLICY: &str = r#"
tenant "blue" {
    namespace = "blue"
    path      = "/tenants/blue/"
}
tenant "red" {
    namespace = "red"
    path      = "/tenants/red/"
}
credential "orders-db" {
    engine     = "database"
    role       = "orders"
    ttl        = "5m"
    connection = "app"
    member_of  = "app_rw"
}
credential "report-key" {
    engine = "kv"
    path   = "reports"
}
rule "orders" {
    tenant      = "blue"
    ids         = ["/tenants/blue/orders"]
    credentials = ["orders-db"]
}
rule "reports" {
    tenant      = "red"
    ids         = ["/tenants/red/*"]
    credentials = ["report-key"]
}
"#;

/// Ends a program when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the demo from start to end and removes everything it made.
pub(crate) fn run() -> anyhow::Result<()> {
    let missing = "is not installed; `cargo xtask test --setup` installs what is missing";
    let Some(postgres) = Postgres::programs() else { bail!("PostgreSQL {missing}") };
    step("Building signet-server, signet-agent and signet-broker");
    let packages = ["-p", "signet-server", "-p", "signet-agent", "-p", "signet-broker", "--bins"];
    crate::run::run(&mut cargo(&[&["build", "--locked"][..], &packages].concat()))?;
    let mut programs = Programs::new(bin_dir()?)?;

    step("Starting OpenBao, PostgreSQL, a server and an agent");
    let Some(bao) = Bao::start_with(false, AUDIT) else { bail!("OpenBao (bao) {missing}") };
    let postgres = Postgres::start(&postgres, &[]);
    postgres.sql(
        "postgres",
        "CREATE ROLE app_rw NOLOGIN; CREATE ROLE vault_admin LOGIN CREATEROLE PASSWORD 'v'; \
         GRANT pg_signal_backend TO vault_admin; GRANT app_rw TO vault_admin WITH ADMIN OPTION",
    );
    let database = postgres.database();
    postgres.sql(&database, "GRANT CREATE ON SCHEMA public TO app_rw");
    programs.start_server()?;
    programs.start_agent_with(&format!(
        "authorized_delegates = [\"spiffe://{TRUST_DOMAIN}/signet-broker\"]\n    audit_log_enabled = true"
    ))?;

    step("Registering the broker, and this program as a workload of two tenants");
    let broker = bin_dir()?.join("signet-broker");
    register(&programs, "/signet-broker", &format!("unix:path:{}", broker.display()))?;
    let own = std::env::current_exe().context("finding this program")?;
    let own = format!("unix:path:{}", own.display());
    let entry = register(&programs, BLUE, &own)?;
    register(&programs, RED, &own)?;

    step("Who may have what: one file");
    let dir = programs.dir().to_owned();
    fs::write(dir.join("policy.hcl"), POLICY)?;
    print!("{POLICY}");
    fs::write(dir.join("broker.conf"), config(&dir.display().to_string(), &bao.address()))?;
    fs::write(
        dir.join("bundle.json"),
        programs.server_says(&["bundle", "show", "-format", "spiffe"])?,
    )?;

    step("Setting up OpenBao: signet-broker bootstrap");
    let said = finished(
        Command::new(&broker)
            .args(["bootstrap", "-config"])
            .arg(dir.join("broker.conf"))
            .args(["-brokerID", &format!("spiffe://{TRUST_DOMAIN}/signet-broker")])
            .args(["-issuer", super::ISSUER, "-keysFile"])
            .arg(dir.join("bundle.json"))
            .env("BAO_TOKEN", Bao::ROOT),
    )?;
    print!("{said}");
    say("the operator's part: how OpenBao itself reaches the database");
    let connection = json!({
        "plugin_name": "postgresql-database-plugin",
        "allowed_roles": "orders",
        "connection_url": format!(
            "postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{}/{database}?sslmode=disable",
            postgres.port()
        ),
        "username": "vault_admin",
        "password": "v",
        "password_authentication": "scram-sha-256",
        "username_template": "v-{{.DisplayName | truncate 28}}-{{random 12}}-{{unix_time}}",
    });
    let mut write = Command::new("bao");
    write
        .args(["write", "-namespace=blue", "database/config/app", "-"])
        .env("BAO_ADDR", bao.address())
        .env("BAO_TOKEN", Bao::ROOT)
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let mut write = write.spawn().context("starting bao")?;
    write.stdin.take().context("no input")?.write_all(connection.to_string().as_bytes())?;
    if !write.wait()?.success() {
        bail!("bao write database/config/app failed");
    }

    step("Starting the broker, which logs in by its own SVID");
    let log = fs::File::create(dir.join("signet-broker.log"))?;
    let _broker = Running(
        Command::new(&broker)
            .args(["run", "-config"])
            .arg(dir.join("broker.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting signet-broker")?,
    );
    let ask = |path: &str, place: &str| -> anyhow::Result<Option<Value>> {
        let id = format!("spiffe://{TRUST_DOMAIN}{path}");
        let Ok(stream) = UnixStream::connect(dir.join("run/broker.sock")) else { return Ok(None) };
        let answer = post(stream, place, &id)?;
        let code = answer.pointer("/error/code").and_then(Value::as_str).unwrap_or_default();
        let early = ["workload_unattested", "identity_ended", "server_unavailable"];
        Ok((!early.contains(&code)).then_some(answer))
    };

    step("Drawing a database login: no password, no token, only who this process is");
    let drawn = eventually("a login", || ask(BLUE, "/v1/credentials/orders-db"))?;
    let text = |value: &Value, pointer: &str| {
        let text = value.pointer(pointer).and_then(Value::as_str);
        text.map(str::to_owned).with_context(|| format!("no {pointer} in {value}"))
    };
    let (user, password) = (text(&drawn, "/data/username")?, text(&drawn, "/data/password")?);
    let correlation = text(&drawn, "/correlation_id")?;
    say(&format!(
        "user {user}, for {} s, request {correlation}",
        drawn.get("ttl").unwrap_or(&serde_json::Value::Null)
    ));

    step("Connecting with it");
    let dsn = format!(
        "host=127.0.0.1 port={} dbname={database} user={user} password={password} sslmode=disable",
        postgres.port()
    );
    let asked = "SELECT current_user, inet_client_addr(), now()";
    print!("{}", finished(Command::new("psql").args(["-X", "--dbname", &dsn, "-c", asked]))?);
    let mut session = Running(
        Command::new("psql")
            .args(["-X", "--dbname", &dsn, "-c", "SELECT pg_sleep(600)"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting psql")?,
    );
    eventually("an open session", || {
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{user}'");
        Ok((postgres.sql("postgres", &sql) == "1").then_some(()))
    })?;
    say("a session stays open");

    step("The same as the other tenant: refused");
    let refused = eventually("a refusal", || ask(RED, "/v1/credentials/orders-db"))?;
    say(&refused.to_string());
    print!(
        "{}",
        explained(
            Command::new(&broker)
                .args(["policy", "explain", "-credential", "orders-db", "-policy"])
                .arg(dir.join("policy.hcl"))
                .args(["-as", &format!("spiffe://{TRUST_DOMAIN}{RED}")]),
        )?
    );

    step("One request in every log");
    for (name, path) in [
        ("agent", dir.join("signet-agent.log")),
        ("broker", dir.join("signet-broker.log")),
        ("openbao", bao.dir().join("audit.log")),
    ] {
        let log = fs::read_to_string(&path).unwrap_or_default();
        let lines = log.lines().filter(|line| line.contains(&correlation)).count();
        say(&format!("grep {correlation} {name}: {lines} lines"));
    }

    step("Deleting the registration entry: the login ends, and its open session");
    programs.server_says(&["entry", "delete", "-entryID", &entry])?;
    let began = std::time::Instant::now();
    eventually("end of the session", || Ok(session.0.try_wait()?))?;
    let mut said = String::new();
    if let Some(mut stderr) = session.0.stderr.take() {
        stderr.read_to_string(&mut said)?;
    }
    say(said.lines().next().unwrap_or_default());
    eventually("end of the login", || {
        let sql = format!("SELECT count(*) FROM pg_roles WHERE rolname = '{user}'");
        Ok((postgres.sql("postgres", &sql) == "0").then_some(()))
    })?;
    say(&format!("{} ms after the deletion the login is gone", began.elapsed().as_millis()));

    step("Cleaning up");
    programs.stop()?;
    say("nothing is left running, nothing is left on disk");
    Ok(())
}

fn config(dir: &str, bao: &str) -> String {
    format!(
        r#"broker {{
    trust_domain = "{TRUST_DOMAIN}"
    data_dir = "{dir}/broker"
    policy_file = "{dir}/policy.hcl"
    workload_api_socket_path = "{dir}/pub/api.sock"
    agent_admin_socket_path = "{dir}/adm/admin.sock"
    socket_path = "{dir}/run/broker.sock"
    jwt_issuer = "{issuer}"
}}
server {{ socket_path = "{dir}/server/api.sock" }}
openbao {{ address = "{bao}" }}
"#,
        issuer = super::ISSUER,
    )
}

/// What a command says, whether it fails or not.
fn explained(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| crate::run::shown(command))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A POST to the broker as one of this process's identities.
fn post(mut stream: UnixStream, place: &str, id: &str) -> anyhow::Result<Value> {
    write!(
        stream,
        "POST {place} HTTP/1.1\r\nhost: broker\r\nx-spiffe-id: {id}\r\ncontent-length: 0\r\n\
         connection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no answer of the broker")?;
    Ok(serde_json::from_str(body)?)
}
