//! `BundlePublisher "aws_s3"` and `"aws_rolesanywhere_trustanchor"`.

use std::sync::Arc;

use signet_aws::{Access, RolesAnywhere, S3, S3Settings};
use signet_config::Block;
use signet_pki::{BundlePublisher as BundlePublisherPort, published::BundleFormat};

use super::{BundlePublisher, KIND, refresh_hint};
use crate::plugins::{PluginError, Scope, aws};

/// `BundlePublisher "aws_s3"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsS3 {
    /// `region`, required.
    pub region: String,
    /// `access_key_id`, `secret_access_key`.
    pub access: Access,
    /// `bucket`, `object_key` and `format`, required, `refresh_hint`, `endpoint`.
    pub settings: S3Settings,
}

/// `BundlePublisher "aws_rolesanywhere_trustanchor"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsRolesAnywhere {
    /// `region`, required.
    pub region: String,
    /// `access_key_id`, `secret_access_key`.
    pub access: Access,
    /// `trust_anchor_id`, required.
    pub trust_anchor_id: String,
}

pub(super) fn s3(block: &Block<'_>) -> Option<BundlePublisher> {
    let region = block.required_text("region");
    let access = aws::access(block);
    let bucket = block.required_text("bucket");
    let object_key = block.required_text("object_key");
    let format = block.required("format", block.parsed::<BundleFormat>("format"));
    let (refresh_hint, endpoint) = (refresh_hint(block), block.text("endpoint"));
    let settings = S3Settings {
        bucket: bucket?,
        object_key: object_key?,
        format: format?,
        refresh_hint,
        endpoint,
    };
    Some(BundlePublisher::AwsS3(AwsS3 { region: region?, access, settings }))
}

pub(super) fn roles_anywhere(block: &Block<'_>) -> Option<BundlePublisher> {
    let region = block.required_text("region");
    let access = aws::access(block);
    let trust_anchor_id = block.required_text("trust_anchor_id");
    Some(BundlePublisher::AwsRolesAnywhere(AwsRolesAnywhere {
        region: region?,
        access,
        trust_anchor_id: trust_anchor_id?,
    }))
}

pub(super) fn open_s3(
    s3: &AwsS3,
    scope: &Scope<'_>,
) -> Result<Arc<dyn BundlePublisherPort>, PluginError> {
    let credentials = aws::credentials(&s3.region, &s3.access, scope.clock);
    let opened = S3::new(&credentials, s3.settings.clone());
    Ok(Arc::new(opened.map_err(|error| aws::failed(KIND.name, "aws_s3", &error))?))
}

pub(super) fn open_roles_anywhere(
    anchor: &AwsRolesAnywhere,
    scope: &Scope<'_>,
) -> Result<Arc<dyn BundlePublisherPort>, PluginError> {
    const NAME: &str = "aws_rolesanywhere_trustanchor";
    let credentials = aws::credentials(&anchor.region, &anchor.access, scope.clock);
    let opened = RolesAnywhere::new(&credentials, anchor.trust_anchor_id.clone());
    Ok(Arc::new(opened.map_err(|error| aws::failed(KIND.name, NAME, &error))?))
}
