//! What is measured, what must be reached, and the lines that say so.

use std::io::Write;

use serde_json::json;

use crate::machine;

/// A measure and its goal.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// Its name.
    pub measure: &'static str,
    /// What the value counts.
    pub unit: &'static str,
    /// What must be reached.
    pub goal: f64,
    /// What SPIRE 1.15.3 reached; not a number where that was not measured.
    pub spire: f64,
    /// Whether more is better.
    pub more_is_better: bool,
    /// Whether it counts CPU, of which the same work takes more on a slower machine.
    pub is_of_cpu: bool,
}

const fn at_most(measure: &'static str, unit: &'static str, goal: f64, spire: f64) -> Goal {
    Goal { measure, unit, goal, spire, more_is_better: false, is_of_cpu: false }
}

const fn cpu_at_most(measure: &'static str, unit: &'static str, goal: f64, spire: f64) -> Goal {
    Goal { is_of_cpu: true, ..at_most(measure, unit, goal, spire) }
}

const fn at_least(measure: &'static str, unit: &'static str, goal: f64, spire: f64) -> Goal {
    Goal { measure, unit, goal, spire, more_is_better: true, is_of_cpu: false }
}

/// Agent at rest with two entries.
pub const AGENT_RSS_IDLE: Goal = at_most("agent_rss_idle", "MB", 12.0, 63.0);
/// Agent with a thousand open streams.
pub const AGENT_RSS_STREAMS: Goal = at_most("agent_rss_1000_streams", "MB", 48.0, 126.0);
/// One X.509-SVID over a new connection, with attestation.
pub const AGENT_FETCH: Goal = cpu_at_most("agent_cpu_fetch_new_connection", "ms", 0.2, 0.62);
/// One cached JWT-SVID.
pub const AGENT_JWT: Goal = cpu_at_most("agent_cpu_jwt_cached", "ms", 0.1, 0.35);
/// From the answer of the server to the update of an open stream.
pub const PROPAGATE_CREATE: Goal = at_most("propagate_create_p99", "ms", 50.0, 5000.0);
/// The same for a deletion.
pub const PROPAGATE_DELETE: Goal = at_most("propagate_delete_p99", "ms", 50.0, 5000.0);
/// Server at rest with two entries.
pub const SERVER_RSS_IDLE: Goal = at_most("server_rss_idle", "MB", 20.0, 91.0);
/// Server with all entries of the measure of scale.
pub const SERVER_RSS_ENTRIES: Goal = at_most("server_rss_entries", "MB", 70.0, 199.0);
/// One X.509-SVID signed, in batches of 50.
pub const SERVER_X509: Goal = cpu_at_most("server_cpu_x509_svid", "ms", 0.12, 0.33);
/// One JWT-SVID signed.
pub const SERVER_JWT: Goal = cpu_at_most("server_cpu_jwt_svid", "ms", 0.1, 0.39);
/// One agent attested with a join token, the making of the token included.
pub const SERVER_ATTEST: Goal = cpu_at_most("server_cpu_attest", "ms", 1.5, 3.5);
/// Entries created in batches of 50 on top of those that are there.
pub const CREATE_50: Goal = at_least("create_entries_batch_50", "1/s", 6000.0, 100.0);
/// Entries created in batches of 500.
pub const CREATE_500: Goal = at_least("create_entries_batch_500", "1/s", 12_000.0, 100.0);
/// Server at rest with all entries.
pub const SERVER_IDLE: Goal = cpu_at_most("server_cpu_idle_entries", "% of a core", 0.5, 13.0);
/// The longest of many times from a container in the kubelet's answer to its first SVID.
pub const K8S_FIRST_SVID: Goal = at_most("k8s_first_svid_max", "ms", 150.0, f64::NAN);
/// Two hundred pods that start at once: until the last has its SVID.
pub const K8S_BURST_TIME: Goal = at_most("k8s_burst_200_time", "s", 3.0, f64::NAN);
/// The agent's CPU for all of them, signing included.
pub const K8S_BURST_CPU: Goal = cpu_at_most("k8s_burst_200_agent_cpu", "s", 0.5, f64::NAN);
/// The agent's memory after that.
pub const K8S_BURST_RSS: Goal = at_most("k8s_burst_200_agent_rss", "MB", 30.0, f64::NAN);
/// The agent at rest with an open stream of each of 110 pods.
pub const K8S_IDLE_RSS: Goal = at_most("k8s_idle_110_agent_rss", "MB", 20.0, f64::NAN);
/// The same: CPU.
pub const K8S_IDLE_CPU: Goal = cpu_at_most("k8s_idle_110_agent_cpu", "% of a core", 0.2, f64::NAN);
/// The agent's memory for a thousand proxies of three SDS streams, beside that of a tonic server with
/// nothing behind it.
pub const SDS_MEMORY: Goal = at_most("sds_1000x3_memory", "times a bare server", 1.1, f64::NAN);
/// The same for the CPU of an answer to a renewal.
pub const SDS_ANSWER: Goal = at_most("sds_1000x3_cpu_answer", "times a bare server", 1.1, f64::NAN);
/// How many times longer the slowest of a hundred fetches takes beside a flood of another user.
pub const FLOODED_FETCH: Goal = at_most("flooded_fetch_p99", "times", 2.0, f64::NAN);
/// The same for attestations, beside a flood of those who have no identity.
pub const FLOODED_ATTEST: Goal = at_most("flooded_attest_p99", "times", 2.0, f64::NAN);

