//! Hashes of the criteria that entries and nodes are looked up by.

use std::ops::RangeInclusive;

use signet_identity::{AttestedNode, EntrySpec, Selector, SpiffeId, TrustDomain};

/// The hash of one criterion.
pub(crate) type Term = i64;

/// What a criterion is about. The numbers are stored: never change them.
#[derive(Clone, Copy)]
enum Kind {
    /// Parent and selectors: the lower half of [`similar`].
    Similar = 1,
    /// The upper half of [`similar`].
    SpiffeId = 2,
    Parent = 3,
    Selector = 4,
    FederatesWith = 5,
    Hint = 6,
    Downstream = 7,
    AttestationType = 8,
    Banned = 9,
}

/// The lower half of a term.
const LOWER: Term = 0xffff_ffff;

/// Same SPIFFE ID, parent and selectors. The upper half is a hash of the SPIFFE ID alone, so that
/// one pair answers both questions: see [`spiffe_id`]. (Each more pair at a random place of the
/// index costs a page written per new entry.)
pub(crate) fn similar(draft: &EntrySpec) -> Term {
    let mut hash = Hash::new(Kind::Similar).id(&draft.parent_id);
    for selector in &draft.selectors {
        hash = hash.text(selector.kind()).text(selector.value());
    }
    spiffe_id(&draft.spiffe_id).start() | (hash.finish() & LOWER)
}

/// Same SPIFFE ID: a range of [`similar`] terms.
pub(crate) fn spiffe_id(id: &SpiffeId) -> RangeInclusive<Term> {
    let start = Hash::new(Kind::SpiffeId).id(id).finish() & !LOWER;
    start..=start | LOWER
}

pub(crate) fn parent(id: &SpiffeId) -> Term {
    Hash::new(Kind::Parent).id(id).finish()
}

pub(crate) fn selector(selector: &Selector) -> Term {
    Hash::new(Kind::Selector).text(selector.kind()).text(selector.value()).finish()
}

pub(crate) fn federates_with(trust_domain: &TrustDomain) -> Term {
    Hash::new(Kind::FederatesWith).text(trust_domain.as_str()).finish()
}

pub(crate) fn hint(hint: &str) -> Term {
    Hash::new(Kind::Hint).text(hint).finish()
}

pub(crate) fn downstream() -> Term {
    Hash::new(Kind::Downstream).finish()
}

pub(crate) fn attestation_type(name: &str) -> Term {
    Hash::new(Kind::AttestationType).text(name).finish()
}

pub(crate) fn banned() -> Term {
    Hash::new(Kind::Banned).finish()
}

/// Every term of an entry, sorted, each once.
pub(crate) fn of_entry(draft: &EntrySpec) -> Vec<Term> {
    let mut terms = vec![similar(draft), parent(&draft.parent_id)];
    terms.extend(draft.selectors.iter().map(selector));
    terms.extend(draft.federates_with.iter().map(federates_with));
    if !draft.hint.is_empty() {
        terms.push(hint(&draft.hint));
    }
    if draft.downstream {
        terms.push(downstream());
    }
    sorted(terms)
}

/// Every term of a node, sorted, each once.
pub(crate) fn of_node(node: &AttestedNode) -> Vec<Term> {
    let mut terms = vec![attestation_type(&node.attestation_type)];
    terms.extend(node.selectors.iter().map(selector));
    if node.is_banned() {
        terms.push(banned());
    }
    sorted(terms)
}

fn sorted(mut terms: Vec<Term>) -> Vec<Term> {
    terms.sort_unstable();
    terms.dedup();
    terms
}

/// FNV-1a over length-prefixed parts, with a final mix. Its values are stored: never change it.
/// Not for keeping an adversary out; a collision costs time and nothing else.
struct Hash(u64);

impl Hash {
    fn new(kind: Kind) -> Self {
        Self(0xcbf2_9ce4_8422_2325).bytes(&[kind as u8])
    }

    fn id(self, id: &SpiffeId) -> Self {
        self.text(id.trust_domain().as_str()).text(id.path())
    }

    fn text(self, text: &str) -> Self {
        self.bytes(&(text.len() as u64).to_le_bytes()).bytes(text.as_bytes())
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self
    }

    fn finish(self) -> Term {
        let mut x = self.0;
        x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        (x ^ (x >> 33)).cast_signed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_hashes_never_change() {
        let id: SpiffeId = "spiffe://td/a".parse().unwrap();
        assert_eq!(*spiffe_id(&id).start(), -3_272_861_634_711_781_376);
        assert_eq!(parent(&id), -649_203_487_394_570_309);
        assert_eq!(downstream(), -2_825_521_650_910_809_854);
        assert_eq!(hint("x"), -5_392_390_251_504_843_760);
    }

    #[test]
    fn the_spiffe_id_of_an_entry_lies_in_its_range() {
        let parent: SpiffeId = "spiffe://td/p".parse().unwrap();
        for number in 0..100 {
            let id: SpiffeId = format!("spiffe://td/{number}").parse().unwrap();
            let selectors = [Selector::new("a", "b").unwrap()].into_iter().collect();
            let draft = EntrySpec::new(id.clone(), parent.clone(), selectors);
            assert!(spiffe_id(&id).contains(&similar(&draft)));
        }
    }

    #[test]
    fn parts_do_not_run_together() {
        let of = |a: &str, b: &str| selector(&Selector::new(a, b).unwrap());
        assert_ne!(of("ab", "c"), of("a", "bc"));
    }
}
