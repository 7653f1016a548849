//! Where a controller runs, so that it knows the lease of one that ran there before.
//!
//! Containers of a pod come and go; the pod's network namespace stays. In it a process can hold a
//! name (an abstract Unix socket) that is free again as soon as the process has ended, however it
//! ended. Who holds the name of a lease therefore knows that no other controller in this namespace
//! takes part in its election: a holder of the lease that carries the mark of this place, which
//! names the boot of the machine and the network namespace, has ended.

use std::{
    fs,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
};

use signet_pki::digest::Sha256;

/// Changes with each boot of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Names the network namespace of this process.
const NETWORK: &str = "/proc/self/ns/net";

/// A lock that one process holds per network namespace, boot and lease.
#[derive(Debug)]
pub struct HostLock {
    mark: String,
    /// Held, never listened to.
    _name: UnixListener,
}

impl HostLock {
    /// Takes the lock for the election of a lease; `None` when another process holds it, or when
    /// this machine does not say where it is.
    pub fn take(namespace: &str, lease: &str) -> Option<Self> {
        let boot = fs::read_to_string(BOOT_ID).ok()?;
        let network = fs::read_link(NETWORK).ok()?;
        let mut digest = Sha256::new();
        for part in [boot.trim(), &network.to_string_lossy(), namespace, lease] {
            digest.update(&(part.len() as u64).to_be_bytes());
            digest.update(part.as_bytes());
        }
        let [a, b, c, d, e, f, g, h, ..] = digest.finish();
        let mark = format!("{:016x}_", u64::from_be_bytes([a, b, c, d, e, f, g, h]));
        let name = SocketAddr::from_abstract_name(format!("signet-controller-{mark}")).ok()?;
        match UnixListener::bind_addr(&name) {
            Ok(name) => Some(Self { mark, _name: name }),
            Err(error) => {
                tracing::debug!(%error, "Another controller runs here");
                None
            }
        }
    }

    /// What the identities of those who run here contain, after the host's name and a `_`.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// Whether an identity is of a process that ran here, and so has ended: this one holds the
    /// place now.
    pub fn was_of(&self, identity: &str) -> bool {
        let mut parts = identity.rsplitn(3, '_');
        let (Some(_), Some(mark), Some(_)) = (parts.next(), parts.next(), parts.next()) else {
            return false;
        };
        self.mark.strip_suffix('_') == Some(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_known_again_once_its_process_has_ended_and_is_held_by_one_at_a_time() {
        let lease = format!("lease-{}", std::process::id());
        let first = HostLock::take("ns", &lease).unwrap();
        let identity = format!("pod-0_{}0b9e-uuid", first.mark());
        assert!(HostLock::take("ns", &lease).is_none());
        let other = HostLock::take("ns", &format!("{lease}-other")).unwrap();
        assert!(!other.was_of(&identity));
        drop(first);
        let next = HostLock::take("ns", &lease).unwrap();
        assert!(next.was_of(&identity));
        for foreign in ["", "pod-0_0b9e-uuid", "pod-0_0000000000000000_0b9e-uuid"] {
            assert!(!next.was_of(foreign), "{foreign}");
        }
    }
}
