//! What an authority is told at its start.

use std::{sync::Arc, time::Duration};

use signet_identity::TrustDomain;
use signet_pki::{CredentialComposer, KeyManager, KeyType, UpstreamAuthority, x509::Name};

use crate::{
    AudiencePattern,
    ports::{AuthorityObserver, BundleStore, JournalStore},
};

/// What the authorities are and how long what they sign lives.
#[derive(Clone, Debug)]
pub struct AuthorityOptions {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The kind of the X.509 CA key.
    pub x509_key_type: KeyType,
    /// The kind of the JWT key.
    pub jwt_key_type: KeyType,
    /// The subject of the X.509 CA.
    pub ca_subject: Name,
    /// How long authorities live.
    pub ca_ttl: Duration,
    /// How long X.509-SVIDs live whose entry says nothing.
    pub x509_svid_ttl: Duration,
    /// How long JWT-SVIDs live whose entry says nothing.
    pub jwt_svid_ttl: Duration,
    /// How long agents' X.509-SVIDs live.
    pub agent_ttl: Duration,
    /// The `iss` claim of JWT-SVIDs, if any.
    pub jwt_issuer: Option<String>,
    /// How long an authority is in the bundle at least before the clock has it sign, so that those
    /// who fetch the bundle know it (SPIFFE Federation, section 4.1); an operator may activate it at
    /// any time.
    pub published_for: Duration,
    /// Whether there are JWT-SVIDs at all.
    pub jwt_disabled: bool,
    /// The second JWT key and for whom it signs; `None` when one key signs for everybody.
    pub second_jwt: Option<SecondJwtOptions>,
    /// What WIT-SVIDs are like; `None` when there are none.
    pub wit: Option<WitOptions>,
    /// How long a local intermediate lives, where one is to sign X.509-SVIDs in place of a key
    /// that is not in this process.
    pub local_intermediate: Option<Duration>,
    /// What to do when the key of the active X.509 authority was lost.
    pub lost_keys: LostKeys,
}

/// A second JWT key, of another algorithm than the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecondJwtOptions {
    /// The kind of the key.
    pub key_type: KeyType,
    /// The audiences whose JWT-SVIDs it signs.
    pub audiences: Vec<AudiencePattern>,
}

/// What WIT-SVIDs are like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitOptions {
    /// The kind of the WIT key.
    pub key_type: KeyType,
    /// The `iss` claim, if any.
    pub issuer: Option<String>,
    /// How long WIT-SVIDs live whose entry says nothing.
    pub svid_ttl: Duration,
}

impl Default for WitOptions {
    /// SPIRE's defaults.
    fn default() -> Self {
        Self { key_type: KeyType::EcP256, issuer: None, svid_ttl: Duration::from_secs(3600) }
    }
}

/// What a start does when the key manager no longer has the key of an authority that signs, in a
/// server that signs its own X.509 CA. Key managers whose keys end with the process (`memory`)
/// are not asked: there a new authority is what each start brings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LostKeys {
    /// Refuse to start, and say how to go on: agents would not trust a new CA that nobody told
    /// them of.
    #[default]
    Refuse,
    /// Make a new authority.
    Replace,
}

impl AuthorityOptions {
    /// SPIRE's defaults for a trust domain.
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            x509_key_type: KeyType::EcP256,
            jwt_key_type: KeyType::EcP256,
            ca_subject: Name::spiffe_ca(),
            ca_ttl: Duration::from_secs(24 * 3600),
            x509_svid_ttl: Duration::from_secs(3600),
            jwt_svid_ttl: Duration::from_secs(300),
            agent_ttl: Duration::from_secs(3600),
            jwt_issuer: None,
            published_for: Duration::ZERO,
            jwt_disabled: false,
            second_jwt: None,
            wit: None,
            local_intermediate: None,
            lost_keys: LostKeys::Refuse,
        }
    }
}

/// Who stands behind the authority.
#[derive(Clone, Debug)]
pub struct AuthorityPorts {
    /// Holds the private keys.
    pub keys: Arc<dyn KeyManager>,
    /// Who signs the X.509 CA.
    pub trust_root: TrustRoot,
    /// Keeps the journal.
    pub journal: Arc<dyn JournalStore>,
    /// Keeps the bundle.
    pub bundle: Arc<dyn BundleStore>,
    /// Adjust credentials before they are signed, in this order.
    pub composers: Vec<Arc<dyn CredentialComposer>>,
    /// Is told of what becomes of authorities, if anybody is.
    pub observer: Option<Arc<dyn AuthorityObserver>>,
}

/// Who signs the X.509 CA. It is chosen, never left out: a server that is to have an upstream
/// authority does not sign for itself because somebody forgot to say so.
#[derive(Clone, Debug)]
pub enum TrustRoot {
    /// The CA signs itself, and is what others trust.
    SelfSigned,
    /// An upstream authority signs it, and its roots are what others trust.
    Upstream(Arc<dyn UpstreamAuthority>),
}
