//! Who calls: fixed when the connection was accepted, with the rights found for this request.

use std::{net::SocketAddr, sync::Arc};

use signet_identity::{Entry, SpiffeId};
use tonic::{Request, Status};

/// The other end of a connection.
#[derive(Clone, Debug)]
pub enum Peer {
    /// A process on this machine, over the local socket.
    Local(LocalPeer),
    /// Someone on the network, over TLS.
    Remote(RemotePeer),
}

/// A process on the local socket, as the kernel knew it when it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalPeer {
    /// Its process ID; `None` when the kernel did not say.
    pub pid: Option<i32>,
    /// Its effective user ID.
    pub uid: u32,
    /// Its effective group ID.
    pub gid: u32,
}

/// Someone on the network.
#[derive(Clone, Debug)]
pub struct RemotePeer {
    /// The address of the client, or what a trusted proxy said it is.
    pub addr: SocketAddr,
    /// The X.509-SVID of the client, verified against the bundle of its trust domain during the
    /// handshake; `None` when it sent no certificate.
    pub svid: Option<Arc<PeerSvid>>,
}

/// The X.509-SVID that a client proved to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSvid {
    /// Its SPIFFE ID.
    pub spiffe_id: SpiffeId,
    /// Its serial number, decimal.
    pub serial_number: String,
    /// When it expires, Unix seconds.
    pub not_after: i64,
}

/// By which right a call is allowed. Found by the authorisation layer, in the order: anyone, local,
/// admin by configuration, admin by entry, downstream, agent.
#[derive(Clone, Debug)]
pub enum Role {
    /// The call is open to anyone.
    Anyone,
    /// A local caller.
    Local,
    /// Named in `admin_ids`.
    AdminByConfig,
    /// Has an entry with `admin`.
    AdminByEntry,
    /// Has these entries with `downstream`.
    Downstream(Vec<Arc<Entry>>),
    /// An attested agent whose SVID is the active one.
    Agent,
}

impl Role {
    /// The role in audit records (`authorized_as`) and how it was found (`authorized_via`).
    pub fn audit_names(&self) -> (&'static str, &'static str) {
        match self {
            Self::Anyone => ("nobody", ""),
            Self::Local => ("local", "transport"),
            Self::AdminByConfig => ("admin", "config"),
            Self::AdminByEntry => ("admin", "entries"),
            Self::Downstream(_) => ("downstream", "entries"),
            Self::Agent => ("agent", "datastore"),
        }
    }
}

/// The caller of one request: in the request's extensions, put there by the authorisation layer.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The other end.
    pub peer: Peer,
    /// By which right the call is allowed.
    pub role: Role,
    /// Names this request in logs and audit records.
    pub request_id: Arc<str>,
}

impl Caller {
    /// The caller of `request`.
    ///
    /// # Errors
    /// `Internal` when the request did not come through the authorisation layer.
    pub fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let caller = request.extensions().get::<Self>().cloned();
        caller.ok_or_else(|| Status::internal("caller missing from request context"))
    }

    /// The SPIFFE ID of a caller with a certificate.
    pub fn spiffe_id(&self) -> Option<&SpiffeId> {
        match &self.peer {
            Peer::Local(_) => None,
            Peer::Remote(remote) => remote.svid.as_ref().map(|svid| &svid.spiffe_id),
        }
    }

    /// The SPIFFE ID of an agent.
    ///
    /// # Errors
    /// `Internal` when the caller is no agent: the callers table then lets someone in whom the
    /// service does not expect.
    pub fn agent_id(&self) -> Result<&SpiffeId, Status> {
        match self.role {
            Role::Agent => self.spiffe_id(),
            _ => None,
        }
        .ok_or_else(|| Status::internal("caller ID missing from request context"))
    }

    /// Whether the caller came over the local socket.
    pub fn is_local(&self) -> bool {
        matches!(self.peer, Peer::Local(_))
    }

    /// The address of a caller on the network.
    pub fn addr(&self) -> Option<SocketAddr> {
        match &self.peer {
            Peer::Local(_) => None,
            Peer::Remote(remote) => Some(remote.addr),
        }
    }
}
