//! `SVIDStore`: secret stores that identities are written to.

use std::path::PathBuf;

use signet_aws::{Access, Keys};
use signet_config::{Block, Count, Kind};
use signet_gcp::Credentials;
use signet_http::is_confidential;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aws {
    /// `region`, required.
    pub region: String,
    /// `access_key_id` and `secret_access_key`; else they are looked for where AWS's SDKs look.
    pub access: Access,
    /// `endpoint` (our own key): the service's URL, for endpoints in a VPC.
    pub endpoint: Option<String>,
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

fn endpoint(block: &Block<'_>) -> Option<String> {
    let endpoint = block.text("endpoint")?;
    if !is_confidential(&endpoint) {
        block.error("endpoint", "it must be an https:// URL");
    }
    Some(endpoint.trim_end_matches('/').to_owned())
}

fn aws(block: &Block<'_>) -> Option<SvidStore> {
    let region = block.required_text("region");
    let keys = match (block.text("access_key_id"), block.text("secret_access_key")) {
        (Some(id), Some(secret)) => Some(Keys::new(&id, &secret, None)),
        (None, None) => None,
        _ => {
            let message = "access_key_id and secret_access_key need each other";
            block.error("access_key_id", message);
            None
        }
    };
    let access = Access { keys, assume_role_arn: None };
    let endpoint = endpoint(block);
    Some(SvidStore::Aws(Aws { region: region?, access, endpoint }))
}

fn disk(block: &Block<'_>) -> Option<SvidStore> {
    let directory = block.required("directory", block.path("directory"));
    directory.map(|directory| SvidStore::Disk { directory })
}

fn gcp(block: &Block<'_>) -> Option<SvidStore> {
    let credentials = Credentials::choose(block.path("service_account_file"));
    let endpoint = endpoint(block);
    let endpoint = endpoint.unwrap_or_else(|| "https://secretmanager.googleapis.com".to_owned());
    Some(SvidStore::Gcp(Gcp { credentials, endpoint }))
}
