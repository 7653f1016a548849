-- What is looked up by several criteria (entries, nodes) keeps its lists as JSON in its row, and
-- has one inverted index: pairs of a 64-bit hash of a criterion ("parent is X", "has selector
-- Y") and a row ID. Hashes may collide: readers check the row itself.

CREATE TABLE signet_schema (version INTEGER NOT NULL) STRICT;

CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    entry_id TEXT NOT NULL UNIQUE,
    spiffe_id TEXT NOT NULL,
    parent_id TEXT NOT NULL,
    selectors TEXT NOT NULL,            -- JSON array of "type:value", sorted
    federates_with TEXT,                -- JSON array of trust domain names, or NULL
    dns_names TEXT,                     -- JSON array, or NULL
    hint TEXT,
    x509_svid_ttl INTEGER NOT NULL,
    jwt_svid_ttl INTEGER NOT NULL,
    flags INTEGER NOT NULL,             -- 1 admin, 2 downstream, 4 store SVID, 8 no prefetch, 16 jti
    expires_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    revision INTEGER NOT NULL
) STRICT;
CREATE INDEX entries_expires_at ON entries (expires_at) WHERE expires_at > 0;

CREATE TABLE entry_terms (
    term INTEGER NOT NULL,
    row INTEGER NOT NULL,
    PRIMARY KEY (term, row)
) STRICT, WITHOUT ROWID;

CREATE TABLE nodes (
    id INTEGER PRIMARY KEY,
    spiffe_id TEXT NOT NULL UNIQUE,
    attestation_type TEXT NOT NULL,
    serial_number TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    new_serial_number TEXT NOT NULL,
    new_expires_at INTEGER NOT NULL,
    selectors TEXT NOT NULL,            -- as in entries
    can_reattest INTEGER NOT NULL,
    agent_version TEXT NOT NULL
) STRICT;
CREATE INDEX nodes_expires_at ON nodes (expires_at);

CREATE TABLE node_terms (
    term INTEGER NOT NULL,
    row INTEGER NOT NULL,
    PRIMARY KEY (term, row)
) STRICT, WITHOUT ROWID;

CREATE TABLE join_tokens (
    token TEXT PRIMARY KEY,
    expires_at INTEGER NOT NULL,
    spent_by BLOB                       -- SHA-256 of the key that spent it
) STRICT, WITHOUT ROWID;
CREATE INDEX join_tokens_expires_at ON join_tokens (expires_at);

CREATE TABLE bundles (
    id INTEGER PRIMARY KEY,
    trust_domain TEXT NOT NULL UNIQUE,
    refresh_hint INTEGER NOT NULL,
    sequence_number INTEGER NOT NULL
) STRICT;

CREATE TABLE authorities (
    bundle INTEGER NOT NULL REFERENCES bundles (id) ON DELETE CASCADE,
    kind INTEGER NOT NULL,              -- 1 X.509, 2 JWT, 3 WIT
    position INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    public BLOB NOT NULL,               -- certificate or SubjectPublicKeyInfo, DER
    expires_at INTEGER NOT NULL,
    tainted INTEGER NOT NULL,
    PRIMARY KEY (bundle, kind, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE federations (
    id INTEGER PRIMARY KEY,
    trust_domain TEXT NOT NULL UNIQUE,
    bundle_endpoint_url TEXT NOT NULL,
    endpoint_spiffe_id TEXT             -- set: https_spiffe; NULL: https_web
) STRICT;

CREATE TABLE journals (
    server TEXT PRIMARY KEY,
    data BLOB NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE changes (
    revision INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL,              -- 1 entry, 2 node, 3 bundle, 4 federation
    key TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;
