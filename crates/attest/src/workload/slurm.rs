//! Workload attestor `slurm`: the job and step of a process that Slurm started.
//!
//! `slurmstepd` makes a cgroup (version 2) for each step of a job, directly below the system slice:
//! `/system.slice/[NODE_]slurmstepd.scope/(job_NUMBER|SLUID)/step_STEP/…`. That slice is root's, so
//! that no workload can make such a path for itself; one that looks like it below a part of the tree
//! that users may write to does not count. Of the lines of the file, only that of version 2 is read:
//! a hierarchy of version 1 may be somebody else's from its root.

use signet_identity::Selector;

use super::{WorkloadAttestError, WorkloadAttestor};
use crate::peer::PinnedPeer;

/// The attestor's name and the type of its selectors.
pub const NAME: &str = "slurm";

/// The `slurm` workload attestor; it has no settings.
#[derive(Clone, Copy, Debug, Default)]
pub struct SlurmAttestor;

/// The job of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Job<'c> {
    /// `job_id` for a number, or `sluid` for what Slurm 26.05 and later name jobs by.
    kind: &'static str,
    id: &'c str,
    /// A number, or `batch`, `extern`, `interactive`.
    step: &'c str,
}

/// The job that a cgroup file names; none for a process that Slurm did not start.
fn job(cgroup: &str) -> Option<Job<'_>> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mut parts = path.strip_prefix("/system.slice/")?.split('/');
    parts.next().filter(|scope| scope.ends_with("slurmstepd.scope"))?;
    let job = parts.next()?;
    let step = parts.next()?.strip_prefix("step_").filter(|step| !step.is_empty())?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_sluid = |text: &str| {
        text.len() > 1 && text.starts_with('s') && text.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    match job.strip_prefix("job_") {
        Some(id) if is_number(id) => Some(Job { kind: "job_id", id, step }),
        None if is_sluid(job) => Some(Job { kind: "sluid", id: job, step }),
        _ => None,
    }
}

#[async_trait::async_trait]
impl WorkloadAttestor for SlurmAttestor {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn attest(&self, peer: &PinnedPeer) -> Result<Vec<Selector>, WorkloadAttestError> {
        let cgroup = peer.proc_root().read(peer.pid(), "cgroup")?;
        let cgroup = String::from_utf8_lossy(&cgroup);
        let Some(Job { kind, id, step }) = job(&cgroup) else { return Ok(Vec::new()) };
        let selector = |kind: &str, value: &str| {
            let selector = Selector::new(NAME, &format!("{kind}:{value}"));
            selector.map_err(|error| WorkloadAttestError::Failed(error.to_string()))
        };
        Ok(vec![selector(kind, id)?, selector("step", step)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_a_job_is_named_by_number_or_sluid() {
        let path = "0::/system.slice/slurmstepd.scope/job_4711/step_0/user/task_0\n";
        assert_eq!(job(path), Some(Job { kind: "job_id", id: "4711", step: "0" }));
        let path =
            "12:pids:/x\n0::/system.slice/node7_slurmstepd.scope/s5K1KKYAYG5D00/step_batch/slurm";
        assert_eq!(job(path), Some(Job { kind: "sluid", id: "s5K1KKYAYG5D00", step: "batch" }));
        for special in ["extern", "interactive"] {
            let path = format!("0::/system.slice/slurmstepd.scope/job_1/step_{special}");
            assert_eq!(job(&path).unwrap().step, special);
        }
    }

    #[test]
    fn a_path_that_a_workload_can_make_itself_is_no_job() {
        for path in [
            // Below what a user, a container or a service owns.
            "0::/user.slice/user-1000.slice/slurmstepd.scope/job_1/step_0",
            "0::/user.slice/system.slice/slurmstepd.scope/job_1/step_0",
            "0::/system.slice/evil.service/slurmstepd.scope/job_1/step_0",
            "0::/../system.slice/slurmstepd.scope/job_1/step_0",
            // Another hierarchy may be somebody else's from its root.
            "4:name=theirs:/system.slice/slurmstepd.scope/job_1/step_0\n0::/user.slice",
            // No job at all.
            "0::/system.slice/slurmd.service",
            "0::/system.slice/slurmstepd.scope/system",
            "0::/system.slice/slurmstepd.scope/job_x/step_0",
            "0::/system.slice/slurmstepd.scope/job_1/other",
            "",
        ] {
            assert_eq!(job(path), None, "{path}");
        }
    }
}
