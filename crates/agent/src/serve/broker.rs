//! The SPIFFE Broker API: SVIDs and bundles of workloads that a trusted component names.
//!
//! A broker proves itself by an X.509-SVID on mutual TLS, also on the Unix socket, and names a
//! workload by a reference; what the workload is, the agent finds out itself. A named process is
//! pinned: when it ends, so does what is served for it.

mod listen;

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use bytes::Bytes;
use prost::Message as _;
use signet_api::pb::broker::{self as pb, api_server::ApiServer};
use signet_attest::{
    peer::{PeerError, PinnedPeer},
    procfs::ProcRoot,
};
use signet_base::CancellationToken;
use signet_identity::{SelectorSet, SpiffeId};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::{
    audit::{Audit, BROKER, Call},
    cache::{BundleMap, WorkloadUpdate},
    caller::Caller,
    config::{BrokerRights, BrokerSettings, PID_REFERENCE},
    jwt::JwtService,
    serve::workload_api::{check_audience, jwt_bundles, x509_bundle},
    sync::View,
    workload::CallerAttestor,
};

pub(crate) use listen::{MODES, serve};

/// What each request must carry, with the value `true` (SPIFFE Broker Endpoint, section 4).
const SECURITY_HEADER: &str = "broker.spiffe.io";

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service.
#[derive(Clone)]
pub struct Broker(Arc<Inner>);

struct Inner {
    view: View,
    attestor: Arc<CallerAttestor>,
    jwt: Arc<JwtService>,
    audit: Audit,
    proc_root: ProcRoot,
    settings: BrokerSettings,
    stop: CancellationToken,
}

/// A broker at the other end of a connection, in the extensions of each of its requests.
#[derive(Clone, Debug)]
struct Peer {
    id: SpiffeId,
    caller: Caller,
}

/// The workload that a request names.
struct Workload {
    call: Call,
    /// The process, pinned.
    process: Caller,
    selectors: SelectorSet,
}

impl Workload {
    fn is_alive(&self) -> bool {
        self.process.peer().is_ok_and(PinnedPeer::is_alive)
    }

    async fn exited(&self) {
        if let Ok(peer) = self.process.peer() {
            peer.exited().await;
        }
    }
}

