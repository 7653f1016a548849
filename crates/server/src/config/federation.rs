//! `federation {}`: the own bundle endpoint, and relationships that the file fixes.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use signet_acme::DomainName;
use signet_config::Block;
use signet_identity::{BundleEndpointProfile, FederationRelationship, SpiffeId, TrustDomain};

/// How often others are asked to look again, unless configured.
const REFRESH_HINT: Duration = Duration::from_secs(5 * 60);
/// How often certificate files are looked at, unless configured.
const FILE_SYNC_INTERVAL: Duration = Duration::from_secs(3600);

/// `federation`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Federation {
    /// `bundle_endpoint`: where others fetch the own bundle; none unless its block is there.
    pub bundle_endpoint: Option<BundleEndpoint>,
    /// `federates_with`: relationships that the file fixes.
    pub federates_with: Vec<FederationRelationship>,
    /// `require_bundle` (our own key), default false: whether an entry that federates with a trust
    /// domain whose bundle is not here is refused, as SPIRE does.
    pub require_bundle: bool,
}

/// `bundle_endpoint`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleEndpoint {
    /// `address`, default `0.0.0.0`: an address without brackets, or a host name.
    pub address: String,
    /// `port`, required.
    pub port: u16,
    /// `refresh_hint`, default 5 minutes: how often others are asked to look again.
    pub refresh_hint: Duration,
    /// `publish_wit_keys` (our own key), default false: whether the document holds the keys that sign
    /// WIT-SVIDs. SPIRE before 1.15.3 refuses a document that does.
    pub publish_wit_keys: bool,
    /// `profile`: how the endpoint proves itself.
    pub profile: EndpointProfile,
}

/// How the own bundle endpoint proves itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointProfile {
    /// `https_spiffe`: by the server's X.509-SVID.
    HttpsSpiffe,
    /// `https_web { acme {} }`: by a certificate that an authority issues.
    HttpsWebAcme(signet_acme::Settings),
    /// `https_web { serving_cert_file {} }`: by a certificate in files.
    HttpsWeb(ServingCertFile),
}

/// `serving_cert_file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServingCertFile {
    /// `cert_file_path`: PEM, leaf first.
    pub cert: PathBuf,
    /// `key_file_path`: PEM.
    pub key: PathBuf,
    /// `file_sync_interval`, default 1 hour: how often the files are looked at.
    pub sync_interval: Duration,
}

/// Reads `federation {}`.
pub(super) fn federation(server: &Block<'_>, own: Option<&TrustDomain>) -> Federation {
    let Some(block) = server.block("federation") else {
        return Federation::default();
    };
    let bundle_endpoint = block.block("bundle_endpoint").and_then(bundle_endpoint);
    let federates_with: Vec<_> =
        block.labelled("federates_with").into_iter().filter_map(relationship).collect();
    if federates_with.iter().any(|with| Some(&with.trust_domain) == own) {
        block.error("federates_with", "a server does not federate with its own trust domain");
    }
    let require_bundle = block.flag("require_bundle");
    block.finish();
    Federation { bundle_endpoint, federates_with, require_bundle }
}

fn bundle_endpoint(block: Block<'_>) -> Option<BundleEndpoint> {
    let address = block.text("address").map(|text| text.trim_matches(['[', ']']).to_owned());
    if let Some(address) = address.as_ref().filter(|text| text.parse::<IpAddr>().is_err()) {
        block.warn(
            "address",
            format_args!("{address:?} is no IP address, SPIRE would listen on all; it is resolved"),
        );
    }
    let port = block.integer::<u16>("port");
    let port = block.required("port", port);
    let refresh_hint = block.duration("refresh_hint").filter(|hint| !hint.is_zero());
    let refresh_hint = refresh_hint.unwrap_or(REFRESH_HINT);
    if refresh_hint >= Duration::from_secs(24 * 3600) {
        block.warn("refresh_hint", "a day or more is long: others learn of a new key that late");
    } else if refresh_hint < Duration::from_secs(60) {
        block.warn("refresh_hint", "SPIRE servers do not refresh more often than every minute");
    }
    let publish_wit_keys = block.flag("publish_wit_keys");
    let mut profiles = block.labelled("profile");
    if profiles.len() > 1 {
        block.error("profile", "exactly one bundle endpoint profile is expected");
    }
    // Where SPIRE had it first.
    let has_acme = block.holds_block("acme");
    let acme = block.block("acme").map(|block| {
        let email = block.text("email");
        let email = block.required("email", email);
        acme(block).filter(|_| email.is_some())
    });
    if has_acme && !profiles.is_empty() {
        block.error("acme", "either acme or profile can be set, but not both");
    } else if has_acme {
        block.warn("acme", "it belongs into profile \"https_web\"");
    }
    let profile = match (profiles.pop(), acme) {
        (None, Some(acme)) => acme,
        (None, None) => {
            block.warn("profile", "none is set, so https_spiffe is served; name it");
            Some(EndpointProfile::HttpsSpiffe)
        }
        (Some((name, profile)), _) => endpoint_profile(&name, profile),
    };
    block.finish();
    Some(BundleEndpoint {
        address: address.unwrap_or_else(|| "0.0.0.0".to_owned()),
        port: port?,
        refresh_hint,
        publish_wit_keys,
        profile: profile?,
    })
}

