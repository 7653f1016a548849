//! `UpstreamAuthority`: who signs the server's X.509 authority.

mod aws;
mod cert_manager;
mod gcp_cas;

use std::{path::PathBuf, sync::Arc};

use signet_base::chain;
use signet_config::{Block, Count, Kind};
use signet_pki::{
    UpstreamAuthority as UpstreamAuthorityPort,
    upstream_disk::{DiskUpstream as DiskUpstreamPort, DiskUpstreamConfig},
};

use signet_nested::{Settings as SpireSettings, SpireUpstream};
use signet_vault::{Pki, Settings};

pub use self::{
    aws::{AwsPca, AwsSecret},
    cert_manager::CertManagerUpstream,
    gcp_cas::GcpCas,
};
use super::{PluginError, Scope, vault};

/// `UpstreamAuthority`.
pub(super) const KIND: Kind<UpstreamAuthority> = Kind {
    name: "UpstreamAuthority",
    noun: "upstream authority",
    count: Count::AtMostOne,
    plugins: &[
        ("aws_pca", aws::pca),
        ("awssecret", aws::secret),
        ("cert-manager", cert_manager::cert_manager),
        ("disk", disk),
        ("gcp_cas", gcp_cas::gcp_cas),
        ("spire", spire),
        ("vault", vault),
    ],
    absent: &[(&["ejbca"], "use UpstreamAuthority \"disk\" with a key and a certificate from it")],
};

/// Who signs the server's X.509 authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamAuthority {
    /// `aws_pca`.
    AwsPca(AwsPca),
    /// `awssecret`.
    AwsSecret(AwsSecret),
    /// `cert-manager`.
    CertManager(CertManagerUpstream),
    /// `disk`.
    Disk(DiskUpstream),
    /// `gcp_cas`.
    GcpCas(GcpCas),
    /// `spire`.
    Spire(SpireSettings),
    /// `vault`.
    Vault(VaultUpstream),
}

/// `UpstreamAuthority "vault"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultUpstream {
    /// Where the server is and how to log in.
    pub server: Settings,
    /// `pki_mount_point`, default `pki`.
    pub pki_mount_point: String,
}

/// `UpstreamAuthority "disk"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskUpstream {
    /// `cert_file_path`, required: the authority's certificate, then the chain to its root.
    pub cert_file_path: PathBuf,
    /// `key_file_path`, required: the authority's private key.
    pub key_file_path: PathBuf,
    /// `bundle_file_path`: the root certificates, unless the authority is its own root.
    pub bundle_file_path: Option<PathBuf>,
}

fn disk(block: &Block<'_>) -> Option<UpstreamAuthority> {
    let cert_file_path = block.required("cert_file_path", block.path("cert_file_path"));
    let key_file_path = block.required("key_file_path", block.path("key_file_path"));
    let bundle_file_path = block.path("bundle_file_path");
    Some(UpstreamAuthority::Disk(DiskUpstream {
        cert_file_path: cert_file_path?,
        key_file_path: key_file_path?,
        bundle_file_path,
    }))
}

fn spire(block: &Block<'_>) -> Option<UpstreamAuthority> {
    let server_address = block.required_text("server_address");
    let server_port = block.required("server_port", block.port("server_port"));
    let socket = block.required_text("workload_api_socket");
    let experimental = block.block("experimental");
    let mut require_pq_kem = false;
    if let Some(experimental) = experimental {
        require_pq_kem = experimental.flag("require_pq_kem");
        let use_instead = "named pipes are for Windows; use workload_api_socket";
        experimental.refuse("workload_api_named_pipe_name", use_instead);
        experimental.finish();
    }
    let socket = socket.and_then(|socket| {
        let path = socket.strip_prefix("unix://").or(socket.strip_prefix("unix:"));
        let path = PathBuf::from(path.unwrap_or(&socket));
        signet_config::absolute_path(&path)
            .map_err(|error| block.error("workload_api_socket", error))
            .ok()
    });
    Some(UpstreamAuthority::Spire(SpireSettings {
        server_address: server_address?,
        server_port: server_port?,
        workload_api_socket: socket?,
        require_pq_kem,
    }))
}

fn vault(block: &Block<'_>) -> Option<UpstreamAuthority> {
    let server = vault::settings(block);
    let mount = block.text("pki_mount_point").unwrap_or_else(|| "pki".to_owned());
    Some(UpstreamAuthority::Vault(VaultUpstream { server: server?, pki_mount_point: mount }))
}

/// Opens an upstream authority; one elsewhere is not asked yet.
///
/// # Errors
/// [`PluginError`] when its files are not right.
pub(crate) fn open(
    settings: &UpstreamAuthority,
    scope: &Scope<'_>,
) -> Result<Arc<dyn UpstreamAuthorityPort>, PluginError> {
    match settings {
        UpstreamAuthority::AwsPca(settings) => aws::open_pca(settings, scope),
        UpstreamAuthority::AwsSecret(settings) => aws::open_secret(settings, scope),
        UpstreamAuthority::CertManager(settings) => cert_manager::open(settings, scope),
        UpstreamAuthority::Disk(disk) => {
            let files = DiskUpstreamConfig {
                cert_file_path: disk.cert_file_path.clone(),
                key_file_path: disk.key_file_path.clone(),
                bundle_file_path: disk.bundle_file_path.clone(),
            };
            let clock = Arc::clone(scope.clock);
            let opened = DiskUpstreamPort::open(files, scope.trust_domain.clone(), clock);
            let opened =
                opened.map_err(|error| PluginError::new(KIND.name, "disk", chain(&error)))?;
            Ok(Arc::new(opened))
        }
        UpstreamAuthority::GcpCas(settings) => gcp_cas::open(settings, scope),
        UpstreamAuthority::Spire(settings) => {
            let (trust_domain, clock) = (scope.trust_domain.clone(), Arc::clone(scope.clock));
            let opened = SpireUpstream::new(settings.clone(), trust_domain, clock);
            let opened =
                opened.map_err(|error| PluginError::new(KIND.name, "spire", chain(&error)))?;
            Ok(Arc::new(opened))
        }
        UpstreamAuthority::Vault(settings) => {
            let client = vault::open(KIND.name, "vault", &settings.server, scope.clock)?;
            Ok(Arc::new(Pki::new(client, &*settings.pki_mount_point)))
        }
    }
}

/// Reads what the settings name, as [`open`] does and somewhat further; nothing is asked.
///
/// # Errors
/// [`PluginError`] when a file is not right.
pub(super) fn check(settings: &UpstreamAuthority, scope: &Scope<'_>) -> Result<(), PluginError> {
    match settings {
        UpstreamAuthority::CertManager(settings) => cert_manager::check(settings, scope),
        UpstreamAuthority::GcpCas(settings) => gcp_cas::check(settings),
        UpstreamAuthority::AwsPca(_)
        | UpstreamAuthority::AwsSecret(_)
        | UpstreamAuthority::Disk(_)
        | UpstreamAuthority::Spire(_)
        | UpstreamAuthority::Vault(_) => open(settings, scope).map(drop),
    }
}
