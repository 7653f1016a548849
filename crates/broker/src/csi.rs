//! The provider of the Secrets Store CSI driver: credentials as files of a pod, in memory, without
//! a Kubernetes Secret.
//!
//! The evidence is the pod's own service account token for the broker's audience, which the driver
//! hands over (`tokenRequests` of the CSIDriver), and which the API server reviews: it is bound to
//! the pod and dies with it. The identity is the SPIFFE ID of the service account; it must be a
//! registered one, and what was handed out ends with it.

mod objects;

use std::{fmt, path::Path, sync::Arc};

use bytes::Bytes;
use serde_json::{Map, Value};
use signet_api::pb::secretsstore::v1alpha1::{
    File, MountRequest, MountResponse, ObjectVersion, VersionRequest, VersionResponse,
    csi_driver_provider_server::{CsiDriverProvider, CsiDriverProviderServer},
};
use signet_audit::{AuditEvent, Caller as AuditCaller, Field, Outcome, Sink};
use signet_base::{Tasks, chain};
use signet_daemon::listen::{ListenError, UnixOptions, bind_unix};
use signet_identity::{SpiffeId, TrustDomain};
use signet_k8s::ApiServer;
use signet_pki::{jwt, random};
use signet_time::UnixTime;
use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status};

use self::objects::Object;
use crate::{
    caller::Caller,
    issue::{Ask, Issuer},
    reason::{Denial, Reason},
};

/// The longest attributes, bytes: a token is in them.
const MAX_ATTRIBUTES: usize = 256 * 1024;
/// The most files of one volume.
const MAX_OBJECTS: usize = 64;
/// The largest answer, bytes: with more the driver's own gRPC would fail.
const MAX_FILES: usize = 1 << 20;
/// How the attributes name the pod.
const POD: &str = "csi.storage.k8s.io/pod.name";
const NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
const UID: &str = "csi.storage.k8s.io/pod.uid";
const ACCOUNT: &str = "csi.storage.k8s.io/serviceAccount.name";
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";
/// How a reviewed token names its pod.
const TOKEN_POD: &str = "authentication.kubernetes.io/pod-name";
const TOKEN_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Answers the driver.
#[derive(Clone)]
pub struct Provider {
    /// Hands out.
    pub issuer: Issuer,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The path of a service account's identity, with `{namespace}` and `{name}`.
    pub path_template: String,
    /// The namespaces that are served; all when there are none.
    pub namespaces: Vec<String>,
    /// The audience of the pods' tokens.
    pub audience: String,
    /// The cluster.
    pub api: Arc<ApiServer>,
    /// Where decisions are recorded.
    pub audit: Arc<dyn Sink>,
}

/// What the attributes say of the pod.
struct Pod {
    name: String,
    namespace: String,
    uid: String,
    account: String,
    token: String,
}

/// Serves the provider on its Unix socket until the tasks end. Only root may connect: the driver is.
///
/// # Errors
/// [`ListenError`] when the socket cannot be bound.
pub async fn serve(path: &Path, provider: Provider, tasks: &Tasks) -> Result<(), ListenError> {
    let options = UnixOptions { dir_mode: Some(0o755), socket_mode: 0o600, take_over: true };
    let socket = bind_unix(path, options).await?;
    tracing::info!(socket = %path.display(), "Serving the Secrets Store CSI driver");
    let token = tasks.token().clone();
    let incoming = tokio_stream::wrappers::ReceiverStream::new({
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        let stop = token.clone();
        tasks.spawn("csi_provider_accept", async move {
            let accepting = async {
                loop {
                    match socket.accept().await {
                        Ok(stream) => {
                            if sender.send(stream).await.is_err() {
                                return;
                            }
                        }
                        Err(error) => {
                            tracing::warn!(%error, "Cannot accept the CSI driver");
                            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                        }
                    }
                }
            };
            stop.run_until_cancelled(accepting).await;
        });
        receiver
    });
    let service = CsiDriverProviderServer::new(provider);
    let routes = tonic::service::Routes::new(service).prepare();
    let connections = tasks.clone();
    let mut incoming = incoming;
    tasks.spawn("csi_provider", async move {
        while let Some(stream) = incoming.next().await {
            let routes = routes.clone();
            let token = connections.token().clone();
            connections.spawn("csi_provider", async move {
                let service = hyper_util::service::TowerToHyperService::new(routes);
                let executor = hyper_util::rt::TokioExecutor::new();
                let served = hyper::server::conn::http2::Builder::new(executor)
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service);
                if let Some(Err(error)) = token.run_until_cancelled(served).await {
                    tracing::debug!(%error, "The CSI driver's connection failed");
                }
            });
        }
    });
    Ok(())
}

