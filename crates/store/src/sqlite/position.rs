//! Where the feed stands.

use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};

use super::fault::Fault;
use crate::FeedPosition;

/// Where the feed stands.
pub(crate) async fn position(conn: &mut SqliteConnection) -> Result<FeedPosition, Fault> {
    let row = sqlx::query("SELECT epoch, revision FROM feed WHERE id = 1").fetch_one(conn).await?;
    read_position(&row)
}

/// The place in a row that begins with `epoch, revision`.
pub(super) fn read_position(row: &SqliteRow) -> Result<FeedPosition, Fault> {
    Ok(FeedPosition {
        epoch: row.try_get::<&str, _>(0)?.into(),
        revision: row.try_get::<i64, _>(1)?.cast_unsigned(),
    })
}

/// Gives the history another name, which nobody has seen.
pub(crate) async fn renew_epoch(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE feed SET epoch = lower(hex(randomblob(16))) WHERE id = 1")
        .execute(conn)
        .await?;
    Ok(())
}
