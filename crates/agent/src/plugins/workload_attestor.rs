//! `WorkloadAttestor`: how workloads are told apart.

mod docker;
mod k8s;

use std::time::Duration;

use signet_attest::workload::{
    WorkloadAttestor as WorkloadAttestorPort, WorkloadAttestors,
    docker::{DockerAttestor, DockerConfig},
    slurm::SlurmAttestor,
    systemd::SystemdAttestor,
    unix::{UnixAttestor as UnixAttestorPort, UnixConfig},
};
use signet_base::SharedClock;
use signet_config::{Block, Configured, Count, Kind};

pub use k8s::K8sAttestor;

/// Why `sigstore {}` is refused: docs/adr/0004-sigstore.md.
const SIGSTORE: &str = "signatures of images are not verified by Signet; let an admission policy \
                        (sigstore policy-controller, Kyverno) admit signed images only, use the \
                        selectors of the image's digest, and remove the block";

/// How long the attestors may take for one workload, waiting for a container aside.
const ATTEST_TIMEOUT: Duration = Duration::from_secs(30);

/// `WorkloadAttestor`.
pub(super) const KIND: Kind<WorkloadAttestor> = Kind {
    name: "WorkloadAttestor",
    noun: "workload attestor",
    count: Count::AtLeastOne,
    plugins: &[
        ("docker", docker::decode),
        ("k8s", k8s::decode),
        ("slurm", slurm),
        ("systemd", systemd),
        ("unix", unix),
    ],
    absent: &[(&["windows"], "it belongs to Windows; use unix or systemd")],
};

/// How workloads are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadAttestor {
    /// `docker`, also for Podman.
    Docker(DockerConfig),
    /// `k8s`.
    K8s(K8sAttestor),
    /// `slurm`.
    Slurm,
    /// `systemd`.
    Systemd,
    /// `unix`.
    Unix(UnixAttestor),
}

/// `WorkloadAttestor "unix"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct UnixAttestor {
    /// `discover_workload_path`, default false: whether `path` and `sha256` selectors are made.
    pub discover_workload_path: bool,
    /// `workload_size_limit` in bytes: an executable larger than this is an error; 0 is no limit;
    /// below 0 the `sha256` selector is never made. Unset, one of more than 512 MiB has none.
    pub workload_size_limit: Option<i64>,
}

fn slurm(_: &Block<'_>) -> Option<WorkloadAttestor> {
    Some(WorkloadAttestor::Slurm)
}

fn systemd(_: &Block<'_>) -> Option<WorkloadAttestor> {
    Some(WorkloadAttestor::Systemd)
}

fn unix(block: &Block<'_>) -> Option<WorkloadAttestor> {
    Some(WorkloadAttestor::Unix(UnixAttestor {
        discover_workload_path: block.flag("discover_workload_path"),
        workload_size_limit: block.integer("workload_size_limit"),
    }))
}

/// Opens the workload attestors.
pub(crate) fn open(
    plugins: &[Configured<WorkloadAttestor>],
    clock: &SharedClock,
) -> WorkloadAttestors {
    let mut deadline = ATTEST_TIMEOUT;
    let open = |plugin: &Configured<WorkloadAttestor>| match &plugin.settings {
        WorkloadAttestor::Docker(settings) => {
            Box::new(DockerAttestor::new(settings.clone())) as Box<dyn WorkloadAttestorPort>
        }
        WorkloadAttestor::K8s(settings) => {
            let (attestor, patience) = k8s::open(settings, clock);
            deadline = deadline.max(ATTEST_TIMEOUT + patience);
            Box::new(attestor)
        }
        WorkloadAttestor::Slurm => Box::new(SlurmAttestor),
        WorkloadAttestor::Systemd => Box::new(SystemdAttestor::new()),
        WorkloadAttestor::Unix(settings) => Box::new(UnixAttestorPort::new(UnixConfig {
            discover_workload_path: settings.discover_workload_path,
            workload_size_limit: settings.workload_size_limit,
        })),
    };
    let attestors = plugins.iter().map(open).collect();
    WorkloadAttestors::new(attestors, deadline)
}
