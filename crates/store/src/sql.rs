//! Small helpers for statements with many rows.

use sqlx::{AssertSqlSafe, Sqlite, query::Query, sqlite::SqliteArguments};

/// The most rows that one statement takes.
const MOST_ROWS: usize = 256;
/// The most parameters that one statement takes (SQLite's own limit is 32,766).
const MOST_PARAMETERS: usize = 1_024;

/// Splits `items` into runs for one statement each, of `columns` parameters an item. All but the
/// last are of one size, and a caller's batches mostly are too: the statements are found in the
/// connection's cache.
pub(crate) fn runs<T>(items: &[T], columns: usize) -> std::slice::Chunks<'_, T> {
    items.chunks((MOST_PARAMETERS / columns.max(1)).clamp(1, MOST_ROWS))
}

/// `(?,?),(?,?)`: `rows` rows of `columns` parameters.
pub(crate) fn values(rows: usize, columns: usize) -> String {
    let row = format!("({})", list(columns));
    vec![row.as_str(); rows].join(",")
}

/// `?,?,?`.
pub(crate) fn list(count: usize) -> String {
    vec!["?"; count].join(",")
}

/// A statement made of our own fragments: values come only through parameters.
pub(crate) fn query<'q>(text: String) -> Query<'q, Sqlite, SqliteArguments> {
    sqlx::query(AssertSqlSafe(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_everything_once_within_the_limits() {
        let items: Vec<usize> = (0..3_000).collect();
        for columns in [1, 2, 14, 5_000] {
            let covered: Vec<usize> = runs(&items, columns).flatten().copied().collect();
            assert_eq!(covered, items);
        }
        assert!(runs(&items, 14).all(|run| run.len() * 14 <= MOST_PARAMETERS));
    }

    #[test]
    fn values_and_lists_have_the_right_shape() {
        assert_eq!(values(2, 3), "(?,?,?),(?,?,?)");
        assert_eq!(list(0), "");
    }
}
