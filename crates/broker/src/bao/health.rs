//! Whether OpenBao can be used at all.

use serde_json::Value;

use super::{Bao, BaoCall, BaoError};

/// The oldest OpenBao that keeps namespaces apart: before it, a tenant could revoke another's leases
/// (GHSA-c36x-h252-g9x2) or reach the root namespace (GHSA-mwr2-wmgp-crj6).
pub const MIN_OPENBAO: (u32, u32, u32) = (2, 5, 5);

/// What `sys/health` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Its version, as it writes it.
    pub version: String,
    /// Whether it is sealed.
    pub sealed: bool,
}

/// Why a version is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "OpenBao {0:?} does not keep namespaces apart (GHSA-c36x-h252-g9x2, GHSA-mwr2-wmgp-crj6); \
     2.5.5 or later is needed"
)]
pub struct VersionError(pub String);

/// Checks a version of OpenBao as `sys/health` writes it. Vault counts differently: what does not
/// begin with `2.` or less is not OpenBao's, and taken as it is when `vault` says so.
///
/// # Errors
/// [`VersionError`] when it is a version that is not supported.
pub fn check_version(version: &str, vault: bool) -> Result<(), VersionError> {
    if vault {
        return Ok(());
    }
    let refused = || VersionError(version.to_owned());
    let number = version.trim_start_matches('v');
    let (core, rest) = match number.find(['-', '+']) {
        Some(at) => number.split_at(at),
        None => (number, ""),
    };
    let mut parts = core.split('.').map(|part| part.parse::<u32>().ok());
    let mut next = || parts.next().flatten().ok_or_else(refused);
    let found = (next()?, next()?, next()?);
    // A pre-release comes before what it is named after.
    if found < MIN_OPENBAO || (found == MIN_OPENBAO && rest.starts_with('-')) {
        return Err(refused());
    }
    Ok(())
}

impl Bao {
    /// Asks for its state.
    ///
    /// # Errors
    /// [`BaoError`] when no address answers, or the answer cannot be read.
    pub async fn health(&self) -> Result<Health, BaoError> {
        // Every state with status 200: the body says which it is.
        let path = "sys/health?standbyok=true&perfstandbyok=true&sealedcode=200&uninitcode=200\
                    &drsecondarycode=200";
        let (_, answer) = self.call(BaoCall::get("", path)).await?;
        let flag = |name: &str| answer.get(name).and_then(Value::as_bool).unwrap_or_default();
        Ok(Health {
            version: super::text_of(&answer, "/version", "sys/health")?,
            sealed: flag("sealed") || !flag("initialized"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_holes_between_tenants_are_refused() {
        for bad in ["2.5.4", "2.0.0", "v2.5.5-beta1", "1.9.9", "2.5", "", "x.y.z", "2.4.9+ent"] {
            assert!(check_version(bad, false).is_err(), "{bad}");
        }
        for good in ["2.5.5", "v2.7.2", "2.6.0-rc1", "3.0.0"] {
            assert!(check_version(good, false).is_ok(), "{good}");
        }
        assert!(check_version("1.21.0", true).is_ok());
    }
}
