//! The server's half of `x509pop`: verifies the chain, then challenges the key.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use signet_base::SharedClock;
use signet_identity::{Selector, SelectorSet, SpiffeId, TrustDomain};
use signet_pki::{
    KeyAlgorithm,
    digest::sha1_hex,
    pop, random,
    x509::{
        Certificate, Serial,
        path::{Purpose, verify_path},
    },
};
use signet_template::{Template, Value};

use super::{Answer, Challenge, KIND, NONCE_LEN, NonceChallenge, Payload, message};
use crate::node::{
    Challenger, MAX_PAYLOAD, NodeAttestError, NodeAttestation, NodeAttestorServer, path_template,
};

/// The key usage bit a leaf needs to prove its key.
const DIGITAL_SIGNATURE: u16 = 1;

/// Which certificates are believed.
pub enum Mode {
    /// Chains to these certificates.
    ExternalPki(Vec<Certificate>),
    /// X.509-SVIDs of this trust domain whose path starts with `svid_prefix`.
    Spiffe {
        /// Ends with `/`; `/spire-exchange/` by default.
        svid_prefix: String,
        /// The X.509 authorities of the trust domain now.
        authorities: Arc<dyn Fn() -> Vec<Certificate> + Send + Sync>,
    },
}

impl fmt::Debug for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ExternalPki(roots) => write!(f, "ExternalPki({} roots)", roots.len()),
            Self::Spiffe { svid_prefix, .. } => write!(f, "Spiffe({svid_prefix})"),
        }
    }
}

/// Settings of the server's half, with SPIRE's names.
#[derive(Debug)]
pub struct X509PopServerConfig {
    /// Which certificates are believed.
    pub mode: Mode,
    /// The path after `/spire/agent`; unset for `/x509pop/<fingerprint>` (`external_pki`) or
    /// `/x509pop/<trimmed SVID path>` (`spiffe`).
    pub agent_path_template: Option<Template>,
    /// The most intermediates that are parsed; 4 by default.
    pub max_intermediates: usize,
    /// The largest RSA key that is verified, bits; 8192 by default.
    pub max_rsa_key_size: u32,
    /// Whether the peer's address must be an IP SAN of the leaf.
    pub verify_client_ip: bool,
}

/// The server's half.
#[derive(Debug)]
pub struct X509PopServer {
    trust_domain: TrustDomain,
    config: X509PopServerConfig,
    clock: SharedClock,
}

impl X509PopServer {
    /// An attestor for agents of `trust_domain`.
    pub fn new(trust_domain: TrustDomain, config: X509PopServerConfig, clock: SharedClock) -> Self {
        Self { trust_domain, config, clock }
    }

    /// Parses within the limits and verifies the path; the chain, leaf first, with its root.
    fn verify(&self, payload: &Payload) -> Result<Vec<Certificate>, NodeAttestError> {
        let (leaf_der, intermediates) = payload
            .certificates
            .split_first()
            .ok_or_else(|| NodeAttestError::invalid("no certificate to attest"))?;
        if intermediates.len() > self.config.max_intermediates {
            return Err(NodeAttestError::invalid("too many intermediate certificates"));
        }
        let leaf = Certificate::from_der(&leaf_der.0).map_err(|e| {
            NodeAttestError::invalid(format!("unable to parse leaf certificate: {e}"))
        })?;
        self.check_key_size(&leaf, "leaf certificate")?;
        let mut others = Vec::with_capacity(intermediates.len());
        for (at, der) in intermediates.iter().enumerate() {
            let certificate = Certificate::from_der(&der.0).map_err(|e| {
                NodeAttestError::invalid(format!(
                    "unable to parse intermediate certificate {at}: {e}"
                ))
            })?;
            self.check_key_size(&certificate, &format!("intermediate certificate {at}"))?;
            others.push(certificate);
        }
        let spiffe_roots;
        let roots = match &self.config.mode {
            Mode::ExternalPki(roots) => roots,
            Mode::Spiffe { authorities, .. } => {
                spiffe_roots = authorities();
                &spiffe_roots
            }
        };
        verify_path(&leaf, &others, roots, Purpose::Any, self.clock.unix())
            .map_err(|e| NodeAttestError::denied(format!("certificate verification failed: {e}")))
    }

    fn check_key_size(&self, certificate: &Certificate, what: &str) -> Result<(), NodeAttestError> {
        match certificate.public_key().map(|key| key.algorithm()) {
            Ok(KeyAlgorithm::Rsa { bits }) if u32::from(bits) > self.config.max_rsa_key_size => {
                Err(NodeAttestError::invalid(format!("{what} key size too large")))
            }
            Ok(_) => Ok(()),
            Err(e) => Err(NodeAttestError::invalid(format!("{what}: {e}"))),
        }
    }

