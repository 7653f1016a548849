//! `experimental { broker {} }`: the SPIFFE Broker Endpoint.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use signet_config::{Block, socket_path};
use signet_identity::SpiffeId;

/// The type of a reference to a process on the node.
pub const PID_REFERENCE: &str = "type.googleapis.com/spiffe.broker.WorkloadPIDReference";
const KUBERNETES_REFERENCE: &str = "type.googleapis.com/spiffe.broker.KubernetesObjectReference";

/// The settings of the Broker Endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerSettings {
    /// `socket_path`, in a directory other than the Workload API's.
    pub socket_path: PathBuf,
    /// `brokers`: whether each may name workloads by process ID.
    pub brokers: BTreeMap<SpiffeId, BrokerRights>,
}

/// What a broker may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerRights {
    /// It may name workloads by process ID.
    pub by_pid: bool,
}

/// Reads the block.
pub(super) fn broker(experimental: &Block<'_>, public: Option<&Path>) -> Option<BrokerSettings> {
    let block = experimental.block("broker")?;
    block.refuse(
        "bind_address",
        "brokers reach the agent by socket_path alone in this release: a process ID means nothing \
         on another machine",
    );
    let path = block.path("socket_path");
    let path = block.required("socket_path", path);
    let path = path.and_then(|path| socket_path(&block, "socket_path", &path));
    if let (Some(path), Some(public)) = (&path, public)
        && path.parent() == public.parent()
    {
        let message = "it must not be in the directory of the Workload API's socket, which \
                       workloads are given";
        block.error("socket_path", message);
    }
    let mut brokers = BTreeMap::new();
    for broker in block.blocks("brokers") {
        let id = broker.parsed::<SpiffeId>("id");
        let id = broker.required("id", id);
        let types = broker.blocks("allowed_reference_types");
        if types.is_empty() {
            broker.error("allowed_reference_types", "at least one reference type is expected");
        }
        let only = types.len() == 1;
        let mut rights = BrokerRights { by_pid: false };
        for allowed in types {
            let _ = allowed.flag("allow_over_tcp");
            match allowed.required_text("type_url").as_deref() {
                Some(PID_REFERENCE) => rights.by_pid = true,
                Some("*") if only => rights.by_pid = true,
                Some("*") => allowed.error("type_url", "\"*\" must be the only reference type"),
                Some(KUBERNETES_REFERENCE) => allowed.error(
                    "type_url",
                    "workloads are named by process ID alone in this release \
                     (type.googleapis.com/spiffe.broker.WorkloadPIDReference)",
                ),
                Some(other) => {
                    allowed.error("type_url", format_args!("unknown reference type {other:?}"));
                }
                None => {}
            }
            allowed.finish();
        }
        if let Some(id) = id
            && brokers.insert(id.clone(), rights).is_some()
        {
            broker.error("id", format_args!("{id} is there twice"));
        }
        broker.finish();
    }
    if brokers.is_empty() {
        block.error("brokers", "at least one broker is expected");
    }
    block.finish();
    Some(BrokerSettings { socket_path: path?, brokers })
}
