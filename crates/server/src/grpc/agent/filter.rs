//! The filter of ListAgents and CountAgents.

use signet_api::{
    convert::selector_match_from_pb,
    pb::spire::api::{
        server::agent::v1::{count_agents_request, list_agents_request},
        types,
    },
};
use signet_audit::Field;
use signet_store::NodeFilter;
use signet_time::UnixTime;

use crate::usecase::error::Error;

/// What both requests can filter by.
#[derive(Debug, Default)]
pub(super) struct Filter {
    attestation_type: String,
    selectors: Option<types::SelectorMatch>,
    banned: Option<bool>,
    can_reattest: Option<bool>,
    expires_before: String,
}

impl From<count_agents_request::Filter> for Filter {
    fn from(filter: count_agents_request::Filter) -> Self {
        Self {
            attestation_type: filter.by_attestation_type,
            selectors: filter.by_selector_match,
            banned: filter.by_banned,
            can_reattest: filter.by_can_reattest,
            expires_before: filter.by_expires_before,
        }
    }
}

impl From<list_agents_request::Filter> for Filter {
    fn from(filter: list_agents_request::Filter) -> Self {
        Self {
            attestation_type: filter.by_attestation_type,
            selectors: filter.by_selector_match,
            banned: filter.by_banned,
            can_reattest: filter.by_can_reattest,
            expires_before: filter.by_expires_before,
        }
    }
}

impl Filter {
    /// As the store has it. A time that cannot be read is no condition, and a set of no selectors
    /// is what fails (`failed`), as in SPIRE.
    pub(super) fn checked(
        self,
        failed: &'static str,
        about: impl Fn(Field),
    ) -> Result<NodeFilter, Error> {
        let bad = |error| Error::invalid("failed to parse selectors").because(error);
        let selectors = self.selectors.as_ref().map(selector_match_from_pb).transpose();
        let selectors = selectors.map_err(bad)?;
        if selectors.as_ref().is_some_and(|(selectors, _)| selectors.is_empty()) {
            return Err(Error::internal(failed).because("cannot list by empty selectors set"));
        }
        if !self.attestation_type.is_empty() {
            about(Field::NodeAttestorType(self.attestation_type.clone()));
        }
        Ok(NodeFilter {
            attestation_type: Some(self.attestation_type).filter(|kind| !kind.is_empty()),
            banned: self.banned,
            can_reattest: self.can_reattest,
            expires_before: go_time(&self.expires_before),
            selectors,
        })
    }
}

/// Reads a time written in Go's layout `2006-01-02 15:04:05 -0700 -07`, as Unix seconds.
fn go_time(text: &str) -> Option<UnixTime> {
    let (date_time_offset, zone) = text.rsplit_once(' ')?;
    let is_zone = matches!(zone.as_bytes(), [b'+' | b'-', digits @ ..]
        if matches!(digits.len(), 2 | 4) && digits.iter().all(u8::is_ascii_digit));
    let format = time::macros::format_description!(
        "[year]-[month]-[day] [hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute]"
    );
    let time = time::OffsetDateTime::parse(date_time_offset, &format).ok()?;
    is_zone.then(|| time.unix_timestamp()).map(UnixTime::from_seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_of_no_selectors_is_refused_as_by_spire() {
        let none = Filter { selectors: Some(types::SelectorMatch::default()), ..Filter::default() };
        let error = none.checked("failed to list agents", |_| ()).unwrap_err();
        let text = "failed to list agents: cannot list by empty selectors set";
        assert_eq!((error.kind().name(), error.to_string().as_str()), ("Internal", text));
    }

    #[test]
    fn times_are_read_in_the_layout_of_the_cli() {
        assert_eq!(go_time("1970-01-01 01:00:10 +0100 +01"), Some(UnixTime::from_seconds(10)));
        assert_eq!(
            go_time("2026-11-21 06:49:11 +0000 +00"),
            Some(UnixTime::from_seconds(1_795_243_751))
        );
        assert_eq!(
            go_time("2026-11-20 22:49:11 -0800 -08"),
            Some(UnixTime::from_seconds(1_795_243_751))
        );
        for bad in ["", "2026-11-21", "2026-11-21 06:49:11 +0000", "2026-13-21 06:49:11 +0000 +00"]
        {
            assert_eq!(go_time(bad), None, "{bad}");
        }
    }
}
