//! Connection strings, as lib/pq 1.12 reads them: the driver of SPIRE's store.
//!
//! A string is `key=value` pairs or a URL. What it does not say comes from the PG* variables of the
//! environment, and what a named service says counts most. Then come lib/pq's defaults, of which
//! `sslmode=require` differs from libpq's.

mod keyword;
mod passfile;
mod service;
mod settings;
mod url;

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use zeroize::Zeroizing;

/// Why a connection string cannot be used. The text names the parameter and no password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConnectionStringError(String);

impl ConnectionStringError {
    fn new(why: impl fmt::Display) -> Self {
        Self(why.to_string())
    }
}

/// What a connection string is read together with.
pub trait Environment {
    /// A variable of the environment.
    fn variable(&self, name: &str) -> Option<String>;

    /// The user's home directory.
    fn home(&self) -> Option<PathBuf>;

    /// The name of the user who runs the program.
    fn user(&self) -> Option<String>;

    /// The text of a file.
    ///
    /// # Errors
    /// What the system says.
    fn read(&self, path: &Path) -> std::io::Result<String>;
}

/// The environment of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThisProcess;

impl Environment for ThisProcess {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn home(&self) -> Option<PathBuf> {
        std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
    }

    fn user(&self) -> Option<String> {
        let user = nix::unistd::User::from_uid(nix::unistd::Uid::effective()).ok().flatten();
        user.map(|user| user.name).or_else(|| std::env::var("USER").ok())
    }

    fn read(&self, path: &Path) -> std::io::Result<String> {
        use std::io::Read as _;
        let mut text = String::new();
        std::fs::File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
        Ok(text)
    }
}

/// The most that is read of a service or password file, bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Where a database is and how to get there: a connection string, read.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectionString {
    /// The servers, tried in this order unless `shuffles`.
    pub(crate) hosts: Vec<Host>,
    /// `load_balance_hosts=random`.
    pub(crate) shuffles: bool,
    pub(crate) dbname: Option<String>,
    pub(crate) user: String,
    /// `options`, and every parameter that is not one of lib/pq's: run-time parameters.
    pub(crate) options: Option<String>,
    pub(crate) application_name: Option<String>,
    pub(crate) tls: Tls,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) session: SessionAttributes,
}

/// One server.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// A name, or the directory of a Unix socket.
    pub(crate) name: String,
    /// The address to use instead of looking the name up.
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) password: Option<Zeroizing<String>>,
}

impl Host {
    /// The socket, if this is one.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        let is_socket = self.address.is_none() && self.name.starts_with('/');
        is_socket.then(|| Path::new(&self.name).join(format!(".s.PGSQL.{}", self.port)))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.socket(), self.address) {
            (Some(socket), _) => write!(f, "{}", socket.display()),
            (None, Some(address)) if self.name.is_empty() => write!(f, "{address}:{}", self.port),
            (None, Some(address)) => write!(f, "{} ({address}:{})", self.name, self.port),
            (None, None) => write!(f, "{}:{}", self.name, self.port),
        }
    }
}

/// `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// What is known of TLS.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) mode: SslMode,
    /// `sslnegotiation=direct`.
    pub(crate) direct: bool,
    pub(crate) roots: Roots,
    /// Certificate and key; `None` for none.
    pub(crate) identity: Option<(Pem, Pem)>,
    /// `sslsni`.
    pub(crate) sends_name: bool,
    /// `ssl_min_protocol_version=TLSv1.3`.
    pub(crate) only_tls13: bool,
    /// `ssl_max_protocol_version=TLSv1.2`.
    pub(crate) only_tls12: bool,
}

/// Whom a server's certificate must come from.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Roots {
    /// Nobody in particular.
    Any,
    /// Those of the system.
    System,
    Pem(Pem),
}

/// A PEM text, or the file that holds it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Pem {
    File(PathBuf),
    /// `sslinline=1`.
    Text(Zeroizing<String>),
}

/// `target_session_attrs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionAttributes {
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

impl fmt::Display for SessionAttributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "any",
            Self::ReadWrite => "read-write",
            Self::ReadOnly => "read-only",
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::PreferStandby => "prefer-standby",
        })
    }
}

impl ConnectionString {
    /// Reads a connection string.
    ///
    /// # Errors
    /// [`ConnectionStringError`] names the parameter and what was expected.
    pub fn parse(text: &str, around: &dyn Environment) -> Result<Self, ConnectionStringError> {
        settings::read(text, around)
    }

    /// Whether it holds a password, be it in the string, in the environment or in a file.
    pub fn has_password(&self) -> bool {
        self.hosts.iter().any(|host| host.password.is_some())
    }

    /// The same without the passwords.
    #[must_use]
    pub fn without_passwords(mut self) -> Self {
        for host in &mut self.hosts {
            host.password = None;
        }
        self
    }

    /// Who logs in.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The same for a name that says who uses the connections, unless the string itself does.
    #[must_use]
    pub fn named(mut self, application: &str) -> Self {
        self.application_name.get_or_insert_with(|| application.to_owned());
        self
    }

    /// Only servers that take writes: a demoted primary is left for the new one.
    #[must_use]
    pub(crate) fn for_writing(mut self) -> Self {
        if self.session == SessionAttributes::Any && self.hosts.len() > 1 {
            self.session = SessionAttributes::ReadWrite;
        }
        self
    }
}

impl fmt::Display for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, host) in self.hosts.iter().enumerate() {
            let separator = if position == 0 { "" } else { "," };
            write!(f, "{separator}{host}")?;
        }
        write!(f, "/{}", self.dbname.as_deref().unwrap_or(&self.user))
    }
}

impl fmt::Debug for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionString({self})")
    }
}

#[cfg(test)]
mod tests;
