//! The bundle publisher `aws_s3`: the bundle as an object of S3, or of whatever speaks like it.

use bytes::Bytes;
use http::Method;
use percent_encoding::utf8_percent_encode;
use signet_base::chain;
use signet_http::shown;
use signet_identity::Bundle;
use signet_pki::{
    BundlePublisher,
    ports::PortError,
    published::{BundleFormat, Published},
};

use crate::{
    AwsError, Client, Credentials, Service,
    client::{PATH, Request},
};

/// The plugin's name.
const NAME: &str = "aws_s3";
/// The longest key of an object, bytes.
const MAX_KEY: usize = 1024;

/// Which object the bundle is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Settings {
    /// The bucket.
    pub bucket: String,
    /// The key of the object in it.
    pub object_key: String,
    /// The form of the bundle.
    pub format: BundleFormat,
    /// How often a consumer should look again, seconds; unset for what the bundle says.
    pub refresh_hint: Option<i64>,
    /// The URL of a service other than AWS's.
    pub endpoint: Option<String>,
}

/// The publisher.
#[derive(Debug)]
pub struct S3 {
    client: Client,
    settings: S3Settings,
    base: Option<String>,
    path: String,
    published: Published,
}

impl S3 {
    /// A publisher. Nothing is sent yet.
    ///
    /// # Errors
    /// [`AwsError::Setting`] when bucket or key cannot be used, and as [`Client::new`].
    pub fn new(credentials: &Credentials, settings: S3Settings) -> Result<Self, AwsError> {
        let client = Client::new(Service::S3, settings.endpoint.as_deref(), credentials)?;
        let S3Settings { bucket, object_key, .. } = &settings;
        check(bucket, object_key)?;
        let key = utf8_percent_encode(object_key, PATH);
        // A bucket of AWS has a host name; one that is no good as such, or is elsewhere, a path.
        let host = client.endpoint().url.strip_prefix("https://").map(str::to_owned);
        let (base, path) = match host {
            Some(host) if !client.endpoint().is_set && is_label(bucket) => {
                (Some(format!("https://{bucket}.{host}")), format!("/{key}"))
            }
            _ => (None, format!("/{}/{key}", utf8_percent_encode(bucket, PATH))),
        };
        Ok(Self { client, base, path, published: Published::default(), settings })
    }

    async fn put(&self, bundle: &Bundle) -> Result<(), String> {
        let S3Settings { format, refresh_hint, .. } = &self.settings;
        let document = format.document(bundle, *refresh_hint).map_err(|error| chain(&error))?;
        let request = Request {
            method: Method::PUT,
            action: "PutObject",
            base: self.base.clone(),
            path: self.path.clone(),
            headers: vec![("content-type", format.media_type().to_owned())],
            body: Bytes::from(document),
            is_repeatable: true,
        };
        self.client.send(&request).await.map(drop).map_err(|error| chain(&error))
    }
}

#[async_trait::async_trait]
impl BundlePublisher for S3 {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn publish(&self, bundle: &Bundle) -> Result<(), PortError> {
        let S3Settings { bucket, object_key, .. } = &self.settings;
        if self.published.is(bundle) {
            return Ok(());
        }
        self.put(bundle).await.map_err(|why| PortError::Failed {
            name: NAME,
            message: format!("object {object_key:?} of bucket {bucket:?}: {why}"),
        })?;
        self.published.set(bundle);
        tracing::debug!(bucket, object_key, "Bundle published to S3");
        Ok(())
    }
}

fn check(bucket: &str, key: &str) -> Result<(), AwsError> {
    let wrong = |why: String| Err(AwsError::Setting(why));
    if bucket.starts_with("arn:") {
        return wrong(format!(
            "bucket {:?} is an ARN: use the access point's alias",
            shown(bucket)
        ));
    }
    let inside = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if !(3..=255).contains(&bucket.len()) || !bucket.bytes().all(inside) || bucket.contains("..") {
        return wrong(format!("{:?} is not the name of a bucket", shown(bucket)));
    }
    if !(1..=MAX_KEY).contains(&key.len()) || key.split('/').any(|part| part == "." || part == "..")
    {
        return wrong(format!("{:?} cannot be the key of an object here", shown(key)));
    }
    Ok(())
}

/// Whether a bucket's name can be the first part of a host name that a certificate is for.
fn is_label(bucket: &str) -> bool {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    bucket.len() <= 63
        && bucket.bytes().all(inside)
        && !bucket.starts_with('-')
        && !bucket.ends_with('-')
}

#[cfg(test)]
mod tests {
    use signet_base::SystemClock;

    use super::*;
    use crate::{Access, Environment, Place};

    fn place_of(bucket: &str, key: &str, endpoint: Option<&str>) -> Result<String, String> {
        let place = Place::new("eu-west-1", Environment::from_fn(|_| None), SystemClock::shared());
        let credentials = Credentials::new(place, &Access::default());
        let settings = S3Settings {
            bucket: bucket.to_owned(),
            object_key: key.to_owned(),
            format: BundleFormat::Spiffe,
            refresh_hint: None,
            endpoint: endpoint.map(str::to_owned),
        };
        let s3 = S3::new(&credentials, settings).map_err(|error| error.to_string())?;
        let base = s3.base.clone().unwrap_or_else(|| s3.client.endpoint().url.clone());
        Ok(format!("{base}{}", s3.path))
    }

    #[test]
    fn a_bucket_has_a_host_or_a_path() {
        let of = |bucket, key, endpoint| place_of(bucket, key, endpoint).unwrap();
        assert_eq!(
            of("bundles", "a/ü b", None),
            "https://bundles.s3.eu-west-1.amazonaws.com/a/%C3%BC%20b"
        );
        assert_eq!(of("a.b.c", "k", None), "https://s3.eu-west-1.amazonaws.com/a.b.c/k");
        assert_eq!(of("bundles", "k", Some("http://minio:9000/")), "http://minio:9000/bundles/k");
        for (bucket, key, why) in [
            ("a/b", "k", "is not the name of a bucket"),
            ("arn:aws:s3:::b", "k", "access point's alias"),
            ("bundles", "a/../b", "cannot be the key"),
        ] {
            let error = place_of(bucket, key, None).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
