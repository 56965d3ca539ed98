import { describe, expect, it } from 'vitest'
import { post, replayJournal } from './ledger.ts'
import type { Posting } from './ledger.ts'
import { memoryTenantStore } from './memory-store.ts'

const topUp: Posting = {
  id: 'payment-1',
  kind: 'topup',
  atMs: 1,
  from: 'world',
  to: 'tenant',
  amountPico: 5_000_000_000_000n,
  usage: null,
}

describe('post', () => {
  it('moves an amount from one account to another, once', () => {
    const store = memoryTenantStore()
    expect(post(store.journal, store.balances, topUp)).toBe('posted')
    expect(post(store.journal, store.balances, { ...topUp, atMs: 9 })).toBe('exists')
    expect(store.balances.get('tenant')).toBe(5_000_000_000_000n)
    expect(store.balances.get('world')).toBe(-5_000_000_000_000n)
    expect(store.postings).toEqual([topUp])
  })

  it('tells a repeat from another posting under the same id', () => {
    const store = memoryTenantStore()
    post(store.journal, store.balances, topUp)
    expect(post(store.journal, store.balances, { ...topUp, amountPico: 1n })).toBe(
      'exists_with_different_contents',
    )
    expect(store.balances.get('tenant')).toBe(5_000_000_000_000n)
  })

  it('takes no negative amount and no balance beyond 64 bits', () => {
    const { journal, balances } = memoryTenantStore()
    expect(() => post(journal, balances, { ...topUp, amountPico: -1n })).toThrow('negative')
    post(journal, balances, { ...topUp, amountPico: 2n ** 63n - 1n })
    expect(() => post(journal, balances, { ...topUp, id: 'p2', amountPico: 1n })).toThrow('64 bits')
  })

  it('gives every balance again from the journal alone', () => {
    const store = memoryTenantStore()
    post(store.journal, store.balances, topUp)
    const bill = { id: 'r1', kind: 'settle', from: 'tenant', to: 'revenue' } as const
    post(store.journal, store.balances, { ...topUp, ...bill, amountPico: 123n })
    const balances = replayJournal(store.postings)
    expect(balances).toEqual({
      world: -5_000_000_000_000n,
      tenant: 4_999_999_999_877n,
      revenue: 123n,
      writeoff: 0n,
    })
    expect(store.balances.get('tenant')).toBe(balances.tenant)
  })
})
