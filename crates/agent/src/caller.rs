//! The process that calls an endpoint, pinned when it connected.

use std::sync::Arc;

use signet_attest::peer::{PeerError, PinnedPeer};

/// The process at the other end of a connection, in the extensions of each of its requests.
#[derive(Clone, Debug)]
pub struct Caller(Arc<CallerState>);

#[derive(Debug)]
struct CallerState {
    peer: Result<PinnedPeer, PeerError>,
    own: bool,
}

impl Caller {
    /// The process that connected, or why it could not be pinned; `own` when it is this very one.
    pub fn new(peer: Result<PinnedPeer, PeerError>, own: bool) -> Self {
        Self(Arc::new(CallerState { peer, own }))
    }

    /// The pinned process.
    ///
    /// # Errors
    /// Why it could not be pinned when it connected.
    pub fn peer(&self) -> Result<&PinnedPeer, &PeerError> {
        self.0.peer.as_ref()
    }

    /// Whether it is this very process.
    pub fn is_self(&self) -> bool {
        self.0.own
    }

    /// Its pid, for logs; 0 when it could not be pinned.
    pub fn pid(&self) -> i32 {
        self.0.peer.as_ref().map_or(0, PinnedPeer::pid)
    }
}
