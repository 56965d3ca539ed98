import { usageRecordAckSchema, type UsageRecordAck } from '#protocol/usage-record.ts'
import { errorFields, type Log } from '../log.ts'
import { retryDelayMs } from '../retry-delay.ts'
import type { RecordSpool, SpooledRecord } from './spool.ts'

export interface PusherOptions {
  readonly spool: RecordSpool
  /** Base URL of the edge. */
  readonly edgeUrl: string
  readonly fetch: (url: string, init: RequestInit) => Promise<Response>
  /** Resolves after `ms`, or at once when the signal aborts. */
  readonly sleep: (ms: number, signal: AbortSignal) => Promise<void>
  readonly random: () => number
  readonly log: Log
}

/**
 * A call's worth. The edge takes four times as many, but while it checks their signatures and books
 * them, requests wait that come to the same isolate or tenant.
 */
const batchSize = 64
/** So long a record waits for others: a call and a transaction of the tenant's each cost more. */
const gatherMs = 200
const callTimeoutMs = 10_000

/**
 * Brings every spooled record to the edge, over and over until it is acknowledged. The edge applies
 * a record once however often it comes, so whatever is in doubt is simply sent again.
 */
export class RecordPusher {
  readonly #options: PusherOptions
  readonly #url: string

  constructor(options: PusherOptions) {
    this.#options = options
    this.#url = `${options.edgeUrl.replace(/\/+$/, '')}/internal/usage-records`
  }

  /** Pushes for ever, as records come; returns when the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const { spool, sleep, random } = this.#options
    let failures = 0
    while (!signal.aborted) {
      await spool.whenPending(signal)
      if (signal.aborted) return
      const gathers = failures === 0 && spool.pendingCount < batchSize
      if (gathers) await sleep(gatherMs, signal)
      if (signal.aborted) return
      const pushed = await this.#pushBatch(signal)
      if (pushed) {
        failures = 0
      } else {
        await sleep(retryDelayMs(failures, random), signal)
        failures += 1
      }
    }
  }

  /** Pushes what there is, once, without trying again: for the end of the process. */
  async flush(signal: AbortSignal): Promise<void> {
    while (this.#options.spool.pendingCount > 0 && !signal.aborted) {
      if (!(await this.#pushBatch(signal))) return
    }
  }

  /** Whether anything came of it: a call that settles no record is as good as a failed one. */
  async #pushBatch(signal: AbortSignal): Promise<boolean> {
    const { spool, log } = this.#options
    const batch = spool.pending(batchSize)
    try {
      const settled = settle(batch, await this.#call(batch, signal))
      await spool.reject(settled.rejected)
      await spool.acknowledge(settled.acknowledged)
      const count = settled.acknowledged.length
      log.debug('usage_records_pushed', { records: count, rejected: settled.rejected.length })
      return count + settled.rejected.length > 0
    } catch (error) {
      if (!signal.aborted) {
        log.warn('usage_records_not_pushed', {
          pending: spool.pendingCount,
          ...errorFields(error),
        })
      }
      return false
    }
  }

  async #call(batch: readonly SpooledRecord[], signal: AbortSignal): Promise<UsageRecordAck> {
    const response = await this.#options.fetch(this.#url, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ records: batch.map(({ jws }) => jws) }),
      redirect: 'error',
      signal: AbortSignal.any([signal, AbortSignal.timeout(callTimeoutMs)]),
    })
    if (!response.ok) {
      await response.body?.cancel()
      throw new Error(`the edge answered ${response.status}`)
    }
    return usageRecordAckSchema.parse(await response.json())
  }
}

interface Settled {
  readonly acknowledged: SpooledRecord[]
  readonly rejected: { readonly record: SpooledRecord; readonly reason: string }[]
}

/** The records an answer speaks of. Indices beyond the batch speak of none. */
function settle(batch: readonly SpooledRecord[], ack: UsageRecordAck): Settled {
  const at = (index: number): SpooledRecord[] => batch.slice(index, index + 1)
  const acknowledged = new Set(ack.acknowledged.flatMap(at))
  const rejected = new Map<SpooledRecord, string>()
  for (const { index, reason } of ack.rejected) {
    for (const record of at(index)) if (!acknowledged.has(record)) rejected.set(record, reason)
  }
  return {
    acknowledged: [...acknowledged],
    rejected: Array.from(rejected, ([record, reason]) => ({ record, reason })),
  }
}
