//! What an operator changes without a restart.

use std::{fs, sync::Arc};

use e2e::{
    Agent, AgentOptions, Node, Server, ServerOptions, Signal, TestDir, eventually, node::caller,
};

use crate::attestors::{Machines, machine_options};

/// How often the program has said so.
fn said(log: &str, what: &str) -> usize {
    log.lines().filter(|line| line.contains(what)).count()
}

#[test]
fn a_server_takes_up_new_plugin_settings_on_sigusr1() {
    let (machines, strangers) = (Machines::new(), Machines::new());
    let dir = Arc::new(TestDir::new());
    let settings = |ca: &str| dir.write("x509pop.conf", format!("ca_bundle_path = \"{ca}\"\n"));
    let file = settings(&machines.ca.display().to_string());
    let options = ServerOptions {
        plugins: format!(
            "NodeAttestor \"x509pop\" {{ plugin_data_file = \"{}\" }}",
            file.display()
        ),
        ..ServerOptions::default()
    };
    let mut server = Server::start_in(&dir, "server", options);
    let attests = |server: &Server, machines: &Machines, name: &str| {
        let options = machine_options(server, machines.machine(name, true));
        let mut agent = Agent::prepare_in(server.dir(), name, options);
        agent.launch();
        eventually("an answer to the agent", || {
            let log = agent.log();
            let done = log.contains("Node attestation was successful");
            (done || log.contains("failed") || log.contains("refused")).then_some(done)
        })
    };
    assert!(attests(&server, &machines, "one"));
    assert!(!attests(&server, &strangers, "two"));

    // Wrong settings change nothing.
    let failed = "Failed to reconfigure plugins";
    for (times, wrong) in [(1, "/nonexistent/ca.pem"), (2, "x\"\nnosuch = \"")] {
        settings(wrong);
        server.process().signal(Signal::SIGUSR1);
        eventually("a refusal", || (said(&server.log(), failed) == times).then_some(()));
    }
    assert!(attests(&server, &machines, "three"));

    settings(&strangers.ca.display().to_string());
    server.process().signal(Signal::SIGUSR1);
    eventually("the new settings", || {
        (said(&server.log(), "Plugin reconfigured") == 1).then_some(())
    });
    assert!(attests(&server, &strangers, "four"));
    assert!(!attests(&server, &machines, "five"));
    server.process().assert_running();
}

#[test]
fn an_agent_takes_up_new_plugin_settings_on_sigusr1() {
    let dir = Arc::new(TestDir::new());
    let settings = |text: &str| dir.write("unix.conf", text);
    let file = settings("discover_workload_path = false\n");
    let mut node = Node::with(
        ServerOptions::default(),
        AgentOptions {
            workload_attestor: format!(
                "WorkloadAttestor \"unix\" {{ plugin_data_file = \"{}\" }}",
                file.display()
            ),
            ..AgentOptions::default()
        },
    );
    node.register_caller("/user", "");
    let path = format!("unix:path:{}", e2e::bins::agent().display());
    node.register("/path", &[&caller(), &path], "");
    let fetched = |node: &Node| node.agent.cli().line("api fetch x509").stdout;
    eventually("the user's identity", || fetched(&node).contains("/user").then_some(()));
    assert!(!fetched(&node).contains("/path"));

    settings("discover_workload_path = 7\n");
    node.agent.process().signal(Signal::SIGUSR1);
    eventually("a refusal", || {
        (said(&node.agent.log(), "Failed to reconfigure plugins") > 0).then_some(())
    });
    assert!(!fetched(&node).contains("/path"), "wrong settings change nothing");

    settings("discover_workload_path = true\n");
    node.agent.process().signal(Signal::SIGUSR1);
    eventually("the identity by path", || fetched(&node).contains("/path").then_some(()));
    node.agent.process().assert_running();
}

#[test]
fn an_agents_log_file_is_opened_again_on_sigusr2() {
    let logs = TestDir::new();
    let log = logs.join("own.log");
    let mut node = Node::with(
        ServerOptions::default(),
        AgentOptions {
            agent: format!("log_file = \"{}\"", log.display()),
            ..AgentOptions::default()
        },
    );
    let moved = logs.join("old.log");
    fs::rename(&log, &moved).expect("the log file");
    node.agent.process().signal(Signal::SIGUSR2);
    eventually("a new log file", || log.exists().then_some(()));
    let before = fs::metadata(&moved).expect("the old file").len();
    assert!(before > 0);
    node.register_caller("/workload", "");
    eventually("what is written goes to the new file", || {
        let _ = node.agent.cli().line("api fetch x509");
        fs::metadata(&log).is_ok_and(|meta| meta.len() > 0).then_some(())
    });
    assert_eq!(fs::metadata(&moved).expect("the old file").len(), before);
}
