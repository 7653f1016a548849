//! Whose socket answers on the kubelet's port.
//!
//! On the node's own network any process can listen on that port while no kubelet does. Where a
//! certificate does not tell them apart, the user of the socket does.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use signet_base::{FairPool, FairPoolLimits};
use signet_http::Peers;

use crate::procfs::{ProcRoot, tcp};

/// How long the kubelet may take to accept a connection.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
const LIMITS: FairPoolLimits =
    FairPoolLimits { threads: 2, started: 4, waiting: 64, waiting_in_all: 64 };

/// Speaks on this machine to nobody but root and the agent's own user. What is on another machine,
/// or in another network namespace, is not looked at.
#[derive(Debug)]
pub(super) struct OwnersOnly {
    pool: FairPool,
    proc_root: ProcRoot,
    allowed: [u32; 2],
}

impl OwnersOnly {
    pub fn new() -> Arc<Self> {
        Self::allowing([0, nix::unistd::geteuid().as_raw()])
    }

    fn allowing(allowed: [u32; 2]) -> Arc<Self> {
        let pool = FairPool::new("sockets", LIMITS);
        Arc::new(Self { pool, proc_root: ProcRoot::default(), allowed })
    }

    async fn owner(&self, local: SocketAddr, peer: SocketAddr) -> io::Result<u32> {
        let give_up = tokio::time::Instant::now() + ACCEPTED_WITHIN;
        loop {
            let root = self.proc_root.clone();
            let look = move || tcp::owner(root.as_path(), peer, local);
            let owner = self.pool.run_once(0, look).await.map_err(io::Error::other)??;
            if let Some(owner) = owner {
                return Ok(owner);
            }
            if tokio::time::Instant::now() >= give_up {
                let why = "no process has accepted the connection, or none that can be seen";
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

#[async_trait::async_trait]
impl Peers for OwnersOnly {
    async fn connected(&self, local: SocketAddr, peer: SocketAddr) -> io::Result<()> {
        // Whoever connects to an address of this machine does so from that very address.
        let is_here = peer.ip().to_canonical().is_loopback() || peer.ip() == local.ip();
        if !is_here {
            return Ok(());
        }
        let owner = self.owner(local, peer).await?;
        if self.allowed.contains(&owner) {
            return Ok(());
        }
        let why = format!(
            "a process of user {owner} answers on the kubelet's port, not one of root: set \
             kubelet_ca_path and the node's name if kubelets run as that user"
        );
        Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn who_listens_is_spoken_to_if_it_is_root_or_the_agent_s_own_user() {
        let own = nix::unistd::geteuid().as_raw();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let _accepted = listener.accept().await.unwrap();
        let (local, peer) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        OwnersOnly::new().connected(local, peer).await.unwrap();
        let others = OwnersOnly::allowing([own + 1, own + 2]);
        let error = others.connected(local, peer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains(&format!("user {own} ")), "{error}");
        // Of another machine nothing is known.
        let (there, here) = ("192.0.2.1:10250".parse().unwrap(), "192.0.2.2:1".parse().unwrap());
        others.connected(here, there).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_nobody_accepts_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (local, peer) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let error = OwnersOnly::new().connected(local, peer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
