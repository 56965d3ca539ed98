import type { Waited } from '../../admission/tenant-queue.ts'
import type { LimitState } from '../../admission/tenant-capacity.ts'
import { BoundedMap } from '../../bounded-map.ts'
import { slicesOf } from '../../slices.ts'

/** Why a request was let in or not, as its own tenant may see it. */
export interface Decision {
  readonly requestId: string
  readonly atMs: number
  readonly model: string
  readonly outcome: 'admitted' | 'refused' | 'released' | 'waiting'
  readonly reason: string | null
  readonly limits: readonly LimitState[]
  readonly binding: LimitState | null
  readonly retryAfterMs: number | null
  /** How long it waited for room, and under which limit; null when it was answered at once. */
  readonly waited: Waited | null
}

/** As many as are remembered, in memory and on disk. */
const DECISIONS_MAX = 1_000
/** A row of these stays well below the two megabytes a row may have, however many limits there are. */
const DECISIONS_A_ROW = 25

/**
 * The last decisions that nothing else tells of: refusals, waits, releases. They are kept in memory
 * and written some at a time by the alarm, since a tenant that is being refused must not cost a
 * write each time; a reset loses those of the last seconds.
 */
export class DecisionLog {
  readonly #sql: SqlStorage
  readonly #recent = new BoundedMap<string, Decision>(DECISIONS_MAX)
  #unwritten: Decision[] = []

  constructor(sql: SqlStorage) {
    this.#sql = sql
  }

  note(decision: Decision): void {
    this.#recent.set(decision.requestId, decision)
    this.#unwritten = [...this.#unwritten, decision].slice(-DECISIONS_MAX)
  }

  find(requestId: string): Decision | null {
    const recent = this.#recent.get(requestId)
    if (recent !== undefined) return recent
    const [found] = this.#sql
      .exec<{ value: string }>(
        `SELECT value FROM decisions, json_each(decisions.list)
         WHERE value ->> '$.requestId' = ? ORDER BY seq DESC, key DESC LIMIT 1`,
        requestId,
      )
      .toArray()
    return found === undefined ? null : (JSON.parse(found.value) as Decision)
  }

  /** Writes what is new, some in a row, and forgets the oldest. */
  write(): void {
    const news = this.#unwritten.splice(0)
    if (news.length === 0) return
    for (const list of slicesOf(news, DECISIONS_A_ROW)) {
      const text = JSON.stringify(list)
      this.#sql.exec('INSERT INTO decisions (count, list) VALUES (?, ?)', list.length, text)
    }
    this.#sql.exec(
      `DELETE FROM decisions WHERE seq IN (
         SELECT seq FROM (SELECT seq, sum(count) OVER (ORDER BY seq DESC) AS kept FROM decisions)
         WHERE kept > ?)`,
      DECISIONS_MAX + DECISIONS_A_ROW,
    )
  }
}
