import { defaultBurstMs } from '../../admission/limits.ts'
import type { Limit, LimitScope } from '../../admission/limits.ts'
import type { Billing } from '../../admission/money.ts'
import type { PriceVersion } from '../../admission/prices.ts'

/** What the operator has agreed with a tenant. */
export interface Terms {
  readonly billing: Billing
  readonly limits: readonly Limit[]
  /** In order of `fromMs`; where it names a model it wins over the list. */
  readonly contract: readonly PriceVersion[]
  /** The tenant's share of a full pool, against the others'. */
  readonly weight: number
  /** How long a request may wait for room under the tenant's own limits; 0: none waits. */
  readonly maxWaitMs: number
}

type LimitValue =
  | {
      readonly dimension: Exclude<Limit['dimension'], 'concurrency'>
      readonly perMinute: number
      readonly burstMs?: number | undefined
    }
  | { readonly dimension: 'concurrency'; readonly max: number }

/** A limit whose id says what it counts, so that its state outlives a change of its value. */
export function makeLimit(value: LimitValue, scope: LimitScope): Limit {
  const parts = [value.dimension, scope.model, scope.projectId, scope.keyId]
  const id = parts.map((part) => part ?? '*').join('/')
  if (value.dimension === 'concurrency') return { id, scope, ...value }
  const { dimension, perMinute, burstMs = defaultBurstMs(value.dimension) } = value
  return { id, scope, dimension, perMinute, burstMs }
}

/** Of a tenant nobody has set anything for: room for one busy application, a thousand dollars. */
export const DEFAULT_TERMS: Terms = {
  billing: { kind: 'postpaid', creditPico: 1_000n * 10n ** 12n },
  limits: [
    makeLimit({ dimension: 'requests', perMinute: 6_000 }, {}),
    makeLimit({ dimension: 'inputTokens', perMinute: 40_000_000 }, {}),
    makeLimit({ dimension: 'uncachedInputTokens', perMinute: 10_000_000 }, {}),
    makeLimit({ dimension: 'outputTokens', perMinute: 2_000_000 }, {}),
    makeLimit({ dimension: 'concurrency', max: 500 }, {}),
  ],
  contract: [],
  weight: 1,
  maxWaitMs: 30_000,
}

interface TermsColumns extends Record<string, SqlStorageValue> {
  readonly billing: string
  readonly limits: string
  readonly contract: string
  readonly weight: number
  readonly max_wait_ms: number
}

/** A tenant's terms, inside whatever transaction its caller has open. */
export class TermsTable {
  readonly #sql: SqlStorage

  constructor(sql: SqlStorage) {
    this.#sql = sql
  }

  get(): Terms {
    const [row] = this.#sql.exec<TermsColumns>('SELECT * FROM terms').toArray()
    if (row === undefined) return DEFAULT_TERMS
    return {
      billing: parseBilling(row.billing),
      limits: JSON.parse(row.limits) as Limit[],
      contract: JSON.parse(row.contract) as PriceVersion[],
      weight: row.weight,
      maxWaitMs: row.max_wait_ms,
    }
  }

  put(terms: Terms): void {
    this.#sql.exec(
      `INSERT OR REPLACE INTO terms (only_row, billing, limits, contract, weight, max_wait_ms)
       VALUES (1, ?, ?, ?, ?, ?)`,
      formatBilling(terms.billing),
      JSON.stringify(terms.limits),
      JSON.stringify(terms.contract),
      terms.weight,
      terms.maxWaitMs,
    )
  }
}

/** `prepaid`, or a postpaid tenant's credit in pico-dollars. */
function formatBilling(billing: Billing): string {
  return billing.kind === 'prepaid' ? 'prepaid' : billing.creditPico.toString()
}

function parseBilling(text: string): Billing {
  return text === 'prepaid' ? { kind: 'prepaid' } : { kind: 'postpaid', creditPico: BigInt(text) }
}
