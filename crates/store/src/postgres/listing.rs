//! Lists by criteria: the database narrows by hashes, the row itself decides.

use std::ops::RangeInclusive;

use signet_identity::{MatchBehavior, Selector};
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use super::{
    fault::Fault,
    sql::{Param, Query},
};
use crate::{
    Page, PageRequest,
    terms::{self, Term},
};

/// How many rows are read at once.
const CHUNK: usize = 1_000;

/// A kind of row that can be listed.
pub(super) trait Listed: Sized + Send {
    const TABLE: &'static str;
    /// Its columns, the row ID first.
    const COLUMNS: &'static str;

    fn read(row: &Row) -> Result<Self, Fault>;
}

/// What the indexes can answer of a filter.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// `similar_term` lies in this range.
    similar: Option<RangeInclusive<Term>>,
    /// `parent_term` is this.
    parent: Option<Term>,
    /// Each of these holds.
    all: Vec<Term>,
    /// At least one of each of these holds.
    any: Vec<Vec<Term>>,
}

impl Plan {
    pub(super) fn similar(&mut self, range: RangeInclusive<Term>) {
        self.similar = Some(range);
    }

    pub(super) fn parent(&mut self, term: Term) {
        self.parent = Some(term);
    }

    pub(super) fn and(&mut self, term: Term) {
        self.all.push(term);
    }

    /// A comparison of sets, `terms` being those of the filter's members.
    pub(super) fn compare(&mut self, behavior: MatchBehavior, terms: Vec<Term>) {
        match behavior {
            MatchBehavior::Any | MatchBehavior::Subset => self.any.push(terms),
            MatchBehavior::Exact | MatchBehavior::Superset => self.all.extend(terms),
        }
    }

    pub(super) fn compare_selectors<'a>(
        &mut self,
        behavior: MatchBehavior,
        selectors: impl IntoIterator<Item = &'a Selector>,
    ) {
        self.compare(behavior, selectors.into_iter().map(terms::selector).collect());
    }

    /// The conditions, after one on the row ID ($1); the parameters follow it and the limit ($2).
    fn conditions(&self) -> (String, Vec<Value<'_>>) {
        let mut text = String::new();
        let mut values: Vec<Value<'_>> = Vec::new();
        let mut bind = |value| {
            values.push(value);
            values.len() + 2
        };
        if let Some(range) = &self.similar {
            let (first, last) =
                (bind(Value::Term(*range.start())), bind(Value::Term(*range.end())));
            text.push_str(&format!(" AND similar_term BETWEEN ${first} AND ${last}"));
        }
        if let Some(parent) = self.parent {
            text.push_str(&format!(" AND parent_term = ${}", bind(Value::Term(parent))));
        }
        if !self.all.is_empty() {
            text.push_str(&format!(" AND terms @> ${}", bind(Value::Terms(&self.all))));
        }
        for any in &self.any {
            text.push_str(&format!(" AND terms && ${}", bind(Value::Terms(any))));
        }
        (text, values)
    }
}

enum Value<'p> {
    Term(Term),
    Terms(&'p Vec<Term>),
}

impl Value<'_> {
    fn param(&self) -> Param<'_> {
        match self {
            Self::Term(term) => (term as &(dyn ToSql + Sync), Type::INT8),
            Self::Terms(terms) => (*terms as &(dyn ToSql + Sync), Type::INT8_ARRAY),
        }
    }
}

/// A page of what `plan` finds and `accepts` lets pass.
pub(super) async fn list<T: Listed>(
    query: &Query,
    plan: Plan,
    page: PageRequest,
    accepts: impl Fn(&T) -> bool,
) -> Result<Page<T>, Fault> {
    let size = page.size.map_or(usize::MAX, |size| size as usize);
    let mut items = Vec::new();
    let mut last = 0;
    let mut more = false;
    walk(query, plan, page.after.unwrap_or(0), size.saturating_add(1), |id, item: T| {
        if !accepts(&item) {
            return true;
        }
        if items.len() == size {
            more = true;
            return false;
        }
        last = id;
        items.push(item);
        true
    })
    .await?;
    Ok(Page { items, next: more.then_some(last) })
}

/// How many rows `plan` finds and `accepts` lets pass.
pub(super) async fn count<T: Listed>(
    query: &Query,
    plan: Plan,
    accepts: impl Fn(&T) -> bool,
) -> Result<u64, Fault> {
    let mut count = 0;
    walk(query, plan, 0, usize::MAX, |_, item: T| {
        count += u64::from(accepts(&item));
        true
    })
    .await?;
    Ok(count)
}

/// How many rows a table has.
pub(super) async fn count_all<T: Listed>(query: &Query) -> Result<u64, Fault> {
    let row = query.one(&format!("SELECT count(*) FROM {}", T::TABLE), &[]).await?;
    Ok(row.try_get::<_, i64>(0)?.cast_unsigned())
}

/// Shows `visit` the rows after `after` until it answers `false`; `hint` is how many it may want.
async fn walk<T: Listed>(
    query: &Query,
    plan: Plan,
    mut after: i64,
    hint: usize,
    mut visit: impl FnMut(i64, T) -> bool,
) -> Result<(), Fault> {
    let chunk = hint.clamp(1, CHUNK + 1);
    let limit = i64::try_from(chunk).unwrap_or(i64::MAX);
    let (conditions, values) = plan.conditions();
    let text = format!(
        "SELECT {} FROM {} WHERE id > $1{conditions} ORDER BY id LIMIT $2",
        T::COLUMNS,
        T::TABLE
    );
    loop {
        let rows = {
            let mut params: Vec<Param<'_>> = vec![(&after, Type::INT8), (&limit, Type::INT8)];
            params.extend(values.iter().map(Value::param));
            query.all(&text, &params).await?
        };
        for row in &rows {
            after = row.try_get(0)?;
            if !visit(after, T::read(row)?) {
                return Ok(());
            }
        }
        if rows.len() < chunk {
            return Ok(());
        }
    }
}

/// The rows that a condition with its parameters selects, with their row IDs.
pub(super) async fn select<T: Listed>(
    query: &Query,
    condition: &str,
    params: &[Param<'_>],
) -> Result<Vec<(i64, T)>, Fault> {
    let text = format!("SELECT {} FROM {} WHERE {condition}", T::COLUMNS, T::TABLE);
    let rows = query.all(&text, params).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, T::read(row)?))).collect()
}
