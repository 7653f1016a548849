//! Every conversion between protobuf messages and `signet_identity`, with SPIRE's error texts.
//!
//! What is read is checked: an identity value that comes out of here is valid. What the library
//! of values cannot check (that bytes are a certificate or a key) is left to `signet_pki`.

mod agent;
mod bundle;
mod entry;
mod federation;
mod id;
mod selector;

pub use agent::{agent_mask_all, agent_to_pb};
pub use bundle::{
    bundle_from_pb, bundle_mask_all, bundle_to_pb, jwt_authority_from_pb, jwt_authority_to_pb,
    split_der, wit_authority_from_pb, wit_authority_to_pb, x509_authorities_from_pb,
    x509_authority_to_pb,
};
pub use entry::{EntryChange, entry_from_pb, entry_mask_all, entry_to_pb};
pub use federation::{FederationChange, federation_from_pb, federation_mask_all, federation_to_pb};
pub use id::{
    agent_id_from_pb, check_agent_id, check_member_id, check_workload_id, id_from_pb, id_to_pb,
    member_id_from_pb, trust_domain_from_pb, workload_id_from_pb,
};
pub use selector::{
    federates_with_match_from_pb, selector_match_from_pb, selectors_from_pb, selectors_to_pb,
};

use signet_identity::{
    EntryError, SelectorError, SpiffeId, SpiffeIdError, TrustDomain, TrustDomainError,
};

/// Why a message is not a value. The texts are those of SPIRE's API: clients show them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// A federation relationship's URL breaks a rule.
    #[error("{0}")]
    BundleEndpointUrl(String),
    /// Bytes are not DER certificates in a row.
    #[error("x509: malformed certificate")]
    Der,
    /// An entry breaks a rule of registration.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// Something within the named part is wrong.
    #[error("{0}: {1}")]
    In(&'static str, Box<ConvertError>),
    /// Something is missing.
    #[error("{0}")]
    Missing(&'static str),
    /// Not below `/spire/agent/`.
    #[error("\"{0}\" is not an agent in trust domain \"{1}\"; path is not in the agent namespace")]
    NotAgent(SpiffeId, TrustDomain),
    /// An ID of another trust domain.
    #[error("\"{0}\" is not a member of trust domain \"{1}\"")]
    NotMember(SpiffeId, TrustDomain),
    /// An ID without a path.
    #[error("\"{id}\" is not {role} trust domain \"{trust_domain}\"; path is empty")]
    PathEmpty {
        /// The ID.
        id: SpiffeId,
        /// What it should be: `a member of`, `an agent in`, `a workload in`.
        role: &'static str,
        /// Of which trust domain.
        trust_domain: TrustDomain,
    },
    /// An ID below `/spire`.
    #[error("\"{0}\" is not a workload in trust domain \"{1}\"; path is in the reserved namespace")]
    Reserved(SpiffeId, TrustDomain),
    /// Not a selector.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// Not a SPIFFE ID.
    #[error(transparent)]
    SpiffeId(#[from] SpiffeIdError),
    /// Not a trust domain.
    #[error(transparent)]
    TrustDomain(#[from] TrustDomainError),
    /// A value outside an enumeration.
    #[error("{0}")]
    UnknownValue(String),
}

impl ConvertError {
    /// Puts `what` and a colon before the text.
    #[must_use]
    pub fn within(self, what: &'static str) -> Self {
        Self::In(what, Box::new(self))
    }
}
