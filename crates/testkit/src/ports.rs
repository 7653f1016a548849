//! Ports for programs that cannot be handed a listener.

use std::{
    net::{Ipv4Addr, TcpListener},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
    sync::{Mutex, PoisonError},
};

/// Where the ports are from: below those that Linux takes for outgoing connections (32768 and up),
/// and above most that servers have by habit.
const RANGE: std::ops::Range<u16> = 20_000..30_000;

/// A TCP port that nobody listens on, outside the range that connections take theirs from. It is
/// this process's until it ends: nobody else gets the same one from here, and nor does this
/// process, for a program may start on it again later.
///
/// # Panics
///
/// When all of them are taken.
pub fn free_port() -> u16 {
    free_ports(1)
}

/// The first of `count` such ports next to each other, for programs that take the next one too, as
/// OpenBao does for its cluster.
///
/// # Panics
///
/// When there are none.
pub fn free_ports(count: u16) -> u16 {
    static TAKEN: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let span = u32::from(RANGE.end - RANGE.start);
    let start = std::process::id().wrapping_mul(25);
    for step in 0..span {
        let Ok(offset) = u16::try_from(start.wrapping_add(step) % span) else { continue };
        let first = RANGE.start + offset;
        let claims: Option<Vec<UnixListener>> = (first..first + count).map(claim).collect();
        if let Some(claims) = claims {
            taken.extend(claims);
            return first;
        }
    }
    panic!("no port is free from {} to {}", RANGE.start, RANGE.end)
}

/// Claims a port if nobody listens on it.
fn claim(port: u16) -> Option<UnixListener> {
    // A name that the kernel gives to one at a time in a network namespace, and takes back however
    // the process ends.
    let name = SocketAddr::from_abstract_name(format!("signet-test-port-{port}"));
    let claim = UnixListener::bind_addr(&name.expect("a short name")).ok()?;
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).ok()?;
    Some(claim)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_port_is_given_out_twice_and_all_are_free() {
        let pairs = (0..10).map(|_| free_ports(2)).flat_map(|first| [first, first + 1]);
        let ports: Vec<u16> = (0..10).map(|_| free_port()).chain(pairs).collect();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), ports.len());
        for port in ports {
            assert!(RANGE.contains(&port));
            TcpListener::bind(("127.0.0.1", port)).expect("nobody listens there");
        }
    }
}
