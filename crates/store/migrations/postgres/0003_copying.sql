-- Copying a store into another one while servers use it.

-- One row while this store is being filled from another: no server may use it then.
CREATE TABLE signet_copying (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    source TEXT NOT NULL,               -- where it is filled from, for people
    run TEXT NOT NULL,                  -- random: which process fills it
    reached TEXT NOT NULL               -- the last row that the first pass has written
);

-- Where this store was copied to, for people; then it takes no more changes: what ends a transaction
-- makes the revision NULL, which is refused.
ALTER TABLE signet_feed ADD COLUMN moved_to TEXT NOT NULL DEFAULT '';
