//! Clocks that jump, and laptops that sleep.

use std::{fs, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use e2e::{
    Agent, AgentOptions, Server, ServerOptions, TestDir, WallClock, eventually_within,
    node::caller, skip,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use crate::attestors::{Machines, machine_options};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// The programs look at the clock twice a minute; a server that is back is asked within another one.
const SOON: std::time::Duration = std::time::Duration::from_secs(150);

/// What the caller gets: from when and until when it is valid.
fn validity(agent: &Agent) -> Option<(i64, i64)> {
    let output = agent.cli().line("api fetch x509 -output json");
    let answer: serde_json::Value = serde_json::from_str(&output.stdout).ok()?;
    let chain = STANDARD.decode(answer["svids"][0]["x509_svid"].as_str()?).ok()?;
    let (_, leaf) = X509Certificate::from_der(&chain).expect("a certificate");
    let validity = leaf.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// Waits until the caller gets something that is valid by the clock.
fn recovers(clock: &WallClock, agent: &mut Agent, what: &str) {
    eventually_within(what, SOON, || {
        agent.process().assert_running();
        validity(agent).filter(|(from, to)| (*from..*to).contains(&clock.unix()))
    });
}

struct Laptop {
    server: Server,
    machines: Machines,
    /// Dropped last: it cleans up after the programs.
    clock: WallClock,
}

impl Laptop {
    fn new() -> Result<Self, String> {
        let dir = Arc::new(TestDir::new());
        let clock = WallClock::new(&dir)?;
        let machines = Machines::new();
        let options = ServerOptions {
            plugins: machines.plugin(),
            env: clock.env(),
            ..ServerOptions::default()
        };
        let server = Server::start_in(&dir, "server", options);
        server
            .cli()
            .line("entry create -node -spiffeID spiffe://example.org/pool -selector x509pop:subject:cn:host1")
            .ok();
        server.register("/pool", "/workload", &[&caller()], "");
        Ok(Self { server, machines, clock })
    }

    /// An agent that can attest again at any time.
    fn agent(&self, agent: &str) -> Agent {
        let options = AgentOptions {
            agent: agent.to_owned(),
            env: self.clock.env(),
            ..machine_options(&self.server, self.machines.machine("host1", true))
        };
        Agent::start_in(self.server.dir(), "agent", options)
    }
}

#[test]
fn a_laptop_that_slept_past_every_expiry_recovers_or_says_what_to_do() {
    let mut laptop = match Laptop::new() {
        Ok(laptop) => laptop,
        Err(why) => skip!("{why}"),
    };
    let clock = &laptop.clock;
    let mut agent = laptop.agent("");
    laptop.server.register("/node", "/workload", &[&caller()], "");
    let options = AgentOptions {
        port: laptop.server.port(),
        bundle: Some(laptop.server.bundle_file()),
        token: Some(laptop.server.token("/node")),
        env: clock.env(),
        ..AgentOptions::default()
    };
    let mut joined = Agent::start_in(laptop.server.dir(), "joined", options);
    recovers(clock, &mut agent, "a first SVID");
    recovers(clock, &mut joined, "a first SVID");
    // SVIDs live for an hour, the authority for a day.
    laptop.server.stop();
    clock.jump(3 * HOUR);
    for agent in [&agent, &joined] {
        eventually_within("nothing expired is served", SOON, || {
            validity(agent).is_none().then_some(())
        });
    }
    laptop.server.launch();
    laptop.server.ready();
    recovers(clock, &mut agent, "an SVID from after the sleep");
    // A token can be spent once only.
    assert_eq!(joined.process().wait(SOON), 1);
    let log = joined.log();
    assert!(log.contains("token generate") && log.contains("-joinToken"), "{log}");
    joined.reconfigure(|options| options.token = Some(laptop.server.token("/node")));
    joined.launch();
    joined.ready();
    recovers(clock, &mut joined, "an SVID for the new token");
}

#[test]
fn a_clock_that_is_set_far_ahead_and_back_again_is_followed() {
    let laptop = match Laptop::new() {
        Ok(laptop) => laptop,
        Err(why) => skip!("{why}"),
    };
    let (clock, server) = (&laptop.clock, &laptop.server);
    let mut agent = laptop.agent("rebootstrap_mode = \"auto\"\nrebootstrap_delay = \"1s\"");
    let id = server.cli().json("agent list")["agents"][0]["id"].clone();
    recovers(clock, &mut agent, "a first SVID");
    let authority = || {
        let shown = server.cli().json("localauthority x509 show");
        shown["active"]["authority_id"].as_str().unwrap_or_default().to_owned()
    };
    // Ahead of everything that was ever issued, then before all of that but the first.
    for days in [40, -40, -3] {
        let before = authority();
        clock.jump(days * DAY);
        eventually_within("a new authority", SOON, || (authority() != before).then_some(()));
        server.cli().line("x509 mint -spiffeID spiffe://example.org/minted").ok();
        // The operator gives out the new bundle under the old name.
        let bundle = server.bundle_file();
        assert!(fs::read_to_string(bundle).is_ok_and(|pem| pem.contains("BEGIN")));
        recovers(clock, &mut agent, &format!("an SVID {days} days later"));
    }
    assert_eq!(server.cli().json("agent list")["agents"][0]["id"], id);
}
