//! `UpstreamAuthority "aws_pca"` and `"awssecret"`: a private CA of AWS, or one in Secrets Manager.

use std::sync::Arc;

use signet_aws::{Access, Keys, Pca, PcaSettings, SecretAuthority, SecretSettings};
use signet_config::Block;
use signet_pki::UpstreamAuthority as UpstreamAuthorityPort;

use super::{KIND, UpstreamAuthority};
use crate::plugins::{PluginError, Scope, aws};

/// `UpstreamAuthority "aws_pca"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsPca {
    /// `region`, required.
    pub region: String,
    /// `assume_role_arn`.
    pub access: Access,
    /// `certificate_authority_arn`, required, and how it signs.
    pub settings: PcaSettings,
}

/// `UpstreamAuthority "awssecret"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsSecret {
    /// `region`, required here or in the environment.
    pub region: String,
    /// `access_key_id`, `secret_access_key`, `secret_token`, `assume_role_arn`.
    pub access: Access,
    /// `cert_file_arn` and `key_file_arn`, required, `bundle_file_arn`.
    pub settings: SecretSettings,
}

pub(super) fn pca(block: &Block<'_>) -> Option<UpstreamAuthority> {
    let region = block.required_text("region");
    let arn = block.required_text("certificate_authority_arn");
    let access = Access { keys: None, assume_role_arn: block.text("assume_role_arn") };
    let settings = PcaSettings {
        certificate_authority_arn: arn.clone().unwrap_or_default(),
        signing_algorithm: block.text("signing_algorithm"),
        ca_signing_template_arn: block.text("ca_signing_template_arn"),
        supplemental_bundle_path: block.path("supplemental_bundle_path"),
        endpoint: block.text("endpoint"),
    };
    arn?;
    Some(UpstreamAuthority::AwsPca(AwsPca { region: region?, access, settings }))
}

pub(super) fn secret(block: &Block<'_>) -> Option<UpstreamAuthority> {
    let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    let region = block.text("region").or_else(|| variable("AWS_REGION"));
    let region = block.required("region", region);
    let mut access = aws::access(block);
    // As SPIRE: the token of the environment belongs to the keys of the file.
    let token = block.text("secret_token").or_else(|| variable("AWS_SESSION_TOKEN"));
    access.keys = access.keys.map(|keys| Keys::new(&keys.id, &keys.secret, token.as_deref()));
    access.assume_role_arn = block.text("assume_role_arn");
    let cert_file_arn = block.required_text("cert_file_arn");
    let key_file_arn = block.required_text("key_file_arn");
    let bundle_file_arn = block.text("bundle_file_arn");
    let settings = SecretSettings {
        cert_file_arn: cert_file_arn?,
        key_file_arn: key_file_arn?,
        bundle_file_arn,
    };
    Some(UpstreamAuthority::AwsSecret(AwsSecret { region: region?, access, settings }))
}

pub(super) fn open_pca(
    pca: &AwsPca,
    scope: &Scope<'_>,
) -> Result<Arc<dyn UpstreamAuthorityPort>, PluginError> {
    let credentials = aws::credentials(&pca.region, &pca.access, scope.clock);
    let opened = Pca::new(&credentials, pca.settings.clone());
    Ok(Arc::new(opened.map_err(|error| aws::failed(KIND.name, "aws_pca", &error))?))
}

pub(super) fn open_secret(
    secret: &AwsSecret,
    scope: &Scope<'_>,
) -> Result<Arc<dyn UpstreamAuthorityPort>, PluginError> {
    let credentials = aws::credentials(&secret.region, &secret.access, scope.clock);
    let trust_domain = scope.trust_domain.clone();
    let opened = SecretAuthority::new(&credentials, secret.settings.clone(), trust_domain);
    Ok(Arc::new(opened.map_err(|error| aws::failed(KIND.name, "awssecret", &error))?))
}
