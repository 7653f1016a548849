//! What Envoy is given, each encoded once for all the streams that ask for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint},
};
use prost_types::Any;
use signet_api::pb::envoy::{
    config::core::v3::{DataSource, TypedExtensionConfig},
    extensions::transport_sockets::tls::v3::{
        CertificateValidationContext, Secret as SecretMessage, SpiffeCertValidatorConfig,
        TlsCertificate, spiffe_cert_validator_config::TrustDomain as ValidatedDomain,
    },
};
use signet_identity::Bundle;
use signet_pki::{digest::sha256_hex, pem, x509::Certificate};
use signet_time::UnixTime;
use tonic::Status;
use zeroize::Zeroizing;

use crate::{
    cache::{Identity, WorkloadUpdate},
    config::SdsSettings,
};

/// The type of every resource of SDS.
pub const SECRET_TYPE: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const VALIDATOR_TYPE: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";
const VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";

/// The field of an answer that holds its resources, and that of a delta resource that holds the
/// secret: the same number, so that one encoding serves both.
const RESOURCE_FIELD: u32 = 2;
const VERSION_FIELD: u32 = 1;
const NAME_FIELD: u32 = 3;

/// In which form bundles are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// For Envoy's SPIFFE certificate validator: each trust domain has its own roots.
    Validator,
    /// As plain roots.
    Roots,
}

/// What is known of a secret beside its content. It outlives the content where a peer still has it.
#[derive(Debug, PartialEq, Eq)]
pub struct SecretInfo {
    /// Its name on the stream.
    pub name: Box<str>,
    /// A hash of the content: the same after a restart, another when the content is.
    pub version: Box<str>,
    /// Subject key IDs in hex: of what signed the certificates, or of a bundle's authorities.
    pub authorities: Vec<Box<str>>,
    /// Unix seconds; 0 for a bundle.
    pub expires_at: UnixTime,
}

/// An encoded secret.
#[derive(Debug)]
pub struct Secret {
    /// What is known of it.
    pub info: Arc<SecretInfo>,
    /// Whose certificate it is; none for a bundle.
    pub identity: Option<Identity>,
    /// The field with the secret, as both protocols have it.
    resource: Bytes,
    /// What stands before it in a delta answer.
    delta_head: Bytes,
}

impl Secret {
    /// The field of an answer with the state of the world.
    pub fn whole(&self) -> Bytes {
        self.resource.clone()
    }

    /// The field of a delta answer, in parts.
    pub fn delta(&self) -> [Bytes; 2] {
        [self.delta_head.clone(), self.resource.clone()]
    }
}

/// Encoded secrets, each made by the first stream that asks.
#[derive(Default)]
struct Encoded(Mutex<ByName>);

type ByName = HashMap<(Form, Box<str>), Arc<Secret>>;

/// The secrets of an update under the names that are configured, in one form.
#[derive(Clone, Copy, Debug)]
pub struct Secrets<'a> {
    /// What there is.
    pub update: &'a WorkloadUpdate,
    /// The names.
    pub settings: &'a SdsSettings,
    /// The form.
    pub form: Form,
}

