//! Where the identities of a tenant lie.

use std::{fmt, str::FromStr};

use super::Tenant;
use crate::SpiffeId;

const PLACE: &str = "{tenant}";

/// A template for the beginning of SPIFFE ID paths, for example `/tenants/{tenant}`: one whole
/// segment is `{tenant}`, and at least one segment follows in each ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantPath {
    before: Vec<String>,
    after: Vec<String>,
}

/// Why a text is no such template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TenantPathError {
    /// A segment that no SPIFFE ID has.
    #[error("segment {0:?} cannot be in a SPIFFE ID")]
    BadSegment(String),
    /// No leading slash.
    #[error("it has to begin with '/'")]
    NoSlash,
    /// `{tenant}` is missing, there twice, or part of a segment.
    #[error("exactly one segment has to be {{tenant}}, as in \"/tenants/{{tenant}}\"")]
    NotOnePlace,
    /// It lies where workloads have no identities.
    #[error("/spire is not for workloads")]
    Reserved,
}

impl TenantPath {
    /// Whose identity this is; `None` when it lies elsewhere.
    pub fn tenant_of<'i>(&self, id: &'i SpiffeId) -> Option<&'i str> {
        let mut segments = id.path().strip_prefix('/')?.split('/');
        let mut same = |wanted: &[String]| {
            wanted.iter().all(|wanted| segments.next() == Some(wanted.as_str()))
        };
        if !same(&self.before) {
            return None;
        }
        let mut segments = id.path().strip_prefix('/')?.split('/').skip(self.before.len());
        let tenant = segments.next()?;
        if !self.after.iter().all(|wanted| segments.next() == Some(wanted.as_str())) {
            return None;
        }
        segments.next().map(|_| tenant)
    }

    /// Whether `id` lies where `tenant` has its identities.
    pub fn holds(&self, id: &SpiffeId, tenant: &Tenant) -> bool {
        self.tenant_of(id) == Some(tenant.as_str())
    }
}

impl FromStr for TenantPath {
    type Err = TenantPathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let segments = text.strip_prefix('/').ok_or(TenantPathError::NoSlash)?;
        let segments = segments.strip_suffix('/').unwrap_or(segments);
        let segments: Vec<&str> = segments.split('/').collect();
        let mut places = segments.iter().enumerate().filter(|(_, segment)| **segment == PLACE);
        let place = match (places.next(), places.next()) {
            (Some((place, _)), None) => place,
            _ => return Err(TenantPathError::NotOnePlace),
        };
        if segments.first() == Some(&"spire") {
            return Err(TenantPathError::Reserved);
        }
        let segment = |text: &&str| {
            let good = !text.is_empty()
                && *text != "."
                && *text != ".."
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
            if good {
                Ok((*text).to_owned())
            } else {
                Err(TenantPathError::BadSegment((*text).into()))
            }
        };
        let (before, rest) = segments.split_at(place);
        Ok(Self {
            before: before.iter().map(segment).collect::<Result<_, _>>()?,
            after: rest.iter().skip(1).map(segment).collect::<Result<_, _>>()?,
        })
    }
}

impl fmt::Display for TenantPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.before {
            write!(f, "/{segment}")?;
        }
        write!(f, "/{PLACE}")?;
        self.after.iter().try_for_each(|segment| write!(f, "/{segment}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_tenants_only_when_the_whole_segment_is() {
        let template: TenantPath = "/t/{tenant}/apps".parse().unwrap();
        let of = |id: &str| {
            let id: SpiffeId = id.parse().unwrap();
            template.tenant_of(&id).map(str::to_owned)
        };
        assert_eq!(of("spiffe://td/t/a/apps/x").as_deref(), Some("a"));
        assert_eq!(of("spiffe://td/t/a/apps/x/y").as_deref(), Some("a"));
        for none in ["/t/a/apps", "/t/a/x", "/t/apps/x", "/u/a/apps/x", "/t", "/t/a/apps2/x", ""] {
            assert_eq!(of(&format!("spiffe://td{none}")), None, "{none}");
        }
        assert_eq!(template.to_string(), "/t/{tenant}/apps");
        let a: Tenant = "a".parse().unwrap();
        assert!(!template.holds(&"spiffe://td/t/ab/apps/x".parse().unwrap(), &a));
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for bad in [
            "",
            "t/{tenant}",
            "/t",
            "/{tenant}/{tenant}",
            "/t-{tenant}",
            "/a b/{tenant}",
            "/spire/{tenant}",
            "//{tenant}",
            "/../{tenant}",
        ] {
            assert!(bad.parse::<TenantPath>().is_err(), "{bad}");
        }
        assert!("/{tenant}/".parse::<TenantPath>().is_ok());
    }
}
