//! Hosts that may prove their names: not the server's own machine, however it is spelled.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, ToSocketAddrs},
};

use signet_base::{FairPool, FairPoolLimits};
use signet_http::{Peers, is_of_no_other_machine};

/// Names are looked up for whoever asks, and their servers may be slow.
const LIMITS: FairPoolLimits =
    FairPoolLimits { threads: 8, started: 8, waiting: 64, waiting_in_all: 1024 };

/// Whether a host name is one of the machine that looks it up, without looking it up.
pub(super) fn is_own(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
    bare == "localhost"
        || bare.ends_with(".localhost")
        || bare.parse().is_ok_and(is_of_no_other_machine)
        || spelled(bare).is_some_and(|address| is_of_no_other_machine(address.into()))
}

/// The address that `inet_aton` reads: one to four numbers, decimal, octal or hexadecimal, of which
/// the last fills the bytes that are left.
fn spelled(text: &str) -> Option<Ipv4Addr> {
    let numbers: Vec<u32> = text.split('.').map(number).collect::<Option<_>>()?;
    let (last, first) = numbers.split_last()?;
    if first.len() > 3 || first.iter().any(|byte| *byte > 0xff) {
        return None;
    }
    let bits = 8 * u32::try_from(first.len()).ok()?;
    if bits > 0 && last >> (32 - bits) != 0 {
        return None;
    }
    let high = first.iter().fold(0_u64, |high, byte| (high << 8) | u64::from(*byte));
    let address = (high << (32 - bits)) | u64::from(*last);
    u32::try_from(address).ok().map(Ipv4Addr::from_bits)
}

fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    let well_formed = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    well_formed.then(|| u32::from_str_radix(digits, radix).ok()).flatten()
}

/// Connects to other machines alone: a name is looked up once, and refused if any of its addresses
/// is of this machine or of none.
#[derive(Debug)]
pub(super) struct OtherMachines(FairPool);

impl OtherMachines {
    pub fn new() -> Self {
        Self(FairPool::new("host-names", LIMITS))
    }
}

#[async_trait::async_trait]
impl Peers for OtherMachines {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let name = host.to_owned();
        // Whoever asks for one name many times shares its turns.
        let share = name.bytes().fold(0_u64, |share, byte| {
            share.wrapping_mul(31).wrapping_add(byte.to_ascii_lowercase().into())
        });
        let lookup = move || (name.as_str(), port).to_socket_addrs().map(Vec::from_iter);
        let found = self.0.run_once(share, lookup).await.map_err(io::Error::other)??;
        match found.iter().map(SocketAddr::ip).find(|address| is_of_no_other_machine(*address)) {
            Some(address) => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("{host} has the address {address}, which is of no other machine"),
            )),
            None => Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn the_own_machine_is_known_in_every_spelling() {
        for own in [
            "localhost",
            "LocalHost.",
            "a.localhost",
            "127.0.0.1",
            "127.0.0.1.",
            "127.1",
            "127.0.1",
            "127.255.255.254",
            "2130706433",
            "0x7f000001",
            "0x7F.1",
            "0x7f.0x0.0x0.0x1",
            "0177.1",
            "0177.0.0.01",
            "017700000001",
            "0",
            "0.0.0.0",
            "0x0",
            "00",
            "169.254.169.254",
            "2852039166",
            "224.0.0.1",
            "255.255.255.255",
            "4294967295",
            "::1",
            "[::1]",
            "::",
            "::ffff:127.0.0.1",
            "[::ffff:7f00:1]",
            "fe80::1",
        ] {
            assert!(is_own(own), "{own}");
        }
        for other in [
            "node1.test",
            "localhost.example",
            "notlocalhost",
            "10.0.0.1",
            "10.1",
            "0x0a000001",
            "192.168.1.1",
            "1270.1",
            "0189.1",
            "127.0.0.0.1",
            "127..1",
            "0x",
            "4294967296",
            "127.a",
            "127.0.0.256",
            "2001:db8::1",
        ] {
            assert!(!is_own(other), "{other}");
        }
    }

    #[test]
    fn numbers_are_read_as_the_system_reads_them() {
        for text in ["127.1", "0x7f.1", "0177.0.0.01", "2130706433", "10.1.2", "0x0a.0377", "8.8"] {
            let read = spelled(text).map(IpAddr::from).unwrap();
            let system = (text, 0).to_socket_addrs().unwrap().next().unwrap().ip();
            assert_eq!(read, system, "{text}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_here_is_not_connected_to() {
        for host in ["localhost", "127.0.0.1", "127.1", "0x7f.1", "2130706433", "0", "::1"] {
            let error = OtherMachines::new().resolve(host, 80).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{host}: {error}");
        }
        let found = OtherMachines::new().resolve("192.0.2.7", 80).await.unwrap();
        assert_eq!(found, ["192.0.2.7:80".parse().unwrap()]);
    }
}
