//! Lists by criteria: the rarest criterion drives, the inverted index narrows, the row decides.

use std::ops::RangeInclusive;

use signet_identity::{MatchBehavior, Selector};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use crate::{
    Page, PageRequest,
    sqlite::{
        fault::Fault,
        index::Index,
        sql,
        terms::{self, Term},
    },
};

/// How many rows are read at once.
const CHUNK: usize = 500;
/// Criteria are weighed by counting their rows up to here.
const WEIGH: i64 = 5_000;
/// How many criteria besides the driving one are joined; the row itself decides on the rest.
const JOINED: usize = 3;

/// A kind of row that can be listed.
pub(crate) trait Listed: Sized + Send {
    const INDEX: Index;
    const TABLE: &'static str;
    /// Its columns, the row ID first.
    const COLUMNS: &'static str;

    fn read(row: &SqliteRow) -> Result<Self, Fault>;

    /// The first `limit` rows of the table after the row `after`, in order, with their row IDs.
    fn read_on(
        conn: &mut SqliteConnection,
        after: i64,
        limit: i64,
    ) -> impl Future<Output = Result<Vec<(i64, Self)>, Fault>> + Send {
        read_rows(conn, after, limit)
    }
}

/// What the inverted index can answer of a filter.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Each of these holds.
    all: Vec<Term>,
    /// A term within this range holds.
    range: Option<RangeInclusive<Term>>,
    /// At least one of each of these holds.
    any: Vec<Vec<Term>>,
}

impl Plan {
    pub(crate) fn and(&mut self, term: Term) {
        self.all.push(term);
    }

    pub(crate) fn within(&mut self, range: RangeInclusive<Term>) {
        self.range = Some(range);
    }

    /// A comparison of sets, `terms` being those of the filter's members.
    pub(crate) fn compare(&mut self, behavior: MatchBehavior, terms: Vec<Term>) {
        match behavior {
            MatchBehavior::Any | MatchBehavior::Subset => self.any.push(terms),
            MatchBehavior::Exact | MatchBehavior::Superset => self.all.extend(terms),
        }
    }

    pub(crate) fn compare_selectors<'a>(
        &mut self,
        behavior: MatchBehavior,
        selectors: impl IntoIterator<Item = &'a Selector>,
    ) {
        self.compare(behavior, selectors.into_iter().map(terms::selector).collect());
    }
}

/// Which criterion the rows are read by.
enum Driver {
    /// All rows of the table.
    Table,
    /// The rows of `term` that also have all of `joined`.
    Term { term: Term, joined: Vec<Term> },
    /// The rows of a term in this range.
    Range(RangeInclusive<Term>),
    /// The rows of any of these.
    Any(Vec<Term>),
}

