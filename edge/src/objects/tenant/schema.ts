import type { Migration } from '../migrations.ts'

/** Times are Unix milliseconds; a day is the UTC date, `YYYY-MM-DD`. */
export const TENANT_MIGRATIONS: readonly Migration[] = [
  `CREATE TABLE tenant (
     only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
     tenant_id TEXT NOT NULL,
     name TEXT NOT NULL,
     created_at_ms INTEGER NOT NULL
   ) STRICT;

   CREATE TABLE keys (
     key_id TEXT PRIMARY KEY,
     name TEXT NOT NULL,
     secret_hash BLOB NOT NULL CHECK (length(secret_hash) = 32),
     last_four TEXT NOT NULL,
     created_at_ms INTEGER NOT NULL,
     -- A revoked key's row stays: its records still arrive, and its usage is still shown.
     revoked_at_ms INTEGER
   ) STRICT;

   -- Every record ever received, once. Parked: its key is not one of this tenant's, so it is kept
   -- whole but counted nowhere.
   CREATE TABLE usage_records (
     request_id TEXT PRIMARY KEY,
     record TEXT NOT NULL,
     parked INTEGER NOT NULL CHECK (parked IN (0, 1)),
     received_at_ms INTEGER NOT NULL
   ) STRICT;
   CREATE INDEX parked_records ON usage_records (request_id) WHERE parked = 1;

   CREATE TABLE usage_counts (
     day TEXT NOT NULL,
     key_id TEXT NOT NULL,
     model TEXT NOT NULL,
     requests INTEGER NOT NULL,
     prompt_tokens INTEGER NOT NULL,
     cached_tokens INTEGER NOT NULL,
     completion_tokens INTEGER NOT NULL,
     reasoning_tokens INTEGER NOT NULL,
     PRIMARY KEY (day, key_id, model)
   ) STRICT, WITHOUT ROWID;`,

  `CREATE TABLE projects (
     project_id TEXT PRIMARY KEY,
     name TEXT NOT NULL,
     created_at_ms INTEGER NOT NULL
   ) STRICT, WITHOUT ROWID;

   -- Of an issuer's identity the row holds no secret: its hash is never compared.
   ALTER TABLE keys ADD COLUMN kind TEXT NOT NULL DEFAULT 'secret'
     CHECK (kind IN ('secret', 'identity'));
   ALTER TABLE keys ADD COLUMN project_id TEXT NOT NULL DEFAULT 'default';
   -- JSON lists; NULL allows everything.
   ALTER TABLE keys ADD COLUMN models TEXT;
   ALTER TABLE keys ADD COLUMN routes TEXT;
   ALTER TABLE keys ADD COLUMN expires_at_ms INTEGER;
   ALTER TABLE keys ADD COLUMN last_used_at_ms INTEGER;`,

  `-- Rows of the admission core, JSON under an id. What must be looked at by itself some time has a
   -- column for when.
   CREATE TABLE buckets (id TEXT PRIMARY KEY, row TEXT NOT NULL) STRICT, WITHOUT ROWID;
   CREATE TABLE slots (id TEXT PRIMARY KEY, row TEXT NOT NULL) STRICT, WITHOUT ROWID;
   CREATE TABLE estimators (id TEXT PRIMARY KEY, row TEXT NOT NULL) STRICT, WITHOUT ROWID;
   CREATE TABLE totals (id TEXT PRIMARY KEY, row TEXT NOT NULL) STRICT, WITHOUT ROWID;
   CREATE TABLE holders (
     id TEXT PRIMARY KEY, due_at_ms INTEGER NOT NULL, row TEXT NOT NULL
   ) STRICT, WITHOUT ROWID;
   CREATE INDEX holders_due ON holders (due_at_ms, id);
   CREATE TABLE leases (
     id TEXT PRIMARY KEY, due_at_ms INTEGER NOT NULL, row TEXT NOT NULL
   ) STRICT, WITHOUT ROWID;
   CREATE INDEX leases_due ON leases (due_at_ms, id);
   CREATE TABLE reservations (
     id TEXT PRIMARY KEY, due_at_ms INTEGER NOT NULL, row TEXT NOT NULL
   ) STRICT, WITHOUT ROWID;
   CREATE INDEX reservations_due ON reservations (due_at_ms, id);
   CREATE TABLE parked (
     id TEXT PRIMARY KEY, due_at_ms INTEGER NOT NULL, row TEXT NOT NULL
   ) STRICT, WITHOUT ROWID;
   CREATE INDEX parked_due ON parked (due_at_ms, id);

   -- Money: append-only, double entry. The sums beside it are written in the same transaction.
   CREATE TABLE journal (
     seq INTEGER PRIMARY KEY,
     id TEXT NOT NULL UNIQUE,
     kind TEXT NOT NULL,
     at_ms INTEGER NOT NULL,
     from_account TEXT NOT NULL,
     to_account TEXT NOT NULL,
     amount_pico INTEGER NOT NULL CHECK (amount_pico >= 0),
     usage TEXT
   ) STRICT;
   CREATE TRIGGER journal_is_not_edited BEFORE UPDATE ON journal
     BEGIN SELECT raise(ABORT, 'the journal is append-only'); END;
   CREATE TRIGGER journal_is_not_cut BEFORE DELETE ON journal
     BEGIN SELECT raise(ABORT, 'the journal is append-only'); END;
   CREATE TABLE balances (account TEXT PRIMARY KEY, pico INTEGER NOT NULL) STRICT, WITHOUT ROWID;

   CREATE TABLE usage (
     day TEXT NOT NULL,
     project_id TEXT NOT NULL,
     key_id TEXT NOT NULL,
     model TEXT NOT NULL,
     requests INTEGER NOT NULL,
     prompt_tokens INTEGER NOT NULL,
     cached_tokens INTEGER NOT NULL,
     completion_tokens INTEGER NOT NULL,
     amount_pico INTEGER NOT NULL,
     PRIMARY KEY (day, project_id, key_id, model)
   ) STRICT, WITHOUT ROWID;
   -- From before anything had a price.
   INSERT INTO usage SELECT day, 'default', key_id, model, requests, prompt_tokens, cached_tokens,
     completion_tokens, 0 FROM usage_counts;
   DROP TABLE usage_counts;

   -- What the operator has set; every list is whole in its row.
   CREATE TABLE terms (
     only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
     billing TEXT NOT NULL,
     limits TEXT NOT NULL,
     contract TEXT NOT NULL,
     weight INTEGER NOT NULL CHECK (weight >= 1)
   ) STRICT;`,

  `-- How long a request may wait for room under its tenant's own limits.
   ALTER TABLE terms ADD COLUMN max_wait_ms INTEGER NOT NULL DEFAULT 30000
     CHECK (max_wait_ms >= 0);

   -- The last decisions that nothing else tells of, some in a row as JSON.
   CREATE TABLE decisions (
     seq INTEGER PRIMARY KEY AUTOINCREMENT,
     count INTEGER NOT NULL,
     list TEXT NOT NULL
   ) STRICT;`,
]
