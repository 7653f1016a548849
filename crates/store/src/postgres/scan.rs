//! Reading every entry, page by page, from the replica if there is one.

use std::{sync::atomic::Ordering, time::Duration};

use signet_identity::Entry;
use tokio::time::Instant;

use super::{
    fault::Fault,
    listing::{self, Plan},
    mark,
    pool::Pool,
    sql::Query,
    store::PostgresStore,
};
use crate::{FeedPosition, Page, PageRequest};

/// How long a replica may take for a page before the primary is asked.
const PATIENCE: Duration = Duration::from_secs(10);

impl PostgresStore {
    /// A page of all entries; `None` when there is no replica, or it does not show what was
    /// committed at `since`. What a replica holds is never taken for newer than it says.
    pub(super) async fn scan_replica(
        &self,
        since: &FeedPosition,
        page: PageRequest,
    ) -> Option<Page<Entry>> {
        let replica = self.inner.replica.as_ref()?;
        match self.scan(&replica.pool, since, page).await {
            Ok(Ok(page)) => {
                replica.is_told.store(false, Ordering::Relaxed);
                return Some(page);
            }
            Ok(Err(found)) if found.epoch != since.epoch => {
                replica.is_of_no_use(&"it holds another history than the primary");
            }
            Ok(Err(found)) => {
                let behind = since.revision.saturating_sub(found.revision);
                replica.is_of_no_use(&format_args!("it is {behind} changes behind"));
            }
            Err(fault) => replica.is_of_no_use(&fault.while_doing("reading from the replica")),
        }
        None
    }

    /// One page, or where the replica stands when that is not far enough.
    async fn scan(
        &self,
        replica: &Pool,
        since: &FeedPosition,
        page: PageRequest,
    ) -> Result<Result<Page<Entry>, FeedPosition>, Fault> {
        let deadline = Instant::now() + PATIENCE;
        let mut query = Query::new(self.connection(replica, deadline).await?, deadline);
        // One snapshot, of one server even behind a pooler.
        query.set_in_transaction(true);
        query.batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let found = mark::read_mark(&query, 0).await?.0.position;
        let is_enough = found.epoch == since.epoch && found.revision >= since.revision;
        let read = if is_enough {
            Ok(listing::list(&query, Plan::default(), page, |_: &Entry| true).await?)
        } else {
            Err(found)
        };
        query.batch("COMMIT").await?;
        query.set_in_transaction(false);
        Ok(read)
    }
}
