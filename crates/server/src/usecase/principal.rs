//! Who asks: fixed when the connection was accepted, with the right found for this request.

use std::{net::SocketAddr, sync::Arc};

use signet_identity::{Entry, SpiffeId};
use signet_time::UnixTime;

use super::{authorization::action::Action, error::Error};
use crate::policy::scope::Scope;

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
    pub not_after: UnixTime,
}

impl Peer {
    /// The peer of a connection on the network.
    pub(crate) fn remote(addr: SocketAddr, peer: Option<signet_pki::tls::Peer>) -> Self {
        let svid = peer.map(|peer| {
            Arc::new(PeerSvid {
                serial_number: peer.leaf.serial().to_string(),
                not_after: peer.leaf.not_after(),
                spiffe_id: peer.id,
            })
        });
        Self::Remote(RemotePeer { addr, svid })
    }

    /// The SPIFFE ID that it proved.
    pub fn spiffe_id(&self) -> Option<&SpiffeId> {
        match self {
            Self::Local(_) => None,
            Self::Remote(remote) => remote.svid.as_ref().map(|svid| &svid.spiffe_id),
        }
    }

    /// The address of a peer on the network.
    pub fn addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Local(_) => None,
            Self::Remote(remote) => Some(remote.addr),
        }
    }
}

/// By which right an action is allowed. Found by the [`super::authorization::Authorizer`], in the
/// order: anyone, local, admin by configuration, admin by entry, downstream, agent.
#[derive(Clone, Debug)]
pub enum Role {
    /// The action is open to anyone.
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
    /// The role in audit events (`authorized_as`) and how it was found (`authorized_via`).
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

/// Who asks for one thing, and was found to have the right to it.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The other end.
    pub peer: Peer,
    /// By which right the action is allowed.
    pub role: Role,
    /// What it was allowed to do.
    pub action: Action,
    /// On what; `None` for everything in the trust domain.
    pub scope: Option<Arc<Scope>>,
}

impl Principal {
    /// That this is what was allowed: a use case asks it before anything else, so that none can be
    /// reached with the right to something else.
    ///
    /// # Errors
    /// `Internal`: an edge has the wrong action for what it calls.
    pub fn may(&self, action: Action) -> Result<(), Error> {
        if self.action == action {
            return Ok(());
        }
        Err(Error::internal("the request was not authorized for what it does"))
    }

    /// The SPIFFE ID of a principal with a certificate.
    pub fn spiffe_id(&self) -> Option<&SpiffeId> {
        self.peer.spiffe_id()
    }

    /// The SPIFFE ID of an agent.
    ///
    /// # Errors
    /// `Internal` when it is no agent: the table of rights then lets someone in whom the use case
    /// does not expect.
    pub fn agent_id(&self) -> Result<&SpiffeId, Error> {
        match self.role {
            Role::Agent => self.spiffe_id(),
            _ => None,
        }
        .ok_or_else(|| Error::internal("caller ID missing from request context"))
    }

    /// Its address, when it is on the network.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.peer.addr()
    }
}
