import { DurableObject } from 'cloudflare:workers'
import { migrate } from '../migrations.ts'
import type { Migration } from '../migrations.ts'

const MIGRATIONS: readonly Migration[] = [
  `CREATE TABLE tenants (
     tenant_id TEXT PRIMARY KEY,
     name TEXT NOT NULL,
     created_at_ms INTEGER NOT NULL
   ) STRICT, WITHOUT ROWID;`,
]

export interface TenantSummary {
  readonly tenantId: string
  readonly name: string
  readonly createdAtMs: number
}

export interface TenantPage {
  readonly tenants: TenantSummary[]
  readonly hasMore: boolean
}

interface TenantColumns extends Record<string, SqlStorageValue> {
  readonly tenant_id: string
  readonly name: string
  readonly created_at_ms: number
}

/** There is one directory, under this name. */
export const DIRECTORY_NAME = 'directory'

/**
 * The list of tenants, for the admin API and nothing else: requests find their tenant from the key.
 * An object rather than D1, because one small table that is written once per new tenant needs
 * neither a second storage product nor a migration step in every deployment and test.
 */
export class Directory extends DurableObject {
  readonly #sql = this.ctx.storage.sql

  constructor(ctx: DurableObjectState, env: Cloudflare.Env) {
    super(ctx, env)
    void ctx.blockConcurrencyWhile(async () => migrate(ctx.storage, MIGRATIONS))
  }

  add(tenant: TenantSummary): void {
    this.#sql.exec(
      'INSERT INTO tenants (tenant_id, name, created_at_ms) VALUES (?, ?, ?) ON CONFLICT DO NOTHING',
      tenant.tenantId,
      tenant.name,
      tenant.createdAtMs,
    )
  }

  /** Up to `limit` tenants by id, those after `after` when it is not empty. */
  list(after: string, limit: number): TenantPage {
    const rows = this.#sql
      .exec<TenantColumns>(
        'SELECT * FROM tenants WHERE tenant_id > ? ORDER BY tenant_id LIMIT ?',
        after,
        limit + 1,
      )
      .toArray()
    const tenants = rows.slice(0, limit).map((row) => ({
      tenantId: row.tenant_id,
      name: row.name,
      createdAtMs: row.created_at_ms,
    }))
    return { tenants, hasMore: rows.length > limit }
  }
}
