import { DurableObject } from 'cloudflare:workers'
import type { UsageRecord } from '#protocol/usage-record.ts'
import { hasSchema, migrate } from '../migrations.ts'
import { KeysTable } from './keys-table.ts'
import type {
  CreateKeyStatus,
  CreateProjectStatus,
  KeySummary,
  NewIdentity,
  NewKey,
  NewProject,
  RotateStatus,
  Rotation,
  VerifiedKey,
} from './keys-table.ts'
import { TENANT_MIGRATIONS } from './schema.ts'
import { canonicalRecord, rowOf } from './usage.ts'
import type { UsageCounts, UsageQuery, UsageReport, UsageRow } from './usage.ts'

const USAGE_ROWS_MAX = 10_000

export interface NewTenant {
  readonly tenantId: string
  readonly name: string
  readonly createdAtMs: number
}

export type CreateTenantStatus = 'created' | 'exists'
export type ApplyStatus = 'applied' | 'exists' | 'parked' | 'conflict'

interface CountColumns extends Record<string, SqlStorageValue> {
  readonly requests: number
  readonly prompt_tokens: number
  readonly cached_tokens: number
  readonly completion_tokens: number
  readonly reasoning_tokens: number
}

interface UsageColumns extends CountColumns {
  readonly day: string
  readonly key_id: string
  readonly model: string
}

/**
 * One tenant: its keys (as hashes) and its usage. Every method is one transaction. Time and
 * randomness come in as arguments. Anyone can make up a key id and so reach an object that was
 * never set up; such an object answers "unknown" and writes nothing.
 */
export class Tenant extends DurableObject {
  readonly #storage = this.ctx.storage
  readonly #sql = this.ctx.storage.sql
  readonly #keys = new KeysTable(this.#sql)
  #ready = false

  constructor(ctx: DurableObjectState, env: Cloudflare.Env) {
    super(ctx, env)
    void ctx.blockConcurrencyWhile(async () => {
      if (hasSchema(this.#sql)) this.#setUp()
    })
  }

  createTenant(tenant: NewTenant): CreateTenantStatus {
    this.#setUp()
    return this.#storage.transactionSync(() => {
      if (this.#exists()) return 'exists'
      this.#sql.exec(
        'INSERT INTO tenant (only_row, tenant_id, name, created_at_ms) VALUES (1, ?, ?, ?)',
        tenant.tenantId,
        tenant.name,
        tenant.createdAtMs,
      )
      return 'created'
    })
  }