enum Content<'a> {
    Svid(&'a Identity),
    Bundles(Vec<&'a Bundle>),
}

impl Secrets<'_> {
    /// The secret of that name, if there is one.
    ///
    /// # Errors
    /// `Internal` when all bundles are asked for as plain roots: they would vouch for each other.
    pub fn get(&self, name: &str) -> Result<Option<Arc<Secret>>, Status> {
        let Self { update, settings, .. } = self;
        let own = &*update.bundle;
        let content =
            if name == own.trust_domain.id_string() || name == settings.default_bundle_name {
                Content::Bundles(vec![own])
            } else if name == settings.default_all_bundles_name {
                if self.form == Form::Roots {
                    return Err(Status::internal(
                        "unable to use \"SPIFFE validator\" on Envoy below 1.17",
                    ));
                }
                let mut all: Vec<_> =
                    std::iter::once(own).chain(update.federated.iter().map(|b| &**b)).collect();
                all.sort_by(|a, b| a.trust_domain.cmp(&b.trust_domain));
                Content::Bundles(all)
            } else if let Some(bundle) =
                update.federated.iter().find(|bundle| name == bundle.trust_domain.id_string())
            {
                Content::Bundles(vec![bundle])
            } else {
                let identities = &update.identities;
                let named = identities.iter().find(|i| name == i.entry.spiffe_id.to_string());
                let default = || identities.first().filter(|_| name == settings.default_svid_name);
                match named.or_else(default) {
                    Some(identity) => Content::Svid(identity),
                    None => return Ok(None),
                }
            };
        Ok(Some(self.encoded(name, &content)))
    }

    /// The names of everything: bundles and SVIDs under their own names, never the aliases.
    pub fn names(&self) -> Vec<String> {
        let bundles = std::iter::once(&self.update.bundle).chain(&self.update.federated);
        let svids = self.update.identities.iter().map(|i| i.entry.spiffe_id.to_string());
        let mut names: Vec<_> = bundles.map(|b| b.trust_domain.id_string()).chain(svids).collect();
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }

    fn encoded(&self, name: &str, content: &Content<'_>) -> Arc<Secret> {
        let encoded = self.update.derived.of::<Encoded>();
        let key = (self.form, Box::from(name));
        let mut known = encoded.0.lock().unwrap_or_else(PoisonError::into_inner);
        // There are no more than there are names for what the update holds.
        let made = known.entry(key).or_insert_with(|| Arc::new(encode(name, content, self.form)));
        Arc::clone(made)
    }
}

fn encode(name: &str, content: &Content<'_>, form: Form) -> Secret {
    let mut content_of = Vec::new();
    let mut info = |data: &[u8]| {
        content_of.extend_from_slice(&wide(data.len()).to_be_bytes());
        content_of.extend_from_slice(data);
    };
    let mut authorities = Vec::new();
    let mut message = SecretMessage { name: name.to_owned(), ..SecretMessage::default() };
    let (mut identity, mut expires_at) = (None, UnixTime::EPOCH);
    match content {
        Content::Svid(svid) => {
            // The leaf names the public key, so the private one is not hashed.
            svid.svid.chain.iter().for_each(|certificate| info(certificate));
            let parsed = svid.svid.chain.iter().filter_map(|der| Certificate::from_der(der).ok());
            authorities.extend(parsed.map(|certificate| certificate.authority_key_id_hex()));
            expires_at = svid.svid.not_after;
            message.tls_certificate = Some(certificate(svid));
            identity = Some((*svid).clone());
        }
        Content::Bundles(bundles) => {
            info(if form == Form::Roots { b"roots" } else { b"validator" });
            for bundle in bundles {
                info(bundle.trust_domain.as_str().as_bytes());
                for authority in &bundle.x509_authorities {
                    info(&authority.der);
                    let parsed = Certificate::from_der(&authority.der);
                    authorities.extend(parsed.map(|certificate| certificate.subject_key_id_hex()));
                }
            }
            message.validation_context = Some(match form {
                Form::Validator => validator(bundles),
                Form::Roots => roots(bundles),
            });
        }
    }
    let mut version = sha256_hex(&content_of);
    version.truncate(32);
    let info = SecretInfo {
        name: name.into(),
        version: version.into(),
        authorities: authorities.into_iter().map(Into::into).collect(),
        expires_at,
    };
    let resource = resource(&message);
    let delta_head = delta_head(&info, resource.len());
    Secret { info: Arc::new(info), identity, resource, delta_head }
}

fn certificate(identity: &Identity) -> TlsCertificate {
    let chain = pem::encode_certificates(identity.svid.chain.iter().map(|der| &**der));
    let key = Zeroizing::new(pem::encode("PRIVATE KEY", &identity.svid.key));
    TlsCertificate {
        certificate_chain: Some(inline(Bytes::from(chain))),
        private_key: Some(inline(Bytes::from_owner(key))),
    }
}

fn roots(bundles: &[&Bundle]) -> CertificateValidationContext {
    let pem: String = bundles.iter().map(|bundle| authorities_pem(bundle)).collect();
    CertificateValidationContext {
        trusted_ca: Some(inline(pem.into())),
        ..CertificateValidationContext::default()
    }
}

