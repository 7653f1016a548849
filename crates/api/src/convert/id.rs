//! SPIFFE IDs and trust domains.

use signet_identity::{SpiffeId, TrustDomain};

use super::ConvertError;
use crate::pb::spire::api::types;

/// An ID as a message.
pub fn id_to_pb(id: &SpiffeId) -> types::Spiffeid {
    types::Spiffeid {
        trust_domain: id.trust_domain().as_str().to_owned(),
        path: id.path().to_owned(),
    }
}

/// Reads an ID, with or without a path.
///
/// # Errors
/// [`ConvertError`] when it is absent or breaks a rule of the standard.
pub fn id_from_pb(id: Option<&types::Spiffeid>) -> Result<SpiffeId, ConvertError> {
    let id = id.ok_or(ConvertError::Missing("request must specify SPIFFE ID"))?;
    Ok(SpiffeId::new(trust_domain_from_pb(&id.trust_domain)?, &id.path)?)
}

/// Reads a trust domain: a bare name or an ID (`spiffe://td`), as SPIRE does.
///
/// # Errors
/// [`ConvertError::TrustDomain`] when it is neither.
pub fn trust_domain_from_pb(text: &str) -> Result<TrustDomain, ConvertError> {
    Ok(TrustDomain::from_name_or_id(text)?)
}

/// Reads an ID with a path in `trust_domain`.
///
/// # Errors
/// [`ConvertError`] when it is not one.
pub fn member_id_from_pb(
    trust_domain: &TrustDomain,
    id: Option<&types::Spiffeid>,
) -> Result<SpiffeId, ConvertError> {
    let id = id_from_pb(id)?;
    check_member_id(trust_domain, &id)?;
    Ok(id)
}

/// Reads an agent's ID in `trust_domain`.
///
/// # Errors
/// [`ConvertError`] when it is not one.
pub fn agent_id_from_pb(
    trust_domain: &TrustDomain,
    id: Option<&types::Spiffeid>,
) -> Result<SpiffeId, ConvertError> {
    let id = id_from_pb(id)?;
    check_agent_id(trust_domain, &id)?;
    Ok(id)
}

/// Reads a workload's ID in `trust_domain`: with a path, outside the reserved namespace.
///
/// # Errors
/// [`ConvertError`] when it is not one.
pub fn workload_id_from_pb(
    trust_domain: &TrustDomain,
    id: Option<&types::Spiffeid>,
) -> Result<SpiffeId, ConvertError> {
    let id = id_from_pb(id)?;
    check_workload_id(trust_domain, &id)?;
    Ok(id)
}

/// Checks that `id` lies in `trust_domain` and has a path.
///
/// # Errors
/// [`ConvertError`] when it does not.
pub fn check_member_id(trust_domain: &TrustDomain, id: &SpiffeId) -> Result<(), ConvertError> {
    check(trust_domain, id, "a member of")
}

/// Checks that `id` is an agent's in `trust_domain`.
///
/// # Errors
/// [`ConvertError`] when it is not.
pub fn check_agent_id(trust_domain: &TrustDomain, id: &SpiffeId) -> Result<(), ConvertError> {
    check(trust_domain, id, "an agent in")?;
    if id.is_agent() {
        return Ok(());
    }
    Err(ConvertError::NotAgent(id.clone(), trust_domain.clone()))
}

/// Checks that `id` may be a workload's in `trust_domain`.
///
/// # Errors
/// [`ConvertError`] when it may not.
pub fn check_workload_id(trust_domain: &TrustDomain, id: &SpiffeId) -> Result<(), ConvertError> {
    check(trust_domain, id, "a workload in")?;
    if id.is_reserved() {
        return Err(ConvertError::Reserved(id.clone(), trust_domain.clone()));
    }
    Ok(())
}

fn check(
    trust_domain: &TrustDomain,
    id: &SpiffeId,
    role: &'static str,
) -> Result<(), ConvertError> {
    if !id.is_member_of(trust_domain) {
        return Err(ConvertError::NotMember(id.clone(), trust_domain.clone()));
    }
    if id.path().is_empty() {
        let (id, trust_domain) = (id.clone(), trust_domain.clone());
        return Err(ConvertError::PathEmpty { id, role, trust_domain });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_id_is_refused_with_the_text_of_spire() {
        let td: TrustDomain = "td".parse().unwrap();
        let pb = |trust_domain: &str, path: &str| {
            Some(types::Spiffeid { trust_domain: trust_domain.into(), path: path.into() })
        };
        let workload = |id: Option<types::Spiffeid>| {
            workload_id_from_pb(&td, id.as_ref()).unwrap_err().to_string()
        };
        assert_eq!(workload(None), "request must specify SPIFFE ID");
        assert_eq!(workload(pb("", "/a")), "trust domain is missing");
        assert_eq!(workload(pb("td", "a")), "path must have a leading slash");
        assert_eq!(
            workload(pb("x", "/a")),
            "\"spiffe://x/a\" is not a member of trust domain \"td\""
        );
        assert_eq!(
            workload(pb("td", "")),
            "\"spiffe://td\" is not a workload in trust domain \"td\"; path is empty"
        );
        assert_eq!(
            workload(pb("td", "/spire/x")),
            "\"spiffe://td/spire/x\" is not a workload in trust domain \"td\"; \
             path is in the reserved namespace"
        );
        assert_eq!(
            agent_id_from_pb(&td, pb("td", "/a").as_ref()).unwrap_err().to_string(),
            "\"spiffe://td/a\" is not an agent in trust domain \"td\"; \
             path is not in the agent namespace"
        );
        let good = pb("td", "/spire/agent/x");
        assert_eq!(id_to_pb(&agent_id_from_pb(&td, good.as_ref()).unwrap()), good.unwrap());
    }
}
