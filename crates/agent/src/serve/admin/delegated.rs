//! The Delegated Identity API: identities of other workloads, for delegates the operator trusts.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use bytes::Bytes;
use signet_api::{
    convert,
    pb::spire::api::{
        agent::delegatedidentity::v1::{
            FetchJwtsviDsRequest, FetchJwtsviDsResponse, SubscribeToJwtBundlesRequest,
            SubscribeToJwtBundlesResponse, SubscribeToX509BundlesRequest,
            SubscribeToX509BundlesResponse, SubscribeToX509sviDsRequest,
            SubscribeToX509sviDsResponse, X509svidWithKey, delegated_identity_server,
        },
        types,
    },
};
use signet_attest::peer::PinnedPeer;
use signet_identity::SelectorSet;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::AdminContext;
use crate::{
    audit::{Call, DELEGATED_IDENTITY},
    cache::{BundleMap, Identity, WorkloadUpdate},
    entry::AgentEntry,
    jwt_cache::JwtSvid,
    serve::workload_api::{check_audience, jwt_bundles, x509_bundle},
    workload::CallerAttestor,
};

/// The most selectors one request may have.
const MAX_SELECTORS: usize = 1000;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Clone)]
pub(super) struct Delegated {
    context: Arc<AdminContext>,
}

/// A caller that is a delegate, with what it was attested to be.
#[derive(Clone)]
struct Delegate {
    call: Call,
    selectors: SelectorSet,
}

impl Delegated {
    pub(super) fn new(context: AdminContext) -> Self {
        Self { context: Arc::new(context) }
    }

    /// Attests the caller of `method` and checks that it is a delegate.
    async fn delegate<T>(
        &self,
        method: &'static str,
        pid: i32,
        request: &Request<T>,
    ) -> Result<Delegate, Status> {
        let caller = CallerAttestor::caller(request)?;
        let subject_pid = (pid != 0).then_some(pid);
        let call = Call { subject_pid, ..Call::new(DELEGATED_IDENTITY, method, caller) };
        let selectors = self.context.attestor.attest(&call.caller).await;
        let selectors = self.context.audit.outcome(&call, selectors)?;
        let delegate = Delegate { call, selectors };
        self.authorize(&delegate)?;
        let call = delegate.call.named_by(request.metadata());
        Ok(Delegate { call, ..delegate })
    }

    /// Checks, with the entries as they are now, that the caller is a delegate.
    fn authorize(&self, delegate: &Delegate) -> Result<(), Status> {
        self.context.audit.outcome(&delegate.call, self.check(delegate))
    }

    fn check(&self, delegate: &Delegate) -> Result<(), Status> {
        let entries = self.context.view.cache.matching(&delegate.selectors);
        let Some(default) = entries.first() else {
            return Err(self
                .context
                .attestor
                .no_identity(&delegate.call.caller, &delegate.selectors));
        };
        if entries.iter().any(|entry| self.context.delegates.contains(&entry.spiffe_id)) {
            return Ok(());
        }
        tracing::error!(
            pid = delegate.call.caller.pid(),
            num_registered_entries = entries.len(),
            default_id = %default.spiffe_id,
            r#type = "audit",
            "Permission denied; caller not configured as an authorized delegate."
        );
        Err(Status::permission_denied("caller not configured as an authorized delegate"))
    }

    /// The selectors a delegate asks about: its own word, or those of the process it names.
    async fn subject(
        &self,
        delegate: &Delegate,
        selectors: &[types::Selector],
    ) -> Result<SelectorSet, Status> {
        let subject = self.selectors_of(delegate.call.subject_pid.unwrap_or(0), selectors).await;
        self.context.audit.outcome(&delegate.call, subject)
    }