fn validator(bundles: &[&Bundle]) -> CertificateValidationContext {
    let trust_domains = bundles.iter().map(|bundle| ValidatedDomain {
        name: bundle.trust_domain.to_string(),
        trust_bundle: Some(inline(authorities_pem(bundle).into())),
    });
    let config = SpiffeCertValidatorConfig { trust_domains: trust_domains.collect() };
    CertificateValidationContext {
        custom_validator_config: Some(TypedExtensionConfig {
            name: VALIDATOR.to_owned(),
            typed_config: Some(Any {
                type_url: VALIDATOR_TYPE.to_owned(),
                value: config.encode_to_vec(),
            }),
        }),
        ..CertificateValidationContext::default()
    }
}

fn authorities_pem(bundle: &Bundle) -> String {
    pem::encode_certificates(bundle.x509_authorities.iter().map(|authority| &*authority.der))
}

fn inline(inline_bytes: Bytes) -> DataSource {
    DataSource { inline_bytes, ..DataSource::default() }
}

/// The field `resources` with the secret as an `Any`. It holds a private key: it is written once,
/// into memory that never grows and is wiped in the end.
fn resource(message: &SecretMessage) -> Bytes {
    let secret = message.encoded_len();
    let any = 1 + length_delimited(SECRET_TYPE.len()) + 1 + length_delimited(secret);
    let mut out = Zeroizing::new(Vec::with_capacity(1 + length_delimited(any)));
    head(RESOURCE_FIELD, any, &mut out);
    head(1, SECRET_TYPE.len(), &mut out);
    out.extend_from_slice(SECRET_TYPE.as_bytes());
    head(2, secret, &mut out);
    message.encode_raw(&mut *out);
    Bytes::from_owner(out)
}

/// What makes the field of [`resource`] that of a delta answer.
fn delta_head(info: &SecretInfo, resource: usize) -> Bytes {
    let (version, name) = (info.version.as_bytes(), info.name.as_bytes());
    let own = 2 + length_delimited(version.len()) + length_delimited(name.len());
    let mut out = Vec::with_capacity(16 + own);
    head(RESOURCE_FIELD, own + resource, &mut out);
    head(VERSION_FIELD, version.len(), &mut out);
    out.extend_from_slice(version);
    head(NAME_FIELD, name.len(), &mut out);
    out.extend_from_slice(name);
    out.into()
}

fn length_delimited(length: usize) -> usize {
    encoded_len_varint(wide(length)) + length
}

fn head(field: u32, length: usize, out: &mut Vec<u8>) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(wide(length), out);
}

fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use signet_api::pb::envoy::service::discovery::v3::{
        DeltaDiscoveryResponse, DiscoveryResponse,
    };
    use signet_identity::X509Authority;

    use super::*;
    use crate::{cache::Derived, entry::tests::entry, svid::X509Svid};

    /// An update for tests: an identity for each name, the own bundle `td` and foreign ones.
    pub(in crate::serve::sds) fn update(ids: &[(&str, u8)], foreign: &[&str]) -> WorkloadUpdate {
        let identities: Vec<_> = ids
            .iter()
            .map(|(id, content)| Identity {
                entry: Arc::new(entry(id, &["a:b"])),
                svid: X509Svid::new(
                    format!("spiffe://td/{id}").parse().unwrap(),
                    vec![vec![*content; 3].into()],
                    Zeroizing::new(vec![9; 4]),
                    (UnixTime::EPOCH, UnixTime::from_seconds(100)),
                ),
            })
            .collect();
        let bundle = |name: &str| {
            let mut bundle = Bundle::empty(name.parse().unwrap());
            let der = Arc::from(name.as_bytes());
            bundle.x509_authorities.push(X509Authority { der, tainted: false });
            Arc::new(bundle)
        };
        WorkloadUpdate {
            matched: identities.len(),
            identities,
            bundle: bundle("td"),
            federated: foreign.iter().map(|name| bundle(name)).collect(),
            derived: Derived::default(),
        }
    }

    fn secrets<'a>(
        update: &'a WorkloadUpdate,
        settings: &'a SdsSettings,
        form: Form,
    ) -> Secrets<'a> {
        Secrets { update, settings, form }
    }

    fn decoded(secret: &Secret) -> SecretMessage {
        let whole = DiscoveryResponse::decode(secret.whole()).unwrap();
        let delta = DeltaDiscoveryResponse::decode(&*secret.delta().concat()).unwrap();
        assert_eq!(whole.resources[0].type_url, SECRET_TYPE);
        assert_eq!(delta.resources[0].resource.as_ref(), Some(&whole.resources[0]));
        assert_eq!(delta.resources[0].name, &*secret.info.name);
        assert_eq!(delta.resources[0].version, &*secret.info.version);
        SecretMessage::decode(&*whole.resources[0].value).unwrap()
    }

    fn text(source: Option<DataSource>) -> String {
        String::from_utf8(source.unwrap().inline_bytes.to_vec()).unwrap()
    }

    #[test]
    fn certificates_are_pem_and_encoded_once() {
        let (update, settings) = (update(&[("a", 1), ("b", 2)], &[]), SdsSettings::default());
        let all = secrets(&update, &settings, Form::Validator);
        let secret = all.get("spiffe://td/b").unwrap().unwrap();
        let message = decoded(&secret);
        assert_eq!(message.name, "spiffe://td/b");
        let certificate = message.tls_certificate.unwrap();
        let chain = pem::encode("CERTIFICATE", &[2; 3]);
        assert_eq!(text(certificate.certificate_chain), chain);
        assert!(text(certificate.private_key).starts_with("-----BEGIN PRIVATE KEY-----\n"));
        let again = all.get("spiffe://td/b").unwrap().unwrap();
        assert!(Arc::ptr_eq(&secret, &again));
        // The first identity has an alias.
        let default = all.get("default").unwrap().unwrap();
        assert_eq!(decoded(&default).name, "default");
        assert_eq!(default.info.version, all.get("spiffe://td/a").unwrap().unwrap().info.version);
        assert!(all.get("spiffe://td/c").unwrap().is_none());
    }

    #[test]
    fn bundles_have_the_form_of_the_validator_or_are_plain_roots() {
        let (update, settings) = (update(&[], &["b.org", "a.org"]), SdsSettings::default());
        let all = secrets(&update, &settings, Form::Validator);
        let context = decoded(&all.get("ALL").unwrap().unwrap()).validation_context.unwrap();
        let custom = context.custom_validator_config.unwrap();
        assert_eq!(custom.name, VALIDATOR);
        let config = custom.typed_config.unwrap();
        assert_eq!(config.type_url, VALIDATOR_TYPE);
        let config = SpiffeCertValidatorConfig::decode(&*config.value).unwrap();
        let names: Vec<_> = config.trust_domains.iter().map(|td| td.name.as_str()).collect();
        assert_eq!(names, ["a.org", "b.org", "td"]);

        let plain = secrets(&update, &settings, Form::Roots);
        let context = decoded(&plain.get("ROOTCA").unwrap().unwrap()).validation_context.unwrap();
        assert_eq!(text(context.trusted_ca), pem::encode("CERTIFICATE", b"td"));
        assert!(context.custom_validator_config.is_none());
        let refused = plain.get("ALL").unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Internal);
        assert_eq!(all.names(), ["spiffe://td", "spiffe://b.org", "spiffe://a.org"]);
    }

    #[test]
    fn a_version_is_that_of_the_content_whoever_makes_it() {
        let settings = SdsSettings::default();
        let version = |content, name: &str| {
            let update = update(&[("a", content)], &["x.org"]);
            let secret = secrets(&update, &settings, Form::Validator).get(name).unwrap().unwrap();
            secret.info.version.clone()
        };
        assert_eq!(version(1, "default"), version(1, "default"));
        assert_ne!(version(1, "default"), version(2, "default"));
        assert_eq!(version(1, "ROOTCA"), version(2, "ROOTCA"));
        assert_ne!(version(1, "ROOTCA"), version(1, "spiffe://x.org"));
    }
}
