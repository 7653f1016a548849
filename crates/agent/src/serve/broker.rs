//! The SPIFFE Broker API: SVIDs and bundles of workloads that a trusted component names.
//!
//! A broker proves itself by an X.509-SVID on mutual TLS, also on the Unix socket, and names a
//! workload by a reference; what the workload is, the agent finds out itself. A named process is
//! pinned: when it ends, so does what is served for it. A named object of Kubernetes is looked at again
//! before each new SVID, and every few minutes: what is gone, or forbidden by now, ends the stream.

mod listen;
mod named;

use std::{collections::BTreeMap, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use signet_api::{
    pb::broker::{self as pb, api_server::ApiServer},
    reflection::with_reflection,
};
use signet_attest::procfs::ProcRoot;
use signet_base::CancellationToken;
use signet_identity::{SelectorSet, SpiffeId};
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status};

use crate::{
    audit::{Audit, BROKER, Call},
    cache::{BundleMap, Subscription, WorkloadUpdate},
    caller::Caller,
    config::{BrokerRights, BrokerSettings, Transports},
    jwt::JwtService,
    serve::workload_api::{check_audience, jwt_bundles, x509_bundle},
    server_sets::Issuers,
    status::View,
    workload::CallerAttestor,
};

pub(crate) use listen::{MODES, serve};
use named::Named;

/// The gRPC service.
const SERVICE: &str = "spiffe.broker.API";
/// How often a named object is looked at while nothing changes.
const LOOK: Duration = Duration::from_secs(300);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service.
#[derive(Clone)]
pub struct Broker(Arc<Inner>);

struct Inner {
    view: View,
    attestor: Arc<CallerAttestor>,
    jwt: Arc<Issuers<JwtService>>,
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
    over_tcp: bool,
}

/// The workload that a request names.
struct Workload {
    call: Call,
    broker: SpiffeId,
    named: Named,
    selectors: SelectorSet,
}

/// The identities of a workload as they change.
struct Following {
    service: Broker,
    workload: Workload,
    subscription: Subscription,
    first: bool,
}

impl Broker {
    /// The service of an agent with these parts.
    pub fn new(
        settings: BrokerSettings,
        view: View,
        attestor: Arc<CallerAttestor>,
        jwt: Arc<Issuers<JwtService>>,
        audit: Audit,
        proc_root: ProcRoot,
        stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner { view, attestor, jwt, audit, proc_root, settings, stop }))
    }

    /// What was configured.
    pub(crate) fn settings(&self) -> &BrokerSettings {
        &self.0.settings
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
        let peer = request.extensions().get::<Peer>();
        let peer = peer.ok_or_else(|| Status::unauthenticated("the broker is not known"))?;
        let call = Call {
            broker: Some(peer.id.clone()),
            ..Call::new(BROKER, method, peer.caller.clone())
        };
        let named = self.0.audit.outcome(&call, self.named(peer, reference))?;
        let call = named.subject_of(call);
        let selectors = self.attest(&peer.id, &named).await;
        let selectors = self.0.audit.outcome(&call, selectors)?;
        Ok(Workload { call, broker: peer.id.clone(), named, selectors })
    }

    /// What a reference names, if the broker may name it so.
    fn named(
        &self,
        peer: &Peer,
        reference: Option<&pb::WorkloadReference>,
    ) -> Result<Named, Status> {
        let reference = reference.and_then(|reference| reference.reference.as_ref());
        let reference = reference.filter(|reference| !reference.type_url.is_empty());
        let reference = reference
            .ok_or_else(|| Status::invalid_argument("workload reference must be provided"))?;
        let type_url = &reference.type_url;
        let shown = || type_url.chars().take(128).collect::<String>();
        let id = &peer.id;
        match self.rights(id).and_then(|rights| rights.of(type_url)) {
            None => Err(Status::permission_denied(format!(
                "broker \"{id}\" is not allowed to use reference type \"{}\"",
                shown()
            ))),
            Some(Transports::Unix) if peer.over_tcp => Err(Status::permission_denied(format!(
                "reference type \"{}\" is not allowed over TCP for broker \"{id}\"",
                shown()
            ))),
            Some(_) => Named::read(type_url, reference.value.as_ref(), &self.0.proc_root),
        }
    }

    /// The selectors of what `broker` names, as it is now.
    async fn attest(&self, broker: &SpiffeId, named: &Named) -> Result<SelectorSet, Status> {
        let attestors = self.0.attestor.attestors();
        let attested = attestors.attest_reference(broker, named.reference()?).await;
        attested.map_err(|error| {
            tracing::error!(%named, %error, %broker, "Workload attestation failed");
            match named.is_alive() {
                true => named::status(&error),
                false => ended(),
            }
        })
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
                    () = workload.named.exited() => Err(ended()),
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
        let (attestor, selectors) = (&self.0.attestor, &workload.selectors);
        match &workload.named {
            Named::Object(_) => attestor.no_identity_of(&workload.named.to_string(), selectors),
            Named::Process(process) => attestor.no_identity(process, selectors),
        }
    }
}

