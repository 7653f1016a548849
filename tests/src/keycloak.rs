//! A real Keycloak as an authorization server whose clients authenticate by assertions of others.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    dir::TestDir,
    free_port,
    http::{ask, connect, get},
    on_path,
    process::Process,
    wait::eventually_within,
};

/// Where `cargo xtask test --setup` puts it.
const FETCHED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/keycloak");
/// How long it may take to start: half a minute, where nothing else runs.
const START: Duration = Duration::from_secs(300);
/// The administrator, and the password.
const ADMIN: &str = "admin";
/// What its own script gives to Java; but for `-XX`, which makes it start sooner.
const JAVA: &[&str] = &[
    "-Xms64m",
    "-Xmx400m",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseSerialGC",
    "-Djava.util.logging.manager=org.jboss.logmanager.LogManager",
    "-Dpicocli.disable.closures=true",
    "-Dquarkus-log-max-startup-records=10000",
    "-Djava.util.concurrent.ForkJoinPool.common.threadFactory=\
     io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory",
    "--add-opens=java.base/java.util=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent=ALL-UNNAMED",
    "--add-opens=java.base/java.security=ALL-UNNAMED",
];

/// A running Keycloak, with a database in memory.
#[derive(Debug)]
pub struct Keycloak {
    process: Process,
    port: u16,
}

impl Keycloak {
    /// Begins to start one, which verifies endpoints by the authorities in `trusted` (PEM) too.
    ///
    /// # Errors
    /// A sentence, where it is not installed.
    pub fn launch(dir: &TestDir, trusted: &Path) -> Result<Self, String> {
        let home = PathBuf::from(FETCHED);
        let program = home.join("lib/quarkus-run.jar");
        let (Some(java), true) = (on_path("java"), program.is_file()) else {
            return Err("Keycloak is not installed, or Java is not".to_owned());
        };
        let port = free_port();
        let shown = home.display();
        let mut command = Command::new(java);
        command
            .args(JAVA)
            .arg(format!("-Dkc.home.dir={shown}"))
            .arg(format!("-Djboss.server.config.dir={shown}/conf"))
            .arg("-cp")
            .arg(program)
            .args(["io.quarkus.bootstrap.runner.QuarkusEntryPoint", "start", "--optimized"])
            .args(["--cache=local", "--http-enabled=true", "--http-host=127.0.0.1"])
            .arg(format!("--http-port={port}"))
            .arg(format!("--http-management-port={}", free_port()))
            .arg(format!("--hostname=http://localhost:{port}"))
            .arg(format!("--truststore-paths={}", trusted.display()))
            .env("KC_BOOTSTRAP_ADMIN_USERNAME", ADMIN)
            .env("KC_BOOTSTRAP_ADMIN_PASSWORD", ADMIN);
        let process = Process::start("Keycloak", &mut command, &dir.join("keycloak.log"));
        Ok(Self { process, port })
    }

    /// Waits until it answers.
    pub fn ready(&mut self) {
        let (port, process) = (self.port, &mut self.process);
        eventually_within("Keycloak is ready", START, || {
            process.assert_running();
            get(port, "/realms/master").is_ok_and(|(status, _)| status == 200).then_some(())
        });
    }

    /// The issuer that a realm is.
    pub fn issuer(&self, realm: &str) -> String {
        format!("http://localhost:{}/realms/{realm}", self.port)
    }

    /// Makes a realm with these identity providers and clients.
    pub fn make_realm(&self, name: &str, providers: &[Value], clients: &[Value]) {
        let login =
            format!("grant_type=password&client_id=admin-cli&username={ADMIN}&password={ADMIN}");
        let (status, answer) = self.token("master", &login);
        assert_eq!(status, 200, "{answer}");
        let bearer = answer["access_token"].as_str().expect("a token");
        let realm = json!({
            "realm": name, "enabled": true, "identityProviders": providers, "clients": clients,
        });
        let bearer = format!("Authorization: Bearer {bearer}");
        let headers = ["Content-Type: application/json", &bearer];
        let (status, answer) = self.post("/admin/realms", &headers, &realm.to_string());
        assert_eq!(status, 201, "{answer}");
    }

    /// What the token endpoint of a realm answers to a form: the status and the document.
    pub fn token(&self, realm: &str, form: &str) -> (u16, Value) {
        let path = format!("/realms/{realm}/protocol/openid-connect/token");
        let headers = ["Content-Type: application/x-www-form-urlencoded"];
        let (status, answer) = self.post(&path, &headers, form);
        (status, serde_json::from_str(&answer).unwrap_or(Value::String(answer)))
    }

    fn post(&self, path: &str, headers: &[&str], body: &str) -> (u16, String) {
        let mut stream = connect(self.port).expect("a connection to Keycloak");
        ask(&mut stream, "POST", path, headers, body).expect("an answer of Keycloak")
    }
}

/// A client that is whom an identity provider's assertions say that `id` is.
pub fn federated_client(name: &str, provider: &str, id: &str) -> Value {
    json!({
        "clientId": name,
        "clientAuthenticatorType": "federated-jwt",
        "serviceAccountsEnabled": true,
        "standardFlowEnabled": false,
        "attributes": { "jwt.credential.issuer": provider, "jwt.credential.sub": id },
    })
}
