//! Workload attestation: what a pinned caller *is*, as selectors.
//!
//! Nothing is kept between two attestations: `exec` changes a process's path and hash, but
//! neither its pid nor its handle.

pub mod container;
pub mod docker;
pub mod k8s;
pub mod reference;
pub mod slurm;
pub mod systemd;
pub mod unix;

use std::{fmt, time::Duration};

use futures_util::future::join_all;
use signet_base::Repeats;
use signet_identity::{Selector, SelectorSet, SpiffeId};
use tokio::time::Instant;

use self::reference::{Reference, ReferenceError};
use crate::peer::{PeerError, PinnedPeer};

/// How often the same failure of an attestor is logged.
const TELL_INTERVAL: Duration = Duration::from_secs(30);

/// The most selectors kept from one attestation; more is an error, not a cut.
pub const MAX_SELECTORS: usize = 4096;

/// Finds out what a caller is.
#[async_trait::async_trait]
pub trait WorkloadAttestor: Send + Sync + fmt::Debug {
    /// The attestor's name, which is also the type of its selectors.
    fn name(&self) -> &'static str;

    /// The selectors of `peer`, in the attestor's order; none when it knows nothing of it.
    ///
    /// # Errors
    /// [`WorkloadAttestError`] when the caller could not be examined.
    async fn attest(&self, peer: &PinnedPeer) -> Result<Vec<Selector>, WorkloadAttestError>;

    /// As [`WorkloadAttestor::attest`], for a person who asks what is found now: what a caller
    /// would wait for is an error that says so.
    ///
    /// # Errors
    /// [`WorkloadAttestError`] when the process has ended or cannot be examined, or it takes too
    /// long.
    async fn look(&self, peer: &PinnedPeer) -> Result<Vec<Selector>, WorkloadAttestError> {
        self.attest(peer).await
    }

    /// The selectors of a workload that `broker` names. An attestor that knows nothing of brokers
    /// takes a process that is named for one that calls.
    ///
    /// # Errors
    /// [`ReferenceError`]; [`ReferenceError::Unsupported`] for kinds of references that the attestor
    /// does not know.
    async fn attest_reference(
        &self,
        _broker: &SpiffeId,
        reference: Reference<'_>,
    ) -> Result<Vec<Selector>, ReferenceError> {
        match reference {
            Reference::Object(_) => Err(ReferenceError::Unsupported),
            Reference::Process(peer) => self
                .attest(peer)
                .await
                .map_err(|error| ReferenceError::Unavailable(error.to_string())),
        }
    }
}

