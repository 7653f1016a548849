//! Relationships from flags and from JSON files.

use clap::ValueEnum as _;
use serde::Deserialize;
use signet_api::pb::spire::api::types::{
    self, HttpsWebProfile, HttpsspiffeProfile, federation_relationship::BundleEndpointProfile,
};
use signet_identity::SpiffeId;

use super::Profile;
use crate::cli::{
    bundle::{self, Format},
    env::{CliError, Env},
};

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Relationships {
    federation_relationships: Vec<Relationship>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Relationship {
    trust_domain: String,
    #[serde(rename = "bundleEndpointURL")]
    bundle_endpoint_url: String,
    bundle_endpoint_profile: String,
    #[serde(rename = "endpointSPIFFEID")]
    endpoint_spiffe_id: String,
    /// A text for `pem`, an object for `spiffe`.
    trust_domain_bundle: Option<serde_json::Value>,
    trust_domain_bundle_format: String,
}

/// Reads a file, `{"federationRelationships": [...]}`; none for an empty list, as in SPIRE.
///
/// # Errors
/// [`CliError::Usage`] that names the file and what is wrong in it.
pub(super) fn relationships(
    json: &[u8],
    file: &str,
    env: &mut Env,
) -> Result<Vec<types::FederationRelationship>, CliError> {
    let read: Relationships = env.parse_json(json, file)?;
    let mut out = Vec::with_capacity(read.federation_relationships.len());
    for (at, one) in read.federation_relationships.into_iter().enumerate() {
        out.push(one.into_pb().map_err(|error| {
            CliError::usage(format!("{file}: federationRelationships[{at}]: {error}"))
        })?);
    }
    Ok(out)
}

/// A relationship from its parts.
///
/// # Errors
/// [`CliError`] with what is missing or wrong.
pub(super) fn relationship(
    trust_domain: &str,
    url: &str,
    profile: Option<Profile>,
    endpoint_spiffe_id: &str,
    bundle: Option<(&[u8], Format)>,
) -> Result<types::FederationRelationship, CliError> {
    if trust_domain.is_empty() {
        return Err(CliError::usage("trust domain is required (-trustDomain)"));
    }
    if url.is_empty() {
        return Err(CliError::usage("bundle endpoint URL is required (-bundleEndpointURL)"));
    }
    let profile = match profile {
        Some(Profile::HttpsWeb) => BundleEndpointProfile::HttpsWeb(HttpsWebProfile {}),
        Some(Profile::HttpsSpiffe) => {
            if endpoint_spiffe_id.is_empty() {
                return Err(CliError::usage(
                    "endpoint SPIFFE ID is required if 'https_spiffe' endpoint profile is set \
                     (-endpointSpiffeID)",
                ));
            }
            endpoint_spiffe_id.parse::<SpiffeId>().map_err(|error| {
                CliError::usage(format!("cannot parse bundle endpoint SPIFFE ID: {error}"))
            })?;
            BundleEndpointProfile::HttpsSpiffe(HttpsspiffeProfile {
                endpoint_spiffe_id: endpoint_spiffe_id.to_owned(),
            })
        }
        None => {
            return Err(CliError::usage(
                "bundle endpoint profile is required (-bundleEndpointProfile): https_web or \
                 https_spiffe",
            ));
        }
    };
    let bundle = bundle.map(|(data, format)| bundle::parse(data, format, trust_domain));
    Ok(types::FederationRelationship {
        trust_domain: trust_domain.to_owned(),
        bundle_endpoint_url: url.to_owned(),
        bundle_endpoint_profile: Some(profile),
        trust_domain_bundle: bundle.transpose()?,
    })
}

impl Relationship {
    fn into_pb(self) -> Result<types::FederationRelationship, CliError> {
        let profile = match self.bundle_endpoint_profile.as_str() {
            "" => None,
            name => Some(Profile::from_str(name, false).map_err(|_| {
                CliError::usage(format!("unknown bundle endpoint profile type: \"{name}\""))
            })?),
        };
        let bundle = match self.trust_domain_bundle {
            None | Some(serde_json::Value::Null) => None,
            Some(value) => Some(match (self.trust_domain_bundle_format.as_str(), value) {
                ("pem", serde_json::Value::String(text)) => (text.into_bytes(), Format::Pem),
                ("spiffe", value) => (value.to_string().into_bytes(), Format::Spiffe),
                ("pem", _) => {
                    return Err(CliError::usage("trustDomainBundle: a pem bundle is a text"));
                }
                (format, _) => {
                    let why = format!("bundle format \"{format}\" is unsupported");
                    return Err(CliError::usage(why));
                }
            }),
        };
        relationship(
            &self.trust_domain,
            &self.bundle_endpoint_url,
            profile,
            &self.endpoint_spiffe_id,
            bundle.as_ref().map(|(data, format)| (data.as_slice(), *format)),
        )
    }
}

#[cfg(test)]
mod tests {
    use signet_daemon::program::Program;

    use super::*;

    #[test]
    fn a_file_of_spire_is_read_and_mistakes_are_located() {
        let mut env = Env::process(Program::Signet);
        env.err = Box::new(std::io::sink());
        let good = br#"{"federationRelationships":[
            {"trustDomain":"f1.test","bundleEndpointURL":"https://127.0.0.1:9/f1",
             "bundleEndpointProfile":"https_web"},
            {"trustDomain":"f2.test","bundleEndpointURL":"https://127.0.0.1:9/f2",
             "bundleEndpointProfile":"https_spiffe","endpointSPIFFEID":"spiffe://f2.test/s",
             "trustDomainBundle":{"keys":[]},"trustDomainBundleFormat":"spiffe"}]}"#;
        let read = relationships(good, "f", &mut env).unwrap();
        assert_eq!(read[1].trust_domain_bundle.as_ref().unwrap().trust_domain, "f2.test");
        for (bad, why) in [
            ("junk", "f: "),
            (r#"{"federationRelationships":[{}]}"#, "[0]: trust domain is required"),
            (
                r#"{"federationRelationships":[{"trustDomain":"a","bundleEndpointURL":"u",
                    "bundleEndpointProfile":"ftp"}]}"#,
                "unknown bundle endpoint profile type: \"ftp\"",
            ),
        ] {
            let refused = relationships(bad.as_bytes(), "f", &mut env).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn files_mean_what_they_mean_to_spire() {
        let mut env = Env::process(Program::Signet);
        env.err = Box::new(std::io::sink());
        let nulls = br#"{"federationrelationships":[{"trustdomain":"f.test",
            "BundleEndpointURL":"https://127.0.0.1:9/f","bundleendpointprofile":"https_web",
            "endpointSPIFFEID":null,"trustDomainBundle":null,"trustDomainBundleFormat":null}]}"#;
        assert_eq!(relationships(nulls, "f", &mut env).unwrap()[0].trust_domain, "f.test");
        for empty in ["{}", "{\"federationRelationships\":[]}"] {
            assert_eq!(relationships(empty.as_bytes(), "f", &mut env).unwrap(), []);
        }
    }
}
