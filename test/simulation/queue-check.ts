import { FairQueue } from '../../edge/src/admission/fair-queue.ts'
import type { Waiter } from '../../edge/src/admission/fair-queue.ts'
import { PoolAdmission } from '../../edge/src/admission/pool-admission.ts'
import { Random } from './random.ts'

const BAND_FLOORS = [0, 0.2, 0.1]
const TOKENS_MAX = 5000
const ROOMY = { waitersMax: 1e6, tokensMax: 1e12 }

/** What is broken of I7, I8 and I9 under one seed's arrivals, found by adding up what was served. */
export function checkQueue(seed: number): readonly string[] {
  return [...checkShares(seed), ...checkBands(seed), ...checkNoIdling(seed), ...checkRoom(seed)]
}

/**
 * I7: over any span in which two tenants both wait, what they were served, each over its weight,
 * differs by no more than one largest request of each over its weight. The largest difference over
 * all spans is the range of the running difference.
 */
function checkShares(seed: number): string[] {
  const random = new Random(seed)
  const queue = new FairQueue({ bandFloors: [0], ...ROOMY })
  const tenants = ['a', 'b', 'c', 'd'].map((tenantId) => ({
    tenantId,
    weight: random.pick([0.5, 1, 2, 3, 7]),
    tokensMax: random.pick([10, 500, TOKENS_MAX]),
    waiting: 0,
    served: 0,
  }))
  const pairs = tenants.flatMap((one, index) =>
    tenants.slice(index + 1).map((two) => ({ one, two, low: 0, high: 0, together: false })),
  )
  const violations: string[] = []
  for (let step = 0; step < 600; step++) {
    const comes = random.pick(tenants)
    if (random.chance(0.55)) {
      const tokens = random.between(1, comes.tokensMax)
      queue.enqueue(waiterOf({ id: `${step}`, ...comes, tokens, band: 0 }))
      comes.waiting++
    } else {
      const turn = queue.take()
      const served = tenants.find(({ tenantId }) => tenantId === turn?.tenantId)
      if (turn === null || served === undefined) continue
      served.waiting--
      served.served += turn.tokens / turn.weight
    }
    for (const pair of pairs) {
      const { one, two } = pair
      const difference = one.served - two.served
      const together = one.waiting > 0 && two.waiting > 0
      const [low, high] = pair.together ? [pair.low, pair.high] : [difference, difference]
      // A turn that empties a tenant's line still belongs to the span it ends.
      pair.low = Math.min(low, difference)
      pair.high = Math.max(high, difference)
      const allowed = one.tokensMax / one.weight + two.tokensMax / two.weight
      if ((pair.together || together) && pair.high - pair.low > allowed + 1e-6) {
        violations.push(`I7: ${pair.high - pair.low} apart where ${allowed} is allowed`)
      }
      pair.together = together
    }
  }
  return violations.slice(0, 1)
}

/**
 * I8: while everyone waits in every band, each lower band gets its floor, less what a few requests
 * make, and not more than that while the first band has someone.
 */
function checkBands(seed: number): string[] {
  const random = new Random(seed)
  const queue = new FairQueue({ bandFloors: BAND_FLOORS, ...ROOMY })
  const served = BAND_FLOORS.map(() => 0)
  let id = 0
  const arrive = (band: number): void => {
    const tokens = random.between(1, TOKENS_MAX)
    queue.enqueue(waiterOf({ id: `${id++}`, tenantId: `t${band}`, weight: 1, tokens, band }))
  }
  for (const band of BAND_FLOORS.keys()) for (let count = 0; count < 3; count++) arrive(band)
  const violations: string[] = []
  const slack = TOKENS_MAX * BAND_FLOORS.length
  for (let turn = 0; turn < 300; turn++) {
    const waiter = queue.take()
    if (waiter === null) return ['I8: nobody has a turn though everybody waits']
    arrive(waiter.band)
    served[waiter.band] = (served[waiter.band] ?? 0) + waiter.tokens
    const total = served.reduce((sum, tokens) => sum + tokens, 0)
    for (const [band, floor] of BAND_FLOORS.entries()) {
      const share = served[band] ?? 0
      if (share < floor * total - slack)
        violations.push(`I8: band ${band} has ${share} of ${total}`)
      if (band > 0 && share > floor * total + slack) {
        violations.push(`I8: band ${band} takes ${share} of ${total} from the first`)
      }
    }
  }
  return violations.slice(0, 1)
}

/** I9: after every dispatch, whoever is next does not fit into what is left. */
function checkNoIdling(seed: number): string[] {
  const random = new Random(seed)
  const pool = new PoolAdmission()
  const cacheTokensMax = 20_000
  const line: Waiter[] = []
  const running: { tokens: number; requestId: string }[] = []
  let used = 0
  let seq = 0
  for (let step = 0; step < 300; step++) {
    const nowMs = step * 100
    const progress = running.map(({ requestId }) => ({
      requestId,
      promptTokens: 0,
      cachedTokens: 0,
      completionTokens: 0,
    }))
    const freeCacheTokens = cacheTokensMax - used
    const base = { backendId: 'b', incarnation: 'i', draining: false, waitingTokens: 0, progress }
    pool.report({ ...base, seq: ++seq, freeCacheTokens, cacheTokensMax }, nowMs)
    const start = (requestId: string): void => {
      const at = line.findIndex(({ id }) => id === requestId)
      const [waiter] = line.splice(at, 1)
      running.push({ requestId, tokens: waiter?.tokens ?? 0 })
      used += waiter?.tokens ?? 0
    }
    for (const { requestId } of pool.dispatch(nowMs)) start(requestId)
    if (random.chance(0.6)) {
      const tokens = random.between(1, TOKENS_MAX)
      // One tenant: its turns are in the order of arrival.
      const waiter = waiterOf({ id: `${step}`, tenantId: 't', weight: 1, tokens, band: 0 })
      line.push(waiter)
      if (pool.request(waiter, nowMs).status === 'granted') start(waiter.id)
    }
    const head = line[0]
    if (used > cacheTokensMax) return [`I10: ${used} tokens run where ${cacheTokensMax} fit`]
    if (head !== undefined && head.tokens <= cacheTokensMax - used) {
      return [`I9: ${head.tokens} tokens wait though ${cacheTokensMax - used} are free`]
    }
    const ended = random.chance(0.4) ? running.shift() : undefined
    if (ended === undefined) continue
    used -= ended.tokens
    pool.finish(ended.requestId)
  }
  return []
}

/** A tenant alone, however many it sends, leaves room for the next one. */
function checkRoom(seed: number): string[] {
  const random = new Random(seed)
  const queue = new FairQueue({ bandFloors: [0], waitersMax: 100, tokensMax: 100_000 })
  for (let count = 0; count < 500; count++) {
    const tokens = random.between(1, 2000)
    queue.enqueue(waiterOf({ id: `n${count}`, tenantId: 'noisy', weight: 1, tokens, band: 0 }))
    const { waiters, tokens: queued } = queue.size
    if (waiters > 100 || queued > 100_000) return [`room: ${waiters} wait with ${queued} tokens`]
  }
  const quiet = waiterOf({ id: 'q', tenantId: 'quiet', weight: 1, tokens: 20_000, band: 0 })
  return queue.enqueue(quiet) ? [] : ['room: one tenant alone has shut the queue']
}

function waiterOf(waiter: Omit<Waiter, 'deadlineMs'>): Waiter {
  const { id, tenantId, weight, tokens, band } = waiter
  return { id, tenantId, weight, tokens, band, deadlineMs: Number.MAX_SAFE_INTEGER }
}