fn endpoint_profile(name: &str, block: Block<'_>) -> Option<EndpointProfile> {
    match name {
        "https_spiffe" => {
            block.finish();
            Some(EndpointProfile::HttpsSpiffe)
        }
        "https_web" => {
            let profile = match (block.block("acme"), block.block("serving_cert_file")) {
                // SPIRE looks no further.
                (Some(acme_block), files) => {
                    if files.is_some() {
                        block.warn("serving_cert_file", "it is not used: there is acme");
                    }
                    files.map(serving_cert_file);
                    acme(acme_block)
                }
                (None, Some(files)) => serving_cert_file(files).map(EndpointProfile::HttpsWeb),
                (None, None) => {
                    let message = "either acme or serving_cert_file must be configured";
                    block.error("serving_cert_file", message);
                    None
                }
            };
            block.finish();
            profile
        }
        _ => {
            let message = format!("found profile {name:?}, expected https_spiffe or https_web");
            block.context().error(block.pos(), message);
            None
        }
    }
}

/// `acme`: a certificate for one domain.
fn acme(block: Block<'_>) -> Option<EndpointProfile> {
    let domain = block.parsed::<DomainName>("domain_name");
    let domain = block.required("domain_name", domain);
    let settings = signet_acme::settings(&block, domain.into_iter().collect());
    block.finish();
    settings.map(EndpointProfile::HttpsWebAcme)
}

fn serving_cert_file(block: Block<'_>) -> Option<ServingCertFile> {
    let cert = block.path("cert_file_path");
    let cert = block.required("cert_file_path", cert);
    let key = block.path("key_file_path");
    let key = block.required("key_file_path", key);
    let interval = block.duration("file_sync_interval").filter(|pause| !pause.is_zero());
    block.finish();
    let sync_interval = interval.unwrap_or(FILE_SYNC_INTERVAL);
    Some(ServingCertFile { cert: cert?, key: key?, sync_interval })
}

fn relationship((label, block): (String, Block<'_>)) -> Option<FederationRelationship> {
    let trust_domain = TrustDomain::from_name_or_id(&label)
        .map_err(|error| block.context().error(block.pos(), format!("{label:?}: {error}")))
        .ok();
    let url = block.required_text("bundle_endpoint_url");
    if let Some(url) = &url
        && !url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"))
    {
        block.error("bundle_endpoint_url", format_args!("found {url:?}, expected an https:// URL"));
    }
    let mut profiles = block.labelled("bundle_endpoint_profile");
    if profiles.len() > 1 {
        block.error("bundle_endpoint_profile", "only one profile is expected");
    }
    let profile = match profiles.pop() {
        None => {
            block.missing("bundle_endpoint_profile");
            None
        }
        Some((name, profile)) => self::profile(&name, profile),
    };
    block.finish();
    Some(FederationRelationship {
        trust_domain: trust_domain?,
        bundle_endpoint_url: url?,
        profile: profile?,
    })
}

fn profile(name: &str, block: Block<'_>) -> Option<BundleEndpointProfile> {
    match name {
        "https_web" => {
            block.finish();
            Some(BundleEndpointProfile::HttpsWeb)
        }
        "https_spiffe" => {
            let id = block.parsed::<SpiffeId>("endpoint_spiffe_id");
            let id = block.required("endpoint_spiffe_id", id);
            block.finish();
            id.map(|endpoint_spiffe_id| BundleEndpointProfile::HttpsSpiffe { endpoint_spiffe_id })
        }
        _ => {
            let message = format!("found profile {name:?}, expected https_spiffe or https_web");
            block.context().error(block.pos(), message);
            None
        }
    }
}
