//! Getting a connection: hosts in turn, TLS as asked for, and a server of the wanted kind.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use signet_base::{Jitter, chain};
use tokio::{
    net::{TcpStream, UnixStream},
    task::AbortHandle,
    time::Instant,
};
use tokio_postgres::{
    AsyncMessage, Client, Config,
    config::{SslMode as Negotiate, SslNegotiation},
};
use zeroize::Zeroizing;

use super::{
    dsn::{ConnectionString, Host, SessionAttributes, SslMode},
    fault::describe,
    socket::Socket,
    tls::Secured,
};

/// How long one server may take to let us in, unless `connect_timeout` says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a silent connection lives: asked after so long, so often, so many times.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 3);
/// How long what we sent may stay unacknowledged, milliseconds.
const USER_TIMEOUT: u32 = 20_000;

/// Passwords that are made anew for each connection.
#[async_trait]
pub trait Passwords: Send + Sync + std::fmt::Debug {
    /// The password of `user` on `host` and `port`.
    ///
    /// # Errors
    /// A sentence for the log.
    async fn password(
        &self,
        host: &str,
        port: u16,
        user: &str,
    ) -> Result<Zeroizing<String>, String>;
}

/// Makes connections.
#[derive(Debug)]
pub(crate) struct Connector {
    to: ConnectionString,
    passwords: Option<Arc<dyn Passwords>>,
    tls: Secured,
}

/// Is told of what a connection hears without having asked.
pub(crate) type Heard = Arc<dyn Fn(&str) + Send + Sync>;

/// An open connection. Dropped, it says goodbye and ends.
pub(crate) struct Live {
    pub(crate) client: Client,
    driver: AbortHandle,
    pub(crate) since: Instant,
}

impl Live {
    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed() || self.driver.is_finished()
    }
}

impl Live {
    /// Ends it without waiting for what was sent and not answered.
    pub(crate) fn kill(self) {
        self.driver.abort();
    }
}

impl Connector {
    /// # Errors
    /// What is wrong with the certificates that the connection string names.
    pub(crate) fn new(
        to: ConnectionString,
        passwords: Option<Arc<dyn Passwords>>,
    ) -> Result<Self, String> {
        let tls = Secured::new(&to)?;
        Ok(Self { to, passwords, tls })
    }

    pub(crate) fn target(&self) -> &ConnectionString {
        &self.to
    }