impl Following {
    /// The next update, of the workload as it is then.
    async fn next(&mut self) -> Result<Arc<WorkloadUpdate>, Status> {
        loop {
            let update = tokio::select! {
                update = self.subscription.next() => Some(update.ok_or_else(stopping)?),
                () = self.workload.named.exited() => return Err(ended()),
                () = self.service.0.stop.cancelled() => return Err(stopping()),
                () = tokio::time::sleep(LOOK), if self.workload.named.is_object() => None,
            };
            let is_new = std::mem::take(&mut self.first) || !self.workload.named.is_object();
            if !is_new {
                let Workload { broker, named, selectors, .. } = &mut self.workload;
                match self.service.attest(broker, named).await {
                    Ok(now) if now != *selectors => {
                        self.subscription = self.service.0.view.cache.subscribe(now.clone());
                        *selectors = now;
                        continue;
                    }
                    Ok(_) => {}
                    // Nothing is handed out meanwhile, and nothing is taken back for that.
                    Err(status) if update.is_none() && !is_final(&status) => continue,
                    Err(status) => return Err(status),
                }
            }
            if let Some(update) = update {
                return Ok(update);
            }
        }
    }

    /// The next answer.
    async fn answer(&mut self) -> Result<pb::SubscribeToX509svidResponse, Status> {
        let update = self.next().await;
        let answer = update.and_then(|update| {
            let answer = x509_answer(&update);
            // As on the Workload API: whoever has none any more is told so.
            match answer.svids.is_empty() {
                true => Err(self.service.no_identity(&self.workload)),
                false => Ok((update, answer)),
            }
        });
        let (audit, call) = (&self.service.0.audit, &self.workload.call);
        let (update, answer) = audit.outcome(call, answer)?;
        audit.issued(call, |issued| {
            for one in update.identities.iter().filter(|one| one.entry.may_be_passed_on()) {
                issued.x509(&one.entry.id, &one.svid);
            }
        });
        Ok(answer)
    }
}

/// Whether asking again later is of no use.
fn is_final(status: &Status) -> bool {
    matches!(status.code(), Code::NotFound | Code::PermissionDenied | Code::InvalidArgument)
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
        let following = Following { service: self.clone(), workload, subscription, first: true };
        let answers = futures_util::stream::unfold(Some(following), |state| async move {
            let mut following = state?;
            match following.answer().await {
                Ok(answer) => Some((Ok(answer), Some(following))),
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
            match (found.is_empty(), workload.named.is_alive()) {
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

/// The service for a router, and its description.
fn routes(broker: Broker) -> tonic::service::Routes {
    let routes = tonic::service::Routes::new(ApiServer::new(broker));
    with_reflection(routes, [SERVICE]).prepare()
}