/// Prints each measure as it comes, and remembers whether all goals were met.
#[derive(Debug)]
pub struct Report {
    small: bool,
    only: Vec<String>,
    missed: Vec<&'static str>,
}

impl Report {
    /// With `small`, reaching half of a goal is enough, and a goal of CPU is that of a machine as
    /// slow as this one is at the moment: the machine is shared and the work short.
    pub fn new(small: bool, only: Vec<String>) -> Self {
        Self { small, only, missed: Vec::new() }
    }

    /// Whether this part is to be run.
    pub fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }

    /// Whether this part was named.
    pub fn names(&self, part: &str) -> bool {
        self.only.iter().any(|only| only == part)
    }

    /// Prints one measure.
    ///
    /// # Errors
    /// When the speed of the machine cannot be told.
    pub fn add(&mut self, goal: Goal, value: f64, more: &serde_json::Value) -> anyhow::Result<()> {
        // How often the value fits into the goal, or the goal into the value.
        let reached = match goal.more_is_better {
            true => value / goal.goal,
            false => goal.goal / value.max(f64::MIN_POSITIVE),
        };
        // The speed of now, as the work was done only just.
        let slowness = if goal.is_of_cpu { machine::slowness()? } else { 1.0 };
        let mut line = json!({
            "measure": goal.measure,
            "value": (value * 10_000.0).round() / 10_000.0,
            "unit": goal.unit,
            "goal": goal.goal,
            "spire": goal.spire,
            "met": reached >= 1.0,
        });
        if let (true, Some(line)) = (goal.is_of_cpu, line.as_object_mut()) {
            line.insert("slowness".to_owned(), json!((slowness * 100.0).round() / 100.0));
        }
        if let (Some(line), Some(more)) = (line.as_object_mut(), more.as_object()) {
            line.extend(more.clone());
        }
        println!("{line}");
        drop(std::io::stdout().flush());
        if reached < if self.small { 0.5 / slowness.max(1.0) } else { 1.0 } {
            self.missed.push(goal.measure);
        }
        Ok(())
    }

    /// Whether everything that had to be reached was.
    ///
    /// # Errors
    /// None; the shape is that of the caller.
    pub fn finish(self) -> anyhow::Result<bool> {
        if !self.missed.is_empty() {
            let how = if self.small { "below half of the goal" } else { "goal missed" };
            eprintln!("{how}: {}", self.missed.join(", "));
        }
        Ok(self.missed.is_empty())
    }
}
