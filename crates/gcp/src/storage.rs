//! The bundle publisher `gcp_cloudstorage`: the bundle as an object of Cloud Storage.

use std::fmt;

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use crc::{CRC_32_ISCSI, Crc};
use percent_encoding::utf8_percent_encode;
use signet_base::chain;
use signet_http::{
    UNRESERVED,
    rest::{Call, RestError},
};
use signet_identity::Bundle;
use signet_pki::{
    BundlePublisher,
    ports::PortError,
    published::{BundleFormat, Published},
};

use crate::Gcp;

/// The plugin's name.
const NAME: &str = "gcp_cloudstorage";
const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// Where the bundle goes.
#[derive(Clone, Debug)]
pub struct StorageSettings {
    /// The service's URL, `https://storage.googleapis.com`.
    pub endpoint: String,
    /// The bucket.
    pub bucket_name: String,
    /// The object.
    pub object_name: String,
    /// In which form.
    pub format: BundleFormat,
    /// How often a consumer should look again, seconds; unset for what the bundle says.
    pub refresh_hint: Option<i64>,
}

/// The publisher.
pub struct CloudStorage {
    gcp: Gcp,
    settings: StorageSettings,
    published: Published,
}

impl CloudStorage {
    /// A publisher. Nothing is sent yet.
    pub fn new(gcp: Gcp, settings: StorageSettings) -> Self {
        Self { gcp, settings, published: Published::default() }
    }

    async fn upload(&self, document: String) -> Result<(), RestError> {
        let StorageSettings { endpoint, bucket_name, object_name, format, .. } = &self.settings;
        let encode = |text: &str| utf8_percent_encode(text, UNRESERVED).to_string();
        let url = format!(
            "{}/upload/storage/v1/b/{}/o?uploadType=media&name={}",
            endpoint.trim_end_matches('/'),
            encode(bucket_name),
            encode(object_name)
        );
        let sum = STANDARD.encode(CRC32C.checksum(document.as_bytes()).to_be_bytes());
        let call = Call::post(url).body(format.media_type(), document).repeatable();
        let answer = self.gcp.json(call.clone()).await?;
        match answer.get("crc32c").and_then(serde_json::Value::as_str) {
            Some(found) if found == sum => Ok(()),
            _ => Err(RestError::nonsense(&call, "the object's checksum is not the bundle's")),
        }
    }
}

#[async_trait]
impl BundlePublisher for CloudStorage {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn publish(&self, bundle: &Bundle) -> Result<(), PortError> {
        if self.published.is(bundle) {
            return Ok(());
        }
        let failed = |message: String| PortError::Failed { name: NAME, message };
        let document = self.settings.format.document(bundle, self.settings.refresh_hint);
        let document = document.map_err(|error| failed(chain(&error)))?;
        self.upload(document).await.map_err(|error| failed(chain(&error)))?;
        self.published.set(bundle);
        let StorageSettings { bucket_name, object_name, .. } = &self.settings;
        tracing::debug!(bucket_name, object_name, "Bundle published");
        Ok(())
    }
}

impl fmt::Debug for CloudStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CloudStorage({}, {})", self.settings.bucket_name, self.settings.object_name)
    }
}
