//! Entries as text.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use signet_api::pb::{signet::api::server::tenancy::v1::EntryTenant, spire::api::types};

use crate::cli::text;

/// An entry as SPIRE prints it, with an empty line after it (without its line end). `pending` are
/// the trust domains whose bundles are not there, `owner` whose it is.
pub(super) fn entry(
    entry: &types::Entry,
    pending: &BTreeSet<String>,
    owner: Option<&EntryTenant>,
) -> String {
    let mut out = String::new();
    let mut field = |name: &str, value: &dyn std::fmt::Display| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{name:<24}: {value}");
    };
    let id = if entry.id.is_empty() { "(none)" } else { entry.id.as_str() };
    field("Entry ID", &id);
    field("SPIFFE ID", &text::id(entry.spiffe_id.as_ref()));
    field("Parent ID", &text::id(entry.parent_id.as_ref()));
    field("Revision", &entry.revision_number);
    if entry.downstream {
        field("Downstream", &true);
    }
    field("X509-SVID TTL", &ttl(entry.x509_svid_ttl));
    field("JWT-SVID TTL", &ttl(entry.jwt_svid_ttl));
    if entry.expires_at != 0 {
        field("Expiration time", &text::utc(entry.expires_at));
    }
    for selector in &entry.selectors {
        field("Selector", &format_args!("{}:{}", selector.r#type, selector.value));
    }
    for name in &entry.federates_with {
        match pending.contains(name) {
            true => field("FederatesWith", &format_args!("{name} (pending: no bundle yet)")),
            false => field("FederatesWith", name),
        }
    }
    for name in &entry.dns_names {
        field("DNS name", name);
    }
    if entry.admin {
        field("Admin", &true);
    }
    if entry.store_svid {
        field("StoreSvid", &true);
    }
    if !entry.hint.is_empty() {
        field("Hint", &entry.hint);
    }
    let extras = entry.additional_attributes.unwrap_or_default();
    if extras.disable_x509_svid_prefetch {
        field("DisableX509SvidPrefetch", &true);
    }
    if extras.jwt_svid_include_jti {
        field("JwtSvidIncludeJti", &true);
    }
    if let Some(owner) = owner {
        field("Tenant", &owner.tenant);
        if owner.jwt_svid_tenant_claim {
            field("JwtSvidTenantClaim", &true);
        }
    }
    out
}

/// SPIRE's JSON of entries, with the tenants of those that have one.
pub(super) fn with_tenants(
    mut listed: serde_json::Value,
    owners: &BTreeMap<String, EntryTenant>,
) -> serde_json::Value {
    let entries = listed.get_mut("entries").and_then(serde_json::Value::as_array_mut);
    for entry in entries.into_iter().flatten().filter_map(serde_json::Value::as_object_mut) {
        let id = entry.get("id").and_then(serde_json::Value::as_str).unwrap_or_default();
        if let Some(owner) = owners.get(id) {
            entry.insert("tenant".to_owned(), owner.tenant.clone().into());
            let claim = owner.jwt_svid_tenant_claim;
            entry.insert("jwt_svid_tenant_claim".to_owned(), claim.into());
        }
    }
    listed
}

/// Sorts entries by what people look for: SPIFFE ID, parent, selectors; then ID.
pub(super) fn sort(entries: &mut [types::Entry]) {
    let selectors = |entry: &types::Entry| {
        let all = entry.selectors.iter().map(|one| (one.r#type.clone(), one.value.clone()));
        all.collect::<Vec<_>>()
    };
    entries.sort_by_cached_key(|entry| {
        (
            text::id(entry.spiffe_id.as_ref()),
            text::id(entry.parent_id.as_ref()),
            selectors(entry),
            entry.id.clone(),
        )
    });
}

fn ttl(seconds: i32) -> String {
    if seconds == 0 { "default".to_owned() } else { seconds.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_prints_as_spire_prints_it() {
        let id = |path: &str| {
            Some(types::Spiffeid { trust_domain: "example.org".into(), path: path.into() })
        };
        let full = types::Entry {
            id: "one".into(),
            spiffe_id: id("/w"),
            parent_id: id("/n"),
            selectors: vec![types::Selector { r#type: "unix".into(), value: "uid:0".into() }],
            x509_svid_ttl: 600,
            expires_at: 4_000_000_000,
            dns_names: vec!["a".into()],
            admin: true,
            hint: "h".into(),
            ..Default::default()
        };
        let none = BTreeSet::new();
        assert_eq!(
            entry(&full, &none, None),
            "Entry ID                : one\n\
             SPIFFE ID               : spiffe://example.org/w\n\
             Parent ID               : spiffe://example.org/n\n\
             Revision                : 0\n\
             X509-SVID TTL           : 600\n\
             JWT-SVID TTL            : default\n\
             Expiration time         : 2096-10-02 07:06:40 +0000 UTC\n\
             Selector                : unix:uid:0\n\
             DNS name                : a\n\
             Admin                   : true\n\
             Hint                    : h\n"
        );
        let empty = entry(&types::Entry::default(), &none, None);
        assert!(empty.starts_with("Entry ID                : (none)\n"));
        let federating =
            types::Entry { federates_with: vec!["a".into(), "b".into()], ..Default::default() };
        let text = entry(&federating, &BTreeSet::from(["b".to_owned()]), None);
        assert!(text.contains("FederatesWith           : a\n"), "{text}");
        assert!(text.contains("FederatesWith           : b (pending: no bundle yet)\n"), "{text}");
    }
}
