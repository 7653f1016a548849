//! Small helpers for statements with many rows.

use futures_util::TryStreamExt as _;
use sqlx::{
    Arguments, AssertSqlSafe, Either, Encode, Executor as _, Sqlite, SqliteConnection, Type,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};

/// The most rows that one statement takes.
const MOST_ROWS: usize = 256;
/// The most parameters that one statement takes (SQLite's own limit is 32,766).
const MOST_PARAMETERS: usize = 1_024;

/// The longest text that is sent with others, bytes. Longer statements are of many rows, and are
/// found in the connection's cache only if they stand alone.
const LONGEST_TOGETHER: usize = 1_024;

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

/// What each statement of a [`Batch`] answered.
pub(crate) type Answers = Vec<Vec<SqliteRow>>;

/// Statements that are sent together: each sending costs two switches of threads.
#[derive(Default)]
pub(crate) struct Batch {
    text: String,
    arguments: SqliteArguments,
    /// The first value that could not be bound.
    refused: Option<sqlx::Error>,
}

impl Batch {
    /// Adds a statement; its values are bound next. Texts are our own fragments only.
    pub(crate) fn statement(&mut self, text: &str) -> &mut Self {
        if !self.text.is_empty() {
            self.text.push_str("; ");
        }
        self.text.push_str(text);
        self
    }

    /// Binds the next value of the statement that was added last.
    pub(crate) fn bind<'v>(&mut self, value: impl Encode<'v, Sqlite> + Type<Sqlite>) -> &mut Self {
        if let Err(error) = self.arguments.add(value) {
            self.refused.get_or_insert(sqlx::Error::Encode(error));
        }
        self
    }

    /// Whether nothing was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Whether a statement of this text should be sent with those that are there.
    pub(crate) fn suits(&self, text: &str) -> bool {
        self.is_empty() || self.text.len() + text.len() <= LONGEST_TOGETHER
    }

    /// Puts statements without values before the others.
    pub(crate) fn after(&mut self, first: &str) {
        let separator = if self.is_empty() { "" } else { "; " };
        self.text = format!("{first}{separator}{}", self.text);
    }

    /// Sends what was added. Those before one that fails are done, those after it are not.
    pub(crate) async fn send(
        &mut self,
        conn: &mut SqliteConnection,
    ) -> Result<Answers, sqlx::Error> {
        let Self { text, arguments, refused } = std::mem::take(self);
        if let Some(error) = refused {
            return Err(error);
        }
        let mut answers = Vec::new();
        let mut rows = Vec::new();
        let mut results = conn.fetch_many(sqlx::query_with(AssertSqlSafe(text), arguments));
        while let Some(result) = results.try_next().await? {
            match result {
                Either::Right(row) => rows.push(row),
                Either::Left(_done) => answers.push(std::mem::take(&mut rows)),
            }
        }
        Ok(answers)
    }
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
