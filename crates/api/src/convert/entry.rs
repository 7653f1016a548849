//! Registration entries.

use signet_identity::{
    Entry, EntryError, EntrySpec, SelectorSet, SpiffeId, TrustDomain, entry::MAX_HINT_LEN,
    entry::check_dns_name,
};
use signet_time::UnixTime;

use super::{
    ConvertError, id_to_pb, member_id_from_pb, selectors_from_pb, selectors_to_pb,
    trust_domain_from_pb, workload_id_from_pb,
};
use crate::pb::spire::api::types::{self, EntryMask, entry::AdditionalAttributes};

/// An entry as a message, with the fields of `mask` (`None` for all); the ID is always there.
pub fn entry_to_pb(entry: &Entry, mask: Option<&EntryMask>) -> types::Entry {
    let mask = mask.copied().unwrap_or_else(entry_mask_all);
    let mut out = types::Entry { id: entry.id.as_str().to_owned(), ..Default::default() };
    if mask.spiffe_id {
        out.spiffe_id = Some(id_to_pb(&entry.spiffe_id));
    }
    if mask.parent_id {
        out.parent_id = Some(id_to_pb(&entry.parent_id));
    }
    if mask.selectors {
        out.selectors = selectors_to_pb(&entry.selectors);
    }
    if mask.x509_svid_ttl {
        out.x509_svid_ttl = entry.x509_svid_ttl;
    }
    if mask.federates_with {
        out.federates_with =
            entry.federates_with.iter().map(|name| name.as_str().to_owned()).collect();
    }
    if mask.admin {
        out.admin = entry.admin;
    }
    if mask.downstream {
        out.downstream = entry.downstream;
    }
    if mask.expires_at {
        out.expires_at = entry.expires_at.seconds();
    }
    if mask.dns_names {
        out.dns_names.clone_from(&entry.dns_names);
    }
    if mask.revision_number {
        out.revision_number = entry.revision_number;
    }
    if mask.store_svid {
        out.store_svid = entry.store_svid;
    }
    if mask.jwt_svid_ttl {
        out.jwt_svid_ttl = entry.jwt_svid_ttl;
    }
    if mask.hint {
        out.hint.clone_from(&entry.hint);
    }
    if mask.created_at {
        out.created_at = entry.created_at.seconds();
    }
    let extras = entry.disable_x509_svid_prefetch || entry.jwt_svid_include_jti;
    if mask.additional_attributes && extras {
        out.additional_attributes = Some(AdditionalAttributes {
            disable_x509_svid_prefetch: entry.disable_x509_svid_prefetch,
            jwt_svid_include_jti: entry.jwt_svid_include_jti,
        });
    }
    out
}

/// Reads an entry to create; ID, revision number and creation time are not part of it.
///
/// # Errors
/// [`ConvertError`] with the first rule that it breaks.
pub fn entry_from_pb(
    trust_domain: &TrustDomain,
    entry: &types::Entry,
) -> Result<EntrySpec, ConvertError> {
    let change = EntryChange::from_pb(trust_domain, entry, None)?;
    // With every field selected, these three are there.
    let (Some(spiffe_id), Some(parent_id), Some(selectors)) =
        (change.spiffe_id.clone(), change.parent_id.clone(), change.selectors.clone())
    else {
        return Err(ConvertError::Missing("missing entry"));
    };
    let mut draft = EntrySpec::new(spiffe_id, parent_id, selectors);
    change.apply(&mut draft);
    draft.check(trust_domain)?;
    Ok(draft)
}

/// What an update changes: the fields of its input mask, each checked.
///
/// The whole still has to pass [`EntrySpec::check`] when applied, for two fields may conflict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryChange {
    spiffe_id: Option<SpiffeId>,
    parent_id: Option<SpiffeId>,
    selectors: Option<SelectorSet>,
    x509_svid_ttl: Option<i32>,
    jwt_svid_ttl: Option<i32>,
    federates_with: Option<Vec<TrustDomain>>,
    admin: Option<bool>,
    downstream: Option<bool>,
    expires_at: Option<UnixTime>,
    dns_names: Option<Vec<String>>,
    store_svid: Option<bool>,
    hint: Option<String>,
    additional_attributes: Option<AdditionalAttributes>,
}

