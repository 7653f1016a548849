-- A store of schema version 4, before stores were copied while they are used.
BEGIN TRANSACTION;
CREATE TABLE assignments (
    about TEXT PRIMARY KEY,             -- "agent <SPIFFE ID>", "tenant <name>", "trust_domain <name>"
    said TEXT NOT NULL                  -- JSON array of tenants; of a tenant, its state
) STRICT, WITHOUT ROWID;
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
INSERT INTO "authorities" VALUES(1,1,0,'',X'010203',0,0);
INSERT INTO "authorities" VALUES(1,2,1,'k1',X'6A7774',99,1);
INSERT INTO "authorities" VALUES(1,3,2,'k2',X'776974',98,0);
INSERT INTO "authorities" VALUES(2,1,0,'',X'010203',0,0);
INSERT INTO "authorities" VALUES(3,1,0,'',X'010203',0,0);
CREATE TABLE bundles (
    id INTEGER PRIMARY KEY,
    trust_domain TEXT NOT NULL UNIQUE,
    refresh_hint INTEGER NOT NULL,
    sequence_number INTEGER NOT NULL
) STRICT;
INSERT INTO "bundles" VALUES(1,'td',60,8);
INSERT INTO "bundles" VALUES(2,'a.test',0,7);
INSERT INTO "bundles" VALUES(3,'b.test',0,7);
CREATE TABLE changes (
    revision INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL,              -- 1 entry, 2 node, 3 bundle, 4 federation
    key TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;
INSERT INTO "changes" VALUES(1,3,'td',1700000000);
INSERT INTO "changes" VALUES(2,3,'a.test',1700000000);
INSERT INTO "changes" VALUES(3,3,'b.test',1700000000);
INSERT INTO "changes" VALUES(4,3,'td',1700000001);
INSERT INTO "changes" VALUES(5,2,'spiffe://td/spire/agent/t/one',1700000002);
INSERT INTO "changes" VALUES(6,2,'spiffe://td/spire/agent/t/banned',1700000003);
INSERT INTO "changes" VALUES(7,1,'full',1700000004);
INSERT INTO "changes" VALUES(8,1,'plain',1700000004);
INSERT INTO "changes" VALUES(9,1,'alias',1700000004);
INSERT INTO "changes" VALUES(10,1,'gone',1700000004);
INSERT INTO "changes" VALUES(11,1,'plain',1700000005);
INSERT INTO "changes" VALUES(12,1,'gone',1700000006);
INSERT INTO "changes" VALUES(13,4,'a.test',1700000007);
INSERT INTO "changes" VALUES(14,4,'b.test',1700000007);
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
, tenant TEXT) STRICT;
INSERT INTO "entries" VALUES(1,'full','spiffe://td/full','spiffe://td/parent','["a:\"quoted\"\n","k8s:ns:ä","unix:uid:1"]','["b.test","a.test"]','["z.test","a.test"]','hint "x"',11,12,27,13,1700000004,0,NULL);
INSERT INTO "entries" VALUES(2,'plain','spiffe://td/w','spiffe://td/spire/agent/t/one','["unix:uid:1"]',NULL,NULL,'h',0,0,0,0,1700000004,1,NULL);
INSERT INTO "entries" VALUES(3,'alias','spiffe://td/group','spiffe://td/spire/server','["t:zone:a"]',NULL,NULL,NULL,0,0,0,0,1700000004,0,NULL);
CREATE TABLE entry_terms (
    term INTEGER NOT NULL,
    row INTEGER NOT NULL,
    PRIMARY KEY (term, row)
) STRICT, WITHOUT ROWID;
INSERT INTO "entry_terms" VALUES(-7528303479694769460,1);
INSERT INTO "entry_terms" VALUES(-6697959310419330621,3);
INSERT INTO "entry_terms" VALUES(-3043375818533783411,1);
INSERT INTO "entry_terms" VALUES(-2825521650910809854,1);
INSERT INTO "entry_terms" VALUES(-2493044567972952123,2);
INSERT INTO "entry_terms" VALUES(-2277405265939576762,2);
INSERT INTO "entry_terms" VALUES(-2018809363957103811,3);
INSERT INTO "entry_terms" VALUES(-1686369146571690668,1);
INSERT INTO "entry_terms" VALUES(-1686369146571690668,2);
INSERT INTO "entry_terms" VALUES(-1249344813217456573,2);
INSERT INTO "entry_terms" VALUES(2792992877893312639,1);
INSERT INTO "entry_terms" VALUES(4451575069381466776,3);
INSERT INTO "entry_terms" VALUES(6275550437198734841,1);
INSERT INTO "entry_terms" VALUES(6512353111817522074,1);
INSERT INTO "entry_terms" VALUES(7106830321119018939,1);
INSERT INTO "entry_terms" VALUES(9012540247519337147,1);
CREATE TABLE federations (
    id INTEGER PRIMARY KEY,
    trust_domain TEXT NOT NULL UNIQUE,
    bundle_endpoint_url TEXT NOT NULL,
    endpoint_spiffe_id TEXT             -- set: https_spiffe; NULL: https_web
) STRICT;
INSERT INTO "federations" VALUES(1,'a.test','https://a.test/',NULL);
INSERT INTO "federations" VALUES(2,'b.test','https://b.test/','spiffe://b.test/e');
CREATE TABLE feed (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    epoch TEXT NOT NULL,                -- random
    revision INTEGER NOT NULL           -- of the newest change; written last in each transaction
) STRICT;
INSERT INTO "feed" VALUES(1,'5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e',14);
CREATE TABLE join_tokens (
    token TEXT PRIMARY KEY,
    expires_at INTEGER NOT NULL,
    spent_by BLOB                       -- SHA-256 of the key that spent it
) STRICT, WITHOUT ROWID;
INSERT INTO "join_tokens" VALUES('fresh',500,NULL);
INSERT INTO "join_tokens" VALUES('spent',500,X'0707070707070707070707070707070707070707070707070707070707070707');
CREATE TABLE journals (
    server TEXT PRIMARY KEY,
    data BLOB NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "journals" VALUES('server',X'6A6F75726E616C',1700000008);
CREATE TABLE leases (
    job TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    ends_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE node_terms (
    term INTEGER NOT NULL,
    row INTEGER NOT NULL,
    PRIMARY KEY (term, row)
) STRICT, WITHOUT ROWID;
INSERT INTO "node_terms" VALUES(-2018809363957103811,1);
INSERT INTO "node_terms" VALUES(-2018809363957103811,2);
INSERT INTO "node_terms" VALUES(1960296129580152315,2);
INSERT INTO "node_terms" VALUES(2814730236703236702,1);
INSERT INTO "node_terms" VALUES(2814730236703236702,2);
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
INSERT INTO "nodes" VALUES(1,'spiffe://td/spire/agent/t/one','t','1',100,'2',200,'["t:zone:a"]',1,'1.15.3');
INSERT INTO "nodes" VALUES(2,'spiffe://td/spire/agent/t/banned','t','',100,'',0,'["t:zone:a"]',0,'1.15.3');
CREATE TABLE servers (
    id TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    version TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    issued_until INTEGER NOT NULL,      -- when the last SVID that it has signed expires
    retired_at INTEGER NOT NULL         -- 0 while it is not
) STRICT, WITHOUT ROWID;
CREATE TABLE signet_schema (version INTEGER NOT NULL) STRICT;
INSERT INTO "signet_schema" VALUES(4);
CREATE INDEX entries_expires_at ON entries (expires_at) WHERE expires_at > 0;
CREATE INDEX nodes_expires_at ON nodes (expires_at);
CREATE INDEX join_tokens_expires_at ON join_tokens (expires_at);
COMMIT;
