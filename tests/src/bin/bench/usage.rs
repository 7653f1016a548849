//! What a process uses: CPU by its own clock, resident memory.

use std::{fs, time::Duration};

use anyhow::Context;
use nix::{
    sys::resource::{Resource, getrlimit, setrlimit},
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};

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

/// A thousand streams need more files than some shells allow.
pub fn raise_open_files() -> anyhow::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("reading the limit of files")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raising the limit of files")
}
