-- The servers of the trust domain, and the jobs that one of them does for all.

CREATE TABLE servers (
    id TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    version TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    issued_until INTEGER NOT NULL,      -- when the last SVID that it has signed expires
    retired_at INTEGER NOT NULL         -- 0 while it is not
) STRICT, WITHOUT ROWID;

CREATE TABLE leases (
    job TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    ends_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
