//! Registration entries.

use std::{
    cmp::Ordering,
    collections::HashSet,
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
    sync::Arc,
};

use signet_time::UnixTime;

use crate::{SelectorSet, SpiffeId, SpiffeIdError, Tenant, TenantDenial, TrustDomain};

/// The longest hint in bytes (SPIRE's limit).
pub const MAX_HINT_LEN: usize = 1024;
/// The longest DNS name in bytes, and the longest label of one (RFC 1035, section 2.3.4).
const MAX_DNS_NAME_LEN: usize = 253;
const MAX_DNS_LABEL_LEN: usize = 63;
/// The longest entry ID in bytes (SPIRE's limit).
pub const MAX_ENTRY_ID_LEN: usize = 255;

/// The ID of a registration entry: letters, digits, `.`, `_` and `-`, at most 255 bytes.
#[derive(Clone)]
pub struct EntryId(IdText);

/// There are millions of them in a large server, and nearly all are UUIDs, some with a prefix.
#[derive(Clone)]
enum IdText {
    Short { len: u8, bytes: [u8; SHORT_ID] },
    Long(Arc<str>),
}

/// What makes an [`EntryId`] 40 bytes.
const SHORT_ID: usize = 38;

impl EntryId {
    /// The text.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            // Made of a text, of ASCII: neither can fail.
            IdText::Short { len, bytes } => bytes
                .get(..usize::from(*len))
                .and_then(|bytes| std::str::from_utf8(bytes).ok())
                .unwrap_or_default(),
            IdText::Long(text) => text,
        }
    }
}

impl PartialEq for EntryId {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for EntryId {}

impl PartialOrd for EntryId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for EntryId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Hash for EntryId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl FromStr for EntryId {
    type Err = EntryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(EntryError::MissingId);
        }
        if text.len() > MAX_ENTRY_ID_LEN {
            return Err(EntryError::IdTooLong);
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            return Err(EntryError::IdCharacter);
        }
        let mut bytes = [0; SHORT_ID];
        Ok(Self(match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(place), Ok(len)) => {
                place.copy_from_slice(text.as_bytes());
                IdText::Short { len, bytes }
            }
            _ => IdText::Long(text.into()),
        }))
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Everything of an entry that its author decides. Not checked yet unless a function says so: see
/// [`EntrySpec::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntrySpec {
    /// The SPIFFE ID to issue.
    pub spiffe_id: SpiffeId,
    /// Whose children this entry belongs to: an agent, a node alias, or `/spire/server`.
    pub parent_id: SpiffeId,
    /// What a workload (or, under `/spire/server`, a node) must have; at least one.
    pub selectors: SelectorSet,
    /// Life of X.509-SVIDs, seconds; 0 for the server's default.
    pub x509_svid_ttl: i32,
    /// Life of JWT-SVIDs, seconds; 0 for the server's default.
    pub jwt_svid_ttl: i32,
    /// Foreign trust domains whose bundles the workload gets.
    pub federates_with: Vec<TrustDomain>,
    /// Whether the identity may call the server's admin API.
    pub admin: bool,
    /// Whether the identity may ask for an intermediate CA.
    pub downstream: bool,
    /// When the entry itself expires, Unix seconds; 0 for never.
    pub expires_at: UnixTime,
    /// DNS names for X.509-SVIDs, in order; the first also becomes the CN.
    pub dns_names: Vec<String>,
    /// Whether agents push the SVID to a secret store instead of serving it.
    pub store_svid: bool,
    /// A hint for workloads with several identities.
    pub hint: String,
    /// Whether agents must not sign ahead of demand.
    pub disable_x509_svid_prefetch: bool,
    /// Whether JWT-SVIDs carry a `jti` (and are then never cached).
    pub jwt_svid_include_jti: bool,
    /// Whose it is: see [`crate::tenant`]. SPIRE's messages do not have it.
    pub tenant: Option<Tenant>,
    /// Whether JWT-SVIDs carry the tenant, as the claim [`crate::tenant::TENANT_CLAIM`].
    pub jwt_svid_tenant_claim: bool,
}

