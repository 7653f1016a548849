-- Tenants: whose an entry is, and what is kept about tenants, agents and foreign trust domains.

ALTER TABLE entries ADD COLUMN tenant TEXT;     -- NULL for none; bit 32 of flags: in JWT-SVIDs

CREATE TABLE assignments (
    about TEXT PRIMARY KEY,             -- "agent <SPIFFE ID>", "tenant <name>", "trust_domain <name>"
    said TEXT NOT NULL                  -- JSON array of tenants; of a tenant, its state
) STRICT, WITHOUT ROWID;
