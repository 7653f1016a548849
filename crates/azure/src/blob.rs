//! The bundle publisher `azure_blob`: the bundle as a blob of Azure Storage.

use std::fmt;

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderName, Method, header::AUTHORIZATION};
use percent_encoding::utf8_percent_encode;
use signet_base::{SharedClock, chain};
use signet_http::{
    HttpClient, HttpError, UNRESERVED,
    rest::{Call, Rest, RestError},
};
use signet_identity::Bundle;
use signet_pki::{
    BundlePublisher,
    digest::hmac_sha256,
    ports::PortError,
    published::{BundleFormat, Published},
};
use time::{OffsetDateTime, macros::format_description};
use zeroize::Zeroizing;

use crate::{Azure, Credentials};

/// The plugin's name.
const NAME: &str = "azure_blob";
/// For whom tokens are.
const RESOURCE: &str = "https://storage.azure.com";
/// The version of the service's interface.
const VERSION: &str = "2021-12-02";
const X_DATE: HeaderName = HeaderName::from_static("x-ms-date");
const X_VERSION: HeaderName = HeaderName::from_static("x-ms-version");
const X_TYPE: HeaderName = HeaderName::from_static("x-ms-blob-type");

/// Where the bundle goes.
#[derive(Clone, Debug)]
pub struct BlobSettings {
    /// The storage account.
    pub account: String,
    /// Its URL, `https://account.blob.core.windows.net`.
    pub account_url: String,
    /// The container.
    pub container_name: String,
    /// The blob.
    pub blob_name: String,
    /// In which form.
    pub format: BundleFormat,
    /// How often a consumer should look again, seconds; unset for what the bundle says.
    pub refresh_hint: Option<i64>,
}

/// By what a storage account knows who asks. The key prints as `..`.
#[derive(Clone, PartialEq, Eq)]
pub enum BlobAccess {
    /// By a token.
    Credentials(Credentials),
    /// By a key of the account, base64.
    Key(Zeroizing<String>),
}

/// The publisher.
pub struct Blob {
    access: Access,
    settings: BlobSettings,
    clock: SharedClock,
    published: Published,
}

enum Access {
    Token(Azure),
    Key { rest: Rest, key: Zeroizing<Vec<u8>> },
}

impl BlobAccess {
    /// Finds out whether it can be used: files are read, nothing is sent.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Credentials(credentials) => credentials.check(),
            Self::Key(key) => decoded(key).map(drop),
        }
    }
}

fn decoded(key: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let key = STANDARD.decode(key.trim()).map(Zeroizing::new);
    key.map_err(|_| "the storage account key is not base64".to_owned())
}

impl Blob {
    /// A publisher. Nothing is sent yet.
    ///
    /// # Errors
    /// [`RestError`] when the key or the machine's proxies cannot be used.
    pub fn new(
        access: BlobAccess,
        settings: BlobSettings,
        clock: SharedClock,
    ) -> Result<Self, RestError> {
        let access = match access {
            BlobAccess::Credentials(credentials) => {
                Access::Token(Azure::new(credentials, RESOURCE)?)
            }
            BlobAccess::Key(key) => {
                let key = decoded(&key).map_err(RestError::Setting)?;
                let http: Result<_, HttpError> = HttpClient::builder().build();
                Access::Key { rest: Rest::new(http?, None), key }
            }
        };
        Ok(Self { access, settings, clock, published: Published::default() })
    }

    async fn upload(&self, document: String) -> Result<(), RestError> {
        let BlobSettings { account, account_url, container_name, blob_name, format, .. } =
            &self.settings;
        let escaped = |text: &str| {
            let parts = text.split('/');
            parts
                .map(|part| utf8_percent_encode(part, UNRESERVED).to_string())
                .collect::<Vec<_>>()
                .join("/")
        };
        let path = format!("/{}/{}", escaped(container_name), escaped(blob_name));
        let url = format!("{}{path}", account_url.trim_end_matches('/'));
        let date = rfc1123(&self.clock)?;
        let (length, media) = (document.len(), format.media_type());
        let call = Call::new(Method::PUT, url)
            .body(media, document)
            .header(X_DATE, &date)
            .header(X_VERSION, VERSION)
            .header(X_TYPE, "BlockBlob");
        match &self.access {
            Access::Token(azure) => azure.send(&call).await.map(drop),
            Access::Key { rest, key } => {
                let text = text_to_sign(account, &path, &date, length, media);
                let signature = STANDARD.encode(hmac_sha256(key, text.as_bytes()));
                let value = format!("SharedKey {account}:{signature}");
                rest.send(&call.header(AUTHORIZATION, &value)).await.map(drop)
            }
        }
    }
}

/// What a request to put a block blob is signed over with the account's key ("Shared Key").
fn text_to_sign(account: &str, path: &str, date: &str, length: usize, media: &str) -> String {
    // Nothing stands for 0.
    let length = if length == 0 { String::new() } else { length.to_string() };
    format!(
        "PUT\n\n\n{length}\n\n{media}\n\n\n\n\n\n\nx-ms-blob-type:BlockBlob\nx-ms-date:{date}\n\
         x-ms-version:{VERSION}\n/{account}{path}"
    )
}

fn rfc1123(clock: &SharedClock) -> Result<String, RestError> {
    let wrong = || RestError::Setting("the machine's clock is wrong".to_owned());
    let now = OffsetDateTime::from_unix_timestamp(clock.unix().seconds()).map_err(|_| wrong())?;
    let form = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    now.format(form).map_err(|_| wrong())
}

#[async_trait]
impl BundlePublisher for Blob {
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
        let BlobSettings { container_name, blob_name, .. } = &self.settings;
        tracing::debug!(container_name, blob_name, "Bundle published");
        Ok(())
    }
}

impl fmt::Debug for BlobAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credentials(credentials) => credentials.fmt(f),
            Self::Key(_) => f.write_str("Key(..)"),
        }
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BlobSettings { account, container_name, blob_name, .. } = &self.settings;
        write!(f, "Blob({account}, {container_name}, {blob_name})")
    }
}
