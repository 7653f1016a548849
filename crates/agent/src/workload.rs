//! Who is calling, as the workload attestors see it: what every endpoint begins with.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use signet_attest::workload::{Finding, WorkloadAttestors};
use signet_base::{FairQueue, SharedClock};
use signet_identity::SelectorSet;
use tonic::{Request, Status};

use crate::{caller::Caller, metrics::AgentMetrics, refusals::Refusals, trace};

/// How many callers are attested at a time, and how many of them may be of one user: one who calls
/// ten thousand times at once has the others wait for a few of these calls, and not for all.
const TURNS: usize = 8;
const TURNS_OF_ONE: usize = 4;
/// How many calls of one user may wait for their turn.
const WAITING: usize = 2_048;
/// Attesting that takes longer waits for others (a kubelet, a disk) and not for this process: it
/// gives its turn up, so that many such calls can wait at once.
const TURN: Duration = Duration::from_millis(20);

/// Attests the callers of the endpoints.
#[derive(Debug)]
pub struct CallerAttestor {
    attestors: ArcSwap<WorkloadAttestors>,
    turns: FairQueue<u32>,
    log_selectors: Vec<String>,
    metrics: AgentMetrics,
    refusals: Refusals,
    admin_socket: AdminSocket,
    clock: SharedClock,
}

/// Where the admin socket is, as a refusal tells it to whoever wants to ask why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminSocket {
    /// Where the command line looks for it anyway.
    Default,
    /// Somewhere else.
    At(PathBuf),
    /// Nowhere: it has to be configured first.
    None,
}

impl CallerAttestor {
    /// An attestor of callers; `log_selectors` are prefixes of selectors that may be logged.
    pub fn new(
        attestors: WorkloadAttestors,
        log_selectors: Vec<String>,
        metrics: AgentMetrics,
        admin_socket: AdminSocket,
        clock: SharedClock,
    ) -> Arc<Self> {
        Arc::new(Self {
            attestors: ArcSwap::from_pointee(attestors),
            turns: FairQueue::new(TURNS, TURNS_OF_ONE, WAITING),
            log_selectors,
            metrics,
            refusals: Refusals::default(),
            admin_socket,
            clock,
        })
    }

    /// The last callers that got no identity.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// The attestors themselves.
    pub fn attestors(&self) -> Arc<WorkloadAttestors> {
        self.attestors.load_full()
    }

    /// Uses other attestors from the next call on.
    pub fn replace(&self, attestors: WorkloadAttestors) {
        self.attestors.store(Arc::new(attestors));
    }

