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

/** For a store that makes its calls again by itself. */
export const singleAttempt: RetryPolicy = Object.freeze({ ...defaultRetryPolicy, attempts: 1 })

/**
 * Makes a call again while it fails transiently. The delay before attempt n + 1 is drawn from
 * [0, base·2^(n−1)], capped: machines that lost one server come back spread out.
 */
export async function retrying<T>(
  call: () => Promise<T>,
  policy: RetryPolicy,
  { key, signal }: { readonly key: string; readonly signal?: AbortSignal | undefined },
): Promise<T> {
  for (let failures = 0; ;) {
    try {
      return await call()
    } catch (error) {
      failures++
      const again = error instanceof StoreError && error.transient && failures < policy.attempts
      if (!again) throw error
    }
    const ceilingMs = Math.min(policy.baseDelayMs * 2 ** (failures - 1), policy.delayMsMax)
    try {
      await policy.sleep(policy.random() * ceilingMs, signal)
    } catch (cause) {
      if (signal?.aborted !== true) throw cause
      throw new StoreError('aborted', key, `stopped waiting to retry ${key}`, { cause })
    }
  }
}

/** The same store, with calls that failed transiently made again. */
export function withRetry(store: Store, policy: RetryPolicy = defaultRetryPolicy): Store {
  const attempt = <T>(
    key: string,
    options: StoreCallOptions | undefined,
    call: () => Promise<T>,
  ): Promise<T> => retrying(call, policy, { key, signal: options?.signal })
  return {
    location: store.location,
    head: (key, options) => attempt(key, options, () => store.head(key, options)),
    getRange: (key, range, options) =>
      attempt(key, options, () => store.getRange(key, range, options)),
    put: (key, content, options) => attempt(key, options, () => store.put(key, content, options)),
    list: (prefix, options) => attempt(prefix, options, () => store.list(prefix, options)),
  }
}
