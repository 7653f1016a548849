//! List and count filters.

use signet_api::{
    convert::{
        ConvertError, federates_with_match_from_pb, member_id_from_pb, selector_match_from_pb,
        workload_id_from_pb,
    },
    pb::spire::api::{server::entry::v1 as pb, types},
};
use signet_audit::Field;
use signet_identity::TrustDomain;
use signet_store::EntryFilter;

use crate::usecase::error::Error;

/// The fields that the filters of both calls have.
struct Parts<'a> {
    by_spiffe_id: Option<&'a types::Spiffeid>,
    by_parent_id: Option<&'a types::Spiffeid>,
    by_selectors: Option<&'a types::SelectorMatch>,
    by_federates_with: Option<&'a types::FederatesWithMatch>,
    by_hint: Option<&'a String>,
    by_downstream: Option<bool>,
}

/// The filter of a list request.
///
/// # Errors
/// `InvalidArgument` with the part that is malformed.
pub(super) fn from_list(
    trust_domain: &TrustDomain,
    request: &pb::ListEntriesRequest,
    about: impl Fn(Field),
) -> Result<EntryFilter, Error> {
    let Some(filter) = &request.filter else { return Ok(EntryFilter::default()) };
    let parts = Parts {
        by_spiffe_id: filter.by_spiffe_id.as_ref(),
        by_parent_id: filter.by_parent_id.as_ref(),
        by_selectors: filter.by_selectors.as_ref(),
        by_federates_with: filter.by_federates_with.as_ref(),
        by_hint: filter.by_hint.as_ref(),
        by_downstream: filter.by_downstream,
    };
    read(trust_domain, &parts, about)
}

/// The filter of a count request.
///
/// # Errors
/// `InvalidArgument` with the part that is malformed.
pub(super) fn from_count(
    trust_domain: &TrustDomain,
    request: &pb::CountEntriesRequest,
    about: impl Fn(Field),
) -> Result<EntryFilter, Error> {
    let Some(filter) = &request.filter else { return Ok(EntryFilter::default()) };
    let parts = Parts {
        by_spiffe_id: filter.by_spiffe_id.as_ref(),
        by_parent_id: filter.by_parent_id.as_ref(),
        by_selectors: filter.by_selectors.as_ref(),
        by_federates_with: filter.by_federates_with.as_ref(),
        by_hint: filter.by_hint.as_ref(),
        by_downstream: filter.by_downstream,
    };
    read(trust_domain, &parts, about)
}

fn read(
    trust_domain: &TrustDomain,
    parts: &Parts<'_>,
    about: impl Fn(Field),
) -> Result<EntryFilter, Error> {
    let malformed =
        |what: &'static str| move |error: ConvertError| Error::invalid(what).because(error);
    let mut filter = EntryFilter::default();
    if let Some(hint) = parts.by_hint {
        about(Field::Hint(hint.clone()));
        filter.hint = Some(hint.clone()).filter(|hint| !hint.is_empty());
    }
    if let Some(id) = parts.by_parent_id {
        let id = member_id_from_pb(trust_domain, Some(id))
            .map_err(malformed("malformed parent ID filter"))?;
        about(Field::ParentId(id.clone()));
        filter.parent_id = Some(id);
    }
    if let Some(id) = parts.by_spiffe_id {
        let id = workload_id_from_pb(trust_domain, Some(id))
            .map_err(malformed("malformed SPIFFE ID filter"))?;
        about(Field::SpiffeId(id.clone()));
        filter.spiffe_id = Some(id);
    }
    if let Some(selectors) = parts.by_selectors {
        const WHAT: &str = "malformed selectors filter";
        let read = selector_match_from_pb(selectors).map_err(malformed(WHAT))?;
        if read.0.is_empty() {
            return Err(malformed(WHAT)(ConvertError::Missing("empty selector set")));
        }
        filter.selectors = Some(read);
    }
    if let Some(federates_with) = parts.by_federates_with {
        const WHAT: &str = "malformed federates with filter";
        let read = federates_with_match_from_pb(federates_with).map_err(malformed(WHAT))?;
        if read.0.is_empty() {
            return Err(malformed(WHAT)(ConvertError::Missing("empty trust domain set")));
        }
        filter.federates_with = Some(read);
    }
    // As in SPIRE, whose CLI always sends it, `false` filters nothing.
    filter.downstream = parts.by_downstream.filter(|downstream| *downstream);
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use signet_identity::MatchBehavior;

    use super::*;
    use crate::usecase::error::ErrorKind;

    #[test]
    fn every_part_is_read_and_the_malformed_one_is_named() {
        let td: TrustDomain = "td".parse().unwrap();
        let id =
            |path: &str| Some(types::Spiffeid { trust_domain: "td".into(), path: path.into() });
        let read = |filter: pb::list_entries_request::Filter| {
            let request = pb::ListEntriesRequest { filter: Some(filter), ..Default::default() };
            from_list(&td, &request, |_| ())
        };
        let good = pb::list_entries_request::Filter {
            by_spiffe_id: id("/w"),
            by_parent_id: id("/spire/server"),
            by_selectors: Some(types::SelectorMatch {
                selectors: vec![types::Selector { r#type: "a".into(), value: "b".into() }],
                r#match: 2,
            }),
            by_federates_with: None,
            by_hint: Some(String::new()),
            by_downstream: Some(false),
        };
        let filter = read(good.clone()).unwrap();
        assert_eq!(filter.selectors.unwrap().1, MatchBehavior::Superset);
        assert_eq!((filter.hint, filter.downstream), (None, None));

        let reserved = pb::list_entries_request::Filter {
            by_spiffe_id: id("/spire/agent/x"),
            ..Default::default()
        };
        let refused = read(reserved).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert_eq!(refused.what(), "malformed SPIFFE ID filter");
        let empty = pb::list_entries_request::Filter {
            by_selectors: Some(types::SelectorMatch::default()),
            ..Default::default()
        };
        assert_eq!(
            read(empty).unwrap_err().to_string(),
            "malformed selectors filter: empty selector set"
        );
    }
}
