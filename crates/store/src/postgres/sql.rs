//! Asking: statements with typed parameters, one round trip each, and no statement that the server
//! or a pooler would have to remember.

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use super::{fault::Fault, pool::Conn};

/// A value with its type.
pub(crate) type Param<'p> = (&'p (dyn ToSql + Sync), Type);

/// The shorthand for [`Param`]s.
macro_rules! params {
    ($($value:expr => $type:ident),* $(,)?) => {
        &[$((&$value as &(dyn ::tokio_postgres::types::ToSql + Sync),
            ::tokio_postgres::types::Type::$type)),*]
    };
}
pub(crate) use params;

/// A connection with a deadline for what is asked through it.
pub(crate) struct Query {
    conn: Option<Conn>,
    deadline: Instant,
}

impl Query {
    pub(crate) fn new(conn: Conn, deadline: Instant) -> Self {
        Self { conn: Some(conn), deadline }
    }

    fn conn(&self) -> Result<&Conn, Fault> {
        self.conn.as_ref().ok_or(Fault::Closed)
    }

    /// Every row.
    pub(crate) fn all<'q>(
        &'q self,
        text: &'q str,
        params: &'q [Param<'q>],
    ) -> BoxFuture<'q, Result<Vec<Row>, Fault>> {
        Box::pin(async move {
            let asked = self.conn()?.query_typed(text, params);
            match tokio::time::timeout_at(self.deadline, asked).await {
                Ok(rows) => Ok(rows?),
                Err(_) => Err(Fault::Late),
            }
        })
    }

    /// The first row.
    pub(crate) async fn first<'q>(
        &'q self,
        text: &'q str,
        params: &'q [Param<'q>],
    ) -> Result<Option<Row>, Fault> {
        Ok(self.all(text, params).await?.into_iter().next())
    }

    /// The one row that there must be.
    pub(crate) async fn one<'q>(
        &'q self,
        text: &'q str,
        params: &'q [Param<'q>],
    ) -> Result<Row, Fault> {
        let missing = || Fault::corrupt("answer", "no row where one was expected");
        self.first(text, params).await?.ok_or_else(missing)
    }

    /// How many rows were changed.
    pub(crate) fn execute<'q>(
        &'q self,
        text: &'q str,
        params: &'q [Param<'q>],
    ) -> BoxFuture<'q, Result<u64, Fault>> {
        Box::pin(async move {
            let asked = self.conn()?.execute_typed(text, params);
            match tokio::time::timeout_at(self.deadline, asked).await {
                Ok(changed) => Ok(changed?),
                Err(_) => Err(Fault::Late),
            }
        })
    }

    /// Statements of ours without parameters, at once.
    pub(crate) fn batch<'q>(&'q self, text: &'q str) -> BoxFuture<'q, Result<(), Fault>> {
        Box::pin(async move {
            match tokio::time::timeout_at(self.deadline, self.conn()?.batch_execute(text)).await {
                Ok(done) => Ok(done?),
                Err(_) => Err(Fault::Late),
            }
        })
    }

    /// Says whether a transaction is open, so that the connection is not given back with one.
    pub(crate) fn set_in_transaction(&mut self, open: bool) {
        if let Some(conn) = &mut self.conn {
            conn.in_transaction = open;
        }
    }

    /// The connection itself.
    pub(crate) fn client(&self) -> Result<&tokio_postgres::Client, Fault> {
        Ok(self.conn()?)
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Ends the connection.
    pub(crate) fn discard(&mut self) {
        if let Some(conn) = self.conn.take() {
            conn.discard();
        }
    }
}

impl Drop for Query {
    /// A connection that still owes an answer is of no use to the next one.
    fn drop(&mut self) {
        if Instant::now() >= self.deadline {
            self.discard();
        }
    }
}
