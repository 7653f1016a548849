//! `database_type = "postgres"` and `aws_postgres`.

use std::sync::Arc;

use signet_config::Block;
use signet_store::postgres::{ConnectionString, PoolSize, PostgresOptions, ThisProcess};

use super::{DataStore, iam::Iam};
use crate::plugins;

/// A PostgreSQL database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresStore {
    /// `connection_string`.
    pub database: ConnectionString,
    /// `ro_connection_string`: a replica that everything is read from at the start.
    pub replica: Option<ConnectionString>,
    /// `listen_connection_string` (our own key): where to listen for changes when
    /// `connection_string` names a pooler.
    pub listen: Option<ConnectionString>,
    /// `max_open_conns`, `max_idle_conns`, `conn_max_lifetime`.
    pub pool: PoolSize,
    /// `disable_migration`, default false: refuse to start rather than change the schema.
    pub disable_migration: bool,
    /// The block `aws_postgres`: passwords are tokens of AWS IAM.
    pub iam: Option<Arc<Iam>>,
}

impl PostgresStore {
    /// How to open it.
    pub fn options(&self) -> PostgresOptions {
        let mut options = PostgresOptions::new(self.database.clone());
        options.replica = self.replica.clone();
        options.listen = self.listen.clone();
        options.pool = self.pool;
        options.disable_migration = self.disable_migration;
        options.passwords = self.iam.clone().map(|iam| iam as _);
        options
    }
}

/// With the passwords that the connection strings, the environment or files give.
pub(super) fn plain(block: &Block<'_>) -> Option<DataStore> {
    read(block, None)
}

/// With tokens of AWS IAM.
pub(super) fn aws(block: &Block<'_>, aws: &Block<'_>) -> Option<DataStore> {
    let region = aws.required_text("region");
    let access = plugins::aws::access(aws);
    let iam = region.map(|region| Arc::new(Iam::new(region, access)));
    read(block, Some(iam?))
}

fn read(block: &Block<'_>, iam: Option<Arc<Iam>>) -> Option<DataStore> {
    for key in ["root_ca_path", "client_cert_path", "client_key_path"] {
        block.refuse(
            key,
            "it belongs to MySQL; name the files in connection_string as sslrootcert, sslcert and \
             sslkey",
        );
    }
    if block.text("connection_string").is_none() {
        block.missing("connection_string");
    }
    let database = connection(block, "connection_string", iam.is_some());
    let replica = connection(block, "ro_connection_string", iam.is_some());
    let listen = connection(block, "listen_connection_string", iam.is_some());
    let default = PoolSize::default();
    // As in Go's database/sql: no connection idles with a negative number, 0 is the default there.
    let most = |key, default: u32| match block.integer::<i64>(key) {
        None => default,
        Some(most) => u32::try_from(most).unwrap_or(0),
    };
    let max_open = match most("max_open_conns", default.max_open) {
        0 => u32::MAX,
        most => most,
    };
    let pool = PoolSize {
        max_open,
        max_idle: most("max_idle_conns", default.max_idle).min(max_open),
        max_lifetime: block.duration("conn_max_lifetime").filter(|most| !most.is_zero()),
    };
    Some(DataStore::Postgres(Box::new(PostgresStore {
        disable_migration: block.flag("disable_migration"),
        database: database?,
        replica,
        listen,
        pool,
        iam,
    })))
}

fn connection(block: &Block<'_>, key: &'static str, with_tokens: bool) -> Option<ConnectionString> {
    let text = block.text(key)?;
    let read = match ConnectionString::parse(&text, &ThisProcess) {
        Ok(read) => read.named("signet-server"),
        Err(error) => {
            block.error(key, error);
            return None;
        }
    };
    if !with_tokens {
        return Some(read);
    }
    // As SPIRE: the token takes its place, and somebody relies on the other one.
    if text.contains("password")
        || text.split_once('@').is_some_and(|(user, _)| user.matches(':').count() > 1)
    {
        block.error(key, "it must hold no password: with aws_postgres tokens are used");
        return None;
    }
    Some(read.without_passwords())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_beside_tokens_is_told_from_a_name() {
        let read = |text: &str| ConnectionString::parse(text, &ThisProcess).unwrap();
        assert!(read("host=h user=u password=p").has_password());
        assert!(!read("host=h user=u password=p").without_passwords().has_password());
    }
}