impl Broker {
    /// The service of an agent with these parts.
    pub fn new(
        settings: BrokerSettings,
        view: View,
        attestor: Arc<CallerAttestor>,
        jwt: Arc<JwtService>,
        audit: Audit,
        proc_root: ProcRoot,
        stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner { view, attestor, jwt, audit, proc_root, settings, stop }))
    }

    fn rights(&self, id: &SpiffeId) -> Option<BrokerRights> {
        self.0.settings.brokers.get(id).copied()
    }

    /// Finds out what the workload is that a request of `method` names.
    async fn workload<T>(
        &self,
        method: &'static str,
        request: &Request<T>,
        reference: Option<&pb::WorkloadReference>,
    ) -> Result<Workload, Status> {
        let header = request.metadata().get(SECURITY_HEADER);
        if header.is_none_or(|value| value.as_bytes() != b"true") {
            return Err(Status::invalid_argument("security header missing from request"));
        }
        let peer = request.extensions().get::<Peer>();
        let peer = peer.ok_or_else(|| Status::unauthenticated("the broker is not known"))?;
        let call = Call {
            broker: Some(peer.id.clone()),
            ..Call::new(BROKER, method, peer.caller.clone())
        };
        let named = self.named(&peer.id, reference);
        let (pid, process) = self.0.audit.outcome(&call, named)?;
        let call = Call { subject_pid: Some(pid), ..call };
        let selectors = self.0.attestor.attestors().attest(&process).await.map_err(|error| {
            tracing::error!(pid, error = %error, broker = %peer.id, "Workload attestation failed");
            match process.is_alive() {
                true => Status::unavailable("workload attestation failed"),
                false => Status::not_found("the process has ended"),
            }
        });
        let selectors = self.0.audit.outcome(&call, selectors)?;
        Ok(Workload { call, process: Caller::new(Ok(process), false), selectors })
    }

    /// The process that a reference names, if the broker may name it so.
    fn named(
        &self,
        id: &SpiffeId,
        reference: Option<&pb::WorkloadReference>,
    ) -> Result<(i32, PinnedPeer), Status> {
        let reference = reference.and_then(|reference| reference.reference.as_ref());
        let reference = reference.filter(|reference| !reference.type_url.is_empty());
        let reference = reference
            .ok_or_else(|| Status::invalid_argument("workload reference must be provided"))?;
        let allowed = self.rights(id).is_some_and(|rights| rights.by_pid);
        if reference.type_url != PID_REFERENCE || !allowed {
            return Err(Status::permission_denied(format!(
                "broker \"{id}\" is not allowed to use reference type \"{}\"",
                reference.type_url.chars().take(128).collect::<String>()
            )));
        }
        let pb::WorkloadPidReference { pid } =
            pb::WorkloadPidReference::decode(reference.value.as_ref())
                .map_err(|_| Status::invalid_argument("malformed workload reference"))?;
        if pid <= 0 {
            return Err(Status::invalid_argument("pid must be above 0"));
        }
        let process = PinnedPeer::from_named_pid(pid, &self.0.proc_root);
        let process = process.map_err(|error: PeerError| {
            tracing::debug!(pid, error = %error, "A broker named a process that is not there");
            Status::not_found("there is no such process")
        })?;
        Ok((pid, process))
    }

    /// Answers made of all bundles, now and at each change, while the workload lives.
    fn bundles<T: Send + 'static>(
        &self,
        workload: Workload,
        answer: fn(&BundleMap) -> Result<T, Status>,
    ) -> Answers<T> {
        let receiver = self.0.view.cache.watch_bundles();
        let state = Some((self.clone(), workload, receiver, true));
        Box::pin(futures_util::stream::unfold(state, move |state| async move {
            let (service, workload, mut receiver, first) = state?;
            if !first {
                let changed = tokio::select! {
                    changed = receiver.changed() => changed.map_err(|_| stopping()),
                    () = workload.exited() => Err(ended()),
                    () = service.0.stop.cancelled() => Err(stopping()),
                };
                if let Err(status) = changed {
                    return Some((Err(status), None));
                }
            }
            let bundles = Arc::clone(&receiver.borrow_and_update());
            match answer(&bundles) {
                Ok(answer) => Some((Ok(answer), Some((service, workload, receiver, false)))),
                Err(status) => Some((Err(status), None)),
            }
        }))
    }

    fn no_identity(&self, workload: &Workload) -> Status {
        self.0.attestor.no_identity(&workload.process, &workload.selectors)
    }
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("settings", &self.0.settings).finish_non_exhaustive()
    }
}

fn stopping() -> Status {
    Status::unavailable("the agent is stopping")
}

fn ended() -> Status {
    Status::not_found("the process has ended")
}

#[tonic::async_trait]
impl pb::api_server::Api for Broker {
    type SubscribeToX509SVIDStream = Answers<pb::SubscribeToX509svidResponse>;
    type SubscribeToX509BundlesStream = Answers<pb::SubscribeToX509BundlesResponse>;
    type SubscribeToJWTBundlesStream = Answers<pb::SubscribeToJwtBundlesResponse>;

