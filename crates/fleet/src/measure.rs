//! What processes use, and how long things took.

use std::{fs, time::Duration};

use anyhow::Context as _;
use nix::{
    sys::resource::{Resource, getrlimit, setrlimit},
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use serde::Serialize;

/// The CPU time that a process has used so far, all threads, user and kernel.
pub fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let pid = Pid::from_raw(pid.try_into().context("a pid")?);
    let clock = clock_getcpuclockid(pid).context("the CPU clock of a process")?;
    Ok(clock_gettime(clock).context("reading a CPU clock")?.into())
}

/// Resident memory of a process in MB (2^20 bytes).
pub fn rss(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb: f64 = line
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .context("no VmRSS")?;
    Ok(kb / 1024.0)
}

/// Thousands of connections need more files than some shells allow.
pub fn raise_open_files() -> anyhow::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("reading the limit of files")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raising the limit of files")
}

/// How long many things took, milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Delays {
    /// How many there were.
    pub count: usize,
    /// The median.
    pub p50_ms: f64,
    /// Nine of ten were faster.
    pub p90_ms: f64,
    /// 99 of 100 were faster.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
    /// For plots: the slowest of each hundredth, in order.
    pub shape_ms: Vec<f64>,
}

impl Delays {
    /// Of these.
    pub fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        let ms = |delay: &Duration| delay.as_secs_f64() * 1e3;
        let at = |share: f64| {
            let index = ((all.len() as f64 * share).ceil() as usize).saturating_sub(1);
            all.get(index).map(ms).unwrap_or_default()
        };
        let shape = if all.is_empty() { 0 } else { 100 };
        Self {
            count: all.len(),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            max_ms: at(1.0),
            shape_ms: (1..=shape).map(|percent| at(f64::from(percent) / 100.0)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_seen() {
        let delays = Delays::of((1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!(
            (delays.count, delays.p50_ms, delays.p99_ms, delays.max_ms),
            (200, 100.0, 198.0, 200.0)
        );
        assert_eq!(delays.shape_ms.len(), 100);
        assert_eq!(Delays::of(Vec::new()).max_ms, 0.0);
        assert_eq!(Delays::of(vec![Duration::from_millis(7)]).p50_ms, 7.0);
    }
}
