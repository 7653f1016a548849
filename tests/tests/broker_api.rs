//! The SPIFFE Broker API, with go-spiffe's own client of it.

use std::{path::PathBuf, process::Command};

use e2e::{
    AgentOptions, Lines, Node, Process, ServerOptions, cli, clients::go_binary, eventually, skip,
};
use serde_json::Value;

struct Brokers {
    node: Node,
    program: PathBuf,
    socket: PathBuf,
}

impl Brokers {
    /// A node where the identity `/broker` (any process of the Go program) is a broker.
    fn new(program: PathBuf) -> Self {
        let node = Node::with(
            ServerOptions::default(),
            AgentOptions {
                agent: r#"experimental { broker {
                    socket_path = "DIR/broker/api.sock"
                    brokers = [ {
                        id = "spiffe://example.org/broker"
                        allowed_reference_types = [ {
                            type_url = "type.googleapis.com/spiffe.broker.WorkloadPIDReference"
                        } ]
                    } ]
                } }"#
                    .to_owned(),
                ..AgentOptions::default()
            },
        );
        node.register("/broker", &[&format!("unix:path:{}", program.display())], "");
        let socket = node.agent.dir().join("agent/broker/api.sock");
        Self { node, program, socket }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        let public = format!("unix://{}", self.node.agent.socket().display());
        command.env("SPIFFE_ENDPOINT_SOCKET", public);
        command.args(["broker", "-socket"]).arg(&self.socket).args(args);
        command
    }

    /// The first line of an answer.
    fn ask(&self, args: &[&str]) -> Value {
        Lines::start(&mut self.command(args)).read()
    }
}

/// A workload of another user.
fn workload(node: &Node) -> Process {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=4711", "--regid=4711", "--clear-groups", "sleep", "600"]);
    let log = node.agent.dir().join("workload.log");
    let process = Process::start("workload", &mut command, &log);
    let path = format!("/proc/{}/comm", process.pid());
    eventually("it runs", || {
        std::fs::read_to_string(&path).is_ok_and(|name| name == "sleep\n").then_some(())
    });
    process
}

#[test]
fn a_broker_gets_what_the_process_it_names_would_get_and_only_while_it_lives() {
    let program = match go_binary() {
        Ok(program) => program,
        Err(why) => skip!("{why}"),
    };
    let brokers = Brokers::new(program);
    let mut workload = workload(&brokers.node);
    let pid = workload.pid().to_string();
    let ask = |what: &str| brokers.ask(&["-pid", &pid, "-what", what]);
    // The agent may not know the broker yet; then there is no SVID to come with.
    eventually("the broker is known", || (ask("x509")["code"] == "PermissionDenied").then_some(()));
    let refused = ask("jwt")["error"].as_str().unwrap_or_default().to_owned();
    assert!(refused.contains(&format!("explain -pid {pid}")), "the workload's own: {refused}");

    brokers.node.register("/workload", &["unix:uid:4711"], "-hint first");
    brokers.node.register("/admin", &["unix:uid:4711"], "-admin");
    let mut lines = Lines::start(&mut brokers.command(&["-pid", &pid, "-what", "x509"]));
    let line = lines.find("its SVID, and not the administrator's", |line| !line["ids"].is_null());
    assert_eq!(line["ids"], serde_json::json!(["spiffe://example.org/workload"]));
    let jwt = ask("jwt");
    assert_eq!(
        (&jwt["id"], &jwt["hint"]),
        (&"spiffe://example.org/workload".into(), &"first".into())
    );
    assert_eq!(ask("bundles")["bundle"], "spiffe://example.org");
    assert!(ask("jwt-bundles")["jwks"].as_str().is_some_and(|jwks| jwks.contains("keys")));

    workload.kill();
    let last = lines.find("the end", |line| !line["code"].is_null());
    assert_eq!(last["code"], "NotFound");
    assert_eq!(ask("x509")["code"], "NotFound");
}

#[test]
fn nobody_but_a_configured_broker_names_workloads_and_only_as_it_may() {
    let program = match go_binary() {
        Ok(program) => program,
        Err(why) => skip!("{why}"),
    };
    let brokers = Brokers::new(program);
    let workload = workload(&brokers.node);
    let pid = workload.pid().to_string();
    brokers.node.register("/workload", &["unix:uid:4711"], "");
    eventually("the broker is served", || {
        (!brokers.ask(&["-pid", &pid])["ids"].is_null()).then_some(())
    });
    let code = |args: &[&str]| brokers.ask(args)["code"].as_str().unwrap_or_default().to_owned();
    assert_eq!(code(&["-pid", &pid, "-bare"]), "InvalidArgument");
    assert_eq!(code(&["-pid", "0"]), "InvalidArgument");
    assert_eq!(code(&["-pid", "-7"]), "InvalidArgument");
    assert_eq!(code(&["-pid", "4194303"]), "NotFound");
    let foreign = "type.googleapis.com/spiffe.broker.KubernetesObjectReference";
    assert_eq!(code(&["-pid", &pid, "-type", foreign]), "PermissionDenied");

    // Another identity of the same trust domain is no broker.
    let other = brokers.program.with_file_name("not-a-broker");
    std::fs::copy(&brokers.program, &other).expect("a copy");
    brokers.node.register("/other", &[&format!("unix:path:{}", other.display())], "");
    let mut command = Command::new(&other);
    let public = format!("unix://{}", brokers.node.agent.socket().display());
    command.env("SPIFFE_ENDPOINT_SOCKET", public);
    command.args(["broker", "-socket"]).arg(&brokers.socket).args(["-pid", &pid]);
    let refused = cli::run(&mut command, "");
    let _ = std::fs::remove_file(&other);
    assert!(refused.stdout.contains("Unavailable"), "{refused}");
    let log = brokers.node.agent.log();
    assert!(log.contains("spiffe://example.org/other is no broker of this agent"), "{log}");
}