impl EntryChange {
    /// Reads the fields of `mask` (`None` for all).
    ///
    /// # Errors
    /// [`ConvertError`] with the first rule that a field breaks.
    pub fn from_pb(
        trust_domain: &TrustDomain,
        entry: &types::Entry,
        mask: Option<&EntryMask>,
    ) -> Result<Self, ConvertError> {
        let mask = mask.copied().unwrap_or_else(entry_mask_all);
        let mut change = Self::default();
        if mask.parent_id {
            let id = member_id_from_pb(trust_domain, entry.parent_id.as_ref());
            change.parent_id = Some(id.map_err(|error| error.within("invalid parent ID"))?);
        }
        if mask.spiffe_id {
            let id = workload_id_from_pb(trust_domain, entry.spiffe_id.as_ref());
            change.spiffe_id = Some(id.map_err(|error| error.within("invalid spiffe ID"))?);
        }
        if mask.dns_names {
            entry.dns_names.iter().try_for_each(|name| check_dns_name(name))?;
            change.dns_names = Some(entry.dns_names.clone());
        }
        if mask.federates_with {
            let names = entry.federates_with.iter().map(|name| trust_domain_from_pb(name));
            let names: Result<_, _> = names.collect();
            change.federates_with =
                Some(names.map_err(|error| error.within("invalid federated trust domain"))?);
        }
        if mask.selectors {
            if entry.selectors.is_empty() {
                return Err(EntryError::NoSelectors.into());
            }
            change.selectors = Some(selectors_from_pb(&entry.selectors)?);
        }
        if mask.hint {
            if entry.hint.len() > MAX_HINT_LEN {
                return Err(EntryError::HintTooLong.into());
            }
            change.hint = Some(entry.hint.clone());
        }
        change.x509_svid_ttl = mask.x509_svid_ttl.then_some(entry.x509_svid_ttl);
        change.jwt_svid_ttl = mask.jwt_svid_ttl.then_some(entry.jwt_svid_ttl);
        change.admin = mask.admin.then_some(entry.admin);
        change.downstream = mask.downstream.then_some(entry.downstream);
        change.expires_at = mask.expires_at.then_some(UnixTime::from_seconds(entry.expires_at));
        change.store_svid = mask.store_svid.then_some(entry.store_svid);
        change.additional_attributes =
            mask.additional_attributes.then(|| entry.additional_attributes.unwrap_or_default());
        Ok(change)
    }

    /// Applies the change; the result is not checked as a whole.
    pub fn apply(self, draft: &mut EntrySpec) {
        set(&mut draft.spiffe_id, self.spiffe_id);
        set(&mut draft.parent_id, self.parent_id);
        set(&mut draft.selectors, self.selectors);
        set(&mut draft.x509_svid_ttl, self.x509_svid_ttl);
        set(&mut draft.jwt_svid_ttl, self.jwt_svid_ttl);
        set(&mut draft.federates_with, self.federates_with);
        set(&mut draft.admin, self.admin);
        set(&mut draft.downstream, self.downstream);
        set(&mut draft.expires_at, self.expires_at);
        set(&mut draft.dns_names, self.dns_names);
        set(&mut draft.store_svid, self.store_svid);
        set(&mut draft.hint, self.hint);
        if let Some(extras) = self.additional_attributes {
            draft.disable_x509_svid_prefetch = extras.disable_x509_svid_prefetch;
            draft.jwt_svid_include_jti = extras.jwt_svid_include_jti;
        }
    }
}

impl From<EntrySpec> for EntryChange {
    /// Every field as it is in `draft`.
    fn from(draft: EntrySpec) -> Self {
        Self {
            spiffe_id: Some(draft.spiffe_id),
            parent_id: Some(draft.parent_id),
            selectors: Some(draft.selectors),
            x509_svid_ttl: Some(draft.x509_svid_ttl),
            jwt_svid_ttl: Some(draft.jwt_svid_ttl),
            federates_with: Some(draft.federates_with),
            admin: Some(draft.admin),
            downstream: Some(draft.downstream),
            expires_at: Some(draft.expires_at),
            dns_names: Some(draft.dns_names),
            store_svid: Some(draft.store_svid),
            hint: Some(draft.hint),
            additional_attributes: Some(AdditionalAttributes {
                disable_x509_svid_prefetch: draft.disable_x509_svid_prefetch,
                jwt_svid_include_jti: draft.jwt_svid_include_jti,
            }),
        }
    }
}

