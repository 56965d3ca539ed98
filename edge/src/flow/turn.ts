import { TurnLeases } from '../admission/turn-leases.ts'
import type { StartedTurn, TurnNews } from '../admission/turn-leases.ts'
import { randomLetters } from '../bytes.ts'
import type { AppContext, AppDeps } from '../context.ts'
import type { Pool } from '../env.ts'
import { logFailure } from '../failures.ts'
import { poolObject } from '../objects/stubs.ts'
import type { Turn, TurnRequest } from '../objects/pool/pool.ts'

/** A pool that shares nothing out is asked again after this. */
const UNMANAGED_MS = 5_000
/** While a pool's object is down: so many requests of one tenant at a time, at this isolate. */
const FLOOR = 4
const FLOOR_TTL_MS = 10_000
/** What was done with lent turns is told about this often, well within a lease's time. */
const TELL_EVERY_MS = 200
/** So many times without a new request, and what is in hand is given back. */
const IDLE_AFTER = 2
const ID_LETTERS = 24
const NO_NEWS: TurnNews = { closed: [], ended: [] }

/** What this isolate knows of one pool, apart from what its object would say. */
class PoolEntry {
  readonly leases = new TurnLeases()
  unmanagedUntilMs = 0
  /** Until when somebody is on the way to the object with news; if cut short, another goes. */
  tellingUntilMs = 0
  readonly #floor = new Map<string, number[]>()

  /** Whether one more request of this tenant may go on without the pool's word. */
  takeFloor(tenantId: string, nowMs: number): boolean {
    const taken = (this.#floor.get(tenantId) ?? []).filter((atMs) => nowMs - atMs < FLOOR_TTL_MS)
    if (taken.length >= FLOOR) return false
    this.#floor.set(tenantId, [...taken, nowMs])
    return true
  }
}

/** The pools as this isolate knows them. Values are shared between requests, promises never. */
export class PoolBook {
  readonly #entries = new Map<string, PoolEntry>()

  entry(poolId: string): PoolEntry {
    const known = this.#entries.get(poolId)
    if (known !== undefined) return known
    const entry = new PoolEntry()
    this.#entries.set(poolId, entry)
    return entry
  }
}

export interface TurnTools {
  readonly pools: PoolBook
  readonly deps: AppDeps
}

/**
 * A turn that can be had without asking: out of room lent by the pool, or because the pool shares
 * nothing out. Null: the object has to be asked.
 */
export function takeTurnHere(pool: Pool, turn: StartedTurn, tools: TurnTools): Turn | null {
  const nowMs = tools.deps.now()
  const { unmanagedUntilMs, leases } = tools.pools.entry(pool.id)
  if (nowMs < unmanagedUntilMs) return { status: 'granted', managed: false, lease: null }
  return leases.start(turn, nowMs) ? { status: 'granted', managed: true, lease: null } : null
}

/** Asks for a request's turn at its pool; resolves when it has come, or will not come. */
export async function takeTurn(
  c: AppContext,
  pool: Pool,
  request: TurnRequest,
  tools: TurnTools,
): Promise<Turn> {
  const { pools, deps } = tools
  const entry = pools.entry(pool.id)
  const askedAtMs = deps.now()
  try {
    const ask = entry.leases.ask(newLeaseId(deps), askedAtMs)
    const turn = await poolObject(c.env, pool.id).acquire(request, ask)
    if (turn.status === 'refused') return turn
    if (!turn.managed) entry.unmanagedUntilMs = askedAtMs + UNMANAGED_MS
    entry.leases.count(request.tokens, deps.now())
    if (turn.lease !== null) {
      entry.leases.receive(turn.lease, askedAtMs)
      c.executionCtx.waitUntil(tellPool(c, pool, tools))
    }
    return turn
  } catch (cause) {
    logFailure(deps, 'object_unreachable', cause, { pool: pool.id, request_id: request.id })
    return entry.takeFloor(request.tenantId, deps.now())
      ? { status: 'granted', managed: false, lease: null }
      : { status: 'refused', reason: 'no_backend' }
  }
}

/** The request has ended; whoever has to know is told later. Best effort: grants lapse. */
export function endTurn(c: AppContext, pool: Pool, requestId: string, tools: TurnTools): void {
  const entry = tools.pools.entry(pool.id)
  if (tools.deps.now() < entry.unmanagedUntilMs) return
  entry.leases.end(requestId)
  if (Date.now() >= entry.tellingUntilMs) c.executionCtx.waitUntil(tellPool(c, pool, tools))
}

/** The request has gone or was not dispatched: somebody may be waiting for its turn right now. */
export async function giveTurnBack(
  c: AppContext,
  pool: Pool,
  requestId: string,
  { pools }: TurnTools,
): Promise<void> {
  if (pools.entry(pool.id).leases.putBack(requestId)) return
  await poolObject(c.env, pool.id)
    .finish(requestId)
    .catch(() => undefined)
}

/**
 * Tells the pool's object what became of lent turns and fetches the next ones, while there is
 * something to tell or a lease in hand. One request at a time does this for its pool; if it is cut
 * short, a later one finds what is left.
 */
async function tellPool(c: AppContext, pool: Pool, { pools, deps }: TurnTools): Promise<void> {
  const entry = pools.entry(pool.id)
  const { leases } = entry
  if (Date.now() < entry.tellingUntilMs) return
  let idleFor = 0
  try {
    for (;;) {
      entry.tellingUntilMs = Date.now() + 3 * TELL_EVERY_MS
      const countedBefore = leases.counted
      await scheduler.wait(TELL_EVERY_MS)
      idleFor = leases.counted === countedBefore ? idleFor + 1 : 0
      if (idleFor === IDLE_AFTER) leases.close()
      const nowMs = deps.now()
      const renews = leases.wantsRenewal(nowMs)
      const news = leases.news(nowMs)
      if (news === null && !renews) {
        if (!leases.holds(nowMs)) return
        continue
      }
      const ask = renews ? leases.ask(newLeaseId(deps), nowMs) : null
      const lease = await poolObject(c.env, pool.id).tell(news ?? NO_NEWS, ask)
      if (news !== null) leases.acknowledge(news)
      if (lease !== null) leases.receive(lease, nowMs)
    }
  } catch (cause) {
    logFailure(deps, 'object_unreachable', cause, { pool: pool.id })
  } finally {
    entry.tellingUntilMs = 0
  }
}

function newLeaseId({ randomBytes }: AppDeps): string {
  return `turns_${randomLetters(ID_LETTERS, randomBytes)}`
}
