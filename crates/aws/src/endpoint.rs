//! Where the services are.
//!
//! Source: "AWS service endpoints" of the AWS General Reference, and the settings reference of
//! AWS's SDKs for the variables.

use http::Uri;
use signet_http::{is_loopback, shown};

use crate::{AwsError, Environment};

/// A service of AWS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// The first part of its host name, and the name that it is signed for.
    pub(crate) name: &'static str,
    /// Its name in `AWS_ENDPOINT_URL_…`.
    pub(crate) variable: &'static str,
    /// What is before the action in `X-Amz-Target`.
    pub(crate) target: &'static str,
    /// Whether its answers hold secrets: then only TLS or this machine will do.
    pub(crate) is_secret: bool,
}

impl Service {
    /// Private Certificate Authority.
    pub const ACM_PCA: Self = Self::new("acm-pca", "ACM_PCA", "ACMPrivateCA");
    /// Key Management Service.
    pub const KMS: Self = Self::new("kms", "KMS", "TrentService");
    /// IAM Roles Anywhere.
    pub const ROLES_ANYWHERE: Self = Self::new("rolesanywhere", "ROLESANYWHERE", "");
    /// Simple Storage Service.
    pub const S3: Self = Self::new("s3", "S3", "");
    /// Secrets Manager.
    pub const SECRETS_MANAGER: Self = Self {
        is_secret: true,
        ..Self::new("secretsmanager", "SECRETS_MANAGER", "secretsmanager")
    };
    /// Security Token Service.
    pub const STS: Self = Self { is_secret: true, ..Self::new("sts", "STS", "") };
    /// Resource Groups Tagging.
    pub const TAGGING: Self =
        Self::new("tagging", "RESOURCE_GROUPS_TAGGING_API", "ResourceGroupsTaggingAPI_20170126");

    const fn new(name: &'static str, variable: &'static str, target: &'static str) -> Self {
        Self { name, variable, target, is_secret: false }
    }
}

/// The URL of a service, without a slash at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) url: String,
    /// Whether somebody has set it: then it may be no host of AWS.
    pub(crate) is_set: bool,
}

impl Endpoint {
    /// What was set, in the configuration or the environment, or else AWS's own.
    pub(crate) fn of(
        service: Service,
        region: &str,
        set: Option<&str>,
        environment: &Environment,
    ) -> Result<Self, AwsError> {
        check_region(region)?;
        let from_environment = || {
            if environment.is_on("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") {
                return None;
            }
            let own = environment.get(&format!("AWS_ENDPOINT_URL_{}", service.variable));
            own.or_else(|| environment.get("AWS_ENDPOINT_URL"))
        };
        match set.map(str::to_owned).or_else(from_environment) {
            Some(url) => Ok(Self { url: checked(service, &url)?, is_set: true }),
            None => {
                let fips = if environment.is_on("AWS_USE_FIPS_ENDPOINT") { "-fips" } else { "" };
                let (name, suffix) = (service.name, suffix(region));
                let url = format!("https://{name}{fips}.{region}.{suffix}");
                Ok(Self { url, is_set: false })
            }
        }
    }
}

/// A region becomes part of host names.
fn check_region(region: &str) -> Result<(), AwsError> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if (1..=64).contains(&region.len()) && region.bytes().all(good) {
        return Ok(());
    }
    Err(AwsError::Setting(format!(
        "{:?} is not a region of AWS, expected one such as us-east-1",
        shown(region)
    )))
}

/// The domain of a partition.
fn suffix(region: &str) -> &'static str {
    match region.split('-').collect::<Vec<_>>()[..] {
        ["cn", ..] => "amazonaws.com.cn",
        ["us", "iso", ..] => "c2s.ic.gov",
        ["us", "isob", ..] => "sc2s.sgov.gov",
        ["eu", "isoe", ..] => "cloud.adc-e.uk",
        ["us", "isof", ..] => "csp.hci.ic.gov",
        ["eusc", ..] => "amazonaws.eu",
        _ => "amazonaws.com",
    }
}

/// A URL that somebody has set; a host alone means `https://`.
fn checked(service: Service, text: &str) -> Result<String, AwsError> {
    let text = text.trim().trim_end_matches('/');
    let url = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let wrong = |why: &str| AwsError::Setting(format!("endpoint {:?} {why}", shown(text)));
    let uri: Uri = url.parse().map_err(|_| wrong("is not a URL"))?;
    let host = uri.host().filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| wrong("has no host"))?;
    let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    match uri.scheme_str() {
        _ if has_user || uri.query().is_some() => {
            Err(wrong("has a user or a query, expected one such as https://host:port"))
        }
        Some("https") => Ok(url),
        Some("http") if service.is_secret && !is_loopback(host) => {
            Err(wrong("would let secrets pass in the clear: expected an https:// URL"))
        }
        Some("http") => Ok(url),
        _ => Err(wrong("is neither https:// nor http://")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(
        service: Service,
        region: &str,
        set: Option<&str>,
        variables: &'static [(&str, &str)],
    ) -> Result<String, String> {
        let look_up = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Endpoint::of(service, region, set, &Environment::from_fn(look_up))
            .map(|endpoint| endpoint.url)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_service_is_where_aws_has_it_or_where_somebody_says() {
        let kms = |region, set, variables| endpoint(Service::KMS, region, set, variables).unwrap();
        assert_eq!(kms("us-east-1", None, &[]), "https://kms.us-east-1.amazonaws.com");
        assert_eq!(kms("cn-north-1", None, &[]), "https://kms.cn-north-1.amazonaws.com.cn");
        assert_eq!(
            kms("us-gov-west-1", None, &[("AWS_USE_FIPS_ENDPOINT", "true")]),
            "https://kms-fips.us-gov-west-1.amazonaws.com"
        );
        let both: &[_] =
            &[("AWS_ENDPOINT_URL", "http://all/"), ("AWS_ENDPOINT_URL_KMS", "http://localhost:1/")];
        assert_eq!(kms("x", None, both), "http://localhost:1");
        assert_eq!(kms("x", Some("kms.internal"), both), "https://kms.internal");
        assert_eq!(endpoint(Service::S3, "x", None, both).unwrap(), "http://all");
    }

    #[test]
    fn what_is_no_endpoint_or_would_show_secrets_is_refused() {
        for (service, region, set, why) in [
            (Service::KMS, "us east", None, "is not a region"),
            (Service::KMS, "a.evil.org/", None, "is not a region"),
            (Service::KMS, "x", Some("ftp://h"), "is neither"),
            (Service::KMS, "x", Some("https://u:p@h"), "has a user"),
            (Service::SECRETS_MANAGER, "x", Some("http://h"), "in the clear"),
            (Service::STS, "x", Some("http://10.0.0.1"), "in the clear"),
        ] {
            let error = endpoint(service, region, set, &[]).unwrap_err();
            assert!(error.contains(why), "{region} {set:?}: {error}");
        }
        for local in ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"] {
            assert_eq!(endpoint(Service::STS, "x", Some(local), &[]).unwrap(), local);
        }
    }
}