    fn check_client_ip(
        &self,
        leaf: &Certificate,
        peer: Option<IpAddr>,
    ) -> Result<(), NodeAttestError> {
        if !self.config.verify_client_ip {
            return Ok(());
        }
        let peer = peer
            .map(|ip| ip.to_canonical())
            .ok_or_else(|| NodeAttestError::internal("client IP not available for verification"))?;
        if leaf.ip_addresses().iter().any(|ip| ip.to_canonical() == peer) {
            return Ok(());
        }
        Err(NodeAttestError::denied(format!(
            "client IP {peer} does not match any certificate IP SAN"
        )))
    }

    /// Challenges the holder of the leaf's key.
    async fn prove(
        &self,
        leaf: &Certificate,
        challenger: &mut dyn Challenger,
    ) -> Result<(), NodeAttestError> {
        if leaf.key_usage().is_none_or(|bits| bits & DIGITAL_SIGNATURE == 0) {
            return Err(NodeAttestError::internal(
                "unable to generate challenge: certificate not intended for digital signature use",
            ));
        }
        let key = leaf
            .public_key()
            .map_err(|e| NodeAttestError::invalid(format!("leaf certificate: {e}")))?;
        let nonce: [u8; NONCE_LEN] = random::bytes()
            .map_err(|e| NodeAttestError::internal(format!("unable to generate challenge: {e}")))?;
        let wanted = Some(NonceChallenge { nonce: nonce.to_vec() });
        let is_rsa = matches!(key.algorithm(), KeyAlgorithm::Rsa { .. });
        let challenge = if is_rsa {
            Challenge { rsa_signature: wanted, ecdsa_signature: None }
        } else {
            Challenge { rsa_signature: None, ecdsa_signature: wanted }
        };
        let challenge = serde_json::to_vec(&challenge)
            .map_err(|e| NodeAttestError::internal(format!("unable to marshal challenge: {e}")))?;
        let answer = challenger.challenge(challenge).await?;
        if answer.len() > MAX_PAYLOAD {
            return Err(NodeAttestError::invalid("challenge response is too long"));
        }
        let answer: Answer = serde_json::from_slice(&answer).map_err(|e| {
            NodeAttestError::invalid(format!("unable to unmarshal challenge response: {e}"))
        })?;
        let failed = |why: &str| {
            NodeAttestError::denied(format!("challenge response verification failed: {why}"))
        };
        if is_rsa {
            let answer = answer.rsa_signature.ok_or_else(|| failed("expecting RSA response"))?;
            let message =
                message(&nonce, &answer.nonce).ok_or_else(|| failed("invalid response nonce"))?;
            pop::verify_rsa_pss(key, &message, &answer.signature)
                .map_err(|_| failed("RSA signature verify failed"))
        } else {
            let answer =
                answer.ecdsa_signature.ok_or_else(|| failed("expecting ECDSA response"))?;
            let message =
                message(&nonce, &answer.nonce).ok_or_else(|| failed("invalid response nonce"))?;
            pop::verify_ecdsa_rs(key, &message, &answer.r, &answer.s)
                .map_err(|_| failed("ECDSA signature verify failed"))
        }
    }

    fn agent_id(
        &self,
        leaf: &Certificate,
        fingerprint: &str,
        sans: &BTreeMap<String, String>,
    ) -> Result<SpiffeId, NodeAttestError> {
        let trimmed = match &self.config.mode {
            Mode::ExternalPki(_) => String::new(),
            Mode::Spiffe { svid_prefix, .. } => self.trimmed_path(leaf, svid_prefix)?,
        };
        let path = match (&self.config.agent_path_template, &self.config.mode) {
            (None, Mode::ExternalPki(_)) => format!("/{KIND}/{fingerprint}"),
            (None, Mode::Spiffe { .. }) => format!("/{KIND}/{trimmed}"),
            (Some(template), _) => {
                let values = self.template_values(leaf, fingerprint, trimmed, sans);
                path_template::render(template, &values)
                    .map_err(|e| NodeAttestError::internal(format!("making the agent ID: {e}")))?
            }
        };
        // Without it the ID would be none of an agent's: nobody could show, ban or evict it.
        if !path.starts_with('/') {
            return Err(NodeAttestError::internal(format!(
                "invalid agent path suffix \"{path}\": path must have a leading slash \
                 (agent_path_template)"
            )));
        }
        SpiffeId::new(self.trust_domain.clone(), &format!("/spire/agent{path}"))
            .map_err(|e| NodeAttestError::internal(format!("failed to make spiffe id: {e}")))
    }

    fn trimmed_path(&self, leaf: &Certificate, prefix: &str) -> Result<String, NodeAttestError> {
        let mut ids = leaf.uris().iter().filter(|uri| uri.starts_with("spiffe://"));
        let id =
            ids.next().ok_or_else(|| NodeAttestError::denied("valid SVID x509 cert not found"))?;
        let id: SpiffeId = id
            .parse()
            .map_err(|e| NodeAttestError::denied(format!("valid SVID x509 cert not found: {e}")))?;
        if !id.is_member_of(&self.trust_domain) {
            return Err(NodeAttestError::denied("x509 cert is of another trust domain"));
        }
        // An agent's or server's own SVID is no evidence for becoming another agent.
        if id.is_reserved() {
            return Err(NodeAttestError::denied("x509 cert is in the reserved namespace"));
        }
        id.path()
            .strip_prefix(prefix)
            .map(str::to_owned)
            .ok_or_else(|| NodeAttestError::denied("x509 cert doesnt match SVID prefix"))
    }

