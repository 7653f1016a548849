//! Tenants: who owns an entry, which agents may serve whom, and what follows from it.
//!
//! A tenant is explicit, never guessed. [`Directory`] is what the server keeps: the tenants that
//! there are, and for whom agents and foreign trust domains are. [`Tenancy`] is what the operator
//! has set. [`Judge`] looks at both and at the entries, and says whether an entry may be, may be
//! sent to an agent, may be signed; each refusal has one reason ([`TenantDenial`]).

mod denial;
mod directory;
mod judge;
mod path;
#[cfg(test)]
mod tests;

use std::{fmt, str::FromStr, sync::Arc};

pub use denial::TenantDenial;
pub use directory::{Assigned, AssignedError, Assignment, Directory, TenantState};
pub use judge::{AgentRule, Judge, Tenancy};
pub use path::{TenantPath, TenantPathError};

/// The longest name of a tenant in bytes.
pub const MAX_TENANT_LEN: usize = 63;
/// The claim of JWT-SVIDs that names the tenant.
pub const TENANT_CLAIM: &str = "tenant";

/// The name of a tenant: 1 to 63 of `a-z`, `0-9`, `.`, `_` and `-`, the first a letter or digit.
/// It can stand in a SPIFFE ID path and in a Kubernetes label. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(Arc<str>);

/// Why a text is not the name of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a tenant is named by 1 to 63 of a-z, 0-9, '.', '_' and '-', the first a letter or a digit"
)]
pub struct TenantError;

impl Tenant {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, shared.
    pub fn to_shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl FromStr for Tenant {
    type Err = TenantError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let good = text.len() <= MAX_TENANT_LEN
            && text.bytes().next().is_some_and(plain)
            && text.bytes().all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-'));
        if good { Ok(Self(text.into())) } else { Err(TenantError) }
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
