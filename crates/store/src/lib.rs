//! The registration store: SQLite, migrations, change feed.
