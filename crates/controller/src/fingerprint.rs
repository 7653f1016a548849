//! What makes two entries the same, and what makes them equal.
//!
//! As in spire-controller-manager: SPIFFE ID, parent and selectors say *which* entry it is; the
//! rest is what an update changes. Both are kept as digests, for there are many entries.

use signet_identity::EntrySpec;
use signet_pki::digest::Sha256;

/// Which entry: SPIFFE ID, parent ID and the set of selectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey(u128);

/// What an entry says besides its key. As in spire-controller-manager, the order of DNS names and
/// of foreign trust domains does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryBody(u128);

/// The parts of an entry's body.
#[derive(Clone, Debug, Default)]
pub struct BodyParts<'a> {
    /// Life of X.509-SVIDs, seconds.
    pub x509_svid_ttl: i32,
    /// Life of JWT-SVIDs, seconds.
    pub jwt_svid_ttl: i32,
    /// Foreign trust domains.
    pub federates_with: Vec<&'a str>,
    /// Admin.
    pub admin: bool,
    /// Downstream.
    pub downstream: bool,
    /// Stored by agents.
    pub store_svid: bool,
    /// DNS names.
    pub dns_names: Vec<&'a str>,
    /// Hint.
    pub hint: &'a str,
    /// Whose it is; empty for nobody's.
    pub tenant: &'a str,
    /// JWT-SVIDs say whose it is.
    pub tenant_claim: bool,
}

impl EntryKey {
    /// The smallest of all.
    pub(crate) const MIN: Self = Self(0);

    /// The key of an entry with these IDs (as text) and selectors (type, value).
    pub fn new(spiffe_id: &str, parent_id: &str, mut selectors: Vec<(&str, &str)>) -> Self {
        selectors.sort_unstable();
        selectors.dedup();
        let mut digest = Sha256::new();
        add(&mut digest, spiffe_id);
        add(&mut digest, parent_id);
        for (kind, value) in selectors {
            add(&mut digest, kind);
            add(&mut digest, value);
        }
        Self(first_half(digest))
    }

    /// The key of a draft.
    pub fn of(draft: &EntrySpec) -> Self {
        let selectors = draft.selectors.iter().map(|one| (one.kind(), one.value())).collect();
        Self::new(&draft.spiffe_id.to_string(), &draft.parent_id.to_string(), selectors)
    }
}

impl EntryBody {
    /// The digest of these parts.
    pub fn new(mut parts: BodyParts<'_>) -> Self {
        parts.federates_with.sort_unstable();
        parts.dns_names.sort_unstable();
        let mut digest = Sha256::new();
        digest.update(&parts.x509_svid_ttl.to_be_bytes());
        digest.update(&parts.jwt_svid_ttl.to_be_bytes());
        digest.update(&[
            u8::from(parts.admin),
            u8::from(parts.downstream),
            u8::from(parts.store_svid),
        ]);
        add(&mut digest, parts.hint);
        // Nothing is added for what has no tenant: such entries look as they always have.
        if !parts.tenant.is_empty() || parts.tenant_claim {
            add(&mut digest, parts.tenant);
            digest.update(&[u8::from(parts.tenant_claim)]);
        }
        for list in [&parts.federates_with, &parts.dns_names] {
            digest.update(&(list.len() as u64).to_be_bytes());
            list.iter().for_each(|item| add(&mut digest, item));
        }
        Self(first_half(digest))
    }

    /// The digest of a draft.
    pub fn of(draft: &EntrySpec) -> Self {
        Self::new(BodyParts {
            x509_svid_ttl: draft.x509_svid_ttl,
            jwt_svid_ttl: draft.jwt_svid_ttl,
            federates_with: draft.federates_with.iter().map(|name| name.as_str()).collect(),
            admin: draft.admin,
            downstream: draft.downstream,
            store_svid: draft.store_svid,
            dns_names: draft.dns_names.iter().map(String::as_str).collect(),
            hint: &draft.hint,
            tenant: draft.tenant.as_ref().map(|tenant| tenant.as_str()).unwrap_or_default(),
            tenant_claim: draft.jwt_svid_tenant_claim,
        })
    }
}

/// Lengths go first, so that no two lists of texts look alike.
fn add(digest: &mut Sha256, text: &str) {
    digest.update(&(text.len() as u64).to_be_bytes());
    digest.update(text.as_bytes());
}

fn first_half(digest: Sha256) -> u128 {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = digest.finish();
    u128::from_be_bytes([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_selectors_does_not_count_and_their_borders_do() {
        let key = |selectors: &[(&'static str, &'static str)]| {
            EntryKey::new("spiffe://td/a", "spiffe://td/b", selectors.to_vec())
        };
        assert_eq!(key(&[("a", "1"), ("b", "2")]), key(&[("b", "2"), ("a", "1")]));
        assert_ne!(key(&[("a", "1b")]), key(&[("a1", "b")]));
        assert_ne!(key(&[("a", "1"), ("b", "2")]), key(&[("a", "1")]));
    }

    #[test]
    fn the_order_of_lists_does_not_count_and_their_borders_do() {
        let body = |names: &[&'static str], federates: &[&'static str]| {
            EntryBody::new(BodyParts {
                dns_names: names.to_vec(),
                federates_with: federates.to_vec(),
                ..BodyParts::default()
            })
        };
        assert_eq!(body(&["a"], &["x", "y"]), body(&["a"], &["y", "x"]));
        assert_eq!(body(&["a", "b"], &[]), body(&["b", "a"], &[]));
        assert_ne!(body(&["a"], &[]), body(&[], &["a"]));
    }
}