  createKey(key: NewKey): CreateKeyStatus | 'tenant_unknown' {
    return this.#storage.transactionSync(() =>
      this.#exists() ? this.#keys.create(key) : 'tenant_unknown',
    )
  }

  rotateKey(rotation: Rotation): RotateStatus {
    return this.#storage.transactionSync(() =>
      this.#exists() ? this.#keys.rotate(rotation) : 'key_unknown',
    )
  }

  /** When the key was revoked, now or earlier; null when there is no such key. */
  revokeKey(keyId: string, nowMs: number): number | null {
    return this.#storage.transactionSync(() =>
      this.#exists() ? this.#keys.revoke(keyId, nowMs) : null,
    )
  }

  /** All keys in the order they were made; null when there is no such tenant. */
  listKeys(): KeySummary[] | null {
    return this.#exists() ? this.#keys.list() : null
  }

  verifyKey(keyId: string, secretHash: Uint8Array, nowMs: number): VerifiedKey {
    if (!this.#exists()) return { status: 'unknown' }
    return this.#storage.transactionSync(() => this.#keys.verify(keyId, secretHash, nowMs))
  }

  verifyIdentity(identity: NewIdentity, nowMs: number): VerifiedKey {
    if (!this.#exists()) return { status: 'unknown' }
    return this.#storage.transactionSync(() => this.#keys.verifyIdentity(identity, nowMs))
  }

  createProject(project: NewProject): CreateProjectStatus | 'tenant_unknown' {
    return this.#storage.transactionSync(() =>
      this.#exists() ? this.#keys.createProject(project) : 'tenant_unknown',
    )
  }

  listProjects(): NewProject[] | null {
    return this.#exists() ? this.#keys.listProjects() : null
  }

  /**
   * Counts each record exactly once, whatever arrives how often and in what order; one status per
   * record. A record whose key is not ours (or that reaches an object never set up) is kept
   * uncounted: a signed record is a fact, and facts are not thrown away.
   */
  applyUsageRecords(records: readonly UsageRecord[], nowMs: number): ApplyStatus[] {
    this.#setUp()
    return this.#storage.transactionSync(() =>
      records.map((record) => this.#applyUsageRecord(record, nowMs)),
    )
  }

  usage(query: UsageQuery): UsageReport | null {
    if (!this.#exists()) return null
    const where = `day BETWEEN ? AND ? AND (? IS NULL OR key_id = ?) AND (? IS NULL OR model = ?)`
    const key = query.keyId ?? null
    const model = query.model ?? null
    const bound = [query.from, query.to, key, key, model, model]
    const rows = this.#sql
      .exec<UsageColumns>(
        `SELECT * FROM usage_counts WHERE ${where} ORDER BY day, key_id, model LIMIT ?`,
        ...bound,
        USAGE_ROWS_MAX + 1,
      )
      .toArray()
    const totals = this.#sql
      .exec<CountColumns>(
        `SELECT coalesce(sum(requests), 0) AS requests,
           coalesce(sum(prompt_tokens), 0) AS prompt_tokens,
           coalesce(sum(cached_tokens), 0) AS cached_tokens,
           coalesce(sum(completion_tokens), 0) AS completion_tokens,
           coalesce(sum(reasoning_tokens), 0) AS reasoning_tokens
         FROM usage_counts WHERE ${where}`,
        ...bound,
      )
      .one()
    return {
      totals: toCounts(totals),
      rows: rows.slice(0, USAGE_ROWS_MAX).map(toRow),
      truncated: rows.length > USAGE_ROWS_MAX,
      parkedRecords: this.#countParked(),
    }
  }

  #setUp(): void {
    if (this.#ready) return
    migrate(this.#storage, TENANT_MIGRATIONS)
    this.#ready = true
  }

  #exists(): boolean {
    return this.#ready && this.#sql.exec('SELECT 1 FROM tenant').toArray().length === 1
  }

  #applyUsageRecord(record: UsageRecord, nowMs: number): ApplyStatus {
    const text = canonicalRecord(record)
    const known = this.#exists() && this.#keys.has(record.keyId)
    const inserted = this.#sql.exec(
      `INSERT INTO usage_records (request_id, record, parked, received_at_ms) VALUES (?, ?, ?, ?)
       ON CONFLICT DO NOTHING RETURNING request_id`,
      record.requestId,
      text,
      known ? 0 : 1,
      nowMs,
    )
    if (inserted.toArray().length === 0) return this.#compareStored(record.requestId, text)
    if (!known) return 'parked'
    this.#count(rowOf(record))
    return 'applied'
  }

  #compareStored(requestId: string, text: string): ApplyStatus {
    const stored = this.#sql
      .exec<{ record: string }>('SELECT record FROM usage_records WHERE request_id = ?', requestId)
      .one()
    return stored.record === text ? 'exists' : 'conflict'
  }

  #countParked(): number {
    return this.#sql
      .exec<{ count: number }>('SELECT count(*) AS count FROM usage_records WHERE parked = 1')
      .one().count
  }

  #count(row: UsageRow): void {
    this.#sql.exec(
      `INSERT INTO usage_counts VALUES (?, ?, ?, ?, ?, ?, ?, ?)
       ON CONFLICT DO UPDATE SET
         requests = requests + excluded.requests,
         prompt_tokens = prompt_tokens + excluded.prompt_tokens,
         cached_tokens = cached_tokens + excluded.cached_tokens,
         completion_tokens = completion_tokens + excluded.completion_tokens,
         reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens`,
      row.day,
      row.keyId,
      row.model,
      row.requests,
      row.promptTokens,
      row.cachedTokens,
      row.completionTokens,
      row.reasoningTokens,
    )
  }
}

function toCounts(columns: CountColumns): UsageCounts {
  return {
    requests: columns.requests,
    promptTokens: columns.prompt_tokens,
    cachedTokens: columns.cached_tokens,
    completionTokens: columns.completion_tokens,
    reasoningTokens: columns.reasoning_tokens,
  }
}

function toRow(columns: UsageColumns): UsageRow {
  return { day: columns.day, keyId: columns.key_id, model: columns.model, ...toCounts(columns) }
}
