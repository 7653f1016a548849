//! The SPIFFE Broker API, with go-spiffe's own client of it.

use std::{
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use e2e::{
    AgentOptions, Lines, Node, Process, ServerOptions, TestDir, cli, clients::go_binary,
    eventually, skip,
};
use serde_json::{Value, json};
use signet_testkit::FakeHttp;

struct Brokers {
    node: Node,
    program: PathBuf,
    socket: PathBuf,
}

/// How the broker may name workloads: by process.
const BY_PID: &str = "{ type_url = \"type.googleapis.com/spiffe.broker.WorkloadPIDReference\" }";
/// By object of Kubernetes, also over TCP.
const BY_OBJECT: &str =
    "{ type_url = \"type.googleapis.com/spiffe.broker.KubernetesObjectReference\"
                           allow_over_tcp = true }";

impl Brokers {
    /// A node where the identity `/broker` (any process of the Go program) is a broker.
    fn new(program: PathBuf) -> Self {
        Self::with(program, "", &[BY_PID], AgentOptions::default())
    }

    fn with(program: PathBuf, endpoint: &str, types: &[&str], options: AgentOptions) -> Self {
        let types = types.join(", ");
        let agent = format!(
            r#"experimental {{ broker {{
                socket_path = "DIR/broker/api.sock"
                {endpoint}
                brokers = [ {{
                    id = "spiffe://example.org/broker"
                    allowed_reference_types = [ {types} ]
                }} ]
            }} }}"#
        );
        let options = AgentOptions { agent, ..options };
        let node = Node::with(ServerOptions::default(), options);
        node.register("/broker", &[&format!("unix:path:{}", program.display())], "");
        let socket = node.agent.dir().join("agent/broker/api.sock");
        Self { node, program, socket }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.bare();
        command.arg("-socket").arg(&self.socket).args(args);
        command
    }

    fn bare(&self) -> Command {
        let mut command = Command::new(&self.program);
        let public = format!("unix://{}", self.node.agent.socket().display());
        command.env("SPIFFE_ENDPOINT_SOCKET", public).arg("broker");
        command
    }

    /// The first line of an answer that came over TCP.
    fn ask_over_tcp(&self, address: &str, args: &[&str]) -> Value {
        Lines::start(self.bare().args(["-address", address]).args(args)).read()
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

/// An API server with a deployment, which the cluster's authorizer lets brokers use as long as it says
/// so, and with a pod on another node.
fn api_server(allows: Arc<AtomicBool>) -> FakeHttp {
    FakeHttp::start(move |asked| {
        let answer = match asked.target.as_str() {
            "/apis/apps" => json!({
                "preferredVersion": { "version": "v1" }, "versions": [{ "version": "v1" }],
            }),
            "/apis/apps/v1" => json!({ "resources": [
                { "name": "deployments", "kind": "Deployment", "namespaced": true },
            ] }),
            "/apis/apps/v1/namespaces/shop/deployments/web" => {
                json!({ "metadata": { "namespace": "shop", "name": "web", "uid": "d1" } })
            }
            "/apis/authorization.k8s.io/v1/subjectaccessreviews" => {
                json!({ "status": { "allowed": allows.load(Ordering::SeqCst) } })
            }
            _ => return (404, "{}".to_owned()),
        };
        (200, answer.to_string())
    })
}

/// A kubelet with one pod.
fn kubelet() -> FakeHttp {
    FakeHttp::start(|_| {
        let pod = json!({
            "metadata": { "namespace": "shop", "name": "near", "uid": "p1" },
            "spec": { "serviceAccountName": "near" },
        });
        (200, json!({ "kind": "PodList", "items": [pod] }).to_string())
    })
}

#[test]
fn a_broker_names_objects_of_the_cluster_as_its_authorizer_allows_also_over_tcp() {
    let program = match go_binary() {
        Ok(program) => program,
        Err(why) => skip!("{why}"),
    };
    let allows = Arc::new(AtomicBool::new(false));
    let (api, kubelet, dir) = (api_server(Arc::clone(&allows)), kubelet(), TestDir::new());
    let kubeconfig = dir.write(
        "kubeconfig",
        format!(
            "current-context: x\nclusters: [{{name: c, cluster: {{server: \
             'http://127.0.0.1:{}'}}}}]\ncontexts: [{{name: x, context: {{cluster: c}}}}]\n",
            api.port
        ),
    );
    let default = AgentOptions::default();
    let options = AgentOptions {
        workload_attestor: format!(
            r#"{}
            WorkloadAttestor "k8s" {{ plugin_data {{
                kubelet_read_only_port = {}
                experimental {{ broker {{
                    access_policy = "enforced"
                    brokers = [ {{ id = "spiffe://example.org/broker" }} ]
                }} }}
            }} }}"#,
            default.workload_attestor, kubelet.port
        ),
        env: vec![("KUBECONFIG".to_owned(), kubeconfig.display().to_string())],
        ..default
    };
    let endpoint = "bind_address = \"127.0.0.1:0\"";
    let brokers = Brokers::with(program, endpoint, &[BY_PID, BY_OBJECT], options);
    let web = ["-object", "deployments.apps/shop/web"];
    let denied = eventually("the broker is known", || {
        let answer = brokers.ask(&web);
        (answer["code"] == "PermissionDenied").then_some(answer)
    });
    let why = denied["error"].as_str().unwrap_or_default();
    assert!(why.contains("does not allow the broker to use impersonate-via-spire"), "{denied}");

    allows.store(true, Ordering::SeqCst);
    let nobody = brokers.ask(&web);
    let why = nobody["error"].as_str().unwrap_or_default();
    assert!(why.contains("no identity issued") && why.contains("shop/web"), "{nobody}");
    brokers.node.register("/web", &["k8s:kind:Deployment", "k8s:key:shop/web"], "");
    brokers.node.register("/near", &["k8s:sa:near"], "");
    let is = |answer: &Value, path: &str| {
        answer["ids"] == json!([format!("spiffe://example.org{path}")])
    };
    eventually("the deployment's identity", || is(&brokers.ask(&web), "/web").then_some(()));
    eventually("a pod's", || {
        is(&brokers.ask(&["-object", "pods.core/shop/near", "-uid", "p1"]), "/near").then_some(())
    });
    assert!(is(&brokers.ask(&["-object", "pods.core", "-uid", "p1"]), "/near"));
    for (args, code) in [
        (["-object", "pods.core/shop/near", "-uid", "p2"], "NotFound"),
        (["-object", "pods.core/shop/far", "-what", "jwt"], "NotFound"),
        (["-object", "wheels.apps/shop/web", "-what", "jwt"], "InvalidArgument"),
        (["-object", "deployments.apps/shop/gone", "-what", "bundles"], "NotFound"),
        (["-object", "deployments.apps", "-what", "x509"], "InvalidArgument"),
    ] {
        let answer = brokers.ask(&args);
        assert_eq!(answer["code"], code, "{args:?}: {answer}");
    }

    // Over TCP: what was allowed there, and no description of the API.
    let log = brokers.node.agent.log();
    let line = log.lines().find(|line| {
        line.contains("Starting SPIFFE Broker Endpoint") && line.contains("network=tcp")
    });
    let address = line.and_then(|line| line.split("address=").nth(1)).expect("a TCP address");
    let address = address.split_whitespace().next().unwrap_or_default().trim_matches('"');
    assert!(is(&brokers.ask_over_tcp(address, &web), "/web"));
    let own = std::process::id().to_string();
    let refused = brokers.ask_over_tcp(address, &["-pid", &own]);
    let why = refused["error"].as_str().unwrap_or_default();
    assert!(why.contains("is not allowed over TCP"), "{refused}");
    let services = json!(["spiffe.broker.API"]);
    assert_eq!(brokers.ask(&["-what", "services"])["services"], services);
    assert_eq!(brokers.ask(&["-what", "services", "-bare"])["code"], "InvalidArgument");
    let refused = brokers.ask_over_tcp(address, &["-what", "services"]);
    assert_eq!(refused["code"], "PermissionDenied", "{refused}");

    // What is forbidden by now is not renewed: a new revision is a new SVID.
    let mut lines = Lines::start(&mut brokers.command(&web));
    assert!(is(&lines.read(), "/web"));
    allows.store(false, Ordering::SeqCst);
    brokers.node.register("/web-too", &["k8s:key:shop/web"], "");
    let last = lines.find("the end", |line| !line["code"].is_null());
    assert_eq!(last["code"], "PermissionDenied", "{last}");
}
