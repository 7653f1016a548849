//! The inverted index: hashes of criteria to row IDs.

use std::ops::RangeInclusive;

use signet_identity::{AttestedNode, EntryDraft, Selector, SpiffeId, TrustDomain};
use sqlx::{Row, SqliteConnection};

use crate::sqlite::{fault::Fault, sql, tx::Tx};

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

/// Which of the inverted indexes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Index {
    Entries,
    Nodes,
}

impl Index {
    pub(crate) fn table(self) -> &'static str {
        match self {
            Self::Entries => "entry_terms",
            Self::Nodes => "node_terms",
        }
    }
}

/// The lower half of a term.
const LOWER: Term = 0xffff_ffff;

/// Same SPIFFE ID, parent and selectors. The upper half is a hash of the SPIFFE ID alone, so that
/// one pair answers both questions: see [`spiffe_id`]. (Each more pair at a random place of the
/// index costs a page written per new entry.)
pub(crate) fn similar(draft: &EntryDraft) -> Term {
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
pub(crate) fn of_entry(draft: &EntryDraft) -> Vec<Term> {
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

/// Adds pairs that are not there yet.
pub(crate) async fn insert(tx: &mut Tx, index: Index, pairs: &[(Term, i64)]) -> Result<(), Fault> {
    let into = format!("INSERT INTO {} (term, row) VALUES", index.table());
    write(tx, pairs, |values| format!("{into} {values}")).await
}

/// Removes pairs.
pub(crate) async fn delete(tx: &mut Tx, index: Index, pairs: &[(Term, i64)]) -> Result<(), Fault> {
    let from = format!("DELETE FROM {} WHERE (term, row) IN (VALUES", index.table());
    write(tx, pairs, |values| format!("{from} {values})")).await
}

async fn write(
    tx: &mut Tx,
    pairs: &[(Term, i64)],
    text: impl Fn(String) -> String,
) -> Result<(), Fault> {
    for run in sql::runs(pairs, 2) {
        let batch = tx.later(&text(sql::values(run.len(), 2))).await?;
        for (term, row) in run {
            batch.bind(*term).bind(*row);
        }
    }
    Ok(())
}

/// Turns the terms of a row from `old` into `new`; both sorted.
pub(crate) async fn replace(
    tx: &mut Tx,
    index: Index,
    row: i64,
    old: &[Term],
    new: &[Term],
) -> Result<(), Fault> {
    let only_in = |a: &[Term], b: &[Term]| -> Vec<(Term, i64)> {
        a.iter().filter(|term| b.binary_search(term).is_err()).map(|term| (*term, row)).collect()
    };
    delete(tx, index, &only_in(old, new)).await?;
    insert(tx, index, &only_in(new, old)).await
}

/// The rows that have any of `terms`, sorted, each once.
pub(crate) async fn rows_with(
    conn: &mut SqliteConnection,
    index: Index,
    terms: &[Term],
) -> Result<Vec<i64>, Fault> {
    let mut rows = Vec::new();
    for run in sql::runs(terms, 1) {
        let text =
            format!("SELECT row FROM {} WHERE term IN ({})", index.table(), sql::list(run.len()));
        let mut query = sql::query(text);
        for term in run {
            query = query.bind(*term);
        }
        for row in query.fetch_all(&mut *conn).await? {
            rows.push(row.try_get::<i64, _>(0)?);
        }
    }
    rows.sort_unstable();
    rows.dedup();
    Ok(rows)
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
            let draft = EntryDraft::new(id.clone(), parent.clone(), selectors);
            assert!(spiffe_id(&id).contains(&similar(&draft)));
        }
    }

    #[test]
    fn parts_do_not_run_together() {
        let of = |a: &str, b: &str| selector(&Selector::new(a, b).unwrap());
        assert_ne!(of("ab", "c"), of("a", "bc"));
    }
}
