//! Why a workload on this node gets the identities it gets.

use signet_api::{
    convert,
    pb::signet::api::agent::explain::v1::{
        ExplainWorkloadRequest, ExplainWorkloadResponse, explain_server, explain_workload_response,
    },
};
use signet_attest::{peer::PinnedPeer, workload::Finding};
use signet_identity::{
    EntryId, Selector, SelectorSet,
    explain::{Candidate, workload},
};
use signet_time::UnixTime;
use tonic::{Request, Response, Status};

use super::AdminContext;
use crate::refusals::Refused;

/// The most selectors one may ask about.
const MAX_SELECTORS: usize = 1000;

/// What is known of a process.
enum Examined {
    /// What the attestors find now.
    There(Vec<Finding>),
    /// What they had found when it was refused.
    Gone(Refused),
}

pub(super) struct Explain {
    context: AdminContext,
}

impl Explain {
    pub(super) fn new(context: AdminContext) -> Self {
        Self { context }
    }

    async fn examine(&self, pid: i32) -> Result<Examined, Status> {
        let peer = match PinnedPeer::from_named_pid(pid, &self.context.proc_root) {
            Ok(peer) => peer,
            Err(error) => {
                let refused = self.context.attestor.refusals().of(pid);
                return refused.map(Examined::Gone).ok_or_else(|| {
                    Status::not_found(format!(
                        "process {pid}: {error}, and it is none of the last that were refused"
                    ))
                });
            }
        };
        let findings = self.context.attestor.attestors().examine(&peer).await;
        peer.verify().map_err(|error| Status::aborted(format!("process {pid}: {error}")))?;
        Ok(Examined::There(findings))
    }

    /// Why a matching entry is not (or not wholly) served.
    fn note(&self, id: &EntryId) -> (i64, String) {
        let view = &self.context.view;
        let snapshot = view.cache.snapshot();
        let now = view.clock.unix();
        match (snapshot.entries.get(id), snapshot.svids.get(id)) {
            (Some(entry), _) if entry.store_svid => {
                (0, "store_svid: its SVID goes to a secret store, not to workloads".to_owned())
            }
            (_, Some(svid)) if svid.expired(now) => (
                svid.not_after.seconds(),
                "its X509-SVID has expired and the server gave no new one".into(),
            ),
            (_, Some(svid)) => (svid.not_after.seconds(), String::new()),
            (Some(entry), None) if entry.disable_x509_svid_prefetch => {
                (0, "signed only when a workload asks".to_owned())
            }
            _ => (0, "no X509-SVID at hand; it is signed when a workload asks".to_owned()),
        }
    }
}

#[tonic::async_trait]
impl explain_server::Explain for Explain {
    async fn explain_workload(
        &self,
        request: Request<ExplainWorkloadRequest>,
    ) -> Result<Response<ExplainWorkloadResponse>, Status> {
        let request = request.into_inner();
        if (request.pid == 0) == request.selectors.is_empty() {
            return Err(Status::invalid_argument(
                "must provide either selectors or non-zero PID, but not both",
            ));
        }
        if request.selectors.len() > MAX_SELECTORS {
            return Err(Status::invalid_argument(format!("more than {MAX_SELECTORS} selectors")));
        }
        let mut attestors = Vec::new();
        let mut refused_at = UnixTime::EPOCH;
        let selectors: SelectorSet = if request.pid != 0 {
            let mut all: Vec<Selector> = Vec::new();
            let findings = match self.examine(request.pid).await? {
                Examined::There(findings) => findings,
                Examined::Gone(refused) => {
                    refused_at = refused.at;
                    all.extend(refused.selectors.iter().cloned());
                    Vec::new()
                }
            };
            for finding in findings {
                let (found, error) = match finding.result {
                    Ok(found) => (found, String::new()),
                    Err(error) => (Vec::new(), error.to_string()),
                };
                let found: SelectorSet = found.into_iter().collect();
                attestors.push(explain_workload_response::Attestor {
                    name: finding.attestor.to_owned(),
                    selectors: convert::selectors_to_pb(&found),
                    error,
                    duration_micros: i64::try_from(finding.took.as_micros()).unwrap_or(i64::MAX),
                });
                all.extend(found.iter().cloned());
            }
            all.into_iter().collect()
        } else {
            convert::selectors_from_pb(&request.selectors)
                .map_err(|error| Status::invalid_argument(error.to_string()))?
        };

        let view = &self.context.view;
        let entries = view.cache.entries();
        let candidates = entries.iter().map(|entry| Candidate {
            entry_id: entry.id.clone(),
            spiffe_id: entry.spiffe_id.clone(),
            selectors: entry.selectors.clone(),
        });
        let explanation = workload(&selectors, candidates);
        let hint = |id: &EntryId| {
            entries
                .iter()
                .find(|entry| entry.id == *id)
                .map(|entry| entry.hint.to_string())
                .unwrap_or_default()
        };
        let message = |candidate: &Candidate| explain_workload_response::Match {
            entry_id: candidate.entry_id.to_string(),
            spiffe_id: Some(convert::id_to_pb(&candidate.spiffe_id)),
            selectors: convert::selectors_to_pb(&candidate.selectors),
            hint: hint(&candidate.entry_id),
            ..Default::default()
        };
        let matches = explanation
            .matching
            .iter()
            .map(|candidate| {
                let (expires_at, note) = self.note(&candidate.entry_id);
                let base = message(candidate);
                explain_workload_response::Match { x509_svid_expires_at: expires_at, note, ..base }
            })
            .collect();
        let near_misses = explanation
            .near_misses
            .iter()
            .map(|miss| {
                let missing: SelectorSet =
                    miss.missing.iter().map(|selector| selector.wanted.clone()).collect();
                let notes: Vec<String> = miss.missing.iter().map(ToString::to_string).collect();
                explain_workload_response::Match {
                    missing: convert::selectors_to_pb(&missing),
                    note: notes.join("; "),
                    ..message(&miss.entry)
                }
            })
            .collect();
        let status = view.status.borrow().clone();
        Ok(Response::new(ExplainWorkloadResponse {
            agent_id: status.identity.as_ref().map(|identity| convert::id_to_pb(&identity.id)),
            attestors,
            selectors: convert::selectors_to_pb(&selectors),
            matches,
            near_misses,
            entries_known: u32::try_from(entries.len()).unwrap_or(u32::MAX),
            last_sync_success: status.last_sync.seconds(),
            server_reachable: status.server_reachable,
            refused_at: refused_at.seconds(),
        }))
    }
}
