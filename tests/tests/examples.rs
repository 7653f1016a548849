//! Every example of docs/examples does what it says, a refusal included.

use std::process::Command;

use e2e::{AgentOptions, Client, Node, ServerOptions, bins, helper, skip};

/// What an example says that has refused something.
const REFUSED: &str = "refused: ";
/// What `need` exits with.
const NOT_INSTALLED: i32 = 77;
/// How long an example may take, the building of its program included.
const MOST_SECONDS: &str = "400";

fn run(name: &str, prepare: impl FnOnce(&mut Command)) {
    let options = ServerOptions {
        plugins: "CredentialComposer \"uniqueid\" { plugin_data {} }".to_owned(),
        ..ServerOptions::default()
    };
    let node = Node::with(options, AgentOptions::default());
    let dir = node.agent.dir().clone();
    let cache = bins::clients_dir().join("examples").join(name);
    std::fs::create_dir_all(&cache).expect("a directory");
    let script = bins::sources().join("../docs/examples").join(name).join("run.sh");
    let mut command = Command::new("timeout");
    command
        .args([MOST_SECONDS, "sh"])
        .arg(script)
        .env("SIGNET_SERVER", bins::server())
        .env("SIGNET_AGENT", bins::agent())
        .env("SIGNET_HELPER", helper::program())
        .env("SERVER_SOCKET", node.server.socket())
        .env("AGENT_SOCKET", node.agent.socket())
        .env("TRUST_DOMAIN", node.server.trust_domain())
        .env("NODE_ID", node.id(e2e::node::ALIAS))
        .env("WORK", dir.subdir("work"))
        .env("CACHE", cache);
    prepare(&mut command);
    let output = command.output().expect("timeout");
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    if output.status.code() == Some(NOT_INSTALLED) {
        skip!("{}", err.trim());
    }
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    assert!(out.contains(REFUSED), "{out}");
}

/// The Python of the tests has what the examples need.
fn with_python(name: &str) {
    match Client::Python.words() {
        Ok(words) => run(name, |command| {
            command.env("PYTHON", &words[0]);
        }),
        Err(why) => skip!("{why}"),
    }
}

#[test]
fn curl_and_openssl() {
    run("openssl", |_| {});
}

#[test]
fn a_greeter_in_go() {
    run("go", |_| {});
}

#[test]
fn grpc_by_the_workload_api_and_by_files() {
    run("grpc", |_| {});
}

#[test]
fn a_greeter_in_java() {
    run("java", |_| {});
}

#[test]
fn a_greeter_in_python() {
    with_python("python");
}

#[test]
fn a_greeter_in_rust() {
    run("rust", |command| {
        command.env("GREETER", bins::own("examples/greeter"));
    });
}

#[test]
fn a_greeter_in_node_by_files() {
    run("node", |_| {});
}

#[test]
fn an_api_that_takes_jwt_svids() {
    with_python("jwt-api");
}

#[test]
fn postgresql_by_x509_svid() {
    run("postgresql", |_| {});
}

#[test]
fn openbao_by_jwt_svid() {
    run("openbao", |_| {});
}

#[test]
fn envoy_before_a_plain_service() {
    run("envoy", |_| {});
}
