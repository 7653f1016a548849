-- The newest revision of the change feed is a counter of its own and no longer what its newest row
-- says; and the history that revisions belong to has a name, which a restore changes.

CREATE TABLE feed (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    epoch TEXT NOT NULL,                -- random
    revision INTEGER NOT NULL           -- of the newest change; written last in each transaction
) STRICT;

INSERT INTO feed (id, epoch, revision)
    SELECT 1, lower(hex(randomblob(16))), coalesce(max(revision), 0) FROM changes;
