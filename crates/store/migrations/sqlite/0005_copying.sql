-- Copying a store into another one while servers use it.

-- One row while this store is being filled from another: no server may use it then.
CREATE TABLE copying (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    source TEXT NOT NULL,               -- where it is filled from, for people
    run TEXT NOT NULL,                  -- random: which process fills it
    reached TEXT NOT NULL               -- the last row that the first pass has written
) STRICT;

-- Where this store was copied to, for people; then it takes no more changes.
ALTER TABLE feed ADD COLUMN moved_to TEXT NOT NULL DEFAULT '';