#[tonic::async_trait]
impl CsiDriverProvider for Provider {
    async fn version(
        &self,
        _request: Request<VersionRequest>,
    ) -> Result<Response<VersionResponse>, Status> {
        Ok(Response::new(VersionResponse {
            version: "v1alpha1".to_owned(),
            runtime_name: "signet-broker".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn mount(
        &self,
        request: Request<MountRequest>,
    ) -> Result<Response<MountResponse>, Status> {
        let request = request.into_inner();
        let correlation = random::uuid_v4().unwrap_or_default();
        let mut known = None;
        let result = self.volume(&request, &correlation, &mut known).await;
        self.record(known.as_ref(), &result, &correlation);
        match result {
            Ok((answer, _)) => Ok(Response::new(answer)),
            Err(denial) => {
                let text = format!("{denial} (request {correlation})");
                Err(match denial.reason.status() {
                    400 => Status::invalid_argument(text),
                    429 | 500.. => Status::unavailable(text),
                    _ => Status::permission_denied(text),
                })
            }
        }
    }
}

impl Provider {
    async fn volume(
        &self,
        request: &MountRequest,
        correlation: &str,
        known: &mut Option<SpiffeId>,
    ) -> Result<(MountResponse, Vec<String>), Denial> {
        let parameter = |text: String| Denial::new(Reason::Parameter, text);
        if request.attributes.len() > MAX_ATTRIBUTES {
            return Err(parameter(format!("attributes: more than {MAX_ATTRIBUTES} bytes")));
        }
        let attributes: Map<String, Value> = serde_json::from_str(&request.attributes)
            .map_err(|error| parameter(format!("attributes: {error}")))?;
        let mode: i32 = serde_json::from_str(&request.permission)
            .map_err(|error| parameter(format!("permission: {error}")))?;
        let objects = objects::read(&attributes, MAX_OBJECTS)?;
        let pod = Pod::read(&attributes, &self.audience)?;
        let caller = self.caller(&pod).await?;
        known.replace(caller.id.clone());

        let now = self.issuer.clock().unix();
        let leases = self.issuer.leases(&caller)?;
        let mut kept = Vec::new();
        for object in &objects {
            let current =
                request.current_object_version.iter().find(|version| version.id == object.path);
            let lease = current
                .and_then(|current| leases.iter().find(|lease| lease.lease_id == current.version));
            let Some(lease) = lease else { break };
            let half = lease.issued_at.midpoint(lease.expires_at);
            let lasts = now < half
                || (lease.bao_lease.is_some()
                    && self.issuer.renew(&caller, &lease.lease_id, correlation).await.is_ok());
            if !lasts {
                break;
            }
            kept.push(version(object, &lease.lease_id));
        }
        if kept.len() == objects.len() {
            // The files that are there go on.
            let answer = MountResponse { object_version: kept, error: None, files: Vec::new() };
            return Ok((answer, Vec::new()));
        }
        let (mut versions, mut files, mut drawn) = (Vec::new(), Vec::new(), Vec::new());
        let mut size = 0;
        for object in &objects {
            let issued = self
                .issuer
                .issue(&caller, &object.credential, &Ask::default(), correlation)
                .await?;
            let contents = object.contents(&issued.data)?;
            size += contents.len();
            if size > MAX_FILES {
                return Err(parameter(format!("the files have more than {MAX_FILES} bytes")));
            }
            versions.push(version(object, &issued.lease.lease_id));
            drawn.push(issued.lease.lease_id);
            files.push(File { path: object.path.clone(), mode, contents: Bytes::from(contents) });
        }
        Ok((MountResponse { object_version: versions, error: None, files }, drawn))
    }

    /// Who the pod is, by its token: the API server's word, compared with the driver's.
    async fn caller(&self, pod: &Pod) -> Result<Caller, Denial> {
        if !(self.namespaces.is_empty() || self.namespaces.contains(&pod.namespace)) {
            let text = format!("pods of the namespace {} are not served", pod.namespace);
            return Err(Denial::new(Reason::Unattested, text));
        }
        let audiences = [self.audience.clone()];
        let status = self.api.review_token(&pod.token, &audiences).await.map_err(|error| {
            Denial::new(
                Reason::ServerUnavailable,
                format!("reviewing the token: {}", chain(&error)),
            )
        })?;
        if !status.authenticated || !status.audiences.contains(&self.audience) {
            let text = "the API server does not take the pod's token for this audience";
            return Err(Denial::new(Reason::TokenSignature, text));
        }
        let extra = |key: &str| match status.user.extra.get(key).map(Vec::as_slice) {
            Some([one]) => one.as_str(),
            _ => "",
        };
        let username = format!("system:serviceaccount:{}:{}", pod.namespace, pod.account);
        let same = status.user.username == username
            && extra(TOKEN_POD) == pod.name
            && extra(TOKEN_UID) == pod.uid
            && !pod.uid.is_empty();
        if !same {
            let text = "the token is another pod's, or none of a pod's";
            return Err(Denial::new(Reason::EvidenceDisagrees, text));
        }
        let path = self
            .path_template
            .replace("{namespace}", &pod.namespace)
            .replace("{name}", &pod.account);
        let id = SpiffeId::new(self.trust_domain.clone(), &path)
            .map_err(|error| Denial::new(Reason::ReservedPath, error.to_string()))?;
        // The API server has just checked the token: its times are the token's own.
        let issued_at =
            jwt::peek_claims(&pod.token).map_or(UnixTime::EPOCH, |claims| claims.issued_at);
        Ok(Caller { id, tenant: None, claims: None, via: "service_account", issued_at })
    }

    fn record(
        &self,
        id: Option<&SpiffeId>,
        result: &Result<(MountResponse, Vec<String>), Denial>,
        correlation: &str,
    ) {
        let reason = result.as_ref().err().map_or("ok", |denial| denial.reason.code());
        self.issuer.metrics().requests.inc(&["MountVolume", reason]);
        let who = AuditCaller {
            id: id.cloned(),
            authorized_via: Some("service_account"),
            ..AuditCaller::default()
        };
        let mut event = AuditEvent::new(who, "broker", "MountVolume");
        event.message = "Credential decision";
        event.request_id = correlation.into();
        match result {
            Ok((_, drawn)) => {
                event.fields.extend(drawn.iter().take(1).cloned().map(Field::LeaseId));
            }
            Err(denial) => {
                event.outcome =
                    Outcome::Failure { code: "PermissionDenied", reason: denial.to_string() };
            }
        }
        self.audit.record(&event);
    }
}

impl Pod {
    fn read(attributes: &Map<String, Value>, audience: &str) -> Result<Self, Denial> {
        let text = |key: &str| {
            attributes.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).ok_or_else(
                || Denial::new(Reason::Parameter, format!("attributes: {key} is missing")),
            )
        };
        let tokens = text(TOKENS).map_err(|_| {
            Denial::new(
                Reason::NoEvidence,
                format!("no token of the pod: the driver needs tokenRequests for {audience:?}"),
            )
        })?;
        let tokens: Map<String, Value> = serde_json::from_str(tokens)
            .map_err(|_| Denial::new(Reason::Parameter, format!("{TOKENS}: expected JSON")))?;
        let token = tokens.get(audience).and_then(|token| token.get("token"));
        let Some(token) = token.and_then(Value::as_str) else {
            let text = format!("the driver has no token of the pod for {audience:?}");
            return Err(Denial::new(Reason::NoEvidence, text));
        };
        Ok(Self {
            name: text(POD)?.to_owned(),
            namespace: text(NAMESPACE)?.to_owned(),
            uid: text(UID)?.to_owned(),
            account: text(ACCOUNT)?.to_owned(),
            token: token.to_owned(),
        })
    }
}

fn version(object: &Object, lease: &str) -> ObjectVersion {
    ObjectVersion { id: object.path.clone(), version: lease.to_owned() }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider").field("audience", &self.audience).finish_non_exhaustive()
    }
}