/// A stored registration entry: a checked specification and what the store added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The entry ID.
    pub id: EntryId,
    /// What its author decided.
    pub spec: EntrySpec,
    /// 0 when created, +1 with every update.
    pub revision_number: i64,
    /// When it was created, Unix seconds.
    pub created_at: UnixTime,
}

impl std::ops::Deref for Entry {
    type Target = EntrySpec;

    fn deref(&self) -> &EntrySpec {
        &self.spec
    }
}

/// Why an entry is refused. The texts are those SPIRE's API answers with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// A DNS name breaks a rule.
    #[error("invalid DNS name: {0}")]
    DnsName(String),
    /// The hint is over 1024 bytes.
    #[error("hint is too long, max length is 1024 characters")]
    HintTooLong,
    /// The entry ID has a character outside letters, digits, `.`, `_`, `-`.
    #[error("invalid entry ID: only letters, digits, '.', '_' and '-' are allowed")]
    IdCharacter,
    /// The entry ID is over 255 bytes.
    #[error("entry ID is too long, max length is 255 characters")]
    IdTooLong,
    /// No entry ID.
    #[error("missing entry ID")]
    MissingId,
    /// A negative TTL or expiry.
    #[error("{0} must not be negative")]
    Negative(&'static str),
    /// No selectors.
    #[error("selector list is empty")]
    NoSelectors,
    /// The parent has no path.
    #[error("invalid parent ID: path is empty")]
    ParentWithoutPath,
    /// The SPIFFE ID lies in `/spire`.
    #[error(
        "invalid spiffe ID: \"{0}\" is not a workload in the trust domain: path is in the reserved namespace"
    )]
    Reserved(SpiffeId),
    /// An ID is not a SPIFFE ID.
    #[error("invalid {0}: {1}")]
    SpiffeId(&'static str, SpiffeIdError),
    /// A store_svid entry with more than one selector type.
    #[error("invalid selectors: selector types must be the same when store SVID is enabled")]
    StoreSvidSelectors,
    /// A store_svid entry that also disables prefetch.
    #[error("disable_x509_svid_prefetch cannot be used with store_svid")]
    StoreSvidWithoutPrefetch,
    /// An ID of another trust domain.
    #[error("invalid {0}: \"{1}\" is not a member of trust domain \"{2}\"")]
    WrongTrustDomain(&'static str, SpiffeId, TrustDomain),
    /// It is not for the caller to write.
    #[error("it is not in the caller's scope")]
    OutOfScope,
    /// It is not for the caller to see.
    #[error("entry not found")]
    Unseen,
    /// Its tenant does not fit.
    #[error("{0}")]
    Tenant(TenantDenial),
    /// A claim for a tenant that is not there.
    #[error("a tenant claim needs a tenant")]
    ClaimWithoutTenant,
    /// The SPIFFE ID has no path.
    #[error("invalid spiffe ID: path is empty")]
    WithoutPath,
}

impl EntrySpec {
    /// An entry with the given ID, parent and selectors and nothing else.
    pub fn new(spiffe_id: SpiffeId, parent_id: SpiffeId, selectors: SelectorSet) -> Self {
        Self {
            spiffe_id,
            parent_id,
            selectors,
            x509_svid_ttl: 0,
            jwt_svid_ttl: 0,
            federates_with: Vec::new(),
            admin: false,
            downstream: false,
            expires_at: UnixTime::EPOCH,
            dns_names: Vec::new(),
            store_svid: false,
            hint: String::new(),
            disable_x509_svid_prefetch: false,
            jwt_svid_include_jti: false,
            tenant: None,
            jwt_svid_tenant_claim: false,
        }
    }

    /// Checks every rule of SPIRE's registration API for a server of `trust_domain`.
    ///
    /// # Errors
    /// The first [`EntryError`] found.
    pub fn check(&self, trust_domain: &TrustDomain) -> Result<(), EntryError> {
        for (what, id) in [("parent ID", &self.parent_id), ("spiffe ID", &self.spiffe_id)] {
            if !id.is_member_of(trust_domain) {
                return Err(EntryError::WrongTrustDomain(what, id.clone(), trust_domain.clone()));
            }
        }
        if self.parent_id.path().is_empty() {
            return Err(EntryError::ParentWithoutPath);
        }
        if self.spiffe_id.path().is_empty() {
            return Err(EntryError::WithoutPath);
        }
        if self.spiffe_id.is_reserved() {
            return Err(EntryError::Reserved(self.spiffe_id.clone()));
        }
        if self.selectors.is_empty() {
            return Err(EntryError::NoSelectors);
        }
        if self.hint.len() > MAX_HINT_LEN {
            return Err(EntryError::HintTooLong);
        }
        for (what, value) in [
            ("X509-SVID TTL", i64::from(self.x509_svid_ttl)),
            ("JWT-SVID TTL", i64::from(self.jwt_svid_ttl)),
            ("expiry", self.expires_at.seconds()),
        ] {
            if value < 0 {
                return Err(EntryError::Negative(what));
            }
        }
        let mut seen = HashSet::with_capacity(self.dns_names.len());
        for name in &self.dns_names {
            check_dns_name(name)?;
            if !seen.insert(name) {
                return Err(EntryError::DnsName(format!("\"{name}\": it is given twice")));
            }
        }
        if self.jwt_svid_tenant_claim && self.tenant.is_none() {
            return Err(EntryError::ClaimWithoutTenant);
        }
        if self.store_svid {
            let mut kinds = self.selectors.iter().map(crate::Selector::kind);
            let first = kinds.next();
            if kinds.any(|kind| Some(kind) != first) {
                return Err(EntryError::StoreSvidSelectors);
            }
            if self.disable_x509_svid_prefetch {
                return Err(EntryError::StoreSvidWithoutPrefetch);
            }
        }
        Ok(())
    }
}

/// Checks a DNS name for an X.509-SVID as SPIRE does: labels of at most 63 bytes and 253 in all, in
/// which any printable ASCII character may stand but for blanks; `-` neither first nor last nor in
/// third and fourth place, except in the punycode of a valid label; before all of them `*.` once.
///
/// # Errors
/// [`EntryError::DnsName`] with the reason.
pub fn check_dns_name(name: &str) -> Result<(), EntryError> {
    let fail = |why: &str| Err(EntryError::DnsName(format!("\"{name}\": {why}")));
    let rest = name.strip_prefix("*.").unwrap_or(name);
    if rest.is_empty() {
        return fail("empty or only whitespace");
    }
    if rest.contains('*') {
        return fail("a wildcard must be the first label, and the only one");
    }
    if !rest.bytes().all(|b| b.is_ascii_graphic()) {
        return fail("a character that is not printable ASCII");
    }
    if rest.len() > MAX_DNS_NAME_LEN {
        return fail("length exceeded");
    }
    for label in rest.split('.') {
        if label.is_empty() {
            return fail("label is empty");
        }
        if label.len() > MAX_DNS_LABEL_LEN {
            return fail("label length exceeded");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return fail("label starts or ends with '-'");
        }
        if label.starts_with("xn--") {
            // What is mapped to something else was not the form that a DNS has.
            if idna::domain_to_ascii_strict(label).is_ok_and(|same| same == label) {
                continue;
            }
            return fail("label is not the punycode of a valid one");
        }
        if label.bytes().skip(2).take(2).eq(*b"--") {
            return fail("label has '-' in third and fourth place");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft() -> EntrySpec {
        EntrySpec::new(
            "spiffe://td/w".parse().unwrap(),
            "spiffe://td/n".parse().unwrap(),
            ["unix:uid:0".parse().unwrap()].into_iter().collect(),
        )
    }

    #[test]
    fn a_plain_entry_passes_and_each_broken_rule_is_named() {
        let td: TrustDomain = "td".parse().unwrap();
        assert_eq!(draft().check(&td), Ok(()));
        let broken = |change: fn(&mut EntrySpec)| {
            let mut draft = draft();
            change(&mut draft);
            draft.check(&td).unwrap_err()
        };
        assert_eq!(broken(|d| d.selectors = SelectorSet::default()), EntryError::NoSelectors);
        assert_eq!(broken(|d| d.hint = "x".repeat(1025)), EntryError::HintTooLong);
        assert_eq!(broken(|d| d.x509_svid_ttl = -1), EntryError::Negative("X509-SVID TTL"));
        assert!(matches!(
            broken(|d| d.spiffe_id = "spiffe://td/spire/x".parse().unwrap()),
            EntryError::Reserved(_)
        ));
        assert!(matches!(
            broken(|d| d.spiffe_id = "spiffe://other/x".parse().unwrap()),
            EntryError::WrongTrustDomain(..)
        ));
        assert!(matches!(broken(|d| d.dns_names = vec!["a..b".into()]), EntryError::DnsName(_)));
    }

    #[test]
    fn entry_ids_of_any_length_keep_their_text() {
        for len in [1, 36, 37, 38, 39, 40, 255] {
            let text = "a".repeat(len);
            let id: EntryId = text.parse().unwrap();
            assert_eq!(id.as_str(), text);
            assert_eq!(id, id.clone());
        }
        assert!("a".repeat(256).parse::<EntryId>().is_err());
        assert_eq!(size_of::<EntryId>(), 40);
    }

    #[test]
    fn dns_names_may_have_one_leading_wildcard() {
        for good in ["a", "a.b", "*.a.b", "a-1.b"] {
            assert!(check_dns_name(good).is_ok(), "{good}");
        }
        for bad in ["", "*", "*.", "a.*.b", "a*", "*a.b", "*.*.a", "*.*"] {
            assert!(check_dns_name(bad).is_err(), "{bad}");
        }
    }

    /// Each was given to SPIRE 1.15.3.
    #[test]
    fn dns_names_are_taken_and_refused_as_by_spire() {
        let x = |n: usize| "x".repeat(n);
        let long = |n: usize| format!("{0}.{0}.{0}.{1}", x(63), x(n));
        for good in [
            "host:8443",
            "::1",
            "fe80::1",
            "127.0.0.1",
            "a@b",
            "a/b",
            "a+b",
            "a~b",
            "a=b",
            "a\"b",
            "a,b",
            "a;b",
            "a\\b",
            "a!b",
            "a%b",
            "a#b",
            "a?b",
            "a|b",
            "a<b",
            "A.b",
            "A-B.c",
            "_a.b",
            "a_b",
            "abc--d",
            "xn--bcher-kva.example",
            "xn--ls8h.la",
            "xn--fa-hia.de",
            "xn--9a",
            "xn--80ak6aa92e",
            "xn--mgba3gch31f060k",
            &x(63),
            &long(61),
        ] {
            assert!(check_dns_name(good).is_ok(), "{good}: {:?}", check_dns_name(good));
        }
        for bad in [
            "ab--c.d",
            "ab---c",
            "ab--",
            "xn--zzzzzz",
            "xn--",
            "xn--a",
            "XN--bcher-kva",
            "xn--BCHER-kva",
            "xn--a-ecp.ru",
            "xn--0ca24w",
            "xn--a--b",
            "xn--bcher-kva-",
            "xn---",
            "xn--a-",
            "-a",
            "a-",
            "a.-b",
            "a.b-",
            "a.",
            ".a",
            "a..b",
            "ä.b",
            &x(64),
            &long(62),
        ] {
            assert!(check_dns_name(bad).is_err(), "{bad}");
        }
        // Unlike there: nobody means these.
        for bad in [" a", "a ", "a b", "a\tb", "a\u{1}b", "\u{7f}ab"] {
            assert!(check_dns_name(bad).is_err(), "{bad:?}");
        }
        let mut twice = draft();
        twice.dns_names = vec!["a.test".into(), "a.test".into()];
        let td: TrustDomain = "td".parse().unwrap();
        assert!(matches!(twice.check(&td), Err(EntryError::DnsName(_))));
        twice.dns_names = vec!["*.b".into(), "a.b".into()];
        assert_eq!(twice.check(&td), Ok(()));
    }
}
