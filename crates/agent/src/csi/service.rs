//! The CSI services Identity and Node, as the kubelet and its sidecars call them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use signet_api::pb::csi::v1::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest,
    GetPluginInfoResponse, NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse,
    NodeGetInfoRequest, NodeGetInfoResponse, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse,
    NodePublishVolumeRequest, NodePublishVolumeResponse, NodeServiceCapability,
    NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse, ProbeRequest, ProbeResponse,
    VolumeCapability, VolumeCondition, VolumeUsage,
    identity_server::{Identity, IdentityServer},
    node_server::{Node, NodeServer},
    node_service_capability::{Rpc, Type as CapabilityType, rpc::Type as RpcType},
    volume_capability::{AccessType, access_mode::Mode},
    volume_usage::Unit,
};
use tokio::sync::Mutex;
use tonic::{Code, Request, Response, Status, service::Routes};

use super::{
    CsiSettings,
    error::VolumeError,
    volume::{Condition, Published, Volumes},
};

/// The longest request, bytes; the kubelet's are a few hundred.
const MAX_REQUEST: usize = 64 * 1024;
/// The longest volume ID, bytes; the kubelet's have 68.
const MAX_VOLUME_ID: usize = 256;
/// How long a call waits for those before it. The kubelet itself waits for two minutes.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the system may take to mount or unmount.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(60);

/// The kubelet says by this that the volume is an ephemeral inline one; needs `podInfoOnMount` in
/// the `CSIDriver` object.
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";
const POD_NAME: &str = "csi.storage.k8s.io/pod.name";
const POD_NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";

/// The driver; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Driver(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    plugin_name: String,
    node_id: String,
    volumes: Volumes,
    /// One at a time: a publish and an unpublish of the same target must not mix.
    turn: Arc<Mutex<()>>,
}

impl Driver {
    pub(super) fn new(settings: &CsiSettings) -> Self {
        Self(Arc::new(Inner {
            plugin_name: settings.plugin_name().to_owned(),
            node_id: settings.node_id().to_owned(),
            volumes: Volumes::new(settings.workload_api_socket_dir(), settings.kubelet_dir()),
            turn: Arc::default(),
        }))
    }

    /// Both services.
    pub(super) fn routes(&self) -> Routes {
        let identity = IdentityServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST);
        let node = NodeServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST);
        Routes::new(identity).add_service(node)
    }

    /// Does slow work when it is its turn. It goes on when nobody waits for it any more; the
    /// kubelet asks again, and finds it done.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Volumes) -> Result<T, VolumeError> + Send + 'static,
    ) -> Result<T, Status> {
        let turn = Arc::clone(&self.0.turn).lock_owned();
        let turn = tokio::time::timeout(PATIENCE, turn)
            .await
            .map_err(|_| Status::aborted("another volume is being worked on; try again"))?;
        let inner = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&inner.volumes);
            drop(turn);
            result
        });
        match tokio::time::timeout(MOUNT_TIMEOUT, done).await {
            Ok(Ok(result)) => result.map_err(|error| status(&error)),
            Ok(Err(_)) => Err(Status::internal("the work on the volume was broken off")),
            Err(_) => Err(Status::deadline_exceeded("the system takes long; try again")),
        }
    }
}

#[tonic::async_trait]
impl Identity for Driver {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: self.0.plugin_name.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").to_owned(),
            manifest: BTreeMap::new(),
        }))
    }

    /// There is no controller service.
    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        Ok(Response::new(GetPluginCapabilitiesResponse::default()))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        let ready = Some(self.0.volumes.is_ready());
        Ok(Response::new(ProbeResponse { ready }))
    }
}

