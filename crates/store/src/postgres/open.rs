//! Opening a database.

use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicBool};

use tokio::sync::watch;

use super::{
    PostgresOptions,
    connect::Connector,
    listen,
    mark::Asked,
    pool::Pool,
    replica::Replica,
    schema,
    store::{Inner, PostgresStore},
};
use crate::OpenError;

impl PostgresStore {
    /// Opens the database and brings its schema up to date.
    ///
    /// # Errors
    /// [`OpenError`]; the database is then as it was.
    pub(crate) async fn open(mut options: PostgresOptions) -> Result<Self, OpenError> {
        options.database = options.database.for_writing();
        let database = options.database.to_string();
        let connector = |to: &_| {
            Connector::new(Clone::clone(to), options.passwords.clone())
                .map_err(|why| OpenError::Postgres { database: database.clone(), why })
        };
        let pool = Pool::new(connector(&options.database)?, options.pool);
        let replica = match &options.replica {
            Some(replica) => Some(Replica::new(Pool::new(connector(replica)?, options.pool))),
            None => None,
        };
        let listener = connector(options.listen.as_ref().unwrap_or(&options.database))?;
        let mark = schema::open(&pool, &options).await?;
        let store = Self {
            inner: Arc::new(Inner {
                pool,
                replica,
                known: watch::Sender::new(mark.position.clone()),
                mark: Mutex::new(mark),
                recent: Mutex::default(),
                asked: Asked::default(),
                listening: AtomicBool::new(false),
                listener: Mutex::new(None),
                closed: AtomicBool::new(false),
                options,
            }),
        };
        let listening = tokio::spawn(listen::run(Arc::downgrade(&store.inner), listener));
        *store.inner.listener.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(listening.abort_handle());
        Ok(store)
    }
}
