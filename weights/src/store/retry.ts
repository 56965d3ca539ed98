import { setTimeout as delay } from 'node:timers/promises'
import { StoreError, type Store, type StoreCallOptions } from './store.ts'

export interface RetryPolicy {
  /** Calls in all, the first included. */
  readonly attempts: number
  readonly baseDelayMs: number
  readonly delayMsMax: number
  readonly sleep: (delayMs: number, signal?: AbortSignal) => Promise<void>
  /** In [0, 1). */
  readonly random: () => number
}

export const defaultRetryPolicy: RetryPolicy = Object.freeze({
  attempts: 6,
  baseDelayMs: 200,
  delayMsMax: 10_000,
  sleep: async (delayMs: number, signal?: AbortSignal) => {
    await delay(delayMs, undefined, signal === undefined ? {} : { signal })
  },
  random: Math.random,
})

/**
 * The same store, with calls that failed transiently made again. The delay before attempt n is
 * drawn from [0, base·2^(n−1)], capped: machines that lost one server come back spread out.
 */
export function withRetry(store: Store, policy: RetryPolicy = defaultRetryPolicy): Store {
  const attempt = async <T>(
    key: string,
    call: () => Promise<T>,
    options?: StoreCallOptions,
  ): Promise<T> => {
    for (let failures = 0; ;) {
      try {
        return await call()
      } catch (error) {
        failures++
        const again = error instanceof StoreError && error.transient && failures < policy.attempts
        if (!again) throw error
      }
      const ceilingMs = Math.min(policy.baseDelayMs * 2 ** (failures - 1), policy.delayMsMax)
      await sleepOrAbort(key, policy.sleep(policy.random() * ceilingMs, options?.signal), options)
    }
  }
  return {
    location: store.location,
    head: (key, options) => attempt(key, () => store.head(key, options), options),
    getRange: (key, range, options) =>
      attempt(key, () => store.getRange(key, range, options), options),
    put: (key, bytes, options) => attempt(key, () => store.put(key, bytes, options), options),
    list: (prefix, options) => attempt(prefix, () => store.list(prefix, options), options),
  }
}

async function sleepOrAbort(
  key: string,
  sleeping: Promise<void>,
  options?: StoreCallOptions,
): Promise<void> {
  try {
    await sleeping
  } catch (cause) {
    if (options?.signal?.aborted !== true) throw cause
    throw new StoreError('aborted', key, `stopped waiting to retry ${key}`, { cause })
  }
}