/// Why an attestor could not examine a caller.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadAttestError {
    /// What the attestor says.
    #[error("{0}")]
    Failed(String),
    /// Something in `/proc` could not be read.
    #[error(transparent)]
    Proc(#[from] crate::procfs::ProcError),
    /// The attestor did not answer within the deadline.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

/// All configured workload attestors, run side by side with one deadline.
#[derive(Debug)]
pub struct WorkloadAttestors {
    attestors: Vec<Box<dyn WorkloadAttestor>>,
    deadline: Duration,
    /// Failures that were logged: a workload that is refused asks again and again.
    told: Repeats<(&'static str, String)>,
}

/// What one attestor found, for `explain` and the log.
#[derive(Debug)]
pub struct Finding {
    /// The attestor's name.
    pub attestor: &'static str,
    /// Its selectors, or why there are none.
    pub result: Result<Vec<Selector>, WorkloadAttestError>,
    /// How long it took by itself.
    pub took: Duration,
}

/// Why a caller could not be attested.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// No attestor succeeded; the text joins what each said.
    #[error("all workload attestors failed: {0}")]
    AllFailed(String),
    /// The caller is no longer who it was when it connected.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// More selectors than [`MAX_SELECTORS`].
    #[error("{0} selectors were found, at most {MAX_SELECTORS} are accepted")]
    TooMany(usize),
}

impl WorkloadAttestors {
    /// Attestors with a deadline for each attestation.
    pub fn new(attestors: Vec<Box<dyn WorkloadAttestor>>, deadline: Duration) -> Self {
        Self { attestors, deadline, told: Repeats::new(TELL_INTERVAL) }
    }

    /// The names of the configured attestors.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.attestors.iter().map(|attestor| attestor.name())
    }

    /// Examines `peer` with every attestor. The failure of some is logged and tolerated (as
    /// SPIRE does); the failure of all is an error. The caller's liveness is checked last, so
    /// that what was read is known to be the pinned process's.
    ///
    /// # Errors
    /// [`AttestError`] when no attestor succeeds or the caller has gone or changed.
    pub async fn attest(&self, peer: &PinnedPeer) -> Result<SelectorSet, AttestError> {
        self.attest_and_tell(peer, |_| {}).await
    }

    /// As [`WorkloadAttestors::attest`]; `told` sees what each attestor found, and how long it took.
    ///
    /// # Errors
    /// As [`WorkloadAttestors::attest`].
    pub async fn attest_and_tell(
        &self,
        peer: &PinnedPeer,
        told: impl FnMut(&Finding),
    ) -> Result<SelectorSet, AttestError> {
        let findings = self.run_all(peer, true).await;
        findings.iter().for_each(told);
        peer.verify()?;
        let mut selectors = Vec::new();
        let mut failures = Vec::new();
        let all = findings.len();
        for finding in findings {
            match finding.result {
                Ok(found) => selectors.extend(found),
                Err(error) => {
                    if let Some(untold) = self.told.tell((finding.attestor, error.to_string())) {
                        tracing::warn!(
                            pid = peer.pid(),
                            attestor = finding.attestor,
                            error = %error,
                            untold,
                            "Workload attestor failed"
                        );
                    }
                    failures.push(format!("{}: {error}", finding.attestor));
                }
            }
        }
        if all > 0 && failures.len() == all {
            return Err(AttestError::AllFailed(failures.join("; ")));
        }
        if selectors.len() > MAX_SELECTORS {
            return Err(AttestError::TooMany(selectors.len()));
        }
        Ok(selectors.into_iter().collect())
    }

    /// Examines what `broker` names with every attestor that knows such references. Again the
    /// failure of some is tolerated, and that of all an error: the first of them says of which kind.
    ///
    /// # Errors
    /// [`ReferenceError`] when the reference is malformed, of a kind nobody knows, or not found,
    /// when `broker` may not ask for it, or when nobody who knows can be asked.
    pub async fn attest_reference(
        &self,
        broker: &SpiffeId,
        reference: Reference<'_>,
    ) -> Result<SelectorSet, ReferenceError> {
        let all = self.attestors.iter().map(|attestor| async {
            let attempt = attestor.attest_reference(broker, reference);
            let result = tokio::time::timeout(self.deadline, attempt).await;
            let late = || format!("no answer within {:?}", self.deadline);
            let result = result.unwrap_or_else(|_| Err(ReferenceError::Unavailable(late())));
            result.map_err(|error| error.of(attestor.name()))
        });
        let results = join_all(all).await;
        if let Reference::Process(peer) = reference {
            peer.verify().map_err(|error| ReferenceError::NotFound(error.to_string()))?;
        }
        let (mut selectors, mut failure, mut is_known) = (Vec::new(), None, false);
        for result in results {
            match result {
                Ok(found) => {
                    is_known = true;
                    selectors.extend(found);
                }
                Err(ReferenceError::Unsupported) => {}
                Err(error) => {
                    if let Some(untold) = self.told.tell(("reference", error.to_string())) {
                        tracing::warn!(
                            %error, %broker, untold,
                            "Cannot attest a workload that a broker names"
                        );
                    }
                    failure.get_or_insert(error);
                }
            }
        }
        match failure {
            _ if selectors.len() > MAX_SELECTORS => {
                let why = AttestError::TooMany(selectors.len()).to_string();
                Err(ReferenceError::Unavailable(why))
            }
            _ if is_known => Ok(selectors.into_iter().collect()),
            Some(error) => Err(error),
            None => Err(ReferenceError::Unsupported),
        }
    }

    /// Examines `peer` and keeps apart what each attestor found, for `explain`. Nothing that is yet
    /// to come is waited for.
    pub async fn examine(&self, peer: &PinnedPeer) -> Vec<Finding> {
        self.run_all(peer, false).await
    }

    async fn run_all(&self, peer: &PinnedPeer, wait: bool) -> Vec<Finding> {
        match self.attestors.as_slice() {
            // The usual case costs no allocation of a joined future.
            [only] => vec![self.run(only.as_ref(), peer, wait).await],
            many => {
                let mut running = Vec::with_capacity(many.len());
                for attestor in many {
                    running.push(self.run(attestor.as_ref(), peer, wait));
                }
                join_all(running).await
            }
        }
    }

    async fn run(&self, attestor: &dyn WorkloadAttestor, peer: &PinnedPeer, wait: bool) -> Finding {
        let begin = Instant::now();
        let attempt = if wait { attestor.attest(peer) } else { attestor.look(peer) };
        let result = match tokio::time::timeout(self.deadline, attempt).await {
            Ok(result) => result,
            Err(_) => Err(WorkloadAttestError::TimedOut(self.deadline)),
        };
        Finding { attestor: attestor.name(), result, took: begin.elapsed() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::ProcRoot;

    /// Answers nothing after a while.
    #[derive(Debug)]
    struct Slow(&'static str, Duration);

    #[async_trait::async_trait]
    impl WorkloadAttestor for Slow {
        fn name(&self) -> &'static str {
            self.0
        }

        async fn attest(&self, _peer: &PinnedPeer) -> Result<Vec<Selector>, WorkloadAttestError> {
            tokio::time::sleep(self.1).await;
            Ok(Vec::new())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_each_attestor_took_is_known_when_several_run_at_once() {
        let (_client, server) = std::os::unix::net::UnixStream::pair().unwrap();
        let peer = PinnedPeer::from_socket(&server, &ProcRoot::default()).unwrap();
        let took = [("a", Duration::from_millis(7)), ("b", Duration::from_millis(70))];
        let attestors: Vec<Box<dyn WorkloadAttestor>> =
            took.iter().map(|(name, time)| Box::new(Slow(name, *time)) as _).collect();
        let findings =
            WorkloadAttestors::new(attestors, Duration::from_secs(1)).examine(&peer).await;
        let found: Vec<_> = findings.iter().map(|f| (f.attestor, f.took)).collect();
        assert_eq!(found, took);
    }
}
