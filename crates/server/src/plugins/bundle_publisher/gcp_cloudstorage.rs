//! `BundlePublisher "gcp_cloudstorage"`: the bundle as an object of Google Cloud Storage.

use std::sync::Arc;

use signet_config::Block;
use signet_gcp::{CloudStorage, Credentials, StorageSettings};
use signet_pki::{BundlePublisher as BundlePublisherPort, published::BundleFormat};

use super::{BundlePublisher, refresh_hint};
use crate::plugins::{PluginError, Scope, gcp};

const NAME: &str = "gcp_cloudstorage";

/// `BundlePublisher "gcp_cloudstorage"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GcpCloudStorage {
    /// `bucket_name`, required.
    pub bucket_name: String,
    /// `object_name`, required.
    pub object_name: String,
    /// `format`, required.
    pub format: BundleFormat,
    /// `refresh_hint`, seconds, for the format `spiffe`.
    pub refresh_hint: Option<i64>,
    /// `service_account_file`, or what the environment says.
    pub credentials: Credentials,
    /// `endpoint` (our own): the service's URL.
    pub endpoint: String,
}

pub(super) fn gcp_cloudstorage(block: &Block<'_>) -> Option<BundlePublisher> {
    let bucket_name = block.required("bucket_name", gcp::name(block, "bucket_name"));
    let object_name = block.required_text("object_name");
    let format = block.required("format", block.parsed::<BundleFormat>("format"));
    let refresh_hint = refresh_hint(block);
    let credentials = gcp::credentials(block);
    let endpoint = gcp::endpoint(block, "https://storage.googleapis.com");
    Some(BundlePublisher::GcpCloudStorage(GcpCloudStorage {
        bucket_name: bucket_name?,
        object_name: object_name?,
        format: format?,
        refresh_hint,
        credentials,
        endpoint,
    }))
}

pub(super) fn open(
    settings: &GcpCloudStorage,
    scope: &Scope<'_>,
) -> Result<Arc<dyn BundlePublisherPort>, PluginError> {
    let gcp = gcp::open("BundlePublisher", NAME, &settings.credentials, scope.clock)?;
    let GcpCloudStorage { bucket_name, object_name, format, refresh_hint, endpoint, .. } =
        settings.clone();
    let settings = StorageSettings { endpoint, bucket_name, object_name, format, refresh_hint };
    Ok(Arc::new(CloudStorage::new(gcp, settings)))
}

pub(super) fn check(settings: &GcpCloudStorage) -> Result<(), PluginError> {
    gcp::check("BundlePublisher", NAME, &settings.credentials)
}
