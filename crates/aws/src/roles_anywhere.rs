//! The bundle publisher `aws_rolesanywhere_trustanchor`: the X.509 authorities as a trust anchor of
//! IAM Roles Anywhere, so that X.509-SVIDs are good for roles of AWS.

use bytes::Bytes;
use http::Method;
use percent_encoding::utf8_percent_encode;
use serde_json::json;
use signet_base::chain;
use signet_http::UNRESERVED;
use signet_identity::Bundle;
use signet_pki::{BundlePublisher, jwks, ports::PortError, published::Published};

use crate::{AwsError, Client, Credentials, Service, client::Request};

/// The plugin's name.
const NAME: &str = "aws_rolesanywhere_trustanchor";
/// The largest bundle that the service takes, bytes of PEM.
const MAX_BUNDLE: usize = 8000;

/// The publisher.
#[derive(Debug)]
pub struct RolesAnywhere {
    client: Client,
    trust_anchor_id: String,
    published: Published,
}

impl RolesAnywhere {
    /// A publisher. Nothing is sent yet.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn new(credentials: &Credentials, trust_anchor_id: String) -> Result<Self, AwsError> {
        let client = Client::new(Service::ROLES_ANYWHERE, None, credentials)?;
        Ok(Self { client, trust_anchor_id, published: Published::default() })
    }
}

#[async_trait::async_trait]
impl BundlePublisher for RolesAnywhere {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn publish(&self, bundle: &Bundle) -> Result<(), PortError> {
        if self.published.is(bundle) {
            return Ok(());
        }
        let id = &self.trust_anchor_id;
        let failed = |why: String| {
            let message = format!("trust anchor {id:?}: {why}");
            PortError::Failed { name: NAME, message }
        };
        let pem = jwks::encode_pem(bundle);
        if pem.len() > MAX_BUNDLE {
            let (count, length) = (bundle.x509_authorities.len(), pem.len());
            return Err(failed(format!(
                "the bundle is too large: {count} X.509 authorities of {length} bytes, where a \
                 trust anchor takes {MAX_BUNDLE} bytes and 2 certificates"
            )));
        }
        let source = json!({
            "sourceType": "CERTIFICATE_BUNDLE",
            "sourceData": { "x509CertificateData": pem },
        });
        let request = Request {
            method: Method::PATCH,
            action: "UpdateTrustAnchor",
            base: None,
            path: format!("/trustanchor/{}", utf8_percent_encode(id, UNRESERVED)),
            headers: vec![("content-type", "application/json".to_owned())],
            body: Bytes::from(json!({ "source": source }).to_string()),
            is_repeatable: true,
        };
        self.client.send(&request).await.map_err(|error| failed(chain(&error)))?;
        self.published.set(bundle);
        tracing::debug!(trust_anchor_id = id, "Bundle published to IAM Roles Anywhere");
        Ok(())
    }
}
