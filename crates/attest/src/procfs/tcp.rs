//! Who owns the other end of a TCP connection on this machine.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

/// The most bytes read of a table: some 400,000 connections.
const MAX_TABLE: u64 = 64 * 1024 * 1024;
/// `TCP_ESTABLISHED`.
const ESTABLISHED: &str = "01";

/// The user of the socket at `local` that is connected to `remote`, both on this machine and in
/// this network namespace; `None` if there is none, or nobody has accepted the connection yet.
///
/// # Errors
/// The kernel's tables cannot be read.
pub(crate) fn owner(
    proc_root: &Path,
    local: SocketAddr,
    remote: SocketAddr,
) -> io::Result<Option<u32>> {
    let wanted = (canonical(local), canonical(remote));
    // A listener for both families has its connections of IPv4 in the table of IPv6.
    for table in ["net/tcp", "net/tcp6"] {
        let file = match File::open(proc_root.join("thread-self").join(table)) {
            Ok(file) => file,
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && table == "net/tcp6" => {
                continue;
            }
            Err(error) => return Err(error),
        };
        for line in BufReader::new(file.take(MAX_TABLE)).lines().skip(1) {
            if let Some(user) = user_of(&line?, wanted) {
                return Ok(Some(user));
            }
        }
    }
    Ok(None)
}

/// The user of a line that is about this connection. A socket that no process holds (any more, or
/// yet) has the inode 0, and no user that means anything.
fn user_of(line: &str, wanted: (SocketAddr, SocketAddr)) -> Option<u32> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
    if state != ESTABLISHED || (address(local)?, address(remote)?) != wanted {
        return None;
    }
    let mut fields = fields.skip(3);
    let user = fields.next()?.parse().ok()?;
    let inode: u64 = fields.nth(1)?.parse().ok()?;
    (inode != 0).then_some(user)
}

/// `0100007F:1F90`: each 32 bits of an address as a number of this machine's byte order.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let mut bytes = Vec::with_capacity(16);
    for at in (0..ip.len()).step_by(8) {
        bytes.extend(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    let ip = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        _ => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    };
    Some(canonical(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?)))
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_owner_of_the_other_end_is_known_once_it_is_accepted() {
        let own = nix::unistd::geteuid().as_raw();
        for (bound, reached) in
            [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1")]
        {
            let Ok(listener) = TcpListener::bind(bound) else {
                signet_testkit::skip!("no IPv6");
            };
            let port = listener.local_addr().unwrap().port();
            let client = TcpStream::connect((reached, port)).unwrap();
            let (local, peer) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            let owner = || owner(Path::new("/proc"), peer, local).unwrap();
            assert_eq!(owner(), None, "{bound}: nobody has accepted it");
            let accepted = listener.accept().unwrap();
            assert_eq!(owner(), Some(own), "{bound}");
            drop(accepted);
            assert_eq!(owner(), None, "{bound}: nobody holds it any more");
        }
    }

    #[test]
    fn lines_are_read_as_the_kernel_writes_them() {
        let pair = |local: &str, remote: &str| (local.parse().unwrap(), remote.parse().unwrap());
        let line = "   5: 0100007F:280A 0100007F:C350 01 00000000:00000000 00:00000000 00000000  \
                    1000        0 4242 1 0000000000000000 20 0 0 10 -1";
        if cfg!(target_endian = "little") {
            assert_eq!(user_of(line, pair("127.0.0.1:10250", "127.0.0.1:50000")), Some(1000));
            assert_eq!(user_of(line, pair("127.0.0.1:50000", "127.0.0.1:10250")), None);
            let unaccepted = line.replace("4242", "0");
            assert_eq!(user_of(&unaccepted, pair("127.0.0.1:10250", "127.0.0.1:50000")), None);
            let listening = line.replace(" 01 ", " 0A ");
            assert_eq!(user_of(&listening, pair("127.0.0.1:10250", "127.0.0.1:50000")), None);
        }
        for bad in ["", "1: x y 01", "1: 0100007F 0100007F:1 01", "1: 01:1 01:1 01 0 0 0 0 0 0"] {
            assert_eq!(user_of(bad, pair("127.0.0.1:1", "127.0.0.1:1")), None, "{bad}");
        }
    }
}
