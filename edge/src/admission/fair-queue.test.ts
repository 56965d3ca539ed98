import { describe, expect, it } from 'vitest'
import { FairQueue } from './fair-queue.ts'
import type { Waiter } from './fair-queue.ts'

function makeQueue(bandFloors: readonly number[] = [0]): FairQueue {
  return new FairQueue({ bandFloors, waitersMax: 100, tokensMax: 10_000 })
}

function waiter(id: string, change: Partial<Waiter> = {}): Waiter {
  const tenantId = id.slice(0, 1)
  return { id, tenantId, weight: 1, band: 0, tokens: 100, deadlineMs: 1000, ...change }
}

function takeAll(queue: FairQueue): string[] {
  const ids: string[] = []
  for (let turn = queue.take(); turn !== null; turn = queue.take()) ids.push(turn.id)
  return ids
}

describe('turns', () => {
  it('go by shares, not by who came first', () => {
    const queue = makeQueue()
    for (const id of ['a1', 'a2', 'a3', 'b1', 'b2']) queue.enqueue(waiter(id))
    expect(takeAll(queue)).toEqual(['a1', 'b1', 'a2', 'b2', 'a3'])
  })

  it('come three times as often for three times the weight', () => {
    const queue = makeQueue()
    for (let index = 0; index < 8; index++) {
      queue.enqueue(waiter(`a${index}`))
      queue.enqueue(waiter(`b${index}`, { weight: 3 }))
    }
    const firstEight = takeAll(queue).slice(0, 8)
    expect(firstEight.filter((id) => id.startsWith('b')).length).toBe(6)
  })

  it('cost what they are estimated at', () => {
    const queue = makeQueue()
    queue.enqueue(waiter('a1', { tokens: 500 }))
    queue.enqueue(waiter('a2', { tokens: 500 }))
    for (let index = 0; index < 5; index++) queue.enqueue(waiter(`b${index}`))
    expect(takeAll(queue)).toEqual(['a1', 'b0', 'b1', 'b2', 'b3', 'b4', 'a2'])
  })

  it('are not saved up by staying away', () => {
    const queue = makeQueue()
    for (let index = 0; index < 4; index++) queue.enqueue(waiter(`a${index}`))
    queue.take()
    queue.take()
    for (let index = 0; index < 4; index++) queue.enqueue(waiter(`b${index}`))
    expect(takeAll(queue)).toEqual(['b0', 'a2', 'b1', 'a3', 'b2', 'b3'])
  })

  it('are of the first band, save for what the others’ floors are owed', () => {
    const queue = makeQueue([0, 0.25])
    for (let index = 0; index < 8; index++) {
      queue.enqueue(waiter(`a${index}`))
      queue.enqueue(waiter(`b${index}`, { band: 1 }))
    }
    expect(
      takeAll(queue)
        .slice(0, 10)
        .map((id) => id.slice(0, 1))
        .join(''),
    ).toBe('aaaabaaaba')
  })
})

describe('room', () => {
  it('is bounded by count and by tokens', () => {
    const queue = makeQueue()
    expect(queue.enqueue(waiter('a', { tokens: 10_001 }))).toBe(false)
    expect(queue.enqueue(waiter('a', { tokens: 10_000 }))).toBe(true)
    expect(queue.enqueue(waiter('b'))).toBe(false)
    expect(queue.size).toEqual({ waiters: 1, tokens: 10_000 })
  })

  it('is left by each tenant as large as what it takes', () => {
    const queue = makeQueue()
    let taken = 0
    while (queue.enqueue(waiter(`a${taken}`))) taken++
    expect(taken).toBe(50)
    expect(queue.enqueue(waiter('b', { tokens: 5000 }))).toBe(true)
  })
})

describe('waiters', () => {
  it('who are overdue are taken out in the order of their deadlines', () => {
    const queue = makeQueue()
    queue.enqueue(waiter('a', { deadlineMs: 20 }))
    queue.enqueue(waiter('b', { deadlineMs: 10 }))
    queue.enqueue(waiter('c', { deadlineMs: 21 }))
    expect(queue.firstDeadlineMs()).toBe(10)
    expect(queue.expire(20).map(({ id }) => id)).toEqual(['b', 'a'])
    expect(takeAll(queue)).toEqual(['c'])
    expect(queue.firstDeadlineMs()).toBeNull()
  })

  it('who leave are gone, once', () => {
    const queue = makeQueue()
    queue.enqueue(waiter('a'))
    expect([queue.has('a'), queue.remove('a'), queue.remove('a'), queue.has('a')]).toEqual([
      true,
      true,
      false,
      false,
    ])
    expect(queue.size).toEqual({ waiters: 0, tokens: 0 })
  })

  it('do not wait twice', () => {
    const queue = makeQueue()
    queue.enqueue(waiter('a'))
    expect(() => queue.enqueue(waiter('a'))).toThrow('nobody waits twice')
  })
})