#[tonic::async_trait]
impl Node for Driver {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let request = request.into_inner();
        check_publish(&request).inspect_err(|status| {
            tracing::warn!(volume_id = ?request.volume_id, reason = status.message(),
                "Volume refused");
        })?;
        let target = request.target_path.clone();
        let pod = |key| request.volume_context.get(key).map(String::as_str).unwrap_or_default();
        let (name, namespace) = (pod(POD_NAME), pod(POD_NAMESPACE));
        match self.work(move |volumes| volumes.publish(&target)).await {
            Ok(published) => {
                let message = match published {
                    Published::Already => "Volume was already published",
                    Published::Now => "Volume published",
                    Published::Replaced => "Volume published in the place of another directory",
                };
                tracing::info!(
                    volume_id = request.volume_id,
                    target_path = request.target_path,
                    pod = name,
                    namespace,
                    "{message}"
                );
                Ok(Response::new(NodePublishVolumeResponse {}))
            }
            Err(status) => {
                tracing::error!(
                    volume_id = request.volume_id,
                    target_path = request.target_path,
                    pod = name,
                    namespace,
                    error = status.message(),
                    "Volume was not published"
                );
                Err(status)
            }
        }
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        check_id(&request.volume_id)?;
        check_path("target_path", &request.target_path)?;
        let target = request.target_path.clone();
        match self.work(move |volumes| volumes.unpublish(&target)).await {
            Ok(there) => {
                let message = if there { "Volume unpublished" } else { "Volume was not there" };
                tracing::info!(
                    volume_id = request.volume_id,
                    target_path = request.target_path,
                    "{message}"
                );
                Ok(Response::new(NodeUnpublishVolumeResponse {}))
            }
            Err(status) => {
                tracing::error!(
                    volume_id = request.volume_id,
                    target_path = request.target_path,
                    error = status.message(),
                    "Volume was not unpublished"
                );
                Err(status)
            }
        }
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Result<Response<NodeGetVolumeStatsResponse>, Status> {
        let request = request.into_inner();
        check_id(&request.volume_id)?;
        check_path("volume_path", &request.volume_path)?;
        let path = request.volume_path.clone();
        let condition = self.work(move |volumes| volumes.condition(&path)).await;
        // What cannot be a volume's path is no volume of ours.
        let condition = condition.map_err(|status| match status.code() {
            Code::InvalidArgument => Status::not_found(status.message()),
            _ => status,
        })?;
        let (abnormal, message) = match condition {
            Condition::Good => (false, "mounted".to_owned()),
            Condition::Bad(sentence) => {
                tracing::warn!(
                    volume_id = request.volume_id,
                    volume_path = request.volume_path,
                    reason = sentence,
                    "Volume is unhealthy"
                );
                (true, sentence)
            }
        };
        // Sockets take no room. Without any usage the kubelet logs an error every minute.
        let usage = VolumeUsage { unit: Unit::Bytes.into(), ..VolumeUsage::default() };
        Ok(Response::new(NodeGetVolumeStatsResponse {
            usage: vec![usage],
            volume_condition: Some(VolumeCondition { abnormal, message }),
        }))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        let capabilities = [RpcType::VolumeCondition, RpcType::GetVolumeStats]
            .map(|kind| NodeServiceCapability {
                r#type: Some(CapabilityType::Rpc(Rpc { r#type: kind.into() })),
            })
            .to_vec();
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.0.node_id.clone(),
            max_volumes_per_node: 0,
        }))
    }
}

fn check_publish(request: &NodePublishVolumeRequest) -> Result<(), Status> {
    let invalid = |sentence: &str| Err(Status::invalid_argument(sentence));
    check_id(&request.volume_id)?;
    check_path("target_path", &request.target_path)?;
    let Some(capability) = &request.volume_capability else {
        return invalid("volume_capability is missing");
    };
    check_capability(capability)?;
    if !request.readonly {
        return invalid(
            "the volume must be read-only: set readOnly: true in csi, in the pod's volumes",
        );
    }
    if request.volume_context.get(EPHEMERAL).map(String::as_str) != Some("true") {
        return invalid(
            "only ephemeral inline volumes can be published: csi.storage.k8s.io/ephemeral must be \
             \"true\" in the volume context (podInfoOnMount: true in the CSIDriver object)",
        );
    }
    if !request.secrets.is_empty() {
        return invalid("the driver takes no secrets: remove nodePublishSecretRef");
    }
    if !request.publish_context.is_empty() || !request.staging_target_path.is_empty() {
        return invalid(
            "the driver neither attaches nor stages volumes: publish_context and \
             staging_target_path must be empty (attachRequired: false in the CSIDriver object)",
        );
    }
    Ok(())
}

fn check_capability(capability: &VolumeCapability) -> Result<(), Status> {
    let invalid = |sentence: &str| Err(Status::invalid_argument(sentence));
    let mount = match &capability.access_type {
        Some(AccessType::Mount(mount)) => mount,
        Some(AccessType::Block(_)) => {
            return invalid("volume_capability: found block access, expected mount");
        }
        None => return invalid("volume_capability: the access type is missing, expected mount"),
    };
    if !mount.fs_type.is_empty() || !mount.volume_mount_group.is_empty() {
        return invalid(
            "volume_capability: fs_type and volume_mount_group must be empty; the volume is a \
             directory of this node",
        );
    }
    if !mount.mount_flags.is_empty() {
        return invalid("volume_capability: mount_flags must be empty");
    }
    let Some(mode) = &capability.access_mode else {
        return invalid("volume_capability: the access mode is missing");
    };
    match Mode::try_from(mode.mode) {
        // As spiffe-csi-driver: what kubelets say of inline volumes is SINGLE_NODE_WRITER, and it
        // is readonly that counts.
        Ok(Mode::SingleNodeReaderOnly) | Err(_) => {
            invalid("volume_capability: unexpected access mode; expected SINGLE_NODE_WRITER")
        }
        Ok(_) => Ok(()),
    }
}

fn check_id(id: &str) -> Result<(), Status> {
    match id.len() {
        0 => Err(Status::invalid_argument("volume_id is missing")),
        1..=MAX_VOLUME_ID => Ok(()),
        _ => Err(Status::invalid_argument("volume_id is longer than 256 bytes")),
    }
}

fn check_path(name: &str, path: &str) -> Result<(), Status> {
    if path.is_empty() {
        return Err(Status::invalid_argument(format!("{name} is missing")));
    }
    Ok(())
}

fn status(error: &VolumeError) -> Status {
    let text = error.to_string();
    match error {
        VolumeError::Path(_) => Status::invalid_argument(text),
        VolumeError::Nothing(_) => Status::not_found(text),
        VolumeError::Occupied { .. } | VolumeError::Source { .. } => {
            Status::failed_precondition(text)
        }
        VolumeError::Io { .. } | VolumeError::MountInfo(_) | VolumeError::Unstable(_) => {
            Status::internal(text)
        }
    }
}

#[cfg(test)]
mod tests;
