//! Audit events for syslog.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::unix::net::UnixDatagram,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use signet_base::SharedClock;

use crate::{
    chain::{body, rfc3339},
    event::{AuditEvent, Outcome},
    sink::Sink,
};

/// Facility 13, "log audit".
const FACILITY: u8 = 13;
/// Severities: notice, and warning for what was refused.
const NOTICE: u8 = 5;
const WARNING: u8 = 4;

/// Where a syslog daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyslogTarget {
    /// A datagram socket: `/dev/log`, usually.
    Unix(PathBuf),
    /// UDP (RFC 5426).
    Udp(SocketAddr),
}

/// Sends each event as a message of RFC 5424 whose text is the event as JSON. What the daemon does
/// not take is counted and left out: it is never waited for.
#[derive(Debug)]
pub struct SyslogSink {
    socket: Socket,
    program: &'static str,
    host: String,
    clock: SharedClock,
    dropped: AtomicU64,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixDatagram, PathBuf),
    Udp(UdpSocket, SocketAddr),
}

impl SyslogSink {
    /// For this daemon. Messages say that they come from `program` on `host`.
    ///
    /// # Errors
    /// What the system says when there can be no socket.
    pub fn open(
        target: SyslogTarget,
        program: &'static str,
        host: &str,
        clock: SharedClock,
    ) -> io::Result<Self> {
        let socket = match target {
            SyslogTarget::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                Socket::Unix(socket, path)
            }
            SyslogTarget::Udp(to) => {
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any)?;
                socket.set_nonblocking(true)?;
                Socket::Udp(socket, to)
            }
        };
        let host = if host.is_empty() { "-" } else { host }.to_owned();
        Ok(Self { socket, program, host, clock, dropped: AtomicU64::new(0) })
    }

    fn message(&self, event: &AuditEvent, at: SystemTime) -> String {
        let severity = if event.outcome == Outcome::Success { NOTICE } else { WARNING };
        let mut body = body(event, at);
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            body.insert("syslog_dropped".to_owned(), dropped.into());
        }
        format!(
            "<{}>1 {} {} {} {} audit - {}",
            FACILITY * 8 + severity,
            rfc3339(at),
            self.host,
            self.program,
            std::process::id(),
            serde_json::Value::Object(body)
        )
    }
}

impl Sink for SyslogSink {
    fn record(&self, event: &AuditEvent) {
        if event.is_mere_look() {
            return;
        }
        let message = self.message(event, self.clock.now());
        let sent = match &self.socket {
            Socket::Unix(socket, path) => socket.send_to(message.as_bytes(), path),
            Socket::Udp(socket, to) => socket.send_to(message.as_bytes(), to),
        };
        if sent.is_err() && self.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!("The syslog daemon does not take audit events");
        }
    }
}

#[cfg(test)]
mod tests {
    use signet_base::SystemClock;

    use super::*;
    use crate::{Caller, Kind};

    #[test]
    fn an_event_is_a_message_of_its_own_and_what_was_dropped_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let target = SyslogTarget::Unix(path.clone());
        let sink = SyslogSink::open(target, "signet-server", "h", SystemClock::shared()).unwrap();
        let mut event = AuditEvent::new(Caller::default(), "svid.v1.SVID", "MintX509SVID");
        event.kind = Kind::Issuance;
        sink.record(&event);
        let daemon = UnixDatagram::bind(&path).unwrap();
        sink.record(&event);
        event.kind = Kind::Read;
        sink.record(&event);
        let mut buffer = [0; 4096];
        let length = daemon.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        assert!(text.starts_with("<109>1 "), "{text}");
        let (head, json) = text.split_once(" audit - ").unwrap();
        assert!(head.contains(" h signet-server "), "{head}");
        let json: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!((&json["method"], &json["syslog_dropped"]), (&"MintX509SVID".into(), &1.into()));
        daemon.set_nonblocking(true).unwrap();
        assert!(daemon.recv(&mut buffer).is_err(), "what was only read is not told");
    }
}