    async fn selectors_of(
        &self,
        pid: i32,
        selectors: &[types::Selector],
    ) -> Result<SelectorSet, Status> {
        if (pid == 0) == selectors.is_empty() {
            return Err(Status::invalid_argument(
                "must provide either selectors or non-zero PID, but not both",
            ));
        }
        if !selectors.is_empty() {
            if selectors.len() > MAX_SELECTORS {
                return Err(Status::invalid_argument(format!(
                    "more than {MAX_SELECTORS} selectors"
                )));
            }
            return convert::selectors_from_pb(selectors)
                .map_err(|_| Status::invalid_argument("could not parse provided selectors"));
        }
        let failed = |error: &dyn std::fmt::Display| {
            tracing::error!(pid, error = %error, "Workload attestation failed");
            Status::unavailable("workload attestation failed")
        };
        let peer = PinnedPeer::from_named_pid(pid, &self.context.proc_root)
            .map_err(|error| failed(&error))?;
        self.context.attestor.attestors().attest(&peer).await.map_err(|error| failed(&error))
    }

    /// The JWT-SVIDs that a workload with `selectors` gets through a delegate.
    async fn jwt_svids(
        &self,
        delegate: &Delegate,
        selectors: &SelectorSet,
        audience: &[String],
    ) -> Result<Vec<(Arc<AgentEntry>, JwtSvid)>, Status> {
        let entries = self.context.view.cache.matching(selectors);
        let entries = entries.into_iter().filter(|entry| entry.may_be_passed_on());
        let found = self.context.jwt.fetch_all(entries, audience);
        let found = delegate.call.in_its_name(found).await?;
        if found.is_empty() {
            return Err(self.context.attestor.no_identity(&delegate.call.caller, selectors));
        }
        Ok(found)
    }

    /// A stream of answers made of all bundles, now and at each change.
    fn bundles<T: Send + 'static>(
        &self,
        delegate: Delegate,
        answer: fn(&BundleMap) -> Result<T, Status>,
    ) -> Answers<T> {
        let receiver = self.context.view.cache.watch_bundles();
        let state = Some((self.clone(), delegate, receiver, true));
        Box::pin(futures_util::stream::unfold(state, move |state| async move {
            let (service, delegate, mut receiver, first) = state?;
            if !first {
                let stopping = || Status::unavailable("the agent is stopping");
                let changed = tokio::select! {
                    changed = receiver.changed() => changed.map_err(|_| stopping()),
                    () = service.context.stop.cancelled() => Err(stopping()),
                };
                if let Err(status) = changed.and_then(|()| service.authorize(&delegate)) {
                    return Some((Err(status), None));
                }
            }
            let bundles = Arc::clone(&receiver.borrow_and_update());
            match answer(&bundles) {
                Ok(answer) => Some((Ok(answer), Some((service, delegate, receiver, false)))),
                Err(status) => Some((Err(status), None)),
            }
        }))
    }
}

#[tonic::async_trait]
impl delegated_identity_server::DelegatedIdentity for Delegated {
    type SubscribeToX509SVIDsStream = Answers<SubscribeToX509sviDsResponse>;
    type SubscribeToX509BundlesStream = Answers<SubscribeToX509BundlesResponse>;
    type SubscribeToJWTBundlesStream = Answers<SubscribeToJwtBundlesResponse>;