    async fn subscribe_to_x509svid(
        &self,
        request: Request<pb::SubscribeToX509svidRequest>,
    ) -> Result<Response<Self::SubscribeToX509SVIDStream>, Status> {
        let reference = request.get_ref().reference.as_ref();
        let workload = self.workload("SubscribeToX509SVID", &request, reference).await?;
        let subscription = self.0.view.cache.subscribe(workload.selectors.clone());
        let state = Some((self.clone(), workload, subscription));
        let answers = futures_util::stream::unfold(state, |state| async move {
            let (service, workload, mut subscription) = state?;
            let update = tokio::select! {
                update = subscription.next() => update.ok_or_else(stopping),
                () = workload.exited() => Err(ended()),
                () = service.0.stop.cancelled() => Err(stopping()),
            };
            let answer = update.and_then(|update| {
                let answer = x509_answer(&update);
                // As on the Workload API: whoever has none any more is told so.
                let answer = match answer.svids.is_empty() {
                    true => Err(service.no_identity(&workload)),
                    false => Ok(answer),
                };
                let answer = service.0.audit.outcome(&workload.call, answer)?;
                service.0.audit.issued(&workload.call, |issued| {
                    let served =
                        update.identities.iter().filter(|one| one.entry.may_be_passed_on());
                    for one in served {
                        issued.x509(&one.entry.id, &one.svid);
                    }
                });
                Ok(answer)
            });
            match answer {
                Ok(answer) => Some((Ok(answer), Some((service, workload, subscription)))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn subscribe_to_x509_bundles(
        &self,
        request: Request<pb::SubscribeToX509BundlesRequest>,
    ) -> Result<Response<Self::SubscribeToX509BundlesStream>, Status> {
        let reference = request.get_ref().reference.as_ref();
        let workload = self.workload("SubscribeToX509Bundles", &request, reference).await?;
        let answers = self.bundles(workload, |bundles| {
            let bundles = bundles
                .values()
                .map(|bundle| (bundle.trust_domain.id_string(), x509_bundle(bundle)))
                .collect();
            Ok(pb::SubscribeToX509BundlesResponse { crl: Vec::new(), bundles })
        });
        Ok(Response::new(answers))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<pb::FetchJwtsvidRequest>,
    ) -> Result<Response<pb::FetchJwtsvidResponse>, Status> {
        check_audience(&request.get_ref().audience)?;
        let reference = request.get_ref().reference.as_ref();
        let workload = self.workload("FetchJWTSVID", &request, reference).await?;
        let request = request.into_inner();
        let entries = self.0.view.cache.matching(&workload.selectors);
        let entries = entries.into_iter().filter(|entry| {
            let wanted = &request.spiffe_id;
            entry.may_be_passed_on()
                && (wanted.is_empty() || entry.spiffe_id.to_string() == *wanted)
        });
        let found = self.0.jwt.fetch_all(entries, &request.audience);
        let found = workload.call.in_its_name(found).await.and_then(|found| {
            match (found.is_empty(), workload.is_alive()) {
                (_, false) => Err(ended()),
                (true, true) => Err(self.no_identity(&workload)),
                (false, true) => Ok(found),
            }
        });
        let found = self.0.audit.outcome(&workload.call, found)?;
        self.0.audit.issued(&workload.call, |issued| {
            for (entry, svid) in &found {
                issued.jwt(&entry.id, svid, &request.audience);
            }
        });
        let svids = found.into_iter().map(|(entry, svid)| pb::Jwtsvid {
            spiffe_id: entry.spiffe_id.to_string(),
            svid: svid.token.to_string(),
            hint: entry.hint.to_string(),
        });
        Ok(Response::new(pb::FetchJwtsvidResponse { svids: svids.collect() }))
    }

    async fn subscribe_to_jwt_bundles(
        &self,
        request: Request<pb::SubscribeToJwtBundlesRequest>,
    ) -> Result<Response<Self::SubscribeToJWTBundlesStream>, Status> {
        let reference = request.get_ref().reference.as_ref();
        let workload = self.workload("SubscribeToJWTBundles", &request, reference).await?;
        let answers = self.bundles(workload, |bundles| {
            let bundles = bundles
                .values()
                .map(|bundle| Ok((bundle.trust_domain.id_string(), jwt_bundles(bundle)?)))
                .collect::<Result<BTreeMap<String, Bytes>, Status>>()?;
            Ok(pb::SubscribeToJwtBundlesResponse { bundles })
        });
        Ok(Response::new(answers))
    }
}

/// All identities of an update but those of administrators and downstream servers.
fn x509_answer(update: &WorkloadUpdate) -> pb::SubscribeToX509svidResponse {
    let bundle = x509_bundle(&update.bundle);
    let svids = update
        .identities
        .iter()
        .filter(|identity| identity.entry.may_be_passed_on())
        .map(|identity| pb::X509svid {
            spiffe_id: identity.entry.spiffe_id.to_string(),
            x509_svid: Bytes::from(identity.svid.chain_der()),
            x509_svid_key: identity.svid.key_bytes(),
            bundle: bundle.clone(),
            hint: identity.entry.hint.to_string(),
        })
        .collect();
    let federated_bundles = update
        .federated
        .iter()
        .map(|bundle| (bundle.trust_domain.id_string(), x509_bundle(bundle)))
        .collect();
    pb::SubscribeToX509svidResponse { svids, crl: Vec::new(), federated_bundles }
}

/// The service for a router.
pub(crate) fn routes(broker: Broker) -> tonic::service::Routes {
    tonic::service::Routes::new(ApiServer::new(broker)).prepare()
}
