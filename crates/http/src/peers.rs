//! Who a client may connect to.

use std::{
    fmt::Debug,
    io,
    net::{IpAddr, SocketAddr},
};

use tokio::net::lookup_host;

/// Decides which peers a client talks to, where it connects to them itself: not through a proxy or
/// a Unix socket.
#[async_trait::async_trait]
pub trait Peers: Send + Sync + Debug {
    /// The addresses of a server, which are then tried in this order. The name is not looked up a
    /// second time.
    ///
    /// # Errors
    /// The name has no address, or none that may be connected to.
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(lookup_host((host, port)).await?.collect())
    }

    /// Looks at a connection from `local` to `peer`, after the TLS handshake if there is one and
    /// before anything of the request is sent.
    ///
    /// # Errors
    /// Why nothing may be sent.
    async fn connected(&self, local: SocketAddr, peer: SocketAddr) -> io::Result<()> {
        let _ = (local, peer);
        Ok(())
    }
}

/// Connects to anybody.
#[derive(Debug)]
pub(super) struct Anybody;

#[async_trait::async_trait]
impl Peers for Anybody {}

/// Whether no other machine can be meant by an address: loopback, unspecified, link-local,
/// multicast and broadcast addresses, also where they are written inside of an IPv6 address.
pub fn is_of_no_other_machine(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address.is_loopback()
                || address.octets().first() == Some(&0)
                || address.is_link_local()
                || address.is_multicast()
                || address.is_broadcast()
        }
        IpAddr::V6(address) => {
            let ipv4 = |high: u16, low: u16| {
                let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
                IpAddr::from([a, b, c, d])
            };
            let embedded = match address.segments() {
                // IPv4-mapped and IPv4-compatible, and translated by NAT64.
                [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
                | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
                // 6to4.
                | [0x2002, high, low, ..] => Some(ipv4(high, low)),
                _ => None,
            };
            address.is_loopback()
                || address.is_unspecified()
                || address.is_unicast_link_local()
                || address.is_multicast()
                || embedded.is_some_and(is_of_no_other_machine)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_machine_are_known_in_every_form() {
        for own in [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:0.0.0.0",
            "::ffff:169.254.1.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "fe80::1",
            "ff02::1",
        ] {
            assert!(is_of_no_other_machine(own.parse().unwrap()), "{own}");
        }
        for other in [
            "10.0.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "203.0.113.7",
            "::ffff:10.0.0.1",
            "fd00::1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "2001:db8::1",
        ] {
            assert!(!is_of_no_other_machine(other.parse().unwrap()), "{other}");
        }
    }
}