    /// A connection to the first server that answers and is of the wanted kind.
    ///
    /// # Errors
    /// Why each of them was not taken.
    pub(crate) fn connect(&self, heard: Option<Heard>) -> BoxFuture<'_, Result<Live, String>> {
        Box::pin(self.connect_to_any(heard))
    }

    async fn connect_to_any(&self, heard: Option<Heard>) -> Result<Live, String> {
        let mut hosts: Vec<&Host> = self.to.hosts.iter().collect();
        let mut random = Jitter::new();
        if self.to.shuffles {
            shuffle(&mut hosts, &mut random);
        }
        let rounds: &[SessionAttributes] = match self.to.session {
            SessionAttributes::PreferStandby => {
                &[SessionAttributes::Standby, SessionAttributes::Any]
            }
            _ => std::slice::from_ref(&self.to.session),
        };
        let mut whys = Vec::new();
        for wanted in rounds {
            whys.clear();
            for host in &hosts {
                match self.try_host(host, *wanted, heard.clone(), &mut random).await {
                    Ok(live) => return Ok(live),
                    Err(why) => whys.push(format!("{host}: {why}")),
                }
            }
        }
        Err(whys.join("; "))
    }

    async fn try_host(
        &self,
        host: &Host,
        wanted: SessionAttributes,
        heard: Option<Heard>,
        random: &mut Jitter,
    ) -> Result<Live, String> {
        let allowed = self.to.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        let mut why = "it has no address".to_owned();
        let addresses = match (host.socket(), host.address) {
            (Some(_), _) => vec![None],
            (None, Some(address)) => vec![Some(SocketAddr::new(address, host.port))],
            (None, None) => {
                let found = tokio::net::lookup_host((host.name.as_str(), host.port));
                let found = match tokio::time::timeout(allowed, found).await {
                    Ok(Ok(found)) => found,
                    Ok(Err(error)) => return Err(format!("looking up the name: {error}")),
                    Err(_) => return Err("looking up the name took too long".to_owned()),
                };
                let mut found: Vec<_> = found.map(Some).collect();
                if self.to.shuffles {
                    shuffle(&mut found, random);
                }
                found
            }
        };
        for address in addresses {
            for mode in self.modes(host) {
                let attempt = self.try_address(host, address, mode, wanted, heard.clone());
                match tokio::time::timeout(allowed, attempt).await {
                    Ok(Ok(live)) => return Ok(live),
                    Ok(Err(error)) => why = error,
                    Err(_) => why = format!("no answer within {} s", allowed.as_secs()),
                }
            }
        }
        Err(why)
    }

    /// How TLS is tried, one after the other.
    fn modes(&self, host: &Host) -> Vec<Negotiate> {
        if host.socket().is_some() {
            return vec![Negotiate::Disable];
        }
        match self.to.tls.mode {
            SslMode::Disable => vec![Negotiate::Disable],
            SslMode::Allow => vec![Negotiate::Disable, Negotiate::Require],
            SslMode::Prefer => vec![Negotiate::Prefer, Negotiate::Disable],
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => vec![Negotiate::Require],
        }
    }

    fn try_address<'c>(
        &'c self,
        host: &'c Host,
        address: Option<SocketAddr>,
        mode: Negotiate,
        wanted: SessionAttributes,
        heard: Option<Heard>,
    ) -> BoxFuture<'c, Result<Live, String>> {
        Box::pin(self.log_in(host, address, mode, wanted, heard))
    }

    async fn log_in(
        &self,
        host: &Host,
        address: Option<SocketAddr>,
        mode: Negotiate,
        wanted: SessionAttributes,
        heard: Option<Heard>,
    ) -> Result<Live, String> {
        let io = |error: io::Error| error.to_string();
        let stream = match (address, host.socket()) {
            (Some(address), _) => {
                let stream = TcpStream::connect(address).await.map_err(io)?;
                stream.set_nodelay(true).map_err(io)?;
                keep_alive(&stream).map_err(io)?;
                Socket::Tcp(stream)
            }
            (None, Some(socket)) => Socket::Unix(UnixStream::connect(socket).await.map_err(io)?),
            (None, None) => return Err("it has no address".to_owned()),
        };
        let mut config = Config::new();
        config.user(&self.to.user).ssl_mode(mode);
        if self.to.tls.direct {
            config.ssl_negotiation(SslNegotiation::Direct);
        }
        if let Some(dbname) = &self.to.dbname {
            config.dbname(dbname);
        }
        if let Some(options) = &self.to.options {
            config.options(options);
        }
        if let Some(name) = &self.to.application_name {
            config.application_name(name);
        }
        if let Some(passwords) = &self.passwords {
            let made = passwords.password(&host.name, host.port, &self.to.user).await?;
            config.password(made.as_bytes());
        } else if let Some(password) = &host.password {
            config.password(password.as_bytes());
        }
        let tls = self.tls.connector(host);
        let connected = config.connect_raw(stream, tls).await;
        let (client, mut connection) = connected.map_err(|error| describe(&error))?;
        let driver = tokio::spawn(async move {
            loop {
                let message = std::future::poll_fn(|cx| connection.poll_message(cx)).await;
                match message {
                    Some(Ok(AsyncMessage::Notification(note))) => {
                        if let Some(heard) = &heard {
                            heard(note.payload());
                        }
                    }
                    Some(Ok(AsyncMessage::Notice(notice))) => {
                        tracing::debug!(notice = notice.message(), "The database says");
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => {
                        tracing::debug!(error = chain(&error), "A database connection broke");
                        return;
                    }
                    None => return,
                }
            }
        });
        let live = Live { client, driver: driver.abort_handle(), since: Instant::now() };
        check_kind(&live.client, wanted).await?;
        Ok(live)
    }
}

/// Refuses a server that is not of the wanted kind.
async fn check_kind(client: &Client, wanted: SessionAttributes) -> Result<(), String> {
    let (question, expected) = match wanted {
        SessionAttributes::Any | SessionAttributes::PreferStandby => return Ok(()),
        SessionAttributes::ReadWrite => ("SHOW transaction_read_only", "off"),
        SessionAttributes::ReadOnly => ("SHOW transaction_read_only", "on"),
        SessionAttributes::Primary => ("SELECT pg_catalog.pg_is_in_recovery()", "f"),
        SessionAttributes::Standby => ("SELECT pg_catalog.pg_is_in_recovery()", "t"),
    };
    let rows = client.simple_query(question).await.map_err(|error| describe(&error))?;
    let answer = rows.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    if answer == Some(expected) {
        return Ok(());
    }
    Err(format!("it is not {wanted} (target_session_attrs)"))
}

fn shuffle<T>(items: &mut [T], random: &mut Jitter) {
    for last in (1..items.len()).rev() {
        let other = random.next_u64() % (last as u64 + 1);
        items.swap(last, usize::try_from(other).unwrap_or(last));
    }
}

/// Finds out within half a minute that a server has gone without a word.
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
