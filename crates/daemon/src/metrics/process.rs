//! What the operating system knows of the process, under the names that every program which is
//! watched by Prometheus has.

use std::{
    fmt, fs,
    time::{SystemTime, UNIX_EPOCH},
};

use nix::{
    sys::resource::{Resource, UsageWho, getrlimit, getrusage},
    unistd::{SysconfVar, sysconf},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
};

/// How many descriptors are counted.
const MAX_DESCRIPTORS: usize = 1 << 20;

/// Reads the process's own state at each reading. Its metrics have no prefix and no labels.
#[derive(Debug)]
pub(super) struct Process {
    started: f64,
}

/// How much memory the process has, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Memory {
    pub(super) virtual_size: f64,
    pub(super) resident: f64,
    /// What is its own: neither program text nor mapped files.
    pub(super) anonymous: f64,
}

impl Process {
    /// The process, which has just started.
    pub(super) fn new() -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: started.as_secs_f64() }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let memory = Memory::read().unwrap_or_default();
        let soft = |resource| match getrlimit(resource) {
            Ok((soft, _)) => soft as f64,
            Err(_) => 0.0,
        };
        use MetricType::{Counter, Gauge};
        let all = [
            ("cpu_seconds_total", Counter, cpu_seconds(), "Seconds of CPU that were used"),
            ("max_fds", Gauge, soft(Resource::RLIMIT_NOFILE), "How many descriptors may be open"),
            ("open_fds", Gauge, open_descriptors(), "Descriptors that are open"),
            ("resident_memory_bytes", Gauge, memory.resident, "Resident memory"),
            ("start_time_seconds", Gauge, self.started, "When the process began, Unix seconds"),
            ("virtual_memory_bytes", Gauge, memory.virtual_size, "Mapped memory"),
            (
                "virtual_memory_max_bytes",
                Gauge,
                soft(Resource::RLIMIT_AS),
                "How much memory may be mapped",
            ),
        ];
        for (name, kind, value, help) in all {
            let name = format!("process_{name}");
            let metric = encoder.encode_descriptor(&name, help, None, kind)?;
            ConstGauge::new(value).encode(metric)?;
        }
        Ok(())
    }
}

impl Memory {
    /// As `/proc/self/statm` says.
    pub(super) fn read() -> Option<Self> {
        let page = sysconf(SysconfVar::PAGE_SIZE).ok()?? as f64;
        Self::parse(&fs::read_to_string("/proc/self/statm").ok()?, page)
    }

    fn parse(statm: &str, page: f64) -> Option<Self> {
        let mut fields = statm.split_ascii_whitespace().map(str::parse::<f64>);
        let (size, resident, shared) =
            (fields.next()?.ok()?, fields.next()?.ok()?, fields.next()?.ok()?);
        Some(Self {
            virtual_size: size * page,
            resident: resident * page,
            anonymous: (resident - shared).max(0.0) * page,
        })
    }
}

fn cpu_seconds() -> f64 {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return 0.0 };
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

fn open_descriptors() -> f64 {
    // The one that reads the directory is not counted.
    fs::read_dir("/proc/self/fd")
        .map_or(0.0, |all| all.take(MAX_DESCRIPTORS).count().saturating_sub(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_pages() {
        let memory = Memory::parse("100 40 10 1 0 20 0\n", 4096.0).unwrap();
        assert_eq!(
            memory,
            Memory { virtual_size: 409_600.0, resident: 163_840.0, anonymous: 122_880.0 }
        );
        assert_eq!(Memory::parse("100 x", 4096.0), None);
        assert!(Memory::read().unwrap().resident > 0.0);
    }
}
