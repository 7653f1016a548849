//! `experimental { broker {} }`: the SPIFFE Broker Endpoint.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use signet_config::{Block, socket_path};
use signet_identity::SpiffeId;

/// The type of a reference to a process on the node.
pub const PID_REFERENCE: &str = "type.googleapis.com/spiffe.broker.WorkloadPIDReference";
/// The type of a reference to an object of a Kubernetes cluster.
pub const KUBERNETES_REFERENCE: &str =
    "type.googleapis.com/spiffe.broker.KubernetesObjectReference";

/// The settings of the Broker Endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerSettings {
    /// `socket_path`, in no directory that is, or is in, that of the Workload API's socket.
    pub socket_path: Option<PathBuf>,
    /// `bind_address`: host (empty for all addresses) and port of a TCP listener. There is one of the
    /// two at least.
    pub bind_address: Option<(String, u16)>,
    /// `brokers`, by SPIFFE ID: how each may name workloads.
    pub brokers: BTreeMap<SpiffeId, BrokerRights>,
}

/// How a broker may name workloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BrokerRights {
    /// By process ID.
    pub by_pid: Option<Transports>,
    /// By an object of Kubernetes.
    pub by_object: Option<Transports>,
}

/// Where something is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transports {
    /// On the Unix socket and over TCP (`allow_over_tcp`).
    All,
    /// On the Unix socket alone.
    Unix,
}

impl BrokerRights {
    /// Where references of a type may be used, if at all.
    pub fn of(&self, type_url: &str) -> Option<Transports> {
        match type_url {
            PID_REFERENCE => self.by_pid,
            KUBERNETES_REFERENCE => self.by_object,
            _ => None,
        }
    }
}

/// Reads the block.
pub(super) fn broker(experimental: &Block<'_>, public: Option<&Path>) -> Option<BrokerSettings> {
    let block = experimental.block("broker")?;
    let named = block.path("socket_path");
    let path = named.as_ref().and_then(|path| socket_path(&block, "socket_path", path));
    // What is in the directory that workloads are given, they are given too.
    if let (Some(path), Some(shared)) = (&path, public.and_then(Path::parent))
        && path.starts_with(shared)
    {
        let message = "it must not be in the directory of the Workload API's socket, which \
                       workloads are given, nor below";
        block.error("socket_path", message);
    }
    let address = block.text("bind_address").and_then(|text| {
        let address = host_and_port(&text);
        if address.is_none() {
            let message =
                format_args!("found {text:?}, expected HOST:PORT (for example 0.0.0.0:8443)");
            block.error("bind_address", message);
        }
        address
    });
    if named.is_none() && block.text("bind_address").is_none() {
        block.error("socket_path", "socket_path, bind_address or both are expected");
    }
    let brokers = brokers(&block, rights);
    block.finish();
    Some(BrokerSettings { socket_path: path, bind_address: address, brokers })
}

/// Reads `brokers`, here and in attestors: of each the `id`, and what `read` finds.
pub(crate) fn brokers<T>(
    block: &Block<'_>,
    read: impl Fn(&Block<'_>) -> T,
) -> BTreeMap<SpiffeId, T> {
    let mut brokers = BTreeMap::new();
    for broker in block.blocks("brokers") {
        let id = broker.parsed::<SpiffeId>("id");
        let id = broker.required("id", id);
        let found = read(&broker);
        if let Some(id) = id
            && brokers.insert(id.clone(), found).is_some()
        {
            broker.error("id", format_args!("{id} is there twice"));
        }
        broker.finish();
    }
    if brokers.is_empty() {
        block.error("brokers", "at least one broker is expected");
    }
    brokers
}

fn rights(broker: &Block<'_>) -> BrokerRights {
    let types = broker.blocks("allowed_reference_types");
    if types.is_empty() {
        broker.error("allowed_reference_types", "at least one reference type is expected");
    }
    let only = types.len() == 1;
    let mut rights = BrokerRights::default();
    for allowed in types {
        let over_tcp = allowed.flag("allow_over_tcp");
        let transports = Some(if over_tcp { Transports::All } else { Transports::Unix });
        match allowed.required_text("type_url").as_deref() {
            Some(PID_REFERENCE) => rights.by_pid = transports,
            Some(KUBERNETES_REFERENCE) => rights.by_object = transports,
            Some("*") if only => {
                rights = BrokerRights { by_pid: transports, by_object: transports };
            }
            Some("*") => allowed.error("type_url", "\"*\" must be the only reference type"),
            Some(other) => {
                allowed.error("type_url", format_args!("unknown reference type {other:?}"));
            }
            None => {}
        }
        allowed.finish();
    }
    rights
}

/// `HOST:PORT`; an IPv6 address is in brackets, no host is all addresses.
fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if bare.is_none() && host.contains([':', '[', ']']) {
        return None;
    }
    Some((bare.unwrap_or(host).to_owned(), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::host_and_port;

    #[test]
    fn addresses_are_read_as_go_reads_them() {
        for (text, host) in [
            ("0.0.0.0:8443", Some("0.0.0.0")),
            (":8443", Some("")),
            ("[::1]:8443", Some("::1")),
            ("localhost:8443", Some("localhost")),
            ("::1:8443", None),
            ("8443", None),
            ("a:b", None),
            ("a:70000", None),
        ] {
            assert_eq!(host_and_port(text), host.map(|host| (host.to_owned(), 8443)), "{text}");
        }
    }
}
