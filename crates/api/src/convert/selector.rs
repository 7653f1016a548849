//! Selectors and the list filters made of them.

use signet_identity::{MatchBehavior, Selector, SelectorSet, TrustDomain};

use super::{ConvertError, trust_domain_from_pb};
use crate::pb::spire::api::types;

/// Reads selectors; duplicates count once.
///
/// # Errors
/// [`ConvertError::Selector`] with the first one that is not a selector.
pub fn selectors_from_pb(selectors: &[types::Selector]) -> Result<SelectorSet, ConvertError> {
    let set: Result<SelectorSet, _> =
        selectors.iter().map(|one| Selector::new(&one.r#type, &one.value)).collect();
    Ok(set?)
}

/// Selectors as messages, in order.
pub fn selectors_to_pb(selectors: &SelectorSet) -> Vec<types::Selector> {
    selectors
        .iter()
        .map(|one| types::Selector { r#type: one.kind().to_owned(), value: one.value().to_owned() })
        .collect()
}

/// Reads a filter by selectors.
///
/// # Errors
/// [`ConvertError`] when a selector or the match behaviour is not one.
pub fn selector_match_from_pb(
    filter: &types::SelectorMatch,
) -> Result<(SelectorSet, MatchBehavior), ConvertError> {
    use types::selector_match::MatchBehavior as Pb;

    let behavior = match Pb::try_from(filter.r#match) {
        Ok(Pb::MatchExact) => MatchBehavior::Exact,
        Ok(Pb::MatchSubset) => MatchBehavior::Subset,
        Ok(Pb::MatchSuperset) => MatchBehavior::Superset,
        Ok(Pb::MatchAny) => MatchBehavior::Any,
        Err(_) => return Err(unknown_behavior(filter.r#match)),
    };
    Ok((selectors_from_pb(&filter.selectors)?, behavior))
}

/// Reads a filter by trust domains; sorted, duplicates count once.
///
/// # Errors
/// [`ConvertError`] when a trust domain or the match behaviour is not one.
pub fn federates_with_match_from_pb(
    filter: &types::FederatesWithMatch,
) -> Result<(Vec<TrustDomain>, MatchBehavior), ConvertError> {
    use types::federates_with_match::MatchBehavior as Pb;

    let behavior = match Pb::try_from(filter.r#match) {
        Ok(Pb::MatchExact) => MatchBehavior::Exact,
        Ok(Pb::MatchSubset) => MatchBehavior::Subset,
        Ok(Pb::MatchSuperset) => MatchBehavior::Superset,
        Ok(Pb::MatchAny) => MatchBehavior::Any,
        Err(_) => return Err(unknown_behavior(filter.r#match)),
    };
    let mut trust_domains = filter
        .trust_domains
        .iter()
        .map(|name| trust_domain_from_pb(name))
        .collect::<Result<Vec<_>, _>>()?;
    trust_domains.sort_unstable();
    trust_domains.dedup();
    Ok((trust_domains, behavior))
}

fn unknown_behavior(value: i32) -> ConvertError {
    ConvertError::UnknownValue(format!("unknown match behavior {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_round_trip_and_bad_ones_are_named() {
        let pb =
            |kind: &str, value: &str| types::Selector { r#type: kind.into(), value: value.into() };
        let set = selectors_from_pb(&[pb("b", "x:y"), pb("a", "1"), pb("a", "1")]).unwrap();
        assert_eq!(selectors_to_pb(&set), [pb("a", "1"), pb("b", "x:y")]);
        for (bad, why) in [
            (pb("", "x"), "missing selector type"),
            (pb("a:b", "x"), "selector type contains ':'"),
            (pb("a", ""), "missing selector value"),
        ] {
            assert_eq!(selectors_from_pb(&[bad]).unwrap_err().to_string(), why);
        }
    }

    #[test]
    fn an_unknown_match_behaviour_is_refused() {
        let filter = types::SelectorMatch { selectors: Vec::new(), r#match: 9 };
        assert!(selector_match_from_pb(&filter).is_err());
    }
}