    /// What a template can name: SPIRE's values, and those fields of Go's certificate that hold
    /// texts.
    fn template_values(
        &self,
        leaf: &Certificate,
        fingerprint: &str,
        trimmed: String,
        sans: &BTreeMap<String, String>,
    ) -> Value {
        let list = |texts: &[String]| {
            Value::List(texts.iter().map(|text| Value::from(text.as_str())).collect())
        };
        let fields = |fields: Vec<(&str, Value)>| {
            Value::Struct(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
        };
        let subject = leaf.subject();
        let sans = sans.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str())));
        fields(vec![
            ("DNSNames", list(leaf.dns_names())),
            ("Fingerprint", Value::from(fingerprint)),
            ("PluginName", Value::from(KIND)),
            ("SVIDPathTrimmed", Value::from(trimmed)),
            ("SerialNumberHex", Value::from(serial_hex(leaf.serial()))),
            (
                "Subject",
                fields(vec![
                    ("CommonName", Value::from(subject.common_name.as_str())),
                    ("Country", list(&subject.country)),
                    ("Locality", list(&subject.locality)),
                    ("Organization", list(&subject.organization)),
                    ("OrganizationalUnit", list(&subject.organizational_unit)),
                    ("PostalCode", list(&subject.postal_code)),
                    ("Province", list(&subject.province)),
                    ("SerialNumber", Value::from(subject.serial_number.as_str())),
                    ("StreetAddress", list(&subject.street_address)),
                ]),
            ),
            ("TrustDomain", Value::from(self.trust_domain.as_str())),
            ("URISanSelectors", Value::Map(sans.collect())),
        ])
    }

    /// `x509pop://<trust domain>/<key>/<value>` of the leaf's URI SANs.
    fn san_selectors(&self, leaf: &Certificate) -> BTreeMap<String, String> {
        let prefix = format!("x509pop://{}/", self.trust_domain);
        let mut found = BTreeMap::new();
        for uri in leaf.uris() {
            let Some(rest) = uri.strip_prefix(&prefix) else { continue };
            match rest.trim_matches('/').split_once('/') {
                Some((key, value)) => {
                    found.insert(key.to_owned(), value.to_owned());
                }
                None => tracing::warn!(uri, "Cannot extract x509pop SAN selectors"),
            }
        }
        found
    }
}

#[async_trait::async_trait]
impl NodeAttestorServer for X509PopServer {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn attest(
        &self,
        payload: &[u8],
        peer: Option<IpAddr>,
        challenger: &mut dyn Challenger,
    ) -> Result<NodeAttestation, NodeAttestError> {
        if payload.len() > MAX_PAYLOAD {
            return Err(NodeAttestError::invalid("attestation payload is too long"));
        }
        let payload: Payload = serde_json::from_slice(payload)
            .map_err(|e| NodeAttestError::invalid(format!("failed to unmarshal data: {e}")))?;
        let chain = self.verify(&payload)?;
        let leaf = chain.first().ok_or_else(|| NodeAttestError::internal("no path"))?;
        self.check_client_ip(leaf, peer)?;
        self.prove(leaf, challenger).await?;

        let fingerprint = sha1_hex(leaf.der());
        let sans = self.san_selectors(leaf);
        let agent_id = self.agent_id(leaf, &fingerprint, &sans)?;
        let mut values = Vec::new();
        let common_name = &leaf.subject().common_name;
        if !common_name.is_empty() {
            values.push(format!("subject:cn:{common_name}"));
        }
        values.extend(
            chain.iter().skip(1).map(|ca| format!("ca:fingerprint:{}", sha1_hex(ca.der()))),
        );
        values.push(format!("serialnumber:{}", serial_hex(leaf.serial())));
        values.extend(sans.iter().map(|(key, value)| format!("san:{key}:{value}")));
        let selectors: SelectorSet = values
            .iter()
            .map(|value| Selector::new(KIND, value))
            .collect::<Result<_, _>>()
            .map_err(|e| NodeAttestError::internal(format!("making a selector: {e}")))?;
        Ok(NodeAttestation { agent_id, selectors, can_reattest: true })
    }
}

/// The serial number as lower-case hex with an even number of digits.
fn serial_hex(serial: &Serial) -> String {
    match serial.as_bytes() {
        [] => "00".to_owned(),
        bytes => hex::encode(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_have_an_even_number_of_digits() {
        for (bytes, text) in [(&[0][..], "00"), (&[0x0a, 0xbc], "0abc"), (&[0, 0xff], "ff")] {
            assert_eq!(serial_hex(&Serial::from_bytes(bytes)), text);
        }
    }
}
