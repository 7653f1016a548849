//! What the parameters mean.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use zeroize::Zeroizing;

use super::{
    ConnectionString, ConnectionStringError, Environment, Host, Pem, Roots, SessionAttributes,
    SslMode, Tls, keyword, passfile, service, url,
};

/// The parameters that lib/pq knows, each with its variable of the environment.
const KNOWN: &[(&str, &str)] = &[
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("dbname", "PGDATABASE"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("passfile", "PGPASSFILE"),
    ("options", "PGOPTIONS"),
    ("application_name", "PGAPPNAME"),
    ("fallback_application_name", ""),
    ("sslmode", "PGSSLMODE"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslsni", "PGSSLSNI"),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    ("sslinline", ""),
    ("krbsrvname", "PGKRBSRVNAME"),
    ("krbspn", ""),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("binary_parameters", ""),
    ("disable_prepared_binary_result", ""),
    ("client_encoding", "PGCLIENTENCODING"),
    ("datestyle", "PGDATESTYLE"),
    ("tz", "PGTZ"),
    ("geqo", "PGGEQO"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    ("min_protocol_version", "PGMINPROTOCOLVERSION"),
    ("max_protocol_version", "PGMAXPROTOCOLVERSION"),
    ("service", "PGSERVICE"),
];

/// Variables that ask for a protection that we do not have: to go on without it would be worse
/// than to stop. As lib/pq has it.
const REFUSED: &[&str] = &[
    "PGREQUIRESSL",
    "PGSSLCOMPRESSION",
    "PGREALM",
    "PGGSSENCMODE",
    "PGGSSDELEGATION",
    "PGGSSLIB",
    "PGREQUIREAUTH",
    "PGCHANNELBINDING",
    "PGSSLCERTMODE",
    "PGSSLCRL",
    "PGSSLCRLDIR",
    "PGREQUIREPEER",
    "PGKRBSRVNAME",
];

const DEFAULT_PORT: u16 = 5432;
/// The most hosts that a string may name.
const MAX_HOSTS: usize = 32;

type Outcome<T> = Result<T, ConnectionStringError>;

fn fail<T>(why: impl std::fmt::Display) -> Outcome<T> {
    Err(ConnectionStringError::new(why))
}

pub(super) fn read(text: &str, around: &dyn Environment) -> Outcome<ConnectionString> {
    let pairs = match url::after_scheme(text.trim()) {
        Some(rest) => url::read(rest)?,
        None => keyword::read(text)?,
    };
    let given = Given::collect(pairs, around)?;
    given.connection(around)
}

/// Every parameter that is set.
struct Given {
    known: BTreeMap<&'static str, String>,
    /// Run-time parameters of the server.
    others: BTreeMap<String, String>,
}

impl Given {
    fn collect(pairs: Vec<(String, String)>, around: &dyn Environment) -> Outcome<Self> {
        if let Some(name) = REFUSED.iter().find(|name| around.variable(name).is_some()) {
            return fail(format!("the environment variable {name} is not supported: unset it"));
        }
        let mut given = Self { known: BTreeMap::new(), others: BTreeMap::new() };
        for (key, variable) in KNOWN {
            if let Some(value) = around.variable(variable).filter(|_| !variable.is_empty()) {
                given.known.insert(key, value);
            }
        }
        for (key, value) in pairs {
            match known(&key) {
                Some(key) => given.known.insert(key, value),
                // As lib/pq accepts it.
                None if key == "database" => given.known.insert("dbname", value),
                None => given.others.insert(key, value),
            };
        }
        if let Some(name) = given.text("service").map(str::to_owned) {
            let default = || around.home().map(|home| home.join(".pg_service.conf"));
            let Some(path) = around.variable("PGSERVICEFILE").map(PathBuf::from).or_else(default)
            else {
                return fail("service: set PGSERVICEFILE to the file that defines it");
            };
            for (key, value) in service::read(&path, &name, around)? {
                let Some(key) = known(&key) else {
                    return fail(format!("service {name:?}: unknown parameter {key:?}"));
                };
                given.known.insert(key, value);
            }
        }
        Ok(given)
    }

    /// A parameter that is set to something.
    fn text(&self, key: &str) -> Option<&str> {
        self.known.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn flag(&self, key: &str, default: bool) -> Outcome<bool> {
        match self.text(key) {
            None => Ok(default),
            Some("1" | "yes" | "on" | "true" | "t") => Ok(true),
            Some("0" | "no" | "off" | "false" | "f") => Ok(false),
            Some(other) => fail(format!("{key}: expected 0 or 1, found {other:?}")),
        }
    }

    fn one_of<T: Copy>(&self, key: &str, all: &[(&str, T)]) -> Outcome<Option<T>> {
        let Some(found) = self.text(key) else { return Ok(None) };
        if let Some((_, value)) = all.iter().find(|(name, _)| *name == found) {
            return Ok(Some(*value));
        }
        let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
        fail(format!("{key}: found {found:?}, expected one of {}", names.join(", ")))
    }

    fn connection(&self, around: &dyn Environment) -> Outcome<ConnectionString> {
        for key in ["krbsrvname", "krbspn"] {
            if self.text(key).is_some() {
                return fail(format!("{key}: Kerberos is not supported"));
            }
        }
        self.must_be("client_encoding", |value| {
            let plain: String = value.chars().filter(char::is_ascii_alphanumeric).collect();
            plain.eq_ignore_ascii_case("utf8") || plain.eq_ignore_ascii_case("unicode")
        })?;
        self.must_be("datestyle", |value| value == "ISO, MDY")?;
        for key in ["min_protocol_version", "max_protocol_version"] {
            let all = [("3.0", true), ("3.2", true), ("latest", true)];
            let wanted = self.one_of(key, &all)?;
            if key.starts_with("min") && wanted.is_some() && self.text(key) != Some("3.0") {
                return fail(format!("{key}: only version 3.0 of the protocol is spoken"));
            }
        }
        let user = match self.text("user") {
            Some(user) => user.to_owned(),
            None => match around.user() {
                Some(user) => user,
                None => return fail("user: not given, and this process has no user name"),
            },
        };
        let application = self.text("application_name");
        let application = application.or_else(|| self.text("fallback_application_name"));
        let dbname = self.text("dbname").map(str::to_owned);
        let mut hosts = self.hosts()?;
        self.passwords(&mut hosts, dbname.as_deref().unwrap_or(&user), &user, around);
        Ok(ConnectionString {
            shuffles: self
                .one_of("load_balance_hosts", &[("disable", false), ("random", true)])?
                .unwrap_or(false),
            tls: self.tls(&hosts, around)?,
            hosts,
            dbname,
            user,
            options: self.options()?,
            application_name: application.map(str::to_owned),
            connect_timeout: self.timeout()?,
            session: self.session()?,
        })
    }

    fn session(&self) -> Outcome<SessionAttributes> {
        use SessionAttributes::*;
        let all = [
            ("any", Any),
            ("read-write", ReadWrite),
            ("read-only", ReadOnly),
            ("primary", Primary),
            ("standby", Standby),
            ("prefer-standby", PreferStandby),
        ];
        Ok(self.one_of("target_session_attrs", &all)?.unwrap_or(Any))
    }

    fn must_be(&self, key: &str, accepts: impl Fn(&str) -> bool) -> Outcome<()> {
        match self.text(key) {
            Some(value) if !accepts(value) => {
                fail(format!("{key}: {value:?} is not supported; leave it out"))
            }
            _ => Ok(()),
        }
    }

    fn timeout(&self) -> Outcome<Option<Duration>> {
        let Some(text) = self.text("connect_timeout") else { return Ok(None) };
        match text.parse::<i64>() {
            // 0 and less is to wait for ever, for which there is a bound of our own.
            Ok(seconds) => Ok(u64::try_from(seconds)
                .ok()
                .filter(|seconds| *seconds > 0)
                .map(Duration::from_secs)),
            Err(_) => fail(format!("connect_timeout: expected seconds, found {text:?}")),
        }
    }

    fn hosts(&self) -> Outcome<Vec<Host>> {
        let list = |key: &str| -> Vec<&str> {
            self.text(key).map(|text| text.split(',').map(str::trim).collect()).unwrap_or_default()
        };
        let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
        let count = names.len().max(addresses.len()).max(1);
        if count > MAX_HOSTS {
            return fail(format!("host: more than {MAX_HOSTS} hosts"));
        }
        if !names.is_empty() && !addresses.is_empty() && names.len() != addresses.len() {
            let (names, addresses) = (names.len(), addresses.len());
            return fail(format!("hostaddr: {addresses} addresses for {names} hosts"));
        }
        if ports.len() > 1 && ports.len() != count {
            return fail(format!("port: {} ports for {count} hosts", ports.len()));
        }
        let mut hosts = Vec::with_capacity(count);
        for position in 0..count {
            let address = match addresses.get(position).filter(|text| !text.is_empty()) {
                Some(text) => match text.parse::<IpAddr>() {
                    Ok(address) => Some(address),
                    Err(_) => {
                        return fail(format!("hostaddr: expected an IP address, found {text:?}"));
                    }
                },
                None => None,
            };
            let name = match names.get(position).filter(|name| !name.is_empty()) {
                Some(name) => (*name).to_owned(),
                None if address.is_some() => String::new(),
                None => "localhost".to_owned(),
            };
            if name.starts_with('@') {
                return fail("host: abstract sockets are not supported");
            }
            let port = ports.get(position).or(ports.first()).filter(|text| !text.is_empty());
            let port = match port.map(|text| text.parse::<u16>()) {
                Some(Ok(port)) => port,
                None => DEFAULT_PORT,
                Some(Err(_)) => {
                    let found = self.text("port").unwrap_or_default();
                    return fail(format!("port: expected a number up to 65535, found {found:?}"));
                }
            };
            hosts.push(Host { name, address, port, password: None });
        }
        Ok(hosts)
    }

    fn passwords(&self, hosts: &mut [Host], dbname: &str, user: &str, around: &dyn Environment) {
        if let Some(password) = self.text("password") {
            for host in hosts {
                host.password = Some(Zeroizing::new(password.to_owned()));
            }
            return;
        }
        let default = || around.home().map(|home| home.join(".pgpass"));
        let Some(path) = self.text("passfile").map(PathBuf::from).or_else(default) else { return };
        // A file that cannot be read is as good as none: many have none.
        let Ok(text) = around.read(&path).map(Zeroizing::new) else { return };
        for host in hosts {
            host.password = passfile::find(&text, &host.name, host.port, dbname, user);
        }
    }

    fn options(&self) -> Outcome<Option<String>> {
        let mut all = self.text("options").map(str::to_owned).unwrap_or_default();
        let named = [("tz", "timezone"), ("geqo", "geqo")];
        let named = named.iter().filter_map(|(key, name)| Some((*name, self.text(key)?)));
        let others = self.others.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in named.chain(others) {
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
            if name.is_empty() || !name.chars().all(is_name) {
                return fail(format!("{name:?} is no parameter of a connection or of the server"));
            }
            all.push_str(" -c ");
            all.push_str(name);
            all.push('=');
            for c in value.chars() {
                if c == '\\' || c.is_whitespace() {
                    all.push('\\');
                }
                all.push(c);
            }
        }
        let all = all.trim_start();
        Ok((!all.is_empty()).then(|| all.to_owned()))
    }

    fn tls(&self, hosts: &[Host], around: &dyn Environment) -> Outcome<Tls> {
        use SslMode::*;
        let all = [
            ("disable", Disable),
            ("allow", Allow),
            ("prefer", Prefer),
            ("require", Require),
            ("verify-ca", VerifyCa),
            ("verify-full", VerifyFull),
        ];
        let mode = self.one_of("sslmode", &all)?;
        let from_system = self.text("sslrootcert") == Some("system");
        let mode = match mode {
            Some(mode) if from_system && mode != VerifyFull => {
                return fail("sslmode: sslrootcert=system needs verify-full");
            }
            Some(mode) => mode,
            None if from_system => VerifyFull,
            None => Require,
        };
        let direct = self.one_of("sslnegotiation", &[("postgres", false), ("direct", true)])?;
        let direct = direct.unwrap_or(false);
        if direct && matches!(mode, Disable | Allow | Prefer) {
            return fail("sslnegotiation: direct needs sslmode=require or stricter");
        }
        let versions = [("TLSv1", 10), ("TLSv1.0", 10), ("TLSv1.1", 11), ("TLSv1.2", 12)];
        let versions = [&versions[..], &[("TLSv1.3", 13)]].concat();
        let least = self.one_of("ssl_min_protocol_version", &versions)?.unwrap_or(12);
        let most = self.one_of("ssl_max_protocol_version", &versions)?.unwrap_or(13);
        if most < 12 || most < least {
            return fail("ssl_max_protocol_version: TLS 1.2 and 1.3 are supported");
        }
        let inline = self.flag("sslinline", false)?;
        let only_sockets = hosts.iter().all(|host| host.socket().is_some());
        let tls = Tls {
            mode: if only_sockets { Disable } else { mode },
            direct,
            roots: self.roots(mode, inline, around)?,
            identity: self.identity(inline, around)?,
            sends_name: self.flag("sslsni", true)?,
            only_tls13: least == 13,
            only_tls12: most == 12,
        };
        Ok(tls)
    }

    fn roots(&self, mode: SslMode, inline: bool, around: &dyn Environment) -> Outcome<Roots> {
        let must = matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull);
        let there = |path: &Path| around.read(path).is_ok();
        match self.text("sslrootcert") {
            Some("system") => Ok(Roots::System),
            Some(text) if inline => Ok(Roots::Pem(Pem::Text(Zeroizing::new(text.to_owned())))),
            Some(path) if must || there(Path::new(path)) => {
                Ok(Roots::Pem(Pem::File(PathBuf::from(path))))
            }
            // As libpq and lib/pq: `require` checks the certificate where there are roots.
            Some(_) => Ok(Roots::Any),
            None => {
                let path = around.home().map(|home| home.join(".postgresql/root.crt"));
                match path.filter(|path| !inline && there(path)) {
                    Some(path) => Ok(Roots::Pem(Pem::File(path))),
                    // Go's verification takes the system's roots then.
                    None if must => Ok(Roots::System),
                    None => Ok(Roots::Any),
                }
            }
        }
    }

    fn identity(&self, inline: bool, around: &dyn Environment) -> Outcome<Option<(Pem, Pem)>> {
        let (cert, key) = (self.text("sslcert"), self.text("sslkey"));
        let text = |text: &str| Pem::Text(Zeroizing::new(text.to_owned()));
        let home = |name: &str| around.home().map(|home| home.join(".postgresql").join(name));
        match (cert, key) {
            (Some(cert), Some(key)) if inline => Ok(Some((text(cert), text(key)))),
            (Some(cert), Some(key)) => Ok(Some((Pem::File(cert.into()), Pem::File(key.into())))),
            (Some(cert), None) if !inline => match home("postgresql.key") {
                Some(key) => Ok(Some((Pem::File(cert.into()), Pem::File(key)))),
                None => fail("sslkey: the key of sslcert is not given"),
            },
            (Some(_), None) => fail("sslkey: the key of sslcert is not given"),
            (None, _) if inline => Ok(None),
            (None, key) => {
                let Some(cert) = home("postgresql.crt") else { return Ok(None) };
                if around.read(&cert).is_err() {
                    return Ok(None);
                }
                let key = key.map(PathBuf::from).or_else(|| home("postgresql.key"));
                Ok(key.map(|key| (Pem::File(cert), Pem::File(key))))
            }
        }
    }
}

fn known(key: &str) -> Option<&'static str> {
    KNOWN.iter().find(|(name, _)| *name == key).map(|(name, _)| *name)
}
