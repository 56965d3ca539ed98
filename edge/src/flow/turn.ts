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

/** What this isolate knows of pools, apart from what their objects would say. */
export class PoolBook {
  readonly #unmanagedUntilMs = new Map<string, number>()
  readonly #floor = new Map<string, number[]>()

  isUnmanaged(poolId: string, nowMs: number): boolean {
    return nowMs < (this.#unmanagedUntilMs.get(poolId) ?? 0)
  }

  noteUnmanaged(poolId: string, nowMs: number): void {
    this.#unmanagedUntilMs.set(poolId, nowMs + UNMANAGED_MS)
  }

  /** Whether one more request of this tenant may go on without the pool's word. */
  takeFloor(poolId: string, tenantId: string, nowMs: number): boolean {
    const id = `${poolId} ${tenantId}`
    const taken = (this.#floor.get(id) ?? []).filter((atMs) => nowMs - atMs < FLOOR_TTL_MS)
    if (taken.length >= FLOOR) return false
    this.#floor.set(id, [...taken, nowMs])
    return true
  }
}

/** Asks for a request's turn at its pool; resolves when it has come, or will not come. */
export async function takeTurn(
  c: AppContext,
  pool: Pool,
  request: TurnRequest,
  { pools, deps }: { readonly pools: PoolBook; readonly deps: AppDeps },
): Promise<Turn> {
  const nowMs = deps.now()
  if (pools.isUnmanaged(pool.id, nowMs)) return { status: 'granted', managed: false }
  try {
    const turn = await poolObject(c.env, pool.id).acquire(request)
    if (turn.status === 'granted' && !turn.managed) pools.noteUnmanaged(pool.id, nowMs)
    return turn
  } catch (cause) {
    logFailure(deps, 'object_unreachable', cause, { pool: pool.id, request_id: request.id })
    return pools.takeFloor(pool.id, request.tenantId, deps.now())
      ? { status: 'granted', managed: false }
      : { status: 'refused', reason: 'no_backend' }
  }
}

/** The request has gone, was not dispatched, or has ended. Best effort: grants lapse by themselves. */
export async function endTurn(c: AppContext, pool: Pool, requestId: string): Promise<void> {
  await poolObject(c.env, pool.id)
    .finish(requestId)
    .catch(() => undefined)
}