/// The mask that selects every field.
pub fn entry_mask_all() -> EntryMask {
    EntryMask {
        spiffe_id: true,
        parent_id: true,
        selectors: true,
        x509_svid_ttl: true,
        federates_with: true,
        admin: true,
        downstream: true,
        expires_at: true,
        dns_names: true,
        revision_number: true,
        store_svid: true,
        jwt_svid_ttl: true,
        hint: true,
        created_at: true,
        additional_attributes: true,
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn td() -> TrustDomain {
        "td".parse().unwrap()
    }

    fn pb() -> types::Entry {
        let id =
            |path: &str| Some(types::Spiffeid { trust_domain: "td".into(), path: path.into() });
        types::Entry {
            id: "one".into(),
            spiffe_id: id("/w"),
            parent_id: id("/spire/agent/x"),
            selectors: vec![types::Selector { r#type: "unix".into(), value: "uid:0".into() }],
            x509_svid_ttl: 60,
            federates_with: vec!["other".into()],
            admin: true,
            downstream: true,
            expires_at: 99,
            dns_names: vec!["a.b".into()],
            revision_number: 3,
            store_svid: true,
            jwt_svid_ttl: 30,
            hint: "h".into(),
            created_at: 4,
            additional_attributes: Some(AdditionalAttributes {
                disable_x509_svid_prefetch: false,
                jwt_svid_include_jti: true,
            }),
        }
    }

    fn stored(entry: &types::Entry) -> Entry {
        Entry {
            id: entry.id.parse().unwrap(),
            spec: entry_from_pb(&td(), entry).unwrap(),
            revision_number: entry.revision_number,
            created_at: UnixTime::from_seconds(entry.created_at),
        }
    }

    #[test]
    fn every_field_round_trips() {
        assert_eq!(entry_to_pb(&stored(&pb()), None), pb());
        let only_id = entry_to_pb(&stored(&pb()), Some(&EntryMask::default()));
        assert_eq!(only_id, types::Entry { id: "one".into(), ..Default::default() });
    }

    #[test]
    fn a_mask_lets_an_update_leave_out_the_rest() {
        let mask = EntryMask { hint: true, ..Default::default() };
        let update = types::Entry { hint: "new".into(), ..Default::default() };
        let change = EntryChange::from_pb(&td(), &update, Some(&mask)).unwrap();
        let mut draft = stored(&pb()).spec;
        change.apply(&mut draft);
        assert_eq!(draft, EntrySpec { hint: "new".into(), ..stored(&pb()).spec });
    }

    #[test]
    fn broken_entries_are_refused_with_the_text_of_spire() {
        let refuse = |change: fn(&mut types::Entry)| {
            let mut entry = pb();
            change(&mut entry);
            entry_from_pb(&td(), &entry).unwrap_err().to_string()
        };
        assert_eq!(
            refuse(|e| e.parent_id = None),
            "invalid parent ID: request must specify SPIFFE ID"
        );
        assert_eq!(
            refuse(|e| e.spiffe_id.as_mut().unwrap().path.clear()),
            "invalid spiffe ID: \"spiffe://td\" is not a workload in trust domain \"td\"; \
             path is empty"
        );
        assert_eq!(refuse(|e| e.selectors.clear()), "selector list is empty");
        assert_eq!(
            refuse(|e| e.federates_with = vec!["A".into()]),
            "invalid federated trust domain: trust domain characters are limited to lowercase \
             letters, numbers, dots, dashes, and underscores"
        );
        assert_eq!(
            refuse(|e| e.hint = "x".repeat(1025)),
            "hint is too long, max length is 1024 characters"
        );
        assert!(refuse(|e| e.dns_names = vec![String::new()]).starts_with("invalid DNS name: "));
        assert!(refuse(|e| e.x509_svid_ttl = -1).contains("must not be negative"));
    }
}
