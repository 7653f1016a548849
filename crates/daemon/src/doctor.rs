//! `doctor`: what commonly goes wrong, checked from where it goes wrong, each finding with the next
//! step.

mod look;

use std::{
    fmt,
    io::{self, Write},
};

use serde::Serialize;
use signet_time::UnixTime;

pub use self::look::{Access, clock, descriptors, directory, disk_space, file, port, secret_file};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and something deserves attention.
    Warning,
    /// It does not work.
    Failed,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found. Never a secret.
    pub found: String,
    /// What to do next; empty where nothing is to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next: String,
}

impl Finding {
    /// All is well.
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, found: found.into(), next: String::new() }
    }

    /// Something deserves attention.
    pub fn warning(check: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, level: Level::Warning, found: found.into(), next: next.into() }
    }

    /// Something does not work.
    pub fn failed(check: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, level: Level::Failed, found: found.into(), next: next.into() }
    }
}

/// What all checks found, in the order in which they were made.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// What was found.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Adds what a check found.
    pub fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Whether something does not work.
    pub fn has_failed(&self) -> bool {
        self.findings.iter().any(|finding| finding.level == Level::Failed)
    }

    /// Prints the report for people.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        for Finding { check, level, found, next } in &self.findings {
            let mark = match level {
                Level::Ok => "ok     ",
                Level::Warning => "warning",
                Level::Failed => "FAILED ",
            };
            writeln!(out, "{mark}  {check}: {found}")?;
            if !next.is_empty() {
                writeln!(out, "         next: {next}")?;
            }
        }
        let count = |level| self.findings.iter().filter(|f| f.level == level).count();
        writeln!(
            out,
            "\n{} checks: {} failed, {} deserve attention",
            self.findings.len(),
            count(Level::Failed),
            count(Level::Warning)
        )
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        })
    }
}

/// How much of a lifetime is left, as a finding: nothing is a failure, less than a quarter deserves
/// attention (things are renewed at half of their life, authorities at 5/6).
pub fn expiry(
    check: &'static str,
    what: &str,
    (not_before, not_after): (UnixTime, UnixTime),
    now: UnixTime,
    next: &str,
) -> Finding {
    let left = not_after - now;
    let life = (not_after - not_before).max(1);
    if not_before > now + 60 {
        let early = not_before - now;
        return Finding::failed(
            check,
            format!("{what} is valid only in {early} s"),
            "set the clock of this machine: it is behind",
        );
    }
    if left <= 0 {
        return Finding::failed(check, format!("{what} expired {} s ago", -left), next);
    }
    let found = format!("{what} expires in {left} s, of a life of {life} s");
    match left.saturating_mul(10) < life {
        true => Finding::warning(check, found, next),
        false => Finding::ok(check, found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_is_wrong_and_what_to_do() {
        let mut report = Report::default();
        report.add(Finding::ok("clock", "synchronised"));
        assert!(!report.has_failed());
        report.add(Finding::failed("socket", "nobody listens", "start the agent"));
        assert!(report.has_failed());
        let mut out = Vec::new();
        report.print(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "ok       clock: synchronised\nFAILED   socket: nobody listens\n         next: start \
             the agent\n\n2 checks: 1 failed, 0 deserve attention\n"
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["findings"][1]["level"], "failed");
        assert_eq!(json["findings"][1]["next"], "start the agent");
        assert!(json["findings"][0].get("next").is_none());
    }

    #[test]
    fn expiry_is_judged_by_the_life_that_is_left() {
        let level = |now| {
            expiry(
                "svid",
                "the SVID",
                (UnixTime::EPOCH, UnixTime::from_seconds(1_000)),
                now,
                "look",
            )
            .level
        };
        assert_eq!(level(UnixTime::from_seconds(500)), Level::Ok);
        assert_eq!(level(UnixTime::from_seconds(950)), Level::Warning);
        assert_eq!(level(UnixTime::from_seconds(1_000)), Level::Failed);
        assert_eq!(level(UnixTime::from_seconds(-100)), Level::Failed, "it is valid only later");
    }
}
