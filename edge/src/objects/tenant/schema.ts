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
]