    /// The caller of a request.
    ///
    /// # Errors
    /// `Internal` when the connection has none: a mistake of ours.
    pub fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
        request
            .extensions()
            .get::<Caller>()
            .cloned()
            .ok_or_else(|| Status::internal("the connection has no caller"))
    }

    /// The caller's selectors, read anew each time.
    ///
    /// # Errors
    /// `Unavailable` when the caller cannot be attested; the cause is logged, not told.
    /// `ResourceExhausted` when too many calls of the same user wait to be.
    pub async fn attest(&self, caller: &Caller) -> Result<SelectorSet, Status> {
        let failed = || Status::unavailable("workload attestation failed");
        let peer = caller.peer().map_err(|error| {
            tracing::error!(error = %error, "Workload attestation failed");
            failed()
        })?;
        let turn = trace::timed("wait_for_turn", self.turns.turn(peer.uid()), |_| String::new());
        let turn = turn.await.map_err(|error| {
            tracing::debug!(pid = peer.pid(), uid = peer.uid(), %error, "Not attested");
            self.metrics.refusals.inc(&["too_many_calls"]);
            Status::resource_exhausted("too many calls of this user are waiting")
        })?;
        let timer = self.metrics.attestation.start(&[]);
        let attestors = self.attestors.load_full();
        let mut attesting =
            std::pin::pin!(attestors.attest_and_tell(peer, |finding| self.note(finding)));
        let attested = match tokio::time::timeout(TURN, &mut attesting).await {
            Ok(attested) => attested,
            Err(_) => {
                drop(turn);
                attesting.await
            }
        };
        match attested {
            Ok(selectors) => {
                timer.done("OK");
                self.metrics.discovered_selectors.observe_len(&[], selectors.len());
                tracing::debug!(
                    pid = peer.pid(),
                    selectors = selectors.len(),
                    "PID attested to have selectors"
                );
                Ok(selectors)
            }
            Err(error) => {
                timer.done("Unavailable");
                self.metrics.refusals.inc(&["attestation_failed"]);
                tracing::error!(pid = peer.pid(), error = %error, "Workload attestation failed");
                Err(failed())
            }
        }
    }

    /// How many callers wait for their turn.
    pub fn waiting(&self) -> usize {
        self.turns.waiting()
    }

    /// Counts what an attestor found, and notes it for the call.
    fn note(&self, finding: &Finding) {
        let (attestor, took) = (finding.attestor, finding.took);
        let status = if finding.result.is_ok() { "OK" } else { "Unknown" };
        self.metrics.attestor.observe(&[attestor], status, took);
        trace::step("workload_attestor", took, || match &finding.result {
            Ok(selectors) => format!("{attestor}: {} selectors", selectors.len()),
            Err(error) => format!("{attestor}: {error}"),
        });
    }

    /// Entries match, but no valid SVID of them is at hand.
    pub fn no_valid_svid(&self, matched: usize) -> Status {
        self.metrics.refusals.inc(&["no_valid_svid"]);
        Status::unavailable(format!(
            "{matched} registration entries match, but no valid X509-SVID of them is at hand; the \
             agent keeps asking its server"
        ))
    }

    /// The refusal of a caller that no entry matches. It names no entry and no selector, but how
    /// whoever runs this node can find out.
    pub fn no_identity(&self, caller: &Caller, selectors: &SelectorSet) -> Status {
        let pid = caller.pid();
        if !caller.is_self() {
            self.metrics.refusals.inc(&["no_identity_issued"]);
            self.refusals.note(pid, selectors, self.clock.unix());
            let loggable = self.loggable(selectors);
            tracing::error!(
                pid,
                registered = false,
                selectors = (!loggable.is_empty()).then_some(loggable),
                r#type = "audit",
                "No identity issued"
            );
        }
        let ask = match &self.admin_socket {
            AdminSocket::Default => {
                format!("`signet-agent explain -pid {pid}` on this node says why")
            }
            AdminSocket::At(path) => format!(
                "`signet-agent explain -pid {pid} -socketPath {}` on this node says why",
                path.display()
            ),
            AdminSocket::None => format!(
                "`signet-agent explain -pid {pid}` on this node says why, once the agent has an \
                 admin_socket_path"
            ),
        };
        Status::permission_denied(format!("no identity issued; {ask}"))
    }

    /// The refusal of a broker that named an object which no entry matches.
    pub fn no_identity_of(&self, object: &str, selectors: &SelectorSet) -> Status {
        self.metrics.refusals.inc(&["no_identity_issued"]);
        let loggable = self.loggable(selectors);
        tracing::error!(
            object,
            registered = false,
            selectors = (!loggable.is_empty()).then_some(loggable),
            r#type = "audit",
            "No identity issued"
        );
        Status::permission_denied(format!(
            "no identity issued; `signet-agent explain` with selectors of {object} on this node says \
             what is lacking"
        ))
    }

    fn loggable(&self, selectors: &SelectorSet) -> String {
        let mut out = String::new();
        for selector in selectors {
            let text = selector.to_string();
            let allowed = self.log_selectors.iter().any(|prefix| {
                text.strip_prefix(prefix.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
            });
            if allowed {
                if !out.is_empty() {
                    out.push(',');
                }
                out.push_str(&text);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use signet_daemon::metrics::Metrics;

    use super::*;

    #[test]
    fn only_selectors_with_an_allowed_prefix_are_logged() {
        let attestor = CallerAttestor::new(
            WorkloadAttestors::new(Vec::new(), Duration::from_secs(1)),
            vec!["unix:uid".into(), "k8s:ns:default".into()],
            AgentMetrics::new(&Metrics::detached()),
            AdminSocket::None,
            signet_base::SystemClock::shared(),
        );
        let all = ["k8s:ns:default", "k8s:ns:default2", "unix:uid:1", "unix:user:x"];
        let set: SelectorSet = all.iter().map(|s| s.parse().unwrap()).collect();
        assert_eq!(attestor.loggable(&set), "k8s:ns:default,unix:uid:1");
    }
}
