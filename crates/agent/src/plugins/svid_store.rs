//! `SVIDStore`: secret stores that identities are written to.

use std::path::PathBuf;

use signet_config::{Block, Count, Kind};
use signet_gcp::Credentials;
use zeroize::Zeroizing;

/// `SVIDStore`.
pub(super) const KIND: Kind<SvidStore> = Kind {
    name: "SVIDStore",
    noun: "SVID store",
    count: Count::Any,
    plugins: &[("aws_secretsmanager", aws), ("disk", disk), ("gcp_secretmanager", gcp)],
    absent: &[],
};

/// A secret store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SvidStore {
    /// AWS Secrets Manager.
    Aws(Aws),
    /// Directories of this machine (our own).
    Disk {
        /// `directory`, required: each identity has one below it.
        directory: PathBuf,
    },
    /// Google Cloud Secret Manager.
    Gcp(Gcp),
}

/// `aws_secretsmanager`.
#[derive(Clone, PartialEq, Eq)]
pub struct Aws {
    /// `region`, required.
    pub region: String,
    /// `access_key_id`, else `AWS_ACCESS_KEY_ID`.
    pub access_key_id: String,
    /// `secret_access_key`, else `AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: Zeroizing<String>,
    /// `AWS_SESSION_TOKEN`.
    pub session_token: Option<String>,
    /// `endpoint` (our own key): the service's URL, for endpoints in a VPC.
    pub endpoint: String,
}

impl std::fmt::Debug for Aws {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Aws({}, {}, ..)", self.region, self.access_key_id)
    }
}

/// `gcp_secretmanager`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gcp {
    /// `service_account_file`, else `GOOGLE_APPLICATION_CREDENTIALS`; the instance's own account
    /// where there is neither.
    pub credentials: Credentials,
    /// `endpoint` (our own key): the service's URL.
    pub endpoint: String,
}

impl SvidStore {
    /// The plugin's name, which is the type of the selectors of its entries.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Aws(_) => "aws_secretsmanager",
            Self::Disk { .. } => "disk",
            Self::Gcp(_) => "gcp_secretmanager",
        }
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn endpoint(block: &Block<'_>, default: String) -> String {
    let endpoint = block.text("endpoint").unwrap_or(default);
    if !endpoint.starts_with("https://") && !endpoint.starts_with("http://127.0.0.1:") {
        block.error("endpoint", "it must be an https:// URL");
    }
    endpoint.trim_end_matches('/').to_owned()
}

fn aws(block: &Block<'_>) -> Option<SvidStore> {
    let region = block.required_text("region");
    let id = block.text("access_key_id").or_else(|| variable("AWS_ACCESS_KEY_ID"));
    let secret = block.text("secret_access_key").or_else(|| variable("AWS_SECRET_ACCESS_KEY"));
    let default = region.as_ref().map(|r| format!("https://secretsmanager.{r}.amazonaws.com"));
    let endpoint = endpoint(block, default.unwrap_or_else(|| "https://".to_owned()));
    let access_key_id = block.required("access_key_id", id);
    let secret_access_key = block.required("secret_access_key", secret);
    Some(SvidStore::Aws(Aws {
        region: region?,
        access_key_id: access_key_id?,
        secret_access_key: Zeroizing::new(secret_access_key?),
        session_token: variable("AWS_SESSION_TOKEN"),
        endpoint,
    }))
}

fn disk(block: &Block<'_>) -> Option<SvidStore> {
    let directory = block.required("directory", block.path("directory"));
    directory.map(|directory| SvidStore::Disk { directory })
}

fn gcp(block: &Block<'_>) -> Option<SvidStore> {
    let credentials = Credentials::choose(block.path("service_account_file"));
    let endpoint = endpoint(block, "https://secretmanager.googleapis.com".to_owned());
    Some(SvidStore::Gcp(Gcp { credentials, endpoint }))
}