/// A page of what `plan` finds and `accepts` lets pass.
pub(crate) async fn list<T: Listed>(
    conn: &mut SqliteConnection,
    plan: Plan,
    page: PageRequest,
    accepts: impl Fn(&T) -> bool,
) -> Result<Page<T>, Fault> {
    let size = page.size.map_or(usize::MAX, |size| size as usize);
    let mut items = Vec::new();
    let mut last = 0;
    let mut more = false;
    walk(conn, plan, page.after.unwrap_or(0), size.saturating_add(1), |id, item: T| {
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
pub(crate) async fn count<T: Listed>(
    conn: &mut SqliteConnection,
    plan: Plan,
    accepts: impl Fn(&T) -> bool,
) -> Result<u64, Fault> {
    let mut count = 0;
    walk(conn, plan, 0, usize::MAX, |_, item: T| {
        count += u64::from(accepts(&item));
        true
    })
    .await?;
    Ok(count)
}

/// Shows `visit` the rows after `after` until it answers `false`; `hint` is how many it may want.
async fn walk<T: Listed>(
    conn: &mut SqliteConnection,
    plan: Plan,
    mut after: i64,
    hint: usize,
    mut visit: impl FnMut(i64, T) -> bool,
) -> Result<(), Fault> {
    let driver = choose(conn, T::INDEX, plan).await?;
    let chunk = hint.clamp(1, CHUNK);
    loop {
        let rows = read_chunk::<T>(conn, &driver, after, chunk).await?;
        let is_last = rows.len() < chunk;
        for (row, item) in rows {
            after = row;
            if !visit(row, item) {
                return Ok(());
            }
        }
        if is_last {
            return Ok(());
        }
    }
}

async fn choose(
    conn: &mut SqliteConnection,
    index: Index,
    mut plan: Plan,
) -> Result<Driver, Fault> {
    if let Some(range) = plan.range.take()
        && (plan.all.is_empty() || weigh(conn, index, &range).await? < WEIGH)
    {
        return Ok(Driver::Range(range));
    }
    plan.all.sort_unstable();
    plan.all.dedup();
    let mut weighed = Vec::with_capacity(plan.all.len());
    for term in plan.all {
        weighed.push((weigh(conn, index, &(term..=term)).await?, term));
    }
    weighed.sort_unstable();
    let mut best_any: Option<(i64, Vec<Term>)> = None;
    for group in plan.any {
        let mut weight = 0;
        for term in &group {
            weight += weigh(conn, index, &(*term..=*term)).await?;
        }
        if best_any.as_ref().is_none_or(|(best, _)| weight < *best) {
            best_any = Some((weight, group));
        }
    }
    Ok(match (weighed.split_first(), best_any) {
        (None, None) => Driver::Table,
        (Some(((weight, _), _)), Some((any, group))) if any < *weight => Driver::Any(group),
        (None, Some((_, group))) => Driver::Any(group),
        (Some(((_, term), others)), _) => Driver::Term {
            term: *term,
            joined: others.iter().take(JOINED).map(|(_, term)| *term).collect(),
        },
    })
}

async fn weigh(
    conn: &mut SqliteConnection,
    index: Index,
    range: &RangeInclusive<Term>,
) -> Result<i64, Fault> {
    let text = format!(
        "SELECT count(*) FROM (SELECT 1 FROM {} WHERE term BETWEEN ? AND ? LIMIT {WEIGH}) AS some",
        index.table()
    );
    let query = sql::query(text).bind(*range.start()).bind(*range.end());
    Ok(query.fetch_one(conn).await?.try_get(0)?)
}

async fn read_chunk<T: Listed>(
    conn: &mut SqliteConnection,
    driver: &Driver,
    after: i64,
    limit: usize,
) -> Result<Vec<(i64, T)>, Fault> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    match driver {
        Driver::Table => T::read_on(conn, after, limit).await,
        Driver::Term { term, joined } => {
            let terms = T::INDEX.table();
            let mut text = format!(
                "SELECT {} FROM {terms} AS found CROSS JOIN {} ON id = found.row \
                 WHERE found.term = ? AND found.row > ?",
                T::COLUMNS,
                T::TABLE,
            );
            for _ in joined {
                text.push_str(&format!(
                    " AND EXISTS (SELECT 1 FROM {terms} AS other \
                     WHERE other.term = ? AND other.row = found.row)"
                ));
            }
            text.push_str(" ORDER BY found.row LIMIT ?");
            let mut query = sql::query(text).bind(*term).bind(after);
            for term in joined {
                query = query.bind(*term);
            }
            read(&query.bind(limit).fetch_all(conn).await?)
        }
        Driver::Range(range) => {
            // A row may have two terms in the range by chance: `IN` counts it once.
            let text = format!(
                "SELECT {} FROM {} WHERE id IN (SELECT row FROM {} \
                 WHERE term BETWEEN ? AND ? AND row > ?) ORDER BY id LIMIT ?",
                T::COLUMNS,
                T::TABLE,
                T::INDEX.table()
            );
            let query = sql::query(text).bind(*range.start()).bind(*range.end()).bind(after);
            read(&query.bind(limit).fetch_all(conn).await?)
        }
        Driver::Any(terms) => {
            let mut ids = Vec::new();
            for term in terms {
                let text = format!(
                    "SELECT row FROM {} WHERE term = ? AND row > ? ORDER BY row LIMIT ?",
                    T::INDEX.table()
                );
                let query = sql::query(text).bind(*term).bind(after).bind(limit);
                for row in query.fetch_all(&mut *conn).await? {
                    ids.push(row.try_get::<i64, _>(0)?);
                }
                // What lies behind the first `limit` rows belongs to a later chunk.
                ids.sort_unstable();
                ids.dedup();
                ids.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            }
            by_ids::<T>(conn, &ids).await
        }
    }
}

fn read<T: Listed>(rows: &[SqliteRow]) -> Result<Vec<(i64, T)>, Fault> {
    rows.iter().map(|row| Ok((row.try_get(0)?, T::read(row)?))).collect()
}

/// [`Listed::read_on`], row by row.
pub(crate) async fn read_rows<T: Listed>(
    conn: &mut SqliteConnection,
    after: i64,
    limit: i64,
) -> Result<Vec<(i64, T)>, Fault> {
    let text = format!("SELECT {} FROM {} WHERE id > ? ORDER BY id LIMIT ?", T::COLUMNS, T::TABLE);
    read(&sql::query(text).bind(after).bind(limit).fetch_all(conn).await?)
}

/// The rows with these row IDs (sorted), in order, with the row IDs.
pub(crate) async fn by_ids<T: Listed>(
    conn: &mut SqliteConnection,
    ids: &[i64],
) -> Result<Vec<(i64, T)>, Fault> {
    let mut rows = Vec::with_capacity(ids.len());
    for run in sql::runs(ids, 1) {
        let text = format!(
            "SELECT {} FROM {} WHERE id IN ({}) ORDER BY id",
            T::COLUMNS,
            T::TABLE,
            sql::list(run.len())
        );
        let mut query = sql::query(text);
        for id in run {
            query = query.bind(*id);
        }
        rows.extend(read::<T>(&query.fetch_all(&mut *conn).await?)?);
    }
    Ok(rows)
}

/// The rows whose `column` is one of `keys`, in no particular order, with their row IDs.
pub(crate) async fn by_keys<T: Listed, K: AsRef<str>>(
    conn: &mut SqliteConnection,
    column: &'static str,
    keys: &[K],
) -> Result<Vec<(i64, T)>, Fault> {
    let mut found = Vec::with_capacity(keys.len());
    for run in sql::runs(keys, 1) {
        let text = format!(
            "SELECT {} FROM {} WHERE {column} IN ({})",
            T::COLUMNS,
            T::TABLE,
            sql::list(run.len())
        );
        let mut query = sql::query(text);
        for key in run {
            query = query.bind(key.as_ref().to_owned());
        }
        found.extend(read::<T>(&query.fetch_all(&mut *conn).await?)?);
    }
    Ok(found)
}
