//! Opening one TLS connection to the server.

use std::{error::Error as _, fmt, io, time::Duration};

use signet_http::{HttpError, Proxies, connect_via_proxy};
use signet_pki::tls::is_unknown_authority;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, CertificateError,
        pki_types::{ServerName, UnixTime},
    },
};

use super::{ClientError, addresses::Addresses};

/// How long a TCP connection may take, for all addresses of the server together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// The least time that each of many addresses gets.
const LEAST_TIMEOUT: Duration = Duration::from_secs(5);
/// When a connection is silent it is asked after so long, so often, so many times: a server whose
/// machine is gone is left within half a minute.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 3);
/// How long what was sent may stay unacknowledged, milliseconds.
const USER_TIMEOUT: u32 = 20_000;
/// How long the TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);

/// Where the server is, and how it is reached.
#[derive(Clone, Debug)]
pub struct Target {
    /// A host name or an address without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// The proxies of the environment.
    pub proxies: Proxies,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Opens a connection and completes the handshake: with one address of the server's name after
/// the other, unless a proxy does that.
pub(super) async fn connect(
    target: &Target,
    addresses: &Addresses,
    connector: TlsConnector,
) -> Result<TlsStream<TcpStream>, ClientError> {
    if !target.proxies.is_direct(&target.host, target.port) {
        return through_proxy(target, connector).await;
    }
    let failed = |message: String| ClientError::Connect { address: target.to_string(), message };
    let found = tokio::net::lookup_host((target.host.as_str(), target.port));
    let found = match tokio::time::timeout(CONNECT_TIMEOUT, found).await {
        Ok(found) => found.map_err(|error| failed(error.to_string()))?,
        Err(_) => return Err(failed("looking up its name took too long".to_owned())),
    };
    let order = addresses.order(found.collect());
    let shares = u32::try_from(order.len()).unwrap_or(u32::MAX).max(1);
    let timeout = (CONNECT_TIMEOUT / shares).max(LEAST_TIMEOUT);
    let mut why = failed("its name has no address".to_owned());
    for address in order {
        let attempt = async {
            let tcp = match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
                Ok(tcp) => tcp.map_err(|error| failed(error.to_string()))?,
                Err(_) => return Err(failed(format!("no connection within {timeout:?}"))),
            };
            tcp.set_nodelay(true).map_err(|error| failed(error.to_string()))?;
            keep_alive(&tcp).map_err(|error| failed(error.to_string()))?;
            secure(target, connector.clone(), tcp).await
        };
        match attempt.await {
            Ok(stream) => {
                addresses.reached(address);
                return Ok(stream);
            }
            Err(error) => {
                addresses.failed(address);
                // That somebody was there whom we do not trust says more than that nobody was.
                if !why.is_unknown_authority() {
                    why = error;
                }
            }
        }
    }
    Err(why)
}

fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    let (idle, interval, count) = KEEPALIVE;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, idle)?;
    sockopt::set_tcp_keepintvl(stream, interval)?;
    sockopt::set_tcp_keepcnt(stream, count)?;
    sockopt::set_tcp_user_timeout(stream, USER_TIMEOUT)?;
    Ok(())
}

async fn through_proxy(
    target: &Target,
    connector: TlsConnector,
) -> Result<TlsStream<TcpStream>, ClientError> {
    let failed = |message: String| ClientError::Connect { address: target.to_string(), message };
    let tcp = match tokio::time::timeout(CONNECT_TIMEOUT, tcp(target)).await {
        // The cause says it all: the address is named already.
        Ok(tcp) => tcp.map_err(|error| match error.source() {
            Some(cause) if matches!(error, HttpError::Connect { .. }) => failed(cause.to_string()),
            Some(cause) => failed(format!("{error}: {cause}")),
            None => failed(error.to_string()),
        })?,
        Err(_) => return Err(failed(format!("no connection within {CONNECT_TIMEOUT:?}"))),
    };
    secure(target, connector, tcp).await
}

async fn secure(
    target: &Target,
    connector: TlsConnector,
    tcp: TcpStream,
) -> Result<TlsStream<TcpStream>, ClientError> {
    let failed = |message: String| ClientError::Connect { address: target.to_string(), message };
    // Never sent and never checked: the server is known by its SPIFFE ID.
    let name = ServerName::try_from("spire-server").map_err(|e| failed(e.to_string()))?;
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, connector.connect(name, tcp)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if is_unknown_authority(&error) => {
            let plain =
                matches!(refused_certificate(&error), Some(CertificateError::UnknownIssuer));
            let reason = (!plain).then(|| error.to_string());
            Err(ClientError::UnknownAuthority { address: target.to_string(), reason })
        }
        Ok(Err(error)) => Err(failed(match out_of_time(&error) {
            Some(why) => why,
            None => format!("TLS handshake: {error}"),
        })),
        Err(_) => Err(failed(format!("no TLS handshake within {HANDSHAKE_TIMEOUT:?}"))),
    }
}

async fn tcp(target: &Target) -> Result<TcpStream, HttpError> {
    connect_via_proxy(&target.proxies, &target.host, target.port).await
}

fn refused_certificate(error: &io::Error) -> Option<&CertificateError> {
    match error.get_ref()?.downcast_ref()? {
        rustls::Error::InvalidCertificate(refused) => Some(refused),
        _ => None,
    }
}

/// Both times, when the server's certificate is not valid now: mostly a clock is off.
fn out_of_time(error: &io::Error) -> Option<String> {
    let show = |time: &UnixTime| {
        (signet_time::UnixTime::EPOCH + Duration::from_secs(time.as_secs())).to_string()
    };
    let (time, how, limit) = match refused_certificate(error)? {
        CertificateError::ExpiredContext { time, not_after } => (time, "expired at", not_after),
        CertificateError::NotValidYetContext { time, not_before } => {
            (time, "is not valid before", not_before)
        }
        _ => return None,
    };
    Some(format!(
        "the server's certificate {how} {}, and the clock of this machine says {}: check the clocks \
         of both machines",
        show(limit),
        show(time)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_is_told_with_both_times() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let refused = |kind| io::Error::other(rustls::Error::InvalidCertificate(kind));
        let (time, early, late) = (at(1_700_000_000), at(1_600_000_000), at(1_800_000_000));
        let expired = CertificateError::ExpiredContext { time, not_after: early };
        assert_eq!(
            out_of_time(&refused(expired)).unwrap(),
            "the server's certificate expired at 2020-09-13T12:26:40Z, and the clock of this machine \
             says 2023-11-14T22:13:20Z: check the clocks of both machines"
        );
        let early = CertificateError::NotValidYetContext { time, not_before: late };
        let text = out_of_time(&refused(early)).unwrap();
        assert!(text.contains("is not valid before 2027-01-15T08:00:00Z"), "{text}");
        assert!(out_of_time(&refused(CertificateError::UnknownIssuer)).is_none());
    }

    #[test]
    fn addresses_are_written_with_brackets_where_needed() {
        let target = |host: &str| {
            Target { host: host.into(), port: 8081, proxies: Proxies::none() }.to_string()
        };
        assert_eq!(target("server"), "server:8081");
        assert_eq!(target("::1"), "[::1]:8081");
    }
}
