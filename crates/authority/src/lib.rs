//! Who signs, and when: the CA state machine, its journal and rotation, and issuing.
//!
//! Two slots for each kind (X.509, JWT, second JWT, WIT) take turns: an authority is *prepared* (its key made, its
//! certificate signed, the journal written, the bundle extended), later *activated* (it signs),
//! and then *old* (what it signed still verifies). One task, the [`CaManager`], owns the state;
//! everyone else holds an [`Authority`], which issues from memory without a lock and sends
//! operations to it.
//!
//! No I/O of its own: keys, bundle, journal and upstream are ports; times come from a clock.
//!
//! Order of writing, so that a crash at any point loses nothing and leaks nothing that signs:
//! key, journal (prepared), bundle, and only then activation: journal (active), memory. With an
//! upstream authority its roots go into the bundle before the journal.

mod audience;
mod authority;
mod context;
mod error;
pub mod issue;
pub mod journal;
mod kind;
mod local;
mod machine;
mod manager;
mod material;
mod options;
pub mod ports;
mod shared;
mod slot;
pub mod timing;
mod view;

pub use audience::{AudiencePattern, AudiencePatternError};
pub use authority::Authority;
pub use error::{AuthorityError, IssueError, OperationClass, OperationError};
pub use issue::{JwtSvid, JwtSvidParams, WitSvidParams, WorkloadX509Params, X509Svid};
pub use kind::AuthorityKind;
pub use manager::CaManager;
pub use options::{
    AuthorityOptions, AuthorityPorts, LostKeys, SecondJwtOptions, TrustRoot, WitOptions,
};
pub use view::{AuthorityState, AuthorityView, KindView};
