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
]
