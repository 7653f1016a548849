//! A server, and an agent that attested to it with a join token.

use std::{os::unix::fs::MetadataExt, sync::Arc};

use crate::{
    agent::{Agent, AgentOptions},
    dir::TestDir,
    server::{Server, ServerOptions},
};

/// The alias that the agent of a [`Node`] gets; entries are registered below it.
pub const ALIAS: &str = "/node";

/// Both programs on one machine.
#[derive(Debug)]
pub struct Node {
    /// Ended first.
    pub agent: Agent,
    /// The server.
    pub server: Server,
}

impl Node {
    /// Starts both with the defaults.
    pub fn start() -> Self {
        Self::with(ServerOptions::default(), AgentOptions::default())
    }

    /// Starts both; the agent's port, trust domain, bundle and token are filled in.
    pub fn with(server: ServerOptions, agent: AgentOptions) -> Self {
        let dir = Arc::new(TestDir::new());
        let server = Server::start_in(&dir, "server", server);
        let agent = Agent::start_in(&dir, "agent", Self::agent_options(&server, agent));
        Self { agent, server }
    }

    /// The options of an agent of `server`, with a new token.
    pub fn agent_options(server: &Server, options: AgentOptions) -> AgentOptions {
        AgentOptions {
            trust_domain: server.trust_domain().to_owned(),
            port: server.port(),
            bundle: Some(server.bundle_file()),
            token: options.token.clone().or_else(|| Some(server.token(ALIAS))),
            ..options
        }
    }

    /// Registers a workload behind the agent; returns the entry's ID.
    pub fn register(&self, path: &str, selectors: &[&str], more: &str) -> String {
        self.server.register(ALIAS, path, selectors, more)
    }

    /// Registers whoever runs this test.
    pub fn register_caller(&self, path: &str, more: &str) -> String {
        self.register(path, &[&caller()], more)
    }

    /// The full SPIFFE ID of a path.
    pub fn id(&self, path: &str) -> String {
        format!("spiffe://{}{path}", self.server.trust_domain())
    }

    /// The agent's own SPIFFE ID.
    pub fn agent_id(&self) -> String {
        let agents = self.server.cli().json("agent list");
        let path = agents["agents"][0]["id"]["path"].as_str().expect("an agent").to_owned();
        self.id(&path)
    }
}

/// The `unix:uid` selector of whoever runs this test.
pub fn caller() -> String {
    let uid = std::fs::metadata("/proc/self").expect("/proc").uid();
    format!("unix:uid:{uid}")
}
