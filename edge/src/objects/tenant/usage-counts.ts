import type { Posting } from '../../admission/ledger.ts'
import type { Gathered } from './unit-of-work.ts'
import { dayOf } from './usage.ts'
import type { UsageSums } from './usage.ts'

interface Counted {
  readonly of: readonly [day: string, projectId: string, keyId: string, model: string]
  readonly sums: UsageSums
}

/** What a transaction's settlements add to the table that usage is reported from. */
export class UsageCounts implements Gathered {
  readonly #sql: SqlStorage
  readonly #counted = new Map<string, Counted>()

  constructor(sql: SqlStorage) {
    this.#sql = sql
  }

  /** The day is that of admission: a request that runs past midnight belongs to the day before. */
  count({ usage, amountPico }: Posting): void {
    if (usage === null) return
    const of = [dayOf(usage.admittedAtMs), usage.projectId, usage.keyId, usage.model] as const
    const id = JSON.stringify(of)
    const sums = this.#counted.get(id)?.sums ?? NOTHING
    this.#counted.set(id, {
      of,
      sums: {
        requests: sums.requests + 1,
        promptTokens: sums.promptTokens + usage.promptTokens,
        cachedTokens: sums.cachedTokens + usage.cachedTokens,
        completionTokens: sums.completionTokens + usage.outputTokens,
        amountPico: sums.amountPico + amountPico,
      },
    })
  }

  write(): void {
    for (const { of, sums } of this.#counted.values()) {
      const { requests, promptTokens, cachedTokens, completionTokens, amountPico } = sums
      this.#sql.exec(
        `INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, CAST(? AS INTEGER))
         ON CONFLICT DO UPDATE SET
           requests = requests + excluded.requests,
           prompt_tokens = prompt_tokens + excluded.prompt_tokens,
           cached_tokens = cached_tokens + excluded.cached_tokens,
           completion_tokens = completion_tokens + excluded.completion_tokens,
           amount_pico = amount_pico + excluded.amount_pico`,
        ...of,
        requests,
        promptTokens,
        cachedTokens,
        completionTokens,
        amountPico.toString(),
      )
    }
    this.#counted.clear()
  }

  end(): void {
    this.#counted.clear()
  }
}

const NOTHING: UsageSums = {
  requests: 0,
  promptTokens: 0,
  cachedTokens: 0,
  completionTokens: 0,
  amountPico: 0n,
}
