//! What identities *are*: SPIFFE IDs, trust domains, selectors, registration entries, bundles,
//! attested nodes, as values; and what follows from them: which entries an agent is authorised
//! for, which a workload matches, and why not.
//!
//! Pure: no I/O, no async, no clock, no crypto library. Times are seconds since the Unix epoch,
//! given by the caller.

pub mod authorized;
pub mod bundle;
pub mod entry;
pub mod explain;
pub mod federation;
pub mod node;
pub mod selector;
pub mod spiffe_id;
pub mod tenant;
pub mod trust_domain;

pub use authorized::{AuthorizedIndex, IndexChange};
pub use bundle::{Bundle, JwtAuthority, X509Authority};
pub use entry::{Entry, EntryError, EntryId, EntrySpec};
pub use federation::{BundleEndpointProfile, FederationRelationship};
pub use node::{AttestedNode, JoinToken};
pub use selector::{MatchBehavior, Selector, SelectorError, SelectorSet};
pub use spiffe_id::{SpiffeId, SpiffeIdError};
pub use tenant::{Tenant, TenantDenial, TenantError};
pub use trust_domain::{TrustDomain, TrustDomainError};
