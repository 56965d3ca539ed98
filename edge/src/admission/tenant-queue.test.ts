import { describe, expect, it } from 'vitest'
import type { Limit } from './limits.ts'
import { memoryTenantStore } from './memory-store.ts'
import { LIST_PRICES } from './prices.ts'
import { TenantAdmission } from './tenant-admission.ts'
import type { Billing } from './money.ts'
import { TENANT_QUEUE_LIMITS, TenantQueue } from './tenant-queue.ts'
import type { Arrival, QueuedRequest, TenantQueueLimits } from './tenant-queue.ts'

const NOW_MS = 1_000_000
const scope = { projectId: 'p', keyId: 'k', model: 'deepseek-v4-flash' }
/** Two at once, then one every ten seconds. */
const SLOW: Limit = { id: 'rpm', scope: {}, dimension: 'requests', perMinute: 6, burstMs: 20_000 }

interface Line {
  readonly core: TenantAdmission
  readonly queue: TenantQueue
  readonly arrive: (id: string, over?: Partial<QueuedRequest>, atMs?: number) => Arrival['answer']
  /** Who ends waiting by then, and how. */
  readonly serve: (atMs: number) => readonly (readonly [string, string, number])[]
}

function line(
  limits: readonly Limit[] = [SLOW],
  sizes: TenantQueueLimits = TENANT_QUEUE_LIMITS,
  billing: Billing = { kind: 'postpaid', creditPico: 10n ** 15n },
): Line {
  const prices = { list: LIST_PRICES, contract: [] }
  const core = new TenantAdmission(memoryTenantStore(), { limits, billing, prices })
  const queue = new TenantQueue(sizes)
  return {
    core,
    queue,
    arrive: (requestId, over = {}, atMs = NOW_MS) => {
      const size = { bodyBytes: 350, outputTokensMax: 1000, maxCostPico: null, maxWaitMs: 30_000 }
      return queue.arrive(core, { requestId, scope, ...size, ...over }, null, atMs).answer
    },
    serve: (atMs) =>
      queue
        .serve(core, atMs)
        .map(({ request, answer, waited }) => [request.requestId, answer.status, waited.ms]),
  }
}

function statuses(answers: readonly Arrival['answer'][]): string[] {
  return answers.map((answer) => (answer.status === 'refused' ? answer.reason : answer.status))
}

describe('who is short of a rate', () => {
  it('waits, and is served in order as room comes', () => {
    const { queue, arrive, serve } = line()
    const answers = ['a', 'b', 'c', 'd'].map((id) => arrive(id))
    expect(statuses(answers)).toEqual(['admitted', 'admitted', 'waiting', 'waiting'])
    expect(queue.nextTickMs()).toBe(NOW_MS + 10_000)
    expect(serve(NOW_MS + 9_999)).toEqual([])
    expect(serve(NOW_MS + 10_000)).toEqual([['c', 'admitted', 10_000]])
    expect(queue.nextTickMs()).toBe(NOW_MS + 20_000)
    expect(serve(NOW_MS + 20_000)).toEqual([['d', 'admitted', 20_000]])
    expect(queue.nextTickMs()).toBeNull()
  })

  it('is refused at once when it could not be served in the time it has', () => {
    const { arrive } = line()
    const answers = ['a', 'b', 'c', 'd', 'e'].map((id) => arrive(id))
    expect(statuses(answers)).toEqual(['admitted', 'admitted', 'waiting', 'waiting', 'waiting'])
    expect(arrive('f')).toMatchObject({
      status: 'refused',
      reason: 'rate',
      binding: { limitId: 'rpm', dimension: 'requests', need: 1 },
      retryAfterMs: 40_000,
    })
    expect(arrive('g', { maxWaitMs: 0 })).toMatchObject({ reason: 'rate', retryAfterMs: 40_000 })
  })

  it('is refused at its deadline, with what binds and how long it would take from then on', () => {
    const { core, queue, arrive } = line()
    for (const id of ['a', 'b']) arrive(id)
    expect(arrive('c', { maxWaitMs: 9_000 }).status).toBe('waiting')
    expect(queue.nextTickMs()).toBe(NOW_MS + 9_000)
    const [end] = queue.serve(core, NOW_MS + 9_000)
    expect(end).toMatchObject({
      answer: { status: 'refused', reason: 'rate', retryAfterMs: 1_000 },
      waited: { ms: 9_000, binding: { dimension: 'requests', waitMs: 10_000 } },
    })
  })

  it('is not passed by those who come later, even when there would be room for them', () => {
    const { arrive, serve } = line()
    for (const id of ['a', 'b', 'c']) arrive(id)
    expect(arrive('d', {}, NOW_MS + 9_000).status).toBe('waiting')
    expect(serve(NOW_MS + 10_000)).toEqual([['c', 'admitted', 10_000]])
  })

  it('leaves its place to the next when it goes', () => {
    const { queue, arrive, serve } = line()
    for (const id of ['a', 'b', 'c', 'd']) arrive(id)
    expect(queue.leave('c')).toBe(true)
    expect(queue.leave('c')).toBe(false)
    expect(serve(NOW_MS + 10_000)).toEqual([['d', 'admitted', 10_000]])
  })

  it('waits once, however often it asks', () => {
    const { queue, arrive } = line()
    for (const id of ['a', 'b', 'c', 'c']) arrive(id)
    expect(queue.size).toBe(1)
  })
})

describe('who does not wait', () => {
  it('is whoever counts for other limits than those waited for', () => {
    const ofKey = { ...SLOW, id: 'key', scope: { keyId: 'k' } }
    const ample = { ...SLOW, id: 'all', perMinute: 6_000 }
    const { arrive } = line([ofKey, ample])
    expect(statuses(['a', 'b', 'c'].map((id) => arrive(id)))).toEqual([
      'admitted',
      'admitted',
      'waiting',
    ])
    expect(arrive('d', { scope: { ...scope, keyId: 'other' } }).status).toBe('admitted')
  })

  it('is whoever lacks money, a price or a place of concurrency', () => {
    const { arrive } = line([SLOW], TENANT_QUEUE_LIMITS, { kind: 'prepaid' })
    expect(statuses([arrive('a')])).toEqual(['balance'])
    const places: Limit = { id: 'places', scope: {}, dimension: 'concurrency', max: 1 }
    const crowded = line([places])
    expect(statuses([crowded.arrive('a'), crowded.arrive('b')])).toEqual([
      'admitted',
      'concurrency',
    ])
  })

  it('is whoever finds the queue full, by count or by tokens', () => {
    const few = line([SLOW], { waitersMax: 1, tokensMax: 1e9 })
    expect(statuses(['a', 'b', 'c', 'd'].map((id) => few.arrive(id)))).toEqual([
      'admitted',
      'admitted',
      'waiting',
      'rate',
    ])
    // Each is estimated at 1,100 tokens.
    const small = line([SLOW], { waitersMax: 9, tokensMax: 2_000 })
    expect(statuses(['a', 'b', 'c', 'd'].map((id) => small.arrive(id)))).toEqual([
      'admitted',
      'admitted',
      'waiting',
      'rate',
    ])
  })
})

it('lends nothing where somebody waits, until nobody does', () => {
  const { core, queue, arrive, serve } = line()
  expect(queue.mayLend(core, scope)).toBe(true)
  for (const id of ['a', 'b', 'c']) arrive(id)
  expect(queue.mayLend(core, scope)).toBe(false)
  serve(NOW_MS + 10_000)
  expect(queue.mayLend(core, scope)).toBe(true)
})