    async fn subscribe_to_x509svi_ds(
        &self,
        request: Request<SubscribeToX509sviDsRequest>,
    ) -> Result<Response<Self::SubscribeToX509SVIDsStream>, Status> {
        let pid = request.get_ref().pid;
        let delegate = self.delegate("SubscribeToX509SVIDs", pid, &request).await?;
        let selectors = self.subject(&delegate, &request.get_ref().selectors).await?;
        let subscription = self.context.view.cache.subscribe(selectors);
        let state = Some((self.clone(), delegate, subscription));
        let answers = futures_util::stream::unfold(state, |state| async move {
            let (service, delegate, mut subscription) = state?;
            let stopping = || Status::unavailable("the agent is stopping");
            let update = tokio::select! {
                update = subscription.next() => update.ok_or_else(stopping),
                () = service.context.stop.cancelled() => Err(stopping()),
            };
            let answer = update.and_then(|update| {
                service.authorize(&delegate)?;
                let served = update.identities.iter().filter(|one| one.entry.may_be_passed_on());
                service.context.audit.issued(&delegate.call, |issued| {
                    for Identity { entry, svid } in served {
                        issued.x509(&entry.id, svid);
                    }
                });
                Ok(x509_answer(&update))
            });
            match answer {
                Ok(answer) => Some((Ok(answer), Some((service, delegate, subscription)))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn subscribe_to_x509_bundles(
        &self,
        request: Request<SubscribeToX509BundlesRequest>,
    ) -> Result<Response<Self::SubscribeToX509BundlesStream>, Status> {
        let delegate = self.delegate("SubscribeToX509Bundles", 0, &request).await?;
        let answers = self.bundles(delegate, |bundles| {
            let ca_certificates = bundles
                .values()
                .map(|bundle| (bundle.trust_domain.id_string(), x509_bundle(bundle)))
                .collect();
            Ok(SubscribeToX509BundlesResponse { ca_certificates })
        });
        Ok(Response::new(answers))
    }

    async fn fetch_jwtsvi_ds(
        &self,
        request: Request<FetchJwtsviDsRequest>,
    ) -> Result<Response<FetchJwtsviDsResponse>, Status> {
        check_audience(&request.get_ref().audience)?;
        let pid = request.get_ref().pid;
        let delegate = self.delegate("FetchJWTSVIDs", pid, &request).await?;
        let request = request.into_inner();
        let selectors = self.subject(&delegate, &request.selectors).await?;
        let found = self.jwt_svids(&delegate, &selectors, &request.audience).await;
        let found = self.context.audit.outcome(&delegate.call, found)?;
        self.context.audit.issued(&delegate.call, |issued| {
            for (entry, svid) in &found {
                issued.jwt(&entry.id, svid, &request.audience);
            }
        });
        let svids = found.into_iter().map(|(entry, svid)| types::Jwtsvid {
            token: svid.token.to_string(),
            id: Some(convert::id_to_pb(&entry.spiffe_id)),
            expires_at: svid.expires_at.seconds(),
            issued_at: svid.issued_at.seconds(),
            hint: entry.hint.to_string(),
        });
        Ok(Response::new(FetchJwtsviDsResponse { svids: svids.collect() }))
    }

    async fn subscribe_to_jwt_bundles(
        &self,
        request: Request<SubscribeToJwtBundlesRequest>,
    ) -> Result<Response<Self::SubscribeToJWTBundlesStream>, Status> {
        let delegate = self.delegate("SubscribeToJWTBundles", 0, &request).await?;
        let answers = self.bundles(delegate, |bundles| {
            let bundles = bundles
                .values()
                .map(|bundle| Ok((bundle.trust_domain.id_string(), jwt_bundles(bundle)?)))
                .collect::<Result<BTreeMap<String, Bytes>, Status>>()?;
            Ok(SubscribeToJwtBundlesResponse { bundles })
        });
        Ok(Response::new(answers))
    }
}

/// All identities of an update but those of administrators and downstream servers; no match is an
/// empty answer, not a refusal.
fn x509_answer(update: &WorkloadUpdate) -> SubscribeToX509sviDsResponse {
    let x509_svids = update
        .identities
        .iter()
        .filter(|identity| identity.entry.may_be_passed_on())
        .map(|identity| X509svidWithKey {
            x509_svid: Some(types::X509svid {
                cert_chain: identity
                    .svid
                    .chain
                    .iter()
                    .map(|der| Bytes::copy_from_slice(der))
                    .collect(),
                id: Some(convert::id_to_pb(&identity.entry.spiffe_id)),
                expires_at: identity.svid.not_after.seconds(),
                hint: identity.entry.hint.to_string(),
            }),
            x509_svid_key: identity.svid.key_bytes(),
        })
        .collect();
    let federates_with =
        update.federated.iter().map(|bundle| bundle.trust_domain.id_string()).collect();
    SubscribeToX509sviDsResponse { x509_svids, federates_with }
}
