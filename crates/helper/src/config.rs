//! The helper's configuration: spiffe-helper's keys, and a few of our own.

mod decode;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use nix::sys::signal::Signal;
use signet_config::{ConfigError, Document, LogFlags, LogSettings, decode_document, read};
use signet_identity::SpiffeId;
use zeroize::Zeroizing;

use crate::Flags;

pub(crate) use decode::TRUST_BUNDLE_SUFFIX;

/// Everything the helper was told.
#[derive(Clone, Debug)]
pub struct Config {
    /// `agent_address`, else `SPIFFE_ENDPOINT_SOCKET`: the socket of the Workload API.
    pub socket: PathBuf,
    /// `daemon_mode`, default true.
    pub daemon_mode: bool,
    /// `cmd` and `cmd_args`.
    pub command: Option<Command>,
    /// `pid_file_name`.
    pub pid_file: Option<PathBuf>,
    /// `renew_signal`.
    pub renew_signal: Option<Signal>,
    /// Files of X.509-SVIDs.
    pub outputs: Vec<Output>,
    /// `jwt_svids`.
    pub jwt_svids: Vec<JwtSvidFile>,
    /// `jwt_bundle_file_name` and `jwt_bundle_file_mode`.
    pub jwt_bundle: Option<(PathBuf, u32)>,
    /// `health_checks`, when its listener is enabled.
    pub health: Option<Health>,
    /// The `log_*` keys (our own).
    pub log: LogSettings,
    /// Sentences that are logged at start.
    pub warnings: Vec<String>,
}

/// A program that is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The program.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
}

/// Which identity is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Select {
    /// The first one.
    Default,
    /// The one with this hint.
    Hint(String),
    /// The one of this SPIFFE ID.
    Id(SpiffeId),
}

/// The files of one identity in one directory.
#[derive(Clone, Debug)]
pub struct Output {
    /// Which identity.
    pub select: Select,
    /// `cert_dir`: it has to be there.
    pub dir: PathBuf,
    /// The files, by name in the directory.
    pub files: Vec<(PathBuf, FileContent, u32)>,
    /// `add_intermediates_to_bundle`.
    pub intermediates_in_bundle: bool,
    /// `include_federated_domains`.
    pub federated: bool,
    /// `omit_expired`.
    pub omit_expired: bool,
    /// The password of PKCS#12 files.
    pub password: Password,
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileContent {
    /// The certificates, PEM, leaf first.
    Certificates,
    /// The key, PKCS#8 PEM.
    Key,
    /// Authorities, PEM.
    Bundle,
    /// Key and certificates, PKCS#12.
    KeyStore,
    /// Authorities, PKCS#12 as Java's trust stores.
    TrustStore,
    /// The bundles of all trust domains, in gRPC's form.
    BundleMap,
    /// Key and certificates in one PEM file (SPIFFE Filesystem Delivery).
    CredentialBundle,
    /// A PEM file for each trust domain (SPIFFE Filesystem Delivery); the name is made.
    TrustBundles,
}

/// A token that is kept in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSvidFile {
    /// `jwt_audience` and `jwt_extra_audiences`.
    pub audience: Vec<String>,
    /// `jwt_svid_file_name`, in `cert_dir`.
    pub path: PathBuf,
    /// Which identity.
    pub select: Select,
    /// `jwt_svid_file_mode`.
    pub mode: u32,
}

/// `health_checks`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// `bind_port`, on all addresses.
    pub port: u16,
    /// `liveness_path`.
    pub live_path: String,
    /// `readiness_path`.
    pub ready_path: String,
}

/// A password, wiped when dropped.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Wraps a password.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The password itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

impl Config {
    /// Reads the file that the flags name and checks everything.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong, by file, line and column.
    pub fn load(
        flags: &Flags,
        log: &LogFlags,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let document = read(&flags.config, None)?;
        Self::from_document(flags, log, env, &document)
    }

    /// Checks a file that has been read already.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_document(
        flags: &Flags,
        log: &LogFlags,
        env: &dyn Fn(&str) -> Option<String>,
        document: &Document,
    ) -> Result<Self, ConfigError> {
        let (mut config, warnings) = decode_document(document, |context, document| {
            decode::decode(flags, log, env, context, document)
        })?;
        config.warnings.extend(warnings);
        Ok(config)
    }
}

/// The socket that an address names: a path, or `unix://` and a path.
pub(crate) fn socket(address: &str) -> Result<PathBuf, String> {
    let path = address.strip_prefix("unix:").unwrap_or(address);
    let path = path.strip_prefix("//").unwrap_or(path);
    if address.starts_with("tcp:") || path.is_empty() {
        return Err(format!("{address:?} names no Unix socket"));
    }
    Ok(Path::new(path).to_owned())
}
