//! `BundlePublisher "azure_blob"`: the bundle as a blob of Azure Storage.

use std::sync::Arc;

use signet_azure::{Blob, BlobAccess, BlobSettings};
use signet_base::chain;
use signet_config::Block;
use signet_pki::{BundlePublisher as BundlePublisherPort, published::BundleFormat};
use zeroize::Zeroizing;

use super::{BundlePublisher, refresh_hint};
use crate::plugins::{PluginError, Scope, azure};

const NAME: &str = "azure_blob";
const DEFAULT_ENDPOINT: &str = "blob.core.windows.net";

/// `BundlePublisher "azure_blob"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AzureBlob {
    /// `storage_account_name`, required.
    pub storage_account_name: String,
    /// `service_endpoint`, default `blob.core.windows.net`.
    pub service_endpoint: String,
    /// `container_name`, required.
    pub container_name: String,
    /// `blob_name`, required.
    pub blob_name: String,
    /// `format`, required.
    pub format: BundleFormat,
    /// `refresh_hint`, seconds, for the format `spiffe`.
    pub refresh_hint: Option<i64>,
    /// `storage_account_key`; `tenant_id`, `app_id` and `app_secret`; or what the environment says.
    pub access: BlobAccess,
}

pub(super) fn azure_blob(block: &Block<'_>) -> Option<BundlePublisher> {
    let account = block.required_text("storage_account_name");
    let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if let Some(name) = account.as_deref().filter(|name| !name.bytes().all(letters)) {
        let message = format!("{name:?}: expected lower-case letters and digits");
        block.error("storage_account_name", message);
    }
    let endpoint = block.text("service_endpoint").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
    if !endpoint.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b)) {
        block.error("service_endpoint", format!("{endpoint:?}: expected a host name"));
    }
    let container_name = block.required_text("container_name");
    let blob_name = block.required_text("blob_name");
    let format = block.required("format", block.parsed::<BundleFormat>("format"));
    let refresh_hint = refresh_hint(block);
    let key = block.text("storage_account_key").map(Zeroizing::new);
    let access = match key {
        Some(key) => {
            for other in ["tenant_id", "app_id", "app_secret"] {
                if block.text(other).is_some() {
                    block.error(other, "cannot be used together with storage_account_key");
                }
            }
            Some(BlobAccess::Key(key))
        }
        None => azure::credentials(block, azure::authority_of(&endpoint), &[])
            .map(BlobAccess::Credentials),
    };
    Some(BundlePublisher::AzureBlob(AzureBlob {
        storage_account_name: account?,
        service_endpoint: endpoint,
        container_name: container_name?,
        blob_name: blob_name?,
        format: format?,
        refresh_hint,
        access: access?,
    }))
}

pub(super) fn open(
    settings: &AzureBlob,
    scope: &Scope<'_>,
) -> Result<Arc<dyn BundlePublisherPort>, PluginError> {
    let AzureBlob { storage_account_name: account, service_endpoint, access, .. } =
        settings.clone();
    let blob = BlobSettings {
        account_url: format!("https://{account}.{service_endpoint}"),
        account,
        container_name: settings.container_name.clone(),
        blob_name: settings.blob_name.clone(),
        format: settings.format,
        refresh_hint: settings.refresh_hint,
    };
    let blob = Blob::new(access, blob, Arc::clone(scope.clock));
    Ok(Arc::new(blob.map_err(|error| failed(chain(&error)))?))
}

pub(super) fn check(settings: &AzureBlob) -> Result<(), PluginError> {
    settings.access.check().map_err(failed)
}

fn failed(why: String) -> PluginError {
    PluginError::new("BundlePublisher", NAME, why)
}
