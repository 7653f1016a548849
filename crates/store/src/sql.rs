//! Small helpers for statements with many rows.

use sqlx::{AssertSqlSafe, Sqlite, query::Query, sqlite::SqliteArguments};

/// Row counts of multi-row statements. Few different ones, so that the texts are few and stay
/// in the statement cache.
const SIZES: [usize; 4] = [64, 16, 4, 1];

/// Splits `items` into runs of the [`SIZES`].
pub(crate) fn runs<T>(mut items: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = SIZES.into_iter().find(|size| *size <= items.len())?;
        let (run, rest) = items.split_at(size);
        items = rest;
        Some(run)
    })
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
    fn runs_cover_everything_once_with_few_sizes() {
        for count in [0, 1, 3, 4, 50, 63, 64, 65, 500] {
            let items: Vec<usize> = (0..count).collect();
            let covered: Vec<usize> = runs(&items).flatten().copied().collect();
            assert_eq!(covered, items);
            assert!(runs(&items).all(|run| SIZES.contains(&run.len())));
        }
    }

    #[test]
    fn values_and_lists_have_the_right_shape() {
        assert_eq!(values(2, 3), "(?,?,?),(?,?,?)");
        assert_eq!(list(0), "");
    }
}
