import { describe, expect, it } from 'vitest'
import { MemoryStore } from './memory.ts'
import { defaultRetryPolicy, withRetry, type RetryPolicy } from './retry.ts'
import { StoreError } from './store.ts'

function setup(overrides: Partial<RetryPolicy> = {}) {
  const store = new MemoryStore()
  store.objects.set('a', Uint8Array.of(1, 2, 3))
  const delays: number[] = []
  const policy: RetryPolicy = {
    attempts: 4,
    baseDelayMs: 100,
    delayMsMax: 250,
    random: () => 0.5,
    sleep: async (delayMs) => void delays.push(delayMs),
    ...overrides,
  }
  return { store, delays, retrying: withRetry(store, policy) }
}

describe('a store with retries', () => {
  it('makes a call again until it works, waiting longer each time up to the ceiling', async () => {
    const { store, delays, retrying } = setup()
    for (const call of [1, 2, 3]) store.failCall(call, 'unavailable')
    expect(await retrying.getRange('a', { offset: 1, length: 2 })).toEqual(Uint8Array.of(2, 3))
    expect(delays).toEqual([50, 100, 125])
    expect(store.callCount).toBe(4)
  })

  it('gives up after the last attempt with the last error', async () => {
    const { store, retrying } = setup()
    for (const call of [1, 2, 3, 4]) store.failCall(call, 'unavailable')
    await expect(retrying.head('a')).rejects.toMatchObject({ code: 'unavailable', key: 'a' })
    expect(store.callCount).toBe(4)
  })

  it('asks again after a short read', async () => {
    const { store, retrying } = setup()
    store.failCall(1, 'short_read')
    expect(await retrying.getRange('a', { offset: 0, length: 1 })).toEqual(Uint8Array.of(1))
  })

  it('does not repeat what will fail again', async () => {
    const { store, delays, retrying } = setup()
    store.failCall(1, 'access_denied')
    await expect(retrying.head('a')).rejects.toMatchObject({ code: 'access_denied' })
    await expect(retrying.head('nothing')).rejects.toMatchObject({ code: 'not_found' })
    await expect(retrying.getRange('a', { offset: 0, length: 9 })).rejects.toMatchObject({
      code: 'range_not_satisfiable',
    })
    expect([store.callCount, delays]).toEqual([3, []])
  })

  it('puts again when the reply was lost', async () => {
    const { store, retrying } = setup()
    store.failCall(1, 'lost_reply')
    await retrying.put('b', Uint8Array.of(9))
    expect([store.callCount, store.objects.get('b')]).toEqual([2, Uint8Array.of(9)])
  })

  it('stops waiting when it is aborted', async () => {
    const { store, retrying } = setup({ sleep: defaultRetryPolicy.sleep, baseDelayMs: 1e9 })
    store.failCall(1, 'unavailable')
    const abort = new AbortController()
    const call = retrying.head('a', { signal: abort.signal })
    setTimeout(() => abort.abort(), 5)
    await expect(call).rejects.toMatchObject({ code: 'aborted' })
  })

  it('lets errors pass that are not the store’s', async () => {
    const { store, retrying } = setup()
    const bug = new TypeError('a bug')
    store.head = () => Promise.reject(bug)
    await expect(retrying.head('a')).rejects.toBe(bug)
    expect(new StoreError('aborted', 'a', '').transient).toBe(false)
  })
})
