//! Where the change feed stands, what that is recognised by, and how it is moved on.

use std::sync::atomic::AtomicU64;

use tokio_postgres::Row;

use super::{
    fault::Fault,
    sql::{Query, params},
};
use crate::{ChangeKind, FeedPosition};

/// The name of the channel.
pub(super) const CHANNEL: &str = "signet_feed";

/// Advances the counter by $1 and writes the changes before it. A store that was closed refuses it:
/// its revision may not be NULL.
pub(super) const ADVANCE: &str = "\
    WITH f AS (UPDATE signet_feed \
               SET revision = CASE WHEN moved_to = '' THEN revision + $1 END WHERE id = 1 \
               RETURNING epoch, revision), \
    w AS (INSERT INTO signet_changes (revision, kind, key, at, tx) \
          SELECT f.revision - $1 + c.n, c.kind, c.key, $2, $3 \
          FROM f CROSS JOIN unnest($4::bigint[], $5::text[]) WITH ORDINALITY AS c(kind, key, n)) \
    SELECT epoch, revision FROM f";

/// The same where there is no change for the feed: refused by a store that was closed, and in line
/// with whoever is about to close it.
pub(super) const STAY: &str = "\
    UPDATE signet_feed SET revision = CASE WHEN moved_to = '' THEN revision END WHERE id = 1";

/// Writes more changes after revision $1.
pub(super) const APPEND: &str = "\
    INSERT INTO signet_changes (revision, kind, key, at, tx) \
    SELECT $1 + c.n, c.kind, c.key, $2, $3 \
    FROM unnest($4::bigint[], $5::text[]) WITH ORDINALITY AS c(kind, key, n)";

/// A place in the feed, with what it is recognised by.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub(super) position: FeedPosition,
    /// The random key of the transaction that made the change: after a failover that lost some,
    /// another change may have got the same revision.
    pub(super) tag: Option<[u8; 16]>,
}

/// The question how far the database has come, which many ask at the same time: whoever began to
/// wait before it was put shares the answer.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// How often it was put.
    pub(super) count: AtomicU64,
    /// The last answer, and to which question.
    pub(super) last: tokio::sync::Mutex<Option<(u64, Result<FeedPosition, String>)>>,
}

/// How a kind is stored.
pub(super) fn number(kind: ChangeKind) -> i64 {
    crate::recent::number(kind)
}

/// The place in a row that begins with `epoch, revision`.
pub(super) fn read_position(row: &Row) -> Result<FeedPosition, Fault> {
    Ok(FeedPosition {
        epoch: row.try_get::<_, &str>(0)?.into(),
        revision: row.try_get::<_, i64>(1)?.cast_unsigned(),
    })
}

/// Where the feed stands, and what stands at revision `seen`.
pub(super) async fn read_mark(query: &Query, seen: u64) -> Result<(Mark, Option<[u8; 16]>), Fault> {
    let row = query
        .one(
            "SELECT f.epoch, f.revision, n.tx, o.tx FROM signet_feed AS f \
             LEFT JOIN signet_changes AS n ON n.revision = f.revision \
             LEFT JOIN signet_changes AS o ON o.revision = $1 WHERE f.id = 1",
            params![seen.cast_signed() => INT8],
        )
        .await?;
    let tag = |column| -> Result<Option<[u8; 16]>, Fault> {
        let bytes: Option<&[u8]> = row.try_get(column)?;
        Ok(bytes.and_then(|bytes| bytes.try_into().ok()))
    };
    Ok((Mark { position: read_position(&row)?, tag: tag(2)? }, tag(3)?))
}

/// A name for a history, which nobody has seen.
pub(super) fn new_epoch() -> Result<String, Fault> {
    let mut bytes = [0; 16];
    signet_pki::random::fill(&mut bytes)
        .map_err(|error| Fault::corrupt("random generator", error))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
